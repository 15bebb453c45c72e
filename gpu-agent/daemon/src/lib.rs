//! The GPU agent: what a node does of itself. It says which GPUs the node has, asks the site's
//! controllers what is wanted, runs it, and ends it when its right to run is over.
//!
//! ```text
//!   controllers ◀══QUIC══▶ link ──orders──▶ agent ──wishes──▶ engine ══socket══▶ supervisor ─▶ tasks
//!                   ▲                       (Runner)  ◀─progress─┘               one per attempt
//!                   └── service: nudge, logs ◀── attempts/ on disk ◀───────────────┘
//! ```
//!
//! # Invariants
//! * One task drives the `Runner` of `gpu-agent-core`, which decides; everything else tells it
//!   what happened and does what it says.
//! * An agent's end ends its attempts: the supervisors see it and kill what they run. So nothing
//!   runs that no controller can stop.
//! * Before its first report, an agent has ended whatever an earlier life left.
//! * The clock, chance, sockets and tasks come from [`fabric_quic::env::Env`], and supervisors from
//!   a [`Launcher`].
//!
//! A service manager must send its signal to the agent alone (`KillMode=mixed`): a task that is
//! sent one by somebody else has ended by itself.
//!
//! Deliberately absent: deciding what runs (`gpu-agent-core`, and the controllers), containers, and
//! cgroups.

mod agent;
mod attempts;
pub mod bars;
pub mod burn_in;
mod checkpoints;
mod config;
mod disk;
mod engine;
mod enrol;
mod error;
mod exporter;
mod facts;
mod health;
mod health_event;
pub mod inventory;
mod life;
mod link;
mod log;
mod logs;
mod metrics;
pub mod protocol;
mod service;
mod start;
mod supervise;
mod tree;

pub use config::Declared;
pub use engine::{Launcher, SelfLauncher};
pub use enrol::parse_token;
pub use error::print_fault;
pub use facts::{Attribute, Topology};
pub use health::HealthOptions;
pub use log::{Flush, start_logging};
pub use start::{Options, run};
pub use supervise::supervise;
