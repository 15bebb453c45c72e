//! Three members of etcd, and a client of its key-value service.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::Loop;

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
const KEYS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);
/// etcd's default of 2 GiB ends a long run.
const QUOTA_BYTES: &str = "8589934592";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// What to run; none if there is no etcd here.
pub(crate) fn program() -> Option<String> {
    let program = std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned());
    let mut version = Command::new(&program);
    let known = version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    known.is_ok_and(|status| status.success()).then_some(program)
}

pub(crate) struct Cluster {
    members: Vec<Child>,
    pub(crate) version: String,
    clients: Vec<String>,
}

impl Cluster {
    pub(crate) async fn start(program: &str, root: &Path) -> Self {
        let ports = free_ports(6);
        let peer = |at: usize| format!("http://127.0.0.1:{}", ports[at]);
        let client = |at: usize| format!("http://127.0.0.1:{}", ports[3 + at]);
        let all: Vec<String> = (0..3).map(|at| format!("m{at}={}", peer(at))).collect();
        let mut members = Vec::new();
        for at in 0..3 {
            let dir = root.join(format!("m{at}"));
            std::fs::create_dir_all(&dir).unwrap();
            let mut member = Command::new(program);
            member
                .args(["--name", &format!("m{at}"), "--data-dir", dir.to_str().unwrap()])
                .args(["--listen-peer-urls", &peer(at), "--initial-advertise-peer-urls", &peer(at)])
                .args(["--listen-client-urls", &client(at), "--advertise-client-urls", &client(at)])
                .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
                .args(["--quota-backend-bytes", QUOTA_BYTES, "--log-level", "error"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            members.push(member.spawn().unwrap());
        }
        let clients = (0..3).map(client).collect();
        let mut cluster = Self { members, version: String::new(), clients };
        cluster.version = cluster.leader().await.1;
        cluster
    }

    /// Where the leader is, and its version.
    async fn leader(&self) -> (String, String) {
        let begun = Instant::now();
        loop {
            for address in &self.clients {
                if let Some(status) = status(address).await
                    && status.header.as_ref().is_some_and(|own| own.member_id == status.leader)
                {
                    return (address.clone(), status.version);
                }
            }
            assert!(begun.elapsed() < PATIENCE, "etcd has no leader");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

async fn connect(address: &str) -> Option<Channel> {
    Endpoint::from_shared(address.to_owned()).unwrap().connect().await.ok()
}

async fn status(address: &str) -> Option<StatusResponse> {
    let mut grpc = Grpc::new(connect(address).await?);
    grpc.ready().await.ok()?;
    let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    grpc.unary(Request::new(StatusRequest {}), path, codec)
        .await
        .ok()
        .map(tonic::Response::into_inner)
}

/// Ports that nobody listens on at this moment.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

pub(crate) struct Client {
    grpc: Grpc<Channel>,
    number: usize,
    writes: usize,
}

/// As many clients as asked, over at most `connections` connections to the leader.
pub(crate) async fn loops(cluster: &Cluster, clients: usize, connections: usize) -> Vec<Loop> {
    let mut channels = Vec::new();
    let (leader, _) = cluster.leader().await;
    for _ in 0..clients.min(connections) {
        channels.push(connect(&leader).await.unwrap());
    }
    let client = |number: usize| {
        let grpc = Grpc::new(channels[number % channels.len()].clone());
        Loop::Etcd(Client { grpc, number, writes: 0 })
    };
    (0..clients).map(client).collect()
}

impl Client {
    pub(crate) async fn write(&mut self) -> bool {
        self.writes += 1;
        let key = format!("client-{:05}-{:02}", self.number, self.writes % KEYS).into_bytes();
        let put = PutRequest { key, value: vec![7; VALUE_BYTES] };
        self.grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        self.grpc.unary(Request::new(put), path, codec).await.is_ok()
    }
}
