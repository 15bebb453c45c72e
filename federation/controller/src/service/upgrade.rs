//! Operators raise the site's version, once all controllers know the next.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::State;
use specs::fault::{Fault, FaultCode};
use specs::version::{ClusterVersion, Versions};
use specs::wire::client::{
    ControllerAdd, ControllerVersions, UpgradeFinalize, UpgradeFinalized, UpgradeRehearse,
    UpgradeStatus,
};

use crate::raft::{MemberVersions, RaiseError};
use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// What each controller knows, asked of it since the question came.
pub(crate) async fn status(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    let next = state.version.next();
    let of = |it: MemberVersions| {
        let hinders = it.hinders(next).unwrap_or_default();
        let (heard, told) = (it.told.is_some(), it.told);
        let known = told.as_ref().map(|told| told.known);
        ControllerVersions {
            id: it.member.id,
            address: it.member.address,
            leader: it.member.leader,
            build: told.map(|told| told.build).unwrap_or_default(),
            oldest: known.map_or(ClusterVersion::FIRST, |known| known.oldest),
            newest: known.map_or(ClusterVersion::FIRST, |known| known.newest),
            heard,
            hinders,
        }
    };
    let controllers = shared.group.member_versions().await.into_iter().map(of).collect();
    Ok(encode(&UpgradeStatus { version: state.version, controllers, notes: notes(&state) }))
}

pub(crate) async fn finalize(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let UpgradeFinalize { to } = decode(asked)?;
    match shared.group.raise_version(to).await {
        Ok(raised) => {
            let version = shared.group.state().version;
            tracing::info!(%version, raised, "the site's version");
            Ok(encode(&UpgradeFinalized { version, repeated: !raised }))
        }
        Err(RaiseError::Propose(error)) => Err(shared.propose_fault(error)),
        Err(error @ (RaiseError::NotNext(_) | RaiseError::Hindered(_))) => {
            let message = format!("the site cannot have version {to} yet: {error}");
            let hint = "see `federation upgrade status`; install a release that knows it on each \
                        controller, or remove those that are gone";
            Err(Fault::new(FaultCode::Conflict, message).with_hint(hint))
        }
    }
}

/// A controller that is prepared by a release which does not know the site's version is not taken
/// in: it would stop as soon as it read the log.
pub(crate) fn check_build(state: &State, it: &ControllerAdd) -> Result<(), Fault> {
    let (known, version) = (Versions { oldest: it.oldest, newest: it.newest }, state.version);
    if known.has(version) {
        return Ok(());
    }
    let message = format!("the site has version {version}, and the new controller knows {known}");
    let hint = "prepare and run it with a release that knows that version";
    Err(Fault::new(FaultCode::Conflict, message).with_hint(hint))
}

#[cfg(feature = "next")]
fn notes(state: &State) -> u64 {
    state.notes
}

#[cfg(not(feature = "next"))]
fn notes(_state: &State) -> u64 {
    0
}

#[cfg(feature = "next")]
pub(crate) async fn rehearse(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    use federation_core::{Command, Note};
    use specs::wire::client::Empty;
    let UpgradeRehearse { text } = decode(asked)?;
    shared.propose(Command::Note(Note { text })).await?;
    Ok(encode(&Empty {}))
}

#[cfg(not(feature = "next"))]
#[expect(clippy::unused_async, reason = "it is not so where there is something to rehearse")]
pub(crate) async fn rehearse(_shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let UpgradeRehearse { text: _ } = decode(asked)?;
    let message = "this release has nothing of the next one";
    Err(Fault::new(FaultCode::Unimplemented, message))
}
