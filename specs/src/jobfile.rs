//! Job files: what a tenant writes, parsed once into a [`JobSpec`](crate::job::JobSpec).
//!
//! ```text
//!   text ──tree──▶ values with positions ──serde──▶ RawJobFile ──TryFrom──▶ JobSpec
//!        (YAML, TOML: feature `files`)                 no_std, total
//! ```
//!
//! YAML and TOML become the same tree of values, so that the two forms cannot differ in what they
//! accept and an error of any step points at a line and a column.
//!
//! Deliberately absent: reading files. The caller has the text and the file's name.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

mod convert;
mod data;
mod needs;
mod raw;
#[cfg(feature = "files")]
mod text;
#[cfg(feature = "files")]
mod tree;

pub use convert::{API_VERSION, ENV_RESERVED, KIND, parse_span};
pub use raw::{
    OneOrMany, RawArray, RawData, RawGpus, RawHealth, RawJobFile, RawMetadata, RawPlacement,
    RawReplicas, RawResources, RawRetry, RawRun, RawSpec, RawTime, RawTopology,
};
#[cfg(feature = "files")]
pub use text::{FILE_BYTES_MAX, Format, read, read_as, schema};

/// Where in a job file: `spec.run.command[1]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(Vec<Step>);

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into a mapping, by name.
    Key(String),
    /// Into a list, counted from zero.
    Index(usize),
}

impl Path {
    /// A path of names, written with dots between them.
    #[must_use]
    pub fn of(dotted: &str) -> Self {
        Self(dotted.split('.').map(|name| Step::Key(name.to_owned())).collect())
    }

    /// This path and one name more; the name may hold dots.
    #[must_use]
    pub fn key(mut self, name: &str) -> Self {
        self.0.push(Step::Key(name.to_owned()));
        self
    }

    /// This path and one place in a list more.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// True for the whole file.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(feature = "files")]
    fn prepend(&mut self, step: Step) {
        self.0.insert(0, step);
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if nth == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Where an error is, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file_name: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What stands in that line.
    pub source_line: String,
}

/// Why a job file is not a job. Its text has several lines: what is wrong, the place with a
/// caret below it if the error came from a text, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFileError {
    path: Path,
    reason: String,
    hint: String,
    place: Option<Box<Place>>,
}

impl JobFileError {
    #[must_use]
    pub fn new(path: Path, reason: impl Into<String>) -> Self {
        Self { path, reason: reason.into(), hint: String::new(), place: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Which field; the root if the text could not be read at all.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What to do about it; may be empty.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// None for a file that never was text.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }

    #[cfg(feature = "files")]
    fn with_place(mut self, place: Place) -> Self {
        self.place = Some(Box::new(place));
        self
    }
}

/// Longest part of a source line that an error shows, in characters.
const SHOWN_MAX: usize = 96;

impl fmt::Display for JobFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_root() {
            write!(f, "`{}`: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        if let Some(place) = &self.place {
            write_place(place, f)?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

fn write_place(place: &Place, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Place { file_name, line, column, source_line } = place;
    // A long line is cut so that the caret stays in view; control characters would move it.
    let skipped = column.saturating_sub(SHOWN_MAX * 3 / 4);
    let shown = source_line.chars().skip(skipped).take(SHOWN_MAX);
    let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let margin = alloc::format!("{line}").len();
    let caret = column.saturating_sub(skipped);
    write!(f, "\n{:margin$}--> {file_name}:{line}:{column}", "")?;
    write!(f, "\n{:margin$} |", "")?;
    write!(f, "\n{line} | {}", shown.trim_end())?;
    write!(f, "\n{:margin$} | {:>caret$}", "", "^")
}

impl core::error::Error for JobFileError {}
