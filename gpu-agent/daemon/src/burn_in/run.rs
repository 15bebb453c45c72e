//! The burn-in of a node's GPUs: one check after the other, each in a child with a deadline.

use std::process::Stdio;
use std::time::Duration;

use gpu_agent_core::burn_in::{
    Blame, Finding, Severity, Tier, Verdict,
    counters::{self, Counters},
    memory, settle, verdict, vote,
};
use specs::fault::{Fault, FaultCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::child::{Answer, Check, Request};
use super::cuda::{DeviceInfo, Failure, FailureKind};
use super::report::{GpuReport, Measured, Report};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long a killed child may take to be gone before it is left behind.
const BURIAL: Duration = Duration::from_secs(5);

/// What is to be burnt in, and how.
#[derive(Debug, Clone)]
pub struct Options {
    pub tier: Tier,
    /// One GPU, as the driver numbers them; all if left out.
    pub gpu: Option<u16>,
    /// One GPU, by its id.
    pub uuid: Option<String>,
    /// How long votes go on, all together.
    pub seconds: u32,
    pub seed: u64,
    /// How long a check may take beyond that.
    pub patience: Duration,
}

/// What the process says of it by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass = 0,
    Fault = 1,
    NoGpu = 3,
    Unknown = 4,
}

/// Why a check has no numbers.
enum Missed {
    Deadline,
    Died(String),
    Failed(Failure),
}

/// Burns in, and says each step to `progress`.
///
/// # Errors
/// There is no GPU (not found), the one that was named is not there (invalid argument), or the
/// driver cannot be used (unreachable).
pub async fn run(
    options: &Options,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Report, Fault> {
    let devices = devices(options).await?;
    let is_wanted = |it: &&DeviceInfo| {
        options.gpu.is_none_or(|wanted| wanted == it.index)
            && options.uuid.as_ref().is_none_or(|wanted| *wanted == it.uuid)
    };
    let chosen: Vec<&DeviceInfo> = devices.iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        let by_index = options.gpu.map(|index| index.to_string());
        let wanted = options.uuid.clone().or(by_index).unwrap_or_default();
        let message = format!("there is no GPU {wanted}; the driver knows {}", devices.len());
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    let mut gpus = Vec::new();
    for device in chosen {
        gpus.push(burn_in(options, device, progress).await);
    }
    Ok(Report::new(options.tier, options.seed, gpus))
}

impl Outcome {
    /// The outcome of a report: the gravest of its GPUs.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        match report.verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fault => Self::Fault,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// What came of reading the counters.
pub(crate) enum Reading {
    Counters(Counters),
    /// The device is gone.
    Broken(String),
    /// No answer, or none in time.
    None,
}

/// Reads a GPU's counters, in a child.
pub(crate) async fn read_counters(uuid: &str, patience: Duration) -> Reading {
    let (check, uuid) = (Check::Counters, uuid.to_owned());
    let request = Request { check, gpu: 0, uuid, seed: 0, passes: 0, seconds: 0 };
    match ask(&request, patience).await {
        Ok(Answer::Counters(read)) => Reading::Counters(read),
        Err(Missed::Failed(failure)) if failure.kind == FailureKind::Device => {
            Reading::Broken(failure.message)
        }
        Ok(_) | Err(Missed::Failed(_) | Missed::Deadline | Missed::Died(_)) => Reading::None,
    }
}

async fn devices(options: &Options) -> Result<Vec<DeviceInfo>, Fault> {
    let request = request(options, Check::Devices, None);
    let message = match ask(&request, options.patience).await {
        Ok(Answer::Devices(devices)) if !devices.is_empty() => return Ok(devices),
        Ok(Answer::Devices(_)) => {
            return Err(Fault::new(FaultCode::NotFound, "the NVIDIA driver knows no GPU"));
        }
        Ok(_) => "the check answered another question".to_owned(),
        Err(Missed::Failed(failure)) if failure.kind == FailureKind::NoGpu => {
            return Err(Fault::new(FaultCode::NotFound, failure.message)
                .with_hint("run this on a machine with an NVIDIA GPU and its driver"));
        }
        Err(Missed::Failed(failure)) => failure.message,
        Err(Missed::Deadline) => "the NVIDIA driver does not answer".to_owned(),
        Err(Missed::Died(how)) => format!("asking the NVIDIA driver: {how}"),
    };
    Err(Fault::new(FaultCode::Unreachable, message).with_hint("look at nvidia-smi and dmesg"))
}

fn request(options: &Options, check: Check, device: Option<&DeviceInfo>) -> Request {
    Request {
        check,
        gpu: device.map_or(0, |it| it.index),
        uuid: device.map_or_else(String::new, |it| it.uuid.clone()),
        seed: options.seed,
        passes: options.tier.memory_passes(),
        seconds: options.seconds,
    }
}

async fn burn_in(
    options: &Options,
    device: &DeviceInfo,
    progress: &mut (dyn FnMut(&str) + Send),
) -> GpuReport {
    let mut findings = Vec::new();
    let mut measured = Measured::default();
    let mut before = None;
    let steps = [Check::Counters, Check::Units, Check::Tensor, Check::Memory, Check::Counters];
    for check in steps {
        progress(&format!("GPU {}: {}", device.index, check.name()));
        let request = request(options, check, Some(device));
        let patience = options.patience + Duration::from_secs(u64::from(options.seconds));
        match ask(&request, patience).await {
            Ok(Answer::Votes(rounds)) => {
                findings.extend(rounds.iter().flat_map(vote::judge));
                measured.add_rounds(&rounds);
            }
            Ok(Answer::Memory(numbers)) => {
                findings.extend(memory::judge(&numbers));
                measured.add_memory(&numbers);
            }
            Ok(Answer::Counters(read)) => match before.take() {
                None => before = Some(read),
                Some(old) => {
                    findings.extend(counters::judge(&old, &read));
                    measured.counters = Some(read);
                }
            },
            Ok(Answer::Devices(_) | Answer::Failed(_)) => {
                findings.push(Finding::unknown(check.name(), "another question was answered"));
            }
            Err(missed) => findings.push(missed_finding(check, missed)),
        }
    }
    findings.dedup();
    let findings = settle(findings);
    GpuReport::new(device, verdict(&findings), findings, measured)
}

fn missed_finding(check: Check, missed: Missed) -> Finding {
    let name = check.name();
    let fault = |what: String, message: String| {
        Finding::new(name, Severity::Fault, Blame::Device { what }, message)
    };
    match missed {
        Missed::Deadline if check == Check::Counters => {
            Finding::unknown(name, "the management library did not answer in time")
        }
        Missed::Deadline => {
            fault("hung".into(), "the GPU did not finish in time; the check was ended".into())
        }
        Missed::Failed(failure) if failure.kind == FailureKind::Device => {
            fault(failure.message.clone(), failure.message)
        }
        Missed::Failed(failure) => Finding::unknown(name, failure.message),
        Missed::Died(how) => Finding::unknown(name, how),
    }
}

/// Asks a child, and ends it if it is late.
async fn ask(request: &Request, patience: Duration) -> Result<Answer, Missed> {
    let died = |what: String| Missed::Died(what);
    let question = serde_json::to_vec(request).map_err(|error| died(error.to_string()))?;
    let program = std::env::current_exe().map_err(|error| died(error.to_string()))?;
    let mut command = Command::new(program);
    command.arg("check").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| died(format!("cannot start: {error}")))?;
    let Ok(talked) = timeout(patience, talk(&mut child, &question)).await else {
        // One that waits for the driver may not even be killed; it is not waited for then.
        let _ = child.start_kill();
        let _ = timeout(BURIAL, child.wait()).await;
        return Err(Missed::Deadline);
    };
    let text = talked.map_err(|error| died(format!("the check's process: {error}")))?;
    match serde_json::from_slice(&text) {
        Ok(Answer::Failed(failure)) => Err(Missed::Failed(failure)),
        Ok(answer) => Ok(answer),
        Err(_) => {
            let status = timeout(BURIAL, child.wait()).await;
            let status = status.ok().and_then(Result::ok);
            let how = status.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
            Err(died(format!("the check's process ended without an answer ({how})")))
        }
    }
}

async fn talk(child: &mut Child, question: &[u8]) -> std::io::Result<Vec<u8>> {
    if let Some(mut to) = child.stdin.take() {
        to.write_all(question).await?;
        to.shutdown().await?;
    }
    let mut text = Vec::new();
    if let Some(from) = child.stdout.take() {
        from.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    }
    Ok(text)
}
