//! Finds things out about GPUs, and does what the core wants done to them; each in a task of its
//! own.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use fabric_quic::env::Env;
use gpu_agent_core::burn_in::counters::{self, Counters};
use gpu_agent_core::burn_in::measured::{Compared, FIRST_SEED};
use gpu_agent_core::burn_in::{Severity, Tier, Verdict};
use gpu_agent_core::health::{BurnIn, Evidence, Recovery, Reset, Rung};
use specs::gpu::{BurnInTier, GpuInfo};
use specs::id::GpuIndex;
use specs::unit::Millis;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::proof::{self, Signer};
use super::{HealthOptions, News, events, library};
use crate::burn_in::{self, Gauges, Options, Reading, Stop, StopHandle};

/// How often counters are read.
const READ_SPAN: Millis = Millis(10_000);
/// How often they are asked for that did not come.
const ASK_AGAIN_SPAN: Millis = Millis(1_000);
/// How long a reading may take. With both spans, a library that stops to answer is known as one
/// within half a minute.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long one check of a burn-in may take beyond the time that it is kept at work.
const CHECK_PATIENCE: Duration = Duration::from_secs(120);
/// How long a command that resets may take, and then how long a machine may take to go down.
const RESET_SPAN: Millis = Millis(600_000);

/// What a burn-in found and measured.
type Found = (Evidence, Compared);

/// A burn-in that is under way.
pub(super) struct UnderWay {
    pub(super) number: u64,
    pub(super) tier: BurnInTier,
    stop: StopHandle,
    /// Closed when its child has ended, or is left behind.
    ended: oneshot::Receiver<()>,
}

impl UnderWay {
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until its child has ended.
    pub(super) async fn gone(self) {
        let _ = self.ended.await;
    }
}

pub(super) struct Doctor {
    env: Env,
    pub(super) gpus: Vec<GpuInfo>,
    signer: Signer,
    options: HealthOptions,
    tell: mpsc::Sender<News>,
}

impl Doctor {
    pub(super) fn new(
        env: &Env,
        gpus: Vec<GpuInfo>,
        signer: Signer,
        options: HealthOptions,
        tell: mpsc::Sender<News>,
    ) -> Arc<Self> {
        Arc::new(Self { env: env.clone(), gpus, signer, options, tell })
    }

    fn info(&self, index: GpuIndex) -> Option<&GpuInfo> {
        self.gpus.iter().find(|gpu| gpu.index == index)
    }

    /// Starts a burn-in; what comes of it is told. `peers` if nothing uses other GPUs.
    pub(super) fn burn_in(self: &Arc<Self>, number: u64, it: BurnIn, peers: bool) -> UnderWay {
        tracing::info!(gpu = %it.gpu, tier = %it.tier, "a burn-in begins");
        let (handle, stop) = StopHandle::new();
        let (end, ended) = oneshot::channel();
        let doctor = self.clone();
        self.env.spawn(async move {
            let told = doctor.burnt_in(it, peers, stop).await;
            drop(end);
            // Nobody listens once the agent has ended.
            let _ = doctor.tell.send(News::BurntIn(number, it, told)).await;
        });
        UnderWay { number, tier: it.tier, stop: handle, ended }
    }

    /// None if it was stopped.
    async fn burnt_in(&self, it: BurnIn, peers: bool, stop: Stop) -> Option<Found> {
        let unknown = |why: String| Some((Evidence::Unknown(why), Compared::default()));
        let Some(info) = self.info(it.gpu) else {
            return unknown("the GPU is gone".into());
        };
        let tier = Tier::from(it.tier);
        let most = self.options.burn_in_seconds;
        let seconds = match tier {
            Tier::T0 | Tier::T1 | Tier::T4 => most.min(tier.work_seconds()),
            Tier::T2 => most,
            Tier::T3 => self.options.soak_minutes.saturating_mul(60),
        };
        let mut seed = [0; 8];
        self.env.random.fill(&mut seed);
        let options = Options {
            tier,
            gpu: None,
            uuid: Some(info.uuid.clone()),
            seconds,
            seed: u64::from_le_bytes(seed),
            first: Some(FIRST_SEED),
            patience: CHECK_PATIENCE,
            turn: it.turn,
            peers,
            stop,
            clock: self.env.clock.clone(),
        };
        let report = match burn_in::run(&options, &mut |_| ()).await {
            Ok(report) => report?,
            Err(fault) => return unknown(fault.to_string()),
        };
        let why = report.worst().unwrap_or_default();
        let evidence = match report.verdict() {
            Verdict::Fault => Evidence::Fault(why),
            Verdict::Unknown => Evidence::Unknown(why),
            Verdict::Pass => self.passed(info, report.product(), it.tier, why),
        };
        Some((evidence, report.compared(proof::kernels(&self.env))))
    }

    fn passed(
        &self,
        info: &GpuInfo,
        product: String,
        tier: BurnInTier,
        warning: String,
    ) -> Evidence {
        match self.signer.sign(&self.env, info, product, tier) {
            Ok(proof) => Evidence::Passed { tier, proof, warning },
            Err(error) => Evidence::Unknown(format!("no proof can be signed: {error}")),
        }
    }

    /// Resets a GPU, or the machine, by the operator's command; what comes of it is told.
    pub(super) fn reset(self: &Arc<Self>, it: Reset) {
        let Some(program) = self.options.reset_command.clone() else { return };
        tracing::warn!(gpu = %it.gpu, rung = %it.rung, program = %program.display(), "a reset begins");
        let doctor = self.clone();
        self.env.spawn(async move {
            let outcome = doctor.run_reset(&program, it).await;
            let outcome = match (it.rung, outcome) {
                (Rung::Gpu, outcome) => outcome,
                (Rung::Machine | Rung::Power, Ok(())) => {
                    // This process ends with the machine; the next life sees that it was restarted.
                    doctor.env.sleep(RESET_SPAN).await;
                    Err("the machine is still up".to_owned())
                }
                (Rung::Machine | Rung::Power, Err(why)) => Err(why),
            };
            let _ = doctor.tell.send(News::Reset(it.gpu, outcome)).await;
        });
    }

    async fn run_reset(&self, program: &Path, it: Reset) -> Result<(), String> {
        let uuid = self.info(it.gpu).map(|info| info.uuid.clone()).unwrap_or_default();
        let mut command = Command::new(program);
        command.args([it.rung.as_str(), &uuid]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let ended = self.env.timeout(RESET_SPAN, command.status()).await;
        let program = program.display();
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{program}: {status}")),
            Ok(Err(error)) => Err(format!("cannot run {program}: {error}")),
            Err(_) => Err(format!("{program} did not end in time")),
        }
    }

    /// Reads counters for ever, follows the kernel's log, and listens to the management library.
    pub(super) fn watch(self: &Arc<Self>) {
        for info in &self.gpus {
            let (doctor, info) = (self.clone(), info.clone());
            self.env.spawn(async move { doctor.read_counters(&info).await });
        }
        if !self.gpus.is_empty() {
            events::follow(&self.options.kernel_log, self.gpus.clone(), self.tell.clone());
            let doctor = self.clone();
            self.env
                .spawn(async move { library::hear(&doctor.env, &doctor.gpus, &doctor.tell).await });
        }
    }

    async fn read_counters(&self, info: &GpuInfo) {
        let mut before: Option<(Counters, Option<u64>)> = None;
        loop {
            let read = burn_in::watch(&info.uuid, READ_PATIENCE).await;
            let (told, gauges) = judge(&mut before, read);
            let pause = if told == [Evidence::Silent] { ASK_AGAIN_SPAN } else { READ_SPAN };
            let told = told.into_iter().map(|it| News::Learnt(info.index, it));
            for news in told.chain([News::Read(info.index, gauges)]) {
                if self.tell.send(news).await.is_err() {
                    return;
                }
            }
            self.env.sleep(pause).await;
        }
    }
}

/// What a reading says, beside the one before; and its gauges.
fn judge(
    before: &mut Option<(Counters, Option<u64>)>,
    read: Reading,
) -> (Vec<Evidence>, Option<Box<Gauges>>) {
    let (now, gauges) = match read {
        Reading::Watched(watched) => (watched.counters, watched.gauges),
        Reading::Broken(why) => return (vec![Evidence::Fault(why)], None),
        Reading::None => return (vec![Evidence::Silent], None),
    };
    let recovery = gauges.recovery;
    let old = before.replace((now.clone(), recovery));
    let is_first = old.is_none();
    let (old, asked) = old.unwrap_or_else(|| (now.clone(), None));
    let findings = counters::watch(&old, &now).into_iter();
    let told = findings.map(|it| match it.severity {
        Severity::Fault => Evidence::Fault(it.message),
        Severity::Warning | Severity::Unknown => Evidence::Warning(it.message),
    });
    let mut told: Vec<Evidence> = told.collect();
    if !is_first && now.remap_pending == Some(true) && old.remap_pending != Some(true) {
        told.push(Evidence::RemapPending);
    }
    // What it asked for in an earlier life it may still ask for.
    if recovery != asked
        && let Some(it) = recovery.and_then(Recovery::of)
        && it != Recovery::None
    {
        told.push(Evidence::Recovery(it));
    }
    if told.is_empty() {
        told.push(Evidence::Quiet);
    }
    (told, Some(Box::new(gauges)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burn_in::Watched;

    fn watched(counters: &Counters, recovery: Option<u64>) -> Reading {
        let gauges = Gauges { recovery, ..Gauges::default() };
        Reading::Watched(Box::new(Watched { counters: counters.clone(), gauges }))
    }

    #[test]
    fn a_first_reading_blames_nobody_for_what_happened_before() {
        let mut before = None;
        let old =
            Counters { ecc_uncorrected: Some(4), remap_pending: Some(true), ..Counters::default() };
        assert_eq!(judge(&mut before, watched(&old, Some(0))).0, [Evidence::Quiet]);
        assert_eq!(judge(&mut before, Reading::None).0, [Evidence::Silent]);
        let new = Counters { ecc_uncorrected: Some(5), ..old };
        let told = judge(&mut before, watched(&new, Some(0))).0;
        assert!(matches!(told[..], [Evidence::Fault(_)]), "{told:?}");
        assert_eq!(judge(&mut before, watched(&new, Some(0))).0, [Evidence::Quiet]);
    }

    #[test]
    fn a_remap_and_what_the_driver_asks_for_are_told_once() {
        let mut before = None;
        let old = Counters { remap_pending: Some(false), ..Counters::default() };
        let new = Counters { remap_pending: Some(true), ..old.clone() };
        judge(&mut before, watched(&old, None));
        let told = judge(&mut before, watched(&new, Some(4))).0;
        let expected = [Evidence::RemapPending, Evidence::Recovery(Recovery::DrainAndReset)];
        assert_eq!(told, expected);
        assert_eq!(judge(&mut before, watched(&new, Some(4))).0, [Evidence::Quiet]);
        let mut life = None;
        let told = judge(&mut life, watched(&new, Some(1))).0;
        assert_eq!(told, [Evidence::Recovery(Recovery::GpuReset)]);
    }
}
