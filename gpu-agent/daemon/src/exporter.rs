//! GPUs' numbers for a scraper, under the names and labels of the maker's exporter, so that its
//! dashboards and alerts work; and what is known of their health. What was not said is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use specs::gpu::{GpuInfo, GpuReport, GpuState};
use specs::id::{GpuIndex, NodeId};

use crate::burn_in::Gauges;

/// What a name means. Those that are left out are gauges without a help text.
const FIELDS: &[(&str, &str, &str)] = &[
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz)."),
    ("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz)."),
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C)."),
    ("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C)."),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W)."),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy since the driver came (in mJ)."),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe retries."),
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %)."),
    ("DCGM_FI_DEV_FB_USED", "gauge", "Memory used (in MiB)."),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Memory free (in MiB)."),
    ("DCGM_FI_DEV_XID_ERRORS", "gauge", "The last Xid that was told."),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", "Corrected errors since the driver came."),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Uncorrected errors since the driver came."),
    ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "counter", "Corrected errors of the GPU's life."),
    ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "counter", "Uncorrected errors of the GPU's life."),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for corrected errors."),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for uncorrected errors."),
    ("DCGM_FI_DEV_ROW_REMAP_PENDING", "gauge", "Whether rows wait to be remapped."),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping failed."),
    ("DCGM_FI_DEV_POWER_VIOLATION", "counter", "Time of low clocks for power, as NVML counts."),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", "counter", "Time of low clocks for heat, as NVML counts."),
    ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "counter", "NVLink CRC errors of flits."),
    ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "counter", "NVLink retries."),
    ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "counter", "NVLink recoveries."),
];
const XID: &str = "DCGM_FI_DEV_XID_ERRORS";
const STATE: &str = "spillway_agent_gpu_state";

#[derive(Debug, Default)]
struct Gpu {
    uuid: String,
    gauges: Option<Gauges>,
    xid: Option<u32>,
    state: Option<GpuState>,
}

#[derive(Debug, Default)]
struct Told {
    host: String,
    gpus: BTreeMap<GpuIndex, Gpu>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exporter(Arc<Mutex<Told>>);

impl Exporter {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_node(&self, node: &NodeId, gpus: &[GpuInfo]) {
        let gpu = |it: &GpuInfo| (it.index, Gpu { uuid: it.uuid.clone(), ..Gpu::default() });
        let mut told = self.told();
        told.host = node.to_string();
        told.gpus = gpus.iter().map(gpu).collect();
    }

    fn change(&self, index: GpuIndex, change: impl FnOnce(&mut Gpu)) {
        if let Some(gpu) = self.told().gpus.get_mut(&index) {
            change(gpu);
        }
    }

    /// None if there was no answer.
    pub(crate) fn set(&self, index: GpuIndex, gauges: Option<Gauges>) {
        self.change(index, |gpu| gpu.gauges = gauges);
    }

    pub(crate) fn note_event(&self, index: GpuIndex, code: u32) {
        self.change(index, |gpu| gpu.xid = Some(code));
    }

    pub(crate) fn set_states(&self, reports: &[GpuReport]) {
        for report in reports {
            self.change(report.health.index, |gpu| gpu.state = Some(report.health.state));
        }
    }

    /// In the text form of metrics.
    pub(crate) fn text(&self) -> String {
        let told = self.told();
        let mut out = String::new();
        let read = told.gpus.values().filter_map(|gpu| gpu.gauges.as_ref());
        let mut names: BTreeSet<&str> =
            read.flat_map(|it| it.values.keys().map(String::as_str)).collect();
        names.insert(XID);
        for name in names {
            let value = |gpu: &Gpu| match name {
                XID => gpu.xid.map(f64::from),
                _ => gpu.gauges.as_ref().and_then(|it| it.values.get(name).copied()),
            };
            let found = told.gpus.iter().filter_map(|(index, gpu)| Some((index, gpu, value(gpu)?)));
            let lines: Vec<_> = found.collect();
            if lines.is_empty() {
                continue;
            }
            let known = FIELDS.iter().find(|(it, _, _)| *it == name);
            let (_, kind, help) =
                known.copied().unwrap_or((name, "gauge", "A number of the GPU's."));
            head(&mut out, name, kind, help);
            for (index, gpu, value) in lines {
                line(&mut out, name, &labels(&told.host, *index, gpu), value);
            }
        }
        if told.gpus.values().any(|gpu| gpu.state.is_some()) {
            head(&mut out, STATE, "gauge", "1 for the state that the GPU is in, and 0 for others.");
        }
        for (index, gpu) in &told.gpus {
            let Some(state) = gpu.state else { continue };
            let labels = labels(&told.host, *index, gpu);
            for it in GpuState::ALL.iter().copied() {
                let labels = format!("{labels},state=\"{it}\"");
                line(&mut out, STATE, &labels, f64::from(u8::from(it == state)));
            }
        }
        out
    }
}

// Writing to a string cannot fail.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

fn labels(host: &str, index: GpuIndex, gpu: &Gpu) -> String {
    let (place, model) =
        gpu.gauges.as_ref().map_or(("", ""), |it| (it.place.as_str(), it.model.as_str()));
    format!(
        "gpu=\"{index}\",UUID=\"{}\",pci_bus_id=\"{}\",device=\"nvidia{index}\",\
         modelName=\"{}\",Hostname=\"{}\"",
        escaped(&gpu.uuid),
        escaped(place),
        escaped(model),
        escaped(host),
    )
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter() -> Exporter {
        let info = |index: u16| GpuInfo {
            index: GpuIndex(index),
            class: "b200".parse().unwrap(),
            uuid: format!("GPU-{index}"),
            memory_mib: 0,
        };
        let it = Exporter::default();
        it.set_node(&"n01".parse().unwrap(), &[info(0), info(1)]);
        it
    }

    #[test]
    fn what_was_not_said_is_absent_and_not_zero() {
        let it = exporter();
        assert_eq!(it.text(), "");
        let values = [("DCGM_FI_DEV_GPU_TEMP".to_owned(), 45.0)].into();
        let gauges = Gauges { model: "a \"b\"".into(), values, ..Gauges::default() };
        it.set(GpuIndex(1), Some(gauges));
        it.note_event(GpuIndex(0), 79);
        let text = it.text();
        let expected = "DCGM_FI_DEV_GPU_TEMP{gpu=\"1\",UUID=\"GPU-1\",pci_bus_id=\"\",\
                        device=\"nvidia1\",modelName=\"a \\\"b\\\"\",Hostname=\"n01\"} 45\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches("DCGM_FI_DEV_GPU_TEMP{").count(), 1);
        assert_eq!(text.matches("DCGM_FI_DEV_XID_ERRORS{").count(), 1);
        assert!(!text.contains("POWER"), "{text}");
        it.set(GpuIndex(1), None);
        assert!(!it.text().contains("GPU_TEMP"));
    }

    #[test]
    fn a_gpu_is_in_one_state() {
        let it = exporter();
        let health = specs::gpu::GpuHealth::new(GpuIndex(0), GpuState::Suspect, "slow");
        it.set_states(&[GpuReport {
            health,
            proof: None,
            due: None,
            last: None,
            passed: None,
            earlier: None,
        }]);
        let text = it.text();
        assert_eq!(text.lines().filter(|it| it.ends_with(" 1")).count(), 1, "{text}");
        assert!(text.contains("state=\"suspect\"} 1\n"), "{text}");
    }
}
