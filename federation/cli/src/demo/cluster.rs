//! The demo's processes: two sites on this machine, made with the same commands that an operator
//! would type.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fabric_quic::env::Env;
use federation_controller::METRICS_FILE;
use futures::future::{join_all, try_join_all};
use rustix::process::{Pid, Signal, kill_process};
use specs::fault::FaultCode;
use specs::unit::Millis;
use specs::wire::client::{ControllerViews, Empty, NodeState, NodeViews};
use specs::wire::method::Method;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::gpus::{self, Gpus};
use crate::client::Client;
use crate::error::{Failure, Outcome};

/// How long one command of the demo may take.
const COMMAND_SPAN: Millis = Millis(40_000);
/// How long a site may take to be up.
const SITE_SPAN: Millis = Millis(60_000);
/// How long a process may take to end after it was told to.
const STOP_SPAN: Millis = Millis(5_000);
/// Between two looks at something that is awaited.
pub(super) const LOOK_SPAN: Millis = Millis(100);
/// Controllers keep their port: it lies below those that systems hand out by themselves.
const PORT_FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;
const PORT_TRIES: usize = 200;
/// How much of a log an error shows.
const LOG_LINES_SHOWN: usize = 8;

/// How a site of the demo is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct SitePlan {
    pub(super) name: &'static str,
    pub(super) country: &'static str,
    pub(super) controllers: usize,
    pub(super) nodes: usize,
    pub(super) gpus_per_node: u32,
    pub(super) of_gpus: Gpus,
    /// A rule of lending; none lends nothing.
    pub(super) lend: Option<&'static str>,
}

impl SitePlan {
    pub(super) fn gpus(&self) -> u32 {
        u32::try_from(self.nodes).unwrap_or(u32::MAX).saturating_mul(self.gpus_per_node)
    }

    /// What its n-th node is called.
    pub(super) fn node(&self, nth: usize) -> String {
        format!("{}{nth:02}", self.name.get(..1).unwrap_or("n"))
    }
}

/// A process that ends with the demo unless it is let go.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) log: PathBuf,
    child: Option<Child>,
    pid: Option<u32>,
}

impl Process {
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Ends it without a word, as a crash does.
    pub(super) async fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Lives on after the demo.
    pub(super) fn let_go(&mut self) {
        self.child = None;
    }

    fn check_alive(&mut self) -> Outcome<()> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(_))) => Err(gone(self)),
            Some(Ok(None) | Err(_)) | None => Ok(()),
        }
    }

    /// Tells it to end, and ends it if it does not.
    async fn stop(&mut self, env: &Env) {
        let Some(mut child) = self.child.take() else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        if env.timeout(STOP_SPAN, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}

/// A site that is up.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) plan: SitePlan,
    pub(super) processes: Vec<Process>,
    /// Where controllers serve metrics.
    pub(super) metrics: Vec<String>,
}

/// What the demo runs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) federation: PathBuf,
    agent: PathBuf,
}

impl Programs {
    /// Finds them: this one, and what lies beside it.
    pub(super) fn find() -> Outcome<Self> {
        let federation = std::env::current_exe()
            .map_err(|error| Failure::file("find", Path::new("this program"), &error))?;
        let agent = federation.with_file_name("gpu-agent");
        if !agent.is_file() {
            return Err(not_built(&agent));
        }
        Ok(Self { federation, agent })
    }
}

/// A part of the demo that is not there.
pub(super) fn not_built(path: &Path) -> Failure {
    Failure::new(FaultCode::NotFound, format!("{} is not there", path.display()))
        .with_hint("build all of it first: cargo build --workspace")
}

/// Where the demo stands: its directory, its configuration, the programs.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) env: Env,
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    programs: Programs,
}

impl Ground {
    /// Makes the directory's parts.
    pub(super) fn new(env: &Env, dir: &Path, programs: Programs) -> Outcome<Self> {
        for part in ["logs", "jobs"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(|error| Failure::file("make", &path, &error))?;
        }
        let config = dir.join("config.toml");
        Ok(Self { env: env.clone(), dir: dir.to_owned(), config, programs })
    }

    /// Runs a `federation` command to its end, and returns what it wrote to stdout.
    pub(super) async fn ask(&self, args: &[&str]) -> Outcome<String> {
        self.tell(args, None).await
    }

    /// As [`Ground::ask`], with something on stdin: a token is a secret and no argument.
    pub(super) async fn tell(&self, args: &[&str], input: Option<&str>) -> Outcome<String> {
        let mut command = Command::new(&self.programs.federation);
        command
            .args(args)
            .env("SPILLWAY_CONFIG", &self.config)
            .env_remove("SPILLWAY_CONTEXT")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let line = format!("federation {}", args.join(" "));
        let failed = |error| Failure::file("run", &self.programs.federation, &error);
        let mut child = command.spawn().map_err(failed)?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input.as_bytes()).await.map_err(failed)?;
        }
        let ended = self.env.timeout(COMMAND_SPAN, child.wait_with_output()).await;
        let ended = ended.map_err(|_| {
            let message = format!("`{line}` took longer than {} s", COMMAND_SPAN.0 / 1_000);
            Failure::new(FaultCode::Timeout, message)
        })?;
        let output = ended.map_err(failed)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("`{line}` ended with {}:\n{}", output.status, said.trim_end());
            return Err(Failure::new(FaultCode::Internal, message));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a process that goes on. It gets a process group of its own, so that Ctrl-C reaches
    /// the demo alone, which then ends it in order.
    async fn start(
        &self,
        name: &str,
        program: &Path,
        args: &[&str],
        (surroundings, input): (&[(&str, OsString)], Option<&str>),
    ) -> Outcome<Process> {
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let failed = |error| Failure::file("start", program, &error);
        let file = File::create(&log).map_err(|error| Failure::file("write", &log, &error))?;
        let mut child = Command::new(program)
            .args(args)
            .env("SPILLWAY_CONFIG", &self.config)
            .env("NO_COLOR", "1")
            .envs(surroundings.iter().map(|(name, value)| (name, value)))
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pipe = child.stdin.take();
        let pid = child.id();
        let process = Process { name: name.to_owned(), log, child: Some(child), pid };
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            pipe.write_all(input.as_bytes()).await.map_err(failed)?;
        }
        Ok(process)
    }

    /// Founds a site, adds controllers, enrols nodes; returns when all of them are there.
    pub(super) async fn site(&self, plan: SitePlan, client: Connects<'_>) -> Outcome<Site> {
        let mut processes = Vec::new();
        let mut homes = Vec::new();
        for nth in 1..=plan.controllers {
            let home = self.controller_home(plan, nth);
            self.prepare_controller(plan, nth, &home).await?;
            processes.push(self.controller(plan, nth).await?);
            homes.push(home);
        }
        let nodes = (1..=plan.nodes).map(|nth| self.node(plan, nth));
        processes.extend(try_join_all(nodes).await?);
        let mut client = client(plan.name)?;
        self.await_site(&mut client, plan, &mut processes).await?;
        client.close().await;
        let metrics = |home: &PathBuf| {
            let address = fs::read_to_string(home.join(METRICS_FILE)).unwrap_or_default();
            format!("http://{}/metrics", address.trim())
        };
        Ok(Site { plan, metrics: homes.iter().map(metrics).collect(), processes })
    }

    fn controller_home(&self, plan: SitePlan, nth: usize) -> PathBuf {
        self.dir.join(plan.name).join(format!("controller-{nth}"))
    }

    /// Runs the n-th controller of a site, whose directory is there.
    pub(super) async fn controller(&self, plan: SitePlan, nth: usize) -> Outcome<Process> {
        let home = self.controller_home(plan, nth);
        let name = format!("{}-controller-{nth}", plan.name);
        let args = ["serve", "--dir", &home.to_string_lossy()];
        self.start(&name, &self.programs.federation, &args, (&[], None)).await
    }

    async fn prepare_controller(&self, plan: SitePlan, nth: usize, home: &Path) -> Outcome<()> {
        let listen = free_address(&self.env)?.to_string();
        let home = home.to_string_lossy();
        if nth > 1 {
            let args =
                ["--context", plan.name, "controller", "add", "--listen", &listen, "--dir", &home];
            return self.ask(&args).await.map(drop);
        }
        let mut args = vec!["init", "--site", plan.name, "--listen", &listen, "--dir", &home];
        args.extend(["--country", plan.country]);
        match plan.of_gpus {
            Gpus::Declared => args.extend(["--trust", "declared"]),
            Gpus::Emulated { .. } => {}
        }
        args.extend(plan.lend.iter().flat_map(|rule| ["--lend", rule]));
        self.ask(&args).await.map(drop)
    }

    async fn node(&self, plan: SitePlan, nth: usize) -> Outcome<Process> {
        let node = plan.node(nth);
        let token = self.ask(&["--context", plan.name, "node", "enroll", &node]).await?;
        let home = self.dir.join(plan.name).join(&node);
        let home = home.to_string_lossy();
        let mut args = vec!["run", "--token-file", "-", "--dir", &home];
        args.extend(["--address", "127.0.0.1", "--listen", "127.0.0.1:0"]);
        let has = gpus::of_node(self, plan, nth)?;
        args.extend(has.args.iter().map(String::as_str));
        let name = format!("{}-{node}", plan.name);
        self.start(&name, &self.programs.agent, &args, (&has.surroundings, Some(&token))).await
    }

    /// Waits until all controllers vote, one leads, and all nodes are ready.
    pub(super) async fn await_site(
        &self,
        client: &mut Client,
        plan: SitePlan,
        processes: &mut [Process],
    ) -> Outcome<()> {
        let limit = self.env.clock.now().after(SITE_SPAN);
        loop {
            processes.iter_mut().try_for_each(Process::check_alive)?;
            let views: ControllerViews = client.read(Method::ControllerList, &Empty {}).await?;
            let voters = views.controllers.iter().filter(|view| view.voter).count();
            let leads = views.controllers.iter().any(|view| view.leader);
            let views: NodeViews = client.read(Method::NodeList, &Empty {}).await?;
            let ready = views.nodes.iter().filter(|view| view.state == NodeState::Ready).count();
            if leads && (voters, ready) == (plan.controllers, plan.nodes) {
                return Ok(());
            }
            if self.env.clock.now() >= limit {
                let message = format!(
                    "{} is not up after {} s: {voters} of {} controllers vote, {ready} of {} \
                     nodes are ready",
                    plan.name,
                    SITE_SPAN.0 / 1_000,
                    plan.controllers,
                    plan.nodes
                );
                return Err(Failure::new(FaultCode::Timeout, message));
            }
            self.env.sleep(LOOK_SPAN).await;
        }
    }
}

/// Makes a client of a context.
pub(super) type Connects<'a> = &'a dyn Fn(&str) -> Outcome<Client>;

/// Stops the nodes, then the controllers, all of a kind at once.
pub(super) async fn stop(env: &Env, sites: &mut [Site]) {
    for of_nodes in [true, false] {
        let chosen = sites.iter_mut().flat_map(|site| {
            let controllers = site.plan.controllers;
            let nth = site.processes.iter_mut().enumerate();
            nth.filter(move |(nth, _)| (*nth >= controllers) == of_nodes)
        });
        join_all(chosen.map(|(_, process)| process.stop(env))).await;
    }
}

/// The first process that ended although nobody told it to.
pub(super) fn check_alive(sites: &mut [Site]) -> Outcome<()> {
    let mut all = sites.iter_mut().flat_map(|site| &mut site.processes);
    all.try_for_each(Process::check_alive)
}

fn gone(process: &Process) -> Failure {
    let text = fs::read_to_string(&process.log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
    let message = format!("{} ended by itself:\n{}", process.name, last.join("\n"));
    Failure::new(FaultCode::Internal, message)
}

/// A UDP port of the loopback interface that nobody has.
fn free_address(env: &Env) -> Outcome<SocketAddr> {
    for _ in 0..PORT_TRIES {
        let drawn = u16::try_from(env.random_u64() % u64::from(PORTS)).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_FIRST + drawn));
        if env.sockets.bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Failure::new(FaultCode::Busy, "no free port was found on the loopback interface"))
}
