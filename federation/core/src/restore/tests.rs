//! A site that is lost after its backup: what agents and peers know by then must not come to harm.
//! Each rule of the restore is left out once, and then something here must notice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;

use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, GpuIndex, NodeId, Question, TokenId};
use specs::job::{JobClass, JobSpec, PlacementSpec};
use specs::site::{LendRule, SiteSpec, Terms};
use specs::unit::{GpuCount, Instant};
use specs::wire::agent::{AttemptPhase, AttemptReport, Inventory, NodeOrders, NodeReport};

use super::*;
use crate::PackedSpec;
use crate::command::{
    AcceptNode, AddPeer, AdmitJobs, Command, FoundSite, MakeGrant, OpenToken, PeerRecord,
};
use crate::state::{GrantSlot, TokenKind};
use crate::{Leader, apply, check};

const AT: Timestamp = Timestamp(1_000);
/// The job that may be placed again, and the one that may run on for ever.
const RESTARTS: JobId = JobId(1);
const WAITS: JobId = JobId(2);

struct World {
    state: State,
    leader: Leader,
    now: Instant,
    question: u64,
}

impl World {
    fn found() -> Self {
        let gpus_max = GpuCount(64);
        let lend = LendRule { to: None, class: None, gpus_max, keep_free: GpuCount(0) };
        let (site, country) = ("berlin".parse().unwrap(), "DE".parse().unwrap());
        let spec = Arc::new(SiteSpec {
            site,
            country,
            terms: Terms::default(),
            lend: vec![lend],
            trust: None,
        });
        let mut world = Self::of(State::default());
        world.apply(Command::FoundSite(FoundSite { spec, address: "berlin:1".into() }));
        let (site, country) = ("paris".parse().unwrap(), "FR".parse().unwrap());
        let peer = PeerRecord { site, country, ca: Blob(vec![1]), addresses: vec![] };
        world.apply(Command::AddPeer(AddPeer { peer }));
        for name in ["n1", "n2", "n3"] {
            world.enrol(name);
        }
        world
    }

    fn of(state: State) -> Self {
        Self { state, leader: Leader::new(Instant(0), 1), now: Instant(0), question: 0 }
    }

    fn apply(&mut self, command: Command) {
        apply(&mut self.state, &command);
        assert_eq!(check(&self.state), [], "after {command:?}");
    }

    fn enrol(&mut self, name: &str) {
        let (token, node) = (TokenId(name.len() as u128), name.parse().unwrap());
        let (kind, key) = (TokenKind::Enrol, Blob(vec![1]));
        let bound = name.into();
        self.apply(Command::OpenToken(OpenToken { token, kind, key, bound, expires_at: AT }));
        let digest = Blob(name.into());
        self.apply(Command::AcceptNode(AcceptNode { token, node, digest, at: AT }));
        self.ask(name, 1, vec![]);
    }

    fn ask(&mut self, node: &str, boot: u64, attempts: Vec<AttemptReport>) -> Option<NodeOrders> {
        self.question += 1;
        let info = |index| GpuInfo {
            index: GpuIndex(index),
            class: "b200".parse().unwrap(),
            uuid: String::new(),
            memory_mib: 0,
        };
        let report = NodeReport {
            node: node.parse().unwrap(),
            boot: Boot(boot),
            question: Question(self.question),
            obeyed: Revision(0),
            answered: Question(self.question.saturating_sub(2)),
            inventory: Inventory {
                source: InventorySource::Declared,
                gpus: (0..8).map(info).collect(),
                address: "127.0.0.1".into(),
                version: "test".into(),
                facts: OrDefault::default(),
            },
            attempts,
            health: Vec::new(),
            heeds_permits: true,
            checkpoints: Vec::new(),
        };
        let commands = self.leader.handle_node_report(self.now, AT, &self.state, &report).unwrap();
        for command in commands {
            self.apply(command);
        }
        self.leader.node_orders(self.now, &self.state, &report)
    }

    fn submit(&mut self, id: JobId, on_partition: OnPartition) {
        let spec = JobSpec {
            name: "train".parse().unwrap(),
            class: JobClass::Training,
            priority: 50,
            nodes: 1,
            tasks_per_node: 1,
            gpus_per_node: GpuCount(8),
            gpu_classes: vec![],
            array: 1,
            command: vec!["true".into()],
            env: Default::default(),
            workdir: String::new(),
            grace: Millis(1_000),
            retries: 3,
            on_partition,
            placement: PlacementSpec { sites: vec![], residency: vec![], spill: false },
            time_limit: Millis(0),
            labels: Default::default(),
            needs: OrDefault::default(),
            account: None,
            preemptible: None,
            array_running_max: 0,
            data: vec![],
            deadline: None,
        };
        let request = alloc::format!("request-{}", id.0).parse().unwrap();
        let (jobs, spec, submitter) = (vec![id], PackedSpec::from(&spec), "ada".into());
        self.apply(Command::AdmitJobs(AdmitJobs { request, jobs, spec, submitter, at: AT }));
    }

    fn poll(&mut self) {
        let (commands, _) = self.leader.poll_commands(self.now, AT, &self.state);
        for command in commands {
            self.apply(command);
        }
    }

    fn grant(&mut self, node: &str) -> GrantId {
        let node: NodeId = node.parse().unwrap();
        let slot = GrantSlot { node, class: "b200".parse().unwrap(), gpus: vec![GpuIndex(0)] };
        let home = "paris".parse().unwrap();
        self.apply(Command::MakeGrant(MakeGrant { home, slots: vec![slot] }));
        self.state.last_grant
    }

    fn epoch(&self, id: JobId) -> Epoch {
        self.state.jobs.get(&id).unwrap().epoch
    }
}

fn plan() -> RestorePlan {
    let (address, request) = ("berlin:9".into(), "restore".parse().unwrap());
    RestorePlan { at: Timestamp(1_800_000_000_000), address, request }
}

fn running(lease: LeaseId) -> AttemptReport {
    AttemptReport {
        lease,
        phase: AttemptPhase::Running,
        outcome: None,
        started_at: AT,
        ended_at: Timestamp(0),
    }
}

/// A backup is made while both jobs run on `n1` and `n2`. Then both agents begin new lives, the
/// jobs go to other nodes, a grant is made, and the site is lost. Lists what goes wrong after the
/// restore.
fn harm(rules: Rules) -> BTreeSet<&'static str> {
    let mut old = World::found();
    old.submit(RESTARTS, OnPartition::Restart);
    old.submit(WAITS, OnPartition::Wait);
    old.poll();
    let backup = old.state.clone();
    for node in ["n1", "n2", "n3"] {
        old.ask(node, 2, vec![]);
    }
    old.poll();
    let granted = old.grant("n3");
    let (epoch, lease, obeyed) = (old.epoch(RESTARTS), old.state.last_lease, old.state.revision);
    assert_eq!(epoch, Epoch(2), "the world has gone on");

    let (state, done) = restore_with(&backup, &plan(), rules);
    let mut harm = BTreeSet::new();
    if !check(&state).is_empty() {
        return BTreeSet::from(["the state is not sound"]);
    }
    let mut new = World::of(state);
    let hold = Terms::default().release_node_after().plus(Terms::default().release_peer_after());
    // The nodes that had the jobs at the backup are there, and have forgotten them; the one that
    // runs them is not heard.
    for step in 0..150u64 {
        new.now = Instant(step * 2_000);
        new.poll();
        for node in ["n1", "n2"] {
            let Some(orders) = new.ask(node, 2, vec![]) else { continue };
            if orders.revision < obeyed {
                harm.insert("agents take its orders for old ones");
            }
            for order in orders.leases.iter().filter(|order| order.launch.is_some()) {
                if order.job == WAITS {
                    harm.insert("a job runs twice that waits");
                } else if new.now < Instant(0).after(hold) {
                    harm.insert("a job runs twice");
                }
                if order.epoch <= epoch {
                    harm.insert("an epoch is used twice");
                }
                if order.lease <= lease && rules.leases_are_dissolved {
                    harm.insert("a lease is used twice");
                }
            }
        }
        new.poll();
    }
    if new.epoch(RESTARTS) <= epoch {
        harm.insert("a job is not placed again");
    }
    new.state.agreed.recovering = None;
    if new.grant("n2").max(new.grant("n1")) <= granted {
        harm.insert("a grant is used twice");
    }
    assert!(done.controller > old.state.last_controller);
    harm
}

#[test]
fn a_restored_site_harms_nothing_that_it_does_not_know() {
    assert_eq!(harm(Rules::ALL), BTreeSet::new());
}

#[test]
fn each_rule_that_is_left_out_is_noticed() {
    let all = Rules::ALL;
    let noticed = |rules, what| {
        let harm = harm(rules);
        assert!(harm.contains(what), "{what}: {harm:?}");
    };
    noticed(Rules { epochs_jump: false, ..all }, "an epoch is used twice");
    noticed(Rules { revision_jumps: false, ..all }, "agents take its orders for old ones");
    noticed(Rules { grants_jump: false, ..all }, "a grant is used twice");
    noticed(Rules { leases_are_dissolved: false, ..all }, "the state is not sound");
    noticed(Rules { waiting_jobs_are_lost: false, ..all }, "a job runs twice that waits");
    noticed(Rules { placement_is_held: false, ..all }, "a job runs twice");
}

#[test]
fn ids_and_revisions_go_on_where_no_one_has_been() {
    let mut old = World::found();
    old.submit(RESTARTS, OnPartition::Restart);
    let backup = old.state.clone();
    let (first, done) = restore(&backup, &plan());
    assert_eq!(done.controller, ControllerId(1_000));
    assert_eq!(first.controllers.len(), 1);
    assert!(first.last_grant.0 > 1 << 50 && first.last_lease.0 > 1 << 50);
    // A second restore from the same backup, two minutes later, begins another era.
    let later = RestorePlan { at: Timestamp(plan().at.0 + 120_000), ..plan() };
    let (second, _) = restore(&backup, &later);
    assert!(second.revision.0 - first.revision.0 > 1 << 36);
    // One from a backup of the restored site goes on from there, even if the clock was set back.
    let early = RestorePlan { at: Timestamp(0), ..plan() };
    let (third, done) = restore(&first, &early);
    assert!(third.revision > first.revision && third.last_grant > first.last_grant);
    assert_eq!(done.controller, ControllerId(2_000));
    assert!(reign(&third, 1) >= reign(&first, 1) && reign(&first, 1) > reign(&backup, 60_000));
    assert!(reign(&third, 1) < 1 << 32, "a leader's questions begin at 2^32 times this");
}

#[test]
fn a_result_that_comes_late_is_kept() {
    let mut old = World::found();
    old.submit(RESTARTS, OnPartition::Restart);
    old.poll();
    let (node, lease) = {
        let lease = old.state.leases.values().next().unwrap();
        (lease.parts[0].node.clone(), lease.id)
    };
    old.ask(node.as_str(), 1, vec![running(lease)]);
    let (state, _) = restore(&old.state, &plan());
    let mut new = World::of(state);
    let end = AttemptReport {
        phase: AttemptPhase::Ended,
        outcome: Some(Outcome::exited(7, 0)),
        ..running(lease)
    };
    let orders = new.ask(node.as_str(), 1, vec![end]).unwrap();
    assert!(orders.leases.is_empty(), "what it does not name is stopped");
    let JobPhase::Ended(ended) = &new.state.jobs.get(&RESTARTS).unwrap().phase else {
        panic!("it goes on")
    };
    assert_eq!((ended.state, ended.outcome.exit_code), (JobState::Finished, 7));
}

#[test]
fn a_loan_from_before_is_lost_or_waited_for_but_never_run_again() {
    use crate::exchange::host::{Admission, judge};
    use specs::wire::agent::Want;
    use specs::wire::peer::{LoanBody, LoanOrder, LoanSlot};

    let mut old = World::found();
    old.submit(RESTARTS, OnPartition::Restart);
    let spec = old.state.jobs.get(&RESTARTS).unwrap().spec.clone();
    let backup = old.state.clone();
    let grant = old.grant("n1");
    let (state, _) = restore(&backup, &plan());
    let judged = |on_partition| {
        let spec = Arc::new(JobSpec { on_partition, ..(*spec.get()).clone() });
        let (node, class) = ("n1".parse().unwrap(), "b200".parse().unwrap());
        let slots = vec![LoanSlot { grant, node, class, gpus: GpuCount(8), which: vec![] }];
        let body = Some(LoanBody { slots, spec, array_index: 0, submitter: "eva".into() });
        let order = LoanOrder { job: JobId(9), epoch: Epoch(1), want: Want::Run, body };
        judge(&state, &"paris".parse().unwrap(), &order, Timestamp(0))
    };
    assert_eq!(judged(OnPartition::Restart), Admission::Refuse(unknown()));
    assert_eq!(judged(OnPartition::Wait), Admission::Later);
}

#[test]
fn a_recovering_host_asks_no_home() {
    let old = World::found();
    let (state, done) = restore(&old.state, &plan());
    let mut new = World::of(state);
    let home = "paris".parse().unwrap();
    assert!(new.leader.ask_peer(new.now, &new.state, &home).is_none());
    let wrong = EndRecovery { restored: Revision(1) };
    new.apply(Command::EndRecovery(wrong));
    assert!(new.state.recovering.is_some());
    new.apply(Command::EndRecovery(EndRecovery { restored: done.revision }));
    assert!(new.leader.ask_peer(new.now, &new.state, &home).is_some());
}
