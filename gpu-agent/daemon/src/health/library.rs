//! The management library's events, as a second source beside the kernel's log: a process listens
//! (`gpu-agent listen`), because the library may hang, and is started again when it ends.

use std::process::Stdio;

use fabric_quic::env::Env;
use gpu_agent_core::xid::Source;
use specs::gpu::GpuInfo;
use specs::unit::Millis;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::News;
use crate::burn_in::Told;

/// The pause before a process that ended is started again.
const PAUSE: Millis = Millis(10_000);
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 4 << 10;

/// Listens for ever.
pub(super) async fn hear(env: &Env, gpus: &[GpuInfo], tell: &mpsc::Sender<News>) {
    let mut why = String::new();
    while !tell.is_closed() {
        let ended = match listen(gpus, tell).await {
            Ok(ended) => ended,
            Err(error) => error.to_string(),
        };
        // A driver that has no events says so each time.
        if ended != why {
            tracing::warn!(why = ended, "the management library tells of no events");
            why = ended;
        }
        env.sleep(PAUSE).await;
    }
}

/// Listens until the process ends, and says why it did.
async fn listen(gpus: &[GpuInfo], tell: &mpsc::Sender<News>) -> std::io::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("listen").args(gpus.iter().map(|gpu| &gpu.uuid)).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(out) = child.stdout.take() else { return Ok("it has no output".into()) };
    let mut lines = BufReader::new(out);
    loop {
        let mut line = String::new();
        let read = (&mut lines).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        if read == 0 {
            return Ok(format!("the process ended ({})", child.wait().await?));
        }
        match serde_json::from_str(&line) {
            Ok(Told::Event { uuid, code }) => {
                let Some(gpu) = gpus.iter().find(|gpu| gpu.uuid == uuid) else { continue };
                if tell.send(News::Told(gpu.index, code, Source::Library)).await.is_err() {
                    return Ok("the agent ends".into());
                }
            }
            Ok(Told::Deaf(why)) => return Ok(why),
            Err(error) => return Ok(format!("it said what makes no sense: {error}")),
        }
    }
}
