//! The tree beside a `BTreeMap`, which says what is right.
#![allow(clippy::unwrap_used, reason = "tests")]

use core::fmt::Debug;
use core::ops::Bound;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::tree::{INNER_MAX, LEAF_MAX, Tree, diff};
use super::{Index, Table};

#[derive(Debug, Clone)]
enum Step {
    Insert(u16),
    Remove(u16),
    Change(u16),
    /// Removes what the range holds.
    Clear(u16, u16),
    /// Inserts so many keys in order.
    Run(u16, u16),
    /// Keeps a clone to the end.
    Keep,
    /// Goes on with a clone that was kept.
    Back(prop::sample::Index),
}

fn step(keys: u16) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..keys).prop_map(Step::Insert),
        8 => (0..keys).prop_map(Step::Remove),
        4 => (0..keys).prop_map(Step::Change),
        1 => (0..keys, 0..keys).prop_map(|(from, to)| Step::Clear(from, to)),
        1 => (0..keys, 0..keys).prop_map(|(from, to)| Step::Run(from, to)),
        1 => Just(Step::Keep),
        1 => any::<prop::sample::Index>().prop_map(Step::Back),
    ]
}

fn bounds() -> impl Strategy<Value = Bound<u16>> {
    let key = 0..700u16;
    prop_oneof![
        Just(Bound::Unbounded),
        key.clone().prop_map(Bound::Included),
        key.prop_map(Bound::Excluded),
    ]
}

/// The tree says the same as the model, read in every way, and is what it should be inside.
fn assert_same<K: Ord + Clone + Debug, V: Clone + Debug + PartialEq>(
    tree: &Tree<K, V>,
    model: &BTreeMap<K, V>,
) {
    tree.assert_sound();
    assert_eq!(tree.len(), model.len());
    assert!(tree.iter().eq(model.iter()), "{tree:?}\n{model:?}");
    assert_eq!(tree.last(), model.last_key_value());
    assert!(model.iter().all(|(key, value)| tree.get(key) == Some(value)));
}

fn apply(tree: &mut Tree<u16, u32>, model: &mut BTreeMap<u16, u32>, step: &Step, stamp: u32) {
    match *step {
        Step::Insert(key) => assert_eq!(tree.insert(key, stamp), model.insert(key, stamp)),
        Step::Remove(key) => assert_eq!(tree.remove(&key), model.remove(&key)),
        Step::Change(key) => {
            let (one, another) = (tree.get_mut(&key), model.get_mut(&key));
            assert_eq!(one, another);
            if let (Some(one), Some(another)) = (one, another) {
                (*one, *another) = (stamp, stamp);
            }
        }
        Step::Clear(from, to) => {
            for key in from..to {
                assert_eq!(tree.remove(&key), model.remove(&key));
            }
        }
        Step::Run(from, to) => {
            for key in from..to {
                assert_eq!(tree.insert(key, stamp), model.insert(key, stamp));
            }
        }
        Step::Keep | Step::Back(_) => {}
    }
}

fn assert_as_a_btree_map(steps: &[Step]) {
    let mut now = (Tree::default(), BTreeMap::new());
    let mut kept = alloc::vec![now.clone()];
    for (stamp, step) in (1..).zip(steps) {
        apply(&mut now.0, &mut now.1, step, stamp);
        match step {
            Step::Keep => kept.push(now.clone()),
            Step::Back(at) => {
                let at = at.index(kept.len());
                core::mem::swap(&mut now, &mut kept[at]);
            }
            Step::Insert(_)
            | Step::Remove(_)
            | Step::Change(_)
            | Step::Clear(..)
            | Step::Run(..) => {}
        }
        now.0.assert_sound();
        assert_eq!(now.0.len(), now.1.len());
    }
    kept.push(now);
    for (tree, model) in &kept {
        assert_same(tree, model);
    }
    for pair in kept.windows(2) {
        assert_eq!(pair[0].0 == pair[1].0, pair[0].1 == pair[1].1);
        let mut differing = Vec::new();
        diff(&pair[0].0, &pair[1].0, |a, b| a == b, |key| differing.push(*key));
        let keys: BTreeSet<u16> = pair[0].1.keys().chain(pair[1].1.keys()).copied().collect();
        let differs = |key: &u16| pair[0].1.get(key) != pair[1].1.get(key);
        assert!(differing.into_iter().eq(keys.into_iter().filter(differs)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_is_a_btree_map_whose_clones_never_change(
        steps in prop::collection::vec(step(3_000), 0..300)
    ) {
        assert_as_a_btree_map(&steps);
    }

    #[test]
    fn few_keys_are_split_and_merged_often(steps in prop::collection::vec(step(80), 0..400)) {
        assert_as_a_btree_map(&steps);
    }

    #[test]
    fn a_range_holds_what_lies_within_its_bounds(
        keys in prop::collection::btree_set(0..700u16, 0..500),
        from in bounds(),
        to in bounds(),
    ) {
        let tree: Index<u16, u16> = keys.iter().map(|key| (*key, key + 1)).collect();
        let within = |key: &u16| {
            let after = match from {
                Bound::Unbounded => true,
                Bound::Included(from) => *key >= from,
                Bound::Excluded(from) => *key > from,
            };
            let before = match to {
                Bound::Unbounded => true,
                Bound::Included(to) => *key <= to,
                Bound::Excluded(to) => *key < to,
            };
            after && before
        };
        let wanted: Vec<u16> = keys.into_iter().filter(within).collect();
        let found: Vec<u16> = tree.range((from, to)).map(|(key, _)| *key).collect();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn every_size_around_the_edges_of_nodes_grows_and_shrinks() {
    let edges = [0, 1, LEAF_MAX, LEAF_MAX * INNER_MAX, LEAF_MAX / 2 * INNER_MAX];
    let sizes = edges.iter().flat_map(|edge| edge.saturating_sub(1)..=edge + 1);
    for size in sizes {
        let orders: [&dyn Fn(usize) -> usize; 3] =
            [&|at| at, &|at| size - 1 - at, &|at| at * 7_919 % size.max(1)];
        for put in orders {
            for drop in orders {
                let mut model: BTreeMap<usize, usize> = (0..size).map(|at| (put(at), 1)).collect();
                let mut tree = Tree::default();
                for at in 0..size {
                    tree.insert(put(at), 1);
                }
                assert_same(&tree, &model);
                let full = (tree.clone(), model.clone());
                for at in 0..size {
                    assert_eq!(tree.remove(&drop(at)), model.remove(&drop(at)));
                    if at % 64 == 0 || at + 65 > size {
                        assert_same(&tree, &model);
                    }
                }
                assert_same(&full.0, &full.1);
            }
        }
    }
}

#[test]
fn keys_that_come_in_order_fill_the_leaves() {
    let size = 10_000;
    let mut table: Index<usize, ()> = Index::default();
    assert!((0..size).all(|key| table.append(key, ())));
    assert_eq!(table.0.leaves(), size.div_ceil(LEAF_MAX));
    assert!(!table.append(size - 1, ()), "the last key stands there");
    assert!(!table.append(3, ()), "a key before the last");
    assert_eq!(table.len(), size);
}

#[test]
fn a_table_that_was_emptied_piece_by_piece_keeps_few_leaves() {
    let mut table: Index<usize, ()> = (0..10_000).map(|key| (key, ())).collect();
    for key in (0..10_000).filter(|key| key % 16 != 0) {
        table.remove(&key);
    }
    assert_eq!(table.len(), 625);
    // At least an eighth full on average; far more in practice.
    assert!(table.0.leaves() <= 625 * 8 / LEAF_MAX, "{} leaves", table.0.leaves());
}

#[test]
fn only_what_is_written_is_copied() {
    let mut table: Table<u32, u32> = (0..1_000).map(|key| (key, key)).collect();
    let clone = table.clone();
    let at = |table: &Table<u32, u32>, key: u32| core::ptr::from_ref(table.get(&key).unwrap());
    assert_eq!(at(&table, 7), at(&clone, 7));
    *table.get_mut(&7).unwrap() = 70;
    assert_ne!(at(&table, 7), at(&clone, 7));
    assert_eq!(at(&table, 8), at(&clone, 8), "its neighbours are shared");
    let written = at(&table, 7);
    *table.get_mut(&7).unwrap() = 71;
    assert_eq!(at(&table, 7), written, "what nobody shares is written in place");
    assert_eq!((table.get(&7), clone.get(&7)), (Some(&71), Some(&7)));
    assert_eq!(table.take(&7), Some(71));
    assert_eq!(clone.get(&7), Some(&7));
}

#[test]
fn to_find_what_was_written_looks_at_little_else() {
    let before: Index<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
    let mut after = before.clone();
    after.insert(77_777, 0);
    after.insert(100_000, 0);
    after.remove(&5);
    let (mut looked_at, mut found) = (core::cell::Cell::new(0), Vec::new());
    let same = |a: &u32, b: &u32| {
        looked_at.set(looked_at.get() + 1);
        a == b
    };
    diff(&before.0, &after.0, same, |key| found.push(*key));
    assert_eq!(found, [5, 77_777, 100_000]);
    assert!(*looked_at.get_mut() <= 6 * LEAF_MAX, "{looked_at:?}");
}
