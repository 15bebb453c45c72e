//! Jobs of trace files, replayed. In published protocols: which figures would the decisions of
//! `federation-core` have had, and which have the policies that were published? And on sites that
//! an operator makes up: what would the core do there?
//!
//! ```text
//!   file.csv[.gz] ─▶ read, trace ─┬▶ fgd       one cluster fills up: which place    ─▶ report
//!                                 ├▶ queue     gangs on one cluster: who runs first ─▶ report
//!                                 ├▶ spill     a home and a remote: who leaves      ─▶ report
//!                                 └▶ simulate  sites as they are, what if           ─▶ report
//! ```
//!
//! # Invariants
//! * Time is virtual and chance comes from a seed: equal arguments give equal reports.
//! * A policy of ours is a function of `federation-core`; this crate feeds it and keeps the books.
//! * A policy that knows durations says so; ours never does.
//!
//! Deliberately absent: printing, and any decision of ours.

pub mod fgd;
mod pool;
pub mod queue;
pub mod read;
mod rng;
pub mod simulate;
pub mod spill;
pub mod trace;
