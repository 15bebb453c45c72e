//! Ordered sets of small numbers: three levels of bits, where a bit says that a word below has one.
//! To find the next member costs a few words, however many there could be.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A member's place in a list. Numbers of nodes fit into 32 bits, and so do their places.
pub(super) fn at(n: u32) -> usize {
    n as usize
}

/// A length as a number; more than 32 bits count as the largest.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

const fn bit(n: u32) -> u64 {
    1 << (n & 63)
}

/// Invariant: a bit of `sums` is set when its word of `words` has one, and one of `tops` when its
/// word of `sums` has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
    sums: Vec<u64>,
    tops: Vec<u64>,
}

/// True if the word was empty before.
fn set(words: &mut Vec<u64>, n: u32) -> bool {
    let word = at(n >> 6);
    if word >= words.len() {
        words.resize(word + 1, 0);
    }
    let before = words[word];
    words[word] = before | bit(n);
    before == 0
}

/// True if the word is empty then.
fn clear(words: &mut [u64], n: u32) -> bool {
    words.get_mut(at(n >> 6)).is_none_or(|word| {
        *word &= !bit(n);
        *word == 0
    })
}

/// The first that is set, from `from` on.
fn next_in(words: &[u64], from: u32) -> Option<u32> {
    let word = words.get(at(from >> 6))? & (u64::MAX << (from & 63));
    (word != 0).then(|| (from & !63) | word.trailing_zeros())
}

impl Bits {
    pub(super) fn insert(&mut self, n: u32) {
        if set(&mut self.words, n) && set(&mut self.sums, n >> 6) {
            set(&mut self.tops, n >> 12);
        }
    }

    pub(super) fn remove(&mut self, n: u32) {
        if clear(&mut self.words, n) && clear(&mut self.sums, n >> 6) {
            clear(&mut self.tops, n >> 12);
        }
    }

    /// The least member that is no less than `from`.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        if let Some(found) = next_in(&self.words, from) {
            return Some(found);
        }
        let word = next_in(&self.sums, (from >> 6) + 1).or_else(|| {
            let sum = next_in_any(&self.tops, (from >> 12) + 1)?;
            next_in(&self.sums, sum << 6)
        })?;
        next_in(&self.words, word << 6)
    }

    /// The greatest member.
    pub(super) fn last(&self) -> Option<u32> {
        let top = self.tops.iter().rposition(|word| *word != 0)?;
        let last_in = |words: &[u64], place: usize| -> Option<usize> {
            let word = words.get(place).filter(|word| **word != 0)?;
            Some(place * 64 + at(word.ilog2()))
        };
        let sum = last_in(&self.tops, top)?;
        let word = last_in(&self.sums, sum)?;
        last_in(&self.words, word).map(number)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        core::iter::successors(self.next(0), |last| self.next(last + 1))
    }
}

/// As [`next_in`], on through the words that follow: one bit of `tops` stands for 4,096 members.
fn next_in_any(words: &[u64], from: u32) -> Option<u32> {
    let mut from = from;
    while at(from >> 6) < words.len() {
        if let Some(found) = next_in(words, from) {
            return Some(found);
        }
        from = (from | 63) + 1;
    }
    None
}

/// More members than this are kept as bits.
const FEW_MAX: usize = 32;
/// Bits become a list again with so few; less than [`FEW_MAX`], so that a set does not swing.
const FEW_AGAIN: u32 = 8;

/// An ordered set that is small while it has few members.
#[derive(Debug, Clone)]
pub(super) enum Members {
    /// In order.
    Few(Vec<u32>),
    /// In a box, so that a map of small sets stays small.
    Many(Box<Many>),
}

#[derive(Debug, Clone)]
pub(super) struct Many {
    bits: Bits,
    count: u32,
}

impl Default for Members {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Members {
    /// The caller knows that it is not a member.
    pub(super) fn insert(&mut self, n: u32) {
        match self {
            Self::Few(list) if list.len() < FEW_MAX => {
                if let Err(place) = list.binary_search(&n) {
                    list.insert(place, n);
                }
            }
            Self::Few(list) => {
                let mut bits = Bits::default();
                for member in list.iter().copied().chain([n]) {
                    bits.insert(member);
                }
                *self = Self::Many(Box::new(Many { bits, count: number(FEW_MAX + 1) }));
            }
            Self::Many(many) => {
                many.bits.insert(n);
                many.count += 1;
            }
        }
    }

    /// The caller knows that it is a member. True if none is left.
    pub(super) fn remove(&mut self, n: u32) -> bool {
        match self {
            Self::Few(list) => {
                if let Ok(place) = list.binary_search(&n) {
                    list.remove(place);
                }
                list.is_empty()
            }
            Self::Many(many) => {
                many.bits.remove(n);
                many.count -= 1;
                if many.count <= FEW_AGAIN {
                    *self = Self::Few(self.iter().collect());
                }
                false
            }
        }
    }

    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Few(list) => number(list.len()),
            Self::Many(many) => many.count,
        }
    }

    pub(super) fn first(&self) -> Option<u32> {
        match self {
            Self::Few(list) => list.first().copied(),
            Self::Many(many) => many.bits.next(0),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let (list, bits): (&[u32], _) = match self {
            Self::Few(list) => (list, None),
            Self::Many(many) => (&[], Some(&many.bits)),
        };
        let of_bits = core::iter::successors(bits.and_then(|bits| bits.next(0)), move |last| {
            bits.and_then(|bits| bits.next(last + 1))
        });
        list.iter().copied().chain(of_bits)
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_an_ordered_set_would(
            steps in prop::collection::vec((any::<bool>(), 0u32..300_000, 0u32..90), 1..400)
        ) {
            let (mut members, mut bits) = (Members::default(), Bits::default());
            let mut known = BTreeSet::new();
            for (put, far, near) in steps {
                // Half of the numbers lie close together, so that they are met again.
                let n = if far % 2 == 0 { near } else { far };
                if put && known.insert(n) {
                    members.insert(n);
                    bits.insert(n);
                } else if !put && known.remove(&n) {
                    prop_assert_eq!(members.remove(n), known.is_empty());
                    bits.remove(n);
                }
                prop_assert_eq!(members.len() as usize, known.len());
                prop_assert_eq!(members.first(), known.first().copied());
                prop_assert_eq!(bits.next(far), known.range(far..).next().copied());
                prop_assert_eq!(bits.last(), known.last().copied());
            }
            prop_assert!(members.iter().eq(known.iter().copied()));
            prop_assert!(bits.iter().eq(known.iter().copied()));
        }
    }
}
