//! What runs a program: blocks on SMs, warps in blocks, 32 lanes in a warp, and the memory that
//! they share, with the faults that were planted in all of them.

mod alu;
mod block;
mod matrix;
mod memory;
mod registers;
mod warp;

pub(crate) use block::{Launch, Sms, run};
pub(crate) use memory::{Memory, Pinned};

use thiserror::Error;

/// Why a kernel stopped before its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Stop {
    #[error("an access to {address:#x}, where no memory is")]
    BadAddress { address: u64 },
    #[error("an access to {address:#x}, which is not a multiple of its size")]
    Misaligned { address: u64 },
    #[error("only a part of a warp reached instruction {at}, which all its lanes must reach")]
    Divergent { at: usize },
    #[error("a launch of {0}, which is not known here")]
    Unsupported(&'static str),
}

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All of them.
pub(crate) const ALL: u32 = u32::MAX;
