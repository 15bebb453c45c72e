//! Tasks: what they are given, and starting them.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};
use rustix::process::Pid;
use specs::id::{GpuIndex, LeaseId};
use specs::unit::Timestamp;
use specs::wire::agent::{LogStream, Outcome};

use crate::attempts::Attempts;
use crate::checkpoints;
use crate::disk;
use crate::protocol::Assignment;
use crate::tree::{DIRECTORY_MARK, LEASE_MARK};

/// What tasks take over from the agent's environment; a job may set other values.
const INHERITED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];
/// Where programs are looked for if the agent has no search path.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit code of a shell whose command is not there.
const NOT_FOUND: i32 = 127;
/// Exit code of a shell whose command cannot be executed.
const NOT_EXECUTABLE: i32 = 126;

/// Everything that starting the tasks takes, opened and made beforehand.
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
}

/// One task that is ready to start.
pub(super) struct Task {
    rank: u32,
    command: Vec<String>,
    env: BTreeMap<OsString, OsString>,
    workdir: PathBuf,
    stdout: File,
    stderr: File,
}

/// What becomes of the start of a task.
pub(super) enum Birth {
    Born(Pid),
    /// As a shell would say: an exit code and a line for the task's stderr.
    Stillborn(Outcome, Remark),
    /// Nothing that the job did is at fault.
    Refused(String),
}

/// A line for the stderr of a task that could not be run.
pub(super) struct Remark {
    rank: u32,
    text: String,
}

impl Remark {
    pub(super) fn write(&self, attempts: &Attempts, lease: LeaseId) -> io::Result<()> {
        let path = attempts.output(lease, self.rank, LogStream::Stderr);
        writeln!(disk::private().append(true).open(path)?, "{}", self.text)
    }
}

/// Does all that may wait for a disk. Says why if the attempt cannot be started.
pub(super) fn prepare(attempts: &Attempts, it: &Assignment, at: Timestamp) -> Result<Plan, String> {
    let spec = &it.launch.spec;
    spec.check().map_err(|error| format!("the job breaks a rule: {error}"))?;
    attempts.create(it, at).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return format!("{} was started here before", it.lease);
        }
        format!("cannot make the attempt's directory: {error}")
    })?;
    let own = attempts.path(it.lease);
    let workdir = if spec.workdir.is_empty() { own.clone() } else { PathBuf::from(&spec.workdir) };
    if !workdir.is_dir() {
        return Err(format!("there is no directory `{}` on this node", workdir.display()));
    }
    access(&workdir, Access::EXEC_OK)
        .map_err(|error| format!("cannot enter `{}`: {error}", workdir.display()))?;
    let open = |rank, stream| {
        let path = attempts.output(it.lease, rank, stream);
        let opened = disk::private().append(true).create(true).open(&path);
        opened.map_err(|error| format!("cannot open `{}`: {error}", path.display()))
    };
    let mut tasks = Vec::new();
    for rank in 0..spec.tasks_per_node {
        tasks.push(Task {
            rank,
            command: spec.command.clone(),
            env: environment(it, &own, &attempts.checkpoint(it.lease), rank),
            workdir: workdir.clone(),
            stdout: open(rank, LogStream::Stdout)?,
            stderr: open(rank, LogStream::Stderr)?,
        });
    }
    Ok(Plan { tasks })
}

impl Task {
    /// Starts it. May take as long as the program's disk takes.
    pub(super) fn start(self) -> Birth {
        let Some((program, arguments)) = self.command.split_first() else {
            return Birth::Refused("the job names no program".into());
        };
        let spawned = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.workdir)
            .stdin(Stdio::null())
            .stdout(self.stdout)
            .stderr(self.stderr)
            .process_group(0)
            .spawn();
        let error = match spawned {
            // The supervisor waits for all its children itself.
            Ok(child) => return Birth::Born(Pid::from_child(&child)),
            Err(error) => error,
        };
        let stillborn = |code, what: &str| {
            let text = format!("spillway: {program}: {what}");
            let outcome = Outcome { detail: text.clone(), ..Outcome::exited(code, 0) };
            Birth::Stillborn(outcome, Remark { rank: self.rank, text })
        };
        if error.kind() == io::ErrorKind::NotFound {
            return stillborn(NOT_FOUND, "command not found");
        }
        if error.kind() == io::ErrorKind::PermissionDenied {
            return stillborn(NOT_EXECUTABLE, "permission denied");
        }
        if is_programs_fault(&error) {
            return stillborn(NOT_EXECUTABLE, &error.to_string());
        }
        Birth::Refused(format!("cannot start `{program}`: {error}"))
    }
}

/// True if another machine, or a later try, would say the same.
fn is_programs_fault(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let program = [
        Errno::NOEXEC,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::TOOBIG,
        Errno::LIBBAD,
    ];
    Errno::from_io_error(error).is_some_and(|errno| program.contains(&errno))
}

/// The environment of one task. What Spillway sets, a job cannot.
fn environment(
    it: &Assignment,
    own: &Path,
    checkpoint: &Path,
    local: u32,
) -> BTreeMap<OsString, OsString> {
    let (launch, spec) = (&it.launch, &it.launch.spec);
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    env.insert("PATH".into(), PATH_DEFAULT.into());
    for name in INHERITED {
        if let Some(value) = env::var_os(name) {
            env.insert(name.into(), value);
        }
    }
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    let mut set = |name: &str, value: &dyn ToString| {
        env.insert(name.into(), value.to_string().into());
    };
    let per_node = spec.tasks_per_node;
    set("RANK", &(u64::from(launch.node_rank) * u64::from(per_node) + u64::from(local)));
    set("WORLD_SIZE", &(u64::from(spec.nodes) * u64::from(per_node)));
    set("LOCAL_RANK", &local);
    set("LOCAL_WORLD_SIZE", &per_node);
    set("NODE_RANK", &launch.node_rank);
    set("MASTER_ADDR", &launch.master_address);
    set("MASTER_PORT", &launch.master_port);
    set("CUDA_VISIBLE_DEVICES", &visible(&launch.gpus, per_node, local));
    // The driver counts GPUs by their place on the bus, and so must CUDA.
    set("CUDA_DEVICE_ORDER", &"PCI_BUS_ID");
    if spec.needs.gpu_milli > 0 {
        set("SPILLWAY_GPU_MILLI", &spec.needs.gpu_milli);
    }
    set("SPILLWAY_NNODES", &spec.nodes);
    set("SPILLWAY_JOB_ID", &it.job);
    set("SPILLWAY_JOB_NAME", &spec.name);
    set("SPILLWAY_EPOCH", &it.epoch);
    set("SPILLWAY_ARRAY_INDEX", &launch.array_index);
    set("SPILLWAY_SITE", &launch.host);
    set("SPILLWAY_HOME", &it.home);
    set("SPILLWAY_NODE", &it.node);
    set(LEASE_MARK, &it.lease);
    env.insert("SPILLWAY_ATTEMPT_DIR".into(), own.into());
    env.insert(checkpoints::FILE_VARIABLE.into(), checkpoint.into());
    let agent = own.parent().and_then(Path::parent).map_or(OsStr::new(""), Path::as_os_str);
    env.insert(DIRECTORY_MARK.into(), agent.into());
    env
}

/// A task's share of the node's GPUs; all of them if they cannot be shared out evenly.
fn visible(gpus: &[GpuIndex], tasks: u32, local: u32) -> String {
    let [tasks, local] = [tasks, local].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let share = match gpus.len().checked_rem(tasks) {
        Some(0) if gpus.len() >= tasks => gpus.len() / tasks,
        _ => return list(gpus),
    };
    list(gpus.get(local * share..(local + 1) * share).unwrap_or(gpus))
}

fn list(gpus: &[GpuIndex]) -> String {
    gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(count: u16) -> Vec<GpuIndex> {
        (0..count).map(GpuIndex).collect()
    }

    #[test]
    fn gpus_are_split_evenly_or_not_at_all() {
        assert_eq!(visible(&gpus(4), 1, 0), "0,1,2,3");
        assert_eq!(visible(&gpus(4), 2, 1), "2,3");
        assert_eq!(visible(&gpus(8), 8, 7), "7");
        assert_eq!(visible(&gpus(4), 3, 1), "0,1,2,3");
        assert_eq!(visible(&gpus(1), 4, 3), "0");
        assert_eq!(visible(&[GpuIndex(5), GpuIndex(2)], 2, 1), "2");
        assert_eq!(visible(&[], 1, 0), "");
    }
}
