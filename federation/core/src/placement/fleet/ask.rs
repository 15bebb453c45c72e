//! What a fleet is made of, what is asked of it, and what it answers.

use alloc::vec::Vec;

use super::bits::number;

macro_rules! indexes {
    ($($(#[$meta:meta])* $name:ident($ty:ty);)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $ty);
    )*};
}

indexes! {
    /// A node of a fleet. Ties go to the smaller.
    NodeIndex(u32);
    /// A GPU class, numbered by the caller from zero on.
    ClassIndex(u16);
    /// A hall, a rack or a domain, numbered by the caller from zero on, each kind by itself.
    GroupIndex(u32);
    /// A `key=value` of nodes, numbered by the caller.
    AttributeIndex(u32);
}

/// GPUs of one node, by their place on it. Packed, so that what holds one takes less room: a site
/// has many.
#[repr(Rust, packed(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GpuMask(pub u128);

impl GpuMask {
    /// The first so many.
    #[must_use]
    pub fn first(gpus: u32) -> Self {
        Self(u128::MAX.checked_shl(gpus).map_or(u128::MAX, |rest| !rest))
    }

    #[must_use]
    pub fn one(gpu: u8) -> Self {
        Self(1u128.checked_shl(gpu.into()).unwrap_or(0))
    }

    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of both.
    #[must_use]
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The places, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let gpu = u8::try_from(rest.trailing_zeros()).ok().filter(|_| rest != 0)?;
            rest &= rest - 1;
            Some(gpu)
        })
    }

    /// The lowest so many of these.
    pub(super) fn lowest(self, gpus: u32) -> Self {
        let mut rest = self.0;
        for _ in 0..gpus {
            rest &= rest.wrapping_sub(1);
        }
        Self(self.0 & !rest)
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeShape {
    pub class: ClassIndex,
    /// At most [`NODE_GPUS_MAX`](super::NODE_GPUS_MAX) are seen.
    pub gpus: u32,
    pub cpu_milli: u32,
    pub memory_mib: u32,
    pub hall: Option<GroupIndex>,
    pub rack: Option<GroupIndex>,
    /// Nodes whose GPUs share one NVLink fabric. A node without is a domain by itself.
    pub domain: Option<GroupIndex>,
    pub attributes: Vec<AttributeIndex>,
    /// All GPUs of the machine, of whatever class and state; zero if nobody lends it.
    pub machine_gpus: u32,
}

/// All that is taken of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Busy {
    /// Taken whole, or not to be used.
    pub gpus: GpuMask,
    /// GPU and thousandths; a GPU may be named more than once.
    pub shares: Vec<(u8, u16)>,
    pub cpu_milli: u32,
    pub memory_mib: u32,
    pub exclusive: bool,
}

/// GPUs of each node of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuAsk {
    /// So many whole ones; none for work without a GPU.
    Whole(u32),
    /// So many thousandths of one, between 1 and 999.
    Milli(u16),
}

/// Which nodes of those that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// The fullest, so that large holes stay.
    #[default]
    Pack,
    /// The emptiest.
    Spread,
}

/// Among which nodes a gang stays together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Hall,
    Rack,
    /// One NVLink fabric.
    Domain,
}

impl Level {
    pub(super) fn place(self) -> usize {
        match self {
            Self::Hall => 0,
            Self::Rack => 1,
            Self::Domain => 2,
        }
    }
}

/// That nodes of a gang stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    pub level: Level,
    /// If they cannot, the gang waits; otherwise it takes as few groups as it finds.
    pub required: bool,
    /// Nodes of the gang that stand together, one such group after the other; zero for all.
    pub group: u32,
}

/// What a gang asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub nodes: u32,
    pub gpus: GpuAsk,
    /// On each node.
    pub cpu_milli: u32,
    /// On each node.
    pub memory_mib: u32,
    /// Classes that will do, the preferred first; any if empty. A gang is of one class.
    pub classes: Vec<ClassIndex>,
    /// None of them is preferred: a scorer may choose among them, for one node.
    pub unordered: bool,
    /// Each node has all of these.
    pub attributes: Vec<AttributeIndex>,
    /// Nodes on which nothing else runs.
    pub exclusive: bool,
    pub together: Option<Together>,
    pub fill: Fill,
    /// Of whole GPUs, each with just its part of its machine's CPU and memory: on a node where that is
    /// less than what is asked for there is no place.
    pub lent: bool,
    /// Machines that have just as many GPUs.
    pub entire: bool,
}

impl Ask {
    /// A gang of whole GPUs that asks for nothing else.
    #[must_use]
    pub fn whole(nodes: u32, gpus: u32) -> Self {
        Self {
            nodes,
            gpus: GpuAsk::Whole(gpus),
            cpu_milli: 0,
            memory_mib: 0,
            classes: Vec::new(),
            unordered: false,
            attributes: Vec::new(),
            exclusive: false,
            together: None,
            fill: Fill::Pack,
            lent: false,
            entire: false,
        }
    }

    /// A part of one GPU.
    #[must_use]
    pub fn share(milli: u16) -> Self {
        Self { gpus: GpuAsk::Milli(milli), ..Self::whole(1, 0) }
    }

    /// Whole free GPUs that a node needs for its part, if it shares none.
    pub(super) fn whole_gpus(&self) -> u32 {
        match self.gpus {
            GpuAsk::Whole(gpus) => gpus,
            GpuAsk::Milli(_) => 0,
        }
    }

    /// Nodes of one group; all if they need not stand together.
    pub(super) fn group_nodes(&self) -> u32 {
        let asked = self.together.map_or(0, |together| together.group);
        if asked == 0 { self.nodes } else { asked.min(self.nodes) }
    }
}

/// What was taken of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub node: NodeIndex,
    pub gpus: GpuMask,
    /// Of a shared GPU: its place, and thousandths. `gpus` is empty then.
    pub share: Option<(u8, u16)>,
    pub cpu_milli: u32,
    pub memory_mib: u32,
    pub exclusive: bool,
}

/// What was taken for a gang, node by node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    pub parts: Parts,
}

/// A list that needs no memory of its own for one part: most asks are for one node.
#[derive(Debug, Clone)]
pub struct Parts(Few);

#[derive(Debug, Clone)]
enum Few {
    One(Taken),
    Any(Vec<Taken>),
}

impl Default for Parts {
    fn default() -> Self {
        Self(Few::Any(Vec::new()))
    }
}

impl core::ops::Deref for Parts {
    type Target = [Taken];

    fn deref(&self) -> &[Taken] {
        match &self.0 {
            Few::One(part) => core::slice::from_ref(part),
            Few::Any(parts) => parts,
        }
    }
}

impl From<Vec<Taken>> for Parts {
    fn from(parts: Vec<Taken>) -> Self {
        Self(Few::Any(parts))
    }
}

impl FromIterator<Taken> for Parts {
    fn from_iter<T: IntoIterator<Item = Taken>>(parts: T) -> Self {
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next()) {
            (Some(one), None) => Self(Few::One(one)),
            (first, second) => {
                Self(Few::Any(first.into_iter().chain(second).chain(parts).collect()))
            }
        }
    }
}

impl<'a> IntoIterator for &'a Parts {
    type Item = &'a Taken;
    type IntoIter = core::slice::Iter<'a, Taken>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Parts {}

/// What is free on a node, as a scorer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FreeShape<'a> {
    pub class: ClassIndex,
    /// Of the empty node.
    pub gpus: u32,
    pub cpu_milli_total: u32,
    pub memory_mib_total: u32,
    pub whole: u32,
    /// Thousandths left of each shared GPU, the least first.
    pub shared: &'a [u16],
    pub cpu_milli: u32,
    pub memory_mib: u32,
}

/// Says how good it is to turn one shape into another: the largest wins. Asked once for each
/// distinct shape, not for each node.
pub trait Scorer {
    fn score(&mut self, before: &FreeShape<'_>, after: &FreeShape<'_>) -> i64;

    /// Most shapes of a class that it is asked about for one decision: those that an unscored search
    /// meets first.
    fn most(&self) -> u32 {
        super::LOOKED_AT_MAX
    }
}

impl<F: FnMut(&FreeShape<'_>, &FreeShape<'_>) -> i64> Scorer for F {
    fn score(&mut self, before: &FreeShape<'_>, after: &FreeShape<'_>) -> i64 {
        self(before, after)
    }
}

impl Placement {
    /// All whole GPUs.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.parts.iter().map(|part| part.gpus.count()).sum()
    }

    #[must_use]
    pub fn nodes(&self) -> u32 {
        number(self.parts.len())
    }
}
