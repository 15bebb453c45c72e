//! The kernels, as they are shipped.

use std::collections::BTreeMap;

pub(super) use gpu_agent_core::burn_in::digest::mix;

pub(super) const MEMORY: &str = include_str!("../../kernels/ptx/memory.ptx");
pub(super) const UNITS: &str = include_str!("../../kernels/ptx/units.ptx");
pub(super) const TENSOR: &str = include_str!("../../kernels/ptx/tensor.ptx");
pub(super) const TENSOR_FP8: &str = include_str!("../../kernels/ptx/tensor_fp8.ptx");
pub(super) const GOLDEN: &str = include_str!("../../kernels/ptx/golden.ptx");
pub(super) const CACHES: &str = include_str!("../../kernels/ptx/caches.ptx");
pub(super) const CONSTANT: &str = include_str!("../../kernels/ptx/constant.ptx");
/// For one compute capability each.
pub(super) const WGMMA: &str = include_str!("../../kernels/ptx/wgmma_sm90a.ptx");
pub(super) const TCGEN05: &str = include_str!("../../kernels/ptx/tcgen05_sm100a.ptx");
pub(super) const MMA_SM120A: &str = include_str!("../../kernels/ptx/mma_sm120a.ptx");
pub(crate) const MANIFEST: &str = include_str!("../../kernels/ptx/manifest.txt");

/// BLAKE3 of each file of PTX, by its name.
pub(super) fn hashes() -> BTreeMap<String, String> {
    let lines = MANIFEST.lines().filter_map(|line| line.split_once("  "));
    lines
        .filter_map(|(hash, path)| Some((path.strip_prefix("ptx/")?.to_owned(), hash.to_owned())))
        .collect()
}

/// The checksum of a record's words.
pub(super) fn sum(words: impl IntoIterator<Item = u32>) -> u32 {
    words.into_iter().fold(0, |sum, word| mix(sum ^ word))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_what_the_manifest_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut named = Vec::new();
        for line in MANIFEST.lines() {
            let (hash, path) = line.split_once("  ").unwrap();
            let bytes = std::fs::read(folder.join(path)).unwrap();
            let is = blake3::hash(&bytes).to_hex();
            assert_eq!(is.as_str(), hash, "{path} has changed: run `cargo xtask kernels`");
            named.push(path.to_owned());
        }
        let sources = std::fs::read_dir(&folder)
            .unwrap()
            .chain(std::fs::read_dir(folder.join("ptx")).unwrap());
        for path in sources.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let name = path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned();
            let is_manifest = name == "ptx/manifest.txt";
            assert!(is_manifest || named.contains(&name), "{name} is not in the manifest");
        }
        assert_eq!(hashes().len(), 10);
    }
}
