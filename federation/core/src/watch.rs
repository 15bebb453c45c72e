//! Who was heard: the leader's own memory of its counterparts, nodes and peers. It never enters the
//! log; only its conclusions do.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{Boot, NodeId, Question, Revision};
use specs::unit::{Instant, Millis};

use crate::state::Node;
use crate::table::Table;

/// Most questions remembered while they wait for the proof that their answer arrived.
const ASKED_MAX: usize = 32;

/// When a question came: the network may bring it more than once.
#[derive(Debug, Clone, Copy)]
struct Came {
    first: Instant,
    last: Instant,
}

/// What a leader remembers of one counterpart that asks it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// When questions came.
    asked: BTreeMap<Question, Came>,
    /// The latest question whose answer is known to have arrived.
    answered: Question,
    /// When the last question came whose answer is known to have arrived.
    heard: Option<Instant>,
    /// The suspicion that is being waited out, and since when it is known here to be applied.
    waiting: Option<(Revision, Instant)>,
}

impl Watch {
    /// A question came, and with it the proof that the answer to `answered` arrived.
    pub(crate) fn hear(&mut self, now: Instant, question: Question, answered: Question) {
        if let Some(&asked) = self.asked.get(&answered) {
            self.heard = self.heard.max(Some(asked.last));
            self.answered = self.answered.max(answered);
            self.asked = self.asked.split_off(&answered);
        }
        self.asked.entry(question).or_insert(Came { first: now, last: now }).last = now;
        while self.asked.len() > ASKED_MAX {
            self.asked.pop_first();
        }
    }

    /// When the question first came whose answer is known to have arrived: no later than that answer
    /// was given. None of one that is forgotten: a late copy of it says nothing.
    pub(crate) fn asked_at(&self, answered: Question) -> Option<Instant> {
        let asked = self.asked.get(&answered).filter(|_| answered >= self.answered);
        asked.map(|asked| asked.first)
    }

    /// The counterpart began a new life; what it asked before means nothing.
    pub(crate) fn reset(&mut self) {
        self.asked.clear();
        self.answered = Question(0);
    }

    /// Since when there is silence: the last proof, or the beginning of the reign.
    pub(crate) fn silent_since(&self, reign: Instant) -> Instant {
        self.heard.map_or(reign, |heard| heard.max(reign))
    }

    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether the suspicion has been waited out. Counted from when this leader first saw that it
    /// is applied, for each suspicion anew.
    pub(crate) fn waited(&mut self, now: Instant, suspicion: Revision, span: Millis) -> bool {
        match self.waiting {
            Some((known, since)) if known == suspicion => now.since(since) >= span,
            _ => {
                self.waiting = Some((suspicion, now));
                false
            }
        }
    }
}

/// Which nodes there are to be heard, which of them are silent, and which are suspected. Follows from
/// the agreed nodes: a look costs as much as was written since the last one, and as there are nodes
/// that are silent or suspected or may have become silent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vigil {
    /// What this follows from.
    seen: Table<NodeId, Node>,
    /// Nodes whose agents were ever heard, and when each is to be looked at again. Invariant: none
    /// has been silent since before that.
    due: BTreeMap<NodeId, Instant>,
    /// The same, the earliest first.
    by_time: BTreeSet<(Instant, NodeId)>,
    suspected: BTreeMap<NodeId, Revision>,
}

impl Vigil {
    /// Takes over what was written since the last time. Silence counts from `reign` at the earliest.
    pub(crate) fn follow(&mut self, nodes: &Table<NodeId, Node>, reign: Instant) {
        let mut changed = Vec::new();
        nodes.changed_since(&self.seen, |id| changed.push(id.clone()));
        self.seen = nodes.clone();
        for id in changed {
            let node = self.seen.get(&id).filter(|node| node.boot != Boot(0));
            match node.and_then(|node| node.suspicion) {
                Some(suspicion) => self.suspected.insert(id.clone(), suspicion),
                None => self.suspected.remove(&id),
            };
            match (node.is_some(), self.due.contains_key(&id)) {
                (true, false) => self.set(id, reign),
                (false, true) => self.forget(&id),
                (true, true) | (false, false) => {}
            }
        }
    }

    fn set(&mut self, id: NodeId, time: Instant) {
        self.forget(&id);
        self.by_time.insert((time, id.clone()));
        self.due.insert(id, time);
    }

    fn forget(&mut self, id: &NodeId) {
        if let Some(time) = self.due.remove(id) {
            self.by_time.remove(&(time, id.clone()));
        }
    }

    /// How many nodes there are to be heard.
    pub(crate) fn nodes(&self) -> usize {
        self.due.len()
    }

    /// The nodes that are silent since `until` or longer, in the order of their names.
    pub(crate) fn silent(
        &mut self,
        until: Instant,
        silent_since: impl Fn(&NodeId) -> Instant,
    ) -> Vec<NodeId> {
        let due = self.by_time.iter().take_while(|(time, _)| *time <= until);
        let due: Vec<NodeId> = due.map(|(_, id)| id.clone()).collect();
        let mut silent = Vec::new();
        for id in due {
            let since = silent_since(&id);
            if since <= until {
                silent.push(id);
            } else {
                self.set(id, since);
            }
        }
        silent.sort_unstable();
        silent
    }

    /// The suspected nodes, in the order of their names.
    pub(crate) fn suspected(&self) -> impl Iterator<Item = (&NodeId, Revision)> {
        self.suspected.iter().map(|(id, suspicion)| (id, *suspicion))
    }

    /// What does not follow from the nodes; nothing if all does. Linear in the nodes: for tests and
    /// for simulation.
    pub(crate) fn violations(
        &mut self,
        nodes: &Table<NodeId, Node>,
        reign: Instant,
        silent_since: impl Fn(&NodeId) -> Instant,
    ) -> Vec<String> {
        self.follow(nodes, reign);
        let mut found = Vec::new();
        let heard = || nodes.values().filter(|node| node.boot != Boot(0));
        if !heard().map(|node| &node.id).eq(self.due.keys()) {
            found.push("others are listened for than there are".into());
        }
        let suspected = heard().filter_map(|node| Some((&node.id, node.suspicion?)));
        if !suspected.eq(self.suspected()) {
            found.push("others are taken for suspected than are".into());
        }
        let stands = |(id, time): (&NodeId, &Instant)| self.by_time.contains(&(*time, id.clone()));
        if self.due.len() != self.by_time.len() || !self.due.iter().all(stands) {
            found.push("the order of looks is not that of their times".into());
        }
        for (id, time) in self.due.iter().filter(|(id, time)| silent_since(id) < **time) {
            found.push(alloc::format!("{id} may be silent before it is looked at at {time:?}"));
        }
        found
    }
}

#[cfg(test)]
mod tests;
