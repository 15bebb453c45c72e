//! What is kept of each node. A departure may be of any node of a site, so that a record is seldom in
//! a near cache: two of them share one line of it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::ask::Taken;
use super::{GPU_MILLI, GpuMask, NODE_GPUS_MAX};

/// One node.
#[derive(Debug, Clone, Default)]
#[repr(align(32))]
pub(super) struct Record {
    pub free: Free,
    pub kind: u32,
    pub spot: Spot,
}

const _: () = assert!(size_of::<Record>() == 32, "a site has a hundred thousand of them");

impl Record {
    /// Something may be placed here.
    pub(super) fn is_listed(&self) -> bool {
        self.spot.0 & Spot::MARKS == Spot::EXISTS | Spot::USABLE
    }
}

/// Where a node stands, as the number of a [`Place`], and its marks: in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spot(u32);

/// Hall, rack and domain of a node; [`NO_GROUP`] for none. Nodes of one rack share it.
pub(super) type Place = [u32; 3];

pub(super) const NO_GROUP: u32 = u32::MAX;

impl Spot {
    /// Not there once it was removed.
    const EXISTS: u32 = 1;
    const USABLE: u32 = 2;
    /// Taken by one who wants no other there.
    const ALONE: u32 = 4;
    const MARKS: u32 = Self::EXISTS | Self::USABLE | Self::ALONE;

    /// Of a node that exists, and is not usable yet. There are no more places than nodes, and far
    /// fewer than fit beside the marks.
    pub(super) fn new(place: u32) -> Self {
        Self((place << 3) | Self::EXISTS)
    }

    pub(super) fn place(self) -> u32 {
        self.0 >> 3
    }

    pub(super) fn exists(self) -> bool {
        self.0 & Self::EXISTS != 0
    }

    pub(super) fn is_usable(self) -> bool {
        self.0 & Self::USABLE != 0
    }

    pub(super) fn is_alone(self) -> bool {
        self.0 & Self::ALONE != 0
    }

    pub(super) fn remove(&mut self) {
        self.0 &= !Self::EXISTS;
    }

    pub(super) fn set_usable(&mut self, usable: bool) {
        self.0 = (self.0 & !Self::USABLE) | (u32::from(usable) * Self::USABLE);
    }

    pub(super) fn set_alone(&mut self, alone: bool) {
        self.0 = (self.0 & !Self::ALONE) | (u32::from(alone) * Self::ALONE);
    }
}

/// What is left of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Free {
    gpus: Gpus,
    pub cpu: u32,
    pub memory: u32,
}

/// Equal things are written alike: what `Whole` can say is never said by `Mixed`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Gpus {
    /// Whole GPUs, one bit each, of a node that shares none.
    Whole(u64),
    Mixed(Box<Mixed>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mixed {
    whole: GpuMask,
    shared: Vec<(u16, u8)>,
}

impl Default for Gpus {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl Gpus {
    fn of(whole: GpuMask, shared: Vec<(u16, u8)>) -> Self {
        match u64::try_from(whole.0) {
            Ok(bits) if shared.is_empty() => Self::Whole(bits),
            Ok(_) | Err(_) => Self::Mixed(Box::new(Mixed { whole, shared })),
        }
    }
}

impl Free {
    pub(super) fn whole_node(gpus: u32, cpu: u32, memory: u32) -> Self {
        Self { gpus: Gpus::of(GpuMask::first(gpus), Vec::new()), cpu, memory }
    }

    /// GPUs of which nothing is taken.
    pub(super) fn whole(&self) -> GpuMask {
        match &self.gpus {
            Gpus::Whole(bits) => GpuMask((*bits).into()),
            Gpus::Mixed(mixed) => mixed.whole,
        }
    }

    /// How many of which nothing is taken.
    pub(super) fn count(&self) -> u32 {
        match &self.gpus {
            Gpus::Whole(bits) => bits.count_ones(),
            Gpus::Mixed(mixed) => mixed.whole.count(),
        }
    }

    /// What is left of shared GPUs: thousandths and the GPU, the least first.
    pub(super) fn shared(&self) -> &[(u16, u8)] {
        match &self.gpus {
            Gpus::Whole(_) => &[],
            Gpus::Mixed(mixed) => &mixed.shared,
        }
    }

    /// Thousandths left of each shared GPU.
    pub(super) fn lefts(&self) -> Box<[u16]> {
        self.shared().iter().map(|(left, _)| *left).collect()
    }

    /// Thousandths left of a GPU.
    pub(super) fn left_of(&self, gpu: u8) -> u16 {
        if u32::from(gpu) < NODE_GPUS_MAX && GpuMask::one(gpu).is_within(self.whole()) {
            return GPU_MILLI;
        }
        self.shared().iter().find(|(_, it)| *it == gpu).map_or(0, |(left, _)| *left)
    }

    fn set_left(&mut self, gpu: u8, left: u16) {
        let mut whole = self.whole().without(GpuMask::one(gpu));
        let mut shared = self.take_shared();
        shared.retain(|(_, it)| *it != gpu);
        if left >= GPU_MILLI {
            whole = whole.with(GpuMask::one(gpu));
        } else if left > 0 {
            let place = shared.binary_search(&(left, gpu)).unwrap_or_else(|place| place);
            shared.insert(place, (left, gpu));
        }
        self.gpus = Gpus::of(whole, shared);
    }

    /// The caller sets the GPUs anew.
    fn take_shared(&mut self) -> Vec<(u16, u8)> {
        match &mut self.gpus {
            Gpus::Whole(_) => Vec::new(),
            Gpus::Mixed(mixed) => core::mem::take(&mut mixed.shared),
        }
    }

    /// Whole GPUs that are taken, or not to be used.
    pub(super) fn take_whole(&mut self, gpus: GpuMask) {
        match (&mut self.gpus, u64::try_from(gpus.0)) {
            (Gpus::Whole(bits), Ok(taken)) => *bits &= !taken,
            (Gpus::Whole(_) | Gpus::Mixed(_), Ok(_) | Err(_)) => {
                self.gpus = Gpus::of(self.whole().without(gpus), self.take_shared());
            }
        }
    }

    /// The caller knows that it is there.
    pub(super) fn take_share(&mut self, gpu: u8, milli: u16) {
        self.set_left(gpu, self.left_of(gpu).saturating_sub(milli));
    }

    /// The caller knows that it is there.
    pub(super) fn take(&mut self, part: &Taken) {
        self.take_whole(part.gpus);
        if let Some((gpu, milli)) = part.share {
            self.take_share(gpu, milli);
        }
        self.cpu = self.cpu.saturating_sub(part.cpu_milli);
        self.memory = self.memory.saturating_sub(part.memory_mib);
    }

    pub(super) fn give(&mut self, part: &Taken, empty: &Self) {
        match (&mut self.gpus, &empty.gpus, u64::try_from(part.gpus.0)) {
            (Gpus::Whole(bits), Gpus::Whole(all), Ok(given)) => *bits |= given & all,
            (Gpus::Whole(_) | Gpus::Mixed(_), Gpus::Whole(_) | Gpus::Mixed(_), Ok(_) | Err(_)) => {
                let gpus = part.gpus.both(empty.whole());
                let mut shared = self.take_shared();
                shared.retain(|(_, gpu)| !GpuMask::one(*gpu).is_within(gpus));
                self.gpus = Gpus::of(self.whole().with(gpus), shared);
            }
        }
        if let Some((gpu, milli)) = part.share.filter(|(gpu, _)| empty.left_of(*gpu) > 0) {
            self.set_left(gpu, self.left_of(gpu).saturating_add(milli));
        }
        self.cpu = self.cpu.saturating_add(part.cpu_milli).min(empty.cpu);
        self.memory = self.memory.saturating_add(part.memory_mib).min(empty.memory);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::super::NodeIndex;
    use super::*;

    fn part(gpus: GpuMask, share: Option<(u8, u16)>) -> Taken {
        Taken { node: NodeIndex(0), gpus, share, cpu_milli: 0, memory_mib: 0, exclusive: false }
    }

    proptest! {
        /// Below and above 64 GPUs, which are written differently.
        #[test]
        fn what_is_left_of_a_node_is_what_a_list_of_its_gpus_says(
            gpus in prop::sample::select(vec![1u8, 8, 63, 64, 65, 127]),
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u8>(), 1u16..=999), 0..60),
        ) {
            let empty = Free::whole_node(gpus.into(), 0, 0);
            let mut free = empty.clone();
            let mut left = vec![GPU_MILLI; gpus.into()];
            for (take, whole, gpu, milli) in steps {
                let gpu = gpu % gpus;
                let there = left[usize::from(gpu)];
                let (milli, one) = (if whole { GPU_MILLI } else { milli }, GpuMask::one(gpu));
                let part = if whole { part(one, None) } else { part(GpuMask(0), Some((gpu, milli))) };
                if take && there >= milli {
                    free.take(&part);
                    left[usize::from(gpu)] -= milli;
                } else if !take && there + milli <= GPU_MILLI {
                    free.give(&part, &empty);
                    left[usize::from(gpu)] += milli;
                }
                for (gpu, left) in (0..gpus).zip(&left) {
                    prop_assert_eq!(free.left_of(gpu), *left);
                }
                let whole = left.iter().filter(|left| **left == GPU_MILLI).count();
                prop_assert_eq!(free.count() as usize, whole);
                prop_assert_eq!(free.whole().count() as usize, whole);
            }
            // However it came to be, the same is equal.
            let mut again = Free::whole_node(gpus.into(), 0, 0);
            for (gpu, left) in (0..gpus).zip(left) {
                match GPU_MILLI - left {
                    0 => {}
                    GPU_MILLI => again.take(&part(GpuMask::one(gpu), None)),
                    milli => again.take_share(gpu, milli),
                }
            }
            prop_assert_eq!(again, free);
        }
    }
}
