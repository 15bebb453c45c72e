//! `/metrics`: gauges read from the state when they are asked for, so that nothing is kept twice.
//! A metric's name, its unit and its meaning stand here and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as AxumState;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use federation_core::{State, job_state};
use prometheus::{Encoder, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use specs::gpu::GpuState;
use specs::wire::client::{JobState, NodeState};

use crate::shared::Shared;

/// Serves `/metrics` until the process ends. Plain HTTP: it only tells, and by default only the
/// loopback interface.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: tokio::net::TcpListener,
) -> std::io::Result<()> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(shared);
    axum::serve(listener, router).await
}

/// Binds where metrics are served.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await
}

async fn scrape(AxumState(shared): AxumState<Arc<Shared>>) -> Response {
    match gather(&shared) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

struct Gauges(Registry);

impl Gauges {
    fn one(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(Box::new(gauge))
    }

    fn many<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([String; N], u64)>,
    ) -> prometheus::Result<()> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), &labels)?;
        for (labels, value) in values {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauge.with_label_values(&labels).set(value);
        }
        self.0.register(Box::new(gauge))
    }
}

fn gather(shared: &Shared) -> prometheus::Result<String> {
    let gauges = Gauges(Registry::new());
    let state = shared.group.state();
    raft(shared, &gauges)?;
    jobs(&state, &gauges)?;
    gpus(&state, &gauges)?;
    reserved(shared, &state, &gauges)?;
    health(&state, &gauges)?;
    compared(shared, &gauges)?;
    nodes(shared, &state, &gauges)?;
    peers(shared, &state, &gauges)?;
    gauges.many(
        "spillway_build_info",
        "Constant 1, with the version and the site as labels.",
        ["version", "site"],
        [([env!("CARGO_PKG_VERSION").into(), shared.site.to_string()], 1)],
    )?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&gauges.0.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn raft(shared: &Shared, gauges: &Gauges) -> prometheus::Result<()> {
    let raft = shared.group.metrics();
    let leads = u64::from(raft.is_leader);
    gauges.one("spillway_raft_is_leader", "1 on the controller that leads its site.", leads)?;
    gauges.one("spillway_raft_term", "Raft's term.", raft.term)?;
    gauges.one("spillway_raft_log_index", "Index of the last entry in the log.", raft.last_log)?;
    gauges.one("spillway_raft_applied_index", "Index of the last entry applied.", raft.applied)?;
    gauges.one("spillway_raft_snapshot_index", "Last index in the snapshot.", raft.snapshot)?;
    let archive = shared.group.archive();
    let help = "Jobs that have left the site's state for its archive.";
    gauges.one("spillway_archive_jobs", help, archive.archived)?;
    let help = "Of them, those that this controller's archive lacks.";
    gauges.one("spillway_archive_missing_jobs", help, archive.missing)?;
    let revision = shared.group.state().revision.0;
    gauges.one("spillway_state_revision", "Commands applied since the site's founding.", revision)
}

fn jobs(state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    let mut by_state: BTreeMap<&str, u64> =
        JobState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for job in state.jobs.values() {
        *by_state.entry(job_state(state, job).as_str()).or_default() += 1;
    }
    let values = by_state.into_iter().map(|(state, count)| ([state.into()], count));
    gauges.many("spillway_jobs", "Jobs of this home, by state.", ["state"], values)
}

fn gpus(state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    let mut by_use: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for node in state.nodes.values() {
        for gpu in &node.gpus {
            let usage = match (&gpu.lease, &gpu.grant) {
                (Some(_), Some(_)) => "loaned",
                (Some(_), None) => "allocated",
                (None, Some(_)) => "granted",
                (None, None) if gpu.is_leased() => "allocated",
                (None, None) if node.draining => "drained",
                (None, None) if node.suspicion.is_some() => "suspected",
                (None, None) => "free",
            };
            *by_use.entry((gpu.info.class.to_string(), usage)).or_default() += 1;
        }
    }
    let values = by_use.into_iter().map(|((model, usage), n)| ([model, usage.into()], n));
    gauges.many("spillway_gpus", "GPUs of this site, by model and use.", ["model", "state"], values)
}

/// Whether what is reserved is used, and whether it will be free when its time comes.
fn reserved(shared: &Shared, state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    if state.reservations.is_empty() {
        return Ok(());
    }
    let mut by_state: BTreeMap<&str, u64> = BTreeMap::new();
    for view in federation_core::reservation_views(state, shared.env.clock.wall()) {
        let (gpus, used) = (u64::from(view.gpus.0), u64::from(view.used.0));
        if view.is_on {
            *by_state.entry("used").or_default() += used;
            *by_state.entry("idle").or_default() += gpus.saturating_sub(used);
        } else {
            *by_state.entry("to_come").or_default() += gpus;
        }
    }
    let values = by_state.into_iter().map(|(state, gpus)| ([state.into()], gpus));
    let help = "GPUs that are reserved: used by whom they are for, not used by him, or to come.";
    gauges.many("spillway_gpus_reserved", help, ["state"], values)
}

fn health(state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    if !federation_core::asks_for_proofs(state) {
        return Ok(());
    }
    let mut by_state: BTreeMap<&str, u64> =
        GpuState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for gpu in state.nodes.values().flat_map(|node| &node.gpus) {
        let state = gpu.doubt.as_ref().map_or(GpuState::Healthy, |doubt| doubt.state);
        *by_state.entry(state.as_str()).or_default() += 1;
    }
    let values = by_state.into_iter().map(|(state, count)| ([state.into()], count));
    let help = "GPUs of this site, by what is known of their health.";
    gauges.many("spillway_gpus_by_health", help, ["health"], values)?;
    let view = federation_core::limits_view(state);
    let kinds = [("retest", view.retests), ("admission", view.admissions)];
    let values = kinds.map(|(kind, count)| ([kind.into()], count.into()));
    let help = "Burn-ins that the site permits at present, by the budget they are taken from.";
    gauges.many("spillway_burn_ins_permitted", help, ["kind"], values)?;
    let help = "GPUs found bad whose jobs run on, since too many are: an operator must decide.";
    gauges.one("spillway_gpus_spared", help, view.spared.into())
}

/// What the leader finds when it compares what burn-ins measured.
fn compared(shared: &Shared, gauges: &Gauges) -> prometheus::Result<()> {
    let counts = shared.with_view(|leader| leader.map(|(leader, _)| leader.compared()));
    let Some(counts) = counts else { return Ok(()) };
    let help = "GPUs whose burn-ins are compared with those of their make; on the leader only.";
    gauges.one("spillway_gpus_compared", help, counts.all as u64)?;
    let by_lag = |(warnings, faults): (usize, usize)| {
        [("warning", warnings), ("fault", faults)].map(|(lag, it)| ([lag.into()], it as u64))
    };
    let help = "GPUs that are behind others of their make, by how far; on the leader only.";
    gauges.many("spillway_gpus_behind", help, ["lag"], by_lag(counts.behind))?;
    let help = "GPUs that compute something else than others of their make: a fault where a clear \
                majority says so, or else a warning; on the leader only.";
    gauges.many("spillway_gpus_differing", help, ["lag"], by_lag(counts.differing))
}

fn nodes(shared: &Shared, state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    let mut by_state: BTreeMap<&str, u64> =
        NodeState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    let views = shared.with_view(|leader| federation_core::node_views(state, leader));
    for view in views {
        *by_state.entry(view.state.as_str()).or_default() += 1;
    }
    let values = by_state.into_iter().map(|(state, count)| ([state.into()], count));
    gauges.many("spillway_agents", "Nodes of this site, by state.", ["state"], values)
}

fn peers(shared: &Shared, state: &State, gauges: &Gauges) -> prometheus::Result<()> {
    let views = shared.with_view(|leader| federation_core::site_views(state, leader));
    let peers: Vec<_> = views.into_iter().filter(|view| !view.own).collect();
    let leads = shared.with_view(|leader| leader.is_some());
    if leads {
        let connected =
            peers.iter().map(|view| ([view.site.to_string()], u64::from(view.connected)));
        gauges.many(
            "spillway_peer_connected",
            "1 while the peer is heard; on the leader only.",
            ["peer"],
            connected,
        )?;
        let heard =
            peers.iter().filter_map(|view| view.heard.map(|age| ([view.site.to_string()], age.0)));
        gauges.many(
            "spillway_peer_heard_age_milliseconds",
            "Since the peer was last heard; on the leader only.",
            ["peer"],
            heard,
        )?;
    }
    let loans = peers.iter().flat_map(|view| {
        let site = view.site.to_string();
        [
            ([site.clone(), "home".into()], u64::from(view.loans_out)),
            ([site, "host".into()], u64::from(view.guests_in)),
        ]
    });
    gauges.many(
        "spillway_loans_active",
        "Loans with a peer, by the role this site has in them.",
        ["peer", "role"],
        loans,
    )
}
