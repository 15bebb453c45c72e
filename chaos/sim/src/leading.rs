//! What a leader does by itself: looks around, asks its peers, and acts at once on what changed.
//! Acting at once may be left undone: agents and peers ask again by themselves.

use federation_core::Effect;
use specs::id::{CallId, SiteId};
use specs::wire::agent::Nudge;
use specs::wire::method::Method;
use specs::wire::peer::{PeerNudge, PeerOrders};

use crate::controller::Target;
use crate::coverage::Mark;
use crate::invariant::{index_follows, kept_nodes, preemption};
use crate::log::Ticket;
use crate::network::{self, MachineId, Packet};
use crate::node::MISSES_MAX;
use crate::world::{CtlRef, Event, World};

impl World {
    /// A leader's look around.
    pub(crate) fn poll_leader(&mut self, at: CtlRef, life: u64, periodic: bool) {
        if self.controller(at).life != life {
            return;
        }
        if periodic {
            let every = self.knobs.poll_every.0;
            self.schedule_in(every, Event::Poll { at, life, periodic });
        }
        let machine = self.machine_of(at);
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let is_patient = self.knobs.patient;
        let check_every = self.knobs.check_every as u64;
        let state = self.state_at(at);
        let Some(reign) = &mut self.controller_mut(at).reign else { return };
        if is_patient && !reign.proposed.is_empty() {
            return;
        }
        // What the plan goes by is what the last one left; who is in vain is dropped before it.
        let claims = preemption::claims(&reign.leader);
        let (commands, alarms) = reign.leader.poll_commands(now, wall, &state);
        let found = if state.revision.0.is_multiple_of(check_every) {
            index_follows::check(&mut reign.leader, &state)
        } else {
            Vec::new()
        };
        let kept = reign.leader.kept().is_some();
        let stolen = preemption::on_poll(&claims, &preemption::claims(&reign.leader), &commands);
        let (beside, delays) = kept_nodes::check(&reign.leader, &claims, &commands, (&state, wall));
        self.violate_all(found);
        self.violate_all(delays);
        self.violate_all(stolen);
        self.coverage.add(Mark::NodesKept, u64::from(kept));
        self.coverage.add(Mark::StartedBeside, beside);
        self.coverage.add(Mark::ReleasesHeld, alarms.len() as u64);
        let tickets: Vec<Ticket> = commands.into_iter().map(|it| self.propose(at, it)).collect();
        if let Some(reign) = &mut self.controller_mut(at).reign {
            reign.proposed = tickets;
        }
    }

    pub(crate) fn ask_peers(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        let jitter = if self.knobs.is_tight { 0 } else { self.chance.below(30) };
        let every = self.knobs.ask_peer_every.0 + jitter;
        self.schedule_in(every, Event::AskPeers { at, life });
        let peers: Vec<SiteId> = self.state_at(at).peers.keys().cloned().collect();
        for peer in peers {
            self.ask_peer(at, life, &peer);
        }
    }

    pub(crate) fn ask_peer(&mut self, at: CtlRef, life: u64, peer: &SiteId) {
        if self.controller(at).life != life {
            return;
        }
        let Some(home) = self.site_index(peer) else { return };
        let count = self.sites[home].controllers.len();
        let now = self.clock(self.machine_of(at));
        let state = self.state_at(at);
        let controller = self.controller_mut(at);
        let Some(reign) = &mut controller.reign else { return };
        let Some(mut report) = reign.leader.ask_peer(now, &state, peer) else { return };
        let target = controller.targets.entry(peer.clone()).or_default();
        target.misses += 1;
        if target.misses > MISSES_MAX {
            *target = Target { ctl: (target.ctl + 1) % count, misses: 1 };
        }
        let ctl = target.ctl;
        let from = controller.machine;
        self.spoil(&mut report);
        self.remember_question(&report);
        let to = self.machine_of(CtlRef { site: home, ctl });
        let call = CallId(self.chance.wide());
        let bytes = network::request(Method::PeerReport, call, &report);
        self.note(|world| {
            let guests: Vec<String> =
                report.guests.iter().map(|it| format!("{} {}", it.job, it.phase)).collect();
            let grants = report.grants.len();
            let asker = world.controller_name(at);
            let (question, revision) = (report.question, report.revision);
            let guests = guests.join(", ");
            format!("{asker} asks {peer} {question} at {revision}: {grants} grants; {guests}")
        });
        self.send(&Packet { from, to, call, bytes });
    }

    pub(crate) fn peer_answers(&mut self, at: CtlRef, orders: &PeerOrders) {
        let machine = self.machine_of(at);
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let state = self.state_at(at);
        self.note(|world| {
            let loans: Vec<String> = orders
                .loans
                .iter()
                .map(|it| {
                    let body = if it.body.is_some() { " with body" } else { "" };
                    format!("{} epoch {} {}{body}", it.job, it.epoch, it.want)
                })
                .collect();
            let asker = world.controller_name(at);
            let hold = if orders.hold { " hold" } else { "" };
            let (home, question) = (&orders.home, orders.question);
            let (revision, loans) = (orders.revision, loans.join(", "));
            format!("{asker} is answered {question} by {home} at {revision}{hold}: {loans}")
        });
        let controller = self.controller_mut(at);
        controller.targets.entry(orders.home.clone()).or_default().misses = 0;
        let Some(reign) = &mut controller.reign else { return };
        let commands = reign.leader.handle_peer_orders(now, wall, &state, orders);
        let is_to_show = reign.leader.is_to_show(&orders.home);
        let life = controller.life;
        for command in commands {
            self.propose(at, command);
        }
        if is_to_show && self.knobs.prompt {
            let peer = orders.home.clone();
            self.schedule_in(3, Event::AskPeer { at, life, peer });
        }
    }

    pub(crate) fn peer_refuses(&mut self, at: CtlRef, from: MachineId) {
        let home = self.sites.iter().find(|it| it.controllers.iter().any(|c| c.machine == from));
        let Some((name, count)) = home.map(|it| (it.name.clone(), it.controllers.len())) else {
            return;
        };
        let controller = self.controller_mut(at);
        let target = controller.targets.entry(name.clone()).or_default();
        *target = Target { ctl: (target.ctl + 1) % count, misses: 0 };
        let life = controller.life;
        let soon = 50 + self.chance.below(200);
        self.schedule_in(soon, Event::AskPeer { at, life, peer: name });
    }

    /// The controller of a peer that this one would ask.
    pub(crate) fn target_at(&self, at: CtlRef, peer: &SiteId) -> Option<MachineId> {
        let site = self.site_index(peer)?;
        let target = self.controller(at).targets.get(peer).copied().unwrap_or_default();
        Some(self.machine_of(CtlRef { site, ctl: target.ctl }))
    }

    pub(crate) fn carry_out(&mut self, at: CtlRef, effects: Vec<Effect>) {
        if !self.controller(at).leads() {
            return;
        }
        let life = self.controller(at).life;
        for effect in effects {
            match effect {
                Effect::Plan => self.schedule_in(3, Event::Poll { at, life, periodic: false }),
                Effect::SyncPeer(peer) => {
                    if let Some(to) = self.target_at(at, &peer) {
                        let call = CallId(self.chance.wide());
                        let bytes = network::request(Method::PeerNudge, call, &PeerNudge {});
                        self.send(&Packet { from: self.machine_of(at), to, call, bytes });
                    }
                    self.schedule_in(3, Event::AskPeer { at, life, peer });
                }
                Effect::SyncNode(id) => {
                    let node = self.sites[at.site].nodes.iter().find(|node| node.id == id);
                    let Some(to) = node.map(|node| node.machine) else { continue };
                    let call = CallId(self.chance.wide());
                    let bytes = network::request(Method::NodeNudge, call, &Nudge {});
                    let from = self.machine_of(at);
                    self.send(&Packet { from, to, call, bytes });
                }
                Effect::SyncTrust | Effect::SyncMembers => {}
            }
        }
    }
}
