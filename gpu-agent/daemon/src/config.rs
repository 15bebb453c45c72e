//! `agent.toml`: which node of which site a directory belongs to, where the controllers are, and
//! what the operator said of the machine.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use specs::fault::{Fault, FaultCode};
use specs::id::{GpuClass, NodeId, SiteId};
use specs::job::GPUS_PER_NODE_MAX;

use crate::facts::{Attribute, Topology};
use crate::{disk, error};

/// Name of the file.
const FILE: &str = "agent.toml";

/// GPUs that an operator declares: `b200:8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub class: GpuClass,
    /// 1 to [`GPUS_PER_NODE_MAX`].
    pub count: u16,
}

impl FromStr for Declared {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, count) = text
            .split_once(':')
            .ok_or_else(|| format!("`{text}` is not CLASS:COUNT, such as b200:8"))?;
        let class = GpuClass::new(class).map_err(|error| error.to_string())?;
        let count = count.parse::<u16>().ok();
        let count = count.filter(|count| (1..=GPUS_PER_NODE_MAX).contains(&u32::from(*count)));
        let count =
            count.ok_or_else(|| format!("`{text}`: the count is not 1 to {GPUS_PER_NODE_MAX}"))?;
        Ok(Self { class, count })
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.class, self.count)
    }
}

/// What an agent is, from its enrolment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub site: SiteId,
    pub node: NodeId,
    /// `host:port` of every controller.
    pub controllers: Vec<String>,
    /// Where other nodes of a gang reach this one.
    pub address: String,
    /// Empty where the driver knows the GPUs.
    pub declared: Vec<Declared>,
    pub topology: Topology,
    pub attributes: Vec<Attribute>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    site: String,
    node: String,
    controllers: Vec<String>,
    address: String,
    #[serde(default)]
    declare: Vec<String>,
    #[serde(default)]
    topology: String,
    #[serde(default)]
    attributes: Vec<String>,
}

impl Config {
    /// Reads the file of an agent's directory; none if the directory is not enrolled.
    ///
    /// # Errors
    /// A file that makes no sense.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, Fault> {
        let path = path(directory);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error::disk("read", &path)(error)),
        };
        parse(&text).map(Some).map_err(|why| {
            let message = format!("{} makes no sense: {why}", path.display());
            Fault::new(FaultCode::InvalidArgument, message)
                .with_hint("put it right, or enrol again with an empty directory")
        })
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), Fault> {
        let raw = RawConfig {
            site: self.site.to_string(),
            node: self.node.to_string(),
            controllers: self.controllers.clone(),
            address: self.address.clone(),
            declare: self.declared.iter().map(ToString::to_string).collect(),
            topology: self.topology.to_string(),
            attributes: self.attributes.iter().map(ToString::to_string).collect(),
        };
        let path = path(directory);
        let text = toml::to_string(&raw)
            .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
        disk::replace(&path, text.as_bytes()).map_err(error::disk("write", &path))
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn parse(text: &str) -> Result<Config, String> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if raw.controllers.is_empty() {
        return Err("it names no controller".into());
    }
    let declared: Result<Vec<Declared>, String> =
        raw.declare.iter().map(|text| text.parse()).collect();
    let declared = declared?;
    check_declared(&declared)?;
    Ok(Config {
        site: SiteId::new(&raw.site).map_err(|error| error.to_string())?,
        node: NodeId::new(&raw.node).map_err(|error| error.to_string())?,
        controllers: raw.controllers,
        address: raw.address,
        declared,
        topology: raw.topology.parse()?,
        attributes: raw.attributes.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    })
}

/// A node has a limit, whatever it is declared to have.
pub(crate) fn check_declared(declared: &[Declared]) -> Result<(), String> {
    let sum: u32 = declared.iter().map(|it| u32::from(it.count)).sum();
    if sum > GPUS_PER_NODE_MAX {
        return Err(format!("{sum} GPUs are declared, and a node has at most {GPUS_PER_NODE_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            site: SiteId::new("berlin").unwrap(),
            node: NodeId::new("n01").unwrap(),
            controllers: vec!["127.0.0.1:7000".into()],
            address: "n01".into(),
            declared: vec!["b200:8".parse().unwrap()],
            topology: "hall=h1,rack=r07".parse().unwrap(),
            attributes: vec!["fabric=ndr".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(directory.path()).unwrap(), None);
        config().save(directory.path()).unwrap();
        assert_eq!(Config::load(directory.path()).unwrap(), Some(config()));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_said_to_be_so() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "site = 7").unwrap();
        let fault = Config::load(directory.path()).unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidArgument);
        assert!(fault.message.contains("agent.toml"), "{fault}");
    }

    #[test]
    fn declarations_have_a_class_and_a_count_within_limits() {
        for text in ["b200", "b200:", ":8", "b200:0", "b200:73", "B200:8", "b200:-1"] {
            assert!(text.parse::<Declared>().is_err(), "{text}");
        }
        let two: Vec<Declared> = ["b200:72", "h100:1"].map(|it| it.parse().unwrap()).into();
        assert!(check_declared(&two[..1]).is_ok());
        assert!(check_declared(&two).is_err());
    }
}
