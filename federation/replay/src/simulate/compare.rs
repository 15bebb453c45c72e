//! Several cases of one scenario, side by side.

use serde::Serialize;

use crate::read::Progress;
use crate::simulate::file::Simulation;
use crate::simulate::report::Report;
use crate::simulate::{SimulateError, simulate};

/// What one case showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseReport {
    pub case: String,
    #[serde(flatten)]
    pub report: Report,
}

/// What all cases showed, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub name: String,
    /// The sites are the same in all.
    pub cases: Vec<CaseReport>,
}

/// Runs each case.
///
/// # Errors
/// As [`simulate`]; a case that cannot be run is named.
pub fn compare(
    simulation: &Simulation,
    progress: &mut dyn Progress,
) -> Result<Comparison, SimulateError> {
    let mut cases = Vec::new();
    for case in &simulation.cases {
        let named = |fault| {
            let (case, fault) = (case.name.clone(), Box::new(fault));
            SimulateError::Case { case, fault }
        };
        let report = simulate(&case.scenario, progress).map_err(named)?;
        cases.push(CaseReport { case: case.name.clone(), report });
    }
    Ok(Comparison { name: simulation.name.clone(), cases })
}
