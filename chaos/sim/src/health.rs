//! GPUs fall sick, are found out, repaired, let go by an operator and burnt in again. The states are
//! those of the real agent; what a burn-in finds is what is true.

use std::collections::BTreeSet;

use federation_core::{Command, Node, WantBurnIns, WithholdGpu};
use gpu_agent_core::burn_in::measured::Compared;
use gpu_agent_core::health::{BurnIn, Evidence, Health, PROOF_SPAN};
use specs::codec::{Blob, Message};
use specs::gpu::{
    Bound, BoundUnit, BurnInTier, GpuState, HealthLimits, HealthProof, ProofNeed, SignedProof,
};
use specs::id::GpuIndex;
use specs::job::JobSpec;
use specs::measure::{Digests, MEMORY, Make};
use specs::unit::Millis;
use specs::wire::agent::NodeReport;

use crate::coverage::Mark;
use crate::invariant::burn_ins::{self, Burning};
use crate::rng::Rng;
use crate::shown;
use crate::world::{CtlRef, Event, NodeRef, World};

/// Less than what an agent may have kept a proof for.
const DAY: Millis = Millis(86_400_000);
/// How long a proof holds that is to be renewed.
const OLD: Millis = Millis(3_600_000);
/// How long who executes again may take until all that fell due is done.
const AWAKE: Millis = Millis(5_000);
/// Mean span between two wishes of an operator, in milliseconds.
const WANT_EVERY: u64 = 6_000;
/// Mean span between two GPUs that fall sick, in milliseconds.
const SICK_EVERY: u64 = 9_000;

pub(crate) fn asks_for_proofs(seed: u64) -> bool {
    Rng::of(seed, "proofs").chance(400)
}

/// Tight ones.
pub(crate) fn draw_limits(seed: u64) -> Option<HealthLimits> {
    let rng = &mut Rng::of(seed, "limits");
    let mut number =
        |range: std::ops::Range<u64>| u32::try_from(rng.range(range.start, range.end)).unwrap_or(1);
    let limits = HealthLimits {
        retests: Bound { unit: BoundUnit::Gpus, value: number(1..3) },
        admissions: Bound { unit: BoundUnit::Gpus, value: number(1..6) },
        quarantined: Bound { unit: BoundUnit::Percent, value: number(10..60) },
        quarantines: number(1..12),
    };
    (asks_for_proofs(seed) && rng.chance(700)).then_some(limits)
}

pub(crate) fn jobs_demand(seed: u64) -> bool {
    draw_limits(seed).is_some() && Rng::of(seed, "demands").chance(500)
}

/// Such that some proofs will not do: those of a tier below, or those that an agent kept for long.
pub(crate) fn demand(rng: &mut Rng, spec: &mut JobSpec) {
    if rng.chance(300) {
        let tier = if rng.chance(250) { BurnInTier::T3 } else { BurnInTier::T2 };
        let age_max = if rng.chance(700) { DAY } else { Millis::ZERO };
        spec.needs.0.proof = Some(ProofNeed { tier, age_max });
    }
}

/// What an agent of an earlier release would say.
pub(crate) fn forget_permits(report: &mut NodeReport) {
    report.heeds_permits = false;
    for gpu in &mut report.health {
        (gpu.due, gpu.last, gpu.passed, gpu.earlier) = (None, None, None, None);
    }
}

fn is_left(state: GpuState) -> bool {
    matches!(state, GpuState::Quarantined | GpuState::Rma)
}

impl World {
    /// A new life of an agent: it may have lost what the last one knew.
    pub(crate) fn health_rises(&mut self, at: NodeRef) {
        let now = self.clock(self.node(at).machine);
        let keeps = self.chance_health.chance(700);
        self.oracle.burning.retain(|(node, _), _| *node != at);
        let is_old_proof = self.knobs.limits.is_some() && self.chance_burn_ins.chance(500);
        let node = self.node_mut(at);
        let mut kept = node.health.kept(now);
        for kept in kept.iter_mut().filter(|kept| is_old_proof && kept.valid_for > OLD) {
            let older = kept.valid_for.minus(OLD);
            kept.valid_for = OLD;
            kept.proof.iter_mut().for_each(|proof| shown::make_older(proof, older));
        }
        let of = |index: GpuIndex| kept.iter().find(|it| it.health.index == index).cloned();
        let gpus = node.gpus.iter().map(|gpu| (gpu.index, of(gpu.index).filter(|_| keeps)));
        node.health = Health::new(now, gpus.collect::<Vec<_>>());
    }

    /// Goes on with what is due, before the agent asks.
    pub(crate) fn tend_health(&mut self, at: NodeRef) {
        if !self.knobs.asks_for_proofs {
            return;
        }
        let machine = self.node(at).machine;
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let node = self.node_mut(at);
        let busy = node.processes.values().flat_map(|it| it.gpus.iter().copied()).collect();
        let Some(runner) = &mut node.runner else { return };
        let (withheld, released) = (runner.withheld(), runner.released());
        node.health.handle_wishes(runner.is_asked_for_proofs(), withheld, released, busy);
        node.health.handle_curiosity(runner.tells_earlier());
        node.health.handle_timeout(now);
        let permits = runner.permits(now).filter(|_| !node.is_old);
        node.health.handle_permits(now, wall, permits);
        let interrupted = node.health.poll_interrupt();
        if let Some(gpu) = interrupted {
            node.health.handle_interrupted(now, gpu);
        }
        let burn_in = node.health.poll_burn_in(now);
        let begun = burn_in.map(|it| (it.gpu, it.tier));
        let permit =
            permits.and_then(|all| all.iter().find(|it| Some((it.index, it.tier)) == begun));
        let number = permit.map(|it| it.number);
        runner.set_health(node.health.reports());
        let life = node.life;
        if let Some(gpu) = interrupted {
            self.oracle.burning.remove(&(at, gpu));
            self.mark(Mark::BurnInsInterrupted);
        }
        if let Some(burn_in) = burn_in {
            self.mark(Mark::BurnIns);
            let span = self.chance_health.range(100, 2_000);
            let run = self.coverage.count(Mark::BurnIns);
            self.schedule_in(span, Event::Burnt { at, life, burn_in, run });
            let burning = Burning { run, gpu: burn_in.gpu, number, since: self.now };
            // Idle moments need no permit: they end at once when their GPU is wanted.
            if burn_in.tier != BurnInTier::T4 {
                let found = burn_ins::on_start(self, at, &burning);
                self.violate_all(found);
            }
            self.oracle.burning.insert((at, burn_in.gpu), burning);
        }
    }

    /// An agent wakes when its orders have run out.
    pub(crate) fn tend_when_over(&mut self, at: NodeRef, lease_term: Millis) {
        let life = self.node(at).life;
        let span = lease_term.0 * 1_006 / 1_000 + 5;
        self.schedule_in(span, Event::Tend { at, life });
    }

    pub(crate) fn tend_again(&mut self, at: NodeRef, life: u64) {
        if self.node(at).life == life {
            self.tend_health(at);
        }
    }

    pub(crate) fn burnt(&mut self, at: NodeRef, life: u64, burn_in: BurnIn, run: u64) {
        let is_it = |it: &Burning| it.run == run;
        let key = (at, burn_in.gpu);
        if self.node(at).life != life || !self.oracle.burning.get(&key).is_some_and(is_it) {
            return;
        }
        let Some(burning) = self.oracle.burning.remove(&key) else { return };
        let proof = self.proof_of(at, &burn_in);
        let may_be_unknown = self.knobs.limits.is_some() && !self.healing;
        let is_unknown = may_be_unknown && self.chance_burn_ins.chance(100);
        let evidence = if self.node(at).sick.contains(&burn_in.gpu) {
            Evidence::Fault("it is sick".into())
        } else if is_unknown {
            Evidence::Unknown("nobody knows".into())
        } else {
            Evidence::Passed { tier: burn_in.tier, proof, warning: String::new() }
        };
        self.health_learns(at, burn_in.gpu, evidence);
        self.measures(at, burn_in.gpu);
        let reports = self.node(at).health.reports();
        let is_bad =
            |gpu| reports.iter().any(|it| it.health.index == gpu && is_left(it.health.state));
        if !is_unknown || is_bad(burn_in.gpu) {
            burn_ins::on_result(self, at, &burning);
        }
    }

    /// A number and a digest, such as agents tell. All GPUs are alike: none is held back for it.
    fn measures(&mut self, at: NodeRef, gpu: GpuIndex) {
        let digests = Some(Digests { recipe: 1, by_kernel: [("golden".into(), 7)].into() });
        let mut it = Compared { make: Some(Make::default()), digests, ..Compared::default() };
        it.measured.add(MEMORY, 1_000 + u64::from(gpu.0 % 3));
        self.node_mut(at).health.handle_numbers(gpu, it);
    }

    fn proof_of(&self, at: NodeRef, burn_in: &BurnIn) -> SignedProof {
        let node = self.node(at);
        let proof = HealthProof {
            site: self.sites[at.site].name.clone(),
            node: node.id.clone(),
            index: burn_in.gpu,
            uuid: String::new(),
            product: String::new(),
            tier: burn_in.tier,
            kernels: Blob::default(),
            passed_at: self.wall(node.machine),
            valid_for: PROOF_SPAN,
            agent: String::new(),
            baseline: String::new(),
        };
        let signature = shown::signature(&proof.site, &proof.node);
        SignedProof { body: Blob(proof.encode()), signature, certificate: Blob::default() }
    }

    /// An operator wants a burn-in, or holds a GPU back and lets it go after a while.
    pub(crate) fn want_burn_in(&mut self) {
        if self.healing {
            return;
        }
        let rng = &mut self.chance_burn_ins;
        let next = rng.range(WANT_EVERY / 4, WANT_EVERY * 2);
        let site = rng.index(self.sites.len());
        let node = rng.index(self.sites[site].nodes.len());
        let all = &self.sites[site].nodes[node].all_gpus;
        let gpu = all[rng.index(all.len())].index;
        let (holds, is_short) = (rng.chance(400), rng.chance(300));
        let let_go_in = rng.range(200, 5_000);
        self.schedule_in(next, Event::Want);
        let at = NodeRef { site, node };
        let id = self.node(at).id.clone();
        let tier = if is_short { BurnInTier::T1 } else { BurnInTier::T2 };
        let command = if holds {
            self.schedule_in(let_go_in, Event::LetGo { at, gpu });
            let why = Some("an operator looks at it".into());
            Command::WithholdGpu(WithholdGpu { node: id, index: gpu, why })
        } else {
            Command::WantBurnIns(WantBurnIns { node: id, gpus: vec![gpu], tier })
        };
        if let Some(ctl) = self.sites[at.site].log.leader {
            self.propose(CtlRef { site: at.site, ctl }, command);
        }
    }

    /// The operator lets a GPU go until nobody holds it back.
    pub(crate) fn let_go(&mut self, at: NodeRef, gpu: GpuIndex) {
        let id = self.node(at).id.clone();
        let state = self.sites[at.site].log.latest();
        let all = |node: &Node| node.gpus.iter().chain(&node.absent).cloned().collect::<Vec<_>>();
        let gpus = state.nodes.get(&id).map(all).unwrap_or_default();
        if gpus.iter().all(|it| it.info.index != gpu || it.withheld.is_none()) {
            return;
        }
        self.schedule_in(1_000, Event::LetGo { at, gpu });
        let command = WithholdGpu { node: id, index: gpu, why: None };
        if let Some(ctl) = self.sites[at.site].log.leader {
            self.propose(CtlRef { site: at.site, ctl }, Command::WithholdGpu(command));
        }
    }

    /// Nothing of the node's agent executes at present.
    pub(crate) fn is_still(&self, at: NodeRef) -> bool {
        let node = self.node(at);
        let suspended = self.machines[node.machine.0].suspended_until;
        // Whoever executes again does what fell due in a moment; so does everybody who was woken.
        let woken = self.healing.then_some(self.knobs.heal_at);
        let still_until = node.paused_until.max(suspended).max(woken);
        still_until.is_some_and(|until| until.after(AWAKE) >= self.now)
    }

    /// A sign of sickness shows, in the counters or in the kernel's log.
    pub(crate) fn sickness_shows(&mut self, at: NodeRef, life: u64, gpu: GpuIndex) {
        if self.node(at).life == life && self.node(at).sick.contains(&gpu) {
            self.health_learns(at, gpu, Evidence::Event(48));
        }
    }

    fn health_learns(&mut self, at: NodeRef, gpu: GpuIndex, evidence: Evidence) {
        let now = self.clock(self.node(at).machine);
        let node = self.node_mut(at);
        node.health.handle_evidence(now, gpu, evidence);
        let reports = node.health.reports();
        let is_bad = reports.iter().any(|it| it.health.index == gpu && is_left(it.health.state));
        if let Some(runner) = &mut node.runner {
            runner.set_health(reports);
        }
        if is_bad {
            self.mark(Mark::GpusQuarantined);
            self.note(|world| format!("{} finds GPU {gpu} bad", world.node_name(at)));
        }
    }

    /// One more GPU falls sick, and the next one after a while.
    pub(crate) fn sicken(&mut self) {
        if self.healing || !self.knobs.asks_for_proofs {
            return;
        }
        let next = self.chance_health.range(SICK_EVERY / 4, SICK_EVERY * 2);
        self.schedule_in(next, Event::Sicken);
        let site = self.chance_health.index(self.sites.len());
        let node = self.chance_health.index(self.sites[site].nodes.len());
        let at = NodeRef { site, node };
        let nth = self.chance_health.index(self.node(at).all_gpus.len());
        let gpu = self.node(at).all_gpus[nth].index;
        self.node_mut(at).sick.insert(gpu);
        let life = self.node(at).life;
        let (shows, ends) =
            (self.chance_health.range(10, 4_000), self.chance_health.range(1_000, 12_000));
        self.schedule_in(shows, Event::SicknessShows { at, life, gpu });
        self.schedule_in(ends, Event::Repair { at, gpu });
    }

    /// The operator repairs a GPU, and lets it go until it is no longer left out.
    pub(crate) fn repair(&mut self, at: NodeRef, gpu: GpuIndex) {
        self.node_mut(at).sick.remove(&gpu);
        let id = self.node(at).id.clone();
        let found = self.node(at).health.reports();
        let knows = found.iter().any(|it| it.health.index == gpu && is_left(it.health.state));
        let state = self.sites[at.site].log.latest();
        let gpus = state.nodes.get(&id).map(|node| node.gpus.as_slice()).unwrap_or_default();
        let told = gpus.iter().any(|it| {
            it.info.index == gpu && it.doubt.as_ref().is_some_and(|doubt| is_left(doubt.state))
        });
        if !knows && !told {
            return;
        }
        self.schedule_in(1_000, Event::Repair { at, gpu });
        let command = WithholdGpu { node: id, index: gpu, why: None };
        if let Some(ctl) = self.sites[at.site].log.leader {
            self.propose(CtlRef { site: at.site, ctl }, Command::WithholdGpu(command));
        }
    }

    /// Faults stop: every GPU is sound, and those that are left out are let go.
    pub(crate) fn end_sickness(&mut self) {
        for site in 0..self.sites.len() {
            for node in 0..self.sites[site].nodes.len() {
                let at = NodeRef { site, node };
                let gpus: BTreeSet<GpuIndex> =
                    self.node(at).all_gpus.iter().map(|gpu| gpu.index).collect();
                for gpu in gpus {
                    self.schedule_in(100, Event::Repair { at, gpu });
                    if self.knobs.limits.is_some() {
                        self.schedule_in(100, Event::LetGo { at, gpu });
                    }
                }
                // Agents are upgraded in the end.
                self.node_mut(at).is_old = false;
            }
        }
    }
}
