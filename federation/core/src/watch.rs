//! Who was heard: the leader's own memory of one counterpart, a node or a peer. It never enters
//! the log; only its conclusions do.

use alloc::collections::BTreeMap;

use specs::id::{Question, Revision};
use specs::unit::{Instant, Millis};

/// Most questions remembered while they wait for the proof that their answer arrived.
const ASKED_MAX: usize = 32;

/// What a leader remembers of one counterpart that asks it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// When questions came.
    asked: BTreeMap<Question, Instant>,
    /// When the last question came whose answer is known to have arrived.
    heard: Option<Instant>,
    /// The suspicion that is being waited out, and since when it is known here to be applied.
    waiting: Option<(Revision, Instant)>,
}

impl Watch {
    /// A question came, and with it the proof that the answer to `answered` arrived.
    pub(crate) fn hear(&mut self, now: Instant, question: Question, answered: Question) {
        if let Some(&asked) = self.asked.get(&answered) {
            self.heard = self.heard.max(Some(asked));
            self.asked = self.asked.split_off(&answered);
        }
        self.asked.insert(question, now);
        while self.asked.len() > ASKED_MAX {
            self.asked.pop_first();
        }
    }

    /// The counterpart began a new life; what it asked before means nothing.
    pub(crate) fn reset(&mut self) {
        self.asked.clear();
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
