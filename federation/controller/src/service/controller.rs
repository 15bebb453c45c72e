//! Users ask about the controllers of the site, and change which there are.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use federation_core::{AddController, Command, RemoveController, Reply, State};
use specs::codec::Blob;
use specs::fault::{Fault, FaultCode};
use specs::id::ControllerId;
use specs::wire::client::{
    ControllerAdd, ControllerAdded, ControllerRemove, ControllerStatus, ControllerTransfer,
    ControllerTransferred, ControllerView, ControllerViews, Empty,
};

use crate::raft::{Member, Without};
use crate::service::{Asked, decode, encode, upgrade};
use crate::shared::Shared;

/// Entries that a controller may lack and still take over within a moment.
const TRANSFER_LAG_MAX: u64 = 10_000;

fn members(shared: &Shared) -> Vec<ControllerView> {
    let members = shared.group.members().into_iter().map(|member| ControllerView {
        own: member.id == shared.id,
        id: member.id,
        address: member.address,
        leader: member.leader,
        voter: member.voter,
        matched: member.matched,
        heard: member.heard,
    });
    members.collect()
}

pub(crate) fn views(shared: &Shared, state: &State) -> Bytes {
    let term = shared.group.leadership().borrow().term;
    let last_log = shared.group.metrics().last_log;
    let (controllers, revision) = (members(shared), state.revision);
    encode(&ControllerViews { term, controllers, last_log, revision })
}

/// The members, after this controller has made sure that it leads them.
pub(crate) async fn list(shared: &Arc<Shared>) -> Result<Bytes, Fault> {
    let state = shared.confirm().await?;
    Ok(views(shared, &state))
}

/// This controller, as it sees itself; asks nobody.
pub(crate) fn status(shared: &Shared) -> Bytes {
    let (raft, state) = (shared.group.metrics(), shared.group.state());
    let leader = shared.group.leadership().borrow().leader.clone();
    encode(&ControllerStatus {
        id: shared.id,
        site: shared.site.clone(),
        address: shared.about.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: shared.env.clock.wall(),
        term: raft.term,
        leader: leader.map(|(id, _)| id),
        last_log: raft.last_log,
        committed: raft.committed,
        applied: raft.applied,
        snapshot: raft.snapshot,
        purged: raft.purged,
        snapshot_bytes: raft.snapshot_bytes,
        revision: state.revision,
        is_full: raft.is_full,
        heard: shared.group.heard(),
        certificate_until: shared.about.certificate_until,
        members: members(shared),
        agreed: state.controllers.keys().copied().collect(),
        disk_free: crate::disk::free_bytes(&shared.about.dir),
        recovering: state.recovering.is_some(),
    })
}

fn no_such(id: ControllerId) -> Fault {
    let message = format!("there is no controller {id}");
    let hint = "see `federation controller ls`; if this repeats a removal, it is done";
    Fault::new(FaultCode::NotFound, message).with_hint(hint)
}

/// Takes in a controller: allots its id, and gives it a certificate and the site's signing key.
pub(crate) async fn add(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: ControllerAdd = decode(asked)?;
    if let Some(old) = it.replaces {
        check_replaced(shared, old, &it).await?;
    }
    upgrade::check_build(&shared.confirm().await?, &it)?;
    let command = AddController { request: it.request, address: it.address, replaces: it.replaces };
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

/// What is replaced must be there, and must not be at work.
async fn check_replaced(
    shared: &Arc<Shared>,
    old: ControllerId,
    it: &ControllerAdd,
) -> Result<(), Fault> {
    let state = shared.confirm().await?;
    if state.controllers.values().any(|known| known.request == it.request) {
        return Ok(());
    }
    if !state.controllers.contains(&old) {
        return Err(no_such(old));
    }
    let members = shared.group.members();
    if members.iter().any(|member| member.id == old && member.is_reachable()) {
        let message = format!("controller {old} answers its leader: it is not dead");
        let hint = "stop it first, or use `federation controller add` and then `remove`";
        return Err(Fault::new(FaultCode::Conflict, message).with_hint(hint));
    }
    Ok(())
}

pub(crate) async fn remove(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let ControllerRemove { id } = decode(asked)?;
    let state = shared.confirm().await?;
    if !state.controllers.contains(&id) {
        return Err(no_such(id));
    }
    check_majority(&shared.group.members(), id)?;
    shared.propose(Command::RemoveController(RemoveController { id })).await?;
    shared.members.notify_one();
    Ok(encode(&Empty {}))
}

/// Those who stay must be able to agree without the one who goes.
fn check_majority(members: &[Member], id: ControllerId) -> Result<(), Fault> {
    let votes = members.iter().any(|member| member.id == id && member.voter);
    let left = Without::of(members, id);
    if !votes || left.voters == 0 || left.can_agree() {
        return Ok(());
    }
    let dead = members.iter().filter(|it| it.voter && it.id != id && !it.is_reachable());
    let dead: Vec<String> = dead.map(|member| member.id.to_string()).collect();
    let message = format!(
        "without {id} there are {} voters of which {} answer, and {} must: the site would stop",
        left.voters, left.reachable, left.needed
    );
    let hint = format!(
        "bring {0} back, or put another in its place first: `federation controller replace {0} …`",
        dead.join(", ")
    );
    Err(Fault::new(FaultCode::Conflict, message).with_hint(hint))
}

pub(crate) async fn transfer(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let ControllerTransfer { to } = decode(asked)?;
    shared.confirm().await?;
    if to == Some(shared.id) {
        return Ok(encode(&ControllerTransferred { leader: shared.id, repeated: true }));
    }
    let members = shared.group.members();
    let last = shared.group.metrics().last_log;
    let to = match to {
        Some(to) => check_fit(&members, to, last)?,
        None => best(shared, &members, last)?,
    };
    match shared.group.transfer(to).await {
        Some(leader) => Ok(encode(&ControllerTransferred { leader, repeated: false })),
        None => {
            let message = format!("{to} has not taken over in time; {} leads on", shared.id);
            Err(Fault::new(FaultCode::Timeout, message).with_hint("see `federation doctor`"))
        }
    }
}

fn check_fit(members: &[Member], to: ControllerId, last: u64) -> Result<ControllerId, Fault> {
    let member = members.iter().find(|member| member.id == to).ok_or_else(|| no_such(to))?;
    let why = if !member.voter {
        "it does not vote yet".to_owned()
    } else if !member.is_reachable() {
        "it does not answer".to_owned()
    } else if member.matched + TRANSFER_LAG_MAX < last {
        format!("it lacks {} entries of the log", last - member.matched)
    } else {
        return Ok(to);
    };
    Err(Fault::new(FaultCode::Conflict, format!("{to} cannot lead now: {why}")))
}

fn best(shared: &Shared, members: &[Member], last: u64) -> Result<ControllerId, Fault> {
    let others = members.iter().filter(|member| member.id != shared.id);
    let fit = others.filter(|member| check_fit(members, member.id, last).is_ok());
    let best = fit.max_by_key(|member| member.matched).map(|member| member.id);
    best.ok_or_else(|| {
        let message = format!("no other controller than {} is fit to lead now", shared.id);
        Fault::new(FaultCode::Conflict, message).with_hint("see `federation controller ls`")
    })
}
