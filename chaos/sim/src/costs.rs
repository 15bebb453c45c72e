//! What sites say of themselves, where data may go, and by when jobs should have ended.

use federation_core::{Command, SetDataSet, SetLink, SetSignals, SetWeights};
use specs::id::{DataName, SiteId};
use specs::job::{DataNeed, Deadline, JobSpec};
use specs::signals::{DataSet, Link, Weights};
use specs::unit::{MicroEuro, Millis, Timestamp};
use specs::wire::client::{PriceSet, SignalsSet};

use crate::rng::Rng;
use crate::setup;

const DATA: [&str; 3] = ["acme/corpus", "acme/secret", "beta/corpus"];

/// What operators do about costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// How often one says what a site costs, or how fast a link is.
    pub(crate) says: u64,
}

impl Habits {
    /// In most worlds sites are of the version before, so that what they cost hides nothing else.
    pub(crate) fn draw(seed: u64) -> Option<Self> {
        let mut rng = Rng::of(seed, "costs");
        let habits = Self { says: rng.below(8) };
        rng.chance(400).then_some(habits)
    }
}

fn name(nth: usize) -> DataName {
    DataName::new(DATA[nth]).expect("a constant that keeps the rules of names")
}

/// What a site begins with. Rules about data are its own, and stay: what one site forbids, another
/// may not have heard of.
pub(crate) fn found(rng: &mut Rng) -> Vec<Command> {
    let mut commands = vec![weights(rng)];
    for nth in 0..DATA.len() {
        if rng.chance(500) {
            let set = data_set(rng);
            commands.push(Command::SetDataSet(SetDataSet { name: name(nth), set }));
        }
    }
    commands
}

/// Nobody waits at home for longer than a run has time for.
fn weights(rng: &mut Rng) -> Command {
    let weights = Weights {
        wait: MicroEuro(rng.range(0, 2_000_000)),
        stale_after: Millis(if rng.chance(300) { 0 } else { rng.range(1_000, 20_000) }),
        unknown_wait: Millis(rng.range(0, 60_000)),
        work_rate_micro: if rng.chance(500) { 0 } else { rng.small(1, 2_000_000) },
        patience_max: Millis(rng.range(0, 5_000)),
        ..Weights::default()
    };
    Command::SetWeights(SetWeights { weights })
}

fn data_set(rng: &mut Rng) -> DataSet {
    let all = setup::countries();
    let mut set = DataSet {
        bytes: rng.range(0, 1_000_000_000),
        held: rng.chance(500),
        countries: Vec::new(),
        sites: Vec::new(),
    };
    match rng.below(4) {
        0 => set.sites.push(setup::site_name(rng.index(3))),
        1 => {}
        _ => {
            let count = 1 + rng.index(2);
            set.countries.extend((0..count).map(|_| all[rng.index(all.len())]));
        }
    }
    set
}

/// An operator says some of what a site costs, forgets it all, or says how fast a link is.
pub(crate) fn say(rng: &mut Rng, peer: Option<SiteId>, at: Timestamp) -> Command {
    if let Some(peer) = peer.filter(|_| rng.chance(300)) {
        let link = rng.chance(700).then(|| Link { mbit_per_second: rng.small(1, 10_000) });
        return Command::SetLink(SetLink { peer, link });
    }
    let price = PriceSet { class: None, price: MicroEuro(rng.range(0, 4_000_000)) };
    let said = SignalsSet {
        prices: if rng.chance(700) { vec![price] } else { Vec::new() },
        energy: rng.chance(500).then(|| MicroEuro(rng.range(0, 400_000))),
        pue: rng.chance(500).then(|| rng.range(1_000, 2_000)),
        carbon: rng.chance(500).then(|| rng.range(0, 900)),
        water: rng.chance(500).then(|| rng.range(0, 9_000)),
        clear: rng.chance(200),
    };
    Command::SetSignals(SetSignals { said, at })
}

/// Gives a job what only a site of the version keeps.
pub(crate) fn draw(rng: &mut Rng, spec: &mut JobSpec) {
    if rng.chance(500) {
        let first = rng.index(DATA.len());
        let count = 1 + rng.index(2);
        let need = |nth: usize| DataNeed {
            name: name((first + nth) % DATA.len()),
            bytes: 1_000_000 * nth as u64,
        };
        spec.data = (0..count).map(need).collect();
    }
    if rng.chance(300) {
        let within = Millis(rng.range(1, 90_000));
        spec.deadline = Some(Deadline { within, by: Timestamp(0) });
    }
}
