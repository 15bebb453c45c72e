//! A simulated disk that lets a test into its writes and syncs: to hold them up, to fail them, or
//! to lie about them.

use std::io;
use std::sync::Arc;

use crate::disk::{DirectoryLock, Disk, DiskFile};
use crate::sim_disk::SimDisk;

/// The call of the disk itself.
pub type Call<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// What a test does in the place of a call. Whatever it leaves out goes straight to the disk.
pub trait Hook: Send + Sync + 'static {
    /// In the place of [`DiskFile::write_at`].
    ///
    /// # Errors
    /// Those that the writer is to see.
    fn write(&self, _bytes: &[u8], call: Call<'_>) -> io::Result<()> {
        call()
    }

    /// In the place of [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// Those that the writer is to see.
    fn sync(&self, call: Call<'_>) -> io::Result<()> {
        call()
    }

    /// In the place of [`Disk::sync_directory`].
    ///
    /// # Errors
    /// Those that the writer is to see.
    fn sync_directory(&self, call: Call<'_>) -> io::Result<()> {
        call()
    }
}

/// A handle to one simulated directory with a hook; clones share both.
pub struct HookedDisk<H> {
    /// What it stands on.
    pub disk: SimDisk,
    /// The test's part.
    pub hook: Arc<H>,
}

impl<H> HookedDisk<H> {
    /// A disk with this hook.
    pub fn new(disk: SimDisk, hook: H) -> Self {
        Self { disk, hook: Arc::new(hook) }
    }
}

impl<H: Hook> HookedDisk<H> {
    fn hooked(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HookedFile { file, hook: self.hook.clone() })
    }
}

impl<H> Clone for HookedDisk<H> {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone(), hook: self.hook.clone() }
    }
}

impl<H: Hook> Disk for HookedDisk<H> {
    fn lock(&self) -> io::Result<DirectoryLock> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.hooked(self.disk.create(name, bytes)?))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.hooked(self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.hook.sync_directory(&mut || self.disk.sync_directory())
    }
}

struct HookedFile<H> {
    file: Box<dyn DiskFile>,
    hook: Arc<H>,
}

impl<H: Hook> DiskFile for HookedFile<H> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = &mut self.file;
        self.hook.write(bytes, &mut || file.write_at(offset, bytes))
    }
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }
    fn len(&mut self) -> io::Result<u64> {
        self.file.len()
    }
    fn resize(&mut self, bytes: u64) -> io::Result<()> {
        self.file.resize(bytes)
    }
    fn zero(&mut self) -> io::Result<()> {
        self.file.zero()
    }
    fn sync_data(&mut self) -> io::Result<()> {
        let file = &mut self.file;
        self.hook.sync(&mut || file.sync_data())
    }
}
