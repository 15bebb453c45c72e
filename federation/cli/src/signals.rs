//! `federation site signals|weights|data|link`: what sites cost and hold, and how that is weighed.

use serde_json::{Value, json};
use specs::codec::Message;
use specs::fault::FaultCode;
use specs::signals::{DataSet, LINK_MBIT_DEFAULT, Signal, Signals, Weights};
use specs::unit::{MicroEuro, Millis, Timestamp};
use specs::wire::client::{
    DataSetRemove, DataSetSet, DataView, Empty, LinkSet, SignalsSet, SiteView, WeightsSet,
};
use specs::wire::method::Method;

use crate::app::App;
use crate::error::{Failure, Outcome};
use crate::output::{self, Item, Listed, joined, note, texts};
use crate::site::all;

pub(crate) mod args;

use args::{
    DataAddArgs, DataCommand, LinkCommand, SignalsCommand, SignalsSetArgs, WeightsCommand,
    WeightsSetArgs,
};

/// `federation site signals …`.
pub(crate) async fn run(app: &App, command: SignalsCommand) -> Outcome<()> {
    match command {
        SignalsCommand::Ls(format) => {
            let (views, stale) = all(app, Method::SiteList).await?;
            let rows: Vec<SignalsRow<'_>> = views.sites.iter().map(SignalsRow).collect();
            app.output(format).as_of(stale).list(&rows, Some(views.revision))
        }
        SignalsCommand::Set(args) => set(app, args).await,
        SignalsCommand::Clear => {
            let nothing = SignalsSet {
                prices: Vec::new(),
                energy: None,
                pue: None,
                carbon: None,
                water: None,
                clear: true,
            };
            change(app, Method::SignalsSet, &nothing).await?;
            note("nothing is known any more of what this site costs");
            Ok(())
        }
    }
}

async fn set(app: &App, args: SignalsSetArgs) -> Outcome<()> {
    let SignalsSetArgs { price: prices, energy, pue, carbon, water } = args;
    let is_empty = prices.is_empty()
        && energy.is_none()
        && pue.is_none()
        && carbon.is_none()
        && water.is_none();
    if is_empty {
        let failure = Failure::new(FaultCode::InvalidArgument, "nothing is said");
        return Err(failure.with_hint("give --price, --energy, --pue, --carbon or --water"));
    }
    let said = SignalsSet { prices, energy, pue, carbon, water, clear: false };
    change(app, Method::SignalsSet, &said).await?;
    note("peers are told with the next report; see `federation site signals ls`");
    Ok(())
}

async fn change(app: &App, method: Method, question: &impl Message) -> Outcome<()> {
    let mut client = app.client()?;
    let Empty {} = client.change(method, question).await?;
    client.close().await;
    Ok(())
}

/// `federation site weights …`.
pub(crate) async fn weights(app: &App, command: WeightsCommand) -> Outcome<()> {
    match command {
        WeightsCommand::Show(format) => {
            let (views, stale) = all(app, Method::SiteList).await?;
            let row = WeightsRow(own_weights(&views.sites));
            let details = || row.details();
            app.output(format).as_of(stale).one(&row, Some(views.revision), details)
        }
        WeightsCommand::Set(args) => {
            let (views, _) = all(app, Method::SiteList).await?;
            let weights = changed(own_weights(&views.sites), *args)?;
            change(app, Method::WeightsSet, &WeightsSet { weights }).await
        }
        WeightsCommand::Reset => {
            change(app, Method::WeightsSet, &WeightsSet { weights: Weights::default() }).await
        }
    }
}

fn own_weights(sites: &[SiteView]) -> Weights {
    sites.iter().find_map(|site| site.weights.clone()).unwrap_or_default()
}

fn changed(before: Weights, args: WeightsSetArgs) -> Outcome<Weights> {
    let small = |value: Option<u64>, before: u32| match value.map(u32::try_from) {
        None => Ok(before),
        Some(value) => value.map_err(|_| Failure::usage("the factor is far too large")),
    };
    Ok(Weights {
        wait: args.wait.unwrap_or(before.wait),
        price_permille: small(args.price, before.price_permille)?,
        energy_permille: small(args.energy, before.energy_permille)?,
        carbon: args.carbon.unwrap_or(before.carbon),
        water: args.water.unwrap_or(before.water),
        gpu_watts: args.gpu_watts.unwrap_or(before.gpu_watts),
        stale_after: args.stale_after.unwrap_or(before.stale_after),
        unknown_wait: args.unknown_wait.unwrap_or(before.unknown_wait),
        work_rate_micro: small(args.work_rate, before.work_rate_micro)?,
        patience_max: args.patience_max.unwrap_or(before.patience_max),
    })
}

/// `federation site data …`.
pub(crate) async fn data(app: &App, command: DataCommand) -> Outcome<()> {
    match command {
        DataCommand::Ls(format) => {
            let (views, stale) = all(app, Method::SiteList).await?;
            let of = |site| move |data| DataRow { site, data };
            let rows: Vec<DataRow<'_>> =
                views.sites.iter().flat_map(|site| site.data.iter().map(of(site))).collect();
            app.output(format).as_of(stale).list(&rows, Some(views.revision))
        }
        DataCommand::Add(args) => {
            let DataAddArgs { name, size, countries, sites, absent } = args;
            let set = DataSet { bytes: size.unwrap_or(0), held: !absent, countries, sites };
            change(app, Method::DataSetSet, &DataSetSet { name, set }).await
        }
        DataCommand::Rm { name } => {
            change(app, Method::DataSetRemove, &DataSetRemove { name }).await
        }
    }
}

/// `federation site link …`.
pub(crate) async fn link(app: &App, command: LinkCommand) -> Outcome<()> {
    match command {
        LinkCommand::Ls(format) => {
            let (views, stale) = all(app, Method::SiteList).await?;
            let peers = views.sites.iter().filter(|site| !site.own);
            let rows: Vec<LinkRow<'_>> = peers.map(LinkRow).collect();
            app.output(format).as_of(stale).list(&rows, Some(views.revision))
        }
        LinkCommand::Set { peer, speed } => {
            change(app, Method::LinkSet, &LinkSet { peer, link: Some(speed) }).await
        }
        LinkCommand::Rm { peer } => {
            change(app, Method::LinkSet, &LinkSet { peer, link: None }).await
        }
    }
}

/// A whole number of thousandths or millionths, as people write it.
fn decimal(value: u64, places: usize) -> String {
    let digits = format!("{value:0>width$}", width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

fn euros(sum: MicroEuro) -> String {
    decimal(sum.0, 6)
}

struct SignalsRow<'a>(&'a SiteView);

impl SignalsRow<'_> {
    fn prices(&self) -> Vec<String> {
        let prices = self.0.signals.iter().flat_map(|signals| &signals.prices);
        let text = |price: &specs::signals::Price| {
            let euros = decimal(price.signal.value, 6);
            price.class.as_ref().map_or(euros.clone(), |class| format!("{class} {euros}"))
        };
        prices.map(text).collect()
    }

    fn signal(&self, of: fn(&Signals) -> Option<Signal>) -> Option<Signal> {
        self.0.signals.as_ref().and_then(of)
    }

    /// Of what was said longest ago, of all that grows old.
    fn oldest(&self) -> Option<Millis> {
        let measured: [fn(&Signals) -> Option<Signal>; 3] =
            [|it| it.energy, |it| it.carbon, |it| it.water];
        measured.into_iter().filter_map(|of| self.signal(of)).map(|signal| signal.age).max()
    }
}

impl Listed for SignalsRow<'_> {
    const KIND: &'static str = "Signals";
    const HEADERS: &'static [&'static str] =
        &["SITE", "€/GPU-H", "€/KWH", "PUE", "G CO2/KWH", "L WATER/KWH", "OLDEST"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let prices = self.prices();
        let value = |of, places| self.signal(of).map(|it: Signal| decimal(it.value, places));
        vec![
            Item::of(&self.0.site),
            Item::maybe((!prices.is_empty()).then(|| prices.join(", "))),
            Item::maybe(value(|it| it.energy, 6)),
            Item::maybe(value(|it| it.pue, 3)),
            Item::maybe(value(|it| it.carbon, 0)),
            Item::maybe(value(|it| it.water, 3)),
            Item::maybe(self.oldest().map(output::span)),
        ]
    }

    fn name(&self) -> String {
        self.0.site.to_string()
    }

    fn json(&self) -> Value {
        let signal = |of| {
            let signal: Option<Signal> = self.signal(of);
            signal.map(|it| json!({ "value": it.value, "age_ms": it.age.0 }))
        };
        let price = |price: &specs::signals::Price| {
            json!({
                "class": price.class.as_ref().map(ToString::to_string),
                "micro_euro": price.signal.value,
                "age_ms": price.signal.age.0,
            })
        };
        let prices = self.0.signals.iter().flat_map(|signals| &signals.prices);
        json!({
            "site": self.0.site.as_str(),
            "own": self.0.own,
            "revision": self.0.signals.as_ref().map(|it| it.revision.0),
            "prices": prices.map(price).collect::<Vec<_>>(),
            "energy_micro_euro": signal(|it| it.energy),
            "pue_permille": signal(|it| it.pue),
            "carbon_grams": signal(|it| it.carbon),
            "water_millilitres": signal(|it| it.water),
        })
    }
}

struct WeightsRow(Weights);

impl WeightsRow {
    fn details(&self) -> Vec<(&'static str, String)> {
        let it = &self.0;
        let never = |span: Millis| match span {
            Millis::ZERO => "never".to_owned(),
            span => output::span(span),
        };
        let rate = match it.work_rate_micro {
            0 => "off".to_owned(),
            rate => decimal(rate.into(), 6),
        };
        vec![
            ("An hour sooner", format!("{} €", euros(it.wait))),
            ("Price", format!("× {}", decimal(it.price_permille.into(), 3))),
            ("Energy", format!("× {}", decimal(it.energy_permille.into(), 3))),
            ("Carbon", format!("{} €/kg", euros(it.carbon))),
            ("Water", format!("{} €/l", euros(it.water))),
            ("A GPU draws", format!("{} W", it.gpu_watts)),
            ("Stale after", never(it.stale_after)),
            ("Unknown wait", output::span(it.unknown_wait)),
            ("Work rate", rate),
            ("Longest patience", output::span(it.patience_max)),
        ]
    }
}

impl Listed for WeightsRow {
    const KIND: &'static str = "Weights";
    const HEADERS: &'static [&'static str] = &["WAIT", "PRICE", "ENERGY", "CARBON", "WATER"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let it = &self.0;
        vec![
            Item::of(euros(it.wait)),
            Item::of(decimal(it.price_permille.into(), 3)),
            Item::of(decimal(it.energy_permille.into(), 3)),
            Item::of(euros(it.carbon)),
            Item::of(euros(it.water)),
        ]
    }

    fn name(&self) -> String {
        "weights".to_owned()
    }

    fn json(&self) -> Value {
        let it = &self.0;
        json!({
            "wait_micro_euro": it.wait.0,
            "price_permille": it.price_permille,
            "energy_permille": it.energy_permille,
            "carbon_micro_euro_per_kg": it.carbon.0,
            "water_micro_euro_per_litre": it.water.0,
            "gpu_watts": it.gpu_watts,
            "stale_after_ms": it.stale_after.0,
            "unknown_wait_ms": it.unknown_wait.0,
            "work_rate_micro": it.work_rate_micro,
            "patience_max_ms": it.patience_max.0,
        })
    }
}

struct DataRow<'a> {
    site: &'a SiteView,
    data: &'a DataView,
}

impl Listed for DataRow<'_> {
    const KIND: &'static str = "Data";
    const HEADERS: &'static [&'static str] =
        &["DATA", "SITE", "HELD", "BYTES", "COUNTRIES", "SITES ONLY"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let set = self.data.set.as_ref();
        let list = |text: String| (!text.is_empty()).then_some(text);
        vec![
            Item::of(&self.data.name),
            Item::of(&self.site.site),
            Item::of(if set.is_none_or(|set| set.held) { "yes" } else { "no" }),
            Item::maybe(set.map(|set| set.bytes).filter(|bytes| *bytes > 0)),
            Item::maybe(set.and_then(|set| list(joined(&set.countries)))),
            Item::maybe(set.and_then(|set| list(joined(&set.sites)))),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.site.site, self.data.name)
    }

    fn json(&self) -> Value {
        let set = self.data.set.as_ref();
        json!({
            "data": self.data.name.as_str(),
            "site": self.site.site.as_str(),
            "held": set.is_none_or(|set| set.held),
            "bytes": set.map(|set| set.bytes).filter(|bytes| *bytes > 0),
            "countries": set.map(|set| texts(&set.countries)),
            "sites": set.map(|set| texts(&set.sites)),
        })
    }
}

struct LinkRow<'a>(&'a SiteView);

impl Listed for LinkRow<'_> {
    const KIND: &'static str = "Link";
    const HEADERS: &'static [&'static str] = &["PEER", "MBIT/S", "SAID"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let speed = self.0.link.as_ref().map(|link| link.mbit_per_second);
        vec![
            Item::of(&self.0.site),
            Item::of(speed.unwrap_or(LINK_MBIT_DEFAULT)),
            Item::of(if speed.is_some() { "yes" } else { "no" }),
        ]
    }

    fn name(&self) -> String {
        self.0.site.to_string()
    }

    fn json(&self) -> Value {
        let speed = self.0.link.as_ref().map(|link| link.mbit_per_second);
        json!({
            "peer": self.0.site.as_str(),
            "mbit_per_second": speed.unwrap_or(LINK_MBIT_DEFAULT),
            "said": speed.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let cases = [(2_350_000, 6, "2.35"), (1_000, 3, "1"), (5, 3, "0.005"), (213, 0, "213")];
        for (value, places, text) in cases {
            assert_eq!(decimal(value, places), text);
        }
        assert_eq!(decimal(0, 6), "0");
    }
}
