use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;
use specs::codec::Blob;
use specs::gpu::BurnInTier;
use specs::measure::{CLOCK, DIGESTS_MAX, MEMORY, cycles_of};
use specs::unit::{Millis, Timestamp};

use super::*;

const CYCLES: &str = "unit_x";

fn node(nth: usize) -> NodeId {
    format!("n{nth}").parse().expect("a name that keeps the rules")
}

fn make(driver: u32) -> Make {
    Make {
        product: "NVIDIA H200".into(),
        vbios: "96".into(),
        driver,
        power_limit_milliwatts: 700_000,
        kernels: Blob(vec![1]),
    }
}

fn result(number: u64, numbers: &[(&str, u64)]) -> BurnInResult {
    let numbers = numbers.iter().map(|(name, value)| (name.to_string(), *value));
    BurnInResult {
        number: Revision(number),
        tier: BurnInTier::T2,
        end: BurnInEnd::Passed,
        why: String::new(),
        ended_at: Timestamp(0),
        took: Millis(1),
        numbers: numbers.collect(),
        make: Some(make(570)),
        capped: false,
        digests: None,
    }
}

fn tell(it: &mut Comparison, nth: usize, results: &[BurnInResult]) {
    let results = results.iter().collect();
    it.take_in(&node(nth), &[Told { index: GpuIndex(0), uuid: "GPU-a", results }]);
    it.go_on(0, |_, _, _| true);
}

fn settle(it: &mut Comparison) {
    while it.stale > 0 {
        it.go_on(7, |_, _, _| true);
    }
}

fn behind(it: &Comparison, nth: usize) -> &[Behind] {
    it.behind(&node(nth), GpuIndex(0))
}

/// What a burn-in gave, and how fast it was.
fn giving(number: u64, digests: &[(&str, u64)]) -> BurnInResult {
    let by_kernel = digests.iter().map(|(kernel, digest)| (kernel.to_string(), *digest)).collect();
    let digests = Some(specs::measure::Digests { recipe: 1, by_kernel });
    BurnInResult { digests, ..result(number, &[(MEMORY, 4_000_000)]) }
}

/// The kernels of which others say something else, and how grave that is.
fn differing(it: &Comparison, nth: usize) -> Vec<(&str, Lag)> {
    let found = it.differs(&node(nth), GpuIndex(0)).iter();
    found.map(|it| (it.kernel.as_str(), it.lag)).collect()
}

/// So many sound ones.
fn fleet(nodes: usize) -> Comparison {
    let mut it = Comparison::default();
    for nth in 0..nodes {
        let cycles = 10_000 + nth as u64;
        let numbers = [(MEMORY, 4_000_000), (CLOCK, 1_900_000), (&cycles_of(CYCLES), cycles)];
        tell(&mut it, nth, &[result(1, &numbers)]);
    }
    it
}

#[test]
fn who_is_behind_is_found_also_if_it_came_before_the_others() {
    let mut it = Comparison::default();
    tell(&mut it, 99, &[result(1, &[(MEMORY, 3_600_000)])]);
    for nth in 0..8 {
        assert_eq!(behind(&it, 99), [], "with {nth} peers");
        tell(&mut it, nth, &[result(1, &[(MEMORY, 4_000_000 + nth as u64)])]);
    }
    settle(&mut it);
    let found = &behind(&it, 99)[0];
    assert_eq!((found.lag, found.peers, found.permille), (Lag::Fault, 8, 100));
    assert_eq!(found.measure, MEMORY);
    assert_eq!(it.all_found().count(), 1);
    assert_eq!(it.violations(), Vec::<String>::new());
}

#[test]
fn other_makes_are_no_peers() {
    let mut it = fleet(12);
    let other = BurnInResult { make: Some(make(580)), ..result(1, &[(MEMORY, 100)]) };
    tell(&mut it, 99, &[other]);
    settle(&mut it);
    assert_eq!(behind(&it, 99), []);
    tell(&mut it, 98, &[BurnInResult { make: None, ..result(1, &[(MEMORY, 100)]) }]);
    tell(&mut it, 97, &[BurnInResult { end: BurnInEnd::Fault, ..result(1, &[(MEMORY, 100)]) }]);
    assert_eq!(it.gpus(), 13, "what cannot be compared is not known");
}

#[test]
fn more_cycles_are_worse_and_a_cap_of_power_is_no_fault() {
    let mut it = fleet(12);
    let cycles = cycles_of(CYCLES);
    tell(&mut it, 50, &[result(1, &[(&cycles, 11_000), (CLOCK, 1_900_000)])]);
    tell(&mut it, 51, &[result(1, &[(&cycles, 9_000)])]);
    let slow = result(1, &[(CLOCK, 1_600_000), (&cycles, 10_003)]);
    tell(&mut it, 52, &[BurnInResult { capped: true, ..slow.clone() }]);
    tell(&mut it, 53, &[slow]);
    settle(&mut it);
    assert_eq!(behind(&it, 50).iter().map(|it| it.lag).collect::<Vec<_>>(), [Lag::Fault]);
    assert_eq!(behind(&it, 51), []);
    assert_eq!(behind(&it, 52)[0].lag, Lag::Warning);
    assert_eq!(behind(&it, 53)[0].lag, Lag::Fault);
}

#[test]
fn three_warnings_in_a_row_are_a_fault_whatever_the_order_they_are_told_in() {
    let low = |number| result(number, &[(MEMORY, 3_800_000)]);
    let short = BurnInResult { tier: BurnInTier::T4, ..result(6, &[("x", 1)]) };
    for told in [vec![low(3), low(5), low(7)], vec![low(7), low(5), low(3)]] {
        let mut it = fleet(12);
        tell(&mut it, 60, &told[..2]);
        settle(&mut it);
        assert_eq!((behind(&it, 60)[0].lag, behind(&it, 60)[0].runs), (Lag::Warning, 2));
        tell(&mut it, 60, &told[2..]);
        settle(&mut it);
        assert_eq!((behind(&it, 60)[0].lag, behind(&it, 60)[0].runs), (Lag::Fault, 3));
    }
    let mut it = fleet(12);
    tell(&mut it, 60, &[low(3), short, low(7)]);
    settle(&mut it);
    assert_eq!(behind(&it, 60)[0].runs, 2, "a run without the number is none");
    tell(&mut it, 60, &[result(8, &[(MEMORY, 4_000_000)])]);
    assert_eq!(behind(&it, 60), [], "its latest word is what counts");
}

#[test]
fn who_gives_another_digest_than_its_make_is_at_fault_at_once_also_if_it_came_first() {
    let mut it = Comparison::default();
    let wrong = giving(1, &[("golden", 6), ("unit", 5)]);
    tell(&mut it, 99, core::slice::from_ref(&wrong));
    for nth in 0..8 {
        assert_eq!(differing(&it, 99), [], "with {nth} peers");
        tell(&mut it, nth, &[giving(1, &[("golden", 7), ("unit", 5)])]);
    }
    settle(&mut it);
    assert_eq!(differing(&it, 99), [("golden", Lag::Fault)]);
    let (of, _, found) = it.all_found().next().unwrap();
    assert!(*of == node(99) && matches!(found.fault(), Some(Fault::Differs(_))));
    assert_eq!((it.all_found().count(), it.violations()), (1, vec![]));

    // What a shorter burn-in does not say stands; its latest word counts.
    tell(&mut it, 99, &[giving(2, &[("unit", 5)])]);
    assert_eq!(differing(&it, 99), [("golden", Lag::Fault)]);
    tell(&mut it, 99, &[giving(3, &[("golden", 7), ("unit", 4)]), wrong]);
    assert_eq!(differing(&it, 99), [("unit", Lag::Fault)]);
    assert_eq!(it.violations(), Vec::<String>::new());
}

#[test]
fn digests_are_compared_within_what_may_change_them_and_no_further() {
    let mut it = Comparison::default();
    let of = |make: Make| BurnInResult { make: Some(make), ..giving(1, &[("golden", 6)]) };
    let other_work = [
        Make { product: "NVIDIA B200".into(), ..make(570) },
        Make { kernels: Blob(vec![2]), ..make(570) },
        make(580),
    ];
    for (nth, make) in (50..).zip(other_work) {
        tell(&mut it, nth, &[of(make)]);
    }
    let mut recipe = of(make(570));
    recipe.digests.as_mut().unwrap().recipe = 2;
    tell(&mut it, 53, &[recipe]);
    let same = Make { vbios: "97".into(), power_limit_milliwatts: 600_000, ..make(570) };
    tell(&mut it, 60, &[of(same)]);
    (0..9).for_each(|nth| tell(&mut it, nth, &[giving(1, &[("golden", 7)])]));
    settle(&mut it);
    assert_eq!(differing(&it, 60), [("golden", Lag::Fault)], "VBIOS and power change nothing");
    assert_eq!(it.all_found().count(), 1);
}

#[test]
fn digests_are_bounded_and_a_few_of_them_are_named() {
    let mut it = Comparison::default();
    let names: Vec<String> = (0..2 * DIGESTS_MAX).map(|nth| format!("k{nth:03}")).collect();
    let all = |digest| names.iter().map(|name| (name.as_str(), digest)).collect::<Vec<_>>();
    (0..9).for_each(|nth| tell(&mut it, nth, &[giving(1, &all(7))]));
    tell(&mut it, 60, &[giving(1, &all(6))]);
    settle(&mut it);
    assert_eq!(differing(&it, 60).len(), digests::DIFFERS_MAX);
    for nth in 0..40 {
        let names: Vec<String> = (0..DIGESTS_MAX).map(|n| format!("x{nth}y{n}")).collect();
        let told: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), nth)).collect();
        tell(&mut it, 61, &[giving(nth, &told)]);
    }
    assert_eq!((it.violations(), it.gpus()), (vec![], 11));
    let alone = BurnInResult { numbers: [].into(), ..giving(1, &[("k000", 6)]) };
    assert!(it.lacks(&node(62), GpuIndex(0), &alone), "digests alone are of use");
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut it = fleet(12);
    tell(&mut it, 60, &[result(1, &[(MEMORY, 3_000_000)])]);
    it.take_in(&node(60), &[Told { index: GpuIndex(0), uuid: "GPU-b", results: vec![] }]);
    assert_eq!((behind(&it, 60), it.gpus()), (&[][..], 12), "another device is there");
    tell(&mut it, 61, &[result(1, &[(MEMORY, 3_000_000)])]);
    it.go_on(40, |id, _, _| *id != node(61));
    settle(&mut it);
    assert_eq!((it.all_found().count(), it.gpus()), (0, 12));
    assert_eq!(it.violations(), Vec::<String>::new());
}

#[test]
fn what_an_agent_says_is_bounded() {
    let mut it = Comparison::default();
    for nth in 0..20 {
        let names: Vec<String> = (0..200).map(|n| format!("x{nth}y{n}")).collect();
        let numbers: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 7)).collect();
        tell(&mut it, 0, &[result(nth, &numbers)]);
    }
    assert_eq!(it.meanings.len(), NAMES_MAX);
    let runs = &it.nodes[&node(0)][&GpuIndex(0)].runs;
    assert!(runs.len() == RUNS && runs.iter().all(|run| run.numbers.len() <= NUMBERS_MAX));
    let long = Make { vbios: "x".repeat(200), ..make(570) };
    tell(&mut it, 1, &[BurnInResult { make: Some(long), ..result(1, &[("x", 1)]) }]);
    assert_eq!(it.gpus(), 1);
}

proptest! {
    #[test]
    fn what_is_said_follows_from_what_was_told_whatever_the_order(
        told in prop::collection::vec((0_usize..16, 1_u64..9), 1..80),
        turn in any::<prop::sample::Index>(),
    ) {
        // A result has one content, however often it is told.
        let of = |nth: usize, number: u64| {
            let seed = nth as u64 * 31 + number * 7;
            let value = if seed.is_multiple_of(11) { 900_000 } else { 1_000_000 + seed % 3 };
            let driver = 570 + u32::from(seed.is_multiple_of(13));
            let golden = ("golden", u64::from(seed.is_multiple_of(17)));
            let digests = [golden, ("unit", u64::from(seed.is_multiple_of(19)))];
            let it = giving(number, if seed.is_multiple_of(3) { &digests[1..] } else { &digests });
            let numbers = result(number, &[(MEMORY, value)]).numbers;
            BurnInResult { make: Some(make(driver)), numbers, ..it }
        };
        let (mut first, mut second) = (Comparison::default(), Comparison::default());
        for (nth, number) in &told {
            tell(&mut first, *nth, &[of(*nth, *number)]);
        }
        // Now all that an agent knows comes at once, of one after the other, from another one on.
        let mut other = told.clone();
        other.rotate_left(turn.index(told.len()));
        for (nth, _) in &other {
            let all: Vec<BurnInResult> =
                told.iter().filter(|it| it.0 == *nth).map(|it| of(*nth, it.1)).collect();
            tell(&mut second, *nth, &all);
        }
        settle(&mut first);
        settle(&mut second);
        prop_assert_eq!(first.violations(), Vec::<String>::new());
        for nth in 0..16 {
            prop_assert_eq!(behind(&first, nth), behind(&second, nth));
            prop_assert_eq!(differing(&first, nth), differing(&second, nth));
        }
    }
}
