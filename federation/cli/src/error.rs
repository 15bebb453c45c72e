//! How a command ends when it does not end well: what stderr says, and the exit code.

use std::io;
use std::path::Path;

use specs::fault::{Fault, FaultCode};
use specs::jobfile::JobFileError;

/// A job's end that is not the job's own doing: lost, refused or cancelled.
pub(crate) const EXIT_NOT_THE_JOB: u8 = 125;
/// The time to wait for a job ran out.
pub(crate) const EXIT_WAITED_ENOUGH: u8 = 124;
/// Ctrl-C.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

pub(crate) type Outcome<T> = Result<T, Failure>;

/// Why a command stops.
#[derive(Debug)]
pub(crate) enum Failure {
    Fault {
        fault: Fault,
        /// What to name when asking about it, or to repeat it with; empty if nothing was asked.
        request: String,
    },
    JobFile(JobFileError),
    /// All is said already.
    Exit(u8),
    /// Nobody reads the output any more.
    Closed,
}

impl Failure {
    pub(crate) fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self::from(Fault::new(code, message))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(FaultCode::InvalidArgument, message)
    }

    /// A file or a directory that cannot be used.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is the standard library's")]
    pub(crate) fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => FaultCode::NotFound,
            io::ErrorKind::PermissionDenied => FaultCode::Forbidden,
            io::ErrorKind::StorageFull => FaultCode::DiskFull,
            // The other kinds have no code of their own.
            _ => FaultCode::Internal,
        };
        Self::new(code, format!("cannot {action} {}: {error}", path.display()))
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Fault { fault, request } => Self::Fault { fault: fault.with_hint(hint), request },
            Self::JobFile(_) | Self::Exit(_) | Self::Closed => self,
        }
    }

    pub(crate) fn with_request(self, request: impl Into<String>) -> Self {
        match self {
            Self::Fault { fault, .. } => Self::Fault { fault, request: request.into() },
            Self::JobFile(_) | Self::Exit(_) | Self::Closed => self,
        }
    }

    pub(crate) fn code(&self) -> Option<FaultCode> {
        match self {
            Self::Fault { fault, .. } => Some(fault.code),
            Self::JobFile(_) => Some(FaultCode::InvalidArgument),
            Self::Exit(_) | Self::Closed => None,
        }
    }

    /// What went wrong, on one line; empty if there is nothing to say.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Fault { fault, .. } => fault.message.lines().next().unwrap_or_default(),
            Self::JobFile(error) => error.reason(),
            Self::Exit(_) | Self::Closed => "",
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Fault { fault, .. } => fault.code.exit_code(),
            Self::JobFile(_) => FaultCode::InvalidArgument.exit_code(),
            Self::Exit(code) => *code,
            Self::Closed => 0,
        }
    }

    /// What stderr says, in the form that scripts may rely on; empty if there is nothing to say.
    pub(crate) fn text(&self) -> String {
        let (code, what, hint, request) = match self {
            Self::Fault { fault, request } => {
                (fault.code, fault.message.clone(), fault.hint.as_str(), request.as_str())
            }
            // Its text has the place and the hint in it.
            Self::JobFile(error) => (FaultCode::InvalidArgument, error.to_string(), "", ""),
            Self::Exit(_) | Self::Closed => return String::new(),
        };
        let hint = if hint.is_empty() { String::new() } else { format!("  hint: {hint}\n") };
        let request = if request.is_empty() { "-" } else { request };
        format!("error[{code}]: {what}\n{hint}  code={code} request={request}\n")
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault { fault, request: String::new() }
    }
}

impl From<JobFileError> for Failure {
    fn from(error: JobFileError) -> Self {
        Self::JobFile(error)
    }
}

/// Output that cannot be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::new(FaultCode::Internal, format!("cannot write the output: {error}"))
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_the_form_that_scripts_rely_on() {
        let failure = Failure::new(FaultCode::NotFound, "there is no job `x`")
            .with_hint("see `federation job ls`")
            .with_request("req_1");
        let text = "error[not-found]: there is no job `x`\n  hint: see `federation job ls`\n  \
                    code=not-found request=req_1\n";
        assert_eq!(failure.text(), text);
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn nothing_asked_leaves_the_request_empty() {
        let text = "error[invalid-argument]: no\n  code=invalid-argument request=-\n";
        assert_eq!(Failure::usage("no").text(), text);
    }
}
