//! The index of capacity against a reference that looks at every node for every ask.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod reference;

use federation_core::{
    Ask, AttributeIndex, Busy, ClassIndex, Fill, Fleet, FreeShape, GpuAsk, GpuMask, GroupIndex,
    LOOKED_AT_MAX, Level, NodeIndex, NodeShape, Placement, Scorer, Shortage, Together,
};
use reference::Reference;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(u32::try_from(of.len()).unwrap()) as usize]
    }
}

/// Few values of everything, so that nodes share shapes and asks meet them.
fn node(rng: &mut Rng) -> NodeShape {
    let gpus = rng.pick(&[1, 4, 4, 8]);
    let group = |rng: &mut Rng, groups| (!rng.one_in(4)).then(|| GroupIndex(rng.below(groups)));
    NodeShape {
        class: ClassIndex(u16::try_from(rng.below(2)).unwrap()),
        gpus,
        cpu_milli: gpus * rng.pick(&[4_000, 12_000]),
        memory_mib: gpus * rng.pick(&[1_000, 16_000]),
        hall: group(rng, 2),
        rack: group(rng, 5),
        domain: group(rng, 8),
        attributes: (0..2).filter(|_| rng.one_in(2)).map(AttributeIndex).collect(),
        machine_gpus: rng.pick(&[0, gpus, gpus, 2 * gpus]),
    }
}

fn ask(rng: &mut Rng) -> Ask {
    let gpus = match rng.below(4) {
        0 => GpuAsk::Milli(rng.pick(&[100, 250, 500, 900])),
        1 => GpuAsk::Whole(rng.pick(&[0, 1, 2])),
        _ => GpuAsk::Whole(rng.pick(&[1, 2, 4, 8])),
    };
    let nodes = rng.pick(&[1, 1, 1, 2, 3, 5]);
    let together = Together {
        level: rng.pick(&[Level::Hall, Level::Rack, Level::Domain]),
        required: rng.one_in(2),
        group: rng.pick(&[0, 0, 1, 2, 3]),
    };
    Ask {
        nodes,
        gpus,
        cpu_milli: rng.pick(&[0, 1_000, 4_000, 9_000]),
        memory_mib: rng.pick(&[0, 500, 4_000]),
        classes: rng.pick(&[&[][..], &[0], &[1, 0]]).iter().map(|it| ClassIndex(*it)).collect(),
        unordered: false,
        attributes: (0..2).filter(|_| rng.one_in(6)).map(AttributeIndex).collect(),
        exclusive: rng.one_in(8),
        together: rng.one_in(3).then_some(together),
        fill: rng.pick(&[Fill::Pack, Fill::Pack, Fill::Spread]),
        lent: rng.one_in(4),
        entire: rng.one_in(8),
    }
}

fn busy(rng: &mut Rng) -> Busy {
    Busy {
        gpus: GpuMask(u128::from(rng.below(256))),
        shares: (0..2).filter(|_| rng.one_in(3)).map(|gpu| (gpu, 300)).collect(),
        cpu_milli: rng.pick(&[0, 2_000, 50_000]),
        memory_mib: rng.pick(&[0, 700]),
        exclusive: rng.one_in(6),
    }
}

/// Likes tight GPUs and idle CPU; equal for many nodes, so that ties are met.
fn score(before: &FreeShape<'_>, after: &FreeShape<'_>) -> i64 {
    let loss = before.shared.iter().map(|it| i64::from(*it)).sum::<i64>()
        - after.shared.iter().map(|it| i64::from(*it)).sum::<i64>();
    loss / 100 + i64::from(after.cpu_milli / 4_000) - i64::from(after.whole)
}

/// A fleet and the reference, changed alike.
#[derive(Default)]
struct Both {
    fleet: Fleet,
    reference: Reference,
    placed: Vec<Placement>,
}

impl Both {
    fn any_node(&self, rng: &mut Rng) -> NodeIndex {
        NodeIndex(rng.below(u32::try_from(self.reference.nodes.len()).unwrap().max(1)))
    }

    fn add(&mut self, rng: &mut Rng) {
        let shape = node(rng);
        let at = self.fleet.add(&shape);
        self.reference.put(at, &shape);
    }

    fn remove(&mut self, node: NodeIndex) {
        let Some(known) = self.reference.nodes.get_mut(node.0 as usize) else { return };
        known.exists = false;
        self.fleet.remove(node);
        self.forget(node);
    }

    /// What was placed there is no longer given back.
    fn forget(&mut self, node: NodeIndex) {
        for placement in &mut self.placed {
            let kept = placement.parts.iter().filter(|part| part.node != node).cloned();
            placement.parts = kept.collect();
        }
    }

    fn change(&mut self, rng: &mut Rng) {
        let node = self.any_node(rng);
        let Some(known) = self.reference.nodes.get_mut(node.0 as usize) else { return };
        if !known.exists {
            return;
        }
        if rng.one_in(2) {
            known.usable = !known.usable;
            self.fleet.set_usable(node, known.usable);
        } else {
            let busy = busy(rng);
            known.set_busy(&busy);
            self.fleet.set_busy(node, &busy);
            self.forget(node);
        }
    }

    fn free(&mut self, rng: &mut Rng) {
        if self.placed.is_empty() {
            return;
        }
        let at = rng.below(u32::try_from(self.placed.len()).unwrap()) as usize;
        let placement = self.placed.swap_remove(at);
        for part in &placement.parts {
            self.reference.nodes[part.node.0 as usize].give(part);
        }
        self.fleet.free(&placement);
    }

    fn place(&mut self, rng: &mut Rng) {
        let ask = ask(rng);
        let class = self.reference.class_for(&ask);
        assert_eq!(self.fleet.could_hold(&ask), self.could_hold(&ask), "{ask:?}");
        let stands_together = ask.together.is_some() && ask.nodes > 1;
        if class.is_none() {
            let shortage = self.fleet.shortage(&ask);
            assert!(shortage.is_some() || stands_together, "nothing is said to be short: {ask:?}");
        }
        let got = if ask.nodes == 1 && rng.one_in(3) {
            let got = self.fleet.place_scored(&ask, &mut score);
            assert_eq!(got, self.reference.place_scored(&ask, &score), "{ask:?}");
            got
        } else {
            let got = self.fleet.place(&ask);
            if !stands_together {
                assert_eq!(got, self.reference.place(&ask), "{ask:?}");
            }
            got
        };
        assert_eq!(got.is_some(), class.is_some(), "{ask:?}");
        let Some(placement) = got else { return };
        assert_eq!(placement.nodes(), ask.nodes);
        for (at, part) in placement.parts.iter().enumerate() {
            let node = &mut self.reference.nodes[part.node.0 as usize];
            assert!(node.fits(&ask), "{ask:?} on {node:?}");
            assert_eq!(Some(node.shape.class), class, "a gang is of one class");
            assert!(placement.parts[..at].iter().all(|other| other.node != part.node));
            node.take(part);
        }
        self.check_groups(&ask, &placement);
        self.placed.push(placement);
    }

    /// The index may say that an ask fits which only its groups' memory or CPU forbids.
    fn could_hold(&self, ask: &Ask) -> bool {
        let mut ask = ask.clone();
        if ask.together.is_some_and(|together| together.required && together.group > 1) {
            return self.fleet.could_hold(&ask);
        }
        if let Some(together) = &mut ask.together {
            let is_plain = ask.cpu_milli == 0 && ask.memory_mib == 0 && ask.attributes.is_empty();
            if !is_plain && together.required {
                return self.fleet.could_hold(&ask);
            }
        }
        self.reference.could_hold(&ask)
    }

    fn check_groups(&self, ask: &Ask, placement: &Placement) {
        let Some(together) = ask.together.filter(|it| it.required) else { return };
        let size = if together.group == 0 { ask.nodes } else { together.group };
        for group in placement.parts.chunks(size as usize).filter(|group| group.len() > 1) {
            let of =
                |at: usize| self.reference.nodes[group[at].node.0 as usize].group(together.level);
            assert!(of(0).is_some() && (1..group.len()).all(|at| of(at) == of(0)), "{ask:?}");
        }
    }
}

#[test]
fn random_work_gives_what_looking_at_every_node_would_give() {
    for seed in 0..3_000 {
        let mut rng = Rng(seed);
        let mut both = Both::default();
        for _ in 0..rng.below(14) {
            both.add(&mut rng);
        }
        for _ in 0..60 {
            match rng.below(20) {
                0 => both.add(&mut rng),
                1 => {
                    let node = both.any_node(&mut rng);
                    both.remove(node);
                }
                2 | 3 => both.change(&mut rng),
                4..=9 => both.free(&mut rng),
                _ => both.place(&mut rng),
            }
        }
        assert_eq!(both.fleet.violations(), Vec::<String>::new(), "seed {seed}");
        for (at, node) in both.reference.nodes.iter().enumerate().filter(|(_, node)| node.exists) {
            let at = NodeIndex(u32::try_from(at).unwrap());
            assert_eq!(both.fleet.free_gpus(at).count(), node.whole(), "seed {seed}");
        }
    }
}

fn eights(nodes: u32, rack_nodes: u32) -> Fleet {
    let mut fleet = Fleet::new();
    for node in 0..nodes {
        fleet.add(&NodeShape {
            gpus: 8,
            cpu_milli: 128_000,
            memory_mib: 2_000_000,
            rack: Some(GroupIndex(node / rack_nodes)),
            ..NodeShape::default()
        });
    }
    fleet
}

fn in_one_rack(nodes: u32, gpus: u32) -> Ask {
    let together = Together { level: Level::Rack, required: true, group: 0 };
    Ask { together: Some(together), ..Ask::whole(nodes, gpus) }
}

#[test]
fn a_decision_looks_at_so_many_shapes_and_no_more() {
    let mut fleet = eights(LOOKED_AT_MAX + 500, 8);
    for node in 0..LOOKED_AT_MAX + 500 {
        let busy = Busy { memory_mib: node, ..Busy::default() };
        fleet.set_busy(NodeIndex(node), &busy);
    }
    let mut asked = 0;
    let mut count = |_: &FreeShape<'_>, _: &FreeShape<'_>| {
        asked += 1;
        0
    };
    assert!(fleet.place_scored(&Ask::whole(1, 8), &mut count).is_some());
    assert_eq!(asked, LOOKED_AT_MAX);
}

/// Likes what leaves most CPU, and looks at three shapes of a class.
struct Cheap(u32);

impl Scorer for Cheap {
    fn score(&mut self, _: &FreeShape<'_>, after: &FreeShape<'_>) -> i64 {
        self.0 += 1;
        i64::from(after.cpu_milli)
    }

    fn most(&self) -> u32 {
        3
    }
}

#[test]
fn a_scorer_chooses_among_classes_of_which_none_is_preferred() {
    let mut fleet = Fleet::new();
    for (class, cpu_milli) in [(0, 10), (0, 20), (0, 30), (0, 99), (1, 50), (2, 70)] {
        let class = ClassIndex(class);
        fleet.add(&NodeShape { class, gpus: 8, cpu_milli, ..NodeShape::default() });
    }
    let ask = Ask { classes: vec![ClassIndex(1), ClassIndex(0)], ..Ask::whole(1, 8) };
    let (mut preferred, mut any) = (Cheap(0), Cheap(0));
    let first = fleet.clone().place_scored(&ask, &mut preferred).unwrap();
    assert_eq!((first.parts[0].node, preferred.0), (NodeIndex(4), 1));
    let ask = Ask { unordered: true, ..ask };
    let best = fleet.clone().place_scored(&ask, &mut any).unwrap();
    // Three of the one class and one of the other; the fourth is not looked at.
    assert_eq!((best.parts[0].node, any.0), (NodeIndex(4), 4));
    let ask = Ask { classes: vec![], ..ask };
    assert_eq!(fleet.place_scored(&ask, &mut any).unwrap().parts[0].node, NodeIndex(5));
}

#[test]
fn a_shape_short_of_memory_is_passed_over_without_a_look_at_each_of_its_kind() {
    let mut fleet = eights(20_000, 8);
    for node in 0..20_000 {
        let busy = Busy { memory_mib: 1_900_000 + node, ..Busy::default() };
        fleet.set_busy(NodeIndex(node), &busy);
    }
    fleet.set_busy(NodeIndex(12_345), &Busy::default());
    let ask = Ask { memory_mib: 1_000_000, ..Ask::whole(1, 8) };
    let placement = fleet.place(&ask).unwrap();
    assert_eq!(placement.parts[0].node, NodeIndex(12_345));
    assert_eq!(fleet.place(&ask), None);
}

#[test]
fn a_gang_goes_to_the_rack_that_it_fills_best() {
    let mut fleet = eights(12, 4);
    let one = fleet.place(&in_one_rack(1, 8)).unwrap();
    assert_eq!(one.parts[0].node, NodeIndex(0));
    let three = fleet.place(&in_one_rack(3, 8)).unwrap();
    assert!(three.parts.iter().all(|part| part.node.0 < 4), "{three:?}");
    assert_eq!(fleet.place(&in_one_rack(5, 8)), None);
    assert_eq!(
        fleet.shortage(&in_one_rack(5, 8)),
        Some(Shortage::GroupTooSmall { level: Level::Rack, nodes: 4, wanted: 5 })
    );
    fleet.free(&one);
    fleet.free(&three);
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[test]
fn a_gang_that_would_rather_stand_together_takes_few_racks() {
    let mut fleet = eights(12, 4);
    fleet.place(&in_one_rack(2, 8)).unwrap();
    let together = Together { level: Level::Rack, required: false, group: 0 };
    let ask = Ask { together: Some(together), ..Ask::whole(6, 8) };
    let mut racks: Vec<u32> =
        fleet.place(&ask).unwrap().parts.iter().map(|part| part.node.0 / 4).collect();
    racks.dedup();
    assert_eq!(racks.len(), 2, "{racks:?}");
}

#[test]
fn what_binds_is_said_with_its_numbers() {
    let mut fleet = eights(8, 4);
    for node in [0, 4] {
        fleet.set_busy(NodeIndex(node), &Busy { gpus: GpuMask::first(1), ..Busy::default() });
    }
    let said = |ask: &Ask| fleet.shortage(ask);
    assert_eq!(said(&Ask::whole(6, 8)), None);
    assert_eq!(said(&Ask::whole(7, 8)), Some(Shortage::Gpus { nodes: 6, free: 62, total: 64 }));
    assert_eq!(said(&Ask::whole(9, 8)), Some(Shortage::TooFewNodes { nodes: 8 }));
    assert_eq!(
        said(&in_one_rack(4, 8)),
        Some(Shortage::Group { level: Level::Rack, nodes: 3, wanted: 4, free: 31 })
    );
    let other = Ask { classes: vec![ClassIndex(7)], ..Ask::whole(1, 1) };
    assert_eq!(said(&other), Some(Shortage::NoNode { of_class: 0 }));
    let mut fleet = eights(2, 2);
    let busy = Busy { cpu_milli: 127_000, ..Busy::default() };
    fleet.set_busy(NodeIndex(0), &busy);
    let ask = Ask { cpu_milli: 2_000, ..Ask::whole(2, 1) };
    assert_eq!(fleet.shortage(&ask), Some(Shortage::Rest { nodes: 1 }));
}

#[test]
fn what_is_out_of_bounds_is_refused_or_has_no_effect() {
    let mut fleet = eights(2, 2);
    assert_eq!(fleet.place(&Ask::whole(0, 1)), None);
    assert_eq!(fleet.place(&Ask::whole(u32::MAX, 1)), None);
    assert_eq!(fleet.place(&Ask::whole(1, u32::MAX)), None);
    assert_eq!(fleet.place(&Ask::share(0)), None);
    assert_eq!(fleet.place(&Ask::share(1_000)), None);
    let mut part = fleet.place(&Ask::whole(1, 8)).unwrap().parts[0].clone();
    assert!(!fleet.take(&part), "it is taken");
    part.node = NodeIndex(9);
    assert!(!fleet.take(&part));
    fleet.free_part(&part);
    fleet.remove(NodeIndex(9));
    fleet.set_busy(NodeIndex(9), &Busy::default());
    part.node = NodeIndex(1);
    part.gpus = GpuMask(u128::MAX);
    fleet.free_part(&part);
    assert_eq!(fleet.free_gpus(NodeIndex(1)), GpuMask::first(8));
    assert_eq!(fleet.violations(), Vec::<String>::new());
}
