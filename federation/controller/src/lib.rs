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

mod backup;
mod config;
mod disk;
mod doctor;
mod error;
mod leader;
mod mark;
mod metrics;
mod peer;
pub mod raft;
mod restore;
mod serve;
mod service;
mod shared;
mod submit_lane;

pub use backup::{Backup, BackupMeta, BackupWriter, read_backup};
pub use config::{ADMIN, InitOptions, Initialised, Joining, init, prepare_member, write_member};
pub use doctor::{Finding, Findings, Level, certificate, examine, room};
pub use error::ControllerError;
pub use federation_core::KNOWN;
pub use restore::{PendingRestore, RestoreOptions, RestoredSite};
pub use serve::{METRICS_FILE, Ready, serve};
pub use submit_lane::SubmitLane;

/// A runtime for a controller, and for what asks controllers.
///
/// It has a thread for every second core. The log writes on a thread of its own, and a submission
/// is a chain of short steps: of more threads each sleeps between two of them, and to wake one
/// costs as much as a step.
///
/// # Errors
/// The system grants no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.div_ceil(2);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}
