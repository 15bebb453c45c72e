//! Asks a child for one check, and ends it if it is late or no longer wanted.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::child::{Answer, Request};
use super::cuda::Failure;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long a killed child may take to be gone before it is left behind.
const BURIAL: Duration = Duration::from_secs(5);

/// Why a check has no numbers.
pub(super) enum Missed {
    Deadline,
    /// Its burn-in was stopped; the child has ended, or is left behind.
    Stopped,
    Died(String),
    Failed(Failure),
}

/// Stops a burn-in, at once and for good.
#[derive(Debug)]
pub struct StopHandle(watch::Sender<bool>);

/// What a burn-in listens to.
#[derive(Debug, Clone)]
pub struct Stop(Option<watch::Receiver<bool>>);

impl StopHandle {
    /// A handle, and what it stops.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (handle, stop) = watch::channel(false);
        (Self(handle), Stop(Some(stop)))
    }

    /// Stops it. Its child is killed.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Never.
    #[must_use]
    pub const fn never() -> Self {
        Self(None)
    }

    async fn told(&mut self) {
        if let Some(told) = &mut self.0
            && told.wait_for(|it| *it).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Asks a child.
pub(super) async fn ask(
    request: &Request,
    patience: Duration,
    stop: &Stop,
) -> Result<Answer, Missed> {
    let died = |what: String| Missed::Died(what);
    let mut question = serde_json::to_vec(request).map_err(|error| died(error.to_string()))?;
    question.push(b'\n');
    question.extend(&request.dump);
    let program = std::env::current_exe().map_err(|error| died(error.to_string()))?;
    let mut command = Command::new(program);
    command.arg("check").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| died(format!("cannot start: {error}")))?;
    let mut stop = stop.clone();
    let talked = tokio::select! {
        biased;
        () = stop.told() => Err(Missed::Stopped),
        talked = timeout(patience, talk(&mut child, &question)) => {
            talked.map_err(|_| Missed::Deadline)
        }
    };
    let talked = match talked {
        Ok(talked) => talked,
        Err(missed) => {
            // One that waits for the driver may not even be killed; it is not waited for then.
            let _ = child.start_kill();
            let _ = timeout(BURIAL, child.wait()).await;
            return Err(missed);
        }
    };
    let text = talked.map_err(|error| died(format!("the check's process: {error}")))?;
    match serde_json::from_slice(&text) {
        Ok(Answer::Failed(failure)) => Err(Missed::Failed(failure)),
        Ok(answer) => Ok(answer),
        Err(_) => {
            let status = timeout(BURIAL, child.wait()).await;
            let status = status.ok().and_then(Result::ok);
            let how = status.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
            Err(died(format!("the check's process ended without an answer ({how})")))
        }
    }
}

async fn talk(child: &mut Child, question: &[u8]) -> std::io::Result<Vec<u8>> {
    if let Some(mut to) = child.stdin.take() {
        to.write_all(question).await?;
        to.shutdown().await?;
    }
    let mut text = Vec::new();
    if let Some(from) = child.stdout.take() {
        from.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    }
    // Its memory of the GPU is free, and the GPU anybody's, when it has ended: an end of its answer
    // comes before. One that cannot end is left behind.
    let _ = timeout(BURIAL, child.wait()).await;
    Ok(text)
}
