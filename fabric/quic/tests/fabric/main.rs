//! The shell end to end: real handshakes with production cryptography on loopback.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as well")]
#![expect(clippy::disallowed_methods, reason = "tests run on the real runtime")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

mod connect;
mod forge;
mod lanes;
mod pki;
mod pool;
mod redeem;
mod rpc;
mod silence;
mod support;
