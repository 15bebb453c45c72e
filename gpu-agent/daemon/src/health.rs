//! Looks after the node's GPUs: burns them in, reads their counters, follows the kernel's log, signs
//! proofs, and keeps on disk what the next life of the agent must know. What follows from all that
//! is decided by [`gpu_agent_core::health`].
//!
//! ```text
//!   burn_in::run (children) ─┐
//!   counters, every 10 s ────┼─ Evidence ─▶ Ward ─▶ reports ─▶ the Runner's next question
//!   kernel's log (a thread) ─┘               └─▶ DIR/health.json
//! ```
//!
//! Nobody looks after GPUs that were only declared: there is nothing to ask.

mod events;
mod kept;
mod proof;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fabric_quic::env::Env;
use fabric_quic::pki::Credentials;
use gpu_agent_core::Runner;
use gpu_agent_core::burn_in::counters::{self, Counters};
use gpu_agent_core::burn_in::{Severity, Tier, Verdict};
use gpu_agent_core::health::{BurnIn, Evidence, Health};
use specs::gpu::{GpuInfo, GpuReport, InventorySource};
use specs::id::{GpuIndex, NodeId};
use specs::unit::{Instant, Millis};
use tokio::sync::{Notify, mpsc};

use crate::burn_in::{self, Options, Reading, Stop};
use crate::inventory::Gpus;
use proof::Signer;

/// How often counters are read.
const READ_SPAN: Millis = Millis(10_000);
/// How long a reading may take.
const READ_PATIENCE: Duration = Duration::from_secs(6);
/// How long one check of a burn-in may take beyond the time that it is kept at work.
const CHECK_PATIENCE: Duration = Duration::from_secs(120);
const NEWS_QUEUE: usize = 256;

/// How burn-ins are done here.
#[derive(Debug, Clone)]
pub struct HealthOptions {
    /// The kernel's log.
    pub kernel_log: PathBuf,
    /// How long units are kept at work in a burn-in for a proof.
    pub burn_in_seconds: u32,
}

/// What was found out, and by which burn-in; none for what the counters and the log told.
type News = (GpuIndex, Evidence, Option<u64>);

/// A node's GPUs and all that looks after them.
pub(crate) struct Ward {
    env: Env,
    health: Health,
    doctor: Arc<Doctor>,
    news: mpsc::Receiver<News>,
    /// Counts burn-ins.
    runs: u64,
    /// The burn-in that is under way, and what ends it.
    run: Option<Run>,
    /// What was told last, and what was kept last.
    told: Vec<GpuReport>,
    directory: PathBuf,
}

struct Run {
    number: u64,
    gpu: GpuIndex,
    stop: Arc<Notify>,
}

/// Finds things out; each in a task of its own.
struct Doctor {
    env: Env,
    gpus: Vec<GpuInfo>,
    signer: Signer,
    options: HealthOptions,
    tell: mpsc::Sender<News>,
}

impl Ward {
    pub(crate) fn new(
        env: &Env,
        directory: &Path,
        node: &NodeId,
        gpus: &Gpus,
        credentials: &Credentials,
        options: HealthOptions,
    ) -> Self {
        let proven = |gpus: &Gpus| match gpus.source {
            InventorySource::Nvml => gpus.gpus.clone(),
            InventorySource::Declared => Vec::new(),
        };
        let gpus = proven(gpus);
        let (tell, news) = mpsc::channel(NEWS_QUEUE);
        let kept = kept::load(directory, &gpus, env.clock.wall());
        let all = gpus.iter().map(|gpu| (gpu.index, kept.get(&gpu.index).cloned()));
        let [a, b, c, d, e, f, g, h, ..] = env.crypto.sha256(node.as_str().as_bytes());
        let health = Health::new(env.clock.now(), all);
        let health = health.staggered(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        let signer = Signer::new(node.clone(), credentials.clone());
        let doctor = Arc::new(Doctor { env: env.clone(), gpus, signer, options, tell });
        doctor.watch();
        let (told, directory) = (Vec::new(), directory.to_owned());
        Self { env: env.clone(), health, doctor, news, runs: 0, run: None, told, directory }
    }

    /// The next thing that was found out; never ends where there is nothing to look after.
    pub(crate) async fn hear(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn learn(&mut self, (gpu, evidence, run): News) {
        if run.is_some() && run != self.run.as_ref().map(|it| it.number) {
            // It was ended, and its answer was on the way.
            return;
        }
        self.run.take_if(|_| run.is_some());
        if let Some(run) =
            self.run.take_if(|it| it.gpu == gpu && matches!(evidence, Evidence::Fault(_)))
        {
            run.stop.notify_one();
        }
        match &evidence {
            Evidence::Quiet => {}
            Evidence::Passed { tier, .. } => tracing::info!(%gpu, %tier, "the GPU is sound"),
            Evidence::Fault(why) => tracing::error!(%gpu, why, "the GPU is not sound"),
            Evidence::Warning(why) | Evidence::Unknown(why) => {
                tracing::warn!(%gpu, why, "the GPU is to be watched");
            }
            Evidence::Silent => tracing::warn!(%gpu, "the driver does not answer in time"),
            Evidence::Event(xid) => tracing::warn!(%gpu, xid, "the driver reports an event"),
        }
        self.health.handle_evidence(self.env.clock.now(), gpu, evidence);
    }

    /// Goes on with what is due, and tells the runner. True if there is something new to report.
    pub(crate) fn tend(
        &mut self,
        now: Instant,
        runner: &mut Runner,
        busy: BTreeSet<GpuIndex>,
    ) -> bool {
        let (withheld, released) = (runner.withheld(), runner.released());
        self.health.handle_wishes(runner.is_asked_for_proofs(), withheld, released, busy);
        self.health.handle_timeout(now);
        self.health.handle_permits(now, self.env.clock.wall(), runner.permits(now));
        if let Some(gpu) = self.health.poll_interrupt() {
            tracing::info!(%gpu, "the burn-in is no longer permitted, and ends");
            if let Some(run) = self.run.take() {
                run.stop.notify_one();
            }
            self.health.handle_interrupted(now, gpu);
        }
        if let Some(burn_in) = self.health.poll_burn_in(now) {
            self.runs += 1;
            let run = Run { number: self.runs, gpu: burn_in.gpu, stop: Arc::default() };
            self.doctor.burn_in(burn_in, run.number, run.stop.clone());
            self.run = Some(run);
        }
        let reports = self.health.reports();
        if reports == self.told {
            return false;
        }
        self.told.clone_from(&reports);
        runner.set_health(reports);
        let kept = self.health.kept(now);
        let (gpus, wall) = (&self.doctor.gpus, self.env.clock.wall());
        if let Err(error) = kept::save(&self.directory, gpus, &kept, wall) {
            // Then the next life burns in again, or hears of a quarantine from the controllers.
            tracing::warn!(%error, "cannot keep what is known of the GPUs");
        }
        true
    }
}

impl Doctor {
    fn info(&self, index: GpuIndex) -> Option<&GpuInfo> {
        self.gpus.iter().find(|gpu| gpu.index == index)
    }

    /// Starts a burn-in; what comes of it is told, unless it is stopped before.
    fn burn_in(self: &Arc<Self>, it: BurnIn, run: u64, stop: Arc<Notify>) {
        tracing::info!(gpu = %it.gpu, tier = %it.tier, "a burn-in begins");
        let doctor = self.clone();
        self.env.spawn(async move {
            let evidence = tokio::select! {
                evidence = doctor.burnt_in(it) => evidence,
                // The check's process is killed with what waits for it.
                () = stop.notified() => return,
            };
            // Nobody listens once the agent has ended.
            let _ = doctor.tell.send((it.gpu, evidence, Some(run))).await;
        });
    }

    async fn burnt_in(&self, it: BurnIn) -> Evidence {
        let Some(info) = self.info(it.gpu) else {
            return Evidence::Unknown("the GPU is gone".into());
        };
        let mut seed = [0; 8];
        self.env.random.fill(&mut seed);
        let options = Options {
            tier: Tier::from(it.tier),
            gpu: None,
            uuid: Some(info.uuid.clone()),
            seconds: self.options.burn_in_seconds,
            seed: u64::from_le_bytes(seed),
            patience: CHECK_PATIENCE,
            turn: 0,
            stop: Stop::never(),
            clock: self.env.clock.clone(),
        };
        let report = match burn_in::run(&options, &mut |_| ()).await {
            Ok(Some(report)) => report,
            Ok(None) => return Evidence::Unknown("it was stopped".into()),
            Err(fault) => return Evidence::Unknown(fault.to_string()),
        };
        let why = report.worst().unwrap_or_default();
        match report.verdict() {
            Verdict::Fault => Evidence::Fault(why),
            Verdict::Unknown => Evidence::Unknown(why),
            Verdict::Pass => {
                let product = report.product();
                match self.signer.sign(&self.env, info, product, it.tier) {
                    Ok(proof) => Evidence::Passed { tier: it.tier, proof },
                    Err(error) => Evidence::Unknown(format!("no proof can be signed: {error}")),
                }
            }
        }
    }

    /// Reads counters for ever, and follows the kernel's log.
    fn watch(self: &Arc<Self>) {
        for info in &self.gpus {
            let (doctor, info) = (self.clone(), info.clone());
            self.env.spawn(async move { doctor.read_counters(&info).await });
        }
        if !self.gpus.is_empty() {
            events::follow(&self.options.kernel_log, self.gpus.clone(), self.tell.clone());
        }
    }

    async fn read_counters(&self, info: &GpuInfo) {
        let mut before: Option<Counters> = None;
        loop {
            let read = burn_in::read_counters(&info.uuid, READ_PATIENCE).await;
            for evidence in judge(&mut before, read) {
                if self.tell.send((info.index, evidence, None)).await.is_err() {
                    return;
                }
            }
            self.env.sleep(READ_SPAN).await;
        }
    }
}

/// What a reading says, beside the one before.
fn judge(before: &mut Option<Counters>, read: Reading) -> Vec<Evidence> {
    let now = match read {
        Reading::Counters(now) => now,
        Reading::Broken(why) => return vec![Evidence::Fault(why)],
        Reading::None => return vec![Evidence::Silent],
    };
    let old = before.replace(now.clone()).unwrap_or_else(|| now.clone());
    let findings = counters::watch(&old, &now).into_iter();
    let told = findings.map(|it| match it.severity {
        Severity::Fault => Evidence::Fault(it.message),
        Severity::Warning | Severity::Unknown => Evidence::Warning(it.message),
    });
    let told: Vec<Evidence> = told.collect();
    if told.is_empty() { vec![Evidence::Quiet] } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_reading_blames_nobody_for_what_happened_before() {
        let mut before = None;
        let old = Counters { ecc_uncorrected: Some(4), ..Counters::default() };
        assert_eq!(judge(&mut before, Reading::Counters(old.clone())), [Evidence::Quiet]);
        assert_eq!(judge(&mut before, Reading::None), [Evidence::Silent]);
        let new = Counters { ecc_uncorrected: Some(5), ..old };
        let told = judge(&mut before, Reading::Counters(new.clone()));
        assert!(matches!(told[..], [Evidence::Fault(_)]), "{told:?}");
        assert_eq!(judge(&mut before, Reading::Counters(new)), [Evidence::Quiet]);
    }
}
