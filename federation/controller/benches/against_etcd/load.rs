//! Clients in a closed loop, and what came of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::measure::{busy, cpu_of};
use crate::{etcd, site};

/// Connections are shared by more clients than this.
const CONNECTIONS_MAX: usize = 8;
/// A cell is measured again when other programs used more than this share of the processors.
const OTHERS_MAX: f64 = 0.22;
const TRIES: usize = 3;
/// Before a cell counts, so that connections are up and batches are formed.
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) enum Target<'a> {
    Etcd(&'a etcd::Cluster),
    Site(&'a site::Cluster),
}

/// One system under one load for one span.
pub(crate) struct Cell {
    latencies: Histogram<u64>,
    span: Duration,
    server_cpu: Duration,
    client_cpu: Duration,
    /// Share of the processors that neither servers nor clients used.
    others: f64,
}

impl Cell {
    pub(crate) const HEAD: &'static str = "round system clients    ops/s  p50_us  p99_us  \
                                           server_cpu_us/op  client_cpu_us/op  other_load";

    pub(crate) fn ops_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.span.as_secs_f64()
    }

    pub(crate) fn p99_micros(&self) -> f64 {
        self.latencies.value_at_quantile(0.99) as f64
    }

    pub(crate) fn cpu_micros_per_op(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    pub(crate) fn row(&self, round: u64, system: &str, clients: usize) -> String {
        format!(
            "{round:5} {system:6} {clients:7} {:8.0} {:7} {:7.0} {:17.1} {:17.1} {:10.0}%",
            self.ops_per_second(),
            self.latencies.value_at_quantile(0.5),
            self.p99_micros(),
            self.cpu_micros_per_op(),
            self.client_cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64,
            self.others * 100.0,
        )
    }
}

/// The quietest of a few measurements of a cell, the first that is quiet enough.
pub(crate) async fn quiet(target: &Target<'_>, clients: usize, span: Duration) -> Cell {
    let mut best: Option<Cell> = None;
    for _ in 0..TRIES {
        let Some(cell) = Box::pin(cell(target, clients, span)).await else { continue };
        if best.as_ref().is_none_or(|best| cell.others < best.others) {
            best = Some(cell);
        }
        if best.as_ref().is_some_and(|best| best.others <= OTHERS_MAX) {
            break;
        }
    }
    best.expect("a cell without a refusal")
}

/// None if a write was refused: a busy machine may have cost a leader its office.
async fn cell(target: &Target<'_>, clients: usize, span: Duration) -> Option<Cell> {
    let (processes, loops) = match target {
        Target::Etcd(cluster) => {
            (cluster.processes(), etcd::loops(cluster, clients, CONNECTIONS_MAX).await)
        }
        Target::Site(cluster) => {
            (cluster.processes(), site::loops(cluster, clients, CONNECTIONS_MAX).await)
        }
    };
    let (counts, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = loops
        .into_iter()
        .map(|mut client| {
            let (counts, ends) = (counts.clone(), ends.clone());
            tokio::spawn(async move {
                let mut latencies = Histogram::<u64>::new(3).unwrap();
                while !ends.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    if !client.write().await {
                        return None;
                    }
                    if counts.load(Ordering::Relaxed) {
                        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap();
                        latencies.record(micros).unwrap();
                    }
                }
                Some(latencies)
            })
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let sum = |processes: &[u32]| processes.iter().map(|it| cpu_of(*it)).sum::<Duration>();
    let own = std::process::id();
    let before = (sum(&processes), cpu_of(own), busy().0, Instant::now());
    counts.store(true, Ordering::Relaxed);
    tokio::time::sleep(span).await;
    ends.store(true, Ordering::Relaxed);
    let span = before.3.elapsed();
    let (all, cores) = busy();
    let (server_cpu, client_cpu) = (sum(&processes) - before.0, cpu_of(own) - before.1);
    let others = (all - before.2).saturating_sub(server_cpu + client_cpu);
    let others = others.as_secs_f64() / span.as_secs_f64() / f64::from(cores);
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for task in tasks {
        latencies.add(task.await.unwrap()?).unwrap();
    }
    Some(Cell { latencies, span, server_cpu, client_cpu, others })
}

/// One client.
pub(crate) enum Loop {
    Etcd(etcd::Client),
    Site(site::Client),
}

impl Loop {
    /// False if it was refused.
    async fn write(&mut self) -> bool {
        match self {
            Self::Etcd(client) => client.write().await,
            Self::Site(client) => client.write().await,
        }
    }
}
