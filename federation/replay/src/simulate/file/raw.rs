//! The file as it is written, unchecked. What each field means is in `specs/examples/what-if.yaml`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error, Visitor};

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata: RawMetadata,
    pub(super) spec: RawSpec,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMetadata {
    pub(super) name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSpec {
    pub(super) sites: Vec<RawSite>,
    pub(super) workload: Vec<RawWorkload>,
    #[serde(default)]
    pub(super) policy: RawPolicy,
    #[serde(default)]
    pub(super) compare: Vec<RawCase>,
    /// A file of prices.
    pub(super) prices: Option<String>,
    pub(super) look: Option<String>,
    pub(super) seed: Option<u64>,
    /// Where the page goes.
    pub(super) html: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSite {
    pub(super) name: String,
    pub(super) nodes: u64,
    pub(super) gpus_per_node: u64,
    pub(super) gpu_class: Option<String>,
    pub(super) lend: Option<Vec<RawLending>>,
    pub(super) busy: Option<RawValue>,
    #[serde(default)]
    pub(super) layout: RawLayout,
    #[serde(default)]
    pub(super) power: RawPower,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLending {
    pub(super) to: Option<String>,
    pub(super) gpus: RawValue,
    pub(super) keep_free: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLayout {
    pub(super) nodes_per_domain: Option<u64>,
    pub(super) nodes_per_rack: Option<u64>,
    pub(super) nodes_per_hall: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPower {
    pub(super) watts_per_gpu: Option<f64>,
    pub(super) pue: Option<f64>,
    pub(super) eur_per_kwh: Option<f64>,
    pub(super) kg_co2_per_kwh: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub(super) jobs: String,
    pub(super) home: Option<String>,
    #[serde(default)]
    pub(super) only: Vec<String>,
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
    pub(super) gpus_min: Option<u64>,
    pub(super) gpus_max: Option<u64>,
    pub(super) load: Option<f64>,
    pub(super) shift: Option<String>,
    pub(super) priority: Option<u64>,
    pub(super) preemptible: Option<bool>,
    pub(super) together: Option<RawTogether>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawTogether {
    /// `domain`, `rack` or `hall`.
    pub(super) same: String,
    /// `prefer` or `require`.
    pub(super) how: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) spill: Option<bool>,
    pub(super) spill_after: Option<String>,
    pub(super) patience: Option<String>,
    pub(super) preemption: Option<bool>,
    pub(super) quota: Option<BTreeMap<String, RawQuota>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawQuota {
    pub(super) guaranteed: Option<u64>,
    pub(super) max: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawCase {
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
