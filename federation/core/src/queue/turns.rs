//! Whose turn it is: the higher priority; then the account that has least of what it is due; then
//! the earlier admission.
//!
//! What an account has is the largest share of any class that it holds (Ghodsi et al., *Dominant
//! Resource Fairness*, NSDI 2011), here and at peers, together with what it held lately, by its
//! weight. Accounts are compared level by level, organisations first, so that no organisation gets
//! more by having more projects. Below its guarantee an account goes before all that are above
//! theirs.
//!
//! # Invariants
//! * A turn costs the logarithm of the number of accounts and of jobs, however many wait.
//! * Who is given something stands further back at once, within the same plan.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Unbounded};

use specs::id::{AccountId, GpuClass, JobId, Revision};
use specs::quota::Quota;
use specs::unit::{GpuCount, Instant, Timestamp};

use crate::queue::clearing::Claim;
use crate::queue::kept::Kept;
use crate::quota::{Charge, UseKey, held};
use crate::state::{Job, QueueKey, State};

/// Shares are counted in parts of this.
const WHOLE: u64 = 1 << 20;
/// Misses after which an account's further jobs are left for the next plan, if others wait.
const MISSES_MIN: usize = 16;

/// What the order of the queue rests on, beside the agreed state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    pub now: Instant,
    pub at: Timestamp,
    /// GPUs of each class, here and at peers.
    pub capacity: BTreeMap<GpuClass, u64>,
    /// For whom room is being made; they have their turns first, in this order.
    pub claims: Vec<Claim>,
    /// What is kept, for whom; he has his turn next.
    pub kept: Option<Kept>,
    /// Most jobs that are looked at.
    pub looks: usize,
}

/// How near an account is to what it is due; the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    /// It has all that it is guaranteed.
    borrows: bool,
    /// Of its dominant class, by its weight.
    share: u64,
}

/// An account among its siblings, or the jobs that are its own among the accounts below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Child {
    standing: Standing,
    /// When the job was admitted that would be next.
    age: Revision,
    account: AccountId,
    is_own: bool,
}

/// An account's own queue of one priority.
#[derive(Debug, Clone)]
struct Own {
    next: QueueKey,
    misses: usize,
}

/// Gives queued jobs, one at a time, in the order of their turns.
pub(crate) struct Turns<'a> {
    state: &'a State,
    order: &'a Order,
    /// For whom something is kept, and how many of them had their turns.
    ahead: Vec<JobId>,
    had: usize,
    left: usize,
    /// Some jobs are left for the next plan.
    leaves: bool,
    /// Where the next priority begins.
    rest: Option<QueueKey>,
    own: BTreeMap<AccountId, Own>,
    /// Of each account, none for the root, those below it that have jobs.
    below: BTreeMap<Option<AccountId>, BTreeSet<Child>>,
    /// The entry of each in its parent's set.
    entries: BTreeMap<(AccountId, bool), Child>,
    /// What the plan has given so far.
    taken: BTreeMap<UseKey, GpuCount>,
    last: Option<AccountId>,
}

impl<'a> Turns<'a> {
    pub(crate) fn new(state: &'a State, order: &'a Order) -> Self {
        let claims = order.claims.iter().map(|claim| claim.job);
        let mut ahead: Vec<JobId> = claims.collect();
        ahead.extend(order.kept.as_ref().map(|kept| kept.job).filter(|id| !ahead.contains(id)));
        Self {
            state,
            order,
            ahead,
            had: 0,
            left: order.looks,
            leaves: false,
            rest: state.queue.keys().next().cloned(),
            own: BTreeMap::new(),
            below: BTreeMap::new(),
            entries: BTreeMap::new(),
            taken: BTreeMap::new(),
            last: None,
        }
    }

    /// The next job. That it is asked for again tells that the last one was not placed.
    pub(crate) fn next(&mut self) -> Option<&'a Job> {
        if let Some(last) = self.last.take() {
            self.step(&last, true);
        }
        while let Some(id) = self.ahead.get(self.had) {
            self.had += 1;
            let job = self.state.jobs.get(id);
            if let Some(job) = job.filter(|job| self.state.queue.contains(&job.queue_key())) {
                return Some(job);
            }
        }
        while self.left > 0 {
            if self.own.is_empty() && !self.open_rank() {
                return None;
            }
            let Some(account) = self.first() else {
                self.own.clear();
                continue;
            };
            let job = self.own.get(&account).and_then(|own| self.state.jobs.get(&own.next.job));
            match job.filter(|job| !self.ahead.contains(&job.id)) {
                Some(job) => {
                    self.left -= 1;
                    self.last = Some(account);
                    return Some(job);
                }
                None => self.step(&account, false),
            }
        }
        self.leaves = true;
        None
    }

    /// Whether a job may wait that had no turn.
    pub(crate) fn leaves_some(&self) -> bool {
        self.leaves
    }

    /// The last job was placed, and holds this.
    pub(crate) fn took(&mut self, charge: &Charge) {
        let classes = [None, charge.class.clone()];
        for account in charge.account.line() {
            for class in &classes {
                let key = UseKey { account: account.clone(), class: class.clone() };
                let sum = self.taken.entry(key).or_default();
                *sum = sum.plus(charge.gpus);
            }
        }
        if let Some(last) = self.last.take() {
            self.step(&last, false);
        }
        self.refresh(&charge.account, true);
    }

    /// Takes in the accounts that have jobs of the next priority. False if there are none.
    fn open_rank(&mut self) -> bool {
        let Some(first) = self.rest.take() else { return false };
        self.below.clear();
        self.entries.clear();
        let rank = first.rank;
        let mut next = Some(first);
        while let Some(key) = next.take() {
            if key.rank != rank {
                self.rest = Some(key);
                break;
            }
            next = self.after(&key.last_of_account());
            self.own.insert(key.account.clone(), Own { next: key, misses: 0 });
        }
        let accounts: Vec<AccountId> = self.own.keys().cloned().collect();
        for account in accounts {
            self.refresh(&account, false);
        }
        true
    }

    fn after(&self, key: &QueueKey) -> Option<QueueKey> {
        self.state.queue.range((Excluded(key), Unbounded)).next().map(|(key, ())| key.clone())
    }

    /// Whose turn it is.
    fn first(&self) -> Option<AccountId> {
        let mut at = None;
        loop {
            let child = self.below.get(&at)?.first()?;
            if child.is_own {
                return Some(child.account.clone());
            }
            at = Some(child.account.clone());
        }
    }

    /// The account's next job has had its turn.
    fn step(&mut self, account: &AccountId, missed: bool) {
        let most = (self.order.looks / self.own.len().max(1)).max(MISSES_MIN);
        let Some(own) = self.own.get(account) else { return };
        let misses = own.misses + usize::from(missed);
        let (rank, next) = (own.next.rank, self.after(&own.next));
        let next = next.filter(|it| it.rank == rank && it.account == *account);
        self.leaves |= next.is_some() && misses >= most;
        match next.filter(|_| misses < most) {
            Some(next) => {
                self.own.insert(account.clone(), Own { next, misses });
            }
            None => {
                self.own.remove(account);
            }
        }
        self.refresh(account, false);
    }

    /// Puts the account, and those above it, where they stand. `has_more` tells that they hold more
    /// than when they were last put.
    fn refresh(&mut self, account: &AccountId, has_more: bool) {
        let mut line: Vec<AccountId> = account.line().collect();
        let age = self.own.get(account).map(|own| own.next.order);
        self.put(Some(account.clone()), account, true, (age, has_more));
        while let Some(account) = line.pop() {
            let first = self.below.get(&Some(account.clone())).and_then(BTreeSet::first);
            let age = first.map(|child| child.age);
            self.put(line.last().cloned(), &account, false, (age, has_more));
        }
    }

    /// Enters a child with that age; none takes it out.
    fn put(
        &mut self,
        parent: Option<AccountId>,
        account: &AccountId,
        is_own: bool,
        (age, has_more): (Option<Revision>, bool),
    ) {
        let key = (account.clone(), is_own);
        let siblings = self.below.entry(parent).or_default();
        let old = self.entries.remove(&key);
        if let Some(old) = &old {
            siblings.remove(old);
        }
        let Some(age) = age else { return };
        let known = old.filter(|_| !has_more).map(|old| old.standing);
        let standing =
            known.unwrap_or_else(|| standing(self.state, self.order, &self.taken, account));
        let child = Child { standing, age, account: account.clone(), is_own };
        siblings.insert(child.clone());
        self.entries.insert(key, child);
    }
}

fn standing(
    state: &State,
    order: &Order,
    taken: &BTreeMap<UseKey, GpuCount>,
    account: &AccountId,
) -> Standing {
    let holds = |class: Option<GpuClass>| {
        let key = UseKey { account: account.clone(), class };
        held(state, &key).plus(taken.get(&key).copied().unwrap_or_default())
    };
    let quota = state.quotas.get(account);
    let limits = quota.iter().flat_map(|quota| &quota.limits);
    let borrows = !limits
        .into_iter()
        .any(|it| it.guaranteed > GpuCount::ZERO && holds(it.class.clone()) < it.guaranteed);
    let recent = state.recent.get(account);
    let share = order.capacity.iter().map(|(class, gpus)| {
        let lately = recent.map_or(0, |it| it.lately_milli(class, order.at));
        let milli = u64::from(holds(Some(class.clone())).0) * 1_000 + lately;
        milli.saturating_mul(WHOLE) / gpus.saturating_mul(1_000).max(1)
    });
    let weight = u64::from(quota.map_or(Quota::WEIGHT, Quota::weight));
    Standing { borrows, share: share.max().unwrap_or(0) / weight }
}
