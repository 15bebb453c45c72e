//! The fabric's shell: authenticated connections between the processes of a federation, over
//! QUIC with TLS 1.3 on both sides.
//!
//! ```text
//!   Env ──▶ Endpoint ──connect / accept──▶ Connection ──call──▶ Service of the other end
//!             │ ▲                              └────lane────▶
//!     pki ────┘ └── TrustStore: whose authority is trusted, who is denied
//! ```
//!
//! # Invariants
//! * Who calls is known from the certificate alone, and the access table is asked before anything
//!   of the request but its header is read.
//! * A connection is up only after an answer came on it: by then both sides have judged each other.
//! * An answer to a call is one of three: what the other side said, certainly not delivered, or
//!   unknown. Never a guess.
//! * Either end may call; who dialed does not matter afterwards.
//! * A stream that is given up is reset, so that a part is never taken for the whole.
//! * Everything from outside comes through [`env::Env`]. Only `env/system.rs` names the real ones.
//!
//! Deliberately absent: retries (the caller knows what may be repeated), resumption and early
//! data, connection migration, what a request means, and the record of used tokens.

mod certificate;
pub mod connection;
pub mod crypto;
pub mod endpoint;
pub mod env;
pub mod lane;
pub mod pki;
pub mod pool;
pub mod redeem;
mod serve;
pub mod service;
pub mod settings;
mod stream;
mod tls;
pub mod trust;
pub mod verify;

// Shells name the fabric's shell alone; these words of its core are part of its face.
pub use fabric_core::{backoff, identity, token};
