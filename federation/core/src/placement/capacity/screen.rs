//! GPUs whose proofs are not what a job demands. Age is not in the index: it would change with every
//! moment. Instead what will not do is taken from everybody while such a job is placed, and stays so
//! while the next jobs demand the same. What will not do is sought once for each demand of a plan.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::gpu::ProofNeed;
use specs::job::{JobSpec, Needs};
use specs::unit::Timestamp;

use super::{Capacity, of_class};
use crate::health::proofs;
use crate::placement::fits;
use crate::placement::fleet::{GpuMask, NodeIndex, Shortage, Taken};
use crate::state::{Gpu, Node};

/// What a plan keeps from jobs that demand something of proofs.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen {
    /// GPUs that will not do, by demand. Invariant: of the state and the time of one plan.
    lacking: BTreeMap<ProofNeed, Vec<(NodeIndex, GpuMask)>>,
    up: Option<ProofNeed>,
    /// What is taken for it.
    taken: Vec<Taken>,
}

/// GPUs whose proofs will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unproven {
    pub lacking: u32,
    pub free: u32,
}

impl Capacity {
    /// From here on only GPUs are free whose proofs are what is demanded.
    pub(super) fn put_screen(&mut self, needs: &Needs, at: Timestamp) {
        if self.screen.up == needs.proof {
            return;
        }
        self.take_down();
        let Some(need) = needs.proof else { return };
        if !self.screen.lacking.contains_key(&need) {
            let lacking = self.lacking(needs, at);
            self.screen.lacking.insert(need, lacking);
        }
        self.screen.up = Some(need);
        let lacking = self.screen.lacking.get(&need).map_or(&[][..], Vec::as_slice);
        for (node, gpus) in lacking {
            for taken in self.fleet.left_of(*node, *gpus) {
                if self.fleet.take(&taken) {
                    self.screen.taken.push(taken);
                }
            }
        }
    }

    fn take_down(&mut self) {
        self.screen.up = None;
        for taken in self.screen.taken.drain(..) {
            self.fleet.free_part(&taken);
        }
    }

    /// All that is free is free for everybody again.
    pub(crate) fn lift_screen(&mut self) {
        self.take_down();
        self.screen.lacking.clear();
    }

    /// GPUs that will not do, by their places on their nodes.
    fn lacking(&self, needs: &Needs, at: Timestamp) -> Vec<(NodeIndex, GpuMask)> {
        let mut lacking = Vec::new();
        for (id, known) in &self.known {
            let Some(node) = self.seen.get(id) else { continue };
            for (index, shape) in &known.shapes {
                let class = &self.classes[usize::from(shape.class.0)];
                let of_class = of_class(node, class).zip(0u8..);
                let gpus = of_class
                    .filter(|(gpu, _)| !proofs::will_do(needs, gpu, at))
                    .fold(GpuMask(0), |all, (_, place)| all.with(GpuMask::one(place)));
                if gpus != GpuMask(0) {
                    lacking.push((*index, gpus));
                }
            }
        }
        lacking
    }

    /// What keeps the job from a place, its demand of proofs aside, and how many of the GPUs that
    /// are free for it do not meet that demand, if it is what binds.
    pub(crate) fn binding(&mut self, spec: &JobSpec, at: Timestamp) -> Result<(), Binding> {
        if let Some(shortage) = self.shortage(spec) {
            return Err(Binding::Room(shortage));
        }
        if spec.needs.proof.is_none() {
            return Ok(());
        }
        self.put_screen(&spec.needs, at);
        let is_short = self.shortage(spec).is_some();
        self.lift_screen();
        if !is_short {
            return Ok(());
        }
        let is_free = |gpu: &&Gpu| gpu.is_free() && fits::class_will_do(spec, &gpu.info.class);
        let usable = self.seen.values().filter(|node| node.is_usable());
        let gpus = usable.flat_map(Node::free).filter(is_free);
        let mut unproven = Unproven { lacking: 0, free: 0 };
        for gpu in gpus {
            unproven.free += 1;
            unproven.lacking += u32::from(!proofs::will_do(&spec.needs, gpu, at));
        }
        Err(Binding::Proofs(unproven))
    }
}

/// Why a job finds no place here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Binding {
    Room(Shortage),
    Proofs(Unproven),
}
