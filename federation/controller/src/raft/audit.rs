//! The rounds in which a leader compares what all have applied, and what comes of a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};

use fabric_quic::pool::CONTROL;
use federation_wal::Disk;
use futures::future::join_all;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::unit::Millis;
use specs::wire::method::Method;

use super::links::Links;
use super::marker;
use super::snapshot::Snapshots;
use super::state_machine::OnFatal;
use super::verify::{Judgement, Windows, judge, name_of};
use super::wire::{VerifyRequest, WireComparison, WireWindow};
use super::{Group, Inner};

/// How long a member may take to compare.
const COMPARE_SPAN: Millis = Millis(5_000);

/// One member's side of the comparison.
pub(crate) struct Audit {
    pub(crate) windows: Windows,
    /// The log's.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) on_fatal: OnFatal,
}

impl Audit {
    /// Answers a leader.
    pub(crate) async fn answer(&self, request: VerifyRequest) -> Result<WireComparison, Fault> {
        match request {
            VerifyRequest::Compare(theirs) => Ok(self.windows.compare(&theirs)),
            VerifyRequest::Condemn(window) => {
                let condemned = self.condemn(window.number).await;
                condemned.map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
                Ok(WireComparison { same: Vec::new(), differs: Vec::new() })
            }
        }
    }

    /// This member differs from the others. It stops, and never starts again.
    async fn condemn(&self, window: u64) -> io::Result<()> {
        let why = format!("{} is not what others have", name_of(window));
        let (disk, text) = (self.disk.clone(), why.clone());
        let set = move || marker::set(disk.as_ref(), marker::QUARANTINE, &text);
        self.snapshots.off_thread(set).await??;
        (self.on_fatal)(&format!("this member differs from its group: {why}"));
        Ok(())
    }
}

/// Compares from time to time while this member leads.
pub(crate) async fn watch_divergence(links: Links, group: Weak<Inner>, every: Millis) {
    let mut alarmed = BTreeSet::new();
    loop {
        links.env().sleep(every).await;
        let Some(inner) = group.upgrade() else { return };
        let group = Group { inner };
        if group.metrics().is_leader {
            let judgement = compare(&links, &group).await;
            act(&links, &group, judgement, &mut alarmed).await;
        }
    }
}

async fn compare(links: &Links, group: &Group) -> Judgement {
    let windows = group.inner.own.audit.windows.newest();
    let members = group.members();
    let own = group.inner.id;
    let voters = members.iter().filter(|it| it.voter).map(|it| it.id.0).collect();
    let body = VerifyRequest::Compare(windows.clone()).encode();
    let asked = members.iter().filter(|it| it.id != own).map(|member| {
        let (id, body) = (member.id.0, body.clone());
        async move {
            let answer = links.ask(id, CONTROL, Method::RaftVerify, body, COMPARE_SPAN);
            let answer = links.env().timeout(COMPARE_SPAN, answer).await.ok()?.ok()?;
            Some((id, WireComparison::decode(&answer).ok()?))
        }
    });
    let answers: BTreeMap<u64, WireComparison> =
        join_all(asked).await.into_iter().flatten().collect();
    judge(own.0, &windows, &voters, &answers)
}

async fn act(links: &Links, group: &Group, judgement: Judgement, alarmed: &mut BTreeSet<u64>) {
    for window in judgement.open {
        if alarmed.insert(window) {
            tracing::error!(
                window,
                "members have applied different entries, and no majority of them agrees; stop the \
                 site's controllers, keep their directories, and restore a backup"
            );
        }
    }
    for (id, number) in judgement.odd {
        tracing::error!(id, window = number, "a member differs from what a majority has applied");
        if id == group.inner.id.0 {
            group.hand_over().await;
            if let Err(error) = group.inner.own.audit.condemn(number).await {
                tracing::error!(%error, "this member could not be put into quarantine");
            }
        } else {
            let body = VerifyRequest::Condemn(WireWindow { number, hash: 0 }).encode();
            let told = links.ask(id, CONTROL, Method::RaftVerify, body, COMPARE_SPAN);
            // If it did not hear, it is found again in the next round.
            let _ = links.env().timeout(COMPARE_SPAN, told).await;
        }
    }
}
