//! How a member comes up: from its disk, then into its group.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fabric_quic::env::Env;
use fabric_quic::pool::Pool;
use federation_core::State;
use federation_wal::{Config as WalConfig, Disk, Environment, OpenError, RealDisk, has_torn_tail};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ConfigError, RaftMetrics};
use specs::fault::FaultCode;
use specs::id::{ControllerId, SiteId};
use specs::unit::Millis;
use specs::version::{ClusterVersion, Versions};
use tokio::sync::{mpsc, watch};

use super::abstain::{Abstention, Recount};
use super::archive::{Archive, FILE_BYTES, watch_archive};
use super::asker::Asker;
use super::audit::{Audit, watch_divergence};
use super::config::{CutLog, RaftConfig};
use super::links::Links;
use super::log_store::{LogStore, OpenStoreError, ReplayError};
use super::marker;
use super::network::Network;
use super::propose::Proposer;
use super::serve::{Own, Raft, Server};
use super::snapshot::{Content, Pace, SnapshotError, Snapshots, Threads};
use super::state_machine::{Applied, OnFatal, Outputs, StateMachine};
use super::trigger::watch_snapshots;
use super::types::Types;
use super::verify::Windows;
use super::version::{self, Gate};
use super::watchdog::{Limits, watch_disk};
use super::{Group, Inner, Leadership};

/// What to do about a member whose disk cannot be trusted.
const REPLACE: &str = "do not delete anything here and start it again: add a controller with a \
                       fresh directory, which gets a new id, and remove this one from the site";

/// How often a full disk is looked at again.
const ROOM_CHECK_SPAN: Millis = Millis(1_000);

/// Where a member keeps what must last.
#[derive(Clone)]
pub struct Storage {
    /// The directory of the log.
    pub wal: Arc<dyn Disk>,
    /// The directory of snapshots.
    pub snapshots: Arc<dyn Disk>,
    /// The directory of jobs that have left the state.
    pub archive: Arc<dyn Disk>,
    /// For the log's writer, and for snapshots.
    pub threads: Threads,
}

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the timing of elections makes no sense: {0}")]
    Config(String),
    #[error("cannot use {what}")]
    Directory {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the log: {0}")]
    Log(#[from] OpenError),
    #[error("cannot read the log: {0}")]
    Replay(String),
    #[error("cannot use the snapshot {name}: {why}")]
    Snapshot { name: String, why: String },
    #[error("this controller is in quarantine: {0}")]
    Quarantined(String),
    #[error("the log and the snapshot do not fit together: {0}")]
    Rebuild(String),
    #[error("the site has version {found}, and this build of a controller knows {known}")]
    Version { found: ClusterVersion, known: Versions },
}

impl StartError {
    #[must_use]
    pub fn code(&self) -> FaultCode {
        match self {
            Self::Config(_) => FaultCode::InvalidArgument,
            Self::Version { .. } => FaultCode::VersionMismatch,
            Self::Log(OpenError::InUse(_)) => FaultCode::Conflict,
            Self::Log(OpenError::DiskFull) => FaultCode::DiskFull,
            Self::Directory { .. }
            | Self::Log(
                OpenError::SegmentSize { .. }
                | OpenError::Disk { .. }
                | OpenError::Recover(_)
                | OpenError::Refused { .. }
                | OpenError::Spawn(_),
            )
            | Self::Replay(_)
            | Self::Snapshot { .. }
            | Self::Quarantined(_)
            | Self::Rebuild(_) => FaultCode::Internal,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Log(OpenError::SegmentSize { .. }) => {
                "change the configuration"
            }
            Self::Version { .. } => {
                "install a release that knows that version; nothing was changed"
            }
            Self::Directory { .. } => "check that the directory is there and can be written",
            Self::Log(OpenError::InUse(_)) => "another controller runs in this directory: stop it",
            Self::Log(OpenError::DiskFull) => "make room on the disk",
            Self::Log(OpenError::Spawn(_)) => "raise the limit of threads",
            Self::Log(OpenError::Disk { .. }) => "check the disk",
            Self::Log(OpenError::Recover(_) | OpenError::Refused { .. })
            | Self::Replay(_)
            | Self::Snapshot { .. }
            | Self::Quarantined(_)
            | Self::Rebuild(_) => REPLACE,
        }
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<OpenStoreError> for StartError {
    fn from(error: OpenStoreError) -> Self {
        match error {
            OpenStoreError::Log(error) => Self::Log(error),
            OpenStoreError::Replay(error) => error.into(),
        }
    }
}

impl From<ReplayError> for StartError {
    fn from(error: ReplayError) -> Self {
        let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
        Self::Replay(format!("{error}{}", why.unwrap_or_default()))
    }
}

impl From<(String, SnapshotError)> for StartError {
    fn from((name, error): (String, SnapshotError)) -> Self {
        let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
        Self::Snapshot { name, why: format!("{error}{}", why.unwrap_or_default()) }
    }
}

impl Storage {
    /// Directories `wal`, `snapshots` and `archive` of `dir`, and threads of the system.
    ///
    /// # Errors
    /// A directory cannot be made or opened.
    pub fn real(dir: &Path) -> Result<Self, StartError> {
        let disk = |name: &str| -> Result<Arc<dyn Disk>, StartError> {
            let path = dir.join(name);
            match RealDisk::open(&path) {
                Ok(disk) => Ok(Arc::new(disk)),
                Err(source) => {
                    Err(StartError::Directory { what: path.display().to_string(), source })
                }
            }
        };
        let threads: Threads = Arc::new(|name: &str, task: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        });
        let (wal, snapshots, archive) = (disk("wal")?, disk("snapshots")?, disk("archive")?);
        Ok(Self { wal, snapshots, archive, threads })
    }
}

impl Group {
    /// Brings a member up from its directory. Its elections begin at once; a member of no group
    /// waits to be founded or taken in. The receiver gets what is applied from here on.
    ///
    /// # Errors
    /// The directory cannot be used, or what it holds cannot be trusted.
    pub async fn start(
        env: &Env,
        config: RaftConfig,
        site: SiteId,
        pool: Pool,
        on_fatal: OnFatal,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Applied>), StartError> {
        let storage = Storage::real(&config.dir)?;
        Self::start_on(env, config, site, pool, on_fatal, storage).await
    }

    /// As [`Group::start`], on any storage.
    ///
    /// # Errors
    /// As [`Group::start`].
    pub async fn start_on(
        env: &Env,
        config: RaftConfig,
        site: SiteId,
        pool: Pool,
        on_fatal: OnFatal,
        storage: Storage,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Applied>), StartError> {
        let id = config.id;
        let settings = Arc::new(config.openraft()?);
        let opened = open(env, &config, &site, storage, &on_fatal)?;
        let Opened { gate, is_cut, log, disk, snapshots, archive, newest } = opened;
        let abstention = Arc::new(Abstention::new(is_cut));
        let (view_sender, view) = watch::channel(State::default());
        let (applied_sender, applied) = mpsc::unbounded_channel();
        let is_live = Arc::new(AtomicBool::new(false));
        let windows = Windows::default();
        let outputs = Outputs {
            windows: windows.clone(),
            archive: archive.clone(),
            view: view_sender,
            applied: applied_sender,
            is_live: is_live.clone(),
            on_fatal: on_fatal.clone(),
        };
        let machine = StateMachine::new(snapshots.clone(), newest, config.snapshot_rule(), outputs)
            .guarded_by(gate.clone());
        let links = Links::new(env.clone(), site, pool);
        let network = Network { links: links.clone() };
        let raft = Box::pin(Raft::build(id.0, settings, network, log.clone(), machine))
            .await
            .map_err(|error| StartError::Rebuild(error.to_string()))?;
        is_live.store(true, Ordering::Relaxed);
        raft.runtime_config().elect(!is_cut);
        raft.run();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let audit = Arc::new(Audit {
            windows,
            disk: disk.clone(),
            snapshots: snapshots.clone(),
            on_fatal: on_fatal.clone(),
        });
        let leadership =
            watch_leadership(links.clone(), &raft, is_stopping.clone(), on_fatal.clone());
        let own = Own { snapshots, log, abstention, audit, gate, archive };
        let inner = Inner {
            id,
            env: env.clone(),
            server: Server::new(env.clone(), raft.clone(), own.clone()),
            proposer: Proposer::new(env, raft.clone()),
            raft,
            own,
            view,
            leadership,
            is_stopping,
            asker: Asker::new(env, links.clone()),
            changing: tokio::sync::Mutex::default(),
        };
        let inner = Arc::new(inner);
        if is_cut {
            spawn_recount(&inner, &links, disk);
        }
        spawn_watches(&inner, &config, links, on_fatal);
        Ok((Self { inner }, applied))
    }
}

/// What a member has on its disk.
struct Opened {
    gate: Gate,
    is_cut: bool,
    log: LogStore,
    disk: Arc<dyn Disk>,
    snapshots: Arc<Snapshots>,
    archive: Arc<Archive>,
    newest: Option<Content>,
}

/// Opens and checks everything, in the order in which nothing is changed that is not understood.
fn open(
    env: &Env,
    config: &RaftConfig,
    site: &SiteId,
    storage: Storage,
    on_fatal: &OnFatal,
) -> Result<Opened, StartError> {
    let disk = storage.wal.clone();
    let noted = check_noted(config.known, disk.as_ref())?;
    let gate = Gate::new(config.known, disk.clone(), on_fatal.clone());
    let is_cut = check_markers(config, disk.as_ref())?;
    let log = open_log(env, config, &storage, on_fatal.clone())?;
    let (files, threads) = (storage.archive.clone(), storage.threads.clone());
    let (snapshots, newest) = open_snapshots(env, site, storage)?;
    check_version(config.known, noted, newest.as_ref(), &log)?;
    let (snapshots, archive) = (Arc::new(snapshots), Archive::open(files, threads, FILE_BYTES));
    Ok(Opened { gate, is_cut, log, disk, snapshots, archive, newest })
}

/// Makes a member vote again once it is whole.
fn spawn_recount(inner: &Inner, links: &Links, disk: Arc<dyn Disk>) {
    let recount = Recount {
        id: inner.id.0,
        links: links.clone(),
        raft: inner.raft.clone(),
        log: inner.own.log.clone(),
        snapshots: inner.own.snapshots.clone(),
        disk,
        abstention: inner.own.abstention.clone(),
    };
    inner.env.spawn(recount.run());
}

/// What looks after a member as long as it is there.
fn spawn_watches(inner: &Arc<Inner>, config: &RaftConfig, links: Links, on_fatal: OnFatal) {
    let env = &inner.env;
    let group = || Arc::downgrade(inner);
    let limits = Limits { yields: config.disk_yields, ends: config.disk_ends };
    env.spawn(watch_disk(env.clone(), group(), limits, on_fatal));
    env.spawn(watch_archive(env.clone(), group()));
    env.spawn(watch_divergence(links, group(), config.verify));
    env.spawn(watch_room(env.clone(), group()));
    env.spawn(watch_snapshots(env.clone(), group(), config.kept_entries));
}

/// While the disk is full, looks for room from time to time. A leader first lets another lead,
/// once: the others' disks may be no better.
async fn watch_room(env: Env, group: Weak<Inner>) {
    let mut has_yielded = false;
    loop {
        env.sleep(ROOM_CHECK_SPAN).await;
        let Some(inner) = group.upgrade() else { return };
        let group = Group { inner };
        let is_full = group.inner.own.log.is_full();
        if is_full && !has_yielded {
            group.hand_over().await;
        }
        has_yielded = is_full;
        group.inner.own.log.look_for_room().await;
    }
}

/// Looks at what version was noted beside the log, before anything is opened.
fn check_noted(known: Versions, disk: &dyn Disk) -> Result<ClusterVersion, StartError> {
    let failed = |source| StartError::Log(OpenError::Disk { doing: "list a directory", source });
    let found = version::noted(disk).map_err(failed)?;
    if found > known.newest { Err(StartError::Version { found, known }) } else { Ok(found) }
}

/// Whether this build may take part in the group whose log and snapshot these are.
fn check_version(
    known: Versions,
    noted: ClusterVersion,
    newest: Option<&Content>,
    log: &LogStore,
) -> Result<(), StartError> {
    let found = newest.map_or(noted, |(_, state)| state.version.max(noted));
    let is_member = newest.is_some() || !log.is_empty();
    if is_member && !known.has(found) {
        return Err(StartError::Version { found, known });
    }
    Ok(())
}

/// Finds the newest snapshot, and checks whose it is.
fn open_snapshots(
    env: &Env,
    site: &SiteId,
    storage: Storage,
) -> Result<(Snapshots, Option<Content>), StartError> {
    let pace = Pace::by(env.clock.clone());
    let (snapshots, newest) = Snapshots::open(storage.snapshots, storage.threads, pace)?;
    let found = newest.as_ref().and_then(|(_, state)| state.own());
    if let (Some(found), Some(latest)) = (found.filter(|it| *it != site), snapshots.latest()) {
        let (found, own) = (found.to_string(), site.to_string());
        return Err((latest.name, SnapshotError::Site { found, own }).into());
    }
    Ok((snapshots, newest))
}

/// Looks at what must be known before the log is opened, which cuts off its torn end for good.
/// Returns whether the member has to make up for such a cut, of this start or of one before.
fn check_markers(config: &RaftConfig, disk: &dyn Disk) -> Result<bool, StartError> {
    let failed = |doing| move |source| StartError::Log(OpenError::Disk { doing, source });
    let quarantine = marker::read(disk, marker::QUARANTINE).map_err(failed("read a marker"))?;
    if let Some(why) = quarantine {
        return Err(StartError::Quarantined(why));
    }
    let is_torn = has_torn_tail(disk)?;
    if config.cut_log == CutLog::Accept {
        marker::clear(disk, marker::CUT).map_err(failed("remove a marker"))?;
        if is_torn {
            tracing::warn!("the log was cut off; as told, this controller votes all the same");
        }
        return Ok(false);
    }
    let was_cut = marker::read(disk, marker::CUT).map_err(failed("read a marker"))?.is_some();
    if is_torn || was_cut {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        marker::set(disk, marker::CUT, "").map_err(|error| {
            if full.contains(&error.kind()) {
                OpenError::DiskFull.into()
            } else {
                failed("set a marker")(error)
            }
        })?;
        tracing::warn!(
            "the log ended in a write that is not whole; as a rule nobody relies on it, but it may \
             be rot in what was acknowledged, so this controller does not vote until it has caught \
             up with a leader or has heard all other voters"
        );
    }
    Ok(is_torn || was_cut)
}

pub(super) fn open_log(
    env: &Env,
    config: &RaftConfig,
    storage: &Storage,
    on_fatal: OnFatal,
) -> Result<LogStore, StartError> {
    let (salt_env, threads) = (env.clone(), storage.threads.clone());
    let (clock, began) = (env.runtime.clone(), env.runtime.now());
    let environment = Environment {
        disk: storage.wal.clone(),
        salts: Box::new(move || u32::from_be_bytes(salt_env.random_bytes())),
        spawn: Box::new(move |name, task| threads(name, task)),
        clock: Box::new(move || clock.now().saturating_duration_since(began)),
        on_fatal: Box::new(move |why| on_fatal(why)),
    };
    let wal_config = WalConfig { segment_bytes: config.segment_bytes, ..WalConfig::default() };
    let (store, _) = LogStore::open(environment, wal_config)?;
    Ok(store)
}

/// Publishes who leads, learns where members are, and tells `on_fatal` when the member stops by
/// itself.
fn watch_leadership(
    links: Links,
    raft: &Raft,
    is_stopping: Arc<AtomicBool>,
    on_fatal: OnFatal,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(leadership(&metrics.borrow_watched()));
    links.env().clone().spawn(async move {
        let mut learned = None;
        loop {
            let (now, running, membership) = {
                let metrics = metrics.borrow_and_update();
                let membership = metrics.membership_config.clone();
                (leadership(&metrics), metrics.running_state.clone(), membership)
            };
            if learned != *membership.log_id() {
                for (id, node) in membership.membership().nodes() {
                    links.learn(*id, &node.addr);
                }
                learned = *membership.log_id();
            }
            sender.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
            if let Err(error) = running {
                if !is_stopping.load(Ordering::Relaxed) {
                    on_fatal(&format!("the agreement has stopped: {error}"));
                }
                return;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn leadership(metrics: &RaftMetrics<Types>) -> Leadership {
    let membership = metrics.membership_config.membership();
    let leader = metrics.current_leader.map(|id| {
        let address = membership.get_node(&id).map(|node| node.addr.clone());
        (ControllerId(id), address.unwrap_or_default())
    });
    Leadership { term: metrics.current_term, leader, own: metrics.state.is_leader() }
}
