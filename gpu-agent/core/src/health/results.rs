//! The last burn-ins of a GPU that were judged.

use alloc::vec::Vec;

use specs::gpu::{BurnInEnd, BurnInResult, EarlierResults, RESULTS_MAX};

/// Whether it says something of the GPU.
pub(super) fn is_judged(it: &BurnInResult) -> bool {
    match it.end {
        BurnInEnd::Passed | BurnInEnd::Fault => true,
        BurnInEnd::Unknown | BurnInEnd::Interrupted => false,
    }
}

/// Adds one that came after all others. What has its number or a larger one is of a site that was
/// founded anew, or is the same.
pub(super) fn add(results: &mut Vec<BurnInResult>, it: BurnInResult) {
    results.retain(|before| before.number < it.number);
    results.push(it);
    results.drain(..results.len().saturating_sub(RESULTS_MAX));
}

/// All but the one that is told anyway.
pub(super) fn before(results: &[BurnInResult], last: &Option<BurnInResult>) -> EarlierResults {
    let told = last.as_ref().map(|last| last.number);
    let results = results.iter().filter(|it| Some(it.number) != told);
    EarlierResults { results: results.cloned().collect() }
}
