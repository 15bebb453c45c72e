//! Clients and controllers. Views are what a person sees; they are made from agreed state and
//! carry its revision.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::codec::Blob;
use crate::fault::Fault;
use crate::gpu::{BurnInResult, BurnInTier, GpuState, HealthLimits};
use crate::id::{
    AccountId, Boot, ControllerId, Country, DataName, Epoch, GpuClass, GpuIndex, GrantId, JobId,
    NodeId, RequestId, ReservationName, Revision, SiteId,
};
use crate::job::JobSpec;
use crate::measure::{Behind, Differs};
use crate::quota::{Limit, Quota};
use crate::signals::{ClassOutlook, DataSet, Link, Signals, Weights};
use crate::unit::{GpuCount, MicroEuro, Millis, Timestamp};
use crate::version::ClusterVersion;
use crate::wire::agent::LogStream;
use crate::wire::method::Method;
use crate::wire::peer::ClassCapacity;

crate::enumeration! {
    /// What a person is told of a job.
    pub enum JobState {
        1 => Queued = "queued",
        /// Placed; not all of it has started.
        2 => Starting = "starting",
        3 => Running = "running",
        /// Being stopped.
        4 => Stopping = "stopping",
        /// Its processes ended by themselves; see the exit code.
        5 => Finished = "finished",
        6 => Cancelled = "cancelled",
        /// Its last attempt was lost and no retry is left; how it ended is unknown.
        7 => Lost = "lost",
        /// No node would start it.
        8 => Refused = "refused",
    }

    /// What a person is told of a node.
    pub enum NodeState {
        1 => Ready = "ready",
        /// Not heard from; nothing new starts there.
        2 => Suspected = "suspected",
        3 => Draining = "draining",
        /// Enrolled, and has never been heard.
        4 => Awaited = "awaited",
    }
}

impl JobState {
    /// True for a state that a job never leaves.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Finished | Self::Cancelled | Self::Lost | Self::Refused => true,
            Self::Queued | Self::Starting | Self::Running | Self::Stopping => false,
        }
    }
}

crate::message! {
    pub struct JobSubmit {
        1 => request: RequestId,
        2 => spec: Arc<JobSpec>,
    }

    pub struct JobSubmitted {
        1 => jobs: Vec<JobId>,
        2 => revision: Revision,
        /// The same request had been admitted before; nothing new was made.
        3 => repeated: bool,
    }

    /// One of many submissions on a lane.
    pub struct SubmitFrame {
        /// Chosen by the sender; the answer repeats it.
        1 => number: u64,
        2 => submit: JobSubmit,
    }

    /// What became of one submission. Answers come in any order.
    pub struct SubmitAnswer {
        1 => number: u64,
        /// None if there is a fault.
        2 => submitted: Option<JobSubmitted>,
        3 => fault: Option<Fault>,
    }

    /// Names jobs: a full id, a unique beginning of one (without `job_` too), or a name.
    pub struct JobSelector {
        1 => text: String,
    }

    pub struct JobCancelled {
        1 => jobs: Vec<JobView>,
    }

    pub struct JobList {
        /// Only jobs that have not ended.
        1 => active_only: bool,
        /// At most this many, the latest first; zero for the server's limit.
        2 => limit: u32,
        /// Those in the archive instead, as they left the state.
        3 => archived: bool,
    }

    pub struct JobViews {
        1 => revision: Revision,
        2 => jobs: Vec<JobView>,
        /// More jobs match than were given.
        3 => cut: bool,
    }

    pub struct JobWait {
        1 => job: JobId,
        /// Answer when the job's state differs from this, or after `wait`.
        2 => state: Option<JobState>,
        3 => wait: Millis,
        /// Likewise for its epoch; zero for any.
        4 => epoch: Epoch,
    }

    pub struct AttemptView {
        1 => epoch: Epoch,
        2 => host: SiteId,
        3 => nodes: Vec<NodeId>,
        4 => started_at: Timestamp,
        5 => ended_at: Timestamp,
        /// In words; empty while it runs.
        6 => outcome: String,
        /// The job that it was stopped for, and when that was decided.
        7 => preempted_by: Option<JobId>,
        8 => preempted_at: Timestamp,
    }

    pub struct JobView {
        1 => id: JobId,
        2 => spec: Arc<JobSpec>,
        3 => array_index: u32,
        4 => home: SiteId,
        /// The site of the current or last attempt.
        5 => host: Option<SiteId>,
        6 => state: JobState,
        /// Why it is where it is, in words; may be empty.
        7 => reason: String,
        8 => epoch: Epoch,
        /// Present if and only if the job finished.
        9 => exit_code: Option<i32>,
        10 => signal: u32,
        11 => submitter: String,
        12 => submitted_at: Timestamp,
        /// Start of the last attempt; zero if there was none.
        13 => started_at: Timestamp,
        14 => finished_at: Timestamp,
        15 => nodes: Vec<NodeId>,
        16 => attempts: Vec<AttemptView>,
        17 => cancel_requested: bool,
        /// Age of what is known, if it comes from a peer that has been silent; else zero.
        18 => remote_age: Millis,
        /// It is in the site's archive.
        19 => archived: bool,
        /// How often it was stopped for another job.
        20 => preemptions: u32,
        /// The latest jobs that were stopped for it.
        21 => preempted: Vec<JobId>,
        /// When it should have ended; absent without a deadline.
        22 => due: Option<Timestamp>,
        /// When its attempt last said that it had saved its work, if it runs at home and did.
        23 => saved_at: Option<Timestamp>,
    }

    pub struct JobLogs {
        1 => job: JobId,
        /// Zero for the last attempt.
        2 => epoch: Epoch,
        3 => node_rank: u32,
        4 => task: u32,
        5 => stream: LogStream,
        6 => offset: u64,
        7 => max_bytes: u32,
        8 => wait: Millis,
    }

    /// Why a job is not running at one site.
    pub struct SiteWhy {
        1 => site: SiteId,
        /// The constraint that binds.
        2 => constraint: String,
        /// What would change it.
        3 => change: String,
        /// What it would cost to run there; absent where it may not run.
        4 => cost: Option<SiteCost>,
    }

    /// What a job at a site costs, as its home reckons.
    pub struct SiteCost {
        /// Until it would start, but for its data.
        1 => wait: Millis,
        /// Until its data would be there.
        2 => bring: Millis,
        /// Of its data, what is not there.
        3 => missing_bytes: u64,
        /// How long it is taken to run.
        4 => run: Millis,
        /// Of a GPU-hour, all that is weighed.
        5 => rate: MicroEuro,
        /// For one GPU: the run, and what the delay is worth.
        6 => total: MicroEuro,
        /// Signals that are too old, and count as not known.
        7 => stale: Vec<String>,
        /// It would end after its deadline.
        8 => late: bool,
        /// The job goes there, once it may leave and there is room.
        9 => best: bool,
        /// How long it is worth waiting at home rather than go there.
        10 => patience: Millis,
    }

    /// Says what running at this site costs. What is absent stays as it is.
    pub struct SignalsSet {
        1 => prices: Vec<PriceSet>,
        /// Of a kilowatt-hour.
        2 => energy: Option<MicroEuro>,
        /// In thousandths.
        3 => pue: Option<u64>,
        /// Grams for a kilowatt-hour.
        4 => carbon: Option<u64>,
        /// Millilitres for a kilowatt-hour.
        5 => water: Option<u64>,
        /// Forget all that was said before.
        6 => clear: bool,
    }

    /// What a GPU-hour costs.
    pub struct PriceSet {
        /// None for every class without a price of its own.
        1 => class: Option<GpuClass>,
        2 => price: MicroEuro,
    }

    /// Says how this site weighs what others cost.
    pub struct WeightsSet {
        1 => weights: Weights,
    }

    /// Says what is known of a data set.
    pub struct DataSetSet {
        1 => name: DataName,
        2 => set: DataSet,
    }

    /// Forgets a data set and what it is bound to.
    pub struct DataSetRemove {
        1 => name: DataName,
    }

    /// Says how fast the link to a peer is.
    pub struct LinkSet {
        1 => peer: SiteId,
        /// None: nobody knows.
        2 => link: Option<Link>,
    }

    pub struct DataView {
        1 => name: DataName,
        /// What this site knows of it; absent for a peer's.
        2 => set: Option<DataSet>,
    }

    pub struct JobWhy {
        1 => job: JobView,
        2 => sites: Vec<SiteWhy>,
        /// What holds it back before any site is looked at, and where it stands.
        3 => queue: Vec<QueueWhy>,
    }

    /// What a waiting job waits for in the queue.
    pub struct QueueWhy {
        1 => constraint: String,
        /// What would change it; may be empty.
        2 => change: String,
    }

    /// Sets the limit of one class for an account, and makes the account if need be.
    pub struct QuotaSet {
        1 => account: AccountId,
        /// Takes the place of the one of its class; none leaves the limits as they are.
        2 => limit: Option<Limit>,
        /// Zero leaves it as it is.
        3 => weight: u32,
    }

    /// Takes all limits of an account away.
    pub struct QuotaRemove {
        1 => account: AccountId,
    }

    /// GPUs of a class.
    pub struct ClassCount {
        1 => class: GpuClass,
        2 => gpus: GpuCount,
    }

    pub struct QuotaView {
        1 => account: AccountId,
        /// None for an account that only uses.
        2 => quota: Option<Quota>,
        /// What its jobs hold, and those below it, here and at peers.
        3 => used: Vec<ClassCount>,
        /// Recent use, in GPUs: what was held on average, the latest counting most.
        4 => lately: Vec<ClassCount>,
    }

    pub struct QuotaViews {
        1 => revision: Revision,
        2 => quotas: Vec<QuotaView>,
    }

    /// Reserves GPUs, or nodes by their names, for an account.
    pub struct ReservationMake {
        1 => name: ReservationName,
        2 => account: AccountId,
        /// Of the GPUs that are meant; none for any.
        3 => class: Option<GpuClass>,
        /// Nodes that together have so many are chosen; zero if nodes are named.
        4 => gpus: GpuCount,
        5 => nodes: Vec<NodeId>,
        6 => start: Timestamp,
        7 => end: Timestamp,
        /// Jobs that may run into it run on.
        8 => beside_jobs: bool,
    }

    /// Ends a reservation, or takes it back before it began.
    pub struct ReservationEnd {
        1 => name: ReservationName,
    }

    pub struct ReservationView {
        1 => name: ReservationName,
        2 => account: AccountId,
        3 => class: Option<GpuClass>,
        /// How many GPUs were asked for; zero if nodes were named.
        4 => asked: GpuCount,
        /// How many of the class its nodes have.
        5 => gpus: GpuCount,
        /// How many of those jobs of the account have.
        6 => used: GpuCount,
        7 => nodes: Vec<NodeId>,
        8 => start: Timestamp,
        9 => end: Timestamp,
        10 => is_on: bool,
        /// Jobs of others that still run on its nodes.
        11 => others: Vec<JobId>,
        12 => by: String,
        13 => made_at: Timestamp,
        14 => number: Revision,
    }

    pub struct ReservationViews {
        1 => revision: Revision,
        2 => reservations: Vec<ReservationView>,
    }

    pub struct NodeView {
        1 => node: NodeId,
        2 => state: NodeState,
        3 => boot: Boot,
        4 => class: Option<GpuClass>,
        5 => gpus: GpuCount,
        6 => gpus_leased: GpuCount,
        7 => gpus_granted: GpuCount,
        8 => source: String,
        9 => address: String,
        10 => version: String,
        11 => jobs: Vec<JobId>,
        /// Since the leader last heard it; absent if it never did.
        12 => heard: Option<Millis>,
        13 => draining: bool,
        /// Reservations that it is in, begun or to come.
        40 => reservations: Vec<ReservationName>,
    }

    pub struct NodeViews {
        1 => revision: Revision,
        2 => nodes: Vec<NodeView>,
    }

    pub struct NodeDrain {
        1 => node: NodeId,
        /// False takes the drain back.
        2 => drain: bool,
    }

    /// A GPU of a node, with what is known of its health.
    pub struct GpuView {
        1 => node: NodeId,
        2 => index: GpuIndex,
        3 => class: GpuClass,
        4 => uuid: String,
        5 => memory_mib: u64,
        /// Absent if the site does not ask for proofs.
        6 => state: Option<GpuState>,
        7 => why: String,
        /// True if jobs may run on it.
        8 => fit: bool,
        /// Why an operator holds it back; absent if none does.
        9 => withheld: Option<String>,
        10 => job: Option<JobId>,
        /// A granted GPU's home.
        11 => granted_to: Option<SiteId>,
        /// As far as the leader has heard since it leads.
        12 => proof: Option<ProofView>,
        /// The burn-in that is wanted of it before anything runs on it again.
        13 => wanted: Option<BurnInTier>,
        /// The burn-in that the site permits at present.
        14 => permitted: Option<BurnInTier>,
        /// The last permitted burn-in, as far as the leader has heard since it leads.
        15 => last: Option<BurnInResult>,
        /// It is quarantined, and what runs on it runs on: too many are.
        16 => spared: bool,
        /// Reservations that its node is in, begun or to come.
        40 => reservations: Vec<ReservationName>,
        /// What of its numbers is worse than those of others, as far as the leader has compared them.
        50 => behind: Vec<Behind>,
        /// What of its digests is not what others computed, likewise.
        51 => differs: Vec<Differs>,
    }

    /// What a proof says, for people.
    pub struct ProofView {
        1 => tier: BurnInTier,
        2 => passed_at: Timestamp,
        3 => valid_for: Millis,
        /// SHA-256, in hexadecimal digits.
        4 => kernels: String,
        5 => agent: String,
        /// What is known of the product that it was held to; empty if nothing is.
        6 => baseline: String,
    }

    pub struct GpuViews {
        1 => revision: Revision,
        2 => gpus: Vec<GpuView>,
    }

    /// Wants GPUs of a node to be burnt in before anything runs on them again.
    pub struct BurnInStart {
        1 => node: NodeId,
        /// None: all of the node's.
        2 => index: Option<GpuIndex>,
        3 => tier: BurnInTier,
    }

    /// The site's limits to what is tested and taken out of service at once, and what is.
    pub struct HealthLimitsView {
        1 => revision: Revision,
        2 => limits: HealthLimits,
        /// Burn-ins that are permitted at present.
        3 => retests: u32,
        4 => admissions: u32,
        5 => gpus: GpuCount,
        /// GPUs that are quarantined, and whose jobs run on because too many are.
        6 => spared: u32,
    }

    /// Holds a GPU back, or no longer. Held back no longer, it needs a new proof.
    pub struct GpuWithhold {
        1 => node: NodeId,
        2 => index: GpuIndex,
        /// Absent: no longer.
        3 => why: Option<String>,
    }

    pub struct NodeEnroll {
        1 => node: NodeId,
        2 => ttl: Millis,
    }

    pub struct TokenIssued {
        /// The one-time token; a secret.
        1 => token: String,
        2 => expires_at: Timestamp,
    }

    pub struct SiteView {
        1 => site: SiteId,
        2 => country: Option<Country>,
        /// True for the site that answers.
        3 => own: bool,
        4 => connected: bool,
        5 => suspected: bool,
        /// Since the leader last heard it; absent if it never did.
        6 => heard: Option<Millis>,
        7 => addresses: Vec<String>,
        8 => capacity: Vec<ClassCapacity>,
        /// Loans given to it.
        9 => loans_out: u32,
        /// Guests taken from it.
        10 => guests_in: u32,
        /// As far as they are known, with their ages.
        11 => signals: Option<Signals>,
        /// Of the own site all that it knows of; of a peer those that lie there.
        12 => data: Vec<DataView>,
        /// To a peer, if anybody said.
        13 => link: Option<Link>,
        /// Of the own site.
        14 => weights: Option<Weights>,
        15 => outlook: Vec<ClassOutlook>,
    }

    pub struct SiteViews {
        1 => revision: Revision,
        2 => sites: Vec<SiteView>,
    }

    pub struct SiteInvite {
        /// The only site that may use the token; none for any.
        1 => peer: Option<SiteId>,
        2 => ttl: Millis,
    }

    pub struct SiteJoin {
        1 => token: String,
    }

    pub struct SiteJoined {
        1 => peer: SiteId,
        /// The peering was there before.
        2 => repeated: bool,
    }

    pub struct GrantView {
        1 => grant: GrantId,
        2 => host: SiteId,
        3 => home: SiteId,
        4 => class: Option<GpuClass>,
        5 => gpus: GpuCount,
        6 => gpus_used: GpuCount,
        7 => nodes: Vec<NodeId>,
        8 => state: String,
        /// Of how many of its GPUs the site that answers, as their home, has verified a proof that
        /// holds. Absent of a grant that it made, and where the host shows no proofs.
        20 => gpus_verified: Option<GpuCount>,
    }

    pub struct GrantViews {
        1 => revision: Revision,
        2 => grants: Vec<GrantView>,
    }

    pub struct LoanView {
        1 => job: JobId,
        2 => epoch: Epoch,
        3 => home: SiteId,
        4 => host: SiteId,
        5 => grants: Vec<GrantId>,
        6 => gpus: GpuCount,
        7 => state: String,
        8 => name: String,
    }

    pub struct LoanViews {
        1 => revision: Revision,
        2 => loans: Vec<LoanView>,
    }

    pub struct ControllerView {
        1 => id: ControllerId,
        2 => address: String,
        3 => leader: bool,
        4 => voter: bool,
        /// Last log index that the leader knows it to hold.
        5 => matched: u64,
        /// The one that answered.
        6 => own: bool,
        /// Since it last answered the leader; absent if it never did, or if a follower says so.
        7 => heard: Option<Millis>,
    }

    pub struct ControllerViews {
        1 => term: u64,
        2 => controllers: Vec<ControllerView>,
        /// Last log index of the one that answered; zero from a version that does not say.
        3 => last_log: u64,
        4 => revision: Revision,
    }

    /// One controller about itself. Answered without the others, so it may be old.
    pub struct ControllerStatus {
        1 => id: ControllerId,
        2 => site: SiteId,
        /// Where it says that others reach it.
        3 => address: String,
        4 => version: String,
        /// Its wall clock, for information only.
        5 => at: Timestamp,
        6 => term: u64,
        /// Whom it takes for the leader.
        7 => leader: Option<ControllerId>,
        8 => last_log: u64,
        9 => committed: u64,
        10 => applied: u64,
        /// Last index of its newest snapshot; zero without one.
        11 => snapshot: u64,
        12 => purged: u64,
        13 => snapshot_bytes: u64,
        14 => revision: Revision,
        /// The disk of its log has no room.
        15 => is_full: bool,
        /// Since it knew that it heard, or was, a leader with a majority; absent if it never was.
        16 => heard: Option<Millis>,
        /// End of its certificate.
        17 => certificate_until: Timestamp,
        /// The members of the group, as it knows them.
        18 => members: Vec<ControllerView>,
        /// The controllers that the site has agreed on, as it knows them.
        19 => agreed: Vec<ControllerId>,
        /// What it may still write, bytes, as its file system says; absent if unknown.
        20 => disk_free: Option<u64>,
        /// The site was restored from a backup, and nothing is placed yet.
        21 => recovering: bool,
    }

    pub struct ControllerTransfer {
        /// None for whoever is fit best.
        1 => to: Option<ControllerId>,
    }

    pub struct ControllerTransferred {
        1 => leader: ControllerId,
        /// It led before.
        2 => repeated: bool,
    }

    /// A question that whichever controller is asked answers, without the others.
    pub struct StaleRead {
        1 => method: Method,
        2 => body: Blob,
    }

    pub struct StaleAnswer {
        1 => body: Blob,
        2 => revision: Revision,
        /// Who answered.
        3 => controller: ControllerId,
        /// Since it knew that it heard, or was, a leader with a majority; absent if it never was.
        4 => heard: Option<Millis>,
    }

    /// Holds a state still, to be read in pieces.
    pub struct BackupOpen {
        /// Do not ask the others whether the state is the newest.
        1 => stale: bool,
    }

    pub struct BackupOpened {
        /// Names it towards the controller that answered, and no other.
        1 => backup: u64,
        2 => site: SiteId,
        3 => revision: Revision,
        4 => at: Timestamp,
        5 => controller: ControllerId,
        /// Digest (SHA-256) of the site's authority, whose key a restore needs.
        6 => authority: Blob,
        7 => version: String,
        8 => heard: Option<Millis>,
    }

    pub struct BackupRead {
        1 => backup: u64,
        /// Counted from zero. The one before may be asked for again.
        2 => piece: u64,
    }

    pub struct BackupPiece {
        1 => data: Blob,
        /// There is no further piece; this one is empty.
        2 => last: bool,
    }

    pub struct ControllerAdd {
        /// Where the new controller will listen.
        1 => address: String,
        /// A certificate request, DER.
        2 => csr: Blob,
        /// Repeating the same request gives the same controller.
        3 => request: RequestId,
        /// A controller that is removed as soon as the new one votes.
        4 => replaces: Option<ControllerId>,
        /// The versions of a site that the release which prepares it knows.
        5 => oldest: ClusterVersion,
        6 => newest: ClusterVersion,
    }

    pub struct ControllerAdded {
        1 => id: ControllerId,
        2 => certificate: Blob,
        3 => ca: Blob,
        /// The site's signing key, PKCS#8; a secret.
        4 => ca_key: Blob,
        5 => site: SiteId,
        6 => controllers: Vec<String>,
    }

    pub struct ControllerRemove {
        1 => id: ControllerId,
    }

    /// What a controller knows, as it told the leader when that was asked.
    pub struct ControllerVersions {
        1 => id: ControllerId,
        2 => address: String,
        3 => leader: bool,
        /// Empty if it did not say.
        4 => build: String,
        5 => oldest: ClusterVersion,
        6 => newest: ClusterVersion,
        /// It answered; if not, it is not known what it knows.
        7 => heard: bool,
        /// Why the site's version cannot be raised as it is; empty if it may.
        8 => hinders: String,
    }

    pub struct UpgradeStatus {
        /// The site's.
        1 => version: ClusterVersion,
        2 => controllers: Vec<ControllerVersions>,
        /// What the rehearsal of a next release has left behind.
        3 => notes: u64,
    }

    pub struct UpgradeFinalize {
        1 => to: ClusterVersion,
    }

    pub struct UpgradeFinalized {
        1 => version: ClusterVersion,
        /// The site had the version before.
        2 => repeated: bool,
    }

    /// Agrees on what only the rehearsal of a next release knows.
    pub struct UpgradeRehearse {
        1 => text: String,
    }

    pub struct Empty {}
}

/// Whether any controller may answer a method from what it holds, by [`Method::StaleRead`].
#[must_use]
pub fn may_be_stale(method: Method) -> bool {
    [
        Method::JobList,
        Method::JobShow,
        Method::NodeList,
        Method::GpuList,
        Method::HealthLimitsShow,
        Method::SiteList,
        Method::Capacity,
        Method::GrantList,
        Method::LoanList,
        Method::ControllerList,
        Method::QuotaList,
        Method::ReservationList,
    ]
    .contains(&method)
}
