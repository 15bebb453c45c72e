//! Whether the demo kept what Spillway promises, judged from what jobs and controllers said. Pure.

mod gpus;

use std::collections::{BTreeMap, BTreeSet};

use specs::id::{GrantId, JobId};
use specs::wire::client::{JobState, JobView};

use super::gpus::{SeenGpu, SickGpu};
use super::jobs::{Submitted, Work};

/// Fewest jobs that must have run away from home.
const SPILLED_MIN: usize = 4;

/// One thing that was to hold.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) is_kept: bool,
    pub(super) detail: String,
}

/// A task's own word of a moment in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    is_start: bool,
    /// Hundredths of a second since the machine started.
    at: u64,
    job: String,
    epoch: u32,
    site: String,
    home: String,
    node: String,
    rank: u32,
    world: u32,
    gpus: Vec<u32>,
}

impl Stamp {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        if words.next() != Some("stamp") {
            return None;
        }
        let is_start = words.next()? == "start";
        let fields: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        let text = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let number = |name: &str| fields.get(name).and_then(|value| value.parse().ok());
        let gpus: Result<Vec<u32>, _> = text("gpus")?.split(',').map(str::parse).collect();
        Some(Self {
            is_start,
            at: fields.get("at")?.replace('.', "").parse().ok()?,
            job: text("job")?,
            epoch: number("epoch")?,
            site: text("site")?,
            home: text("home")?,
            node: text("node")?,
            rank: number("rank")?,
            world: number("world")?,
            gpus: gpus.ok()?,
        })
    }
}

/// Every stamp in a text.
fn stamps(text: &str) -> Vec<Stamp> {
    text.lines().filter_map(Stamp::parse).collect()
}

/// The most GPUs of a grant that loans drew on, and whose proofs its home had verified.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Drawn {
    pub(super) drawn: u32,
    pub(super) verified: u32,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How each job ended.
    pub(super) jobs: Vec<(Submitted, JobView)>,
    /// What each task wrote to stdout, fetched at home; the second part is the task's rank.
    pub(super) logs: BTreeMap<(JobId, u32), String>,
    /// The file that all tasks wrote to.
    pub(super) witness: String,
    /// The most GPUs that were granted to home, that loans drew on grants, and whose proofs home had
    /// verified, at one moment.
    pub(super) gpus_granted: u32,
    pub(super) gpus_drawn: u32,
    pub(super) gpus_verified: u32,
    pub(super) grants: BTreeMap<GrantId, Drawn>,
    /// Both sites' GPUs before any job was there, and after all had ended; and how many there are.
    pub(super) admitted: Vec<SeenGpu>,
    pub(super) gpus: Vec<SeenGpu>,
    pub(super) gpus_expected: usize,
    pub(super) sick: Option<SickGpu>,
    /// Loans that are left after all jobs have ended.
    pub(super) loans_left: usize,
    pub(super) home: &'static str,
    pub(super) host: &'static str,
}

impl Seen {
    pub(super) fn spilled(&self) -> Vec<&(Submitted, JobView)> {
        self.jobs.iter().filter(|(_, view)| is_away(view)).collect()
    }
}

pub(super) fn is_away(view: &JobView) -> bool {
    view.host.as_ref().is_some_and(|host| *host != view.home)
}

/// All checks, in the order in which they are told.
pub(super) fn judge(seen: &Seen) -> Vec<Check> {
    vec![
        gpus::sick_is_out(seen),
        gpus::others_are_proven(seen),
        endings(seen),
        spilled(seen),
        results(seen),
        told_at_home(seen),
        ran_once(seen),
        one_owner(seen),
        gpus::ran_on_proven(seen),
        drew_on_grants(seen),
        gpus::verified_at_home(seen),
        returned(seen),
    ]
}

fn check(name: &'static str, faults: &[String], good: String) -> Check {
    match faults {
        [] => Check { name, is_kept: true, detail: good },
        faults => Check { name, is_kept: false, detail: faults.join("; ") },
    }
}

fn endings(seen: &Seen) -> Check {
    let mut faults = Vec::new();
    for (job, view) in &seen.jobs {
        let is_good = match job.plan.work {
            Work::Serve => view.state == JobState::Cancelled,
            Work::Sum | Work::Primes | Work::Collatz => {
                view.state == JobState::Finished && view.exit_code == Some(0)
            }
        };
        if !is_good {
            let (name, state, code) = (&view.spec.name, view.state, view.exit_code);
            faults.push(format!("{name} is {state}, exit code {code:?}, {}", view.reason));
        }
    }
    let good = format!("{} jobs: all finished with 0, the service cancelled", seen.jobs.len());
    check("every job ended as it should", &faults, good)
}

fn spilled(seen: &Seen) -> Check {
    let count = seen.spilled().len();
    let elsewhere = seen.jobs.iter().filter(|(_, view)| {
        view.host
            .as_ref()
            .is_none_or(|host| host.as_str() != seen.home && host.as_str() != seen.host)
    });
    let mut faults: Vec<String> =
        elsewhere.map(|(_, view)| format!("{} ran nowhere known", view.spec.name)).collect();
    if count < SPILLED_MIN {
        faults.push(format!("only {count} of {} jobs ran at {}", seen.jobs.len(), seen.host));
    }
    let good = format!("{count} of {} jobs ran at {}", seen.jobs.len(), seen.host);
    check("jobs spilled", &faults, good)
}

/// The number that a task found.
fn result(log: &str) -> Option<u64> {
    let mut results = log.lines().filter_map(|line| line.strip_prefix("result "));
    match (results.next(), results.next()) {
        (Some(text), None) => text.trim().parse().ok(),
        (Some(_) | None, _) => None,
    }
}

fn results(seen: &Seen) -> Check {
    let mut faults = Vec::new();
    let mut tasks = 0;
    for (job, view) in &seen.jobs {
        let Some(wanted) = job.plan.work.answer(view.array_index) else { continue };
        let mut found = Some(0);
        for rank in 0..job.plan.world() {
            let log = seen.logs.get(&(job.id, rank)).map_or("", String::as_str);
            found = found.zip(result(log)).map(|(sum, part)| sum + part);
            tasks += 1;
        }
        if found != Some(wanted) {
            let name = &view.spec.name;
            faults.push(format!("{name} found {found:?} instead of {wanted}"));
        }
    }
    check(
        "every result is right",
        &faults,
        format!("{tasks} tasks, by their logs at {}", seen.home),
    )
}

/// The logs of jobs that ran away, fetched at home, are those of the attempt that counted.
fn told_at_home(seen: &Seen) -> Check {
    let mut faults = Vec::new();
    let mut logs = 0;
    for (job, view) in seen.spilled() {
        for rank in 0..job.plan.world() {
            let name = format!("{} rank {rank}", view.spec.name);
            let log = seen.logs.get(&(job.id, rank)).map_or("", String::as_str);
            let stamps = stamps(log);
            let [start, end] = stamps.as_slice() else {
                faults.push(format!("{name}: {} stamps instead of 2", stamps.len()));
                continue;
            };
            logs += 1;
            for stamp in [start, end] {
                let is_own = stamp.job == job.id.to_string()
                    && stamp.site == seen.host
                    && stamp.home == seen.home
                    && stamp.epoch == view.epoch.0
                    && (stamp.rank, stamp.world) == (rank, job.plan.world())
                    && view.nodes.iter().any(|node| node.as_str() == stamp.node);
                if !is_own {
                    faults.push(format!("{name} says {stamp:?}"));
                }
            }
        }
    }
    let good = format!("{logs} logs from {}: site, epoch and rank are right", seen.host);
    check("logs came home", &faults, good)
}

/// A task's life, from its two stamps.
struct Life {
    stamp: Stamp,
    end: u64,
}

/// Pairs the witness's stamps. A task without an end is taken to have run until the last stamp.
fn lives(witness: &[Stamp]) -> Vec<Life> {
    let last = witness.iter().map(|stamp| stamp.at).max().unwrap_or_default();
    let end_of = |start: &Stamp| {
        let end = Stamp { is_start: false, at: 0, ..start.clone() };
        witness.iter().find(|stamp| Stamp { at: 0, ..(*stamp).clone() } == end)
    };
    let starts = witness.iter().filter(|stamp| stamp.is_start);
    starts
        .map(|start| Life { stamp: start.clone(), end: end_of(start).map_or(last, |end| end.at) })
        .collect()
}

/// Each task of each job started once and ended once, in one attempt, where the home says.
fn ran_once(seen: &Seen) -> Check {
    let witness = stamps(&seen.witness);
    let mut faults = Vec::new();
    let mut tasks = 0;
    for (job, view) in &seen.jobs {
        let id = job.id.to_string();
        let own: Vec<&Stamp> = witness.iter().filter(|stamp| stamp.job == id).collect();
        let name = &view.spec.name;
        for rank in 0..job.plan.world() {
            let count = |is_start: bool| {
                let same = |stamp: &&&Stamp| stamp.rank == rank && stamp.is_start == is_start;
                own.iter().filter(same).count()
            };
            tasks += 1;
            if (count(true), count(false)) != (1, 1) {
                let (starts, ends) = (count(true), count(false));
                faults.push(format!("{name} rank {rank} started {starts}× and ended {ends}×"));
            }
        }
        let epochs: BTreeSet<u32> = own.iter().map(|stamp| stamp.epoch).collect();
        let sites: BTreeSet<&str> = own.iter().map(|stamp| stamp.site.as_str()).collect();
        let host = view.host.as_ref().map_or("", |host| host.as_str());
        if epochs.len() != 1 || sites != BTreeSet::from([host]) {
            faults.push(format!("{name} ran in attempts {epochs:?} at {sites:?}, not at {host}"));
        }
    }
    let good = format!("{tasks} tasks started once and ended once, by their own stamps");
    check("no job ran twice", &faults, good)
}

/// No GPU had two jobs at one moment.
fn one_owner(seen: &Seen) -> Check {
    let lives = lives(&stamps(&seen.witness));
    let mut of_gpu: BTreeMap<(&str, &str, u32), Vec<&Life>> = BTreeMap::new();
    for life in &lives {
        let stamp = &life.stamp;
        for gpu in &stamp.gpus {
            of_gpu.entry((stamp.site.as_str(), stamp.node.as_str(), *gpu)).or_default().push(life);
        }
    }
    let mut faults = BTreeSet::new();
    for ((site, node, gpu), users) in &mut of_gpu {
        users.sort_by_key(|life| life.stamp.at);
        for pair in users.windows(2) {
            let [first, second] = pair else { continue };
            if first.stamp.job != second.stamp.job && second.stamp.at < first.end {
                let (a, b) = (&first.stamp.job, &second.stamp.job);
                faults.insert(format!("GPU {gpu} of {node} at {site} had {a} and {b} at once"));
            }
        }
    }
    let faults: Vec<String> = faults.into_iter().collect();
    let good = format!("{} GPUs, {} uses, none at the same time", of_gpu.len(), lives.len());
    check("a GPU has one owner", &faults, good)
}

fn drew_on_grants(seen: &Seen) -> Check {
    let (granted, drawn) = (seen.gpus_granted, seen.gpus_drawn);
    let largest = seen.spilled().iter().map(|(_, view)| view.spec.gpus().0).max().unwrap_or(0);
    let mut faults = Vec::new();
    if drawn == 0 || drawn < largest {
        faults.push(format!("at most {drawn} GPUs were drawn, a spilled job had {largest}"));
    }
    if drawn > granted {
        faults.push(format!("{drawn} GPUs were drawn and only {granted} were ever granted"));
    }
    let good = format!("up to {drawn} GPUs drawn of {granted} granted by {}", seen.host);
    check("spilled jobs drew on grants", &faults, good)
}

fn returned(seen: &Seen) -> Check {
    let left = match seen.loans_left {
        0 => vec![],
        count => vec![format!("{count} loans are left")],
    };
    check("every loan came back", &left, "no loan is left".into())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use specs::gpu::{BurnInEnd, BurnInResult, BurnInTier, GpuState};
    use specs::id::{Epoch, GpuIndex, NodeId, Revision, SiteId};
    use specs::jobfile::{Format, read};
    use specs::unit::{Millis, Timestamp};
    use specs::wire::client::{GpuView, ProofView};

    use super::super::gpus::CLASS;
    use super::super::jobs::plans;
    use super::*;

    /// What is seen when all goes well: every job that may leave home runs away, one after the
    /// other, each on nodes of its own.
    pub(super) fn good() -> Seen {
        let mut seen = Seen { home: "berlin", host: "giga", ..Seen::default() };
        (seen.gpus_granted, seen.gpus_drawn, seen.gpus_verified) = (32, 16, 32);
        seen.grants.insert(GrantId(1), Drawn { drawn: 16, verified: 32 });
        for (id, plan) in (1..).zip(plans()) {
            let job = Submitted { id: JobId(id), plan };
            let is_service = plan.work == Work::Serve;
            let host = if is_service { "berlin" } else { "giga" };
            let view = view(job, host);
            for rank in 0..plan.world() {
                let node = &view.nodes[usize::try_from(rank / plan.tasks_per_node()).unwrap()];
                let stamp = |what: &str, at: u128| {
                    format!(
                        "stamp {what} at={at}.00 job={} epoch=1 site={host} home=berlin \
                         node={node} rank={rank} world={} gpus={rank}\n",
                        job.id,
                        plan.world()
                    )
                };
                let mut log = stamp("start", id * 10);
                // The first task has found it all.
                if let Some(answer) = plan.work.answer(0) {
                    writeln!(log, "result {}", if rank == 0 { answer } else { 0 }).unwrap();
                }
                log += &stamp("end", id * 10 + 5);
                seen.witness += &log;
                seen.logs.insert((job.id, rank), log);
            }
            let (nodes, site) =
                (view.nodes.clone(), if is_service { seen.home } else { seen.host });
            for (node, index) in nodes.iter().flat_map(|node| (0..8).map(move |nth| (node, nth))) {
                seen.admitted.push(gpu(site, node.as_str(), index));
            }
            seen.jobs.push((job, view));
        }
        let sick = sick_gpu();
        let (node, index) = (sick.view.node.clone(), sick.view.index);
        seen.sick = Some(SickGpu { site: sick.site, node, index });
        seen.admitted.push(sick);
        seen.gpus.clone_from(&seen.admitted);
        seen.gpus_expected = seen.gpus.len();
        seen
    }

    fn result(end: BurnInEnd) -> Option<BurnInResult> {
        Some(BurnInResult {
            number: Revision(1),
            tier: BurnInTier::T2,
            end,
            why: String::new(),
            ended_at: Timestamp(1),
            took: Millis(1),
            numbers: BTreeMap::new(),
            make: None,
            capped: false,
            digests: None,
        })
    }

    /// A GPU that is proven.
    pub(super) fn gpu(site: &'static str, node: &str, index: u16) -> SeenGpu {
        let proof = ProofView {
            tier: BurnInTier::T2,
            passed_at: Timestamp(1),
            valid_for: Millis(1),
            kernels: String::new(),
            agent: String::new(),
            baseline: String::new(),
        };
        let view = GpuView {
            node: NodeId::new(node).unwrap(),
            index: GpuIndex(index),
            class: CLASS.parse().unwrap(),
            uuid: String::new(),
            memory_mib: 0,
            state: Some(GpuState::Healthy),
            why: String::new(),
            fit: true,
            withheld: None,
            job: None,
            granted_to: None,
            proof: Some(proof),
            wanted: None,
            permitted: None,
            last: result(BurnInEnd::Passed),
            spared: false,
            reservations: vec![],
            behind: vec![],
            differs: Vec::new(),
        };
        SeenGpu { site, view }
    }

    fn sick_gpu() -> SeenGpu {
        let mut it = gpu("giga", "g05", 3);
        (it.view.fit, it.view.state) = (false, Some(GpuState::Quarantined));
        (it.view.proof, it.view.last) = (None, result(BurnInEnd::Fault));
        it
    }

    fn view(job: Submitted, host: &str) -> JobView {
        let text = job.plan.text(Path::new("/w"));
        let spec = read(&text, Format::Yaml, "job.yaml").unwrap();
        let is_service = job.plan.work == Work::Serve;
        let node = |nth| NodeId::new(&format!("{}-{nth}", job.plan.name)).unwrap();
        JobView {
            id: job.id,
            nodes: (0..spec.nodes).map(node).collect(),
            spec: spec.into(),
            array_index: 0,
            home: SiteId::new("berlin").unwrap(),
            host: Some(SiteId::new(host).unwrap()),
            state: if is_service { JobState::Cancelled } else { JobState::Finished },
            reason: String::new(),
            epoch: Epoch(1),
            exit_code: (!is_service).then_some(0),
            signal: 0,
            submitter: "admin".into(),
            submitted_at: Timestamp(1),
            started_at: Timestamp(2),
            finished_at: Timestamp(3),
            attempts: vec![],
            cancel_requested: is_service,
            remote_age: Millis::ZERO,
            archived: false,
            preemptions: 0,
            preempted: vec![],
            due: None,
            saved_at: None,
        }
    }

    /// The names of the checks that find something wrong.
    pub(super) fn broken(seen: &Seen) -> Vec<&'static str> {
        judge(seen).iter().filter(|check| !check.is_kept).map(|check| check.name).collect()
    }

    /// Changes the last job's first stamp in the witness's file.
    fn witness_with(edit: impl Fn(&str) -> String) -> Seen {
        let mut seen = good();
        let (job, _) = seen.jobs.last().unwrap();
        let id = job.id.to_string();
        let line = seen.witness.lines().find(|line| line.contains(&id)).unwrap().to_owned();
        seen.witness = seen.witness.replace(&line, &edit(&line));
        seen
    }

    #[test]
    fn nothing_is_wrong_when_all_goes_well() {
        let checks = judge(&good());
        assert!(checks.iter().all(|check| check.is_kept), "{checks:#?}");
    }

    #[test]
    fn a_second_copy_is_found_whatever_it_calls_itself() {
        let twice = witness_with(|line| format!("{line}\n{line}"));
        assert_eq!(broken(&twice), ["no job ran twice"]);
        let again = witness_with(|line| format!("{line}\n{}", line.replace("epoch=1", "epoch=2")));
        assert_eq!(broken(&again), ["no job ran twice"]);
        // Nor is there such a node.
        let away = witness_with(|line| line.replace("site=giga", "site=berlin"));
        assert_eq!(broken(&away), ["no job ran twice", "jobs ran on proven GPUs alone"]);
    }

    #[test]
    fn a_gpu_with_two_jobs_is_found() {
        let mut seen = good();
        let (job, view) = seen.jobs.last().unwrap().clone();
        let (id, node) = (job.id.to_string(), view.nodes[0].to_string());
        // The job before it, moved to the same node and time.
        let other = JobId(job.id.0 - 1).to_string();
        let lines = seen.witness.lines().map(|line| {
            let is_first = line.contains(&other) && line.contains("rank=0");
            let line = if is_first { line.replace("speech-c-0", &node) } else { line.to_owned() };
            if is_first { line.replace("at=8", "at=9") + "\n" } else { line + "\n" }
        });
        seen.witness = lines.collect();
        assert!(seen.witness.contains(&id));
        assert_eq!(broken(&seen), ["a GPU has one owner"]);
    }

    #[test]
    fn a_wrong_result_and_a_foreign_log_are_found() {
        let mut seen = good();
        let (job, _) = seen.jobs.last().unwrap();
        let log = seen.logs.get_mut(&(job.id, 0)).unwrap();
        *log = log.replace("result ", "result 1").replace("home=berlin", "home=paris");
        assert_eq!(broken(&seen), ["every result is right", "logs came home"]);
    }

    #[test]
    fn what_did_not_end_well_or_was_not_paid_for_is_found() {
        let mut seen = good();
        (seen.gpus_drawn, seen.loans_left) = (0, 1);
        seen.jobs.last_mut().unwrap().1.exit_code = Some(1);
        let wrong =
            ["every job ended as it should", "spilled jobs drew on grants", "every loan came back"];
        assert_eq!(broken(&seen), wrong);
    }
}
