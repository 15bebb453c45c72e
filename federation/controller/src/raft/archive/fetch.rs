//! What is missing here comes from the other members: whoever began with a snapshot never saw what
//! had left the state before.

use std::io;
use std::sync::{Arc, Weak};

use fabric_quic::env::Env;
use fabric_quic::pool::BULK;
use federation_core::Job;
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::JobId;
use specs::unit::Millis;
use specs::wire::method::Method;
use tokio::sync::oneshot;

use super::super::wire::{ArchiveRequest, ArchiveResponse, WireArchived};
use super::super::{Group, Inner, Member};
use super::{Archive, ArchiveView, Record};

/// How often it is looked whether something is missing.
const LOOK_SPAN: Millis = Millis(1_000);
/// Between two pieces, so that other traffic is not held up.
const PIECE_GAP: Millis = Millis(10);
/// What no member has is asked for again after this.
const AGAIN_SPAN: Millis = Millis(60_000);
/// How long one piece may take.
const PIECE_SPAN: Millis = Millis(10_000);
/// Most jobs of a piece.
const PIECE_JOBS: u64 = 1_000;
/// An answer holds no more once it is this long, bytes.
const PIECE_BYTES: usize = 1 << 20;

impl Archive {
    /// Runs what blocks on a thread of its own.
    async fn off_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = oneshot::channel();
        let archive = self.clone();
        let task = Box::new(move || {
            // No one waits when the member is stopping.
            let _ = done.send(work(&archive));
        });
        (self.threads)("archive", task)?;
        outcome.await.map_err(|_| io::Error::other("the work on the archive has panicked"))?
    }
}

/// Answers another member.
pub(crate) async fn answer(
    archive: &Arc<Archive>,
    it: ArchiveRequest,
) -> Result<ArchiveResponse, Fault> {
    let found = archive.off_thread(move |archive| match it.job {
        Some(id) => archive.find(id, id, 1),
        None => {
            let last = it.from.saturating_add(PIECE_JOBS - 1);
            archive.read(it.from.max(1), it.upto.min(last), PIECE_BYTES)
        }
    });
    let found = found.await.map_err(|error| {
        Fault::new(FaultCode::Internal, format!("the archive cannot be read: {error}"))
    })?;
    let wire = |it: Record| WireArchived { number: it.number, id: it.job, job: Blob(it.bytes) };
    Ok(ArchiveResponse { jobs: found.into_iter().map(wire).collect() })
}

async fn ask(group: &Group, member: Member, it: &ArchiveRequest) -> Result<Vec<Record>, String> {
    let (asker, method) = (&group.inner.asker, Method::RaftArchive);
    let answer = asker.ask(member, BULK, method, it.encode(), PIECE_SPAN).await?;
    let answer = ArchiveResponse::decode(&answer).map_err(|error| error.to_string())?;
    let record = |it: WireArchived| Record { number: it.number, job: it.id, bytes: it.job.0 };
    let is_sound = |it: &Record| Job::decode(&it.bytes).is_ok_and(|job| job.id == it.job);
    Ok(answer.jobs.into_iter().map(record).filter(is_sound).collect())
}

/// Fetches what is missing for as long as the member is there.
pub(crate) async fn watch_archive(env: Env, group: Weak<Inner>) {
    let mut round = Round { turn: 0, after: 0 };
    let mut wait = LOOK_SPAN;
    loop {
        env.sleep(wait).await;
        let Some(inner) = group.upgrade() else { return };
        let group = Group { inner };
        wait = match round.step(&group).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "the archive cannot be completed now");
                AGAIN_SPAN
            }
        };
    }
}

/// How far the present round through what is missing has come.
struct Round {
    /// Who is asked next.
    turn: usize,
    /// Nobody has what is missing up to this number.
    after: u64,
}

impl Round {
    /// Fetches one piece. Returns how long to wait for the next.
    async fn step(&mut self, group: &Group) -> io::Result<Millis> {
        let archive = &group.inner.own.archive;
        let (after, upto) = (self.after, group.state().archived);
        if after == 0 && archive.view(upto).missing == 0 {
            return Ok(LOOK_SPAN);
        }
        let look = archive.off_thread(move |it| it.missing(after, upto, PIECE_JOBS)).await?;
        let Some((from, upto)) = look else {
            let wait = if after == 0 { LOOK_SPAN } else { AGAIN_SPAN };
            self.after = 0;
            return Ok(wait);
        };
        let others = others(group);
        let request = ArchiveRequest { from, upto, job: None };
        for nth in 0..others.len() {
            let member = others[(self.turn + nth) % others.len()].clone();
            let id = member.id;
            let mut records = match ask(group, member, &request).await {
                Ok(records) => records,
                Err(error) => {
                    tracing::debug!(%id, error, "a member did not give archived jobs");
                    continue;
                }
            };
            records.retain(|record| (from..=upto).contains(&record.number));
            if records.is_empty() {
                continue;
            }
            self.turn += nth;
            archive.off_thread(move |archive| archive.take_in(&records)).await?;
            return Ok(PIECE_GAP);
        }
        self.after = upto;
        Ok(LOOK_SPAN)
    }
}

fn others(group: &Group) -> Vec<Member> {
    let own = group.inner.id;
    group.members().into_iter().filter(|member| member.id != own).collect()
}

impl Group {
    /// How far this member's archive is.
    #[must_use]
    pub fn archive(&self) -> ArchiveView {
        self.inner.own.archive.view(self.state().archived)
    }

    /// A job that has left the state, from this member or, if it lacks it, from another.
    ///
    /// # Errors
    /// The archive of this member cannot be read.
    pub async fn archived_job(&self, id: JobId) -> io::Result<Option<Job>> {
        if let Some(job) = self.archived_between(id, id, 1).await?.pop() {
            return Ok(Some(job));
        }
        if self.archive().missing == 0 {
            return Ok(None);
        }
        let request = ArchiveRequest { from: 0, upto: 0, job: Some(id) };
        for member in others(self) {
            if let Ok(mut found) = ask(self, member, &request).await
                && let Some(job) = found.pop().filter(|record| record.job == id).and_then(read)
            {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    /// Jobs that have left the state and whose ids stand between the two, as far as this member
    /// has them; not more than `most`.
    ///
    /// # Errors
    /// The archive of this member cannot be read.
    pub async fn archived_between(
        &self,
        from: JobId,
        to: JobId,
        most: usize,
    ) -> io::Result<Vec<Job>> {
        let archive = &self.inner.own.archive;
        let found = archive.off_thread(move |archive| archive.find(from, to, most)).await?;
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// The jobs that left the state last, the last first, as far as this member has them.
    ///
    /// # Errors
    /// The archive of this member cannot be read.
    pub async fn archived_newest(&self, most: usize) -> io::Result<Vec<Job>> {
        let upto = self.state().archived;
        let archive = &self.inner.own.archive;
        let found = archive.off_thread(move |archive| archive.newest(upto, most)).await?;
        Ok(found.into_iter().filter_map(read).collect())
    }
}

fn read(record: Record) -> Option<Job> {
    Job::decode(&record.bytes)
        .inspect_err(
            |error| tracing::error!(%error, job = %record.job, "an archived job cannot be read"),
        )
        .ok()
}
