//! Users ask about the site: nodes, peers, grants, loans.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{
    Command, DrainNode, State, WithholdGpu, gpu_views, grant_views, loan_views, node_views,
    site_views,
};
use specs::fault::{Fault, FaultCode};
use specs::version::ClusterVersion;
use specs::wire::client::{
    Empty, GpuViews, GpuWithhold, GrantViews, LoanViews, NodeDrain, NodeViews, SiteViews,
};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

pub(crate) fn nodes(shared: &Shared, state: &State) -> Bytes {
    let nodes = shared.with_view(|leader| node_views(state, leader));
    encode(&NodeViews { revision: state.revision, nodes })
}

pub(crate) async fn drain(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let NodeDrain { node, drain } = decode(asked)?;
    let state = shared.confirm().await?;
    if !state.nodes.contains(&node) {
        let message = format!("there is no node {node}");
        return Err(Fault::new(FaultCode::NotFound, message).with_hint("see `federation node ls`"));
    }
    shared.propose(Command::DrainNode(DrainNode { node, drain })).await?;
    Ok(encode(&Empty {}))
}

pub(crate) fn gpus(shared: &Shared, state: &State) -> Bytes {
    let gpus = shared.with_view(|leader| gpu_views(state, leader.map(|(leader, _)| leader)));
    encode(&GpuViews { revision: state.revision, gpus })
}

/// Longest reason of an operator's.
const WHY_BYTES_MAX: usize = 256;

pub(crate) async fn withhold(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let GpuWithhold { node, index, why } = decode(asked)?;
    if why.as_ref().is_some_and(|why| why.len() > WHY_BYTES_MAX) {
        let message = format!("the reason is longer than {WHY_BYTES_MAX} bytes");
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    let state = shared.confirm().await?;
    if state.version < ClusterVersion::HEALTH {
        let message = format!("the site's version {} knows nothing of health", state.version);
        return Err(Fault::new(FaultCode::VersionMismatch, message)
            .with_hint("raise it with `federation upgrade finalize`"));
    }
    let known = state
        .nodes
        .get(&node)
        .is_some_and(|node| node.gpus.iter().any(|gpu| gpu.info.index == index));
    if !known {
        let message = format!("there is no GPU {index} of a node {node}");
        return Err(Fault::new(FaultCode::NotFound, message).with_hint("see `federation gpu ls`"));
    }
    shared.propose(Command::WithholdGpu(WithholdGpu { node, index, why })).await?;
    Ok(encode(&Empty {}))
}

pub(crate) fn sites(shared: &Shared, state: &State) -> Bytes {
    let sites = shared.with_view(|leader| site_views(state, leader));
    encode(&SiteViews { revision: state.revision, sites })
}

pub(crate) fn grants(shared: &Shared, state: &State) -> Bytes {
    let grants = grant_views(state, shared.env.clock.wall());
    encode(&GrantViews { revision: state.revision, grants })
}

pub(crate) fn loans(state: &State) -> Bytes {
    encode(&LoanViews { revision: state.revision, loans: loan_views(state) })
}
