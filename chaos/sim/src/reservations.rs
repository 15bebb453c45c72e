//! What operators reserve, for whom, and when they think better of it.

use federation_core::{
    Command, EndReservation, MakeReservation, ReserveAsk, State, Window, choose,
};
use specs::id::{NodeId, ReservationName};
use specs::job::JobSpec;
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::accounts;
use crate::rng::Rng;

/// What operators do with reservations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// How often one reserves something, or ends what is reserved.
    pub(crate) changes: u64,
}

impl Habits {
    /// In most worlds there are none, so that they hide nothing else.
    pub(crate) fn draw(seed: u64) -> Option<Self> {
        let mut rng = Rng::of(seed, "reservations");
        let habits = Self { changes: rng.range(2, 12) };
        rng.chance(250).then_some(habits)
    }
}

/// An operator reserves something that may be reserved, for now or soon; or ends something. He goes
/// by a state that may be older than the log.
pub(crate) fn change(rng: &mut Rng, state: &State, at: Timestamp) -> Option<Command> {
    let all: Vec<&ReservationName> = state.reservations.keys().collect();
    if rng.chance(200) && !all.is_empty() {
        let name = all[rng.index(all.len())].clone();
        let number = state.reservations.get(&name)?.number;
        return Some(Command::EndReservation(EndReservation { name, number }));
    }
    let name = ReservationName::new(&format!("r{}", rng.below(6))).expect("a letter and a digit");
    let account = accounts::some(rng);
    let start = Timestamp(at.0 + if rng.chance(300) { 0 } else { rng.range(500, 12_000) });
    let end = Timestamp(start.0 + rng.range(1_000, 12_000));
    let beside_jobs = rng.chance(600);
    let window = Window { account: &account, class: None, start, end, beside_jobs, at };
    let ids: Vec<NodeId> = state.nodes.keys().cloned().collect();
    let named = rng.chance(300) && !ids.is_empty();
    let (gpus, nodes) = if named {
        (GpuCount::ZERO, vec![ids[rng.index(ids.len())].clone()])
    } else {
        let gpus = GpuCount(rng.small(1, 6));
        (gpus, choose(state, ReserveAsk::Gpus(gpus), &window).ok()?)
    };
    let by = "ops".to_owned();
    let class = None;
    Some(Command::MakeReservation(MakeReservation {
        name,
        account,
        class,
        gpus,
        nodes,
        start,
        end,
        beside_jobs,
        by,
        at,
    }))
}

/// Where something is reserved, more jobs say how long they run: no process takes longer than the
/// least of these.
pub(crate) fn draw(rng: &mut Rng, spec: &mut JobSpec, job_max: Millis) {
    if rng.chance(500) {
        spec.time_limit = Millis(job_max.0 * rng.range(1, 3));
    }
}
