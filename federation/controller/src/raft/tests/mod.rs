//! Tests of the parts; the whole group is tried in `tests/raft_group.rs`.
