//! Facts about a member that must outlive it: small files beside its log.

use std::io;

use federation_wal::Disk;

/// The log's end was cut off at a start, and the member has not made up for it yet.
pub(crate) const CUT: &str = "cut-log";

/// The member's state differs from what the group agreed on; it must never start again.
pub(crate) const QUARANTINE: &str = "quarantine";

/// The most that a marker says, bytes.
const TEXT_MAX_BYTES: usize = 1_024;

/// What the marker says, if it is there.
pub(crate) fn read(disk: &dyn Disk, name: &str) -> io::Result<Option<String>> {
    if !disk.list()?.iter().any(|found| found == name) {
        return Ok(None);
    }
    let bytes = disk.open(name)?.read_all()?;
    // A power loss may leave the name without the text; the name is what counts.
    Ok(Some(String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n']).to_owned()))
}

/// Sets a marker durably. One that is there already keeps its text.
pub(crate) fn set(disk: &dyn Disk, name: &str, text: &str) -> io::Result<()> {
    if !disk.list()?.iter().any(|found| found == name) {
        let mut line = text.as_bytes()[..text.floor_char_boundary(TEXT_MAX_BYTES)].to_vec();
        line.push(b'\n');
        let mut file = disk.create(name, line.len() as u64)?;
        file.write_at(0, &line)?;
        file.sync_data()?;
    }
    disk.sync_directory()
}

/// Removes a marker durably, if it is there.
pub(crate) fn clear(disk: &dyn Disk, name: &str) -> io::Result<()> {
    if disk.list()?.iter().any(|found| found == name) {
        disk.remove(name)?;
        disk.sync_directory()?;
    }
    Ok(())
}
