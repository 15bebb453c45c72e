//! What a burn-in says, to people and to programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use gpu_agent_core::burn_in::baseline::{self, Seen};
use gpu_agent_core::burn_in::counters::{self, Counters};
use gpu_agent_core::burn_in::links::{self, Links, Peers, Way};
use gpu_agent_core::burn_in::measured::{self, Compared, FIRST_SEED, Measured, RECIPE};
use gpu_agent_core::burn_in::memory;
use gpu_agent_core::burn_in::vote::{self, Round};
use gpu_agent_core::burn_in::wave::{self, Wave};
use gpu_agent_core::burn_in::{Finding, Severity, Tier, Verdict};
use serde::Serialize;
use specs::codec::Blob;
use specs::measure::{Digests, Make};
use specs::unit::{Millis, Timestamp};

use super::cuda::DeviceInfo;
use super::kernels;
use super::management::Driven;
use super::run::Options;
use crate::health_event::Origin;

/// Version of the JSON form.
pub(super) const API_VERSION: &str = "spillway/v1";

/// A node's burn-in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    api_version: &'static str,
    kind: &'static str,
    tier: Tier,
    seed: u64,
    /// How long it took, and how long it should take at most on a GPU of today.
    spent_millis: u64,
    budget_millis: u64,
    pub(super) verdict: Verdict,
    /// BLAKE3 of the PTX that ran.
    kernels: BTreeMap<String, String>,
    gpus: Vec<GpuReport>,
    /// What first rounds were made from, if from something else than the seed.
    #[serde(skip)]
    first: Option<u64>,
}

/// One GPU's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GpuReport {
    index: u16,
    name: String,
    uuid: String,
    /// Compute capability: digests of equal ones are comparable.
    compute: String,
    /// What is known of the product that it was held to; none if nothing is.
    baseline: Option<&'static str>,
    verdict: Verdict,
    findings: Vec<Finding>,
    measured: Numbers,
}

/// Numbers that are no findings.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Numbers {
    /// Rounds of the whole; more than one for a soak.
    pub rounds: u32,
    /// What most SMs said in the first round of each vote. Equal for equal GPUs, seeds and kernels.
    digests: BTreeMap<String, String>,
    /// The median SM's cycles in that round.
    cycles: BTreeMap<String, u64>,
    /// What the slowest SM took in the last round of each vote whose pace is judged, in thousandths of
    /// what most need at most.
    slowest_permille: BTreeMap<String, u64>,
    /// How long each check took, with its process, the driver's start and its compiler.
    pub check_millis: BTreeMap<String, u64>,
    memory_bytes: u64,
    memory_bytes_free: u64,
    memory_bytes_per_second: u64,
    /// Passes over the memory, and how long the GPU was at it.
    memory_passes: u32,
    memory_nanos: u64,
    pub counters: Option<Counters>,
    pub driven: Option<Driven>,
    /// The last round's.
    links: Option<Links>,
    wave: Option<Wave>,
    /// What a site compares.
    pub compared: Measured,
    /// The same of digests, if first rounds are made from what they are for all.
    #[serde(skip)]
    said: BTreeMap<String, u64>,
}

impl Numbers {
    pub(super) fn add_rounds(&mut self, rounds: &[Round]) {
        for round in rounds.iter().filter(|it| it.canary.is_none()) {
            self.compared.add_round(round);
            measured::add_digest(&mut self.said, round);
            if let Some(slowest) = vote::slowest_permille(round) {
                self.slowest_permille.insert(round.name.clone(), slowest);
            }
            if self.digests.contains_key(&round.name) {
                continue;
            }
            if let Some(digest) = vote::digest(round) {
                self.digests.insert(round.name.clone(), format!("{digest:016x}"));
            }
            let mut cycles: Vec<u64> = round.votes.iter().map(|it| it.cycles).collect();
            cycles.sort_unstable();
            let median = cycles.get(cycles.len() / 2).copied().unwrap_or(0);
            self.cycles.insert(round.name.clone(), median);
        }
    }

    /// What of it a product's baseline is about.
    pub(super) fn seen(&self, device: &DeviceInfo) -> Seen<'_> {
        let links = self.links.as_ref();
        Seen {
            sms: device.sms,
            memory_bytes: device.memory_bytes,
            rates: &self.compared,
            lanes_max: links.and_then(|it| it.lanes_max),
            generation_max: links.and_then(|it| it.generation_max),
        }
    }

    pub(super) fn add_links(&mut self, it: Links) {
        links::measure(&it, &mut self.compared);
        self.links = Some(it);
    }

    pub(super) fn add_wave(&mut self, it: Wave) {
        wave::measure(&it, &mut self.compared);
        self.wave = Some(it);
    }

    pub(super) fn add_memory(&mut self, numbers: &memory::Numbers) {
        self.memory_bytes = numbers.bytes();
        self.memory_bytes_free = numbers.bytes_free;
        (self.memory_passes, self.memory_nanos) = (numbers.passes, numbers.nanos);
        self.compared.add_rate(measured::MEMORY, numbers.bytes_moved, numbers.nanos);
        self.memory_bytes_per_second = measured::rate(numbers.bytes_moved, numbers.nanos);
    }
}

impl GpuReport {
    pub(super) fn new(
        device: &DeviceInfo,
        verdict: Verdict,
        findings: Vec<Finding>,
        measured: Numbers,
    ) -> Self {
        let (index, name, uuid) = (device.index, device.name.clone(), device.uuid.clone());
        let compute = format!("{}.{}", device.compute.0, device.compute.1);
        let baseline = baseline::of(&name).map(|it| it.name);
        Self { index, name, uuid, compute, baseline, verdict, findings, measured }
    }

    fn compared(&self, kernels: Blob, first: Option<u64>) -> Compared {
        let it = &self.measured;
        let make = it.driven.as_ref().map(|driven| Make {
            product: self.name.clone(),
            vbios: driven.vbios.clone(),
            driver: driven.driver,
            power_limit_milliwatts: driven.power_limit_milliwatts,
            kernels,
        });
        let counted = it.counters.as_ref().and_then(|it| it.throttle);
        let seen = it.wave.as_ref().and_then(|it| it.throttle);
        let is_capped = counters::is_capped(counted) || counters::is_capped(seen);
        let digests = first.filter(|it| *it == FIRST_SEED);
        let digests = digests.map(|_| Digests { recipe: RECIPE, by_kernel: it.said.clone() });
        Compared { measured: it.compared.clone(), digests, make, is_capped }
    }
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The gravest finding's words.
    pub(crate) fn worst(&self) -> Option<String> {
        let findings = self.gpus.iter().flat_map(|gpu| &gpu.findings);
        findings.max_by_key(|it| it.severity).map(|it| format!("{}: {}", it.check, it.message))
    }

    /// What of the first GPU a site compares; `kernels` is the digest of their hashes.
    pub(crate) fn compared(&self, kernels: Blob) -> Compared {
        self.gpus.first().map(|gpu| gpu.compared(kernels, self.first)).unwrap_or_default()
    }

    /// The first GPU's name.
    pub(crate) fn product(&self) -> String {
        self.gpus.first().map(|gpu| gpu.name.clone()).unwrap_or_default()
    }

    pub(super) fn new(of: &Options, spent: Millis, gpus: Vec<GpuReport>) -> Self {
        let Options { tier, seed, first, .. } = *of;
        let verdict = gravest(gpus.iter().map(|it| it.verdict));
        let (api_version, kind, kernels) = (API_VERSION, "BurnIn", kernels::hashes());
        let (spent_millis, budget_millis) = (spent.0, tier.budget().0);
        Self {
            api_version,
            kind,
            tier,
            seed,
            spent_millis,
            budget_millis,
            verdict,
            kernels,
            gpus,
            first,
        }
    }
}

/// The verdict of all.
pub(super) fn gravest(verdicts: impl Iterator<Item = Verdict> + Clone) -> Verdict {
    let has = |wanted| verdicts.clone().any(|it| it == wanted);
    if has(Verdict::Fault) {
        Verdict::Fault
    } else if has(Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Pass
    }
}

/// Writes the report for programs. The form is versioned.
///
/// # Errors
/// Nobody reads.
pub fn write_json(report: &Report, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// Writes what was found as events, one line of JSON each. The form is versioned.
///
/// # Errors
/// Nobody reads.
pub fn write_events(
    report: &Report,
    node: &str,
    at: Timestamp,
    out: &mut impl Write,
) -> io::Result<()> {
    for gpu in &report.gpus {
        let origin = Origin { node, gpu: gpu.index, uuid: &gpu.uuid, at };
        for finding in &gpu.findings {
            origin.write_finding(finding, out)?;
        }
        if gpu.verdict == Verdict::Pass {
            origin.write_pass(out)?;
        }
    }
    Ok(())
}

/// MiB per second of the copies of one way.
fn mib_rate(links: &Links, way: Way) -> u64 {
    let found = links.transfers.iter().find(|it| it.way == way);
    found.map_or(0, |it| measured::rate(it.bytes, it.nanos)) >> 20
}

/// Writes the report for people. The form may change.
///
/// # Errors
/// Nobody reads.
pub fn write_text(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for gpu in &report.gpus {
        let word = match gpu.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fault => "FAULT",
            Verdict::Unknown => "UNKNOWN",
        };
        writeln!(out, "GPU {} {}: {word}  ({})", gpu.index, gpu.name, gpu.uuid)?;
        let it = &gpu.measured;
        if it.memory_passes > 0 {
            // An emulated GPU has little.
            let (shift, unit) =
                if it.memory_bytes_free < 1 << 26 { (10, "KiB") } else { (20, "MiB") };
            let (tested, free) = (it.memory_bytes >> shift, it.memory_bytes_free >> shift);
            let (passes, rate) = (it.memory_passes, it.memory_bytes_per_second >> 20);
            write!(out, "  memory: {tested} of {free} {unit} that were free, ")?;
            writeln!(out, "{passes} passes, {rate} MiB/s")?;
        }
        if !it.digests.is_empty() {
            writeln!(out, "  votes: {} kernels, on all SMs", it.digests.len())?;
        }
        if let Some(links) = &it.links {
            let (from, to) =
                (mib_rate(links, Way::HostToDevice), mib_rate(links, Way::DeviceToHost));
            let peers = match links.peers {
                Peers::NotApplicable => "not applicable",
                Peers::NoAccess => "no way to them",
                Peers::Tested => "tested",
            };
            writeln!(out, "  host: {from} MiB/s in, {to} MiB/s out; other GPUs: {peers}")?;
        }
        let baseline = gpu.baseline.unwrap_or("none is known of this product");
        writeln!(out, "  baseline: {baseline}")?;
        for finding in &gpu.findings {
            let word = match finding.severity {
                Severity::Warning => "warning",
                Severity::Unknown => "unknown",
                Severity::Fault => "fault",
            };
            writeln!(out, "  {word} ({}): {}", finding.check, finding.message)?;
        }
    }
    Ok(())
}
