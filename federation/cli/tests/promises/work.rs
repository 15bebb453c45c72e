//! Jobs that say when they run, and what is read off that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A job whose one task beats ten times a second.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) gpus: u32,
    /// How often it beats before it ends.
    pub(crate) beats: u32,
    pub(crate) on_partition: &'static str,
    pub(crate) spill: bool,
    pub(crate) priority: u32,
    /// What it demands of proofs, as in a job file.
    pub(crate) health: Option<&'static str>,
    /// Says at each beat that it has saved its work.
    pub(crate) saves: bool,
}

/// Beats that never end.
pub(crate) const FOR_EVER: u32 = 100_000;

impl Work {
    pub(crate) fn new(name: &'static str, gpus: u32, beats: u32) -> Self {
        let (on_partition, spill, priority) = ("restart", true, 50);
        Self { name, gpus, beats, on_partition, spill, priority, health: None, saves: false }
    }

    pub(crate) fn text(&self, witness: &Path) -> String {
        let Self { name, gpus, beats, on_partition, spill, priority, health, saves } = self;
        let health = health
            .map(|it| {
                format!(
                    "  health: {it}
"
                )
            })
            .unwrap_or_default();
        let save = if *saves { "touch \"$SPILLWAY_CHECKPOINT_FILE\"" } else { ":" };
        let witness = witness.display();
        format!(
            r#"apiVersion: spillway/v1
kind: Job
metadata: {{name: {name}}}
spec:
  priority: {priority}
  resources: {{gpus: {{count: {gpus}}}}}
  run:
    command: |
      say() {{
        read -r up rest < /proc/uptime
        echo "$1 $up $SPILLWAY_JOB_ID $SPILLWAY_EPOCH $SPILLWAY_SITE" >> "$WITNESS"
      }}
      say start
      beat=0
      while [ "$beat" -lt {beats} ]; do
        beat=$((beat + 1))
        echo "line $beat"
        say beat
        {save}
        sleep 0.1
      done
      say end
    env: {{WITNESS: "{witness}"}}
  time: {{grace: 1s}}
  onPartition: {on_partition}
  placement: {{spill: {spill}}}
{health}"#
        )
    }
}

/// What one attempt said of itself; times in hundredths of a second since the machine started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) starts: u32,
    pub(crate) ends: u32,
    pub(crate) beats: u32,
    pub(crate) site: String,
}

/// What all tasks said: by job, by epoch.
pub(crate) struct Witness(BTreeMap<String, BTreeMap<u64, Attempt>>);

impl Witness {
    pub(crate) fn read(path: &Path) -> Self {
        let mut all = BTreeMap::<String, BTreeMap<u64, Attempt>>::new();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let [what, at, job, epoch, site] =
                line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let at: u64 = at.replace('.', "").parse().unwrap();
            let job = all.entry(job.to_owned()).or_default();
            let attempt = job.entry(epoch.parse().unwrap()).or_insert_with(|| Attempt {
                first: at,
                site: site.into(),
                ..Attempt::default()
            });
            attempt.first = attempt.first.min(at);
            attempt.last = attempt.last.max(at);
            match what {
                "start" => attempt.starts += 1,
                "beat" => attempt.beats += 1,
                "end" => attempt.ends += 1,
                other => panic!("a task said {other}"),
            }
        }
        Self(all)
    }

    pub(crate) fn attempt(&self, job: &str, epoch: u64) -> Option<&Attempt> {
        self.0.get(job)?.get(&epoch)
    }

    /// No attempt started twice, and none ran when a later one did.
    #[track_caller]
    pub(crate) fn has_no_two_copies(&self) {
        for (job, attempts) in &self.0 {
            for (epoch, attempt) in attempts {
                assert!(attempt.starts <= 1, "{job}, epoch {epoch} started twice: {attempts:?}");
            }
            let all: Vec<&Attempt> = attempts.values().collect();
            for pair in all.windows(2) {
                assert!(pair[0].last <= pair[1].first, "{job} ran twice at once: {attempts:?}");
            }
        }
    }
}

/// Hundredths of a second since the machine started.
pub(crate) fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split_whitespace().next().unwrap().replace('.', "").parse().unwrap()
}
