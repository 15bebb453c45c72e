//! The next release, rehearsed: what it brings, so that a group of old and new members can be tried
//! before there is anything to bring. No release has it.

use alloc::string::String;

use specs::version::ClusterVersion;

use crate::apply::Reply;
use crate::state::State;

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion(9);

specs::message! {
    /// Is counted.
    pub struct Note {
        1 => text: String,
    }
}

pub(crate) fn note(state: &mut State) -> Reply {
    if state.version < SINCE {
        return Reply::NoOp("the site's version has no notes");
    }
    state.agreed.notes += 1;
    Reply::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::apply;
    use crate::command::{Command, SetVersion};

    #[test]
    fn a_command_of_a_later_version_does_nothing_before_it() {
        let mut state = State::default();
        let note = Command::Note(Note { text: "x".into() });
        assert_eq!(note.since(), SINCE);
        assert!(matches!(apply(&mut state, &note).0, Reply::NoOp(_)));
        for version in (2..=SINCE.0).map(ClusterVersion) {
            apply(&mut state, &Command::SetVersion(SetVersion { version }));
        }
        assert_eq!(apply(&mut state, &note).0, Reply::Done);
        assert_eq!(state.notes, 1);
    }
}
