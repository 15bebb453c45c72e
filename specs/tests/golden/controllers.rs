//! One value of every message about a site's controllers.

use specs::codec::Blob;
use specs::id::{ControllerId, Revision};
use specs::unit::{Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::client;
use specs::wire::method::Method;

use super::{Sample, sample};

pub(crate) fn all() -> Vec<Sample> {
    vec![
        sample(&controller_view()),
        sample(&client::ControllerViews {
            term: 9,
            controllers: vec![controller_view()],
            last_log: 4_720,
            revision: Revision(4_001),
        }),
        sample(&controller_status()),
        sample(&client::ControllerTransfer { to: Some(ControllerId(2)) }),
        sample(&client::ControllerTransferred { leader: ControllerId(2), repeated: true }),
        sample(&client::StaleRead { method: Method::NodeList, body: Blob(vec![1, 2]) }),
        sample(&client::StaleAnswer {
            body: Blob(vec![3]),
            revision: Revision(85),
            controller: ControllerId(3),
            heard: Some(Millis(4_000)),
        }),
        sample(&client::BackupOpen { stale: true }),
        sample(&client::BackupOpened {
            backup: 77,
            site: "berlin".parse().unwrap(),
            revision: Revision(86),
            at: Timestamp(1_700_000_000_200),
            controller: ControllerId(1),
            authority: Blob(vec![7; 32]),
            version: "0.1.0".to_owned(),
            heard: Some(Millis(60)),
        }),
        sample(&client::BackupRead { backup: 77, piece: 3 }),
        sample(&client::BackupPiece { data: Blob(vec![9, 9]), last: true }),
        sample(&controller_versions()),
        sample(&client::UpgradeStatus {
            version: ClusterVersion(2),
            controllers: vec![controller_versions()],
            notes: 5,
        }),
        sample(&client::UpgradeFinalize { to: ClusterVersion(3) }),
        sample(&client::UpgradeFinalized { version: ClusterVersion(3), repeated: true }),
        sample(&client::UpgradeRehearse { text: "x".to_owned() }),
        sample(&client::ControllerAdd {
            address: "c3.berlin:7000".to_owned(),
            csr: Blob(vec![0x30, 1]),
            request: "submit-7f3a".parse().unwrap(),
            replaces: Some(ControllerId(1)),
            oldest: ClusterVersion(2),
            newest: ClusterVersion(3),
        }),
        sample(&client::ControllerAdded {
            id: ControllerId(3),
            certificate: Blob(vec![0x30, 2]),
            ca: Blob(vec![0x30, 3]),
            ca_key: Blob(vec![0x30, 4]),
            site: "berlin".parse().unwrap(),
            controllers: vec!["c1.berlin:7000".to_owned()],
        }),
        sample(&client::ControllerRemove { id: ControllerId(4) }),
        sample(&client::Empty {}),
    ]
}

fn controller_view() -> client::ControllerView {
    client::ControllerView {
        id: ControllerId(2),
        address: "c2.berlin:7000".to_owned(),
        leader: true,
        voter: true,
        matched: 4_711,
        own: true,
        heard: Some(Millis(95)),
    }
}

fn controller_status() -> client::ControllerStatus {
    client::ControllerStatus {
        id: ControllerId(2),
        site: "berlin".parse().unwrap(),
        address: "c2.berlin:7000".to_owned(),
        version: "0.1.0".to_owned(),
        at: Timestamp(1_700_000_000_100),
        term: 9,
        leader: Some(ControllerId(1)),
        last_log: 4_720,
        committed: 4_719,
        applied: 4_718,
        snapshot: 4_000,
        purged: 3_000,
        snapshot_bytes: 123_456,
        revision: Revision(4_001),
        is_full: true,
        heard: Some(Millis(80)),
        certificate_until: Timestamp(1_707_000_000_000),
        members: vec![controller_view()],
        agreed: vec![ControllerId(2)],
        disk_free: Some(1 << 40),
        recovering: true,
    }
}

fn controller_versions() -> client::ControllerVersions {
    client::ControllerVersions {
        id: ControllerId(2),
        address: "c2.berlin:7000".to_owned(),
        leader: true,
        build: "0.2.0".to_owned(),
        oldest: ClusterVersion(2),
        newest: ClusterVersion(3),
        heard: true,
        hinders: "it knows version 1".to_owned(),
    }
}
