//! S7: no process of a job runs at a site that its policy forbids. Source: the design, promise S7.
//! The rule is written down here a second time.

use specs::id::{Country, SiteId};
use specs::job::{DataNeed, JobSpec};
use specs::signals::DataSet;

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

/// Whether a data set may be used at a site, by what another, or itself, knows of it.
fn may_be_used(set: &DataSet, site: &SiteId, country: Country) -> bool {
    let of_union = UNION.contains(&country.as_str());
    let names = |it: &Country| *it == country || (it.as_str() == "EU" && of_union);
    (set.sites.is_empty() || set.sites.contains(site))
        && (set.countries.is_empty() || set.countries.iter().any(names))
}

/// Whether a home's job may use its data at a site, by what both know of it.
pub(crate) fn lets_data_go(world: &World, (home, at): (usize, usize), data: &[DataNeed]) -> bool {
    let site = &world.sites[at];
    [home, at].into_iter().all(|knows| {
        let sets = &world.sites[knows].log.latest().data_sets;
        let known = data.iter().filter_map(|need| sets.get(&need.name));
        known.into_iter().all(|set| may_be_used(set, &site.name, site.country))
    })
}

/// What the job reads, as its home has it: a host of an earlier version does not keep that.
fn read_by(world: &World, process: &Process) -> Vec<DataNeed> {
    let home = world.sites.iter().find(|site| site.name == process.known.home);
    let job = home.and_then(|home| home.log.latest().jobs.get(&process.known.job));
    job.map_or_else(|| process.spec.data.clone(), |job| job.spec().data.clone())
}

pub(crate) fn on_start(world: &World, part: &Executing, process: &Process) -> Found {
    let site = &world.sites[part.at.site];
    let is_home = process.known.home == site.name;
    let spills = is_home || process.spec.placement.spill;
    let mut found = Found::new();
    if !spills || !allows(&process.spec, &site.name, site.country) {
        let detail = format!("{} runs at {} in {}", process.known.job, site.name, site.country);
        found.push(("S7: residency holds", detail));
    }
    let data = read_by(world, process);
    for knows in [&process.known.home, &site.name] {
        let Some(knows) = world.sites.iter().find(|it| it.name == *knows) else { continue };
        for need in &data {
            let set = knows.log.latest().data_sets.get(&need.name);
            if set.is_some_and(|set| !may_be_used(set, &site.name, site.country)) {
                let (job, name, rule) = (process.known.job, &need.name, &knows.name);
                let detail = format!("{job} uses {name} at {}, which {rule} forbids", site.name);
                found.push(("S7: data stays where it may be", detail));
            }
        }
    }
    found
}

/// Whether a process reads data sets of which anybody knows where they may be used.
pub(crate) fn reads_data(world: &World, process: &Process) -> bool {
    let data = read_by(world, process);
    let known = |need: &DataNeed| {
        world.sites.iter().any(|site| site.log.latest().data_sets.contains(&need.name))
    };
    data.iter().any(known)
}
