//! Shapes: nodes of a class in the same state, in the order in which they fill up.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::Fleet;
use super::ask::{Ask, AttributeIndex, ClassIndex, FreeShape};
use super::bits::Members;
use super::record::Free;
use super::roll::Roll;

/// Nodes that are alike when empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub class: ClassIndex,
    pub gpus: u32,
    pub cpu: u32,
    pub memory: u32,
    /// Among which its CPU and memory are divided when some are lent.
    pub machine_gpus: u32,
    /// In order.
    pub attributes: Vec<AttributeIndex>,
    pub usable: u32,
    /// Whole GPUs that are free on listed nodes.
    pub free: u32,
    /// Listed nodes by their free whole GPUs.
    pub at_level: Vec<u32>,
}

/// The nodes of one class.
#[derive(Debug, Clone, Default)]
pub(super) struct Class {
    pub kinds: Vec<u32>,
    pub shapes: BTreeMap<Key, Members>,
    /// For each shape and each shared GPU of it: thousandths left, and the shape.
    pub shared: BTreeSet<(u16, Key)>,
    /// Free nodes of halls, racks and domains.
    pub rolls: [Roll; 3],
    /// The same if nothing were taken.
    pub totals: [Roll; 3],
}

/// A shape. The order is that of a search: free whole GPUs, kind, bin of CPU, memory, CPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    packed: u128,
    /// Thousandths left of each shared GPU.
    shared: Box<[u16]>,
}

/// CPU in steps of a quarter of its size: within a bin, shapes are in the order of their memory,
/// so that a search misses on CPU only in the first bin.
fn bin(cpu: u32) -> u8 {
    let Some(log) = cpu.checked_ilog2() else { return 0 };
    let quarter = if log >= 2 { (cpu >> (log - 2)) & 3 } else { 0 };
    u8::try_from(log * 4 + quarter + 1).unwrap_or(u8::MAX)
}

impl Key {
    fn packed(whole: u32, kind: u32, bin: u8, memory: u32, cpu: u32) -> u128 {
        (u128::from(whole) << 104)
            | (u128::from(kind) << 72)
            | (u128::from(bin) << 64)
            | (u128::from(memory) << 32)
            | u128::from(cpu)
    }

    pub(super) fn of(kind: u32, free: &Free) -> Self {
        let packed = Self::packed(free.count(), kind, bin(free.cpu), free.memory, free.cpu);
        Self { packed, shared: free.lefts() }
    }

    /// No greater than any shape with so much or more.
    fn floor(whole: u32, kind: u32, bin: u8, memory: u32) -> Self {
        Self { packed: Self::packed(whole, kind, bin, memory, 0), shared: Box::default() }
    }

    fn part(&self, from: u32) -> u32 {
        u32::try_from((self.packed >> from) & u128::from(u32::MAX)).unwrap_or(u32::MAX)
    }

    pub(super) fn whole(&self) -> u32 {
        self.part(104)
    }

    pub(super) fn kind(&self) -> u32 {
        self.part(72)
    }

    fn bin(&self) -> u8 {
        u8::try_from(self.part(64) & 0xff).unwrap_or(u8::MAX)
    }

    pub(super) fn memory(&self) -> u32 {
        self.part(32)
    }

    pub(super) fn cpu(&self) -> u32 {
        self.part(0)
    }

    pub(super) fn shared(&self) -> &[u16] {
        &self.shared
    }
}

/// What a shape is to an ask.
enum Verdict {
    Fits,
    Not,
    /// Nothing before this fits.
    NotBefore(Key),
}

fn judge(fleet: &Fleet, ask: &Ask, key: &Key) -> Verdict {
    let (whole, kind) = (key.whole(), key.kind());
    let Some(known) = fleet.kinds.get(super::at(kind)) else { return Verdict::Not };
    if !known.will_do(ask) {
        return Verdict::NotBefore(Key::floor(whole, kind.saturating_add(1), 0, 0));
    }
    let (cpu, memory) = known.beside(ask);
    let least = bin(cpu);
    if key.bin() < least {
        return Verdict::NotBefore(Key::floor(whole, kind, least, memory));
    }
    if key.memory() < memory {
        return Verdict::NotBefore(Key::floor(whole, kind, key.bin(), memory));
    }
    if key.cpu() < cpu || (ask.exclusive && !known.is_empty(key)) {
        return Verdict::Not;
    }
    Verdict::Fits
}

/// Shows the shapes of one level that fit, in order, and counts those looked at against `left`.
/// Breaks when the visitor does, or when nothing is left to look at.
pub(super) fn each_whole<'a>(
    fleet: &'a Fleet,
    class: &'a Class,
    ask: &Ask,
    level: u32,
    left: &mut u32,
    visit: &mut dyn FnMut(&'a Key, &'a Members) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let end = Key::floor(level + 1, 0, 0, 0);
    let mut from = Key::floor(level, 0, bin(ask.cpu_milli), ask.memory_mib);
    'seek: loop {
        for (key, members) in class.shapes.range(&from..&end) {
            let Some(fewer) = left.checked_sub(1) else { return ControlFlow::Break(()) };
            *left = fewer;
            match judge(fleet, ask, key) {
                Verdict::Fits => visit(key, members)?,
                Verdict::Not => {}
                Verdict::NotBefore(next) => {
                    from = next;
                    continue 'seek;
                }
            }
        }
        return ControlFlow::Continue(());
    }
}

/// As [`each_whole`], for shared GPUs that have so many thousandths left, the tightest first.
pub(super) fn each_shared<'a>(
    fleet: &'a Fleet,
    class: &'a Class,
    ask: &Ask,
    milli: u16,
    left: &mut u32,
    visit: &mut dyn FnMut(u16, &'a Key, &'a Members) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut from = (milli, Key::floor(0, 0, bin(ask.cpu_milli), ask.memory_mib));
    'seek: loop {
        for (there, key) in class.shared.range(&from..) {
            let Some(fewer) = left.checked_sub(1) else { return ControlFlow::Break(()) };
            *left = fewer;
            match judge(fleet, ask, key) {
                Verdict::Fits => {
                    if let Some(members) = class.shapes.get(key) {
                        visit(*there, key, members)?;
                    }
                }
                Verdict::Not => {}
                Verdict::NotBefore(next) => {
                    from = (*there, next);
                    continue 'seek;
                }
            }
        }
        return ControlFlow::Continue(());
    }
}

impl Class {
    pub(super) fn list(&mut self, key: Key, free: &Free, node: u32) {
        if let Some(members) = self.shapes.get_mut(&key) {
            members.insert(node);
            return;
        }
        for (left, _) in free.shared() {
            self.shared.insert((*left, key.clone()));
        }
        let mut members = Members::default();
        members.insert(node);
        self.shapes.insert(key, members);
    }

    pub(super) fn unlist(&mut self, key: &Key, free: &Free, node: u32) {
        let Some(members) = self.shapes.get_mut(key) else { return };
        if !members.remove(node) {
            return;
        }
        self.shapes.remove(key);
        for (left, _) in free.shared() {
            self.shared.remove(&(*left, key.clone()));
        }
    }
}

impl Kind {
    pub(super) fn empty(&self) -> Free {
        Free::whole_node(self.gpus, self.cpu, self.memory)
    }

    /// Nothing is taken of a node of that shape.
    fn is_empty(&self, key: &Key) -> bool {
        key.whole() == self.gpus && key.cpu() == self.cpu && key.memory() == self.memory
    }

    /// Its attributes are those asked for, its size too, and what is lent carries as much.
    pub(super) fn will_do(&self, ask: &Ask) -> bool {
        let (cpu, memory) = self.beside(ask);
        ask.attributes.iter().all(|it| self.attributes.binary_search(it).is_ok())
            && cpu >= ask.cpu_milli
            && memory >= ask.memory_mib
            && (!ask.entire || self.machine_gpus == ask.whole_gpus())
    }

    /// CPU and memory that an ask takes of a node.
    pub(super) fn beside(&self, ask: &Ask) -> (u32, u32) {
        if !ask.lent {
            return (ask.cpu_milli, ask.memory_mib);
        }
        let part = |all: u32| {
            let each = all.checked_div(self.machine_gpus).unwrap_or(0);
            each.saturating_mul(ask.whole_gpus())
        };
        (part(self.cpu), part(self.memory))
    }

    pub(super) fn shape<'a>(&self, free: &Free, shared: &'a [u16]) -> FreeShape<'a> {
        FreeShape {
            class: self.class,
            gpus: self.gpus,
            cpu_milli_total: self.cpu,
            memory_mib_total: self.memory,
            whole: free.count(),
            shared,
            cpu_milli: free.cpu,
            memory_mib: free.memory,
        }
    }
}
