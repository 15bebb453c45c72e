//! A node's supervisor: starts processes, kills them at their deadlines without the agent, writes
//! how they ended to disk. On a machine that wakes up it acts before any process executes on.

use std::sync::Arc;

use gpu_agent_core::Known;
use specs::id::{GpuIndex, LeaseId};
use specs::job::{JobClass, JobSpec};
use specs::site::{CLOCK_DRIFT_PERMILLE_MAX, KILL_BUDGET};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Ending, Launch, Outcome};

use crate::clock::Time;
use crate::coverage::Mark;
use crate::world::{Event, NodeRef, Notice, World};

/// Longer than any run.
const FOR_EVER: Millis = Millis(1 << 40);

/// What happens to a process next, if nothing comes between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Spawn,
    Exit,
    Gone(Ending),
}

#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) known: Known,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) gpus: Vec<GpuIndex>,
    deadline: Option<Instant>,
    next: Next,
    next_at: Time,
    /// Events of an earlier turn are void.
    turn: u32,
    /// What was left until `next_at` when the machine was suspended.
    frozen: Option<Millis>,
    exit_code: i32,
    runs_for: Millis,
    started_at: Timestamp,
}

impl Process {
    /// True if it was spawned and is not gone.
    fn is_alive(&self) -> bool {
        self.next != Next::Spawn
    }

    fn is_dying(&self) -> bool {
        match self.next {
            Next::Gone(Ending::Stopped) | Next::Spawn | Next::Exit => false,
            Next::Gone(Ending::Exited | Ending::Fenced | Ending::Refused | Ending::Lost) => true,
        }
    }
}

impl World {
    pub(crate) fn start_process(
        &mut self,
        at: NodeRef,
        lease: LeaseId,
        known: Known,
        launch: Launch,
        deadline: Option<Instant>,
    ) {
        let runs_for = match launch.spec.class {
            JobClass::Service => FOR_EVER,
            JobClass::Training | JobClass::Simulation | JobClass::Interactive => {
                let most = self.knobs.job_max.0;
                let is_long = self.knobs.is_spilling || self.chance.chance(500);
                Millis(if is_long {
                    self.chance.range(100, most)
                } else {
                    self.chance.skewed(100, most)
                })
            }
        };
        let exit_code = if self.chance.chance(700) {
            0
        } else {
            i32::try_from(self.chance.range(1, 250)).unwrap_or(1)
        };
        let high = if self.knobs.is_tight {
            2
        } else if self.chance.chance(50) {
            2_000
        } else {
            300
        };
        let delay = self.chance.range(1, high);
        let process = Process {
            known,
            spec: launch.spec,
            gpus: launch.gpus,
            deadline,
            next: Next::Spawn,
            next_at: self.now.after(Millis(delay)),
            turn: 0,
            frozen: None,
            exit_code,
            runs_for,
            started_at: Timestamp(0),
        };
        self.node_mut(at).processes.insert(lease, process);
        self.note(|world| format!("{} is to start {lease}", world.node_name(at)));
        self.turn_process(at, lease, Next::Spawn, Millis(delay));
    }

    /// Gives a process another future.
    fn turn_process(&mut self, at: NodeRef, lease: LeaseId, next: Next, after: Millis) {
        let next_at = self.now.after(after);
        let Some(process) = self.node_mut(at).processes.get_mut(&lease) else { return };
        process.turn += 1;
        process.next = next;
        process.next_at = next_at;
        let turn = process.turn;
        self.schedule(next_at, Event::Process { at, lease, turn });
    }

    pub(crate) fn advance_process(&mut self, at: NodeRef, lease: LeaseId, turn: u32) {
        let now = self.clock(self.node(at).machine);
        let Some(process) = self.node(at).processes.get(&lease) else { return };
        if process.turn != turn || process.frozen.is_some() {
            return;
        }
        let (next, exit_code) = (process.next, process.exit_code);
        let is_over = process.deadline.is_some_and(|deadline| deadline <= now);
        match next {
            Next::Spawn if is_over => {
                self.end_process(at, lease, Outcome::of(Ending::Fenced, "too late to start"));
            }
            Next::Spawn if self.chance.chance(self.knobs.start_fails_permille) => {
                self.end_process(at, lease, Outcome::of(Ending::Refused, "does not start"));
            }
            Next::Spawn => self.spawn_process(at, lease),
            Next::Exit => {
                self.end_process(at, lease, Outcome::exited(exit_code, 0));
            }
            Next::Gone(ending) => self.end_process(at, lease, Outcome::of(ending, "")),
        }
    }

    fn spawn_process(&mut self, at: NodeRef, lease: LeaseId) {
        let wall = self.wall(self.node(at).machine);
        let life = self.node(at).life;
        let Some(process) = self.node_mut(at).processes.get_mut(&lease) else { return };
        process.started_at = wall;
        let runs_for = process.runs_for;
        self.turn_process(at, lease, Next::Exit, runs_for);
        self.begin_executing(at, lease, true);
        self.watch_deadline(at);
        let soon = self.chance.below(5);
        let notice = Notice::Started(wall);
        self.schedule_in(soon, Event::Notice { at, life, lease, notice });
    }

    /// Looks again when the next deadline comes.
    fn watch_deadline(&mut self, at: NodeRef) {
        let node = self.node(at);
        let alive = node.processes.values().filter(|it| it.is_alive() && !it.is_dying());
        let Some(deadline) = alive.filter_map(|it| it.deadline).min() else { return };
        let when = self.machines[node.machine.0].clock.when(deadline);
        self.schedule(when, Event::Supervise(at));
    }

    pub(crate) fn supervise(&mut self, at: NodeRef) {
        let node = self.node(at);
        let now = self.clock(node.machine);
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|it| it <= now);
        let alive = node.processes.iter().filter(|(_, it)| it.is_alive() && !it.is_dying());
        let over: Vec<LeaseId> =
            alive.filter(|(_, it)| is_over(it.deadline)).map(|(lease, _)| *lease).collect();
        let is_paused = node.paused_until.is_some_and(|until| until > self.now);
        for lease in over {
            if is_paused {
                self.mark(Mark::FencedByAgentlessSupervisor);
            }
            self.fence_process(at, lease);
        }
    }

    pub(crate) fn extend_process(
        &mut self,
        at: NodeRef,
        lease: LeaseId,
        deadline: Option<Instant>,
    ) {
        let Some(process) = self.node_mut(at).processes.get_mut(&lease) else { return };
        process.deadline = deadline;
        self.watch_deadline(at);
    }

    /// Asks it to end, and kills it after its grace.
    pub(crate) fn stop_process(&mut self, at: NodeRef, lease: LeaseId) {
        let Some(process) = self.node(at).processes.get(&lease) else { return };
        if process.next == Next::Spawn {
            self.end_process(at, lease, Outcome::of(Ending::Stopped, "before it ran"));
            return;
        }
        if process.next != Next::Exit {
            return;
        }
        self.check_stopped(at, lease);
        let Some(process) = self.node(at).processes.get(&lease) else { return };
        let exit_at = process.next_at;
        let grace = process.spec.grace.0;
        let takes = if self.chance.chance(300) {
            grace + self.kill_time().0
        } else {
            self.chance.range(0, grace)
        };
        // Whoever ends by itself before that has exited, stop or no stop.
        if exit_at > self.now.after(Millis(takes)) {
            self.turn_process(at, lease, Next::Gone(Ending::Stopped), Millis(takes));
        }
    }

    fn kill_time(&mut self) -> Millis {
        // The budget on the fastest clock there may be.
        let most = KILL_BUDGET.0 * 1_000 / (1_000 + CLOCK_DRIFT_PERMILLE_MAX) - 1;
        Millis(if self.knobs.is_tight || self.chance.chance(150) {
            most
        } else {
            self.chance.skewed(0, most)
        })
    }

    /// Kills it because its deadline has passed.
    pub(crate) fn fence_process(&mut self, at: NodeRef, lease: LeaseId) {
        self.kill_process(at, lease, Ending::Fenced);
    }

    fn kill_process(&mut self, at: NodeRef, lease: LeaseId, ending: Ending) {
        let Some(process) = self.node(at).processes.get(&lease) else { return };
        if process.next == Next::Spawn {
            self.end_process(at, lease, Outcome::of(ending, "before it ran"));
            return;
        }
        if process.is_dying() {
            return;
        }
        let is_guest = process.known.home != self.sites[at.site].name;
        if ending == Ending::Fenced {
            self.mark(Mark::Fenced);
            if is_guest {
                self.mark(Mark::LoanExpiredRunning);
            }
        }
        self.note(|world| format!("{} kills {lease}: {ending}", world.node_name(at)));
        let takes = self.kill_time();
        self.turn_process(at, lease, Next::Gone(ending), takes);
    }

    /// Its agent is dead, so it must die.
    pub(crate) fn orphan_process(&mut self, at: NodeRef, lease: LeaseId) {
        self.mark(Mark::OrphansEnded);
        self.kill_process(at, lease, Ending::Lost);
    }

    /// All of it is gone.
    fn end_process(&mut self, at: NodeRef, lease: LeaseId, outcome: Outcome) {
        let wall = self.wall(self.node(at).machine);
        let Some(process) = self.node(at).processes.get(&lease).cloned() else { return };
        self.note(|world| {
            let (job, epoch, code) = (process.known.job, process.known.epoch, outcome.exit_code);
            let ending = outcome.ending;
            let node = world.node_name(at);
            format!("{node} ends {lease}: {job} epoch {epoch} {ending} {code}")
        });
        if process.is_alive() {
            self.stop_executing(at, lease, &process);
        }
        self.process_ended(at, &process.known, &outcome);
        let report = AttemptReport {
            lease,
            phase: AttemptPhase::Ended,
            outcome: Some(outcome.clone()),
            started_at: process.started_at,
            ended_at: wall,
        };
        let node = self.node_mut(at);
        node.processes.remove(&lease);
        node.durable.insert(lease, report);
        let life = node.life;
        let soon = self.chance.below(5);
        let notice = Notice::Ended(outcome, wall);
        self.schedule_in(soon, Event::Notice { at, life, lease, notice });
    }

    /// The machine stops executing; nothing of it knows.
    pub(crate) fn freeze_processes(&mut self, at: NodeRef) {
        let now = self.now;
        let alive: Vec<LeaseId> = self.node(at).processes.keys().copied().collect();
        for lease in alive {
            let Some(process) = self.node_mut(at).processes.get_mut(&lease) else { continue };
            if process.is_alive() && process.frozen.is_none() {
                process.frozen = Some(process.next_at.since(now));
                let frozen = process.clone();
                self.stop_executing(at, lease, &frozen);
            }
        }
    }

    /// The machine executes again: the supervisor first, then what is left.
    pub(crate) fn thaw_processes(&mut self, at: NodeRef) {
        let now = self.clock(self.node(at).machine);
        let leases: Vec<LeaseId> = self.node(at).processes.keys().copied().collect();
        for lease in leases {
            let Some(process) = self.node_mut(at).processes.get_mut(&lease) else { continue };
            let Some(left) = process.frozen.take() else { continue };
            let (next, dying) = (process.next, process.is_dying());
            let is_over = process.deadline.is_some_and(|deadline| deadline <= now);
            if is_over || dying {
                let ending = match next {
                    Next::Gone(ending) => ending,
                    Next::Spawn | Next::Exit => Ending::Fenced,
                };
                process.next = Next::Spawn;
                self.mark(Mark::Fenced);
                self.end_process(at, lease, Outcome::of(ending, "while the machine slept"));
                continue;
            }
            self.begin_executing(at, lease, false);
            self.turn_process(at, lease, next, left);
        }
        self.watch_deadline(at);
    }

    /// The machine loses power.
    pub(crate) fn vanish_processes(&mut self, at: NodeRef) {
        let leases: Vec<LeaseId> = self.node(at).processes.keys().copied().collect();
        for lease in leases {
            self.end_process(at, lease, Outcome::of(Ending::Lost, "the machine went down"));
        }
    }
}
