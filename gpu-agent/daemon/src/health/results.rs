//! `results.json`: the last burn-ins of each GPU, for the site to compare with others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use specs::codec::Message;
use specs::gpu::{BurnInResult, GpuInfo, RESULTS_MAX};
use specs::id::{GpuIndex, SiteId};

use crate::disk;

const FILE: &str = "results.json";
/// Longest file that is read; one of 72 GPUs is far shorter.
const BYTES_MAX: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    /// Whose permits the numbers are.
    site: String,
    gpus: Vec<RawGpu>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawGpu {
    uuid: String,
    /// As they are told, the latest last.
    results: Vec<Vec<u8>>,
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
pub(super) fn save<'a>(
    directory: &Path,
    site: &SiteId,
    gpus: &[GpuInfo],
    results: impl Iterator<Item = (GpuIndex, &'a [BurnInResult])>,
) -> io::Result<()> {
    let raw = results.filter_map(|(index, results)| {
        let uuid = gpus.iter().find(|gpu| gpu.index == index)?.uuid.clone();
        Some(RawGpu { uuid, results: results.iter().map(Message::encode).collect() })
    });
    let raw = Raw { site: site.to_string(), gpus: raw.collect() };
    disk::replace(&path(directory), &serde_json::to_vec(&raw)?)
}

/// What was kept of the GPUs that are here. Of a file that is damaged nothing is believed: the site
/// hears what comes from here on.
pub(super) fn load(
    directory: &Path,
    site: &SiteId,
    gpus: &[GpuInfo],
) -> BTreeMap<GpuIndex, Vec<BurnInResult>> {
    match read(directory, site, gpus) {
        Ok(results) => results,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            let path = path(directory);
            tracing::warn!(path = %path.display(), %error, "earlier burn-ins are forgotten");
            BTreeMap::new()
        }
    }
}

fn read(
    directory: &Path,
    site: &SiteId,
    gpus: &[GpuInfo],
) -> io::Result<BTreeMap<GpuIndex, Vec<BurnInResult>>> {
    let mut bytes = Vec::new();
    File::open(path(directory))?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if bytes.len() as u64 > BYTES_MAX {
        return Err(bad(format!("the file is longer than {BYTES_MAX} bytes")));
    }
    let raw: Raw = serde_json::from_slice(&bytes)?;
    let mut all = BTreeMap::new();
    if raw.site != site.as_str() {
        return Ok(all);
    }
    for it in raw.gpus {
        let decoded = it.results.iter().map(|bytes| BurnInResult::decode(bytes));
        let mut results: Vec<BurnInResult> = decoded
            .collect::<Result<_, _>>()
            .map_err(|error| bad(format!("a result of {}: {error}", it.uuid)))?;
        results.drain(..results.len().saturating_sub(RESULTS_MAX));
        let known = gpus.iter().find(|gpu| !gpu.uuid.is_empty() && gpu.uuid == it.uuid);
        if let Some(gpu) = known {
            all.insert(gpu.index, results);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use specs::gpu::{BurnInEnd, BurnInTier};
    use specs::id::Revision;
    use specs::unit::{Millis, Timestamp};

    use super::*;

    fn info(index: u16, uuid: &str) -> GpuInfo {
        let class = "b200".parse().unwrap();
        GpuInfo { index: GpuIndex(index), class, uuid: uuid.into(), memory_mib: 0 }
    }

    fn result(number: u64) -> BurnInResult {
        BurnInResult {
            number: Revision(number),
            tier: BurnInTier::T2,
            end: BurnInEnd::Passed,
            why: String::new(),
            ended_at: Timestamp(7),
            took: Millis(5),
            numbers: [("memoryBytesPerSecond".to_owned(), number * 10)].into(),
            make: None,
            capped: false,
            digests: None,
        }
    }

    #[test]
    fn what_is_kept_follows_the_device_and_is_of_one_site() {
        let folder = tempfile::tempdir().unwrap();
        let [berlin, giga]: [SiteId; 2] = ["berlin", "giga"].map(|it| it.parse().unwrap());
        let before = [info(0, "GPU-a"), info(1, "GPU-b")];
        let results = [result(1), result(2)];
        let all = [(GpuIndex(0), &results[..1]), (GpuIndex(1), &results[..])];
        save(folder.path(), &berlin, &before, all.into_iter()).unwrap();
        let after = [info(0, "GPU-b"), info(1, "GPU-c")];
        let found = load(folder.path(), &berlin, &after);
        assert_eq!(found, BTreeMap::from([(GpuIndex(0), results.to_vec())]));
        assert_eq!(load(folder.path(), &giga, &after), BTreeMap::new());
    }

    #[test]
    fn of_a_damaged_file_nothing_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let site: SiteId = "berlin".parse().unwrap();
        let gpus = [info(0, "GPU-a")];
        assert_eq!(load(folder.path(), &site, &gpus), BTreeMap::new(), "there is none");
        let all = [(GpuIndex(0), &[result(1)][..])];
        save(folder.path(), &site, &gpus, all.into_iter()).unwrap();
        let whole = std::fs::read(path(folder.path())).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(path(folder.path()), &whole[..cut]).unwrap();
            assert_eq!(load(folder.path(), &site, &gpus), BTreeMap::new(), "cut at {cut}");
        }
        let text = String::from_utf8(whole).unwrap();
        std::fs::write(path(folder.path()), text.replace("[[8,", "[[9,")).unwrap();
        assert_eq!(load(folder.path(), &site, &gpus), BTreeMap::new());
        std::fs::write(path(folder.path()), vec![b' '; (4 << 20) + 2]).unwrap();
        assert_eq!(load(folder.path(), &site, &gpus), BTreeMap::new());
    }
}
