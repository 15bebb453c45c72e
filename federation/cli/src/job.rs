//! `federation job …`, but for submissions and logs.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::{Epoch, JobId};
use specs::jobfile;
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::client::{
    AttemptView, JobCancelled, JobList, JobSelector, JobState, JobView, JobViews, JobWait, JobWhy,
    QueueWhy, SiteCost, SiteWhy,
};
use specs::wire::method::Method;

use crate::app::{App, unless_interrupted};
use crate::args::{Format, JobCommand, JobListArgs};
use crate::client::Client;
use crate::error::{EXIT_NOT_THE_JOB, EXIT_WAITED_ENOUGH, Failure, Outcome};
use crate::logs;
use crate::output::{
    self, Item, Listed, Mood, Output, age, joined, moment, moment_ms, note, raw_note, texts,
};
use crate::submit;

/// How long a controller may hold back the answer of one question about a change.
pub(crate) const WAIT_SPAN: Millis = Millis(20_000);
/// How often a listing is looked at again.
const WATCH_SPAN: Millis = Millis(1_000);
/// A loan's news are called old after this long without any.
const STALE_AFTER: Millis = Millis(5_000);

pub(crate) async fn run(app: &App, command: JobCommand) -> Outcome<()> {
    match command {
        JobCommand::Run(args) => submit::run(app, args).await,
        JobCommand::Ls(args) => list(app, args).await,
        JobCommand::Show { job, format } => show(app, &job, app.output(format)).await,
        JobCommand::Logs(args) => logs::run(app, args).await,
        JobCommand::Cancel { job, format } => cancel(app, &job, app.output(format)).await,
        JobCommand::Wait { job, format } => wait(app, &job, app.output(format)).await,
        JobCommand::Why { job, format } => why(app, &job, app.output(format)).await,
        JobCommand::Schema => output::line(&jobfile::schema(), ""),
    }
}

async fn list(app: &App, args: JobListArgs) -> Outcome<()> {
    let mut client = app.client()?;
    let question = JobList { active_only: !args.all, limit: args.limit, archived: args.archived };
    let output = app.output(args.format);
    if args.watch {
        let watching = watch(&mut client, &question, output);
        return match unless_interrupted(watching, String::new).await {
            // Ctrl-C is how one stops watching.
            Err(Failure::Exit(_)) => Ok(()),
            outcome => outcome,
        };
    }
    let views: JobViews = client.read(Method::JobList, &question).await?;
    let stale = client.close().await;
    output.as_of(stale).list(&views.jobs, Some(views.revision))?;
    if views.jobs.is_empty() && output.format() == Format::Table && args.archived {
        note("no job is in the archive yet");
    } else if views.jobs.is_empty() && output.format() == Format::Table && !args.all {
        note("no job is active; --all shows those that have ended too");
    }
    if views.cut {
        note(&format!("only the latest {} are shown; see --limit", views.jobs.len()));
    }
    Ok(())
}

/// Prints the listing again whenever it differs: over the last one on a terminal, as one line of
/// JSON, or below the last one.
async fn watch(client: &mut Client, question: &JobList, output: Output) -> Outcome<()> {
    let mut last: Option<(Vec<JobView>, usize)> = None;
    let redraws = output.terminal().is_stdout && output.format() == Format::Table;
    loop {
        let views: JobViews = client.read(Method::JobList, question).await?;
        let is_changed = last.as_ref().is_none_or(|(before, _)| *before != views.jobs);
        let now = client.env().clock.wall();
        match output.format() {
            Format::Json if is_changed => {
                let items: Vec<Value> = views.jobs.iter().map(Listed::json).collect();
                let body = json!({ "items": items, "revision": views.revision.0 });
                output.document_line("JobList", body)?;
            }
            Format::Table if redraws => {
                let text = output.at(now).table_text(&views.jobs);
                let up = last.as_ref().map_or(0, |(_, lines)| *lines);
                let back = if up > 0 { format!("\u{1b}[{up}A\u{1b}[J") } else { String::new() };
                output::line(&format!("{back}{text}"), "")?;
                last = Some((views.jobs, text.lines().count()));
                client.env().sleep(WATCH_SPAN).await;
                continue;
            }
            Format::Table | Format::Name if is_changed => {
                output.at(now).list(&views.jobs, None)?;
            }
            Format::Table | Format::Json | Format::Name => {}
        }
        last = Some((views.jobs, 0));
        client.env().sleep(WATCH_SPAN).await;
    }
}

/// The jobs that a text names; at least one.
pub(crate) async fn select(client: &mut Client, text: &str) -> Outcome<Vec<JobView>> {
    Ok(select_views(client, text).await?.jobs)
}

async fn select_views(client: &mut Client, text: &str) -> Outcome<JobViews> {
    let question = JobSelector { text: text.to_owned() };
    let views: JobViews = client.read(Method::JobShow, &question).await?;
    if views.jobs.is_empty() {
        let failure = Failure::new(FaultCode::NotFound, format!("there is no job `{text}`"));
        return Err(failure.with_hint("see `federation job ls --all`"));
    }
    Ok(views)
}

async fn show(app: &App, text: &str, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let JobViews { jobs, revision, .. } = select_views(&mut client, text).await?;
    let output = output.as_of(client.close().await);
    let [job] = jobs.as_slice() else { return output.list(&jobs, Some(revision)) };
    output.one(job, Some(revision), || details(job))?;
    if output.format() == Format::Table && !job.attempts.is_empty() {
        output::line("", "\n")?;
        output.list(&job.attempts, None)?;
    }
    Ok(())
}

fn details(job: &JobView) -> Vec<(&'static str, String)> {
    let spec = &job.spec;
    let gang = format!(
        "{} GPUs: {} × {} of {}",
        spec.gpus(),
        spec.nodes,
        spec.gpus_per_node,
        if spec.gpu_classes.is_empty() { "any class".into() } else { joined(&spec.gpu_classes) }
    );
    let mut details = vec![
        ("Id", job.id.to_string()),
        ("Name", spec.name.to_string()),
        ("State", state_text(job)),
        ("Reason", job.reason.clone()),
        ("Class", format!("{}, priority {}", spec.class, spec.priority)),
        ("Gang", gang),
        ("Home", job.home.to_string()),
        ("Runs at", host_text(job)),
        ("Nodes", joined(&job.nodes)),
        ("Epoch", job.epoch.to_string()),
        ("Submitter", job.submitter.clone()),
        ("Submitted", moment(job.submitted_at)),
        ("Started", moment(job.started_at)),
        ("Finished", moment(job.finished_at)),
        ("On partition", spec.on_partition.to_string()),
    ];
    if let Some(due) = job.due {
        details.push(("Deadline", deadline_text(job, due)));
    }
    if spec.array > 1 {
        details.push(("Array", format!("{} of 0..{}", job.array_index, spec.array)));
    }
    if let Some(saved_at) = job.saved_at {
        details.push(("Saved", moment(saved_at)));
    }
    if job.preemptions > 0 {
        details.push(("Preempted", times(job.preemptions)));
    }
    if !job.preempted.is_empty() {
        details.push(("Stopped for it", joined(&job.preempted)));
    }
    if job.remote_age > Millis::ZERO {
        let text = format!("{} ago", output::span(job.remote_age));
        details.push(("Peer heard", text));
    }
    details
}

/// The deadline, and whether it was missed. That of a job that has not ended is told in its reason.
fn deadline_text(job: &JobView, due: Timestamp) -> String {
    let missed = job.state.is_terminal() && job.finished_at > due;
    let late = Millis(job.finished_at.0.saturating_sub(due.0));
    let missed = if missed { format!(", missed by {}", output::span(late)) } else { String::new() };
    format!("{}{missed}", moment(due))
}

fn times(count: u32) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

/// How the attempt ended, and for whom it was stopped.
fn outcome_text(attempt: &AttemptView) -> String {
    let Some(by) = attempt.preempted_by else { return attempt.outcome.clone() };
    let preempted = format!("preempted by {by} at {}", moment(attempt.preempted_at));
    if attempt.outcome.is_empty() {
        return preempted;
    }
    format!("{}; {preempted}", attempt.outcome)
}

async fn cancel(app: &App, text: &str, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let question = JobSelector { text: text.to_owned() };
    let done: JobCancelled = client.change(Method::JobCancel, &question).await?;
    client.close().await;
    output.list(&done.jobs, None)?;
    let stopping = done.jobs.iter().filter(|job| !job.state.is_terminal()).count();
    if stopping > 0 {
        note("the cancel is durable; a job that runs is stopped within one lease");
    }
    Ok(())
}

async fn wait(app: &App, text: &str, output: Output) -> Outcome<()> {
    let mut client = app.patient_client()?;
    let work = async {
        let begun = client.env().clock.now();
        let jobs = select(&mut client, text).await?;
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        all_ended(&mut client, &ids, app.timeout().map(|span| begun.after(span))).await
    };
    let advice = || format!("stopped waiting; go on with: federation job wait {text}");
    let ends = unless_interrupted(work, advice).await?;
    let output = output.at(client.env().clock.wall());
    client.close().await;
    conclude(output, &ends)
}

/// Waits for all, in turn.
pub(crate) async fn all_ended(
    client: &mut Client,
    ids: &[JobId],
    limit: Option<Instant>,
) -> Outcome<Vec<JobView>> {
    let mut ends = Vec::new();
    for id in ids {
        let mut view = current(client, *id).await?;
        while !view.state.is_terminal() {
            let left = limit.map(|limit| limit.since(client.env().clock.now()));
            if left == Some(Millis::ZERO) {
                note(&format!("{id} is still {}", view.state));
                return Err(Failure::Exit(EXIT_WAITED_ENOUGH));
            }
            view = changed(client, &view, left.unwrap_or(WAIT_SPAN).min(WAIT_SPAN)).await?;
        }
        ends.push(view);
    }
    Ok(ends)
}

pub(crate) async fn current(client: &mut Client, id: JobId) -> Outcome<JobView> {
    let views = select(client, &id.to_string()).await?;
    let found = views.into_iter().find(|view| view.id == id);
    found.ok_or_else(|| Failure::new(FaultCode::NotFound, format!("there is no job {id}")))
}

/// The job once its state or epoch differs from what is known, or after a while.
pub(crate) async fn changed(
    client: &mut Client,
    known: &JobView,
    wait: Millis,
) -> Outcome<JobView> {
    let question = JobWait { job: known.id, state: Some(known.state), wait, epoch: known.epoch };
    client.poll(Method::JobWait, &question, wait).await
}

/// Prints how jobs ended, and ends as the first that did not end well.
pub(crate) fn conclude(output: Output, ends: &[JobView]) -> Outcome<()> {
    match ends {
        [job] => output.one(job, None, || details(job))?,
        jobs => output.list(jobs, None)?,
    }
    let codes: Vec<u8> = ends.iter().map(verdict).collect();
    match codes.into_iter().find(|code| *code != 0) {
        None => Ok(()),
        Some(code) => Err(Failure::Exit(code)),
    }
}

/// The exit code that stands for a job that has ended; says why if it is not the job's own.
pub(crate) fn verdict(job: &JobView) -> u8 {
    let name = &job.spec.name;
    let because = if job.reason.is_empty() { String::new() } else { format!(": {}", job.reason) };
    match (job.state, job.exit_code) {
        (JobState::Finished, Some(code)) => {
            // As a shell sees it.
            u8::try_from(code & 0xff).unwrap_or(u8::MAX)
        }
        (JobState::Cancelled, _) => {
            note(&format!("{name} was cancelled{because}"));
            EXIT_NOT_THE_JOB
        }
        (JobState::Lost, _) => {
            note(&format!("{name} was lost, and how it ended is unknown{because}"));
            EXIT_NOT_THE_JOB
        }
        (JobState::Refused, _) => {
            note(&format!("{name} was refused{because}"));
            EXIT_NOT_THE_JOB
        }
        (
            JobState::Finished
            | JobState::Queued
            | JobState::Starting
            | JobState::Running
            | JobState::Stopping,
            _,
        ) => {
            note(&format!("{name} is {}, and its exit code is not known", job.state));
            EXIT_NOT_THE_JOB
        }
    }
}

async fn why(app: &App, text: &str, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let question = JobSelector { text: text.to_owned() };
    let answer: JobWhy = client.read(Method::JobWhy, &question).await?;
    client.close().await;
    let job = &answer.job;
    match output.format() {
        Format::Json => {
            let sites: Vec<Value> = answer.sites.iter().map(Listed::json).collect();
            let reason =
                |it: &QueueWhy| json!({ "constraint": it.constraint, "change": it.change });
            let queue: Vec<Value> = answer.queue.iter().map(reason).collect();
            let body = json!({ "job": job.json(), "queue": queue, "sites": sites });
            output.document("JobWhy", body)
        }
        Format::Table => {
            raw_note(&format!("{} ({}) is {}\n", job.spec.name, job.id, state_text(job)));
            for QueueWhy { constraint, change } in &answer.queue {
                let change =
                    if change.is_empty() { "" } else { &format!("; would help: {change}") };
                raw_note(&format!("  {constraint}{change}\n"));
            }
            output.list(&answer.sites, None)
        }
        Format::Name => output.list(&answer.sites, None),
    }
}

fn state_mood(state: JobState) -> Mood {
    match state {
        JobState::Queued | JobState::Starting | JobState::Stopping => Mood::Busy,
        JobState::Running => Mood::Good,
        JobState::Finished | JobState::Cancelled => Mood::Plain,
        JobState::Lost | JobState::Refused => Mood::Bad,
    }
}

/// The state, and the exit code if there is one.
pub(crate) fn state_text(job: &JobView) -> String {
    match job.exit_code {
        Some(code) if job.state == JobState::Finished => format!("finished ({code})"),
        Some(_) | None if job.cancel_requested && !job.state.is_terminal() => {
            format!("{}, to be cancelled", job.state)
        }
        Some(_) | None => job.state.to_string(),
    }
}

fn host_text(job: &JobView) -> String {
    let host = job.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    if job.remote_age > STALE_AFTER {
        return format!("{host} (heard {} ago)", output::span(job.remote_age));
    }
    host
}

impl Listed for JobView {
    const KIND: &'static str = "Job";
    const HEADERS: &'static [&'static str] =
        &["ID", "NAME", "STATE", "SITE", "NODES", "GPUS", "EPOCH", "AGE", "REASON"];

    fn row(&self, now: Timestamp) -> Vec<Item> {
        let name = if self.spec.array > 1 {
            format!("{}[{}]", self.spec.name, self.array_index)
        } else {
            self.spec.name.to_string()
        };
        let mood = match (self.state, self.exit_code) {
            (JobState::Finished, Some(0)) => Mood::Good,
            (JobState::Finished, _) => Mood::Bad,
            (state, _) => state_mood(state),
        };
        vec![
            Item::of(self.id),
            Item::of(name),
            Item::with(mood, state_text(self)),
            Item::of(host_text(self)),
            Item::of(if self.nodes.is_empty() { "-".into() } else { joined(&self.nodes) }),
            Item::of(self.spec.gpus()),
            Item::of(self.epoch),
            Item::of(age(self.submitted_at, now)),
            Item::of(&self.reason),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn json(&self) -> Value {
        let GpuCount(gpus) = self.spec.gpus();
        json!({
            "id": self.id.to_string(),
            "name": self.spec.name.as_str(),
            "array_index": self.array_index,
            "array": self.spec.array,
            "class": self.spec.class.as_str(),
            "priority": self.spec.priority,
            "gpus": gpus,
            "gpus_per_node": self.spec.gpus_per_node.0,
            "labels": self.spec.labels,
            "home": self.home.as_str(),
            "host": self.host.as_ref().map(ToString::to_string),
            "nodes": texts(&self.nodes),
            "state": self.state.as_str(),
            "reason": self.reason,
            "epoch": self.epoch.0,
            "exit_code": self.exit_code,
            "signal": if self.signal == 0 { Value::Null } else { self.signal.into() },
            "submitter": self.submitter,
            "cancel_requested": self.cancel_requested,
            "submitted_ms": moment_ms(self.submitted_at),
            "started_ms": moment_ms(self.started_at),
            "finished_ms": moment_ms(self.finished_at),
            "due_ms": self.due.map(|due| due.0),
            "saved_ms": self.saved_at.map(|at| at.0),
            "remote_age_ms": self.remote_age.0,
            "archived": self.archived,
            "preemptions": self.preemptions,
            "preempted": texts(&self.preempted),
            "attempts": self.attempts.iter().map(Listed::json).collect::<Vec<_>>(),
        })
    }
}

impl Listed for AttemptView {
    const KIND: &'static str = "Attempt";
    const HEADERS: &'static [&'static str] =
        &["EPOCH", "SITE", "NODES", "STARTED", "ENDED", "OUTCOME"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![
            Item::of(self.epoch),
            Item::of(&self.host),
            Item::of(joined(&self.nodes)),
            Item::of(moment(self.started_at)),
            Item::of(moment(self.ended_at)),
            Item::of(outcome_text(self)),
        ]
    }

    fn name(&self) -> String {
        self.epoch.to_string()
    }

    fn json(&self) -> Value {
        let Epoch(epoch) = self.epoch;
        json!({
            "epoch": epoch,
            "host": self.host.as_str(),
            "nodes": texts(&self.nodes),
            "started_ms": moment_ms(self.started_at),
            "ended_ms": moment_ms(self.ended_at),
            "outcome": self.outcome,
            "preempted_by": self.preempted_by.map(|id| id.to_string()),
            "preempted_ms": moment_ms(self.preempted_at),
        })
    }
}

impl Listed for SiteWhy {
    const KIND: &'static str = "SiteWhy";
    const HEADERS: &'static [&'static str] = &["SITE", "CONSTRAINT", "WHAT WOULD CHANGE IT"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![Item::of(&self.site), Item::of(&self.constraint), Item::of(&self.change)]
    }

    fn name(&self) -> String {
        self.site.to_string()
    }

    fn json(&self) -> Value {
        let cost = |it: &SiteCost| {
            json!({
                "wait_ms": it.wait.0,
                "bring_ms": it.bring.0,
                "missing_bytes": it.missing_bytes,
                "run_ms": it.run.0,
                "gpu_hour_micro_euro": it.rate.0,
                "gpu_total_micro_euro": it.total.0,
                "patience_ms": it.patience.0,
                "stale": it.stale,
                "late": it.late,
                "best": it.best,
            })
        };
        json!({
            "site": self.site.as_str(),
            "constraint": self.constraint,
            "change": self.change,
            "cost": self.cost.as_ref().map(cost),
        })
    }
}
