//! Placement: proposes, outside the log; what it proposes is rechecked inside.

pub(crate) mod board;
pub(crate) mod capacity;
pub(crate) mod fits;
pub(crate) mod fleet;
pub(crate) mod held;
pub(crate) mod lend;
pub(crate) mod lookout;
pub(crate) mod names;
pub mod order;
pub(crate) mod plan;
pub(crate) mod pool;
pub mod score;
pub(crate) mod sites;
pub(crate) mod slots;
pub mod spill;
pub(crate) mod summary;
pub(crate) mod taste;
pub(crate) mod why;
