//! A look at the end of a log before it is opened: opening cuts a torn tail off for good, and its
//! owner may have to take note of that first.

use std::io;

use crate::disk::Disk;
use crate::recover::Recovery;
use crate::wal::OpenError;
use crate::writer::{read_segment, segment_indexes, segment_name};

/// Whether [`crate::Wal::open`] would cut off the end of the log in this directory. Changes
/// nothing. Of a log that does not open at all it says no.
///
/// # Errors
/// Another process has the log open, or the disk failed.
pub fn has_torn_tail(disk: &dyn Disk) -> Result<bool, OpenError> {
    let failed = |doing| move |source| OpenError::Disk { doing, source };
    let _lock = disk.lock().map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            OpenError::InUse(source)
        } else {
            OpenError::Disk { doing: "lock the directory", source }
        }
    })?;
    let names = disk.list().map_err(failed("list the directory"))?;
    // Only the newest segment may be torn: one is made when all before it are durable.
    let Some(newest) = segment_indexes(&names).into_iter().max() else {
        return Ok(false);
    };
    let mut file = disk.open(&segment_name(newest)).map_err(failed("open a segment"))?;
    let mut bytes = Vec::new();
    read_segment(file.as_mut(), &mut bytes).map_err(failed("read a segment"))?;
    let mut recovery = Recovery::default();
    let is_sound = recovery.push(newest, &bytes, &mut |_, _| ()).is_ok();
    Ok(is_sound && recovery.finish().truncated_tail)
}
