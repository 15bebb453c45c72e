//! What a decision of placement costs, at three sizes of a site: arrivals and departures at 95 %
//! load, one thread. A decision is the answer to one arrival, be it a place or a *no*; the time of
//! the departures that made room is counted with it.
//!
//! `cargo bench -p federation-core --bench placement [-- GPUS…]`
//!
//! Four fifths of the GPUs are in 8-GPU nodes, 8 of them in a rack; the rest in 4-GPU nodes, 18 of
//! them in one NVLink domain. A hall has 1,000 nodes.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and ranks of a benchmark are small"
)]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use federation_core::score::{Mix, Shape};
use federation_core::{
    Ask, ClassIndex, Fleet, GroupIndex, Level, NodeShape, Placement, Taste, Together,
};

/// Gangs by GPUs, in hundredths of a per cent of the jobs, and their least and most GPUs: what the
/// public cluster traces of 2026 say of arrivals ("Gangs by GPUs" of the S1 scenario of
/// `traces/protocol.md`, section 4). Those with no least share one GPU.
const GANGS: [(u32, u32, u32); 9] = [
    (1_040, 0, 0),
    (6_370, 1, 1),
    (1_050, 2, 4),
    (980, 5, 8),
    (260, 9, 16),
    (140, 17, 32),
    (70, 33, 64),
    (34, 65, 128),
    (49, 129, 1_408),
];
const SIZES: [u32; 3] = [10_000, 110_000, 1_000_000];
const LOAD_PERCENT: u64 = 95;
const DECISIONS: u32 = 100_000;
/// Rounds of so many decisions; the least disturbed one counts.
const ROUNDS: u32 = 7;
/// Who comes and who leaves is drawn for so many decisions at once, outside of what is timed: the
/// list of a million GPUs' jobs is the benchmark's, weighs as much as the index, and is nobody's to
/// search by chance.
const DRAWN: u32 = 250;
/// Gangs of 1,024 GPUs that are timed, and arrivals between two of them.
const LARGE: u32 = 2_000;
const BETWEEN: u32 = 50;
const EIGHTS: ClassIndex = ClassIndex(0);
const FOURS: ClassIndex = ClassIndex(1);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// From `least` to `most`, both included.
    fn between(&mut self, least: u32, most: u32) -> u32 {
        least + (self.next() % u64::from(most - least + 1)) as u32
    }
}

/// How long this thread could have run and had no processor: turns of others do not count. (What it
/// had is told by the same file in whole ticks, which are longer than what is timed here.)
fn waited() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Resident mebibytes, as the kernel counts them.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn node(class: ClassIndex, at: u32, gpus: u32) -> NodeShape {
    NodeShape {
        class,
        gpus,
        cpu_milli: gpus * 16_000,
        memory_mib: gpus * 250_000,
        hall: Some(GroupIndex(at / 1_000)),
        rack: (class == EIGHTS).then_some(GroupIndex(at / 8)),
        domain: (class == FOURS).then_some(GroupIndex(at / 18)),
        attributes: vec![],
        machine_gpus: gpus,
    }
}

type Job = (Placement, ClassIndex, u32);

/// A site under load.
struct Site {
    fleet: Fleet,
    rng: Rng,
    jobs: Vec<Job>,
    /// Those of `jobs` that leave next.
    leaving: Vec<Job>,
    /// Thousandths of GPUs, by class.
    total: [u64; 2],
    used: [u64; 2],
    /// Thousandths of GPUs of all arrivals ever placed.
    taken: u64,
    /// What jobs of one node are placed by; none for the tightest first.
    taste: Option<Taste>,
}

impl Site {
    fn loaded(gpus: u32) -> Self {
        let mut fleet = Fleet::new();
        let (eights, fours) = (gpus / 10, gpus / 20);
        for at in 0..eights {
            fleet.add(&node(EIGHTS, at, 8));
        }
        for at in 0..fours {
            fleet.add(&node(FOURS, at, 4));
        }
        let total = [eights * 8, fours * 4].map(|gpus| u64::from(gpus) * 1_000);
        let mut site = Self {
            fleet,
            rng: Rng(42),
            jobs: Vec::new(),
            leaving: Vec::new(),
            total,
            used: [0; 2],
            taken: 0,
            taste: None,
        };
        while site.used.iter().sum::<u64>() * 100 < total.iter().sum::<u64>() * (LOAD_PERCENT - 1) {
            let (ask, milli) = site.ask();
            site.arrive(&ask, milli);
        }
        // Past the order in which it was filled.
        for _ in 0..site.jobs.len() * 2 {
            site.next_step();
        }
        site
    }

    /// Within a class of sizes, as many gangs have one to two times the least as two to four times.
    fn size(&mut self, least: u32, most: u32) -> u32 {
        let share = (self.rng.next() >> 11) as f64 / (1u64 << 53) as f64;
        let span = f64::from(most + 1) / f64::from(least.max(1));
        ((f64::from(least) * span.powf(share)) as u32).min(most)
    }

    fn ask(&mut self) -> (Ask, u32) {
        let all: u32 = GANGS.iter().map(|(share, _, _)| share).sum();
        let mut drawn = self.rng.between(0, all - 1);
        let found = GANGS.iter().find(|(share, _, _)| {
            let is_it = drawn < *share;
            drawn = drawn.saturating_sub(*share);
            is_it
        });
        let (_, least, most) = found.copied().unwrap_or(GANGS[1]);
        let class = if self.rng.between(0, 4) == 0 { FOURS } else { EIGHTS };
        let of_node = if class == FOURS { 4 } else { 8 };
        let gpus = self.size(least, most);
        // Half of the jobs take all the CPU that comes with their GPUs.
        let cpu_milli = if self.rng.between(0, 1) == 0 { 8_000 } else { 16_000 };
        let (ask, milli) = if gpus == 0 {
            let milli = [100, 250, 500, 500][self.rng.between(0, 3) as usize];
            (Ask { cpu_milli: 1_000, memory_mib: 16_000, ..Ask::share(milli) }, milli.into())
        } else {
            let (nodes, each) = (gpus.div_ceil(of_node), gpus.min(of_node));
            let ask = Ask {
                cpu_milli: cpu_milli * each,
                memory_mib: 200_000 * each,
                ..Ask::whole(nodes, each)
            };
            (ask, nodes * each * 1_000)
        };
        // A gang of what one domain holds stays in one; larger ones keep to few racks or domains.
        let level = if class == FOURS { Level::Domain } else { Level::Rack };
        let required = class == FOURS && ask.nodes <= 18;
        let together = Together { level, required, group: 0 };
        let together = (ask.nodes > 1).then_some(together);
        (Ask { classes: vec![class], together, ..ask }, milli)
    }

    fn arrive(&mut self, ask: &Ask, milli: u32) -> bool {
        let placed = match &mut self.taste {
            Some(taste) if ask.nodes == 1 => self.fleet.place_scored(ask, taste),
            Some(_) | None => self.fleet.place(ask),
        };
        let is_placed = placed.is_some();
        if let Some(placement) = placed {
            let class = ask.classes[0];
            self.used[usize::from(class.0)] += u64::from(milli);
            self.taken += u64::from(milli);
            self.jobs.push((placement, class, milli));
        }
        is_placed
    }

    /// Draws who leaves next, up to so many.
    fn draw_leaving(&mut self, jobs: u32) {
        while self.leaving.len() < jobs as usize && !self.jobs.is_empty() {
            let at = self.rng.next() % self.jobs.len() as u64;
            self.leaving.push(self.jobs.swap_remove(at as usize));
        }
    }

    fn leave(&mut self) {
        if self.leaving.is_empty() {
            self.draw_leaving(1);
        }
        let Some((placement, class, milli)) = self.leaving.pop() else { return };
        self.fleet.free(&placement);
        self.used[usize::from(class.0)] -= u64::from(milli);
    }

    /// Departures until its class has room under the load, then the arrival that takes it: so each size
    /// does the same work. Whether it was placed, and how long that took.
    fn step(&mut self, ask: &Ask, milli: u32) -> (bool, Duration) {
        let class = usize::from(ask.classes[0].0);
        while (self.used[class] + u64::from(milli)) * 100 > self.total[class] * LOAD_PERCENT {
            self.leave();
        }
        let start = Instant::now();
        let placed = self.arrive(ask, milli);
        (placed, start.elapsed())
    }

    fn next_step(&mut self) {
        let (ask, milli) = self.ask();
        self.step(&ask, milli);
    }

    /// So many steps: how many arrivals were refused, and the processor time of all of them.
    fn steps(&mut self, steps: u32, times: &mut Vec<Duration>) -> (u32, Duration) {
        let asks: Vec<(Ask, u32)> = (0..steps).map(|_| self.ask()).collect();
        self.draw_leaving(steps * 2);
        let (mut refused, elsewhere) = (0, waited());
        let start = Instant::now();
        for (ask, milli) in &asks {
            let (placed, time) = self.step(ask, *milli);
            refused += u32::from(!placed);
            times.push(time);
        }
        let spent = start.elapsed();
        (refused, spent.saturating_sub(waited().saturating_sub(elsewhere)))
    }
}

fn p99(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1e6
}

/// Gangs of 1,024 GPUs on a site that is nearly full.
fn large(site: &mut Site, together: Option<Together>) -> (f64, u32) {
    let ask = Ask {
        classes: vec![EIGHTS],
        cpu_milli: 64_000,
        memory_mib: 1_600_000,
        together,
        ..Ask::whole(128, 8)
    };
    let (mut times, mut placed) = (Vec::new(), 0);
    for _ in 0..LARGE {
        for _ in 0..BETWEEN {
            site.next_step();
        }
        let start = Instant::now();
        let found = site.fleet.place(&ask);
        times.push(start.elapsed());
        if let Some(found) = found {
            placed += 1;
            site.fleet.free(&found);
        }
    }
    (p99(&mut times), placed)
}

struct Round {
    /// Processor time of a decision.
    ns: f64,
    p99_us: f64,
    refused: u32,
    /// Taken for an arrival, on average.
    gpus: f64,
}

fn round(site: &mut Site) -> Round {
    let mut times = Vec::with_capacity(DECISIONS as usize);
    let (mut refused, mut spent, taken) = (0, Duration::ZERO, site.taken);
    for _ in 0..DECISIONS / DRAWN {
        let (no, took) = site.steps(DRAWN, &mut times);
        refused += no;
        spent += took;
    }
    let spent = spent.as_secs_f64();
    Round {
        ns: spent * 1e9 / f64::from(DECISIONS),
        p99_us: p99(&mut times),
        refused,
        gpus: (site.taken - taken) as f64 / 1_000.0 / f64::from(DECISIONS),
    }
}

/// What the index weighs: the growth by the last of several copies, when no room of what was freed
/// before is left to take.
fn weight(fleet: &Fleet) -> f64 {
    let mut copies = Vec::new();
    let mut last = 0.0;
    for _ in 0..8 {
        let before = resident();
        copies.push(fleet.clone());
        last = resident() - before;
    }
    black_box(copies);
    last
}

fn gangs(site: &mut Site) {
    let few = Together { level: Level::Rack, required: false, group: 0 };
    let fours = Together { level: Level::Rack, required: true, group: 4 };
    for (what, together) in
        [("anywhere", None), ("in_few_racks", Some(few)), ("in_racks_by_4", Some(fours))]
    {
        let (p99, placed) = large(site, together);
        println!("gang_gpus=1024 where={what} placed={placed}/{LARGE} p99_us={p99:.1}");
    }
}

/// What a leader counts of such jobs: the most frequent kinds on one node.
fn taste() -> Taste {
    let kind = |cpu_milli, gpus, gpu_milli, count| Shape {
        cpu_milli,
        gpus,
        gpu_milli,
        models: None,
        count,
    };
    let mut shapes: Vec<Shape> =
        [100, 250, 500].map(|milli| kind(1_000, 1, milli, 340)).into_iter().collect();
    for (gpus, count) in [(1, 3_185), (2, 260), (4, 260), (8, 490)] {
        for cpu in [8_000, 16_000] {
            shapes.push(kind(cpu * u64::from(gpus), gpus, 1_000, count));
        }
    }
    Taste::of(Mix::of(shapes, 16_000 * 110_000, 110_000_000))
}

/// The same decisions, jobs of one node by the score.
fn scored(site: &mut Site, gpus: u32) {
    site.taste = Some(taste());
    let rounds: Vec<Round> = (0..ROUNDS).map(|_| round(site)).collect();
    let rate = 1e9 / least(rounds.iter().map(|round| round.ns));
    let p99 = least(rounds.iter().map(|round| round.p99_us));
    println!("scored gpus={gpus} decisions_per_second={rate:.0} p99_us={p99:.1}");
    site.taste = None;
}

fn least(of: impl Iterator<Item = f64>) -> f64 {
    of.fold(f64::INFINITY, f64::min)
}

fn main() {
    // Cargo adds `--bench`.
    let only: Vec<u32> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if only.is_empty() { SIZES.to_vec() } else { only };
    let mut sites: Vec<Site> = sizes.iter().map(|gpus| Site::loaded(*gpus)).collect();
    // In turns, so that what others do on the machine falls on all sizes alike.
    let mut rounds: Vec<Vec<Round>> = sites.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (site, rounds) in sites.iter_mut().zip(&mut rounds) {
            rounds.push(round(site));
        }
    }
    for ((gpus, site), rounds) in sizes.iter().zip(&mut sites).zip(&rounds) {
        let all: Vec<String> = rounds.iter().map(|round| format!("{:.0}", round.ns)).collect();
        println!(
            "{gpus} GPUs: {} jobs, {:.2} GPUs an arrival, {} of {DECISIONS} refused, ns a decision {}",
            site.jobs.len() + site.leaving.len(),
            rounds[0].gpus,
            rounds[0].refused,
            all.join(" ")
        );
        if *gpus == 110_000 {
            gangs(site);
        }
        if *gpus == 1_000_000 {
            println!("index_mib={:.1} gpus={gpus}", weight(&site.fleet));
        }
        scored(site, *gpus);
        assert_eq!(site.fleet.violations(), Vec::<String>::new());
    }
    if let (Some(first), Some(last)) = (rounds.first(), rounds.last()) {
        let mut ratios: Vec<f64> =
            first.iter().zip(last).map(|(small, large)| large.ns / small.ns).collect();
        ratios.sort_by(f64::total_cmp);
        let of_best = least(last.iter().map(|it| it.ns)) / least(first.iter().map(|it| it.ns));
        let median = ratios[ratios.len() / 2];
        println!(
            "cost_ratio={median:.2} of the largest to the smallest size; of the best rounds {of_best:.2}"
        );
    }
    for (gpus, rounds) in sizes.iter().zip(&rounds) {
        // Others only add to it.
        let rate = 1e9 / least(rounds.iter().map(|round| round.ns));
        let p99 = least(rounds.iter().map(|round| round.p99_us));
        println!("gpus={gpus} decisions_per_second={rate:.0} p99_us={p99:.1}");
    }
}
