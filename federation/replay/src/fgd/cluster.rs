//! Nodes and pods as the protocol sees them.

use std::collections::BTreeMap;

use crate::trace::{JobRow, NodeRow, WHOLE};

/// What a pod asks for. Equal pods share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    pub cpu: u64,
    pub mem: u64,
    /// GPUs, on one node.
    pub gpus: u32,
    /// Of each GPU.
    pub milli: u32,
    /// Models that will do, by number; `None` for any.
    pub models: Option<Vec<u32>>,
}

impl Pod {
    /// All GPU shares together.
    #[must_use]
    pub fn gpu_milli(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.milli)
    }

    /// True if it takes a part of one GPU.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.gpus == 1 && self.milli < WHOLE
    }
}

/// A node, and what is left on it.
#[derive(Debug, Clone)]
pub struct Node {
    pub cpu: u64,
    pub mem: u64,
    pub model: u32,
    /// Free shares of each GPU.
    pub left: Vec<u32>,
    /// How many pods of which kind are on it: key 0 for shared, else the number of GPUs.
    pub kinds: BTreeMap<u32, u32>,
}

impl Node {
    #[must_use]
    pub fn gpu_left(&self) -> u64 {
        self.left.iter().map(|&left| u64::from(left)).sum()
    }

    #[must_use]
    pub fn wholly_free(&self) -> usize {
        self.left.iter().filter(|&&left| left == WHOLE).count()
    }

    #[must_use]
    pub fn fits(&self, pod: &Pod) -> bool {
        let models = pod.models.as_ref();
        self.cpu >= pod.cpu
            && self.mem >= pod.mem
            && (pod.gpus == 0 || models.is_none_or(|models| models.contains(&self.model)))
            && self.left.iter().filter(|&&left| left >= pod.milli).count() >= pod.gpus as usize
    }

    /// Takes what the pod asks for: of a shared pod, from that GPU; of another, from the first
    /// GPUs that have it.
    pub fn take(&mut self, pod: &Pod, gpu: Option<usize>) {
        self.cpu = self.cpu.saturating_sub(pod.cpu);
        self.mem = self.mem.saturating_sub(pod.mem);
        match gpu {
            Some(gpu) => self.left[gpu] = self.left[gpu].saturating_sub(pod.milli),
            None => {
                let able = self.left.iter_mut().filter(|left| **left >= pod.milli);
                for left in able.take(pod.gpus as usize) {
                    *left -= pod.milli;
                }
            }
        }
        if pod.gpus > 0 {
            let kind = if pod.is_shared() { 0 } else { pod.gpus };
            *self.kinds.entry(kind).or_default() += 1;
        }
    }
}

/// The nodes and the list of pods of an experiment.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// All GPU shares of the nodes.
    pub capacity: u64,
    /// Different pods.
    pub shapes: Vec<Pod>,
    /// The list of pods, each by its shape.
    pub pods: Vec<u32>,
    /// True if the column that should name the nodes with GPUs named others, and was not used.
    pub is_list_wrong: bool,
}

/// A cluster on which the experiment makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("no node of the file has a GPU")]
    NoGpus,
    #[error("no job of the file asks for a GPU")]
    NoDemand,
    #[error("column `gpus`: a job asks for {gpus} GPUs of one node; the largest node has {most}")]
    TooLarge { line: u64, gpus: u32, most: u32 },
}

impl ClusterError {
    /// The line of the jobs file that is at fault.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::NoGpus | Self::NoDemand => None,
            Self::TooLarge { line, .. } => Some(*line),
        }
    }
}

impl Cluster {
    /// The nodes that have GPUs, or fewer of them if `in_gpu_node_list` says so; and all jobs.
    ///
    /// # Errors
    /// There is nothing to place, nowhere to place it, or a job that no node could ever hold.
    pub fn of(nodes: &[NodeRow], jobs: &[JobRow]) -> Result<Self, ClusterError> {
        let is_list_wrong = nodes.iter().any(|node| node.is_listed == Some(true) && node.gpus == 0);
        let counts =
            |node: &&NodeRow| node.gpus > 0 && (is_list_wrong || node.is_listed != Some(false));
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        let mut number = |name| {
            let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
            *names.entry(name).or_insert(next)
        };
        // A file without memory is one in which memory does not matter.
        let has_memory = nodes.iter().any(|node| node.mem_mib > 0);
        let made = nodes.iter().filter(counts).map(|row| Node {
            cpu: row.cpu_milli,
            mem: if has_memory { row.mem_mib } else { u64::MAX },
            model: number(&row.gpu_type),
            left: vec![WHOLE; row.gpus as usize],
            kinds: BTreeMap::new(),
        });
        let nodes: Vec<Node> = made.collect();
        let most = nodes.iter().map(|node| node.left.len()).max().ok_or(ClusterError::NoGpus)?;
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let mut shapes: BTreeMap<Pod, u32> = BTreeMap::new();
        let mut pods = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.gpus > most {
                let (line, gpus) = (job.line, job.gpus);
                return Err(ClusterError::TooLarge { line, gpus, most });
            }
            let models: Vec<u32> = job.gpu_types.iter().map(|name| number(name)).collect();
            let pod = Pod {
                cpu: job.cpu_milli,
                mem: job.mem_mib,
                gpus: job.gpus,
                milli: job.gpu_milli,
                models: if models.is_empty() { None } else { Some(models) },
            };
            let next = u32::try_from(shapes.len()).unwrap_or(u32::MAX);
            pods.push(*shapes.entry(pod).or_insert(next));
        }
        let capacity = nodes.iter().map(Node::gpu_left).sum();
        let mut by_number: Vec<(u32, Pod)> =
            shapes.into_iter().map(|(pod, at)| (at, pod)).collect();
        by_number.sort();
        let shapes: Vec<Pod> = by_number.into_iter().map(|(_, pod)| pod).collect();
        if shapes.iter().all(|pod| pod.gpus == 0) {
            return Err(ClusterError::NoDemand);
        }
        Ok(Self { nodes, capacity, shapes, pods, is_list_wrong })
    }
}
