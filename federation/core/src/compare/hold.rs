//! Which GPUs that are behind, or differ, are taken out of service. As agents' word alone does, a comparison
//! takes no more of a class than the site's limits allow: a fleet is never emptied by it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::gpu::{QUARANTINED_FEW, cut_to_limit};
use specs::id::{GpuClass, GpuIndex, NodeId};

use super::Fault;
use crate::breaker;
use crate::command::WithholdGpu;
use crate::health::ends_attempts;
use crate::state::{Gpu, State};

/// A GPU that is at fault.
pub(crate) struct Candidate<'a> {
    pub node: &'a NodeId,
    pub index: GpuIndex,
    pub fault: Fault<'a>,
}

/// What is to be done about them.
pub(crate) struct Holds {
    pub held: Vec<WithholdGpu>,
    /// GPUs that stay in service because too many are out of it.
    pub spared: usize,
}

/// Whether a GPU that is at fault is to be taken out of service. Not one that is to be burnt in: what
/// comes of that is younger.
pub(crate) fn is_open(gpu: &Gpu) -> bool {
    let is_out = is_out(gpu);
    !is_out && gpu.wish.is_none() && gpu.permit.is_none()
}

fn is_out(gpu: &Gpu) -> bool {
    gpu.withheld.is_some() || gpu.doubt.as_ref().is_some_and(|doubt| ends_attempts(doubt.state))
}

/// Of each class, how many GPUs there are and how many of them are out of service. Linear in the
/// GPUs of the site.
fn pools(state: &State) -> BTreeMap<&GpuClass, (u32, u32)> {
    let mut pools: BTreeMap<&GpuClass, (u32, u32)> = BTreeMap::new();
    for gpu in state.nodes.values().flat_map(|node| &node.gpus) {
        let pool = pools.entry(&gpu.info.class).or_default();
        pool.0 += 1;
        pool.1 += u32::from(is_out(gpu));
    }
    pools
}

/// Takes as many as there is room for; `lately` were taken within the last span.
pub(crate) fn holds<'a>(
    state: &State,
    candidates: impl Iterator<Item = Candidate<'a>>,
    lately: usize,
) -> Holds {
    let mut holds = Holds { held: Vec::new(), spared: 0 };
    let limits = breaker::limits(state);
    let most = usize::try_from(limits.quarantines).unwrap_or(usize::MAX);
    let mut counted: Option<BTreeMap<&GpuClass, (u32, u32)>> = None;
    for it in candidates {
        let node = state.nodes.get(it.node);
        let gpu = node.and_then(|node| node.gpus.iter().find(|gpu| gpu.info.index == it.index));
        let Some(gpu) = gpu.filter(|gpu| is_open(gpu)) else { continue };
        let pools = counted.get_or_insert_with(|| pools(state));
        let Some((all, out)) = pools.get_mut(&gpu.info.class) else { continue };
        let has_room = *out < limits.quarantined.of(*all).max(QUARANTINED_FEW);
        if !has_room || lately + holds.held.len() >= most {
            holds.spared += 1;
            continue;
        }
        *out += 1;
        let why = cut_to_limit(alloc::format!("{}", it.fault));
        holds.held.push(WithholdGpu { node: it.node.clone(), index: it.index, why: Some(why) });
    }
    holds
}
