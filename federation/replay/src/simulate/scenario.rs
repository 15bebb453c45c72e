//! What is simulated: the sites, and the jobs that come to each.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use specs::id::{AccountId, GpuClass, SiteId};
use specs::job::{GPUS_PER_NODE_MAX, NODES_MAX, Together};
use specs::quota::Limit;
use specs::site::LendRule;
use specs::unit::{GpuCount, Millis};
use specs::wire::agent::Facts;

use crate::rng::Rng;
use crate::simulate::SimulateError;
use crate::simulate::prices::Prices;
use crate::simulate::site::Time;
use crate::spill::copies;
use crate::trace::{JobRow, WHOLE};

/// Most nodes of one site.
pub const SITE_NODES_MAX: u32 = 200_000;
/// Most sites of one simulation.
pub const SITES_MAX: usize = 16;
/// Most copies of a job that a load may ask for.
pub const LOAD_MAX: f64 = 100.0;
/// Copies of a job come at most so much earlier or later: as in `replay spill`.
const JITTER_SECONDS: u32 = 1_800;
/// What a GPU is called at a site that does not say.
const ANY_CLASS: &str = "gpu";

/// How much of a site something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Gpus(u32),
    Percent(u32),
}

impl Amount {
    fn of(self, gpus: u32) -> u32 {
        match self {
            Self::Gpus(count) => count.min(gpus),
            Self::Percent(percent) => {
                let part = u64::from(gpus) * u64::from(percent) / 100;
                u32::try_from(part).unwrap_or(gpus)
            }
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number of GPUs nor a percentage");
        let (digits, is_percent) = match text.strip_suffix('%') {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        match (is_percent, number) {
            (true, 0..=100) => Ok(Self::Percent(number)),
            (true, _) => Err(format!("`{text}` is more than all")),
            (false, _) => Ok(Self::Gpus(number)),
        }
    }
}

/// Whom a site lends to, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lending {
    /// None for every other site.
    pub to: Option<SiteId>,
    /// Most that it grants under this rule at once.
    pub gpus: Amount,
    /// GPUs that it keeps free for its own jobs when it grants.
    pub keep_free: u32,
}

/// How nodes stand together, in their order; zero where that is not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    pub nodes_per_domain: u32,
    pub nodes_per_rack: u32,
    pub nodes_per_hall: u32,
}

impl Layout {
    /// What a node says of where it stands.
    pub(super) fn facts(self, node: u32) -> Facts {
        let of = |size: u32, letter: char| {
            node.checked_div(size).map_or(String::new(), |nth| format!("{letter}{nth:04}"))
        };
        Facts {
            hall: of(self.nodes_per_hall, 'h'),
            rack: of(self.nodes_per_rack, 'r'),
            domain: of(self.nodes_per_domain, 'd'),
            ..Facts::default()
        }
    }
}

/// A site as it is written: `NAME=NODESxGPUS[:lend=50%,busy=10%,keep=8,class=b200]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSetup {
    pub name: SiteId,
    pub nodes: u32,
    pub gpus_per_node: u32,
    /// The first rule that fits a home decides; none lends nothing.
    pub lend: Vec<Lending>,
    pub layout: Layout,
    /// Whole nodes that jobs of its own have for good.
    pub busy: Amount,
    pub class: GpuClass,
    /// The class was said, so what jobs ask for counts.
    pub has_class: bool,
}

impl SiteSetup {
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.nodes.saturating_mul(self.gpus_per_node)
    }

    /// The site, all of which it lends to all others.
    #[must_use]
    pub fn new(name: SiteId, nodes: u32, gpus_per_node: u32, class: Option<GpuClass>) -> Self {
        let has_class = class.is_some();
        let any = || ANY_CLASS.parse().expect("the name of a class");
        Self {
            name,
            nodes,
            gpus_per_node: gpus_per_node.max(1),
            lend: vec![Lending { to: None, gpus: Amount::Percent(100), keep_free: 0 }],
            layout: Layout::default(),
            busy: Amount::Percent(0),
            class: class.unwrap_or_else(any),
            has_class,
        }
    }

    /// The rule for all others, which there is if it is to be changed.
    fn lend_to_all(&mut self) -> &mut Lending {
        let nth = self.lend.iter().position(|rule| rule.to.is_none()).unwrap_or_else(|| {
            self.lend.push(Lending { to: None, gpus: Amount::Percent(100), keep_free: 0 });
            self.lend.len() - 1
        });
        &mut self.lend[nth]
    }

    /// Lends so much to anybody, whatever was said before.
    pub(super) fn lend_only(&mut self, gpus: Amount) {
        let keep_free = self.lend_to_all().keep_free;
        self.lend = vec![Lending { to: None, gpus, keep_free }];
    }

    /// Most that it grants under one rule.
    pub(super) fn lent_gpus(&self) -> u32 {
        self.lend.iter().map(|rule| rule.gpus.of(self.gpus())).max().unwrap_or(0)
    }

    /// Most that it grants to that home.
    fn lent_to(&self, home: &SiteId) -> u32 {
        let fits = |rule: &&Lending| rule.to.as_ref().is_none_or(|to| to == home);
        self.lend.iter().find(fits).map_or(0, |rule| rule.gpus.of(self.gpus()))
    }

    pub(super) fn lend_rules(&self) -> Vec<LendRule> {
        let rule = |rule: &Lending| LendRule {
            to: rule.to.clone(),
            class: None,
            gpus_max: GpuCount(rule.gpus.of(self.gpus())),
            keep_free: GpuCount(rule.keep_free),
        };
        self.lend.iter().map(rule).filter(|rule| rule.gpus_max > GpuCount::ZERO).collect()
    }

    pub(super) fn busy_nodes(&self) -> u32 {
        self.busy.of(self.gpus()) / self.gpus_per_node.max(1)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("`{option}` is not an option: write it as `lend=50%`"))?;
        match name {
            "lend" => self.lend_to_all().gpus = value.parse()?,
            "busy" => self.busy = value.parse()?,
            "keep" => {
                let wrong = |_| format!("`{value}` is not a number of GPUs");
                self.lend_to_all().keep_free = value.parse().map_err(wrong)?;
            }
            "class" => {
                self.class = value.parse().map_err(|error| format!("{error}"))?;
                self.has_class = true;
            }
            _ => {
                return Err(format!(
                    "`{name}` is not an option of a site: there are lend, busy, keep and class"
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for SiteSetup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as `berlin=32x8` or `gigafactory=400x8:lend=50%`";
        let (name, rest) = text.split_once('=').ok_or_else(|| form.to_owned())?;
        let (size, options) = rest.split_once(':').unwrap_or((rest, ""));
        let (nodes, gpus) = size.split_once('x').ok_or_else(|| form.to_owned())?;
        let number = |text: &str, what: &str, max: u32| {
            let number: Option<u32> = text.parse().ok();
            let within = number.filter(|number| *number <= max);
            within.ok_or_else(|| format!("`{text}` {what} are not between 0 and {max}; {form}"))
        };
        let name = name.parse().map_err(|error| format!("{error}"))?;
        let nodes = number(nodes, "nodes", SITE_NODES_MAX)?;
        let gpus = number(gpus, "GPUs of a node", GPUS_PER_NODE_MAX)?;
        let mut site = Self::new(name, nodes, gpus, None);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            site.set(option)?;
        }
        Ok(site)
    }
}

/// Something that is said of all sites, or of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    pub site: Option<SiteId>,
    pub value: T,
}

/// The last that is said of the site, or of all.
pub(super) fn said<T: Copy>(all: &[Said<T>], site: &SiteId, otherwise: T) -> T {
    let of_site = |it: &&Said<T>| it.site.as_ref() == Some(site);
    let of_all = |it: &&Said<T>| it.site.is_none();
    let found = all.iter().rfind(of_site).or_else(|| all.iter().rfind(of_all));
    found.map_or(otherwise, |it| it.value)
}

/// What the jobs of a file have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manner {
    /// The usual one if it is not said.
    pub priority: Option<u32>,
    /// As a training job's if it is not said.
    pub preemptible: Option<bool>,
    /// Of gangs of more than one node.
    pub together: Option<Together>,
}

/// Which jobs of a file come, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Pick {
    /// Only jobs of these tenants or, if a row has none, of these clusters; of all if empty.
    pub of: Vec<String>,
    /// The first and the last second of submission.
    pub from: u64,
    pub to: u64,
    /// The least and the most GPUs.
    pub gpus_min: u32,
    pub gpus_max: u32,
    /// Copies of each job, in the mean.
    pub load: f64,
    /// By how much they come later.
    pub shift: Millis,
}

impl Default for Pick {
    fn default() -> Self {
        let (from, to, gpus_min, gpus_max) = (0, u64::MAX, 0, u32::MAX);
        Self { of: Vec::new(), from, to, gpus_min, gpus_max, load: 1.0, shift: Millis(0) }
    }
}

impl Pick {
    fn takes(&self, row: &JobRow) -> bool {
        let name = if row.tenant.is_empty() { &row.cluster } else { &row.tenant };
        (self.from..=self.to).contains(&row.submit_s)
            && (self.of.is_empty() || self.of.contains(name))
            && (self.gpus_min..=self.gpus_max).contains(&row.gpus)
    }
}

/// Jobs of one file, which are at home at one site.
#[derive(Debug, Clone)]
pub struct Source {
    pub home: SiteId,
    /// As errors name it.
    pub path: String,
    pub rows: Arc<Vec<JobRow>>,
    pub pick: Pick,
    pub manner: Manner,
}

impl Source {
    /// All jobs of the file.
    #[must_use]
    pub fn new(home: SiteId, path: impl Into<String>, rows: Arc<Vec<JobRow>>) -> Self {
        let (pick, manner) = (Pick::default(), Manner::default());
        Self { home, path: path.into(), rows, pick, manner }
    }
}

/// Settings of the planner, the same at all sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a job waits at home before it may leave; none if it never may.
    pub spill_after: Option<Millis>,
    /// How long a job is passed over before nodes are kept for it; as the planner has it if none.
    pub patience: Option<Millis>,
    /// Jobs may be stopped for others.
    pub preempts: bool,
    pub quotas: Vec<(AccountId, Limit)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { spill_after: Some(Millis(0)), patience: None, preempts: true, quotas: Vec::new() }
    }
}

/// All that a simulation starts from.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub sites: Vec<SiteSetup>,
    pub sources: Vec<Source>,
    /// Copies of each job besides what its file's [`Pick`] says, in the mean.
    pub load: Vec<Said<f64>>,
    /// By how much a site's jobs come later, besides that.
    pub shift: Vec<Said<Millis>>,
    pub policy: Policy,
    /// Leaders look at waiting jobs at least this often.
    pub look: Millis,
    /// Tell what the sites that have prices pay.
    pub prices: Option<Prices>,
    pub seed: u64,
}

/// A job that comes. Times are virtual milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) home: usize,
    pub(super) submit: Time,
    pub(super) duration: Time,
    pub(super) nodes: u32,
    pub(super) per_node: u32,
    /// Thousandths of its one GPU; zero for whole ones.
    pub(super) milli: u32,
    pub(super) classes: Vec<GpuClass>,
    /// Place in [`Jobs::tenants`].
    pub(super) tenant: usize,
    pub(super) manner: Manner,
    /// Takes its place for good, and is nobody's in the report.
    pub(super) is_background: bool,
}

impl Job {
    pub(super) fn gpus(&self) -> u32 {
        self.nodes.saturating_mul(self.per_node)
    }

    /// Thousandths of GPUs that it holds.
    pub(super) fn held(&self) -> u64 {
        if self.milli > 0 {
            u64::from(self.milli)
        } else {
            u64::from(self.gpus()) * u64::from(WHOLE)
        }
    }
}

pub(super) struct Jobs {
    /// In the order of their submission.
    pub(super) jobs: Vec<Job>,
    pub(super) tenants: Vec<String>,
    /// Rows that need no GPU.
    pub(super) without_gpus: u64,
    /// Gangs that were made larger to fill their nodes alike.
    pub(super) rounded: u64,
}

/// A row of a file that has a place in the simulation.
struct Row<'a> {
    source: &'a Source,
    row: &'a JobRow,
}

impl Row<'_> {
    fn fault(&self, reason: impl Into<String>) -> SimulateError {
        let (path, line) = (self.source.path.clone(), self.row.line);
        SimulateError::Row { path, line, reason: reason.into() }
    }
}

impl Scenario {
    pub(super) fn site(&self, name: &SiteId) -> Result<usize, SimulateError> {
        let found = self.sites.iter().position(|site| site.name == *name);
        found.ok_or_else(|| self.no_site(name.as_str()))
    }

    fn no_site(&self, name: &str) -> SimulateError {
        let has: Vec<&str> = self.sites.iter().map(|site| site.name.as_str()).collect();
        SimulateError::NoSite { name: name.to_owned(), has: has.join(", ") }
    }

    fn check(&self) -> Result<(), SimulateError> {
        if self.sites.is_empty() || self.sites.len() > SITES_MAX {
            return Err(SimulateError::Sites { count: self.sites.len(), max: SITES_MAX });
        }
        for (nth, site) in self.sites.iter().enumerate() {
            if self.sites[..nth].iter().any(|other| other.name == site.name) {
                return Err(SimulateError::Repeated { name: site.name.to_string() });
            }
        }
        let named = self.load.iter().filter_map(|it| it.site.as_ref());
        let named = named.chain(self.shift.iter().filter_map(|it| it.site.as_ref()));
        for name in named {
            self.site(name)?;
        }
        for name in self.prices.iter().flat_map(Prices::sites) {
            if !self.sites.iter().any(|site| site.name.as_str() == name) {
                return Err(self.no_site(name));
            }
        }
        Ok(())
    }

    /// The jobs of all files, as they come to their homes.
    pub(super) fn jobs(&self) -> Result<Jobs, SimulateError> {
        self.check()?;
        let mut made = Jobs { jobs: Vec::new(), tenants: Vec::new(), without_gpus: 0, rounded: 0 };
        let mut tenants: BTreeMap<String, usize> = BTreeMap::new();
        let mut rng = Rng::stream(self.seed, 4);
        let first = self.first_second();
        for source in &self.sources {
            let home = self.site(&source.home)?;
            let load = source.pick.load * said(&self.load, &source.home, 1.0);
            let shift = source.pick.shift.0 + said(&self.shift, &source.home, Millis(0)).0;
            for row in source.rows.iter().filter(|row| source.pick.takes(row)) {
                if row.gpus == 0 {
                    made.without_gpus += 1;
                    continue;
                }
                let mut job = self.job(&Row { source, row }, home)?;
                made.rounded += u64::from(job.gpus() > row.gpus);
                job.tenant = *tenants.entry(tenant_of(row)).or_insert_with_key(|name| {
                    made.tenants.push(name.clone());
                    made.tenants.len() - 1
                });
                let submit = (row.submit_s - first) * 1_000 + shift;
                for nth in 0..copies(load, &mut rng).map_err(|_| SimulateError::Load { load })? {
                    job.submit = if nth == 0 { submit } else { jittered(submit, &mut rng) };
                    made.jobs.push(job.clone());
                }
            }
        }
        if made.jobs.is_empty() {
            return Err(SimulateError::NoJobs);
        }
        made.jobs.sort_by_key(|job| job.submit);
        let background = self.background();
        made.jobs.splice(0..0, background);
        Ok(made)
    }

    /// When the simulation begins, by the clock of the files.
    pub(super) fn first_second(&self) -> u64 {
        let of = |source: &Source| {
            let rows = source.rows.iter().filter(|row| row.gpus > 0 && source.pick.takes(row));
            rows.map(|row| row.submit_s).min()
        };
        self.sources.iter().filter_map(of).min().unwrap_or(0)
    }

    /// The gang stands on as few nodes of its home as will do, with as many GPUs on each.
    fn job(&self, row: &Row<'_>, home: usize) -> Result<Job, SimulateError> {
        let site = &self.sites[home];
        let gpus = row.row.gpus;
        let duration =
            row.row.duration_s.ok_or_else(|| row.fault("column `duration_s` is empty"))?;
        let nodes = gpus.div_ceil(site.gpus_per_node);
        let job = Job {
            home,
            submit: 0,
            duration: duration * 1_000,
            nodes,
            per_node: gpus.div_ceil(nodes),
            milli: if gpus == 1 && row.row.gpu_milli < WHOLE { row.row.gpu_milli } else { 0 },
            classes: self.classes(row)?,
            tenant: 0,
            manner: self.manner(row, nodes),
            is_background: false,
        };
        if job.nodes > NODES_MAX || !self.could_run(&job) {
            let reason = format!(
                "column `gpus`: no site could ever run a gang of {gpus} GPUs on {nodes} nodes"
            );
            return Err(row.fault(reason));
        }
        Ok(job)
    }

    fn manner(&self, row: &Row<'_>, nodes: u32) -> Manner {
        let mut manner = row.source.manner.clone();
        manner.together = manner.together.filter(|_| nodes > 1);
        if !self.policy.preempts {
            manner.preemptible = Some(false);
        }
        manner
    }

    fn could_run(&self, job: &Job) -> bool {
        let may_leave = self.policy.spill_after.is_some() && job.milli == 0;
        let home = &self.sites[job.home].name;
        self.sites.iter().enumerate().any(|(nth, site)| {
            let has_class = job.classes.is_empty() || job.classes.contains(&site.class);
            let nodes = site.nodes.saturating_sub(site.busy_nodes());
            let is_let_in = nth == job.home || (may_leave && site.lent_to(home) >= job.gpus());
            has_class && is_let_in && nodes >= job.nodes && site.gpus_per_node >= job.per_node
        })
    }

    /// What classes will do; any, unless a site has said what it has.
    fn classes(&self, row: &Row<'_>) -> Result<Vec<GpuClass>, SimulateError> {
        if !self.sites.iter().any(|site| site.has_class) {
            return Ok(Vec::new());
        }
        let plain = |text: &String| {
            let lower = text.to_ascii_lowercase();
            let text: String =
                lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            text.trim_matches('-')
                .parse()
                .map_err(|error| row.fault(format!("column `gpu_type`: {error}")))
        };
        row.row.gpu_types.iter().map(plain).collect()
    }

    /// Jobs that have their nodes from the beginning and for good.
    fn background(&self) -> Vec<Job> {
        let of_site = |(home, site): (usize, &SiteSetup)| {
            let job = Job {
                home,
                submit: 0,
                duration: Time::MAX,
                nodes: 1,
                per_node: site.gpus_per_node,
                milli: 0,
                classes: Vec::new(),
                tenant: 0,
                manner: Manner::default(),
                is_background: true,
            };
            std::iter::repeat_n(job, site.busy_nodes() as usize)
        };
        self.sites.iter().enumerate().flat_map(of_site).collect()
    }
}

fn jittered(submit: Time, rng: &mut Rng) -> Time {
    let jitter = rng.below(2 * JITTER_SECONDS as usize + 1) as u64;
    (submit + jitter * 1_000).saturating_sub(u64::from(JITTER_SECONDS) * 1_000)
}

/// Whom the job counts for: a name that a site would take.
fn tenant_of(row: &JobRow) -> String {
    let said = if row.tenant.is_empty() { &row.cluster } else { &row.tenant };
    let lower = said.to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = lower.chars().map(plain).take(60).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "tenant".to_owned() } else { name.to_owned() }
}
