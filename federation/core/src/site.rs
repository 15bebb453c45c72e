//! The site itself: its founding, its tokens, its peers and its controllers.

use specs::codec::Blob;
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, Revision};
use specs::unit::Timestamp;

use crate::apply::Reply;
use crate::command::{
    AcceptNode, AcceptPeer, AddController, AddPeer, FoundSite, OpenToken, PeerRecord,
    RemoveController,
};
use crate::effect::{Effect, Effects};
use crate::state::{Controller, Node, Peer, State, Token, TokenKind};

pub(crate) fn found(state: &mut State, fx: &mut Effects, it: &FoundSite) -> Reply {
    if state.site.is_some() {
        return Reply::NoOp("the site is founded");
    }
    state.agreed.site = Some(it.spec.clone());
    let request = match "founding".parse() {
        Ok(request) => request,
        Err(_) => return Reply::NoOp("unreachable: the request id is a constant"),
    };
    let id = ControllerId(1);
    let first = Controller { id, address: it.address.clone(), request, replaces: None };
    state.agreed.last_controller = id;
    state.agreed.controllers.insert(id, first);
    fx.insert(Effect::SyncTrust);
    Reply::Done
}

pub(crate) fn open_token(state: &mut State, it: &OpenToken) -> Reply {
    let token = Token {
        kind: it.kind,
        key: it.key.clone(),
        bound: it.bound.clone(),
        expires_at: it.expires_at,
        used_by: Blob::default(),
    };
    state.agreed.tokens.insert(it.token, token);
    Reply::Done
}

/// Whether the token may be used, by whoever `digest` stands for.
fn check_token(
    token: Option<&Token>,
    kind: TokenKind,
    user: &str,
    digest: &Blob,
    at: Timestamp,
) -> Result<(), Fault> {
    let fault = |code, message: &str| Err(Fault::new(code, message));
    let Some(token) = token.filter(|token| token.kind == kind) else {
        return fault(FaultCode::TokenInvalid, "the token is unknown here");
    };
    if !token.bound.is_empty() && token.bound != user {
        let message = alloc::format!("the token was made for `{}`, not for `{user}`", token.bound);
        return Err(Fault::new(FaultCode::TokenInvalid, message));
    }
    if token.used_by == *digest {
        return Ok(());
    }
    if token.used_by != Blob::default() {
        return fault(FaultCode::TokenUsed, "the token has been used");
    }
    if at > token.expires_at {
        return fault(FaultCode::TokenExpired, "the token has expired");
    }
    Ok(())
}

fn insert_peer(state: &mut State, fx: &mut Effects, it: &PeerRecord) -> Result<(), Fault> {
    if state.is_own(&it.site) {
        let message = alloc::format!("`{}` is this very site", it.site);
        return Err(Fault::new(FaultCode::Conflict, message));
    }
    if let Some(peer) = state.agreed.peers.get_mut(&it.site) {
        if peer.ca != it.ca {
            let message = alloc::format!("another site is joined under the name `{}`", it.site);
            return Err(Fault::new(FaultCode::Conflict, message));
        }
        peer.addresses.clone_from(&it.addresses);
        return Ok(());
    }
    let peer = Peer {
        site: it.site.clone(),
        country: it.country,
        ca: it.ca.clone(),
        addresses: it.addresses.clone(),
        seen: Revision(0),
        obeyed: Revision(0),
        suspicion: None,
        shows: false,
    };
    state.agreed.peers.insert(it.site.clone(), peer);
    fx.insert(Effect::SyncTrust);
    fx.insert(Effect::SyncPeer(it.site.clone()));
    fx.insert(Effect::Plan);
    Ok(())
}

pub(crate) fn accept_peer(state: &mut State, fx: &mut Effects, it: &AcceptPeer) -> Reply {
    let token = state.tokens.get(&it.token);
    let user = it.peer.site.as_str();
    let checked = check_token(token, TokenKind::Invite, user, &it.digest, it.at);
    if let Err(fault) = checked.and_then(|()| insert_peer(state, fx, &it.peer)) {
        return Reply::Refused(fault);
    }
    use_token(state, it.token, &it.digest);
    Reply::Done
}

fn use_token(state: &mut State, id: specs::id::TokenId, digest: &Blob) {
    if let Some(token) = state.agreed.tokens.get_mut(&id) {
        token.used_by = digest.clone();
    }
}

pub(crate) fn add_peer(state: &mut State, fx: &mut Effects, it: &AddPeer) -> Reply {
    match insert_peer(state, fx, &it.peer) {
        Ok(()) => Reply::Done,
        Err(fault) => Reply::Refused(fault),
    }
}

pub(crate) fn accept_node(state: &mut State, it: &AcceptNode) -> Reply {
    let token = state.tokens.get(&it.token);
    if let Err(fault) = check_token(token, TokenKind::Enrol, it.node.as_str(), &it.digest, it.at) {
        return Reply::Refused(fault);
    }
    use_token(state, it.token, &it.digest);
    if !state.nodes.contains(&it.node) {
        state.agreed.nodes.insert(it.node.clone(), Node::awaited(it.node.clone()));
    }
    Reply::Done
}

pub(crate) fn add_controller(state: &mut State, fx: &mut Effects, it: &AddController) -> Reply {
    // The founding controller has the first id; nobody may take it before it is in the log.
    if state.site.is_none() {
        return Reply::Refused(Fault::new(FaultCode::Busy, "the site is being founded"));
    }
    let known = state.controllers.values().find(|known| known.request == it.request);
    if let Some(known) = known {
        return Reply::Controller(known.id);
    }
    if state.controllers.values().any(|known| known.address == it.address) {
        let message = alloc::format!("a controller at `{}` is a member", it.address);
        return Reply::Refused(Fault::new(FaultCode::Conflict, message));
    }
    if let Some(old) = it.replaces {
        if !state.controllers.contains(&old) {
            let message = alloc::format!("there is no controller {old} to replace");
            return Reply::Refused(Fault::new(FaultCode::NotFound, message));
        }
        if let Some(new) = state.controllers.values().find(|new| new.replaces == Some(old)) {
            let message = alloc::format!("{} at `{}` replaces {old} already", new.id, new.address);
            let hint = "run it, or remove it to begin again";
            return Reply::Refused(Fault::new(FaultCode::Conflict, message).with_hint(hint));
        }
    }
    let id = ControllerId(state.last_controller.0 + 1);
    state.agreed.last_controller = id;
    let (address, request) = (it.address.clone(), it.request.clone());
    let controller = Controller { id, address, request, replaces: it.replaces };
    state.agreed.controllers.insert(id, controller);
    fx.insert(Effect::SyncMembers);
    Reply::Controller(id)
}

pub(crate) fn remove_controller(
    state: &mut State,
    fx: &mut Effects,
    it: &RemoveController,
) -> Reply {
    if !state.controllers.contains(&it.id) {
        return Reply::Refused(Fault::new(FaultCode::NotFound, "there is no such controller"));
    }
    if state.controllers.len() == 1 {
        let message = "the last controller of a site cannot be removed";
        return Reply::Refused(Fault::new(FaultCode::Conflict, message));
    }
    state.agreed.controllers.remove(&it.id);
    fx.insert(Effect::SyncMembers);
    Reply::Done
}
