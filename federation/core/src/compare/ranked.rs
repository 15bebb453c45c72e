//! Numbers in order: one more or less costs about the same among ten as among a hundred thousand, and
//! so does the median, and the median of the distances from it.

use alloc::vec::Vec;

use super::rule::Spread;

/// Most numbers that lie together: so many are moved for one.
const CHUNK_MAX: usize = 512;

/// A sorted bag of numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranked {
    // Invariant: no chunk is empty, and all that lies in one is at most what lies in the next.
    chunks: Vec<Vec<u64>>,
    count: usize,
}

impl Ranked {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn insert(&mut self, value: u64) {
        self.count += 1;
        let at = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|it| *it < value));
        let Some(chunk) = self.chunks.get_mut(at) else {
            return self.append(value);
        };
        chunk.insert(chunk.partition_point(|it| *it < value), value);
        self.split(at);
    }

    /// Larger than all.
    fn append(&mut self, value: u64) {
        match self.chunks.last_mut() {
            Some(chunk) => chunk.push(value),
            None => self.chunks.push([value].into()),
        }
        self.split(self.chunks.len() - 1);
    }

    fn split(&mut self, at: usize) {
        let Some(chunk) = self.chunks.get_mut(at).filter(|it| it.len() > CHUNK_MAX) else { return };
        let upper = chunk.split_off(CHUNK_MAX / 2);
        self.chunks.insert(at + 1, upper);
    }

    /// Removes one that is equal, if there is one.
    pub(crate) fn remove(&mut self, value: u64) {
        let at = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|it| *it < value));
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.binary_search(&value) else { return };
        chunk.remove(place);
        self.count -= 1;
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
    }

    /// What they are like. Of an even count the upper of the two in the middle is the median.
    pub(crate) fn spread(&self) -> Spread {
        let places = Places::of(&self.chunks);
        let middle = self.count / 2;
        let Some(median) = places.nth(middle) else {
            return Spread { count: 0, median: 0, mad: 0 };
        };
        Spread { count: self.count, median, mad: places.mad(middle, median) }
    }
}

/// Where what lies.
struct Places<'a> {
    chunks: &'a [Vec<u64>],
    /// How many numbers lie up to the end of each chunk.
    ends: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(chunks: &'a [Vec<u64>]) -> Self {
        let ends = chunks.iter().scan(0, |sum, chunk| {
            *sum += chunk.len();
            Some(*sum)
        });
        Self { chunks, ends: ends.collect() }
    }

    /// The number before which there are so many.
    fn nth(&self, nth: usize) -> Option<u64> {
        let at = self.ends.partition_point(|end| *end <= nth);
        let chunk = self.chunks.get(at)?;
        chunk.get(nth + chunk.len() - self.ends.get(at)?).copied()
    }

    /// The distances that grow to the left of the middle, and those that grow from it on to the right,
    /// are in order: of both together, the one before which there are `middle`.
    fn mad(&self, middle: usize, median: u64) -> u64 {
        let at = |nth: usize| self.nth(nth).unwrap_or(u64::MAX).abs_diff(median);
        // Of those up to the wanted one, `left` lie to the left; the others from the middle on.
        let (mut low, mut high) = (0, middle);
        while low < high {
            let left = low.midpoint(high);
            // One more of the left is nearer than the last that is taken of the right.
            if at(middle - 1 - left) < at(2 * middle - left) {
                low = left + 1;
            } else {
                high = left;
            }
        }
        let left = low;
        let last_left = if left > 0 { at(middle - left) } else { 0 };
        last_left.max(at(2 * middle - left))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn obvious(all: &[u64]) -> Spread {
        let middle = |mut of: Vec<u64>| {
            of.sort_unstable();
            of.get(of.len() / 2).copied().unwrap_or(0)
        };
        let median = middle(all.to_vec());
        let mad = middle(all.iter().map(|it| it.abs_diff(median)).collect());
        Spread { count: all.len(), median, mad }
    }

    proptest! {
        #[test]
        fn medians_are_those_of_a_sorted_list(
            steps in prop::collection::vec((0_u64..60, any::<bool>()), 0..300),
            scale in 1_u64..1_000_000_000,
        ) {
            let (mut ranked, mut all) = (Ranked::default(), Vec::new());
            for (value, adds) in steps {
                let value = value * value * scale;
                if adds || all.is_empty() {
                    ranked.insert(value);
                    all.push(value);
                } else {
                    ranked.remove(value);
                    if let Some(at) = all.iter().position(|it| *it == value) {
                        all.swap_remove(at);
                    }
                }
                prop_assert_eq!(ranked.spread(), obvious(&all));
                prop_assert_eq!(ranked.is_empty(), all.is_empty());
            }
        }
    }

    #[test]
    fn many_numbers_lie_in_chunks_and_are_still_in_order() {
        let (mut ranked, mut all, mut x) = (Ranked::default(), Vec::new(), 1_u64);
        for _ in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ranked.insert(x >> 40);
            all.push(x >> 40);
        }
        assert!(ranked.chunks.len() > 30 && ranked.chunks.iter().all(|it| it.len() <= CHUNK_MAX));
        assert_eq!(ranked.spread(), obvious(&all));
        for value in all.drain(5_000..) {
            ranked.remove(value);
        }
        assert_eq!(ranked.spread(), obvious(&all));
    }
}
