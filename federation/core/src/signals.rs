//! What an operator says of the site: what it costs, what it holds, how fast its links are, and how
//! it weighs what other sites cost. Nothing safe rests on it but where data may go.

use alloc::string::String;
use alloc::sync::Arc;

use specs::fault::{Fault, FaultCode};
use specs::signals::{
    CARBON_MAX, DATA_BYTES_MAX, DATA_RULES_MAX, DATA_SETS_MAX, LINK_MBIT_MAX, PRICE_MAX,
    PRICES_MAX, PUE_MAX, PUE_MIN, Price, Signal, Signals, WATER_MAX, Weights,
};
use specs::unit::{MicroEuro, Millis};
use specs::version::ClusterVersion;

use crate::apply::Reply;
use crate::command::{RemoveDataSet, SetDataSet, SetLink, SetSignals, SetWeights};
use crate::effect::{Effect, Effects};
use crate::state::State;

pub(crate) const SINCE: ClusterVersion = ClusterVersion::SITES;
const TOO_EARLY: Reply = Reply::NoOp("the site's version knows nothing of what sites cost");
/// Largest weight of anything in money: a million euros.
const WEIGHT_MAX: MicroEuro = MicroEuro(1_000_000_000_000);
/// Largest weight in thousandths.
const PERMILLE_MAX: u32 = 1_000_000;
/// Most that a GPU and its share of a node may draw.
const WATTS_MAX: u32 = 100_000;

fn refuse(message: String) -> Reply {
    Reply::Refused(Fault::new(FaultCode::InvalidArgument, message))
}

/// A value that is not between the two, in words.
fn outside(what: &str, value: u64, min: u64, max: u64) -> Option<Reply> {
    let text = || alloc::format!("{what} of {value} is not between {min} and {max}");
    (!(min..=max).contains(&value)).then(|| refuse(text()))
}

pub(crate) fn set(state: &mut State, fx: &mut Effects, it: &SetSignals) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let prices = it.said.prices.iter().map(|price| ("a price", price.price.0, 0, PRICE_MAX.0));
    let energy = it.said.energy.map(|price| ("a price of energy", price.0, 0, PRICE_MAX.0));
    let others = [
        ("a power usage effectiveness", it.said.pue, PUE_MIN, PUE_MAX),
        ("a carbon intensity", it.said.carbon, 0, CARBON_MAX),
        ("a water intensity", it.said.water, 0, WATER_MAX),
    ];
    let others =
        others.into_iter().filter_map(|(what, value, min, max)| Some((what, value?, min, max)));
    let mut values = prices.chain(energy).chain(others);
    if let Some(refusal) = values.find_map(|(what, value, min, max)| outside(what, value, min, max))
    {
        return refusal;
    }
    let mut signals = match &state.signals {
        Some(before) if !it.said.clear => (**before).clone(),
        Some(_) | None => Signals::default(),
    };
    let signal = |value| Signal { value, said_at: it.at, age: Millis::ZERO };
    for said in &it.said.prices {
        signals.prices.retain(|price| price.class != said.class);
        signals.prices.push(Price { class: said.class.clone(), signal: signal(said.price.0) });
    }
    signals.prices.sort_by(|one, other| one.class.cmp(&other.class));
    if signals.prices.len() > PRICES_MAX {
        return refuse(alloc::format!("a site has at most {PRICES_MAX} prices"));
    }
    let put = |kept: &mut Option<Signal>, said: Option<u64>| {
        *kept = said.map(signal).or(*kept);
    };
    put(&mut signals.energy, it.said.energy.map(|price| price.0));
    put(&mut signals.pue, it.said.pue);
    put(&mut signals.carbon, it.said.carbon);
    put(&mut signals.water, it.said.water);
    signals.revision = state.revision;
    let is_empty = signals == Signals { revision: state.revision, ..Signals::default() };
    state.agreed.signals = (!is_empty).then(|| Arc::new(signals));
    tell_peers(state, fx);
    Reply::Done
}

fn tell_peers(state: &State, fx: &mut Effects) {
    for peer in state.peers.keys() {
        fx.insert(Effect::SyncPeer(peer.clone()));
    }
    fx.insert(Effect::Plan);
}

pub(crate) fn set_weights(state: &mut State, fx: &mut Effects, it: &SetWeights) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let Weights { wait, carbon, water, price_permille, energy_permille, gpu_watts, .. } =
        it.weights;
    let bounds = [
        ("a weight", wait.0, WEIGHT_MAX.0),
        ("a weight", carbon.0, WEIGHT_MAX.0),
        ("a weight", water.0, WEIGHT_MAX.0),
        ("a weight", price_permille.into(), PERMILLE_MAX.into()),
        ("a weight", energy_permille.into(), PERMILLE_MAX.into()),
        ("a power in watts", gpu_watts.into(), WATTS_MAX.into()),
    ];
    let refusal = bounds.into_iter().find_map(|(what, value, max)| outside(what, value, 0, max));
    if let Some(refusal) = refusal {
        return refusal;
    }
    let is_usual = it.weights == Weights::default();
    state.agreed.weights = (!is_usual).then(|| Arc::new(it.weights.clone()));
    fx.insert(Effect::Plan);
    Reply::Done
}

pub(crate) fn set_data(state: &mut State, fx: &mut Effects, it: &SetDataSet) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    if let Some(refusal) = outside("a size in bytes", it.set.bytes, 0, DATA_BYTES_MAX) {
        return refusal;
    }
    if it.set.countries.len() > DATA_RULES_MAX || it.set.sites.len() > DATA_RULES_MAX {
        return refuse(alloc::format!(
            "a data set is bound to at most {DATA_RULES_MAX} countries and as many sites"
        ));
    }
    if state.data_sets.len() >= DATA_SETS_MAX && !state.data_sets.contains(&it.name) {
        return refuse(alloc::format!("a site knows of at most {DATA_SETS_MAX} data sets"));
    }
    state.agreed.data_sets.insert(it.name.clone(), it.set.clone());
    tell_peers(state, fx);
    Reply::Done
}

pub(crate) fn remove_data(state: &mut State, fx: &mut Effects, it: &RemoveDataSet) -> Reply {
    if !state.agreed.data_sets.remove(&it.name) {
        return Reply::NoOp("the data set is not known");
    }
    tell_peers(state, fx);
    Reply::Done
}

pub(crate) fn set_link(state: &mut State, fx: &mut Effects, it: &SetLink) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    if !state.peers.contains(&it.peer) {
        let message = alloc::format!("site {} is not joined", it.peer);
        return Reply::Refused(Fault::new(FaultCode::NotFound, message));
    }
    match &it.link {
        Some(link) => {
            let speed = link.mbit_per_second;
            let what = "a speed in megabits a second";
            if let Some(refusal) = outside(what, speed.into(), 1, LINK_MBIT_MAX.into()) {
                return refusal;
            }
            state.agreed.links.insert(it.peer.clone(), link.clone());
        }
        None => {
            state.agreed.links.remove(&it.peer);
        }
    }
    fx.insert(Effect::Plan);
    Reply::Done
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use specs::codec::Message;
    use specs::signals::{DataSet, Link};
    use specs::unit::Timestamp;
    use specs::wire::client::{PriceSet, SignalsSet};

    use super::*;
    use crate::apply::apply;
    use crate::command::{Command, SetVersion};

    fn site() -> State {
        let mut state = State::default();
        for version in (2..=SINCE.0).map(ClusterVersion) {
            apply(&mut state, &Command::SetVersion(SetVersion { version }));
        }
        state
    }

    fn said() -> SignalsSet {
        let (energy, pue, carbon, water) = (None, None, None, None);
        SignalsSet { prices: vec![], energy, pue, carbon, water, clear: false }
    }

    fn say(state: &mut State, said: SignalsSet, at: u64) -> Reply {
        apply(state, &Command::SetSignals(SetSignals { said, at: Timestamp(at) })).0
    }

    #[test]
    fn a_site_of_the_version_before_says_nothing() {
        let mut state = State::default();
        assert!(matches!(say(&mut state, said(), 1), Reply::NoOp(_)));
        let set = SetWeights { weights: Weights::default() };
        assert!(matches!(apply(&mut state, &Command::SetWeights(set)).0, Reply::NoOp(_)));
        assert_eq!(state.signals, None);
    }

    #[test]
    fn what_is_not_said_again_stays_and_keeps_its_age() {
        let mut state = site();
        let price = |class: Option<&str>, price| PriceSet {
            class: class.map(|name| name.parse().unwrap()),
            price: MicroEuro(price),
        };
        let first = SignalsSet {
            prices: vec![price(Some("h200"), 3), price(None, 2)],
            carbon: Some(213),
            ..said()
        };
        assert_eq!(say(&mut state, first, 1_000), Reply::Done);
        say(&mut state, SignalsSet { prices: vec![price(None, 5)], pue: Some(1_100), ..said() }, 9);
        let kept = state.signals.clone().unwrap();
        let prices: Vec<u64> = kept.prices.iter().map(|price| price.signal.value).collect();
        assert_eq!(prices, [5, 3], "that for all classes stands first");
        assert_eq!(kept.carbon.map(|it| (it.value, it.said_at)), Some((213, Timestamp(1_000))));
        assert_eq!(kept.pue.map(|it| it.said_at), Some(Timestamp(9)));
        assert_eq!(kept.revision, state.revision);
        say(&mut state, SignalsSet { clear: true, ..said() }, 10);
        assert_eq!(state.signals, None);
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut state = site();
        for wrong in [
            SignalsSet { pue: Some(999), ..said() },
            SignalsSet { carbon: Some(CARBON_MAX + 1), ..said() },
            SignalsSet { water: Some(WATER_MAX + 1), ..said() },
            SignalsSet { energy: Some(MicroEuro(PRICE_MAX.0 + 1)), ..said() },
        ] {
            assert!(matches!(say(&mut state, wrong, 1), Reply::Refused(_)));
        }
        let link = Some(Link { mbit_per_second: 10 });
        let link = SetLink { peer: "giga".parse().unwrap(), link };
        assert!(matches!(apply(&mut state, &Command::SetLink(link)).0, Reply::Refused(_)));
        assert_eq!((&state.signals, state.links.len()), (&None, 0));
    }

    #[test]
    fn a_site_knows_of_no_more_data_sets_than_may_be() {
        let mut state = site();
        let set = DataSet { bytes: 1, held: true, countries: vec![], sites: vec![] };
        let command = |nth: usize| {
            let name = alloc::format!("set-{nth}").parse().unwrap();
            Command::SetDataSet(SetDataSet { name, set: set.clone() })
        };
        for nth in 0..DATA_SETS_MAX {
            assert_eq!(apply(&mut state, &command(nth)).0, Reply::Done);
        }
        assert!(matches!(apply(&mut state, &command(DATA_SETS_MAX)).0, Reply::Refused(_)));
        assert_eq!(apply(&mut state, &command(0)).0, Reply::Done, "one that is known");
        let name: specs::id::DataName = "set-0".parse().unwrap();
        let remove = Command::RemoveDataSet(RemoveDataSet { name });
        assert_eq!(apply(&mut state, &remove).0, Reply::Done);
        assert!(matches!(apply(&mut state, &remove).0, Reply::NoOp(_)));
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn the_commands_keep_their_bytes() {
        let signals =
            SetSignals { said: SignalsSet { pue: Some(1_100), ..said() }, at: Timestamp(7) };
        let name: specs::id::DataName = "a".parse().unwrap();
        let set = DataSet { bytes: 1, held: true, countries: vec![], sites: vec![] };
        let peer: specs::id::SiteId = "giga".parse().unwrap();
        let weights = Weights { wait: MicroEuro(5), ..Weights::default() };
        let kept: [(Command, &[u8]); 5] = [
            (Command::SetSignals(signals), &[0x82, 0x05, 7, 0x0a, 3, 0x18, 0xcc, 0x08, 0x10, 7]),
            (Command::SetWeights(SetWeights { weights }), WEIGHTS),
            (
                Command::SetDataSet(SetDataSet { name: name.clone(), set }),
                &[0x92, 0x05, 9, 0x0a, 1, b'a', 0x12, 4, 0x08, 1, 0x10, 1],
            ),
            (Command::RemoveDataSet(RemoveDataSet { name }), &[0x9a, 0x05, 3, 0x0a, 1, b'a']),
            (
                Command::SetLink(SetLink { peer, link: Some(Link { mbit_per_second: 9 }) }),
                &[0xa2, 0x05, 10, 0x0a, 4, b'g', b'i', b'g', b'a', 0x12, 2, 0x08, 9],
            ),
        ];
        for (command, bytes) in kept {
            assert_eq!(command.encode(), bytes, "{command:?}");
            assert_eq!(Command::decode(bytes), Ok(command));
        }
    }

    const WEIGHTS: &[u8] = &[
        0x8a, 0x05, 34, 0x0a, 32, 0x08, 5, 0x10, 0xe8, 0x07, 0x18, 0xe8, 0x07, 0x20, 0x80, 0xf1,
        0x04, 0x28, 0xd0, 0x0f, 0x30, 0xe8, 0x07, 0x38, 0x80, 0xba, 0xb7, 0x03, 0x40, 0xc0, 0xcf,
        0x24, 0x50, 0x80, 0xb8, 0x99, 0x29,
    ];
}
