//! Durable submissions of a site with three controllers against durable writes of an etcd with
//! three members: the same machine, the same disk, the same run, one after the other in turns.
//!
//! ```text
//!   cargo bench -p federation-controller --bench against_etcd
//!
//!   for each round, for each number of clients:   load etcd for a span, then load the site
//!   a ratio compares neighbours in time; what is printed last is the median over the rounds
//! ```
//!
//! The site is three processes of this very program, each running the whole controller: QUIC with
//! mutual TLS, the log with fsync, the real state. Jobs are of 256 bytes, each a new one. etcd runs
//! with its defaults (fsync, no TLS) and is written 256-byte values, 16 keys a client. Clients are
//! tasks in a closed loop, over at most 8 connections to the leader.
//!
//! `SECONDS` (3), `ROUNDS` (5) and `CLIENTS` (1,64,1024) change the run. `ETCD` names the program.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it found")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

mod etcd;
mod load;
mod measure;
mod site;

use std::env;
use std::time::Duration;

use load::{Cell, Target};

/// As the `federation` command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some(site::SERVE) {
        return site::serve(args.next().unwrap().as_ref());
    }
    let Some(program) = etcd::program() else {
        println!("skipped: there is no etcd; install the Debian package etcd-server");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(run(&program)));
}

async fn run(program: &str) {
    let span = Duration::from_secs(number("SECONDS", 3));
    let rounds = number("ROUNDS", 5);
    let clients = env::var("CLIENTS").unwrap_or_else(|_| "1,64,1024".to_owned());
    let clients: Vec<usize> = clients.split(',').map(|text| text.parse().unwrap()).collect();
    let root = tempfile::tempdir_in(measure::target_directory()).unwrap();
    let etcd = etcd::Cluster::start(program, &root.path().join("etcd")).await;
    let site = site::Cluster::start(&root.path().join("site")).await;
    println!("etcd {}; 3 members each; {rounds} rounds of {span:?} a cell", etcd.version);
    println!("{}", Cell::HEAD);
    let mut found: Vec<(usize, Cell, Cell)> = Vec::new();
    for round in 1..=rounds {
        for &clients in &clients {
            let theirs = load::quiet(&Target::Etcd(&etcd), clients, span).await;
            println!("{}", theirs.row(round, "etcd", clients));
            let ours = load::quiet(&Target::Site(&site), clients, span).await;
            println!("{}", ours.row(round, "site", clients));
            found.push((clients, theirs, ours));
        }
    }
    println!();
    for &clients in &clients {
        let cells: Vec<_> = found.iter().filter(|(of, ..)| *of == clients).collect();
        let ratio = |figure: fn(&Cell) -> f64| {
            let ratios = cells.iter().map(|(_, theirs, ours)| figure(ours) / figure(theirs));
            measure::median(ratios.collect())
        };
        println!(
            "clients={clients} ops_ratio={:.2} p99_ratio={:.2} cpu_ratio={:.2}",
            ratio(Cell::ops_per_second),
            ratio(Cell::p99_micros),
            ratio(Cell::cpu_micros_per_op),
        );
    }
}
