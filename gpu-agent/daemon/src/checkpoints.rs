//! When attempts last saved their work: a job touches the file that [`FILE_VARIABLE`] names whenever a
//! checkpoint of it is whole, and its agent tells when that was.
//!
//! The file is the evidence: whoever looks, and however often, sees the same. Disks may be slow, so the
//! agent never waits for a look; it tells what the last one saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use fabric_quic::env::Env;
use specs::id::LeaseId;
use specs::unit::Timestamp;
use specs::wire::agent::Checkpoint;

use crate::attempts::Attempts;

/// In the environment of each task.
pub(crate) const FILE_VARIABLE: &str = "SPILLWAY_CHECKPOINT_FILE";

/// What the last look saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoints {
    seen: Arc<Mutex<BTreeMap<LeaseId, Timestamp>>>,
    is_looking: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Looks at the files of these attempts, unless a look has not come back yet.
    pub(crate) fn look(&self, env: &Env, attempts: &Attempts, leases: Vec<LeaseId>) {
        if self.is_looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let (it, attempts) = (self.clone(), attempts.clone());
        env.spawn(async move {
            let mut seen = BTreeMap::new();
            for lease in leases {
                if let Some(at) = saved_at(&attempts, lease).await {
                    seen.insert(lease, at);
                }
            }
            *it.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            it.is_looking.store(false, Ordering::Relaxed);
        });
    }

    pub(crate) fn seen(&self) -> Vec<Checkpoint> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(lease, at)| Checkpoint { lease: *lease, at: *at }).collect()
    }
}

/// When the file was last written or touched; none if it is not there.
async fn saved_at(attempts: &Attempts, lease: LeaseId) -> Option<Timestamp> {
    let told = tokio::fs::metadata(attempts.checkpoint(lease)).await.ok()?;
    let since = told.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Timestamp)
}
