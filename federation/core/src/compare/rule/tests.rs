use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::compare::ranked::Ranked;

/// As the rule is written in books.
#[expect(clippy::cast_precision_loss, reason = "numbers of a test are small")]
fn by_the_book(is_more_better: bool, all: &[u64], value: u64) -> Option<Grade> {
    let middle = |mut of: Vec<u64>| {
        of.sort_unstable();
        of[of.len() / 2]
    };
    if all.len() < 9 {
        return Some(Grade::Sound);
    }
    let median = middle(all.to_vec());
    let mad = middle(all.iter().map(|it| it.abs_diff(median)).collect());
    let (median, mad, value) = (median as f64, mad as f64, value as f64);
    let worse = if is_more_better { median - value } else { value - median };
    let z = -worse / (1.4826 * mad.max(0.005 * median));
    let percent = 100.0 * worse / median;
    // Where floats round, they are no reference.
    let is_near = |it: f64, bound: f64| (it - bound).abs() < 1e-6;
    if is_near(z, -4.0) || is_near(percent, 2.0) || is_near(percent, 8.0) {
        return None;
    }
    Some(match (z < -4.0, percent) {
        (true, it) if it > 8.0 => Grade::VeryLow,
        (true, it) if it > 2.0 => Grade::Low,
        (true | false, _) => Grade::Sound,
    })
}

fn spread(all: &[u64]) -> Spread {
    let mut ranked = Ranked::default();
    all.iter().for_each(|it| ranked.insert(*it));
    ranked.spread()
}

proptest! {
    #[test]
    fn the_rule_is_that_of_the_books(
        base in 1_000_u64..2_000_000,
        noise in 1_u64..2_000,
        draws in prop::collection::vec((0_u64..10_000, 0_u64..100), 1..80),
        is_more_better in any::<bool>(),
    ) {
        let drawn = |(at, odd): &(u64, u64)| match odd {
            // A few are far off.
            0..=7 => base * (70 + at % 60) / 100,
            _ => base + base * (at % noise) / 20_000,
        };
        let all: Vec<u64> = draws.iter().map(drawn).collect();
        for value in &all {
            if let Some(expected) = by_the_book(is_more_better, &all, *value) {
                let spread = spread(&all);
                prop_assert_eq!(spread.grade(is_more_better, *value), expected, "{:?}", spread);
            }
        }
    }

    #[test]
    fn never_is_more_than_half_of_a_fleet_blamed(
        all in prop::collection::vec(1_u64..1_000_000, 9..200),
        is_more_better in any::<bool>(),
    ) {
        let spread = spread(&all);
        let blamed = all.iter().filter(|it| spread.grade(is_more_better, **it) > Grade::Sound);
        prop_assert!(blamed.count() * 2 <= all.len());
    }
}

#[test]
fn with_too_few_peers_nothing_is_said() {
    let fleet = |sound: usize| [alloc::vec![1_000; sound], alloc::vec![700]].concat();
    assert_eq!(spread(&fleet(7)).grade(true, 700), Grade::Sound);
    assert_eq!(spread(&fleet(8)).grade(true, 700), Grade::VeryLow);
    assert_eq!(spread(&fleet(8)).grade(false, 700), Grade::Sound, "less is better");
}

#[test]
fn a_little_is_a_warning_and_much_a_fault_and_a_trifle_nothing() {
    let alike = spread(&[10_000; 20]);
    let grades = [9_900, 9_710, 9_700, 9_200, 9_199].map(|it| alike.grade(true, it));
    assert_eq!(grades, [Grade::Sound, Grade::Sound, Grade::Low, Grade::Low, Grade::VeryLow]);
    let mirrored = [10_290, 10_300, 10_801].map(|it| alike.grade(false, it));
    assert_eq!(mirrored, [Grade::Sound, Grade::Low, Grade::VeryLow]);
    assert_eq!(alike.permille(true, 9_199), 80);
}

#[test]
fn what_differs_from_gpu_to_gpu_blames_none() {
    let all: Vec<u64> = (0..40).map(|it| 8_000 + it * 100).collect();
    assert!(all.iter().all(|it| spread(&all).grade(true, *it) == Grade::Sound));
}

#[test]
fn three_warnings_in_a_row_are_a_fault_and_a_cap_of_power_never_is() {
    use Grade::{Low, Sound, VeryLow};
    let of =
        |grades: &[Grade]| lag(&grades.iter().map(|it| (*it, false)).collect::<Vec<_>>(), false);
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[Sound, VeryLow, VeryLow]), None);
    assert_eq!(of(&[Low, Low]), Some((Lag::Warning, 2)));
    assert_eq!(of(&[Low, Low, Sound, Low]), Some((Lag::Warning, 2)));
    assert_eq!(of(&[Low, VeryLow, Low]), Some((Lag::Fault, 3)));
    assert_eq!(of(&[VeryLow]), Some((Lag::Fault, 1)));
    let capped =
        |grades: &[Grade]| lag(&grades.iter().map(|it| (*it, true)).collect::<Vec<_>>(), false);
    assert_eq!(capped(&[VeryLow]), Some((Lag::Warning, 1)));
    assert_eq!(capped(&[VeryLow, VeryLow, Low]), Some((Lag::Warning, 3)));
    assert_eq!(lag(&[(Low, false), (Low, true), (Low, false)], false), Some((Lag::Warning, 3)));
    // What neighbours share may be slow because of them.
    assert_eq!(lag(&[(VeryLow, false)], true), Some((Lag::Warning, 1)));
    assert_eq!(lag(&[(VeryLow, false); 3], true), Some((Lag::Fault, 3)));
}
