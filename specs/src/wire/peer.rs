//! Home and host: the agent's protocol one scale up. The host's leader asks its peer with a
//! [`PeerReport`]; the home's leader answers with [`PeerOrders`] that it read after the question
//! came. Between two sites both directions exist, each with its own report and orders.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::gpu::SignedProof;
use crate::id::{
    Country, DataName, Epoch, GpuClass, GpuIndex, GrantId, JobId, NodeId, Question, Revision,
    SiteId,
};
use crate::job::{JobSpec, Needs};
use crate::signals::{ClassOutlook, Signals};
use crate::unit::{GpuCount, Millis, Timestamp};
use crate::wire::agent::{Facts, LogStream, Outcome, Want};

crate::enumeration! {
    /// Where a guest is in its life at the host.
    pub enum GuestPhase {
        /// A lease exists; not all nodes have started.
        1 => Admitted = "admitted",
        2 => Running = "running",
        3 => Ended = "ended",
    }
}

/// Most proofs that a home asks for at once, and a host shows at once.
pub const PROOFS_SHOWN_MAX: usize = 128;

crate::message! {
    /// A GPU of a slot, and which proof its host has of it.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct SlotGpu {
        1 => index: GpuIndex,
        /// Another proof of the GPU has another number; zero without one.
        2 => proof: Revision,
    }

    /// Which proof of which of a host's GPUs.
    #[derive(PartialOrd, Ord)]
    pub struct ProofKey {
        1 => node: NodeId,
        2 => index: GpuIndex,
        3 => number: Revision,
    }

    /// A proof as a host shows it to a home.
    pub struct ShownProof {
        1 => key: ProofKey,
        /// How long ago it was passed, counted by the host no earlier than when it was asked.
        2 => age: Millis,
        3 => proof: SignedProof,
    }

    /// GPUs of one node within a grant.
    #[derive(PartialOrd, Ord)]
    pub struct Slot {
        1 => node: NodeId,
        2 => class: GpuClass,
        /// How many may be used; zero while the node is suspected or drained.
        3 => gpus: GpuCount,
        /// Where the node stands and what it says of itself, without CPU and memory. Absent from a
        /// host that lends nothing to who asks for it, and in agreed state below
        /// `ClusterVersion::SITES`.
        4 => facts: Option<Box<Facts>>,
        /// What those GPUs carry of their node's CPU, for all guests of the home there. Zero from a
        /// host below `ClusterVersion::DEMANDS`, and in agreed state below it, as are the next two.
        10 => cpu_milli: u32,
        11 => memory_mib: u32,
        /// All GPUs of the node, of whatever class and whoever has them. Likewise.
        12 => node_gpus: GpuCount,
        /// The GPUs that may be used, in order: as many as `gpus`. None from a host below
        /// `ClusterVersion::PEER_PROOFS`, and in agreed state below it.
        20 => which: Vec<SlotGpu>,
    }

    /// GPUs of one node that a loan draws on a grant.
    pub struct LoanSlot {
        1 => grant: GrantId,
        2 => node: NodeId,
        3 => class: GpuClass,
        4 => gpus: GpuCount,
        /// The very GPUs, in order. Empty where the host does not tell which there are: then it
        /// chooses.
        10 => which: Vec<GpuIndex>,
    }

    /// A grant as its host sees it.
    pub struct GrantReport {
        1 => grant: GrantId,
        2 => slots: Vec<Slot>,
        /// The host wants it back: draw no more loans on it.
        3 => recalled: bool,
    }

    /// A guest as its host sees it.
    pub struct GuestReport {
        1 => job: JobId,
        2 => epoch: Epoch,
        3 => phase: GuestPhase,
        /// Present if and only if the phase is ended.
        4 => outcome: Option<Outcome>,
        5 => started_at: Timestamp,
        6 => ended_at: Timestamp,
        7 => nodes: Vec<NodeId>,
    }

    /// How much of a class a site has.
    pub struct ClassCapacity {
        1 => class: GpuClass,
        /// On nodes that are there.
        2 => total: GpuCount,
        /// Neither leased nor granted.
        3 => free: GpuCount,
        /// Granted to peers.
        4 => granted: GpuCount,
        /// The most GPUs of any one node.
        5 => node_gpus_max: GpuCount,
        /// Nodes that have `node_gpus_max`.
        6 => nodes: u32,
        /// The most CPU and memory that a GPU carries when it is granted. Zero where none does, and
        /// from a host below `ClusterVersion::DEMANDS`.
        10 => gpu_cpu_milli: u32,
        11 => gpu_memory_mib: u32,
        /// How many of `total` have a proof that can be shown. Zero from a host below
        /// `ClusterVersion::PEER_PROOFS`.
        20 => proven: GpuCount,
    }

    /// All that a host tells a home.
    pub struct PeerReport {
        1 => host: SiteId,
        /// Revision of the host's state that this was read from.
        2 => revision: Revision,
        3 => question: Question,
        /// The home's revision of the orders last obeyed, as the host's log has it.
        4 => obeyed: Revision,
        /// The question whose answer was last taken in by this leader; zero before the first.
        5 => answered: Question,
        6 => guests: Vec<GuestReport>,
        7 => grants: Vec<GrantReport>,
        8 => capacity: Vec<ClassCapacity>,
        9 => country: Country,
        /// What running there costs; absent if nobody said, or from a version that does not tell.
        20 => signals: Option<Signals>,
        /// Data sets that lie there.
        21 => data: Vec<DataName>,
        /// What it expects of each class.
        22 => outlook: Vec<ClassOutlook>,
        /// It tells which GPUs its grants have, and shows their proofs to who asks.
        30 => shows: bool,
        /// What the home asked to be shown; at most [`PROOFS_SHOWN_MAX`].
        31 => proofs: Vec<ShownProof>,
    }

    /// What a host needs to admit a guest.
    pub struct LoanBody {
        /// Node by node in the order of the gang's ranks; a node may stand in several slots.
        1 => slots: Vec<LoanSlot>,
        2 => spec: Arc<JobSpec>,
        3 => array_index: u32,
        /// Who submitted it, at the home.
        4 => submitter: String,
    }

    /// What is wanted of one loan.
    pub struct LoanOrder {
        1 => job: JobId,
        2 => epoch: Epoch,
        3 => want: Want,
        /// Left out when the host reported that it knows this attempt.
        4 => body: Option<LoanBody>,
    }

    /// Capacity that a home would use if it were granted.
    pub struct Demand {
        1 => class: Option<GpuClass>,
        2 => nodes: u32,
        3 => gpus_per_node: GpuCount,
        /// How many such gangs.
        4 => count: u32,
        /// What they ask of their nodes beyond GPUs. Absent if that is nothing.
        5 => needs: Option<Box<Needs>>,
    }

    /// All that a home wants of a host. A loan that is not named must not run, and the host may
    /// forget an ended one that its question showed as ended.
    pub struct PeerOrders {
        1 => home: SiteId,
        2 => question: Question,
        /// Revision of the home's state that this was read from.
        3 => revision: Revision,
        4 => loan_term: Millis,
        5 => loans: Vec<LoanOrder>,
        /// Grants that the home has no more use for.
        6 => returned: Vec<GrantId>,
        7 => demand: Vec<Demand>,
        /// The host is suspected: nothing here but that it was heard; renew and change nothing.
        8 => hold: bool,
        /// Proofs of granted GPUs that the home has not seen; at most [`PROOFS_SHOWN_MAX`].
        20 => show: Vec<ProofKey>,
    }

    /// Asks a host to ask at once.
    pub struct PeerNudge {}

    /// Asks a host for a piece of a guest's output.
    pub struct PeerLogs {
        1 => job: JobId,
        2 => epoch: Epoch,
        /// The host's node that ran the part, as its report named it.
        3 => node: NodeId,
        4 => task: u32,
        5 => stream: LogStream,
        6 => offset: u64,
        7 => max_bytes: u32,
        8 => wait: Millis,
    }
}
