//! Burn-in: makes a GPU work, measures, and lets the core judge.
//!
//! ```text
//!   run ──one process for each check──▶ child ─▶ votes, golden, memory (cuda), management (NVML)
//!    ▲                                    │
//!    └──────── numbers, as JSON ◀─────────┘        judged by gpu_agent_core::burn_in
//! ```
//!
//! # Invariants
//! * What may hang or die with the GPU runs in a child with a deadline: the driver is never loaded
//!   into the agent. A deadline that is missed is evidence.
//! * Results come through pinned host memory with checksums, never through the memory under test.

mod arch;
mod ask;
mod ballot;
mod caches;
mod child;
mod cuda;
mod gauges;
mod golden;
mod kernels;
mod links;
mod listen;
mod management;
mod memory;
mod power;
mod replay;
mod report;
mod run;
mod sampler;
mod votes;
mod wave;

pub use ask::{Stop, StopHandle};
pub use child::answer_stdin;
pub(crate) use gauges::Gauges;
pub use gpu_agent_core::burn_in::dump::BYTES_MAX as DUMP_BYTES_MAX;
pub(crate) use kernels::MANIFEST;
pub(crate) use listen::Told;
pub use listen::listen;
#[cfg(test)]
pub(crate) use management::Watched;
pub use replay::{
    ReplayOptions, ReplayReport, example, replay, write_replay_json, write_replay_text,
};
pub use report::{Report, write_events, write_json, write_text};
pub use run::{Listener, Options, Outcome, Progress, run};
pub(crate) use run::{Reading, watch};
