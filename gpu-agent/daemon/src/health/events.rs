//! The kernel's log, where the driver tells of its events: each of them, also when several come at
//! once, which the management library does not ([`super::library`]).

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use gpu_agent_core::health::{Evidence, Recovery};
use gpu_agent_core::xid::{self, Source};
use specs::gpu::GpuInfo;
use specs::id::GpuIndex;
use tokio::sync::mpsc;

use super::News;
use crate::inventory;

/// How long a log that has nothing more is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the log from its end on, on a thread of its own: reading the kernel's blocks.
pub(super) fn follow(path: &Path, gpus: Vec<GpuInfo>, tell: mpsc::Sender<News>) {
    let path = path.to_owned();
    let thread = thread::Builder::new().name("kernel-log".into());
    let spawned = thread.spawn(move || {
        if let Err(error) = read(&path, &gpus, &tell) {
            let path = path.display();
            tracing::warn!(%path, %error, "the kernel's log cannot be read: events go unseen");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "the kernel's log is not read: events go unseen");
    }
}

fn read(path: &PathBuf, gpus: &[GpuInfo], tell: &mpsc::Sender<News>) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(0))?;
    let mut lines = BufReader::new(file);
    // Asked before anything happens: of a GPU that is gone the driver says nothing more.
    let mut places = inventory::places(gpus);
    let mut line = Vec::new();
    loop {
        match lines.read_until(b'\n', &mut line) {
            // A file, or a pause; a line that is not whole yet is read on.
            Ok(_) if line.last() != Some(&b'\n') => thread::sleep(PAUSE),
            Ok(_) => {
                let event = xid::parse(&String::from_utf8_lossy(&line));
                line.clear();
                let Some(event) = event else { continue };
                if of_place(&places, &event.place).is_none() && places.len() < gpus.len() {
                    places = inventory::places(gpus);
                }
                let Some(index) = of_place(&places, &event.place) else { continue };
                let news = match event.recovery.and_then(Recovery::of) {
                    Some(recovery) => News::Learnt(index, Evidence::Recovery(recovery)),
                    None => News::Told(index, event.code, Source::KernelLog),
                };
                if tell.blocking_send(news).is_err() {
                    return Ok(());
                }
            }
            // What was overwritten before it was read is skipped by the kernel.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => line.clear(),
            Err(error) => return Err(error),
        }
        if tell.is_closed() {
            return Ok(());
        }
    }
}

fn of_place(places: &[(String, GpuIndex)], wanted: &str) -> Option<GpuIndex> {
    places.iter().find(|(place, _)| place == wanted).map(|(_, index)| *index)
}
