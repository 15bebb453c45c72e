//! The promises, on real processes: clusters are started with the commands that an operator would
//! type, and then their processes are killed, stopped and starved.
//!
//! ```text
//!   test ──▶ World: a directory, at most two worlds at a time
//!             ├── Site: controllers and agents, real processes on the loopback interface
//!             └── witness file ◀── every task: "start", "beat" ten times a second, "end"
//! ```
//!
//! # Invariants
//! * A test ends only what its own world started, and nothing of a world outlives it.
//! * Whether two copies ran is read off the tasks' own stamps, on the one clock they share.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stderr, reason = "a test says what it measured")]
#![allow(clippy::disallowed_methods, reason = "a test against processes lives in real time")]

mod cluster;
mod controllers;
mod cuts;
mod fleet;
mod health;
mod input;
mod nodes;
mod operate;
mod peering;
mod preemption;
mod process;
mod reservation;
mod shown;
mod work;
