//! Looks at a controller's directory, and says what is wrong with it and what to do. Changes
//! nothing; a controller may run in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fabric_quic::env::Env;
use specs::unit::{Millis, Timestamp};

use crate::config::Home;
use crate::disk::{self, Kind};
use crate::mark;
use crate::raft::{self, Look};

/// Syncs that are timed.
const SYNCS: u32 = 50;
/// A disk whose middle sync takes longer makes every command take as long.
const SYNC_GOOD: Millis = Millis(10);
/// A sync that takes longer can cost an election.
const SYNC_BAD: Millis = Millis(500);
/// Less room than this is used up by two segments of the log and a snapshot.
const ROOM_GOOD: u64 = 1 << 30;
/// A segment of the log.
const ROOM_BAD: u64 = 128 << 20;
/// A certificate that ends sooner should have been renewed.
const CERTIFICATE_GOOD: Millis = Millis(14 * 24 * 3_600_000);

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    Warn,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// A few words that stay the same.
    pub check: &'static str,
    /// A directory, a controller, or the site.
    pub place: String,
    pub detail: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

/// Collects findings about one place.
#[derive(Debug)]
pub struct Findings {
    place: String,
    pub found: Vec<Finding>,
}

impl Findings {
    #[must_use]
    pub fn of(place: impl Into<String>) -> Self {
        Self { place: place.into(), found: Vec::new() }
    }

    fn push(&mut self, level: Level, check: &'static str, detail: String, advice: &str) {
        let (place, advice) = (self.place.clone(), advice.to_owned());
        self.found.push(Finding { level, check, place, detail, advice });
    }

    pub fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.push(Level::Ok, check, detail.into(), "");
    }

    pub fn warn(&mut self, check: &'static str, detail: impl Into<String>, advice: &str) {
        self.push(Level::Warn, check, detail.into(), advice);
    }

    pub fn bad(&mut self, check: &'static str, detail: impl Into<String>, advice: &str) {
        self.push(Level::Bad, check, detail.into(), advice);
    }
}

/// Examines a controller's directory.
#[must_use]
pub fn examine(env: &Env, dir: &Path) -> Vec<Finding> {
    let mut to = Findings::of(dir.display().to_string());
    let home = match Home::load(env, dir) {
        Ok(home) => {
            to.ok("configuration", format!("controller {} of {}", home.id, home.site));
            Some(home)
        }
        Err(error) => {
            to.bad("configuration", error.to_string(), &error.fault().hint);
            None
        }
    };
    if let Some(home) = &home {
        certificate(&mut to, home.credentials.not_after(), env.clock.wall());
    }
    secrets(&mut to, dir);
    owner(&mut to, dir);
    match raft::look(dir) {
        Ok(look) => member(&mut to, &look, home.as_ref()),
        Err(error) => {
            to.bad("log", format!("it cannot be read: {error}"), "check the disk and its rights");
        }
    }
    file_system(&mut to, env, dir);
    to.found
}

/// How long a certificate is still good.
pub fn certificate(to: &mut Findings, until: Timestamp, now: Timestamp) {
    let (name, left) = ("certificate", Millis(until.minus(now).0));
    let days = left.0 / (24 * 3_600_000);
    if left == Millis::ZERO {
        let advice = "replace this controller: `federation controller replace`";
        to.bad(name, "it has expired: no other controller accepts it", advice);
    } else if left < CERTIFICATE_GOOD {
        let advice = "replace this controller before that: `federation controller replace`";
        to.warn(name, format!("it expires in {days} days"), advice);
    } else {
        to.ok(name, format!("good for {days} days"));
    }
}

/// How much room is left.
pub fn room(to: &mut Findings, free: u64) {
    let mib = free >> 20;
    let advice = "make room on the disk: without it the controller agrees on nothing";
    match free {
        ROOM_GOOD.. => to.ok("free space", format!("{mib} MiB")),
        ROOM_BAD.. => to.warn("free space", format!("only {mib} MiB"), advice),
        _ => to.bad("free space", format!("only {mib} MiB"), advice),
    }
}

/// Keys must be readable by their owner alone.
fn secrets(to: &mut Findings, dir: &Path) {
    let mut open = Vec::new();
    for part in ["authority", "identity", "admin"] {
        for entry in fs::read_dir(dir.join(part)).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_key = path.extension().is_some_and(|ending| ending == "key");
            let mode = entry.metadata().map_or(0, |facts| facts.permissions().mode());
            if is_key && mode & 0o077 != 0 {
                open.push(path.display().to_string());
            }
        }
    }
    if open.is_empty() {
        to.ok("secrets", "readable by their owner alone");
    } else {
        let detail = format!("others may read {}", open.join(", "));
        to.bad("secrets", detail, "take the rights away: `chmod 600`; consider the keys known");
    }
}

fn owner(to: &mut Findings, dir: &Path) {
    match mark::look(dir) {
        Ok(Some(owner)) => to.ok("ownership", format!("the log is that of {owner}")),
        Ok(None) => to.ok("ownership", "there is no log yet"),
        Err(error) => to.bad("ownership", error.to_string(), &error.fault().hint),
    }
}

fn member(to: &mut Findings, look: &Look, home: Option<&Home>) {
    match &look.held_by {
        Some(process) => to.ok("process", format!("process {process} runs in it")),
        None => to.ok("process", "none runs in it"),
    }
    log(to, look);
    for note in &look.notes {
        let detail = format!("the controller left a note: {note}");
        to.warn("notes", detail, "read the file of that name beside the log");
    }
    let Some((name, read)) = &look.snapshot else {
        to.ok("snapshot", "there is none yet");
        if look.purged.is_some() {
            to.bad("snapshot", "the log begins after a snapshot that is not there", REPLACE);
        }
        return;
    };
    let snapshot = match read {
        Ok(snapshot) => snapshot,
        Err(why) => {
            to.bad("snapshot", format!("{name} is of no use: {why}"), REPLACE);
            return;
        }
    };
    let mib = snapshot.bytes >> 20;
    to.ok("snapshot", format!("{name}: up to entry {}, {mib} MiB", snapshot.index));
    let site = snapshot.state.own().cloned();
    if let (Some(home), Some(site)) = (home, site)
        && site != home.site
    {
        let detail = format!("the snapshot is of site {site}, the directory of {}", home.site);
        to.bad("snapshot", detail, "put the directory back that belongs here");
    }
    match look.purged {
        Some(purged) if purged > snapshot.index => {
            let detail = format!(
                "the log begins after entry {purged}, and the snapshot ends at {}",
                snapshot.index
            );
            to.bad("log and snapshot", detail, REPLACE);
        }
        Some(_) | None => to.ok("log and snapshot", "they fit together"),
    }
}

const REPLACE: &str = "do not delete anything: `federation controller replace` puts another \
                       controller with a new id in its place";

fn log(to: &mut Findings, look: &Look) {
    let Some(report) = &look.log else {
        to.ok("log", "there is none yet");
        return;
    };
    if let Some(damage) = &report.damage {
        to.bad("log", damage.to_string(), REPLACE);
        return;
    }
    if let Some(why) = &look.nonsense {
        to.bad("log", format!("it makes no sense: {why}"), REPLACE);
        return;
    }
    let (segments, mib) = (report.segments.len(), report.used_bytes() >> 20);
    let entries = look.entries.map_or_else(
        || "no entries".to_owned(),
        |(first, last)| format!("entries {first} to {last}"),
    );
    to.ok("log", format!("{segments} segments, {mib} MiB, {entries}"));
    if report.torn_tail.is_some() && look.held_by.is_none() {
        let detail = "its end was never acknowledged, and is cut off at the next start";
        to.ok("log", detail);
    }
}

fn file_system(to: &mut Findings, env: &Env, dir: &Path) {
    let advice = "keep the directory on a local disk";
    match disk::kind(dir) {
        Ok(Kind::Usual) => to.ok("file system", "of a disk"),
        Ok(Kind::Volatile(name)) => {
            let detail = format!("{name}: it may not outlive a restart of the machine");
            to.warn("file system", detail, advice);
        }
        Ok(Kind::Remote(name)) => {
            let detail = format!("{name}: what it says of syncs and locks may not be true");
            to.warn("file system", detail, advice);
        }
        Err(error) => to.warn("file system", format!("unknown: {error}"), advice),
    }
    if let Some(free) = disk::free_bytes(dir) {
        room(to, free);
    }
    let advice = "use a faster disk, and share it with fewer";
    match disk::sync_times(env, dir, SYNCS) {
        Ok(times) => {
            let (middle, longest) = (times.middle, times.longest);
            let detail = format!("{middle} ms, at most {longest} ms, of {SYNCS}");
            if longest >= SYNC_BAD || middle > SYNC_GOOD {
                to.warn("sync latency", detail, advice);
            } else {
                to.ok("sync latency", detail);
            }
        }
        Err(error) => to.bad("sync latency", format!("it cannot be written: {error}"), advice),
    }
}
