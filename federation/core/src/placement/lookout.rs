//! What the leader remembers of the waiting jobs that its plans look at: since when each waits, and
//! what it asks for. So a plan reads no spec twice, and answers equal asks once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::put_present;
use specs::id::JobId;
use specs::job::JobSpec;
use specs::unit::Instant;

use crate::state::{Job, State};

/// Most jobs looked at in one plan; the others' turn comes when these are gone, so that a plan
/// costs no more in a long queue.
pub(crate) const LOOKED_AT_MAX: usize = 1_024;

/// A job that waits.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Since when this leader sees it wait.
    pub since: Instant,
    pub spec: Arc<JobSpec>,
    /// Equal for jobs that ask for the same places.
    pub ask: Arc<[u8]>,
    turn: u64,
}

/// The jobs whose turn came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lookout {
    jobs: BTreeMap<JobId, Seen>,
    turn: u64,
}

impl Lookout {
    /// What the job asks for, and since when it is seen to wait.
    pub(crate) fn see(&mut self, now: Instant, job: &Job) -> &Seen {
        let seen = self.jobs.entry(job.id).or_insert_with(|| see(now, job));
        seen.turn = self.turn;
        seen
    }

    /// After a plan: forgets who waits no longer. Who waits on although the plan had no room for his
    /// turn is remembered, but not for ever.
    pub(crate) fn sweep(&mut self, state: &State) {
        let has_room = self.jobs.len() <= 2 * LOOKED_AT_MAX;
        let turn = self.turn;
        let waits = |id: &JobId| state.jobs.get(id).is_some_and(Job::is_queued);
        self.jobs.retain(|id, seen| seen.turn == turn || (has_room && waits(id)));
        self.turn += 1;
    }

    pub(crate) fn get(&self, job: JobId) -> Option<&Seen> {
        self.jobs.get(&job)
    }
}

fn see(now: Instant, job: &Job) -> Seen {
    let spec = job.spec();
    Seen { since: now, ask: ask(&spec).into(), spec, turn: 0 }
}

/// All that a plan goes by, as bytes.
fn ask(spec: &JobSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_present(&spec.nodes, 1, &mut bytes);
    put_present(&spec.gpus_per_node, 2, &mut bytes);
    for class in &spec.gpu_classes {
        put_present(class, 3, &mut bytes);
    }
    put_present(&spec.placement, 4, &mut bytes);
    put_present(&spec.needs, 5, &mut bytes);
    for need in &spec.data {
        put_present(need, 6, &mut bytes);
    }
    bytes
}
