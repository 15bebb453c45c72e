//! What nodes say of themselves, and what jobs ask of them beyond GPUs, in worlds that have it.

use std::collections::BTreeMap;

use federation_core::Node;
use specs::job::{JobSpec, Needs, Together, Vicinity};
use specs::wire::agent::Facts;

use crate::rng::Rng;

const NAME: &str = "image";
const VALUES: [&str; 2] = ["old", "new"];
const PER_RACK: usize = 2;

/// Of each node that says how much it has, however many GPUs there are.
const CPU: u32 = 16_000;
const MEMORY: u32 = 64_000;

/// Of a site's nth node.
pub(crate) fn facts(nth: usize) -> Facts {
    Facts {
        hall: "h".into(),
        rack: format!("r{}", nth / PER_RACK),
        attributes: BTreeMap::from([(NAME.to_owned(), VALUES[nth % 2].to_owned())]),
        ..Facts::default()
    }
}

pub(crate) fn draw(rng: &mut Rng, spec: &mut JobSpec) {
    if rng.chance(300) {
        let value = VALUES[rng.index(2)];
        spec.needs.0.attributes.insert(NAME.to_owned(), value.to_owned());
    }
    if spec.nodes > 1 && rng.chance(400) {
        let (level, required) = (Vicinity::Rack, rng.chance(700));
        spec.needs.0.together = Some(Together { level, required, group_nodes: 0 });
    }
}

/// With how much CPU and memory a node has, too.
pub(crate) fn with_beside(facts: Facts) -> Facts {
    Facts { cpu_milli: CPU, memory_mib: MEMORY, ..facts }
}

/// CPU and memory, more often little than much; now and then nodes for itself.
pub(crate) fn draw_beside(rng: &mut Rng, spec: &mut JobSpec) {
    if rng.chance(600) {
        spec.needs.0.cpu_milli = [500, 2_000, 4_000, 8_000, 15_000][rng.index(5)];
    }
    if rng.chance(300) {
        spec.needs.0.memory_mib = [1_000, 8_000, 32_000, 60_000][rng.index(4)];
    }
    spec.needs.0.exclusive = rng.chance(120);
}

/// Whether so many GPUs of the node carry what is asked for beside them when they are granted, and who
/// is to be alone has all of them.
pub(crate) fn are_carried(spec: &JobSpec, node: &Node) -> bool {
    let count = u32::try_from(node.gpus.len()).unwrap_or(u32::MAX).max(1);
    let has = |all: u32, asked| all / count * spec.gpus_per_node.0 >= asked;
    has(node.facts.cpu_milli, spec.needs.cpu_milli)
        && has(node.facts.memory_mib, spec.needs.memory_mib)
        && (!spec.needs.exclusive || spec.gpus_per_node.0 == count)
}

/// Whether a node alone has what is asked for.
pub(crate) fn has(needs: &Needs, facts: &Facts) -> bool {
    facts.cpu_milli >= needs.cpu_milli
        && facts.memory_mib >= needs.memory_mib
        && needs.attributes.iter().all(|(name, value)| facts.attributes.get(name) == Some(value))
}

/// Whether the nodes must stand in one rack.
pub(crate) fn is_bound(spec: &JobSpec) -> bool {
    spec.needs.together.as_ref().is_some_and(|it| it.required) && spec.nodes > 1
}
