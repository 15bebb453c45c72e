//! Hosts ask what this site, as a home, wants of them.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use specs::fault::{Fault, FaultCode};
use specs::id::SiteId;
use specs::wire::client::Empty;
use specs::wire::peer::{PeerReport, ProofKey};

use crate::service::{Asked, decode, encode, signatures};
use crate::shared::Shared;

/// The site that asks, by its certificate.
pub(crate) fn asking_site(asked: &Asked) -> Result<&SiteId, Fault> {
    match &asked.caller {
        Identity::Controller { site, .. } => Ok(site),
        Identity::Agent { .. } | Identity::User { .. } | Identity::Anonymous => {
            let message = format!("{} is not a peer", asked.caller);
            Err(Fault::new(FaultCode::Forbidden, message))
        }
    }
}

/// Answers a host's question, as [`super::agent::report`] does an agent's.
pub(crate) async fn report(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let report: PeerReport = decode(asked)?;
    let site = asking_site(asked)?;
    if *site != report.host {
        let message = format!("{site} may not speak for {}", report.host);
        return Err(Fault::new(FaultCode::Forbidden, message));
    }
    // Before leadership is confirmed: nothing waits between that and what follows from it. Which proofs
    // are worth a look may have changed by then; what is recorded is decided anew.
    let known = shared.group.state();
    let shown = shared.with_leader(|leader, _| leader.proofs_to_check(&known, &report))?;
    let checked = signatures::check_all(shared, site, shown).await;
    drop(known);
    let mut state = shared.confirm().await?;
    let at = shared.env.clock.wall();
    let (commands, refused) = shared.with_leader(|leader, now| {
        let mut commands = leader.handle_peer_report(now, at, &state, &report)?;
        let (proofs, refused) = leader.handle_proofs(now, at, &report, checked);
        commands.extend(proofs);
        Ok::<_, Fault>((commands, refused))
    })??;
    warn(site, &refused);
    if !commands.is_empty() {
        shared.propose_all(&commands).await?;
        state = shared.confirm().await?;
    }
    let orders = shared.with_leader(|leader, _| leader.peer_orders(&state, &report))?;
    let orders =
        orders.ok_or_else(|| Fault::new(FaultCode::Forbidden, format!("{site} is not joined")))?;
    Ok(encode(&orders))
}

/// One line for all of a report: a host may have very many GPUs.
fn warn(host: &SiteId, refused: &[(ProofKey, String)]) {
    if let Some((key, why)) = refused.first() {
        let (node, gpu, count) = (&key.node, key.index, refused.len());
        let text = "proofs of a peer's GPUs do not hold: they are not used";
        tracing::warn!(%host, %node, %gpu, why, count, "{text}");
    }
}

/// A home wants to be asked.
pub(crate) fn nudge(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    shared.peer_bell(asking_site(asked)?).notify_one();
    Ok(encode(&Empty {}))
}
