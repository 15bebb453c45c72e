//! The three register files of a warp.

use super::{ALL, LANES};
use crate::ptx::Kernel;

pub(crate) type Words = [u32; LANES];
pub(crate) type Longs = [u64; LANES];

#[derive(Default)]
pub(crate) struct Registers {
    words: Vec<Words>,
    longs: Vec<Longs>,
    /// One bit for each lane.
    predicates: Vec<u32>,
}

impl Registers {
    pub(crate) fn new(kernel: &Kernel) -> Self {
        let (words, longs, predicates) = kernel.registers;
        let mut it = Self {
            words: vec![[0; LANES]; words],
            longs: vec![[0; LANES]; longs],
            predicates: vec![0; predicates],
        };
        for (reg, value) in &kernel.constants_32 {
            it.words[usize::from(*reg)] = [*value; LANES];
        }
        for (reg, value) in &kernel.constants_64 {
            it.longs[usize::from(*reg)] = [*value; LANES];
        }
        it
    }

    #[inline]
    pub(crate) fn word(&self, reg: u16) -> &Words {
        &self.words[usize::from(reg)]
    }

    #[inline]
    pub(crate) fn word_mut(&mut self, reg: u16) -> &mut Words {
        &mut self.words[usize::from(reg)]
    }

    #[inline]
    pub(crate) fn long(&self, reg: u16) -> &Longs {
        &self.longs[usize::from(reg)]
    }

    #[inline]
    pub(crate) fn long_mut(&mut self, reg: u16) -> &mut Longs {
        &mut self.longs[usize::from(reg)]
    }

    #[inline]
    pub(crate) fn predicate(&self, reg: u16) -> u32 {
        self.predicates[usize::from(reg)]
    }

    #[inline]
    pub(crate) fn set_words(&mut self, reg: u16, mask: u32, values: &Words) {
        let to = &mut self.words[usize::from(reg)];
        if mask == ALL {
            *to = *values;
        } else {
            for (lane, (to, value)) in to.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 == 1 {
                    *to = *value;
                }
            }
        }
    }

    #[inline]
    pub(crate) fn set_longs(&mut self, reg: u16, mask: u32, values: &Longs) {
        let to = &mut self.longs[usize::from(reg)];
        if mask == ALL {
            *to = *values;
        } else {
            for (lane, (to, value)) in to.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 == 1 {
                    *to = *value;
                }
            }
        }
    }

    #[inline]
    pub(crate) fn set_predicate(&mut self, reg: u16, mask: u32, values: u32) {
        let to = &mut self.predicates[usize::from(reg)];
        *to = *to & !mask | values & mask;
    }
}
