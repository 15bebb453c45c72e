//! `health.json`: what a life of the agent knew of its GPUs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use gpu_agent_core::health::{History, Kept, Rung};
use serde::{Deserialize, Serialize};
use specs::codec::Blob;
use specs::gpu::{GpuHealth, GpuInfo, GpuState, SignedProof};
use specs::id::GpuIndex;
use specs::unit::{Millis, Timestamp};

use crate::disk;

const FILE: &str = "health.json";
/// Another text after each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    /// When this was written, by this machine's clock.
    at_millis: u64,
    /// Which start of the machine that was; empty if it does not say.
    #[serde(default)]
    boot_id: String,
    gpus: Vec<RawGpu>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGpu {
    uuid: String,
    state: String,
    why: String,
    /// How long the proof held then.
    valid_for_millis: u64,
    proof: Option<RawProof>,
    #[serde(default)]
    history: RawHistory,
}

/// Spans are how long ago it was then.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawHistory {
    suspicions_millis: Vec<u64>,
    quarantines_millis: Vec<u64>,
    resets_millis: Vec<(String, u64)>,
    needs: Option<String>,
    is_soaked: bool,
}

#[derive(Serialize, Deserialize)]
struct RawProof {
    body: Vec<u8>,
    signature: Vec<u8>,
    certificate: Vec<u8>,
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

pub(super) fn save(
    directory: &Path,
    gpus: &[GpuInfo],
    kept: &[Kept],
    at: Timestamp,
) -> io::Result<()> {
    let raw = |it: &Kept| {
        let info = gpus.iter().find(|gpu| gpu.index == it.health.index)?;
        let proof = it.proof.clone().map(|it| RawProof {
            body: it.body.0,
            signature: it.signature.0,
            certificate: it.certificate.0,
        });
        Some(RawGpu {
            uuid: info.uuid.clone(),
            state: it.health.state.to_string(),
            why: it.health.why.clone(),
            valid_for_millis: it.valid_for.0,
            proof,
            history: raw_history(&it.history),
        })
    };
    let boot_id = boot_id();
    let raw = Raw { at_millis: at.0, boot_id, gpus: kept.iter().filter_map(raw).collect() };
    disk::replace(&path(directory), &serde_json::to_vec(&raw)?)
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn raw_history(it: &History) -> RawHistory {
    let millis = |all: &[Millis]| all.iter().map(|it| it.0).collect();
    RawHistory {
        suspicions_millis: millis(&it.suspicions),
        quarantines_millis: millis(&it.quarantines),
        resets_millis: it.resets.iter().map(|(rung, ago)| (rung.to_string(), ago.0)).collect(),
        needs: it.needs.map(|rung| rung.to_string()),
        is_soaked: !it.needs_soak,
    }
}

/// `passed` is how long ago it was kept.
fn history(raw: &RawHistory, passed: u64, is_restarted: bool) -> History {
    let rung = |name: &str| Rung::ALL.into_iter().find(|rung| rung.as_str() == name);
    let ago = |then: &u64| Millis(then.saturating_add(passed));
    let resets = raw.resets_millis.iter().filter_map(|(name, then)| Some((rung(name)?, ago(then))));
    History {
        suspicions: raw.suspicions_millis.iter().map(ago).collect(),
        quarantines: raw.quarantines_millis.iter().map(ago).collect(),
        resets: resets.collect(),
        needs: raw.needs.as_deref().and_then(rung),
        needs_soak: !raw.is_soaked,
        is_restarted,
    }
}

/// What was kept of the GPUs that are here; nothing of what cannot be read. A clock that went back
/// leaves nothing of a proof.
pub(super) fn load(directory: &Path, gpus: &[GpuInfo], now: Timestamp) -> BTreeMap<GpuIndex, Kept> {
    let read = fs::read(path(directory)).ok();
    let raw: Option<Raw> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(raw) = raw else { return BTreeMap::new() };
    let passed = now.0.checked_sub(raw.at_millis);
    let is_restarted = !raw.boot_id.is_empty() && raw.boot_id != boot_id();
    let kept = |it: RawGpu| {
        let index = gpus.iter().find(|gpu| !gpu.uuid.is_empty() && gpu.uuid == it.uuid)?.index;
        let state = GpuState::ALL.iter().copied().find(|state| state.as_str() == it.state)?;
        let left = passed.map_or(0, |passed| it.valid_for_millis.saturating_sub(passed));
        let proof = it.proof.map(|it| SignedProof {
            body: Blob(it.body),
            signature: Blob(it.signature),
            certificate: Blob(it.certificate),
        });
        let health = GpuHealth::new(index, state, it.why);
        let history = history(&it.history, passed.unwrap_or(0), is_restarted);
        Some((index, Kept { health, proof, valid_for: Millis(left), history }))
    };
    raw.gpus.into_iter().filter_map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(index: u16, uuid: &str) -> GpuInfo {
        let class = "b200".parse().unwrap();
        GpuInfo { index: GpuIndex(index), class, uuid: uuid.into(), memory_mib: 0 }
    }

    fn kept(index: u16, state: GpuState) -> Kept {
        let proof = SignedProof {
            body: Blob(vec![1]),
            signature: Blob(vec![2]),
            certificate: Blob(vec![3]),
        };
        let health = GpuHealth::new(GpuIndex(index), state, "as it was");
        let history = History {
            quarantines: vec![Millis(7)],
            resets: vec![(Rung::Machine, Millis(9))],
            needs: Some(Rung::Power),
            ..History::default()
        };
        Kept { health, proof: Some(proof), valid_for: Millis(1_000), history }
    }

    #[test]
    fn what_is_kept_follows_the_device_and_grows_old() {
        let folder = tempfile::tempdir().unwrap();
        let before = [info(0, "GPU-a"), info(1, "GPU-b")];
        let all = [kept(0, GpuState::Healthy), kept(1, GpuState::Quarantined)];
        save(folder.path(), &before, &all, Timestamp(10_000)).unwrap();
        let after = [info(0, "GPU-b"), info(1, "GPU-c"), info(2, "GPU-a")];
        let found = load(folder.path(), &after, Timestamp(10_400));
        assert_eq!(found.len(), 2);
        assert_eq!(found[&GpuIndex(0)].health.state, GpuState::Quarantined);
        let healthy = &found[&GpuIndex(2)];
        assert_eq!((healthy.health.state, healthy.valid_for), (GpuState::Healthy, Millis(600)));
        assert_eq!(healthy.proof, all[0].proof);
        let then = &healthy.history;
        assert_eq!((&then.quarantines[..], then.needs), (&[Millis(407)][..], Some(Rung::Power)));
        assert_eq!(then.resets, [(Rung::Machine, Millis(409))]);
        assert!(!then.needs_soak && !then.is_restarted);
        let text = fs::read_to_string(path(folder.path())).unwrap();
        fs::write(path(folder.path()), text.replace(&boot_id(), "another")).unwrap();
        let restarted = load(folder.path(), &after, Timestamp(10_400));
        assert!(boot_id().is_empty() || restarted[&GpuIndex(2)].history.is_restarted);
        let early = load(folder.path(), &after, Timestamp(9_000));
        assert_eq!(early[&GpuIndex(2)].valid_for, Millis::ZERO, "the clock went back");
    }

    #[test]
    fn without_a_file_or_with_a_damaged_one_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path(), &[info(0, "GPU-a")], Timestamp(0)).is_empty());
        fs::write(path(folder.path()), "{\"atMillis\": 1, \"gpus\": [{}]}").unwrap();
        assert!(load(folder.path(), &[info(0, "GPU-a")], Timestamp(0)).is_empty());
    }
}
