//! What people and disks do wrong.

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{FEDERATION, PATIENCE, Site, SitePlan, World, free_address};
use crate::process::{Daemon, await_that};
use crate::work::{FOR_EVER, Work};

fn jobs(site: &Site<'_>) -> usize {
    site.json(&["job", "ls", "--all"])["items"].as_array().unwrap().len()
}

#[test]
fn a_job_that_makes_no_sense_or_fits_nowhere_is_not_admitted() {
    let world = World::new();
    let home = world.site(SitePlan::small("berlin"));
    let host = world.site(SitePlan { extra: &["--lend=all=8"], ..SitePlan::small("giga") });
    home.joins(&host);
    let good = Work::new("job", 1, 1).text(&world.path("witness"));
    let run = |text: &str| home.run(&["job", "run", &world.file(text)]);
    run("apiVersion: [spillway/v1\nkind: {").refused(2, "invalid-argument");
    run("").refused(2, "invalid-argument");
    run(&good.replace("kind: Job", "kind: Jobb")).refused(2, "invalid-argument");
    let said = run(&good.replace("onPartition", "onPartitoin"));
    said.refused(2, "invalid-argument");
    assert!(said.err.contains("did you mean `onPartition`"), "{said:?}");
    run(&good.replace("count: 1", "count: -1")).refused(2, "invalid-argument");
    run(&good.replace("restart", "sometimes")).refused(2, "invalid-argument");
    await_that("the host's capacity is known", PATIENCE, || {
        home.list(&["capacity"]).iter().any(|it| it["site"] == "giga")
    });
    run(&good.replace("count: 1", "count: 3")).refused(6, "unplaceable");
    let gang = good.replace("  resources", "  replicas: {nodes: 9}\n  resources");
    run(&gang).refused(6, "unplaceable");
    run(&good.replace("count: 1", "count: 1, model: h900")).refused(6, "unplaceable");
    assert_eq!(jobs(&home), 0);
    run(&good).done();
    assert_eq!(jobs(&home), 1);
    for what in ["show", "cancel", "wait", "logs", "why"] {
        home.run(&["job", what, "absent"]).refused(3, "not-found");
    }
}

#[test]
fn a_directory_in_use_is_not_founded_again_and_the_site_lives_on() {
    let world = World::new();
    let mut site = world.site(SitePlan::small("berlin"));
    let dir = site.controllers[0].dir.clone();
    let init = |name: &str, dir: &str| {
        world.run(&["init", "--site", name, "--listen", &free_address(), "--dir", dir])
    };
    init("paris", &dir).refused(5, "conflict");
    init("berlin", &dir).refused(5, "conflict");
    init("paris", &world.text("b1")).refused(5, "conflict");
    world.run(&["--context", "paris", "job", "ls"]).refused(3, "not-found");
    let listen = free_address();
    site.run(&["controller", "add", "--listen", &listen, "--dir", &dir]).refused(5, "conflict");
    assert_eq!(site.list(&["controller", "ls"]).len(), 1);
    world.run(&["serve", "--dir", &dir]).refused(5, "conflict");
    world.run(&["serve", "--dir", &world.text("absent")]).refused(3, "not-found");
    world.run(&["serve", "--dir", &world.text("b1")]).refused(3, "not-found");
    site.kill_controllers();
    site.start_controllers();
    site.await_up();
}

#[test]
fn a_port_in_use_is_said_to_be_so_and_nothing_is_lost() {
    let world = World::new();
    let address = free_address();
    let taken = UdpSocket::bind(&address).unwrap();
    let dir = world.text("berlin");
    world.run(&["init", "--site", "berlin", "--listen", &address, "--dir", &dir]).done();
    let said = world.run(&["serve", "--dir", &dir]);
    said.refused(5, "conflict");
    assert!(said.err.contains(&address), "{said:?}");
    drop(taken);
    let mut daemon =
        Daemon::new("berlin", Path::new(FEDERATION), &["serve", "--dir", &dir], &world.config());
    daemon.start();
    await_that("the site answers", PATIENCE, || world.run(&["job", "ls"]).code == 0);
}

/// A small file system of its own; gone with this.
struct Disk(PathBuf);

impl Disk {
    /// None where mounting is not permitted.
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs", path.to_str().unwrap()];
        let mounted = Command::new("mount").args(args).output();
        if mounted.is_ok_and(|it| it.status.success()) {
            return Some(Self(path));
        }
        eprintln!("skipped: this user may not mount a file system");
        None
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        let block = vec![0; 1 << 20];
        while file.write_all(&block).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn text(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_site_that_is_founded_on_a_full_disk_can_be_founded_there_later() {
    let world = World::new();
    let Some(disk) = Disk::mount(world.path("disk"), "16k") else { return };
    let (dir, address) = (disk.text("berlin"), free_address());
    let init = || world.run(&["init", "--site", "berlin", "--listen", &address, "--dir", &dir]);
    for _ in 0..2 {
        let said = init();
        said.refused(1, "disk-full");
        assert!(said.err.contains("No space left"), "{said:?}");
    }
    world.run(&["job", "ls"]).refused(2, "invalid-argument");
    disk.resize("1m");
    init().done();
    let serve = || world.run(&["serve", "--dir", &dir]);
    disk.fill();
    serve().refused(1, "disk-full");
    disk.empty();
    disk.resize("256m");
    let mut daemon =
        Daemon::new("berlin", Path::new(FEDERATION), &["serve", "--dir", &dir], &world.config());
    daemon.start();
    await_that("the site answers", PATIENCE, || world.run(&["job", "ls"]).code == 0);
}

#[test]
fn a_controller_whose_disk_is_full_loses_nothing_that_it_acknowledged() {
    const TRIES: usize = 20;
    let world = World::new();
    let Some(disk) = Disk::mount(world.path("berlin-controller-1"), "300m") else { return };
    let mut site = world.site(SitePlan::small("berlin"));
    let file = world.job_file(Work::new("many", 2, FOR_EVER));
    let submit = || site.run(&["job", "run", &file, "-o", "name", "--timeout", "3s"]);
    let mut acknowledged = vec![submit().done()];
    disk.fill();
    for _ in 0..TRIES {
        let said = submit();
        match said.code {
            0 => acknowledged.push(said.out),
            code => assert!([1, 7, 8].contains(&code), "{said:?}"),
        }
    }
    site.kill_controllers();
    let dir = site.controllers[0].dir.clone();
    let mut starved =
        Daemon::new("starved", Path::new(FEDERATION), &["serve", "--dir", &dir], &world.config());
    starved.start();
    await_that("the controller says something", PATIENCE, || !starved.said().is_empty());
    eprintln!("{} jobs acknowledged; then, with no room: {}", acknowledged.len(), starved.said());
    starved.kill();
    disk.empty();
    site.start_controllers();
    site.await_up();
    let known = site.run(&["job", "ls", "--all", "-o", "name"]).done();
    for id in &acknowledged {
        assert!(known.contains(id.trim()), "{id} is lost");
    }
    site.run(&["job", "run", &file]).done();
}
