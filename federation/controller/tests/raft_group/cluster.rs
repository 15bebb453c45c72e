//! A group of members, each in a runtime of its own, so that one can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::{BoxFuture, Env};
use fabric_quic::identity::Identity;
use fabric_quic::lane::Lane;
use fabric_quic::pki::Authority;
use fabric_quic::pool::Pool;
use fabric_quic::service::{Request, Service};
use fabric_quic::trust::TrustStore;
use federation_controller::raft::{Applied, Committed, Group, RaftConfig, StartError, Storage};
use federation_core::{Command, OpenToken, State, TokenKind};
use federation_wal::{Disk, RealDisk};
use specs::codec::Blob;
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, SiteId, TokenId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::method::Method;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Nothing in these tests takes this long, on any machine.
const PATIENCE: Millis = Millis(60_000);
const POLL: Duration = Duration::from_millis(5);

/// Hands what comes from other members to the group, once it is there.
struct Front {
    id: u64,
    group: OnceLock<Group>,
    cuts: Cuts,
}

impl Service for Front {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            let caller = number(&request.caller);
            if self.cuts.has(caller, self.id) {
                return std::future::pending().await;
            }
            let answer = match self.group.get() {
                Some(group) => group.handle_call(request.method, request.body).await,
                None => Err(Fault::new(FaultCode::Unreachable, "not started")),
            };
            if self.cuts.has(self.id, caller) {
                return std::future::pending().await;
            }
            answer
        })
    }

    fn accepts_lane(&self, method: Method) -> bool {
        method == Method::RaftAppend
    }

    fn lane(&self, request: Request, lane: Lane) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let caller = number(&request.caller);
            if self.cuts.has(caller, self.id) || self.cuts.has(self.id, caller) {
                // It stays open, and nothing is ever read from it.
                let _held = lane;
                return std::future::pending().await;
            }
            if let Some(group) = self.group.get() {
                tokio::select! {
                    () = group.handle_lane(lane) => {}
                    () = self.cuts.until_any(caller, self.id) => {}
                }
            }
        })
    }
}

/// Zero for who is no member.
fn number(identity: &Identity) -> u64 {
    if let Identity::Controller { id, .. } = identity { id.0 } else { 0 }
}

/// Which members do not hear which: who speaks, who should hear. A request that is not heard is
/// never answered, and an answer that is not heard is lost after its request was obeyed; a lane
/// needs both directions.
#[derive(Clone)]
pub(crate) struct Cuts(Arc<watch::Sender<BTreeSet<(u64, u64)>>>);

impl Cuts {
    fn has(&self, from: u64, to: u64) -> bool {
        self.0.borrow().contains(&(from, to))
    }

    async fn until_any(&self, one: u64, other: u64) {
        let mut cuts = self.0.subscribe();
        let cut = cuts.wait_for(|it| it.contains(&(one, other)) || it.contains(&(other, one)));
        // The sender is `self`'s.
        let _ = cut.await;
    }

    pub(crate) fn set(&self, cuts: impl IntoIterator<Item = (u64, u64)>) {
        self.0.send_replace(cuts.into_iter().collect());
    }
}

pub(crate) struct Member {
    pub(crate) group: Group,
    pub(crate) applied: mpsc::UnboundedReceiver<Applied>,
    /// Why it cannot go on.
    pub(crate) fatal: mpsc::UnboundedReceiver<String>,
    pub(crate) runtime: Runtime,
}

pub(crate) struct Cluster {
    env: Env,
    site: SiteId,
    authority: Authority,
    trust: Arc<TrustStore>,
    pub(crate) root: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    pub(crate) members: BTreeMap<u64, Member>,
    tweak: fn(&mut RaftConfig),
    pub(crate) cuts: Cuts,
}

/// A command that leaves a trace of its own.
pub(crate) fn token(number: u64) -> Command {
    Command::OpenToken(OpenToken {
        token: TokenId(u128::from(number)),
        kind: TokenKind::Invite,
        key: Blob(vec![7; 200]),
        bound: String::new(),
        expires_at: Timestamp(number),
    })
}

pub(crate) fn has_token(state: &State, number: u64) -> bool {
    state.tokens.get(&TokenId(u128::from(number))).is_some()
}

impl Cluster {
    pub(crate) fn new(tweak: fn(&mut RaftConfig)) -> Self {
        let (env, site) = (Env::system(), SiteId::new("berlin").unwrap());
        let authority = Authority::create(&env, &site).unwrap();
        let trust = Arc::new(TrustStore::new());
        trust.trust(&site, authority.certificate()).unwrap();
        let (addresses, members) = (BTreeMap::new(), BTreeMap::new());
        let root = TempDir::new().unwrap();
        let cuts = Cuts(Arc::new(watch::Sender::new(BTreeSet::new())));
        Self { env, site, authority, trust, root, addresses, members, tweak, cuts }
    }

    /// A founded group of voters 1 to `voters`.
    pub(crate) fn founded(voters: u64, tweak: fn(&mut RaftConfig)) -> Self {
        let mut cluster = Self::new(tweak);
        for id in 1..=voters {
            cluster.start(id);
        }
        let address = cluster.address(1);
        cluster.on(1, |group| async move { group.found(address).await }).unwrap();
        cluster.settle(&(1..=voters).collect::<Vec<_>>());
        cluster
    }

    /// Members that start from here on are configured otherwise.
    pub(crate) fn retweak(&mut self, tweak: fn(&mut RaftConfig)) {
        self.tweak = tweak;
    }

    pub(crate) fn address(&self, id: u64) -> String {
        self.addresses[&id].to_string()
    }

    /// The member will listen elsewhere when it starts again.
    pub(crate) fn forget_address(&mut self, id: u64) {
        self.addresses.remove(&id);
    }

    pub(crate) fn now(&self) -> Instant {
        self.env.clock.now()
    }

    pub(crate) fn start(&mut self, id: u64) {
        let dir = self.root.path().join(format!("member-{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        self.await_lock(&dir.join("wal"));
        let storage = Storage::real(&dir).unwrap();
        self.start_on(id, storage);
    }

    /// A killed process gives its locks back at once; a member that shares this one's process
    /// does so when its log's thread has ended.
    fn await_lock(&self, wal: &Path) {
        let limit = self.now().after(PATIENCE);
        while wal.exists() && RealDisk::open(wal).unwrap().lock().is_err() {
            assert!(self.now() < limit, "{} stays locked", wal.display());
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn start_on(&mut self, id: u64, storage: Storage) {
        self.try_start_on(id, storage).unwrap();
    }

    pub(crate) fn try_start_on(&mut self, id: u64, storage: Storage) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let identity = Identity::Controller { site: self.site.clone(), id: ControllerId(id) };
        let credentials = self.authority.credentials(&self.env, &identity).unwrap();
        // An address of its own: no one takes the port while the member is down.
        let [a, b] = self.env.random_bytes();
        let any: SocketAddr = ([127, a, b, 1], 0).into();
        let listen = self.addresses.get(&id).copied().unwrap_or(any);
        let config =
            EndpointConfig { listen, credentials: Some(credentials), trust: self.trust.clone() };
        let (group, cuts) = (OnceLock::new(), self.cuts.clone());
        let front = Arc::new(Front { id, group, cuts });
        let endpoint = Endpoint::bind(&self.env, config, front.clone()).unwrap();
        self.addresses.insert(id, endpoint.local_address());
        let mut config = RaftConfig::new(ControllerId(id), self.root.path().to_owned());
        (self.tweak)(&mut config);
        let (fatal_sender, fatal) = mpsc::unbounded_channel();
        let on_fatal = Arc::new(move |why: &str| {
            // No one listens once the member is killed.
            let _ = fatal_sender.send(why.to_owned());
        });
        let (env, site, pool) = (self.env.clone(), self.site.clone(), Pool::new(endpoint));
        let start = Group::start_on(&env, config, site, pool, on_fatal, storage);
        let started = runtime.block_on(start);
        drop(_entered);
        let (group, applied) = match started {
            Ok(started) => started,
            Err(error) => {
                runtime.shutdown_timeout(Duration::from_secs(5));
                return Err(error);
            }
        };
        assert!(front.group.set(group.clone()).is_ok());
        self.members.insert(id, Member { group, applied, fatal, runtime });
        Ok(())
    }

    /// Ends a member without a word to anyone, as if its process were killed.
    pub(crate) fn kill(&mut self, id: u64) {
        let Member { group, runtime, .. } = self.members.remove(&id).unwrap();
        drop(group);
        runtime.shutdown_timeout(Duration::from_secs(10));
    }

    pub(crate) fn group(&self, id: u64) -> Group {
        self.members[&id].group.clone()
    }

    /// Runs something in a member's runtime, to its end.
    pub(crate) fn on<T, F>(&self, id: u64, work: impl FnOnce(Group) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let member = &self.members[&id];
        let running = member.runtime.spawn(work(member.group.clone()));
        member.runtime.block_on(running).unwrap()
    }

    /// Waits until something holds.
    pub(crate) fn until<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let end = self.now().after(PATIENCE);
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(self.now() < end, "not in time: {what}; {:#?}", self.numbers());
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a member says why it cannot go on.
    pub(crate) fn until_fatal(&mut self, id: u64) -> String {
        let mut member = self.members.remove(&id).unwrap();
        let why = self.until("a fatal error", |_| member.fatal.try_recv().ok());
        self.members.insert(id, member);
        why
    }

    fn numbers(&self) -> Vec<String> {
        let numbers = |(id, member): (&u64, &Member)| {
            let leadership = member.group.leadership().borrow().clone();
            format!("{id}: {leadership:?} {:?}", member.group.metrics())
        };
        self.members.iter().map(numbers).collect()
    }

    /// The member that leads, once there is one.
    pub(crate) fn leader(&self) -> u64 {
        self.until("a leader", |cluster| {
            let leads = |(_, member): &(&u64, &Member)| member.group.leadership().borrow().own;
            let leading = cluster.members.iter().filter(leads);
            leading.max_by_key(|(_, member)| member.group.metrics().term).map(|(id, _)| *id)
        })
    }

    /// Agrees on a command through whoever leads; only for commands that may be repeated.
    pub(crate) fn propose(&self, command: &Command) -> Committed {
        self.until("an agreement", |cluster| {
            let (leader, command) = (cluster.leader(), command.clone());
            cluster.on(leader, |group| async move { group.propose(command).await }).ok()
        })
    }

    /// Reconciles until the voters are exactly these.
    pub(crate) fn settle(&self, wanted: &[u64]) {
        let members: BTreeMap<ControllerId, String> =
            wanted.iter().map(|id| (ControllerId(*id), self.address(*id))).collect();
        self.until("the membership", |cluster| {
            let (leader, members) = (cluster.leader(), members.clone());
            let step =
                cluster.on(leader, |group| async move { group.reconcile_members(members).await });
            let voters: Vec<u64> = cluster
                .group(leader)
                .members()
                .into_iter()
                .filter_map(|member| member.voter.then_some(member.id.0))
                .collect();
            (step.is_ok()
                && voters == wanted
                && cluster.group(leader).members().len() == wanted.len())
            .then_some(())
        });
    }

    /// Waits until all members that run have applied the same, and checks that it is the same.
    pub(crate) fn converge(&self) -> State {
        let leader = self.leader();
        let state = self.until("a confirmed state", |cluster| {
            cluster.on(leader, |group| async move { group.confirm().await }).ok()
        });
        for member in self.members.values() {
            self.until("a follower", |_| {
                (member.group.state().revision >= state.revision).then_some(())
            });
        }
        let expected = self.group(leader).state().encode();
        for (id, member) in &self.members {
            assert!(member.group.state().encode() == expected, "member {id} differs");
        }
        state
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        while let Some((_, Member { group, runtime, .. })) = self.members.pop_first() {
            drop(group);
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}
