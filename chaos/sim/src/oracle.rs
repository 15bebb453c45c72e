//! What really happened: which processes executed where and how they ended. No core sees this;
//! the properties compare it with what the cores say.

use std::collections::{BTreeMap, BTreeSet};

use gpu_agent_core::Known;
use specs::id::{Epoch, GpuIndex, JobId, LeaseId, NodeId, Question, SiteId};
use specs::job::OnPartition;
use specs::unit::Millis;
use specs::wire::agent::{AttemptReport, Ending, Outcome};
use specs::wire::client::{JobSubmit, JobSubmitted};

use federation_core::{Command, Reply};

use crate::clock::Time;
use crate::coverage::Mark;
use crate::invariant::burn_ins::Burning;
use crate::invariant::{
    agreed_state, burn_ins, l3_cancel, needs_hold, only_grows, preemption, reserved, s1_one_copy,
    s2_nothing_lost, s3_finished_kept, s4_one_owner, s5_escrow, s6_quota, s7_residency,
    stops_are_wanted,
};
use crate::supervisor::Process;
use crate::world::{Event, NodeRef, World};

/// A part of an attempt whose processes execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executing {
    pub(crate) at: NodeRef,
    pub(crate) lease: LeaseId,
    pub(crate) epoch: Epoch,
}

/// How the parts of one attempt ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    pub(crate) nodes: u32,
    /// Exit codes of the parts that exited.
    pub(crate) exits: BTreeMap<NodeRef, i32>,
}

impl Truth {
    /// Every part ended by itself.
    pub(crate) fn has_exited(&self) -> bool {
        self.exits.len() as u64 == u64::from(self.nodes)
    }

    /// What may be said of its end.
    pub(crate) fn could_say(&self, code: i32) -> bool {
        if code == 0 {
            self.has_exited() && self.exits.values().all(|exit| *exit == 0)
        } else {
            self.exits.values().any(|exit| *exit == code)
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle {
    pub(crate) executing: BTreeMap<JobId, Vec<Executing>>,
    pub(crate) gpus: BTreeMap<(NodeRef, GpuIndex), (LeaseId, Known)>,
    pub(crate) started: BTreeSet<(NodeRef, LeaseId)>,
    /// Whose attempt a lease of a site is.
    pub(crate) leases: BTreeMap<(usize, LeaseId), Known>,
    pub(crate) truth: BTreeMap<(JobId, Epoch), Truth>,
    /// Jobs whose submission was acknowledged, and where.
    pub(crate) acknowledged: BTreeMap<JobId, usize>,
    /// Admitted jobs that have not ended, and where.
    pub(crate) open: BTreeSet<(usize, JobId)>,
    /// Ends as they were first agreed.
    pub(crate) ends: BTreeMap<JobId, (usize, Outcome)>,
    pub(crate) cancelled: BTreeSet<JobId>,
    /// Burn-ins that go on.
    pub(crate) burning: BTreeMap<(NodeRef, GpuIndex), Burning>,
    /// GPUs that are to be burnt in, and since when.
    pub(crate) wished: BTreeMap<(NodeRef, GpuIndex), Time>,
    /// When hosts asked, of late.
    pub(crate) asked: BTreeMap<(SiteId, Question), Time>,
    /// GPUs of hosts of which homes have verified a proof.
    pub(crate) verified: BTreeSet<(usize, (SiteId, NodeId, GpuIndex))>,
    /// When a site quarantined by itself.
    pub(crate) quarantines: BTreeMap<usize, Vec<Time>>,
}

pub(crate) fn has_exited(report: &AttemptReport) -> bool {
    report.outcome.as_ref().is_some_and(|it| it.ending == Ending::Exited)
}

impl World {
    /// Processes begin to execute, or go on after their machine slept.
    pub(crate) fn begin_executing(&mut self, at: NodeRef, lease: LeaseId, is_new: bool) {
        let Some(process) = self.node(at).processes.get(&lease).cloned() else { return };
        let known = process.known.clone();
        let part = Executing { at, lease, epoch: known.epoch };
        if is_new {
            self.first_start(at, lease, &process);
        }
        let found = [
            s1_one_copy::on_start(self, &part, &known, is_new),
            s4_one_owner::on_start(self, &part, &process),
            s5_escrow::on_start(self, &part, &process),
            s7_residency::on_start(self, &part, &process),
            needs_hold::on_start(self, &part, &process),
        ];
        self.violate_all(found.concat());
        self.oracle.started.insert((at, lease));
        self.oracle.executing.entry(known.job).or_default().push(part);
        for gpu in &process.gpus {
            self.oracle.gpus.insert((at, *gpu), (lease, known.clone()));
        }
        let found = s6_quota::on_start(self, &known);
        self.violate_all(found);
    }

    fn first_start(&mut self, at: NodeRef, lease: LeaseId, process: &Process) {
        let known = &process.known;
        self.mix(lease.0);
        let reads = s7_residency::reads_data(self, process);
        self.coverage.add(Mark::DataRead, u64::from(reads));
        self.note(|world| {
            let (node, job, epoch) = (world.node_name(at), known.job, known.epoch);
            format!("{node} runs {lease}: {job} epoch {epoch} of {}", known.home)
        });
        let node = self.node(at).id.clone();
        let state = self.sites[at.site].log.latest();
        let suspected = state.nodes.get(&node).is_some_and(|node| node.suspicion.is_some());
        let marks = [
            (Mark::ProcessesStarted, true),
            (Mark::GuestsStarted, known.home != self.sites[at.site].name),
            (
                Mark::NeedyGuestsStarted,
                known.home != self.sites[at.site].name && !process.spec.needs.fit_a_loan(),
            ),
            (
                Mark::BesideGuestsStarted,
                known.home != self.sites[at.site].name && process.spec.needs.ask_beside_gpus(),
            ),
            (
                Mark::LoneGuestsStarted,
                known.home != self.sites[at.site].name && process.spec.needs.exclusive,
            ),
            (Mark::GangsStarted, process.spec.nodes > 1),
            (Mark::AttemptsRepeated, known.epoch.0 > 1),
            (Mark::WaitedOut, suspected && process.spec.on_partition == OnPartition::Wait),
        ];
        for (mark, count) in marks {
            self.coverage.add(mark, u64::from(count));
        }
        self.oracle.leases.insert((at.site, lease), known.clone());
        let truth = self.oracle.truth.entry((known.job, known.epoch)).or_default();
        truth.nodes = process.spec.nodes;
    }

    pub(crate) fn stop_executing(&mut self, at: NodeRef, lease: LeaseId, process: &Process) {
        if let Some(parts) = self.oracle.executing.get_mut(&process.known.job) {
            parts.retain(|part| part.at != at || part.lease != lease);
            if parts.is_empty() {
                self.oracle.executing.remove(&process.known.job);
            }
        }
        for gpu in &process.gpus {
            self.oracle.gpus.remove(&(at, *gpu));
        }
    }

    pub(crate) fn process_ended(&mut self, at: NodeRef, known: &Known, outcome: &Outcome) {
        if outcome.ending != Ending::Exited {
            return;
        }
        let node = self.node(at).id.clone();
        let state = self.sites[at.site].log.latest();
        if state.nodes.get(&node).is_some_and(|node| node.suspicion.is_some()) {
            self.mark(Mark::FinishedDuringCut);
        }
        let truth = self.oracle.truth.entry((known.job, known.epoch)).or_default();
        truth.exits.insert(at, outcome.exit_code);
    }

    pub(crate) fn acknowledged(
        &mut self,
        site: usize,
        submit: &JobSubmit,
        submitted: JobSubmitted,
    ) {
        self.note(|world| {
            let (site, spec) = (&world.sites[site].name, &submit.spec);
            format!(
                "{site} acknowledged {}: {} x {} GPUs, {}",
                submit.request, spec.nodes, spec.gpus_per_node, spec.on_partition
            )
        });
        if submitted.jobs.len() as u64 != u64::from(submit.spec.array) {
            let detail = format!("{} jobs of {}", submitted.jobs.len(), submit.spec.array);
            self.violate("S2: nothing acknowledged is lost", detail);
        }
        for job in submitted.jobs {
            self.oracle.acknowledged.insert(job, site);
        }
    }

    /// After each entry of a site's log.
    pub(crate) fn check_commit(&mut self, site: usize) {
        let log = &self.sites[site].log;
        let index = log.committed();
        let entry = log.entries[index - 1].clone();
        let (before, after) = (log.state(index - 1).clone(), log.latest().clone());
        self.mix(after.revision.0 << 8 | site as u64);
        self.count_command(&entry.command, &entry.reply, &before, &after);
        self.note(|world| {
            let name = &world.sites[site].name;
            format!("{name} {} {}: {:?}", after.revision, summary(&entry.command), entry.reply)
        });
        self.admitted(site, &entry.command, &entry.reply);
        let mut found = s1_one_copy::on_commit(self, site, &after);
        found.extend(only_grows::on_commit(&before, &after));
        found.extend(s2_nothing_lost::on_commit(self, site, &after));
        found.extend(s3_finished_kept::on_commit(self, site, &entry.command, &before, &after));
        found.extend(s6_quota::on_commit(&entry.command, &before, &after));
        found.extend(reserved::on_commit(&entry.command, &before, &after));
        let beside = reserved::starts(&entry.command, &before, &after);
        self.coverage.add(Mark::StartedOnReserved, beside);
        found.extend(preemption::on_commit(self, &entry.command, &before, &after));
        if entry.reply == Reply::Done || matches!(entry.reply, Reply::Placed { .. }) {
            found.extend(burn_ins::on_commit(self, site, &entry.command, &before, &after));
        }
        if index.is_multiple_of(self.knobs.check_every) {
            found.extend(agreed_state::check(&after));
        }
        self.violate_all(found);
        self.note_ends(site, &after);
        if let Command::CancelJob(it) = &*entry.command {
            let open = before.jobs.get(&it.job).is_some_and(|job| !job.has_ended());
            if open && self.oracle.cancelled.insert(it.job) {
                if self.oracle.executing.contains_key(&it.job) {
                    self.mark(Mark::CancelsWhileRunning);
                }
                let due = l3_cancel::due(&after, it.job);
                self.schedule_in(due.0, Event::CancelDue { site, job: it.job });
            }
        }
    }

    fn admitted(&mut self, site: usize, command: &Command, reply: &Reply) {
        if let (Command::AdmitJobs(_), Reply::Jobs { jobs, repeated: false }) = (command, reply) {
            self.oracle.open.extend(jobs.iter().map(|job| (site, *job)));
        }
    }

    /// Takes note of jobs that have ended.
    fn note_ends(&mut self, site: usize, after: &federation_core::State) {
        let open = self.oracle.open.range((site, JobId(0))..=(site, JobId(u128::MAX)));
        let ended: Vec<(JobId, specs::wire::client::JobState, Outcome)> = open
            .filter_map(|(_, id)| match &after.jobs.get(id)?.phase {
                federation_core::JobPhase::Ended(it) => Some((*id, it.state, it.outcome.clone())),
                federation_core::JobPhase::Queued(_)
                | federation_core::JobPhase::Leased(_)
                | federation_core::JobPhase::Loaned(_) => None,
            })
            .collect();
        for (id, state, outcome) in ended {
            use specs::wire::client::JobState;
            self.oracle.open.remove(&(site, id));
            self.oracle.ends.insert(id, (site, outcome));
            let mark = match state {
                JobState::Finished => Mark::JobsFinished,
                JobState::Cancelled => Mark::JobsCancelled,
                JobState::Lost => Mark::JobsLost,
                JobState::Refused => Mark::JobsRefused,
                JobState::Queued | JobState::Starting | JobState::Running | JobState::Stopping => {
                    continue;
                }
            };
            self.mark(mark);
        }
    }

    /// An agent forgets an end that it had on disk.
    pub(crate) fn check_forgotten(&mut self, at: NodeRef, report: &AttemptReport) {
        let found = s3_finished_kept::on_forget(self, at, report);
        self.violate_all(found);
    }

    /// An agent stops an attempt because its orders say so.
    pub(crate) fn check_stopped(&mut self, at: NodeRef, lease: LeaseId) {
        let found = stops_are_wanted::on_stop(self, at, lease);
        self.violate_all(found);
    }

    pub(crate) fn check_cancelled(&mut self, site: usize, job: JobId) {
        let found = l3_cancel::on_due(self, site, job);
        self.violate_all(found);
    }

    fn count_command(
        &mut self,
        command: &Command,
        reply: &Reply,
        before: &federation_core::State,
        after: &federation_core::State,
    ) {
        self.mark(Mark::Entries);
        let dropped = dropped(reply);
        self.coverage.add(Mark::PlansDropped, dropped);
        if *reply != Reply::Done && dropped == 0 && !matches!(reply, Reply::Placed { .. }) {
            return;
        }
        let refused = after.guests.len().saturating_sub(before.guests.len()) as u64;
        let leases = after.leases.len().saturating_sub(before.leases.len()) as u64;
        let counted = match command {
            Command::SuspectNode(_) => (Mark::NodesSuspected, 1),
            Command::RestoreNode(_) => (Mark::NodesRestored, 1),
            Command::ReleaseNode(_) => (Mark::NodesReleased, 1),
            Command::SuspectPeer(_) => (Mark::PeersSuspected, 1),
            Command::RestorePeer(_) => (Mark::PeersRestored, 1),
            Command::ReleasePeer(_) => (Mark::PeersReleased, 1),
            Command::MakeGrant(_) => (Mark::GrantsMade, 1),
            Command::RecallGrant(_) => (Mark::GrantsRecalled, 1),
            Command::ReturnGrant(_) => (Mark::GrantsReturned, 1),
            Command::ExpireGrant(_) => (Mark::GrantsExpired, 1),
            Command::CommitPlan(_) => {
                self.coverage.add(Mark::QuotaBinds, s6_quota::bound(after));
                let drawn = loans(after).saturating_sub(loans(before));
                (Mark::LoansDrawn, drawn as u64)
            }
            Command::ObeyPeer(it) => {
                self.coverage.add(Mark::GuestsForgotten, it.forget.len() as u64);
                (Mark::GuestsRefused, refused.saturating_sub(leases))
            }
            Command::ArchiveJobs(_) => {
                (Mark::JobsArchived, after.archived.saturating_sub(before.archived))
            }
            Command::RecordParts(_) | Command::RecordPeer(_) => {
                (Mark::LateResultsKept, kept(before, after))
            }
            Command::SetQuota(_) | Command::RemoveQuota(_) => (Mark::QuotasSet, 1),
            Command::SetSignals(_) => (Mark::SignalsSet, 1),
            Command::MakeReservation(_) => (Mark::ReservationsMade, 1),
            Command::PreemptJobs(_) => (Mark::Preemptions, 1),
            Command::PermitBurnIns(_) => (Mark::RetestsPermitted, permitted(before, after)),
            Command::EndPermits(_) => (Mark::PermitsEnded, 1),
            Command::WantBurnIns(_) => (Mark::BurnInsWanted, 1),
            Command::RecordHealth(_) => (Mark::GpusSpared, spared(before, after)),
            Command::RecordProofs(it) => (Mark::ProofsVerified, it.proofs.len() as u64),
            Command::FoundSite(_)
            | Command::AdmitJobs(_)
            | Command::CancelJob(_)
            | Command::RegisterNode(_)
            | Command::DrainNode(_)
            | Command::OpenToken(_)
            | Command::AcceptPeer(_)
            | Command::AddPeer(_)
            | Command::AcceptNode(_)
            | Command::AddController(_)
            | Command::RemoveController(_)
            | Command::EndRecovery(_)
            | Command::SetVersion(_)
            | Command::SetTrust(_)
            | Command::SetHealthLimits(_)
            | Command::SetWeights(_)
            | Command::SetDataSet(_)
            | Command::RemoveDataSet(_)
            | Command::SetLink(_)
            | Command::EndReservation(_)
            | Command::WithholdGpu(_) => return,
        };
        self.coverage.add(counted.0, counted.1);
    }
}

/// How many assignments of a plan were not taken.
fn dropped(reply: &Reply) -> u64 {
    match reply {
        Reply::Placed { dropped, .. } => u64::from(*dropped),
        Reply::Done
        | Reply::NoOp(_)
        | Reply::Jobs { .. }
        | Reply::Controller(_)
        | Reply::Refused(_) => 0,
    }
}

/// How many more late results are kept.
fn kept(before: &federation_core::State, after: &federation_core::State) -> u64 {
    let kept = |state: &federation_core::State| {
        state.jobs.values().filter(|job| job.kept.is_some()).count()
    };
    kept(after).saturating_sub(kept(before)) as u64
}

/// How many more retests are permitted.
fn permitted(before: &federation_core::State, after: &federation_core::State) -> u64 {
    let retests = |state| federation_core::permitted(state).0;
    u64::from(retests(after).saturating_sub(retests(before)))
}

/// How many more GPUs are bad and have jobs that run on.
fn spared(before: &federation_core::State, after: &federation_core::State) -> u64 {
    let spared = |state| federation_core::limits_view(state).spared;
    u64::from(spared(after).saturating_sub(spared(before)))
}

/// A command in a few words.
fn summary(command: &Command) -> String {
    let text = format!("{command:?}");
    text.chars().take(2_000).collect()
}

/// A span with some room for delivery and for clocks.
pub(crate) fn with_room(span: Millis) -> Millis {
    Millis(span.0 * 103 / 100 + 3_000)
}

/// Jobs on loan at all peers.
fn loans(state: &federation_core::State) -> usize {
    state.peers.keys().map(|peer| state.loans_to(peer).count()).sum()
}
