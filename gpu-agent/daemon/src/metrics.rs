//! What an agent counts, and a small HTTP server that tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fabric_quic::env::Env;
use gpu_agent_core::health::Evidence;
use gpu_agent_core::xid::Source;
use prometheus::{
    Encoder, Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use specs::fault::{Fault, FaultCode};
use specs::gpu::{BurnInTier, GpuInfo, InventorySource};
use specs::id::NodeId;
use specs::unit::{Instant, Millis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::exporter::Exporter;

/// Longest request that is read.
const REQUEST_MAX: usize = 8 * 1_024;
/// How long a request and its answer may take.
const REQUEST_SPAN: Millis = Millis(5_000);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Millis = Millis(100);

/// The agent's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) boot: IntGauge,
    pub(crate) attempts_running: IntGauge,
    pub(crate) attempts_ended: IntCounterVec,
    orders_age: Gauge,
    /// When the orders last obeyed were asked for, in the clock's milliseconds; zero for never.
    obeyed_at: Arc<AtomicU64>,
    pub(crate) reports: IntCounterVec,
    pub(crate) disk_free: IntGauge,
    gpus: IntGaugeVec,
    burn_ins: IntCounterVec,
    events: IntCounterVec,
    pub(crate) exporter: Exporter,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = IntGaugeVec::new(
            Opts::new("spillway_agent_build_info", "Always 1; the label names the build."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let metrics = Self {
            boot: IntGauge::new("spillway_agent_boot", "Which life of the agent this is.")?,
            attempts_running: IntGauge::new(
                "spillway_agent_attempts_running",
                "Attempts on this node that have not ended.",
            )?,
            attempts_ended: IntCounterVec::new(
                Opts::new("spillway_agent_attempts_ended_total", "Attempts that ended, and how."),
                &["ending"],
            )?,
            orders_age: Gauge::new(
                "spillway_agent_orders_age_seconds",
                "Span since the agent asked for the orders it last obeyed; -1 before the first.",
            )?,
            obeyed_at: Arc::default(),
            reports: IntCounterVec::new(
                Opts::new("spillway_agent_reports_total", "Reports sent, by what came of them."),
                &["outcome"],
            )?,
            disk_free: IntGauge::new(
                "spillway_agent_disk_free_bytes",
                "Room on the disk that keeps the output of tasks.",
            )?,
            gpus: IntGaugeVec::new(
                Opts::new("spillway_agent_gpus", "GPUs of this node."),
                &["class", "source"],
            )?,
            burn_ins: IntCounterVec::new(
                Opts::new("spillway_agent_burn_ins_total", "Burn-ins, by what came of them."),
                &["tier", "outcome"],
            )?,
            events: IntCounterVec::new(
                Opts::new(
                    "spillway_agent_gpu_events_total",
                    "Events of the driver (Xid), by who told of them; both may tell of one.",
                ),
                &["source"],
            )?,
            exporter: Exporter::default(),
            registry,
        };
        metrics.registry.register(Box::new(metrics.boot.clone()))?;
        metrics.registry.register(Box::new(metrics.attempts_running.clone()))?;
        metrics.registry.register(Box::new(metrics.attempts_ended.clone()))?;
        metrics.registry.register(Box::new(metrics.orders_age.clone()))?;
        metrics.registry.register(Box::new(metrics.reports.clone()))?;
        metrics.registry.register(Box::new(metrics.disk_free.clone()))?;
        metrics.registry.register(Box::new(metrics.gpus.clone()))?;
        metrics.registry.register(Box::new(metrics.burn_ins.clone()))?;
        metrics.registry.register(Box::new(metrics.events.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn set_gpus(&self, node: &NodeId, source: InventorySource, gpus: &[GpuInfo]) {
        self.exporter.set_node(node, gpus);
        self.gpus.reset();
        for gpu in gpus {
            let labels = [gpu.class.as_str(), &source.to_string()];
            self.gpus.with_label_values(&labels).inc();
        }
    }

    /// A burn-in ended; without evidence if it was stopped.
    pub(crate) fn count_burn_in(&self, tier: BurnInTier, evidence: Option<&Evidence>) {
        let outcome = match evidence {
            None => "stopped",
            Some(Evidence::Passed { .. }) => "passed",
            Some(Evidence::Fault(_)) => "fault",
            Some(_) => "unknown",
        };
        self.burn_ins.with_label_values(&[tier.as_str(), outcome]).inc();
    }

    /// Somebody told of an event of the driver.
    pub(crate) fn count_event(&self, source: Source) {
        self.events.with_label_values(&[source.as_str()]).inc();
    }

    /// Orders are obeyed that were asked for at an instant.
    pub(crate) fn obeyed(&self, asked_at: Instant) {
        self.obeyed_at.fetch_max(asked_at.0, Ordering::Relaxed);
    }

    /// Serves `/metrics`; says where.
    pub(crate) async fn serve(&self, env: &Env, address: SocketAddr) -> Result<SocketAddr, Fault> {
        let failed = |error: std::io::Error| {
            let message = format!("cannot serve metrics on {address}: {error}");
            Fault::new(FaultCode::Conflict, message)
                .with_hint("take another address; port 0 takes any free port")
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (metrics, task_env) = (self.clone(), env.clone());
        env.spawn(async move { metrics.accept(&task_env, &listener).await });
        Ok(local)
    }

    async fn accept(&self, env: &Env, listener: &TcpListener) {
        loop {
            // One at a time, each for a bounded span: this is for a scraper or two.
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = env.timeout(REQUEST_SPAN, self.answer(env, stream)).await;
                }
                Err(_) => env.sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn answer(&self, env: &Env, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !is_whole(&request) {
            if request.len() > REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let (status, body) = self.page(env.clock.now(), &request);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }

    fn page(&self, now: Instant, request: &[u8]) -> (&'static str, Vec<u8>) {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        if words.next() != Some(b"GET") {
            return ("405 Method Not Allowed", Vec::new());
        }
        if words.next() != Some(b"/metrics") {
            return ("404 Not Found", b"see /metrics\n".to_vec());
        }
        self.orders_age.set(match self.obeyed_at.load(Ordering::Relaxed) {
            0 => -1.0,
            at => Duration::from_millis(now.since(Instant(at)).0).as_secs_f64(),
        });
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut body) {
            Ok(()) => {
                body.extend_from_slice(self.exporter.text().as_bytes());
                ("200 OK", body)
            }
            Err(_) => ("500 Internal Server Error", Vec::new()),
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|it| it == b"\r\n\r\n")
}
