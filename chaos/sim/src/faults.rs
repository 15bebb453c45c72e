//! What goes wrong, and when. Each seed draws which kinds are on and how often; a quarter is calm.

use specs::unit::Millis;

use crate::coverage::Mark;
use crate::network::{Cut, MachineId};
use crate::world::{CtlRef, Duty, Event, NodeRef, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Between a node and some controllers of its site.
    CutNode,
    /// Between two sites.
    CutSites,
    /// The leader is deposed and does not know it for a while.
    Depose,
    CrashController,
    CrashSite,
    SuspendController,
    SuspendNode,
    /// The agent alone stands still; its processes run on.
    PauseAgent,
    CrashAgent,
    /// The machine loses power.
    Reboot,
    /// Much is lost, copied and late for a while.
    Burst,
}

impl FaultKind {
    pub(crate) const ALL: &'static [Self] = &[
        Self::CutNode,
        Self::CutSites,
        Self::Depose,
        Self::CrashController,
        Self::CrashSite,
        Self::SuspendController,
        Self::SuspendNode,
        Self::PauseAgent,
        Self::CrashAgent,
        Self::Reboot,
        Self::Burst,
    ];
}

impl World {
    /// One fault of a kind that is on, and the next one after a while.
    pub(crate) fn strike(&mut self, kind: FaultKind) {
        if self.healing {
            return;
        }
        let mean = self.knobs.fault_every(kind);
        let next = self.chance_faults.range(mean / 4, mean * 2);
        self.schedule_in(next, Event::Fault(kind));
        self.faults += 1;
        match kind {
            FaultKind::CutNode => self.cut_node(),
            FaultKind::CutSites => self.cut_sites(),
            FaultKind::Depose => {
                let site = self.some_site();
                self.depose(site);
            }
            FaultKind::CrashController => {
                let at = self.some_controller();
                let down = self.chance_faults.skewed(50, 5_000);
                self.take_down(at, down);
            }
            FaultKind::CrashSite => self.crash_site(),
            FaultKind::SuspendController => {
                let at = self.some_controller();
                let span = self.chance_faults.skewed(100, 8_000);
                self.suspend(self.machine_of(at), span);
            }
            FaultKind::SuspendNode => {
                let at = self.some_node();
                let span = self.span_of_leases();
                self.suspend(self.node(at).machine, span);
            }
            FaultKind::PauseAgent => {
                let at = self.some_node();
                let span = self.span_of_leases();
                self.mark(Mark::AgentsPaused);
                self.note(|world| format!("the agent of {} stands still", world.node_name(at)));
                let until = self.now.after(Millis(span));
                self.node_mut(at).paused_until = Some(until);
            }
            FaultKind::CrashAgent => {
                let at = self.some_node();
                let down = self.chance_faults.skewed(50, 6_000);
                self.mark(Mark::AgentsCrashed);
                self.crash_agent(at, Millis(down));
            }
            FaultKind::Reboot => self.reboot(),
            FaultKind::Burst => self.burst(),
        }
    }

    fn some_site(&mut self) -> usize {
        self.chance_faults.index(self.sites.len())
    }

    fn some_controller(&mut self) -> CtlRef {
        let site = self.some_site();
        let ctl = self.chance_faults.index(self.sites[site].controllers.len());
        // Leaders are where it hurts.
        let leader = self.sites[site].log.leader.filter(|_| self.chance_faults.chance(500));
        CtlRef { site, ctl: leader.unwrap_or(ctl) }
    }

    fn some_node(&mut self) -> NodeRef {
        let site = self.some_site();
        let node = self.chance_faults.index(self.sites[site].nodes.len());
        let at = NodeRef { site, node };
        // Likewise nodes on which something runs.
        let busy: Vec<NodeRef> = self.busy_nodes();
        if busy.is_empty() || self.chance_faults.chance(300) {
            return at;
        }
        busy[self.chance_faults.index(busy.len())]
    }

    fn busy_nodes(&self) -> Vec<NodeRef> {
        let all = self
            .sites
            .iter()
            .enumerate()
            .flat_map(|(site, it)| (0..it.nodes.len()).map(move |node| NodeRef { site, node }));
        all.filter(|at| !self.node(*at).processes.is_empty()).collect()
    }

    /// From a tenth of a second to several node leases.
    fn span_of_leases(&mut self) -> u64 {
        let most = self.knobs.terms.node_lease.0 * 4;
        self.span_up_to(most)
    }

    fn span_up_to(&mut self, most: u64) -> u64 {
        let is_long = self.chance_faults.chance(400);
        if is_long {
            self.chance_faults.range(most / 4, most)
        } else {
            self.chance_faults.skewed(100, most)
        }
    }

    fn cut(&mut self, from: u64, to: u64, span: u64) {
        let one_way = self.chance_faults.below(3);
        if one_way > 0 {
            self.mark(Mark::CutsOneWay);
        }
        let number = self.faults;
        if one_way != 1 {
            self.network.cuts.push(Cut { number, from, to });
        }
        if one_way != 2 {
            self.network.cuts.push(Cut { number, from: to, to: from });
        }
        self.schedule_in(span, Event::EndCut(number));
    }

    fn cut_node(&mut self) {
        self.mark(Mark::CutsNode);
        let at = self.some_node();
        let node = self.node(at).machine;
        let mut controllers = 0;
        let all = self.chance_faults.chance(500);
        let machines: Vec<MachineId> =
            self.sites[at.site].controllers.iter().map(|it| it.machine).collect();
        for machine in machines {
            if all || self.chance_faults.chance(700) {
                controllers |= machine.bit();
            }
        }
        let span = self.span_of_leases();
        self.note(|world| format!("a cut at {} for {span} ms", world.node_name(at)));
        self.cut(node.bit(), controllers, span);
    }

    /// The controllers of a site, as bits.
    fn controllers_of(&self, site: usize) -> u64 {
        self.sites[site].controllers.iter().fold(0, |bits, it| bits | it.machine.bit())
    }

    fn cut_sites(&mut self) {
        self.mark(Mark::CutsSite);
        let any = self.some_site();
        let one = if self.knobs.is_spilling { 0 } else { any };
        let step = 1 + self.chance_faults.index(self.sites.len() - 1);
        let other = (one + step) % self.sites.len();
        let term = self.knobs.terms.loan_term.0;
        let span = if self.knobs.is_spilling && self.chance_faults.chance(500) {
            self.chance_faults.range(term, term * 3)
        } else {
            self.span_up_to(term * 3)
        };
        let hands_off = |home: usize, host: usize| {
            let (home, host) = (self.sites[home].log.latest(), &self.sites[host]);
            let guests = host.log.latest();
            home.loans_to(&host.name).any(|(job, _)| {
                !guests.leases.values().any(|it| it.job == job.id && it.epoch == job.epoch)
            })
        };
        if hands_off(one, other) || hands_off(other, one) {
            self.mark(Mark::CutWhileHandingOff);
        }
        self.note(|world| {
            let [one, other] = [one, other].map(|site| &world.sites[site].name);
            format!("a cut between {one} and {other} for {span} ms")
        });
        self.cut(self.controllers_of(one), self.controllers_of(other), span);
    }

    /// Nobody leads until somebody is elected; the deposed one may be the last to know.
    pub(crate) fn depose(&mut self, site: usize) {
        let Some(leader) = self.sites[site].log.leader.take() else { return };
        let at = CtlRef { site, ctl: leader };
        let life = self.controller(at).life;
        let unaware = if self.chance_faults.chance(300) {
            self.chance_faults.range(2_000, 15_000)
        } else {
            self.chance_faults.skewed(1, 4_000)
        };
        self.schedule_in(unaware, Event::Aware { at, life });
        let gap = self.chance_faults.range(50, 1_000);
        self.schedule_in(gap, Event::Elect { site });
    }

    pub(crate) fn elect(&mut self, site: usize) {
        if self.sites[site].log.leader.is_some() {
            return;
        }
        let alive: Vec<usize> = (0..self.sites[site].controllers.len())
            .filter(|ctl| {
                let controller = &self.sites[site].controllers[*ctl];
                controller.is_up && !self.is_suspended(controller.machine)
            })
            .collect();
        if !self.has_quorum(site) {
            self.schedule_in(200, Event::Elect { site });
            return;
        }
        self.mark(Mark::Elections);
        let at = CtlRef { site, ctl: alive[self.chance_log.index(alive.len())] };
        let in_flight = self.sites[site].log.in_flight();
        let survivors = self.chance_log.index(in_flight + 1);
        self.coverage.add(Mark::ProposalsVanished, (in_flight - survivors) as u64);
        for it in self.sites[site].log.cut(survivors) {
            self.sites[site].log.commit(it);
            self.check_commit(site);
        }
        // Members are behind by what they had not heard of yet.
        let committed = self.sites[site].log.committed();
        let behind = if self.chance_log.chance(200) { 40 } else { 4 };
        let behind = self.chance_log.index(behind);
        self.catch_up(at, committed.saturating_sub(behind));
        let log = &mut self.sites[site].log;
        log.term += 1;
        log.leader = Some(at.ctl);
        let term = log.term;
        self.become_leader(at, term);
    }

    fn take_down(&mut self, at: CtlRef, down: u64) {
        if !self.controller(at).is_up {
            return;
        }
        self.mark(Mark::ControllersCrashed);
        if self.sites[at.site].log.leader == Some(at.ctl) {
            self.depose(at.site);
        }
        self.crash_controller(at);
        self.schedule_in(down, Event::Return(at));
    }

    fn crash_site(&mut self) {
        self.mark(Mark::SitesDark);
        let site = self.some_site();
        let down = self.chance_faults.skewed(100, self.knobs.terms.loan_term.0 * 2);
        for ctl in 0..self.sites[site].controllers.len() {
            let more = self.chance_faults.below(500);
            self.take_down(CtlRef { site, ctl }, down + more);
        }
    }

    /// The machine executes nothing for a while; its clock goes on.
    fn suspend(&mut self, machine: MachineId, span: u64) {
        if self.is_suspended(machine) {
            return;
        }
        self.mark(Mark::MachinesSuspended);
        let until = self.now.after(Millis(span));
        self.machines[machine.0].suspended_until = Some(until);
        self.schedule(until, Event::Resume(machine));
        match self.machines[machine.0].duty {
            Duty::Node(at) => {
                self.note(|world| format!("{} sleeps for {span} ms", world.node_name(at)));
                self.freeze_processes(at);
            }
            Duty::Controller(at) => {
                self.note(|world| {
                    format!("{}/c{} sleeps for {span} ms", world.sites[at.site].name, at.ctl)
                });
                if self.sites[at.site].log.leader == Some(at.ctl) && span > 500 {
                    self.depose(at.site);
                }
            }
            Duty::Client(_) => {}
        }
    }

    pub(crate) fn resume(&mut self, machine: MachineId) {
        if self.is_suspended(machine) {
            return;
        }
        self.machines[machine.0].suspended_until = None;
        if let Duty::Node(at) = self.machines[machine.0].duty {
            self.thaw_processes(at);
        }
    }

    fn reboot(&mut self) {
        self.mark(Mark::NodesRebooted);
        let at = self.some_node();
        let machine = self.node(at).machine;
        if self.is_suspended(machine) {
            return;
        }
        self.vanish_processes(at);
        let down = self.chance_faults.skewed(200, 8_000);
        self.crash_agent(at, Millis(down));
        self.machines[machine.0].clock.restart(&mut self.chance_faults);
    }

    fn burst(&mut self) {
        self.network.loss_permille = self.chance_faults.range(0, 300);
        self.network.copy_permille = self.chance_faults.range(0, 300);
        self.network.slow_permille = self.chance_faults.range(0, 300);
        let span = self.chance_faults.skewed(200, 8_000);
        self.schedule_in(span, Event::EndBurst);
    }

    /// The network as it is without bursts.
    pub(crate) fn calm_network(&mut self) {
        let usual = |permille: u64| if self.healing { 0 } else { permille };
        self.network.loss_permille = usual(self.knobs.loss_permille);
        self.network.copy_permille = usual(self.knobs.copy_permille);
        self.network.slow_permille = usual(self.knobs.slow_permille);
    }

    /// Faults stop: every machine runs, nothing is cut, everybody is back.
    pub(crate) fn end_faults(&mut self) {
        self.healing = true;
        self.network.cuts.clear();
        self.calm_network();
        self.end_sickness();
        for machine in (0..self.machines.len()).map(MachineId) {
            if self.is_suspended(machine) {
                self.machines[machine.0].suspended_until = Some(self.now);
                self.resume(machine);
            }
        }
        for site in 0..self.sites.len() {
            for node in 0..self.sites[site].nodes.len() {
                let at = NodeRef { site, node };
                self.node_mut(at).paused_until = None;
                self.schedule_in(50, Event::Rise(at));
                // What fell due while it stood still is put off until it would have gone on.
                let life = self.node(at).life;
                self.schedule_in(60, Event::Tend { at, life });
            }
            for ctl in 0..self.sites[site].controllers.len() {
                self.controller_returns(CtlRef { site, ctl });
            }
            self.schedule_in(100, Event::Elect { site });
        }
    }
}
