//! Gangs whose nodes stand together: in one hall, one rack, one NVLink domain.

use alloc::vec::Vec;

use super::ask::{Ask, Fill, Placement, Taken};
use super::bits::at;
use super::choose::Chosen;
use super::{Fleet, GROUPS_LOOKED_AT_MAX};

impl Fleet {
    /// Group after group, taken as they are found; all is given back if one is not.
    pub(super) fn place_together(&mut self, class: usize, ask: &Ask) -> Option<Placement> {
        let mut parts: Vec<Taken> = Vec::new();
        let mut left = ask.nodes;
        while left > 0 {
            let Some(chosen) = self.next_group(class, ask, left) else {
                self.let_in(&parts);
                for part in &parts {
                    self.free_part(part);
                }
                return None;
            };
            for it in chosen {
                parts.push(self.commit(ask, it));
                left -= 1;
            }
            if left > 0 {
                self.keep_out(&parts);
            }
        }
        self.let_in(&parts);
        Some(Placement { parts: parts.into() })
    }

    fn next_group(&mut self, class: usize, ask: &Ask, left: u32) -> Option<Vec<Chosen>> {
        self.classes.get_mut(class)?.rolls[ask.together?.level.place()].settle();
        let wanted = ask.group_nodes().min(left);
        // A node is together with itself wherever it stands.
        let chosen = if wanted == 1 {
            self.first(class, ask, 1)
        } else {
            self.in_one_group(class, ask, wanted)
        };
        chosen.or_else(|| self.in_few_groups(class, ask, left))
    }

    /// The gang's next group must not take the same nodes again.
    fn keep_out(&mut self, parts: &[Taken]) {
        for part in parts {
            if !self.records[at(part.node.0)].spot.is_alone() {
                self.change(part.node.0, |record| record.spot.set_alone(true));
            }
        }
    }

    fn let_in(&mut self, parts: &[Taken]) {
        for part in parts {
            if self.records[at(part.node.0)].spot.is_alone() != part.exclusive {
                self.change(part.node.0, |record| record.spot.set_alone(part.exclusive));
            }
        }
    }

    /// So many nodes of one group: of the groups that will do, the one with the fewest.
    fn in_one_group(&self, class: usize, ask: &Ask, nodes: u32) -> Option<Vec<Chosen>> {
        let level = ask.together?.level.place();
        let roll = self.classes.get(class)?.rolls.get(level)?;
        let groups = roll.with_nodes(ask.whole_gpus(), nodes);
        groups.take(at(GROUPS_LOOKED_AT_MAX)).find_map(|group| {
            let mut fitting = self.fitting(class, ask, level, group);
            if fitting.len() < at(nodes) {
                return None;
            }
            fitting.truncate(at(nodes));
            fitting.sort_unstable();
            Some(fitting)
        })
    }

    /// For those who would rather stand together: as many nodes as the largest group has, and
    /// nodes from anywhere when no group has any that will do.
    fn in_few_groups(&self, class: usize, ask: &Ask, left: u32) -> Option<Vec<Chosen>> {
        let together = ask.together.filter(|together| !together.required)?;
        let level = together.level.place();
        let roll = self.classes.get(class)?.rolls.get(level)?;
        let mut fitting = match roll.largest(ask.whole_gpus()) {
            Some((group, _)) => self.fitting(class, ask, level, group),
            None => Vec::new(),
        };
        fitting.truncate(at(left));
        fitting.sort_unstable();
        if fitting.is_empty() { self.first(class, ask, left) } else { Some(fitting) }
    }

    /// The nodes of a group that will do, the fullest or the emptiest first, as the ask says.
    fn fitting(&self, class: usize, ask: &Ask, level: usize, group: u32) -> Vec<Chosen> {
        let members = self.groups[level].get(at(group)).map_or(&[][..], Vec::as_slice);
        let mut fitting: Vec<(u32, Chosen)> = Vec::new();
        for &node in members {
            if let Some(shared) = self.would_do(class, ask, node) {
                let whole = self.records[at(node)].free.count();
                let rank = match ask.fill {
                    Fill::Pack => whole,
                    Fill::Spread => u32::MAX - whole,
                };
                fitting.push((rank, (node, shared)));
            }
        }
        fitting.sort_unstable();
        fitting.into_iter().map(|(_, chosen)| chosen).collect()
    }
}
