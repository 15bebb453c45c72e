//! Where data sets are, how long they take to come, and where they may go.
//!
//! Spillway moves no data: tasks read it, wherever they run. What counts here is that one who runs
//! far from his data waits for it.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::id::{Country, DataName, SiteId};
use specs::job::{DataNeed, JobSpec};
use specs::signals::{DataSet, LINK_MBIT_DEFAULT, Link};
use specs::unit::Millis;

use crate::placement::fits::is_of_union;
use crate::state::State;

const UNION: &str = "EU";

/// Whether a country is among those allowed; all are if none is named.
pub(crate) fn allows(allowed: &[Country], country: Country) -> bool {
    let names = |it: &Country| *it == country || (it.as_str() == UNION && is_of_union(country));
    allowed.is_empty() || allowed.iter().any(names)
}

/// The first data set of the job that may not be used at the site, by what is known here.
pub(crate) fn forbidden<'a>(
    state: &'a State,
    spec: &'a JobSpec,
    site: &SiteId,
    country: Country,
) -> Option<(&'a DataName, &'a DataSet)> {
    let may_be = |set: &DataSet| {
        (set.sites.is_empty() || set.sites.contains(site)) && allows(&set.countries, country)
    };
    let known = spec
        .data
        .iter()
        .filter_map(|need| state.data_sets.get(&need.name).map(|set| (&need.name, set)));
    known.into_iter().find(|(_, set)| !may_be(set))
}

/// The job as a host is to see it: it may go nowhere that its data may not. Hosts know nothing of
/// this site's data sets, and check a job's own placement.
pub(crate) fn narrowed(state: &State, spec: Arc<JobSpec>) -> Arc<JobSpec> {
    let sets = || spec.data.iter().filter_map(|need| state.data_sets.get(&need.name));
    if sets().all(|set| set.sites.is_empty() && set.countries.is_empty()) {
        return spec;
    }
    let mut placement = spec.placement.clone();
    let mut is_empty = false;
    for set in sets() {
        is_empty |= !narrow_sites(&mut placement.sites, &set.sites);
        is_empty |= !narrow_countries(&mut placement.residency, &set.countries);
    }
    // A list that allows nothing must not become one that allows anything.
    if is_empty {
        placement.sites = state.own().cloned().into_iter().collect();
    }
    let mut spec = spec;
    Arc::make_mut(&mut spec).placement = placement;
    spec
}

/// False if nothing is left.
fn narrow_sites(allowed: &mut Vec<SiteId>, also: &[SiteId]) -> bool {
    if also.is_empty() {
        return true;
    }
    if allowed.is_empty() {
        allowed.extend_from_slice(also);
        return true;
    }
    allowed.retain(|site| also.contains(site));
    !allowed.is_empty()
}

fn narrow_countries(allowed: &mut Vec<Country>, also: &[Country]) -> bool {
    if also.is_empty() {
        return true;
    }
    if allowed.is_empty() {
        allowed.extend_from_slice(also);
        return true;
    }
    let both = |one: &[Country], other: &[Country]| {
        let within = |it: &Country| {
            if it.as_str() == UNION { other.contains(it) } else { allows(other, *it) }
        };
        one.iter().copied().filter(within).collect::<Vec<_>>()
    };
    let mut left: BTreeSet<Country> = both(allowed, also).into_iter().collect();
    left.extend(both(also, allowed));
    let has_union = left.iter().any(|it| it.as_str() == UNION);
    left.retain(|it| !has_union || it.as_str() == UNION || !is_of_union(*it));
    *allowed = left.into_iter().collect();
    !allowed.is_empty()
}

/// How large a data set is, as its home says it; else as the job does.
pub(crate) fn bytes_of(state: &State, need: &DataNeed) -> u64 {
    let known = state.data_sets.get(&need.name).map_or(0, |set| set.bytes);
    if known > 0 { known } else { need.bytes }
}

/// Bytes of the job's data that do not lie at a site that holds these.
pub(crate) fn missing(state: &State, spec: &JobSpec, held: &BTreeSet<DataName>) -> u64 {
    let missing = spec.data.iter().filter(|need| !held.contains(&need.name));
    missing.fold(0, |sum, need| sum.saturating_add(bytes_of(state, need)))
}

/// How long so much takes over a link.
pub(crate) fn time_to_bring(bytes: u64, link: Option<&Link>) -> Millis {
    let mbit = link.map_or(LINK_MBIT_DEFAULT, |link| link.mbit_per_second.max(1));
    let millis = u128::from(bytes) * 8 / (u128::from(mbit) * 1_000);
    Millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn countries(text: &str) -> Vec<Country> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    fn narrowed_to(one: &str, other: &str) -> Option<Vec<Country>> {
        let mut allowed = countries(one);
        narrow_countries(&mut allowed, &countries(other)).then_some(allowed)
    }

    #[test]
    fn only_what_both_allow_is_left() {
        let cases = [
            ("", "DE US", Some("DE US")),
            ("DE US", "", Some("DE US")),
            ("DE US", "US FR", Some("US")),
            ("EU US", "DE FR US", Some("DE FR US")),
            ("DE NO", "EU", Some("DE")),
            ("EU DE", "EU FR", Some("EU")),
            ("DE", "US", None),
            ("EU", "US", None),
        ];
        for (one, other, left) in cases {
            assert_eq!(narrowed_to(one, other), left.map(countries), "{one} and {other}");
            let turned = narrowed_to(other, one);
            assert_eq!(turned, left.map(countries), "{other} and {one}");
        }
    }

    #[test]
    fn sites_are_narrowed_too() {
        let sites = |text: &str| -> Vec<SiteId> {
            text.split_whitespace().map(|name| name.parse().unwrap()).collect()
        };
        let mut allowed = sites("a b");
        assert!(narrow_sites(&mut allowed, &[]) && narrow_sites(&mut allowed, &sites("b c")));
        assert_eq!(allowed, sites("b"));
        assert!(!narrow_sites(&mut allowed, &sites("c")));
    }

    #[test]
    fn two_terabytes_take_half_an_hour_at_ten_gigabits() {
        let link = Link { mbit_per_second: 10_000 };
        assert_eq!(time_to_bring(2_250_000_000_000, Some(&link)), Millis(1_800_000));
        assert_eq!(time_to_bring(125_000_000, None), Millis(1_000));
        assert_eq!(time_to_bring(u64::MAX, None).0, 147_573_952_589_676);
    }
}
