//! Agent and controller. The agent asks with a [`NodeReport`]; the leader answers with
//! [`NodeOrders`] that it read after the question came.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::codec::OrDefault;
use crate::gpu::{BurnInPermit, GpuInfo, GpuReport, InventorySource};
use crate::id::{Boot, Epoch, GpuIndex, JobId, LeaseId, NodeId, Question, Revision, SiteId};
use crate::job::{ATTRIBUTES_MAX, JobSpec, is_attribute};
use crate::unit::{Millis, Timestamp};

crate::enumeration! {
    /// How an attempt, or a node's part of it, ended.
    pub enum Ending {
        /// Its processes ended by themselves; the exit status is theirs.
        1 => Exited = "exited",
        /// It was stopped because the orders said so.
        2 => Stopped = "stopped",
        /// It was killed because its lease or loan ran out.
        3 => Fenced = "fenced",
        /// It never started.
        4 => Refused = "refused",
        /// Nobody knows: the agent died, or the node was given up.
        5 => Lost = "lost",
    }

    /// Where an attempt is in its life on a node.
    pub enum AttemptPhase {
        1 => Starting = "starting",
        2 => Running = "running",
        3 => Stopping = "stopping",
        4 => Ended = "ended",
    }

    /// What a controller wants of an attempt.
    pub enum Want {
        1 => Run = "run",
        2 => Stop = "stop",
    }

    /// How long an attempt may go on, beyond the node's own lease.
    pub enum ValidityKind {
        /// As long as the node's lease.
        1 => NodeLease = "node-lease",
        /// As long as the node's lease, and no longer than `remaining` after the question.
        2 => Until = "until",
        /// As long as the node's lease and what an earlier answer said; never start on this.
        3 => AsBefore = "as-before",
        /// Until it ends or is stopped, even if nobody is heard.
        4 => Open = "open",
    }
}

crate::message! {
    /// How something ended.
    pub struct Outcome {
        1 => ending: Ending,
        /// The exit code, if it exited; 128 + signal if a signal ended it.
        2 => exit_code: i32,
        /// The signal that ended it, or 0.
        3 => signal: u32,
        /// For people.
        4 => detail: String,
    }

    /// What a node is made of.
    pub struct Inventory {
        1 => source: InventorySource,
        2 => gpus: Vec<GpuInfo>,
        /// Where other nodes of a gang reach this one: a host name or an address.
        3 => address: String,
        /// Version of the agent.
        4 => version: String,
        5 => facts: OrDefault<Facts>,
    }

    /// What a node is besides its GPUs. A node that does not say has none of it.
    #[derive(Default, PartialOrd, Ord)]
    pub struct Facts {
        1 => cpu_milli: u32,
        2 => memory_mib: u32,
        /// Names of halls are the site's.
        3 => hall: String,
        /// Names of racks and domains are the hall's; empty for none.
        4 => rack: String,
        /// Whose GPUs share one NVLink fabric.
        5 => domain: String,
        6 => attributes: BTreeMap<String, String>,
    }

    /// An attempt as its node sees it.
    pub struct AttemptReport {
        1 => lease: LeaseId,
        2 => phase: AttemptPhase,
        /// Present if and only if the phase is ended.
        3 => outcome: Option<Outcome>,
        /// Zero if it never started.
        4 => started_at: Timestamp,
        /// Zero if it has not ended.
        5 => ended_at: Timestamp,
    }

    /// When an attempt last saved its work, as it said itself.
    #[derive(Copy)]
    pub struct Checkpoint {
        1 => lease: LeaseId,
        2 => at: Timestamp,
    }

    /// All that an agent knows.
    pub struct NodeReport {
        1 => node: NodeId,
        2 => boot: Boot,
        3 => question: Question,
        /// Revision of the orders last obeyed; zero before the first.
        4 => obeyed: Revision,
        /// The question whose answer was last obeyed; zero before the first.
        5 => answered: Question,
        6 => inventory: Inventory,
        /// Every attempt that the node knows, also those that ended in an earlier life.
        7 => attempts: Vec<AttemptReport>,
        /// By an agent that knows nothing of health: none.
        8 => health: Vec<GpuReport>,
        /// Burns in nothing without a permit where the orders ask for permits. An agent of an
        /// earlier release does not, and answers none.
        9 => heeds_permits: bool,
        /// Of attempts that run here and have said that they saved their work.
        10 => checkpoints: Vec<Checkpoint>,
    }

    /// How long an attempt may go on.
    pub struct Validity {
        1 => kind: ValidityKind,
        /// With [`ValidityKind::Until`], counted from when the question was asked.
        2 => remaining: Millis,
    }

    /// What a node needs to start its part of an attempt.
    pub struct Launch {
        1 => spec: Arc<JobSpec>,
        2 => array_index: u32,
        3 => gpus: Vec<GpuIndex>,
        /// Rank of this node among the nodes of the gang.
        4 => node_rank: u32,
        5 => master_address: String,
        6 => master_port: u32,
        /// The site that runs the attempt.
        7 => host: SiteId,
    }

    /// What is wanted of one attempt.
    pub struct LeaseOrder {
        1 => lease: LeaseId,
        2 => home: SiteId,
        3 => job: JobId,
        4 => epoch: Epoch,
        5 => want: Want,
        6 => validity: Validity,
        /// Left out when the agent reported that it knows the lease.
        7 => launch: Option<Launch>,
    }

    /// All that is wanted of a node. A lease that is not named must not run.
    pub struct NodeOrders {
        1 => node: NodeId,
        2 => boot: Boot,
        /// The question that this answers.
        3 => question: Question,
        /// Revision of the state that this was read from.
        4 => revision: Revision,
        5 => lease_term: Millis,
        6 => leases: Vec<LeaseOrder>,
        /// The node is suspected: nothing here but that it was heard; renew and change nothing.
        7 => hold: bool,
        /// The site runs nothing on GPUs without a proof: burn them in.
        8 => prove: bool,
        /// GPUs that an operator wants nothing to run on. One that is no longer named needs a new
        /// proof.
        9 => withheld: Vec<GpuIndex>,
        /// Quarantined GPUs that an operator wants to be burnt in again.
        10 => released: Vec<GpuIndex>,
        /// Nothing is burnt in without a permit. A site below
        /// [`ClusterVersion::BURN_INS`](crate::version::ClusterVersion::BURN_INS) gives none, and
        /// then an agent goes by what it knows.
        11 => permits_only: bool,
        /// Burn-ins that may go on, or begin; one that is not named must end.
        12 => permits: Vec<BurnInPermit>,
        /// The next reports are to tell [`GpuReport::earlier`].
        50 => tell_earlier: bool,
    }

    /// Asks an agent to ask at once.
    pub struct Nudge {}

    /// Asks for a piece of a task's output. The agent finds it by the attempt, also long after its
    /// lease was forgotten; an attempt of another home is not found.
    pub struct NodeLogs {
        1 => home: SiteId,
        2 => job: JobId,
        3 => epoch: Epoch,
        /// Local rank of the task.
        4 => task: u32,
        5 => stream: LogStream,
        /// Bytes from the beginning.
        6 => offset: u64,
        7 => max_bytes: u32,
        /// Wait this long for more if there is none yet and the task still runs.
        8 => wait: Millis,
    }

    /// A piece of a task's output.
    pub struct LogChunk {
        1 => offset: u64,
        2 => data: crate::codec::Blob,
        /// The task has ended and this is the last piece.
        3 => end: bool,
    }
}

crate::enumeration! {
    /// One of a task's two output streams.
    pub enum LogStream {
        1 => Stdout = "stdout",
        2 => Stderr = "stderr",
    }
}

impl Facts {
    /// Checks what the types cannot say. Whoever takes facts from elsewhere calls this first.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        for (what, name) in [("hall", &self.hall), ("rack", &self.rack), ("domain", &self.domain)] {
            if !name.is_empty() && !is_attribute(name) {
                return Err(alloc::format!("`{name}` cannot be the name of a {what}"));
            }
        }
        if self.attributes.len() > ATTRIBUTES_MAX {
            let count = self.attributes.len();
            return Err(alloc::format!("{count} attributes are more than {ATTRIBUTES_MAX}"));
        }
        let wrong =
            |(name, value): &(&String, &String)| !is_attribute(name) || !is_attribute(value);
        match self.attributes.iter().find(wrong) {
            Some((name, value)) => Err(alloc::format!("`{name}={value}` cannot be an attribute")),
            None => Ok(()),
        }
    }
}

impl Outcome {
    #[must_use]
    pub fn exited(exit_code: i32, signal: u32) -> Self {
        Self { ending: Ending::Exited, exit_code, signal, detail: String::new() }
    }

    #[must_use]
    pub fn of(ending: Ending, detail: impl Into<String>) -> Self {
        Self { ending, exit_code: 0, signal: 0, detail: detail.into() }
    }

    /// True for an exit with code zero.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.ending == Ending::Exited && self.exit_code == 0
    }
}
