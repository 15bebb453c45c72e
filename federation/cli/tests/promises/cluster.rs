//! Sites on this machine: a world holds them, and takes all of them down with it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Daemon, LOOK, await_some, await_that, send_all, with_environment};
use crate::work::{Witness, Work};

pub(crate) const FEDERATION: &str = env!("CARGO_BIN_EXE_federation");
/// Worlds at a time: their processes share the machine's cores.
const WORLDS_MAX: usize = 2;
/// How long what nothing disturbs may take, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

static WORLDS: Mutex<usize> = Mutex::new(0);
static WORLD_ENDED: Condvar = Condvar::new();

/// Terms so short that a test can wait for them; `PATIENCE` is longer than all of them together.
pub(crate) const SHORT_TERMS: &[&str] = &[
    "--node-lease=4s",
    "--loan-term=12s",
    "--suspect-node-after=1500ms",
    "--suspect-peer-after=2s",
];

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Checks an error's exit code, its code, and that it is said in words.
    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, code: &str) -> &Self {
        assert_eq!(self.code, exit, "{self:?}");
        assert!(self.err.contains(&format!("error[{code}]: ")), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A directory, a configuration, and the right to run processes.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) agent: PathBuf,
    files: AtomicU32,
}

impl World {
    /// Waits until another world may be.
    pub(crate) fn new() -> Self {
        let agent = Path::new(FEDERATION).with_file_name("gpu-agent");
        assert!(
            agent.is_file(),
            "{} is not there: build it with `cargo build --workspace --bins`",
            agent.display()
        );
        let count = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = WORLD_ENDED
            .wait_while(count, |count| *count >= WORLDS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        Self { dir: tempfile::tempdir().unwrap(), agent, files: AtomicU32::new(0) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub(crate) fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("SPILLWAY_CONFIG", self.config());
        for name in ["SPILLWAY_CONTEXT", "SPILLWAY_ENROL_TOKEN"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a `federation` command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.command(Path::new(FEDERATION), args).output().unwrap().into()
    }

    /// Runs an agent's command to its end.
    pub(crate) fn run_agent(&self, args: &[&str]) -> Said {
        self.command(&self.agent, args).output().unwrap().into()
    }

    pub(crate) fn witness(&self) -> Witness {
        Witness::read(&self.path("witness"))
    }

    /// A file with this text.
    pub(crate) fn file(&self, text: &str) -> String {
        let nth = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("file-{nth}.yaml"));
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn job_file(&self, work: Work) -> String {
        self.file(&work.text(&self.path("witness")))
    }

    /// Founds a site and waits until all of it is up.
    pub(crate) fn site(&self, plan: SitePlan) -> Site<'_> {
        let mut site = Site { world: self, plan, controllers: Vec::new(), agents: Vec::new() };
        for nth in 1..=plan.controllers {
            site.add_controller(nth);
        }
        for nth in 1..=plan.nodes {
            site.add_node(&format!("{}{nth}", plan.name.get(..1).unwrap()));
        }
        site.await_up();
        site
    }

    /// A home without room and a host that lends all it has, joined.
    pub(crate) fn federation(
        &self,
        controllers: usize,
        terms: &'static [&'static str],
    ) -> Pair<'_> {
        let home = self.site(SitePlan { controllers, gpus: 4, terms, ..SitePlan::small("berlin") });
        let extra = &["--lend=all=64", "--country=NL"];
        let host = self.site(SitePlan {
            controllers,
            nodes: 2,
            gpus: 4,
            extra,
            terms,
            ..SitePlan::small("giga")
        });
        home.joins(&host);
        Pair { home, host }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let marked = || with_environment(&[self.dir.path().to_str().unwrap_or("?")]);
        let begun = Instant::now();
        // Supervisors whose agent is gone end by themselves; what is stopped must be woken.
        while begun.elapsed() < Duration::from_secs(5) && !marked().is_empty() {
            send_all(&marked(), Signal::CONT);
            thread::sleep(LOOK);
        }
        let left = marked();
        send_all(&left, Signal::KILL);
        *WORLDS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        WORLD_ENDED.notify_all();
        assert!(thread::panicking() || left.is_empty(), "processes outlived their agent: {left:?}");
    }
}

/// How a site is made.
#[derive(Clone, Copy)]
pub(crate) struct SitePlan {
    pub(crate) name: &'static str,
    pub(crate) controllers: usize,
    pub(crate) nodes: usize,
    /// Of each node.
    pub(crate) gpus: u32,
    /// The nodes stand in so many racks, dealt out one after the other; nowhere if zero.
    pub(crate) racks: usize,
    pub(crate) extra: &'static [&'static str],
    pub(crate) terms: &'static [&'static str],
}

impl SitePlan {
    pub(crate) fn small(name: &'static str) -> Self {
        Self { name, controllers: 1, nodes: 1, gpus: 2, racks: 0, extra: &[], terms: &[] }
    }
}

/// A controller and where it is.
pub(crate) struct Controller {
    pub(crate) daemon: Daemon,
    pub(crate) address: String,
    pub(crate) dir: String,
}

pub(crate) struct Site<'w> {
    pub(crate) world: &'w World,
    plan: SitePlan,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) agents: Vec<Daemon>,
}

pub(crate) struct Pair<'w> {
    pub(crate) home: Site<'w>,
    pub(crate) host: Site<'w>,
}

impl Site<'_> {
    fn add_controller(&mut self, nth: usize) {
        let (world, name) = (self.world, self.plan.name);
        let (address, dir) = (free_address(), world.text(&format!("{name}-controller-{nth}")));
        let rest = ["--listen", &address, "--dir", &dir];
        if nth == 1 {
            let is_said = self.plan.extra.iter().any(|it| it.starts_with("--trust="));
            let trust: &[&str] = if is_said { &[] } else { &["--trust=declared"] };
            let args =
                [&["init", "--site", name], &rest[..], trust, self.plan.extra, self.plan.terms];
            world.run(&args.concat()).done();
        } else {
            self.run(&[&["controller", "add"], &rest[..]].concat()).done();
        }
        let args = ["serve", "--dir", &dir];
        let log = format!("{name}-controller-{nth}");
        let mut daemon = Daemon::new(&log, Path::new(FEDERATION), &args, &world.config());
        daemon.start();
        self.controllers.push(Controller { daemon, address, dir });
        if nth == 1 {
            await_that("the first controller leads", PATIENCE, || self.leader().is_some());
        }
    }

    pub(crate) fn agent_of(&self, node: &str) -> Daemon {
        let dir = self.world.text(node);
        let gpus = format!("b200:{}", self.plan.gpus);
        let args = ["run", "--dir", &dir, "--declare", &gpus];
        let args = [&args[..], &["--address", "127.0.0.1", "--listen", "127.0.0.1:0"]].concat();
        Daemon::new(&format!("agent-{node}"), &self.world.agent, &args, &self.world.config())
    }

    fn add_node(&mut self, node: &str) {
        let token = self.run(&["node", "enroll", node]).done();
        let file = self.world.file(&token);
        let mut agent = self.agent_of(node);
        let place = self.plan.racks.checked_sub(1).map(|_| {
            let rack = self.agents.len() % self.plan.racks;
            format!("--topology=hall=h1,rack=r{rack}")
        });
        let args: Vec<&str> = place.iter().map(String::as_str).collect();
        agent.start_with(&[&["--token-file", &file], &args[..]].concat());
        self.agents.push(agent);
    }

    /// Waits until all controllers vote, one leads, and all nodes are ready.
    pub(crate) fn await_up(&self) {
        await_that(&format!("{} is up", self.plan.name), PATIENCE, || {
            let controllers = self.list(&["controller", "ls"]);
            let voters = controllers.iter().filter(|it| it["voter"] == true).count();
            let nodes = self.list(&["node", "ls"]);
            let ready = nodes.iter().filter(|it| it["state"] == "ready").count();
            (voters, ready) == (self.plan.controllers, self.plan.nodes) && self.leader().is_some()
        });
    }

    /// Runs a `federation` command at this site.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.world.run(&[&["--context", self.plan.name], args].concat())
    }

    /// The document that a command prints.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["-o", "json"]].concat()).done();
        serde_json::from_str(&out).unwrap()
    }

    /// What a command lists; nothing while nobody answers.
    pub(crate) fn list(&self, args: &[&str]) -> Vec<Value> {
        let said = self.run(&[args, &["-o", "json", "--timeout", "5s"]].concat());
        let document: Value = serde_json::from_str(&said.out).unwrap_or_default();
        document["items"].as_array().cloned().unwrap_or_default()
    }

    /// Which of the controllers leads, as far as one that is asked knows.
    pub(crate) fn leader(&self) -> Option<usize> {
        let listed = self.list(&["controller", "ls"]);
        let leader = listed.iter().find(|it| it["leader"] == true)?;
        self.controllers.iter().position(|it| leader["address"] == it.address.as_str())
    }

    pub(crate) fn kill_leader(&mut self) -> usize {
        let leader = await_some("one leads", PATIENCE, || self.leader());
        self.controllers[leader].daemon.kill();
        leader
    }

    pub(crate) fn kill_controllers(&mut self) {
        self.controllers.iter_mut().for_each(|it| it.daemon.kill());
    }

    pub(crate) fn start_controllers(&mut self) {
        self.controllers.iter_mut().for_each(|it| it.daemon.start());
    }

    /// Submits a job; its id.
    #[track_caller]
    pub(crate) fn submit(&self, work: Work) -> String {
        let file = self.world.job_file(work);
        self.run(&["job", "run", &file, "-o", "name"]).done().trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn job(&self, id: &str) -> Value {
        self.json(&["job", "show", id])
    }

    #[track_caller]
    pub(crate) fn await_state(&self, id: &str, state: &str, limit: Duration) -> Value {
        let what = format!("{id} is {state}");
        await_some(&what, limit, || Some(self.job(id)).filter(|job| job["state"] == state))
    }

    /// Waits until an attempt of a job has said that it runs.
    #[track_caller]
    pub(crate) fn await_running(&self, id: &str, epoch: u64, limit: Duration) {
        let what = format!("{id} runs with epoch {epoch}");
        await_that(&what, limit, || {
            self.world.witness().attempt(id, epoch).is_some_and(|it| it.beats > 0)
        });
        self.await_state(id, "running", limit);
    }

    /// Checks that a job ended with 0 in its first attempt.
    #[track_caller]
    pub(crate) fn ended_at_once(&self, id: &str) {
        let job = self.await_state(id, "finished", PATIENCE);
        assert_eq!((&job["exit_code"], &job["epoch"]), (&0.into(), &1.into()), "{job}");
        assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job}");
    }

    pub(crate) fn joins(&self, inviter: &Site<'_>) {
        let token = inviter.run(&["invite"]).done();
        self.run(&["join", token.trim()]).done();
    }
}

impl Pair<'_> {
    /// Fills the home, so that what comes next spills; the id of the job that does.
    pub(crate) fn fill_home(&self) -> String {
        let filler = Work { spill: false, ..Work::new("filler", 4, crate::work::FOR_EVER) };
        let id = self.home.submit(filler);
        self.home.await_running(&id, 1, PATIENCE);
        id
    }

    /// Submits jobs at the home that run at the host; returns when they do.
    #[track_caller]
    pub(crate) fn spill(&self, works: &[Work]) -> Vec<String> {
        let ids: Vec<String> = works.iter().map(|work| self.home.submit(*work)).collect();
        for id in &ids {
            self.home.await_running(id, 1, PATIENCE);
            let job = self.home.job(id);
            assert_eq!(job["host"], "giga", "{job}");
        }
        ids
    }
}

/// An address of the loopback interface that nobody has. It lies below the ports that systems
/// hand out by themselves, so that it stays free while its controller is down.
pub(crate) fn free_address() -> String {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let base = u16::try_from(std::process::id() % 300).unwrap() * 40;
    loop {
        let port = 20_000 + (base + *next) % 12_000;
        *next += 1;
        let address = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}
