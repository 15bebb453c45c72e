//! From what is written to what is meant.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use specs::job::{GPUS_PER_NODE_MAX, PRIORITY_MAX, Together, Vicinity};
use specs::jobfile::{API_VERSION, JobFileError, Path, parse_span};
use specs::quota::Limit;
use specs::unit::{GpuCount, Millis};

use super::raw::{
    RawCase, RawFile, RawLayout, RawLending, RawPolicy, RawPower, RawQuota, RawSite, RawSpec,
    RawTogether, RawWorkload,
};
use super::{CASES_MAX, Case, Simulation};
use crate::read::{Progress, ReadError};
use crate::simulate::prices::{Prices, read_prices};
use crate::simulate::scenario::{
    LOAD_MAX, Layout, Lending, Manner, Pick, Policy, SITE_NODES_MAX, Scenario, SiteSetup, Source,
};
use crate::simulate::sweep::Knob;
use crate::trace::{JobRow, Needs, read_jobs};

const KIND: &str = "Simulation";
/// As `--look` has it.
const LOOK: Millis = Millis(30_000);
/// As `--watts-per-gpu` has it.
const WATTS_PER_GPU: f64 = 1_000.0;
const WATTS_MAX: f64 = 100_000.0;
const PUE_MAX: f64 = 10.0;

type Made<T> = Result<T, JobFileError>;

fn wrong(path: Path, reason: impl Into<String>) -> JobFileError {
    JobFileError::new(path, reason)
}

fn named<T: FromStr>(path: Path, text: &str) -> Made<T>
where
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| wrong(path, error.to_string()))
}

fn count(path: Path, written: u64, least: u32, most: u32) -> Made<u32> {
    let number = u32::try_from(written).ok().filter(|it| (least..=most).contains(it));
    number.ok_or_else(|| wrong(path, format!("{written} is not between {least} and {most}")))
}

fn count_or(path: Path, written: Option<u64>, otherwise: u32) -> Made<u32> {
    written.map_or(Ok(otherwise), |it| count(path, it, 0, u32::MAX))
}

fn span(path: Path, written: &str) -> Made<Millis> {
    let hint = "write it as `30s`, `10m`, `1h30m` or `2d`";
    parse_span(written)
        .ok_or_else(|| wrong(path, format!("`{written}` is not a span of time")).with_hint(hint))
}

fn decimal(path: Path, written: f64, least: f64, most: f64) -> Made<f64> {
    if (least..=most).contains(&written) {
        Ok(written)
    } else {
        Err(wrong(path, format!("{written} is not between {least} and {most}")))
    }
}

/// A fault of another file, with what lies below it.
fn of_file(path: Path, fault: &ReadError) -> JobFileError {
    let mut reason = fault.to_string();
    let mut below = fault.source();
    while let Some(cause) = below {
        reason = format!("{reason}: {cause}");
        below = cause.source();
    }
    wrong(path, reason)
}

pub(super) fn simulation(
    raw: RawFile,
    folder: &FilePath,
    progress: &mut dyn Progress,
) -> Made<Simulation> {
    for (field, written, known) in
        [("apiVersion", &raw.api_version, API_VERSION), ("kind", &raw.kind, KIND)]
    {
        if written != known {
            let reason = format!("`{written}` is not known to this version");
            return Err(wrong(Path::of(field), reason).with_hint(format!("write `{known}`")));
        }
    }
    let spec = raw.spec;
    let base = Scenario {
        sites: sites(&spec.sites)?,
        sources: Vec::new(),
        load: Vec::new(),
        shift: Vec::new(),
        policy: policy(&Path::of("spec.policy"), &spec.policy, Policy::default())?,
        look: look(spec.look.as_deref())?,
        prices: prices(&spec, folder, progress)?,
        seed: spec.seed.unwrap_or(1),
    };
    let base =
        Scenario { sources: sources(&spec.workload, &base.sites, folder, progress)?, ..base };
    Ok(Simulation {
        name: raw.metadata.name,
        cases: cases(&spec.compare, &base)?,
        html: spec.html.map(|path| folder.join(path)),
    })
}

fn look(written: Option<&str>) -> Made<Millis> {
    let path = Path::of("spec.look");
    let look = written.map_or(Ok(LOOK), |text| span(path.clone(), text))?;
    if look < Millis(1_000) {
        return Err(wrong(path, "is shorter than a second"));
    }
    Ok(look)
}

fn sites(written: &[RawSite]) -> Made<Vec<SiteSetup>> {
    let path = Path::of("spec.sites");
    if written.is_empty() {
        return Err(wrong(path, "there is no site"));
    }
    let one = |(nth, raw): (usize, &RawSite)| site(&path.clone().index(nth), raw);
    let sites: Vec<SiteSetup> = written.iter().enumerate().map(one).collect::<Made<_>>()?;
    for (nth, site) in sites.iter().enumerate() {
        if sites[..nth].iter().any(|other| other.name == site.name) {
            let path = path.clone().index(nth).key("name");
            return Err(wrong(path, format!("site `{}` is there twice", site.name)));
        }
    }
    for (nth, raw) in written.iter().enumerate() {
        for (rule, lending) in raw.lend.iter().flatten().enumerate() {
            let Some(to) = &lending.to else { continue };
            if !sites.iter().any(|site| site.name.as_str() == to) {
                let path = path.clone().index(nth).key("lend").index(rule).key("to");
                return Err(no_site(path, to, &sites));
            }
        }
    }
    Ok(sites)
}

fn no_site(path: Path, name: &str, sites: &[SiteSetup]) -> JobFileError {
    let has: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
    wrong(path, format!("there is no site `{name}`; there are: {}", has.join(", ")))
}

fn site(path: &Path, raw: &RawSite) -> Made<SiteSetup> {
    let at = |field: &str| path.clone().key(field);
    let class = raw.gpu_class.as_deref().map(|text| named(at("gpuClass"), text)).transpose()?;
    let mut site = SiteSetup::new(
        named(at("name"), &raw.name)?,
        count(at("nodes"), raw.nodes, 0, SITE_NODES_MAX)?,
        count(at("gpusPerNode"), raw.gpus_per_node, 1, GPUS_PER_NODE_MAX)?,
        class,
    );
    if let Some(rules) = &raw.lend {
        let rules = rules.iter().enumerate();
        let made = rules.map(|(nth, raw)| lending(&at("lend").index(nth), raw));
        site.lend = made.collect::<Made<_>>()?;
    }
    if let Some(busy) = &raw.busy {
        site.busy = named(at("busy"), &busy.0)?;
    }
    site.layout = layout(&at("layout"), &raw.layout)?;
    Ok(site)
}

fn lending(path: &Path, raw: &RawLending) -> Made<Lending> {
    let at = |field: &str| path.clone().key(field);
    Ok(Lending {
        to: raw.to.as_deref().map(|text| named(at("to"), text)).transpose()?,
        gpus: named(at("gpus"), &raw.gpus.0)?,
        keep_free: count_or(at("keepFree"), raw.keep_free, 0)?,
    })
}

fn layout(path: &Path, raw: &RawLayout) -> Made<Layout> {
    let size = |field: &str, written: Option<u64>| {
        let path = path.clone().key(field);
        written.map_or(Ok(0), |it| count(path, it, 1, SITE_NODES_MAX))
    };
    Ok(Layout {
        nodes_per_domain: size("nodesPerDomain", raw.nodes_per_domain)?,
        nodes_per_rack: size("nodesPerRack", raw.nodes_per_rack)?,
        nodes_per_hall: size("nodesPerHall", raw.nodes_per_hall)?,
    })
}

fn prices(spec: &RawSpec, folder: &FilePath, progress: &mut dyn Progress) -> Made<Option<Prices>> {
    let mut prices = match &spec.prices {
        Some(file) => {
            let read = read_prices(&folder.join(file), 1_000, progress);
            Some(read.map_err(|fault| of_file(Path::of("spec.prices"), &fault))?)
        }
        None => None,
    };
    for (nth, site) in spec.sites.iter().enumerate() {
        let path = Path::of("spec.sites").index(nth).key("power");
        power(&path, site, &mut prices)?;
    }
    Ok(prices)
}

fn power(path: &Path, site: &RawSite, prices: &mut Option<Prices>) -> Made<()> {
    let RawPower { watts_per_gpu, pue, eur_per_kwh, kg_co2_per_kwh } = site.power;
    let at = |field: &str| path.clone().key(field);
    let name = named(path.clone(), &site.name)?;
    let either = |written: Option<f64>, field, least, most, otherwise| {
        written.map_or(Ok(otherwise), |it| decimal(at(field), it, least, most))
    };
    let watts = either(watts_per_gpu, "wattsPerGpu", 0.0, WATTS_MAX, WATTS_PER_GPU)?;
    let watts = watts * either(pue, "pue", 1.0, PUE_MAX, 1.0)?;
    let carbon = kg_co2_per_kwh.map(|it| decimal(at("kgCo2PerKwh"), it, 0.0, 100.0)).transpose()?;
    let flat = eur_per_kwh.map(|it| decimal(at("eurPerKwh"), it, -1_000.0, 1_000.0)).transpose()?;
    if let Some(eur) = flat {
        let prices = prices.get_or_insert_with(|| Prices::new(1_000));
        if prices.has(&name) {
            return Err(wrong(at("eurPerKwh"), "the file of prices has some for this site")
                .with_hint("leave one of them out"));
        }
        prices.set_flat(&name, eur, carbon);
    }
    match prices {
        Some(prices) if prices.has(&name) => {
            prices.set_watts(&name, watts);
            if let Some(carbon) = carbon {
                prices.set_carbon(&name, carbon);
            }
            Ok(())
        }
        Some(_) | None if watts_per_gpu.is_some() || pue.is_some() || carbon.is_some() => {
            Err(wrong(path.clone(), "there is no price of electricity for this site")
                .with_hint("give `eurPerKwh`, or name a file with `spec.prices`"))
        }
        Some(_) | None => Ok(()),
    }
}

fn sources(
    written: &[RawWorkload],
    sites: &[SiteSetup],
    folder: &FilePath,
    progress: &mut dyn Progress,
) -> Made<Vec<Source>> {
    if written.is_empty() {
        return Err(wrong(Path::of("spec.workload"), "there are no jobs"));
    }
    let mut files: BTreeMap<PathBuf, Arc<Vec<JobRow>>> = BTreeMap::new();
    let mut sources = Vec::new();
    for (nth, raw) in written.iter().enumerate() {
        let path = Path::of("spec.workload").index(nth);
        let file = folder.join(&raw.jobs);
        let rows = match files.get(&file) {
            Some(rows) => rows.clone(),
            None => {
                let read = read_jobs(&file, Needs::Times, progress);
                let rows = read.map_err(|fault| of_file(path.clone().key("jobs"), &fault))?;
                files.entry(file.clone()).or_insert(Arc::new(rows)).clone()
            }
        };
        let home = match &raw.home {
            Some(name) => sites.iter().find(|site| site.name.as_str() == name),
            None => sites.first(),
        };
        let home = home.ok_or_else(|| {
            no_site(path.clone().key("home"), raw.home.as_deref().unwrap_or_default(), sites)
        })?;
        sources.push(Source {
            home: home.name.clone(),
            path: file.display().to_string(),
            rows,
            pick: pick(&path, raw)?,
            manner: manner(&path, raw)?,
        });
    }
    Ok(sources)
}

fn pick(path: &Path, raw: &RawWorkload) -> Made<Pick> {
    let at = |field: &str| path.clone().key(field);
    let all = Pick::default();
    let picked = Pick {
        of: raw.only.clone(),
        from: raw.from.unwrap_or(all.from),
        to: raw.to.unwrap_or(all.to),
        gpus_min: count_or(at("gpusMin"), raw.gpus_min, all.gpus_min)?,
        gpus_max: count_or(at("gpusMax"), raw.gpus_max, all.gpus_max)?,
        load: raw.load.map_or(Ok(1.0), |it| decimal(at("load"), it, 0.0, LOAD_MAX))?,
        shift: raw.shift.as_deref().map_or(Ok(all.shift), |text| span(at("shift"), text))?,
    };
    if picked.from > picked.to {
        return Err(wrong(at("to"), format!("comes before `from`, {}", picked.from)));
    }
    if picked.gpus_min > picked.gpus_max {
        return Err(wrong(at("gpusMax"), format!("is less than `gpusMin`, {}", picked.gpus_min)));
    }
    Ok(picked)
}

fn manner(path: &Path, raw: &RawWorkload) -> Made<Manner> {
    let most = |it| count(path.clone().key("priority"), it, 0, PRIORITY_MAX);
    let at = path.clone().key("together");
    Ok(Manner {
        priority: raw.priority.map(most).transpose()?,
        preemptible: raw.preemptible,
        together: raw.together.as_ref().map(|it| together(&at, it)).transpose()?,
    })
}

fn together(path: &Path, raw: &RawTogether) -> Made<Together> {
    let level = match raw.same.as_str() {
        "domain" => Vicinity::Domain,
        "rack" => Vicinity::Rack,
        "hall" => Vicinity::Hall,
        other => {
            let reason = format!("`{other}` is not one of domain, rack, hall");
            return Err(wrong(path.clone().key("same"), reason));
        }
    };
    let required = match raw.how.as_deref() {
        None | Some("prefer") => false,
        Some("require") => true,
        Some(other) => {
            let reason = format!("`{other}` is not one of prefer, require");
            return Err(wrong(path.clone().key("how"), reason));
        }
    };
    Ok(Together { level, required, group_nodes: 0 })
}

/// The policy with what is written of it.
fn policy(path: &Path, raw: &RawPolicy, mut policy: Policy) -> Made<Policy> {
    let at = |field: &str| path.clone().key(field);
    if raw.spill == Some(false) && raw.spill_after.is_some() {
        return Err(wrong(at("spillAfter"), "jobs never leave: `spill` is false"));
    }
    match (raw.spill, &raw.spill_after) {
        (Some(false), _) => policy.spill_after = None,
        (_, Some(text)) => policy.spill_after = Some(span(at("spillAfter"), text)?),
        (Some(true), None) => policy.spill_after = policy.spill_after.or(Some(Millis(0))),
        (None, None) => {}
    }
    if let Some(text) = &raw.patience {
        policy.patience = Some(span(at("patience"), text)?);
    }
    policy.preempts = raw.preemption.unwrap_or(policy.preempts);
    if let Some(quota) = &raw.quota {
        let one = |(name, raw): (&String, &RawQuota)| {
            let path = at("quota").key(name);
            let limit = limit(&path, raw)?;
            Ok((named(path, name)?, limit))
        };
        policy.quotas = quota.iter().map(one).collect::<Made<_>>()?;
    }
    Ok(policy)
}

fn limit(path: &Path, raw: &RawQuota) -> Made<Limit> {
    let guaranteed = count_or(path.clone().key("guaranteed"), raw.guaranteed, 0)?;
    let max = raw.max.map(|it| count(path.clone().key("max"), it, 0, u32::MAX)).transpose()?;
    if max.is_none() && guaranteed == 0 {
        return Err(wrong(path.clone(), "limits nothing").with_hint("give `guaranteed` or `max`"));
    }
    if max.is_some_and(|max| max < guaranteed) {
        let reason = format!("is less than `guaranteed`, {guaranteed}");
        return Err(wrong(path.clone().key("max"), reason));
    }
    Ok(Limit { class: None, guaranteed: GpuCount(guaranteed), max: max.map(GpuCount) })
}

fn cases(written: &[RawCase], base: &Scenario) -> Made<Vec<Case>> {
    let path = Path::of("spec.compare");
    if written.len() > CASES_MAX {
        let reason = format!("{} cases are more than {CASES_MAX}", written.len());
        return Err(wrong(path, reason));
    }
    if written.is_empty() {
        return Ok(vec![Case { name: "as set".to_owned(), scenario: base.clone() }]);
    }
    let mut cases: Vec<Case> = Vec::new();
    for (nth, raw) in written.iter().enumerate() {
        let path = path.clone().index(nth);
        if raw.name.is_empty() || cases.iter().any(|case| case.name == raw.name) {
            return Err(wrong(path.key("name"), "is empty, or another case has it"));
        }
        let mut scenario = base.clone();
        scenario.policy = policy(&path.clone().key("policy"), &raw.policy, scenario.policy)?;
        for (what, value) in &raw.set {
            let at = path.clone().key("set").key(what);
            let knob: Knob = named(at.clone(), what)?;
            scenario = knob.turned(&scenario, &value.0).map_err(|reason| wrong(at, reason))?;
        }
        cases.push(Case { name: raw.name.clone(), scenario });
    }
    Ok(cases)
}
