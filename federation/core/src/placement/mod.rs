//! Placement: proposes, outside the log; what it proposes is rechecked inside.

pub(crate) mod fits;
pub(crate) mod fleet;
pub(crate) mod lend;
pub(crate) mod plan;
pub(crate) mod why;
