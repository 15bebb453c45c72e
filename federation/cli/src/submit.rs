//! `federation job run`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::{JobId, RequestId};
use specs::job::JobSpec;
use specs::jobfile::{self, Format as FileFormat};
use specs::wire::client::{JobSubmit, JobSubmitted};
use specs::wire::method::Method;

use crate::app::{App, unless_interrupted};
use crate::args::{Format, RunArgs};
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::job::{all_ended, conclude};
use crate::logs;
use crate::output::{self, Output, note, texts};

/// Longest job file that is read; the parser has a limit of its own, below this.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(crate) async fn run(app: &App, args: RunArgs) -> Outcome<()> {
    let mut specs = args.files.iter().map(|file| read_file(file)).collect::<Outcome<Vec<_>>>()?;
    check(&args, &specs)?;
    if let ([spec], Some(name)) = (specs.as_mut_slice(), &args.name) {
        spec.name = name.clone();
    }
    let output = app.output(args.format);
    let mut client = app.client()?;
    let ids = match (specs.pop(), specs.is_empty()) {
        (Some(spec), true) => submit_one(&mut client, &args, spec, output).await?,
        (last, _) => {
            specs.extend(last);
            submit_many(&mut client, &args, specs, output).await?
        }
    };
    let Some(&first) = ids.first() else {
        return Err(Failure::new(FaultCode::Internal, "the answer names no job"));
    };
    if args.follow {
        note(&format!("submitted {first}"));
        return logs::follow_to_end(client, first).await;
    }
    if !args.wait {
        client.close().await;
        return Ok(());
    }
    for id in &ids {
        note(&format!("submitted {id}"));
    }
    let reattach = || format!("detached; go on with: federation job wait {first}");
    let ends = unless_interrupted(all_ended(&mut client, &ids, None), reattach).await?;
    let output = output.at(client.env().clock.wall());
    client.close().await;
    conclude(output, &ends)
}

/// What is asked for must be of one job, or of one file, where only one can be meant.
fn check(args: &RunArgs, specs: &[JobSpec]) -> Outcome<()> {
    if specs.len() > 1 {
        let given = [
            (args.follow, "--follow"),
            (args.name.is_some(), "--name"),
            (args.request_id.is_some(), "--request-id"),
        ];
        if let Some((_, flag)) = given.iter().find(|(is_given, _)| *is_given) {
            let failure = Failure::usage(format!("{flag} is for one file, not {}", specs.len()));
            return Err(failure.with_hint("submit the files one by one"));
        }
    }
    match specs.iter().find(|spec| args.follow && spec.array > 1) {
        None => Ok(()),
        Some(spec) => {
            let what = format!("{} is an array of {} jobs", spec.name, spec.array);
            let hint = "use --wait, and `federation job logs -f --index N`";
            Err(Failure::usage(what).with_hint(hint))
        }
    }
}

/// Reads a job file; `-` is YAML from stdin.
fn read_file(path: &Path) -> Outcome<JobSpec> {
    let failed = |error| Failure::file("read", path, &error);
    let mut text = String::new();
    if path == Path::new("-") {
        let mut limited = std::io::stdin().lock().take(FILE_BYTES_MAX);
        limited.read_to_string(&mut text).map_err(failed)?;
        return Ok(jobfile::read(&text, FileFormat::Yaml, "<stdin>")?);
    }
    let file = fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let name = path.to_string_lossy();
    Ok(jobfile::read(&text, FileFormat::of(&name), &name)?)
}

async fn submit_one(
    client: &mut Client,
    args: &RunArgs,
    spec: JobSpec,
    output: Output,
) -> Outcome<Vec<JobId>> {
    let request = match &args.request_id {
        Some(request) => request.clone(),
        None => fresh_request(client)?,
    };
    let question = JobSubmit { request: request.clone(), spec: Arc::new(spec) };
    let answer = client.change(Method::JobSubmit, &question).await;
    let done: JobSubmitted = answer.map_err(|failure| repeatable(failure, &request))?;
    if !args.wait && !args.follow {
        print_submitted(output, &request, &done)?;
    }
    Ok(done.jobs)
}

/// Submits what was read from several files; says of each what became of it, and ends with the
/// first that was not admitted.
async fn submit_many(
    client: &mut Client,
    args: &RunArgs,
    specs: Vec<JobSpec>,
    output: Output,
) -> Outcome<Vec<JobId>> {
    let request = |spec| {
        let spec = Arc::new(spec);
        fresh_request(client).map(|request| JobSubmit { request, spec })
    };
    let requests = specs.into_iter().map(request).collect::<Outcome<Vec<_>>>()?;
    let outcomes = client.submit_many(&requests).await;
    let of_each: Vec<_> = outcomes
        .into_iter()
        .zip(requests)
        .map(|(outcome, asked)| {
            let outcome = outcome.map_err(|failure| repeatable(failure, &asked.request));
            (asked.request, outcome)
        })
        .collect();
    if !args.wait || of_each.iter().any(|(_, outcome)| outcome.is_err()) {
        print_all(output, &args.files, &of_each)?;
    }
    let all = of_each.into_iter().map(|(_, outcome)| outcome.map(|done| done.jobs));
    Ok(all.collect::<Outcome<Vec<_>>>()?.concat())
}

/// A request id that nobody else draws. It begins with the time, so that the newest requests are
/// neighbours in the table that remembers them.
fn fresh_request(client: &Client) -> Outcome<RequestId> {
    let env = client.env();
    let text = format!("cli-{:012x}{:016x}", env.clock.wall().0, env.random_u64());
    RequestId::new(&text).map_err(|error| Failure::new(FaultCode::Internal, error.to_string()))
}

fn repeatable(failure: Failure, request: &RequestId) -> Failure {
    let is_unsure = failure.code() == Some(FaultCode::OutcomeUnknown);
    let failure = failure.with_request(request.as_str());
    if is_unsure {
        failure.with_hint(format!("repeat it with --request-id {request}: it counts once"))
    } else {
        failure
    }
}

fn facts(request: &RequestId, done: &JobSubmitted) -> Value {
    json!({
        "jobs": texts(&done.jobs),
        "request": request.as_str(),
        "revision": done.revision.0,
        "repeated": done.repeated,
    })
}

fn print_submitted(output: Output, request: &RequestId, done: &JobSubmitted) -> Outcome<()> {
    match output.format() {
        Format::Json => output.document("JobSubmitted", facts(request, done)),
        Format::Table | Format::Name => {
            let lines: String = done.jobs.iter().map(|id| format!("{id}\n")).collect();
            output::line(&lines, "")?;
            if done.repeated {
                note("this request had been admitted before; nothing new was submitted");
            }
            if let ([id], Format::Table) = (done.jobs.as_slice(), output.format()) {
                note(&format!("follow it with: federation job logs -f {id}"));
            }
            Ok(())
        }
    }
}

/// The ids of what was admitted, in the order of the files; what was not is said on stderr.
fn print_all(
    output: Output,
    files: &[PathBuf],
    of_each: &[(RequestId, Outcome<JobSubmitted>)],
) -> Outcome<()> {
    let mut lines = String::new();
    let mut items = Vec::new();
    for (file, (request, outcome)) in files.iter().zip(of_each) {
        let file = file.to_string_lossy();
        match outcome {
            Ok(done) => {
                lines.extend(done.jobs.iter().map(|id| format!("{id}\n")));
                let mut item = facts(request, done);
                item["file"] = json!(file);
                items.push(item);
            }
            Err(failure) => {
                note(&format!("{file} was not submitted: {}", failure.message()));
                let code = failure.code().map(|code| code.to_string());
                let error = json!({ "code": code, "message": failure.message() });
                let request = request.as_str();
                items.push(json!({ "file": file, "request": request, "error": error }));
            }
        }
    }
    match output.format() {
        Format::Json => output.document("JobsSubmitted", json!({ "items": items })),
        Format::Table | Format::Name => output::line(&lines, ""),
    }
}
