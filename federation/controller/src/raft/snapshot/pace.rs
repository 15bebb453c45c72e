//! How fast a snapshot is written: a disk that takes it as fast as it comes has the log's syncs
//! wait behind it.

use std::sync::Arc;
use std::time::Duration;

use fabric_quic::env::Clock;
use specs::unit::Instant;

/// About 1 GB in five seconds, and a small part of what a disk of a controller does.
pub(crate) const SNAPSHOT_BYTES_PER_SECOND: u64 = 200_000_000;

/// The limit, and the clock that it is kept by. Without a clock there is no limit.
#[derive(Clone, Default)]
pub(crate) struct Pace(Option<Arc<dyn Clock>>);

/// One file's part in it.
pub(crate) struct Paced<'a> {
    clock: Option<&'a dyn Clock>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn by(clock: Arc<dyn Clock>) -> Self {
        Self(Some(clock))
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.as_ref().map_or(Instant(0), |clock| clock.now())
    }

    pub(crate) fn begin(&self) -> Paced<'_> {
        Paced { clock: self.0.as_deref(), began: self.now(), bytes: 0 }
    }
}

impl Paced<'_> {
    /// Waits until so many more bytes are due. Blocks.
    pub(crate) fn wait(&mut self, bytes: u64) {
        self.bytes += bytes;
        let Some(clock) = self.clock else { return };
        let due = self.bytes.saturating_mul(1_000) / SNAPSHOT_BYTES_PER_SECOND;
        let passed = clock.now().0.saturating_sub(self.began.0);
        if due > passed {
            std::thread::sleep(Duration::from_millis(due - passed));
        }
    }
}
