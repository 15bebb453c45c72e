//! Published scheduling protocols, replayed: which figures would the decisions of
//! `federation-core` have had in them, and which have the policies that were published?
//!
//! ```text
//!   file.csv[.gz] ─▶ read, trace ─┬▶ fgd    one cluster fills up: which place    ─▶ report
//!                                 ├▶ queue  gangs on one cluster: who runs first ─▶ report
//!                                 └▶ spill  a home and a remote: who leaves      ─▶ report
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
pub mod spill;
pub mod trace;
