//! When attempts last saved their work, as their nodes tell: what a job would lose by being stopped.
//!
//! All of it follows from what agents tell, once a second; the log has none of it.

use alloc::collections::BTreeMap;

use specs::id::{LeaseId, NodeId};
use specs::unit::Timestamp;
use specs::wire::agent::NodeReport;

use super::Leader;
use crate::state::{Job, JobPhase, Lease, State};

/// By node, of the attempts that run there. A node whose attempts never saved has no entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saves(BTreeMap<NodeId, BTreeMap<LeaseId, Timestamp>>);

impl Saves {
    /// No more is kept of a node than it has attempts.
    pub(super) fn hear(&mut self, state: &State, report: &NodeReport) {
        let runs_there = |lease: &LeaseId| {
            let parts = state.leases.get(lease).map(|lease| lease.parts.as_slice());
            parts.unwrap_or_default().iter().any(|part| part.node == report.node)
        };
        let told = report.checkpoints.iter().filter(|it| runs_there(&it.lease));
        let told: BTreeMap<LeaseId, Timestamp> = told.map(|it| (it.lease, it.at)).collect();
        if told.is_empty() {
            self.0.remove(&report.node);
        } else {
            self.0.insert(report.node.clone(), told);
        }
    }

    /// When the attempt last said so on any of its nodes: one task says it for its gang.
    pub(crate) fn of(&self, lease: &Lease) -> Option<Timestamp> {
        let nodes = lease.parts.iter().filter_map(|part| self.0.get(&part.node));
        nodes.filter_map(|told| told.get(&lease.id)).copied().max()
    }
}

impl Leader {
    /// When the job that runs here last said that it had saved its work.
    pub(crate) fn saved_at(&self, state: &State, job: &Job) -> Option<Timestamp> {
        let JobPhase::Leased(leased) = &job.phase else { return None };
        self.saves.of(state.leases.get(&leased.lease)?)
    }
}
