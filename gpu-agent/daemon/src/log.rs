//! Logging that never waits: who reads the log may be slow, and an agent that waits for it would
//! miss its attempts' leases. Lines that nobody takes in time are dropped.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE: usize = 1_024;
/// How long the last lines may take when the process ends.
const FLUSH_SPAN: Duration = Duration::from_millis(500);

/// What is written is written when this is dropped, if it can be.
pub struct Flush {
    /// Closed when the thread that writes has ended.
    done: Receiver<()>,
    lines: Option<SyncSender<Vec<u8>>>,
}

/// Starts to log to standard error, as `RUST_LOG` says. Call it once, and keep the result.
///
/// # Errors
/// There is no thread to write with.
pub fn start_logging() -> io::Result<Flush> {
    let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
    let (end, done) = sync_channel::<()>(0);
    thread::Builder::new().name("log".into()).spawn(move || {
        write_all(&queue);
        drop(end);
    })?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = Lines(lines.clone());
    let is_terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(is_terminal)
        .init();
    Ok(Flush { done, lines: Some(lines) })
}

impl Drop for Flush {
    fn drop(&mut self) {
        // An empty line asks for the end: the subscriber keeps its sender for good.
        if let Some(lines) = self.lines.take() {
            let _ = lines.try_send(Vec::new());
        }
        match self.done.recv_timeout(FLUSH_SPAN) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

fn write_all(queue: &Receiver<Vec<u8>>) {
    while let Ok(line) = queue.recv() {
        if line.is_empty() || io::stderr().write_all(&line).is_err() {
            return;
        }
    }
}

#[derive(Clone)]
struct Lines(SyncSender<Vec<u8>>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// The subscriber writes a line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
