//! What the management library says of a GPU at work, under the names that dashboards know.

use std::collections::BTreeMap;

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use serde::{Deserialize, Serialize};

/// Fields of the library (nvml.h, `NVML_FI_DEV_*`).
const MEMORY_TEMPERATURE: u32 = 82;
const RECOVERY_ACTION: u32 = 230;
/// Links that a GPU can have.
const LINKS_MAX: u32 = 18;

/// One reading. What the GPU does not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gauges {
    pub model: String,
    /// Its place on the bus.
    pub place: String,
    /// What would bring it back, by the library's number.
    pub recovery: Option<u64>,
    /// By name.
    pub values: BTreeMap<String, f64>,
}

/// Asks.
pub(super) fn read(device: &Device, rows: Option<[u32; 4]>) -> Gauges {
    let mut it = Gauges {
        model: device.name().unwrap_or_default(),
        place: device.pci_info().map(|it| it.bus_id).unwrap_or_default(),
        recovery: field(device, RECOVERY_ACTION),
        values: BTreeMap::new(),
    };
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            it.values.insert(format!("DCGM_FI_DEV_{name}"), value);
        }
    };
    put("SM_CLOCK", device.clock_info(Clock::SM).ok().map(f64::from));
    put("MEM_CLOCK", device.clock_info(Clock::Memory).ok().map(f64::from));
    put("GPU_TEMP", device.temperature(TemperatureSensor::Gpu).ok().map(f64::from));
    put("MEMORY_TEMP", field(device, MEMORY_TEMPERATURE).map(real));
    put("POWER_USAGE", device.power_usage().ok().map(|milli| f64::from(milli) / 1e3));
    put("TOTAL_ENERGY_CONSUMPTION", device.total_energy_consumption().ok().map(real));
    put("PCIE_REPLAY_COUNTER", device.pcie_replay_counter().ok().map(f64::from));
    put("GPU_UTIL", device.utilization_rates().ok().map(|it| f64::from(it.gpu)));
    let memory = device.memory_info().ok();
    put("FB_USED", memory.as_ref().map(|it| real(it.used >> 20)));
    put("FB_FREE", memory.as_ref().map(|it| real(it.free >> 20)));
    for (name, kind, since) in [
        ("ECC_SBE_VOL_TOTAL", MemoryError::Corrected, EccCounter::Volatile),
        ("ECC_DBE_VOL_TOTAL", MemoryError::Uncorrected, EccCounter::Volatile),
        ("ECC_SBE_AGG_TOTAL", MemoryError::Corrected, EccCounter::Aggregate),
        ("ECC_DBE_AGG_TOTAL", MemoryError::Uncorrected, EccCounter::Aggregate),
    ] {
        put(name, device.total_ecc_errors(kind, since).ok().map(real));
    }
    put("CORRECTABLE_REMAPPED_ROWS", rows.map(|it| f64::from(it[0])));
    put("UNCORRECTABLE_REMAPPED_ROWS", rows.map(|it| f64::from(it[1])));
    put("ROW_REMAP_PENDING", rows.map(|it| f64::from(it[2])));
    put("ROW_REMAP_FAILURE", rows.map(|it| f64::from(it[3])));
    let violation = |of| device.violation_status(of).ok().map(|it| real(it.violation_time));
    put("POWER_VIOLATION", violation(PerformancePolicy::Power));
    put("THERMAL_VIOLATION", violation(PerformancePolicy::Thermal));
    for (name, counter) in [
        ("NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", ErrorCounter::DlCrcFlit),
        ("NVLINK_REPLAY_ERROR_COUNT_TOTAL", ErrorCounter::DlReplay),
        ("NVLINK_RECOVERY_ERROR_COUNT_TOTAL", ErrorCounter::DlRecovery),
    ] {
        put(name, links(device, counter).map(real));
    }
    it
}

/// The sum over all links that are up; none without any.
fn links(device: &Device, counter: ErrorCounter) -> Option<u64> {
    let active = (0..LINKS_MAX).map(|link| device.link_wrapper_for(link));
    let active = active.filter(|link| link.is_active().unwrap_or(false));
    let counted: Vec<u64> = active.filter_map(|link| link.error_counter(counter).ok()).collect();
    if counted.is_empty() { None } else { Some(counted.iter().sum()) }
}

fn field(device: &Device, id: u32) -> Option<u64> {
    let values = device.field_values_for(&[FieldId(id)]).ok()?;
    match values.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::U32(it) => Some(it.into()),
        SampleValue::U64(it) => Some(it),
        SampleValue::I64(it) => u64::try_from(it).ok(),
        SampleValue::F64(_) => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is shown has 53 bits")]
fn real(value: u64) -> f64 {
    value as f64
}
