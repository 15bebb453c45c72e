//! Operators say how much each account may hold; anybody may ask.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{Command, RemoveQuota, SetQuota, State, quota_views};
use specs::fault::{Fault, FaultCode};
use specs::version::ClusterVersion;
use specs::wire::client::{Empty, QuotaViews};
use specs::wire::method::Method;

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

pub(crate) fn list(shared: &Shared, state: &State) -> Bytes {
    let quotas = quota_views(state, shared.env.clock.wall());
    encode(&QuotaViews { revision: state.revision, quotas })
}

/// Sets a quota, or takes one away.
pub(crate) async fn change(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    if asked.method == Method::QuotaSet {
        set(shared, asked).await
    } else {
        remove(shared, asked).await
    }
}

async fn set(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let specs::wire::client::QuotaSet { account, limit, weight } = decode(asked)?;
    check_version(&shared.confirm().await?, "quota", ClusterVersion::QUEUEING)?;
    shared.propose(Command::SetQuota(SetQuota { account, limit, weight })).await?;
    Ok(encode(&Empty {}))
}

async fn remove(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let specs::wire::client::QuotaRemove { account } = decode(asked)?;
    check_version(&shared.confirm().await?, "quota", ClusterVersion::QUEUEING)?;
    shared.propose(Command::RemoveQuota(RemoveQuota { account })).await?;
    Ok(encode(&Empty {}))
}

/// Refuses what the site does not keep before its version is raised.
pub(crate) fn check_version(state: &State, what: &str, needs: ClusterVersion) -> Result<(), Fault> {
    let has = state.version;
    if has >= needs {
        return Ok(());
    }
    let message = format!("{what} needs version {needs} of the site, which has version {has}");
    let hint = "once all controllers run this release: `federation upgrade finalize`";
    Err(Fault::new(FaultCode::Conflict, message).with_hint(hint))
}
