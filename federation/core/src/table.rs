//! The ordered map that agreed state is made of: persistent, so that a reader's or a planner's
//! view is one cheap clone, and always iterated in the order of its keys.

use core::borrow::Borrow;
use core::ops::RangeBounds;

use rpds::RedBlackTreeMapSync;
use specs::codec::{DecodeError, Field, Reader, Value, Wire};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// An ordered map whose clone shares all entries with the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<K: Ord, V>(RedBlackTreeMapSync<K, V>);

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }

    /// Adds an entry behind all others; false, and nothing done, if its key does not stand there.
    pub(crate) fn append(&mut self, key: K, value: V) -> bool {
        let stands_last = self.0.last().is_none_or(|(last, _)| *last < key);
        if stands_last {
            self.0.insert_mut(key, value);
        }
        stands_last
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove_mut(key)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    pub fn range<Q, R>(&self, range: R) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        self.0.range(range)
    }
}

/// Encoded as protobuf's map: one entry message per pair.
impl<K: Value + Ord + Clone, V: Value + Clone> Field for Table<K, V> {
    type Slot = BTreeMap<K, V>;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        for (key, value) in self.0.iter() {
            specs::codec::put_entry(key, value, tag, out);
        }
    }

    fn fill(
        slot: &mut Self::Slot,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        BTreeMap::fill(slot, tag, wire, reader)
    }

    fn finish(slot: Self::Slot, _name: &'static str) -> Result<Self, DecodeError> {
        let mut table = Self::default();
        for (key, value) in slot {
            table.insert(key, value);
        }
        Ok(table)
    }
}
