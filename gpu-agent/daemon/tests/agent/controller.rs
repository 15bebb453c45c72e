//! A small controller: it enrols nodes and gives the orders that a test writes down.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fabric_quic::connection::{CallError, Connection};
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::{BoxFuture, Env};
use fabric_quic::identity::Identity;
use fabric_quic::pki::Authority;
use fabric_quic::redeem;
use fabric_quic::service::{Request, Service};
use fabric_quic::token::{Token, TokenKind};
use fabric_quic::trust::TrustStore;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, Epoch, LeaseId, NodeId, Revision};
use specs::job::JobSpec;
use specs::unit::{Millis, Timestamp};
use specs::wire::agent::{
    AttemptPhase, AttemptReport, LeaseOrder, LogChunk, LogStream, NodeLogs, NodeOrders, NodeReport,
    Nudge, Validity, ValidityKind, Want,
};
use specs::wire::join::EnrolRequest;
use specs::wire::method::Method;

use crate::support::{eventually, job_id, launch, node, site};

/// What a controller does with reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mood {
    Leads,
    /// Keeps the connection and says nothing.
    Silent,
    Refuses(Fault),
}

/// What a test writes and reads.
pub(crate) struct Desk {
    pub(crate) mood: Mood,
    pub(crate) lease_term: Millis,
    pub(crate) orders: BTreeMap<LeaseId, LeaseOrder>,
    pub(crate) last: Option<NodeReport>,
    pub(crate) reports: u64,
    pub(crate) connection: Option<Connection>,
    pub(crate) expired: bool,
    /// Whether GPUs are to prove themselves.
    pub(crate) prove: bool,
    /// The digest of the key that used the token.
    pub(crate) used_by: Option<[u8; 32]>,
    /// Enrolments that are carried out and not answered.
    pub(crate) swallow: u32,
    revision: u64,
}

#[derive(Clone)]
pub(crate) struct Controller {
    env: Env,
    authority: Authority,
    token: Arc<Mutex<Option<Token>>>,
    desk: Arc<Mutex<Desk>>,
    endpoint: Arc<Mutex<Option<Endpoint>>>,
    /// What nodes are told at their enrolment.
    addresses: Arc<Mutex<Vec<String>>>,
}

struct Serve(Controller);

impl Controller {
    pub(crate) fn start() -> Self {
        let env = Env::system();
        let authority = Authority::create(&env, &site()).unwrap();
        Self::member(&env, &authority, 1)
    }

    /// Another controller of the same site.
    pub(crate) fn fellow(&self, id: u64) -> Self {
        Self::member(&self.env, &self.authority, id)
    }

    fn member(env: &Env, authority: &Authority, id: u64) -> Self {
        let controller = Self {
            env: env.clone(),
            authority: authority.clone(),
            token: Arc::default(),
            desk: Arc::new(Mutex::new(Desk::new())),
            endpoint: Arc::default(),
            addresses: Arc::default(),
        };
        let identity = Identity::Controller { site: site(), id: ControllerId(id) };
        let trust = TrustStore::new();
        trust.trust(&site(), authority.certificate()).unwrap();
        let config = EndpointConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            credentials: Some(authority.credentials(env, &identity).unwrap()),
            trust: Arc::new(trust),
        };
        let endpoint = Endpoint::bind(env, config, Arc::new(Serve(controller.clone()))).unwrap();
        *controller.endpoint.lock().unwrap() = Some(endpoint);
        *controller.addresses.lock().unwrap() = vec![controller.address()];
        controller
    }

    pub(crate) fn address(&self) -> String {
        self.endpoint.lock().unwrap().as_ref().unwrap().local_address().to_string()
    }

    pub(crate) fn tell_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().unwrap() = addresses;
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap()
    }

    /// A token for the node of these tests.
    pub(crate) fn mint(&self) -> Token {
        self.mint_for(&node())
    }

    pub(crate) fn mint_for(&self, node: &NodeId) -> Token {
        let expires = Timestamp(self.env.clock.wall().0 + 3_600_000);
        let bound = Some(node.to_string());
        let addresses = vec![self.address()];
        let token =
            redeem::mint(&self.env, TokenKind::Enrol, &self.authority, addresses, expires, bound);
        *self.token.lock().unwrap() = Some(token.clone());
        token
    }

    /// Orders the attempt of a lease, as from now on.
    pub(crate) fn order(&self, lease: LeaseId, spec: JobSpec) {
        let mut desk = self.desk();
        desk.revision += 1;
        let order = LeaseOrder {
            lease,
            home: site(),
            job: job_id(),
            epoch: Epoch(u32::try_from(lease.0).unwrap()),
            want: Want::Run,
            validity: Validity { kind: ValidityKind::NodeLease, remaining: Millis::ZERO },
            launch: Some(launch(spec)),
        };
        desk.orders.insert(lease, order);
    }

    pub(crate) fn change(&self, lease: LeaseId, change: impl FnOnce(&mut LeaseOrder)) {
        let mut desk = self.desk();
        desk.revision += 1;
        change(desk.orders.get_mut(&lease).unwrap());
    }

    pub(crate) fn withdraw(&self, lease: LeaseId) {
        let mut desk = self.desk();
        desk.revision += 1;
        desk.orders.remove(&lease);
    }

    /// Waits for a report that has what is looked for.
    pub(crate) fn wait<T>(&self, what: &str, look: impl Fn(&NodeReport) -> Option<T>) -> T {
        eventually(what, || self.desk().last.as_ref().and_then(&look))
    }

    pub(crate) fn wait_for_phase(&self, lease: LeaseId, phase: AttemptPhase) -> AttemptReport {
        self.wait(&format!("{lease} {phase}"), |report| {
            report.attempts.iter().find(|it| it.lease == lease && it.phase == phase).cloned()
        })
    }

    pub(crate) async fn nudge(&self) {
        let connection = self.desk().connection.clone().unwrap();
        connection.call(Method::NodeNudge, Nudge {}.encode(), None).await.unwrap();
    }

    pub(crate) async fn logs(&self, asked: &NodeLogs) -> Result<LogChunk, Fault> {
        let connection = self.desk().connection.clone().unwrap();
        let answer = connection.call(Method::NodeLogs, asked.encode(), None).await;
        let answer = answer.map_err(CallError::into_fault)?;
        Ok(LogChunk::decode(&answer).unwrap())
    }
}

/// A question for the beginning of a task's output.
pub(crate) fn logs_of(lease: LeaseId) -> NodeLogs {
    NodeLogs {
        home: site(),
        job: job_id(),
        epoch: Epoch(u32::try_from(lease.0).unwrap()),
        task: 0,
        stream: LogStream::Stdout,
        offset: 0,
        max_bytes: 65_536,
        wait: Millis::ZERO,
    }
}

impl Desk {
    fn new() -> Self {
        Self {
            mood: Mood::Leads,
            lease_term: Millis(60_000),
            orders: BTreeMap::new(),
            last: None,
            reports: 0,
            connection: None,
            expired: false,
            prove: false,
            used_by: None,
            swallow: 0,
            revision: 1,
        }
    }

    fn answer(&mut self, report: NodeReport) -> NodeOrders {
        self.reports += 1;
        let known = |lease| report.attempts.iter().any(|it| it.lease == lease);
        let leases = self.orders.values().cloned().map(|mut order| {
            order.launch = order.launch.filter(|_| !known(order.lease));
            order
        });
        let orders = NodeOrders {
            node: report.node.clone(),
            boot: report.boot,
            question: report.question,
            revision: Revision(self.revision),
            lease_term: self.lease_term,
            leases: leases.collect(),
            hold: false,
            prove: self.prove,
            withheld: Vec::new(),
            released: Vec::new(),
            permits_only: false,
            permits: Vec::new(),
            tell_earlier: false,
        };
        self.last = Some(report);
        orders
    }
}

impl Service for Serve {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            if request.method == Method::EnrolRedeem {
                return self.enrol(&request).await;
            }
            assert_eq!(request.method, Method::NodeReport);
            let report = NodeReport::decode(&request.body).unwrap();
            assert_eq!(
                request.caller.to_string(),
                format!("spiffe://berlin/agent/{}", report.node)
            );
            let mood = {
                let mut desk = self.0.desk();
                desk.connection = Some(request.connection.clone());
                desk.mood.clone()
            };
            match mood {
                Mood::Leads => Ok(self.0.desk().answer(report).encode().into()),
                Mood::Silent => std::future::pending().await,
                Mood::Refuses(fault) => Err(fault),
            }
        })
    }
}

impl Serve {
    async fn enrol(&self, request: &Request) -> Result<Bytes, Fault> {
        let Controller { env, authority, .. } = &self.0;
        let asked = EnrolRequest::decode(&request.body).unwrap();
        let token = self.0.token.lock().unwrap().clone();
        let token = token.filter(|token| token.id == asked.token);
        let unknown = || Fault::new(FaultCode::TokenInvalid, "the token is not valid");
        let key = redeem::token_key(&env.crypto, &token.ok_or_else(unknown)?.secret);
        let exporter = request.connection.exporter();
        redeem::check_enrol(&env.crypto, &key, &exporter, &asked)?;
        let digest = env.crypto.sha256(&asked.csr.0);
        let swallow = {
            let mut desk = self.0.desk();
            if desk.expired {
                return Err(Fault::new(FaultCode::TokenExpired, "the token has expired"));
            }
            if desk.used_by.is_some_and(|used_by| used_by != digest) {
                return Err(Fault::new(FaultCode::TokenUsed, "the token was used"));
            }
            desk.used_by = Some(digest);
            let swallow = desk.swallow > 0;
            desk.swallow = desk.swallow.saturating_sub(1);
            swallow
        };
        if swallow {
            std::future::pending::<()>().await;
        }
        let identity = Identity::Agent { site: site(), node: asked.node.clone() };
        let leaf = authority.issue(env, &identity, &asked.csr.0).unwrap();
        let addresses = self.0.addresses.lock().unwrap().clone();
        let ca = authority.certificate();
        let accept =
            redeem::enrol_accept(&env.crypto, &key, &exporter, &asked, &leaf, ca, &addresses);
        Ok(accept.encode().into())
    }
}
