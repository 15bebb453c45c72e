use specs::codec::Message;
use specs::id::Revision;
use specs::quota::Limit;

use super::*;
use crate::apply::apply;
use crate::command::{Command, SetQuota, SetVersion};

fn make(at: u64) -> MakeReservation {
    MakeReservation {
        name: "demo".parse().unwrap(),
        account: "acme/vision".parse().unwrap(),
        class: Some("b200".parse().unwrap()),
        gpus: GpuCount(16),
        nodes: ["n2".parse().unwrap(), "n1".parse().unwrap()].into(),
        start: Timestamp(5_000),
        end: Timestamp(9_000),
        beside_jobs: true,
        by: "ops".into(),
        at: Timestamp(at),
    }
}

#[test]
fn the_commands_keep_their_bytes() {
    let end = EndReservation { name: "demo".parse().unwrap(), number: Revision(7) };
    let kept: [(Command, &[u8]); 2] = [
        (
            Command::MakeReservation(make(300)),
            b"\xd2\x05\x33\x0a\x04demo\x12\x0bacme/vision\x1a\x04b200\x20\x10\x2a\x02n2\x2a\x02n1\
              \x30\x88\x27\x38\xa8\x46\x40\x01\x4a\x03ops\x50\xac\x02",
        ),
        (Command::EndReservation(end), b"\xda\x05\x08\x0a\x04demo\x10\x07"),
    ];
    for (command, bytes) in kept {
        assert_eq!(command.encode(), bytes, "{command:?}");
        assert_eq!(Command::decode(bytes), Ok(command));
    }
}

#[test]
fn a_site_of_the_version_before_reserves_nothing() {
    let mut state = State::default();
    let reply = apply(&mut state, &Command::MakeReservation(make(1))).0;
    assert!(matches!(reply, Reply::NoOp(_)), "{reply:?}");
    assert!(state.reservations.is_empty());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut state = State::default();
    for version in (2..=SINCE.0).map(ClusterVersion) {
        apply(&mut state, &Command::SetVersion(SetVersion { version }));
    }
    let limit = Some(Limit { class: None, guaranteed: GpuCount(0), max: Some(GpuCount(1)) });
    let quota = SetQuota { account: "beta".parse().unwrap(), limit, weight: 0 };
    apply(&mut state, &Command::SetQuota(quota));
    let wrong = [
        MakeReservation { start: Timestamp(9_000), ..make(1) },
        MakeReservation { nodes: Vec::new(), ..make(1) },
        MakeReservation { end: Timestamp(AHEAD_MAX.0 + 2), ..make(1) },
        // It would be over, its account is not known, its nodes are not.
        make(9_000),
        make(1),
        MakeReservation { account: "beta".parse().unwrap(), ..make(1) },
    ];
    for it in wrong {
        let reply = apply(&mut state, &Command::MakeReservation(it)).0;
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
        assert!(state.reservations.is_empty() && state.reserved.is_empty());
    }
}

#[test]
fn an_account_is_served_with_all_below_it_and_no_other() {
    let it = Reservation {
        number: Revision(1),
        account: "acme/vision".parse().unwrap(),
        class: None,
        gpus: GpuCount(0),
        nodes: Vec::new(),
        start: Timestamp(1),
        end: Timestamp(2),
        by: String::new(),
        made_at: Timestamp(0),
    };
    let serves = |name: &str| it.serves(&name.parse().unwrap());
    assert!(serves("acme/vision") && serves("acme/vision/ada"));
    assert!(!serves("acme") && !serves("acme/visions") && !serves("acme/vis"));
}
