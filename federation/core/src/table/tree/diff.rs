//! Where two versions of a tree differ. What they share is passed over whole, so that it costs
//! about as much as was written between them.

use core::cmp::Ordering;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Node, Tree};

/// What is left to be compared of one version, the first at the end.
struct Rest<'a, K, V>(Vec<Piece<'a, K, V>>);

enum Piece<'a, K, V> {
    Node(&'a Arc<Node<K, V>>),
    Entries(&'a [K], &'a [V]),
}

/// Calls `visit` with each key that only one version has, or with values that are not the `same`,
/// in order.
pub(in crate::table) fn diff<'a, K: Ord, V>(
    one: &'a Tree<K, V>,
    other: &'a Tree<K, V>,
    same: impl Fn(&V, &V) -> bool,
    mut visit: impl FnMut(&'a K),
) {
    let mut one = Rest::of(one);
    let mut other = Rest::of(other);
    loop {
        match (one.0.last(), other.0.last()) {
            (None, None) => return,
            (Some(Piece::Node(a)), Some(Piece::Node(b))) => {
                if Arc::ptr_eq(a, b) {
                    one.0.pop();
                    other.0.pop();
                    continue;
                }
                // The higher is opened first, so that what is shared stands at one height.
                let (a, b) = (height(a), height(b));
                if a >= b {
                    one.open();
                }
                if b >= a {
                    other.open();
                }
            }
            (Some(Piece::Node(_)), _) => one.open(),
            (_, Some(Piece::Node(_))) => other.open(),
            (Some(Piece::Entries(..)), None) => one.step().into_iter().for_each(&mut visit),
            (None, Some(Piece::Entries(..))) => other.step().into_iter().for_each(&mut visit),
            (Some(Piece::Entries(keys, values)), Some(Piece::Entries(others, against))) => {
                let order = match (keys.first(), others.first()) {
                    (Some(key), Some(other)) => key.cmp(other),
                    (None, _) => Ordering::Less,
                    (_, None) => Ordering::Greater,
                };
                let is_same = order == Ordering::Equal
                    && values.first().zip(against.first()).is_some_and(|(a, b)| same(a, b));
                let stepped = match order {
                    Ordering::Less => one.step(),
                    Ordering::Greater => other.step(),
                    Ordering::Equal => one.step().and(other.step()),
                };
                stepped.filter(|_| !is_same).into_iter().for_each(&mut visit);
            }
        }
    }
}

fn height<K, V>(node: &Arc<Node<K, V>>) -> usize {
    let (mut node, mut height) = (node, 0);
    while let Node::Inner(inner) = &**node {
        let Some(first) = inner.children.first() else { break };
        (node, height) = (first, height + 1);
    }
    height
}

impl<'a, K, V> Rest<'a, K, V> {
    fn of(tree: &'a Tree<K, V>) -> Self {
        Self(tree.root.iter().map(Piece::Node).collect())
    }

    /// Puts in place of the first node what it holds.
    fn open(&mut self) {
        let Some(Piece::Node(node)) = self.0.last() else { return };
        let node: &'a Arc<Node<K, V>> = node;
        self.0.pop();
        match &**node {
            Node::Leaf(leaf) => self.0.push(Piece::Entries(&leaf.keys, &leaf.values)),
            Node::Inner(inner) => self.0.extend(inner.children.iter().rev().map(Piece::Node)),
        }
    }

    /// Goes behind the first entry; its key, if there was one.
    fn step(&mut self) -> Option<&'a K> {
        let Some(Piece::Entries(keys, values)) = self.0.last_mut() else { return None };
        let first = keys.first();
        (*keys, *values) = (keys.get(1..).unwrap_or_default(), values.get(1..).unwrap_or_default());
        if keys.is_empty() {
            self.0.pop();
        }
        first
    }
}
