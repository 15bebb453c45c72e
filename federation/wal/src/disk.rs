//! What the log asks of a disk: one flat directory of preallocated files.

use std::any::Any;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The file that says which process has the log open.
pub const LOCK_FILE: &str = "LOCK";

/// Zeros are written in pieces of this size where a file system cannot preallocate.
const ZERO_FILL_BYTES: usize = 1 << 20;

/// Holds the directory for one process; dropping it lets go.
pub type DirectoryLock = Box<dyn Any + Send>;

/// One directory. Names are plain file names in it.
///
/// Nothing is durable until [`DiskFile::sync_data`] (bytes) or [`Disk::sync_directory`] (names)
/// has returned `Ok`.
pub trait Disk: Send + Sync {
    /// Takes the directory for this process alone.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process has it; the message names the holder.
    fn lock(&self) -> io::Result<DirectoryLock>;

    /// All names in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of `bytes` zeros whose space is reserved, so that writes inside it do not run
    /// out of room.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`] when there is no room;
    /// then no file is left behind. Any other error if the name is taken or the disk fails.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading; nothing else may be asked of it.
    fn open_for_reading(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    /// Renames a file, in the place of one that has that name. An open [`DiskFile`] stays valid.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file. Its length changes only by [`DiskFile::resize`].
#[expect(clippy::len_without_is_empty, reason = "whether a file is empty is asked of no one")]
pub trait DiskFile: Send {
    /// Writes all of `bytes` at `offset` (bytes from the start).
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills all of `bytes` with what stands at `offset` (bytes from the start).
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before that; or the disk failed.
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// The length of the file, bytes.
    fn len(&mut self) -> io::Result<u64>;

    /// Makes the file so long: what is added is zeros with their space reserved, what is too much
    /// is cut off.
    ///
    /// # Errors
    /// As [`Disk::create`], and the file is then as it was; [`io::ErrorKind::Unsupported`] if the
    /// disk holds nothing but segments.
    fn resize(&mut self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads the whole file.
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Makes all bytes zeros and keeps their space reserved, at the cost of no write. Durable only
    /// after [`DiskFile::sync_data`], as a write.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the disk cannot do it; or the disk failed.
    fn zero(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes all writes so far durable (`fdatasync`). After an error it must not be called again:
    /// the kernel may have dropped the pages it failed to write.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
}

impl RealDisk {
    /// Opens `path`, and creates it durably if only its last component is absent.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let path = path.into();
        match fs::create_dir(&path) {
            Ok(()) => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        RealDisk::existing(path)
    }

    /// Opens `path`, and creates nothing.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn existing(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let path = path.into();
        let directory = File::open(&path)?;
        Ok(RealDisk { path, directory })
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<DirectoryLock> {
        let path = self.path.join(LOCK_FILE);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                let message = format!("process {} has it open", holder.trim());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not text is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = reserve(&file, 0, bytes) {
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn open_for_reading(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn len(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn zero(&mut self) -> io::Result<()> {
        let length = self.metadata()?.len();
        match rustix::fs::fallocate(&*self, FallocateFlags::ZERO_RANGE, 0, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn resize(&mut self, bytes: u64) -> io::Result<()> {
        let before = self.metadata()?.len();
        if bytes <= before {
            return self.set_len(bytes);
        }
        reserve(self, before, bytes - before).inspect_err(|_| {
            // What was reserved before the error costs room, not truth.
            let _ = self.set_len(before);
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)
    }
}

fn reserve(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, bytes) {
        Ok(()) => Ok(()),
        // A sparse file would move "no space left" into the middle of a batch.
        Err(Errno::OPNOTSUPP) => zero_fill(file, offset, offset + bytes),
        Err(error) => Err(error.into()),
    }
}

fn zero_fill(file: &File, mut offset: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_FILL_BYTES];
    while offset < end {
        let piece = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZERO_FILL_BYTES);
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}
