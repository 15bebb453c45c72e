//! A controller as a member of its site's log: proposes, commits, applies, leads and ceases to, crashes
//! and comes back.

use std::sync::Arc;

use federation_core::{Command, Leader, State, apply};

use crate::controller::Reign;
use crate::coverage::Mark;
use crate::log::Ticket;
use crate::world::{CtlRef, Event, World};

impl World {
    /// How long the members may take at most to agree.
    pub(crate) fn round_trip(&mut self, slow: u64, usual: u64) -> u64 {
        if self.knobs.is_tight {
            1
        } else if self.chance_log.chance(self.knobs.slow_commits_permille) {
            slow
        } else {
            usual
        }
    }

    /// Puts a command to the log. Only the true leader's gets in.
    pub(crate) fn propose(&mut self, at: CtlRef, command: Command) -> Ticket {
        let ticket = self.sites[at.site].log.ticket();
        if !self.is_true_leader(at) {
            self.mark(Mark::ProposalsToNobody);
            return ticket;
        }
        let high = self.round_trip(400, 40);
        let takes = self.chance_log.range(0, high);
        let at_least = self.now.after(specs::unit::Millis(takes));
        let log = &mut self.sites[at.site].log;
        let (when, term) = (log.propose(command, ticket, at_least), log.term);
        self.schedule(when, Event::Commit { site: at.site, term });
        ticket
    }

    pub(crate) fn commit_due(&mut self, site: usize, term: u64) {
        let log = &self.sites[site].log;
        let Some(leader) = log.leader.filter(|_| log.term == term) else { return };
        let machine = self.sites[site].controllers[leader].machine;
        if self.is_suspended(machine) || !self.has_quorum(site) {
            self.schedule_in(100, Event::Commit { site, term });
            return;
        }
        let now = self.now;
        while let Some(it) = self.sites[site].log.pop_due(now) {
            self.sites[site].log.commit(it);
            self.check_commit(site);
        }
        self.apply_soon(CtlRef { site, ctl: leader });
    }

    pub(crate) fn apply_soon(&mut self, at: CtlRef) {
        let high = self.round_trip(100, 5);
        let lag = self.chance_log.range(0, high);
        let controller = self.controller_mut(at);
        let life = controller.life;
        if !core::mem::replace(&mut controller.applies, true) {
            self.schedule_in(lag, Event::Apply { at, life });
        }
    }

    pub(crate) fn apply_at(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        self.controller_mut(at).applies = false;
        let leader = self.sites[at.site].log.leader;
        if self.controller(at).leads() && leader.is_some_and(|leader| leader != at.ctl) {
            // Whoever does not hear the present leader learns of nothing that it commits.
            return;
        }
        let committed = self.sites[at.site].log.committed();
        let first = self.controller(at).applied;
        self.catch_up(at, committed);
        let entries = self.sites[at.site].log.entries[first..committed].to_vec();
        let mut effects = std::collections::BTreeSet::new();
        for entry in entries {
            effects.extend(entry.effects);
            let controller = self.controller_mut(at);
            if let Some(reign) = &mut controller.reign {
                reign.proposed.retain(|ticket| *ticket != entry.ticket);
            }
            for it in controller.requests.values_mut() {
                let before = it.tickets.len();
                it.tickets.retain(|ticket| *ticket != entry.ticket);
                if it.tickets.len() < before {
                    it.reply = Some(entry.reply.clone());
                }
            }
        }
        let waiting: Vec<u64> = self.controller(at).requests.keys().copied().collect();
        for request in waiting {
            self.progress(at, request);
        }
        if self.knobs.prompt {
            self.carry_out(at, effects.into_iter().collect());
        }
    }

    /// Applies entries up to there, and compares with what the log says of them.
    pub(crate) fn catch_up(&mut self, at: CtlRef, upto: usize) {
        let site = &mut self.sites[at.site];
        let controller = &mut site.controllers[at.ctl];
        let mut diverged = None;
        if let Some(own) = &mut controller.own {
            for (nth, entry) in
                site.log.entries.iter().enumerate().take(upto).skip(controller.applied)
            {
                let (reply, _) = apply(own, &entry.command);
                if reply != entry.reply {
                    diverged = Some(format!("entry {nth}: {reply:?}, not {:?}", entry.reply));
                }
            }
            let distance = upto / 64 > controller.applied / 64;
            if distance && own.encode() != site.log.state(upto).encode() {
                diverged = Some(format!("after entry {upto}"));
            }
        }
        controller.applied = controller.applied.max(upto);
        if let Some(detail) = diverged {
            let detail = format!("{}: {detail}", self.controller_name(at));
            self.violate("replicas are equal", detail);
        }
    }

    /// A member leads in this term, whatever it has applied by now.
    pub(crate) fn become_leader(&mut self, at: CtlRef, term: u64) {
        let now = self.clock(self.machine_of(at));
        let (retention, patience) = (self.knobs.retention, self.knobs.patience);
        let controller = self.controller_mut(at);
        controller.forget_all();
        let mut leader = Leader::new(now, term).patient(patience);
        if let Some(retention) = retention {
            leader = leader.archiving(retention);
        }
        controller.reign = Some(Reign { term, leader, proposed: vec![] });
        controller.targets.clear();
        let life = controller.life;
        self.note(|world| format!("{} leads in term {term}", world.controller_name(at)));
        let lag = if self.chance_log.chance(100) { 1_600 } else { 40 };
        let lag = self.chance_log.range(0, lag);
        self.controller_mut(at).applies = true;
        self.schedule_in(lag, Event::Apply { at, life });
        self.schedule_in(1, Event::Poll { at, life, periodic: true });
        self.schedule_in(2, Event::AskPeers { at, life });
    }

    /// It learns that it does not lead.
    pub(crate) fn become_follower(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        if self.controller_mut(at).forget_all() > 0 {
            self.mark(Mark::DeposedWithQuestions);
        }
        self.note(|world| format!("{} no longer leads", world.controller_name(at)));
    }

    /// A crash: memory is lost, the log is not.
    pub(crate) fn crash_controller(&mut self, at: CtlRef) {
        let controller = self.controller_mut(at);
        controller.forget_all();
        controller.is_up = false;
        self.note(|world| format!("{} crashes", world.controller_name(at)));
    }

    /// It starts from a snapshot and applies what followed.
    pub(crate) fn controller_returns(&mut self, at: CtlRef) {
        if self.controller(at).is_up {
            return;
        }
        let committed = self.sites[at.site].log.committed();
        let snapshot = self.chance_log.index(committed + 1);
        self.mark(Mark::SnapshotsRestored);
        match State::decode(&self.sites[at.site].log.state(snapshot).encode()) {
            Ok(state) => {
                let controller = self.controller_mut(at);
                controller.is_up = true;
                controller.applied = snapshot;
                if controller.own.is_some() {
                    controller.own = Some(state);
                }
                self.note(|world| format!("{} is back", world.controller_name(at)));
                self.catch_up(at, committed);
            }
            Err(error) => self.violate("a snapshot reads back", error.to_string()),
        }
    }

    pub(crate) fn append_directly(&mut self, site: usize, command: Command) {
        let ticket = self.sites[site].log.ticket();
        self.sites[site].log.append(Arc::new(command), ticket);
        self.check_commit(site);
    }
}
