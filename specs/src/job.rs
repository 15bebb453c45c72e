//! What a tenant asks for. A [`JobSpec`] comes from [`crate::jobfile`] or off the wire, and in
//! both cases has passed [`JobSpec::check`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::OrDefault;
use crate::gpu::ProofNeed;
use crate::id::{AccountId, Country, DataName, GpuClass, JobName, SiteId};
use crate::signals::DATA_BYTES_MAX;
use crate::unit::{GpuCount, Millis, Timestamp};
use crate::version::ClusterVersion;

/// Most nodes of one gang.
pub const NODES_MAX: u32 = 16_384;
/// Most tasks on one node.
pub const TASKS_PER_NODE_MAX: u32 = 256;
/// Most GPUs on one node.
pub const GPUS_PER_NODE_MAX: u32 = 72;
/// Most jobs of one array.
pub const ARRAY_MAX: u32 = 10_000;
/// Most bytes of a command, all words together.
pub const COMMAND_BYTES_MAX: usize = 65_536;
/// Most bytes of an environment, names and values together.
pub const ENV_BYTES_MAX: usize = 65_536;
/// Highest priority; the lowest is 0.
pub const PRIORITY_MAX: u32 = 100;
/// Most tries after a loss.
pub const RETRIES_MAX: u32 = 1_000;
/// Most GPU classes that a job names.
pub const GPU_CLASSES_MAX: usize = 16;
/// Most sites, and most countries, that a job names.
pub const SITES_MAX: usize = 64;
/// Most labels.
pub const LABELS_MAX: usize = 64;
/// Longest name or value of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// Most CPU of a node that a job asks for, in thousandths of a core.
pub const CPU_MILLI_MAX: u32 = 65_536_000;
/// Most memory of a node that a job asks for, in MiB: one pebibyte.
pub const MEMORY_MIB_MAX: u32 = 1 << 30;
/// Thousandths of a GPU.
pub const GPU_MILLI: u32 = 1_000;
/// Most attributes that a node has or a job asks for.
pub const ATTRIBUTES_MAX: usize = 32;
/// Longest name or value of an attribute, in bytes; also of a hall, a rack or a domain.
pub const ATTRIBUTE_BYTES_MAX: usize = 63;
/// Longest path of a working directory, in bytes.
pub const WORKDIR_BYTES_MAX: usize = 4_096;
/// Longest run of an attempt: a leap year.
pub const TIME_LIMIT_MAX: Millis = Millis(366 * 86_400_000);
/// Most data sets that a job names.
pub const DATA_MAX: usize = 16;
/// Shortest age of a proof that a job may demand: a burn-in takes some of it.
pub const PROOF_AGE_MIN: Millis = Millis(60_000);
/// Longest age of a proof that a job may demand: a year.
pub const PROOF_AGE_MAX: Millis = Millis(365 * 86_400_000);
/// Longest time that a stopped task may take to end by itself.
pub const GRACE_MAX: Millis = Millis(600_000);

crate::enumeration! {
    /// What kind of work a job is; a hint to people and to placement, not a promise.
    pub enum JobClass {
        1 => Training = "training",
        2 => Simulation = "simulation",
        /// Runs until it is cancelled.
        3 => Service = "service",
        4 => Interactive = "interactive",
    }

    /// What becomes of an attempt whose controllers cannot be heard.
    pub enum OnPartition {
        /// The attempt is stopped when its lease or loan runs out, and the job is placed again
        /// after that is sure.
        1 => Restart = "restart",
        /// The attempt goes on, and its job is never placed again until it is known to have ended.
        2 => Wait = "wait",
    }

    /// Among which nodes a gang stands together.
    pub enum Vicinity {
        1 => Hall = "hall",
        2 => Rack = "rack",
        /// One NVLink fabric.
        3 => Domain = "domain",
    }
}

crate::message! {
    /// Where a job may run.
    pub struct PlacementSpec {
        /// The only sites allowed; empty for any.
        1 => sites: Vec<SiteId>,
        /// The only countries allowed; empty for any.
        2 => residency: Vec<Country>,
        /// Whether the job may leave its home.
        3 => spill: bool,
    }

    /// That the nodes of a gang stand near each other.
    pub struct Together {
        1 => level: Vicinity,
        /// If they cannot, the job waits; otherwise it is only better if they do.
        2 => required: bool,
        /// Nodes that stand together, one such group after the other by rank; zero for all.
        3 => group_nodes: u32,
    }

    /// What a job asks of its nodes beyond whole GPUs. Nothing, by default.
    #[derive(Default)]
    pub struct Needs {
        /// Of each node, for the job alone; zero if it does not say.
        1 => cpu_milli: u32,
        /// Of each node, for the job alone; zero if it does not say.
        2 => memory_mib: u32,
        /// Thousandths of one GPU, which is shared with others; zero for whole GPUs.
        3 => gpu_milli: u32,
        /// Each node has all of these.
        4 => attributes: BTreeMap<String, String>,
        /// Nothing else runs on its nodes.
        5 => exclusive: bool,
        /// The emptiest nodes rather than the fullest.
        6 => spread: bool,
        7 => together: Option<Together>,
        /// What the proof of each of its GPUs must be. Absent below [`ClusterVersion::DEMANDS`].
        20 => proof: Option<ProofNeed>,
    }

    /// A data set that a job reads.
    pub struct DataNeed {
        1 => name: DataName,
        /// Zero if the job does not say.
        2 => bytes: u64,
    }

    /// When a job should have ended. Invariant: one of the two is zero.
    #[derive(Copy)]
    pub struct Deadline {
        /// So long after it was admitted.
        1 => within: Millis,
        2 => by: Timestamp,
    }

    /// A job as its tenant asked for it.
    pub struct JobSpec {
        1 => name: JobName,
        2 => class: JobClass,
        /// 0 to [`PRIORITY_MAX`]; higher goes first.
        3 => priority: u32,
        /// Nodes of the gang, all or nothing.
        4 => nodes: u32,
        5 => tasks_per_node: u32,
        /// GPUs on each node.
        6 => gpus_per_node: GpuCount,
        /// Classes that will do, the preferred first; empty for any. A gang is of one class.
        7 => gpu_classes: Vec<GpuClass>,
        /// How many jobs to make of this; 1 for a plain job.
        8 => array: u32,
        /// Program and arguments of each task.
        9 => command: Vec<String>,
        10 => env: BTreeMap<String, String>,
        /// Working directory; empty for one of the attempt's own.
        11 => workdir: String,
        /// How long a stopped task may take to end before it is killed.
        12 => grace: Millis,
        /// Tries that may follow the loss of a node or a site.
        13 => retries: u32,
        14 => on_partition: OnPartition,
        15 => placement: PlacementSpec,
        /// The attempt is stopped after this long; zero for no limit.
        16 => time_limit: Millis,
        17 => labels: BTreeMap<String, String>,
        18 => needs: OrDefault<Needs>,
        /// Who it counts for; its submitter if absent.
        30 => account: Option<AccountId>,
        /// Whether it may be stopped for another job and placed again; by its class if absent.
        31 => preemptible: Option<bool>,
        /// Most jobs of the array that hold GPUs at a time; zero for no limit.
        33 => array_running_max: u32,
        /// What it reads. Absent below [`ClusterVersion::SITES`], as is the next.
        40 => data: Vec<DataNeed>,
        /// Misses nothing but the time: a job that is late runs on.
        41 => deadline: Option<Deadline>,
    }
}

/// A job spec that breaks a rule, with the field's path in a job file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct JobSpecError {
    pub path: &'static str,
    pub reason: String,
}

fn within(path: &'static str, value: u32, min: u32, max: u32) -> Result<(), JobSpecError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(JobSpecError { path, reason: alloc::format!("{value} is not between {min} and {max}") })
}

/// Whether that may be the name or the value of an attribute, or the name of a place.
#[must_use]
pub fn is_attribute(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    !text.is_empty() && text.len() <= ATTRIBUTE_BYTES_MAX && text.chars().all(is_plain)
}

impl Needs {
    /// Whether any loan can carry all of it, also one of a host that tells of its nodes only how many
    /// GPUs of which class were granted on each.
    #[must_use]
    pub fn fit_a_loan(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_mib == 0
            && self.gpu_milli == 0
            && self.attributes.is_empty()
            && !self.exclusive
            && !self.together.as_ref().is_some_and(|together| together.required)
            && self.proof.is_none()
    }

    /// Whether a loan can carry all of it if the host tells where its nodes stand and what they say of
    /// themselves. It does not tell what else they run.
    #[must_use]
    pub fn fit_a_told_loan(&self) -> bool {
        !self.ask_beside_gpus() && !self.exclusive && self.fit_a_carrying_loan()
    }

    /// Whether a loan can carry all of it if granted GPUs carry their part of their node's CPU and
    /// memory, too, and the host tells how many GPUs a node has.
    #[must_use]
    pub fn fit_a_carrying_loan(&self) -> bool {
        self.proof.is_none() && self.fit_a_proven_loan()
    }

    /// Whether a loan can carry all of it if the host also shows the proofs of its GPUs.
    #[must_use]
    pub fn fit_a_proven_loan(&self) -> bool {
        self.gpu_milli == 0
    }

    /// Whether it is CPU or memory, too, that is asked for.
    #[must_use]
    pub fn ask_beside_gpus(&self) -> bool {
        self.cpu_milli > 0 || self.memory_mib > 0
    }

    fn check(&self, nodes: u32, gpus: GpuCount) -> Result<(), JobSpecError> {
        within("spec.resources.cpus", self.cpu_milli, 0, CPU_MILLI_MAX)?;
        within("spec.resources.memory", self.memory_mib, 0, MEMORY_MIB_MAX)?;
        within("spec.resources.gpus.milli", self.gpu_milli, 0, GPU_MILLI - 1)?;
        if self.gpu_milli > 0 && gpus != GpuCount(1) {
            let reason = "a part is of one GPU; leave `count` out".into();
            return Err(JobSpecError { path: "spec.resources.gpus.milli", reason });
        }
        let path = "spec.placement.attributes";
        if self.attributes.len() > ATTRIBUTES_MAX {
            let reason = alloc::format!("{} are more than {ATTRIBUTES_MAX}", self.attributes.len());
            return Err(JobSpecError { path, reason });
        }
        if !self.attributes.iter().all(|(name, value)| is_attribute(name) && is_attribute(value)) {
            let reason = alloc::format!(
                "a name and a value are 1 to {ATTRIBUTE_BYTES_MAX} letters, digits, `-`, `_`, `.` or `/`"
            );
            return Err(JobSpecError { path, reason });
        }
        let group = self.together.as_ref().map_or(0, |together| together.group_nodes);
        if group > 0 && nodes.checked_rem(group) != Some(0) {
            let reason = alloc::format!("{nodes} nodes do not make groups of {group}");
            return Err(JobSpecError { path: "spec.placement.topology.groupSize", reason });
        }
        self.proof.as_ref().map_or(Ok(()), check_proof)
    }
}

fn check_proof(need: &ProofNeed) -> Result<(), JobSpecError> {
    if !need.tier.proves() {
        let reason = alloc::format!("{} proves nothing; t2 and t3 do", need.tier);
        return Err(JobSpecError { path: "spec.health.tier", reason });
    }
    let is_within = (PROOF_AGE_MIN..=PROOF_AGE_MAX).contains(&need.age_max);
    if need.age_max != Millis::ZERO && !is_within {
        let reason = alloc::format!(
            "not between {} s and {} days",
            PROOF_AGE_MIN.0 / 1_000,
            PROOF_AGE_MAX.0 / 86_400_000
        );
        return Err(JobSpecError { path: "spec.health.maxAge", reason });
    }
    Ok(())
}

impl Deadline {
    /// The moment, for a job that was admitted then.
    #[must_use]
    pub fn from(self, admitted_at: Timestamp) -> Timestamp {
        let within = Timestamp(admitted_at.0.saturating_add(self.within.0));
        if self.by == Timestamp(0) { within } else { self.by }
    }
}

impl JobSpec {
    /// Whether the job may run elsewhere than at its home.
    #[must_use]
    pub fn may_leave(&self) -> bool {
        self.placement.spill && self.needs.fit_a_loan()
    }

    /// Whether it may be stopped for a job that needs its GPUs more.
    #[must_use]
    pub fn is_preemptible(&self) -> bool {
        self.preemptible.unwrap_or(match self.class {
            JobClass::Training | JobClass::Simulation => true,
            JobClass::Service | JobClass::Interactive => false,
        })
    }

    /// All GPUs of the gang.
    #[must_use]
    pub fn gpus(&self) -> GpuCount {
        self.gpus_per_node.times(self.nodes)
    }

    /// The version that a site must have to keep all that this says.
    #[must_use]
    pub fn since(&self) -> ClusterVersion {
        if self.needs.proof.is_some() {
            return ClusterVersion::DEMANDS;
        }
        if !self.data.is_empty() || self.deadline.is_some() {
            return ClusterVersion::SITES;
        }
        let is_plain =
            self.account.is_none() && self.preemptible.is_none() && self.array_running_max == 0;
        if *self.needs != Needs::default() {
            // What a job asks of its nodes came between two versions.
            ClusterVersion::HEALTH
        } else if is_plain {
            ClusterVersion::FIRST
        } else {
            ClusterVersion::QUEUEING
        }
    }

    /// Takes out what a site of that version does not keep: all its members must have the same.
    pub fn cut_to(&mut self, version: ClusterVersion) {
        if version < ClusterVersion::HEALTH {
            self.needs = OrDefault::default();
        }
        if version < ClusterVersion::QUEUEING {
            self.account = None;
            self.preemptible = None;
            self.array_running_max = 0;
        }
        if version < ClusterVersion::SITES {
            self.data.clear();
            self.deadline = None;
        }
        if version < ClusterVersion::DEMANDS {
            self.needs.0.proof = None;
        }
    }

    /// When it should have ended, if it was admitted then.
    #[must_use]
    pub fn due(&self, admitted_at: Timestamp) -> Option<Timestamp> {
        self.deadline.map(|deadline| deadline.from(admitted_at))
    }

    /// Checks what the types cannot say. Whoever decodes a spec calls this before using it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), JobSpecError> {
        within("spec.priority", self.priority, 0, PRIORITY_MAX)?;
        within("spec.replicas.nodes", self.nodes, 1, NODES_MAX)?;
        within("spec.replicas.tasksPerNode", self.tasks_per_node, 1, TASKS_PER_NODE_MAX)?;
        within("spec.resources.gpus.count", self.gpus_per_node.0, 1, GPUS_PER_NODE_MAX)?;
        within("spec.array.count", self.array, 1, ARRAY_MAX)?;
        within("spec.array.maxRunning", self.array_running_max, 0, ARRAY_MAX)?;
        within("spec.retry.max", self.retries, 0, RETRIES_MAX)?;
        if self.grace > GRACE_MAX {
            let reason = alloc::format!("longer than {} s", GRACE_MAX.0 / 1_000);
            return Err(JobSpecError { path: "spec.time.grace", reason });
        }
        if self.command.first().is_none_or(String::is_empty) {
            let reason = "names no program".into();
            return Err(JobSpecError { path: "spec.run.command", reason });
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            let reason = "holds a zero byte".into();
            return Err(JobSpecError { path: "spec.run.command", reason });
        }
        if self.command.iter().map(String::len).sum::<usize>() > COMMAND_BYTES_MAX {
            let reason = alloc::format!("longer than {COMMAND_BYTES_MAX} bytes");
            return Err(JobSpecError { path: "spec.run.command", reason });
        }
        self.check_sizes()?;
        self.check_data()?;
        self.check_deadline()?;
        self.needs.check(self.nodes, self.gpus_per_node)?;
        self.check_env()
    }

    fn check_sizes(&self) -> Result<(), JobSpecError> {
        let placement = &self.placement;
        let sizes = [
            ("spec.resources.gpus.model", self.gpu_classes.len(), GPU_CLASSES_MAX),
            ("spec.placement.sites", placement.sites.len(), SITES_MAX),
            ("spec.placement.dataResidency", placement.residency.len(), SITES_MAX),
            ("metadata.labels", self.labels.len(), LABELS_MAX),
            ("spec.run.workdir", self.workdir.len(), WORKDIR_BYTES_MAX),
        ];
        for (path, size, max) in sizes {
            if size > max {
                return Err(JobSpecError {
                    path,
                    reason: alloc::format!("{size} is more than {max}"),
                });
            }
        }
        let is_long = |text: &String| text.len() > LABEL_BYTES_MAX;
        if self.labels.iter().any(|(name, value)| is_long(name) || is_long(value)) {
            let reason = alloc::format!("a label is longer than {LABEL_BYTES_MAX} bytes");
            return Err(JobSpecError { path: "metadata.labels", reason });
        }
        if self.time_limit > TIME_LIMIT_MAX {
            let reason = "longer than a year".into();
            return Err(JobSpecError { path: "spec.time.limit", reason });
        }
        if self.workdir.contains('\0') {
            let reason = "holds a zero byte".into();
            return Err(JobSpecError { path: "spec.run.workdir", reason });
        }
        Ok(())
    }

    fn check_data(&self) -> Result<(), JobSpecError> {
        let path = "spec.data";
        if self.data.len() > DATA_MAX {
            let reason = alloc::format!("{} are more than {DATA_MAX}", self.data.len());
            return Err(JobSpecError { path, reason });
        }
        for (nth, need) in self.data.iter().enumerate() {
            if need.bytes > DATA_BYTES_MAX {
                let reason = alloc::format!("`{}` is larger than an exbibyte", need.name);
                return Err(JobSpecError { path, reason });
            }
            if self.data.iter().take(nth).any(|other| other.name == need.name) {
                let reason = alloc::format!("`{}` is named twice", need.name);
                return Err(JobSpecError { path, reason });
            }
        }
        Ok(())
    }

    fn check_deadline(&self) -> Result<(), JobSpecError> {
        let Some(Deadline { within, by }) = self.deadline else { return Ok(()) };
        let path = "spec.time.finishWithin";
        if within > TIME_LIMIT_MAX {
            return Err(JobSpecError { path, reason: "longer than a year".into() });
        }
        if (within == Millis::ZERO) == (by == Timestamp(0)) {
            return Err(JobSpecError { path, reason: "a deadline is one span or one time".into() });
        }
        Ok(())
    }

    fn check_env(&self) -> Result<(), JobSpecError> {
        let path = "spec.run.env";
        let bytes: usize = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > ENV_BYTES_MAX {
            let reason = alloc::format!("longer than {ENV_BYTES_MAX} bytes");
            return Err(JobSpecError { path, reason });
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let reason = alloc::format!("`{name}` cannot be an environment variable");
                return Err(JobSpecError { path, reason });
            }
        }
        Ok(())
    }
}
