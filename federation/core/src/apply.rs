//! The one door to agreed state: one `match`, one line per arm, total and without a clock.

use alloc::vec::Vec;

use specs::fault::Fault;
use specs::id::{ControllerId, JobId, Revision};

use crate::command::Command;
use crate::effect::{Effect, Effects};
use crate::queue::preempt;
use crate::state::State;
use crate::{
    archive, breaker, burn_in, exchange, health, job, lease, node, quota, reserve, restore,
    signals, site, version,
};

/// What the proposer of a command is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It took effect.
    Done,
    /// It no longer made sense, and changed nothing but the revision.
    NoOp(&'static str),
    /// The jobs of an admission.
    Jobs { jobs: Vec<JobId>, repeated: bool },
    /// The controller that was added.
    Controller(ControllerId),
    /// How many assignments of a plan were taken.
    Placed { taken: u32, dropped: u32 },
    /// It was refused, and why.
    Refused(Fault),
}

/// Applies one command: the same state and command give the same result on every member.
pub fn apply(state: &mut State, command: &Command) -> (Reply, Vec<Effect>) {
    state.agreed.revision = Revision(state.agreed.revision.0 + 1);
    let mut effects = Effects::default();
    let fx = &mut effects;
    let reply = match command {
        Command::FoundSite(it) => site::found(state, fx, it),
        Command::AdmitJobs(it) => job::admit(state, fx, it),
        Command::CancelJob(it) => job::cancel(state, fx, it),
        Command::ArchiveJobs(it) => archive::archive(state, it),
        Command::RegisterNode(it) => node::register(state, fx, it),
        Command::SuspectNode(it) => node::suspect(state, it),
        Command::RestoreNode(it) => node::restore(state, fx, it),
        Command::ReleaseNode(it) => node::release(state, fx, it),
        Command::DrainNode(it) => node::drain(state, fx, it),
        Command::RecordParts(it) => node::record_parts(state, fx, it),
        Command::CommitPlan(it) => lease::commit_plan(state, fx, it),
        Command::PreemptJobs(it) => preempt::preempt(state, fx, it),
        Command::OpenToken(it) => site::open_token(state, it),
        Command::AcceptPeer(it) => site::accept_peer(state, fx, it),
        Command::AddPeer(it) => site::add_peer(state, fx, it),
        Command::AcceptNode(it) => site::accept_node(state, it),
        Command::AddController(it) => site::add_controller(state, fx, it),
        Command::RemoveController(it) => site::remove_controller(state, fx, it),
        Command::EndRecovery(it) => restore::end_recovery(state, fx, it),
        Command::MakeGrant(it) => exchange::host::make_grant(state, fx, it),
        Command::RecallGrant(it) => exchange::host::recall_grant(state, fx, it),
        Command::ExpireGrant(it) => exchange::host::expire_grant(state, fx, it),
        Command::RecordPeer(it) => exchange::home::record_peer(state, fx, it),
        Command::RecordProofs(it) => exchange::proofs::record(state, fx, it),
        Command::ReturnGrant(it) => exchange::home::return_grant(state, fx, it),
        Command::SuspectPeer(it) => exchange::home::suspect_peer(state, it),
        Command::RestorePeer(it) => exchange::home::restore_peer(state, fx, it),
        Command::ReleasePeer(it) => exchange::home::release_peer(state, fx, it),
        Command::ObeyPeer(it) => exchange::host::obey(state, fx, it),
        Command::SetQuota(it) => quota::set(state, fx, it),
        Command::RemoveQuota(it) => quota::remove(state, fx, it),
        Command::SetVersion(it) => version::set(state, it),
        Command::SetTrust(it) => health::set_trust(state, fx, it),
        Command::RecordHealth(it) => health::record(state, fx, it),
        Command::WithholdGpu(it) => health::withhold(state, fx, it),
        Command::WantBurnIns(it) => burn_in::want(state, fx, it),
        Command::PermitBurnIns(it) => burn_in::permit(state, fx, it),
        Command::EndPermits(it) => burn_in::end(state, fx, it),
        Command::SetHealthLimits(it) => breaker::set_limits(state, fx, it),
        Command::SetSignals(it) => signals::set(state, fx, it),
        Command::SetWeights(it) => signals::set_weights(state, fx, it),
        Command::SetDataSet(it) => signals::set_data(state, fx, it),
        Command::RemoveDataSet(it) => signals::remove_data(state, fx, it),
        Command::SetLink(it) => signals::set_link(state, fx, it),
        Command::MakeReservation(it) => reserve::make(state, fx, it),
        Command::EndReservation(it) => reserve::end(state, fx, it),
        #[cfg(feature = "next")]
        Command::Note(_) => crate::next::note(state),
    };
    (reply, effects.into_sorted())
}
