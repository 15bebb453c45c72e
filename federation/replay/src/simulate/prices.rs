//! What electricity costs at each site as time goes on.

use std::collections::BTreeMap;
use std::path::Path;

use specs::id::SiteId;

use crate::read::{Progress, ReadError, Table};
use crate::simulate::books::Level;
use crate::simulate::report::Energy;
use crate::simulate::site::Time;
use crate::trace::WHOLE;

/// A price that holds until the next one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Price {
    /// Of the clock of the jobs' file.
    from_s: u64,
    /// Less than nothing, at times.
    eur_per_kwh: f64,
    kg_co2_per_kwh: Option<f64>,
}

/// Prices of sites.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prices {
    of: BTreeMap<String, Vec<Price>>,
    /// What a GPU in use takes, with its part of the node and of the cooling.
    watts_per_gpu: u32,
    /// The same of sites of which it was said.
    watts_of: BTreeMap<String, f64>,
}

/// Reads a file with the columns `time_s`, `site`, `eur_per_kwh` and, if it likes,
/// `kg_co2_per_kwh`. Each row holds until the site's next; the first also before, the last for ever.
///
/// # Errors
/// The first thing in the file that cannot be used.
pub fn read_prices(
    path: &Path,
    watts_per_gpu: u32,
    progress: &mut dyn Progress,
) -> Result<Prices, ReadError> {
    let mut table = Table::open(path, progress)?;
    let (time, site) = (table.needed("time_s")?, table.needed("site")?);
    let (eur, co2) = (table.needed("eur_per_kwh")?, table.column("kg_co2_per_kwh"));
    let mut prices = Prices { watts_per_gpu, ..Prices::default() };
    while table.advance()? {
        let price = Price {
            from_s: table.number(time)?,
            eur_per_kwh: table.decimal(eur)?,
            kg_co2_per_kwh: co2.map(|column| table.decimal(column)).transpose()?,
        };
        let name = table.text(Some(site)).to_owned();
        if name.is_empty() {
            return Err(table.row_fault("column `site` is empty"));
        }
        let known = prices.of.entry(name).or_default();
        if let Some(last) = known.last().filter(|last| last.from_s >= price.from_s) {
            let reason = format!(
                "column `time_s`: {} does not come after {}, the site's row before",
                price.from_s, last.from_s
            );
            return Err(table.row_fault(reason));
        }
        known.push(price);
    }
    if prices.of.is_empty() {
        return Err(table.no_rows());
    }
    Ok(prices)
}

impl Prices {
    /// No prices yet.
    #[must_use]
    pub fn new(watts_per_gpu: u32) -> Self {
        Self { watts_per_gpu, ..Self::default() }
    }

    /// A GPU in use takes so much at the site, with its part of the node and of the cooling.
    pub fn set_watts(&mut self, site: &SiteId, watts: f64) {
        self.watts_of.insert(site.to_string(), watts);
    }

    /// What holds at the site at all times, where nothing is said that goes with time.
    pub fn set_flat(&mut self, site: &SiteId, eur_per_kwh: f64, kg_co2_per_kwh: Option<f64>) {
        let price = Price { from_s: 0, eur_per_kwh, kg_co2_per_kwh };
        self.of.entry(site.to_string()).or_insert_with(|| vec![price]);
    }

    /// The carbon of a kilowatt-hour at the site wherever its prices do not say.
    pub fn set_carbon(&mut self, site: &SiteId, kg_co2_per_kwh: f64) {
        for price in self.of.entry(site.to_string()).or_default() {
            price.kg_co2_per_kwh.get_or_insert(kg_co2_per_kwh);
        }
    }

    #[must_use]
    pub fn has(&self, site: &SiteId) -> bool {
        self.of.contains_key(site.as_str())
    }

    /// The sites that have prices.
    pub(super) fn sites(&self) -> impl Iterator<Item = &str> {
        self.of.keys().map(String::as_str)
    }

    /// What a site's GPUs took from the beginning, which is that second of the jobs' file, to `end`.
    pub(super) fn energy(
        &self,
        site: &str,
        levels: &[Level],
        first_s: u64,
        end: Time,
    ) -> Option<Energy> {
        let prices = self.of.get(site)?;
        let at = |price: &Price| price.from_s.saturating_sub(first_s) * 1_000;
        let usual = f64::from(self.watts_per_gpu);
        let watts = self.watts_of.get(site).copied().unwrap_or(usual);
        let (mut kwh, mut eur, mut co2) = (0.0, 0.0, 0.0);
        for (nth, level) in levels.iter().enumerate().filter(|(_, level)| level.busy > 0) {
            let until = levels.get(nth + 1).map_or(end, |next| next.at).min(end);
            let gpus = level.busy as f64 / f64::from(WHOLE);
            let kilowatts = gpus * watts / 1_000.0;
            let first = prices.partition_point(|price| at(price) <= level.at).saturating_sub(1);
            let mut from = level.at;
            for (nth, price) in prices.iter().enumerate().skip(first) {
                let to = prices.get(nth + 1).map_or(until, at).min(until);
                if to > from {
                    let used = kilowatts * (to - from) as f64 / 3_600_000.0;
                    kwh += used;
                    eur += used * price.eur_per_kwh;
                    co2 += used * price.kg_co2_per_kwh.unwrap_or(0.0);
                    from = to;
                }
                if from >= until {
                    break;
                }
            }
        }
        let has_co2 = prices.iter().all(|price| price.kg_co2_per_kwh.is_some());
        Some(Energy { kwh, eur, co2_kg: has_co2.then_some(co2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_paid_at_the_price_of_its_time() {
        let price = |from_s, eur_per_kwh| Price { from_s, eur_per_kwh, kg_co2_per_kwh: None };
        let of = [("b".to_owned(), vec![price(1_000, 0.1), price(4_600, 0.3)])];
        let prices = Prices { of: of.into(), ..Prices::new(1_000) };
        let level = |at, busy| Level { at, busy, ..Level::default() };
        // Two GPUs for two hours from second 1,000 on: one hour at each price.
        let levels = [level(0, 2_000), level(7_200_000, 0)];
        let told = prices.energy("b", &levels, 1_000, 9_000_000).unwrap();
        assert!((told.kwh - 4.0).abs() < 1e-9 && (told.eur - 0.8).abs() < 1e-9, "{told:?}");
        assert_eq!((told.co2_kg, prices.energy("c", &levels, 0, 1)), (None, None));
        // Before the first price that one holds.
        let told = prices.energy("b", &levels, 0, 3_600_000).unwrap();
        assert!((told.eur - 0.2).abs() < 1e-9, "{told:?}");
    }
}
