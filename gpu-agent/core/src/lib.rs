//! What an agent decides: which attempts to start and to stop, when it must stop them by itself,
//! and what it says of them; what a burn-in's numbers say of a GPU, and where each GPU is in its
//! life. No IO, no clock.
//!
//! ```text
//!   NodeOrders ─▶ handle_orders ┐                 ┌▶ poll_action: Start, Stop, Kill, Extend
//!   started, ended ─▶ handle_*  ├─▶ Runner ──────▶┤
//!   the clock ─▶ handle_timeout ┘                 └▶ ask: NodeReport
//! ```
//!
//! # Invariants
//! * An attempt that may run out has a deadline, counted from when the agent *asked* the question
//!   whose answer last named it, never from when the answer came. Whoever runs its processes must
//!   be able to kill them at the deadline without the agent ([`Action::Extend`]).
//! * Orders are obeyed in the order of their revisions; older ones, and those for another life of
//!   the agent, change nothing.
//! * An attempt that ended is remembered until orders that answer a report of its end no longer
//!   name it. So a lease is never started twice.
//!
//! Deliberately absent: processes, files and devices (`gpu-agent-daemon`).
#![no_std]

extern crate alloc;

pub mod burn_in;
pub mod health;
mod runner;
pub mod xid;

pub use runner::{Action, Known, Runner};
