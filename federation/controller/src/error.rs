//! What ends a verb of this crate before it began.

use std::fmt::Display;
use std::path::Path;

use specs::fault::{Fault, FaultCode};

/// A failure with the code, the words and the hint that a user sees.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ControllerError(Fault);

impl ControllerError {
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.0
    }

    pub(crate) fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self(Fault::new(code, message))
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.with_hint(hint))
    }

    /// A file that could not be read or written.
    pub(crate) fn file(doing: &str, path: &Path, error: impl Display) -> Self {
        Self::new(FaultCode::Internal, format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl From<Fault> for ControllerError {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}
