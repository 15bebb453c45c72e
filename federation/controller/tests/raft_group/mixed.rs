//! Members of two releases in one group. A release is a range of versions that it knows.

use std::collections::BTreeMap;
use std::path::Path;

use federation_controller::raft::{ProposeError, RaftConfig, RaiseError, StartError, Storage};
use federation_core::{Command, SetVersion, State};
use specs::id::ControllerId;
use specs::version::{ClusterVersion, Versions};

use crate::cluster::{Cluster, has_token, token};

const ONE: ClusterVersion = ClusterVersion(1);
const TWO: ClusterVersion = ClusterVersion(2);

fn often(config: &mut RaftConfig) {
    config.snapshot_entries = 100;
    config.kept_entries = 10;
    config.segment_bytes = 64 << 10;
}

fn old(config: &mut RaftConfig) {
    often(config);
    config.known = Versions { oldest: ONE, newest: ONE };
}

fn new(config: &mut RaftConfig) {
    often(config);
    config.known = Versions { oldest: ONE, newest: TWO };
}

/// A release that has dropped what comes before version 3.
fn far_ahead(config: &mut RaftConfig) {
    often(config);
    let three = ClusterVersion(3);
    config.known = Versions { oldest: three, newest: three };
}

fn replace(cluster: &mut Cluster, id: u64, release: fn(&mut RaftConfig)) {
    cluster.kill(id);
    cluster.retweak(release);
    cluster.start(id);
}

fn raise(cluster: &Cluster, to: ClusterVersion) -> Result<bool, RaiseError> {
    cluster.until("an answer about the version", |cluster| {
        let leader = cluster.leader();
        match cluster.on(leader, move |group| async move { group.raise_version(to).await }) {
            // The leader went with the member that was replaced.
            Err(RaiseError::Propose(ProposeError::NotLeader { .. })) => None,
            outcome => Some(outcome),
        }
    })
}

/// A group of the new release, raised to version 2.
fn raised() -> Cluster {
    let cluster = Cluster::founded(3, new);
    cluster.propose(&token(1));
    assert_eq!(raise(&cluster, TWO), Ok(true));
    assert_eq!(cluster.converge().version, TWO);
    cluster
}

fn tokens_of(state: &State, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert!(has_token(state, number), "{number} is lost");
    }
}

/// All files below a directory and their bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_group_is_rolled_to_the_next_release_and_back_and_keeps_all() {
    const STEP: u64 = 150;
    let mut cluster = Cluster::founded(3, old);
    let mut number = 0;
    let mut go_on = |cluster: &Cluster| {
        for _ in 0..STEP {
            cluster.propose(&token(number));
            number += 1;
        }
        tokens_of(&cluster.converge(), 0..number);
    };
    // Some of what a member misses comes in snapshots that the other release wrote.
    for release in [new, old] {
        for id in 1..=3 {
            cluster.kill(id);
            go_on(&cluster);
            cluster.retweak(release);
            cluster.start(id);
            cluster.converge();
        }
    }
    let members: Vec<_> = (1..=3).map(|id| cluster.group(id).metrics()).collect();
    assert!(members.iter().all(|it| it.snapshot > 0), "{members:?}");
    assert_eq!(cluster.converge().version, ONE);
}

#[test]
fn the_version_rises_only_when_every_member_has_said_that_it_knows_the_next() {
    let mut cluster = Cluster::founded(3, new);
    replace(&mut cluster, 3, old);
    let hindered = |cluster: &Cluster| match raise(cluster, TWO) {
        Err(RaiseError::Hindered(why)) => why,
        other => panic!("{other:?}"),
    };
    cluster.until("what the old one knows", |cluster| {
        (hindered(cluster) == "c3: it knows version 1").then_some(())
    });
    cluster.kill(3);
    assert_eq!(hindered(&cluster), "c3: it does not answer");
    assert_eq!(raise(&cluster, ClusterVersion(3)), Err(RaiseError::NotNext(ONE)));
    cluster.retweak(new);
    cluster.start(3);
    cluster.until("the raise", |cluster| (raise(cluster, TWO) == Ok(true)).then_some(()));
    assert_eq!(raise(&cluster, TWO), Ok(false), "repeated");
    assert_eq!(cluster.converge().version, TWO);
}

#[test]
fn an_old_release_refuses_the_directory_of_a_raised_member_and_changes_nothing() {
    let mut cluster = raised();
    cluster.kill(3);
    let dir = cluster.root.path().join("member-3");
    let before = files(&dir);
    cluster.retweak(old);
    let refused = cluster.try_start_on(3, Storage::real(&dir).unwrap()).unwrap_err();
    assert!(matches!(refused, StartError::Version { found: TWO, .. }), "{refused}");
    let said = refused.to_string();
    assert_eq!(said, "the site has version 2, and this build of a controller knows version 1");
    assert!(refused.hint().contains("install a release"), "{}", refused.hint());
    assert!(files(&dir) == before, "the directory has changed");
    cluster.retweak(new);
    cluster.start(3);
    cluster.propose(&token(2));
    tokens_of(&cluster.converge(), 1..3);
}

/// Nothing tells it at its start: it was away when the version rose.
#[test]
fn an_old_release_that_meets_the_raise_in_the_log_stops_and_names_the_version() {
    let mut cluster = Cluster::founded(3, new);
    cluster.propose(&token(1));
    cluster.converge();
    cluster.kill(3);
    cluster.propose(&Command::SetVersion(SetVersion { version: TWO }));
    cluster.propose(&token(2));
    cluster.retweak(old);
    cluster.start(3);
    let why = cluster.until_fatal(3);
    assert!(why.contains("cannot be applied"), "{why}");
    assert!(why.contains("install a release that knows version 2"), "{why}");
    assert!(!has_token(&cluster.group(3).state(), 2), "it went on");
    replace(&mut cluster, 3, new);
    tokens_of(&cluster.converge(), 1..3);
}

#[test]
fn an_old_release_does_not_take_in_a_snapshot_of_the_next_version() {
    let mut cluster = Cluster::founded(3, new);
    cluster.propose(&token(0));
    cluster.converge();
    let had = cluster.group(3).metrics().last_log;
    cluster.kill(3);
    cluster.propose(&Command::SetVersion(SetVersion { version: TWO }));
    for number in 1..300 {
        cluster.propose(&token(number));
    }
    cluster.until("a purged log", |cluster| {
        (cluster.group(cluster.leader()).metrics().purged > had).then_some(())
    });
    cluster.retweak(old);
    cluster.start(3);
    let why = cluster.until_fatal(3);
    assert!(why.contains("a snapshot of the leader's cannot be taken in"), "{why}");
    assert!(why.contains("install a release that knows version 2"), "{why}");
    assert_eq!(cluster.group(3).state().version, ONE);
    replace(&mut cluster, 3, new);
    tokens_of(&cluster.converge(), 0..300);
    // Now it says so at its start.
    cluster.kill(3);
    cluster.retweak(old);
    let dir = cluster.root.path().join("member-3");
    let refused = cluster.try_start_on(3, Storage::real(&dir).unwrap());
    assert!(matches!(refused, Err(StartError::Version { .. })), "{refused:?}");
}

#[test]
fn who_does_not_know_the_version_of_the_site_never_votes() {
    let mut cluster = raised();
    cluster.retweak(old);
    cluster.start(4);
    cluster.retweak(far_ahead);
    cluster.start(5);
    let wanted: BTreeMap<ControllerId, String> =
        (1..=5).map(|id| (ControllerId(id), cluster.address(id))).collect();
    let mut has_log_since = None;
    cluster.until("two learners that had their time", |cluster| {
        let (leader, wanted) = (cluster.leader(), wanted.clone());
        let _ = cluster.on(leader, |group| async move { group.reconcile_members(wanted).await });
        let members = cluster.group(leader).members();
        let voters = members.iter().filter(|member| member.voter).count();
        assert_eq!(voters, 3, "{members:?}");
        if members.iter().any(|it| it.id == ControllerId(5) && it.matched > 0) {
            has_log_since.get_or_insert(cluster.now());
        }
        // Long enough for a member that knows the version to be let vote, twice over.
        let span = specs::unit::Millis(2_500);
        has_log_since.is_some_and(|since| cluster.now() >= since.after(span)).then_some(())
    });
    assert!(cluster.until_fatal(4).contains("knows version 2"));
    replace(&mut cluster, 4, new);
    cluster.kill(5);
    cluster.settle(&[1, 2, 3, 4]);
}

#[test]
fn a_release_without_the_site_s_version_does_not_start_in_its_directory() {
    let mut cluster = raised();
    cluster.kill(3);
    cluster.retweak(far_ahead);
    let dir = cluster.root.path().join("member-3");
    let refused = cluster.try_start_on(3, Storage::real(&dir).unwrap()).unwrap_err();
    assert!(matches!(refused, StartError::Version { found: TWO, .. }), "{refused}");
}

#[cfg(feature = "next")]
#[test]
fn a_command_of_the_next_version_stays_out_of_the_log_until_the_version_is_raised() {
    use federation_core::Note;
    let cluster = Cluster::founded(3, new);
    let note = Command::Note(Note { text: "x".to_owned() });
    let propose = |cluster: &Cluster| {
        let (leader, note) = (cluster.leader(), note.clone());
        cluster.on(leader, |group| async move { group.propose(note).await })
    };
    let before = cluster.converge().revision;
    assert_eq!(propose(&cluster), Err(ProposeError::TooNew { needs: TWO, has: ONE }));
    assert_eq!(cluster.converge().revision, before, "it was applied");
    assert_eq!(raise(&cluster, TWO), Ok(true));
    propose(&cluster).unwrap();
    assert_eq!(cluster.converge().notes, 1);
}
