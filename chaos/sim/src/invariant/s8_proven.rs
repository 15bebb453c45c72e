//! S8: only proven GPUs run jobs. Source: the design, promise S8. Nothing is started on a GPU that
//! its agent does not know to have passed a burn-in, or knows to be bad.

use specs::gpu::GpuState;
use specs::id::GpuIndex;

use crate::invariant::Found;
use crate::world::{NodeRef, World};

pub(crate) fn on_start(world: &World, at: NodeRef, gpus: &[GpuIndex]) -> Found {
    if !world.knobs.asks_for_proofs {
        return Found::new();
    }
    let reports = world.node(at).health.reports();
    let is_proven = |gpu: &&GpuIndex| {
        let states = reports.iter().filter(|it| it.health.index == **gpu);
        let mut states = states.map(|it| it.health.state);
        states.any(|it| matches!(it, GpuState::Healthy | GpuState::Suspect))
    };
    let bad = gpus.iter().filter(|gpu| !is_proven(gpu));
    let found = bad.map(|gpu| {
        let detail = format!("{} starts a job on GPU {gpu}", world.node_name(at));
        ("S8: only proven GPUs run jobs", detail)
    });
    found.collect()
}
