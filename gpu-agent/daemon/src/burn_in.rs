//! Burn-in: makes a GPU work, measures, and lets the core judge.
//!
//! ```text
//!   run ──one process for each check──▶ child ─▶ votes, memory (cuda), management (NVML)
//!    ▲                                    │
//!    └──────── numbers, as JSON ◀─────────┘        judged by gpu_agent_core::burn_in
//! ```
//!
//! # Invariants
//! * What may hang or die with the GPU runs in a child with a deadline: the driver is never loaded
//!   into the agent. A deadline that is missed is evidence.
//! * Results come through pinned host memory with checksums, never through the memory under test.

mod ask;
mod child;
mod cuda;
mod kernels;
mod management;
mod memory;
mod report;
mod run;
mod votes;

pub use ask::{Stop, StopHandle};
pub use child::answer_stdin;
pub(crate) use kernels::MANIFEST;
pub use report::{Report, write_json, write_text};
pub use run::{Listener, Options, Outcome, Progress, run};
pub(crate) use run::{Reading, read_counters};
