//! Old and new members in one group: what each knows, and the gate that keeps out of the log what
//! one of them does not.
//!
//! ```text
//!   leader ── asks all ──▶ members: "I know 1 to 2" ──▶ SetVersion 2 ──▶ log ──▶ each member
//!     │                                                                            │ does not
//!     └─ proposes what `since` allows at the version that is applied here          ▼ know it:
//!                                                                                stops, says so
//! ```
//!
//! Beside its log a member notes each version that it has applied, so that an older release that is
//! put in its place refuses to start before it has opened anything.

use std::io;
use std::sync::Arc;

use fabric_quic::pool::CONTROL;
use federation_core::{Command, KNOWN, SetVersion, State, raised_by};
use federation_wal::Disk;
use futures::future::join_all;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::ControllerId;
use specs::unit::Millis;
use specs::version::{ClusterVersion, Versions};
use specs::wire::method::Method;

use super::state_machine::OnFatal;
use super::types::PayloadError;
use super::wire::{TailRequest, TailResponse};
use super::{Group, Member, ProposeError, marker};

/// What a note beside the log begins with; the version follows.
const NOTE: &str = "cluster-version-";
/// How long a member may take to say what it knows.
const ANSWER_SPAN: Millis = Millis(2_000);

/// What a controller calls its build.
#[cfg(not(feature = "next"))]
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "next")]
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+next");

/// What of the log and of snapshots this member can take.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) known: Versions,
    /// The log's; none keeps no notes.
    notes: Option<Arc<dyn Disk>>,
    on_fatal: OnFatal,
}

impl Default for Gate {
    fn default() -> Self {
        Self { known: KNOWN, notes: None, on_fatal: Arc::new(|_| ()) }
    }
}

impl Gate {
    pub(crate) fn new(known: Versions, disk: Arc<dyn Disk>, on_fatal: OnFatal) -> Self {
        Self { known, notes: Some(disk), on_fatal }
    }

    /// Whether a command that was agreed on may be applied.
    pub(crate) fn admit(&self, state: &State, command: &Command) -> Result<(), PayloadError> {
        let (raised, known) = (raised_by(state, command), self.known);
        let needs = raised.unwrap_or_else(|| command.since());
        if needs > known.newest {
            return Err(PayloadError::Version { needs, known });
        }
        if let Some(version) = raised {
            self.note(version);
        }
        Ok(())
    }

    /// Notes the version of a snapshot that another member sent, or stops this one.
    pub(crate) fn admit_snapshot(&self, version: ClusterVersion) -> Result<(), Fault> {
        if version <= self.known.newest {
            if version > ClusterVersion::FIRST {
                self.note(version);
            }
            return Ok(());
        }
        let why = format!(
            "a snapshot of the leader's cannot be taken in: {}",
            PayloadError::Version { needs: version, known: self.known }
        );
        (self.on_fatal)(&format!("{why}; install a release that knows version {version}"));
        Err(Fault::new(FaultCode::VersionMismatch, why))
    }

    fn note(&self, version: ClusterVersion) {
        let Some(disk) = &self.notes else { return };
        if let Err(error) = marker::set(disk.as_ref(), &format!("{NOTE}{version}"), "") {
            // Without it an older release finds out a moment later, when it applies the log.
            tracing::warn!(%version, %error, "the site's version is not noted beside the log");
        }
    }
}

/// The last version that was noted beside a log. Changes nothing.
pub(crate) fn noted(disk: &dyn Disk) -> io::Result<ClusterVersion> {
    let names = disk.list()?;
    let versions = names.iter().filter_map(|name| name.strip_prefix(NOTE)?.parse().ok());
    Ok(versions.map(ClusterVersion).max().unwrap_or(ClusterVersion::FIRST))
}

/// What a member said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub known: Versions,
    /// Empty from a build that does not say.
    pub build: String,
}

/// A member, and what it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberVersions {
    pub member: Member,
    /// None if it did not answer.
    pub told: Option<Told>,
}

impl MemberVersions {
    /// Why the site cannot have a version as long as this member is as it is.
    #[must_use]
    pub fn hinders(&self, version: ClusterVersion) -> Option<String> {
        match &self.told {
            None => Some("it does not answer".to_owned()),
            Some(told) if told.known.has(version) => None,
            Some(told) => Some(format!("it knows {}", told.known)),
        }
    }
}

/// Why the site's version was not raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    /// Nothing was done.
    #[error("the site has version {0}, and rises by one")]
    NotNext(ClusterVersion),
    /// Nothing was done. Names the members, each with its reason.
    #[error("not all controllers know it: {0}")]
    Hindered(String),
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Group {
    /// Asks every member what it knows.
    pub async fn member_versions(&self) -> Vec<MemberVersions> {
        self.versions_of(self.members()).await
    }

    async fn versions_of(&self, members: Vec<Member>) -> Vec<MemberVersions> {
        let asked = members.into_iter().map(|member| async move {
            let told = if member.id == self.inner.id {
                Some(Told { known: self.inner.own.gate.known, build: BUILD.to_owned() })
            } else {
                self.ask_version(member.clone()).await
            };
            MemberVersions { member, told }
        });
        join_all(asked).await
    }

    async fn ask_version(&self, member: Member) -> Option<Told> {
        let body = TailRequest {}.encode();
        let asked = self.inner.asker.ask(member, CONTROL, Method::RaftTail, body, ANSWER_SPAN);
        let answer = asked.await.ok()?;
        let TailResponse { oldest, newest, build, .. } = TailResponse::decode(&answer).ok()?;
        Some(Told { known: Versions { oldest, newest }, build })
    }

    /// Raises the site's version, if that is by one and every member, heard since the call, knows
    /// it. False if the site has it already.
    ///
    /// # Errors
    /// As [`RaiseError`] says.
    pub async fn raise_version(&self, to: ClusterVersion) -> Result<bool, RaiseError> {
        // No member comes in meanwhile.
        let _changing = self.inner.changing.lock().await;
        let version = self.confirm().await?.version;
        if to <= version {
            return Ok(false);
        }
        if to != version.next() {
            return Err(RaiseError::NotNext(version));
        }
        let members = self.member_versions().await;
        let why =
            |it: &MemberVersions| it.hinders(to).map(|why| format!("{}: {why}", it.member.id));
        let hindered: Vec<String> = members.iter().filter_map(why).collect();
        if !hindered.is_empty() {
            return Err(RaiseError::Hindered(hindered.join("; ")));
        }
        self.propose(Command::SetVersion(SetVersion { version: to })).await?;
        Ok(true)
    }

    /// Learners that must not vote: they do not know the site's version, or have not said so.
    pub(crate) async fn unfit_learners(&self) -> Vec<ControllerId> {
        let learners = self.members().into_iter().filter(|member| !member.voter).collect();
        let version = self.state().version;
        let mut unfit = Vec::new();
        for it in self.versions_of(learners).await {
            let Some(why) = it.hinders(version) else { continue };
            let id = it.member.id;
            if it.told.is_some() {
                tracing::info!(%id, %version, why, "a controller cannot become a member");
            }
            unfit.push(id);
        }
        unfit
    }
}
