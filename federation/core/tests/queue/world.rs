//! A site with its leader, its agents' reports and a clock that a test moves.

use std::sync::Arc;

use federation_core::{
    AcceptNode, AddPeer, AdmitJobs, Command, FoundSite, JobPhase, Leader, OpenToken, PackedSpec,
    PeerRecord, RecordParts, RegisterNode, Reply, SetQuota, SetVersion, State, TokenKind, apply,
    check, job_state,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, GpuIndex, JobId, NodeId, Question, Revision, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::quota::Limit;
use specs::site::{LendRule, SiteSpec, Terms};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{
    AttemptPhase, AttemptReport, Checkpoint, Facts, Inventory, NodeReport, Outcome,
};
use specs::wire::client::JobState;
use specs::wire::peer::PeerReport;

pub(crate) struct Site {
    pub(crate) state: State,
    pub(crate) leader: Leader,
    /// Milliseconds, of both the leader's clock and the wall's.
    pub(crate) now: u64,
    nodes: u128,
}

impl Site {
    /// Of the version that knows quota.
    pub(crate) fn found(name: &str) -> Self {
        let mut site = Self::first_version(name);
        site.raise();
        site
    }

    pub(crate) fn raise(&mut self) {
        self.raise_to(ClusterVersion::QUEUEING);
    }

    pub(crate) fn raise_to(&mut self, version: ClusterVersion) {
        while self.state.version < version {
            let version = self.state.version.next();
            assert_eq!(self.apply(Command::SetVersion(SetVersion { version })), Reply::Done);
        }
    }

    /// Of the version that stops jobs for others.
    pub(crate) fn preempting(name: &str) -> Self {
        let mut site = Self::found(name);
        site.raise_to(ClusterVersion::PREEMPTION);
        site
    }

    pub(crate) fn first_version(name: &str) -> Self {
        let lend =
            LendRule { to: None, class: None, gpus_max: GpuCount(64), keep_free: GpuCount(0) };
        let spec = SiteSpec {
            site: name.parse().unwrap(),
            country: "DE".parse().unwrap(),
            terms: Terms::default(),
            lend: vec![lend],
            trust: None,
        };
        let leader = Leader::new(Instant(0), 1);
        let mut site = Self { state: State::default(), leader, now: 1_000, nodes: 0 };
        let address = format!("{name}:1");
        site.apply(Command::FoundSite(FoundSite { spec: Arc::new(spec), address }));
        site
    }

    pub(crate) fn apply(&mut self, command: Command) -> Reply {
        let (reply, _) = apply(&mut self.state, &command);
        assert_eq!(check(&self.state), [], "after {command:?}");
        reply
    }

    fn at(&self) -> Timestamp {
        Timestamp(self.now)
    }

    pub(crate) fn node(&mut self, name: &str, class: &str, gpus: u16) {
        self.node_that_says(name, class, gpus, Facts::default());
    }

    pub(crate) fn node_that_says(&mut self, name: &str, class: &str, gpus: u16, facts: Facts) {
        self.nodes += 1;
        let (token, at) = (TokenId(self.nodes), self.at());
        let node: NodeId = name.parse().unwrap();
        self.apply(Command::OpenToken(OpenToken {
            token,
            kind: TokenKind::Enrol,
            key: Blob(vec![1]),
            bound: name.into(),
            expires_at: at,
        }));
        let accept = AcceptNode { token, node, digest: Blob(name.into()), at };
        assert_eq!(self.apply(Command::AcceptNode(accept)), Reply::Done);
        self.register(name, 1, (class, gpus), facts);
    }

    /// A life of the node's agent begins.
    pub(crate) fn register(
        &mut self,
        name: &str,
        boot: u64,
        (class, gpus): (&str, u16),
        facts: Facts,
    ) {
        let info = |index| GpuInfo {
            index: GpuIndex(index),
            class: class.parse().unwrap(),
            uuid: String::new(),
            memory_mib: 0,
        };
        let inventory = Inventory {
            source: InventorySource::Declared,
            gpus: (0..gpus).map(info).collect(),
            address: "127.0.0.1".into(),
            version: "test".into(),
            facts: OrDefault(facts),
        };
        let (node, boot, at) = (name.parse().unwrap(), Boot(boot), self.at());
        self.apply(Command::RegisterNode(RegisterNode { node, boot, inventory, at }));
    }

    pub(crate) fn submit(&mut self, id: u128, spec: JobSpec) -> Reply {
        let array = u128::from(spec.array);
        self.apply(Command::AdmitJobs(AdmitJobs {
            request: format!("request-{id}").parse().unwrap(),
            jobs: (id..id + array).map(JobId).collect(),
            spec: PackedSpec::from(&spec),
            submitter: "ada".into(),
            at: self.at(),
        }))
    }

    pub(crate) fn quota(&mut self, account: &str, class: Option<&str>, guaranteed: u32, max: u32) {
        let reply = self.set(account, class, guaranteed, max);
        assert_eq!(reply, Reply::Done);
    }

    pub(crate) fn set(
        &mut self,
        account: &str,
        class: Option<&str>,
        guaranteed: u32,
        max: u32,
    ) -> Reply {
        let limit = Limit {
            class: class.map(|class| class.parse().unwrap()),
            guaranteed: GpuCount(guaranteed),
            max: Some(GpuCount(max)),
        };
        let account = account.parse().unwrap();
        self.apply(Command::SetQuota(SetQuota { account, limit: Some(limit), weight: 0 }))
    }

    /// What the leader would have agreed on.
    pub(crate) fn proposes(&mut self) -> Vec<Command> {
        let (now, at) = (Instant(self.now), self.at());
        // Nobody asks in these tests; whoever is silent is not the subject.
        let commands = self.leader.poll_commands(now, at, &self.state).0;
        let silence =
            |it: &Command| matches!(it, Command::SuspectNode(_) | Command::SuspectPeer(_));
        commands.into_iter().filter(|it| !silence(it)).collect()
    }

    pub(crate) fn poll(&mut self) {
        for command in self.proposes() {
            self.apply(command);
        }
    }

    pub(crate) fn state_of(&self, id: u128) -> JobState {
        job_state(&self.state, self.state.jobs.get(&JobId(id)).unwrap())
    }

    /// Those of the jobs that hold GPUs.
    pub(crate) fn holding(&self, ids: impl IntoIterator<Item = u128>) -> Vec<u128> {
        ids.into_iter()
            .filter(|id| match self.state.jobs.get(&JobId(*id)).unwrap().phase {
                JobPhase::Leased(_) | JobPhase::Loaned(_) => true,
                JobPhase::Queued(_) | JobPhase::Ended(_) => false,
            })
            .collect()
    }

    /// All parts of the job's attempt have started by now.
    pub(crate) fn start(&mut self, id: u128) {
        let at = self.at();
        self.tell(id, AttemptPhase::Running, None, at, Timestamp(0));
    }

    /// All parts of the job's attempt end so.
    pub(crate) fn end(&mut self, id: u128, ran: Millis, outcome: &Outcome) {
        let started_at = Timestamp(self.now.saturating_sub(ran.0));
        self.tell(id, AttemptPhase::Ended, Some(outcome.clone()), started_at, self.at());
    }

    fn tell(
        &mut self,
        id: u128,
        phase: AttemptPhase,
        outcome: Option<Outcome>,
        started_at: Timestamp,
        ended_at: Timestamp,
    ) {
        let JobPhase::Leased(leased) = &self.state.jobs.get(&JobId(id)).unwrap().phase else {
            panic!("job {id} has no lease");
        };
        let (lease, at) = (leased.lease, self.at());
        let nodes: Vec<NodeId> =
            self.state.leases.get(&lease).unwrap().parts.iter().map(|it| it.node.clone()).collect();
        for node in nodes {
            let outcome = outcome.clone();
            let report = AttemptReport { lease, phase, outcome, started_at, ended_at };
            let record = RecordParts { node, boot: Boot(1), attempts: vec![report], at };
            self.apply(Command::RecordParts(record));
        }
    }

    /// One node of the job's attempt tells that its work was saved at that time.
    pub(crate) fn save(&mut self, id: u128, at: u64) {
        let JobPhase::Leased(leased) = &self.state.jobs.get(&JobId(id)).unwrap().phase else {
            panic!("job {id} has no lease");
        };
        let lease = self.state.leases.get(&leased.lease).unwrap();
        let node = lease.parts.last().unwrap().node.clone();
        let checkpoints = vec![Checkpoint { lease: lease.id, at: Timestamp(at) }];
        self.report(node, checkpoints);
    }

    /// What the node's agent asks with, as far as these tests go.
    pub(crate) fn report(&mut self, node: NodeId, checkpoints: Vec<Checkpoint>) {
        let report = NodeReport {
            node,
            boot: Boot(1),
            question: Question(self.now),
            obeyed: Revision(0),
            answered: Question(0),
            inventory: Inventory {
                source: InventorySource::Declared,
                gpus: vec![],
                address: "127.0.0.1".into(),
                version: "test".into(),
                facts: OrDefault::default(),
            },
            attempts: vec![],
            health: vec![],
            heeds_permits: true,
            checkpoints,
        };
        let (now, at) = (Instant(self.now), self.at());
        self.leader.handle_node_report(now, at, &self.state, &report).unwrap();
    }

    pub(crate) fn finish(&mut self, id: u128) {
        self.end(id, Millis(10), &Outcome::exited(0, 0));
    }

    pub(crate) fn join(&mut self, other: &str) {
        let peer = PeerRecord {
            site: other.parse().unwrap(),
            country: "FR".parse().unwrap(),
            ca: Blob(vec![1]),
            addresses: vec![format!("{other}:1")],
        };
        self.apply(Command::AddPeer(AddPeer { peer }));
    }

    /// Asks the home, as its host, and obeys; both sides agree on what follows.
    pub(crate) fn ask_home(&mut self, home: &mut Self) {
        let name = home.state.own().unwrap().clone();
        let (now, at) = (Instant(self.now), self.at());
        let report = self.leader.ask_peer(now, &self.state, &name).unwrap();
        home.hears(&report);
        let orders = home.leader.peer_orders(&home.state, &report).unwrap();
        for command in self.leader.handle_peer_orders(now, at, &self.state, &orders) {
            self.apply(command);
        }
    }

    /// Takes in what a host reports, and the proofs that it shows, whose signatures are right; what is
    /// wrong with them all the same.
    pub(crate) fn hears(&mut self, report: &PeerReport) -> Vec<String> {
        let (now, at) = (Instant(self.now), self.at());
        let shown = self.leader.proofs_to_check(&self.state, report);
        let checked = shown.into_iter().map(|it| (it, Ok(()))).collect();
        let commands = self.leader.handle_peer_report(now, at, &self.state, report).unwrap();
        let (proofs, refused) = self.leader.handle_proofs(now, at, report, checked);
        for command in commands.into_iter().chain(proofs) {
            self.apply(command);
        }
        refused.into_iter().map(|(_, why)| why).collect()
    }
}

pub(crate) fn job(account: &str, nodes: u32, gpus: u32) -> JobSpec {
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
        account: Some(account.parse().unwrap()),
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
        needs: OrDefault::default(),
    }
}
