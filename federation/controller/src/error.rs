//! What ends a verb of this crate before it began.

use std::error::Error;
use std::io;
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
    pub(crate) fn file(doing: &str, path: &Path, error: impl Error + 'static) -> Self {
        Self::because(&format!("cannot {doing} {}", path.display()), &error)
    }

    /// What was attempted, and all that stood in its way.
    pub(crate) fn because(what: &str, error: &(dyn Error + 'static)) -> Self {
        let (mut text, mut code) = (what.to_owned(), FaultCode::Internal);
        let mut cause = Some(error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if kind == Some(io::ErrorKind::StorageFull) {
                code = FaultCode::DiskFull;
            }
            cause = error.source();
        }
        let hint = if code == FaultCode::DiskFull { "make room on the disk" } else { "" };
        Self::new(code, text).hint(hint)
    }
}

impl From<Fault> for ControllerError {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}
