//! A site's state in one file, which a new group can be founded on.
//!
//! ```text
//!  magic 8 | format u32 | meta length u32 | CRC32C of the 16 bytes before and of meta u32 | meta
//!  frame:  length u32 (not zero) | CRC32C of the frames up to here u32 | a `Frame`
//!  end:    0 u32 | CRC32C of all frames u32 | frames u64 | CRC32C of the 16 bytes before u32
//!                                                                       (numbers little-endian)
//! ```
//!
//! A file is written under another name, synced, and only then gets its own: it is whole or not
//! there. It holds no key of the site, but tells all that its users can see.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use federation_core::{KNOWN, State, StateBuilder};
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, Revision, SiteId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::client::{BackupOpened, BackupPiece};
use tokio::sync::mpsc;

use crate::error::ControllerError;
use crate::shared::lock;

const MAGIC: &[u8; 8] = b"spwbkup\n";
/// The only format there is.
const FORMAT: u32 = 1;
const META_BYTES_MAX: u32 = 1 << 20;
/// A chunk of state is at most as long as its longest record.
const FRAME_BYTES_MAX: u32 = 64 << 20;
/// Backups that one controller holds for readers at a time.
const OPEN_MAX: usize = 4;
/// One that is not read from for this long is let go.
const IDLE_MAX: Millis = Millis(60_000);
/// Pieces that wait for their reader.
const AHEAD: usize = 4;

specs::message! {
    /// What a backup says of itself.
    pub struct BackupMeta {
        1 => site: SiteId,
        2 => revision: Revision,
        /// When the state was held still, by the clock of the controller.
        3 => at: Timestamp,
        4 => controller: ControllerId,
        /// SHA-256 of the authority's certificate.
        5 => authority: Blob,
        /// Of the controller's program.
        6 => version: String,
        /// The others were not asked whether the state is the newest.
        7 => stale: bool,
    }

    /// A chunk of state, as the core gives it.
    pub struct Frame {
        1 => table: u32,
        2 => records: u32,
        3 => bytes: Blob,
    }
}

impl BackupMeta {
    /// What the controller said that holds the state.
    #[must_use]
    pub fn of(opened: &BackupOpened, stale: bool) -> Self {
        Self {
            site: opened.site.clone(),
            revision: opened.revision,
            at: opened.at,
            controller: opened.controller,
            authority: opened.authority.clone(),
            version: opened.version.clone(),
            stale,
        }
    }
}

/// What a whole backup holds.
#[derive(Debug)]
pub struct Backup {
    pub meta: BackupMeta,
    pub state: State,
    /// Of the file.
    pub bytes: u64,
    pub chunks: u64,
}

/// Writes a backup. Dropped before its end, it leaves nothing.
pub struct BackupWriter {
    path: PathBuf,
    draft: PathBuf,
    file: BufWriter<File>,
    crc: u32,
    frames: u64,
    bytes: u64,
    replaces: bool,
    is_done: bool,
}

impl BackupWriter {
    /// Begins a file. One of that name stays as it is until the new one is whole.
    ///
    /// # Errors
    /// There is one and `replaces` is false, or the directory cannot be written.
    pub fn create(path: &Path, meta: &BackupMeta, replaces: bool) -> Result<Self, ControllerError> {
        Self::check(path, replaces)?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".unfinished");
        let draft = path.with_file_name(name);
        let failed = |error| ControllerError::file("write", path, error);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let mut writer = Self {
            path: path.to_owned(),
            draft,
            file: BufWriter::new(file.map_err(failed)?),
            crc: 0,
            frames: 0,
            bytes: 0,
            replaces,
            is_done: false,
        };
        let meta = meta.encode();
        let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&FORMAT.to_le_bytes());
        head.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &meta);
        head.extend_from_slice(&crc.to_le_bytes());
        head.extend_from_slice(&meta);
        writer.put(&head)?;
        Ok(writer)
    }

    /// Checks that a backup can get this name, before anything is asked of anyone.
    ///
    /// # Errors
    /// As [`BackupWriter::create`].
    pub fn check(path: &Path, replaces: bool) -> Result<(), ControllerError> {
        if path.file_name().is_none() {
            let what = format!("{} is not the name of a file", path.display());
            return Err(ControllerError::new(FaultCode::InvalidArgument, what));
        }
        match fs::symlink_metadata(path) {
            Ok(facts) if facts.is_file() && replaces => Ok(()),
            Ok(facts) if facts.is_file() => {
                let what = format!("there is a file {} already", path.display());
                Err(ControllerError::new(FaultCode::Conflict, what)
                    .hint("choose another name, or add --force; nothing was changed"))
            }
            Ok(_) => {
                let what = format!("{} is not a file", path.display());
                Err(ControllerError::new(FaultCode::Conflict, what).hint("choose another name"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ControllerError::file("write", path, error)),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ControllerError> {
        self.bytes += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        written.map_err(|error| ControllerError::file("write", &self.path, error))
    }

    /// Adds what a controller gave.
    ///
    /// # Errors
    /// It cannot be written, or is too long to be a piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ControllerError> {
        let length =
            u32::try_from(piece.len()).ok().filter(|it| (1..=FRAME_BYTES_MAX).contains(it));
        let Some(length) = length else {
            let what = format!("a piece of {} bytes is none of a backup", piece.len());
            return Err(ControllerError::new(FaultCode::VersionMismatch, what));
        };
        self.crc = crc32c::crc32c_append(self.crc, piece);
        self.frames += 1;
        let crc = self.crc;
        self.put(&length.to_le_bytes())?;
        self.put(&crc.to_le_bytes())?;
        self.put(piece)
    }

    /// Makes the file durable and gives it its name. Returns its size.
    ///
    /// # Errors
    /// The disk refuses, or another file has got the name meanwhile.
    pub fn finish(mut self) -> Result<u64, ControllerError> {
        let mut end = 0u32.to_le_bytes().to_vec();
        end.extend_from_slice(&self.crc.to_le_bytes());
        end.extend_from_slice(&self.frames.to_le_bytes());
        let crc = crc32c::crc32c(&end);
        end.extend_from_slice(&crc.to_le_bytes());
        self.put(&end)?;
        let name = || -> io::Result<()> {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            if self.replaces {
                fs::rename(&self.draft, &self.path)?;
            } else {
                // Unlike a rename, this does not take the place of a file.
                fs::hard_link(&self.draft, &self.path)?;
                fs::remove_file(&self.draft)?;
            }
            let parent = self.path.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        let mut name = name;
        name().map_err(|error| ControllerError::file("write", &self.path, error))?;
        self.is_done = true;
        Ok(self.bytes)
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.draft);
        }
    }
}

/// Why a file is not a backup, or no longer one.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error("it does not begin like a backup")]
    Magic,
    #[error("its format is {0}, and this version knows only {FORMAT}")]
    Format(u32),
    #[error("it is cut short after {0} bytes")]
    Short(u64),
    #[error("the checksum at byte {0} is wrong: the file is damaged")]
    Checksum(u64),
    #[error("there is something after its end, at byte {0}")]
    Rest(u64),
    #[error("its content is not one that this version knows: {0}")]
    Content(String),
}

struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    at: u64,
}

impl Reader {
    fn flawed(&self, flaw: &Flaw) -> ControllerError {
        let what = format!("{} is not a usable backup: {flaw}", self.path.display());
        let hint = match flaw {
            Flaw::Magic => "name a file that `federation backup` wrote",
            Flaw::Format(_) | Flaw::Content(_) => "use the version of `federation` that wrote it",
            Flaw::Short(_) | Flaw::Checksum(_) | Flaw::Rest(_) => "use another copy of it",
        };
        ControllerError::new(FaultCode::InvalidArgument, what).hint(hint)
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), ControllerError> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let length = fs::metadata(&self.path).map_or(self.at, |facts| facts.len());
                Err(self.flawed(&Flaw::Short(length)))
            }
            Err(error) => Err(ControllerError::file("read", &self.path, error)),
        }
    }

    fn u32(&mut self) -> Result<u32, ControllerError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn bytes(&mut self, length: u32, max: u32) -> Result<Vec<u8>, ControllerError> {
        if length > max {
            return Err(self.flawed(&Flaw::Checksum(self.at)));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn meta(&mut self) -> Result<BackupMeta, ControllerError> {
        let mut head = [0; 16];
        let begun = self.take(&mut head);
        let Some((magic, numbers)) = head.split_first_chunk::<8>() else {
            return Err(self.flawed(&Flaw::Magic));
        };
        if magic != MAGIC {
            return Err(self.flawed(&Flaw::Magic));
        }
        begun?;
        let number = |at: usize| {
            numbers.get(at..at + 4).and_then(|it| it.try_into().ok()).map_or(0, u32::from_le_bytes)
        };
        let (format, length) = (number(0), number(4));
        if format != FORMAT {
            return Err(self.flawed(&Flaw::Format(format)));
        }
        let crc = self.u32()?;
        let meta = self.bytes(length, META_BYTES_MAX)?;
        if crc32c::crc32c_append(crc32c::crc32c(&head), &meta) != crc {
            return Err(self.flawed(&Flaw::Checksum(16)));
        }
        BackupMeta::decode(&meta).map_err(|error| self.flawed(&Flaw::Content(error.to_string())))
    }

    fn content(&mut self) -> Result<(State, u64), ControllerError> {
        let mut builder = StateBuilder::new();
        let (mut running, mut frames) = (0, 0u64);
        loop {
            let place = self.at;
            let (length, crc) = (self.u32()?, self.u32()?);
            if length == 0 {
                self.end(crc, running, frames, place)?;
                let state = builder.finish();
                let state =
                    state.map_err(|error| self.flawed(&Flaw::Content(error.to_string())))?;
                if !KNOWN.has(state.version) {
                    let why = format!("the site had version {}, this knows {KNOWN}", state.version);
                    return Err(self.flawed(&Flaw::Content(why)));
                }
                return Ok((state, frames));
            }
            let data = self.bytes(length, FRAME_BYTES_MAX)?;
            running = crc32c::crc32c_append(running, &data);
            if crc != running {
                return Err(self.flawed(&Flaw::Checksum(place)));
            }
            frames += 1;
            let frame = Frame::decode(&data)
                .map_err(|error| self.flawed(&Flaw::Content(error.to_string())))?;
            let table = u16::try_from(frame.table).unwrap_or(u16::MAX);
            builder
                .push(table, frame.records, &frame.bytes.0)
                .map_err(|error| self.flawed(&Flaw::Content(error.to_string())))?;
        }
    }

    fn end(&mut self, crc: u32, running: u32, frames: u64, at: u64) -> Result<(), ControllerError> {
        let mut said = [0; 8];
        self.take(&mut said)?;
        let mut end = 0u32.to_le_bytes().to_vec();
        end.extend_from_slice(&crc.to_le_bytes());
        end.extend_from_slice(&said);
        if self.u32()? != crc32c::crc32c(&end)
            || crc != running
            || u64::from_le_bytes(said) != frames
        {
            return Err(self.flawed(&Flaw::Checksum(at)));
        }
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.flawed(&Flaw::Rest(self.at))),
            Err(error) => Err(ControllerError::file("read", &self.path, error)),
        }
    }
}

/// Reads a backup, all of it, and verifies it.
///
/// # Errors
/// It cannot be read, or is not whole.
pub fn read_backup(path: &Path) -> Result<Backup, ControllerError> {
    let file = File::open(path).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound {
            FaultCode::NotFound
        } else {
            FaultCode::Internal
        };
        ControllerError::new(code, format!("cannot read {}: {error}", path.display()))
    })?;
    let mut reader = Reader { file: BufReader::new(file), path: path.to_owned(), at: 0 };
    let meta = reader.meta()?;
    let (state, chunks) = reader.content()?;
    Ok(Backup { meta, state, bytes: reader.at, chunks })
}

/// The states that a controller holds for readers.
#[derive(Default)]
pub(crate) struct Backups {
    open: Mutex<BTreeMap<u64, Open>>,
}

struct Open {
    touched: Instant,
    reading: std::sync::Arc<tokio::sync::Mutex<Reading>>,
}

/// One reader's place.
struct Reading {
    /// None after the last one: a thread that dies must not pass for the end.
    pieces: mpsc::Receiver<Option<Vec<u8>>>,
    /// The next piece's number.
    next: u64,
    /// The one before it, which may be asked for again.
    last: Option<BackupPiece>,
}

impl Backups {
    /// Holds a state, under the number given.
    pub(crate) fn open(&self, number: u64, state: State, now: Instant) -> Result<(), Fault> {
        let mut open = lock(&self.open);
        open.retain(|_, it| now.since(it.touched) < IDLE_MAX);
        if open.len() >= OPEN_MAX {
            let message = format!("{OPEN_MAX} backups are being read from this controller");
            return Err(Fault::new(FaultCode::Busy, message));
        }
        let (sender, pieces) = mpsc::channel(AHEAD);
        let walk = move || {
            for chunk in state.chunks() {
                let (table, bytes) = (u32::from(chunk.table), Blob(chunk.bytes));
                let frame = Frame { table, records: chunk.records, bytes };
                // Nobody reads on.
                if sender.blocking_send(Some(frame.encode())).is_err() {
                    return;
                }
            }
            let _ = sender.blocking_send(None);
        };
        let started = std::thread::Builder::new().name("backup".to_owned()).spawn(walk);
        started.map_err(|error| {
            Fault::new(FaultCode::Busy, format!("there is no thread for a backup: {error}"))
        })?;
        let reading = Reading { pieces, next: 0, last: None };
        let reading = std::sync::Arc::new(tokio::sync::Mutex::new(reading));
        open.insert(number, Open { touched: now, reading });
        Ok(())
    }

    /// One piece; with the last, the state is let go.
    pub(crate) async fn read(
        &self,
        number: u64,
        piece: u64,
        now: Instant,
    ) -> Result<BackupPiece, Fault> {
        let gone = || {
            let message = "this controller does not hold that backup any more";
            Fault::new(FaultCode::NotFound, message).with_hint("begin the backup again")
        };
        let reading = {
            let mut open = lock(&self.open);
            let found = open.get_mut(&number).ok_or_else(gone)?;
            found.touched = now;
            found.reading.clone()
        };
        let mut reading = reading.lock().await;
        if piece + 1 == reading.next
            && let Some(last) = &reading.last
        {
            return Ok(last.clone());
        }
        if piece != reading.next {
            return Err(gone());
        }
        let data = reading.pieces.recv().await.ok_or_else(gone)?;
        let is_last = data.is_none();
        let answer = BackupPiece { data: Blob(data.unwrap_or_default()), last: is_last };
        reading.next += 1;
        reading.last = Some(answer.clone());
        Ok(answer)
    }
}
