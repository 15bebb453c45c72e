//! Is a recorded history linearizable? After Wing and Gong, with the memory of Lowe.
//!
//! The object is a set that only grows: each write adds an element of its own, a read shows them
//! all. What the set holds then follows from which writes came before, in whatever order.

use std::collections::BTreeSet;

/// What was done, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// Adds the element with this number, less than 64.
    Add(u32),
    /// Sees exactly these elements, one bit each.
    Sees(u64),
}

/// One operation of a history.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    /// None if the outcome is unknown: it takes effect at some time after the call, or never.
    pub(crate) answered: Option<u64>,
    pub(crate) done: Done,
}

/// True if there is an order of the operations that agrees with what was seen and with which was
/// answered before which was called.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let seen = history.iter().fold(0, |seen, it| match it.done {
        Done::Sees(set) => seen | set,
        Done::Add(_) => seen,
    });
    // A write without an outcome that nobody saw may as well never have been.
    let matters = |it: &&Operation| match it.done {
        Done::Add(element) => it.answered.is_some() || seen & (1 << element) != 0,
        Done::Sees(_) => it.answered.is_some(),
    };
    let operations: Vec<&Operation> = history.iter().filter(matters).collect();
    let mut search =
        Search { taken: vec![false; operations.len()], operations, visited: BTreeSet::new() };
    search.goes_on(0)
}

struct Search<'h> {
    operations: Vec<&'h Operation>,
    taken: Vec<bool>,
    /// Sets of operations from which there is no way on.
    visited: BTreeSet<Vec<bool>>,
}

impl Search<'_> {
    fn goes_on(&mut self, mut set: u64) -> bool {
        let before = self.taken.clone();
        // A read that fits changes nothing, so it may as well come now.
        while let Some(read) = self.next().into_iter().find(|at| self.fits(*at, set)) {
            self.taken[read] = true;
        }
        let is_answered = |at: usize| self.taken[at] || self.operations[at].answered.is_none();
        if (0..self.operations.len()).all(is_answered) {
            return true;
        }
        if !self.visited.insert(self.taken.clone()) {
            self.taken = before;
            return false;
        }
        for at in self.next() {
            let Done::Add(element) = self.operations[at].done else { continue };
            let had = set;
            set |= 1 << element;
            self.taken[at] = true;
            if self.goes_on(set) {
                return true;
            }
            self.taken[at] = false;
            set = had;
        }
        self.taken = before;
        false
    }

    fn fits(&self, at: usize, set: u64) -> bool {
        self.operations[at].done == Done::Sees(set)
    }

    /// The operations that were called before any of the others was answered.
    fn next(&self) -> Vec<usize> {
        let open = || (0..self.operations.len()).filter(|at| !self.taken[*at]);
        let first = open().filter_map(|at| self.operations[at].answered).min();
        let first = first.unwrap_or(u64::MAX);
        open().filter(|at| self.operations[*at].called <= first).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(called: u64, answered: u64, element: u32) -> Operation {
        Operation { called, answered: Some(answered), done: Done::Add(element) }
    }

    fn lost(called: u64, element: u32) -> Operation {
        Operation { called, answered: None, done: Done::Add(element) }
    }

    fn sees(called: u64, answered: u64, set: u64) -> Operation {
        Operation { called, answered: Some(answered), done: Done::Sees(set) }
    }

    #[test]
    fn one_after_the_other_is_linearizable() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[sees(1, 2, 0), add(3, 4, 0), sees(5, 6, 1), add(7, 8, 3)]));
        assert!(is_linearizable(&[add(1, 2, 0), add(3, 4, 1), sees(5, 6, 0b11)]));
    }

    #[test]
    fn what_is_under_way_may_be_seen_or_not() {
        for set in 0..4 {
            assert!(is_linearizable(&[add(1, 9, 0), add(2, 8, 1), sees(3, 4, set)]), "{set}");
        }
        let turned = [add(1, 9, 0), add(2, 8, 1), sees(3, 4, 0b10), sees(5, 6, 0b11)];
        assert!(is_linearizable(&turned));
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(!is_linearizable(&[add(1, 2, 0), sees(3, 4, 0)]));
        assert!(!is_linearizable(&[add(1, 2, 0), add(3, 4, 1), sees(5, 6, 0b01)]));
    }

    #[test]
    fn a_read_behind_an_earlier_read_is_found() {
        assert!(!is_linearizable(&[add(1, 9, 0), sees(2, 3, 1), sees(4, 5, 0)]));
        // Two readers that see two writes in different orders.
        let crossed = [add(1, 9, 0), add(1, 9, 1), sees(2, 8, 0b01), sees(2, 8, 0b10)];
        assert!(!is_linearizable(&crossed));
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_not_go_again() {
        assert!(is_linearizable(&[lost(1, 0), sees(2, 3, 0), sees(4, 5, 1), sees(6, 7, 1)]));
        assert!(is_linearizable(&[lost(1, 0), sees(2, 3, 0)]));
        assert!(!is_linearizable(&[lost(1, 0), sees(2, 3, 1), sees(4, 5, 0)]));
        assert!(!is_linearizable(&[sees(1, 2, 1), lost(3, 0)]));
    }

    #[test]
    fn what_was_never_written_is_not_seen() {
        assert!(!is_linearizable(&[add(1, 2, 0), sees(3, 4, 0b101)]));
    }
}
