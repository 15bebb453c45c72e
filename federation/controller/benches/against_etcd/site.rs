//! A site of three controllers, each a process, and a user who submits jobs.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_quic::connection::Connection;
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::Env;
use fabric_quic::pki::{Credentials, KeyRequest};
use fabric_quic::redeem;
use fabric_quic::service::NoService;
use fabric_quic::token::{Token, TokenKind};
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::Expect;
use federation_controller::raft::CutLog;
use federation_controller::{ADMIN, InitOptions, SubmitLane};
use specs::codec::{Blob, Message};
use specs::id::{ControllerId, Country, NodeId, RequestId, SiteId};
use specs::job::JobSpec;
use specs::jobfile::{self, Format};
use specs::site::{Terms, Trust};
use specs::unit::Millis;
use specs::wire::client::{
    ControllerAdd, ControllerAdded, ControllerViews, Empty, JobSubmit, NodeEnroll, TokenIssued,
};
use specs::wire::method::Method;

use crate::load::Loop;

/// The argument with which this program becomes a controller.
pub(crate) const SERVE: &str = "serve-a-controller";
/// Bytes of a job as the log holds it, but for ids and times.
const JOB_BYTES: usize = 256;
const CONTROLLERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a controller until it is killed.
pub(crate) fn serve(dir: &Path) {
    let runtime = federation_controller::runtime().unwrap();
    let (env, never) = (Env::system(), std::future::pending());
    let served = federation_controller::serve(env, dir, CutLog::default(), |_| (), never);
    runtime.block_on(Box::pin(served)).unwrap();
}

pub(crate) struct Cluster {
    env: Env,
    site: SiteId,
    authority: Vec<u8>,
    /// The user's.
    endpoint: Endpoint,
    controllers: Vec<Child>,
    addresses: Vec<SocketAddr>,
    job: Arc<JobSpec>,
}

impl Cluster {
    pub(crate) async fn start(root: &Path) -> Self {
        let (env, site) = (Env::system(), SiteId::new("berlin").unwrap());
        let addresses: Vec<SocketAddr> = free_udp_ports(CONTROLLERS);
        let dir = |at: usize| root.join(format!("c{at}"));
        let options = InitOptions {
            site: site.clone(),
            listen: addresses[0],
            advertise: None,
            dir: dir(0),
            metrics: None,
            country: "DE".parse::<Country>().unwrap(),
            terms: Terms::default(),
            lend: Vec::new(),
            trust: Trust::Declared,
        };
        let founded = federation_controller::init(&env, &options).unwrap();
        let credentials = Credentials::load(&env, &founded.admin, ADMIN).unwrap();
        let authority = credentials.ca().to_vec();
        let endpoint = endpoint(&env, &site, &authority, Some(credentials));
        let mut cluster = Self {
            env,
            site,
            authority,
            endpoint,
            controllers: vec![spawn(&dir(0))],
            addresses: addresses.clone(),
            job: Arc::new(job()),
        };
        for (at, address) in addresses.iter().enumerate().skip(1) {
            cluster.add(*address, &dir(at)).await;
            cluster.controllers.push(spawn(&dir(at)));
            cluster.settle(at + 1).await;
        }
        cluster.enrol_a_node().await;
        cluster
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.controllers.iter().map(Child::id).collect()
    }

    async fn connect(&self, address: SocketAddr) -> Connection {
        let begun = Instant::now();
        loop {
            let expect = Expect::Controller { site: self.site.clone() };
            match self.endpoint.connect(address, expect).await {
                Ok(connection) => return connection,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks until the site answers.
    async fn ask<A: Message>(&self, method: Method, question: &impl Message) -> A {
        let connection = self.connect(self.addresses[0]).await;
        let begun = Instant::now();
        loop {
            match connection.call(method, question.encode(), None).await {
                Ok(answer) => return A::decode(&answer).unwrap(),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{method}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn add(&self, address: SocketAddr, dir: &Path) {
        let key = KeyRequest::create(&self.env).unwrap();
        let question = ControllerAdd {
            oldest: federation_controller::KNOWN.oldest,
            newest: federation_controller::KNOWN.newest,
            address: address.to_string(),
            csr: Blob(key.csr().to_vec()),
            request: request(&self.env),
            replaces: None,
        };
        let added: ControllerAdded = self.ask(Method::ControllerAdd, &question).await;
        let ControllerId(_) = added.id;
        federation_controller::write_member(&self.env, dir, address, None, None, &added, key)
            .unwrap();
    }

    /// Waits until there are that many voters. Returns where the leader is.
    async fn settle(&self, voters: usize) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let views: ControllerViews = self.ask(Method::ControllerList, &Empty {}).await;
            let voting = views.controllers.iter().filter(|it| it.voter).count();
            let leader = views.controllers.iter().find(|it| it.leader);
            if let (true, Some(leader)) = (voting == voters, leader) {
                return leader.address.parse().unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "the site has {voting} voters of {voters}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A site without any node refuses jobs; one that waits for a node queues them.
    async fn enrol_a_node(&self) {
        let node = NodeId::new("n1").unwrap();
        let question = NodeEnroll { node: node.clone(), ttl: Millis(600_000) };
        let issued: TokenIssued = self.ask(Method::NodeEnroll, &question).await;
        let token = Token::parse_as(TokenKind::Enrol, &issued.token).unwrap();
        let endpoint = endpoint(&self.env, &self.site, &self.authority, None);
        let leader = self.settle(CONTROLLERS).await;
        let connection = endpoint.connect(leader, Expect::Pin(token.pin)).await.unwrap();
        let key = KeyRequest::create(&self.env).unwrap();
        let exporter = connection.exporter();
        let crypto = &self.env.crypto;
        let request = redeem::enrol_request(crypto, &token, &exporter, &node, key.csr());
        connection.call(Method::EnrolRedeem, request.encode(), None).await.unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for controller in &mut self.controllers {
            let _ = controller.kill();
            let _ = controller.wait();
        }
    }
}

fn endpoint(env: &Env, site: &SiteId, authority: &[u8], own: Option<Credentials>) -> Endpoint {
    let trust = Arc::new(TrustStore::new());
    trust.trust(site, authority).unwrap();
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let config = EndpointConfig { listen, credentials: own, trust };
    Endpoint::bind(env, config, Arc::new(NoService)).unwrap()
}

fn spawn(dir: &Path) -> Child {
    let mut own = Command::new(std::env::current_exe().unwrap());
    own.arg(SERVE).arg(dir).stdout(Stdio::null()).spawn().unwrap()
}

fn free_udp_ports(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<_> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap()).collect()
}

/// As the `federation` command makes them.
fn request(env: &Env) -> RequestId {
    let (time, chance) = (env.clock.wall().0, env.random_u64());
    RequestId::new(&format!("cli-{time:012x}{chance:016x}")).unwrap()
}

/// A job of [`JOB_BYTES`] bytes.
fn job() -> JobSpec {
    let text = "apiVersion: spillway/v1\nkind: Job\nmetadata: {name: bench}\nspec:\n  \
                class: simulation\n  resources: {gpus: {count: 1}}\n  \
                run: {command: [\"/opt/simulate\", \"x\"]}\n";
    let mut spec = jobfile::read(text, Format::Yaml, "bench.yaml").unwrap();
    let missing = JOB_BYTES.saturating_sub(spec.encode().len());
    spec.command[1] = "x".repeat(missing);
    spec.check().unwrap();
    let bytes = spec.encode().len();
    assert!((JOB_BYTES - 2..=JOB_BYTES + 2).contains(&bytes), "{bytes}");
    spec
}

pub(crate) struct Client {
    env: Env,
    lane: Arc<SubmitLane>,
    job: Arc<JobSpec>,
}

/// As many clients as asked, over at most `connections` connections to the leader.
pub(crate) async fn loops(cluster: &Cluster, clients: usize, connections: usize) -> Vec<Loop> {
    let mut lanes = Vec::new();
    let leader = cluster.settle(CONTROLLERS).await;
    for _ in 0..clients.min(connections) {
        let connection = cluster.connect(leader).await;
        lanes.push(Arc::new(SubmitLane::open(&cluster.env, &connection).await.unwrap()));
    }
    let client = |number: usize| {
        let lane = lanes[number % lanes.len()].clone();
        Loop::Site(Client { env: cluster.env.clone(), lane, job: cluster.job.clone() })
    };
    (0..clients).map(client).collect()
}

impl Client {
    pub(crate) async fn write(&mut self) -> bool {
        let submit = JobSubmit { request: request(&self.env), spec: self.job.clone() };
        self.lane.submit(submit).await.is_ok()
    }
}
