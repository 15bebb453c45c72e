//! The demo's jobs: files as a tenant would write them. Each computes something that can be
//! checked, and says in its output and in a witness file who it is and when it ran.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use specs::fault::FaultCode;
use specs::id::JobId;

use super::cluster::Ground;
use super::gpus::CLASS;
use crate::error::{Failure, Outcome};

/// Numbers that a training gang adds up, each task its share.
const SUM_LAST: u64 = 300_000;
/// Numbers among which a simulation counts primes.
const PRIMES_SPAN: u64 = 8_000;
/// Starts among which the longest Collatz sequence is sought.
const COLLATZ_LAST: u64 = 15_000;
/// Tasks on each node of a gang.
const GANG_TASKS: u32 = 2;

/// Says who the task is. One short line appended to a file is written whole or not at all.
const STAMP: &str = r#"
      stamp() {
        line="stamp $1 at=$(cut -d' ' -f1 /proc/uptime) job=$SPILLWAY_JOB_ID epoch=$SPILLWAY_EPOCH"
        line="$line site=$SPILLWAY_SITE home=$SPILLWAY_HOME node=$SPILLWAY_NODE rank=$RANK"
        line="$line world=$WORLD_SIZE gpus=$CUDA_VISIBLE_DEVICES"
        echo "$line"; echo "$line" >> "$WITNESS"
      }"#;

/// What a job computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Each task adds up its share of the numbers.
    Sum,
    /// Each job of the array counts the primes in its own span.
    Primes,
    Collatz,
    /// Serves until it is cancelled.
    Serve,
}

impl Work {
    /// What all tasks of a job must have found together.
    pub(super) fn answer(self, array_index: u32) -> Option<u64> {
        match self {
            Self::Sum => Some(SUM_LAST * (SUM_LAST + 1) / 2),
            Self::Primes => Some(primes(u64::from(array_index))),
            Self::Collatz => Some(collatz()),
            Self::Serve => None,
        }
    }

    fn command(self) -> String {
        match self {
            Self::Sum => format!(
                r#"awk -v rank="$RANK" -v world="$WORLD_SIZE" 'BEGIN {{
        for (i = rank + 1; i <= {SUM_LAST}; i += world) sum += i
        printf "result %.0f\n", sum
      }}'"#
            ),
            Self::Primes => format!(
                r#"awk -v index0="$SPILLWAY_ARRAY_INDEX" 'BEGIN {{
        for (n = index0 * {PRIMES_SPAN} + 1; n <= (index0 + 1) * {PRIMES_SPAN}; n++) {{
          prime = n > 1
          for (d = 2; prime && d * d <= n; d++) if (n % d == 0) prime = 0
          count += prime
        }}
        printf "result %d\n", count
      }}'"#
            ),
            Self::Collatz => format!(
                r#"awk 'BEGIN {{
        for (start = 1; start <= {COLLATZ_LAST}; start++) {{
          steps = 0
          for (n = start; n != 1; n = n % 2 ? 3 * n + 1 : n / 2) steps++
          if (steps > longest) longest = steps
        }}
        printf "result %d\n", longest
      }}'"#
            ),
            Self::Serve => "trap 'stamp end; exit 0' TERM\n      stamp start\n      \
                            while :; do sleep 0.1; done"
                .into(),
        }
    }
}

fn primes(span: u64) -> u64 {
    let is_prime =
        |n: &u64| *n > 1 && (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    let numbers = span * PRIMES_SPAN + 1..=(span + 1) * PRIMES_SPAN;
    numbers.filter(is_prime).fold(0, |count, _| count + 1)
}

fn collatz() -> u64 {
    let steps = |start: u64| {
        let next = |n: &u64| (*n != 1).then(|| if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 });
        std::iter::successors(Some(start), next).skip(1).fold(0, |steps, _| steps + 1)
    };
    (1..=COLLATZ_LAST).map(steps).max().unwrap_or_default()
}

/// A job file of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobPlan {
    pub(super) name: &'static str,
    class: &'static str,
    pub(super) work: Work,
    nodes: u32,
    gpus_per_node: u32,
    array: u32,
    /// How long each task pretends to work after it has its answer.
    seconds: u32,
    may_spill: bool,
}

/// All that is submitted, in this order: more than four times what the home has.
pub(super) fn plans() -> Vec<JobPlan> {
    let gang = JobPlan {
        name: "",
        class: "training",
        work: Work::Sum,
        nodes: 1,
        gpus_per_node: 8,
        array: 1,
        seconds: 4,
        may_spill: true,
    };
    // It stays at home and takes one GPU there, so that no gang of two nodes fits beside it.
    let service = JobPlan {
        name: "fleet-api",
        class: "service",
        work: Work::Serve,
        gpus_per_node: 1,
        may_spill: false,
        ..gang
    };
    let language = JobPlan { nodes: 2, ..gang };
    vec![
        service,
        JobPlan { name: "speech-a", ..language },
        JobPlan { name: "speech-b", ..language },
        JobPlan { name: "vision-a", ..gang },
        JobPlan { name: "vision-b", ..gang },
        JobPlan {
            name: "crash-test",
            class: "simulation",
            work: Work::Primes,
            gpus_per_node: 1,
            array: 6,
            seconds: 2,
            ..gang
        },
        JobPlan { name: "protein", work: Work::Collatz, gpus_per_node: 4, seconds: 2, ..gang },
        JobPlan { name: "speech-c", ..language },
        JobPlan { name: "speech-d", ..language },
    ]
}

impl JobPlan {
    pub(super) fn tasks_per_node(&self) -> u32 {
        if self.work == Work::Sum { GANG_TASKS } else { 1 }
    }

    /// GPUs of one job.
    pub(super) fn gpus(&self) -> u32 {
        self.nodes * self.gpus_per_node
    }

    pub(super) fn world(&self) -> u32 {
        self.nodes * self.tasks_per_node()
    }

    /// The job file.
    pub(super) fn text(&self, witness: &Path) -> String {
        let Self { name, class, nodes, gpus_per_node, array, seconds, may_spill, .. } = self;
        let tasks = self.tasks_per_node();
        let command = self.work.command();
        let whole = match self.work {
            Work::Serve => command,
            Work::Sum | Work::Primes | Work::Collatz => {
                format!("stamp start\n      {command}\n      sleep {seconds}\n      stamp end")
            }
        };
        let witness = Value::from(witness.to_string_lossy());
        format!(
            "apiVersion: spillway/v1
kind: Job
metadata:
  name: {name}
  labels: {{demo: \"true\"}}
spec:
  class: {class}
  replicas: {{nodes: {nodes}, tasksPerNode: {tasks}}}
  resources: {{gpus: {{count: {gpus_per_node}, model: {CLASS}}}}}
  array: {{count: {array}}}
  run:
    command: |{STAMP}
      {whole}
    env: {{WITNESS: {witness}}}
  time: {{limit: 2m, grace: 5s}}
  placement: {{spill: {may_spill}}}
"
        )
    }
}

/// A job that was submitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitted {
    pub(super) id: JobId,
    pub(super) plan: JobPlan,
}

/// Submits all job files at a site, with the command that a tenant would use.
pub(super) async fn submit(ground: &Ground, site: &str) -> Outcome<Vec<Submitted>> {
    let mut all = Vec::new();
    for plan in plans() {
        let path = ground.dir.join("jobs").join(format!("{}.yaml", plan.name));
        let text = plan.text(&witness(ground));
        fs::write(&path, text).map_err(|error| Failure::file("write", &path, &error))?;
        let path = path.to_string_lossy();
        let said = ground.ask(&["--context", site, "job", "run", &path, "-o", "name"]).await?;
        for line in said.lines() {
            let id = line.parse().map_err(|_| {
                let message = format!("`federation job run` printed `{line}`, which is no id");
                Failure::new(FaultCode::Internal, message)
            })?;
            all.push(Submitted { id, plan });
        }
    }
    Ok(all)
}

/// Where all tasks say that they ran, whichever site ran them.
pub(super) fn witness(ground: &Ground) -> PathBuf {
    ground.dir.join("witness.txt")
}

#[cfg(test)]
mod tests {
    use specs::jobfile::{Format, read};

    use super::*;

    #[test]
    fn every_file_of_the_demo_is_a_job() {
        let mut gpus = 0;
        let mut jobs = 0;
        for plan in plans() {
            let text = plan.text(Path::new("/tmp/a b/witness"));
            let spec = read(&text, Format::Yaml, plan.name).unwrap_or_else(|it| panic!("{it}"));
            assert_eq!(spec.nodes * spec.tasks_per_node, plan.world());
            assert_eq!(spec.env["WITNESS"], "/tmp/a b/witness");
            gpus += spec.gpus().0 * spec.array;
            jobs += spec.array;
        }
        assert!(jobs >= 12, "{jobs}");
        assert!(gpus > 4 * 16, "{gpus}");
    }

    #[test]
    fn the_answers_are_those_of_the_books() {
        assert_eq!(Work::Sum.answer(0), Some(45_000_150_000));
        assert_eq!(Work::Primes.answer(0), Some(1_007));
        // 13,255 has the longest sequence below 15,000.
        assert_eq!(Work::Collatz.answer(0), Some(275));
    }
}
