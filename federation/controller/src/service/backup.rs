//! Users read the whole state, in pieces, while the site goes on.

use std::sync::Arc;

use bytes::Bytes;
use specs::codec::Blob;
use specs::fault::Fault;
use specs::wire::client::{BackupOpen, BackupOpened, BackupRead};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Holds the state still. Unless the asker wants any, it is the newest there is.
pub(crate) async fn open(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let BackupOpen { stale } = decode(asked)?;
    let heard = shared.group.heard();
    let state = if stale { shared.group.state() } else { shared.confirm().await? };
    let backup = u64::from_be_bytes(shared.env.random_bytes());
    let revision = state.revision;
    shared.backups.open(backup, state, shared.env.clock.now())?;
    Ok(encode(&BackupOpened {
        backup,
        site: shared.site.clone(),
        revision,
        at: shared.env.clock.wall(),
        controller: shared.id,
        authority: Blob(shared.env.crypto.sha256(shared.authority.certificate()).to_vec()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heard,
    }))
}

pub(crate) async fn read(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let BackupRead { backup, piece } = decode(asked)?;
    let piece = shared.backups.read(backup, piece, shared.env.clock.now()).await?;
    Ok(encode(&piece))
}
