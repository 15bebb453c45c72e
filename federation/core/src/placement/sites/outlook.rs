//! What a host expects: how many nodes have how much free, and how long jobs wait there.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use specs::id::GpuClass;
use specs::job::JobSpec;
use specs::signals::{ClassOutlook, FreeNodes, WaitForecast};
use specs::unit::{GpuCount, Millis};

use crate::state::{Grant, State};

/// Starts that are remembered of each class and size.
const STARTS_MAX: usize = 64;
/// Of fewer nothing is concluded.
const STARTS_MIN: usize = 3;
/// Most classes and sizes of which anything is remembered.
const KINDS_MAX: usize = 256;
/// Most classes that a peer is heard on.
pub(crate) const CLASSES_MAX: usize = 256;
/// Gangs of up to so many nodes count as of one size.
const SIZES: [u32; 4] = [1, 8, 64, u32::MAX];

fn size(nodes: u32) -> u32 {
    SIZES.into_iter().find(|most| nodes <= *most).unwrap_or(u32::MAX)
}

/// How long jobs waited that started lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waits(BTreeMap<(GpuClass, u32), VecDeque<Millis>>);

impl Waits {
    /// A job has got its first place here after so long.
    pub(crate) fn record(&mut self, class: GpuClass, nodes: u32, waited: Millis) {
        let key = (class, size(nodes));
        if !self.0.contains_key(&key) && self.0.len() >= KINDS_MAX {
            return;
        }
        let starts = self.0.entry(key).or_default();
        if starts.len() >= STARTS_MAX {
            starts.pop_front();
        }
        starts.push_back(waited);
    }

    /// Three of four waited no longer; and who still waits may have waited for longer than that.
    fn forecasts(&self, class: &GpuClass, waiting: &Waiting) -> Vec<WaitForecast> {
        let forecast = |nodes_max: u32| {
            let key = (class.clone(), nodes_max);
            let starts = self.0.get(&key).filter(|starts| starts.len() >= STARTS_MIN);
            let usual = starts.and_then(|starts| quantile(starts.iter().copied().collect(), 3, 4));
            let present = waiting.0.get(&key).and_then(|ages| quantile(ages.clone(), 1, 2));
            let wait = usual.max(present)?;
            let starts = u32::try_from(starts.map_or(0, VecDeque::len)).unwrap_or(u32::MAX);
            Some(WaitForecast { nodes_max, wait, starts })
        };
        SIZES.into_iter().filter_map(forecast).collect()
    }
}

/// How long jobs have waited that still wait, by what they could run on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(BTreeMap<(GpuClass, u32), Vec<Millis>>);

impl Waiting {
    pub(crate) fn add(&mut self, spec: &JobSpec, classes: &[GpuClass], waited: Millis) {
        let wanted = if spec.gpu_classes.is_empty() { classes } else { &spec.gpu_classes };
        for class in wanted {
            self.0.entry((class.clone(), size(spec.nodes))).or_default().push(waited);
        }
    }
}

fn quantile(mut spans: Vec<Millis>, part: usize, of: usize) -> Option<Millis> {
    spans.sort_unstable();
    let at = (spans.len() * part).div_ceil(of).checked_sub(1)?;
    spans.get(at).copied()
}

/// What a host tells of each class: `free` are nodes by GPUs free on them.
pub(crate) fn outlook(
    state: &State,
    free: Vec<(GpuClass, Vec<FreeNodes>)>,
    waits: &Waits,
    waiting: &Waiting,
) -> Vec<ClassOutlook> {
    let mut idle: BTreeMap<GpuClass, GpuCount> = BTreeMap::new();
    for grant in state.grants.values() {
        for (class, gpus) in idle_of(state, grant) {
            let sum = idle.entry(class).or_default();
            *sum = sum.plus(gpus);
        }
    }
    let tell = |(class, free): (GpuClass, Vec<FreeNodes>)| ClassOutlook {
        free,
        reclaimable: idle.get(&class).copied().unwrap_or_default(),
        waits: waits.forecasts(&class, waiting),
        class,
    };
    free.into_iter().map(tell).collect()
}

/// GPUs of a grant that no guest uses.
fn idle_of<'a>(
    state: &'a State,
    grant: &'a Grant,
) -> impl Iterator<Item = (GpuClass, GpuCount)> + 'a {
    grant.slots.iter().filter_map(|slot| {
        let node = state.nodes.get(&slot.node).filter(|node| node.is_usable())?;
        let gpus = node.gpus.iter();
        let idle =
            gpus.filter(|it| it.grant == Some(grant.id) && it.lease.is_none() && it.is_fit());
        let idle = u32::try_from(idle.count()).unwrap_or(u32::MAX);
        Some((slot.class.clone(), GpuCount(idle)))
    })
}

/// Nodes that have at least so many GPUs free.
pub(crate) fn nodes_with(outlook: &ClassOutlook, gpus: GpuCount) -> u32 {
    let nodes = outlook.free.iter().filter(|free| free.gpus >= gpus);
    nodes.fold(0, |sum, free| sum.saturating_add(free.nodes))
}

/// How long a gang of so many nodes is forecast to wait.
pub(crate) fn wait_for(outlook: &ClassOutlook, nodes: u32) -> Option<Millis> {
    let of_size = outlook.waits.iter().find(|wait| nodes <= wait.nodes_max);
    of_size.map(|wait| wait.wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> GpuClass {
        "b200".parse().unwrap()
    }

    fn waits(spans: &[u64]) -> Waits {
        let mut waits = Waits::default();
        for span in spans {
            waits.record(class(), 1, Millis(*span));
        }
        waits
    }

    fn forecast(waits: &Waits, waiting: &Waiting) -> Vec<(u32, u64, u32)> {
        let told = waits.forecasts(&class(), waiting);
        told.iter().map(|it| (it.nodes_max, it.wait.0, it.starts)).collect()
    }

    #[test]
    fn three_of_four_waited_no_longer_than_is_forecast() {
        let none = Waiting::default();
        assert_eq!(forecast(&waits(&[4, 1, 3, 2]), &none), [(1, 3, 4)]);
        assert!(forecast(&waits(&[4, 1]), &none).is_empty(), "too few");
    }

    #[test]
    fn only_the_latest_starts_count() {
        let spans: Vec<u64> = (0..500).collect();
        let none = Waiting::default();
        assert_eq!(forecast(&waits(&spans), &none), [(1, 483, u32::try_from(STARTS_MAX).unwrap())]);
    }

    #[test]
    fn where_nothing_starts_those_who_wait_are_the_forecast() {
        let mut waiting = Waiting::default();
        let ages = waiting.0.entry((class(), 1)).or_default();
        ages.extend([Millis(100), Millis(700), Millis(900)]);
        assert_eq!(forecast(&waits(&[1, 1, 1]), &waiting), [(1, 700, 3)]);
        assert_eq!(forecast(&Waits::default(), &waiting), [(1, 700, 0)]);
    }
}
