//! Whole groups in one process: real QUIC on loopback, real disks unless a test needs another.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod agree;
mod archive;
mod catch_up;
mod cluster;
mod cut;
mod disk;
mod diverge;
mod gate;
mod history;
mod linear;
mod links;
mod lost_tail;
mod membership;
mod mixed;
mod retry;
mod stall;
mod transfer;
