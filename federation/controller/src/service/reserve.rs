//! Operators reserve capacity for an account; anybody may ask what is reserved.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{
    Command, EndReservation, MakeReservation, Reply, ReserveAsk, State, Window, choose,
    reservation_views,
};
use specs::fault::{Fault, FaultCode};
use specs::id::ReservationName;
use specs::unit::GpuCount;
use specs::version::ClusterVersion;
use specs::wire::client::{Empty, ReservationEnd, ReservationMake, ReservationViews};
use specs::wire::method::Method;

use crate::service::client::user;
use crate::service::quota::check_version;
use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

pub(crate) fn list(shared: &Shared, state: &State) -> Bytes {
    let reservations = reservation_views(state, shared.env.clock.wall());
    encode(&ReservationViews { revision: state.revision, reservations })
}

/// Makes a reservation, or ends one.
pub(crate) async fn change(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    if asked.method == Method::ReservationMake {
        make(shared, asked).await
    } else {
        end(shared, asked).await
    }
}

/// Chooses nodes, and has the log decide. Answers with what is reserved.
async fn make(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: ReservationMake = decode(asked)?;
    let state = shared.confirm().await?;
    check_version(&state, "a reservation", ClusterVersion::DEMANDS)?;
    let at = shared.env.clock.wall();
    let mut command = MakeReservation {
        name: it.name.clone(),
        account: it.account,
        class: it.class,
        gpus: it.gpus,
        nodes: Vec::new(),
        start: it.start,
        end: it.end,
        beside_jobs: it.beside_jobs,
        by: user(&asked.caller),
        at,
    };
    let ask = match (it.nodes.as_slice(), it.gpus) {
        ([], GpuCount::ZERO) => {
            let message = "neither GPUs nor nodes are asked for";
            return Err(Fault::new(FaultCode::InvalidArgument, message));
        }
        ([], gpus) => ReserveAsk::Gpus(gpus),
        (nodes, _) => ReserveAsk::Nodes(nodes),
    };
    // One that is there already is there, whatever else is free: a repeated request learns of it.
    command.nodes = match state.reservations.get(&it.name) {
        Some(known) if it.nodes.is_empty() => known.nodes.clone(),
        Some(_) | None => choose(&state, ask, &Window::of(&command))?,
    };
    shared.propose(Command::MakeReservation(command)).await?;
    let state = shared.confirm().await?;
    let views = reservation_views(&state, at);
    let reservations = views.into_iter().filter(|view| view.name == it.name).collect();
    Ok(encode(&ReservationViews { revision: state.revision, reservations }))
}

async fn end(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let ReservationEnd { name } = decode(asked)?;
    let state = shared.confirm().await?;
    check_version(&state, "a reservation", ClusterVersion::DEMANDS)?;
    let Some(known) = state.reservations.get(&name) else { return Err(none(&name)) };
    let number = known.number;
    let command = EndReservation { name: name.clone(), number };
    match shared.propose(Command::EndReservation(command)).await? {
        Reply::NoOp(_) => Err(none(&name)),
        Reply::Done
        | Reply::Jobs { .. }
        | Reply::Controller(_)
        | Reply::Placed { .. }
        | Reply::Refused(_) => Ok(encode(&Empty {})),
    }
}

fn none(name: &ReservationName) -> Fault {
    let message = format!("there is no reservation {name}");
    Fault::new(FaultCode::NotFound, message).with_hint("see `federation reservation ls`")
}
