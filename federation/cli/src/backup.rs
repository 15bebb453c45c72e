//! `federation backup …` and `federation restore`.

use std::path::{Path, PathBuf};

use federation_controller::{
    ADMIN, BackupMeta, BackupWriter, PendingRestore, RestoreOptions, RestoredSite, read_backup,
};
use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::unit::Millis;
use specs::wire::client::{
    BackupOpen, BackupOpened, BackupPiece, BackupRead, ControllerStatus, Empty,
};
use specs::wire::method::Method;

use crate::app::{App, unless_interrupted};
use crate::args::{BackupArgs, BackupCommand, Format, FormatArgs, Listen, RestoreArgs};
use crate::client::{Client, Target};
use crate::context::{self, Config, Context};
use crate::controller::{absolute, refused};
use crate::error::{Failure, Outcome};
use crate::output::{self, moment, moment_ms, note};

/// How often a backup is begun again when its controller goes away.
const TRIES: u32 = 3;
/// How long a controller of before may take to say that it is there.
const PROBE_SPAN: Millis = Millis(2_000);

/// `federation backup`.
pub(crate) async fn run(app: &App, args: BackupArgs) -> Outcome<()> {
    if let Some(BackupCommand::Show { file, format }) = args.command {
        return show(app, &file, format);
    }
    let Some(file) = args.file else {
        return Err(Failure::usage("name the file to write: `federation backup FILE`"));
    };
    let file = absolute(&file)?;
    BackupWriter::check(&file, args.force).map_err(refused)?;
    let is_stale = app.global().stale;
    let mut client = app.unstale_client()?;
    let writing = write(&mut client, &file, is_stale, args.force);
    let (meta, bytes) = unless_interrupted(Box::pin(writing), String::new).await?;
    client.close().await;
    let output = app.output(args.format);
    if output.format() == Format::Json {
        let mut body = meta_json(&meta);
        if let Some(body) = body.as_object_mut() {
            body.insert("file".into(), file.display().to_string().into());
            body.insert("bytes".into(), bytes.into());
        }
        return output.document("Backup", body);
    }
    let (site, revision) = (&meta.site, meta.revision);
    note(&format!("{site} at revision {revision}, {bytes} bytes, from {}", meta.controller));
    if is_stale {
        note("it may be old: nobody vouched for it");
    }
    note("it holds no keys: keep a copy of a controller's `authority` directory elsewhere");
    output::line(&file.display().to_string(), "\n")
}

async fn write(
    client: &mut Client,
    file: &Path,
    is_stale: bool,
    replaces: bool,
) -> Outcome<(BackupMeta, u64)> {
    let mut tries = 1;
    loop {
        match write_once(client, file, is_stale, replaces).await {
            Err(failure) if tries < TRIES && is_gone(&failure) => {
                note(&format!("the backup begins again: {}", failure.message()));
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Whether the state is no longer held where it was.
fn is_gone(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.is_retryable() || code == FaultCode::NotFound)
}

async fn write_once(
    client: &mut Client,
    file: &Path,
    is_stale: bool,
    replaces: bool,
) -> Outcome<(BackupMeta, u64)> {
    let question = BackupOpen { stale: is_stale };
    let opened: BackupOpened = client.read(Method::BackupOpen, &question).await?;
    let meta = BackupMeta::of(&opened, is_stale);
    let mut writer = BackupWriter::create(file, &meta, replaces).map_err(refused)?;
    for piece in 0.. {
        let question = BackupRead { backup: opened.backup, piece };
        let BackupPiece { data, last } = client.read(Method::BackupRead, &question).await?;
        if last {
            break;
        }
        writer.push(&data.0).map_err(refused)?;
    }
    let bytes = writer.finish().map_err(refused)?;
    Ok((meta, bytes))
}

fn show(app: &App, file: &Path, format: FormatArgs) -> Outcome<()> {
    let backup = read_backup(file).map_err(refused)?;
    let (meta, state) = (&backup.meta, &backup.state);
    let running = state.jobs.values().filter(|job| !job.has_ended()).count();
    let counts = [
        ("Jobs", state.jobs.len()),
        ("Not ended", running),
        ("Nodes", state.nodes.len()),
        ("Peers", state.peers.len()),
        ("Controllers", state.controllers.len()),
    ];
    let output = app.output(format);
    match output.format() {
        Format::Json => {
            let mut body = meta_json(meta);
            if let Some(body) = body.as_object_mut() {
                body.insert("bytes".into(), backup.bytes.into());
                body.insert("chunks".into(), backup.chunks.into());
                for (name, count) in counts {
                    body.insert(name.to_lowercase().replace(' ', "_"), count.into());
                }
            }
            output.document("Backup", body)
        }
        Format::Name => output::line(meta.site.as_str(), "\n"),
        Format::Table => {
            let from = meta.controller.to_string();
            let vouched = if meta.stale { "by nobody: it may be old" } else { "by the leader" };
            let mut lines = vec![
                ("Site", meta.site.to_string()),
                ("Revision", meta.revision.to_string()),
                ("Made", moment(meta.at)),
                ("Made by", format!("{from}, version {}", meta.version)),
                ("Vouched for", vouched.to_owned()),
                ("Whole", format!("yes: {} bytes in {} chunks", backup.bytes, backup.chunks)),
            ];
            lines.extend(counts.map(|(name, count)| (name, count.to_string())));
            output::pairs(&lines)
        }
    }
}

fn meta_json(meta: &BackupMeta) -> Value {
    json!({
        "site": meta.site.as_str(),
        "revision": meta.revision.0,
        "at_ms": moment_ms(meta.at),
        "controller": meta.controller.to_string(),
        "version": meta.version,
        "stale": meta.stale,
    })
}

/// `federation restore`.
pub(crate) async fn restore(app: &App, args: RestoreArgs) -> Outcome<()> {
    let Listen { listen, advertise, metrics, dir } = args.listen;
    let dir = absolute(&dir)?;
    let options = RestoreOptions {
        file: args.file,
        listen,
        advertise,
        dir: dir.clone(),
        metrics,
        authority: args.authority,
    };
    let pending = PendingRestore::check(app.env(), options).map_err(refused)?;
    check_gone(app, &pending, args.force).await?;
    let done = pending.write(app.env()).map_err(refused)?;
    if !args.no_context {
        remember(app, &done)?;
    }
    let output = app.output(args.format);
    if output.format() == Format::Json {
        return output.document("Restored", restored_json(&done, &dir));
    }
    let RestoredSite { site, controller, again, lost, guests, .. } = &done;
    note(&format!(
        "site {site} goes on from {}, as {controller} alone; what it agreed on since is lost",
        moment(done.at)
    ));
    note(&format!(
        "{again} jobs are placed again, {lost} are given up as lost, {guests} guests were ended"
    ));
    note("no controller of before may run again: remove their directories, then run");
    note(&format!("  federation serve --dir {}", dir.display()));
    note("nothing is placed until all that ran before has surely ended; then add controllers");
    output::line(&controller.to_string(), "\n")
}

/// Two groups of one site would give the same GPUs out twice.
async fn check_gone(app: &App, pending: &PendingRestore, is_forced: bool) -> Outcome<()> {
    let servers = pending.old_addresses();
    let credentials = pending.credentials(app.env()).map_err(refused)?;
    let target =
        Target { servers: servers.clone(), credentials, budget: PROBE_SPAN, is_stale: false };
    let client = Client::new(app.env(), target)?;
    let ask = |server: &String| {
        let (client, server) = (&client, server.clone());
        async move {
            let method = Method::ControllerStatus;
            let asked = client.ask_at::<ControllerStatus>(&server, method, &Empty {}, PROBE_SPAN);
            asked.await.ok().map(|status| (status.id, server))
        }
    };
    let found = futures::future::join_all(servers.iter().map(ask)).await;
    client.close().await;
    let alive: Vec<String> =
        found.into_iter().flatten().map(|(id, server)| format!("{id} at {server}")).collect();
    if alive.is_empty() {
        note("no controller of before answers; be sure that none can come back");
        return Ok(());
    }
    let message = format!("controllers of before still run: {}", alive.join(", "));
    if is_forced {
        note(&format!("{message}; stop them before you run the restored one"));
        return Ok(());
    }
    let hint = "stop them for good and remove their directories; with a majority of them the site \
                needs no restore. --force restores all the same; nothing was changed";
    Err(Failure::new(FaultCode::Conflict, message).with_hint(hint))
}

/// Whoever used the site uses the restored one.
fn remember(app: &App, done: &RestoredSite) -> Outcome<()> {
    let path: PathBuf = app.config_path()?;
    let context = Context {
        servers: vec![done.address.clone()],
        credentials: done.admin.clone(),
        user: ADMIN.into(),
    };
    let name = done.site.as_str();
    let known = Config::load(&path)?.contexts.contains_key(name);
    context::remember(&path, name, context)?;
    let how = if known { "now leads there" } else { "is made" };
    note(&format!("context {name} in {} {how}", path.display()));
    Ok(())
}

fn restored_json(done: &RestoredSite, dir: &Path) -> Value {
    json!({
        "site": done.site.as_str(),
        "controller": done.controller.to_string(),
        "address": done.address,
        "dir": dir,
        "backup_at_ms": moment_ms(done.at),
        "backup_revision": done.from.0,
        "revision": done.revision.0,
        "jobs_again": done.again,
        "jobs_lost": done.lost,
        "guests_ended": done.guests,
    })
}
