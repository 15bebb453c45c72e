//! The agent: one task that drives the runner.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use fabric_quic::endpoint::Endpoint;
use fabric_quic::env::Env;
use gpu_agent_core::{Action, Known, Runner};
use specs::codec::{Message, OrDefault};
use specs::fault::{Fault, FaultCode};
use specs::id::{Boot, GpuIndex, LeaseId};
use specs::job::{GPU_MILLI, JobSpec};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::{Ending, Inventory, Launch, NodeOrders, Outcome};
use tokio::sync::{Notify, mpsc, watch};

use crate::attempts::Attempts;
use crate::checkpoints::Checkpoints;
use crate::config::Config;
use crate::engine::{Engine, Launcher, Progress};
use crate::health::Ward;
use crate::life::Home;
use crate::link::{ASK_DEADLINE, Link};
use crate::logs::{Logs, Shelf};
use crate::metrics::Metrics;
use crate::protocol::{Assignment, End, Wish};
use crate::service::AgentService;
use crate::start::{Options, bind};
use crate::tree::Marks;
use crate::{enrol, error, facts, inventory};

/// How often a controller is asked when nothing happens.
const ASK_SPAN: Millis = Millis(1_000);
/// Shortest span between two questions, whoever nudges.
const ASK_PAUSE: Millis = Millis(20);
/// How long tasks may take to end when the agent is told to.
const FAREWELL_GRACE: Millis = Millis(5_000);
/// How long the agent waits for them at most.
const FAREWELL_SPAN: Millis = Millis(15_000);
/// How often old output is looked for.
const SWEEP_SPAN: Millis = Millis(600_000);
/// Room on the disk below which it is warned of.
const DISK_LOW_BYTES: u64 = 256 << 20;
const PROGRESS_QUEUE: usize = 64;

/// What a question came to.
struct Answer {
    asked_at: Instant,
    outcome: Result<Bytes, Fault>,
}

/// An attempt that has not ended.
struct Attempt {
    wishes: watch::Sender<Wish>,
    grace: Millis,
    gpus: Vec<GpuIndex>,
    /// Thousandths of each GPU.
    milli: u32,
}

pub(crate) struct Agent {
    env: Env,
    config: Config,
    boot: Boot,
    runner: Runner,
    engine: Engine,
    link: Link,
    attempts: Attempts,
    checkpoints: Checkpoints,
    shelf: Shelf,
    metrics: Metrics,
    gpus: Vec<GpuIndex>,
    ward: Ward,
    live: BTreeMap<LeaseId, Attempt>,
    progress: mpsc::Receiver<Progress>,
    answer: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
    /// A nudge, or a connection that came up.
    wake: Arc<Notify>,
    is_asking: bool,
    asked_at: Instant,
    ask_at: Instant,
    /// Controllers that are asked at once after one that gave no orders.
    others_left: usize,
    last_fault: Option<FaultCode>,
    sweep_at: Instant,
    is_sweeping: Arc<AtomicBool>,
    /// Since when the agent is ending.
    leaving_since: Option<Instant>,
}

impl Agent {
    pub(crate) async fn new(
        env: &Env,
        home: &Home,
        config: Config,
        boot: Boot,
        options: &Options,
        launcher: Arc<dyn Launcher>,
    ) -> Result<(Self, Endpoint), Fault> {
        let credentials = enrol::load(env, &home.path, &config)?;
        let gpus = inventory::find(&config.declared)?;
        let facts = facts::of_machine(&config.topology, &config.attributes)
            .map_err(|why| Fault::new(FaultCode::InvalidArgument, why))?;
        let attempts = Attempts::below(&home.path);
        let io = |action| error::disk(action, &home.path);
        attempts.create_all().map_err(io("create"))?;
        let left_behind = attempts.left_behind(env.clock.wall()).map_err(io("read"))?;
        let metrics =
            Metrics::new().map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
        metrics.boot.set(i64::try_from(boot.0).unwrap_or(i64::MAX));
        metrics.set_gpus(&config.node, gpus.source, &gpus.gpus);
        let metrics_at = metrics.serve(env, options.metrics).await?;
        let (sender, progress) = mpsc::channel(PROGRESS_QUEUE);
        let marks = Marks::of_directory(&home.path);
        let engine = Engine::new(env, launcher, attempts.clone(), marks, sender)
            .map_err(io("take back orphans of"))?;
        let wake = Arc::new(Notify::new());
        let shelf = Shelf::of(attempts.records().map_err(io("read"))?);
        let logs = Logs::new(env, attempts.clone(), shelf.clone());
        let service = AgentService { wake: wake.clone(), logs };
        let endpoint = bind(env, &config, &credentials, options.listen, service)?;
        let link = Link::open(endpoint.clone(), &config.site, &config.controllers, wake.clone());
        tracing::info!(
            node = %config.node, site = %config.site, %boot, gpus = gpus.gpus.len(),
            source = %gpus.source, listen = %endpoint.local_address(),
            metrics = %format_args!("http://{metrics_at}/metrics"), "the agent runs"
        );
        let care = options.health.clone();
        let ward = Ward::new(env, &home.path, &config.node, &gpus, &credentials, care, &metrics);
        let indices = gpus.gpus.iter().map(|gpu| gpu.index).collect();
        let inventory = Inventory {
            source: gpus.source,
            gpus: gpus.gpus,
            address: config.address.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            facts: OrDefault(facts),
        };
        let runner = Runner::new(config.node.clone(), boot, inventory, left_behind);
        let (answer, answers) = mpsc::channel(1);
        let agent = Self {
            env: env.clone(),
            config,
            boot,
            runner,
            engine,
            link,
            attempts,
            checkpoints: Checkpoints::default(),
            shelf,
            metrics,
            gpus: indices,
            ward,
            live: BTreeMap::new(),
            progress,
            answer,
            answers,
            wake,
            is_asking: false,
            asked_at: Instant::ZERO,
            ask_at: env.clock.now(),
            others_left: 0,
            last_fault: None,
            sweep_at: env.clock.now(),
            is_sweeping: Arc::default(),
            leaving_since: None,
        };
        Ok((agent, endpoint))
    }

    /// Until it is told to end, or cannot live on. Its attempts have ended by then.
    ///
    /// # Errors
    /// A later life of this agent is known.
    pub(crate) async fn live(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut ended = Ok(());
        loop {
            let now = self.env.clock.now();
            self.runner.handle_timeout(now);
            while let Some(action) = self.runner.poll_action() {
                self.act(action).await;
            }
            self.measure();
            let busy = self.live.values().flat_map(|it| it.gpus.iter().copied()).collect();
            if self.ward.tend(now, &mut self.runner, busy) {
                self.ask_soon();
            }
            if now >= self.sweep_at {
                self.sweep(now);
            }
            if self.has_left(now) {
                self.say_farewell().await;
                return ended;
            }
            if now >= self.ask_at && !self.is_asking {
                self.ask(now);
            }
            let sleep = self.env.sleep(self.idle_span(now));
            tokio::select! {
                Some(progress) = self.progress.recv() => self.handle_progress(progress),
                news = self.ward.hear() => self.ward.learn(news),
                Some(answer) = self.answers.recv() => {
                    if let Err(fault) = self.handle_answer(answer) {
                        tracing::error!(%fault, "this agent must end");
                        ended = Err(fault);
                        self.leave();
                    }
                }
                () = self.wake.notified() => self.ask_soon(),
                () = &mut shutdown, if self.leaving_since.is_none() => {
                    tracing::info!("told to end");
                    self.leave();
                }
                () = sleep => {}
            }
        }
    }

    /// How long nothing will be due.
    fn idle_span(&self, now: Instant) -> Millis {
        let ask_at = if self.is_asking { now.after(ASK_SPAN) } else { self.ask_at };
        let due = self.runner.poll_timeout().map_or(ask_at, |at| at.min(ask_at));
        due.since(now)
    }

    fn ask(&mut self, now: Instant) {
        if now >= self.asked_at.after(ASK_SPAN) {
            self.others_left = self.link.len().saturating_sub(1);
        }
        self.is_asking = true;
        // Before anything is sent: the lease is counted from here.
        self.asked_at = now;
        self.ask_at = now.after(ASK_SPAN);
        self.runner.set_checkpoints(self.checkpoints.seen());
        self.checkpoints.look(&self.env, &self.attempts, self.live.keys().copied().collect());
        let report = self.runner.ask(now).encode();
        let (link, answer) = (self.link.clone(), self.answer.clone());
        self.env.spawn(async move {
            let outcome = link.ask(report).await;
            // Nobody listens once the agent has ended.
            let _ = answer.send(Answer { asked_at: now, outcome }).await;
        });
    }

    fn ask_soon(&mut self) {
        self.ask_at = self.ask_at.min(self.asked_at.after(ASK_PAUSE));
    }

    /// # Errors
    /// What this agent cannot live with.
    fn handle_answer(&mut self, answer: Answer) -> Result<(), Fault> {
        self.is_asking = false;
        let orders = answer.outcome.and_then(|bytes| {
            NodeOrders::decode(&bytes).map_err(|error| {
                Fault::new(FaultCode::Internal, format!("the orders make no sense: {error}"))
            })
        });
        match orders {
            Ok(orders) => {
                self.metrics.reports.with_label_values(&["answered"]).inc();
                if self.last_fault.take().is_some() {
                    tracing::info!("a controller gives orders again");
                }
                self.obey(answer.asked_at, orders);
                Ok(())
            }
            Err(fault) => self.handle_fault(fault),
        }
    }

    fn obey(&mut self, asked_at: Instant, orders: NodeOrders) {
        self.metrics.obeyed(asked_at);
        if self.leaving_since.is_none() {
            self.runner.handle_orders(self.env.clock.now(), self.env.clock.wall(), orders);
        }
    }

    fn handle_fault(&mut self, fault: Fault) -> Result<(), Fault> {
        self.metrics.reports.with_label_values(&[fault.code.as_str()]).inc();
        if fault.code == FaultCode::Conflict {
            return Err(fault);
        }
        if self.last_fault != Some(fault.code) {
            tracing::warn!(%fault, hint = fault.hint, "no orders came");
            self.last_fault = Some(fault.code);
        }
        if self.others_left > 0 {
            self.others_left -= 1;
            self.ask_soon();
        }
        Ok(())
    }

    fn handle_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Started { lease, at } => {
                tracing::info!(%lease, "started");
                self.runner.handle_started(lease, at);
            }
            Progress::Ended { lease, exit } => {
                self.live.remove(&lease);
                self.shelf.end(lease);
                if exit.started_at > Timestamp(0) {
                    self.runner.handle_started(lease, exit.started_at);
                }
                self.end(lease, exit.outcome, exit.ended_at);
            }
        }
        self.ask_soon();
    }

    fn end(&mut self, lease: LeaseId, outcome: Outcome, at: Timestamp) {
        let Outcome { ending, exit_code, detail, .. } = &outcome;
        tracing::info!(%lease, %ending, exit_code, detail, "ended");
        self.metrics.attempts_ended.with_label_values(&[ending.as_str()]).inc();
        self.runner.handle_ended(lease, outcome, at);
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start { lease, known, launch, deadline } => {
                self.ward.clear(&launch.gpus).await;
                self.start(lease, known, launch, deadline);
            }
            Action::Extend { lease, deadline } => {
                self.wish(lease, |wish, _| wish.deadline = deadline);
            }
            Action::Stop { lease } => self.wish(lease, |wish, grace| {
                let outcome = Outcome::of(Ending::Stopped, "its orders said so");
                wish.end.get_or_insert(End { outcome, grace });
            }),
            Action::Kill { lease } => self.wish(lease, |wish, _| {
                let outcome = Outcome::of(Ending::Fenced, "its lease ran out");
                wish.end = Some(End { outcome, grace: Millis::ZERO });
            }),
            Action::Forget { lease } => self.forget(lease),
        }
    }

    fn forget(&self, lease: LeaseId) {
        let attempts = self.attempts.clone();
        self.env.spawn(async move {
            if let Err(error) = attempts.forget(lease).await {
                // Then it is told once more in the next life.
                tracing::warn!(%lease, %error, "cannot mark an attempt as told");
            }
        });
    }

    fn start(&mut self, lease: LeaseId, known: Known, launch: Launch, deadline: Option<Instant>) {
        if let Err(why) = self.check(&launch) {
            self.end(lease, Outcome::of(Ending::Refused, why), self.env.clock.wall());
            self.ask_soon();
            return;
        }
        let Known { home, job, epoch } = known;
        tracing::info!(%lease, %job, %epoch, %home, "starting");
        let (grace, gpus, milli) = (launch.spec.grace, launch.gpus.clone(), milli_of(&launch.spec));
        let assignment = Assignment {
            lease,
            home,
            job,
            epoch,
            node: self.config.node.clone(),
            boot: self.boot,
            launch,
            wish: Wish { deadline, end: None },
        };
        self.shelf.begin(&assignment);
        let wishes = self.engine.start(assignment);
        self.live.insert(lease, Attempt { wishes, grace, gpus, milli });
    }

    /// What the controllers should have seen to. No more of a GPU is used than there is, whoever
    /// errs.
    fn check(&self, launch: &Launch) -> Result<(), String> {
        launch.spec.check().map_err(|error| format!("the job breaks a rule: {error}"))?;
        for gpu in &launch.gpus {
            if !self.gpus.contains(gpu) {
                return Err(format!("this node has no GPU {gpu}"));
            }
            let users = || self.live.iter().filter(|(_, attempt)| attempt.gpus.contains(gpu));
            let used: u32 = users().map(|(_, attempt)| attempt.milli).sum();
            if let Some((lease, _)) = users().next()
                && used.saturating_add(milli_of(&launch.spec)) > GPU_MILLI
            {
                return Err(format!("{lease} uses GPU {gpu}"));
            }
        }
        Ok(())
    }

    fn wish(&self, lease: LeaseId, change: impl FnOnce(&mut Wish, Millis)) {
        if let Some(attempt) = self.live.get(&lease) {
            attempt.wishes.send_modify(|wish| change(wish, attempt.grace));
        }
    }

    fn leave(&mut self) {
        if self.leaving_since.is_some() {
            return;
        }
        self.leaving_since = Some(self.env.clock.now());
        for attempt in self.live.values() {
            let outcome = Outcome::of(Ending::Lost, "its agent was told to end");
            let grace = attempt.grace.min(FAREWELL_GRACE);
            attempt.wishes.send_modify(|wish| {
                wish.end.get_or_insert(End { outcome, grace });
            });
        }
    }

    fn has_left(&self, now: Instant) -> bool {
        let Some(since) = self.leaving_since else { return false };
        // Their supervisors go on killing what does not end.
        self.live.is_empty() || now.since(since) >= FAREWELL_SPAN
    }

    /// Tells a controller how the attempts ended, if one listens.
    async fn say_farewell(&mut self) {
        let farewell = async {
            for _ in 0..self.link.len().max(1) {
                let report = self.runner.ask(self.env.clock.now()).encode();
                if self.link.ask(report).await.is_ok() {
                    return;
                }
            }
        };
        let _ = self.env.timeout(ASK_DEADLINE, farewell).await;
    }

    fn measure(&self) {
        let count = i64::try_from(self.runner.running().count()).unwrap_or(i64::MAX);
        self.metrics.attempts_running.set(count);
    }

    /// Looks at the disk, and deletes old output. On a thread of its own, for disks are slow.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now.after(SWEEP_SPAN);
        if self.is_sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let (attempts, shelf) = (self.attempts.clone(), self.shelf.clone());
        let (metrics, is_sweeping) = (self.metrics.clone(), self.is_sweeping.clone());
        let wall = self.env.clock.wall();
        let thread = thread::Builder::new().name("sweep".into());
        let spawned = thread.spawn(move || {
            sweep(&attempts, &shelf, &metrics, wall);
            is_sweeping.store(false, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            self.is_sweeping.store(false, Ordering::Relaxed);
            tracing::warn!(%error, "cannot look for old output");
        }
    }
}

fn sweep(attempts: &Attempts, shelf: &Shelf, metrics: &Metrics, wall: Timestamp) {
    let outdated = attempts.outdated(wall).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for old output");
        Vec::new()
    });
    for lease in outdated {
        shelf.remove(lease);
        if let Err(error) = fs::remove_dir_all(attempts.path(lease)) {
            tracing::warn!(%lease, %error, "cannot delete old output");
        }
    }
    let Some(free) = attempts.disk_free() else { return };
    metrics.disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
    if free < DISK_LOW_BYTES {
        tracing::warn!(free_mib = free >> 20, "the disk for the output of tasks is nearly full");
    }
}

/// Thousandths of each of its GPUs that an attempt uses.
fn milli_of(spec: &JobSpec) -> u32 {
    match spec.needs.gpu_milli {
        0 => GPU_MILLI,
        milli => milli,
    }
}
