//! Looks after the node's GPUs: burns them in, reads their counters, follows the kernel's log, signs
//! proofs, and keeps on disk what the next life of the agent must know. What follows from all that
//! is decided by [`gpu_agent_core::health`].
//!
//! ```text
//!   burn_in::run (children) ─┐
//!   counters, every 10 s ────┼─ Evidence ─▶ Ward ─▶ reports ─▶ the Runner's next question
//!   kernel's log (a thread) ─┤               └─▶ DIR/health.json
//!   library's events (child) ┘
//! ```
//!
//! Nobody looks after GPUs that were only declared: there is nothing to ask.

mod doctor;
mod events;
mod kept;
mod library;
mod proof;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabric_quic::env::Env;
use fabric_quic::pki::Credentials;
use gpu_agent_core::Runner;
use gpu_agent_core::burn_in::measured::Compared;
use gpu_agent_core::health::{BurnIn, Evidence, Health, Policy};
use gpu_agent_core::xid::{Heard, Source};
use specs::gpu::{BurnInTier, GpuReport, InventorySource};
use specs::id::{GpuIndex, NodeId, SiteId};
use specs::unit::{Instant, Millis};
use tokio::sync::mpsc;

use crate::burn_in::Gauges;
use crate::health_event::{self, Origin};
use crate::inventory::Gpus;
use crate::metrics::Metrics;
use doctor::{Doctor, UnderWay};
use proof::Signer;

const NEWS_QUEUE: usize = 256;
/// How long a job waits for a check's process to end that was killed for it.
const CLEAR_SPAN: Millis = Millis(900);

/// How burn-ins and resets are done here.
#[derive(Debug, Clone)]
pub struct HealthOptions {
    /// The kernel's log.
    pub kernel_log: PathBuf,
    /// How long units are kept at work in a burn-in for a proof.
    pub burn_in_seconds: u32,
    /// How long a GPU is soaked before its first proof, and after a reset or a repair; 0 if not.
    pub soak_minutes: u32,
    /// How long nothing must have used a GPU before its idle moments are used.
    pub idle_after: Millis,
    /// A program that resets: it is given a rung (gpu, machine, power) and the GPU's id.
    pub reset_command: Option<PathBuf>,
    /// Where each change of a GPU's state is told.
    pub events: Option<PathBuf>,
}

/// What was found out.
pub(crate) enum News {
    Learnt(GpuIndex, Evidence),
    /// The driver told of an event; others may tell of the same.
    Told(GpuIndex, u32, Source),
    /// By the burn-in's number; none if it was stopped.
    BurntIn(u64, BurnIn, Option<(Evidence, Compared)>),
    Reset(GpuIndex, Result<(), String>),
    /// None if there was no answer.
    Read(GpuIndex, Option<Box<Gauges>>),
}

/// A node's GPUs and all that looks after them.
pub(crate) struct Ward {
    env: Env,
    health: Health,
    heard: Heard,
    doctor: Arc<Doctor>,
    metrics: Metrics,
    news: mpsc::Receiver<News>,
    /// Counts burn-ins.
    runs: u64,
    under_way: BTreeMap<GpuIndex, UnderWay>,
    /// What was told last, and what was kept last.
    told: Vec<GpuReport>,
    directory: PathBuf,
    node: NodeId,
    /// None where its credentials name none: nothing is kept for one.
    site: Option<SiteId>,
    events: Option<PathBuf>,
}

impl Ward {
    pub(crate) fn new(
        env: &Env,
        directory: &Path,
        node: &NodeId,
        gpus: &Gpus,
        credentials: &Credentials,
        options: HealthOptions,
        metrics: &Metrics,
    ) -> Self {
        let gpus = match gpus.source {
            InventorySource::Nvml => gpus.gpus.clone(),
            InventorySource::Declared => Vec::new(),
        };
        let (tell, news) = mpsc::channel(NEWS_QUEUE);
        let kept = kept::load(directory, &gpus, env.clock.wall());
        let all = gpus.iter().map(|gpu| (gpu.index, kept.get(&gpu.index).cloned()));
        let policy = Policy {
            soaks: options.soak_minutes > 0,
            idle_after: options.idle_after,
            resets: options.reset_command.is_some(),
        };
        let [a, b, c, d, e, f, g, h, ..] = env.crypto.sha256(node.as_str().as_bytes());
        let health = Health::new(env.clock.now(), all).with(policy);
        let health = health.staggered(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        let site = credentials.identity().site().cloned();
        let earlier = site.as_ref().map(|site| results::load(directory, site, &gpus));
        let health = health.remembering(earlier.unwrap_or_default());
        let events = options.events.clone();
        let signer = Signer::new(node.clone(), credentials.clone());
        let doctor = Doctor::new(env, gpus, signer, options, tell);
        doctor.watch();
        Self {
            env: env.clone(),
            health,
            heard: Heard::default(),
            doctor,
            metrics: metrics.clone(),
            news,
            runs: 0,
            under_way: BTreeMap::new(),
            told: Vec::new(),
            directory: directory.to_owned(),
            node: node.clone(),
            site,
            events,
        }
    }

    /// The next thing that was found out; never ends where there is nothing to look after.
    pub(crate) async fn hear(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn learn(&mut self, news: News) {
        let now = self.env.clock.now();
        match news {
            News::Learnt(gpu, evidence) => self.weigh(now, gpu, evidence),
            News::Told(gpu, code, source) => {
                self.metrics.count_event(source);
                self.metrics.exporter.note_event(gpu, code);
                if self.heard.handle_event(now, gpu, code, source) {
                    self.weigh(now, gpu, Evidence::Event(code));
                }
            }
            News::BurntIn(run, it, told) => {
                // One that was ended, and whose answer was on the way, says nothing.
                let is_mine = self.under_way.get(&it.gpu).is_some_and(|it| it.number == run);
                let Some((evidence, compared)) = told.filter(|_| is_mine) else { return };
                self.under_way.remove(&it.gpu);
                self.metrics.count_burn_in(it.tier, Some(&evidence));
                note(it.gpu, &evidence);
                self.health.handle_evidence(now, it.gpu, evidence);
                if self.health.handle_numbers(it.gpu, compared) {
                    self.keep_results();
                }
            }
            News::Reset(gpu, outcome) => {
                match &outcome {
                    Ok(()) => tracing::info!(%gpu, "the GPU was reset"),
                    Err(why) => tracing::error!(%gpu, why, "the reset did not work"),
                }
                self.health.handle_reset(gpu, outcome);
            }
            News::Read(gpu, gauges) => self.metrics.exporter.set(gpu, gauges.map(|it| *it)),
        }
    }

    fn weigh(&mut self, now: Instant, gpu: GpuIndex, evidence: Evidence) {
        note(gpu, &evidence);
        self.health.handle_evidence(now, gpu, evidence);
        // What is known by now makes its burn-in pointless.
        if self.health.is_barred(gpu) {
            self.end_burn_in(now, gpu);
        }
    }

    /// A job needs GPUs: burn-ins of them end. Waits until their processes are gone, for less than
    /// a second.
    pub(crate) async fn clear(&mut self, gpus: &[GpuIndex]) {
        let now = self.env.clock.now();
        let wanted: Vec<UnderWay> =
            gpus.iter().filter_map(|gpu| self.end_burn_in(now, *gpu)).collect();
        if wanted.is_empty() {
            return;
        }
        let all_gone = async {
            for it in wanted {
                it.gone().await;
            }
        };
        if self.env.timeout(CLEAR_SPAN, all_gone).await.is_err() {
            tracing::warn!("a check's process does not end: the GPU may hang");
        }
    }

    /// Kills a burn-in, if one is under way.
    fn end_burn_in(&mut self, now: Instant, gpu: GpuIndex) -> Option<UnderWay> {
        let ended = self.under_way.remove(&gpu)?;
        tracing::info!(%gpu, tier = %ended.tier, "the burn-in is ended");
        ended.stop();
        self.metrics.count_burn_in(ended.tier, None);
        self.health.handle_interrupted(now, gpu);
        Some(ended)
    }

    /// Goes on with what is due, and tells the runner. True if there is something new to report.
    pub(crate) fn tend(
        &mut self,
        now: Instant,
        runner: &mut Runner,
        busy: BTreeSet<GpuIndex>,
    ) -> bool {
        let is_alone = busy.is_empty();
        let (withheld, released) = (runner.withheld(), runner.released());
        self.health.handle_wishes(runner.is_asked_for_proofs(), withheld, released, busy);
        self.health.handle_curiosity(runner.tells_earlier());
        self.health.handle_timeout(now);
        self.health.handle_permits(now, self.env.clock.wall(), runner.permits(now));
        while let Some(gpu) = self.health.poll_interrupt() {
            tracing::info!(%gpu, "a burn-in is no longer permitted");
            if self.end_burn_in(now, gpu).is_none() {
                self.health.handle_interrupted(now, gpu);
            }
        }
        let reset = self.health.poll_reset(now);
        while let Some(burn_in) = self.health.poll_burn_in(now) {
            self.runs += 1;
            self.under_way.insert(burn_in.gpu, self.doctor.burn_in(self.runs, burn_in, is_alone));
        }
        let reports = self.health.reports();
        let is_news = reports != self.told;
        if is_news {
            self.tell_events(&reports);
            self.told.clone_from(&reports);
            self.metrics.exporter.set_states(&reports);
            runner.set_health(reports);
            self.keep(now);
        }
        // Not before it is on disk: the machine may be gone soon.
        if let Some(reset) = reset {
            self.doctor.reset(reset);
        }
        is_news
    }

    /// Adds what changed to the file of events.
    fn tell_events(&self, reports: &[GpuReport]) {
        let Some(path) = &self.events else { return };
        let is_told = |it: &GpuReport| self.told.iter().any(|told| told.health == it.health);
        let mut lines = Vec::new();
        for report in reports.iter().filter(|it| !is_told(it)) {
            let info = self.doctor.gpus.iter().find(|gpu| gpu.index == report.health.index);
            let origin = Origin {
                node: self.node.as_str(),
                gpu: report.health.index.0,
                uuid: info.map_or("", |info| &info.uuid),
                at: self.env.clock.wall(),
            };
            // Writing to memory cannot fail.
            let _ = origin.write_state(&report.health, &mut lines);
        }
        if let Err(error) = health_event::append(path, &lines) {
            tracing::warn!(path = %path.display(), %error, "cannot add to the file of events");
        }
    }

    fn keep_results(&self) {
        let Some(site) = &self.site else { return };
        let (gpus, results) = (&self.doctor.gpus, self.health.results());
        if let Err(error) = results::save(&self.directory, site, gpus, results) {
            tracing::warn!(%error, "cannot keep what burn-ins found");
        }
    }

    fn keep(&self, now: Instant) {
        let kept = self.health.kept(now);
        let (gpus, wall) = (&self.doctor.gpus, self.env.clock.wall());
        if let Err(error) = kept::save(&self.directory, gpus, &kept, wall) {
            // Then the next life burns in again, or hears of a quarantine from the controllers.
            tracing::warn!(%error, "cannot keep what is known of the GPUs");
        }
    }
}

fn note(gpu: GpuIndex, evidence: &Evidence) {
    match evidence {
        Evidence::Quiet => {}
        Evidence::Passed { tier: BurnInTier::T4, .. } => {
            tracing::debug!(%gpu, "the GPU is sound in an idle moment");
        }
        Evidence::Passed { tier, warning, .. } if warning.is_empty() => {
            tracing::info!(%gpu, %tier, "the GPU is sound");
        }
        Evidence::Passed { tier, warning, .. } => {
            tracing::warn!(%gpu, %tier, warning, "the GPU is sound, with something to look at");
        }
        Evidence::Fault(why) => tracing::error!(%gpu, why, "the GPU is not sound"),
        Evidence::Warning(why) | Evidence::Unknown(why) => {
            tracing::warn!(%gpu, why, "the GPU is to be watched");
        }
        Evidence::Silent => tracing::warn!(%gpu, "the driver does not answer in time"),
        Evidence::Event(xid) => tracing::warn!(%gpu, xid, "the driver reports an event"),
        Evidence::RemapPending => tracing::warn!(%gpu, "rows of its memory wait to be remapped"),
        Evidence::Recovery(it) => tracing::warn!(%gpu, ?it, "the driver asks for a recovery"),
    }
}
