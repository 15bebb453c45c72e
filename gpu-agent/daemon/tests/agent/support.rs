//! What all tests need: jobs, processes to look for, and waiting without guessing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fabric_quic::env::{Clock, Env};
use specs::codec::OrDefault;
use specs::id::{GpuIndex, JobId, JobName, NodeId, SiteId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::unit::{GpuCount, Millis};
use specs::wire::agent::{Launch, LogStream};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_gpu-agent");
/// Longer than anything may take on a busy machine.
const PATIENCE: Millis = Millis(60_000);

pub(crate) fn clock() -> Arc<dyn Clock> {
    Env::system().clock
}

/// Looks until something is there.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = clock();
    let begun = clock.now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now().since(begun) < PATIENCE, "never seen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn site() -> SiteId {
    SiteId::new("berlin").unwrap()
}

pub(crate) fn node() -> NodeId {
    NodeId::new("n01").unwrap()
}

pub(crate) fn job_id() -> JobId {
    JobId(0x0197_0000_0000_7000_8000_0000_0000_0001)
}

/// One task that runs a script.
pub(crate) fn script(text: &str) -> JobSpec {
    JobSpec {
        name: JobName::new("probe").unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: Vec::new(),
        array: 1,
        command: ["/bin/sh", "-c", text].map(String::from).into(),
        env: [].into(),
        workdir: String::new(),
        grace: Millis(10_000),
        retries: 0,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: Vec::new(), residency: Vec::new(), spill: false },
        time_limit: Millis::ZERO,
        labels: [].into(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

pub(crate) fn launch(spec: JobSpec) -> Launch {
    let gpus = u16::try_from(spec.gpus_per_node.0).unwrap();
    Launch {
        spec: Arc::new(spec),
        array_index: 3,
        gpus: (0..gpus).map(GpuIndex).collect(),
        node_rank: 0,
        master_address: "127.0.0.1".into(),
        master_port: 29_500,
        host: SiteId::new("giga").unwrap(),
    }
}

/// What a task wrote; empty if it has not yet.
pub(crate) fn output(directory: &Path, lease: &str, task: u32, stream: LogStream) -> String {
    let ending = match stream {
        LogStream::Stdout => "out",
        LogStream::Stderr => "err",
    };
    let path = directory.join(format!("attempts/{lease}/task-{task}.{ending}"));
    fs::read_to_string(path).unwrap_or_default()
}

/// The live processes whose command line or environment holds a text.
pub(crate) fn alive_with(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        is_alive(*pid) && (holds(*pid, "cmdline", text) || holds(*pid, "environ", text))
    })
    .collect()
}

fn holds(pid: i32, file: &str, text: &str) -> bool {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// An argument of `sleep` that no other process on this machine has.
pub(crate) fn unmistakable() -> String {
    let random = Env::system().random_u64() % 1_000_000_000;
    format!("100000.{random:09}")
}

pub(crate) fn directory() -> (tempfile::TempDir, PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().canonicalize().unwrap();
    (guard, path)
}
