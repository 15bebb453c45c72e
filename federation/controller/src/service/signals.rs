//! Operators say what the site costs and holds, and how it weighs what others cost.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{Command, RemoveDataSet, Reply, SetDataSet, SetLink, SetSignals, SetWeights};
use specs::fault::{Fault, FaultCode};
use specs::version::ClusterVersion;
use specs::wire::client::{DataSetRemove, DataSetSet, Empty, LinkSet, SignalsSet, WeightsSet};
use specs::wire::method::Method;

use crate::service::quota::check_version;
use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Answers the five methods of what sites cost and hold.
pub(crate) async fn answer(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    if asked.method == Method::SignalsSet {
        set(shared, asked).await
    } else if asked.method == Method::WeightsSet {
        weigh(shared, asked).await
    } else if asked.method == Method::DataSetSet {
        set_data(shared, asked).await
    } else if asked.method == Method::DataSetRemove {
        remove_data(shared, asked).await
    } else {
        set_link(shared, asked).await
    }
}

async fn set(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let said: SignalsSet = decode(asked)?;
    let at = shared.env.clock.wall();
    agree(shared, Command::SetSignals(SetSignals { said, at })).await
}

async fn weigh(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let WeightsSet { weights } = decode(asked)?;
    agree(shared, Command::SetWeights(SetWeights { weights })).await
}

async fn set_data(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let DataSetSet { name, set } = decode(asked)?;
    agree(shared, Command::SetDataSet(SetDataSet { name, set })).await
}

async fn remove_data(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let DataSetRemove { name } = decode(asked)?;
    let message = format!("there is no data set {name}");
    let hint = "see `federation site data ls`";
    let none = Fault::new(FaultCode::NotFound, message).with_hint(hint);
    check(shared).await?;
    match shared.propose(Command::RemoveDataSet(RemoveDataSet { name })).await? {
        Reply::NoOp(_) => Err(none),
        Reply::Done
        | Reply::Jobs { .. }
        | Reply::Controller(_)
        | Reply::Placed { .. }
        | Reply::Refused(_) => Ok(encode(&Empty {})),
    }
}

async fn set_link(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let LinkSet { peer, link } = decode(asked)?;
    agree(shared, Command::SetLink(SetLink { peer, link })).await
}

async fn check(shared: &Shared) -> Result<(), Fault> {
    let what = "what sites cost and hold";
    check_version(&shared.confirm().await?, what, ClusterVersion::SITES)
}

async fn agree(shared: &Arc<Shared>, command: Command) -> Result<Bytes, Fault> {
    check(shared).await?;
    shared.propose(command).await?;
    Ok(encode(&Empty {}))
}
