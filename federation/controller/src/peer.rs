//! Calls to peers: any of their controllers will do, it finds its leader by itself.

use bytes::Bytes;
use fabric_quic::connection::{CallError, CallOptions};
use fabric_quic::pool::CONTROL;
use fabric_quic::verify::Expect;
use federation_core::State;
use specs::fault::{Fault, FaultCode};
use specs::id::SiteId;
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::shared::Shared;

/// A controller that takes longer to answer is passed over: it may be dead, and its connection
/// not yet known to be.
const ANSWER_MAX: Millis = Millis(2_000);

/// Calls a peer at the address that answered last, or at the next ones in turn. A call whose
/// outcome is unknown is not repeated here.
pub(crate) async fn call_peer(
    shared: &Shared,
    state: &State,
    peer: &SiteId,
    address: &mut usize,
    method: Method,
    body: Vec<u8>,
) -> Result<Bytes, Fault> {
    let record = state
        .peers
        .get(peer)
        .ok_or_else(|| Fault::new(FaultCode::NotFound, format!("site {peer} is not joined")))?;
    let body = Bytes::from(body);
    let mut last = Fault::new(FaultCode::Unreachable, format!("no address of {peer} is known"));
    for _ in 0..record.addresses.len() {
        let text = &record.addresses[*address % record.addresses.len()];
        let result = call_at(shared, text, peer, method, body.clone()).await;
        match result {
            Ok(answer) => return Ok(answer),
            Err(CallError::Fault(fault)) if fault.code != FaultCode::NotLeader => {
                return Err(fault);
            }
            Err(error) => {
                *address = address.wrapping_add(1);
                let unknown = matches!(error, CallError::Unknown(_));
                last = error.into_fault();
                if unknown {
                    return Err(last);
                }
            }
        }
    }
    Err(last)
}

async fn call_at(
    shared: &Shared,
    address: &str,
    peer: &SiteId,
    method: Method,
    body: Bytes,
) -> Result<Bytes, CallError> {
    let unreachable = |why: String| CallError::Unreachable(why);
    let resolved = shared.env.sockets.resolve(address).await;
    let resolved = resolved.map_err(|error| unreachable(format!("{address}: {error}")))?;
    let at = resolved.first().ok_or_else(|| unreachable(format!("{address} has no address")))?;
    let expect = Expect::Controller { site: peer.clone() };
    let exchange = method == Method::PeerReport || method == Method::PeerNudge;
    let deadline = exchange.then_some(ANSWER_MAX);
    let options = CallOptions { deadline, ..CallOptions::default() };
    shared.pool.call(*at, &expect, CONTROL, method, body, options).await
}
