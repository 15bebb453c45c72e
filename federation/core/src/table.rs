//! The ordered maps that agreed state is made of: persistent, so that a reader's or a planner's
//! view is one cheap clone, and always iterated in the order of their keys.

mod tree;

use core::borrow::Borrow;
use core::fmt;
use core::ops::RangeBounds;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::{DecodeError, Field, Reader, Value, Wire};

use tree::Tree;

/// An ordered map of records whose clone shares all of them with the original. A record is copied
/// when it is written while a clone has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Table<K, V>(Tree<K, Arc<V>>);

/// An ordered map of small values, kept beside their keys. Otherwise as [`Table`].
#[derive(Clone, PartialEq, Eq)]
pub struct Index<K, V>(Tree<K, V>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Tree::default())
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(Tree::default())
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key).map(Arc::make_mut)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, Arc::new(value));
    }

    /// Takes the record out.
    pub fn take<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).map(Arc::unwrap_or_clone)
    }

    /// True if nothing was written since both were one. Costs the same however large they are.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }

    /// Shows the keys of records that only one of two tables has, or that were written since both
    /// were one. Costs about as much as was written.
    pub(crate) fn changed_since<'a>(&'a self, other: &'a Self, visit: impl FnMut(&'a K)) {
        tree::diff(&self.0, &other.0, Arc::ptr_eq, visit);
    }

    fn value(stored: &Arc<V>) -> &V {
        stored
    }
}

impl<K: Ord + Clone, V: Clone> Index<K, V> {
    /// True if nothing was written since both were one. Costs the same however large they are.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }

    fn value(stored: &V) -> &V {
        stored
    }
}

/// What both kinds do alike.
macro_rules! reads {
    ($($name:ident),*) => {$(
        impl<K: Ord + Clone, V: Clone> $name<K, V> {
            #[must_use]
            pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
            where
                K: Borrow<Q>,
            {
                self.0.get(key).map(Self::value)
            }

            #[must_use]
            pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
            where
                K: Borrow<Q>,
            {
                self.0.get(key).is_some()
            }

            #[must_use]
            pub fn len(&self) -> usize {
                self.0.len()
            }

            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.len() == 0
            }

            pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
                self.0.iter().map(|(key, value)| (key, Self::value(value)))
            }

            pub fn keys(&self) -> impl Iterator<Item = &K> {
                self.0.iter().map(|(key, _)| key)
            }

            pub fn values(&self) -> impl Iterator<Item = &V> {
                self.0.iter().map(|(_, value)| Self::value(value))
            }

            pub fn range<Q, R>(&self, range: R) -> impl Iterator<Item = (&K, &V)>
            where
                K: Borrow<Q>,
                Q: Ord + ?Sized,
                R: RangeBounds<Q>,
            {
                self.0.range(range).map(|(key, value)| (key, Self::value(value)))
            }

            /// Adds an entry behind all others; false, and nothing done, if its key does not
            /// stand there.
            pub fn append(&mut self, key: K, value: V) -> bool {
                let stands_last = self.0.last().is_none_or(|(last, _)| *last < key);
                if stands_last {
                    self.insert(key, value);
                }
                stands_last
            }

            pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
            where
                K: Borrow<Q>,
            {
                self.0.remove(key).is_some()
            }
        }

        impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for $name<K, V> {
            fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
                let mut made = Self::default();
                for (key, value) in pairs {
                    made.insert(key, value);
                }
                made
            }
        }

        impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.iter()).finish()
            }
        }

        /// Encoded as protobuf's map: one entry message per pair.
        impl<K: Value + Ord + Clone, V: Value + Clone> Field for $name<K, V> {
            type Slot = BTreeMap<K, V>;

            fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
                for (key, value) in self.iter() {
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
                Ok(slot.into_iter().collect())
            }
        }
    )*};
}

reads!(Table, Index);

#[cfg(test)]
mod tests;
