//! State as people see it.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::gpu::{GpuState, HealthProof, SignedProof};
use specs::id::{Boot, DataName, GrantId, JobId, SiteId};
use specs::signals::DataSet;
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, Ending, Outcome};
use specs::wire::client::{
    AttemptView, DataView, GpuView, GrantView, JobState, JobView, LoanView, NodeState, NodeView,
    ProofView, SiteView,
};
use specs::wire::peer::{ClassCapacity, GuestPhase};

use crate::exchange::proofs;
use crate::health::asks_for_proofs;
use crate::leader::Leader;
use crate::placement::sites::weights;
use crate::quota::Taken;
use crate::reserve;
use crate::state::{Attempt, Held, HeldKey, Job, JobPhase, Node, State};
use crate::view::capacity;

/// Most matches that an ambiguous selector names.
const CANDIDATES_SHOWN: usize = 5;

/// What a person is told of a job.
#[must_use]
pub fn job_state(state: &State, job: &Job) -> JobState {
    match &job.phase {
        JobPhase::Queued(_) => JobState::Queued,
        JobPhase::Ended(ended) => ended.state,
        JobPhase::Leased(leased) => match state.leases.get(&leased.lease) {
            Some(lease) if lease.stop.is_some() => JobState::Stopping,
            Some(lease) if lease.parts.iter().any(|it| it.phase == AttemptPhase::Starting) => {
                JobState::Starting
            }
            _ => JobState::Running,
        },
        JobPhase::Loaned(loan) if loan.stop.is_some() => JobState::Stopping,
        JobPhase::Loaned(loan) => match loan.phase {
            GuestPhase::Admitted => JobState::Starting,
            GuestPhase::Running | GuestPhase::Ended => JobState::Running,
        },
    }
}

fn in_words(outcome: &Outcome) -> String {
    let detail = |what: &str| {
        [what, outcome.detail.as_str()].join(if outcome.detail.is_empty() { "" } else { ": " })
    };
    match outcome.ending {
        Ending::Exited if outcome.signal != 0 => {
            alloc::format!("ended by signal {}", outcome.signal)
        }
        Ending::Exited => alloc::format!("exited with {}", outcome.exit_code),
        Ending::Stopped => detail("stopped"),
        Ending::Fenced => detail("fenced"),
        Ending::Refused => detail("refused"),
        Ending::Lost => detail("lost"),
    }
}

fn attempt_view(attempt: &Attempt) -> AttemptView {
    AttemptView {
        epoch: attempt.epoch,
        host: attempt.host.clone(),
        nodes: attempt.nodes.clone(),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        outcome: attempt.outcome.as_ref().map(in_words).unwrap_or_default(),
        preempted_by: attempt.preempted.as_ref().map(|it| it.by),
        preempted_at: attempt.preempted.as_ref().map(|it| it.at).unwrap_or_default(),
    }
}

/// What a job waits for that never ran.
fn waits_for(state: &State, job: &Job, at: Timestamp) -> String {
    let late = if job.due().is_some_and(|due| at > due) { "; its deadline has passed" } else { "" };
    match Taken::default().closed(state, job, &job.spec()) {
        Ok(_) => alloc::format!("waits for capacity{late}"),
        Err(bound) => alloc::format!("waits for quota: {bound}{late}"),
    }
}

/// `at` is zero if nobody knows the time.
fn reason(state: &State, job: &Job, at: Timestamp) -> String {
    let last = job.attempts.last();
    let preempted = last.and_then(|it| it.preempted.as_ref()).map(|it| it.by);
    match &job.phase {
        JobPhase::Queued(_) => match (last.and_then(|it| it.outcome.as_ref()), preempted) {
            (_, Some(by)) => alloc::format!("waits again; the last attempt was stopped for {by}"),
            (Some(outcome), None) => {
                alloc::format!("waits again; the last attempt was {}", in_words(outcome))
            }
            (None, None) => waits_for(state, job, at),
        },
        JobPhase::Loaned(loan) => {
            let silent = state.peers.get(&loan.peer).is_some_and(|peer| peer.suspicion.is_some());
            if silent { alloc::format!("{} is not heard", loan.peer) } else { String::new() }
        }
        JobPhase::Ended(ended) if ended.state == JobState::Finished => String::new(),
        JobPhase::Ended(ended) => in_words(&ended.outcome),
        JobPhase::Leased(_) => {
            preempted.map(|by| alloc::format!("is stopped for {by}")).unwrap_or_default()
        }
    }
}

/// Everything a person may want to know of a job. `age` is that of what is known of a loan.
#[must_use]
pub fn job_view(state: &State, job: &Job, leader: Option<(&Leader, Instant)>) -> JobView {
    let last = job.attempts.last();
    let (mut exit_code, mut signal, mut finished_at) = (None, 0, Timestamp(0));
    if let JobPhase::Ended(ended) = &job.phase {
        finished_at = ended.at;
        if ended.outcome.ending == Ending::Exited {
            exit_code = Some(ended.outcome.exit_code);
            signal = ended.outcome.signal;
        }
        let ended_at = last.map(|it| it.ended_at).filter(|at| *at != Timestamp(0));
        finished_at = ended_at.unwrap_or(finished_at);
    }
    let mut remote_age = Millis::ZERO;
    if let (JobPhase::Loaned(loan), Some((leader, now))) = (&job.phase, leader) {
        remote_age = leader.peer_silence(now, &loan.peer).unwrap_or_default();
    }
    JobView {
        id: job.id,
        spec: job.spec(),
        array_index: job.array_index,
        home: state
            .own()
            .cloned()
            .or_else(|| last.map(|it| it.host.clone()))
            .unwrap_or_else(unnamed),
        host: last.map(|it| it.host.clone()),
        state: job_state(state, job),
        reason: reason(state, job, leader.map(|(leader, _)| leader.wall()).unwrap_or_default()),
        epoch: job.epoch,
        exit_code,
        signal,
        submitter: job.submitter.clone(),
        submitted_at: job.submitted_at,
        started_at: last.map(|it| it.started_at).unwrap_or_default(),
        finished_at,
        nodes: last.map(|it| it.nodes.clone()).unwrap_or_default(),
        attempts: job.attempts.iter().map(attempt_view).collect(),
        cancel_requested: job.cancel,
        remote_age,
        archived: false,
        preemptions: job.preemptions,
        preempted: job.made_room.iter().flat_map(|room| room.jobs.iter().copied()).collect(),
        due: job.due(),
        saved_at: leader.and_then(|(leader, _)| leader.saved_at(state, job)),
    }
}

/// A name for a site that is not founded; no job exists there, so no one sees it.
fn unnamed() -> SiteId {
    SiteId::new("unnamed").expect("a constant that keeps the rules of names")
}

/// The jobs that a selector names: a full id, a unique beginning of one, or a name. A name may
/// mean several jobs; the latest of that name and its array are meant.
///
/// # Errors
/// None matches, or a beginning matches several.
pub fn resolve_jobs(state: &State, text: &str) -> Result<Vec<JobId>, Fault> {
    if let Some(id) = text.parse::<JobId>().ok().filter(|id| state.jobs.contains(id)) {
        return Ok(alloc::vec![id]);
    }
    let digits = text.strip_prefix(JobId::PREFIX).unwrap_or(text);
    let is_hex = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_hexdigit());
    if is_hex && digits.len() <= 32 {
        let full = |id: &JobId| alloc::format!("{:032x}", id.0);
        let matches: Vec<JobId> =
            state.jobs.keys().filter(|id| full(id).starts_with(digits)).copied().collect();
        match matches.len() {
            0 => {}
            1 => return Ok(matches),
            _ => {
                let shown: Vec<String> =
                    matches.iter().take(CANDIDATES_SHOWN).map(ToString::to_string).collect();
                let message = alloc::format!("`{text}` is the beginning of {} jobs", matches.len());
                let hint = alloc::format!("give more of the id: {}", shown.join(", "));
                return Err(Fault::new(FaultCode::Conflict, message).with_hint(hint));
            }
        }
    }
    let named = || state.jobs.values().filter(|job| job.spec.is_named(text));
    let Some(latest) = named().map(|job| job.order).max() else {
        let message = alloc::format!("there is no job `{text}`");
        let hint = "see `federation job ls`";
        return Err(Fault::new(FaultCode::NotFound, message).with_hint(hint));
    };
    Ok(named().filter(|job| job.order == latest).map(|job| job.id).collect())
}

fn node_state(node: &Node) -> NodeState {
    if node.boot == Boot(0) {
        NodeState::Awaited
    } else if node.suspicion.is_some() {
        NodeState::Suspected
    } else if node.draining {
        NodeState::Draining
    } else {
        NodeState::Ready
    }
}

fn count(gpus: usize) -> GpuCount {
    GpuCount(u32::try_from(gpus).unwrap_or(u32::MAX))
}

/// Every node, with what the leader remembers of it.
#[must_use]
pub fn node_views(state: &State, leader: Option<(&Leader, Instant)>) -> Vec<NodeView> {
    let view = |node: &Node| NodeView {
        node: node.id.clone(),
        state: node_state(node),
        boot: node.boot,
        class: node.gpus.first().map(|gpu| gpu.info.class.clone()),
        gpus: count(node.gpus.len()),
        gpus_leased: count(node.gpus.iter().filter(|gpu| gpu.is_leased()).count()),
        gpus_granted: count(node.gpus.iter().filter(|gpu| gpu.grant.is_some()).count()),
        source: node.source.map(|it| it.as_str().to_string()).unwrap_or_default(),
        address: node.address.clone(),
        version: node.version.clone(),
        jobs: state.leases_of(&node.id).map(|lease| lease.job).collect(),
        heard: leader.and_then(|(leader, now)| leader.node_silence(now, &node.id)),
        draining: node.draining,
        reservations: reserve::of_node(state, &node.id).map(|(name, _)| name.clone()).collect(),
    };
    state.nodes.values().map(view).collect()
}

/// Every GPU, with what the leader remembers of its proof.
#[must_use]
pub fn gpu_views(state: &State, leader: Option<&Leader>) -> Vec<GpuView> {
    let asks = asks_for_proofs(state);
    let mut views = Vec::new();
    for node in state.nodes.values() {
        let reserved = reserve::of_node(state, &node.id);
        let reservations: Vec<_> = reserved.map(|(name, _)| name.clone()).collect();
        for gpu in &node.gpus {
            let (state_of, why) = match &gpu.doubt {
                Some(doubt) => (doubt.state, doubt.why.clone()),
                None => (GpuState::Healthy, String::new()),
            };
            let lease = gpu.lease.and_then(|id| state.leases.get(&id));
            let grant = gpu.grant.and_then(|id| state.grants.get(&id));
            let proof = leader.and_then(|it| it.proof(&node.id, gpu.info.index));
            // The leader sees a proof a moment before the log has what follows from it.
            let is_agreed = gpu.doubt.as_ref().is_none_or(|it| it.state == GpuState::Suspect);
            let proof = proof.filter(|_| is_agreed);
            let is_told = asks && (gpu.doubt.is_some() || proof.is_some());
            views.push(GpuView {
                node: node.id.clone(),
                index: gpu.info.index,
                class: gpu.info.class.clone(),
                uuid: gpu.info.uuid.clone(),
                memory_mib: gpu.info.memory_mib,
                state: is_told.then_some(state_of),
                why,
                fit: gpu.is_fit() && node.is_usable(),
                withheld: gpu.withheld.clone(),
                job: lease.map(|lease| lease.job),
                granted_to: grant.map(|grant| grant.home.clone()),
                proof: proof.and_then(proof_view),
                wanted: gpu.wish.as_ref().map(|wish| wish.tier),
                permitted: gpu.permit.as_ref().map(|permit| permit.tier),
                last: leader.and_then(|it| it.last_burn_in(&node.id, gpu.info.index)).cloned(),
                spared: gpu.doubt.as_ref().is_some_and(|doubt| doubt.spared),
                reservations: reservations.clone(),
                behind: leader.map_or(&[][..], |it| it.behind(&node.id, gpu.info.index)).to_vec(),
                differs: leader.map_or(&[][..], |it| it.differs(&node.id, gpu.info.index)).to_vec(),
            });
        }
    }
    views
}

fn proof_view(it: &SignedProof) -> Option<ProofView> {
    let proof = HealthProof::decode(&it.body.0).ok()?;
    let hex = |text: String, byte: &u8| text + &alloc::format!("{byte:02x}");
    Some(ProofView {
        tier: proof.tier,
        passed_at: proof.passed_at,
        valid_for: proof.valid_for,
        kernels: proof.kernels.0.iter().fold(String::new(), hex),
        agent: proof.agent,
        baseline: proof.baseline,
    })
}

fn data_view(name: &DataName, set: Option<&DataSet>) -> DataView {
    DataView { name: name.clone(), set: set.cloned() }
}

/// This site and every peer.
#[must_use]
pub fn site_views(state: &State, leader: Option<(&Leader, Instant)>) -> Vec<SiteView> {
    let mut views = Vec::new();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    if let Some(site) = &state.site {
        views.push(SiteView {
            site: site.site.clone(),
            country: Some(site.country),
            own: true,
            connected: true,
            suspected: false,
            heard: None,
            addresses: state.controllers.values().map(|it| it.address.clone()).collect(),
            capacity: capacity(state),
            loans_out: count(state.peer_loans.len()),
            guests_in: count(state.guests.len()),
            signals: leader.and_then(|(leader, _)| leader.own_signals(state)),
            data: state.data_sets.iter().map(|(name, set)| data_view(name, Some(set))).collect(),
            link: None,
            weights: Some(weights(state)),
            outlook: leader.map(|(leader, _)| leader.outlook(state)).unwrap_or_default(),
        });
    }
    for peer in state.peers.values() {
        let heard = leader.and_then(|(leader, now)| leader.peer_silence(now, &peer.site));
        let capacity: Vec<ClassCapacity> =
            leader.map(|(leader, _)| leader.peer_capacity(&peer.site).to_vec()).unwrap_or_default();
        let told = leader.and_then(|(leader, _)| leader.told(&peer.site));
        views.push(SiteView {
            site: peer.site.clone(),
            country: Some(peer.country),
            own: false,
            connected: heard.is_some() && peer.suspicion.is_none(),
            suspected: peer.suspicion.is_some(),
            heard,
            addresses: peer.addresses.clone(),
            capacity,
            loans_out: count(state.loans_to(&peer.site).count()),
            guests_in: count(state.guests_of(&peer.site).count()),
            signals: leader.and_then(|(leader, now)| leader.peer_signals(now, &peer.site)),
            data: told.iter().flat_map(|it| &it.data).map(|name| data_view(name, None)).collect(),
            link: state.links.get(&peer.site).cloned(),
            weights: None,
            outlook: told.map(|it| it.outlook.clone()).unwrap_or_default(),
        });
    }
    views
}

fn held_view(
    state: &State,
    own: &SiteId,
    (key, held): (&HeldKey, &Held),
    at: Timestamp,
) -> GrantView {
    let proven = held.proofs.iter().filter(|proof| proof.will_do(None, at)).count();
    let drawn = state.drawn.iter().filter(|(it, _)| it.host == key.host && it.grant == key.grant);
    let word = match (held.returned, held.recalled) {
        (true, _) => "returned",
        (false, true) => "recalled",
        (false, false) => "held",
    };
    GrantView {
        grant: key.grant,
        host: key.host.clone(),
        home: own.clone(),
        class: held.slots.first().map(|slot| slot.class.clone()),
        gpus: held.slots.iter().fold(GpuCount::ZERO, |sum, slot| sum.plus(slot.gpus)),
        gpus_used: drawn.fold(GpuCount::ZERO, |sum, (_, gpus)| sum.plus(*gpus)),
        nodes: held.slots.iter().map(|slot| slot.node.clone()).collect(),
        state: word.into(),
        gpus_verified: proofs::are_shown(state, &key.host).then(|| count(proven)),
    }
}

/// Grants made to peers and grants held at peers, with what of them is proven at that time.
#[must_use]
pub fn grant_views(state: &State, at: Timestamp) -> Vec<GrantView> {
    let Some(own) = state.own() else { return Vec::new() };
    let mut used: BTreeMap<GrantId, GpuCount> = BTreeMap::new();
    for gpu in state.nodes.values().flat_map(|node| &node.gpus) {
        if let (Some(grant), Some(_)) = (gpu.grant, gpu.lease) {
            let sum = used.entry(grant).or_default();
            *sum = sum.plus(GpuCount(1));
        }
    }
    let made = state.grants.values().map(|grant| GrantView {
        grant: grant.id,
        host: own.clone(),
        home: grant.home.clone(),
        class: grant.slots.first().map(|slot| slot.class.clone()),
        gpus: grant.slots.iter().fold(GpuCount::ZERO, |sum, it| sum.plus(count(it.gpus.len()))),
        gpus_used: used.get(&grant.id).copied().unwrap_or_default(),
        nodes: grant.slots.iter().map(|slot| slot.node.clone()).collect(),
        state: if grant.recalled { "recalled".into() } else { "made".into() },
        gpus_verified: None,
    });
    let held = state.held.iter().map(|it| held_view(state, own, it, at));
    made.chain(held).collect()
}

/// Loans given to peers and guests taken from them.
#[must_use]
pub fn loan_views(state: &State) -> Vec<LoanView> {
    let Some(own) = state.own() else { return Vec::new() };
    let given =
        state.peers.keys().flat_map(|peer| state.loans_to(peer)).map(|(job, loan)| LoanView {
            job: job.id,
            epoch: job.epoch,
            home: own.clone(),
            host: loan.peer.clone(),
            grants: loan.slots.iter().map(|slot| slot.grant).collect(),
            gpus: job.spec().gpus(),
            state: if loan.stop.is_some() { "stopping".into() } else { loan.phase.to_string() },
            name: job.spec().name.to_string(),
        });
    let taken = state.guests.values().map(|guest| LoanView {
        job: guest.key.job,
        epoch: guest.key.epoch,
        home: guest.key.home.clone(),
        host: own.clone(),
        grants: Vec::new(),
        gpus: guest.gpus,
        state: guest.phase.to_string(),
        name: guest.name.clone(),
    });
    given.chain(taken).collect()
}
