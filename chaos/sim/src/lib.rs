//! Whole federations in one thread, from one seed: two or three sites with their controllers,
//! nodes and tenants, on virtual time, made of the three cores and nothing else.
//!
//! ```text
//!   tenants, operators ─▶ network ─▶ controllers ─▶ log ─▶ apply          federation-core
//!                            ▲  frames, access: fabric-core
//!                            ▼
//!                         agents ─▶ supervisors ─▶ processes               gpu-agent-core
//!   faults ─▶ all of it          oracle: what really happened ─▶ invariant/*
//! ```
//!
//! # Invariants
//! * One seed, one run: equal seeds give equal hashes. No clock, no unordered map, chance from
//!   `rng::Rng` only.
//! * Whatever crosses between machines crosses as bytes.
//! * A machine knows its own clock and its own memory, nothing of the world.
//! * A simulation counts only if it finds known bugs: `chaos/mutants` holds them.
//!
//! Deliberately absent: real sockets, disks, threads and Raft (`log` says what is taken for
//! granted of it), tokens and certificates (the fabric's own tests have them).

mod accounts;
mod clock;
mod controller;
mod costs;
mod coverage;
mod faults;
mod health;
mod invariant;
mod leading;
mod log;
mod member;
mod needs;
mod network;
mod node;
mod oracle;
mod reservations;
mod rng;
mod setup;
mod shown;
mod supervisor;
mod workload;
mod world;

pub use coverage::{Coverage, Mark};
pub use world::{Run, Violation, run};
