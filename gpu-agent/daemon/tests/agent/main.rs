//! The agent as it is shipped: real processes, real signals, real QUIC on loopback.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as well")]

mod care;
mod controller;
mod enrolment;
mod fencing;
mod running;
mod supervisor;
mod support;
