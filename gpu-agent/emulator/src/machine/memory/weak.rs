//! Cells that lose what they hold: with time, or because rows beside theirs are opened. A model: one
//! bank, whose rows lie one after the other; what is opened is refreshed.

use crate::fault::Fault;

const NANOS_OF_MILLI: u64 = 1_000_000;

/// A bit and what it falls to.
struct Cell {
    word: usize,
    bit: u32,
    one: bool,
}

impl Cell {
    fn fall(&self, words: &mut [u32]) {
        let Some(word) = words.get_mut(self.word) else { return };
        *word = if self.one { *word | 1 << self.bit } else { *word & !(1 << self.bit) };
    }
}

/// How long it holds without a refresh, and how long it has been without one.
struct Leak {
    cell: Cell,
    holds: u64,
    rested: u64,
}

/// After how many openings of rows beside its own it falls, and how many there were.
struct Disturbed {
    cell: Cell,
    /// Words of a row, and the row that is open.
    row: usize,
    open: usize,
    bears: u64,
    seen: u64,
}

#[derive(Default)]
pub(super) struct Weak {
    leaks: Vec<Leak>,
    disturbed: Vec<Disturbed>,
}

impl Weak {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not weak cells")]
    pub(super) fn plant(&mut self, fault: &Fault) {
        let cell = |address: u64, bit: u32, one| {
            let word = usize::try_from(address / 4).unwrap_or(usize::MAX);
            Cell { word, bit: bit % 32, one }
        };
        match fault {
            Fault::Leak { address, bit, one, millis } => {
                let holds = millis.saturating_mul(NANOS_OF_MILLI);
                let cell = cell(*address, *bit, *one);
                self.leaks.push(Leak { cell, holds, rested: 0 });
            }
            Fault::Disturbed { address, bit, one, row, times } => {
                let row = usize::try_from(row / 4).unwrap_or(1).max(1);
                let (cell, bears) = (cell(*address, *bit, *one), *times);
                self.disturbed.push(Disturbed { cell, row, open: usize::MAX, bears, seen: 0 });
            }
            _ => {}
        }
    }

    /// A word is read or written: its row is opened.
    #[inline]
    pub(super) fn open(&mut self, words: &mut [u32], word: usize) {
        for it in &mut self.leaks {
            // A vector's words are read together.
            if it.cell.word / 4 == word / 4 {
                it.rested = 0;
            }
        }
        for it in &mut self.disturbed {
            let (row, own) = (word / it.row, it.cell.word / it.row);
            if row == it.open {
                continue;
            }
            it.open = row;
            if row == own {
                it.seen = 0;
            } else if row.abs_diff(own) == 1 {
                it.seen += 1;
                if it.seen == it.bears {
                    it.cell.fall(words);
                }
            }
        }
    }

    /// Nothing is opened for so long.
    pub(super) fn rest(&mut self, words: &mut [u32], nanos: u64) {
        for it in &mut self.leaks {
            it.rested = it.rested.saturating_add(nanos);
            if it.rested >= it.holds {
                it.cell.fall(words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_falls_after_its_time_and_not_if_it_is_refreshed() {
        let mut weak = Weak::default();
        weak.plant(&Fault::Leak { address: 8, bit: 3, one: false, millis: 2 });
        let mut words = [u32::MAX; 8];
        weak.rest(&mut words, NANOS_OF_MILLI);
        weak.open(&mut words, 1);
        weak.rest(&mut words, NANOS_OF_MILLI);
        assert_eq!(words, [u32::MAX; 8]);
        weak.rest(&mut words, NANOS_OF_MILLI);
        assert_eq!(words[2], !(1 << 3));
    }

    #[test]
    fn a_cell_falls_when_rows_beside_its_own_are_opened_in_turns() {
        let mut weak = Weak::default();
        // Rows of four words; the cell is in the third row.
        weak.plant(&Fault::Disturbed { address: 32, bit: 0, one: false, row: 16, times: 4 });
        let mut words = [1; 24];
        let mut open = |rows: &[usize]| {
            for row in rows {
                weak.open(&mut words, row * 4);
            }
            words[8]
        };
        assert_eq!(open(&[1, 1, 1, 1, 1, 1]), 1, "it was opened once");
        assert_eq!(open(&[3, 1, 2, 3, 1, 3]), 1, "its own was opened meanwhile");
        assert_eq!(open(&[0, 4, 0, 4, 0, 4]), 1, "too far away");
        assert_eq!(open(&[1]), 0);
    }
}
