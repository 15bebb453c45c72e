//! Reads, on a thread of its own, what the management library says of a GPU under load. A library
//! that does not answer costs samples, not the check.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

/// How long the first sample is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two samples.
const PAUSE: Duration = Duration::from_millis(20);
const SAMPLES_MAX: usize = 100_000;

/// What was read at one time. None where the GPU does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    pub power_milliwatts: Option<u32>,
    pub clock_megahertz: Option<u32>,
    pub celsius: Option<u32>,
    /// Bits of reasons for low clocks.
    pub throttle: Option<u64>,
    pub lanes: Option<u32>,
    pub lanes_max: Option<u32>,
    pub generation: Option<u32>,
    pub generation_max: Option<u32>,
}

pub(super) struct Sampler {
    is_over: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Sampler {
    /// Starts, and waits for the first sample for a while.
    pub(super) fn start(uuid: &str) -> Self {
        let it = Self { is_over: Arc::default(), samples: Arc::default() };
        let (is_over, samples) = (it.is_over.clone(), it.samples.clone());
        let (first, came) = mpsc::channel();
        let uuid = uuid.to_owned();
        let sample = move || {
            let nvml = Nvml::init().ok()?;
            let device = nvml.device_by_uuid(uuid).ok()?;
            while !is_over.load(Ordering::Relaxed) {
                let sample = read(&device);
                let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                if samples.len() < SAMPLES_MAX {
                    samples.push(sample);
                }
                drop(samples);
                // Only the first is waited for.
                let _ = first.send(());
                thread::sleep(PAUSE);
            }
            Some(())
        };
        let spawned = thread::Builder::new().name("sampler".into()).spawn(sample);
        if spawned.is_ok() {
            let _ = came.recv_timeout(PATIENCE);
        }
        it
    }

    /// All samples until now.
    pub(super) fn seen(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All samples until now. The thread ends by itself.
    pub(super) fn end(self) -> Vec<Sample> {
        self.is_over.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(device: &Device) -> Sample {
    Sample {
        power_milliwatts: device.power_usage().ok(),
        clock_megahertz: device.clock_info(Clock::SM).ok(),
        celsius: device.temperature(TemperatureSensor::Gpu).ok(),
        throttle: device.current_throttle_reasons().ok().map(|it| it.bits()),
        lanes: device.current_pcie_link_width().ok(),
        lanes_max: device.max_pcie_link_width().ok(),
        generation: device.current_pcie_link_gen().ok(),
        generation_max: device.max_pcie_link_gen().ok(),
    }
}
