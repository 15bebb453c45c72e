//! What goes wrong, in the form in which users see it.

use std::io::{self, Write};
use std::path::Path;

use specs::fault::{Fault, FaultCode};

/// Turns an error of the disk into a fault that says what was attempted.
pub(crate) fn disk<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Fault + 'a {
    move |error| {
        let message = format!("cannot {action} {}: {error}", path.display());
        if error.kind() == io::ErrorKind::StorageFull {
            return Fault::new(FaultCode::DiskFull, message);
        }
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Fault::new(FaultCode::Forbidden, message)
                .with_hint("run the agent as the owner of the directory");
        }
        Fault::new(FaultCode::Internal, message)
    }
}

/// Writes a fault for people: what, and what to do about it.
///
/// # Errors
/// Nobody reads.
pub fn print_fault(fault: &Fault, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "error[{}]: {}", fault.code, fault.message)?;
    if !fault.hint.is_empty() {
        writeln!(out, "  hint: {}", fault.hint)?;
    }
    Ok(())
}
