//! What the leader knows of sites: what peers told, what this one tells them, and who would go where.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::gpu::{BurnInTier, ProofNeed};
use specs::id::{GpuClass, JobId, SiteId};
use specs::job::Needs;
use specs::signals::{ClassOutlook, DATA_SETS_MAX, FreeNodes, PRICES_MAX, Signals};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::peer::{Demand, PeerReport};

use super::{Leader, PeerMemory, Waiting};
use crate::exchange::proofs;
use crate::placement::lookout::Seen;
use crate::placement::sites::cost::{aged, signals_of};
use crate::placement::sites::outlook::{CLASSES_MAX, Waiting as Ages, outlook};
use crate::placement::sites::{Sites, Told};
use crate::state::{Job, JobPhase, State};

impl Leader {
    /// What waiting jobs would use at the peer, if it is their turn's best of those that could
    /// hold them.
    pub(super) fn demand_for(&self, now: Instant, state: &State, peer: &SiteId) -> Vec<Demand> {
        let sites = sites(&self.peers, now, self.at, state);
        let mut demand: Vec<Demand> = Vec::new();
        for waiting in &self.waiting {
            let Some(job) = state.jobs.get(&waiting.job) else { continue };
            let JobPhase::Queued(_) = job.phase else { continue };
            let Some(seen) = self.lookout.get(waiting.job) else { continue };
            let Some(turn) = waiting.turn else { continue };
            let Some((site, class)) = best_host(&sites, (job, seen), turn) else { continue };
            if site != *peer {
                continue;
            }
            let (nodes, gpus_per_node) = (seen.spec.nodes, seen.spec.gpus_per_node);
            let needs = asked_of(state, peer, &seen.spec.needs);
            let same = demand.iter_mut().find(|it| {
                it.class.as_ref() == Some(&class)
                    && it.nodes == nodes
                    && it.gpus_per_node == gpus_per_node
                    && it.needs == needs
            });
            match same {
                Some(same) => same.count += 1,
                None => {
                    let class = Some(class);
                    demand.push(Demand { class, nodes, gpus_per_node, count: 1, needs });
                }
            }
        }
        demand
    }

    /// Remembers who waits in vain, and whose home is no longer worth waiting for.
    pub(super) fn note_waiting(
        &mut self,
        now: Instant,
        state: &State,
        jobs: &[JobId],
        leaving: &[(JobId, Millis)],
    ) {
        let terms = state.terms();
        let leaving: BTreeMap<JobId, Millis> = leaving.iter().copied().collect();
        let in_vain = |job: &JobId| {
            let waited = now.since(self.lookout.get(*job)?.since);
            let turn = leaving.get(job).map(|since| since.0 / terms.grant_idle.0.max(1));
            (waited >= terms.spill_after).then_some(Waiting { job: *job, turn })
        };
        let asks = |it: &&Waiting| it.turn.is_some();
        let known: BTreeSet<JobId> = self.waiting.iter().filter(asks).map(|it| it.job).collect();
        let waiting: Vec<Waiting> = jobs.iter().filter_map(in_vain).collect();
        self.waits_anew |= waiting.iter().filter(asks).any(|it| !known.contains(&it.job));
        self.waiting = waiting;
    }

    /// What this site expects of each class of its GPUs.
    pub(crate) fn outlook(&self, state: &State) -> Vec<ClassOutlook> {
        let classes: Vec<GpuClass> = self.capacity.classes().cloned().collect();
        let mut ages = Ages::default();
        for waiting in &self.waiting {
            let (Some(job), Some(seen)) =
                (state.jobs.get(&waiting.job), self.lookout.get(waiting.job))
            else {
                continue;
            };
            let waited = Millis(self.at.0.saturating_sub(job.submitted_at.0));
            ages.add(&seen.spec, &classes, waited);
        }
        let free: Vec<(GpuClass, Vec<FreeNodes>)> = classes
            .into_iter()
            .map(|class| (class.clone(), self.capacity.free_nodes(&class)))
            .collect();
        outlook(state, free, &self.waits, &ages)
    }

    /// All sites, as they are weighed now.
    pub(crate) fn sites<'a>(&'a self, now: Instant, state: &'a State) -> Sites<'a> {
        sites(&self.peers, now, self.at, state)
    }

    /// Since when the job is seen to wait.
    pub(crate) fn seen_since(&self, job: JobId) -> Option<Instant> {
        self.lookout.get(job).map(|seen| seen.since)
    }

    /// By the wall clock, as far as it was told.
    pub(crate) fn wall(&self) -> Timestamp {
        self.at
    }

    /// What a peer last told of what it costs, with ages as of now; none if it tells nothing.
    #[must_use]
    pub fn peer_signals(&self, now: Instant, peer: &SiteId) -> Option<Signals> {
        let told = &self.peers.get(peer)?.told;
        let mut signals = told.signals.clone()?;
        let since = now.since(told.at);
        signals_of(&mut signals).for_each(|signal| signal.age = signal.age.plus(since));
        Some(signals)
    }

    /// This site's own signals with their ages.
    #[must_use]
    pub fn own_signals(&self, state: &State) -> Option<Signals> {
        state.signals.as_deref().map(|said| aged(said, self.at))
    }

    /// What a peer last told besides capacity and signals: its data sets, and what it expects.
    pub(crate) fn told(&self, peer: &SiteId) -> Option<&Told> {
        self.peers.get(peer).map(|memory| &memory.told)
    }
}

/// What is asked of a host's nodes beyond GPUs, if it is anything: proofs, too, where this site uses
/// nothing else.
fn asked_of(state: &State, host: &SiteId, needs: &Needs) -> Option<Box<Needs>> {
    let mut needs = needs.clone();
    if needs.proof.is_none() && proofs::are_required(state, host) {
        needs.proof = Some(ProofNeed { tier: BurnInTier::T2, age_max: Millis::ZERO });
    }
    (!needs.fit_a_loan()).then(|| Box::new(needs))
}

/// All sites, as they are weighed now.
pub(super) fn sites<'a>(
    peers: &'a BTreeMap<SiteId, PeerMemory>,
    now: Instant,
    at: Timestamp,
    state: &'a State,
) -> Sites<'a> {
    Sites::new(state, peers.iter().map(|(site, memory)| (site, &memory.told)), now, at)
}

/// What of a report tells where jobs should go. More than a site may have is not looked at.
pub(super) fn told(now: Instant, report: &PeerReport) -> Told {
    let mut signals = report.signals.clone();
    if let Some(signals) = &mut signals {
        signals.prices.truncate(PRICES_MAX);
    }
    Told {
        capacity: report.capacity.clone(),
        signals,
        data: report.data.iter().take(DATA_SETS_MAX).cloned().collect(),
        outlook: report.outlook.iter().take(CLASSES_MAX).cloned().collect(),
        at: now,
    }
}

/// The peer and the class that weigh least for the job among those that could hold it; the next
/// best at the next turn, since a home knows neither a host's lend rules nor its nodes.
fn best_host(
    sites: &Sites<'_>,
    (job, seen): (&Job, &Seen),
    turn: u64,
) -> Option<(SiteId, GpuClass)> {
    let weighed = sites.weigh(job, seen);
    let able: Vec<_> = weighed.candidates.iter().filter(|it| it.could_hold).collect();
    let nth = turn.checked_rem(able.len() as u64)?;
    let best = able.get(usize::try_from(nth).ok()?)?;
    Some((best.site.clone(), best.class.clone()))
}
