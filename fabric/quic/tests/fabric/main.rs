//! The shell end to end: real handshakes with production cryptography on loopback.

mod connect;
mod forge;
mod lanes;
mod pki;
mod pool;
mod redeem;
mod rpc;
mod support;
