//! What nodes say of themselves, and what jobs ask of them beyond GPUs, in worlds that have it.

use std::collections::BTreeMap;

use specs::job::{JobSpec, Needs, Together, Vicinity};
use specs::wire::agent::Facts;

use crate::rng::Rng;

const NAME: &str = "image";
const VALUES: [&str; 2] = ["old", "new"];
const PER_RACK: usize = 2;

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

/// Whether a node alone has what is asked for.
pub(crate) fn has(needs: &Needs, facts: &Facts) -> bool {
    needs.attributes.iter().all(|(name, value)| facts.attributes.get(name) == Some(value))
}

/// Whether the nodes must stand in one rack.
pub(crate) fn is_bound(spec: &JobSpec) -> bool {
    spec.needs.together.as_ref().is_some_and(|it| it.required) && spec.nodes > 1
}
