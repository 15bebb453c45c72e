//! What may enter the log. A variant is added, never altered; a member that meets one it does not
//! know stops.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::Blob;
use specs::gpu::{BurnInTier, GpuHealth, HealthLimits, Passed};
use specs::id::{
    AccountId, Boot, ControllerId, Country, DataName, Epoch, GpuClass, GpuIndex, GrantId, JobId,
    NodeId, RequestId, ReservationName, Revision, SiteId, TokenId,
};
use specs::quota::Limit;
use specs::signals::{DataSet, Link, Weights};
use specs::site::{SiteSpec, Trust};
use specs::unit::{GpuCount, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{AttemptReport, Inventory};
use specs::wire::client::SignalsSet;
use specs::wire::peer::{GrantReport, GuestReport, LoanOrder, LoanSlot};

#[cfg(feature = "next")]
use crate::next::Note;
use crate::state::compact::PackedSpec;
use crate::state::{GrantSlot, HeldProof, TokenKind};

specs::message! {
    /// Founds the site. Only the first one counts.
    pub struct FoundSite {
        1 => spec: Arc<SiteSpec>,
        /// Of the first controller.
        2 => address: String,
    }

    /// Takes in a job, or an array of them.
    pub struct AdmitJobs {
        1 => request: RequestId,
        2 => jobs: Vec<JobId>,
        3 => spec: PackedSpec,
        4 => submitter: String,
        5 => at: Timestamp,
    }

    pub struct CancelJob {
        1 => job: JobId,
        2 => at: Timestamp,
    }

    /// Takes ended jobs out of the state, and forgets requests none of whose jobs is left in it.
    /// Whatever it names and may not go stays.
    pub struct ArchiveJobs {
        1 => jobs: Vec<JobId>,
        2 => requests: Vec<RequestId>,
    }

    /// Takes note of an agent's life and of what its node has.
    pub struct RegisterNode {
        1 => node: NodeId,
        2 => boot: Boot,
        3 => inventory: Inventory,
        4 => at: Timestamp,
    }

    /// Doubts that the node is there. Frees nothing.
    pub struct SuspectNode {
        1 => node: NodeId,
        2 => boot: Boot,
    }

    /// Ends the suspicion that it names.
    pub struct RestoreNode {
        1 => node: NodeId,
        2 => suspicion: Revision,
    }

    /// Gives up what a suspected node still had, if the suspicion is the one named.
    pub struct ReleaseNode {
        1 => node: NodeId,
        2 => suspicion: Revision,
        3 => at: Timestamp,
    }

    pub struct DrainNode {
        1 => node: NodeId,
        2 => drain: bool,
    }

    /// Takes in what a node reported of its attempts.
    pub struct RecordParts {
        1 => node: NodeId,
        2 => boot: Boot,
        3 => attempts: Vec<AttemptReport>,
        4 => at: Timestamp,
    }

    /// GPUs of one node for one attempt.
    pub struct PartPlan {
        1 => node: NodeId,
        2 => gpus: Vec<GpuIndex>,
    }

    pub struct LeasePlan {
        1 => parts: Vec<PartPlan>,
    }

    pub struct LoanPlan {
        1 => peer: SiteId,
        2 => slots: Vec<LoanSlot>,
    }

    /// A proposal for one job.
    pub struct Assignment {
        1 => job: JobId,
        /// The epoch that the job had when this was planned.
        2 => after: Epoch,
        3 => place: Place,
    }

    /// Places jobs; each assignment is rechecked alone.
    pub struct CommitPlan {
        1 => base: Revision,
        2 => assignments: Vec<Assignment>,
        3 => at: Timestamp,
    }

    /// Stops running jobs so that one that waits has room: all of those named, or none if anything
    /// is no longer as it was. Since [`ClusterVersion::PREEMPTION`].
    pub struct PreemptJobs {
        /// Who waits.
        1 => job: JobId,
        /// The epoch that it had when this was planned.
        2 => after: Epoch,
        /// How often room had been made for it.
        3 => times: u32,
        /// Of the GPUs that it is to have.
        4 => class: GpuClass,
        5 => victims: Vec<AttemptKey>,
        6 => at: Timestamp,
    }

    pub struct OpenToken {
        1 => token: TokenId,
        2 => kind: TokenKind,
        3 => key: Blob,
        4 => bound: String,
        5 => expires_at: Timestamp,
    }

    /// What one site must know of another.
    pub struct PeerRecord {
        1 => site: SiteId,
        2 => country: Country,
        3 => ca: Blob,
        4 => addresses: Vec<String>,
    }

    /// Uses an invitation. Repeated by the same site, it changes nothing.
    pub struct AcceptPeer {
        1 => token: TokenId,
        2 => peer: PeerRecord,
        3 => digest: Blob,
        4 => at: Timestamp,
    }

    /// Adds the site that invited this one.
    pub struct AddPeer {
        1 => peer: PeerRecord,
    }

    /// Uses an enrolment. Repeated with the same key, it changes nothing.
    pub struct AcceptNode {
        1 => token: TokenId,
        2 => node: NodeId,
        3 => digest: Blob,
        4 => at: Timestamp,
    }

    /// Adds a controller; repeated with the same request, it changes nothing.
    pub struct AddController {
        1 => request: RequestId,
        2 => address: String,
        /// A controller that is removed as soon as the new one votes.
        3 => replaces: Option<ControllerId>,
    }

    pub struct RemoveController {
        1 => id: ControllerId,
    }

    /// Lets a restored site place jobs again, if it recovers from the restore named.
    pub struct EndRecovery {
        1 => restored: Revision,
    }

    /// Promises GPUs to a home.
    pub struct MakeGrant {
        1 => home: SiteId,
        2 => slots: Vec<GrantSlot>,
    }

    pub struct RecallGrant {
        1 => grant: GrantId,
    }

    /// Takes back a grant without guests whose home has been silent for a grant term.
    pub struct ExpireGrant {
        1 => grant: GrantId,
    }

    /// At the home: takes in what a host reported.
    pub struct RecordPeer {
        1 => peer: SiteId,
        /// The host's.
        2 => revision: Revision,
        3 => grants: Vec<GrantReport>,
        4 => guests: Vec<GuestReport>,
        5 => at: Timestamp,
        /// It shows the proofs of what it grants. Never below [`ClusterVersion::PEER_PROOFS`].
        10 => shows: bool,
    }

    /// At the home: takes in proofs of a host's GPUs that were verified. Since
    /// [`ClusterVersion::PEER_PROOFS`].
    pub struct RecordProofs {
        1 => peer: SiteId,
        2 => proofs: Vec<HeldProof>,
    }

    /// At the home: gives back a grant without loans.
    pub struct ReturnGrant {
        1 => peer: SiteId,
        2 => grant: GrantId,
    }

    pub struct SuspectPeer {
        1 => peer: SiteId,
    }

    pub struct RestorePeer {
        1 => peer: SiteId,
        2 => suspicion: Revision,
    }

    /// At the home: gives up the loans of a suspected host, if the suspicion is the one named.
    pub struct ReleasePeer {
        1 => peer: SiteId,
        2 => suspicion: Revision,
        3 => at: Timestamp,
    }

    /// Names one attempt of a home's job.
    #[derive(PartialOrd, Ord)]
    pub struct AttemptKey {
        1 => job: JobId,
        2 => epoch: Epoch,
    }

    /// At the host: does what a home's orders say.
    pub struct ObeyPeer {
        1 => peer: SiteId,
        /// The home's. Orders older than those last obeyed change nothing.
        2 => revision: Revision,
        3 => admit: Vec<LoanOrder>,
        4 => stop: Vec<AttemptKey>,
        /// Ended guests whose end the home has.
        5 => forget: Vec<AttemptKey>,
        6 => returned: Vec<GrantId>,
        7 => at: Timestamp,
        /// The host's revision that the home was shown: an end recorded later stays.
        8 => shown: Revision,
    }

    /// Sets the limit of one class for an account, and the account's weight.
    pub struct SetQuota {
        1 => account: AccountId,
        /// Takes the place of the one of its class; one that limits nothing removes it.
        2 => limit: Option<Limit>,
        /// Zero leaves it as it is.
        3 => weight: u32,
    }

    /// Takes all limits of an account away.
    pub struct RemoveQuota {
        1 => account: AccountId,
    }

    /// Says which GPUs jobs may run on. Since [`ClusterVersion::HEALTH`], as are the next two.
    pub struct SetTrust {
        1 => trust: Trust,
    }

    /// Takes in what an agent's life reported of the health of its GPUs.
    pub struct RecordHealth {
        1 => node: NodeId,
        2 => boot: Boot,
        3 => gpus: Vec<GpuHealth>,
        /// Permits that the agent has answered. Absent below [`ClusterVersion::BURN_INS`], as is
        /// the next.
        4 => ended: Vec<PermitEnd>,
        5 => at: Timestamp,
        /// Absent below [`ClusterVersion::DEMANDS`].
        20 => proven: Vec<GpuPassed>,
    }

    /// What the proof of a GPU says.
    pub struct GpuPassed {
        1 => index: GpuIndex,
        /// None if it has none.
        2 => passed: Option<Passed>,
    }

    /// How a permit of a GPU ended.
    pub struct PermitEnd {
        1 => index: GpuIndex,
        2 => number: Revision,
        /// The burn-in had a result.
        3 => judged: bool,
    }

    /// Wants GPUs of a node to be burnt in before anything runs on them again. Since
    /// [`ClusterVersion::BURN_INS`], as are the next three.
    pub struct WantBurnIns {
        1 => node: NodeId,
        2 => gpus: Vec<GpuIndex>,
        3 => tier: BurnInTier,
    }

    /// One GPU that may be burnt in.
    pub struct NewPermit {
        1 => node: NodeId,
        /// The life of its agent that said that it heeds permits.
        2 => boot: Boot,
        3 => index: GpuIndex,
        4 => tier: BurnInTier,
    }

    /// Permits burn-ins, as many as the site's limits leave room for.
    pub struct PermitBurnIns {
        1 => permits: Vec<NewPermit>,
    }

    /// Ends the permits of a node that was silent for so long since it was suspected that its agent
    /// has ended them.
    pub struct EndPermits {
        1 => node: NodeId,
        2 => suspicion: Revision,
    }

    /// Says how much is tested and taken out of service at once.
    pub struct SetHealthLimits {
        1 => limits: HealthLimits,
    }

    /// Holds a GPU back for an operator, or no longer.
    pub struct WithholdGpu {
        1 => node: NodeId,
        2 => index: GpuIndex,
        /// None: no longer.
        3 => why: Option<String>,
    }

    /// Says what running here costs. Since [`ClusterVersion::SITES`], as are the next four.
    pub struct SetSignals {
        1 => said: SignalsSet,
        2 => at: Timestamp,
    }

    /// Says how this site weighs what others cost.
    pub struct SetWeights {
        1 => weights: Weights,
    }

    /// Says what is known of a data set.
    pub struct SetDataSet {
        1 => name: DataName,
        2 => set: DataSet,
    }

    pub struct RemoveDataSet {
        1 => name: DataName,
    }

    /// Says how fast the link to a peer is; none if nobody knows.
    pub struct SetLink {
        1 => peer: SiteId,
        2 => link: Option<Link>,
    }

    /// Reserves nodes for an account over a time. Repeated, it changes nothing. Since
    /// [`ClusterVersion::DEMANDS`], as is the next.
    pub struct MakeReservation {
        1 => name: ReservationName,
        2 => account: AccountId,
        /// Of the GPUs that are meant; none for any.
        3 => class: Option<GpuClass>,
        /// Its nodes have at least so many; zero if the nodes were named.
        4 => gpus: GpuCount,
        5 => nodes: Vec<NodeId>,
        6 => start: Timestamp,
        7 => end: Timestamp,
        /// Jobs that may run into it run on.
        8 => beside_jobs: bool,
        /// Who asked for it.
        9 => by: String,
        10 => at: Timestamp,
    }

    /// Ends the reservation of that name that was made at that revision.
    pub struct EndReservation {
        1 => name: ReservationName,
        2 => number: Revision,
    }

    /// Raises the site's version by one. Whoever proposes it knows that every member of the group
    /// knows the version; a member that does not stops here.
    pub struct SetVersion {
        1 => version: ClusterVersion,
    }
}

specs::choice! {
    /// Where an assignment puts its job.
    pub enum Place {
        1 => Here(LeasePlan),
        2 => There(LoanPlan),
    }

    /// One entry of the log.
    pub enum Command {
        1 => FoundSite(FoundSite),
        2 => AdmitJobs(AdmitJobs),
        3 => CancelJob(CancelJob),
        10 => RegisterNode(RegisterNode),
        11 => SuspectNode(SuspectNode),
        12 => RestoreNode(RestoreNode),
        13 => ReleaseNode(ReleaseNode),
        14 => DrainNode(DrainNode),
        15 => RecordParts(RecordParts),
        20 => CommitPlan(CommitPlan),
        21 => PreemptJobs(PreemptJobs),
        30 => OpenToken(OpenToken),
        31 => AcceptPeer(AcceptPeer),
        32 => AddPeer(AddPeer),
        33 => AcceptNode(AcceptNode),
        34 => AddController(AddController),
        35 => RemoveController(RemoveController),
        36 => EndRecovery(EndRecovery),
        40 => MakeGrant(MakeGrant),
        41 => RecallGrant(RecallGrant),
        42 => ExpireGrant(ExpireGrant),
        43 => RecordPeer(RecordPeer),
        44 => ReturnGrant(ReturnGrant),
        45 => SuspectPeer(SuspectPeer),
        46 => RestorePeer(RestorePeer),
        47 => ReleasePeer(ReleasePeer),
        48 => ObeyPeer(ObeyPeer),
        49 => RecordProofs(RecordProofs),
        50 => SetQuota(SetQuota),
        51 => RemoveQuota(RemoveQuota),
        60 => SetVersion(SetVersion),
        64 => SetTrust(SetTrust),
        65 => RecordHealth(RecordHealth),
        66 => WithholdGpu(WithholdGpu),
        67 => WantBurnIns(WantBurnIns),
        68 => PermitBurnIns(PermitBurnIns),
        69 => EndPermits(EndPermits),
        72 => SetHealthLimits(SetHealthLimits),
        70 => ArchiveJobs(ArchiveJobs),
        80 => SetSignals(SetSignals),
        81 => SetWeights(SetWeights),
        82 => SetDataSet(SetDataSet),
        83 => RemoveDataSet(RemoveDataSet),
        84 => SetLink(SetLink),
        90 => MakeReservation(MakeReservation),
        91 => EndReservation(EndReservation),
        #[cfg(feature = "next")]
        1_000 => Note(Note),
    }
}
