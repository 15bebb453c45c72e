//! The processes of one attempt: the tasks, and everything that came of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process_group, pidfd_open, wait, waitpid,
};
use specs::id::LeaseId;
use specs::unit::Instant;
use specs::wire::agent::Outcome;

use super::overseer::Overseer;
use super::task::{Birth, Plan, Remark};
use crate::tree::{self, Marks};

pub(super) struct Family {
    /// Tasks that were born and have not been seen to end, with a handle that tells of their end.
    tasks: BTreeMap<i32, Option<OwnedFd>>,
    /// What comes of the starts; none once all have been heard of.
    births: Option<Receiver<Birth>>,
    /// Tells the one who starts tasks to start no more.
    enough: Arc<AtomicBool>,
    /// Tasks that are not born yet.
    unborn: usize,
    terminated: bool,
    remarks: Vec<Remark>,
    marks: Marks,
}

impl Family {
    /// Starts the tasks on a thread of its own: a program on a slow disk must not keep the
    /// deadline waiting.
    pub(super) fn start(plan: Plan, directory: &Path, lease: LeaseId) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (sender, births) = channel();
        let (flag, refusals) = (enough.clone(), sender.clone());
        let unborn = plan.tasks.len();
        let starter = thread::Builder::new().name("starter".into());
        if let Err(error) = starter.spawn(move || start(plan, &flag, &sender)) {
            let why = format!("cannot start a thread: {error}");
            // The receiver stands three lines above.
            let _ = refusals.send(Birth::Refused(why));
        }
        Self {
            tasks: BTreeMap::new(),
            births: Some(births),
            enough,
            unborn,
            terminated: false,
            remarks: Vec::new(),
            marks: Marks::of_directory(directory).and_lease(lease),
        }
    }

    /// Takes in what came of the starts.
    pub(super) fn handle_births(&mut self, now: Instant, overseer: &mut Overseer) {
        while let Some(births) = &self.births {
            match births.try_recv() {
                Ok(Birth::Born(pid)) => {
                    self.unborn = self.unborn.saturating_sub(1);
                    let handle = pidfd_open(pid, PidfdFlags::empty()).ok();
                    self.tasks.insert(pid.as_raw_pid(), handle);
                    if self.terminated {
                        let _ = kill_process_group(pid, Signal::TERM);
                    }
                }
                Ok(Birth::Stillborn(outcome, remark)) => {
                    self.remarks.push(remark);
                    overseer.handle_exit(now, outcome);
                }
                Ok(Birth::Refused(why)) => overseer.handle_refusal(now, why),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.births = None,
            }
        }
    }

    /// Sees which tasks have ended.
    pub(super) fn handle_deaths(&mut self, now: Instant, overseer: &mut Overseer) {
        let mut ended = Vec::new();
        if self.is_starting() {
            // The starter waits for a child that cannot run: only known ones are waited for here.
            let pids = self.tasks.keys().filter_map(|pid| Pid::from_raw(*pid));
            ended.extend(pids.filter_map(|pid| waitpid(Some(pid), WaitOptions::NOHANG).ok()?));
        } else {
            while let Ok(Some(child)) = wait(WaitOptions::NOHANG) {
                ended.push(child);
            }
        }
        for (pid, status) in ended {
            if self.tasks.remove(&pid.as_raw_pid()).is_some() {
                overseer.handle_exit(now, outcome(status));
            }
        }
    }

    /// True while tasks may still be born.
    pub(super) fn is_starting(&self) -> bool {
        self.births.is_some()
    }

    /// True once every task was born.
    pub(super) fn is_complete(&self) -> bool {
        self.unborn == 0
    }

    /// True once no task is there and none will be.
    pub(super) fn is_over(&self) -> bool {
        self.tasks.is_empty() && !self.is_starting()
    }

    pub(super) fn start_no_more(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// Asks the tasks, and what shares their process groups, to end.
    pub(super) fn terminate(&mut self) {
        self.terminated = true;
        for pid in self.tasks.keys().filter_map(|pid| Pid::from_raw(*pid)) {
            // It has not been waited for, so that the group is still its own.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }

    /// Kills whatever is alive: every descendant, and whoever carries the attempt's marks. False
    /// if nobody was.
    pub(super) fn kill(&self) -> bool {
        // The tasks at once, the others once they are found: after a pause of the whole machine
        // they run on as soon as this process does, and a look at `/proc` takes its time.
        for pid in self.tasks.keys().filter_map(|pid| Pid::from_raw(*pid)) {
            // It has not been waited for, so that the group is still its own.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let (all, own) = (tree::processes(), tree::own_pid());
        let mut victims = tree::alive(&tree::descendants(&BTreeSet::from([own]), &all), &all);
        if victims.is_empty() {
            let others = all.into_iter().filter(|it| it.pid != own && !it.zombie);
            victims = others.filter(|it| self.marks.match_process(it.pid)).collect();
        }
        for victim in &victims {
            tree::signal(victim, Signal::KILL);
        }
        !victims.is_empty()
    }

    /// Lets go of those who have ended.
    pub(super) fn reap(&self) {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }

    /// What tells of a task's end.
    pub(super) fn handles(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.values().flatten().map(AsFd::as_fd)
    }

    /// True if the end of each task can be waited for.
    pub(super) fn has_handles(&self) -> bool {
        self.tasks.values().all(Option::is_some)
    }

    pub(super) fn remarks(&self) -> &[Remark] {
        &self.remarks
    }
}

fn start(plan: Plan, enough: &AtomicBool, births: &Sender<Birth>) {
    for task in plan.tasks {
        if enough.load(Ordering::Relaxed) {
            return;
        }
        let birth = task.start();
        let is_refused = matches!(birth, Birth::Refused(_));
        if births.send(birth).is_err() || is_refused {
            return;
        }
    }
}

/// As a shell counts: a signal gives 128 and its number.
fn outcome(status: WaitStatus) -> Outcome {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Outcome::exited(code, 0),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Outcome::exited(128 + signal, u32::try_from(signal).unwrap_or_default())
        }
    }
}
