//! openraft's own suite, on the store as it is used.

use std::sync::Arc;

use federation_wal::RealDisk;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::{Machine, machine, open};
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::Types;

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let disk = |name: &str| Arc::new(RealDisk::open(dir.path().join(name)).unwrap());
        let store = open(disk("wal"));
        let Machine { machine, .. } = machine(disk("snapshots"));
        Ok((dir, store, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_openrafts_contract() {
    Suite::test_all(Builder).await.unwrap();
}
