//! A leader's index of capacity is what it would be if it were made anew from the state.
//! Source: `federation_core::Leader::check_capacity`; decision 0015.

use federation_core::{Leader, State};

use crate::invariant::Found;

pub(crate) fn check(leader: &mut Leader, state: &State) -> Found {
    leader.check_capacity(state).into_iter().map(|it| (it.invariant, it.detail)).collect()
}
