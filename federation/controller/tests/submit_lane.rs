//! Many submissions over one stream, of a controller that runs within the test.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a test is where the real environment is made")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
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
use futures::future::join_all;
use specs::codec::Message;
use specs::fault::FaultCode;
use specs::id::{Country, JobId, NodeId, RequestId, SiteId};
use specs::job::JobSpec;
use specs::jobfile::{self, Format};
use specs::site::{Terms, Trust};
use specs::unit::Millis;
use specs::wire::client::{JobSubmit, JobSubmitted, NodeEnroll, TokenIssued};
use specs::wire::method::Method;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    env: Env,
    _root: TempDir,
    endpoint: Endpoint,
    connection: Connection,
}

/// A site with one controller, founded and led.
async fn site() -> Site {
    let (env, site) = (Env::system(), SiteId::new("berlin").unwrap());
    let root = TempDir::new().unwrap();
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    let options = InitOptions {
        site: site.clone(),
        listen,
        advertise: None,
        dir: root.path().join("c1"),
        metrics: None,
        country: "DE".parse::<Country>().unwrap(),
        terms: Terms::default(),
        lend: Vec::new(),
        trust: Trust::Declared,
    };
    let founded = federation_controller::init(&env, &options).unwrap();
    let credentials = Credentials::load(&env, &founded.admin, ADMIN).unwrap();
    let (serving, dir) = (env.clone(), options.dir.clone());
    tokio::spawn(async move {
        let never = std::future::pending();
        Box::pin(federation_controller::serve(serving, &dir, CutLog::default(), |_| (), never))
            .await
            .unwrap();
    });
    let trust = Arc::new(TrustStore::new());
    trust.trust(&site, credentials.ca()).unwrap();
    let config = EndpointConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        credentials: Some(credentials),
        trust,
    };
    let endpoint = Endpoint::bind(&env, config, Arc::new(NoService)).unwrap();
    let begun = Instant::now();
    let connection = loop {
        match endpoint.connect(listen, Expect::Controller { site: site.clone() }).await {
            Ok(connection) => break connection,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    Site { env, _root: root, endpoint, connection }
}

fn job() -> JobSpec {
    let text = "apiVersion: spillway/v1\nkind: Job\nmetadata: {name: lane}\nspec:\n  \
                class: simulation\n  resources: {gpus: {count: 1}}\n  run: {command: [\"x\"]}\n";
    jobfile::read(text, Format::Yaml, "lane.yaml").unwrap()
}

fn submit(request: &str, spec: JobSpec) -> JobSubmit {
    JobSubmit { request: RequestId::new(request).unwrap(), spec: Arc::new(spec) }
}

impl Site {
    /// A site that waits for a node queues jobs; one without any refuses them.
    async fn enrol_a_node(&self) {
        let node = NodeId::new("n1").unwrap();
        let question = NodeEnroll { node: node.clone(), ttl: Millis(60_000) }.encode();
        let begun = Instant::now();
        let issued = loop {
            match self.connection.call(Method::NodeEnroll, question.clone(), None).await {
                Ok(answer) => break TokenIssued::decode(&answer).unwrap(),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let token = Token::parse_as(TokenKind::Enrol, &issued.token).unwrap();
        let (listen, trust) = ((Ipv4Addr::LOCALHOST, 0).into(), Arc::new(TrustStore::new()));
        let config = EndpointConfig { listen, credentials: None, trust };
        let endpoint = Endpoint::bind(&self.env, config, Arc::new(NoService)).unwrap();
        let address = self.connection.remote_address();
        let connection = endpoint.connect(address, Expect::Pin(token.pin)).await.unwrap();
        let key = KeyRequest::create(&self.env).unwrap();
        let (crypto, exporter) = (&self.env.crypto, connection.exporter());
        let request = redeem::enrol_request(crypto, &token, &exporter, &node, key.csr());
        connection.call(Method::EnrolRedeem, request.encode(), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_submission_of_a_lane_gets_its_own_answer() {
    let site = Box::pin(site()).await;
    site.enrol_a_node().await;
    let lane = SubmitLane::open(&site.env, &site.connection).await.unwrap();
    let requests: Vec<String> = (0..300).map(|at| format!("request-{at}")).collect();
    let submit_all =
        async || join_all(requests.iter().map(|it| lane.submit(submit(it, job())))).await;

    let first: Vec<JobSubmitted> = submit_all().await.into_iter().map(Result::unwrap).collect();
    let jobs: BTreeSet<JobId> = first.iter().flat_map(|it| it.jobs.clone()).collect();
    assert_eq!(jobs.len(), requests.len());
    assert!(first.iter().all(|it| !it.repeated));

    let again = submit_all().await.into_iter().map(Result::unwrap);
    for (first, again) in first.iter().zip(again) {
        assert_eq!((&again.jobs, again.repeated), (&first.jobs, true));
    }

    let (mut invalid, mut other) = (job(), job());
    invalid.nodes = 0;
    other.priority += 1;
    let mixed = [submit("invalid", invalid), submit("request-7", other), submit("good", job())];
    let codes: Vec<_> = join_all(mixed.map(|it| lane.submit(it)))
        .await
        .into_iter()
        .map(|outcome| outcome.err().map(|fault| fault.code))
        .collect();
    assert_eq!(codes, [Some(FaultCode::InvalidArgument), Some(FaultCode::Conflict), None]);

    site.connection.close("the test closes it");
    let lost = lane.submit(submit("late", job())).await.unwrap_err();
    assert!(matches!(lost.code, FaultCode::OutcomeUnknown | FaultCode::Unreachable), "{lost}");
    site.endpoint.shutdown("done").await;
}
