//! S7: no process of a job runs at a site that its policy forbids. Source: the design, promise S7.
//! The rule is written down here a second time.

use specs::id::{Country, SiteId};
use specs::job::JobSpec;

use crate::invariant::Found;
use crate::oracle::Executing;
use crate::supervisor::Process;
use crate::world::World;

/// Of the countries in these worlds, those of the Union.
const UNION: [&str; 3] = ["DE", "FI", "FR"];

/// Whether a job may run at a site.
pub(crate) fn allows(spec: &JobSpec, site: &SiteId, country: Country) -> bool {
    let placement = &spec.placement;
    let of_union = UNION.contains(&country.as_str());
    let mut countries = placement.residency.iter();
    (placement.sites.is_empty() || placement.sites.contains(site))
        && (placement.residency.is_empty()
            || countries.any(|it| *it == country || (it.as_str() == "EU" && of_union)))
}

pub(crate) fn on_start(world: &World, part: &Executing, process: &Process) -> Found {
    let site = &world.sites[part.at.site];
    let is_home = process.known.home == site.name;
    let spills = is_home || process.spec.placement.spill;
    if spills && allows(&process.spec, &site.name, site.country) {
        return Found::new();
    }
    let detail = format!("{} runs at {} in {}", process.known.job, site.name, site.country);
    vec![("S7: residency holds", detail)]
}
