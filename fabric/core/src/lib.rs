//! The fabric's rules, without IO: who is who, who may ask what, how a request looks on the wire,
//! what a token says and what exactly is proved with it.
//!
//! ```text
//!   certificate facts ──trust──▶ Identity ──access(method)──▶ served, or a Fault
//!                                              ▲
//!   stream bytes ──frame──▶ RequestHeader ─────┘
//!   token text ──token──▶ Token ──join──▶ the bytes to prove (the shell holds the keys)
//! ```
//!
//! # Invariants
//! * An [`identity::Identity`] comes from a verified certificate or it is anonymous; never from a
//!   payload.
//! * What the table of [`access`] does not allow is forbidden.
//! * A length is checked against its limit before anything of that length is allocated.
//! * All functions are total; no input panics.
//!
//! Deliberately absent: sockets, clocks, randomness, keys and every cryptographic primitive
//! (`fabric-quic` has them).
#![no_std]

extern crate alloc;

pub mod access;
pub mod backoff;
pub mod base64;
pub mod frame;
pub mod identity;
pub mod join;
pub mod token;
pub mod trust;
