//! Ties a controller's log to its directory, so that neither is used with another. A member that
//! lost its log and came back under its old id could vote twice, and help to lose what it had
//! acknowledged; no other member could tell.
//!
//! ```text
//! DIR/wal/owner     whose log this is: site, id, and a number drawn at random
//! DIR/log-owner     the same, and whether the log was ever used; written after the first
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fabric_quic::env::Env;
use serde::{Deserialize, Serialize};
use specs::fault::FaultCode;
use specs::id::{ControllerId, SiteId};

use crate::config::write_durably;
use crate::error::ControllerError;

const INNER: &str = "owner";
const OUTER: &str = "log-owner";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    site: String,
    id: String,
    /// Tells this log from any other of the same controller.
    log: String,
    /// Something was agreed on or voted for.
    #[serde(default)]
    used: bool,
}

/// A directory whose log is its own.
#[derive(Debug)]
pub(crate) struct Mark {
    dir: PathBuf,
    owner: Owner,
}

impl Mark {
    /// Checks that the log in a controller's directory is its own, or takes an empty one.
    pub(crate) fn check(
        env: &Env,
        dir: &Path,
        site: &SiteId,
        id: ControllerId,
    ) -> Result<Self, ControllerError> {
        let wal = dir.join("wal");
        let (inner, outer) = (read(&wal.join(INNER))?, read(&dir.join(OUTER))?);
        let is_own = |it: &Owner| it.site == site.as_str() && it.id == id.to_string();
        if let Some(other) = inner.iter().chain(&outer).find(|it| !is_own(it)) {
            let what = format!(
                "the log in {} is that of controller {} of {}, not of {id} of {site}",
                wal.display(),
                other.id,
                other.site
            );
            let hint = "put the directory back that belongs here; nothing was changed";
            return Err(ControllerError::new(FaultCode::Conflict, what).hint(hint));
        }
        let owner = match (inner, outer) {
            (Some(inner), Some(outer)) if inner.log == outer.log => outer,
            (Some(_), Some(_)) => return Err(gone(&wal, id, "is not the one that belongs here")),
            (None, Some(_)) => return Err(gone(&wal, id, "is gone")),
            (Some(inner), None) => {
                save(&dir.join(OUTER), &inner)?;
                inner
            }
            (None, None) => {
                let log = format!("{:032x}", env.random_u128());
                let (site, id) = (site.to_string(), id.to_string());
                let owner = Owner { site, id, log, used: false };
                fs::create_dir_all(&wal)
                    .map_err(|error| ControllerError::file("make", &wal, error))?;
                save(&wal.join(INNER), &owner)?;
                save(&dir.join(OUTER), &owner)?;
                owner
            }
        };
        Ok(Self { dir: dir.to_owned(), owner })
    }

    /// Checks what the log turned out to hold.
    pub(crate) fn check_content(&self, is_empty: bool) -> Result<(), ControllerError> {
        if is_empty && self.owner.used {
            let wal = self.dir.join("wal");
            return Err(gone(&wal, self.owner.id.parse().unwrap_or_default(), "is empty"));
        }
        Ok(())
    }

    pub(crate) fn is_used(&self) -> bool {
        self.owner.used
    }

    /// Remembers that the log holds something.
    pub(crate) fn set_used(&mut self) -> Result<(), ControllerError> {
        self.owner.used = true;
        save(&self.dir.join(OUTER), &self.owner)
    }
}

/// Whose log is in a directory, for one who only looks: an error as at a start.
pub(crate) fn look(dir: &Path) -> Result<Option<String>, ControllerError> {
    let (inner, outer) = (read(&dir.join("wal").join(INNER))?, read(&dir.join(OUTER))?);
    let id = |it: &Owner| it.id.parse().unwrap_or_default();
    match (inner, outer) {
        (None, Some(outer)) => Err(gone(&dir.join("wal"), id(&outer), "is gone")),
        (Some(inner), Some(outer)) if inner.log != outer.log => {
            Err(gone(&dir.join("wal"), id(&outer), "is not the one that belongs here"))
        }
        (Some(owner), _) => Ok(Some(format!("{} of {}", owner.id, owner.site))),
        (None, None) => Ok(None),
    }
}

fn gone(wal: &Path, id: ControllerId, how: &str) -> ControllerError {
    let what = format!("the log of controller {id} in {} {how}", wal.display());
    let hint = format!(
        "put it back, or give {id} up: a controller without its log must not come back under its \
         id. Elsewhere: `federation controller replace {id} --dir NEW …`; if no majority is left, \
         `federation restore`"
    );
    ControllerError::new(FaultCode::Conflict, what).hint(hint)
}

fn read(path: &Path) -> Result<Option<Owner>, ControllerError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ControllerError::file("read", path, error)),
    };
    let owner = toml::from_str(&text).map_err(|error| {
        let what = format!("{} is not valid: {error}", path.display());
        ControllerError::new(FaultCode::InvalidArgument, what)
    })?;
    Ok(Some(owner))
}

fn save(path: &Path, owner: &Owner) -> Result<(), ControllerError> {
    let text =
        toml::to_string(owner).map_err(|error| ControllerError::file("compose", path, error))?;
    write_durably(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dir: &Path, site: &str, id: u64) -> Result<Mark, String> {
        let site = site.parse().unwrap();
        let checked = Mark::check(&Env::system(), dir, &site, ControllerId(id));
        checked.map_err(|error| error.to_string())
    }

    #[test]
    fn a_log_is_used_only_where_it_belongs() {
        let dirs = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dirs.path().join(name));
        for dir in [&one, &two] {
            fs::create_dir(dir).unwrap();
        }
        let mut mark = check(&one, "berlin", 1).unwrap();
        assert!(mark.check_content(true).is_ok(), "nothing was agreed on yet");
        mark.set_used().unwrap();
        let again = check(&one, "berlin", 1).unwrap();
        assert!(again.check_content(false).is_ok());
        assert!(again.check_content(true).is_err(), "its files were removed");
        check(&two, "berlin", 2).unwrap();
        assert!(check(&two, "paris", 2).unwrap_err().contains("c2 of berlin, not of c2 of paris"));
        fs::remove_dir_all(two.join("wal")).unwrap();
        fs::rename(one.join("wal"), two.join("wal")).unwrap();
        assert!(check(&two, "berlin", 2).unwrap_err().contains("that of controller c1"));
        assert!(check(&one, "berlin", 1).unwrap_err().contains("is gone"));
        fs::create_dir(one.join("wal")).unwrap();
        assert!(check(&one, "berlin", 1).unwrap_err().contains("is gone"), "wiped");
    }

    #[test]
    fn a_first_start_may_be_interrupted_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), "berlin", 1).unwrap();
        fs::remove_file(dir.path().join(OUTER)).unwrap();
        check(dir.path(), "berlin", 1).unwrap();
    }
}
