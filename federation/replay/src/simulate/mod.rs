//! What if: jobs of trace files, on sites that an operator makes up, in virtual time.
//!
//! ```text
//!   jobs, sites ─▶ scenario ─▶ engine ─┬▶ site: State, Leader, agents     ─▶ books ─▶ report
//!                                      └▶ site: State, Leader, agents
//! ```
//!
//! Each site is agreed state of `federation-core` with its leader, and each decision is the
//! core's: `plan` proposes, `apply` rechecks, a home draws loans on grants that a host made by its
//! lend rules, over the very reports and orders that controllers send.
//!
//! # Invariants
//! * How long a job will run is known to the engine alone: no spec, report or order has it.
//! * Equal scenarios give equal reports; chance is in the copies of jobs only.
//! * Between two instants nothing is lost, late or repeated, and nothing takes time: what the
//!   network, the log and the launch of a process cost is absent, and so are failures.
//!
//! Deliberately absent: CPU and memory of nodes, priorities, moving of data.

mod books;
pub mod compare;
mod engine;
pub mod file;
pub mod html;
mod plot;
pub mod prices;
mod report;
mod scenario;
mod site;
pub mod sweep;

use crate::read::Progress;
pub use crate::simulate::report::{Energy, Report, Series, SiteReport, Spill, Waits};
pub use crate::simulate::scenario::{
    Amount, LOAD_MAX, Layout, Lending, Manner, Pick, Policy, SITE_NODES_MAX, SITES_MAX, Said,
    Scenario, SiteSetup, Source,
};

/// Why a scenario cannot be simulated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SimulateError {
    #[error("{path}:{line}: {reason}")]
    Row { path: String, line: u64, reason: String },
    #[error("there are {count} sites; a simulation has 1 to {max}")]
    Sites { count: usize, max: usize },
    #[error("site `{name}` is there twice")]
    Repeated { name: String },
    #[error("there is no site `{name}`; there are: {has}")]
    NoSite { name: String, has: String },
    #[error("no job that needs a GPU was submitted in that time by that cluster")]
    NoJobs,
    #[error("{gpus} GPUs of `{name}` do not fill nodes of {per_node}")]
    Nodes { name: String, gpus: u32, per_node: u32 },
    #[error("no number of GPUs from {from} to {to} fills nodes of {per_node}")]
    Range { from: u32, to: u32, per_node: u32 },
    #[error("a load of {load} is not between 0 and {LOAD_MAX}")]
    Load { load: f64 },
    #[error("case `{case}`: {fault}")]
    Case { case: String, fault: Box<SimulateError> },
    #[error("a command was refused: {0}")]
    Refused(String),
    #[error("after {at_s} s an invariant of {site} does not hold: {detail}")]
    Broken { site: String, at_s: u64, detail: String },
    #[error("the simulation is wrong in itself: {0}")]
    Internal(&'static str),
}

/// Runs the scenario.
///
/// # Errors
/// It cannot be made of these jobs and sites.
pub fn simulate(scenario: &Scenario, progress: &mut dyn Progress) -> Result<Report, SimulateError> {
    run(scenario, false, progress)
}

/// As [`simulate`], and checks the invariants of agreed state after each command, which takes as
/// long as there is state: for tests.
///
/// # Errors
/// As there, or the first violation.
pub fn simulate_checked(scenario: &Scenario) -> Result<Report, SimulateError> {
    run(scenario, true, &mut crate::read::NoProgress)
}

fn run(
    scenario: &Scenario,
    is_checked: bool,
    progress: &mut dyn Progress,
) -> Result<Report, SimulateError> {
    let jobs = scenario.jobs()?;
    let outcome = engine::run(scenario, &jobs, is_checked, progress)?;
    Ok(report::told(scenario, &jobs, &outcome))
}
