//! The index of capacity that leaders use, on the protocol's pods: as it fills up by itself, and by
//! the score. It is told the typical pods, where a leader counts what runs; and a pod that may have
//! several models prefers none of them.

use federation_core::score::Mix;
use federation_core::{Ask, ClassIndex, Fleet, GpuAsk, NodeShape, Taste};

use crate::fgd::cluster::{Node, Pod};
use crate::fgd::policy::Choice;
use crate::trace::WHOLE;

/// A fleet of the cluster's nodes, each class of which is one model of GPUs.
pub(super) struct Live {
    fleet: Fleet,
    taste: Option<Taste>,
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn class(model: u32) -> ClassIndex {
    ClassIndex(u16::try_from(model).unwrap_or(u16::MAX))
}

impl Live {
    pub(super) fn of(nodes: &[Node], mix: Option<&Mix>) -> Self {
        let mut fleet = Fleet::new();
        for node in nodes {
            fleet.add(&NodeShape {
                class: class(node.model),
                gpus: u32::try_from(node.left.len()).unwrap_or(u32::MAX),
                cpu_milli: small(node.cpu),
                memory_mib: small(node.mem),
                hall: None,
                rack: None,
                domain: None,
                attributes: Vec::new(),
                machine_gpus: 0,
            });
        }
        Self { fleet, taste: mix.map(|mix| Taste::of(mix.clone())) }
    }

    /// The node that the pod gets, by its place in the list, and the GPU that it shares.
    pub(super) fn place(&mut self, pod: &Pod) -> Option<(usize, Choice)> {
        let gpus = match u16::try_from(pod.milli) {
            Ok(milli) if pod.gpus == 1 && pod.milli < WHOLE => GpuAsk::Milli(milli),
            _ => GpuAsk::Whole(pod.gpus),
        };
        let models = pod.models.iter().flatten();
        let ask = Ask {
            gpus,
            cpu_milli: small(pod.cpu),
            memory_mib: small(pod.mem),
            classes: models.map(|model| class(*model)).collect(),
            unordered: true,
            ..Ask::whole(1, 0)
        };
        let placed = match &mut self.taste {
            Some(taste) => self.fleet.place_scored(&ask, taste),
            None => self.fleet.place(&ask),
        };
        let part = placed?.parts.first()?.clone();
        let gpu = part.share.map(|(gpu, _)| usize::from(gpu));
        Some((usize::try_from(part.node.0).ok()?, Choice { score: 0.0, gpu }))
    }
}
