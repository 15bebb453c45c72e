//! The options of `federation site signals|weights|data|link`.

use clap::{Args, Subcommand};
use specs::id::{Country, DataName, GpuClass, SiteId};
use specs::signals::Link;
use specs::unit::{MicroEuro, Millis};
use specs::wire::client::PriceSet;

use crate::args::{FormatArgs, parse_span};

#[derive(Debug, Subcommand)]
pub(crate) enum SignalsCommand {
    /// List what running at each site costs, as far as it is known, and how old that is
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Say what running at this site costs; what is not given stays as it is, and grows older
    Set(SignalsSetArgs),
    /// Forget all that was said of this site
    Clear,
}

#[derive(Debug, Args)]
pub(crate) struct SignalsSetArgs {
    /// Euros for a GPU-hour without its energy, of a class or of all others: `2.35`, `h200=3.10`
    #[arg(long, value_parser = parse_price, value_name = "[CLASS=]EUROS")]
    pub(crate) price: Vec<PriceSet>,
    /// Euros for a kilowatt-hour
    #[arg(long, value_parser = parse_euros, value_name = "EUROS")]
    pub(crate) energy: Option<MicroEuro>,
    /// What the building draws for each watt of its computers: `1.15`
    #[arg(long, value_parser = parse_thousandths, value_name = "FACTOR")]
    pub(crate) pue: Option<u64>,
    /// Grams of carbon dioxide for a kilowatt-hour
    #[arg(long, value_name = "GRAMS")]
    pub(crate) carbon: Option<u64>,
    /// Litres of water for a kilowatt-hour: `1.8`
    #[arg(long, value_parser = parse_thousandths, value_name = "LITRES")]
    pub(crate) water: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WeightsCommand {
    /// Show how this site weighs what others cost
    Show(FormatArgs),
    /// Change how it does; what is not given stays as it is
    Set(Box<WeightsSetArgs>),
    /// Weigh as a new site does
    Reset,
}

#[derive(Debug, Args)]
pub(crate) struct WeightsSetArgs {
    /// What it is worth to have a GPU an hour sooner [default: 1]
    #[arg(long, value_parser = parse_euros, value_name = "EUROS")]
    pub(crate) wait: Option<MicroEuro>,
    /// How much of a price counts [default: 1]
    #[arg(long, value_parser = parse_thousandths, value_name = "FACTOR")]
    pub(crate) price: Option<u64>,
    /// How much of the price of energy counts [default: 1]
    #[arg(long, value_parser = parse_thousandths, value_name = "FACTOR")]
    pub(crate) energy: Option<u64>,
    /// What a kilogram of carbon dioxide counts for [default: 0.08]
    #[arg(long, value_parser = parse_euros, value_name = "EUROS")]
    pub(crate) carbon: Option<MicroEuro>,
    /// What a litre of water counts for [default: 0.002]
    #[arg(long, value_parser = parse_euros, value_name = "EUROS")]
    pub(crate) water: Option<MicroEuro>,
    /// What a GPU and its share of the node draw [default: 1000]
    #[arg(long, value_name = "WATTS")]
    pub(crate) gpu_watts: Option<u32>,
    /// Energy, carbon and water said longer ago count as not known; `0s`: never [default: 2h]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) stale_after: Option<Millis>,
    /// How long jobs are taken to wait at a full site that says nothing of it [default: 10m]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) unknown_wait: Option<Millis>,
    /// A job that had one GPU-hour divided by this waits a day at home before it leaves again, one
    /// that had twice as much sixteen; 0 for off [default: 0]
    #[arg(long, value_parser = parse_millionths, value_name = "RATE")]
    pub(crate) work_rate: Option<u64>,
    /// The longest that a job waits at home for what leaving costs [default: 1d]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) patience_max: Option<Millis>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// List the data sets of this site and its peers
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Say that this site holds a data set, how large it is and where it may be used; once more
    /// changes all of it
    Add(DataAddArgs),
    /// Forget a data set and what it is bound to
    #[command(visible_alias = "remove")]
    Rm { name: DataName },
}

#[derive(Debug, Args)]
pub(crate) struct DataAddArgs {
    /// Names with `/` between: `acme/corpus-2026`
    pub(crate) name: DataName,
    /// How large it is: `800Gi`, `2Ti`
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub(crate) size: Option<u64>,
    /// It may be used in these countries only, or in the Union (`EU`); may be given several times
    #[arg(long = "country", value_name = "COUNTRY")]
    pub(crate) countries: Vec<Country>,
    /// It may be used at these sites only; may be given several times
    #[arg(long = "site-only", value_name = "SITE")]
    pub(crate) sites: Vec<SiteId>,
    /// It does not lie here; only the rules count
    #[arg(long)]
    pub(crate) absent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// List how fast the links to peers are
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Say how fast data comes to a peer
    Set {
        peer: SiteId,
        /// `10Gbit` or `500Mbit` a second
        #[arg(value_parser = parse_speed)]
        speed: Link,
    },
    /// Nobody knows how fast it is: 1Gbit is taken
    #[command(visible_alias = "remove")]
    Rm { peer: SiteId },
}

/// A number with at most so many places behind the point, times ten to their power.
fn parse_decimal(text: &str, places: usize) -> Result<u64, String> {
    let wrong = || format!("write a number with at most {places} places, as `1.5`");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > places {
        return Err(wrong());
    }
    format!("{whole}{part:0<places$}").parse().map_err(|_| wrong())
}

fn parse_thousandths(text: &str) -> Result<u64, String> {
    parse_decimal(text, 3)
}

fn parse_millionths(text: &str) -> Result<u64, String> {
    parse_decimal(text, 6)
}

fn parse_euros(text: &str) -> Result<MicroEuro, String> {
    parse_millionths(text).map(MicroEuro)
}

fn parse_price(text: &str) -> Result<PriceSet, String> {
    let (class, price) = match text.split_once('=') {
        Some((class, price)) => {
            (Some(class.parse::<GpuClass>().map_err(|error| error.to_string())?), price)
        }
        None => (None, text),
    };
    Ok(PriceSet { class, price: parse_euros(price)? })
}

fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "write it as `800Gi` or `2Ti`".to_owned();
    let units = [("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let found = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = found.ok_or_else(wrong)?;
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    if count == 0 || digits.starts_with('+') {
        return Err(wrong());
    }
    count.checked_mul(1 << shift).ok_or_else(wrong)
}

fn parse_speed(text: &str) -> Result<Link, String> {
    let wrong = || "write it as `10Gbit` or `500Mbit`".to_owned();
    let units = [("Mbit", 1), ("Gbit", 1_000)];
    let found = units.iter().find_map(|(unit, mbit)| Some((text.strip_suffix(unit)?, *mbit)));
    let (digits, mbit) = found.ok_or_else(wrong)?;
    let count: u32 = digits.parse().map_err(|_| wrong())?;
    let speed = count.checked_mul(mbit).filter(|speed| *speed > 0).ok_or_else(wrong)?;
    Ok(Link { mbit_per_second: speed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_exact() {
        let cases = [
            ("2.35", 6, Some(2_350_000)),
            ("1.15", 3, Some(1_150)),
            ("2", 3, Some(2_000)),
            ("0.002", 6, Some(2_000)),
            ("1.1234", 3, None),
            ("-1", 3, None),
            ("1.", 3, None),
            (".5", 3, None),
            ("1e3", 3, None),
            ("", 3, None),
            ("99999999999999999999", 3, None),
        ];
        for (text, places, value) in cases {
            assert_eq!(parse_decimal(text, places).ok(), value, "{text:?}");
        }
    }

    #[test]
    fn a_price_may_be_of_one_class() {
        let price = parse_price("h200=3.10").unwrap();
        assert_eq!(price.class, Some("h200".parse().unwrap()));
        assert_eq!(price.price, MicroEuro(3_100_000));
        assert_eq!(parse_price("0.5").unwrap().class, None);
        assert!(parse_price("=1").is_err() && parse_price("h200=").is_err());
    }

    #[test]
    fn a_size_and_a_speed_have_units() {
        assert_eq!(parse_size("2Ti"), Ok(2 << 40));
        assert!(
            ["0Gi", "2T", "Gi", "+1Gi", "99999999999Ti"].iter().all(|it| parse_size(it).is_err())
        );
        assert_eq!(parse_speed("10Gbit"), Ok(Link { mbit_per_second: 10_000 }));
        assert!(["0Gbit", "10", "10G", "9999999Gbit"].iter().all(|it| parse_speed(it).is_err()));
    }
}
