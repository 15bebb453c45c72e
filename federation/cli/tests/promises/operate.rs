//! What operators do to a group of controllers, and what they do wrong.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Controller, FEDERATION, PATIENCE, Said, Site, SitePlan, World, free_address};
use crate::process::{Daemon, await_some, await_that};
use crate::work::{FOR_EVER, Work};

/// Terms so short that a test can wait until all that ran before a restore is surely over.
const TERMS: &[&str] =
    &["--node-lease=3s", "--loan-term=7s", "--suspect-node-after=1s", "--suspect-peer-after=1s"];

/// Every file below a directory, with its bytes; but for what a start writes each time.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            found.extend(contents(&path));
        } else if name != "LOCK" && name != "metrics.addr" {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// Runs what must not work, and checks that it changes nothing below a directory.
#[track_caller]
fn unchanged(dir: &str, run: impl FnOnce() -> Said) -> Said {
    let before = contents(Path::new(dir));
    let said = run();
    assert!(contents(Path::new(dir)) == before, "{dir} has changed: {said:?}");
    assert!(said.code != 0 && said.err.contains("hint: "), "{said:?}");
    said
}

fn ids(site: &Site<'_>) -> Vec<String> {
    let listed = site.list(&["controller", "ls"]);
    listed.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect()
}

/// Findings of a doctor, with its exit code.
fn findings(site: &Site<'_>, args: &[&str]) -> (i32, Vec<Value>) {
    let said = site.run(&[&["doctor", "-o", "json"], args].concat());
    let document: Value = serde_json::from_str(&said.out).unwrap_or_default();
    (said.code, document["items"].as_array().cloned().unwrap_or_default())
}

#[test]
fn a_dead_controller_is_replaced_and_without_a_majority_only_old_answers_come() {
    let world = World::new();
    let plan = SitePlan { controllers: 3, nodes: 0, ..SitePlan::small("berlin") };
    let mut site = world.site(plan);
    let rows = site.list(&["controller", "ls"]);
    assert!(rows.iter().all(|it| it["state"] == "ready" && it["lag"].as_u64() < Some(50)));
    let leader = site.leader().unwrap();
    let next = (leader + 1) % 3;
    let to = rows.iter().find(|it| it["address"] == site.controllers[next].address.as_str());
    let to = to.unwrap()["id"].as_str().unwrap().to_owned();
    site.run(&["controller", "transfer", &to]).done();
    await_that("it leads", PATIENCE, || site.leader() == Some(next));
    let (code, found) = findings(&site, &[]);
    assert_eq!(code, 0, "{found:?}");

    let alive = rows.iter().find(|it| it["id"] != to.as_str()).unwrap();
    let alive = alive["id"].as_str().unwrap();
    let (listen, dir) = (free_address(), world.text("berlin-controller-4"));
    let replace = |site: &Site<'_>, id: &str| {
        site.run(&["controller", "replace", id, "--listen", &listen, "--dir", &dir])
    };
    replace(&site, alive).refused(5, "conflict");
    let dead = (next + 1) % 3;
    let id_of = |address: &str| {
        let row = rows.iter().find(|it| it["address"] == address).unwrap();
        row["id"].as_str().unwrap().to_owned()
    };
    let (dead_id, third_id) =
        (id_of(&site.controllers[dead].address), id_of(&site.controllers[(next + 2) % 3].address));
    site.controllers[dead].daemon.kill();
    await_that("its death is noticed", PATIENCE, || {
        site.list(&["controller", "ls"])
            .iter()
            .any(|it| it["id"] == dead_id.as_str() && it["heard_ms"].as_u64() > Some(3_000))
    });
    let said = site.run(&["controller", "remove", &third_id]);
    said.refused(5, "conflict");
    assert!(said.err.contains("2 voters of which 1 answer, and 2 must"), "{said:?}");
    let (code, found) = findings(&site, &[]);
    assert_eq!(code, 1, "{found:?}");
    assert!(found.iter().any(|it| it["check"] == "majority" && it["level"] == "warn"));

    let id = replace(&site, &dead_id).done();
    let mut daemon =
        Daemon::new("new", Path::new(FEDERATION), &["serve", "--dir", &dir], &world.config());
    daemon.start();
    let old = site.controllers.remove(dead);
    site.controllers.push(Controller { daemon, address: listen.clone(), dir: dir.clone() });
    await_that("the new one is in, and the old one is out", PATIENCE, || {
        let rows = site.list(&["controller", "ls"]);
        let is_new = |it: &&Value| it["id"] == id.trim() && it["voter"] == true;
        rows.len() == 3 && rows.iter().any(|it| is_new(&it)) && !ids(&site).contains(&dead_id)
    });
    let again = site.run(&["controller", "remove", &dead_id]);
    again.refused(3, "not-found");
    drop(old);

    for controller in &mut site.controllers[..2] {
        controller.daemon.kill();
    }
    only_old_answers_come(&world, &site, id.trim());
}

/// Of a site of which one controller of three is left, with that id.
fn only_old_answers_come(world: &World, site: &Site<'_>, id: &str) {
    let ls = |more: &[&str]| site.run(&[&["node", "ls", "--timeout", "4s"], more].concat());
    let said = ls(&[]);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.err.contains("--stale"), "{said:?}");
    let said = ls(&["--stale", "-o", "json"]).done();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["stale"] == true && said["revision"].as_u64() > Some(0), "{said}");
    assert!(said["age_ms"].is_u64() && said["controller"] == id, "{said}");
    let said = site.json(&["controller", "ls"]);
    assert_eq!(said["stale"], true, "{said}");
    let unreachable = |it: &&Value| it["state"] == "unreachable";
    assert_eq!(said["items"].as_array().unwrap().iter().filter(unreachable).count(), 2, "{said}");
    let (code, found) = findings(site, &[]);
    assert_eq!(code, 1, "{found:?}");
    let file = world.text("stale.backup");
    site.run(&["backup", &file, "--timeout", "4s"]).refused(7, "not-leader");
    assert!(!Path::new(&file).exists());
    site.run(&["backup", &file, "--stale"]).done();
    site.run(&["node", "drain", "absent", "--stale"]).refused(2, "invalid-argument");
}

#[test]
fn a_site_that_is_lost_goes_on_from_its_backup_and_runs_nothing_twice() {
    let world = World::new();
    let mut site = world.site(SitePlan { terms: TERMS, ..SitePlan::small("berlin") });
    let job = site.submit(Work::new("work", 2, FOR_EVER));
    site.await_running(&job, 1, PATIENCE);
    let file = world.text("berlin.backup");
    site.run(&["backup", &file]).done();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&file).unwrap();
    site.run(&["backup", &file]).refused(5, "conflict");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    site.run(&["backup", &file, "--force"]).done();
    let shown: Value = {
        let out = world.run(&["backup", "show", &file, "-o", "json"]).done();
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!((&shown["site"], &shown["jobs"]), (&"berlin".into(), &1.into()), "{shown}");
    assert_ne!(site.run(&["backup", &world.text("absent/berlin.backup")]).code, 0);

    let whole = fs::read(&file).unwrap();
    let damaged = world.text("damaged.backup");
    let (old, dir) = (site.controllers[0].dir.clone(), world.text("restored"));
    let address = site.controllers[0].address.clone();
    let restore = |file: &str, dir: &str, authority: &str| {
        let args = ["restore", file, "--dir", dir, "--authority", authority];
        world.run(&[&args[..], &["--listen", &address]].concat())
    };
    for end in [0, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(&damaged, &whole[..end]).unwrap();
        world.run(&["backup", "show", &damaged]).refused(2, "invalid-argument");
        restore(&damaged, &dir, &old).refused(2, "invalid-argument");
    }
    for at in [9, 40, whole.len() / 2, whole.len() - 2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        world.run(&["backup", "show", &damaged]).refused(2, "invalid-argument");
    }
    let said = restore(&file, &dir, &old);
    said.refused(5, "conflict");
    assert!(said.err.contains("still run"), "{said:?}");
    let other = world.text("paris");
    world.run(&["init", "--site", "paris", "--listen", &free_address(), "--dir", &other]).done();
    site.kill_controllers();
    unchanged(&old, || restore(&file, &old, &old)).refused(5, "conflict");
    unchanged(&other, || restore(&file, &dir, &other)).refused(5, "conflict");
    assert!(contents(Path::new(&dir)).is_empty(), "nothing is left of what was refused");

    restore(&file, &dir, &old).done();
    let args = ["serve", "--dir", &dir];
    let mut daemon = Daemon::new("restored", Path::new(FEDERATION), &args, &world.config());
    daemon.start();
    site.controllers[0] = Controller { daemon, address: address.clone(), dir: dir.clone() };
    await_that("the job is known", PATIENCE, || site.run(&["job", "show", &job]).code == 0);
    assert_eq!(site.job(&job)["state"], "queued");
    let epoch = await_some("it runs again", PATIENCE, || {
        let job = site.job(&job);
        (job["state"] == "running").then(|| job["epoch"].as_u64().unwrap())
    });
    assert!(epoch > 1_000, "{epoch}");
    world.witness().has_no_two_copies();
    let (code, found) = findings(&site, &["--dir", &dir]);
    assert_eq!(code, 0, "{found:?}");
    let id = ids(&site).remove(0);
    assert_eq!(id, "c1000");
    let (listen, dir) = (free_address(), world.text("second"));
    let added = site.run(&["controller", "add", "--listen", &listen, "--dir", &dir]).done();
    assert_eq!(added.trim(), "c1001");
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let world = World::new();
    let site = world.site(SitePlan { nodes: 0, ..SitePlan::small("berlin") });
    site.controllers[0].daemon.send(Signal::STOP);
    let file = world.text("berlin.backup");
    let args = ["--context", "berlin", "backup", &file];
    let mut child = world.command(Path::new(FEDERATION), &args).spawn().unwrap();
    thread::sleep(Duration::from_millis(800));
    crate::process::send(child.id(), Signal::INT);
    assert_ne!(child.wait().unwrap().code(), Some(0));
    site.controllers[0].daemon.send(Signal::CONT);
    let left: Vec<_> = fs::read_dir(world.path("")).unwrap().flatten().collect();
    assert!(left.iter().all(|it| !it.file_name().to_string_lossy().contains("backup")), "{left:?}");
}

/// CRC32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[test]
fn a_directory_that_is_not_a_controllers_own_is_refused_and_left_alone() {
    let world = World::new();
    let mut site = world.site(SitePlan { nodes: 0, ..SitePlan::small("berlin") });
    let mut other = world.site(SitePlan { nodes: 0, ..SitePlan::small("paris") });
    site.kill_controllers();
    other.kill_controllers();
    let (own, theirs) = (site.controllers[0].dir.clone(), other.controllers[0].dir.clone());
    let (own_path, theirs) = (Path::new(&own), Path::new(&theirs));
    let serve = || world.run(&["serve", "--dir", &own]);
    let swap = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    let kept = world.path("kept");
    let refused = |what: &str, code: i32, said: &str| {
        let refusal = unchanged(&own, serve);
        assert_eq!(refusal.code, code, "{what}: {refusal:?}");
        assert!(refusal.err.contains(said), "{what}: {refusal:?}");
        let (code, found) = findings(&site, &["--dir", &own]);
        assert_eq!(code, 1, "{what}: {found:?}");
        fs::remove_dir_all(own_path).unwrap();
        swap(&kept, own_path);
    };
    swap(own_path, &kept);

    fs::remove_dir_all(own_path.join("wal")).unwrap();
    refused("the log is gone", 5, "controller replace c1");
    for entry in fs::read_dir(own_path.join("wal")).unwrap().flatten() {
        if entry.file_name() != "owner" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let refusal = serve();
    refusal.refused(5, "conflict");
    assert!(refusal.err.contains("is empty"), "{refusal:?}");
    fs::remove_dir_all(own_path).unwrap();
    swap(&kept, own_path);

    fs::remove_dir_all(own_path.join("wal")).unwrap();
    swap(&theirs.join("wal"), &own_path.join("wal"));
    refused("the log of another site", 5, "c1 of paris");
    fs::remove_dir_all(own_path.join("identity")).unwrap();
    swap(&theirs.join("identity"), &own_path.join("identity"));
    refused("the keys of another site", 5, "mixed up");

    let segment = fs::read_dir(own_path.join("wal")).unwrap().flatten().map(|it| it.path());
    let segment = segment.filter(|it| it.extension().is_some_and(|it| it == "wal")).min().unwrap();
    let good = fs::read(&segment).unwrap();
    let mut bytes = good.clone();
    bytes[3] = b'9';
    let crc = crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();
    refused("a log of another version", 1, "format version '9'");
    let mut bytes = good;
    bytes[200] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    refused("a flipped bit", 1, "corrupt");
    let name = "00000000000000000009-00000000000000000001.snapshot";
    fs::write(own_path.join("snapshots").join(name), b"spwsnap").unwrap();
    let refusal = serve();
    refusal.refused(1, "internal");
    assert!(refusal.err.contains(name) && refusal.err.contains("hint: "), "{refusal:?}");
    assert_eq!(fs::read(own_path.join("snapshots").join(name)).unwrap(), b"spwsnap");
    let (code, found) = findings(&site, &["--dir", &own]);
    assert_eq!(code, 1, "{found:?}");
    fs::remove_dir_all(own_path).unwrap();
    swap(&kept, own_path);
    fs::write(own_path.join("controller.toml"), b"site = 1").unwrap();
    refused("another configuration", 2, "controller.toml");

    site.start_controllers();
    site.await_up();
}

#[test]
fn an_ended_job_leaves_for_the_archive_and_is_found_there_with_its_output() {
    let world = World::new();
    let mut site = world.site(SitePlan { controllers: 3, ..SitePlan::small("berlin") });
    let id = site.submit(Work::new("old", 1, 3));
    site.await_state(&id, "finished", PATIENCE);
    assert!(site.list(&["job", "ls", "--archived"]).is_empty());

    site.kill_controllers();
    for controller in &site.controllers {
        let path = Path::new(&controller.dir).join("controller.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text + "[ended_jobs]\nkeep = 0\nmin_age_seconds = 0\n").unwrap();
    }
    site.start_controllers();
    let listed = |site: &Site<'_>| site.list(&["job", "ls", "--archived"]);
    await_that("it leaves", PATIENCE, || site.leader().is_some() && listed(&site).len() == 1);
    site.kill_controllers();
    site.start_controllers();
    await_that("the site leads again", PATIENCE, || site.leader().is_some());
    assert_eq!(listed(&site)[0]["id"], id.as_str());
    assert!(site.list(&["job", "ls"]).is_empty());
    assert_eq!(site.job(&id)["exit_code"], 0);
    // The node's agent has to find a controller again.
    let output = || site.run(&["job", "logs", &id]);
    await_that("its output is read", PATIENCE, || output().out == "line 1\nline 2\nline 3\n");
}

#[test]
fn a_setting_that_no_controller_knows_keeps_it_from_starting() {
    let world = World::new();
    let (listen, dir) = (free_address(), world.text("c1"));
    world.run(&["init", "--site", "berlin", "--listen", &listen, "--dir", &dir]).done();
    let path = Path::new(&dir).join("controller.toml");
    let text = fs::read_to_string(&path).unwrap();
    for (line, named) in [("keep = -1", "keep"), ("kept = 1", "kept")] {
        fs::write(&path, format!("{text}[ended_jobs]\n{line}\n")).unwrap();
        let said = unchanged(&dir, || world.run(&["serve", "--dir", &dir]));
        assert!(said.err.contains("controller.toml") && said.err.contains(named), "{said:?}");
    }
}
