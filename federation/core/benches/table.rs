//! The tables of agreed state beside `rpds`, which they replaced, and beside `BTreeMap`, which
//! cannot be shared. Every line ends with our cost as a share of theirs in the same run.
//!
//! `cargo bench -p federation-core --bench table [-- ENTRIES]`
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use federation_core::Table;
use rpds::RedBlackTreeMapSync as Rpds;

/// About a job, without what it points to.
type Record = [u64; 24];
type Key = u128;

/// Entries written between two clones: a batch of the log.
const BATCH: usize = 64;
const ROUNDS: usize = 5;

/// One of the maps, as the benchmark uses it.
trait Map: Clone + Default {
    const NAME: &'static str;
    fn put(&mut self, key: Key, value: Record);
    fn change(&mut self, key: Key);
    fn look(&self, key: Key) -> u64;
    fn walk(&self) -> u64;
}

impl Map for Table<Key, Record> {
    const NAME: &'static str = "ours";
    fn put(&mut self, key: Key, value: Record) {
        self.insert(key, value);
    }
    fn change(&mut self, key: Key) {
        self.get_mut(&key).unwrap()[0] += 1;
    }
    fn look(&self, key: Key) -> u64 {
        self.get(&key).unwrap()[0]
    }
    fn walk(&self) -> u64 {
        self.values().map(|value| value[0]).sum()
    }
}

impl Map for Rpds<Key, Record> {
    const NAME: &'static str = "rpds";
    fn put(&mut self, key: Key, value: Record) {
        self.insert_mut(key, value);
    }
    fn change(&mut self, key: Key) {
        self.get_mut(&key).unwrap()[0] += 1;
    }
    fn look(&self, key: Key) -> u64 {
        self.get(&key).unwrap()[0]
    }
    fn walk(&self) -> u64 {
        self.values().map(|value| value[0]).sum()
    }
}

impl Map for BTreeMap<Key, Record> {
    const NAME: &'static str = "btree";
    fn put(&mut self, key: Key, value: Record) {
        self.insert(key, value);
    }
    fn change(&mut self, key: Key) {
        self.get_mut(&key).unwrap()[0] += 1;
    }
    fn look(&self, key: Key) -> u64 {
        self[&key][0]
    }
    fn walk(&self) -> u64 {
        self.values().map(|value| value[0]).sum()
    }
}

/// A number that looks like chance and is the same in each run.
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Keys as they are stamped: later ones are greater, the rest is chance.
fn stamped(entries: usize) -> Vec<Key> {
    (0..entries as u64).map(|n| u128::from(n) << 64 | u128::from(scatter(n))).collect()
}

fn shuffled(keys: &[Key]) -> Vec<Key> {
    let mut keys = keys.to_vec();
    keys.sort_by_key(|key| scatter((*key >> 64) as u64 ^ 0x5bd1_e995));
    keys
}

fn filled<M: Map>(keys: &[Key]) -> M {
    let mut map = M::default();
    for key in keys {
        map.put(*key, [1; 24]);
    }
    map
}

/// Nanoseconds per key.
fn timed(keys: &[Key], work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / keys.len() as f64
}

/// What is measured of each map, in nanoseconds per entry.
const MEASURES: [&str; 7] = [
    "insert in the order of keys",
    "insert in any order",
    "change, nobody else reads",
    "change, a clone every batch",
    "look up",
    "walk",
    "drop",
];

fn measure<M: Map>(keys: &[Key]) -> [f64; 7] {
    let any = shuffled(keys);
    let some = &any[..any.len() / 4];
    let ordered = timed(keys, || drop(black_box(filled::<M>(keys))));
    let mut map = M::default();
    let scattered = timed(&any, || map = filled(&any));
    let alone = timed(some, || some.iter().for_each(|key| map.change(*key)));
    let mut shared = f64::NAN;
    if M::NAME != "btree" {
        shared = timed(some, || {
            for batch in some.chunks(BATCH) {
                let clone = map.clone();
                batch.iter().for_each(|key| map.change(*key));
                drop(black_box(clone));
            }
        });
    }
    let looked = timed(some, || {
        black_box(some.iter().map(|key| map.look(*key)).sum::<u64>());
    });
    let walked = timed(keys, || {
        black_box(map.walk());
    });
    let dropped = timed(keys, || drop(map));
    [ordered, scattered, alone, shared, looked, walked, dropped]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Bytes per entry beyond key and value, in a process of its own.
fn weigh<M: Map>(keys: &[Key]) {
    let before = resident();
    let map = filled::<M>(keys);
    let net = size_of::<Key>() + size_of::<Record>();
    let bytes = (resident() - before) as f64 / keys.len() as f64 - net as f64;
    drop(black_box(map));
    println!("{bytes}");
}

fn weighed(name: &str, order: &str, entries: usize) -> f64 {
    let out = Command::new(std::env::current_exe().unwrap())
        .args([name, order, &entries.to_string()])
        .output();
    String::from_utf8(out.unwrap().stdout).unwrap().trim().parse().unwrap()
}

fn line(what: &str, ours: f64, rpds: f64, btree: f64) {
    println!(
        "{what:<32} {ours:>8.1} {rpds:>8.1} {btree:>8.1}   rpds_ratio={:.2} btree_ratio={:.2}",
        ours / rpds,
        ours / btree
    );
}

fn main() {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [name, order, entries] = &args[..] {
        let keys = stamped(entries.parse().unwrap());
        let keys = if order == "any" { shuffled(&keys) } else { keys };
        return match name.as_str() {
            "ours" => weigh::<Table<Key, Record>>(&keys),
            "rpds" => weigh::<Rpds<Key, Record>>(&keys),
            _ => weigh::<BTreeMap<Key, Record>>(&keys),
        };
    }
    let entries = args.first().map_or(1_000_000, |text| text.parse().unwrap());
    let keys = stamped(entries);
    let mut ours: [Vec<f64>; 7] = Default::default();
    let (mut rpds, mut btree) = (ours.clone(), ours.clone());
    for _ in 0..ROUNDS {
        let round = [
            (&mut ours, measure::<Table<Key, Record>>(&keys)),
            (&mut rpds, measure::<Rpds<Key, Record>>(&keys)),
            (&mut btree, measure::<BTreeMap<Key, Record>>(&keys)),
        ];
        for (all, one) in round {
            all.iter_mut().zip(one).for_each(|(all, one)| all.push(one));
        }
    }
    println!("{entries} entries of {} bytes, medians of {ROUNDS} rounds", size_of::<Record>() + 16);
    println!("{:<32} {:>8} {:>8} {:>8}", "ns per entry", "ours", "rpds", "BTreeMap");
    for (at, what) in MEASURES.iter().enumerate() {
        let [ours, rpds, btree] = [&ours, &rpds, &btree].map(|all| median(all[at].clone()));
        line(what, ours, rpds, btree);
    }
    for order in ["order", "any"] {
        let [ours, rpds, btree] = ["ours", "rpds", "btree"].map(|it| weighed(it, order, entries));
        line(&format!("bytes beyond the entry, {order}"), ours, rpds, btree);
    }
}
