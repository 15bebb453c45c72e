//! What a leader does at once because the state changed. All of it may be left undone: agents and
//! peers ask again by themselves.

use federation_core::Effect;
use specs::id::CallId;
use specs::wire::agent::Nudge;
use specs::wire::method::Method;
use specs::wire::peer::PeerNudge;

use crate::network::{self, Packet};
use crate::world::{CtlRef, Event, World};

impl World {
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
