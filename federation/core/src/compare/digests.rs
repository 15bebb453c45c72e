//! Digests of GPUs of one make beside each other: the same work, done by equal kernels, gives one
//! digest. Whoever says something else is wrong, however much its own SMs agree.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::gpu::BurnInResult;
use specs::measure::{DIGESTS_MAX, Differs, Lag, Make, NAME_BYTES_MAX};

use super::rule::PEERS_MIN;

/// Most names of kernels that are compared at a site; what comes after is not.
const KERNELS_MAX: usize = 256;
/// Most digests of a GPU that are named as different: a few say enough.
pub(super) const DIFFERS_MAX: usize = 4;
/// So many of so many others must say one and the same for who says something else to be at fault:
/// three quarters, so that two of nine that are wrong alike are found all the same.
const CLEAR: (usize, usize) = (3, 4);

/// A kernel, by its place among all.
type Kernel = u16;

/// Work that gives one digest for each kernel: what GPUs must have in common, and the recipe.
type Work = (Make, u32);

/// What a burn-in gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    work: Arc<Work>,
    // Invariant: in the order of kernels, none twice.
    digests: Vec<(Kernel, u64)>,
}

/// What all GPUs said of one kernel's work, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Words {
    counts: BTreeMap<u64, usize>,
    // Invariant: the same, the most common last.
    ranked: BTreeSet<(usize, u64)>,
    // Invariant: the sum of all counts.
    all: usize,
}

/// The digests of a site's GPUs.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests {
    places: BTreeMap<String, Kernel>,
    /// By their places.
    kernels: Vec<String>,
    works: BTreeMap<Arc<Work>, BTreeMap<Kernel, Words>>,
}

/// What others say against a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Against {
    lag: Lag,
    common: u64,
    same: usize,
    peers: usize,
}

impl Words {
    fn count(&mut self, word: u64, change: impl Fn(usize) -> usize) {
        let before = self.counts.remove(&word).unwrap_or(0);
        self.ranked.remove(&(before, word));
        let after = change(before);
        if after > 0 {
            self.counts.insert(word, after);
            self.ranked.insert((after, word));
        }
        self.all = self.all + after - before;
    }

    fn insert(&mut self, word: u64) {
        self.count(word, |it| it + 1);
    }

    fn remove(&mut self, word: u64) {
        self.count(word, |it| it.saturating_sub(1));
    }

    /// What the others say against one of the words. A warning to all who are not more than those who
    /// agree on something else: nobody knows who is right.
    fn against(&self, word: u64) -> Option<Against> {
        let peers = self.all.saturating_sub(1);
        let own = self.counts.get(&word).copied().unwrap_or(0);
        let (same, common) = *self.ranked.iter().rev().find(|it| it.1 != word)?;
        if peers < PEERS_MIN || same < own {
            return None;
        }
        let is_clear = same * CLEAR.1 >= peers * CLEAR.0;
        let lag = if is_clear { Lag::Fault } else { Lag::Warning };
        Some(Against { lag, common, same, peers })
    }
}

/// A kernel's digest counts in the last run that has it, and is kept of no other. The last run is the
/// latest.
pub(super) fn keep_latest<'a>(runs: impl DoubleEndedIterator<Item = &'a mut Option<Said>>) {
    let mut later: BTreeSet<Kernel> = BTreeSet::new();
    for run in runs.rev() {
        if let Some(said) = run {
            said.digests.retain(|(kernel, _)| later.insert(*kernel));
            *run = run.take().filter(|said| !said.digests.is_empty());
        }
    }
}

impl Digests {
    /// What a result says; none if nothing of it can be compared.
    pub(super) fn read(&mut self, result: &BurnInResult) -> Option<Said> {
        let (make, told) = (result.make.as_ref()?, result.digests.as_ref()?);
        let told = told.by_kernel.iter().take(DIGESTS_MAX);
        let mut digests: Vec<(Kernel, u64)> =
            told.filter_map(|(kernel, digest)| Some((self.place(kernel)?, *digest))).collect();
        digests.sort_unstable();
        let work = (make.of_digests(), result.digests.as_ref()?.recipe);
        let known = self.works.get_key_value(&work).map(|(work, _)| work.clone());
        let work = known.unwrap_or_else(|| Arc::new(work));
        (!digests.is_empty()).then_some(Said { work, digests })
    }

    fn place(&mut self, kernel: &str) -> Option<Kernel> {
        if let Some(known) = self.places.get(kernel) {
            return Some(*known);
        }
        let place = Kernel::try_from(self.kernels.len()).ok()?;
        if self.kernels.len() >= KERNELS_MAX || kernel.len() > NAME_BYTES_MAX {
            return None;
        }
        self.kernels.push(kernel.into());
        self.places.insert(kernel.into(), place);
        Some(place)
    }

    pub(super) fn enter(&mut self, said: &Said) {
        let words = self.works.entry(said.work.clone()).or_default();
        for (kernel, digest) in &said.digests {
            words.entry(*kernel).or_default().insert(*digest);
        }
    }

    pub(super) fn leave(&mut self, said: &Said) {
        let Some(kernels) = self.works.get_mut(&said.work) else { return };
        for (kernel, digest) in &said.digests {
            if let Some(words) = kernels.get_mut(kernel) {
                words.remove(*digest);
                if words.all == 0 {
                    kernels.remove(kernel);
                }
            }
        }
        if kernels.is_empty() {
            self.works.remove(&said.work);
        }
    }

    /// What of a GPU's digests others do not say, the gravest first; a few of them.
    pub(super) fn differing<'a>(&self, said: impl Iterator<Item = &'a Said>) -> Vec<Differs> {
        let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
        let mut found = Vec::new();
        for said in said {
            let Some(kernels) = self.works.get(&said.work) else { continue };
            for (kernel, digest) in &said.digests {
                let against = kernels.get(kernel).and_then(|words| words.against(*digest));
                let (Some(it), Some(name)) = (against, self.kernels.get(usize::from(*kernel)))
                else {
                    continue;
                };
                found.push(Differs {
                    kernel: name.clone(),
                    lag: it.lag,
                    digest: *digest,
                    common: it.common,
                    same: count(it.same),
                    peers: count(it.peers),
                });
            }
        }
        found.sort_by(|a, b| {
            let key = |it: &Differs| (it.lag != Lag::Fault, core::cmp::Reverse(it.same));
            key(a).cmp(&key(b)).then_with(|| a.kernel.cmp(&b.kernel))
        });
        found.truncate(DIFFERS_MAX);
        found
    }

    /// What does not follow from what all GPUs said. Linear: for tests and for simulation.
    pub(super) fn violations<'a>(&self, said: impl Iterator<Item = &'a Said>) -> Vec<String> {
        let mut expected = Self::default();
        said.for_each(|said| expected.enter(said));
        if self.works == expected.works {
            return Vec::new();
        }
        let (has, wants) = (self.works.len(), expected.works.len());
        [format!("digests of {has} works are not those that were told, of {wants}")].into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(counts: &[(u64, usize)]) -> Words {
        let mut it = Words::default();
        for (word, count) in counts {
            (0..*count).for_each(|_| it.insert(*word));
        }
        it
    }

    fn lag(counts: &[(u64, usize)], word: u64) -> Option<Lag> {
        words(counts).against(word).map(|it| it.lag)
    }

    #[test]
    fn who_says_something_else_than_a_clear_majority_is_at_fault() {
        let it = words(&[(7, 8), (9, 1)]);
        let against = Against { lag: Lag::Fault, common: 7, same: 8, peers: 8 };
        assert_eq!((it.against(9), it.against(7)), (Some(against), None));
        // Also if some others are wrong, alike or not; three quarters are clear, less is not.
        assert_eq!(lag(&[(7, 7), (9, 2)], 9), Some(Lag::Fault));
        assert_eq!(lag(&[(7, 6), (9, 1), (1, 1), (2, 1)], 9), Some(Lag::Fault));
        assert_eq!(lag(&[(7, 5), (9, 4)], 9), Some(Lag::Warning));
        assert_eq!(lag(&[(7, 5), (9, 4)], 7), None);
    }

    #[test]
    fn among_few_nothing_is_said_and_without_a_majority_nobody_is_at_fault() {
        assert_eq!(lag(&[(7, 7), (9, 1)], 9), None);
        for word in [7, 9] {
            assert_eq!(lag(&[(7, 6), (9, 6)], word), Some(Lag::Warning));
        }
        let all_differ: Vec<(u64, usize)> = (0..20).map(|word| (word, 1)).collect();
        assert_eq!(lag(&all_differ, 3), Some(Lag::Warning));
        assert_eq!(lag(&[(7, 1_000)], 7), None);
    }

    proptest! {
        #[test]
        fn no_more_than_a_quarter_and_one_are_ever_at_fault(
            steps in prop::collection::vec((0_u64..5, any::<bool>()), 0..200),
        ) {
            let (mut it, mut all) = (Words::default(), Vec::new());
            for (word, adds) in steps {
                if adds {
                    it.insert(word);
                    all.push(word);
                } else if let Some(at) = all.iter().position(|it| *it == word) {
                    it.remove(all.swap_remove(at));
                }
                let count = |word| all.iter().filter(|it| **it == word).count();
                let counts: Vec<(u64, usize)> =
                    (0..5).map(|word| (word, count(word))).filter(|it| it.1 > 0).collect();
                prop_assert_eq!(&it, &words(&counts));
                let is_at_fault = |word: &&u64| {
                    it.against(**word).is_some_and(|it| it.lag == Lag::Fault)
                };
                let faults = all.iter().filter(is_at_fault).count();
                prop_assert!(faults * 4 <= all.len() + 3, "{} of {:?}", faults, counts);
            }
        }
    }
}
