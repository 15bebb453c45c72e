//! The numbers of the agreement, each with its reason.

use std::path::PathBuf;

use federation_core::KNOWN;
use federation_wal::SEGMENT_BYTES;
use openraft::{Config, ConfigError, SnapshotPolicy};
use specs::id::ControllerId;
use specs::unit::Millis;
use specs::version::Versions;

/// A leader's sign of life. Four may be lost or late before a follower minds.
pub const HEARTBEAT: Millis = Millis(100);
/// The shortest wait of a candidate.
pub const ELECTION_MIN: Millis = Millis(250);
/// The longest wait of a candidate, and how long a follower stands by a leader that fell silent.
/// The next commit after a leader's death comes within twice this and the time of two syncs. A
/// longer span would ride out longer pauses of the leader's machine; a shorter one none.
pub const ELECTION_MAX: Millis = Millis(500);
/// Entries after which a snapshot is due: a restart applies them again, at some microseconds each,
/// and until then they are in memory.
pub const SNAPSHOT_ENTRIES: u64 = 1_000_000;
/// Length of the log after which a snapshot is due, bytes; or half of the state, if that is more.
/// With it the log's disk holds little more than with a shorter one, as segments go in whole; and
/// snapshots add no more than twice as many bytes as the log itself writes.
pub const SNAPSHOT_BYTES: u64 = 512 << 20;
/// Entries that stay after a snapshot: whoever lags by less catches up without one. They are in
/// memory, some hundred bytes each.
pub const KEPT_ENTRIES: u64 = 50_000;
/// A write to the disk of the log that takes this long makes a leader let another lead: ten times
/// what a spinning disk or a busy cloud volume needs at its worst, and as long as a failover may
/// take.
pub(crate) const DISK_YIELDS: Millis = Millis(2_000);
/// A write that takes this long ends the process: clients have given up on it by then.
pub(crate) const DISK_ENDS: Millis = Millis(10_000);
/// How often a leader compares what all members have applied. It costs each a few kilobytes.
pub(crate) const VERIFY: Millis = Millis(5_000);
/// The largest command, bytes. A record of the log holds twice as much.
pub const COMMAND_MAX_BYTES: usize = 8 << 20;

/// Entries of one message between members.
const APPEND_ENTRIES_MAX: u64 = 4_096;
/// Purged entries are dropped in groups of this many: each group costs a sync.
const PURGE_BATCH: u64 = 4_096;
/// What openraft gives a transfer. It only hands the number on to the network, which has a limit
/// for each piece instead: no span is right for a file of any size.
const SNAPSHOT_SPAN: Millis = Millis(24 * 3_600_000);

/// When a snapshot is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotRule {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// What to do about a log whose end was cut off when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CutLog {
    /// The member does not vote until it has made up for it.
    #[default]
    Abstain,
    /// It votes at once. An operator says so when the others it would have to hear are lost for
    /// good; acknowledged commands may be lost then.
    Accept,
}

/// How one member takes part in its group.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    pub id: ControllerId,
    /// The directory of `wal` and `snapshots`; both are made if only they are absent.
    pub dir: PathBuf,
    pub heartbeat: Millis,
    pub election_min: Millis,
    pub election_max: Millis,
    pub snapshot_entries: u64,
    pub snapshot_bytes: u64,
    pub kept_entries: u64,
    /// Size of a segment of the log, bytes.
    pub segment_bytes: usize,
    pub cut_log: CutLog,
    pub disk_yields: Millis,
    pub disk_ends: Millis,
    pub verify: Millis,
    /// Versions of the site that this member takes part in; tests let it stand for another release.
    pub known: Versions,
}

impl RaftConfig {
    #[must_use]
    pub fn new(id: ControllerId, dir: PathBuf) -> Self {
        Self {
            id,
            dir,
            heartbeat: HEARTBEAT,
            election_min: ELECTION_MIN,
            election_max: ELECTION_MAX,
            snapshot_entries: SNAPSHOT_ENTRIES,
            snapshot_bytes: SNAPSHOT_BYTES,
            kept_entries: KEPT_ENTRIES,
            segment_bytes: SEGMENT_BYTES,
            cut_log: CutLog::default(),
            disk_yields: DISK_YIELDS,
            disk_ends: DISK_ENDS,
            verify: VERIFY,
            known: KNOWN,
        }
    }

    pub(crate) fn snapshot_rule(&self) -> SnapshotRule {
        SnapshotRule { entries: self.snapshot_entries, bytes: self.snapshot_bytes }
    }

    pub(crate) fn openraft(&self) -> Result<Config, ConfigError> {
        let config = Config {
            cluster_name: "spillway".to_owned(),
            // A leader that lost the unsynced end of its log must not go on in its old term: it
            // would write other entries under ids that followers hold already.
            enable_leader_restore: Some(false),
            // A member whose log was cut off at its start has less than its leader knows it to have
            // had. It does not vote until it has it again; the leader only has to send it again.
            allow_log_reversion: Some(true),
            // A member that was cut off must not depose a healthy leader when it is back.
            enable_pre_vote: Some(true),
            heartbeat_interval: self.heartbeat.0,
            election_timeout_min: self.election_min.0,
            election_timeout_max: self.election_max.0,
            install_snapshot_timeout: SNAPSHOT_SPAN.0,
            max_payload_entries: APPEND_ENTRIES_MAX,
            // Entries are better than a snapshot as long as they are there.
            replication_lag_threshold: u64::MAX / 2,
            // The state machine knows better when one is due.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.kept_entries,
            purge_batch_size: PURGE_BATCH.min(self.kept_entries.max(1)),
            ..Config::default()
        };
        config.validate()
    }
}
