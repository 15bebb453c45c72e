//! A persistent ordered map: a B+tree whose nodes are shared between clones and copied when one of
//! them writes. An unshared tree is written in place.
//!
//! ```text
//!            inner [ k1 | k2 ]            keys[i] stands between children[i] and children[i + 1]
//!           /        |        \           and is no greater than any key of the latter
//!     leaf [..]   leaf [..]   leaf [..]
//! ```
//!
//! # Invariants
//! * All leaves are equally deep, and no node but the root is ever empty.
//! * A node that other trees share is never written.
//!
//! A node is not kept at least half full: entries that arrive in the order of their keys, as ids
//! that are stamped with the time do, fill each leaf and then open the next. A node that removals
//! have left small is merged when a neighbour has room for it.

mod diff;

use core::borrow::Borrow;
use core::ops::{Bound, RangeBounds};
use core::{iter, mem, slice};

use alloc::sync::Arc;
use alloc::vec::Vec;

pub(super) use diff::diff;

/// Most entries of a leaf. A write to a shared tree copies one leaf and the nodes above it.
pub(super) const LEAF_MAX: usize = 16;
/// Most children of an inner node.
pub(super) const INNER_MAX: usize = 32;
/// A full vector grows by so many: doubling would leave a leaf half empty.
const GROWTH: usize = 8;

#[derive(Debug)]
pub(super) struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Debug)]
enum Node<K, V> {
    Leaf(Leaf<K, V>),
    Inner(Inner<K, V>),
}

/// Invariant: as many values as keys, and the keys ascend.
#[derive(Debug)]
struct Leaf<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

/// Invariant: one key fewer than children, and the keys ascend.
#[derive(Debug)]
struct Inner<K, V> {
    keys: Vec<K>,
    children: Vec<Arc<Node<K, V>>>,
}

/// What an insertion did to a node.
enum Inserted<K, V> {
    Replaced(V),
    Added,
    /// The node was full: what stands behind the key is in a new one.
    Split(K, Node<K, V>),
}

/// Entries in the order of their keys.
#[derive(Debug)]
pub(super) struct Iter<'a, K, V> {
    /// What is left of the inner nodes above the leaf, the root first.
    above: Vec<slice::Iter<'a, Arc<Node<K, V>>>>,
    keys: slice::Iter<'a, K>,
    values: slice::Iter<'a, V>,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (self.is_same(other) || self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Tree<K, V> {}

impl<K, V> Tree<K, V> {
    /// True if nothing was written since both were one, or both are empty.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter::empty();
        iter.descend(self.root.as_deref(), |_| 0, |_| 0);
        iter
    }

    pub(super) fn last(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.keys.last().zip(leaf.values.last()),
                Node::Inner(inner) => node = inner.children.last()?,
            }
        }
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.values.get(leaf.find(key).ok()?),
                Node::Inner(inner) => node = inner.children.get(inner.child_of(key))?,
            }
        }
    }

    pub(super) fn range<'a, Q, R>(
        &'a self,
        range: R,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q, R>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        let mut iter = Iter::empty();
        let root = self.root.as_deref();
        match range.start_bound() {
            Bound::Unbounded => iter.descend(root, |_| 0, |_| 0),
            Bound::Included(from) => iter.descend(
                root,
                |inner| inner.child_of(from),
                |leaf| leaf.keys.partition_point(|key| key.borrow() < from),
            ),
            Bound::Excluded(from) => iter.descend(
                root,
                |inner| inner.child_of(from),
                |leaf| leaf.keys.partition_point(|key| key.borrow() <= from),
            ),
        }
        iter.take_while(move |(key, _)| match range.end_bound() {
            Bound::Unbounded => true,
            Bound::Included(to) => (*key).borrow() <= to,
            Bound::Excluded(to) => (*key).borrow() < to,
        })
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// A missing key may cost a copy of the way to where it would be.
    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.find(key).ok()?;
                    return leaf.values.get_mut(at);
                }
                Node::Inner(inner) => {
                    let at = inner.child_of(key);
                    node = Arc::make_mut(inner.children.get_mut(at)?);
                }
            }
        }
    }

    /// The value that the key had.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(Leaf::of(key, value))));
            self.len = 1;
            return None;
        };
        match Arc::make_mut(root).insert(key, value) {
            Inserted::Replaced(value) => return Some(value),
            Inserted::Added => {}
            Inserted::Split(key, right) => {
                let children = alloc::vec![root.clone(), Arc::new(right)];
                *root = Arc::new(Node::Inner(Inner { keys: alloc::vec![key], children }));
            }
        }
        self.len += 1;
        None
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked up first: nothing is copied for a key that is not there.
        self.get(key)?;
        let root = self.root.as_mut()?;
        let value = Arc::make_mut(root).remove(key)?;
        self.len -= 1;
        if self.len == 0 {
            self.root = None;
            return Some(value);
        }
        while let Node::Inner(inner) = &**root {
            match inner.children.as_slice() {
                [only] => *root = only.clone(),
                _ => break,
            }
        }
        Some(value)
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.keys.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    fn max(&self) -> usize {
        match self {
            Self::Leaf(_) => LEAF_MAX,
            Self::Inner(_) => INNER_MAX,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        match self {
            Self::Leaf(leaf) => leaf.insert(key, value),
            Self::Inner(inner) => inner.insert(key, value),
        }
    }

    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf.find(key).ok()?;
                leaf.keys.remove(at);
                Some(leaf.values.remove(at))
            }
            Self::Inner(inner) => {
                let at = inner.child_of(key);
                let value = Arc::make_mut(inner.children.get_mut(at)?).remove(key)?;
                inner.settle(at);
                Some(value)
            }
        }
    }

    /// Takes in what follows. The caller has seen that both are equally deep.
    fn absorb(&mut self, key: K, right: Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(mut right)) => {
                left.keys.append(&mut right.keys);
                left.values.append(&mut right.values);
            }
            (Self::Inner(left), Self::Inner(mut right)) => {
                left.keys.push(key);
                left.keys.append(&mut right.keys);
                left.children.append(&mut right.children);
            }
            (Self::Leaf(_), Self::Inner(_)) | (Self::Inner(_), Self::Leaf(_)) => {
                unreachable!("neighbours are equally deep")
            }
        }
    }
}

impl<K, V> Leaf<K, V> {
    fn of(key: K, value: V) -> Self {
        let mut leaf = Self { keys: Vec::new(), values: Vec::new() };
        push_at(&mut leaf.keys, 0, key, LEAF_MAX);
        push_at(&mut leaf.values, 0, value, LEAF_MAX);
        leaf
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.keys.binary_search_by(|it| it.borrow().cmp(key))
    }
}

impl<K: Ord + Clone, V> Leaf<K, V> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        let at = match self.find(&key) {
            Ok(at) => return Inserted::Replaced(mem::replace(&mut self.values[at], value)),
            Err(at) => at,
        };
        if self.keys.len() < LEAF_MAX {
            self.put(at, key, value);
            return Inserted::Added;
        }
        // Behind the last: more are likely to follow there, and none here.
        if at == LEAF_MAX {
            return Inserted::Split(key.clone(), Node::Leaf(Self::of(key, value)));
        }
        let middle = LEAF_MAX / 2;
        let mut right =
            Self { keys: split(&mut self.keys, middle), values: split(&mut self.values, middle) };
        match at.checked_sub(middle) {
            Some(at) if at > 0 => right.put(at, key, value),
            _ => self.put(at, key, value),
        }
        Inserted::Split(right.keys[0].clone(), Node::Leaf(right))
    }

    fn put(&mut self, at: usize, key: K, value: V) {
        push_at(&mut self.keys, at, key, LEAF_MAX);
        push_at(&mut self.values, at, value, LEAF_MAX);
    }
}

impl<K, V> Inner<K, V> {
    /// Where the child is that has the key, if any has.
    fn child_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.keys.partition_point(|it| it.borrow() <= key)
    }
}

impl<K: Ord + Clone, V: Clone> Inner<K, V> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        let at = self.child_of(&key);
        let (key, right) = match Arc::make_mut(&mut self.children[at]).insert(key, value) {
            Inserted::Split(key, right) => (key, right),
            done @ (Inserted::Replaced(_) | Inserted::Added) => return done,
        };
        if self.children.len() < INNER_MAX {
            self.put(at, key, right);
            return Inserted::Added;
        }
        if at + 1 == INNER_MAX {
            let children = alloc::vec![Arc::new(right)];
            return Inserted::Split(key, Node::Inner(Self { keys: Vec::new(), children }));
        }
        let middle = INNER_MAX / 2;
        let mut other = Self {
            keys: split(&mut self.keys, middle),
            children: split(&mut self.children, middle),
        };
        let between = match self.keys.pop() {
            Some(between) => between,
            None => unreachable!("half of a full node has keys"),
        };
        match at.checked_sub(middle) {
            Some(at) => other.put(at, key, right),
            None => self.put(at, key, right),
        }
        Inserted::Split(between, Node::Inner(other))
    }

    /// Puts a node behind the child `at`.
    fn put(&mut self, at: usize, key: K, right: Node<K, V>) {
        push_at(&mut self.keys, at, key, INNER_MAX);
        push_at(&mut self.children, at + 1, Arc::new(right), INNER_MAX);
    }

    /// After a removal from a child: drops it if it is empty, merges it if it is small.
    fn settle(&mut self, at: usize) {
        let len = self.children[at].len();
        if len == 0 {
            self.children.remove(at);
            if !self.keys.is_empty() {
                self.keys.remove(at.saturating_sub(1));
            }
            return;
        }
        let max = self.children[at].max();
        if len > max / 4 {
            return;
        }
        // Some room is left, so that the next insertion does not split it again.
        let fits = |left: usize| {
            let pair = self.children.get(left..left + 2);
            pair.is_some_and(|pair| pair[0].len() + pair[1].len() <= max * 3 / 4)
        };
        let Some(left) = [at.checked_sub(1), Some(at)].into_iter().flatten().find(|it| fits(*it))
        else {
            return;
        };
        let right = Arc::unwrap_or_clone(self.children.remove(left + 1));
        let key = self.keys.remove(left);
        Arc::make_mut(&mut self.children[left]).absorb(key, right);
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    /// A copy is made to be written: it has room for a few more.
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(Leaf {
                keys: copy(&leaf.keys, LEAF_MAX),
                values: copy(&leaf.values, LEAF_MAX),
            }),
            Self::Inner(inner) => Self::Inner(Inner {
                keys: copy(&inner.keys, INNER_MAX),
                children: copy(&inner.children, INNER_MAX),
            }),
        }
    }
}

fn copy<T: Clone>(from: &[T], max: usize) -> Vec<T> {
    let mut to = Vec::with_capacity(from.len().next_multiple_of(GROWTH).min(max));
    to.extend_from_slice(from);
    to
}

fn push_at<T>(into: &mut Vec<T>, at: usize, item: T, max: usize) {
    if into.len() == into.capacity() {
        into.reserve_exact(GROWTH.min(max.saturating_sub(into.len()).max(1)));
    }
    into.insert(at, item);
}

fn split<T>(from: &mut Vec<T>, at: usize) -> Vec<T> {
    let right = from.split_off(at);
    from.shrink_to(at + GROWTH);
    right
}

impl<'a, K, V> Iter<'a, K, V> {
    fn empty() -> Self {
        Self { above: Vec::new(), keys: [].iter(), values: [].iter() }
    }

    /// Goes down to a leaf, by the child and to the entry that the caller picks.
    fn descend(
        &mut self,
        root: Option<&'a Node<K, V>>,
        child: impl Fn(&Inner<K, V>) -> usize,
        entry: impl Fn(&Leaf<K, V>) -> usize,
    ) {
        let mut next = root;
        while let Some(node) = next {
            match node {
                Node::Leaf(leaf) => {
                    let at = entry(leaf);
                    self.keys = leaf.keys.get(at..).unwrap_or_default().iter();
                    self.values = leaf.values.get(at..).unwrap_or_default().iter();
                    return;
                }
                Node::Inner(inner) => {
                    let mut children =
                        inner.children.get(child(inner)..).unwrap_or_default().iter();
                    next = children.next().map(|child| &**child);
                    self.above.push(children);
                }
            }
        }
    }

    fn next_leaf(&mut self) -> bool {
        while let Some(children) = self.above.last_mut() {
            if let Some(child) = children.next() {
                self.descend(Some(child), |_| 0, |_| 0);
                return true;
            }
            self.above.pop();
        }
        false
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = iter::zip(&mut self.keys, &mut self.values).next() {
                return Some(entry);
            }
            if !self.next_leaf() {
                return None;
            }
        }
    }
}

#[cfg(test)]
impl<K: Ord, V> Tree<K, V> {
    /// Panics if an invariant does not hold.
    pub(super) fn assert_sound(&self) {
        let Some(root) = &self.root else {
            assert_eq!(self.len, 0);
            return;
        };
        let mut depths = Vec::new();
        let counted = root.assert_sound(0, &mut depths, None, None);
        assert_eq!(counted, self.len);
        depths.dedup();
        assert_eq!(depths.len(), 1, "leaves are equally deep");
        if let Node::Inner(inner) = &**root {
            assert!(inner.children.len() > 1, "a root of one child");
        }
    }

    pub(super) fn leaves(&self) -> usize {
        let mut depths = Vec::new();
        if let Some(root) = &self.root {
            root.assert_sound(0, &mut depths, None, None);
        }
        depths.len()
    }
}

#[cfg(test)]
impl<K: Ord, V> Node<K, V> {
    fn assert_sound(
        &self,
        depth: usize,
        depths: &mut Vec<usize>,
        from: Option<&K>,
        to: Option<&K>,
    ) -> usize {
        assert!((1..=self.max()).contains(&self.len()), "{} of {}", self.len(), self.max());
        let keys = match self {
            Self::Leaf(leaf) => &leaf.keys,
            Self::Inner(inner) => &inner.keys,
        };
        assert!(keys.is_sorted_by(|one, next| one < next));
        assert!(from.is_none_or(|from| keys.iter().all(|key| from <= key)));
        assert!(to.is_none_or(|to| keys.iter().all(|key| key < to)));
        match self {
            Self::Leaf(leaf) => {
                assert_eq!(leaf.keys.len(), leaf.values.len());
                depths.push(depth);
                leaf.keys.len()
            }
            Self::Inner(inner) => {
                assert_eq!(inner.keys.len() + 1, inner.children.len());
                let child = |(at, child): (usize, &Arc<Self>)| {
                    let from = at.checked_sub(1).map(|at| &inner.keys[at]).or(from);
                    child.assert_sound(depth + 1, depths, from, inner.keys.get(at).or(to))
                };
                inner.children.iter().enumerate().map(child).sum()
            }
        }
    }
}
