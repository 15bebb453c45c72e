//! What a node is besides its GPUs: where it stands and which attributes it has, as the operator
//! says it; CPU and memory, as the machine says it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::str::FromStr;
use std::thread;

use specs::job::is_attribute;
use specs::wire::agent::Facts;

/// Where the kernel says how much memory there is.
const MEMORY: &str = "/proc/meminfo";

/// Where a node stands: `hall=h1,rack=r07,domain=nvl-3`, each of which may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Names of halls are the site's.
    pub hall: String,
    /// Names of racks and domains are the hall's.
    pub rack: String,
    /// Nodes whose GPUs share one NVLink fabric.
    pub domain: String,
}

impl FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut it = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((level, name)) = part.split_once('=') else {
                return Err(format!("`{part}` is not LEVEL=NAME, such as rack=r07"));
            };
            let place = match level {
                "hall" => &mut it.hall,
                "rack" => &mut it.rack,
                "domain" => &mut it.domain,
                _ => return Err(format!("`{level}` is not hall, rack or domain")),
            };
            if !is_attribute(name) {
                return Err(format!("`{name}` cannot be the name of a {level}"));
            }
            if !place.is_empty() {
                return Err(format!("`{text}` names two of a {level}"));
            }
            name.clone_into(place);
        }
        Ok(it)
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = [("hall", &self.hall), ("rack", &self.rack), ("domain", &self.domain)];
        let said = levels.iter().filter(|(_, name)| !name.is_empty());
        let said: Vec<String> = said.map(|(level, name)| format!("{level}={name}")).collect();
        f.write_str(&said.join(","))
    }
}

/// A name and a value that jobs may ask for: `fabric=ndr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub name: String,
    pub value: String,
}

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if is_attribute(name) && is_attribute(value) => {
                Ok(Self { name: name.into(), value: value.into() })
            }
            _ => Err(format!("`{text}` is not NAME=VALUE, such as fabric=ndr")),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// What is reported of this machine.
///
/// # Errors
/// What was said goes beyond a limit.
pub(crate) fn of_machine(topology: &Topology, attributes: &[Attribute]) -> Result<Facts, String> {
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let pairs = attributes.iter().map(|it| (it.name.clone(), it.value.clone()));
    let facts = Facts {
        cpu_milli: u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1_000),
        memory_mib: fs::read_to_string(MEMORY).ok().and_then(|text| memory_of(&text)).unwrap_or(0),
        hall: topology.hall.clone(),
        rack: topology.rack.clone(),
        domain: topology.domain.clone(),
        attributes: pairs.collect::<BTreeMap<_, _>>(),
    };
    facts.check().map(|()| facts)
}

/// In MiB.
fn memory_of(text: &str) -> Option<u32> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    u32::try_from(kib >> 10).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_is_written() {
        for text in ["", "hall=h1", "rack=r07", "hall=h1,rack=r07,domain=nvl-3"] {
            assert_eq!(text.parse::<Topology>().unwrap().to_string(), text);
        }
        for text in ["r07", "row=3", "rack=", "rack=a b", "rack=a,rack=b"] {
            assert!(text.parse::<Topology>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_attribute_has_a_name_and_a_value() {
        assert_eq!("fabric=ndr".parse::<Attribute>().unwrap().to_string(), "fabric=ndr");
        for text in ["", "fabric", "=ndr", "fabric=", "a=b=c", "a b=c"] {
            assert!(text.parse::<Attribute>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_machine_says_how_many_cores_and_how_much_memory_it_has() {
        let attributes: Vec<Attribute> = vec!["fabric=ndr".parse().unwrap()];
        let facts = of_machine(&"rack=r1".parse().unwrap(), &attributes).unwrap();
        assert!(facts.cpu_milli >= 1_000 && facts.memory_mib > 0, "{facts:?}");
        assert_eq!((facts.rack.as_str(), facts.attributes["fabric"].as_str()), ("r1", "ndr"));
        assert_eq!(memory_of("MemFree: 1 kB\nMemTotal:  2097152 kB\n"), Some(2_048));
        assert_eq!(memory_of("MemTotal: many"), None);
    }
}
