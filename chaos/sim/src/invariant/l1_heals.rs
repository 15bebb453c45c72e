//! L1: when faults stop, every job ends and every grant is returned, within a bounded time.
//! Source: the design, promise L1. Services are cancelled when faults stop; jobs that no site could
//! ever take are cancelled a while later, for they may wait as long as they like.

use std::collections::BTreeMap;

use federation_core::State;
use specs::id::{GpuClass, JobId, SiteId};
use specs::job::{JobClass, JobSpec};
use specs::unit::Millis;
use specs::version::ClusterVersion;

use crate::invariant::{agreed_state, s2_nothing_lost, s6_quota, s7_residency};
use crate::needs;
use crate::workload::Operation;
use crate::world::{CtlRef, Event, World};

/// How often it is looked whether all has healed.
const LOOK_EVERY: Millis = Millis(500);
/// Jobs that no site can take are cancelled this long after faults stopped.
const GIVE_UP_AFTER: Millis = Millis(20_000);
/// Everything must have ended this long after faults stopped.
const BOUND: Millis = Millis(600_000);

impl World {
    pub(crate) fn heal(&mut self) {
        self.note(|_| "faults stop".into());
        self.end_faults();
        for site in 0..self.sites.len() {
            for node in 0..self.sites[site].nodes.len() {
                let operation = Operation::Drain { node, drain: false };
                self.schedule_in(100, Event::Operate { site, operation });
            }
        }
        self.schedule_in(LOOK_EVERY.0, Event::Inspect);
    }

    pub(crate) fn inspect(&mut self) {
        let left = left_over(self);
        if left.is_empty() {
            self.conclude();
            return;
        }
        let healing_for = self.now.since(self.knobs.heal_at);
        if healing_for > BOUND {
            let detail = [left, unfit(self)].concat().join("; ");
            self.violate("L1: everything heals", detail);
            return;
        }
        let open: Vec<(usize, JobId)> = self.oracle.open.iter().copied().collect();
        for (site, id) in open {
            if self.oracle.cancelled.contains(&id) {
                continue;
            }
            let Some(job) = self.sites[site].log.latest().jobs.get(&id) else { continue };
            let spec = job.spec();
            let is_late = healing_for > GIVE_UP_AFTER;
            let is_hopeless = self.knobs.is_hasty || !is_feasible(self, site, &spec);
            if spec.class == JobClass::Service || (is_late && is_hopeless) {
                self.cancel_job(site, id);
            }
        }
        self.schedule_in(LOOK_EVERY.0, Event::Inspect);
    }

    /// All has healed: the last look.
    fn conclude(&mut self) {
        for site in 0..self.sites.len() {
            let found = agreed_state::check(self.sites[site].log.latest());
            self.violate_all(found);
            let committed = self.sites[site].log.committed();
            for ctl in 0..self.sites[site].controllers.len() {
                self.catch_up(CtlRef { site, ctl }, committed);
                let own = self.sites[site].controllers[ctl].own.as_ref();
                if own.is_some_and(|own| own.encode() != self.sites[site].log.latest().encode()) {
                    self.violate("replicas are equal", format!("site {site}, member {ctl}"));
                }
            }
        }
        let found = s2_nothing_lost::at_the_end(self);
        self.violate_all(found);
        self.done = true;
    }
}

/// What has not healed.
fn left_over(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for site in &world.sites {
        let state = site.log.latest();
        let open = state.jobs.values().filter(|job| !job.has_ended());
        let open: Vec<String> = open
            .map(|job| {
                let (spec, state) = (&job.spec(), federation_core::job_state(state, job));
                format!(
                    "{} {state} ({} x {} of {:?}, {:?})",
                    job.id, spec.nodes, spec.gpus_per_node, spec.gpu_classes, spec.placement
                )
            })
            .collect();
        let counts = [
            ("leases", state.leases.len()),
            ("guests", state.guests.len()),
            ("grants", state.grants.len()),
            ("held grants", state.held.len()),
            ("unanswered requests", usize::from(!site.client.is_served())),
            ("permits", {
                let (retests, admissions) = federation_core::permitted(state);
                usize::try_from(retests + admissions).unwrap_or(usize::MAX)
            }),
            ("processes", site.nodes.iter().map(|node| node.processes.len()).sum()),
        ];
        left.extend(open.into_iter().map(|job| format!("{}: {job}", site.name)));
        let some = counts.into_iter().filter(|(_, count)| *count > 0);
        left.extend(some.map(|(what, count)| format!("{}: {count} {what}", site.name)));
    }
    left
}

/// GPUs that nothing runs on, and why.
fn unfit(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for site in &world.sites {
        for node in site.log.latest().nodes.values() {
            let unfit = node.gpus.iter().filter(|gpu| !gpu.is_fit());
            all.extend(unfit.map(|gpu| {
                let (name, id, index) = (&site.name, &node.id, gpu.info.index);
                let (doubt, withheld) = (&gpu.doubt, &gpu.withheld);
                let (wish, permit) = (&gpu.wish, &gpu.permit);
                format!("{name} {id} GPU {index}: {doubt:?} {withheld:?} {wish:?} {permit:?}")
            }));
        }
    }
    all
}

/// Whether some site could run the job if nothing else ran.
fn is_feasible(world: &World, home: usize, spec: &JobSpec) -> bool {
    let own = &world.sites[home].name;
    (0..world.sites.len()).any(|at| {
        let site = &world.sites[at];
        let state = site.log.latest();
        // What demands something of proofs stays at home.
        let leaves = spec.placement.spill && spec.needs.proof.is_none();
        let reachable = at == home || (leaves && is_peer(world, home, at));
        reachable
            && s7_residency::allows(spec, &site.name, site.country)
            && s7_residency::lets_data_go(world, (home, at), &spec.data)
            && classes(state).into_iter().any(|class| {
                holds(state, spec, &class, at == home)
                    && (at == home || carries(world, [home, at], spec))
                    && (at == home || lends(state, own, spec, &class))
                    && s6_quota::allows(world.sites[home].log.latest(), spec, &class)
            })
    })
}

fn is_peer(world: &World, one: usize, other: usize) -> bool {
    let knows =
        |a: usize, b: usize| world.sites[a].log.latest().peers.contains(&world.sites[b].name);
    knows(one, other) && knows(other, one)
}

fn classes(state: &State) -> Vec<GpuClass> {
    let mut classes: Vec<GpuClass> = state
        .nodes
        .values()
        .flat_map(|node| node.gpus.iter().map(|gpu| gpu.info.class.clone()))
        .collect();
    classes.sort();
    classes.dedup();
    classes
}

/// Whether both sites' versions let a loan carry CPU and memory or whole nodes, if the job asks for it.
fn carries(world: &World, sites: [usize; 2], spec: &JobSpec) -> bool {
    let is_new = |at: usize| world.sites[at].log.latest().version >= ClusterVersion::DEMANDS;
    !(spec.needs.ask_beside_gpus() || spec.needs.exclusive) || sites.into_iter().all(is_new)
}

fn holds(state: &State, spec: &JobSpec, class: &GpuClass, is_home: bool) -> bool {
    let will_do = spec.gpu_classes.is_empty() || spec.gpu_classes.contains(class);
    let fitting = state.nodes.values().filter(|node| {
        let gpus = node.gpus.iter().filter(|gpu| gpu.info.class == *class).count();
        gpus as u64 >= u64::from(spec.gpus_per_node.0)
            && needs::has(&spec.needs, &node.facts)
            && (is_home || needs::are_carried(spec, node))
    });
    let mut racks: BTreeMap<&str, u32> = BTreeMap::new();
    for node in fitting {
        let rack = if needs::is_bound(spec) { node.facts.rack.as_str() } else { "" };
        *racks.entry(rack).or_default() += 1;
    }
    will_do && racks.into_values().any(|nodes| nodes >= spec.nodes)
}

/// Whether the site's rules could lend the job's home what it needs.
fn lends(state: &State, home: &SiteId, spec: &JobSpec, class: &GpuClass) -> bool {
    let Some(site) = &state.site else { return false };
    let rule = site.lend.iter().find(|rule| rule.to.as_ref().is_none_or(|to| to == home));
    let gpus = state.nodes.values().flat_map(|node| &node.gpus);
    let total = gpus.filter(|gpu| gpu.info.class == *class).count();
    rule.is_some_and(|rule| {
        let spare = (total as u64).saturating_sub(u64::from(rule.keep_free.0));
        rule.gpus_max >= spec.gpus() && spare >= u64::from(spec.gpus().0)
    })
}
