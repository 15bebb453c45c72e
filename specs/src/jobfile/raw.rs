//! The file as it is written: every field that a tenant may give, unchecked. Doc comments here
//! are the descriptions of the JSON Schema.

use alloc::collections::BTreeMap;
use alloc::string::String;
#[cfg(feature = "files")]
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};

#[cfg(feature = "files")]
use crate::job;

/// A Spillway job: a gang of tasks on GPUs.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawJobFile {
    /// The version of this form.
    #[cfg_attr(feature = "files", schemars(extend("const" = "spillway/v1")))]
    pub api_version: String,
    #[cfg_attr(feature = "files", schemars(extend("const" = "Job")))]
    pub kind: String,
    pub metadata: RawMetadata,
    pub spec: RawSpec,
}

/// What the job is called.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawMetadata {
    /// 1 to 63 of a-z, 0-9, '-' and '.'; need not be unique.
    #[cfg_attr(
        feature = "files",
        schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))
    )]
    pub name: String,
    /// Anything the tenant wants to find the job by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What the job needs and does.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawSpec {
    /// The kind of work; `training` if absent.
    #[cfg_attr(
        feature = "files",
        schemars(extend("enum" = ["training", "simulation", "service", "interactive"]))
    )]
    pub class: Option<String>,
    /// 0 (last) to 100 (first); 50 if absent.
    #[cfg_attr(feature = "files", schemars(range(max = job::PRIORITY_MAX)))]
    pub priority: Option<u64>,
    /// Who it counts for, as an operator set up: `acme/vision/ada`; the submitter if absent.
    pub account: Option<String>,
    /// Whether it may be stopped for a job of higher priority, or for one whose account is due what
    /// it is guaranteed, and placed again, three times at most; if absent, true for `training` and
    /// `simulation`.
    pub preemptible: Option<bool>,
    #[serde(default)]
    pub replicas: RawReplicas,
    #[serde(default)]
    pub resources: RawResources,
    #[serde(default)]
    pub array: RawArray,
    pub run: RawRun,
    #[serde(default)]
    pub time: RawTime,
    #[serde(default)]
    pub retry: RawRetry,
    /// What the home does when it loses touch with the site that runs the job: `restart` (the
    /// default) places it again once the other copy has surely ended, `wait` lets it run on.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["restart", "wait"])))]
    pub on_partition: Option<String>,
    #[serde(default)]
    pub placement: RawPlacement,
    /// What is demanded of the proof of each of its GPUs; any proof that holds if absent.
    pub health: Option<RawHealth>,
    /// Data sets that it reads. Sites where they lie are preferred, and they go nowhere that they
    /// may not.
    #[serde(default)]
    #[cfg_attr(feature = "files", schemars(length(max = job::DATA_MAX)))]
    pub data: Vec<RawData>,
}

/// Which proofs of a GPU's health will do when the job starts.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawHealth {
    /// How long ago the GPU passed, at most: `24h`, `7d`; as long as a proof holds if absent.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$")))]
    pub max_age: Option<String>,
    /// The burn-in that it passed, or a more thorough one; `t2` if absent, which every proof is of.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["t2", "t3"])))]
    pub tier: Option<String>,
}

/// A data set that the job reads.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawData {
    /// As the sites that hold it call it: `acme/corpus-2026`.
    pub name: String,
    /// How large it is, such as `800Gi` or `2Ti`; as its home says if absent.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^[0-9]+(Mi|Gi|Ti)$")))]
    pub size: Option<String>,
}

/// The shape of the gang; all of it starts, or none.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawReplicas {
    /// How many nodes; 1 if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::NODES_MAX)))]
    pub nodes: Option<u64>,
    /// How many tasks on each node; 1 if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::TASKS_PER_NODE_MAX)))]
    pub tasks_per_node: Option<u64>,
}

/// What each node of the gang must have.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawResources {
    #[serde(default)]
    pub gpus: RawGpus,
    /// Cores of each node, for the job alone; not counted if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::CPU_MILLI_MAX / 1_000)))]
    pub cpus: Option<u64>,
    /// Memory of each node, for the job alone, such as `64Gi` or `512Mi`; not counted if absent.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^[0-9]+(Mi|Gi|Ti)$")))]
    pub memory: Option<String>,
}

/// GPUs of each node.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawGpus {
    /// How many on each node; 1 if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::GPUS_PER_NODE_MAX)))]
    pub count: Option<u64>,
    /// Thousandths of one GPU, which the job shares with others; whole GPUs if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::GPU_MILLI - 1)))]
    pub milli: Option<u64>,
    /// One class (`h100`) or several, the best first; any class if absent.
    pub model: Option<OneOrMany>,
}

/// Many copies of the job, told apart by `SPILLWAY_ARRAY_INDEX`.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawArray {
    /// How many; 1 if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::ARRAY_MAX)))]
    pub count: Option<u64>,
    /// How many of them may hold GPUs at a time; all if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::ARRAY_MAX)))]
    pub max_running: Option<u64>,
}

/// What every task runs.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawRun {
    /// A program and its arguments, or one text that `/bin/sh -c` runs.
    pub command: OneOrMany,
    /// Added to the environment of every task.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where the tasks start; a directory of the attempt's own if absent.
    #[serde(default)]
    pub workdir: String,
}

/// Spans such as `30s`, `5m`, `2h`, `1h30m`, `1d` or `500ms`.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawTime {
    /// How long an attempt may run; no limit if absent.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$")))]
    pub limit: Option<String>,
    /// How long a task has between SIGTERM and SIGKILL; `10s` if absent.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$")))]
    pub grace: Option<String>,
    /// How long after its submission it should have ended: it goes before other jobs of its
    /// account and priority as that comes near, and runs on when it is late.
    #[cfg_attr(feature = "files", schemars(regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$")))]
    pub finish_within: Option<String>,
    /// The same, as a time with its zone: `2026-12-24T06:00:00+01:00`. At most one of the two.
    pub finish_by: Option<String>,
}

/// When to try again. A task that exits by itself is never tried again.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawRetry {
    /// How often after the loss of a node or a site; 10 if absent.
    #[cfg_attr(feature = "files", schemars(range(max = job::RETRIES_MAX)))]
    pub max: Option<u64>,
}

/// Where the job may run.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawPlacement {
    /// The only sites that may run it; any if absent.
    #[serde(default, deserialize_with = "stated")]
    #[cfg_attr(feature = "files", schemars(with = "Vec<String>", length(min = 1), transform = forget_default))]
    pub sites: Option<Vec<String>>,
    /// The only countries it may be in, as two letters (`DE`); any if absent.
    #[serde(default, deserialize_with = "stated")]
    #[cfg_attr(feature = "files", schemars(with = "Vec<String>", length(min = 1), transform = forget_default))]
    pub data_residency: Option<Vec<String>>,
    /// Whether it may leave the site it was submitted to; true if absent.
    pub spill: Option<bool>,
    /// What each node must have, by name and value, as its agent says it; anything if absent.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Whether nothing else may run on its nodes; false if absent.
    pub exclusive: Option<bool>,
    /// `pack` (the default) takes the fullest nodes that will do, `spread` the emptiest.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["pack", "spread"])))]
    pub fill: Option<String>,
    #[serde(default)]
    pub topology: RawTopology,
}

/// How near to each other the nodes of the gang stand. At most one of the three is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawTopology {
    /// In one NVLink fabric: `require` waits for such a place, `prefer` takes another if it must.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["require", "prefer"])))]
    pub same_domain: Option<String>,
    /// In one rack.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["require", "prefer"])))]
    pub same_rack: Option<String>,
    /// In one hall.
    #[cfg_attr(feature = "files", schemars(extend("enum" = ["require", "prefer"])))]
    pub same_hall: Option<String>,
    /// Nodes that stand together, one such group after the other by rank; all if absent.
    #[cfg_attr(feature = "files", schemars(range(min = 1, max = job::NODES_MAX)))]
    pub group_size: Option<u64>,
}

/// A list that is there. A name with nothing behind it is refused here: it would allow everything
/// where the author began to forbid.
fn stated<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

/// The schema of a list whose absence no list can stand for.
#[cfg(feature = "files")]
fn forget_default(schema: &mut schemars::Schema) {
    schema.remove("default");
}

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "files", derive(schemars::JsonSchema), schemars(untagged))]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

// By hand: an untagged derive would answer any mistake with "no variant matched".
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(text) = list.next_element()? {
                    many.push(text);
                }
                Ok(OneOrMany::Many(many))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
