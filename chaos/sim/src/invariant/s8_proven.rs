//! S8: only proven GPUs run jobs. Source: the design, promise S8, and decision 0024. Nothing is started
//! on a GPU that its agent does not know to have passed a burn-in, or knows to be bad; what demands a
//! tier or an age starts only on GPUs of which their agents know that, at home and away.

use gpu_agent_core::Known;
use specs::gpu::{GpuReport, GpuState};
use specs::unit::Millis;
use specs::wire::agent::Launch;

use crate::invariant::{Found, peer_proofs};
use crate::world::{NodeRef, World};

const DEMANDS: &str = "S8: jobs start only on GPUs whose proofs are what they demand";
/// A start comes so long after the plan at the latest, or is never made; clocks may drift.
const LATE: Millis = Millis(600_000);

pub(crate) fn on_start(world: &World, at: NodeRef, known: &Known, launch: &Launch) -> Found {
    if !world.knobs.asks_for_proofs {
        return Found::new();
    }
    let reports = world.node(at).health.reports();
    let is_proven =
        |it: &&GpuReport| matches!(it.health.state, GpuState::Healthy | GpuState::Suspect);
    let will_do = |it: &&GpuReport| {
        let Some(mut need) = launch.spec.needs.proof else { return true };
        if need.age_max > Millis::ZERO {
            need.age_max = need.age_max.plus(LATE);
        }
        it.passed.is_some_and(|passed| need.is_met(passed.tier, passed.ago))
    };
    let mut found = Found::new();
    for gpu in &launch.gpus {
        let report = reports.iter().find(|it| it.health.index == *gpu);
        let detail = || format!("{} starts a job on GPU {gpu}", world.node_name(at));
        if report.filter(is_proven).is_none() {
            found.push(("S8: only proven GPUs run jobs", detail()));
        } else if report.filter(will_do).is_none() {
            found.push((DEMANDS, detail()));
        }
    }
    let demands = launch.spec.needs.proof.is_some();
    found.extend(peer_proofs::on_start(world, at, known, &launch.gpus, demands));
    found
}
