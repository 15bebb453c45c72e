//! Equal nodes whose GPUs are free or taken.

use std::collections::BTreeSet;

use crate::trace::WHOLE;

/// GPUs of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) node: u32,
    pub(crate) gpus: u32,
}

/// Where a gang stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Pieces(Vec<Piece>),
    /// A share of a GPU, by number of the shared GPU.
    Share {
        shared: u32,
        milli: u32,
    },
}

/// A GPU that several jobs share.
#[derive(Debug, Clone, Copy)]
struct Shared {
    node: u32,
    left: u32,
}

/// Equal nodes. The gang that needs a part of a node takes the tightest that holds it; a larger
/// one takes wholly free nodes, and a part of one more.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    per_node: u32,
    free: Vec<u32>,
    /// Nodes by how many GPUs they have free.
    by_free: Vec<BTreeSet<u32>>,
    free_total: u64,
    shared: Vec<Shared>,
    /// Shared GPUs with room: what is left, and the number.
    roomy: BTreeSet<(u32, u32)>,
    /// Numbers of shared GPUs that may be given again.
    spare: Vec<u32>,
}

impl Pool {
    pub(crate) fn new(nodes: u32, per_node: u32) -> Self {
        let mut by_free = vec![BTreeSet::new(); per_node as usize + 1];
        by_free[per_node as usize] = (0..nodes).collect();
        Self {
            per_node,
            free: vec![per_node; nodes as usize],
            by_free,
            free_total: u64::from(nodes) * u64::from(per_node),
            shared: Vec::new(),
            roomy: BTreeSet::new(),
            spare: Vec::new(),
        }
    }

    pub(crate) fn per_node(&self) -> u32 {
        self.per_node
    }

    pub(crate) fn nodes(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn gpus(&self) -> u64 {
        self.free.len() as u64 * u64::from(self.per_node)
    }

    pub(crate) fn free_total(&self) -> u64 {
        self.free_total
    }

    pub(crate) fn free_on(&self, node: u32) -> u32 {
        self.free[node as usize]
    }

    /// The nodes on which a gang stands.
    pub(crate) fn nodes_of(&self, place: &Place) -> Vec<u32> {
        match place {
            Place::Pieces(pieces) => pieces.iter().map(|piece| piece.node).collect(),
            &Place::Share { shared, .. } => vec![self.shared[shared as usize].node],
        }
    }

    /// Nodes with at least that many GPUs free, the tightest first.
    fn tightest(&self, gpus: u32) -> Option<u32> {
        self.by_free[gpus as usize..].iter().find_map(|nodes| nodes.first().copied())
    }

    /// Whether a gang of that size would find a place.
    pub(crate) fn fits(&self, gpus: u32, milli: u32) -> bool {
        if milli < WHOLE {
            let is_roomy = self.roomy.range((milli, 0)..).next().is_some();
            return is_roomy || self.free_total > 0;
        }
        if u64::from(gpus) > self.free_total {
            return false;
        }
        if gpus <= self.per_node {
            return self.tightest(gpus).is_some();
        }
        let (whole, rest) = (gpus / self.per_node, gpus % self.per_node);
        let free = self.by_free[self.per_node as usize].len();
        let partly = &self.by_free[rest as usize..self.per_node as usize];
        let has_rest = rest == 0 || partly.iter().any(|nodes| !nodes.is_empty());
        free >= whole as usize + usize::from(!has_rest)
    }

    fn set_free(&mut self, node: u32, gpus: u32) {
        let before = self.free[node as usize];
        self.by_free[before as usize].remove(&node);
        self.by_free[gpus as usize].insert(node);
        self.free[node as usize] = gpus;
        self.free_total = self.free_total + u64::from(gpus) - u64::from(before);
    }

    /// Takes a place for a gang of whole GPUs, or for one share of a GPU.
    pub(crate) fn place(&mut self, gpus: u32, milli: u32) -> Option<Place> {
        if !self.fits(gpus, milli) {
            return None;
        }
        if milli < WHOLE {
            return self.place_share(milli);
        }
        let mut pieces = Vec::new();
        let mut left = gpus;
        while left > 0 {
            let want = left.min(self.per_node);
            let node = self.tightest(want)?;
            self.set_free(node, self.free[node as usize] - want);
            pieces.push(Piece { node, gpus: want });
            left -= want;
        }
        Some(Place::Pieces(pieces))
    }

    fn place_share(&mut self, milli: u32) -> Option<Place> {
        let roomy = self.roomy.range((milli, 0)..).next().copied();
        let shared = if let Some((left, shared)) = roomy {
            self.roomy.remove(&(left, shared));
            shared
        } else {
            let node = self.tightest(1)?;
            self.set_free(node, self.free[node as usize] - 1);
            let opened = Shared { node, left: WHOLE };
            if let Some(shared) = self.spare.pop() {
                self.shared[shared as usize] = opened;
                shared
            } else {
                self.shared.push(opened);
                u32::try_from(self.shared.len() - 1).ok()?
            }
        };
        let it = &mut self.shared[shared as usize];
        it.left -= milli;
        self.roomy.insert((it.left, shared));
        Some(Place::Share { shared, milli })
    }

    /// Takes exactly these GPUs again, if all are still free.
    pub(crate) fn take_pieces(&mut self, pieces: &[Piece]) -> bool {
        let is_free = |piece: &Piece| self.free[piece.node as usize] >= piece.gpus;
        if !pieces.iter().all(is_free) {
            return false;
        }
        for piece in pieces {
            self.set_free(piece.node, self.free[piece.node as usize] - piece.gpus);
        }
        true
    }

    pub(crate) fn release(&mut self, place: &Place) {
        match place {
            Place::Pieces(pieces) => {
                for piece in pieces {
                    self.set_free(piece.node, self.free[piece.node as usize] + piece.gpus);
                }
            }
            &Place::Share { shared, milli } => {
                let Shared { node, left } = self.shared[shared as usize];
                self.roomy.remove(&(left, shared));
                if left + milli == WHOLE {
                    self.set_free(node, self.free[node as usize] + 1);
                    self.spare.push(shared);
                } else {
                    self.shared[shared as usize].left = left + milli;
                    self.roomy.insert((left + milli, shared));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(place: Option<Place>) -> Vec<(u32, u32)> {
        match place {
            Some(Place::Pieces(pieces)) => pieces.iter().map(|it| (it.node, it.gpus)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_small_gang_takes_the_tightest_node_and_a_large_one_whole_nodes() {
        let mut pool = Pool::new(4, 8);
        assert_eq!(pieces(pool.place(5, WHOLE)), [(0, 5)]);
        assert_eq!(pieces(pool.place(2, WHOLE)), [(0, 2)]);
        assert_eq!(pieces(pool.place(17, WHOLE)), [(1, 8), (2, 8), (0, 1)]);
        assert!(!pool.fits(9, WHOLE) && pool.fits(8, WHOLE));
    }

    #[test]
    fn what_is_released_is_free_again() {
        let mut pool = Pool::new(2, 8);
        let whole = pool.place(12, WHOLE).unwrap();
        let half = pool.place(1, 500).unwrap();
        let other = pool.place(1, 500).unwrap();
        assert_eq!(pool.free_total(), 3);
        pool.release(&half);
        assert_eq!(pool.free_total(), 3);
        pool.release(&other);
        pool.release(&whole);
        assert_eq!((pool.free_total(), pool.place(16, WHOLE).is_some()), (16, true));
    }
}
