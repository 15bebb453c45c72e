//! Quota: how many GPUs an account's jobs may hold, here and at peers together. Counted at the
//! jobs' home, where leases and loans are agreed on, so that it holds while sites cannot talk.
//!
//! # Invariants
//! * What an account holds is counted once for itself and once for each account above it.
//! * A job is counted from the command that gives it a lease or a loan until the one that records
//!   the attempt's end: nothing executes uncounted.
//! * A plan may be stale, so [`check`] runs again when an assignment is committed.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use specs::fault::{Fault, FaultCode};
use specs::id::{AccountId, GpuClass, JobId, Revision};
use specs::job::JobSpec;
use specs::quota::{LIMITS_MAX, Limit, Quota, WEIGHT_MAX};
use specs::unit::{GpuCount, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::client::{ClassCount, QuotaView};

use crate::apply::Reply;
use crate::command::{PartPlan, RemoveQuota, SetQuota};
use crate::effect::{Effect, Effects};
use crate::state::{Job, JobPhase, State};
use crate::table::Index;

/// Most accounts that a site keeps quotas of.
pub(crate) const QUOTAS_MAX: usize = 65_536;

/// What is counted: GPUs of a class, or of all classes, that an account's jobs hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UseKey {
    pub account: AccountId,
    /// None stands before every class, and for all of them.
    pub class: Option<GpuClass>,
}

/// What a job holds, or would hold.
#[derive(Debug, Clone)]
pub(crate) struct Charge {
    pub account: AccountId,
    /// None if it is not known: started before the site counted classes.
    pub class: Option<GpuClass>,
    pub gpus: GpuCount,
    /// Its array, if that has a limit, and the limit.
    array: Option<(Revision, u32)>,
}

impl Charge {
    pub(crate) fn new(job: &Job, spec: &JobSpec, class: Option<GpuClass>) -> Self {
        let array = (spec.array_running_max > 0).then_some((job.order, spec.array_running_max));
        Self { account: job.account(), class, gpus: spec.gpus(), array }
    }
}

/// Why an account may not take so much more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A limit of the account named.
    Account { account: AccountId, class: Option<GpuClass>, max: GpuCount, used: GpuCount },
    /// As many jobs of the array hold GPUs as may.
    Array { max: u32 },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account { account, class, max, used } => {
                let of = class.as_ref().map(ToString::to_string);
                let of = of.map_or_else(String::new, |class| alloc::format!(" of {class}"));
                write!(f, "{account} may hold {max} GPUs{of} and holds {used}")
            }
            Self::Array { max } => write!(f, "{max} jobs of its array run, and no more may"),
        }
    }
}

/// The account of a job that names none: its submitter's.
#[must_use]
pub fn account_of(submitter: &str) -> AccountId {
    let nobody = || AccountId::new("nobody").expect("a constant that keeps the rules of names");
    AccountId::new(submitter).unwrap_or_else(|_| nobody())
}

/// The class of a lease's GPUs. The caller has checked that they are all of one.
pub(crate) fn class_of(state: &State, parts: &[PartPlan]) -> Option<GpuClass> {
    let part = parts.first()?;
    let gpus = &state.nodes.get(&part.node)?.gpus;
    let first = part.gpus.first()?;
    gpus.iter().find(|gpu| gpu.info.index == *first).map(|gpu| gpu.info.class.clone())
}

/// What the job holds; nothing if it does not run.
pub(crate) fn charge_of(job: &Job) -> Option<Charge> {
    match &job.phase {
        JobPhase::Leased(leased) => Some(Charge::new(job, &job.spec(), leased.class.clone())),
        JobPhase::Loaned(loan) => {
            let class = loan.slots.first().map(|slot| slot.class.clone());
            Some(Charge::new(job, &job.spec(), class))
        }
        JobPhase::Queued(_) | JobPhase::Ended(_) => None,
    }
}

/// Every count that a charge enters.
fn keys(charge: &Charge) -> impl Iterator<Item = UseKey> + '_ {
    charge.account.line().flat_map(|account| {
        let class = charge.class.clone().map(Some);
        let classes = [Some(None), class].into_iter().flatten();
        classes.map(move |class| UseKey { account: account.clone(), class })
    })
}

pub(crate) fn add(
    used: &mut Index<UseKey, GpuCount>,
    running: &mut Index<Revision, u32>,
    charge: &Charge,
) {
    for key in keys(charge) {
        let before = used.get(&key).copied().unwrap_or_default();
        used.insert(key, before.plus(charge.gpus));
    }
    if let Some((array, _)) = charge.array {
        let before = running.get(&array).copied().unwrap_or_default();
        running.insert(array, before.saturating_add(1));
    }
}

/// Counts what the job has begun to hold.
pub(crate) fn charge(state: &mut State, job: &Job) {
    if let Some(charge) = charge_of(job) {
        add(&mut state.used, &mut state.running, &charge);
    }
}

/// Counts no longer what the job holds.
pub(crate) fn discharge(state: &mut State, id: JobId) -> Option<Charge> {
    let charge = state.jobs.get(&id).and_then(charge_of)?;
    for key in keys(&charge) {
        let left = state.used.get(&key).copied().unwrap_or_default().minus(charge.gpus);
        if left == GpuCount::ZERO {
            state.used.remove(&key);
        } else {
            state.used.insert(key, left);
        }
    }
    if let Some((array, _)) = charge.array {
        let left = state.running.get(&array).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            state.running.remove(&array);
        } else {
            state.running.insert(array, left);
        }
    }
    Some(charge)
}

/// Whether the account, and every account above it, may hold so much more.
///
/// # Errors
/// The first bound that is in the way.
pub(crate) fn check(state: &State, charge: &Charge) -> Result<(), Bound> {
    check_beside(state, charge, &Taken::default())
}

fn check_beside(state: &State, charge: &Charge, taken: &Taken) -> Result<(), Bound> {
    if let Some((array, max)) = charge.array {
        let running = state.running.get(&array).copied().unwrap_or_default();
        let more = taken.arrays.get(&array).copied().unwrap_or_default();
        if running.saturating_add(more) >= max {
            return Err(Bound::Array { max });
        }
    }
    if state.quotas.is_empty() {
        return Ok(());
    }
    for account in charge.account.line() {
        let Some(quota) = state.quotas.get(&account) else { continue };
        for limit in quota.limits_of(charge.class.as_ref()) {
            let Some(max) = limit.max else { continue };
            let key = UseKey { account: account.clone(), class: limit.class.clone() };
            let used = held(state, &key).plus(taken.gpus.get(&key).copied().unwrap_or_default());
            if used.plus(charge.gpus) > max {
                return Err(Bound::Account { account, class: key.class, max, used });
            }
        }
    }
    Ok(())
}

/// The classes of which the account, or one above it, may not hold as many as it likes.
fn limited_classes(state: &State, account: &AccountId) -> Vec<GpuClass> {
    if state.quotas.is_empty() {
        return Vec::new();
    }
    let quotas = account.line().filter_map(|it| state.quotas.get(&it));
    let limits = quotas.flat_map(|quota| quota.limits.iter().filter(|it| it.max.is_some()));
    let mut classes: Vec<GpuClass> = limits.filter_map(|it| it.class.clone()).collect();
    classes.sort();
    classes.dedup();
    classes
}

pub(crate) fn held(state: &State, key: &UseKey) -> GpuCount {
    state.used.get(key).copied().unwrap_or_default()
}

/// What a plan has taken so far, beside what is agreed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    gpus: BTreeMap<UseKey, GpuCount>,
    arrays: BTreeMap<Revision, u32>,
}

impl Taken {
    /// The classes that the job may not take now, because of quota.
    ///
    /// # Errors
    /// What binds, if no class is left that would do.
    pub(crate) fn closed(
        &self,
        state: &State,
        job: &Job,
        spec: &JobSpec,
    ) -> Result<Vec<GpuClass>, Bound> {
        let mut charge = Charge::new(job, spec, None);
        check_beside(state, &charge, self)?;
        let mut bound = None;
        let mut closed = Vec::new();
        for class in limited_classes(state, &charge.account) {
            charge.class = Some(class.clone());
            if let Err(binds) = check_beside(state, &charge, self) {
                bound = Some(binds);
                closed.push(class);
            }
        }
        let open = spec.gpu_classes.is_empty()
            || spec.gpu_classes.iter().any(|class| !closed.contains(class));
        match bound {
            Some(bound) if !open => Err(bound),
            _ => Ok(closed),
        }
    }

    /// Notes what the plan gives a job.
    pub(crate) fn take(&mut self, charge: &Charge) {
        for key in keys(charge) {
            let sum = self.gpus.entry(key).or_default();
            *sum = sum.plus(charge.gpus);
        }
        if let Some((array, _)) = charge.array {
            *self.arrays.entry(array).or_default() += 1;
        }
    }
}

/// Why the account cannot be charged, if nobody has set it up: one with a slip of the pen would have
/// no limits.
pub(crate) fn refuses(
    state: &State,
    account: Option<&AccountId>,
    submitter: &str,
) -> Option<Fault> {
    let account = account?;
    if *account == account_of(submitter) || account.line().any(|it| state.quotas.contains(&it)) {
        return None;
    }
    let message = alloc::format!("the account {account} is not known here, nor one above it");
    let hint = "see `federation quota ls`; an operator makes accounts with `federation quota set`";
    Some(Fault::new(FaultCode::NotFound, message).with_hint(hint))
}

fn refuse(message: String) -> Reply {
    Reply::Refused(Fault::new(FaultCode::InvalidArgument, message))
}

pub(crate) fn set(state: &mut State, fx: &mut Effects, it: &SetQuota) -> Reply {
    if state.version < ClusterVersion::QUEUEING {
        return Reply::NoOp("the site's version has no quota");
    }
    if it.weight > WEIGHT_MAX {
        return refuse(alloc::format!("a weight of {} is more than {WEIGHT_MAX}", it.weight));
    }
    let mut quota = state.quotas.get(&it.account).cloned().unwrap_or_else(none);
    if let Some(limit) = &it.limit {
        if let Some(max) = limit.max.filter(|max| limit.guaranteed > *max) {
            let guaranteed = limit.guaranteed;
            return refuse(alloc::format!(
                "{guaranteed} GPUs cannot be guaranteed: no more than {max} may be held"
            ));
        }
        put(&mut quota, limit.clone());
    }
    if quota.limits.len() > LIMITS_MAX {
        return refuse(alloc::format!("an account has at most {LIMITS_MAX} limits"));
    }
    if it.weight > 0 {
        quota.weight = it.weight;
    }
    if state.quotas.len() >= QUOTAS_MAX && !state.quotas.contains(&it.account) {
        return refuse(alloc::format!("a site has at most {QUOTAS_MAX} accounts"));
    }
    state.agreed.quotas.insert(it.account.clone(), quota);
    fx.insert(Effect::Plan);
    Reply::Done
}

fn none() -> Quota {
    Quota { limits: Vec::new(), weight: 0 }
}

fn put(quota: &mut Quota, limit: Limit) {
    quota.limits.retain(|it| it.class != limit.class);
    if limit.max.is_some() || limit.guaranteed > GpuCount::ZERO {
        quota.limits.push(limit);
        quota.limits.sort_by(|one, other| one.class.cmp(&other.class));
    }
}

pub(crate) fn remove(state: &mut State, fx: &mut Effects, it: &RemoveQuota) -> Reply {
    if !state.agreed.quotas.remove(&it.account) {
        return Reply::NoOp("the account has no quota");
    }
    fx.insert(Effect::Plan);
    Reply::Done
}

/// From now on classes are counted: whatever runs gets the class of its GPUs.
pub(crate) fn charge_running(state: &mut State) {
    let leased: Vec<(JobId, Option<GpuClass>)> = state
        .leases
        .values()
        .filter(|lease| state.is_own(&lease.home))
        .map(|lease| {
            let parts: Vec<PartPlan> = lease.parts.iter().map(part_plan).collect();
            (lease.job, class_of(state, &parts))
        })
        .collect();
    for (id, class) in leased {
        discharge(state, id);
        let Some(job) = state.agreed.jobs.get_mut(&id) else { continue };
        if let JobPhase::Leased(leased) = &mut job.phase {
            leased.class = class;
        }
        let job = job.clone();
        charge(state, &job);
    }
}

fn part_plan(part: &crate::state::Part) -> PartPlan {
    PartPlan { node: part.node.clone(), gpus: part.gpus.clone() }
}

/// Every account that has a quota or uses GPUs.
#[must_use]
pub fn quota_views(state: &State, at: Timestamp) -> Vec<QuotaView> {
    let mut views: BTreeMap<AccountId, QuotaView> = BTreeMap::new();
    let view = |account: &AccountId| QuotaView {
        account: account.clone(),
        quota: state.quotas.get(account).cloned(),
        used: Vec::new(),
        lately: Vec::new(),
    };
    for account in state.quotas.keys() {
        views.insert(account.clone(), view(account));
    }
    for (UseKey { account, class }, gpus) in state.used.iter() {
        let entry = views.entry(account.clone()).or_insert_with(|| view(account));
        if let Some(class) = class {
            entry.used.push(ClassCount { class: class.clone(), gpus: *gpus });
        }
    }
    for (account, recent) in state.recent.iter() {
        let entry = views.entry(account.clone()).or_insert_with(|| view(account));
        let some = recent.lately(at).filter(|(_, gpus)| *gpus > GpuCount::ZERO);
        entry.lately.extend(some.map(|(class, gpus)| ClassCount { class: class.clone(), gpus }));
    }
    views.into_values().collect()
}
