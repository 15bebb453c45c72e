//! What running at a site costs, in money, from what sites say of themselves.
//!
//! What is not known of a site counts as the middle of what is known of the others: it makes the
//! site neither better nor worse. So does what was said too long ago.
//!
//! # Invariants
//! * Whole numbers, and no sum that overflows: whoever reckons, reckons the same.

use alloc::string::String;
use alloc::vec::Vec;

use specs::id::GpuClass;
use specs::signals::{
    CARBON_MAX, PRICE_MAX, PUE_MAX, PUE_MIN, Signal, Signals, WATER_MAX, Weights,
};
use specs::unit::{MicroEuro, Millis, Timestamp};

const HOUR: u128 = 3_600_000;

/// The signals of a site, and for how long it has not said them again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    pub signals: Option<&'a Signals>,
    /// Since the report that they came in.
    pub since: Millis,
}

/// What of one site is known now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub price: Option<u64>,
    pub energy: Option<u64>,
    pub pue: Option<u64>,
    pub carbon: Option<u64>,
    pub water: Option<u64>,
    /// What is too old to be believed.
    pub stale: Vec<String>,
}

/// All signals of a site.
pub(crate) fn signals_of(signals: &mut Signals) -> impl Iterator<Item = &mut Signal> {
    let others = [&mut signals.energy, &mut signals.pue, &mut signals.carbon, &mut signals.water];
    let prices = signals.prices.iter_mut().map(|price| &mut price.signal);
    prices.chain(others.into_iter().flatten())
}

/// What a site said, with its age by the site's own clock.
pub(crate) fn aged(said: &Signals, at: Timestamp) -> Signals {
    let mut signals = said.clone();
    let age = |signal: &mut Signal| signal.age = Millis(at.0.saturating_sub(signal.said_at.0));
    signals_of(&mut signals).for_each(age);
    signals
}

impl Heard<'_> {
    /// A price and the building are set up for long; the others are measured, and grow old.
    pub(crate) fn known(self, class: &GpuClass, weights: &Weights) -> Known {
        let Some(signals) = self.signals else { return Known::default() };
        let mut stale = Vec::new();
        let mut fresh = |name: &str, signal: Option<Signal>, max: u64| {
            let signal = signal?;
            let age = signal.age.plus(self.since);
            if weights.stale_after > Millis::ZERO && age > weights.stale_after {
                stale.push(alloc::format!("{name}, said {} min ago", age.0 / 60_000));
                return None;
            }
            // Nothing that a peer says is believed beyond what anything can be.
            Some(signal.value.min(max))
        };
        let energy = fresh("energy", signals.energy, PRICE_MAX.0);
        let carbon = fresh("carbon", signals.carbon, CARBON_MAX);
        let water = fresh("water", signals.water, WATER_MAX);
        let of_class = signals.prices.iter().find(|price| price.class.as_ref() == Some(class));
        let price = of_class.or_else(|| signals.prices.iter().find(|price| price.class.is_none()));
        Known {
            price: price.map(|price| price.signal.value.min(PRICE_MAX.0)),
            energy,
            pue: signals.pue.map(|it| it.value.clamp(PUE_MIN, PUE_MAX)),
            carbon,
            water,
            stale,
        }
    }
}

/// The middle of what is known; `none` if nothing is.
fn middle(mut values: Vec<u64>, none: u64) -> u64 {
    values.sort_unstable();
    let (lower, upper) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(lower), values.get(upper)) {
        (Some(lower), Some(upper)) => lower.midpoint(*upper),
        _ => none,
    }
}

/// What a GPU-hour costs at each site, all that is weighed.
pub(crate) fn rates(sites: &[Known], weights: &Weights) -> Vec<MicroEuro> {
    let usual =
        |one: fn(&Known) -> Option<u64>, none| middle(sites.iter().filter_map(one).collect(), none);
    let (price, energy) = (usual(|it| it.price, 0), usual(|it| it.energy, 0));
    let (carbon, water) = (usual(|it| it.carbon, 0), usual(|it| it.water, 0));
    let pue = usual(|it| it.pue, PUE_MIN);
    let rate = |site: &Known| {
        let price = u128::from(site.price.unwrap_or(price)) * u128::from(weights.price_permille);
        // Watts times thousandths: millionths of a kilowatt-hour in an hour.
        let drawn = u128::from(weights.gpu_watts) * u128::from(site.pue.unwrap_or(pue));
        let energy = u128::from(site.energy.unwrap_or(energy)) * drawn / 1_000_000;
        let energy = energy * u128::from(weights.energy_permille);
        let weighed = |value: u64, weight: MicroEuro| {
            u128::from(value) * drawn / 1_000_000 * u128::from(weight.0) / 1_000
        };
        let carbon = weighed(site.carbon.unwrap_or(carbon), weights.carbon);
        let water = weighed(site.water.unwrap_or(water), weights.water);
        money((price + energy) / 1_000 + carbon + water)
    };
    sites.iter().map(rate).collect()
}

fn money(micro: u128) -> MicroEuro {
    MicroEuro(u64::try_from(micro).unwrap_or(u64::MAX))
}

/// What a span at a rate for each hour comes to.
pub(crate) fn over(rate: MicroEuro, span: Millis) -> MicroEuro {
    money(u128::from(rate.0) * u128::from(span.0) / HOUR)
}

/// For how long a rate for each hour comes to so much; for ever if it is nothing.
pub(crate) fn until(rate: MicroEuro, sum: MicroEuro) -> Millis {
    let span = (u128::from(sum.0) * HOUR).checked_div(u128::from(rate.0));
    match span {
        None if sum == MicroEuro::ZERO => Millis::ZERO,
        Some(span) => Millis(u64::try_from(span).unwrap_or(u64::MAX)),
        None => Millis(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use specs::id::Revision;
    use specs::signals::Price;

    use super::*;

    fn signal(value: u64, age: u64) -> Signal {
        Signal { value, said_at: Timestamp(0), age: Millis(age) }
    }

    fn class() -> GpuClass {
        "b200".parse().unwrap()
    }

    #[test]
    fn all_that_is_weighed_is_in_the_rate() {
        let site = Known {
            price: Some(2_000_000),
            energy: Some(100_000),
            pue: Some(1_200),
            carbon: Some(300),
            water: Some(1_500),
            stale: vec![],
        };
        // 2 € and 1.2 kWh: 0.12 € of energy, 0.36 kg at 0.08 €, 1.8 l at 0.002 €.
        let sum = 2_000_000 + 120_000 + 28_800 + 3_600;
        assert_eq!(rates(core::slice::from_ref(&site), &Weights::default()), [MicroEuro(sum)]);
        let dry = Weights { water: MicroEuro(0), price_permille: 500, ..Weights::default() };
        assert_eq!(rates(&[site], &dry), [MicroEuro(sum - 1_000_000 - 3_600)]);
    }

    #[test]
    fn what_is_not_known_counts_as_the_middle_of_what_is() {
        let price = |price| Known { price, ..Known::default() };
        let sites = [price(Some(1)), price(None), price(Some(3)), price(Some(9))];
        let weights = Weights::default();
        assert_eq!(rates(&sites, &weights), [1, 3, 3, 9].map(MicroEuro));
        let sites = [price(Some(100)), price(None), price(Some(200))];
        assert_eq!(rates(&sites, &weights), [100, 150, 200].map(MicroEuro));
        assert_eq!(rates(&[price(None), price(None)], &weights), [0, 0].map(MicroEuro));
    }

    #[test]
    fn what_was_said_too_long_ago_is_not_known_and_a_price_does_not_grow_old() {
        let signals = Signals {
            prices: vec![Price { class: None, signal: signal(7, 9_000_000) }],
            carbon: Some(signal(300, 7_000_000)),
            water: Some(signal(5, 7_200_000)),
            revision: Revision(1),
            ..Signals::default()
        };
        let weights = Weights::default();
        let heard = |since| Heard { signals: Some(&signals), since: Millis(since) };
        let known = heard(0).known(&class(), &weights);
        assert_eq!((known.price, known.carbon, known.water), (Some(7), Some(300), Some(5)));
        let known = heard(1).known(&class(), &weights);
        assert_eq!((known.price, known.carbon, known.water), (Some(7), Some(300), None));
        assert_eq!(known.stale, ["water, said 120 min ago"]);
        let never = Weights { stale_after: Millis(0), ..weights };
        assert!(heard(u64::MAX).known(&class(), &never).stale.is_empty());
        assert_eq!(Heard { signals: None, since: Millis(0) }.known(&class(), &never).price, None);
    }

    #[test]
    fn a_class_of_its_own_price_has_that() {
        let price = |class: Option<GpuClass>, value| Price { class, signal: signal(value, 0) };
        let signals =
            Signals { prices: vec![price(None, 2), price(Some(class()), 5)], ..Signals::default() };
        let heard = Heard { signals: Some(&signals), since: Millis(0) };
        let weights = Weights::default();
        assert_eq!(heard.known(&class(), &weights).price, Some(5));
        assert_eq!(heard.known(&"h200".parse().unwrap(), &weights).price, Some(2));
    }

    #[test]
    fn no_sum_overflows() {
        let most = Some(signal(u64::MAX, 0));
        let signals = Signals {
            prices: vec![Price { class: None, signal: signal(u64::MAX, 0) }],
            energy: most,
            pue: most,
            carbon: most,
            water: most,
            revision: Revision(1),
        };
        assert_eq!(over(MicroEuro(u64::MAX), Millis(u64::MAX)), MicroEuro(u64::MAX));
        assert_eq!(until(MicroEuro(1), MicroEuro(u64::MAX)), Millis(u64::MAX));
        assert_eq!(until(MicroEuro(0), MicroEuro(0)), Millis(0));
        assert_eq!(until(MicroEuro(0), MicroEuro(1)), Millis(u64::MAX));
        let weights = Weights {
            price_permille: u32::MAX,
            energy_permille: u32::MAX,
            carbon: MicroEuro(u64::MAX),
            water: MicroEuro(u64::MAX),
            gpu_watts: u32::MAX,
            ..Weights::default()
        };
        let heard = Heard { signals: Some(&signals), since: Millis(0) };
        assert_eq!(rates(&[heard.known(&class(), &weights)], &weights), [MicroEuro(u64::MAX)]);
        assert_eq!(until(MicroEuro(2_000_000), MicroEuro(1_000_000)), Millis(1_800_000));
    }
}
