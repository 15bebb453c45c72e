//! Agreed state and the leader, through their public face: one site, and a home with a host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use federation_core::{
    AcceptNode, AddController, AddPeer, AdmitJobs, Alarm, ArchiveJobs, CancelJob, Command,
    FoundSite, JobPhase, Leader, OpenToken, PackedSpec, PeerRecord, Reply, Retention,
    SetHealthLimits, SetTrust, SetVersion, State, TokenKind, WantBurnIns, WithholdGpu, apply,
    check, job_state, leaving, limits_view, permitted,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{
    Bound, BoundUnit, BurnInEnd, BurnInResult, BurnInTier, GpuHealth, GpuInfo, GpuReport, GpuState,
    HealthLimits, InventorySource, SignedProof,
};
use specs::id::{Boot, Epoch, GpuIndex, JobId, LeaseId, NodeId, Question, Revision, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{LendRule, SiteSpec, Terms, Trust};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{
    AttemptPhase, AttemptReport, Ending, Inventory, NodeOrders, NodeReport, Outcome, ValidityKind,
    Want,
};
use specs::wire::client::JobState;

const AT: Timestamp = Timestamp(1_000);

/// A site with its leader, its agents' questions and a clock that a test moves.
struct Site {
    state: State,
    leader: Leader,
    now: Instant,
    question: u64,
    answered: u64,
    /// What agents say of the health of their GPUs.
    health: Vec<GpuReport>,
    heeds_permits: bool,
}

impl Site {
    fn found(name: &str) -> Self {
        let lend =
            LendRule { to: None, class: None, gpus_max: GpuCount(64), keep_free: GpuCount(0) };
        let spec = SiteSpec {
            site: name.parse().unwrap(),
            country: "DE".parse().unwrap(),
            terms: Terms::default(),
            lend: vec![lend],
            trust: None,
        };
        let mut site = Self {
            state: State::default(),
            leader: Leader::new(Instant(0), 1),
            now: Instant(0),
            question: 0,
            answered: 0,
            health: Vec::new(),
            heeds_permits: true,
        };
        let address = format!("{name}:1");
        site.apply(Command::FoundSite(FoundSite { spec: Arc::new(spec), address }));
        site
    }

    fn apply(&mut self, command: Command) -> Reply {
        let (reply, _) = apply(&mut self.state, &command);
        assert_eq!(check(&self.state), [], "after {command:?}");
        reply
    }

    fn node(&mut self, name: &str, gpus: u16) {
        let token = TokenId(u128::from(gpus) + name.len() as u128);
        let node: NodeId = name.parse().unwrap();
        self.apply(Command::OpenToken(OpenToken {
            token,
            kind: TokenKind::Enrol,
            key: Blob(vec![1]),
            bound: name.into(),
            expires_at: AT,
        }));
        let digest = Blob(name.into());
        let accept = AcceptNode { token, node, digest, at: AT };
        assert_eq!(self.apply(Command::AcceptNode(accept)), Reply::Done);
        self.ask(name, 1, gpus, vec![]);
    }

    /// An agent asks; what it brings is agreed on, and the orders come back.
    fn ask(
        &mut self,
        node: &str,
        boot: u64,
        gpus: u16,
        attempts: Vec<AttemptReport>,
    ) -> NodeOrders {
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
            answered: Question(self.answered),
            inventory: Inventory {
                source: InventorySource::Declared,
                gpus: (0..gpus).map(info).collect(),
                address: "127.0.0.1".into(),
                version: "test".into(),
                facts: OrDefault::default(),
            },
            attempts,
            health: self.health.clone(),
            heeds_permits: self.heeds_permits,
            checkpoints: Vec::new(),
        };
        self.answered = self.question;
        let commands = self.leader.handle_node_report(self.now, AT, &self.state, &report).unwrap();
        for command in commands {
            self.apply(command);
        }
        self.leader.node_orders(self.now, &self.state, &report).unwrap()
    }

    fn submit(&mut self, id: u128, spec: JobSpec) -> Reply {
        self.apply(Command::AdmitJobs(AdmitJobs {
            request: format!("request-{id}").parse().unwrap(),
            jobs: vec![JobId(id)],
            spec: PackedSpec::from(&spec),
            submitter: "ada".into(),
            at: AT,
        }))
    }

    fn poll(&mut self) {
        let (commands, _) = self.leader.poll_commands(self.now, AT, &self.state);
        for command in commands {
            self.apply(command);
        }
    }

    fn state_of(&self, id: u128) -> JobState {
        job_state(&self.state, self.state.jobs.get(&JobId(id)).unwrap())
    }

    fn join(&mut self, other: &str) {
        let peer = PeerRecord {
            site: other.parse().unwrap(),
            country: "FR".parse().unwrap(),
            ca: Blob(vec![1]),
            addresses: vec![format!("{other}:1")],
        };
        self.apply(Command::AddPeer(AddPeer { peer }));
    }

    /// Asks the home, as its host, and obeys; both sides agree on what follows.
    fn ask_home(&mut self, home: &mut Self) {
        let name = home.state.own().unwrap().clone();
        let report = self.leader.ask_peer(self.now, &self.state, &name).unwrap();
        let commands = home.leader.handle_peer_report(home.now, AT, &home.state, &report).unwrap();
        for command in commands {
            home.apply(command);
        }
        let orders = home.leader.peer_orders(&home.state, &report).unwrap();
        for command in self.leader.handle_peer_orders(self.now, AT, &self.state, &orders) {
            self.apply(command);
        }
    }
}

fn job(nodes: u32, gpus: u32) -> JobSpec {
    JobSpec {
        name: "train".parse().unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(gpus),
        gpu_classes: vec![],
        array: 1,
        command: vec!["true".into()],
        env: Default::default(),
        workdir: String::new(),
        grace: Millis(1_000),
        retries: 3,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: Default::default(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

fn ended(lease: u64, outcome: Outcome) -> AttemptReport {
    AttemptReport {
        lease: LeaseId(lease),
        phase: AttemptPhase::Ended,
        outcome: Some(outcome),
        started_at: AT,
        ended_at: AT,
    }
}

fn running(lease: u64) -> AttemptReport {
    AttemptReport {
        lease: LeaseId(lease),
        phase: AttemptPhase::Running,
        outcome: None,
        started_at: AT,
        ended_at: Timestamp(0),
    }
}

impl Site {
    /// A site that asks for proofs, at the version that knows of them.
    fn asking(trust: Trust) -> Self {
        Self::asking_as("berlin", trust)
    }

    fn asking_as(name: &str, trust: Trust) -> Self {
        let mut site = Self::found(name);
        for version in 2..=ClusterVersion::HEALTH.0 {
            let version = ClusterVersion(version);
            site.apply(Command::SetVersion(SetVersion { version }));
        }
        assert_eq!(site.apply(Command::SetTrust(SetTrust { trust })), Reply::Done);
        site
    }

    fn says(&mut self, index: u16, state: GpuState) {
        let proof = SignedProof {
            body: Blob::default(),
            signature: Blob::default(),
            certificate: Blob::default(),
        };
        let health = GpuHealth::new(GpuIndex(index), state, "as told");
        self.health.retain(|it| it.health.index != health.index);
        let proof = (state == GpuState::Healthy).then_some(proof);
        self.health.push(GpuReport {
            health,
            proof,
            due: None,
            last: None,
            passed: None,
            earlier: None,
        });
    }

    fn withhold(&mut self, index: u16, why: Option<&str>) -> Reply {
        self.apply(Command::WithholdGpu(WithholdGpu {
            node: "n1".parse().unwrap(),
            index: GpuIndex(index),
            why: why.map(str::to_owned),
        }))
    }
}

impl Site {
    /// A site that permits burn-ins.
    fn permitting() -> Self {
        let mut site = Self::asking(Trust::Proven);
        while site.state.version < ClusterVersion::BURN_INS {
            let version = site.state.version.next();
            site.apply(Command::SetVersion(SetVersion { version }));
        }
        site
    }

    fn limit(&mut self, retests: u32, admissions: u32, quarantined: u32, quarantines: u32) {
        let gpus = |value| Bound { unit: BoundUnit::Gpus, value };
        let limits = HealthLimits {
            retests: gpus(retests),
            admissions: gpus(admissions),
            quarantined: gpus(quarantined),
            quarantines,
        };
        assert_eq!(self.apply(Command::SetHealthLimits(SetHealthLimits { limits })), Reply::Done);
    }

    fn want(&mut self, index: u16, tier: BurnInTier) -> Reply {
        let gpus = vec![GpuIndex(index)];
        self.apply(Command::WantBurnIns(WantBurnIns { node: "n1".parse().unwrap(), gpus, tier }))
    }

    fn is_due(&mut self, index: u16, tier: Option<BurnInTier>) {
        let it = self.health.iter_mut().find(|it| it.health.index == GpuIndex(index));
        it.unwrap().due = tier;
    }

    fn answers(&mut self, index: u16, number: Revision, end: BurnInEnd) {
        let it = self.health.iter_mut().find(|it| it.health.index == GpuIndex(index)).unwrap();
        it.last = Some(BurnInResult {
            number,
            tier: BurnInTier::T2,
            end,
            why: String::new(),
            ended_at: AT,
            took: Millis(1),
            numbers: Default::default(),
            make: None,
            capped: false,
            digests: None,
        });
    }

    /// What the node may burn in, a while later.
    fn permits(&mut self, gpus: u16) -> Vec<(u16, Revision)> {
        self.now = self.now.after(Millis(500));
        self.ask("n1", 1, gpus, vec![]);
        self.poll();
        let permits = self.ask("n1", 1, gpus, vec![]).permits.into_iter();
        permits.map(|it| (it.index.0, it.number)).collect()
    }

    fn runs_something(&mut self, id: u128) -> bool {
        self.submit(id, job(1, 1));
        self.poll();
        self.state_of(id) == JobState::Starting
    }
}

#[test]
fn a_gpu_that_is_to_be_burnt_in_takes_nothing_before_a_result_that_came_of_it() {
    let mut site = Site::permitting();
    site.says(0, GpuState::Healthy);
    site.node("n1", 1);
    assert_eq!(site.want(0, BurnInTier::T2), Reply::Done);
    assert!(!site.runs_something(1), "its proof is older than the wish");
    let [(0, first)] = site.permits(1)[..] else { panic!("it is permitted") };
    site.answers(0, Revision(first.0 - 1), BurnInEnd::Passed);
    assert_eq!(site.permits(1), [(0, first)], "an answer to something else");
    site.answers(0, first, BurnInEnd::Interrupted);
    let [(0, second)] = site.permits(1)[..] else { panic!("it is permitted again") };
    assert!(second > first);
    site.want(0, BurnInTier::T1);
    site.answers(0, second, BurnInEnd::Passed);
    let [(0, third)] = site.permits(1)[..] else { panic!("it was wished for once more since") };
    let orders = site.ask("n1", 1, 1, vec![]);
    assert_eq!(orders.permits[0].tier, BurnInTier::T2, "what was wished before still is");
    site.answers(0, third, BurnInEnd::Passed);
    assert_eq!(site.permits(1), []);
    assert_eq!(site.state_of(1), JobState::Starting);
}

#[test]
fn what_is_wanted_of_a_gpu_outlasts_a_life_of_its_agent_that_does_not_find_it() {
    let mut site = Site::permitting();
    site.says(0, GpuState::Healthy);
    site.says(1, GpuState::Healthy);
    site.node("n1", 2);
    assert_eq!(site.want(1, BurnInTier::T2), Reply::Done);
    for (boot, fit) in [(2, vec![true]), (3, vec![true, false])] {
        site.ask("n1", boot, u16::try_from(fit.len()).unwrap(), vec![]);
        let node = site.state.nodes.get(&"n1".parse().unwrap()).unwrap();
        assert_eq!(node.gpus.iter().map(|gpu| gpu.is_fit()).collect::<Vec<_>>(), fit);
    }
}

#[test]
fn what_was_let_go_while_its_agent_was_away_is_burnt_in_again() {
    let mut site = Site::permitting();
    site.says(0, GpuState::Healthy);
    site.node("n1", 1);
    site.withhold(0, Some("a look at it"));
    site.withhold(0, None);
    assert!(!site.runs_something(1), "the agent shows the proof that it had");
    let [(0, number)] = site.permits(1)[..] else { panic!("it is permitted") };
    site.answers(0, number, BurnInEnd::Passed);
    site.permits(1);
    assert_eq!(site.state_of(1), JobState::Starting);
}

#[test]
fn what_is_wanted_of_a_gpu_outlives_its_absence() {
    let mut site = Site::permitting();
    site.says(0, GpuState::Healthy);
    site.says(1, GpuState::Healthy);
    site.node("n1", 2);
    site.want(1, BurnInTier::T2);
    let all = std::mem::take(&mut site.health);
    site.health.push(all[0].clone());
    site.ask("n1", 2, 1, vec![]);
    site.health = all;
    site.ask("n1", 3, 2, vec![]);
    assert!(site.runs_something(1), "on the other one");
    assert!(!site.runs_something(2));
}

#[test]
fn an_agent_that_knows_no_permits_is_not_taken_to_have_obeyed() {
    let mut site = Site::permitting();
    site.heeds_permits = false;
    site.says(0, GpuState::Healthy);
    site.node("n1", 1);
    site.want(0, BurnInTier::T2);
    assert_eq!(site.permits(1), []);
    site.says(0, GpuState::BurningIn);
    site.permits(1);
    site.says(0, GpuState::Healthy);
    assert_eq!(site.permits(1), []);
    assert!(!site.runs_something(1));
    site.heeds_permits = true;
    assert_eq!(site.permits(1).len(), 1);
}

#[test]
fn no_more_is_burnt_in_at_once_than_the_limits_say() {
    let mut site = Site::permitting();
    for index in 0..4 {
        site.says(index, GpuState::Healthy);
        site.is_due(index, Some(BurnInTier::T2));
    }
    site.limit(1, 1, 8, 8);
    site.node("n1", 4);
    let number = site.permits(4)[0].1;
    assert_eq!(permitted(&site.state), (1, 0), "a node has one at a time");
    assert!(site.runs_something(1), "the others are as good as before");
    site.answers(0, number, BurnInEnd::Passed);
    site.is_due(0, None);
    site.health[2].health.state = GpuState::Discovered;
    site.limit(0, 1, 8, 8);
    let [(2, _)] = site.permits(4)[..] else { panic!("one that could run nothing meanwhile") };
    assert_eq!(permitted(&site.state), (0, 1));
}

#[test]
fn permits_end_with_their_agent_or_when_it_was_silent_for_a_lease() {
    let mut site = Site::permitting();
    site.says(0, GpuState::Discovered);
    site.is_due(0, Some(BurnInTier::T2));
    site.node("n1", 1);
    assert_eq!(site.permits(1).len(), 1);
    site.ask("n1", 2, 1, vec![]);
    assert_eq!(permitted(&site.state), (0, 0), "another life has none of it");
    site.now = site.now.after(Millis(500));
    site.poll();
    assert_eq!(permitted(&site.state), (0, 1));
    let terms = site.state.terms();
    site.now = site.now.after(terms.suspect_node_after);
    site.poll();
    site.now = site.now.after(terms.node_lease);
    site.poll();
    assert_eq!(permitted(&site.state), (0, 1), "it may still burn in");
    site.now = site.now.after(terms.release_node_after());
    site.poll();
    site.now = site.now.after(Millis(500));
    site.poll();
    assert_eq!(permitted(&site.state), (0, 0));
}

#[test]
fn what_turns_bad_on_top_of_too_many_keeps_its_job_and_takes_no_other() {
    let mut site = Site::permitting();
    (0..4).for_each(|index| site.says(index, GpuState::Healthy));
    site.limit(1, 1, 1, 8);
    site.node("n1", 4);
    for id in 1..=3 {
        assert!(site.runs_something(id));
    }
    let parts: Vec<AttemptReport> = (1..=3).map(running).collect();
    (0..3).for_each(|index| site.says(index, GpuState::Quarantined));
    let orders = site.ask("n1", 1, 4, parts.clone());
    let wanted: Vec<Want> = orders.leases.iter().map(|it| it.want).collect();
    assert_eq!(wanted, [Want::Stop, Want::Stop, Want::Run], "at least two are taken out");
    assert_eq!(limits_view(&site.state).spared, 1);
    assert!(site.runs_something(4), "on the one that is sound");
    assert!(!site.runs_something(5));
    site.ask("n1", 1, 4, parts.clone());
    site.now = site.now.after(Millis(500));
    let (_, alarms) = site.leader.poll_commands(site.now, AT, &site.state);
    assert_eq!(alarms, [Alarm::GpusSpared { gpus: 1 }]);
    site.withhold(2, Some("it is bad indeed"));
    let orders = site.ask("n1", 1, 4, parts);
    assert_eq!(orders.leases[2].want, Want::Stop, "an operator has decided");
    assert_eq!(limits_view(&site.state).spared, 0);
}

#[test]
fn a_site_below_the_version_of_burn_ins_agrees_on_none() {
    let mut site = Site::asking(Trust::Proven);
    site.says(0, GpuState::Healthy);
    site.is_due(0, Some(BurnInTier::T2));
    site.node("n1", 1);
    assert!(matches!(site.want(0, BurnInTier::T2), Reply::NoOp(_)));
    assert_eq!(site.permits(1), []);
    assert!(!site.ask("n1", 1, 1, vec![]).permits_only);
    site.withhold(0, Some("x"));
    site.withhold(0, None);
    site.ask("n1", 1, 1, vec![]);
    assert!(site.runs_something(1), "as before");
}

#[test]
fn a_gpu_without_a_proof_runs_nothing_and_one_with_a_proof_does() {
    let mut site = Site::asking(Trust::Proven);
    site.node("n1", 2);
    site.submit(1, job(1, 1));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
    site.says(1, GpuState::BurningIn);
    assert!(site.ask("n1", 1, 2, vec![]).prove);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
    site.says(1, GpuState::Healthy);
    site.ask("n1", 1, 2, vec![]);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
    let orders = site.ask("n1", 1, 2, vec![]);
    assert_eq!(orders.leases[0].launch.as_ref().unwrap().gpus, [GpuIndex(1)]);
}

#[test]
fn who_says_healthy_and_shows_no_proof_has_said_nothing() {
    let mut site = Site::asking(Trust::Proven);
    site.says(0, GpuState::Healthy);
    site.health[0].proof = None;
    site.node("n1", 1);
    site.submit(1, job(1, 1));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
}

#[test]
fn a_site_that_trusts_declarations_runs_on_declared_gpus_unless_they_are_bad() {
    let mut site = Site::asking(Trust::Declared);
    site.node("n1", 2);
    site.says(0, GpuState::Quarantined);
    site.ask("n1", 1, 2, vec![]);
    site.submit(1, job(1, 1));
    site.submit(2, job(1, 1));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
    assert_eq!(site.state_of(2), JobState::Queued);
}

#[test]
fn a_site_of_the_version_before_asks_for_nothing() {
    let mut site = Site::found("berlin");
    assert!(matches!(
        site.apply(Command::SetTrust(SetTrust { trust: Trust::Proven })),
        Reply::NoOp(_)
    ));
    site.says(0, GpuState::Quarantined);
    site.node("n1", 1);
    assert!(matches!(site.withhold(0, Some("x")), Reply::NoOp(_)));
    site.submit(1, job(1, 1));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
    assert!(!site.ask("n1", 1, 1, vec![]).prove);
}

#[test]
fn a_gpu_that_turns_bad_ends_its_attempt_and_takes_no_other_before_a_new_proof() {
    let mut site = Site::asking(Trust::Proven);
    site.says(0, GpuState::Healthy);
    site.node("n1", 1);
    site.submit(1, job(1, 1));
    site.poll();
    site.ask("n1", 1, 1, vec![running(1)]);
    site.says(0, GpuState::Suspect);
    assert_eq!(site.ask("n1", 1, 1, vec![running(1)]).leases[0].want, Want::Run);
    site.says(0, GpuState::Quarantined);
    assert_eq!(site.ask("n1", 1, 1, vec![running(1)]).leases[0].want, Want::Stop);
    site.ask("n1", 1, 1, vec![ended(1, Outcome::of(Ending::Stopped, ""))]);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued, "its retry waits");
    assert_eq!(site.withhold(0, None), Reply::Done);
    assert_eq!(site.ask("n1", 1, 1, vec![]).released, [GpuIndex(0)]);
    site.says(0, GpuState::BurningIn);
    assert!(site.ask("n1", 1, 1, vec![]).released.is_empty(), "it was heard");
    site.says(0, GpuState::Quarantined);
    assert!(site.ask("n1", 1, 1, vec![]).released.is_empty());
    site.ask("n1", 2, 1, vec![]);
    site.health.clear();
    site.ask("n1", 3, 1, vec![]);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued, "another life changes nothing");
    site.says(0, GpuState::Healthy);
    site.ask("n1", 3, 1, vec![]);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
}

#[test]
fn what_an_operator_holds_back_needs_a_new_proof_once_it_is_let_go() {
    let mut site = Site::asking(Trust::Proven);
    site.says(0, GpuState::Healthy);
    site.node("n1", 1);
    assert_eq!(site.withhold(0, Some("its fan is loud")), Reply::Done);
    assert_eq!(site.ask("n1", 1, 1, vec![]).withheld, [GpuIndex(0)]);
    site.submit(1, job(1, 1));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
    assert_eq!(site.withhold(0, None), Reply::Done);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued, "nothing has proven it since");
    site.ask("n1", 1, 1, vec![]);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
}

#[test]
fn a_granted_gpu_that_turns_bad_is_no_longer_part_of_what_is_granted() {
    let (mut home, mut host) = (Site::found("berlin"), Site::asking_as("giga", Trust::Proven));
    home.join("giga");
    host.join("berlin");
    host.says(0, GpuState::Healthy);
    host.says(1, GpuState::Healthy);
    host.node("n1", 2);
    home.submit(1, job(1, 2));
    host.ask_home(&mut home);
    home.poll();
    host.ask_home(&mut home);
    host.poll();
    host.ask_home(&mut home);
    assert_eq!(host.state.grants.len(), 1);
    host.says(1, GpuState::Quarantined);
    host.ask("n1", 1, 2, vec![]);
    host.ask_home(&mut home);
    home.poll();
    assert_eq!(home.state_of(1), JobState::Queued, "a gang of two has no place");
    host.says(1, GpuState::Healthy);
    host.ask("n1", 1, 2, vec![]);
    host.ask_home(&mut home);
    home.poll();
    assert_eq!(home.state_of(1), JobState::Starting);
}

#[test]
fn a_job_runs_and_ends_with_the_exit_code_of_its_process() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    let orders = site.ask("n1", 1, 8, vec![]);
    assert_eq!(orders.leases.len(), 1);
    assert_eq!(orders.leases[0].validity.kind, ValidityKind::NodeLease);
    site.ask("n1", 1, 8, vec![running(1)]);
    assert_eq!(site.state_of(1), JobState::Running);
    let orders = site.ask("n1", 1, 8, vec![ended(1, Outcome::exited(3, 0))]);
    assert!(orders.leases.is_empty());
    let JobPhase::Ended(end) = &site.state.jobs.get(&JobId(1)).unwrap().phase else { panic!() };
    assert_eq!((end.state, end.outcome.exit_code), (JobState::Finished, 3));
}

#[test]
fn a_repeated_request_makes_nothing_new_and_another_job_under_it_is_refused() {
    let mut site = Site::found("berlin");
    let first = site.submit(1, job(1, 8));
    assert_eq!(first, Reply::Jobs { jobs: vec![JobId(1)], repeated: false });
    let again = Command::AdmitJobs(AdmitJobs {
        request: "request-1".parse().unwrap(),
        jobs: vec![JobId(2)],
        spec: PackedSpec::from(&job(1, 8)),
        submitter: "ada".into(),
        at: AT,
    });
    assert_eq!(site.apply(again), Reply::Jobs { jobs: vec![JobId(1)], repeated: true });
    let other = Command::AdmitJobs(AdmitJobs {
        request: "request-1".parse().unwrap(),
        jobs: vec![JobId(3)],
        spec: PackedSpec::from(&job(2, 8)),
        submitter: "ada".into(),
        at: AT,
    });
    assert!(matches!(site.apply(other), Reply::Refused(_)));
    assert_eq!(site.state.jobs.len(), 1);
}

#[test]
fn a_gang_stands_whole_or_not_at_all() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(2, 8));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
    site.node("n22", 8);
    site.poll();
    assert_eq!(site.state_of(1), JobState::Starting);
    assert_eq!(site.ask("n1", 1, 8, vec![]).leases.len(), 1);
    assert_eq!(site.ask("n22", 1, 8, vec![]).leases.len(), 1);
}

#[test]
fn a_part_that_ends_badly_stops_the_rest_and_gives_the_job_its_exit_code() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.node("n22", 8);
    site.submit(1, job(2, 8));
    site.poll();
    site.ask("n1", 1, 8, vec![ended(1, Outcome::exited(7, 0))]);
    assert_eq!(site.ask("n22", 1, 8, vec![running(1)]).leases[0].want, Want::Stop);
    site.ask("n22", 1, 8, vec![ended(1, Outcome::of(Ending::Stopped, ""))]);
    let JobPhase::Ended(end) = &site.state.jobs.get(&JobId(1)).unwrap().phase else { panic!() };
    assert_eq!((end.state, end.outcome.exit_code), (JobState::Finished, 7));
}

#[test]
fn a_silent_node_keeps_its_job_for_a_lease_and_loses_it_after() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    let terms = Terms::default();
    site.now = site.now.after(terms.suspect_node_after);
    site.poll();
    assert!(site.state.nodes.values().all(|node| node.suspicion.is_some()));
    site.poll();
    site.now = site.now.after(terms.node_lease);
    site.poll();
    assert_eq!(site.state.jobs.get(&JobId(1)).unwrap().epoch, Epoch(1));
    assert_ne!(site.state_of(1), JobState::Queued);
    site.now = site.now.after(Millis(2_000));
    site.poll();
    assert_eq!(site.state_of(1), JobState::Queued);
}

#[test]
fn a_node_that_is_heard_again_in_time_keeps_its_job() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    site.now = site.now.after(Terms::default().suspect_node_after);
    site.poll();
    let orders = site.ask("n1", 1, 8, vec![running(1)]);
    let orders = if orders.hold { site.ask("n1", 1, 8, vec![running(1)]) } else { orders };
    assert!(!orders.hold);
    assert_eq!(orders.leases.len(), 1);
    assert_eq!(site.state.jobs.get(&JobId(1)).unwrap().epoch, Epoch(1));
}

#[test]
fn a_job_that_waits_is_never_taken_from_a_silent_node() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, JobSpec { on_partition: OnPartition::Wait, ..job(1, 8) });
    site.poll();
    assert_eq!(site.ask("n1", 1, 8, vec![]).leases[0].validity.kind, ValidityKind::Open);
    for _ in 0..5 {
        site.now = site.now.after(Millis(100_000));
        site.poll();
    }
    assert_ne!(site.state_of(1), JobState::Queued);
}

#[test]
fn a_new_life_of_an_agent_loses_what_the_old_one_had() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    site.ask("n1", 1, 8, vec![running(1)]);
    site.ask("n1", 2, 8, vec![]);
    assert_eq!(site.state_of(1), JobState::Queued);
    site.poll();
    assert_eq!(site.state.jobs.get(&JobId(1)).unwrap().epoch, Epoch(2));
}

#[test]
fn a_result_that_a_former_life_left_is_kept() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    site.ask("n1", 1, 8, vec![running(1)]);
    site.ask("n1", 2, 8, vec![ended(1, Outcome::exited(0, 0))]);
    assert_eq!(site.state_of(1), JobState::Finished);
}

#[test]
fn a_cancelled_job_is_stopped_and_never_placed_again() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, job(1, 8));
    site.poll();
    site.apply(Command::CancelJob(CancelJob { job: JobId(1), at: AT }));
    assert_eq!(site.ask("n1", 1, 8, vec![running(1)]).leases[0].want, Want::Stop);
    site.ask("n1", 1, 8, vec![ended(1, Outcome::of(Ending::Stopped, ""))]);
    assert_eq!(site.state_of(1), JobState::Cancelled);
}

/// Berlin with one node, joined to a gigafactory with two; nothing is granted yet.
fn two_sites() -> (Site, Site) {
    let (mut berlin, mut giga) = (Site::found("berlin"), Site::found("giga"));
    berlin.node("n1", 8);
    giga.node("g1", 8);
    giga.node("g22", 8);
    berlin.join("giga");
    giga.join("berlin");
    (berlin, giga)
}

fn exchange(berlin: &mut Site, giga: &mut Site) {
    for _ in 0..4 {
        berlin.poll();
        giga.ask_home(berlin);
        giga.poll();
    }
}

#[test]
fn a_job_that_does_not_fit_spills_and_its_result_comes_home() {
    let (mut berlin, mut giga) = two_sites();
    berlin.submit(1, job(1, 8));
    berlin.submit(2, job(2, 8));
    exchange(&mut berlin, &mut giga);
    assert_eq!(giga.state.guests.len(), 1);
    let orders = giga.ask("g1", 1, 8, vec![]);
    assert_eq!(orders.leases[0].validity.kind, ValidityKind::Until);
    giga.ask("g1", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    giga.ask("g22", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    exchange(&mut berlin, &mut giga);
    assert_eq!(berlin.state_of(2), JobState::Finished);
    assert!(giga.state.guests.is_empty(), "the host forgets what its home has");
    berlin.ask("n1", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    for _ in 0..8 {
        berlin.now = berlin.now.after(Millis(5_000));
        exchange(&mut berlin, &mut giga);
    }
    assert!(giga.state.grants.is_empty(), "an idle grant goes back");
}

#[test]
fn a_new_leader_of_the_host_extends_no_loan_before_the_home_answered() {
    let (mut berlin, mut giga) = two_sites();
    berlin.submit(1, job(2, 8));
    exchange(&mut berlin, &mut giga);
    giga.leader = Leader::new(giga.now, 2);
    let orders = giga.ask("g1", 1, 8, vec![]);
    assert_eq!(orders.leases[0].validity.kind, ValidityKind::AsBefore);
    giga.ask_home(&mut berlin);
    let orders = giga.ask("g1", 1, 8, vec![]);
    assert_eq!(orders.leases[0].validity.kind, ValidityKind::Until);
}

#[test]
fn a_late_result_of_a_lost_loan_is_kept_and_the_newer_attempt_is_stopped() {
    let (mut berlin, mut giga) = two_sites();
    berlin.submit(1, job(2, 8));
    exchange(&mut berlin, &mut giga);
    giga.ask("g1", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    giga.ask("g22", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    // The home hears nothing of it for longer than a loan, and places the job again.
    berlin.node("n333", 8);
    for _ in 0..4 {
        berlin.now = berlin.now.after(Millis(100_000));
        for node in ["n1", "n333"] {
            berlin.ask(node, 1, 8, vec![]);
            berlin.ask(node, 1, 8, vec![]);
        }
        berlin.poll();
    }
    assert_eq!(berlin.state.jobs.get(&JobId(1)).unwrap().epoch, Epoch(2));
    giga.ask_home(&mut berlin);
    assert_eq!(berlin.state_of(1), JobState::Stopping);
    for node in ["n1", "n333"] {
        berlin.ask(node, 1, 8, vec![ended(1, Outcome::of(Ending::Stopped, ""))]);
    }
    assert_eq!(berlin.state_of(1), JobState::Finished);
}

#[test]
fn late_orders_of_a_home_change_nothing() {
    let (mut berlin, mut giga) = two_sites();
    berlin.submit(1, job(2, 8));
    berlin.poll();
    giga.ask_home(&mut berlin);
    giga.poll();
    giga.ask_home(&mut berlin);
    berlin.poll();
    let home = berlin.state.own().unwrap().clone();
    let report = giga.leader.ask_peer(giga.now, &giga.state, &home).unwrap();
    let late = berlin.leader.peer_orders(&berlin.state, &report).unwrap();
    berlin.apply(Command::CancelJob(CancelJob { job: JobId(1), at: AT }));
    giga.ask_home(&mut berlin);
    for command in giga.leader.handle_peer_orders(giga.now, AT, &giga.state, &late) {
        giga.apply(command);
    }
    assert!(giga.state.leases.is_empty(), "a loan that was cancelled is not admitted");
}

#[test]
fn no_controller_is_added_before_the_site_is_founded() {
    let mut state = State::default();
    let request = "second".parse().unwrap();
    let add = AddController { request, address: "berlin:2".into(), replaces: None };
    let (reply, _) = apply(&mut state, &Command::AddController(add));
    assert!(matches!(reply, Reply::Refused(_)));
    assert!(state.controllers.is_empty());
}

#[test]
fn a_snapshot_holds_all_of_the_state() {
    let (mut berlin, mut giga) = two_sites();
    berlin.submit(1, job(2, 8));
    exchange(&mut berlin, &mut giga);
    for state in [&berlin.state, &giga.state] {
        assert_eq!(State::decode(&state.encode()).as_ref(), Ok(state));
    }
}

/// Two jobs that have ended, with their requests.
fn with_ended() -> Site {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    for id in [1, 2] {
        site.submit(id, job(1, 8));
        site.apply(Command::CancelJob(CancelJob { job: JobId(id), at: AT }));
    }
    site
}

fn archive(jobs: &[u128], requests: &[u128]) -> Command {
    Command::ArchiveJobs(ArchiveJobs {
        jobs: jobs.iter().map(|id| JobId(*id)).collect(),
        requests: requests.iter().map(|id| format!("request-{id}").parse().unwrap()).collect(),
    })
}

#[test]
fn only_what_has_ended_leaves_and_each_once() {
    let mut site = with_ended();
    site.submit(3, job(1, 8));
    site.poll();
    site.submit(4, job(1, 8));
    assert_eq!(site.state_of(3), JobState::Starting);
    let Command::ArchiveJobs(it) = archive(&[4, 3, 2, 2, 9], &[]) else { panic!("none") };
    let left: Vec<_> = leaving(&site.state, &it).iter().map(|it| (it.number, it.job.id)).collect();
    assert_eq!(left, [(1, JobId(2))]);
    assert_eq!(site.apply(Command::ArchiveJobs(it.clone())), Reply::Done);
    assert_eq!((site.state.archived, site.state.jobs.len()), (1, 3));
    assert!(matches!(site.apply(Command::ArchiveJobs(it)), Reply::NoOp(_)));
    assert_eq!(site.state.archived, 1);
    // What the node says of the running job is heard as ever, and of the others as little.
    site.ask("n1", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    assert_eq!(site.state_of(3), JobState::Finished);
}

#[test]
fn a_request_is_remembered_until_its_jobs_have_left_and_it_is_forgotten() {
    let mut site = with_ended();
    assert!(matches!(site.apply(archive(&[], &[1])), Reply::NoOp(_)));
    assert!(matches!(site.submit(1, job(1, 8)), Reply::Jobs { repeated: true, .. }));
    site.apply(archive(&[1], &[]));
    let Reply::Refused(fault) = site.submit(1, job(1, 8)) else { panic!("it was taken again") };
    assert!(fault.message.contains("in the archive"), "{}", fault.message);
    assert_eq!(site.apply(archive(&[], &[1, 2])), Reply::Done);
    assert_eq!(site.state.requests.len(), 1);
    assert!(matches!(site.submit(1, job(1, 8)), Reply::Jobs { repeated: false, .. }));
}

#[test]
fn a_late_report_of_a_job_that_left_starts_nothing() {
    let mut site = Site::found("berlin");
    site.node("n1", 8);
    site.submit(1, JobSpec { retries: 0, ..job(1, 8) });
    site.poll();
    // The node is given up, and with it the job, whose end may still be told.
    for _ in 0..4 {
        site.now = site.now.after(Millis(100_000));
        site.poll();
    }
    assert_eq!(site.state_of(1), JobState::Lost);
    assert_eq!(site.apply(archive(&[1], &[])), Reply::Done);
    let orders = site.ask("n1", 1, 8, vec![ended(1, Outcome::exited(0, 0))]);
    assert!(orders.leases.is_empty());
    assert!(site.state.jobs.is_empty() && site.state.leases.is_empty());
}

#[test]
fn a_leader_lets_the_oldest_go_and_only_after_their_time() {
    let mut site = with_ended();
    let retention = Retention { jobs: 1, age_min: Millis(5_000) };
    site.leader = Leader::new(site.now, 2).archiving(retention);
    let planned = |site: &mut Site, at| {
        let (commands, _) = site.leader.poll_commands(site.now, Timestamp(at), &site.state);
        commands.into_iter().find(|it| matches!(it, Command::ArchiveJobs(_)))
    };
    assert_eq!(planned(&mut site, 5_999), None);
    let plan = planned(&mut site, 6_000);
    assert_eq!(plan, Some(archive(&[1], &[])));
    site.apply(plan.unwrap());
    let swept = planned(&mut site, 6_000);
    assert_eq!(swept, Some(archive(&[], &[1])));
    site.apply(swept.unwrap());
    assert_eq!(planned(&mut site, 6_000), None);
    site.leader = Leader::new(site.now, 3);
    assert_eq!(planned(&mut site, u64::MAX), None, "a leader without an archive lets nothing go");
}
