//! The controller of a site: the shell around `federation-core`. It keeps the site's log with
//! openraft, answers users, agents and peers, and runs the leader's loop.
//!
//! ```text
//!            fabric-quic ──▶ service ──▶ Leader (core) ──commands──▶ raft ──▶ apply (core)
//!   users, agents, peers        ▲                                     │          │
//!                               └──────── orders, reports, views ◀────┴─ State ◀─┘
//!                                                                        │ effects
//!                                                       leader: plan, ask, nudge ◀┘
//! ```
//!
//! # Invariants
//! * Only `raft/` names openraft.
//! * Nothing is acknowledged before it is durable on a majority.
//! * Agents and peers are answered only by a leader that confirmed, after the question came, that
//!   it leads, and from a state read after that.
//! * What is certain to be equal on all controllers is in the log; `controller.toml` says only who
//!   this process is.
//!
//! Deliberately absent: what any of it means (`federation-core`).

mod config;
mod error;
mod leader;
mod metrics;
mod peer;
pub mod raft;
mod serve;
mod service;
mod shared;
mod submit_lane;

pub use config::{ADMIN, InitOptions, Initialised, claim, init, write_member};
pub use error::ControllerError;
pub use serve::{METRICS_FILE, Ready, serve};
pub use submit_lane::SubmitLane;
