//! Who may have how much, and who is next: one site, or a home with a host, and many accounts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod behind;
mod carried;
mod kept;
mod loans;
mod preempt;
mod proofs;
mod quota;
mod reserve;
mod shown;
mod turns;
mod world;
