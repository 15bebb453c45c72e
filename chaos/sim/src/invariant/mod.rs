//! The promises, one property per file, each with its source. A property looks at what really
//! happened and at what is agreed, and lists what does not hold.

pub(crate) mod agreed_state;
pub(crate) mod burn_ins;
pub(crate) mod index_follows;
pub(crate) mod kept_nodes;
pub(crate) mod l1_heals;
pub(crate) mod l3_cancel;
pub(crate) mod needs_hold;
pub(crate) mod only_grows;
pub(crate) mod peer_proofs;
pub(crate) mod preemption;
pub(crate) mod reserved;
pub(crate) mod s1_one_copy;
pub(crate) mod s2_nothing_lost;
pub(crate) mod s3_finished_kept;
pub(crate) mod s4_one_owner;
pub(crate) mod s5_escrow;
pub(crate) mod s6_quota;
pub(crate) mod s7_residency;
pub(crate) mod s8_proven;
pub(crate) mod stops_are_wanted;

/// Properties that do not hold, and in what way.
pub(crate) type Found = Vec<(&'static str, String)>;
