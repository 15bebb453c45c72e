//! What the file system under a directory is like.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use fabric_quic::env::Env;
use specs::unit::Millis;

/// Kinds that do not keep what a restart of the machine or of a container must not lose.
const VOLATILE: [(u64, &str); 3] =
    [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs"), (0x794c_7630, "overlay")];
/// Kinds whose syncs say little of a disk.
const REMOTE: [(u64, &str); 3] = [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0x6573_5546, "fuse")];

/// How far a file system can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Usual,
    Volatile(&'static str),
    Remote(&'static str),
}

/// Bytes that may still be written; none if nobody knows.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(dir).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

pub(crate) fn kind(dir: &Path) -> io::Result<Kind> {
    let number = u64::try_from(rustix::fs::statfs(dir)?.f_type).unwrap_or(0);
    let named = |kinds: &[(u64, &'static str)]| {
        kinds.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
    };
    Ok(match (named(&VOLATILE), named(&REMOTE)) {
        (Some(name), _) => Kind::Volatile(name),
        (None, Some(name)) => Kind::Remote(name),
        (None, None) => Kind::Usual,
    })
}

/// How long syncs take: the middle one and the longest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncTimes {
    pub(crate) middle: Millis,
    pub(crate) longest: Millis,
}

/// Writes and syncs a small file that nobody can name, `rounds` times.
pub(crate) fn sync_times(env: &Env, dir: &Path, rounds: u32) -> io::Result<SyncTimes> {
    let mut file = unnamed(dir)?;
    let mut spans = Vec::new();
    for _ in 0..rounds.max(1) {
        let begun = env.clock.now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        spans.push(env.clock.now().since(begun));
    }
    spans.sort_unstable();
    let middle = spans.get(spans.len() / 2).copied().unwrap_or_default();
    Ok(SyncTimes { middle, longest: spans.last().copied().unwrap_or_default() })
}

/// A file without a name goes away by itself, even if this process is killed.
fn unnamed(dir: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Not every file system can: a name that is removed at once will do.
        Err(_) => {
            let path = dir.join(format!(".doctor-{}", std::process::id()));
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
    }
}
