//! Founds a site's group again from a backup: a directory of a controller whose id was never used,
//! alone in its group, with the state of the backup made fit for a world that has gone on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fabric_quic::env::Env;
use fabric_quic::identity::Identity;
use fabric_quic::pki::{Authority, Credentials};
use federation_core::{RestorePlan, restore};
use specs::fault::FaultCode;
use specs::id::{ControllerId, Revision, SiteId, UserId};
use specs::unit::Timestamp;

use crate::backup::{Backup, read_backup};
use crate::config::{
    ADMIN, CREDENTIALS, address_of, claim, pki, request_id, save_credentials, whole_or_empty,
    write_config,
};
use crate::error::ControllerError;
use crate::raft;

/// How to found the group again.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    pub file: PathBuf,
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    pub dir: PathBuf,
    pub metrics: Option<SocketAddr>,
    /// The directory of any controller of the site, or of its authority: the site's key.
    pub authority: PathBuf,
}

/// A restore that has been checked and has changed nothing.
pub struct PendingRestore {
    options: RestoreOptions,
    address: String,
    authority: Authority,
    backup: Backup,
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoredSite {
    pub site: SiteId,
    pub controller: ControllerId,
    pub address: String,
    /// Directory with an administrator's credentials, named [`ADMIN`].
    pub admin: PathBuf,
    /// Of the state of the backup.
    pub from: Revision,
    pub revision: Revision,
    /// When the backup was made.
    pub at: Timestamp,
    /// Jobs that are placed again, though they may have run since.
    pub again: u32,
    /// Jobs that nobody can know about any more.
    pub lost: u32,
    pub guests: u32,
}

impl PendingRestore {
    /// Checks the directory, the backup and the authority's key.
    ///
    /// # Errors
    /// The directory is in use, the backup is not whole, or the key is another site's.
    pub fn check(env: &Env, options: RestoreOptions) -> Result<Self, ControllerError> {
        let address = address_of(options.listen, options.advertise.as_deref())?;
        let backup = read_backup(&options.file)?;
        claim(&options.dir)?;
        let authority = load_authority(env, &options.authority)?;
        let digest = env.crypto.sha256(authority.certificate());
        if backup.meta.authority.0 != digest {
            let what = format!(
                "the key in {} is of {}'s authority, and the backup is of another: that of {}",
                options.authority.display(),
                authority.site(),
                backup.meta.site
            );
            let hint = "name the directory of any controller that the site had: --authority DIR";
            return Err(ControllerError::new(FaultCode::Conflict, what).hint(hint));
        }
        if backup.state.own() != Some(&backup.meta.site) {
            let what = format!("{} holds no founded site", options.file.display());
            return Err(ControllerError::new(FaultCode::InvalidArgument, what));
        }
        Ok(Self { options, address, authority, backup })
    }

    /// Where the site's controllers were when the backup was made.
    #[must_use]
    pub fn old_addresses(&self) -> Vec<String> {
        self.backup.state.controllers.values().map(|it| it.address.clone()).collect()
    }

    /// Credentials with which they can be asked whether they are still there.
    ///
    /// # Errors
    /// The environment cannot make a key.
    pub fn credentials(&self, env: &Env) -> Result<Credentials, ControllerError> {
        let identity = self.user();
        self.authority.credentials(env, &identity).map_err(|error| pki(&error))
    }

    fn user(&self) -> Identity {
        let user = UserId::new(ADMIN).expect("a constant that keeps the rules of names");
        Identity::User { site: self.backup.meta.site.clone(), user }
    }

    /// Writes the directory. What goes wrong leaves it empty.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(self, env: &Env) -> Result<RestoredSite, ControllerError> {
        let dir = self.options.dir.clone();
        claim(&dir)?;
        whole_or_empty(&dir, || self.write_into(env, &dir))
    }

    fn write_into(&self, env: &Env, dir: &Path) -> Result<RestoredSite, ControllerError> {
        let (site, address) = (self.backup.meta.site.clone(), self.address.clone());
        let request = request_id(&format!("restore-{:032x}", env.random_u128()))?;
        let plan = RestorePlan { at: env.clock.wall(), address: address.clone(), request };
        let (state, done) = restore(&self.backup.state, &plan);
        let id = done.controller;
        self.authority.save(&dir.join("authority")).map_err(|error| pki(&error))?;
        let own = Identity::Controller { site: site.clone(), id };
        save_credentials(env, &self.authority, &own, &dir.join("identity"), CREDENTIALS)?;
        let admin = dir.join("admin");
        save_credentials(env, &self.authority, &self.user(), &admin, ADMIN)?;
        raft::found_with(env, dir, id, &address, &state)
            .map_err(|error| ControllerError::because("cannot write the restored state", &error))?;
        let options = &self.options;
        write_config(dir, &site, id, options.listen, &address, options.metrics)?;
        Ok(RestoredSite {
            site,
            controller: id,
            address,
            admin,
            from: self.backup.meta.revision,
            revision: done.revision,
            at: self.backup.meta.at,
            again: done.again,
            lost: done.lost,
            guests: done.guests,
        })
    }
}

fn load_authority(env: &Env, dir: &Path) -> Result<Authority, ControllerError> {
    let within = dir.join("authority");
    let dir = if within.is_dir() { within } else { dir.to_owned() };
    Authority::load(env, &dir).map_err(|error| {
        ControllerError::because("there is no usable key of the site's authority", &error).hint(
            "a backup holds no keys: name the directory of any controller that the site had, or a \
             copy of its `authority` directory, with --authority DIR",
        )
    })
}
