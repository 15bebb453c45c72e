//! What runs only while this controller leads: it plans, watches, asks peers and keeps the group's
//! members as agreed. Each reign has a memory of its own and ends with it.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use federation_core::{Alarm, Command, Effect, Leader, RemoveController, State};
use specs::codec::Message;
use specs::fault::Fault;
use specs::id::SiteId;
use specs::unit::{Instant, Millis};
use specs::wire::agent::Nudge;
use specs::wire::method::Method;
use specs::wire::peer::{PeerNudge, PeerOrders};
use tokio::sync::mpsc;

use crate::peer::call_peer;
use crate::raft::{Applied, Without};
use crate::shared::{Reign, Shared, lock};

/// The leader looks at the state at least this often.
const TICK: Millis = Millis(250);
/// At most this often, so that a burst of changes makes one plan.
const PLAN_GAP: Millis = Millis(20);
/// A host asks a home at least this often.
const ASK_PEER: Millis = Millis(1_000);
/// At most this often.
const ASK_GAP: Millis = Millis(20);
/// The group's members are compared with what is agreed this often.
const RECONCILE: Millis = Millis(1_000);
/// Alarms of one kind are logged at most this often.
const ALARM_GAP: Millis = Millis(30_000);

/// Follows the group's leadership for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut leadership = shared.group.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.own {
            reign(&shared, now.term).await;
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// One reign, from the first confirmation to the loss of leadership.
async fn reign(shared: &Arc<Shared>, term: u64) {
    if let Err(fault) = shared.confirm().await {
        tracing::debug!(%fault, term, "the reign ended before it began");
        return;
    }
    let reign = federation_core::reign(&shared.group.state(), term);
    let leader = Leader::new(shared.env.clock.now(), reign).archiving(shared.retention);
    *lock(&shared.reign) = Some(Reign { term, leader });
    tracing::info!(term, "leading");
    let mut leadership = shared.group.leadership();
    let lost = async {
        loop {
            let now = leadership.borrow_and_update().clone();
            if !now.own || now.term != term || leadership.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = lost => {}
        () = plan_loop(shared) => {}
        () = ask_loops(shared, term) => {}
        () = member_loop(shared) => {}
    }
    let mut reign = lock(&shared.reign);
    if reign.as_ref().is_some_and(|reign| reign.term == term) {
        *reign = None;
    }
    tracing::info!(term, "no longer leading");
}

async fn plan_loop(shared: &Arc<Shared>) {
    let mut alarmed: Vec<(Discriminant<Alarm>, Instant)> = Vec::new();
    loop {
        let state = shared.group.state();
        let at = shared.env.clock.wall();
        let polled = shared.with_leader(|leader, now| leader.poll_commands(now, at, &state));
        let Ok((commands, alarms)) = polled else { return };
        for alarm in alarms {
            let now = shared.env.clock.now();
            let kind = discriminant(&alarm);
            alarmed.retain(|(_, last)| now.since(*last) < ALARM_GAP);
            if alarmed.iter().all(|(known, _)| *known != kind) {
                alarmed.push((kind, now));
                raise(&alarm);
            }
        }
        if let Err(fault) = shared.propose_all(&commands).await {
            tracing::debug!(%fault, "a proposal of the leader was not agreed on");
        }
        if shared.with_leader(|leader, _| leader.waits_anew()) == Ok(true) {
            for peer in state.peers.keys() {
                nudge_peer(shared, peer.clone());
            }
        }
        shared.env.sleep(PLAN_GAP).await;
        let _ = shared.env.timeout(TICK, shared.plan.notified()).await;
    }
}

fn raise(alarm: &Alarm) {
    match alarm {
        Alarm::ReleasesHeld { heard, nodes } => tracing::warn!(
            heard,
            nodes,
            "too few nodes are heard: nothing is released, the silence may be this site's own"
        ),
        Alarm::GpusBehind { gpus } => tracing::warn!(
            gpus,
            "more GPUs are behind others of their make, or differ from them, than are taken out of \
             service: these run on"
        ),
        Alarm::DigestsDiffer { gpus } => tracing::warn!(
            gpus,
            "GPUs compute something else than others of their make, and no clear majority says who is \
             wrong: all run on; see `federation gpu ls -o json`"
        ),
        Alarm::GpusSpared { gpus } => tracing::warn!(
            gpus,
            "more GPUs turned bad than are taken out of service at once: what runs on these runs on"
        ),
    }
}

/// Keeps one asking loop for each peer.
async fn ask_loops(shared: &Arc<Shared>, term: u64) {
    let mut loops: BTreeMap<SiteId, tokio::sync::oneshot::Sender<()>> = BTreeMap::new();
    loop {
        let state = shared.group.state();
        loops.retain(|peer, _| state.peers.contains(peer));
        for peer in state
            .peers
            .keys()
            .filter(|peer| !loops.contains_key(*peer))
            .cloned()
            .collect::<Vec<_>>()
        {
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            loops.insert(peer.clone(), stop);
            let shared = shared.clone();
            let env = shared.env.clone();
            env.spawn(async move {
                tokio::select! {
                    // Ends when the sender is dropped, with the reign or with the peering.
                    _ = stopped => {}
                    () = ask_loop(&shared, term, &peer) => {}
                }
            });
        }
        shared.env.sleep(ASK_PEER).await;
    }
}

/// As a host: asks a home what it wants, again and again.
async fn ask_loop(shared: &Arc<Shared>, term: u64, peer: &SiteId) {
    let bell = shared.peer_bell(peer);
    let mut address = 0;
    loop {
        match ask_once(shared, term, peer, &mut address).await {
            Ok(true) => {}
            Ok(false) => {
                let _ = shared.env.timeout(ASK_PEER, bell.notified()).await;
            }
            Err(fault) => {
                tracing::debug!(%peer, %fault, "the peer did not answer");
                shared.env.sleep(ASK_PEER).await;
            }
        }
        shared.env.sleep(ASK_GAP).await;
    }
}

/// One question to a home. True if its orders changed something, so that it is told at once.
async fn ask_once(
    shared: &Arc<Shared>,
    term: u64,
    peer: &SiteId,
    address: &mut usize,
) -> Result<bool, Fault> {
    let state = shared.confirm().await?;
    let in_reign = |shared: &Shared| lock(&shared.reign).as_ref().is_some_and(|it| it.term == term);
    if !in_reign(shared) {
        return Err(shared.not_leader());
    }
    let Some(report) = shared.with_leader(|leader, now| leader.ask_peer(now, &state, peer))? else {
        return Ok(false);
    };
    let answer = call_peer(shared, &state, peer, address, Method::PeerReport, report.encode());
    let answer = answer.await?;
    let orders = PeerOrders::decode(&answer).map_err(|error| {
        let message = format!("orders of {peer} cannot be read: {error}");
        Fault::new(specs::fault::FaultCode::InvalidArgument, message)
    })?;
    if orders.home != *peer || !in_reign(shared) {
        return Err(shared.not_leader());
    }
    let (state, at) = (shared.group.state(), shared.env.clock.wall());
    let commands =
        shared.with_leader(|leader, now| leader.handle_peer_orders(now, at, &state, &orders))?;
    // What the home asked to be shown is shown at once.
    let is_to_show = shared.with_leader(|leader, _| leader.is_to_show(peer))?;
    let changed = !commands.is_empty() || is_to_show;
    shared.propose_all(&commands).await?;
    shared.plan.notify_one();
    Ok(changed)
}

/// A controller that another was added to replace goes as soon as that one votes.
async fn remove_replaced(shared: &Arc<Shared>, state: &State) {
    let members = shared.group.members();
    let votes = |id| members.iter().any(|it| it.id == id && it.voter && it.is_reachable());
    for new in state.controllers.values() {
        let Some(old) = new.replaces.filter(|old| state.controllers.contains(old)) else {
            continue;
        };
        if !votes(new.id) || !Without::of(&members, old).can_agree() {
            continue;
        }
        tracing::info!(%old, new = %new.id, "a controller is replaced");
        let command = Command::RemoveController(RemoveController { id: old });
        if let Err(fault) = shared.propose(command).await {
            tracing::debug!(%fault, "the replaced controller is not removed yet");
        }
    }
}

async fn member_loop(shared: &Arc<Shared>) {
    loop {
        let state = shared.group.state();
        remove_replaced(shared, &state).await;
        let wanted: BTreeMap<_, _> =
            state.controllers.values().map(|it| (it.id, it.address.clone())).collect();
        if !wanted.is_empty()
            && let Err(error) = shared.group.reconcile_members(wanted).await
        {
            tracing::debug!(%error, "the group's members could not be changed");
        }
        let _ = shared.env.timeout(RECONCILE, shared.members.notified()).await;
    }
}

/// Carries out effects, on every controller: keys only, so that losing one costs time.
pub(crate) async fn effects(shared: Arc<Shared>, mut applied: mpsc::UnboundedReceiver<Applied>) {
    while let Some(batch) = applied.recv().await {
        shared.applied.send_replace(batch.revision);
        let leads = lock(&shared.reign).is_some();
        for effect in batch.effects {
            match effect {
                Effect::SyncTrust => trust_peers(&shared),
                Effect::Plan if leads => shared.plan.notify_one(),
                Effect::SyncMembers if leads => shared.members.notify_one(),
                Effect::SyncNode(node) if leads => {
                    let agent = lock(&shared.agents).get(&node).cloned();
                    if let Some(agent) = agent {
                        shared.env.spawn(async move {
                            let _ = agent.call(Method::NodeNudge, Nudge {}.encode(), None).await;
                        });
                    }
                }
                Effect::SyncPeer(peer) if leads => {
                    shared.peer_bell(&peer).notify_one();
                    nudge_peer(&shared, peer);
                }
                Effect::Plan | Effect::SyncMembers | Effect::SyncNode(_) | Effect::SyncPeer(_) => {}
            }
        }
    }
}

fn nudge_peer(shared: &Arc<Shared>, peer: SiteId) {
    let task = shared.clone();
    shared.env.spawn(async move {
        let state = task.group.state();
        let body = PeerNudge {}.encode();
        let _ = call_peer(&task, &state, &peer, &mut 0, Method::PeerNudge, body).await;
    });
}

/// Trusts exactly the authorities that the site has agreed on.
pub(crate) fn trust_peers(shared: &Shared) {
    let state = shared.group.state();
    for peer in state.peers.values() {
        if let Err(refusal) = shared.trust.trust(&peer.site, &peer.ca.0) {
            tracing::error!(peer = %peer.site, %refusal, "the peer's authority is not usable");
        }
    }
    for site in shared.trust.sites() {
        if site != shared.site && !state.peers.contains(&site) {
            shared.trust.distrust(&site);
        }
    }
}
