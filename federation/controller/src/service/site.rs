//! Users ask about the site: nodes, peers, grants, loans, controllers.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use federation_core::{
    AddController, Command, DrainNode, RemoveController, Reply, grant_views, loan_views,
    node_views, site_views,
};
use specs::codec::Blob;
use specs::fault::{Fault, FaultCode};
use specs::wire::client::{
    ControllerAdd, ControllerAdded, ControllerRemove, ControllerView, ControllerViews, Empty,
    GrantViews, LoanViews, NodeDrain, NodeViews, SiteViews,
};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

pub(crate) async fn nodes(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    let nodes = shared.with_view(|leader| node_views(&state, leader));
    Ok(encode(&NodeViews { revision: state.revision, nodes }))
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

pub(crate) async fn sites(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    let sites = shared.with_view(|leader| site_views(&state, leader));
    Ok(encode(&SiteViews { revision: state.revision, sites }))
}

pub(crate) async fn grants(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    Ok(encode(&GrantViews { revision: state.revision, grants: grant_views(&state) }))
}

pub(crate) async fn loans(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    Ok(encode(&LoanViews { revision: state.revision, loans: loan_views(&state) }))
}

pub(crate) fn controllers(shared: &Arc<Shared>) -> Bytes {
    let members = shared.group.members().into_iter().map(|member| ControllerView {
        own: member.id == shared.id,
        id: member.id,
        address: member.address,
        leader: member.leader,
        voter: member.voter,
        matched: member.matched,
    });
    let term = shared.group.leadership().borrow().term;
    encode(&ControllerViews { term, controllers: members.collect() })
}

/// Takes in a controller: allots its id, and gives it a certificate and the site's signing key.
pub(crate) async fn add_controller(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: ControllerAdd = decode(asked)?;
    let command = AddController { request: it.request, address: it.address };
    let Reply::Controller(id) = shared.propose(Command::AddController(command)).await? else {
        return Err(Fault::new(FaultCode::Internal, "the addition was answered strangely"));
    };
    let identity = Identity::Controller { site: shared.site.clone(), id };
    let certificate = shared.authority.issue(&shared.env, &identity, &it.csr.0);
    let certificate =
        certificate.map_err(|error| Fault::new(FaultCode::InvalidArgument, error.to_string()))?;
    let state = shared.group.state();
    shared.members.notify_one();
    Ok(encode(&ControllerAdded {
        id,
        certificate: Blob(certificate),
        ca: Blob(shared.authority.certificate().to_vec()),
        ca_key: Blob(shared.authority.private_key().to_vec()),
        site: shared.site.clone(),
        controllers: state.controllers.values().map(|it| it.address.clone()).collect(),
    }))
}

pub(crate) async fn remove_controller(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let ControllerRemove { id } = decode(asked)?;
    shared.propose(Command::RemoveController(RemoveController { id })).await?;
    shared.members.notify_one();
    Ok(encode(&Empty {}))
}
