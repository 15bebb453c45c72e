//! What the management library counts of one GPU.

use gpu_agent_core::burn_in::counters::Counters;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use super::cuda::{Failure, FailureKind};
use super::gauges::{self, Gauges};

/// What is read of a GPU again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watched {
    pub counters: Counters,
    pub gauges: Gauges,
}

/// What drives a GPU, beside which its numbers are what they are. What the driver does not say is
/// empty, or zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Driven {
    pub vbios: String,
    /// The first number of the driver's version.
    pub driver: u32,
    pub power_limit_milliwatts: u64,
}

/// One reading. What the GPU does not say stays unknown.
///
/// # Errors
/// The library is absent, or does not know the GPU.
pub(super) fn read(uuid: &str) -> Result<(Counters, Driven), Failure> {
    with(uuid, |nvml, device| (counters(nvml, device), driven(nvml, device)))
}

fn driven(nvml: &Nvml, device: &Device) -> Driven {
    let version = nvml.sys_driver_version().unwrap_or_default();
    let first = version.split('.').next().and_then(|it| it.parse().ok());
    Driven {
        vbios: device.vbios_version().unwrap_or_default(),
        driver: first.unwrap_or(0),
        power_limit_milliwatts: device.power_management_limit().map(u64::from).unwrap_or(0),
    }
}

/// The same, and what else it says of a GPU at work.
///
/// # Errors
/// As [`read`].
pub(super) fn watch(uuid: &str) -> Result<Watched, Failure> {
    with(uuid, |nvml, device| Watched {
        counters: counters(nvml, device),
        gauges: gauges::read(device, remapped(nvml, device)),
    })
}

fn with<T>(uuid: &str, ask: impl FnOnce(&Nvml, &Device) -> T) -> Result<T, Failure> {
    let nvml = Nvml::init().map_err(|error| explain(&error))?;
    let device = nvml.device_by_uuid(uuid).map_err(|error| explain(&error))?;
    Ok(ask(&nvml, &device))
}

fn counters(nvml: &Nvml, device: &Device) -> Counters {
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    let rows = remapped(nvml, device);
    Counters {
        ecc_corrected: ecc(MemoryError::Corrected),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        remapped_correctable: rows.map(|it| u64::from(it[0])),
        remapped_uncorrectable: rows.map(|it| u64::from(it[1])),
        remap_pending: rows.map(|it| it[2] != 0),
        remap_failed: rows.map(|it| it[3] != 0),
        pcie_replay: device.pcie_replay_counter().ok().map(u64::from),
        throttle: device.current_throttle_reasons().ok().map(|it| it.bits()),
        lanes: device.current_pcie_link_width().ok(),
        lanes_max: device.max_pcie_link_width().ok(),
        generation: device.current_pcie_link_gen().ok(),
        generation_max: device.max_pcie_link_gen().ok(),
    }
}

/// Remapped rows: correctable, uncorrectable, pending, failed. The wrapper lacks this question.
#[expect(unsafe_code, reason = "a question that the wrapper of the library lacks")]
fn remapped(nvml: &Nvml, device: &Device) -> Option<[u32; 4]> {
    let ask = nvml.lib().nvmlDeviceGetRemappedRows.as_ref().ok()?;
    let mut it = [0_u32; 4];
    let [correctable, uncorrectable, pending, failed] = &mut it;
    // SAFETY: the device is of this library, and each answer has a place of its own.
    let code = unsafe { ask(device.handle(), correctable, uncorrectable, pending, failed) };
    (code == 0).then_some(it)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library has 30 errors that say it well")]
fn explain(error: &NvmlError) -> Failure {
    match error {
        NvmlError::GpuLost => {
            Failure::new(FailureKind::Device, "the GPU has fallen off the bus".to_owned())
        }
        other => Failure::new(FailureKind::Driver, format!("the management library: {other}")),
    }
}
