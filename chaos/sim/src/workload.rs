//! What tenants and operators do. A tenant repeats a request until it is answered; an operator
//! repeats a command until it has taken effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_core::{AddPeer, Command, DrainNode, PeerRecord, RecallGrant};
use specs::codec::{Blob, Message, OrDefault};
use specs::id::{CallId, JobId, JobName, RequestId, SiteId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::unit::{GpuCount, Millis};
use specs::version::ClusterVersion;
use specs::wire::client::{JobSelector, JobSubmit, JobSubmitted};
use specs::wire::method::Method;

use crate::accounts;
use crate::costs;
use crate::coverage::Mark;
use crate::health;
use crate::needs;
use crate::network::{self, Frames, MachineId, Packet};
use crate::reservations;
use crate::setup;
use crate::world::{CtlRef, Event, World};

/// How long a tenant waits before it asks again.
const REPEAT_AFTER: Millis = Millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Join { peer: usize },
    Drain { node: usize, drain: bool },
    Recall,
    Quota,
    Costs,
    Reserve,
}

#[derive(Debug, Clone)]
enum Wish {
    Submit(JobSubmit),
    Cancel(JobId),
}

/// A site's tenants.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    machine: MachineId,
    /// What was asked and not answered.
    wishes: BTreeMap<u64, Wish>,
    calls: BTreeMap<CallId, u64>,
    last_wish: u64,
    target: usize,
    /// Jobs whose submission was acknowledged.
    pub(crate) jobs: Vec<JobId>,
}

impl Client {
    pub(crate) fn new(machine: MachineId) -> Self {
        let (wishes, calls) = (BTreeMap::new(), BTreeMap::new());
        Self { machine, wishes, calls, last_wish: 0, target: 0, jobs: Vec::new() }
    }

    pub(crate) fn is_served(&self) -> bool {
        self.wishes.is_empty()
    }
}

impl World {
    /// Schedules what tenants and operators will do until faults stop.
    pub(crate) fn plan_work(&mut self) {
        let until = self.knobs.heal_at.0;
        for site in 0..self.sites.len() {
            self.schedule_in(REPEAT_AFTER.0, Event::Client { site });
        }
        for _ in 0..self.knobs.submits {
            let any = self.chance_work.index(self.sites.len());
            let site = if self.chance_work.chance(self.knobs.busy_permille) { 0 } else { any };
            let at = if self.knobs.is_spilling {
                self.chance_work.skewed(500, until)
            } else {
                self.chance_work.range(500, until)
            };
            self.schedule_in(at, Event::Submit { site });
            if self.chance_work.chance(250) {
                let later = at + self.chance_work.skewed(100, 15_000);
                self.schedule_in(later, Event::Cancel { site });
            }
        }
        for _ in 0..self.chance_work.below(6) {
            let site = self.chance_work.index(self.sites.len());
            let node = self.chance_work.index(self.sites[site].nodes.len());
            let at = self.chance_work.range(1_000, until);
            let later = at + self.chance_work.skewed(500, 15_000);
            for (at, drain) in [(at, true), (later, false)] {
                let operation = Operation::Drain { node, drain };
                self.schedule_in(at, Event::Operate { site, operation });
            }
            let recall = self.chance_work.range(1_000, until);
            self.schedule_in(recall, Event::Operate { site, operation: Operation::Recall });
        }
        for _ in 0..self.knobs.accounts.map_or(0, |it| it.changes) {
            let site = self.chance_queue.index(self.sites.len());
            let at = self.chance_queue.range(1_000, until);
            self.schedule_in(at, Event::Operate { site, operation: Operation::Quota });
        }
        for _ in 0..self.knobs.reservations.map_or(0, |it| it.changes) {
            let site = self.chance_reservations.index(self.sites.len());
            let at = self.chance_reservations.range(1_000, until);
            self.schedule_in(at, Event::Operate { site, operation: Operation::Reserve });
        }
        for _ in 0..self.knobs.costs.map_or(0, |it| it.says) {
            let site = self.chance_costs.index(self.sites.len());
            let at = self.chance_costs.range(1_000, until);
            self.schedule_in(at, Event::Operate { site, operation: Operation::Costs });
        }
    }

    fn draw_placement(&mut self, site: usize) -> PlacementSpec {
        let rng = &mut self.chance_work;
        let mut placement =
            PlacementSpec { sites: Vec::new(), residency: Vec::new(), spill: rng.chance(800) };
        if self.knobs.is_spilling && rng.chance(700) {
            placement.spill = true;
            return placement;
        }
        match rng.below(10) {
            0 => {
                let other = rng.index(self.knobs.sites);
                placement.sites.push(setup::site_name(other));
            }
            1 => placement.residency.push(self.sites[site].country),
            2 | 3 => {
                let countries = setup::countries();
                placement.residency.push(countries[rng.index(countries.len())]);
            }
            _ => {}
        }
        placement
    }

    fn draw_spec(&mut self, site: usize) -> JobSpec {
        let placement = self.draw_placement(site);
        let rng = &mut self.chance_work;
        let nodes = [1, 1, 1, 2, 2, 3][rng.index(6)];
        let gpus = [1, 1, 2, 2, 4, 4, 8][rng.index(7)];
        let array = if nodes == 1 && rng.chance(200) { rng.small(2, 4) } else { 1 };
        let classes = setup::classes();
        let gpu_classes = match rng.below(10) {
            0..6 => Vec::new(),
            6..9 => vec![classes[0].clone()],
            _ => vec![classes[1].clone(), classes[0].clone()],
        };
        let is_service = rng.chance(60);
        let mut spec = JobSpec {
            name: JobName::new("job").expect("a constant that keeps the rules of names"),
            class: if is_service { JobClass::Service } else { JobClass::Training },
            priority: rng.small(0, 3) * 30,
            nodes,
            tasks_per_node: 1,
            gpus_per_node: GpuCount(gpus),
            gpu_classes,
            array,
            command: vec!["work".into()],
            env: BTreeMap::new(),
            workdir: String::new(),
            grace: Millis(rng.skewed(0, 2_000)),
            retries: if rng.chance(200) { rng.small(0, 2) } else { 1_000 },
            on_partition: if rng.chance(200) { OnPartition::Wait } else { OnPartition::Restart },
            placement,
            time_limit: Millis::ZERO,
            labels: BTreeMap::new(),
            needs: OrDefault::default(),
            account: None,
            preemptible: None,
            array_running_max: 0,
            data: vec![],
            deadline: None,
        };
        if self.knobs.demands {
            health::demand(&mut self.chance_demands, &mut spec);
        }
        if self.knobs.asks_of_nodes {
            needs::draw(&mut self.chance_needs, &mut spec);
        }
        if self.knobs.lends_beside {
            needs::draw_beside(&mut self.chance_beside, &mut spec);
        }
        if self.knobs.accounts.is_some() {
            accounts::draw(&mut self.chance_queue, &mut spec, self.knobs.job_max);
        }
        if self.knobs.reservations.is_some() {
            reservations::draw(&mut self.chance_reservations, &mut spec, self.knobs.job_max);
        }
        if self.sites[site].log.latest().version >= ClusterVersion::SITES {
            costs::draw(&mut self.chance_costs, &mut spec);
        }
        spec
    }

    pub(crate) fn client_submits(&mut self, site: usize) {
        let spec = Arc::new(self.draw_spec(site));
        let request = format!("{site}-{}", self.sites[site].client.last_wish);
        let request = RequestId::new(&request).expect("digits and a dash");
        let submit = JobSubmit { request, spec };
        self.wish(site, Wish::Submit(submit));
        if self.knobs.accounts.is_some_and(|it| it.is_nervous) {
            let soon = self.chance_queue.skewed(1, 400);
            self.schedule_in(soon, Event::Operate { site, operation: Operation::Quota });
        }
    }

    pub(crate) fn client_cancels(&mut self, site: usize) {
        let client = &self.sites[site].client;
        let state = self.sites[site].log.latest();
        let is_open = |id: &&JobId| state.jobs.get(*id).is_some_and(|job| !job.has_ended());
        let open: Vec<JobId> = client.jobs.iter().filter(is_open).copied().collect();
        if !open.is_empty() {
            let job = open[self.chance_work.index(open.len())];
            self.cancel_job(site, job);
        }
    }

    pub(crate) fn cancel_job(&mut self, site: usize, job: JobId) {
        self.wish(site, Wish::Cancel(job));
    }

    fn wish(&mut self, site: usize, wish: Wish) {
        let client = &mut self.sites[site].client;
        client.last_wish += 1;
        let number = client.last_wish;
        client.wishes.insert(number, wish);
        self.ask_for(site, number);
    }

    fn ask_for(&mut self, site: usize, number: u64) {
        let call = CallId(self.chance_work.wide());
        let client = &mut self.sites[site].client;
        let Some(wish) = client.wishes.get(&number) else { return };
        let bytes = match wish {
            Wish::Submit(submit) => network::request(Method::JobSubmit, call, submit),
            Wish::Cancel(job) => {
                let selector = JobSelector { text: job.to_string() };
                network::request(Method::JobCancel, call, &selector)
            }
        };
        client.calls.insert(call, number);
        let (from, ctl) = (client.machine, client.target);
        let to = self.machine_of(CtlRef { site, ctl });
        self.send(&Packet { from, to, call, bytes });
    }

    pub(crate) fn client_repeats(&mut self, site: usize) {
        self.schedule_in(REPEAT_AFTER.0, Event::Client { site });
        let count = self.sites[site].controllers.len();
        let client = &mut self.sites[site].client;
        let open: Vec<u64> = client.wishes.keys().copied().collect();
        if open.is_empty() {
            client.calls.clear();
            return;
        }
        client.target = (client.target + 1) % count;
        for number in open {
            self.ask_for(site, number);
        }
    }

    pub(crate) fn client_hears(&mut self, site: usize, packet: &Packet) {
        let client = &mut self.sites[site].client;
        let Some(number) = client.calls.get(&packet.call).copied() else { return };
        let body = match network::open(&packet.bytes) {
            Ok(Frames::Answer(body)) => body,
            // A job that cannot be found may not have come through yet.
            Ok(Frames::Fault(_)) => return,
            Ok(Frames::Request(..)) => {
                return self.violate("bytes read back", "a client was asked".into());
            }
            Err(error) => return self.violate("bytes read back", error),
        };
        match client.wishes.remove(&number) {
            Some(Wish::Submit(submit)) => match JobSubmitted::decode(body) {
                Ok(submitted) => {
                    client.jobs.extend(&submitted.jobs);
                    self.mark(Mark::JobsAcknowledged);
                    if submitted.repeated {
                        self.mark(Mark::SubmitsRepeated);
                    }
                    self.acknowledged(site, &submit, submitted);
                }
                Err(error) => self.violate("bytes read back", error.to_string()),
            },
            Some(Wish::Cancel(_)) => {}
            None => self.check_again(site, body),
        }
    }

    /// An answer to a request that was answered before says the same.
    fn check_again(&mut self, site: usize, body: &[u8]) {
        let Ok(again) = JobSubmitted::decode(body) else { return };
        let known = self.sites[site].client.jobs.clone();
        if again.jobs.iter().any(|job| !known.contains(job)) {
            let detail = format!("a repeated request made other jobs: {:?}", again.jobs);
            self.violate("S2: a request takes effect once", detail);
        }
    }

    pub(crate) fn operate(&mut self, site: usize, operation: Operation) {
        let is_over =
            matches!(operation, Operation::Recall | Operation::Quota | Operation::Reserve);
        if self.healing && is_over {
            return;
        }
        let Some(command) = self.command_of(site, operation) else { return };
        self.schedule_in(1_000, Event::Operate { site, operation });
        if let Some(ctl) = self.sites[site].log.leader {
            self.propose(CtlRef { site, ctl }, command);
        }
    }

    /// What is still to be done.
    fn command_of(&mut self, site: usize, operation: Operation) -> Option<Command> {
        let state = self.sites[site].log.latest();
        match operation {
            Operation::Join { peer } => {
                let other = &self.sites[peer];
                let peer = PeerRecord {
                    site: other.name.clone(),
                    country: other.country,
                    ca: Blob(other.name.to_string().into_bytes()),
                    addresses: vec![format!("{}:1", other.name)],
                };
                let done = state.peers.contains(&peer.site);
                (!done).then_some(Command::AddPeer(AddPeer { peer }))
            }
            Operation::Drain { node, drain } => {
                let drain = drain && !self.healing;
                let node = self.sites[site].nodes[node].id.clone();
                let done = state.nodes.get(&node).is_some_and(|it| it.draining == drain);
                self.coverage.add(Mark::Drains, u64::from(!done && drain));
                (!done).then_some(Command::DrainNode(DrainNode { node, drain }))
            }
            Operation::Recall => {
                let open: Vec<_> =
                    state.grants.values().filter(|it| !it.recalled).map(|it| it.id).collect();
                let grant = *open.get(self.chance_work.index(open.len()))?;
                // Once is enough: what recall starts has to come to its end by itself.
                if let Some(ctl) = self.sites[site].log.leader {
                    let command = Command::RecallGrant(RecallGrant { grant });
                    self.propose(CtlRef { site, ctl }, command);
                }
                None
            }
            Operation::Costs => {
                let state = self.sites[site].log.latest();
                let peers: Vec<SiteId> = state.peers.keys().cloned().collect();
                let knows = state.version >= ClusterVersion::SITES;
                let nth = self.chance_costs.index(peers.len().max(1));
                let ctl = self.sites[site].log.leader.filter(|_| knows)?;
                let at = CtlRef { site, ctl };
                let wall = self.wall(self.machine_of(at));
                let command = costs::say(&mut self.chance_costs, peers.get(nth).cloned(), wall);
                self.propose(at, command);
                None
            }
            Operation::Reserve => {
                let ctl = self.sites[site].log.leader?;
                let at = CtlRef { site, ctl };
                let (state, wall) = (self.state_at(at), self.wall(self.machine_of(at)));
                if let Some(it) = reservations::change(&mut self.chance_reservations, &state, wall)
                {
                    self.propose(at, it);
                }
                None
            }
            Operation::Quota => {
                // Once is enough here, too.
                let state = self.sites[site].log.latest().clone();
                let command = accounts::change(&mut self.chance_queue, &state);
                if let Some(ctl) = self.sites[site].log.leader {
                    self.propose(CtlRef { site, ctl }, command);
                }
                None
            }
        }
    }
}
