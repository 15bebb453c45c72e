//! The command line as clap reads it. Doc comments here are the help texts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use specs::gpu::{Bound, BoundUnit, BurnInTier};
use specs::id::{
    AccountId, ControllerId, Country, GpuClass, GpuIndex, JobName, NodeId, RequestId, SiteId,
};
use specs::site::{LendRule, Trust};
use specs::unit::{GpuCount, Millis};

use crate::replay::ReplayCommand;
use crate::reservation::args::ReservationCommand;
use crate::signals::args::{DataCommand, LinkCommand, SignalsCommand, WeightsCommand};
use crate::simulate::SimulateArgs;

/// Run GPU jobs on a site and, when it is full, on the sites that lend to it.
#[derive(Debug, Parser)]
#[command(name = "federation", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 other; 2 usage; 3 not found; 4 not allowed; 5 conflict; 6 unplaceable;
7 unreachable or timed out, safe to repeat; 8 outcome unknown, repeat with the printed request id.
`job wait` and `job run --wait` or `--follow` end with the job's own code; 124 time ran out;
125 the job was lost, refused or cancelled; 130 Ctrl-C.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Which context of the configuration to use
    #[arg(long, global = true, env = "SPILLWAY_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Ask these controllers instead of the context's
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub(crate) server: Vec<String>,
    /// How long to try [default: 15s]; for `job wait`, how long to wait
    #[arg(long, global = true, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) timeout: Option<Millis>,
    /// List what any controller knows, however old, without asking the others
    #[arg(long, global = true)]
    pub(crate) stale: bool,
    /// The configuration [default: ~/.config/spillway/config.toml]
    #[arg(long, global = true, env = "SPILLWAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; not stable
    Table,
    /// For programs; stable
    Json,
    /// Names or ids only
    Name,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArgs {
    /// How to print
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) format: Format,
    /// Leave out a table's first line
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: two sites on this machine, jobs that spill from one to the other
    Demo(DemoArgs),
    /// Measure start-up, latency, failover and memory on two sites on this machine
    Bench(BenchArgs),
    /// Found a site: its keys, its first controller and a context for its administrator
    Init(Box<InitArgs>),
    /// Run a controller
    Serve(ServeArgs),
    /// The controllers of a site
    #[command(subcommand)]
    Controller(ControllerCommand),
    /// Write the site's state to a file, while the site goes on
    Backup(BackupArgs),
    /// Found the site's group again from a backup, when no majority of it is left
    Restore(Box<RestoreArgs>),
    /// Look for what is wrong with the controllers, and say what to do; changes nothing
    Doctor(DoctorArgs),
    /// Which versions the controllers know, and raising that of the site
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Print a one-time token with which another site joins this one
    Invite(InviteArgs),
    /// Join the site that issued a token
    Join(JoinArgs),
    /// The sites that this one knows
    #[command(subcommand)]
    Site(SiteCommand),
    /// The machines of a site
    #[command(subcommand)]
    Node(NodeCommand),
    /// The GPUs of a site, and what is known of their health
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// How many GPUs of which class each site has
    Capacity(FormatArgs),
    /// Capacity promised between sites
    #[command(subcommand)]
    Grant(ListCommand),
    /// Jobs that run at another site than their home
    #[command(subcommand)]
    Loan(ListCommand),
    /// How many GPUs organisations, projects and users may hold
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Nodes that are an account's alone for a time
    #[command(subcommand)]
    Reservation(ReservationCommand),
    /// Jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// What if: jobs of trace files on sites that you make up, with this very planner, in virtual time
    Simulate(Box<SimulateArgs>),
    /// Replay published scheduling protocols on trace files, with the published policies and ours
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Which site commands talk to
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print the completion script of a shell
    Completion { shell: Shell },
    /// Print the version
    Version(FormatArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where everything is kept [default: a directory that is removed afterwards]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave both sites running
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Jobs whose way to running is measured, at each site
    #[arg(long, default_value_t = 50)]
    pub(crate) jobs: u32,
    /// How often a leader is killed
    #[arg(long = "failovers", alias = "kills", default_value_t = 20)]
    pub(crate) kills: u32,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Where the controller listens (UDP)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Where others reach it, if not at the address above
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Where to serve metrics (HTTP)
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
    /// A directory for the controller's keys and log, not in use
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The site's name
    #[arg(long, value_name = "NAME")]
    pub(crate) site: SiteId,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Where the site stands
    #[arg(long, default_value = "DE")]
    pub(crate) country: Country,
    /// Lend up to MAX GPUs of a class, or of `all`, to peers; keep KEEP of the class free
    #[arg(long, value_parser = parse_lend, value_name = "CLASS=MAX[:KEEP]")]
    pub(crate) lend: Vec<LendRule>,
    /// Run jobs on GPUs with a proof of their health, or also on those that were declared
    #[arg(long, value_parser = parse_trust, default_value = "proven", value_name = "PROVEN|DECLARED")]
    pub(crate) trust: Trust,
    /// Write no context
    #[arg(long)]
    pub(crate) no_context: bool,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
}

/// Spans that all of a site's controllers agree on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terms")]
pub(crate) struct TermsArgs {
    /// How long a node runs on unheard [default: 15s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) node_lease: Option<Millis>,
    /// How long a peer runs a job on unheard [default: 90s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) loan_term: Option<Millis>,
    /// Silence after which a node gets nothing new [default: 5s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) suspect_node_after: Option<Millis>,
    /// Silence after which a peer gets nothing new [default: 8s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) suspect_peer_after: Option<Millis>,
    /// When an unused grant is given back [default: 30s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) grant_idle: Option<Millis>,
    /// When a silent peer's unused grant is taken back [default: 10m]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) grant_term: Option<Millis>,
    /// Give up nodes only while this share of them is heard [default: 50]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100), value_name = "PERCENT")]
    pub(crate) heard_percent_min: Option<u32>,
    /// How long a job waits for its home before it may spill [default: 0s]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) spill_after: Option<Millis>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The directory that `init` or `controller add` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Vote although the end of the log was cut off, when other controllers are lost for good;
    /// what only they and this one had acknowledged is lost
    #[arg(long)]
    pub(crate) accept_cut_log: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControllerCommand {
    /// Prepare another controller; then run it with `federation serve`
    Add {
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the controllers, and ask each how it is
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Prepare a controller that takes the place of a dead one: the old one is removed as soon as
    /// the new one has caught up and votes
    Replace {
        /// The dead controller
        id: ControllerId,
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Take a controller out of the site; refused while those left could not agree
    #[command(visible_alias = "rm")]
    Remove { id: ControllerId },
    /// Let another controller lead
    Transfer {
        /// Which one [default: the one that has most of the log]
        id: Option<ControllerId>,
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
    /// The file to write; with --stale, from any controller
    pub(crate) file: Option<PathBuf>,
    /// Take the place of a file of that name
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Verify a backup and say what is in it
    Show {
        file: PathBuf,
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A file that `federation backup` wrote
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// The directory of any controller that the site had, or of its authority: for the site's key
    #[arg(long, value_name = "DIR")]
    pub(crate) authority: PathBuf,
    /// Restore although controllers of before still run
    #[arg(long)]
    pub(crate) force: bool,
    /// Write no context
    #[arg(long)]
    pub(crate) no_context: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A controller's directory; may be given several times. Without any, the site is asked
    #[arg(long = "dir", value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Ask the site too
    #[arg(long)]
    pub(crate) online: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Ask each controller which versions it knows, and what hinders a raise
    Status(FormatArgs),
    /// Raise the site's version by one, once all controllers know it; not to be taken back
    Finalize(FormatArgs),
    /// Agree on what only a build with the feature `next` knows
    #[command(hide = true)]
    Rehearse { text: String },
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The only site that may use the token
    #[arg(long, value_name = "NAME")]
    pub(crate) peer: Option<SiteId>,
    /// How long the token is good for
    #[arg(long, value_parser = parse_span, default_value = "1h", value_name = "SPAN")]
    pub(crate) ttl: Millis,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token that `federation invite` printed at the other site; `-` reads it from stdin
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SiteCommand {
    /// List the sites
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Show one site
    Show {
        name: SiteId,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// What running at each site costs
    #[command(subcommand)]
    Signals(SignalsCommand),
    /// How this site weighs what others cost
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Data sets: where they lie and where they may be used
    #[command(subcommand)]
    Data(DataCommand),
    /// How fast data comes to peers
    #[command(subcommand)]
    Link(LinkCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Show one node
    Show {
        node: NodeId,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Start nothing more on a node; what runs there runs on
    Drain {
        node: NodeId,
        /// Use the node again
        #[arg(long)]
        undo: bool,
    },
    /// Burn GPUs in, and see what came of it
    #[command(subcommand)]
    BurnIn(BurnInCommand),
    /// Print a one-time token with which a node's agent gets its certificate
    Enroll {
        node: NodeId,
        /// How long the token is good for
        #[arg(long, value_parser = parse_span, default_value = "15m", value_name = "SPAN")]
        ttl: Millis,
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BurnInCommand {
    /// Want the GPUs of a node to be burnt in before anything runs on them again
    Start {
        node: NodeId,
        /// How much is tested: t1 to t4
        #[arg(long, default_value = "t2", value_parser = parse_tier, value_name = "TIER")]
        tier: BurnInTier,
        /// Only this GPU, by its number on the node
        #[arg(long, value_parser = parse_gpu, value_name = "N")]
        gpu: Option<GpuIndex>,
    },
    /// What is wanted, permitted and found, GPU by GPU
    Report {
        node: NodeId,
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GpuLimitsArgs {
    /// Burn-ins at once of GPUs that could run jobs meanwhile: a number, or a share of all as `2%`
    #[arg(long, value_parser = parse_bound, value_name = "N")]
    pub(crate) retests: Option<Bound>,
    /// Burn-ins at once of all other GPUs
    #[arg(long, value_parser = parse_bound, value_name = "N")]
    pub(crate) admissions: Option<Bound>,
    /// GPUs of a class that agents alone may take out of service
    #[arg(long, value_parser = parse_bound, value_name = "N")]
    pub(crate) quarantined: Option<Bound>,
    /// GPUs that agents alone may take out of service within ten minutes
    #[arg(long, value_name = "N")]
    pub(crate) quarantines: Option<u32>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GpuCommand {
    /// List the GPUs
    #[command(visible_alias = "list")]
    Ls {
        /// Those of one node
        #[arg(long)]
        node: Option<NodeId>,
        /// Those that nothing new may run on
        #[arg(long)]
        unfit: bool,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show one GPU
    Show {
        node: NodeId,
        /// Its number on the node
        #[arg(value_parser = parse_gpu)]
        index: GpuIndex,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show or set how many GPUs are tested and taken out of service at once
    Limits(GpuLimitsArgs),
    /// Start nothing more on a GPU; what runs there runs on, unless its agent found it bad
    Quarantine {
        node: NodeId,
        /// Its number on the node
        #[arg(value_parser = parse_gpu)]
        index: GpuIndex,
        /// Why, for others to read
        #[arg(long, default_value = "an operator said so", value_name = "TEXT")]
        why: String,
    },
    /// Let a GPU go that is held back; it is burnt in before anything runs on it
    Release {
        node: NodeId,
        /// Its number on the node
        #[arg(value_parser = parse_gpu)]
        index: GpuIndex,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ListCommand {
    /// List them
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// List the accounts: what each may hold, holds and held lately
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Set what an account, and all accounts below it, may hold at this site and its peers
    Set(QuotaSetArgs),
    /// Take an account's own limits away
    #[command(visible_alias = "remove")]
    Rm { account: AccountId },
}

#[derive(Debug, Args)]
pub(crate) struct QuotaSetArgs {
    /// Names with `/` between, the largest first: `acme/vision/ada`
    pub(crate) account: AccountId,
    /// The class of GPUs that is meant [default: all together]
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<GpuClass>,
    /// Never more than this
    #[arg(long, value_parser = parse_gpus, value_name = "GPUS")]
    pub(crate) max: Option<GpuCount>,
    /// Up to this much it goes before all that have their own guarantee
    #[arg(long, value_parser = parse_gpus, value_name = "GPUS")]
    pub(crate) guaranteed: Option<GpuCount>,
    /// Take the limit of that class away
    #[arg(long, conflicts_with_all = ["max", "guaranteed"])]
    pub(crate) no_limit: bool,
    /// Its share beside its siblings [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub(crate) weight: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit job files
    #[command(visible_alias = "submit")]
    Run(RunArgs),
    /// List jobs, the latest last
    #[command(visible_alias = "list")]
    Ls(JobListArgs),
    /// Show a job and its attempts
    Show {
        /// An id, the beginning of one, or a name
        job: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print what a job's task wrote
    Logs(LogsArgs),
    /// Stop a job for good
    Cancel {
        /// An id, the beginning of one, or a name
        job: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Wait until a job ends, and end as it did
    Wait {
        /// An id, the beginning of one, or a name
        job: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Say, for each site, why a job does not run there
    Why {
        /// An id, the beginning of one, or a name
        job: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print the JSON Schema of job files
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Job files, YAML or TOML; `-` reads YAML from stdin. All are read before any is submitted
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Wait until it ends, and end as it did
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print its output until it ends, and end as it did
    #[arg(long, conflicts_with = "wait")]
    pub(crate) follow: bool,
    /// Name the request, so that repeating it submits nothing twice
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<RequestId>,
    /// Call the job this instead of what the file says
    #[arg(long)]
    pub(crate) name: Option<JobName>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JobListArgs {
    /// Those that have ended too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Those that left the site's state for its archive, the last first
    #[arg(long, conflicts_with_all = ["all", "watch"])]
    pub(crate) archived: bool,
    /// Go on printing as they change
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// At most this many
    #[arg(long, default_value = "500")]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// An id, the beginning of one, or a name
    pub(crate) job: String,
    /// Go on until the job ends; through failovers and further attempts
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// What it wrote to stderr instead of stdout
    #[arg(long)]
    pub(crate) stderr: bool,
    /// Which node of the gang
    #[arg(long, default_value = "0", value_name = "N")]
    pub(crate) rank: u32,
    /// Which task on that node
    #[arg(long, default_value = "0", value_name = "N")]
    pub(crate) task: u32,
    /// Which job of an array
    #[arg(long, value_name = "N")]
    pub(crate) index: Option<u32>,
    /// Which attempt [default: the last]
    #[arg(long, value_name = "N")]
    pub(crate) epoch: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Make a context the one that commands use
    Use { name: String },
    /// Show the context in use
    Show(FormatArgs),
}

/// A span of time: `500ms`, `30s`, `5m`, `2h`, `1h30m`, `1d`.
pub(crate) fn parse_span(text: &str) -> Result<Millis, String> {
    let wrong = || "write it as `30s`, `5m` or `1h30m`".to_owned();
    let mut rest = text;
    let mut total = 0u64;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) =
            tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
        if rest.is_empty() {
            return Ok(Millis(total));
        }
    }
}

pub(crate) fn parse_gpus(text: &str) -> Result<GpuCount, String> {
    text.parse().map(GpuCount).map_err(|_| format!("`{text}` is not a number of GPUs"))
}

fn parse_tier(text: &str) -> Result<BurnInTier, String> {
    let tier = BurnInTier::ALL.iter().copied().find(|tier| tier.as_str() == text);
    let tier = tier.filter(|tier| *tier != BurnInTier::T0);
    tier.ok_or_else(|| format!("`{text}` is none of t1, t2, t3 and t4"))
}

/// A number of GPUs, or a share: `12`, `2%`.
fn parse_bound(text: &str) -> Result<Bound, String> {
    let wrong = || format!("`{text}` is neither a number of GPUs nor a share as `2%`");
    let (unit, number) = match text.strip_suffix('%') {
        Some(number) => (BoundUnit::Percent, number),
        None => (BoundUnit::Gpus, text),
    };
    let value: u32 = number.parse().map_err(|_| wrong())?;
    if unit == BoundUnit::Percent && value > 100 {
        return Err(format!("`{text}` is more than all"));
    }
    Ok(Bound { unit, value })
}

fn parse_gpu(text: &str) -> Result<GpuIndex, String> {
    text.parse().map(GpuIndex).map_err(|_| format!("`{text}` is not the number of a GPU"))
}

fn parse_trust(text: &str) -> Result<Trust, String> {
    let known = Trust::ALL.iter().copied();
    let found = known.clone().find(|it| it.as_str() == text);
    found.ok_or_else(|| {
        let names: Vec<&str> = known.map(Trust::as_str).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

/// A rule of lending: `b200=8`, `b200=8:2`, `all=16`.
fn parse_lend(text: &str) -> Result<LendRule, String> {
    let wrong = || "write it as `b200=8`, `b200=8:2` or `all=16`".to_owned();
    let (class, numbers) = text.split_once('=').ok_or_else(wrong)?;
    let (max, keep) = numbers.split_once(':').unwrap_or((numbers, "0"));
    let count = |text: &str| text.parse().map(GpuCount).map_err(|_| wrong());
    let class = match class {
        "all" => None,
        class => Some(class.parse::<GpuClass>().map_err(|error| error.to_string())?),
    };
    Ok(LendRule { to: None, class, gpus_max: count(max)?, keep_free: count(keep)? })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_span_is_a_sum_of_numbers_with_units() {
        assert_eq!(parse_span("1h30m"), Ok(Millis(5_400_000)));
        assert_eq!(parse_span("500ms"), Ok(Millis(500)));
        for wrong in ["", "5", "s", "1.5h", "1 h", "-1s", "99999999999999999999s"] {
            assert!(parse_span(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rule_of_lending_names_a_class_a_limit_and_what_stays() {
        let rule = parse_lend("b200=8:2").unwrap();
        assert_eq!((rule.gpus_max, rule.keep_free), (GpuCount(8), GpuCount(2)));
        assert_eq!(rule.class.unwrap().as_str(), "b200");
        let rule = parse_lend("all=16").unwrap();
        assert_eq!((rule.class, rule.gpus_max, rule.keep_free), (None, GpuCount(16), GpuCount(0)));
        for wrong in ["b200", "b200=x", "=1", "b200=1:", "B 200=1"] {
            assert!(parse_lend(wrong).is_err(), "{wrong:?}");
        }
    }
}
