//! The version of a site: what all members of its group know, and so what may enter its log.
//!
//! ```text
//!   every member tells what it knows ─▶ the leader ─▶ SetVersion ─▶ the log ─▶ version + 1
//!                                         └─ proposes only what `since` allows at that version
//! ```
//!
//! A release that brings a command, or a field of one or of the state, raises `KNOWN.newest`, says
//! so in `since`, and writes the field only from that version on: a member that does not know it
//! would drop it from its snapshots without a word.

use specs::fault::{Fault, FaultCode};
use specs::version::{ClusterVersion, Versions};

use crate::apply::Reply;
use crate::command::{Command, SetVersion};
use crate::quota;
use crate::state::State;

/// The versions that this build knows.
pub const KNOWN: Versions = Versions { oldest: ClusterVersion::FIRST, newest: NEWEST };

#[cfg(not(feature = "next"))]
const NEWEST: ClusterVersion = ClusterVersion::PEER_PROOFS;
#[cfg(feature = "next")]
const NEWEST: ClusterVersion = crate::next::SINCE;

impl Command {
    /// The version from which on this may enter the log.
    #[must_use]
    pub fn since(&self) -> ClusterVersion {
        match self {
            Self::FoundSite(_)
            | Self::AdmitJobs(_)
            | Self::CancelJob(_)
            | Self::RegisterNode(_)
            | Self::SuspectNode(_)
            | Self::RestoreNode(_)
            | Self::ReleaseNode(_)
            | Self::DrainNode(_)
            | Self::RecordParts(_)
            | Self::CommitPlan(_)
            | Self::OpenToken(_)
            | Self::AcceptPeer(_)
            | Self::AddPeer(_)
            | Self::AcceptNode(_)
            | Self::AddController(_)
            | Self::RemoveController(_)
            | Self::MakeGrant(_)
            | Self::RecallGrant(_)
            | Self::ExpireGrant(_)
            | Self::RecordPeer(_)
            | Self::ReturnGrant(_)
            | Self::SuspectPeer(_)
            | Self::RestorePeer(_)
            | Self::ReleasePeer(_)
            | Self::ObeyPeer(_)
            | Self::EndRecovery(_)
            | Self::ArchiveJobs(_)
            | Self::SetVersion(_) => ClusterVersion(1),
            Self::SetQuota(_) | Self::RemoveQuota(_) => ClusterVersion::QUEUEING,
            Self::SetTrust(_) | Self::RecordHealth(_) | Self::WithholdGpu(_) => {
                ClusterVersion::HEALTH
            }
            Self::PreemptJobs(_) => ClusterVersion::PREEMPTION,
            Self::WantBurnIns(_)
            | Self::PermitBurnIns(_)
            | Self::EndPermits(_)
            | Self::SetHealthLimits(_) => ClusterVersion::BURN_INS,
            Self::SetSignals(_)
            | Self::SetWeights(_)
            | Self::SetDataSet(_)
            | Self::RemoveDataSet(_)
            | Self::SetLink(_) => ClusterVersion::SITES,
            Self::MakeReservation(_) | Self::EndReservation(_) => ClusterVersion::DEMANDS,
            Self::RecordProofs(_) => ClusterVersion::PEER_PROOFS,
            #[cfg(feature = "next")]
            Self::Note(_) => crate::next::SINCE,
        }
    }
}

/// The version to which a command raises the state, if it does.
#[must_use]
pub fn raised_by(state: &State, command: &Command) -> Option<ClusterVersion> {
    if let Command::SetVersion(it) = command
        && it.version == state.version.next()
    {
        return Some(it.version);
    }
    None
}

pub(crate) fn set(state: &mut State, it: &SetVersion) -> Reply {
    if it.version == state.version {
        return Reply::NoOp("the site has this version already");
    }
    if it.version != state.version.next() {
        let message = alloc::format!(
            "the site has version {}, which cannot become {}: it only rises, by one",
            state.version,
            it.version
        );
        return Reply::Refused(Fault::new(FaultCode::Conflict, message));
    }
    state.agreed.version = it.version;
    if it.version == ClusterVersion::QUEUEING {
        quota::charge_running(state);
    }
    Reply::Done
}

#[cfg(test)]
mod tests {
    use specs::codec::Message;

    use super::*;
    use crate::apply::apply;

    fn set_to(state: &mut State, version: u32) -> Reply {
        let version = ClusterVersion(version);
        apply(state, &Command::SetVersion(SetVersion { version })).0
    }

    #[test]
    fn a_version_only_rises_and_only_by_one() {
        let mut state = State::default();
        assert!(matches!(set_to(&mut state, 1), Reply::NoOp(_)));
        assert!(matches!(set_to(&mut state, 3), Reply::Refused(_)));
        assert_eq!(set_to(&mut state, 2), Reply::Done);
        assert!(matches!(set_to(&mut state, 2), Reply::NoOp(_)), "repeated");
        assert!(matches!(set_to(&mut state, 1), Reply::Refused(_)), "lowered");
        assert_eq!(state.version, ClusterVersion(2));
        assert_eq!(State::decode(&state.encode()).unwrap().version, ClusterVersion(2));
    }

    #[test]
    fn only_a_rise_is_told_as_one() {
        let mut state = State::default();
        let told = |state: &State, version| {
            raised_by(state, &Command::SetVersion(SetVersion { version: ClusterVersion(version) }))
        };
        assert_eq!([1, 2, 3].map(|it| told(&state, it)), [None, Some(ClusterVersion(2)), None]);
        set_to(&mut state, 2);
        assert_eq!([1, 2, 3].map(|it| told(&state, it)), [None, None, Some(ClusterVersion(3))]);
    }

    #[test]
    fn a_state_of_the_first_version_has_the_bytes_of_before_there_were_versions() {
        assert!(State::default().encode().is_empty(), "a field of a later version is written");
    }

    #[test]
    fn the_command_keeps_its_bytes() {
        let command = Command::SetVersion(SetVersion { version: ClusterVersion(2) });
        assert_eq!(command.encode(), [0xe2, 0x03, 2, 0x08, 2]);
    }
}
