//! `federation job logs`: a task's output as it was written, resumed by its offset when a
//! controller or a link goes away.

use specs::fault::FaultCode;
use specs::id::{Epoch, JobId};
use specs::unit::{Instant, Millis};
use specs::wire::agent::{LogChunk, LogStream};
use specs::wire::client::{JobLogs, JobView};
use specs::wire::method::Method;

use crate::app::{App, unless_interrupted};
use crate::args::LogsArgs;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::job;
use crate::output::{self, note};

/// Most bytes asked for at once.
const CHUNK_BYTES_MAX: u32 = 256 << 10;
/// How long the node may hold back an answer while there is nothing to tell.
const FOLLOW_SPAN: Millis = Millis(10_000);
/// Between two questions while a task's output cannot be had.
const RETRY_SPAN: Millis = Millis(500);
/// How long that may last before it is told.
const PATIENCE_SPAN: Millis = Millis(3_000);

/// Which output of which task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) job: JobId,
    pub(crate) node_rank: u32,
    pub(crate) task: u32,
    pub(crate) stream: LogStream,
}

pub(crate) async fn run(app: &App, args: LogsArgs) -> Outcome<()> {
    let mut client = app.client()?;
    let jobs = job::select(&mut client, &args.job).await?;
    let view = one_of(jobs, args.index, &args.job)?;
    let stream = if args.stderr { LogStream::Stderr } else { LogStream::Stdout };
    let source = Source { job: view.id, node_rank: args.rank, task: args.task, stream };
    let epoch = args.epoch.map_or(view.epoch, Epoch);
    if !args.follow {
        if epoch == Epoch(0) {
            note(&format!("{} has not started: it is {}", view.spec.name, view.state));
            return Ok(());
        }
        let mut offset = 0;
        while !print_more(&mut client, source, epoch, &mut offset, Millis::ZERO).await?.is_last() {}
        client.close().await;
        return Ok(());
    }
    Follower { source, only: args.epoch.map(Epoch) }.to_end(client).await
}

/// Prints what the first task writes until the job ends, and ends as it did.
pub(crate) async fn follow_to_end(client: Client, job: JobId) -> Outcome<()> {
    let source = Source { job, node_rank: 0, task: 0, stream: LogStream::Stdout };
    Follower { source, only: None }.to_end(client).await
}

fn reattachable(failure: Failure, id: JobId) -> Failure {
    match failure.code() {
        Some(code) if code.is_retryable() => failure
            .with_hint(format!("the job is not affected; go on with: federation job logs -f {id}")),
        Some(_) | None => failure,
    }
}

fn one_of(jobs: Vec<JobView>, index: Option<u32>, text: &str) -> Outcome<JobView> {
    let count = jobs.len();
    let mut fitting: Vec<JobView> =
        jobs.into_iter().filter(|job| index.is_none_or(|index| job.array_index == index)).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(job), true) => Ok(job),
        (Some(_), false) => {
            let failure = Failure::usage(format!("`{text}` is an array of {count} jobs"));
            Err(failure.with_hint("choose one with --index N"))
        }
        (None, _) => {
            let message = format!("`{text}` has no job of that index");
            Err(Failure::new(FaultCode::NotFound, message))
        }
    }
}

/// What one question brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Came,
    Nothing,
    End,
}

impl More {
    /// True if someone who does not wait has seen it all.
    fn is_last(self) -> bool {
        match self {
            Self::Came => false,
            Self::Nothing | Self::End => true,
        }
    }
}

/// A piece of a task's output.
pub(crate) async fn fetch(
    client: &mut Client,
    source: Source,
    epoch: Epoch,
    offset: u64,
    wait: Millis,
) -> Outcome<LogChunk> {
    let Source { job, node_rank, task, stream } = source;
    let max_bytes = CHUNK_BYTES_MAX;
    let question = JobLogs { job, epoch, node_rank, task, stream, offset, max_bytes, wait };
    client.poll(Method::JobLogs, &question, wait).await
}

/// Asks once and prints what comes.
async fn print_more(
    client: &mut Client,
    source: Source,
    epoch: Epoch,
    offset: &mut u64,
    wait: Millis,
) -> Outcome<More> {
    let chunk = fetch(client, source, epoch, *offset, wait).await?;
    if chunk.offset > *offset {
        note(&format!("{} bytes are gone", chunk.offset - *offset));
    }
    output::bytes(&chunk.data.0)?;
    let length = u64::try_from(chunk.data.0.len()).unwrap_or(u64::MAX);
    *offset = chunk.offset.saturating_add(length);
    Ok(match (chunk.end, length) {
        (true, _) => More::End,
        (false, 0) => More::Nothing,
        (false, _) => More::Came,
    })
}

/// Prints a job's output through all of its attempts.
struct Follower {
    source: Source,
    /// This attempt and no later one.
    only: Option<Epoch>,
}

impl Follower {
    /// Follows until the job or the chosen attempt ends, or Ctrl-C; ends as the job did.
    async fn to_end(&self, mut client: Client) -> Outcome<()> {
        let job = self.source.job;
        let advice = || format!("detached; re-attach with: federation job logs -f {job}");
        let end = unless_interrupted(self.follow(&mut client), advice).await;
        let end = end.map_err(|failure| reattachable(failure, job))?;
        client.close().await;
        if self.only.is_some_and(|only| only < end.epoch) {
            return Ok(());
        }
        match job::verdict(&end) {
            0 => Ok(()),
            code => Err(Failure::Exit(code)),
        }
    }

    async fn follow(&self, client: &mut Client) -> Outcome<JobView> {
        let mut seen = Epoch(0);
        let mut view = job::current(client, self.source.job).await?;
        let name = view.spec.name.clone();
        if view.epoch == Epoch(0) && !view.state.is_terminal() {
            note(&format!("{name} is {}; its output follows once it starts", view.state));
        }
        loop {
            let epoch = self.only.unwrap_or(view.epoch);
            if epoch > seen && epoch <= view.epoch {
                let host = view.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
                if seen > Epoch(0) {
                    note(&format!("attempt {epoch} of {name} begins{host}"));
                }
                seen = epoch;
                view = self.attempt(client, epoch).await?;
            } else if view.state.is_terminal() || self.only.is_some_and(|only| only < view.epoch) {
                return Ok(view);
            } else {
                view = job::changed(client, &view, job::WAIT_SPAN).await?;
            }
        }
    }

    /// Prints one attempt's output to its end, or until another attempt has begun and no more of
    /// this one can be had.
    async fn attempt(&self, client: &mut Client, epoch: Epoch) -> Outcome<JobView> {
        let mut offset = 0;
        // Since when nothing came, and whether that was told.
        let mut trouble: Option<(Instant, bool)> = None;
        loop {
            match print_more(client, self.source, epoch, &mut offset, FOLLOW_SPAN).await {
                Ok(More::End) => return job::current(client, self.source.job).await,
                Ok(More::Came | More::Nothing) => trouble = None,
                Err(failure) if is_passing(&failure) => {
                    let view = job::current(client, self.source.job).await?;
                    if view.state.is_terminal() || view.epoch > epoch {
                        note(&format!("the rest of attempt {epoch}'s output cannot be had"));
                        return Ok(view);
                    }
                    let now = client.env().clock.now();
                    let (since, is_told) = trouble.unwrap_or((now, false));
                    let is_time = now.since(since) >= PATIENCE_SPAN;
                    if is_time && !is_told {
                        note(&format!("the output cannot be had yet: {}", failure.message()));
                    }
                    trouble = Some((since, is_told || is_time));
                    client.env().sleep(RETRY_SPAN).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// True for what may be otherwise a little later: a task that has not started, a node that is not
/// heard.
fn is_passing(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.is_retryable() || code == FaultCode::NotFound)
}
