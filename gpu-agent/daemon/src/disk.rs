//! Writing files that must still be there after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Ending of a file that is being written.
const DRAFT_ENDING: &str = "tmp";

/// Replaces a file at once and durably: a crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(DRAFT_ENDING);
    let mut file = private().write(true).create(true).truncate(true).open(&draft)?;
    file.write_all(bytes)?;
    publish(&file, &draft, path)
}

/// Makes room for a file that will be written when the disk may be full.
pub(crate) fn reserve(path: &Path, len: usize) -> io::Result<()> {
    let draft = path.with_extension(DRAFT_ENDING);
    let mut file = private().write(true).create_new(true).open(draft)?;
    file.write_all(&vec![0; len])?;
    file.sync_all()
}

/// As [`replace`], in the room that [`reserve`] made, if there is any.
pub(crate) fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(DRAFT_ENDING);
    let mut file = private().write(true).create(true).truncate(false).open(&draft)?;
    file.write_all(bytes)?;
    file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    publish(&file, &draft, path)
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Files of an agent hold what tenants wrote; nobody else reads them.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn publish(file: &File, draft: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(draft, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}
