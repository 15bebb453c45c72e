//! What it costs a leader to compare the GPUs of a large site: after a failover, when all agents tell
//! what they know of burn-ins, and then when one more result comes.
//!
//! `cargo bench -p federation-core --bench compare`
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::sync::Arc;
use std::time;

use federation_core::{
    AcceptNode, Command, FoundSite, Leader, OpenToken, RegisterNode, State, TokenKind, apply,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{
    BurnInEnd, BurnInResult, BurnInTier, GpuHealth, GpuInfo, GpuReport, GpuState, InventorySource,
};
use specs::id::{Boot, GpuIndex, NodeId, Question, Revision, TokenId};
use specs::measure::{Digests, MEMORY, Make, cycles_of};
use specs::site::{SiteSpec, Terms};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::{Inventory, NodeReport};

const NODES: u64 = 13_750;
const GPUS: u16 = 8;
/// As many as an admission measures.
const NUMBERS: u64 = 32;
/// How often a leader looks around.
const LOOK: u64 = 200;
const AT: Timestamp = Timestamp(1_700_000_000_000);

struct Site {
    state: State,
    leader: Leader,
    now: Instant,
}

fn node_id(n: u64) -> NodeId {
    format!("dgx-{n:05}").parse().unwrap()
}

fn inventory() -> Inventory {
    let info = |index| GpuInfo {
        index: GpuIndex(index),
        class: "b200".parse().unwrap(),
        uuid: String::new(),
        memory_mib: 183_359,
    };
    Inventory {
        source: InventorySource::Nvml,
        gpus: (0..GPUS).map(info).collect(),
        address: String::new(),
        version: "0.1.0".into(),
        facts: OrDefault::default(),
    }
}

/// Numbers that differ by up to half a per cent.
fn numbers(seed: u64) -> impl Iterator<Item = (String, u64)> {
    let mut x = seed;
    let mut near = move |value: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value + value * ((x >> 33) % 1_000) / 200_000
    };
    let cycles = (1..NUMBERS).map(|nth| (cycles_of(&format!("unit_{nth}")), nth * 1_000_000));
    cycles
        .chain([(MEMORY.to_owned(), 4_300_000_000_000)])
        .map(move |(name, value)| (name, near(value)))
}

/// As many as an admission gives.
fn digests() -> Digests {
    let by_kernel = (0..20).map(|nth| (format!("unit_{nth}"), nth << 40)).collect();
    Digests { recipe: 1, by_kernel }
}

fn result(number: u64, seed: u64) -> BurnInResult {
    BurnInResult {
        number: Revision(number),
        tier: BurnInTier::T2,
        end: BurnInEnd::Passed,
        why: String::new(),
        ended_at: AT,
        took: Millis(1),
        numbers: numbers(seed).collect(),
        make: Some(Make { product: "NVIDIA B200".into(), ..Make::default() }),
        capped: false,
        digests: Some(digests()),
    }
}

fn report(n: u64, number: u64) -> NodeReport {
    let health = |index: u16| GpuReport {
        health: GpuHealth::new(GpuIndex(index), GpuState::Healthy, ""),
        proof: None,
        due: None,
        last: Some(result(number, n * 64 + u64::from(index) + number)),
        passed: None,
        earlier: None,
    };
    NodeReport {
        node: node_id(n),
        boot: Boot(1),
        question: Question(1),
        obeyed: Revision(0),
        answered: Question(0),
        inventory: inventory(),
        attempts: vec![],
        health: (0..GPUS).map(health).collect(),
        heeds_permits: true,
        checkpoints: Vec::new(),
    }
}

impl Site {
    fn new() -> Self {
        let spec = SiteSpec {
            site: "giga".parse().unwrap(),
            country: "DE".parse().unwrap(),
            terms: Terms { suspect_node_after: Millis(86_400_000), ..Terms::default() },
            lend: vec![],
            trust: None,
        };
        let leader = Leader::new(Instant(0), 1);
        let mut site = Self { state: State::default(), leader, now: Instant(0) };
        let found = FoundSite { spec: Arc::new(spec), address: "giga:1".into() };
        site.apply(Command::FoundSite(found));
        for n in 0..NODES {
            let (token, node) = (TokenId(n.into()), node_id(n));
            let (bound, digest) = (String::new(), Blob(vec![7; 32]));
            let (kind, key, expires_at) = (TokenKind::Enrol, digest.clone(), AT);
            site.apply(Command::OpenToken(OpenToken { token, kind, key, bound, expires_at }));
            let accept = AcceptNode { token, node: node.clone(), digest, at: AT };
            site.apply(Command::AcceptNode(accept));
            let (boot, inventory) = (Boot(1), inventory());
            let register = RegisterNode { node, boot, inventory, at: AT };
            site.apply(Command::RegisterNode(register));
        }
        site
    }

    fn apply(&mut self, command: Command) {
        apply(&mut self.state, &command);
    }

    fn tell(&mut self, report: &NodeReport) -> time::Duration {
        let begun = time::Instant::now();
        self.leader.handle_node_report(self.now, AT, &self.state, report).unwrap();
        begun.elapsed()
    }

    fn look(&mut self) -> time::Duration {
        self.now = self.now.after(Millis(LOOK));
        let begun = time::Instant::now();
        self.leader.poll_commands(self.now, AT, &self.state);
        begun.elapsed()
    }
}

fn main() {
    let mut site = Site::new();
    site.look();
    let quiet = (0..20).map(|_| site.look()).max().unwrap();
    println!("{} GPUs; a look without results: at most {quiet:?}", NODES * u64::from(GPUS));

    let mut told = time::Duration::ZERO;
    for n in 0..NODES {
        let report = report(n, 1);
        told += site.tell(&report);
    }
    println!("all tell: {:?} for each node's report", told / u32::try_from(NODES).unwrap());
    let (mut looks, mut spent, mut most) = (0_u32, time::Duration::ZERO, time::Duration::ZERO);
    while site.leader.compared().all < usize::try_from(NODES * u64::from(GPUS)).unwrap() {
        let look = site.look();
        (looks, spent, most) = (looks + 1, spent + look, most.max(look));
    }
    let seconds = u64::from(looks) * LOOK / 1_000;
    println!(
        "all compared after {looks} looks ({seconds} s): mean {:?}, most {most:?}",
        spent / looks
    );

    let mut most = time::Duration::ZERO;
    for n in 0..100 {
        let report = report(n * 131, 2);
        site.tell(&report);
        most = most.max(site.look());
    }
    println!("a look after a node's eight results: at most {most:?}");
}
