//! Operators want burn-ins, and say how much is tested and taken out of service at once.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{Command, SetHealthLimits, State, WantBurnIns, limits_view};
use specs::fault::{Fault, FaultCode};
use specs::gpu::{BoundUnit, BurnInTier, GpuState, HealthLimits, InventorySource, QUARANTINES_MAX};
use specs::version::ClusterVersion;
use specs::wire::client::{BurnInStart, Empty};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

pub(crate) async fn start(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let BurnInStart { node, index, tier } = decode(asked)?;
    if tier == BurnInTier::T0 {
        let message = "t0 reads counters alone: nothing is burnt in";
        return Err(Fault::new(FaultCode::InvalidArgument, message).with_hint("use t1 to t4"));
    }
    let state = shared.confirm().await?;
    check_version(&state)?;
    let Some(known) = state.nodes.get(&node) else {
        let message = format!("there is no node {node}");
        return Err(Fault::new(FaultCode::NotFound, message).with_hint("see `federation node ls`"));
    };
    if known.source == Some(InventorySource::Declared) {
        let message = format!("the GPUs of {node} were only declared: nothing can burn them in");
        let hint = "run its agent where the driver answers";
        return Err(Fault::new(FaultCode::Conflict, message).with_hint(hint));
    }
    let named = known.gpus.iter().filter(|gpu| index.is_none_or(|it| it == gpu.info.index));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        let which = index.map_or_else(|| "no GPU".to_owned(), |index| format!("no GPU {index}"));
        let message = format!("{node} has {which}, as far as its agent said");
        return Err(Fault::new(FaultCode::NotFound, message).with_hint("see `federation gpu ls`"));
    }
    let is_left = |state| matches!(state, GpuState::Quarantined | GpuState::Rma);
    let sound = named.iter().filter(|gpu| !gpu.doubt.as_ref().is_some_and(|it| is_left(it.state)));
    let gpus: Vec<_> = sound.map(|gpu| gpu.info.index).collect();
    if gpus.is_empty() {
        let message = format!("all that is meant of {node} is quarantined");
        let hint = "let it go, which burns it in: `federation gpu release`";
        return Err(Fault::new(FaultCode::Conflict, message).with_hint(hint));
    }
    shared.propose(Command::WantBurnIns(WantBurnIns { node, gpus, tier })).await?;
    Ok(encode(&Empty {}))
}

pub(crate) fn limits(state: &State) -> Bytes {
    encode(&limits_view(state))
}

pub(crate) async fn set_limits(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let limits: HealthLimits = decode(asked)?;
    let bounds = [&limits.retests, &limits.admissions, &limits.quarantined];
    let is_wrong = |unit, value| unit == BoundUnit::Percent && value > 100;
    let wrong = bounds.into_iter().find(|it| is_wrong(it.unit, it.value));
    if let Some(bound) = wrong {
        let message = format!("{} per cent are more than all", bound.value);
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    if limits.admissions.value == 0 {
        let message = "without admissions no GPU would ever be proven";
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    if limits.quarantines > QUARANTINES_MAX {
        let message = format!("{} quarantines are more than {QUARANTINES_MAX}", limits.quarantines);
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    check_version(&shared.confirm().await?)?;
    shared.propose(Command::SetHealthLimits(SetHealthLimits { limits })).await?;
    Ok(encode(&Empty {}))
}

fn check_version(state: &State) -> Result<(), Fault> {
    let (has, needs) = (state.version, ClusterVersion::BURN_INS);
    if has >= needs {
        return Ok(());
    }
    let message = format!("this needs version {needs} of the site, which has version {has}");
    let hint = "once all controllers run this release: `federation upgrade finalize`";
    Err(Fault::new(FaultCode::Conflict, message).with_hint(hint))
}
