//! Agreed state is sound after every command, and reads back from its own snapshot.
//! Source: `federation_core::check`; S4 and S5 of the design as far as the log is concerned.

use federation_core::State;

use crate::invariant::Found;

pub(crate) fn check(state: &State) -> Found {
    federation_core::check(state).into_iter().map(|it| (it.invariant, it.detail)).collect()
}
