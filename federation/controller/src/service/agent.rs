//! Agents ask what is wanted of their nodes.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use specs::fault::{Fault, FaultCode};
use specs::wire::agent::NodeReport;

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Answers an agent's question: confirms that this controller leads after it came, agrees on what
/// it brings, and reads the orders after that.
pub(crate) async fn report(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let report: NodeReport = decode(asked)?;
    let is_own = matches!(&asked.caller, Identity::Agent { node, .. } if *node == report.node);
    if !is_own {
        let message = format!("{} may not speak for node {}", asked.caller, report.node);
        return Err(Fault::new(FaultCode::Forbidden, message));
    }
    let mut state = shared.confirm().await?;
    let at = shared.env.clock.wall();
    let commands =
        shared.with_leader(|leader, now| leader.handle_node_report(now, at, &state, &report))??;
    if !commands.is_empty() {
        shared.propose_all(&commands).await?;
        state = shared.confirm().await?;
    }
    let orders = shared.with_leader(|leader, now| leader.node_orders(now, &state, &report))?;
    let orders = orders.ok_or_else(|| {
        Fault::new(FaultCode::Conflict, "another life of the agent was heard meanwhile")
    })?;
    Ok(encode(&orders))
}
