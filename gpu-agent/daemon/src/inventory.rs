//! Which GPUs this machine has: what the driver says, or what the operator declares.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gpu_agent_core::xid;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::Serialize;
use specs::fault::{Fault, FaultCode};
use specs::gpu::{GpuInfo, InventorySource, KNOWN, class_of_product};
use specs::id::{GpuClass, GpuIndex};

use crate::config::Declared;

/// Version of the JSON form.
const API_VERSION: &str = "spillway/v1";

/// The GPUs of this machine and how they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    pub source: InventorySource,
    pub gpus: Vec<GpuInfo>,
}

/// What is declared; what the driver says if nothing is.
///
/// # Errors
/// Neither says anything.
pub fn find(declared: &[Declared]) -> Result<Gpus, Fault> {
    let driver = from_driver();
    if !declared.is_empty() {
        if let Ok(gpus) = &driver {
            let seen = gpus.len();
            tracing::warn!(seen, "the driver knows GPUs; the declaration is used all the same");
        }
        return Ok(Gpus { source: InventorySource::Declared, gpus: from_declaration(declared) });
    }
    match driver {
        Ok(gpus) => Ok(Gpus { source: InventorySource::Nvml, gpus }),
        Err(why) => Err(Fault::new(FaultCode::NotFound, format!("no GPU is known here: {why}"))
            .with_hint("declare what the machine has: --declare b200:8")),
    }
}

fn from_declaration(declared: &[Declared]) -> Vec<GpuInfo> {
    let classes = declared.iter().flat_map(|it| (0..it.count).map(|_| it.class.clone()));
    classes
        .zip(0..)
        .map(|(class, index)| GpuInfo {
            index: GpuIndex(index),
            memory_mib: known_memory_mib(class.as_str()),
            class,
            uuid: String::new(),
        })
        .collect()
}

fn known_memory_mib(class: &str) -> u64 {
    let known = KNOWN.iter().find(|known| known.class == class);
    known.map_or(0, |known| u64::from(known.memory_gib) * 1_024)
}

/// How long the driver's library may take. A GPU that falls can block it for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the driver, and gives up when it does not answer.
fn from_driver() -> Result<Vec<GpuInfo>, String> {
    let (answer, answered) = mpsc::channel();
    let ask = move || {
        // Nobody waits any more if this comes too late.
        let _ = answer.send(ask_driver());
    };
    let asked = thread::Builder::new().name("ask-driver".into()).spawn(ask);
    asked.map_err(|error| format!("cannot ask the driver: {error}"))?;
    answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Err(format!("the NVIDIA driver did not answer within {seconds} s"))
    })
}

/// Asks the driver's library, which is looked for only when the process runs.
fn ask_driver() -> Result<Vec<GpuInfo>, String> {
    let nvml = Nvml::init().map_err(|error| explain(&error))?;
    let count = nvml.device_count().map_err(|error| explain(&error))?;
    let mut gpus = Vec::new();
    for index in 0..count {
        match device(&nvml, index) {
            Ok(gpu) => gpus.push(gpu),
            Err(error) => {
                tracing::warn!(index, error = explain(&error), "a GPU cannot be used");
            }
        }
    }
    if gpus.is_empty() { Err("the driver knows no usable GPU".into()) } else { Ok(gpus) }
}

fn device(nvml: &Nvml, index: u32) -> Result<GpuInfo, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let name = device.name()?;
    let class = class_of_product(&name);
    // Older drivers do not tell how much memory there is in the way that is asked here.
    let memory = device.memory_info().map(|memory| memory.total >> 20);
    Ok(GpuInfo {
        index: GpuIndex(u16::try_from(index).map_err(|_| NvmlError::InvalidArg)?),
        class: GpuClass::new(class).map_err(|_| NvmlError::InvalidArg)?,
        uuid: device.uuid()?,
        memory_mib: memory.unwrap_or_else(|_| known_memory_mib(class)),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library has 30 errors that say it well")]
fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(error) => format!("there is no NVIDIA driver ({error})"),
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            "the NVIDIA driver is too old (its library lacks a function)".into()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".into(),
        NvmlError::NoPermission => "the NVIDIA driver denies this user access".into(),
        other => format!("the NVIDIA driver says: {other}"),
    }
}

/// Where GPUs stand, as the kernel's log names it. Empty if the driver does not say in time.
pub(crate) fn places(gpus: &[GpuInfo]) -> Vec<(String, GpuIndex)> {
    let known: Vec<(String, GpuIndex)> =
        gpus.iter().map(|gpu| (gpu.uuid.clone(), gpu.index)).collect();
    let (answer, answered) = mpsc::channel();
    let ask = move || {
        let nvml = Nvml::init().ok()?;
        let place = |(uuid, index): (String, GpuIndex)| {
            let place = nvml.device_by_uuid(uuid).ok()?.pci_info().ok()?.bus_id;
            Some((xid::place_of(&place), index))
        };
        // Nobody waits any more if this comes too late.
        answer.send(known.into_iter().filter_map(place).collect()).ok()
    };
    let asked = thread::Builder::new().name("ask-driver".into()).spawn(ask);
    asked.ok().and_then(|_| answered.recv_timeout(PATIENCE).ok()).unwrap_or_default()
}

#[derive(Serialize)]
struct InventoryView<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    source: String,
    gpus: Vec<GpuView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GpuView<'a> {
    index: u16,
    class: &'a str,
    uuid: &'a str,
    memory_mib: u64,
}

/// Writes the inventory for programs. The form is versioned.
///
/// # Errors
/// Nobody reads.
pub fn write_json(it: &Gpus, out: &mut impl Write) -> io::Result<()> {
    let gpus = it.gpus.iter().map(|gpu| GpuView {
        index: gpu.index.0,
        class: gpu.class.as_str(),
        uuid: &gpu.uuid,
        memory_mib: gpu.memory_mib,
    });
    let view = InventoryView {
        api_version: API_VERSION,
        kind: "Inventory",
        source: it.source.to_string(),
        gpus: gpus.collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &view)?;
    writeln!(out)
}

/// Writes the inventory for people. The form may change.
///
/// # Errors
/// Nobody reads.
pub fn write_table(it: &Gpus, out: &mut impl Write) -> io::Result<()> {
    let said = match it.source {
        InventorySource::Nvml => "as the driver says",
        InventorySource::Declared => "declared; nothing has proven them",
    };
    writeln!(out, "{} GPUs, {said}", it.gpus.len())?;
    writeln!(out, "{:<6} {:<14} {:>10}  {:<9} UUID", "INDEX", "CLASS", "MEMORY", "SOURCE")?;
    for gpu in &it.gpus {
        let memory = match gpu.memory_mib {
            0 => "unknown".to_owned(),
            mib => format!("{} GiB", mib / 1_024),
        };
        let uuid = if gpu.uuid.is_empty() { "-" } else { &gpu.uuid };
        let (index, class, source) = (gpu.index.0, &gpu.class, it.source);
        writeln!(out, "{index:<6} {class:<14} {memory:>10}  {source:<9} {uuid}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_gpus_are_numbered_through_and_said_to_be_declared() {
        let declared = ["b200:2", "odd-one:1"].map(|it| it.parse().unwrap());
        let gpus = from_declaration(&declared);
        let seen: Vec<_> = gpus.iter().map(|it| (it.index.0, it.class.as_str())).collect();
        assert_eq!(seen, [(0, "b200"), (1, "b200"), (2, "odd-one")]);
        assert_eq!((gpus[0].memory_mib, gpus[2].memory_mib), (180 * 1_024, 0));
        let it = Gpus { source: InventorySource::Declared, gpus };
        let mut text = Vec::new();
        write_table(&it, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("declared; nothing has proven them"), "{text}");
        let mut json = Vec::new();
        write_json(&it, &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["source"], "declared");
        assert_eq!(json["gpus"][1]["class"], "b200");
    }

    #[test]
    fn asking_the_driver_gives_gpus_or_a_plain_reason() {
        match from_driver() {
            Ok(gpus) => assert!(gpus.iter().all(|gpu| !gpu.uuid.is_empty())),
            Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why}"),
        }
    }
}
