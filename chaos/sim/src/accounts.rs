//! Whom jobs count for, and what operators allow them.

use federation_core::{Command, RemoveQuota, SetQuota, State, quota_views};
use specs::id::AccountId;
use specs::job::JobSpec;
use specs::quota::Limit;
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::rng::Rng;
use crate::setup;

/// Who submits.
pub(crate) const TENANT: &str = "tenant";
/// Those below the first two share what these may hold.
const ACCOUNTS: [&str; 6] =
    ["acme", "beta", "acme/vision", "acme/vision/ada", "acme/speech/bob", "beta/eve"];

/// What operators do with quota.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// How often one changes what an account may hold.
    pub(crate) changes: u64,
    /// And whenever somebody submits.
    pub(crate) is_nervous: bool,
}

impl Habits {
    /// In half of the worlds there are no accounts, so that quota hides nothing else.
    pub(crate) fn draw(seed: u64) -> Option<Self> {
        let mut rng = Rng::of(seed, "accounts");
        let habits = Self { changes: rng.below(5), is_nervous: rng.chance(400) };
        rng.chance(500).then_some(habits)
    }
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).expect("a constant that keeps the rules of names")
}

/// One of those that jobs may name.
pub(crate) fn some(rng: &mut Rng) -> AccountId {
    let nth = rng.index(ACCOUNTS.len() + 1);
    account(ACCOUNTS.get(nth).copied().unwrap_or(TENANT))
}

/// The account of a job whose spec may name none.
pub(crate) fn of(spec: &JobSpec) -> AccountId {
    spec.account.clone().unwrap_or_else(|| account(TENANT))
}

/// What a site begins with: the largest accounts exist, so that jobs may name those below them.
pub(crate) fn found(rng: &mut Rng) -> Vec<Command> {
    ACCOUNTS[..2].iter().map(|name| set(rng, account(name))).collect()
}

/// An operator changes what some account may hold; often to what it holds, so that nothing that is
/// under way may still be taken.
pub(crate) fn change(rng: &mut Rng, state: &State) -> Command {
    if rng.chance(500) {
        let account = account(ACCOUNTS[rng.index(2)]);
        let views = quota_views(state, Timestamp(0));
        let view = views.iter().find(|view| view.account == account);
        let held = view.map_or(0, |view| view.used.iter().map(|it| it.gpus.0).sum());
        let (guaranteed, max) = (GpuCount::ZERO, Some(GpuCount(held.max(1))));
        let limit = Some(Limit { class: None, guaranteed, max });
        return Command::SetQuota(SetQuota { account, limit, weight: 0 });
    }
    let account = account(ACCOUNTS[rng.index(ACCOUNTS.len())]);
    let is_largest = !account.as_str().contains('/');
    if rng.chance(200) && !is_largest {
        return Command::RemoveQuota(RemoveQuota { account });
    }
    set(rng, account)
}

fn set(rng: &mut Rng, account: AccountId) -> Command {
    let class = rng.chance(400).then(|| setup::classes()[rng.index(2)].clone());
    let max = rng.chance(850).then(|| GpuCount(rng.small(1, 12)));
    let guaranteed = max.unwrap_or(GpuCount(4)).min(GpuCount(rng.small(0, 6)));
    let limit = rng.chance(950).then_some(Limit { class, guaranteed, max });
    let weight = if rng.chance(300) { rng.small(1, 5) } else { 0 };
    Command::SetQuota(SetQuota { account, limit, weight })
}

/// Gives a job an account, and what else only a site with accounts keeps.
pub(crate) fn draw(rng: &mut Rng, spec: &mut JobSpec, job_max: Millis) {
    spec.account = match rng.below(10) {
        0..3 => None,
        nth => Some(account(ACCOUNTS[usize::try_from(nth).unwrap_or(0) % ACCOUNTS.len()])),
    };
    spec.preemptible = rng.chance(300).then(|| rng.chance(700));
    if spec.array > 1 && rng.chance(500) {
        spec.array_running_max = rng.small(1, 2);
    }
    if rng.chance(500) {
        // No process here takes longer than the least of these.
        spec.time_limit = Millis(job_max.0 * rng.range(1, 5));
    }
}
