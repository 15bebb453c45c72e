//! One value of every message about what sites cost.

use specs::id::{Country, DataName, GpuClass, Revision, SiteId};
use specs::job::{DataNeed, Deadline};
use specs::signals::{
    ClassOutlook, DataSet, FreeNodes, Link, Price, Signal, Signals, WaitForecast, Weights,
};
use specs::unit::{GpuCount, MicroEuro, Millis, Timestamp};
use specs::wire::client;

use super::{Sample, sample};

pub(crate) fn all() -> Vec<Sample> {
    vec![
        sample(&data_need()),
        sample(&Deadline { within: Millis(21_600_000), by: Timestamp(1_798_088_400_000) }),
        sample(&signal(7)),
        sample(&price()),
        sample(&signals()),
        sample(&link()),
        sample(&data_set()),
        sample(&weights()),
        sample(&free_nodes()),
        sample(&forecast()),
        sample(&outlook()),
        sample(&site_cost()),
        sample(&price_set()),
        sample(&client::SignalsSet {
            prices: vec![price_set()],
            energy: Some(MicroEuro(118_000)),
            pue: Some(1_150),
            carbon: Some(213),
            water: Some(1_800),
            clear: true,
        }),
        sample(&client::WeightsSet { weights: weights() }),
        sample(&client::DataSetSet { name: corpus(), set: data_set() }),
        sample(&client::DataSetRemove { name: corpus() }),
        sample(&client::LinkSet { peer: giga(), link: Some(link()) }),
        sample(&data_view()),
    ]
}

fn giga() -> SiteId {
    "giga".parse().unwrap()
}

pub(crate) fn corpus() -> DataName {
    "acme/corpus-2026".parse().unwrap()
}

fn class() -> GpuClass {
    "h200".parse().unwrap()
}

pub(crate) fn data_need() -> DataNeed {
    DataNeed { name: corpus(), bytes: 2_199_023_255_552 }
}

fn signal(value: u64) -> Signal {
    Signal { value, said_at: Timestamp(1_780_000_000_011), age: Millis(60_000) }
}

fn price() -> Price {
    Price { class: Some(class()), signal: signal(2_350_000) }
}

pub(crate) fn signals() -> Signals {
    Signals {
        prices: vec![price()],
        energy: Some(signal(118_000)),
        pue: Some(signal(1_150)),
        carbon: Some(signal(213)),
        water: Some(signal(1_800)),
        revision: Revision(91),
    }
}

pub(crate) fn link() -> Link {
    Link { mbit_per_second: 10_000 }
}

fn data_set() -> DataSet {
    let country: Country = "DE".parse().unwrap();
    DataSet { bytes: 2_199_023_255_552, held: true, countries: vec![country], sites: vec![giga()] }
}

pub(crate) fn weights() -> Weights {
    Weights {
        wait: MicroEuro(1_000_000),
        price_permille: 900,
        energy_permille: 800,
        carbon: MicroEuro(80_000),
        water: MicroEuro(2_000),
        gpu_watts: 1_100,
        stale_after: Millis(7_200_000),
        unknown_wait: Millis(600_000),
        work_rate_micro: 1_000,
        patience_max: Millis(86_400_000),
    }
}

fn free_nodes() -> FreeNodes {
    FreeNodes { gpus: GpuCount(8), nodes: 3 }
}

fn forecast() -> WaitForecast {
    WaitForecast { nodes_max: 8, wait: Millis(42_000), starts: 17 }
}

pub(crate) fn outlook() -> ClassOutlook {
    ClassOutlook {
        class: class(),
        free: vec![free_nodes()],
        reclaimable: GpuCount(16),
        waits: vec![forecast()],
    }
}

pub(crate) fn site_cost() -> client::SiteCost {
    client::SiteCost {
        wait: Millis(2_000),
        bring: Millis(2_460_000),
        missing_bytes: 2_199_023_255_552,
        run: Millis(3_600_000),
        rate: MicroEuro(2_502_000),
        total: MicroEuro(3_186_000),
        stale: vec!["carbon".to_owned()],
        late: true,
        best: true,
        patience: Millis(1_000),
    }
}

fn price_set() -> client::PriceSet {
    client::PriceSet { class: Some(class()), price: MicroEuro(2_350_000) }
}

pub(crate) fn data_view() -> client::DataView {
    client::DataView { name: corpus(), set: Some(data_set()) }
}
