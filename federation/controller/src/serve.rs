//! A controller's process: binds, recovers its log, serves until it is told to stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::Env;
use fabric_quic::pool::Pool;
use fabric_quic::trust::TrustStore;
use federation_core::{Command, FoundSite, SetTrust, State};
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, Revision, SiteId};
use specs::site::SiteSpec;
use specs::unit::Millis;
use specs::version::ClusterVersion;
use tokio::sync::{Notify, watch};

use crate::backup::Backups;
use crate::config::{Home, write_durably};
use crate::error::ControllerError;
use crate::leader;
use crate::mark::Mark;
use crate::metrics;
use crate::raft::{CutLog, Group, RaftConfig};
use crate::service::Front;
use crate::shared::{About, Shared};

/// Where `/metrics` is served is written to this file of the controller's directory.
pub const METRICS_FILE: &str = "metrics.addr";
/// How often a log that was never used is looked at.
const MARK_SPAN: Millis = Millis(50);
/// The founding is tried again after this long.
const FOUND_AGAIN: Millis = Millis(20);

/// A controller that is up.
#[derive(Debug, Clone)]
pub struct Ready {
    pub site: SiteId,
    pub id: ControllerId,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
}

/// Has the kernel give this process its memory in small pages. A huge one is cleared at once when it
/// is first touched, for milliseconds on a virtual machine, and all that the thread serves waits.
/// Holds for the whole process; one that cannot have it is only slower.
fn take_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Runs the controller of a directory until `shutdown` ends, then hands over and stops. It is what
/// its process is for: it sets how the process gets memory.
///
/// # Errors
/// A directory that is none, or in use; a port in use; a log that cannot be trusted.
pub async fn serve(
    env: Env,
    dir: &Path,
    cut_log: CutLog,
    ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ControllerError> {
    take_small_pages();
    let home = Home::load(&env, dir)?;
    let trust = Arc::new(TrustStore::new());
    trust
        .trust(&home.site, home.authority.certificate())
        .map_err(|error| ControllerError::new(FaultCode::Internal, error.to_string()))?;
    let front = Arc::new(Front::default());
    let config = EndpointConfig {
        listen: home.config.listen,
        credentials: Some(home.credentials.clone()),
        trust: trust.clone(),
    };
    let endpoint = Endpoint::bind(&env, config, front.clone()).map_err(|error| {
        ControllerError::new(FaultCode::Conflict, error.to_string())
            .hint("stop what uses the port, or change `listen` in controller.toml")
    })?;
    let listener = metrics::bind(home.config.metrics).await.map_err(|error| {
        let what = format!("cannot serve metrics on {}: {error}", home.config.metrics);
        ControllerError::new(FaultCode::Conflict, what).hint("change `metrics` in controller.toml")
    })?;
    let metrics_address = listener.local_addr().unwrap_or(home.config.metrics);
    write_durably(&dir.join(METRICS_FILE), format!("{metrics_address}\n").as_bytes())?;

    let mark = Mark::check(&env, dir, &home.site, home.id)?;
    let pool = Pool::new(endpoint.clone());
    let on_fatal = Arc::new(|why: &str| stop_at_once(why));
    let raft = RaftConfig { cut_log, ..RaftConfig::new(home.id, home.dir.clone()) };
    let (group, applied) =
        Group::start(&env, raft, home.site.clone(), pool.clone(), on_fatal).await.map_err(
            |error| ControllerError::new(error.code(), error.to_string()).hint(error.hint()),
        )?;
    let checked = mark.check_content(group.is_empty()).and_then(|()| check_site(&home, &group));
    if let Err(error) = checked {
        // Or its end would be taken for a failure, and end the process with less to say.
        group.shutdown().await;
        return Err(error);
    }
    if !mark.is_used() {
        env.spawn(mark_used(env.clone(), group.clone(), mark));
    }
    let shared = assemble(&env, &home, trust, pool, group);
    leader::trust_peers(&shared);
    front.open(shared.clone());
    env.spawn(leader::effects(shared.clone(), applied));
    env.spawn(leader::run(shared.clone()));
    let scraped = shared.clone();
    env.spawn(async move {
        if let Err(error) = metrics::serve(scraped, listener).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    if let Some(spec) = &home.founding {
        env.spawn(found(shared.clone(), spec.clone(), home.config.advertise.clone()));
    }
    ready(&Ready {
        site: home.site.clone(),
        id: home.id,
        address: endpoint.local_address(),
        metrics: metrics_address,
    });
    shutdown.await;
    tracing::info!("stopping");
    shared.group.shutdown().await;
    endpoint.shutdown("the controller stops").await;
    Ok(())
}

/// Keys of one site and the state of another come of a mix-up.
fn check_site(home: &Home, group: &Group) -> Result<(), ControllerError> {
    let state = group.state();
    match state.own() {
        Some(site) if *site != home.site => {
            let what = format!(
                "{} holds the log of site {site} and the keys of {}",
                home.dir.display(),
                home.site
            );
            let hint = "put the directory back that belongs here; nothing was changed";
            Err(ControllerError::new(FaultCode::Conflict, what).hint(hint))
        }
        Some(_) | None => Ok(()),
    }
}

/// Remembers that the log was used, as soon as it is.
async fn mark_used(env: Env, group: Group, mut mark: Mark) {
    while group.is_empty() {
        env.sleep(MARK_SPAN).await;
    }
    if let Err(error) = mark.set_used() {
        tracing::warn!(%error, "it is not noted that the log is in use");
    }
}

fn assemble(
    env: &Env,
    home: &Home,
    trust: Arc<TrustStore>,
    pool: Pool,
    group: Group,
) -> Arc<Shared> {
    Arc::new(Shared {
        env: env.clone(),
        site: home.site.clone(),
        id: home.id,
        authority: home.authority.clone(),
        trust,
        pool,
        group,
        reign: Mutex::new(None),
        agents: Mutex::new(BTreeMap::new()),
        plan: Notify::new(),
        members: Notify::new(),
        peers: Mutex::new(BTreeMap::new()),
        applied: watch::Sender::new(Revision(0)),
        retention: home.config.retention(),
        about: About {
            dir: home.dir.clone(),
            address: home.config.advertise.clone(),
            certificate_until: home.credentials.not_after(),
        },
        backups: Backups::default(),
    })
}

/// A disk that fails, or a log entry that cannot be understood, ends the process: nothing that
/// was promised may rest on it.
fn stop_at_once(why: &str) {
    tracing::error!(why, "the controller cannot go on");
    std::process::abort();
}

/// The founding controller makes the group and puts the site's settings into its log; repeated
/// after any interruption it changes nothing. A site begins with the newest version: it has no earlier
/// release to go back to.
async fn found(shared: Arc<Shared>, spec: Arc<SiteSpec>, address: String) {
    loop {
        if is_founded(&shared.group.state(), &spec) {
            Home::forget_founding(&shared.about.dir);
            return;
        }
        if shared.group.is_empty()
            && let Err(error) = shared.group.found(address.clone()).await
        {
            tracing::warn!(%error, "the group could not be founded yet");
        }
        match found_once(&shared, &spec, &address).await {
            Ok(()) => tracing::info!(site = %shared.site, "founded"),
            Err(why) => {
                tracing::debug!(why, "the founding is tried again");
                shared.env.sleep(FOUND_AGAIN).await;
            }
        }
    }
}

fn is_founded(state: &State, spec: &SiteSpec) -> bool {
    state.site.as_ref().is_some_and(|site| spec.trust.is_none() || site.trust.is_some())
}

async fn found_once(
    shared: &Arc<Shared>,
    spec: &Arc<SiteSpec>,
    address: &str,
) -> Result<(), String> {
    let said = |fault: Fault| fault.to_string();
    if shared.group.state().site.is_none() {
        // The trust is of a later version than the one that a log begins with.
        let spec = Arc::new(SiteSpec { trust: None, ..(**spec).clone() });
        let command = FoundSite { spec, address: address.to_owned() };
        shared.propose(Command::FoundSite(command)).await.map_err(said)?;
    }
    let Some(trust) = spec.trust else { return Ok(()) };
    loop {
        let version = shared.group.state().version;
        if version >= ClusterVersion::PEER_PROOFS {
            break;
        }
        let raised = shared.group.raise_version(version.next()).await;
        raised.map_err(|error| error.to_string())?;
    }
    shared.propose(Command::SetTrust(SetTrust { trust })).await.map_err(said)?;
    Ok(())
}
