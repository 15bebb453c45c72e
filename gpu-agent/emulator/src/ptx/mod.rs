//! PTX: its text, and the program that is made of it.

mod lower;
mod op;
mod text;

pub(crate) use lower::{Kernel, Special, lower};
pub(crate) use op::{
    AtomKind, Bin32, Bin64, Class, Compare, Float, Fragments, Half, Instruction, Logic, MmaKind,
    Op, Space, Un32, Un64, Way, Width,
};
pub(crate) use text::parse;

use thiserror::Error;

/// Why a text is not a module that can run here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub(crate) struct PtxError {
    /// Counted from 1.
    pub line: usize,
    pub what: String,
}

impl PtxError {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// The kernels of a module.
pub(crate) struct Module {
    /// The architecture that its text is for: tenths of a compute capability, and whether for that alone.
    pub target: (u32, bool),
    pub kernels: Vec<Kernel>,
}

impl Module {
    /// Whether a GPU of this compute capability runs it.
    pub(crate) fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        let (target, is_own) = self.target;
        let has = major * 10 + minor;
        if is_own { has == target } else { has >= target }
    }

    /// # Errors
    /// The text is not PTX, or uses what this interpreter does not know; both are named.
    pub(crate) fn load(text: &str) -> Result<Self, PtxError> {
        let entries = parse(text)?;
        let kernels: Result<Vec<Kernel>, PtxError> = entries.iter().map(lower).collect();
        Ok(Self { target: text::target(text), kernels: kernels? })
    }
}
