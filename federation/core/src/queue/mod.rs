//! Who is next: proposed by the leader, outside the log.

pub(crate) mod clearing;
pub(crate) mod kept;
pub(crate) mod preempt;
pub(crate) mod recent;
pub(crate) mod turns;
pub(crate) mod why;
