//! What processes say to each other.

pub mod agent;
pub mod client;
pub mod join;
pub mod method;
pub mod peer;
