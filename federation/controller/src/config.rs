//! A controller's directory: what belongs to this process. What must be equal everywhere is in
//! the log, not here.
//!
//! ```text
//! DIR/controller.toml     who I am, where I listen, how long ended jobs stay; written last
//! DIR/identity/           certificate and key of this controller
//! DIR/authority/          the site's signing key, mode 0600
//! DIR/admin/              credentials of the first user (founding controller only)
//! DIR/founding.pb         the site's settings until they are in the log
//! DIR/joining/            what a controller needs that waits to be taken in
//! DIR/log-owner           which log belongs here; see `mark`
//! DIR/wal/ snapshots/     the log
//! ```

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabric_quic::env::Env;
use fabric_quic::identity::Identity;
use fabric_quic::pki::{Authority, Credentials, KeyRequest, PkiError};
use federation_core::Retention;
use serde::{Deserialize, Serialize};
use specs::codec::Message;
use specs::fault::FaultCode;
use specs::id::{ControllerId, Country, RequestId, SiteId, UserId};
use specs::site::{LendRule, SiteSpec, Terms, Trust};
use specs::unit::Millis;
use specs::wire::client::ControllerAdded;

use crate::error::ControllerError;

/// Name of the first user of a site.
pub const ADMIN: &str = "admin";
/// Name of a controller's credentials within `identity/`.
pub(crate) const CREDENTIALS: &str = "controller";
const CONFIG_FILE: &str = "controller.toml";
const FOUNDING_FILE: &str = "founding.pb";
/// What a controller needs that is about to be taken in.
const JOINING_DIR: &str = "joining";

/// How to found a site.
#[derive(Debug, Clone)]
pub struct InitOptions {
    pub site: SiteId,
    pub listen: SocketAddr,
    /// Where others reach this controller; `listen` if none is given.
    pub advertise: Option<String>,
    pub dir: PathBuf,
    /// Where `/metrics` is served; a free port of the loopback interface if none is given.
    pub metrics: Option<SocketAddr>,
    pub country: Country,
    pub terms: Terms,
    pub lend: Vec<LendRule>,
    /// Which GPUs jobs may run on.
    pub trust: Trust,
}

/// What founding a site left behind.
#[derive(Debug, Clone)]
pub struct Initialised {
    /// Directory with the first user's credentials, named [`ADMIN`].
    pub admin: PathBuf,
    /// Where clients reach the controller.
    pub address: String,
}

/// `controller.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) site: String,
    pub(crate) id: u64,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: String,
    pub(crate) metrics: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_jobs: Option<EndedJobs>,
}

/// Which ended jobs stay in the site's state while this controller leads; the others go into the
/// archive.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndedJobs {
    /// How many, the newest.
    keep: Option<usize>,
    /// None goes sooner after its end. Requests repeated later are taken for new ones.
    min_age_seconds: Option<u64>,
}

impl Config {
    pub(crate) fn retention(&self) -> Retention {
        let usual = Retention::default();
        let age = |it: EndedJobs| it.min_age_seconds.map(|s| Millis(s.saturating_mul(1_000)));
        Retention {
            jobs: self.ended_jobs.and_then(|it| it.keep).unwrap_or(usual.jobs),
            age_min: self.ended_jobs.and_then(age).unwrap_or(usual.age_min),
        }
    }
}

/// A controller's directory, read.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) site: SiteId,
    pub(crate) id: ControllerId,
    pub(crate) credentials: Credentials,
    pub(crate) authority: Authority,
    /// Present on the founding controller.
    pub(crate) founding: Option<Arc<SiteSpec>>,
}

/// Founds a site: makes its authority, this controller's identity and the first user's.
///
/// # Errors
/// A directory that holds anything, or one that cannot be written. Nothing of an earlier site is
/// ever overwritten.
pub fn init(env: &Env, options: &InitOptions) -> Result<Initialised, ControllerError> {
    claim(&options.dir)?;
    let address = address_of(options.listen, options.advertise.as_deref())?;
    whole_or_empty(&options.dir, || write_founder(env, options, address))
}

fn write_founder(
    env: &Env,
    options: &InitOptions,
    address: String,
) -> Result<Initialised, ControllerError> {
    let (site, id) = (options.site.clone(), ControllerId(1));
    let authority = Authority::create(env, &site).map_err(|error| pki(&error))?;
    authority.save(&options.dir.join("authority")).map_err(|error| pki(&error))?;
    let own = Identity::Controller { site: site.clone(), id };
    save_credentials(env, &authority, &own, &options.dir.join("identity"), CREDENTIALS)?;
    let user = UserId::new(ADMIN).expect("a constant that keeps the rules of names");
    let admin = options.dir.join("admin");
    let user = Identity::User { site: site.clone(), user };
    save_credentials(env, &authority, &user, &admin, ADMIN)?;
    let spec = SiteSpec {
        site: site.clone(),
        country: options.country,
        terms: options.terms.clone(),
        lend: options.lend.clone(),
        trust: Some(options.trust),
    };
    write_durably(&options.dir.join(FOUNDING_FILE), &spec.encode())?;
    write_config(&options.dir, &site, id, options.listen, &address, options.metrics)?;
    Ok(Initialised { admin, address })
}

/// A controller's key and its request to be taken in, kept in its directory until it is: whoever
/// repeats an addition that was interrupted gets the same controller.
pub struct Joining {
    pub key: KeyRequest,
    pub request: RequestId,
}

/// Makes a directory ready to become a member's, or goes on where an earlier try was interrupted.
///
/// # Errors
/// It holds something else, or cannot be written.
pub fn prepare_member(
    env: &Env,
    dir: &Path,
    listen: SocketAddr,
    advertise: Option<&str>,
) -> Result<Joining, ControllerError> {
    let address = address_of(listen, advertise)?;
    let pending = dir.join(JOINING_DIR);
    let file = pending.join("request");
    if file.is_file() {
        claim_but(dir, Some(JOINING_DIR))?;
        let text = fs::read_to_string(&file);
        let text = text.map_err(|error| ControllerError::file("read", &file, error))?;
        let (request, known) = text.trim_end().split_once('\n').unwrap_or_default();
        if known != address {
            let what = format!("{} is being prepared for {known}, not {address}", dir.display());
            return Err(ControllerError::new(FaultCode::Conflict, what)
                .hint("repeat the same command, or choose an empty directory"));
        }
        let request = request_id(request)?;
        let key = KeyRequest::load(env, &pending, CREDENTIALS).map_err(|error| pki(&error))?;
        return Ok(Joining { key, request });
    }
    // A try that ended before its request was written has asked for nothing.
    claim_but(dir, Some(JOINING_DIR))?;
    let key = KeyRequest::create(env).map_err(|error| pki(&error))?;
    key.save(&pending, CREDENTIALS).map_err(|error| pki(&error))?;
    let random: [u8; 16] = env.random_bytes();
    let request = request_id(&format!("cli-{:032x}", u128::from_be_bytes(random)))?;
    write_durably(&file, format!("{request}\n{address}\n").as_bytes())?;
    Ok(Joining { key, request })
}

pub(crate) fn request_id(text: &str) -> Result<RequestId, ControllerError> {
    RequestId::new(text)
        .map_err(|error| ControllerError::new(FaultCode::Internal, error.to_string()))
}

/// Writes the directory of a controller that a site has taken in.
///
/// # Errors
/// As [`init`].
pub fn write_member(
    env: &Env,
    dir: &Path,
    listen: SocketAddr,
    advertise: Option<&str>,
    metrics: Option<SocketAddr>,
    added: &ControllerAdded,
    request: KeyRequest,
) -> Result<(), ControllerError> {
    claim_but(dir, Some(JOINING_DIR))?;
    let address = address_of(listen, advertise)?;
    whole_or_empty(dir, || {
        let authority = Authority::from_parts(env, &added.ca.0, &added.ca_key.0);
        authority.and_then(|it| it.save(&dir.join("authority"))).map_err(|error| pki(&error))?;
        let credentials = request.into_credentials(&added.certificate.0, &added.ca.0);
        let credentials = credentials.map_err(|error| pki(&error))?;
        credentials.save(&dir.join("identity"), CREDENTIALS).map_err(|error| pki(&error))?;
        write_config(dir, &added.site, added.id, listen, &address, metrics)?;
        // What stays of it is in nobody's way.
        let _ = fs::remove_dir_all(dir.join(JOINING_DIR));
        Ok(())
    })
}

/// Writes into a directory that was empty; if that goes wrong, it is empty again.
pub(crate) fn whole_or_empty<T>(
    dir: &Path,
    write: impl FnOnce() -> Result<T, ControllerError>,
) -> Result<T, ControllerError> {
    write().inspect_err(|_| {
        for part in ["authority", "identity", "admin", "wal", "snapshots"] {
            // What stays is seen by the next try, which then says so.
            let _ = fs::remove_dir_all(dir.join(part));
        }
        for file in [FOUNDING_FILE, CONFIG_FILE] {
            let _ = fs::remove_file(dir.join(file));
            let _ = fs::remove_file(dir.join(file).with_extension("tmp"));
        }
    })
}

/// Checks that a directory can become a controller's, without changing anything but making it.
///
/// # Errors
/// It holds something, or cannot be written.
pub(crate) fn claim(dir: &Path) -> Result<(), ControllerError> {
    claim_but(dir, None)
}

fn claim_but(dir: &Path, but: Option<&str>) -> Result<(), ControllerError> {
    fs::create_dir_all(dir).map_err(|error| ControllerError::file("make", dir, error))?;
    let entries = fs::read_dir(dir).map_err(|error| ControllerError::file("read", dir, error))?;
    let is_other = |name: &std::ffi::OsStr| but.is_none_or(|but| name != but);
    if entries.flatten().any(|entry| is_other(&entry.file_name())) {
        let what = if dir.join(CONFIG_FILE).exists() {
            format!("{} belongs to a controller", dir.display())
        } else {
            format!("{} is not empty", dir.display())
        };
        let hint = "choose an empty directory; nothing was changed";
        return Err(ControllerError::new(FaultCode::Conflict, what).hint(hint));
    }
    Ok(())
}

impl Home {
    /// Reads a controller's directory.
    pub(crate) fn load(env: &Env, dir: &Path) -> Result<Self, ControllerError> {
        let path = dir.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                let what = format!("{} is not a controller's directory", dir.display());
                ControllerError::new(FaultCode::NotFound, what)
                    .hint("make one with `federation init` or `federation controller add`")
            } else {
                ControllerError::file("read", &path, error)
            }
        })?;
        let config: Config = toml::from_str(&text).map_err(|error| {
            let what = format!("{} is not valid: {error}", path.display());
            ControllerError::new(FaultCode::InvalidArgument, what)
                .hint("put the file back as it was, or replace this controller by another")
        })?;
        let site = SiteId::new(&config.site).map_err(|error| {
            ControllerError::new(FaultCode::InvalidArgument, format!("{}: {error}", path.display()))
        })?;
        let credentials = Credentials::load(env, &dir.join("identity"), CREDENTIALS);
        let authority = Authority::load(env, &dir.join("authority"));
        let home = Self {
            dir: dir.to_path_buf(),
            site,
            id: ControllerId(config.id),
            credentials: credentials.map_err(|error| pki(&error))?,
            authority: authority.map_err(|error| pki(&error))?,
            founding: founding(&dir.join(FOUNDING_FILE))?,
            config,
        };
        home.check()?;
        Ok(home)
    }

    /// The parts of a directory must be of one controller.
    fn check(&self) -> Result<(), ControllerError> {
        let own = Identity::Controller { site: self.site.clone(), id: self.id };
        let found = self.credentials.identity();
        let other = if *found != own {
            format!("identity/ is that of {found}")
        } else if self.credentials.ca() != self.authority.certificate() {
            format!("authority/ is that of another {}", self.authority.site())
        } else {
            return Ok(());
        };
        let dir = self.dir.display();
        let what = format!("{dir} is mixed up: {CONFIG_FILE} is that of {own}, and {other}");
        let hint = "put the directory back as it was; nothing was changed";
        Err(ControllerError::new(FaultCode::Conflict, what).hint(hint))
    }

    /// The site's settings are in the log, and this directory never founds it again.
    pub(crate) fn forget_founding(dir: &Path) {
        // What stays of it is looked at again at the next start.
        let _ = fs::remove_file(dir.join(FOUNDING_FILE));
    }
}

fn founding(path: &Path) -> Result<Option<Arc<SiteSpec>>, ControllerError> {
    match fs::read(path) {
        Ok(bytes) => {
            let spec = SiteSpec::decode(&bytes)
                .map_err(|error| ControllerError::file("understand", path, error))?;
            Ok(Some(Arc::new(spec)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ControllerError::file("read", path, error)),
    }
}

pub(crate) fn pki(error: &PkiError) -> ControllerError {
    ControllerError::because("the keys and certificates are not usable", error)
}

pub(crate) fn save_credentials(
    env: &Env,
    authority: &Authority,
    identity: &Identity,
    dir: &Path,
    name: &str,
) -> Result<(), ControllerError> {
    let credentials = authority.credentials(env, identity).map_err(|error| pki(&error))?;
    credentials.save(dir, name).map_err(|error| pki(&error))
}

pub(crate) fn address_of(
    listen: SocketAddr,
    advertise: Option<&str>,
) -> Result<String, ControllerError> {
    match advertise {
        Some(address) => Ok(address.into()),
        None if listen.ip().is_unspecified() => {
            let what = format!("{listen} says nothing of where others reach this controller");
            Err(ControllerError::new(FaultCode::InvalidArgument, what)
                .hint("add --advertise HOST:PORT"))
        }
        None if listen.port() == 0 => {
            let what = "a controller needs a port that stays the same";
            Err(ControllerError::new(FaultCode::InvalidArgument, what).hint("name one in --listen"))
        }
        None => Ok(listen.to_string()),
    }
}

pub(crate) fn write_config(
    dir: &Path,
    site: &SiteId,
    id: ControllerId,
    listen: SocketAddr,
    advertise: &str,
    metrics: Option<SocketAddr>,
) -> Result<(), ControllerError> {
    let config = Config {
        site: site.to_string(),
        id: id.0,
        listen,
        advertise: advertise.into(),
        metrics: metrics.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        ended_jobs: None,
    };
    let path = dir.join(CONFIG_FILE);
    let text =
        toml::to_string(&config).map_err(|error| ControllerError::file("compose", &path, error))?;
    write_durably(&path, text.as_bytes())
}

/// Whole or not at all: a temporary file, synced, renamed, and the directory synced.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ControllerError> {
    let failed = |error| ControllerError::file("write", path, error);
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
}
