//! The burn-in of a node's GPUs: one check after the other, each in a child with a deadline.

use std::sync::Arc;
use std::time::Duration;

use fabric_quic::env::Clock;
use gpu_agent_core::burn_in::{
    Blame, Finding, Severity, Tier, Verdict, baseline, counters, links, memory, settle, verdict,
    vote, wave,
};
use specs::fault::{Fault, FaultCode};
use specs::unit::{Instant, Millis};

use super::ask::{Missed, Stop, ask};
use super::child::{Answer, Check, Request};
use super::cuda::{DeviceInfo, FailureKind};
use super::management::Watched;
use super::report::{GpuReport, Numbers, Report};

/// A soak's rounds are as many, if units are kept at work no longer than in an admission.
const SOAK_ROUNDS: u32 = 30;

/// What is to be burnt in, and how.
#[derive(Clone)]
pub struct Options {
    pub tier: Tier,
    /// One GPU, as the driver numbers them; all if left out.
    pub gpu: Option<u16>,
    /// One GPU, by its id.
    pub uuid: Option<String>,
    /// How long votes go on, all together; for a soak, how long it lasts.
    pub seconds: u32,
    pub seed: u64,
    /// What the first round of each vote is made from, if from something else: what it gives can then
    /// be compared with what other GPUs give.
    pub first: Option<u64>,
    /// How long a check may take beyond that.
    pub patience: Duration,
    /// Which slice of an idle moment this is: checks take turns.
    pub turn: u32,
    /// Whether copies to other GPUs are tested: they cost memory of those for a moment.
    pub peers: bool,
    pub stop: Stop,
    pub clock: Arc<dyn Clock>,
}

/// How far a burn-in is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub gpu: u16,
    /// The check that begins.
    pub check: &'static str,
    /// Thousandths of the whole that are done.
    pub done_permille: u64,
}

/// Who hears of it.
pub type Listener<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// What the process says of it by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass = 0,
    Fault = 1,
    NoGpu = 3,
    Unknown = 4,
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

/// Burns in, and says each step to `progress`. None if it was stopped.
///
/// # Errors
/// There is no GPU (not found), the one that was named is not there (invalid argument), or the
/// driver cannot be used (unreachable).
pub async fn run(options: &Options, progress: Listener<'_>) -> Result<Option<Report>, Fault> {
    let begun = options.clock.now();
    let (gpu, uuid) = (options.gpu, options.uuid.as_deref());
    let chosen = choose(gpu, uuid, options.patience, &options.stop).await?;
    let Some(chosen) = chosen else { return Ok(None) };
    let mut gpus = Vec::new();
    for (nth, device) in chosen.iter().enumerate() {
        let share = 1_000 / chosen.len() as u64;
        let mut told = |it: Progress| {
            let done_permille = share * nth as u64 + it.done_permille * share / 1_000;
            progress(Progress { done_permille, ..it });
        };
        let bench = Bench { options, device, begun: options.clock.now() };
        match bench.burn_in(&mut told).await {
            Some(report) => gpus.push(report),
            None => return Ok(None),
        }
    }
    let spent = options.clock.now().since(begun);
    Ok(Some(Report::new(options, spent, gpus)))
}

/// The GPUs that are meant: all, or one by its index or its id. None if it was stopped.
///
/// # Errors
/// As those of [`run`].
pub(super) async fn choose(
    gpu: Option<u16>,
    uuid: Option<&str>,
    patience: Duration,
    stop: &Stop,
) -> Result<Option<Vec<DeviceInfo>>, Fault> {
    let Some(devices) = devices(patience, stop).await? else { return Ok(None) };
    let known = devices.len();
    let is_wanted = |it: &DeviceInfo| {
        gpu.is_none_or(|wanted| wanted == it.index) && uuid.is_none_or(|wanted| wanted == it.uuid)
    };
    let chosen: Vec<DeviceInfo> = devices.into_iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        let by_index = gpu.map(|index| index.to_string());
        let wanted = uuid.map(str::to_owned).or(by_index).unwrap_or_default();
        let message = format!("there is no GPU {wanted}; the driver knows {known}");
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    Ok(Some(chosen))
}

/// What came of a reading.
pub(crate) enum Reading {
    Watched(Box<Watched>),
    /// The device is gone.
    Broken(String),
    /// No answer, or none in time.
    None,
}

/// Reads what the management library says of a GPU, in a child.
pub(crate) async fn watch(uuid: &str, patience: Duration) -> Reading {
    let request = Request::of(Check::Watch, uuid);
    match ask(&request, patience, &Stop::never()).await {
        Ok(Answer::Watch(it)) => Reading::Watched(it),
        Err(Missed::Failed(failure)) if failure.is_of_device() => Reading::Broken(failure.message),
        Ok(_) | Err(Missed::Failed(_) | Missed::Deadline | Missed::Stopped | Missed::Died(_)) => {
            Reading::None
        }
    }
}

async fn devices(patience: Duration, stop: &Stop) -> Result<Option<Vec<DeviceInfo>>, Fault> {
    let request = Request::of(Check::Devices, "");
    let message = match ask(&request, patience, stop).await {
        Ok(Answer::Devices(devices)) if !devices.is_empty() => return Ok(Some(devices)),
        Ok(Answer::Devices(_)) => {
            return Err(Fault::new(FaultCode::NotFound, "the NVIDIA driver knows no GPU"));
        }
        Ok(_) => "the check answered another question".to_owned(),
        Err(Missed::Stopped) => return Ok(None),
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

/// What a tier does to a GPU, in this order. Of a slice, one check alone.
fn steps(tier: Tier, turn: u32) -> Vec<Check> {
    use Check::{Counters, Golden, Links, Memory, Tensor, Units, Wave};
    match tier {
        Tier::T0 => vec![Counters, Counters],
        Tier::T1 => vec![Counters, Units, Tensor, Memory, Links, Counters],
        Tier::T2 | Tier::T3 => {
            vec![Counters, Units, Tensor, Golden, Memory, Wave, Links, Counters]
        }
        Tier::T4 => {
            let turns = [Units, Tensor, Memory, Golden];
            vec![turns[turn as usize % turns.len()]]
        }
    }
}

/// One GPU on its bench.
struct Bench<'a> {
    options: &'a Options,
    device: &'a DeviceInfo,
    begun: Instant,
}

impl Bench<'_> {
    /// None if it was stopped.
    async fn burn_in(&self, progress: Listener<'_>) -> Option<GpuReport> {
        let mut findings = Vec::new();
        let mut numbers = Numbers::default();
        for round in 0_u32.. {
            self.round(round, &mut findings, &mut numbers, progress).await?;
            findings.dedup();
            numbers.rounds = round + 1;
            let is_over = self.left(self.options.clock.now()) == Millis::ZERO;
            if is_over || verdict(&findings) != Verdict::Pass {
                break;
            }
        }
        let mut findings = settle(findings);
        if matches!(self.options.tier, Tier::T1 | Tier::T2 | Tier::T3)
            && let Some(baseline) = baseline::of(&self.device.name)
        {
            findings.extend(baseline.judge(&numbers.seen(self.device)));
        }
        Some(GpuReport::new(self.device, verdict(&findings), findings, numbers))
    }

    /// How much of a soak is left; nothing of any other tier, which has one round.
    fn left(&self, now: Instant) -> Millis {
        match self.options.tier {
            Tier::T3 => {
                let until = self.begun.after(Millis(u64::from(self.options.seconds) * 1_000));
                until.since(now)
            }
            Tier::T0 | Tier::T1 | Tier::T2 | Tier::T4 => Millis::ZERO,
        }
    }

    async fn round(
        &self,
        round: u32,
        findings: &mut Vec<Finding>,
        numbers: &mut Numbers,
        progress: Listener<'_>,
    ) -> Option<()> {
        let steps = steps(self.options.tier, self.options.turn);
        let mut before = None;
        for (nth, check) in steps.iter().copied().enumerate() {
            let done_permille = self.done_permille(nth, steps.len());
            progress(Progress { gpu: self.device.index, check: check.name(), done_permille });
            let request = self.request(check, round);
            let patience = self.options.patience + Duration::from_secs(u64::from(request.seconds));
            let asked_at = self.options.clock.now();
            let answer = ask(&request, patience, &self.options.stop).await;
            let spent = self.options.clock.now().since(asked_at).0;
            *numbers.check_millis.entry(check.name().to_owned()).or_default() += spent;
            match answer {
                Ok(Answer::Votes(rounds)) => {
                    findings.extend(rounds.iter().flat_map(vote::judge));
                    numbers.add_rounds(&rounds);
                }
                Ok(Answer::Memory(it)) => {
                    findings.extend(memory::judge(&it));
                    numbers.add_memory(&it);
                }
                Ok(Answer::Links(it)) => {
                    findings.extend(links::judge(&it));
                    numbers.add_links(it);
                }
                Ok(Answer::Wave(it, rounds)) => {
                    findings.extend(rounds.iter().flat_map(vote::judge));
                    findings.extend(wave::judge(&it));
                    numbers.add_wave(it);
                }
                Ok(Answer::Counters(read, driven)) => match before.take() {
                    None => {
                        before = Some(read);
                        numbers.driven = Some(driven);
                    }
                    Some(old) => {
                        findings.extend(counters::judge(&old, &read));
                        numbers.counters = Some(read);
                    }
                },
                Ok(Answer::Devices(_) | Answer::Watch(_) | Answer::Failed(_)) => {
                    findings.push(Finding::unknown(check.name(), "another question was answered"));
                }
                Err(missed) => findings.push(missed_finding(check, missed)?),
            }
        }
        Some(())
    }

    fn done_permille(&self, nth: usize, steps: usize) -> u64 {
        match self.options.tier {
            Tier::T3 => {
                let all = u64::from(self.options.seconds).max(1) * 1_000;
                let left = self.left(self.options.clock.now()).0;
                all.saturating_sub(left) * 1_000 / all
            }
            Tier::T0 | Tier::T1 | Tier::T2 | Tier::T4 => nth as u64 * 1_000 / steps as u64,
        }
    }

    fn request(&self, check: Check, round: u32) -> Request {
        let it = self.options;
        let seconds = match it.tier {
            Tier::T3 => (it.seconds / SOAK_ROUNDS).min(it.tier.work_seconds()),
            Tier::T0 | Tier::T1 | Tier::T2 | Tier::T4 => it.seconds,
        };
        Request {
            gpu: self.device.index,
            // The rounds of a soak differ.
            seed: it.seed.wrapping_add(u64::from(round).wrapping_mul(0xd134_2543_de82_ef95)),
            first: it.first.filter(|_| round == 0),
            passes: it.tier.memory_passes(),
            seconds,
            turn: it.turn,
            peers: it.peers,
            hold_seconds: if it.tier == Tier::T3 { seconds } else { 0 },
            rows: it.tier == Tier::T3,
            ..Request::of(check, &self.device.uuid)
        }
    }
}

/// None if the burn-in was stopped.
pub(super) fn missed_finding(check: Check, missed: Missed) -> Option<Finding> {
    let name = check.name();
    let fault = |what: String, message: String| {
        Finding::new(name, Severity::Fault, Blame::Device { what }, message)
    };
    Some(match missed {
        Missed::Stopped => return None,
        Missed::Deadline if check == Check::Counters => {
            Finding::unknown(name, "the management library did not answer in time")
        }
        Missed::Deadline => {
            fault("hung".into(), "the GPU did not finish in time; the check was ended".into())
        }
        Missed::Failed(failure) if failure.is_of_device() => {
            fault(failure.message.clone(), failure.message)
        }
        Missed::Failed(failure) => Finding::unknown(name, failure.message),
        Missed::Died(how) => Finding::unknown(name, how),
    })
}
