//! A failing job's operands, twice on every SM: whether all agree, both times, and on what.

use std::io::{self, Write};
use std::time::Duration;

use gpu_agent_core::burn_in::dump::{self, DumpError};
use gpu_agent_core::burn_in::golden::{Format, Operands, Shape};
use gpu_agent_core::burn_in::vote::{self, Round};
use gpu_agent_core::burn_in::{Blame, Finding, Severity, Verdict, verdict};
use serde::Serialize;
use specs::fault::{Fault, FaultCode};

use super::ask::{Stop, ask};
use super::child::{Answer, Check, Request};
use super::cuda::DeviceInfo;
use super::kernels;
use super::report::{API_VERSION, gravest};
use super::run::{self, Outcome};

/// What is to be replayed, and where.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// One GPU, as the driver numbers them; all if left out.
    pub gpu: Option<u16>,
    /// How long it may take on one GPU.
    pub patience: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    api_version: &'static str,
    kind: &'static str,
    verdict: Verdict,
    format: Format,
    shape: Shape,
    seed: u64,
    /// The file's own.
    checksum: String,
    /// BLAKE3 of the PTX that ran.
    kernel: String,
    gpus: Vec<ReplayOfGpu>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayOfGpu {
    index: u16,
    name: String,
    uuid: String,
    compute: String,
    sms: u32,
    verdict: Verdict,
    /// What most SMs say. Equal for equal files, kernels and compute capabilities.
    digest: Option<String>,
    findings: Vec<Finding>,
}

impl ReplayReport {
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.verdict {
            Verdict::Pass => Outcome::Pass,
            Verdict::Fault => Outcome::Fault,
            Verdict::Unknown => Outcome::Unknown,
        }
    }
}

/// A file whose numbers are made from a seed: to try a replay, and to see what one looks like.
#[must_use]
pub fn example(seed: u64) -> Vec<u8> {
    let shape = Shape { depth: 2 * Shape::TILE.depth, ..Shape::TILE };
    let operands = Operands::random(Format::Bf16, shape, seed).expect("the shape is one that fits");
    dump::write(&operands, seed)
}

fn unfit_file(name: &str, error: &DumpError) -> Fault {
    let hint = "`gpu-agent replay --example FILE` writes one to compare with";
    Fault::new(FaultCode::InvalidArgument, format!("{name}: {error}")).with_hint(hint)
}

/// Replays a file, which has this name, on all GPUs that are meant.
///
/// # Errors
/// The file is none or the GPU is not there (invalid argument), there is no GPU (not found), or
/// the driver cannot be used (unreachable).
pub async fn replay(
    options: &ReplayOptions,
    name: &str,
    file: Vec<u8>,
) -> Result<ReplayReport, Fault> {
    let dump = dump::parse(&file).map_err(|error| unfit_file(name, &error))?;
    let stopped = || Fault::new(FaultCode::Internal, "the replay was stopped");
    let (patience, stop) = (options.patience, Stop::never());
    let devices = run::choose(options.gpu, None, patience, &stop).await?.ok_or_else(stopped)?;
    let checksum = dump.checksum;
    let mut request = Request { seed: dump.seed, dump: file, ..Request::of(Check::Replay, "") };
    let mut gpus = Vec::new();
    for device in devices {
        request.gpu = device.index;
        gpus.push(on(device, &request, patience).await.ok_or_else(stopped)?);
    }
    Ok(ReplayReport {
        api_version: API_VERSION,
        kind: "Replay",
        verdict: gravest(gpus.iter().map(|it| it.verdict)),
        format: dump.operands.format(),
        shape: dump.operands.shape(),
        seed: dump.seed,
        checksum: format!("{checksum:08x}"),
        kernel: kernels::hashes().remove("golden.ptx").unwrap_or_default(),
        gpus,
    })
}

/// None if it was stopped.
async fn on(device: DeviceInfo, request: &Request, patience: Duration) -> Option<ReplayOfGpu> {
    let (findings, digest) = match ask(request, patience, &Stop::never()).await {
        Ok(Answer::Votes(rounds)) => (judge(&rounds), rounds.first().and_then(vote::digest)),
        Ok(_) => {
            (vec![Finding::unknown(Check::Replay.name(), "another question was answered")], None)
        }
        Err(missed) => (vec![run::missed_finding(Check::Replay, missed)?], None),
    };
    let DeviceInfo { index, name, uuid, compute, sms, .. } = device;
    let compute = format!("{}.{}", compute.0, compute.1);
    let (verdict, digest) = (verdict(&findings), digest.map(|it| format!("{it:016x}")));
    Some(ReplayOfGpu { index, name, uuid, compute, sms, verdict, digest, findings })
}

/// Each time by vote, and both times the same.
fn judge(rounds: &[Round]) -> Vec<Finding> {
    let name = Check::Replay.name();
    let mut findings: Vec<Finding> = rounds.iter().flat_map(vote::judge).collect();
    findings.dedup();
    let digests: Vec<Option<u64>> = rounds.iter().map(vote::digest).collect();
    if digests.windows(2).any(|pair| pair[0].is_some() && pair[1].is_some() && pair[0] != pair[1]) {
        let blame = Blame::Device { what: "results are not repeatable".into() };
        let message = "the same step gave another digest the second time";
        findings.push(Finding::new(name, Severity::Fault, blame, message));
    }
    if rounds.len() < 2 {
        findings.push(Finding::unknown(name, "the step did not run twice"));
    }
    findings
}

/// Writes the report for programs. The form is versioned.
///
/// # Errors
/// Nobody reads.
pub fn write_replay_json(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// Writes the report for people. The form may change.
///
/// # Errors
/// Nobody reads.
pub fn write_replay_text(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    for gpu in &report.gpus {
        let word = match gpu.verdict {
            Verdict::Pass => "all SMs agree, both times",
            Verdict::Fault => "FAULT",
            Verdict::Unknown => "UNKNOWN",
        };
        let digest = gpu.digest.as_deref().unwrap_or("none");
        writeln!(out, "GPU {} {} ({} SMs): {word}; digest {digest}", gpu.index, gpu.name, gpu.sms)?;
        for finding in &gpu.findings {
            writeln!(out, "  {}: {}", finding.check, finding.message)?;
        }
    }
    Ok(())
}
