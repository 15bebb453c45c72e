//! The control file: which GPUs there are, and what is wrong with them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fault::Fault;

/// Environment variable with the path of the control file. Without it there is one sound GPU.
pub const VARIABLE: &str = "SPILLWAY_EMULATOR";
/// Most GPUs of an emulated node.
const GPUS_MAX: usize = 72;
/// Most memory of one emulated GPU.
const MEMORY_KIB_MAX: u64 = 16 << 20;

/// A node's emulated GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    #[serde(default, rename = "gpu")]
    pub gpus: Vec<Gpu>,
}

/// One emulated GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    pub name: String,
    /// Empty: made from the index.
    pub uuid: String,
    pub memory_kib: u64,
    pub sms: u32,
    /// Major and minor compute capability.
    pub compute: (u32, u32),
    /// NVLinks that are up.
    pub nvlinks: u32,
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            name: "NVIDIA RTX PRO 6000 Blackwell Server Edition (emulated)".to_owned(),
            uuid: String::new(),
            memory_kib: 64 << 10,
            sms: 8,
            compute: (12, 0),
            nvlinks: 0,
            faults: Vec::new(),
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { gpus: vec![Gpu::default()] }
    }
}

/// Why there is no control file to go by.
#[derive(Debug, Error)]
pub enum ControlError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {what}", path.display())]
    Parse { path: PathBuf, line: usize, what: String },
}

impl Control {
    /// What the environment's file says; one sound GPU without one.
    ///
    /// # Errors
    /// The file cannot be read or makes no sense.
    pub fn from_environment() -> Result<Self, ControlError> {
        match std::env::var_os(VARIABLE) {
            Some(path) => Self::load(Path::new(&path)),
            None => Ok(Self::default()),
        }
    }

    /// # Errors
    /// The file cannot be read or makes no sense.
    pub fn load(path: &Path) -> Result<Self, ControlError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ControlError::Read { path: path.to_owned(), source })?;
        let bad = |line, what| ControlError::Parse { path: path.to_owned(), line, what };
        let it: Self = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).unwrap_or_default().lines().count().max(1);
            bad(line, error.message().to_owned())
        })?;
        it.check().map_err(|what| bad(1, what))?;
        Ok(it)
    }

    fn check(&self) -> Result<(), String> {
        if self.gpus.len() > GPUS_MAX {
            return Err(format!("{} GPUs are more than {GPUS_MAX}", self.gpus.len()));
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            if !(64..=MEMORY_KIB_MAX).contains(&gpu.memory_kib) {
                return Err(format!("GPU {index}: memory_kib is not 64 to {MEMORY_KIB_MAX}"));
            }
            if !(1..=512).contains(&gpu.sms) {
                return Err(format!("GPU {index}: sms is not 1 to 512"));
            }
            if let Some(what) = gpu.faults.iter().find_map(|fault| gpu.misplaced(fault)) {
                return Err(format!("GPU {index}: {what}"));
            }
        }
        Ok(())
    }
}

impl Gpu {
    /// Its memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory_kib << 10
    }

    /// The driver's id of the device at this index.
    #[must_use]
    pub fn id(&self, index: usize) -> [u8; 16] {
        let mut id = *b"spillway-emul-00";
        for (nth, byte) in self.uuid.bytes().enumerate() {
            id[nth % 14] = id[nth % 14].rotate_left(3) ^ byte;
        }
        id[15] = u8::try_from(index).unwrap_or(u8::MAX);
        id
    }

    fn misplaced(&self, fault: &Fault) -> Option<String> {
        let outside = |from: u64, bytes: u64| from.saturating_add(bytes) > self.bytes();
        let (place, sm) = match fault {
            Fault::StuckBit { address, .. }
            | Fault::Leak { address, .. }
            | Fault::Disturbed { address, .. } => (outside(*address, 4), 0),
            Fault::StuckRow { address, bytes, .. } => (outside(*address, *bytes), 0),
            Fault::Alias { address, to, bytes } => {
                (outside(*address, *bytes) || outside(*to, *bytes), 0)
            }
            Fault::TransientRead { sm, .. }
            | Fault::WriteDrop { sm, .. }
            | Fault::FlakySm { sm, .. }
            | Fault::FlakyUnder { sm, .. }
            | Fault::SlowSm { sm, .. } => (false, *sm),
            Fault::FlakySet { set, sets, .. } => (set >= sets, 0),
            Fault::SlowGpu { .. }
            | Fault::WrongUnder { .. }
            | Fault::PcieWidth { .. }
            | Fault::PcieGeneration { .. }
            | Fault::LinkFlip { .. }
            | Fault::Recovery { .. }
            | Fault::Event { .. }
            | Fault::Hang { .. }
            | Fault::Lost { .. }
            | Fault::Sticky { .. }
            | Fault::Counter { .. }
            | Fault::Throttle { .. }
            | Fault::HungManagement
            | Fault::Release { .. }
            | Fault::Refusal { .. } => (false, 0),
        };
        if place {
            Some(format!("{fault:?} lies outside of {} bytes", self.bytes()))
        } else {
            (sm >= self.sms).then(|| format!("{fault:?} names an SM that is not there"))
        }
    }
}

/// What GPUs did that others can see: one word per event and GPU, in a file beside the control
/// file. Processes come and go; a device that fell off the bus stays away.
pub(crate) mod events {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;

    /// The GPU has worked.
    pub(crate) const WORKED: &str = "worked";
    /// A kernel hangs.
    pub(crate) const HUNG: &str = "hung";
    /// The GPU has fallen off the bus.
    pub(crate) const LOST: &str = "lost";

    fn path() -> Option<PathBuf> {
        let mut path = std::env::var_os(super::VARIABLE)?;
        path.push(".events");
        Some(path.into())
    }

    /// Notes an event, once.
    pub(crate) fn note(index: usize, event: &str) {
        let Some(path) = path() else { return };
        if has(index, event) {
            return;
        }
        // Without a place to write there is nobody to read either.
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
            let _ = writeln!(file, "{index} {event}");
        }
    }

    pub(crate) fn has(index: usize, event: &str) -> bool {
        let text = path().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().any(|line| line == format!("{index} {event}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Control, ControlError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.toml");
        std::fs::write(&path, text).unwrap();
        Control::load(&path)
    }

    #[test]
    fn a_file_names_gpus_and_faults() {
        let it = load(
            "[[gpu]]\nmemory_kib = 2048\nsms = 4\n[[gpu.fault]]\nkind = \"stuck-bit\"\n\
             address = 16\nbit = 3\none = true\n[[gpu]]\n",
        )
        .unwrap();
        assert_eq!(it.gpus.len(), 2);
        assert_eq!(it.gpus[0].faults, [Fault::StuckBit { address: 16, bit: 3, one: true }]);
        assert_eq!(it.gpus[1], Gpu::default());
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        let error = load("[[gpu]]\n[[gpu.fault]]\nkind = \"stuck-bite\"\n").unwrap_err();
        assert!(error.to_string().contains("control.toml:"), "{error}");
        let text = "[[gpu]]\n[[gpu.fault]]\nkind = \"slow-sm\"\nsm = 99\npermille = 1100\n";
        assert!(load(text).unwrap_err().to_string().contains("not there"));
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut it = Control::default();
        it.gpus[0].faults.push(Fault::Hang { kernel: "memory".into() });
        it.gpus[0].faults.push(Fault::HungManagement);
        let text = toml::to_string(&it).unwrap();
        assert_eq!(load(&text).unwrap(), it);
    }
}
