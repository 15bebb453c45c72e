//! Users ask about the site: nodes, peers, grants, loans.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{Command, DrainNode, State, grant_views, loan_views, node_views, site_views};
use specs::fault::{Fault, FaultCode};
use specs::wire::client::{Empty, GrantViews, LoanViews, NodeDrain, NodeViews, SiteViews};

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

pub(crate) fn sites(shared: &Shared, state: &State) -> Bytes {
    let sites = shared.with_view(|leader| site_views(state, leader));
    encode(&SiteViews { revision: state.revision, sites })
}

pub(crate) fn grants(state: &State) -> Bytes {
    encode(&GrantViews { revision: state.revision, grants: grant_views(state) })
}

pub(crate) fn loans(state: &State) -> Bytes {
    encode(&LoanViews { revision: state.revision, loans: loan_views(state) })
}
