//! GPUs fall sick, are found out, repaired, let go by an operator and burnt in again. The states are
//! those of the real agent; what a burn-in finds is what is true.

use std::collections::BTreeSet;

use federation_core::{Command, WithholdGpu};
use gpu_agent_core::health::{BurnIn, Evidence, Health};
use specs::codec::Blob;
use specs::gpu::{GpuState, SignedProof};
use specs::id::GpuIndex;

use crate::coverage::Mark;
use crate::world::{CtlRef, Event, NodeRef, World};

/// Mean span between two GPUs that fall sick, in milliseconds.
const SICK_EVERY: u64 = 9_000;

fn is_left(state: GpuState) -> bool {
    matches!(state, GpuState::Quarantined | GpuState::Rma)
}

impl World {
    /// A new life of an agent: it may have lost what the last one knew.
    pub(crate) fn health_rises(&mut self, at: NodeRef) {
        let now = self.clock(self.node(at).machine);
        let keeps = self.chance_health.chance(700);
        let node = self.node_mut(at);
        let kept = node.health.kept(now);
        let of = |index: GpuIndex| kept.iter().find(|it| it.health.index == index).cloned();
        let gpus = node.gpus.iter().map(|gpu| (gpu.index, of(gpu.index).filter(|_| keeps)));
        node.health = Health::new(now, gpus.collect::<Vec<_>>());
    }

    /// Goes on with what is due, before the agent asks.
    pub(crate) fn tend_health(&mut self, at: NodeRef) {
        if !self.knobs.asks_for_proofs {
            return;
        }
        let now = self.clock(self.node(at).machine);
        let node = self.node_mut(at);
        let busy = node.processes.values().flat_map(|it| it.gpus.iter().copied()).collect();
        let Some(runner) = &mut node.runner else { return };
        let (withheld, released) = (runner.withheld(), runner.released());
        node.health.handle_wishes(runner.is_asked_for_proofs(), withheld, released, busy);
        let burn_in = node.health.poll_burn_in(now);
        runner.set_health(node.health.reports());
        let life = node.life;
        if let Some(burn_in) = burn_in {
            self.mark(Mark::BurnIns);
            let span = self.chance_health.range(100, 2_000);
            self.schedule_in(span, Event::Burnt { at, life, burn_in });
        }
    }

    pub(crate) fn burnt(&mut self, at: NodeRef, life: u64, burn_in: BurnIn) {
        if self.node(at).life != life {
            return;
        }
        let blob = Blob::default;
        let proof = SignedProof { body: blob(), signature: blob(), certificate: blob() };
        let evidence = if self.node(at).sick.contains(&burn_in.gpu) {
            Evidence::Fault("it is sick".into())
        } else {
            Evidence::Passed { tier: burn_in.tier, proof }
        };
        self.health_learns(at, burn_in.gpu, evidence);
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
                }
            }
        }
    }
}
