//! Names of attributes and of places as the numbers by which the fleet knows them.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use specs::job::{Needs, Together, Vicinity};
use specs::wire::agent::Facts;

use crate::placement::fits;
use crate::placement::fleet::{self, AttributeIndex, Fill, GroupIndex, Level, NodeShape};

/// What no node has.
const UNKNOWN: AttributeIndex = AttributeIndex(u32::MAX);

/// Invariant: a name keeps its number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// From one on: zero is free for the owner of the fleet.
    attribute_of: BTreeMap<(String, String), AttributeIndex>,
    /// Halls, racks and domains, by hall and name.
    group_of: [BTreeMap<(String, String), GroupIndex>; 3],
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Names {
    /// Where a node stands and what it says of itself; its GPUs, CPU and memory are left out.
    pub(crate) fn shape(&mut self, facts: &Facts) -> NodeShape {
        let attributes =
            facts.attributes.iter().map(|(name, value)| self.attribute(name, value)).collect();
        let [hall, rack, domain] =
            [Vicinity::Hall, Vicinity::Rack, Vicinity::Domain].map(|it| self.group(facts, it));
        NodeShape { hall, rack, domain, attributes, ..NodeShape::default() }
    }

    fn attribute(&mut self, name: &str, value: &str) -> AttributeIndex {
        let next = AttributeIndex(number(self.attribute_of.len() + 1));
        *self.attribute_of.entry((name.into(), value.into())).or_insert(next)
    }

    fn group(&mut self, facts: &Facts, level: Vicinity) -> Option<GroupIndex> {
        let (hall, name) = fits::place_of(facts, level)?;
        let known = match level {
            Vicinity::Hall => &mut self.group_of[0],
            Vicinity::Rack => &mut self.group_of[1],
            Vicinity::Domain => &mut self.group_of[2],
        };
        let next = GroupIndex(number(known.len()));
        Some(*known.entry((hall.into(), name.into())).or_insert(next))
    }

    /// The attributes that are asked for.
    pub(crate) fn asked(&self, needs: &Needs) -> Vec<AttributeIndex> {
        let known = |(name, value): (&String, &String)| {
            self.attribute_of.get(&(name.clone(), value.clone())).copied().unwrap_or(UNKNOWN)
        };
        needs.attributes.iter().map(known).collect()
    }
}

pub(crate) fn together(needs: &Needs) -> Option<fleet::Together> {
    needs.together.as_ref().map(|Together { level, required, group_nodes }| {
        let level = match level {
            Vicinity::Hall => Level::Hall,
            Vicinity::Rack => Level::Rack,
            Vicinity::Domain => Level::Domain,
        };
        fleet::Together { level, required: *required, group: *group_nodes }
    })
}

pub(crate) fn fill(needs: &Needs) -> Fill {
    if needs.spread { Fill::Spread } else { Fill::Pack }
}
