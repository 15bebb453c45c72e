//! What a site agrees on: plain records in ordered tables. Nothing here knows a clock, and only
//! [`crate::apply`] changes it.

pub(crate) mod chunk;
pub(crate) mod compact;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::{Blob, DecodeError, Message, OrDefault};
use specs::gpu::{BurnInTier, GpuInfo, GpuState, HealthLimits, InventorySource};
use specs::id::{
    AccountId, Boot, ControllerId, Country, DataName, Epoch, GpuClass, GpuIndex, GrantId, JobId,
    LeaseId, NodeId, RequestId, ReservationName, Revision, SiteId, TokenId,
};
use specs::job::{GPU_MILLI, JobSpec};
use specs::quota::Quota;
use specs::signals::{DataSet, Link, Signals, Weights};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{AttemptPhase, Ending, Facts, Outcome};
use specs::wire::client::JobState;
use specs::wire::peer::{GuestPhase, LoanSlot, ProofKey, Slot};

use crate::placement::pool::{self, Pool};
use crate::queue::recent::Recent;
use crate::quota::{self, UseKey};
use crate::table::{Index, Table};
use compact::{Few, PackedSpec};

/// Most attempts that a job's record keeps; the oldest go first.
pub(crate) const ATTEMPTS_KEPT: usize = 16;
/// Most leases that are kept for a result that may come in late; the oldest go first.
pub(crate) const LAPSED_KEPT: usize = 65_536;

specs::enumeration! {
    /// What a one-time token is for.
    pub enum TokenKind {
        1 => Invite = "invite",
        2 => Enrol = "enrol",
    }

    /// Which budget a burn-in is taken from.
    pub enum PermitKind {
        /// Of a GPU that could run jobs meanwhile.
        1 => Retest = "retest",
        /// Of any other.
        2 => Admission = "admission",
    }

    /// Why an attempt is to be stopped.
    pub enum StopReason {
        /// The tenant asked for it.
        1 => Cancel = "cancel",
        /// Another part of the gang has ended badly.
        2 => Gang = "gang",
        /// The home no longer wants it.
        3 => Revoked = "revoked",
        /// An earlier attempt turned out to have finished.
        4 => Superseded = "superseded",
        /// A GPU that it runs on is not sound.
        5 => Unsound = "unsound",
        /// Another job needs its GPUs more. Never below [`ClusterVersion::PREEMPTION`].
        6 => Preempted = "preempted",
    }
}

specs::message! {
    /// That an attempt was stopped for another job.
    pub struct Preemption {
        1 => by: JobId,
        2 => at: Timestamp,
    }

    /// Who was stopped for a job.
    pub struct MadeRoom {
        /// How often it was decided. Invariant: only grows.
        1 => times: u32,
        /// The latest of them.
        2 => jobs: Vec<JobId>,
    }

    /// A try of a job, as its home remembers it.
    pub struct Attempt {
        1 => epoch: Epoch,
        2 => host: SiteId,
        3 => nodes: Vec<NodeId>,
        4 => started_at: Timestamp,
        5 => ended_at: Timestamp,
        6 => outcome: Option<Outcome>,
        /// Zero for a loan.
        7 => lease: LeaseId,
        /// Absent below [`ClusterVersion::PREEMPTION`].
        8 => preempted: Option<Box<Preemption>>,
    }

    /// A job that waits for a place.
    pub struct Queued {}

    /// A job that runs here.
    pub struct Leased {
        1 => lease: LeaseId,
        /// Of its GPUs. Absent below [`ClusterVersion::QUEUEING`].
        2 => class: Option<GpuClass>,
    }

    /// A job that runs, or is about to run, at a peer.
    pub struct Loan {
        1 => peer: SiteId,
        2 => slots: Vec<LoanSlot>,
        3 => stop: Option<StopReason>,
        4 => phase: GuestPhase,
    }

    /// A job that has ended, for ever.
    pub struct Ended {
        1 => state: JobState,
        2 => outcome: Outcome,
        3 => at: Timestamp,
    }
}

specs::choice! {
    /// Where a job is in its life.
    pub enum JobPhase {
        1 => Queued(Queued),
        2 => Leased(Leased),
        3 => Loaned(Loan),
        4 => Ended(Ended),
    }
}

specs::message! {
    /// A job, at its home.
    pub struct Job {
        1 => id: JobId,
        2 => spec: PackedSpec,
        3 => array_index: u32,
        4 => submitter: String,
        5 => submitted_at: Timestamp,
        /// Revision of its admission: earlier jobs of a priority go first.
        6 => order: Revision,
        7 => phase: JobPhase,
        /// Of the last attempt; zero before the first. Invariant: only grows.
        8 => epoch: Epoch,
        /// Attempts that were lost.
        9 => losses: u32,
        10 => cancel: bool,
        /// A true result of an earlier attempt that came in late; it becomes the job's once the
        /// current attempt has ended.
        11 => kept: Option<Box<Outcome>>,
        12 => attempts: Vec<Attempt>,
        /// How often it was stopped for another. Absent below [`ClusterVersion::PREEMPTION`], as is
        /// the next. Invariant: at most [`crate::queue::preempt::PREEMPTIONS_MAX`].
        13 => preemptions: u32,
        14 => made_room: Option<Box<MadeRoom>>,
    }

    /// What a repeated request is answered with.
    pub struct RequestRecord {
        1 => jobs: Few<JobId>,
    }

    /// A part of a GPU and who has it.
    pub struct Share {
        1 => lease: LeaseId,
        /// Thousandths.
        2 => milli: u32,
    }

    /// Why nothing new may run on a GPU.
    pub struct Doubt {
        1 => state: GpuState,
        /// For people.
        2 => why: String,
        /// It is bad, and what runs on it runs on: too many are. Absent below
        /// [`ClusterVersion::BURN_INS`].
        3 => spared: bool,
    }

    /// That a GPU is to be burnt in before anything runs on it again.
    pub struct Wish {
        /// The revision at which it was wished.
        1 => number: Revision,
        2 => tier: BurnInTier,
    }

    /// That a GPU may be burnt in, once.
    pub struct Permit {
        /// The revision at which it was given. Invariant: larger than that of the wish it is for.
        1 => number: Revision,
        2 => tier: BurnInTier,
        3 => kind: PermitKind,
    }

    /// The burn-in that a GPU's proof is of.
    pub struct Proven {
        1 => tier: BurnInTier,
        /// By the clock of its agent: of one GPU, which proof it is.
        2 => passed_at: Timestamp,
        /// By the clock of the leader that took it in.
        3 => at: Timestamp,
        /// The revision at which it was taken in.
        4 => number: Revision,
    }

    /// A GPU and who has it.
    pub struct Gpu {
        1 => info: GpuInfo,
        /// Invariant: the lease exists and names this GPU.
        2 => lease: Option<LeaseId>,
        /// Invariant: the grant exists and names this GPU.
        3 => grant: Option<GrantId>,
        /// Invariant: empty if it has a lease or a grant; together no more than a GPU; the leases
        /// exist and name this GPU.
        4 => shares: Vec<Share>,
        /// What is held against it, by what its agent says. Absent below
        /// [`ClusterVersion::HEALTH`], as are the next two.
        10 => doubt: Option<Doubt>,
        /// Why an operator holds it back.
        11 => withheld: Option<String>,
        /// An operator lets it go, and its agent has not said that it burns it in.
        12 => released: bool,
        /// Absent below [`ClusterVersion::BURN_INS`], as is the next.
        13 => wish: Option<Wish>,
        /// Invariant: nothing is leased on it since the permit was given.
        14 => permit: Option<Permit>,
        /// Its grant has with it its part of its node's CPU and memory. Invariant: only with a
        /// grant. Absent below [`ClusterVersion::DEMANDS`].
        18 => carries: bool,
        /// As its agent last told. Absent below [`ClusterVersion::DEMANDS`], and of an agent that
        /// does not tell.
        20 => proven: Option<Proven>,
    }

    /// A machine with an agent.
    pub struct Node {
        1 => id: NodeId,
        /// Zero until the agent was first heard.
        2 => boot: Boot,
        3 => gpus: Vec<Gpu>,
        4 => address: String,
        5 => version: String,
        6 => source: Option<InventorySource>,
        /// The revision at which the present suspicion was applied.
        7 => suspicion: Option<Revision>,
        8 => draining: bool,
        9 => facts: OrDefault<Facts>,
        /// The lease beside which nothing else may run here. Invariant: it exists, and has a part
        /// here.
        10 => alone: Option<LeaseId>,
        /// GPUs that its agent no longer finds, and what is wanted of them should they come back.
        /// Invariant: without a lease, a grant and a permit; at most
        /// [`crate::burn_in::ABSENT_MAX`]. Absent below [`ClusterVersion::BURN_INS`].
        11 => absent: Vec<Gpu>,
    }

    /// What of a lease one node runs.
    pub struct Part {
        1 => node: NodeId,
        2 => boot: Boot,
        3 => gpus: Vec<GpuIndex>,
        4 => phase: AttemptPhase,
        5 => outcome: Option<Outcome>,
        6 => started_at: Timestamp,
        7 => ended_at: Timestamp,
        /// Thousandths of its GPU; zero for all of its GPUs.
        8 => milli: u32,
    }

    /// The right to run one attempt on named GPUs of nodes. It exists until all parts have ended.
    pub struct Lease {
        1 => id: LeaseId,
        /// This site, or the peer whose guest it runs.
        2 => home: SiteId,
        3 => job: JobId,
        4 => epoch: Epoch,
        5 => spec: Arc<JobSpec>,
        6 => array_index: u32,
        7 => parts: Vec<Part>,
        8 => stop: Option<StopReason>,
        /// The first exit that was not a success.
        9 => verdict: Option<Outcome>,
    }

    /// A job of another home. Invariant: a guest is forgotten only when its home has its end.
    pub struct Guest {
        1 => key: GuestKey,
        2 => phase: GuestPhase,
        /// Present until it ended.
        3 => lease: Option<LeaseId>,
        4 => outcome: Option<Outcome>,
        5 => started_at: Timestamp,
        6 => ended_at: Timestamp,
        7 => nodes: Vec<NodeId>,
        8 => name: String,
        9 => gpus: GpuCount,
        /// The revision at which its end was recorded; zero before.
        11 => ended_in: Revision,
    }

    /// Which attempt of which home.
    #[derive(PartialOrd, Ord)]
    pub struct GuestKey {
        1 => home: SiteId,
        2 => job: JobId,
        3 => epoch: Epoch,
    }

    /// GPUs of one node within a grant.
    pub struct GrantSlot {
        1 => node: NodeId,
        2 => class: GpuClass,
        3 => gpus: Vec<GpuIndex>,
    }

    /// Capacity promised to a home.
    pub struct Grant {
        1 => id: GrantId,
        2 => home: SiteId,
        3 => slots: Vec<GrantSlot>,
        4 => recalled: bool,
    }

    /// Which grant of which host.
    #[derive(PartialOrd, Ord)]
    pub struct HeldKey {
        1 => host: SiteId,
        2 => grant: GrantId,
    }

    /// A grant that this site holds at a host.
    pub struct Held {
        1 => slots: Vec<Slot>,
        2 => recalled: bool,
        /// Given back; no loan may be drawn on it.
        3 => returned: bool,
        /// Proofs of its GPUs that this site has verified, in order. Invariant: of GPUs that its
        /// slots tell, with the numbers that they tell. Absent below
        /// [`ClusterVersion::PEER_PROOFS`].
        10 => proofs: Vec<HeldProof>,
    }

    /// A proof of a host's GPU that this site, as the home, has verified.
    pub struct HeldProof {
        1 => key: ProofKey,
        2 => tier: BurnInTier,
        /// By this site's clock, and no later than it was.
        3 => passed_at: Timestamp,
        /// Likewise.
        4 => expires_at: Timestamp,
    }

    /// Another site.
    pub struct Peer {
        1 => site: SiteId,
        2 => country: Country,
        /// Its certificate authority, DER.
        3 => ca: Blob,
        4 => addresses: Vec<String>,
        /// Its revision of the last report taken in, as its home. Invariant: only grows.
        5 => seen: Revision,
        /// Its revision of the last orders obeyed, as its host. Invariant: only grows.
        6 => obeyed: Revision,
        7 => suspicion: Option<Revision>,
        /// As its home: it has said that it shows the proofs of what it grants. Invariant: for ever
        /// then. Absent below [`ClusterVersion::PEER_PROOFS`].
        10 => shows: bool,
    }

    /// A one-time token that was given out.
    pub struct Token {
        1 => kind: TokenKind,
        /// What proofs are made with; derived from the secret. Kept after use, so that whoever used
        /// the token may repeat an interrupted ceremony; no one else may.
        2 => key: Blob,
        /// The only site or node that may use it; empty for any.
        3 => bound: String,
        4 => expires_at: Timestamp,
        /// Digest of the user's key material, once used.
        5 => used_by: Blob,
    }

    /// A member of the site's Raft group.
    pub struct Controller {
        1 => id: ControllerId,
        2 => address: String,
        3 => request: RequestId,
        /// Removed as soon as this one votes.
        4 => replaces: Option<ControllerId>,
    }

    /// Nodes that are an account's for a time.
    pub struct Reservation {
        /// The revision at which it was made.
        1 => number: Revision,
        2 => account: AccountId,
        /// Of the GPUs that were asked for; none for any.
        3 => class: Option<GpuClass>,
        /// How many were asked for; zero if the nodes were named.
        4 => gpus: GpuCount,
        /// Invariant: not empty, in order, and of no other reservation at the same time; none is
        /// granted.
        5 => nodes: Vec<NodeId>,
        /// Invariant: before the end.
        6 => start: Timestamp,
        7 => end: Timestamp,
        /// Who asked for it, and when.
        8 => by: String,
        9 => made_at: Timestamp,
    }

    /// Everything a site agrees on.
    pub struct Agreed {
        /// Invariant: one more for each applied command.
        1 => revision: Revision,
        /// None until the site is founded.
        2 => site: Option<Arc<SiteSpec>>,
        3 => jobs: Table<JobId, Job>,
        4 => requests: Index<RequestId, RequestRecord>,
        5 => nodes: Table<NodeId, Node>,
        6 => leases: Table<LeaseId, Lease>,
        7 => last_lease: LeaseId,
        8 => guests: Table<GuestKey, Guest>,
        9 => grants: Table<GrantId, Grant>,
        10 => last_grant: GrantId,
        11 => held: Table<HeldKey, Held>,
        12 => peers: Table<SiteId, Peer>,
        13 => tokens: Table<TokenId, Token>,
        14 => controllers: Table<ControllerId, Controller>,
        15 => last_controller: ControllerId,
        /// Leases that were given up although a node may still tell how its part of them ended.
        16 => lapsed: Table<LeaseId, Lease>,
        /// The revision at which the site was restored from a backup; none once all that ran
        /// before has surely ended. Nothing is placed until then.
        17 => recovering: Option<Revision>,
        /// What all members of the group know. Invariant: only grows. A field or a variant that
        /// came with a later version is absent below it.
        18 => version: ClusterVersion,
        /// How many jobs have left the state. Invariant: only grows.
        20 => archived: u64,
        /// Invariant: empty below [`ClusterVersion::QUEUEING`].
        30 => quotas: Table<AccountId, Quota>,
        /// Likewise.
        31 => recent: Table<AccountId, Recent>,
        /// What running here costs. Absent below [`ClusterVersion::SITES`], as are the next three.
        40 => signals: Option<Arc<Signals>>,
        /// How what others cost is weighed; the usual way if absent.
        41 => weights: Option<Arc<Weights>>,
        42 => data_sets: Table<DataName, DataSet>,
        43 => links: Table<SiteId, Link>,
        /// None below [`ClusterVersion::BURN_INS`], and where nobody has set any.
        50 => health_limits: Option<HealthLimits>,
        /// When GPUs were quarantined on an agent's word lately, by the clocks of leaders.
        51 => quarantined_at: Vec<Timestamp>,
        /// Invariant: empty below [`ClusterVersion::DEMANDS`].
        60 => reservations: Table<ReservationName, Reservation>,
        /// How many notes were taken.
        #[cfg(feature = "next")]
        1_000 => notes: u64,
    }
}

/// A queued job: higher priority first; then account by account, the one that should start first;
/// then the earlier admission. Whose turn it is within a priority is told by [`crate::queue::turns`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    /// `PRIORITY_MAX` less the priority.
    pub rank: u32,
    pub account: AccountId,
    /// A day after its admission; sooner if it has to start sooner to meet its deadline. So who is
    /// pressed goes before who has waited for less than a day, and nobody is put off for ever.
    pub should_start: Timestamp,
    pub order: Revision,
    pub array_index: u32,
    pub job: JobId,
}

/// Without a deadline a job should have started after so long.
const UNHURRIED: Millis = Millis(86_400_000);

/// When a job ended, by the clock of the leader that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndKey {
    pub at: Timestamp,
    pub job: JobId,
}

impl EndKey {
    /// None of a job that has not ended.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        match &job.phase {
            JobPhase::Ended(ended) => Some(Self { at: ended.at, job: job.id }),
            JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Loaned(_) => None,
        }
    }
}

impl QueueKey {
    /// Not before any of the account's jobs of this priority.
    pub(crate) fn last_of_account(&self) -> Self {
        Self {
            rank: self.rank,
            account: self.account.clone(),
            should_start: Timestamp(u64::MAX),
            order: Revision(u64::MAX),
            array_index: u32::MAX,
            job: JobId(u128::MAX),
        }
    }
}

/// GPUs of a node that loans draw on a grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DrawKey {
    pub host: SiteId,
    pub grant: GrantId,
    /// None stands before every node.
    pub node: Option<NodeId>,
}

impl DrawKey {
    pub(crate) fn of(host: &SiteId, slot: &LoanSlot) -> Self {
        Self { host: host.clone(), grant: slot.grant, node: Some(slot.node.clone()) }
    }

    /// Before all keys of the grant.
    pub(crate) fn first(host: &SiteId, grant: GrantId) -> Self {
        Self { host: host.clone(), grant, node: None }
    }
}

/// A GPU of a host that a loan names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedKey {
    pub host: SiteId,
    pub grant: GrantId,
    pub node: NodeId,
    pub gpu: GpuIndex,
}

impl NamedKey {
    /// Of all GPUs that the slot of a loan names.
    pub(crate) fn all<'a>(
        host: &'a SiteId,
        slot: &'a LoanSlot,
    ) -> impl Iterator<Item = Self> + use<'a> {
        let key = |gpu: &GpuIndex| Self {
            host: host.clone(),
            grant: slot.grant,
            node: slot.node.clone(),
            gpu: *gpu,
        };
        slot.which.iter().map(key)
    }
}

/// A node of a host on which loans use CPU and memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BesideKey {
    pub host: SiteId,
    pub node: NodeId,
}

/// Agreed state with the indexes that follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) agreed: Agreed,
    /// Jobs that wait for a place.
    pub(crate) queue: Index<QueueKey, ()>,
    /// Jobs that have ended, in the order of their ends.
    pub(crate) ended: Index<EndKey, ()>,
    /// Leases with a part on a node that has not ended.
    pub(crate) node_leases: Index<(NodeId, LeaseId), ()>,
    /// Lapsed leases with a part of which the node may still tell.
    pub(crate) node_lapsed: Index<(NodeId, LeaseId), ()>,
    /// Jobs on loan.
    pub(crate) peer_loans: Index<(SiteId, JobId), ()>,
    /// What loans draw on grants.
    pub(crate) drawn: Index<DrawKey, GpuCount>,
    /// Which GPUs they name.
    pub(crate) named: Index<NamedKey, ()>,
    /// What they ask for beside GPUs; of those that ask for any.
    pub(crate) beside: Index<BesideKey, Pool>,
    /// What the jobs of each account, and of those below it, hold here and at peers.
    pub(crate) used: Index<UseKey, GpuCount>,
    /// How many jobs of an array hold GPUs, by the revision of its admission; of arrays with a
    /// limit only.
    pub(crate) running: Index<Revision, u32>,
    /// Burn-ins that are permitted.
    pub(crate) permits: Index<(NodeId, GpuIndex), PermitKind>,
    /// Which nodes are reserved.
    pub(crate) reserved: Index<(NodeId, ReservationName), ()>,
    /// How many GPUs its nodes have.
    pub(crate) gpus: u32,
}

impl core::ops::Deref for State {
    type Target = Agreed;
    fn deref(&self) -> &Agreed {
        &self.agreed
    }
}

impl Default for State {
    fn default() -> Self {
        Self::index(Agreed {
            revision: Revision(0),
            site: None,
            jobs: Table::default(),
            requests: Index::default(),
            nodes: Table::default(),
            leases: Table::default(),
            last_lease: LeaseId(0),
            guests: Table::default(),
            grants: Table::default(),
            last_grant: GrantId(0),
            held: Table::default(),
            peers: Table::default(),
            tokens: Table::default(),
            controllers: Table::default(),
            last_controller: ControllerId(0),
            lapsed: Table::default(),
            recovering: None,
            version: ClusterVersion::FIRST,
            archived: 0,
            quotas: Table::default(),
            recent: Table::default(),
            signals: None,
            weights: None,
            data_sets: Table::default(),
            links: Table::default(),
            health_limits: None,
            quarantined_at: Vec::new(),
            reservations: Table::default(),
            #[cfg(feature = "next")]
            notes: 0,
        })
    }
}

impl State {
    /// Derives the indexes.
    pub(crate) fn index(agreed: Agreed) -> Self {
        let (mut queue, mut ended) = (Vec::new(), Vec::new());
        let mut peer_loans = Index::default();
        let mut drawn: Index<DrawKey, GpuCount> = Index::default();
        let mut named = Index::default();
        let mut beside = Index::default();
        let (mut used, mut running) = (Index::default(), Index::default());
        for job in agreed.jobs.values() {
            if let Some(charge) = quota::charge_of(job) {
                quota::add(&mut used, &mut running, &charge);
            }
            match &job.phase {
                JobPhase::Queued(_) => queue.push((job.queue_key(), ())),
                JobPhase::Loaned(loan) => {
                    peer_loans.insert((loan.peer.clone(), job.id), ());
                    pool::draw(&mut beside, &loan.peer, &loan.slots, &job.spec().needs);
                    for slot in &loan.slots {
                        let key = DrawKey::of(&loan.peer, slot);
                        let before = drawn.get(&key).copied().unwrap_or_default();
                        drawn.insert(key, before.plus(slot.gpus));
                        for key in NamedKey::all(&loan.peer, slot) {
                            named.insert(key, ());
                        }
                    }
                }
                JobPhase::Leased(_) => {}
                JobPhase::Ended(it) => ended.push((EndKey { at: it.at, job: job.id }, ())),
            }
        }
        // Entries that come in order fill the leaves.
        queue.sort_unstable();
        ended.sort_unstable();
        let mut node_leases = Index::default();
        for lease in agreed.leases.values() {
            for part in lease.parts.iter().filter(|part| part.outcome.is_none()) {
                node_leases.insert((part.node.clone(), lease.id), ());
            }
        }
        let mut node_lapsed = Index::default();
        for lease in agreed.lapsed.values() {
            for part in lease.parts.iter().filter(|part| part.is_lost()) {
                node_lapsed.insert((part.node.clone(), lease.id), ());
            }
        }
        let permits = crate::burn_in::index(&agreed);
        let reserved = crate::reserve::index(&agreed);
        let gpus = agreed.nodes.values().map(crate::node::count_gpus).sum();
        let (queue, ended) = (queue.into_iter().collect(), ended.into_iter().collect());
        Self {
            agreed,
            queue,
            ended,
            node_leases,
            node_lapsed,
            peer_loans,
            drawn,
            named,
            beside,
            used,
            running,
            permits,
            reserved,
            gpus,
        }
    }

    /// The bytes of a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.agreed.encode()
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// Bytes that are not a snapshot of this or an earlier version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Agreed::decode(bytes).map(Self::index)
    }

    /// The site's own name; none before it is founded.
    #[must_use]
    pub fn own(&self) -> Option<&SiteId> {
        self.site.as_ref().map(|spec| &spec.site)
    }

    /// True if `site` is this one.
    #[must_use]
    pub fn is_own(&self, site: &SiteId) -> bool {
        self.own() == Some(site)
    }

    /// The site's terms; the defaults before it is founded.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.site.as_ref().map_or_else(Terms::default, |spec| spec.terms.clone())
    }

    /// Queued jobs, those of the highest priority first.
    pub fn queued(&self) -> impl Iterator<Item = &Job> {
        self.queue.keys().filter_map(|key| self.jobs.get(&key.job))
    }

    /// Leases with a part on the node that has not ended.
    pub fn leases_of(&self, node: &NodeId) -> impl Iterator<Item = &Lease> {
        let range = (node.clone(), LeaseId(0))..=(node.clone(), LeaseId(u64::MAX));
        let keys: Vec<LeaseId> = self.node_leases.range(range).map(|(key, ())| key.1).collect();
        keys.into_iter().filter_map(|id| self.leases.get(&id))
    }

    /// Lapsed leases of which the node may still tell.
    pub(crate) fn lapsed_of(&self, node: &NodeId) -> impl Iterator<Item = &Lease> {
        let range = (node.clone(), LeaseId(0))..=(node.clone(), LeaseId(u64::MAX));
        let keys: Vec<LeaseId> = self.node_lapsed.range(range).map(|(key, ())| key.1).collect();
        keys.into_iter().filter_map(|id| self.lapsed.get(&id))
    }

    /// Jobs on loan to the peer.
    pub fn loans_to(&self, peer: &SiteId) -> impl Iterator<Item = (&Job, &Loan)> {
        let range = (peer.clone(), JobId(0))..=(peer.clone(), JobId(u128::MAX));
        let keys: Vec<JobId> = self.peer_loans.range(range).map(|(key, ())| key.1).collect();
        keys.into_iter().filter_map(|id| {
            let job = self.jobs.get(&id)?;
            match &job.phase {
                JobPhase::Loaned(loan) => Some((job, loan)),
                JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Ended(_) => None,
            }
        })
    }

    /// Guests of the home.
    pub fn guests_of(&self, home: &SiteId) -> impl Iterator<Item = &Guest> {
        let from = GuestKey { home: home.clone(), job: JobId(0), epoch: Epoch(0) };
        let to = GuestKey { home: home.clone(), job: JobId(u128::MAX), epoch: Epoch(u32::MAX) };
        self.guests.range(from..=to).map(|(_, guest)| guest)
    }

    /// Whether a loan draws on the grant.
    pub(crate) fn is_drawn(&self, it: &HeldKey) -> bool {
        let next = self.drawn.range(DrawKey::first(&it.host, it.grant)..).next();
        next.is_some_and(|(key, _)| key.host == it.host && key.grant == it.grant)
    }

    /// The attempts of a home's job that are known here, the earliest first.
    pub(crate) fn guests_for(&self, home: &SiteId, job: JobId) -> impl Iterator<Item = &Guest> {
        let from = GuestKey { home: home.clone(), job, epoch: Epoch(0) };
        let to = GuestKey { home: home.clone(), job, epoch: Epoch(u32::MAX) };
        self.guests.range(from..=to).map(|(_, guest)| guest)
    }

    /// Grants that this site holds at the host.
    pub fn held_at(&self, host: &SiteId) -> impl Iterator<Item = (GrantId, &Held)> {
        let from = HeldKey { host: host.clone(), grant: GrantId(0) };
        let to = HeldKey { host: host.clone(), grant: GrantId(u64::MAX) };
        self.held.range(from..=to).map(|(key, held)| (key.grant, held))
    }
}

impl Job {
    pub(crate) fn queue_key(&self) -> QueueKey {
        QueueKey {
            rank: specs::job::PRIORITY_MAX.saturating_sub(self.spec.priority()),
            account: self.account(),
            should_start: self.should_start(),
            order: self.order,
            array_index: self.array_index,
            job: self.id,
        }
    }

    /// By when it should start.
    fn should_start(&self) -> Timestamp {
        let unhurried = self.submitted_at.0.saturating_add(UNHURRIED.0);
        let latest = self.spec.latest_start(self.submitted_at);
        Timestamp(latest.map_or(unhurried, |latest| latest.0.min(unhurried)))
    }

    /// What the job asks for.
    #[must_use]
    pub fn spec(&self) -> Arc<JobSpec> {
        self.spec.get()
    }

    /// Who the job counts for.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.spec.account().unwrap_or_else(|| quota::account_of(&self.submitter))
    }

    #[must_use]
    pub fn is_queued(&self) -> bool {
        match self.phase {
            JobPhase::Queued(_) => true,
            JobPhase::Leased(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => false,
        }
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self.phase {
            JobPhase::Ended(_) => true,
            JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Loaned(_) => false,
        }
    }

    /// When it should have ended, if it has a deadline.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.spec.due(self.submitted_at)
    }

    /// How often others were stopped for it.
    pub(crate) fn room_made(&self) -> u32 {
        self.made_room.as_ref().map_or(0, |it| it.times)
    }

    pub(crate) fn attempt(&self, epoch: Epoch) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|attempt| attempt.epoch == epoch)
    }

    pub(crate) fn attempt_mut(&mut self, epoch: Epoch) -> Option<&mut Attempt> {
        self.attempts.iter_mut().rev().find(|attempt| attempt.epoch == epoch)
    }
}

impl Node {
    /// True if something new may start here.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.boot != Boot(0) && self.suspicion.is_none() && !self.draining
    }

    /// GPUs that are sound and neither leased nor granted; none of a node that somebody has for
    /// himself.
    pub fn free(&self) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(|gpu| gpu.is_free() && self.alone.is_none())
    }
}

impl Gpu {
    /// Sound, and neither leased nor granted, nor any part of it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let is_taken = self.lease.is_some() || self.grant.is_some() || !self.shares.is_empty();
        !is_taken && self.is_fit()
    }

    /// Leased, or a part of it.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.lease.is_some() || !self.shares.is_empty()
    }

    /// Thousandths that are free to be shared.
    pub(crate) fn milli_left(&self) -> u32 {
        if self.lease.is_some() || self.grant.is_some() || !self.is_fit() {
            return 0;
        }
        let taken = self.shares.iter().fold(0u32, |sum, share| sum.saturating_add(share.milli));
        GPU_MILLI.saturating_sub(taken)
    }
}

impl Part {
    /// Nobody knows how it ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.outcome.as_ref().is_some_and(|it| it.ending == Ending::Lost)
    }
}

impl Lease {
    #[must_use]
    pub fn part(&self, node: &NodeId) -> Option<&Part> {
        self.parts.iter().find(|part| &part.node == node)
    }

    pub(crate) fn part_mut(&mut self, node: &NodeId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| &part.node == node)
    }
}
