//! Between sites: what a home does with its hosts, and a host with its homes.

pub(crate) mod home;
pub(crate) mod host;
pub(crate) mod proofs;
