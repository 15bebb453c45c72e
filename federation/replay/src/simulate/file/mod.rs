//! A scenario as a file, in YAML, TOML or JSON, and what it compares.
//!
//! It is written and read like a job's file: an unknown field, a wrong value or a file of jobs that
//! cannot be used is an error that names the line. `specs/examples/what-if.yaml` has every field.

mod convert;
mod raw;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use specs::jobfile::{FILE_BYTES_MAX, Format, JobFileError, read_as};

use crate::read::Progress;
use crate::simulate::scenario::Scenario;

/// Most cases of one file.
pub const CASES_MAX: usize = 8;

/// Why a file is not a scenario.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Form(#[from] JobFileError),
}

/// What is simulated, and under which name it is told.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub scenario: Scenario,
}

/// What a file asks for.
#[derive(Debug, Clone)]
pub struct Simulation {
    pub name: String,
    /// At least one.
    pub cases: Vec<Case>,
    /// Where the page goes.
    pub html: Option<PathBuf>,
}

/// Reads the file, and the files of jobs and prices that it names, from where it lies.
///
/// # Errors
/// It cannot be read, or is not a scenario.
pub fn read_file(path: &Path, progress: &mut dyn Progress) -> Result<Simulation, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    let most = FILE_BYTES_MAX as u64 + 1;
    let file = File::open(path).map_err(failed)?;
    file.take(most).read_to_string(&mut text).map_err(failed)?;
    let name = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(read_as(&text, Format::of(&name), &name, |raw| convert::simulation(raw, folder, progress))?)
}

/// The JSON Schema of a scenario, for editors. The copy in `specs/schemas/simulation.json` is this.
#[must_use]
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(raw::RawFile).to_value();
    // Another crate's features decide whether objects keep their order; the text may not.
    schema.sort_all_objects();
    format!("{schema:#}\n")
}
