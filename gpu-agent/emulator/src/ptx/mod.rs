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
    pub kernels: Vec<Kernel>,
}

impl Module {
    /// # Errors
    /// The text is not PTX, or uses what this interpreter does not know; both are named.
    pub(crate) fn load(text: &str) -> Result<Self, PtxError> {
        let entries = parse(text)?;
        let kernels: Result<Vec<Kernel>, PtxError> = entries.iter().map(lower).collect();
        Ok(Self { kernels: kernels? })
    }
}
