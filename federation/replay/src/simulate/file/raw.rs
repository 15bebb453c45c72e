//! The file as it is written, unchecked. Doc comments here are the descriptions of the JSON Schema;
//! every field is shown in `specs/examples/what-if.yaml`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Error, Visitor};
use specs::job::{GPUS_PER_NODE_MAX, PRIORITY_MAX};

use super::CASES_MAX;
use crate::simulate::scenario::{LOAD_MAX, SITE_NODES_MAX};

/// A span of time, as `parse_span` reads it.
const SPAN: &str = r"^([0-9]+(ms|s|m|h|d))+$";

/// A what-if question: jobs of files on sites that are made up.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawFile {
    /// The version of this form.
    #[schemars(extend("const" = "spillway/v1"))]
    pub(super) api_version: String,
    /// Always `Simulation`.
    #[schemars(extend("const" = "Simulation"))]
    pub(super) kind: String,
    pub(super) metadata: RawMetadata,
    pub(super) spec: RawSpec,
}

/// What the scenario is called.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMetadata {
    /// Anything; reports show it.
    pub(super) name: String,
}

/// The sites, the jobs that come to them, and what is compared.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSpec {
    /// The first is the home of jobs of which nothing else is said.
    #[schemars(length(min = 1))]
    pub(super) sites: Vec<RawSite>,
    /// A file may be named more than once.
    #[schemars(length(min = 1))]
    pub(super) workload: Vec<RawWorkload>,
    /// Of all cases.
    #[serde(default)]
    pub(super) policy: RawPolicy,
    /// Each case changes some of the policy or of the sites; one case as it is if absent.
    #[serde(default)]
    #[schemars(length(max = CASES_MAX))]
    pub(super) compare: Vec<RawCase>,
    /// A file of prices of electricity, from where this one lies: `time_s`, `site`, `eur_per_kwh` and,
    /// if you like, `kg_co2_per_kwh`.
    pub(super) prices: Option<String>,
    /// Waiting jobs and idle grants are looked at this often; `30s` if absent, at least a second.
    #[schemars(regex(pattern = SPAN))]
    pub(super) look: Option<String>,
    /// For copies and their times; 1 if absent.
    pub(super) seed: Option<u64>,
    /// Where the page goes, from where this file lies.
    pub(super) html: Option<String>,
}

/// A site: equal nodes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSite {
    /// As in a controller: a-z, 0-9 and '-'.
    pub(super) name: String,
    /// How many nodes.
    #[schemars(range(max = SITE_NODES_MAX))]
    pub(super) nodes: u64,
    /// GPUs of each node.
    #[schemars(range(min = 1, max = GPUS_PER_NODE_MAX))]
    pub(super) gpus_per_node: u64,
    /// What they are. If any site says it, what jobs ask for counts.
    pub(super) gpu_class: Option<String>,
    /// Rules of lending; all GPUs to everybody if absent, nothing if empty.
    pub(super) lend: Option<Vec<RawLending>>,
    /// Whole nodes that are taken for good: a number of GPUs, or a part such as `12%`.
    pub(super) busy: Option<RawValue>,
    #[serde(default)]
    pub(super) layout: RawLayout,
    #[serde(default)]
    pub(super) power: RawPower,
}

/// What a site lends to whom; of several rules the first that fits a home decides.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLending {
    /// A site; any if absent.
    pub(super) to: Option<String>,
    /// A number of GPUs, or a part such as `50%`.
    pub(super) gpus: RawValue,
    /// GPUs that stay free for the site's own jobs; none if absent.
    pub(super) keep_free: Option<u64>,
}

/// How many nodes stand together; nothing is known of it if absent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLayout {
    /// One NVLink fabric.
    #[schemars(range(min = 1, max = SITE_NODES_MAX))]
    pub(super) nodes_per_domain: Option<u64>,
    /// A rack.
    #[schemars(range(min = 1, max = SITE_NODES_MAX))]
    pub(super) nodes_per_rack: Option<u64>,
    /// A hall.
    #[schemars(range(min = 1, max = SITE_NODES_MAX))]
    pub(super) nodes_per_hall: Option<u64>,
}

/// What electricity costs, and how much a GPU takes.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPower {
    /// Of a GPU in use, with its part of the node; 1000 if absent.
    #[schemars(range(min = 0, max = 100_000))]
    pub(super) watts_per_gpu: Option<f64>,
    /// What cooling and the rest of the hall multiply it by; 1 if absent.
    #[schemars(range(min = 1, max = 10))]
    pub(super) pue: Option<f64>,
    /// At all times, where `prices` has none for this site.
    #[schemars(range(min = -1000, max = 1000))]
    pub(super) eur_per_kwh: Option<f64>,
    /// Wherever `prices` does not say.
    #[schemars(range(min = 0, max = 100))]
    pub(super) kg_co2_per_kwh: Option<f64>,
}

/// Jobs of a file, or a part of them, and what they have in common.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawWorkload {
    /// A file of jobs, CSV or gzipped CSV, from where this one lies.
    pub(super) jobs: String,
    /// The site that they come to; the first if absent.
    pub(super) home: Option<String>,
    /// Only jobs of these tenants or, where there are none, clusters; all if absent.
    #[serde(default)]
    pub(super) only: Vec<String>,
    /// The first second of submission, by the file's clock.
    pub(super) from: Option<u64>,
    /// The last.
    pub(super) to: Option<u64>,
    /// Only jobs of at least so many GPUs.
    pub(super) gpus_min: Option<u64>,
    /// Only jobs of at most so many GPUs.
    pub(super) gpus_max: Option<u64>,
    /// Copies of each job, in the mean; 1 if absent.
    #[schemars(range(min = 0.0, max = LOAD_MAX))]
    pub(super) load: Option<f64>,
    /// They come later by this.
    #[schemars(regex(pattern = SPAN))]
    pub(super) shift: Option<String>,
    /// 0 (last) to 100 (first); 50 if absent.
    #[schemars(range(max = PRIORITY_MAX))]
    pub(super) priority: Option<u64>,
    /// Whether they may be stopped for others; true if absent.
    pub(super) preemptible: Option<bool>,
    pub(super) together: Option<RawTogether>,
}

/// How near to each other the nodes of a gang stand.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawTogether {
    /// In one NVLink fabric, one rack or one hall.
    #[schemars(extend("enum" = ["domain", "rack", "hall"]))]
    pub(super) same: String,
    /// `prefer` (the default) takes another place if it must, `require` waits.
    #[schemars(extend("enum" = ["prefer", "require"]))]
    pub(super) how: Option<String>,
}

/// How the planner is set.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPolicy {
    /// Whether jobs may leave; true if absent.
    pub(super) spill: Option<bool>,
    /// How long a job waits at home before it may leave; `0s` if absent.
    #[schemars(regex(pattern = SPAN))]
    pub(super) spill_after: Option<String>,
    /// How long a job is passed over before nodes are kept for it.
    #[schemars(regex(pattern = SPAN))]
    pub(super) patience: Option<String>,
    /// Whether jobs are stopped for others; true if absent.
    pub(super) preemption: Option<bool>,
    /// By account: a tenant's name.
    pub(super) quota: Option<BTreeMap<String, RawQuota>>,
}

/// How many GPUs an account may hold; at least one of the two is given.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawQuota {
    /// What it gets before others borrow.
    pub(super) guaranteed: Option<u64>,
    /// The most that it may hold.
    pub(super) max: Option<u64>,
}

/// Another setting of the same planner on the same jobs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawCase {
    /// Told beside its figures; no two are alike.
    #[schemars(length(min = 1))]
    pub(super) name: String,
    #[serde(default)]
    pub(super) policy: RawPolicy,
    /// As in `--sweep`: `gigafactory: 512`, `load(berlin): 1.2`.
    #[serde(default)]
    pub(super) set: BTreeMap<String, RawValue>,
}

/// A number or a text, as a text.
#[derive(Debug, Clone)]
pub(super) struct RawValue(pub(super) String);

impl JsonSchema for RawValue {
    fn schema_name() -> Cow<'static, str> {
        "NumberOrText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A number or a text.", "type": ["number", "string"] })
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = RawValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawValue, E> {
                Ok(RawValue(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<RawValue, E> {
                Ok(RawValue(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<RawValue, E> {
                Ok(RawValue(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<RawValue, E> {
                Ok(RawValue(number.to_string()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
