//! The user's configuration: contexts, each a site's controllers and the credentials for them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fabric_quic::env::Env;
use fabric_quic::pki::Credentials;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::unit::{Millis, Timestamp};

use crate::app::App;
use crate::args::{ContextCommand, Global};
use crate::client::Target;
use crate::error::{Failure, Outcome, chain};
use crate::output::{Item, Listed, Mood, joined, note};

/// Largest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// How long a command tries to get its answer if nothing else is said.
pub(crate) const BUDGET: Millis = Millis(15_000);

/// All that the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The context that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A site as one user reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `host:port` of controllers; any of them will do.
    pub(crate) servers: Vec<String>,
    /// A directory with the user's certificate chain, `<user>.pem`, and key, `<user>.key`. The
    /// chain ends at the site's authority, and only that is trusted.
    pub(crate) credentials: PathBuf,
    pub(crate) user: String,
}

/// Where the configuration is: what was said, or the usual place.
pub(crate) fn path(
    said: Option<&Path>,
    config_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Outcome<PathBuf> {
    if let Some(path) = said {
        return Ok(path.to_owned());
    }
    let base = config_home
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".config")))
        .ok_or_else(|| {
            Failure::usage("there is no place for the configuration: HOME is not set")
                .with_hint("name a file with --config or SPILLWAY_CONFIG")
        })?;
    Ok(base.join("spillway/config.toml"))
}

impl Config {
    /// Reads the file; an absent one is empty.
    pub(crate) fn load(path: &Path) -> Outcome<Self> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(facts) if facts.len() > CONFIG_BYTES_MAX => {
                let size = facts.len();
                return Err(Failure::usage(format!("{} has {size} bytes", path.display())));
            }
            Ok(_) | Err(_) => {}
        }
        let text = fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} is not a configuration: {error}", path.display()))
        })
    }

    /// Changes the file: nobody else changes it at the same time, and a crash leaves the old one
    /// or the new one.
    pub(crate) fn change(path: &Path, edit: impl FnOnce(&mut Self)) -> Outcome<()> {
        let failed = |error: io::Error| Failure::file("write", path, &error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let lock = beside(path, ".lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(lock);
        let lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut config = Self::load(path)?;
        edit(&mut config);
        let text = toml::to_string(&config)
            .map_err(|error| Failure::new(FaultCode::Internal, error.to_string()))?;
        replace(path, text.as_bytes()).map_err(failed)
    }

    /// The context that a command uses, by name.
    pub(crate) fn pick(&self, named: Option<&str>) -> Outcome<(&str, &Context)> {
        let known = || match self.contexts.len() {
            0 => "make one with `federation init`".to_owned(),
            _ => format!("known: {}", joined(&self.contexts.keys().collect::<Vec<_>>())),
        };
        let Some(name) = named.or(self.current.as_deref()) else {
            return Err(Failure::usage("no context is chosen").with_hint(known()));
        };
        let found = self.contexts.get_key_value(name).ok_or_else(|| {
            let message = format!("there is no context `{name}`");
            Failure::new(FaultCode::NotFound, message).with_hint(known())
        })?;
        Ok((found.0, found.1))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = beside(path, ".tmp");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Whom to ask, as whom.
pub(crate) fn target(env: &Env, config: &Config, global: &Global) -> Outcome<Target> {
    let (name, context) = config.pick(global.context.as_deref())?;
    let credentials =
        Credentials::load(env, &context.credentials, &context.user).map_err(|error| {
            let message = format!("context {name} has no usable credentials: {}", chain(&error));
            Failure::new(FaultCode::Forbidden, message)
        })?;
    let servers = if global.server.is_empty() { &context.servers } else { &global.server };
    if servers.is_empty() {
        let failure = Failure::usage(format!("context {name} names no controller"));
        return Err(failure.with_hint("name one with --server HOST:PORT"));
    }
    let budget = global.timeout.unwrap_or(BUDGET);
    Ok(Target { servers: servers.clone(), credentials, budget, is_stale: global.stale })
}

/// Makes a context, or replaces one of that name; it becomes the current one if there is none.
pub(crate) fn remember(path: &Path, name: &str, context: Context) -> Outcome<()> {
    Config::change(path, |config| {
        config.contexts.insert(name.to_owned(), context);
        config.current.get_or_insert_with(|| name.to_owned());
    })
}

/// `federation context …`.
pub(crate) fn run(app: &App, command: ContextCommand) -> Outcome<()> {
    let path = app.config_path()?;
    match command {
        ContextCommand::Ls(format) => {
            let config = Config::load(&path)?;
            app.output(format).list(&rows(&config), None)
        }
        ContextCommand::Use { name } => {
            Config::load(&path)?.pick(Some(&name))?;
            Config::change(&path, |config| config.current = Some(name.clone()))?;
            note(&format!("commands now go to {name}"));
            Ok(())
        }
        ContextCommand::Show(format) => {
            let config = Config::load(&path)?;
            let (name, _) = config.pick(app.global().context.as_deref())?;
            let all = rows(&config);
            let row = all.iter().find(|row| row.name == name);
            let row = row.ok_or_else(|| Failure::new(FaultCode::NotFound, "no such context"))?;
            app.output(format).one(row, None, || {
                vec![
                    ("Name", row.name.clone()),
                    ("Servers", joined(&row.context.servers)),
                    ("User", row.context.user.clone()),
                    ("Credentials", row.context.credentials.display().to_string()),
                    ("Config", path.display().to_string()),
                ]
            })
        }
    }
}

struct Row {
    name: String,
    is_current: bool,
    context: Context,
}

fn rows(config: &Config) -> Vec<Row> {
    let row = |(name, context): (&String, &Context)| Row {
        name: name.clone(),
        is_current: config.current.as_ref() == Some(name),
        context: context.clone(),
    };
    config.contexts.iter().map(row).collect()
}

impl Listed for Row {
    const KIND: &'static str = "Context";
    const HEADERS: &'static [&'static str] = &["CURRENT", "NAME", "SERVERS", "USER", "CREDENTIALS"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![
            Item::with(Mood::Good, if self.is_current { "*" } else { "" }),
            Item::of(&self.name),
            Item::of(joined(&self.context.servers)),
            Item::of(&self.context.user),
            Item::of(self.context.credentials.display()),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "current": self.is_current,
            "servers": self.context.servers,
            "user": self.context.user,
            "credentials": self.context.credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(server: &str) -> Context {
        Context { servers: vec![server.into()], credentials: "/d".into(), user: "admin".into() }
    }

    #[test]
    fn the_first_context_becomes_the_current_one_and_later_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/config.toml");
        remember(&path, "berlin", context("a:1")).unwrap();
        remember(&path, "giga", context("b:1")).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.pick(None).unwrap().0, "berlin");
        assert_eq!(config.pick(Some("giga")).unwrap().1, &context("b:1"));
        let missing = config.pick(Some("paris")).unwrap_err();
        assert!(missing.text().contains("known: berlin,giga"), "{}", missing.text());
    }

    #[test]
    fn changes_made_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::thread::scope(|scope| {
            for nth in 0..16 {
                let path = &path;
                scope.spawn(move || remember(path, &format!("s{nth}"), context("a:1")).unwrap());
            }
        });
        assert_eq!(Config::load(&path).unwrap().contexts.len(), 16);
    }

    #[test]
    fn only_the_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        remember(&path, "berlin", context("a:1")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_usual_place_is_below_the_config_home() {
        let at = |said: Option<&str>, config_home: Option<&str>, home: Option<&str>| {
            path(said.map(Path::new), config_home.map(Into::into), home.map(Into::into))
        };
        assert_eq!(at(Some("x"), Some("/c"), Some("/h")).unwrap(), Path::new("x"));
        assert_eq!(at(None, Some("/c"), None).unwrap(), Path::new("/c/spillway/config.toml"));
        assert_eq!(
            at(None, Some("c"), Some("/h")).unwrap().parent().unwrap(),
            Path::new("/h/.config/spillway")
        );
        assert!(at(None, None, None).is_err());
    }
}
