//! What a fleet does, done slowly and plainly: every node is looked at for every ask.

use federation_core::{
    Ask, Busy, ClassIndex, Fill, FreeShape, GPU_MILLI, GpuAsk, GroupIndex, Level, NodeIndex,
    NodeShape, Placement, Taken,
};

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) shape: NodeShape,
    pub(crate) exists: bool,
    pub(crate) usable: bool,
    pub(crate) alone: bool,
    /// Thousandths left of each GPU.
    pub(crate) left: Vec<u16>,
    pub(crate) cpu: u32,
    pub(crate) memory: u32,
}

type Kind = (ClassIndex, u32, u32, u32, u32, Vec<u32>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    pub(crate) nodes: Vec<Node>,
    /// In the order in which they were first seen.
    kinds: Vec<Kind>,
}

fn kind(shape: &NodeShape) -> Kind {
    let mut attributes: Vec<u32> = shape.attributes.iter().map(|it| it.0).collect();
    attributes.sort_unstable();
    attributes.dedup();
    let NodeShape { class, gpus, cpu_milli, memory_mib, machine_gpus, .. } = *shape;
    (class, gpus, cpu_milli, memory_mib, machine_gpus, attributes)
}

/// Sizes of CPU that count as one: a quarter of a power of two.
fn bin(cpu: u32) -> (u32, u32) {
    match cpu {
        0 => (0, 0),
        1..=3 => (cpu.ilog2() + 1, 0),
        _ => (cpu.ilog2() + 1, (cpu - (1 << cpu.ilog2())) / (1 << (cpu.ilog2() - 2))),
    }
}

fn whole_gpus(ask: &Ask) -> u32 {
    match ask.gpus {
        GpuAsk::Whole(gpus) => gpus,
        GpuAsk::Milli(_) => 0,
    }
}

impl Node {
    pub(crate) fn whole(&self) -> u32 {
        u32::try_from(self.left.iter().filter(|left| **left == GPU_MILLI).count()).unwrap()
    }

    pub(crate) fn shared(&self) -> Vec<u16> {
        let mut shared: Vec<u16> =
            self.left.iter().copied().filter(|left| (1..GPU_MILLI).contains(left)).collect();
        shared.sort_unstable();
        shared
    }

    fn is_empty(&self) -> bool {
        self.whole() == self.shape.gpus
            && self.cpu == self.shape.cpu_milli
            && self.memory == self.shape.memory_mib
    }

    pub(crate) fn group(&self, level: Level) -> Option<GroupIndex> {
        match level {
            Level::Hall => self.shape.hall,
            Level::Rack => self.shape.rack,
            Level::Domain => self.shape.domain,
        }
    }

    /// CPU and memory that the ask takes here; none if what is lent carries less than is asked for.
    fn beside(&self, ask: &Ask) -> Option<(u32, u32)> {
        if !ask.lent {
            return Some((ask.cpu_milli, ask.memory_mib));
        }
        let gpus = whole_gpus(ask);
        let each = |all: u32| match self.shape.machine_gpus {
            0 => 0,
            machine => all / machine * gpus,
        };
        let (cpu, memory) = (each(self.shape.cpu_milli), each(self.shape.memory_mib));
        (cpu >= ask.cpu_milli && memory >= ask.memory_mib).then_some((cpu, memory))
    }

    /// All but the GPUs.
    fn has_rest(&self, ask: &Ask) -> bool {
        let has = |(cpu, memory)| self.cpu >= cpu && self.memory >= memory;
        self.exists
            && self.usable
            && !self.alone
            && self.beside(ask).is_some_and(has)
            && ask.attributes.iter().all(|it| self.shape.attributes.contains(it))
            && (!ask.exclusive || self.is_empty())
            && (!ask.entire || self.shape.machine_gpus == whole_gpus(ask))
    }

    pub(crate) fn fits(&self, ask: &Ask) -> bool {
        self.has_rest(ask)
            && match ask.gpus {
                GpuAsk::Whole(gpus) => self.whole() >= gpus,
                GpuAsk::Milli(milli) => self.left.iter().any(|left| *left >= milli),
            }
    }

    /// The GPUs that a share could come from, as the thousandths left of them.
    fn sources(&self, ask: &Ask) -> Vec<Option<u16>> {
        match ask.gpus {
            GpuAsk::Whole(gpus) if self.whole() >= gpus => vec![None],
            GpuAsk::Whole(_) => vec![],
            GpuAsk::Milli(milli) => {
                let mut lefts: Vec<u16> =
                    self.left.iter().copied().filter(|left| *left >= milli).collect();
                lefts.sort_unstable();
                lefts.dedup();
                lefts.into_iter().map(Some).collect()
            }
        }
    }

    pub(crate) fn as_shape<'a>(&self, shared: &'a [u16]) -> FreeShape<'a> {
        FreeShape {
            class: self.shape.class,
            gpus: self.shape.gpus,
            cpu_milli_total: self.shape.cpu_milli,
            memory_mib_total: self.shape.memory_mib,
            whole: self.whole(),
            shared,
            cpu_milli: self.cpu,
            memory_mib: self.memory,
        }
    }

    pub(crate) fn taken(&self, node: u32, ask: &Ask, source: Option<u16>) -> Taken {
        let mut gpus = 0u128;
        let mut share = None;
        match ask.gpus {
            GpuAsk::Whole(wanted) => {
                let whole = (0..self.left.len()).filter(|gpu| self.left[*gpu] == GPU_MILLI);
                for gpu in whole.take(wanted as usize) {
                    gpus |= 1 << gpu;
                }
            }
            GpuAsk::Milli(milli) => {
                let gpu = self.left.iter().position(|left| Some(*left) == source).unwrap();
                share = Some((u8::try_from(gpu).unwrap(), milli));
            }
        }
        let (cpu_milli, memory_mib) = self.beside(ask).expect("the node will do");
        Taken {
            node: NodeIndex(node),
            gpus: federation_core::GpuMask(gpus),
            share,
            cpu_milli,
            memory_mib,
            exclusive: ask.exclusive,
        }
    }

    pub(crate) fn take(&mut self, part: &Taken) {
        for gpu in part.gpus.iter() {
            assert_eq!(self.left[usize::from(gpu)], GPU_MILLI, "a GPU is taken twice");
            self.left[usize::from(gpu)] = 0;
        }
        if let Some((gpu, milli)) = part.share {
            let left = &mut self.left[usize::from(gpu)];
            *left = left.checked_sub(milli).expect("more than a GPU is taken");
        }
        self.cpu = self.cpu.checked_sub(part.cpu_milli).expect("more CPU than there is");
        self.memory = self.memory.checked_sub(part.memory_mib).expect("more memory than there is");
        assert!(!self.alone, "something stands beside an exclusive one");
        self.alone = part.exclusive;
    }

    pub(crate) fn give(&mut self, part: &Taken) {
        for gpu in part.gpus.iter() {
            self.left[usize::from(gpu)] = GPU_MILLI;
        }
        if let Some((gpu, milli)) = part.share {
            self.left[usize::from(gpu)] += milli;
        }
        self.cpu += part.cpu_milli;
        self.memory += part.memory_mib;
        self.alone &= !part.exclusive;
    }

    pub(crate) fn set_busy(&mut self, busy: &Busy) {
        *self = Self { exists: self.exists, usable: self.usable, ..Self::new(&self.shape) };
        for (gpu, left) in self.left.iter_mut().enumerate() {
            if busy.gpus.0 & (1 << gpu) != 0 {
                *left = 0;
            }
        }
        for (gpu, milli) in &busy.shares {
            if let Some(left) = self.left.get_mut(usize::from(*gpu)) {
                *left = left.saturating_sub(*milli);
            }
        }
        self.cpu = self.cpu.saturating_sub(busy.cpu_milli);
        self.memory = self.memory.saturating_sub(busy.memory_mib);
        self.alone = busy.exclusive;
    }

    pub(crate) fn new(shape: &NodeShape) -> Self {
        Self {
            shape: shape.clone(),
            exists: true,
            usable: true,
            alone: false,
            left: vec![GPU_MILLI; shape.gpus as usize],
            cpu: shape.cpu_milli,
            memory: shape.memory_mib,
        }
    }
}

impl Reference {
    pub(crate) fn put(&mut self, node: NodeIndex, shape: &NodeShape) {
        let place = node.0 as usize;
        if self.nodes.len() == place {
            self.nodes.push(Node::new(shape));
        } else {
            assert!(!self.nodes[place].exists, "a number is given twice");
            self.nodes[place] = Node::new(shape);
        }
        let kind = kind(shape);
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    fn classes(&self, ask: &Ask) -> Vec<ClassIndex> {
        if !ask.classes.is_empty() {
            return ask.classes.clone();
        }
        let mut classes: Vec<ClassIndex> = self.kinds.iter().map(|kind| kind.0).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    fn fitting(&self, class: ClassIndex, ask: &Ask) -> impl Iterator<Item = (u32, &Node)> {
        let numbered = self.nodes.iter().enumerate();
        let numbered = numbered.map(|(at, node)| (u32::try_from(at).unwrap(), node));
        numbered.filter(move |(_, node)| node.shape.class == class && node.fits(ask))
    }

    /// Whether a gang finds a place in the class, its groups included.
    fn has_room(&self, class: ClassIndex, ask: &Ask) -> bool {
        let fitting = u32::try_from(self.fitting(class, ask).count()).unwrap();
        let required = ask.together.filter(|together| together.required);
        let Some(together) = required.filter(|_| ask.nodes > 1) else {
            return fitting >= ask.nodes;
        };
        let size = match together.group {
            0 => ask.nodes,
            group => group.min(ask.nodes),
        };
        if size == 1 {
            return fitting >= ask.nodes;
        }
        let mut there = std::collections::BTreeMap::new();
        for (_, node) in self.fitting(class, ask) {
            if let Some(group) = node.group(together.level) {
                *there.entry(group).or_insert(0u32) += 1;
            }
        }
        let parts: u32 = there.values().map(|nodes| nodes / size).sum();
        let (whole, rest) = (ask.nodes / size, ask.nodes % size);
        parts >= whole
            && match rest {
                0 => true,
                1 => fitting > whole * size,
                _ => parts > whole || there.values().any(|nodes| nodes % size >= rest),
            }
    }

    /// The class in which the ask finds a place.
    pub(crate) fn class_for(&self, ask: &Ask) -> Option<ClassIndex> {
        self.classes(ask).into_iter().find(|class| self.has_room(*class, ask))
    }

    /// The very nodes that a gang gets which need not stand together.
    pub(crate) fn place(&self, ask: &Ask) -> Option<Placement> {
        let class = self.class_for(ask)?;
        let mut ranked = Vec::new();
        for (at, node) in self.fitting(class, ask) {
            let kind = kind(&node.shape);
            let kind = self.kinds.iter().position(|known| *known == kind).unwrap();
            let whole = match ask.fill {
                Fill::Pack => i64::from(node.whole()),
                Fill::Spread => -i64::from(node.whole()),
            };
            for source in node.sources(ask) {
                // A whole GPU is opened last by those who pack, and first by those who spread.
                let opens = source == Some(GPU_MILLI);
                let opens = if ask.fill == Fill::Pack { opens } else { !opens && source.is_some() };
                let tight = source.filter(|left| *left < GPU_MILLI);
                let whole = if tight.is_some() { i64::from(node.whole()) } else { whole };
                let key = (kind, bin(node.cpu), node.memory, node.cpu, node.shared());
                ranked.push((opens, tight, whole, key, at, source));
            }
        }
        ranked.sort();
        let mut parts: Vec<Taken> = Vec::new();
        for (_, _, _, _, at, source) in ranked {
            let is_new = parts.iter().all(|part| part.node.0 != at);
            if is_new && parts.len() < ask.nodes as usize {
                parts.push(self.nodes[at as usize].taken(at, ask, source));
            }
        }
        Some(Placement { parts: parts.into() })
    }

    /// The node that a scorer likes best, for an ask of one node.
    pub(crate) fn place_scored(
        &self,
        ask: &Ask,
        score: &dyn Fn(&FreeShape<'_>, &FreeShape<'_>) -> i64,
    ) -> Option<Placement> {
        let class = self.class_for(ask)?;
        let mut best = None;
        for (at, node) in self.fitting(class, ask) {
            for source in node.sources(ask) {
                let part = node.taken(at, ask, source);
                let mut after = node.clone();
                after.take(&part);
                let lefts = (node.shared(), after.shared());
                let points = score(&node.as_shape(&lefts.0), &after.as_shape(&lefts.1));
                let rank = (std::cmp::Reverse(points), at, source);
                if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                    best = Some((rank, part));
                }
            }
        }
        best.map(|(_, part)| Placement { parts: vec![part].into() })
    }

    /// Whether the gang could stand here if nothing were taken.
    pub(crate) fn could_hold(&self, ask: &Ask) -> bool {
        let mut empty = self.clone();
        for node in &mut empty.nodes {
            node.set_busy(&Busy::default());
        }
        empty.class_for(ask).is_some()
    }
}
