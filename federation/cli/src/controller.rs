//! Controllers: `init`, `serve` and `controller …`.

use std::path::{Path, PathBuf};

use federation_controller::raft::CutLog;
use federation_controller::{ADMIN, ControllerError, InitOptions, Joining, Ready};
use serde_json::{Value, json};
use specs::codec::Blob;
use specs::fault::FaultCode;
use specs::id::{ControllerId, Revision};
use specs::site::Terms;
use specs::unit::{Millis, Timestamp};
use specs::wire::client::{
    ControllerAdd, ControllerAdded, ControllerRemove, ControllerStatus, ControllerTransfer,
    ControllerTransferred, ControllerView, ControllerViews, Empty,
};
use specs::wire::method::Method;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::args::{ControllerCommand, Format, InitArgs, Listen, ServeArgs, TermsArgs};
use crate::client::Stale;
use crate::context::{self, Config, Context};
use crate::error::{Failure, Outcome};
use crate::output::{self, Item, Listed, Mood, Output, note};

/// How long a listing of the controllers looks for a leader before it does without.
const LEADER_SPAN: Millis = Millis(4_000);
/// How long a controller may take to say how it is.
const STATUS_SPAN: Millis = Millis(1_500);

/// `federation init`.
pub(crate) fn init(app: &App, args: InitArgs) -> Outcome<()> {
    let InitArgs { site, listen, country, lend, trust, no_context, terms } = args;
    let Listen { listen, advertise, metrics, dir } = listen;
    let dir = absolute(&dir)?;
    if !no_context {
        check_unknown(&app.config_path()?, site.as_str())?;
    }
    let (name, terms) = (site.clone(), terms.onto(Terms::default()));
    let options =
        InitOptions { site: name, listen, advertise, dir, metrics, country, terms, lend, trust };
    let done = federation_controller::init(app.env(), &options).map_err(refused)?;
    if !no_context {
        let context = Context {
            servers: vec![done.address.clone()],
            credentials: done.admin.clone(),
            user: ADMIN.into(),
        };
        let path = app.config_path()?;
        context::remember(&path, site.as_str(), context)?;
        note(&format!("context {site} is in {}", path.display()));
    }
    note(&format!(
        "site {site} is founded; run its controller at {}:\n  federation serve --dir {}",
        done.address,
        options.dir.display()
    ));
    Ok(())
}

/// Founding a second site of a name must not lose the way to the first.
fn check_unknown(path: &Path, name: &str) -> Outcome<()> {
    let config = Config::load(path)?;
    match config.contexts.get(name) {
        Some(known) if known.credentials.exists() => {
            let message = format!("there is a context {name} already, in {}", path.display());
            Err(Failure::new(FaultCode::Conflict, message)
                .with_hint("add --no-context, or name another file with --config"))
        }
        Some(_) | None => Ok(()),
    }
}

/// `federation serve`: runs until SIGTERM or Ctrl-C.
pub(crate) async fn serve(app: &App, args: ServeArgs) -> Outcome<()> {
    let failed = |error: std::io::Error| {
        Failure::new(FaultCode::Internal, format!("cannot wait for signals: {error}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ready = |up: &Ready| {
        let (address, metrics) = (up.address, up.metrics);
        tracing::info!(site = %up.site, id = %up.id, %address, %metrics, "ready");
    };
    let cut_log = if args.accept_cut_log { CutLog::Accept } else { CutLog::Abstain };
    let served =
        federation_controller::serve(app.env().clone(), &args.dir, cut_log, ready, shutdown);
    Box::pin(served).await.map_err(refused)
}

pub(crate) async fn run(app: &App, command: ControllerCommand) -> Outcome<()> {
    match command {
        ControllerCommand::Add { listen, format } => {
            add(app, listen, None, app.output(format)).await
        }
        ControllerCommand::Ls(format) => list(app, app.output(format)).await,
        ControllerCommand::Replace { id, listen, format } => {
            add(app, listen, Some(id), app.output(format)).await
        }
        ControllerCommand::Remove { id } => remove(app, id).await,
        ControllerCommand::Transfer { id, format } => transfer(app, id, app.output(format)).await,
    }
}

async fn list(app: &App, output: Output) -> Outcome<()> {
    let (rows, revision, stale) = survey(app).await?;
    output.as_of(stale).list(&rows, Some(revision))
}

/// What the leader knows of its members, or, if there is none, what any controller does; and what
/// each of them says of itself.
pub(crate) async fn survey(app: &App) -> Outcome<(Vec<Row>, Revision, Option<Stale>)> {
    let mut client = app.hasty_client(LEADER_SPAN)?;
    let views: ControllerViews = match client.read(Method::ControllerList, &Empty {}).await {
        Ok(views) => views,
        Err(failure) if failure.code().is_some_and(is_leaderless) && !client.is_stale() => {
            client.accept_stale();
            client.read(Method::ControllerList, &Empty {}).await?
        }
        Err(failure) => return Err(failure),
    };
    let ask = |view: &ControllerView| {
        let (client, address) = (&client, view.address.clone());
        async move {
            let (method, span) = (Method::ControllerStatus, STATUS_SPAN);
            client.ask_at::<ControllerStatus>(&address, method, &Empty {}, span).await
        }
    };
    let asked = futures::future::join_all(views.controllers.iter().map(ask)).await;
    let stale = client.close().await;
    let said: Vec<Option<ControllerStatus>> = asked.into_iter().map(Result::ok).collect();
    let last = said.iter().flatten().map(|status| status.last_log).max().unwrap_or(0);
    let last = last.max(views.last_log);
    let row = |(view, status): (ControllerView, Option<ControllerStatus>)| {
        // Another process may have the address.
        let status = status.filter(|status| status.id == view.id);
        let has = status.as_ref().map_or(view.matched, |status| status.last_log);
        let lag = (status.is_some() || view.matched > 0).then(|| last.saturating_sub(has));
        Row { view, status, lag }
    };
    let rows = views.controllers.into_iter().zip(said).map(row).collect();
    Ok((rows, views.revision, stale))
}

/// Whether the site may have no leader at present.
fn is_leaderless(code: FaultCode) -> bool {
    [FaultCode::NotLeader, FaultCode::Timeout, FaultCode::Unreachable, FaultCode::Busy]
        .contains(&code)
}

async fn add(
    app: &App,
    listen: Listen,
    replaces: Option<ControllerId>,
    output: Output,
) -> Outcome<()> {
    let Listen { listen, advertise, metrics, dir } = listen;
    let dir = absolute(&dir)?;
    let (env, advertise) = (app.env(), advertise.as_deref());
    // A member that the site knows but whose directory cannot be written would be in the way.
    let joining = federation_controller::prepare_member(env, &dir, listen, advertise);
    let Joining { key, request } = joining.map_err(refused)?;
    let address = advertise.map_or_else(|| listen.to_string(), str::to_owned);
    let mut client = app.client()?;
    let csr = Blob(key.csr().to_vec());
    let known = federation_controller::KNOWN;
    let question = ControllerAdd {
        address: address.clone(),
        csr,
        request,
        replaces,
        oldest: known.oldest,
        newest: known.newest,
    };
    let again = |failure: Failure| {
        let is_unsure = failure.code() == Some(FaultCode::OutcomeUnknown);
        let hint = "repeat the same command: it goes on where it was";
        if is_unsure { failure.with_hint(hint) } else { failure }
    };
    let added: ControllerAdded =
        client.change(Method::ControllerAdd, &question).await.map_err(again)?;
    client.close().await;
    federation_controller::write_member(env, &dir, listen, advertise, metrics, &added, key)
        .map_err(refused)?;
    add_server(app, &address)?;
    if output.format() == Format::Json {
        let replaces = replaces.map(|id| id.to_string());
        let id = added.id.to_string();
        let body = json!({ "id": id, "address": address, "dir": dir, "replaces": replaces });
        return output.document("ControllerAdded", body);
    }
    note(&format!("run controller {} at {address}:", added.id));
    note(&format!("  federation serve --dir {}", dir.display()));
    match replaces {
        Some(old) => note(&format!("{old} is removed as soon as {} votes", added.id)),
        None => note("it votes as soon as it has caught up; see `federation controller ls`"),
    }
    output::line(&added.id.to_string(), "\n")
}

/// The context that was asked through learns of one more controller.
fn add_server(app: &App, address: &str) -> Outcome<()> {
    let path = app.config_path()?;
    Config::change(&path, |config| {
        let name = app.global().context.clone().or_else(|| config.current.clone());
        let context = name.and_then(|name| config.contexts.get_mut(&name));
        if let Some(context) = context
            && !context.servers.iter().any(|server| server == address)
        {
            context.servers.push(address.to_owned());
        }
    })
}

async fn remove(app: &App, id: ControllerId) -> Outcome<()> {
    let mut client = app.client()?;
    let views: ControllerViews = client.read(Method::ControllerList, &Empty {}).await?;
    let Empty {} = client.change(Method::ControllerRemove, &ControllerRemove { id }).await?;
    client.close().await;
    if let Some(gone) = views.controllers.iter().find(|view| view.id == id) {
        let path = app.config_path()?;
        Config::change(&path, |config| {
            for context in config.contexts.values_mut() {
                if context.servers.len() > 1 {
                    context.servers.retain(|server| *server != gone.address);
                }
            }
        })?;
    }
    note(&format!("controller {id} is no member any more; stop it and remove its directory"));
    Ok(())
}

async fn transfer(app: &App, to: Option<ControllerId>, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let question = ControllerTransfer { to };
    let done: ControllerTransferred = client.change(Method::ControllerTransfer, &question).await?;
    client.close().await;
    let ControllerTransferred { leader, repeated } = done;
    if output.format() == Format::Json {
        let body = json!({ "leader": leader.to_string(), "repeated": repeated });
        return output.document("ControllerTransferred", body);
    }
    note(&format!("{leader} leads{}", if repeated { ", as before" } else { "" }));
    output::line(&leader.to_string(), "\n")
}

pub(crate) fn absolute(dir: &Path) -> Outcome<PathBuf> {
    std::path::absolute(dir).map_err(|error| Failure::file("use", dir, &error))
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub(crate) fn refused(error: ControllerError) -> Failure {
    Failure::from(error.fault().clone())
}

impl TermsArgs {
    /// The terms, with what was said in place of what is usual.
    fn onto(&self, usual: Terms) -> Terms {
        Terms {
            node_lease: self.node_lease.unwrap_or(usual.node_lease),
            loan_term: self.loan_term.unwrap_or(usual.loan_term),
            suspect_node_after: self.suspect_node_after.unwrap_or(usual.suspect_node_after),
            suspect_peer_after: self.suspect_peer_after.unwrap_or(usual.suspect_peer_after),
            grant_idle: self.grant_idle.unwrap_or(usual.grant_idle),
            grant_term: self.grant_term.unwrap_or(usual.grant_term),
            heard_percent_min: self.heard_percent_min.unwrap_or(usual.heard_percent_min),
            spill_after: self.spill_after.unwrap_or(usual.spill_after),
        }
    }
}

/// A controller as others see it, and as it sees itself.
pub(crate) struct Row {
    pub(crate) view: ControllerView,
    /// None if it did not answer.
    pub(crate) status: Option<ControllerStatus>,
    /// Entries that it lacks; none if nobody knows.
    pub(crate) lag: Option<u64>,
}

impl Row {
    fn role(&self) -> &'static str {
        match (self.view.leader, self.view.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        }
    }

    fn state(&self) -> (Mood, &'static str) {
        match &self.status {
            None => (Mood::Bad, "unreachable"),
            Some(status) if status.is_full => (Mood::Bad, "disk full"),
            Some(status) if status.recovering => (Mood::Busy, "restored"),
            Some(_) if !self.view.voter => (Mood::Busy, "catching up"),
            Some(_) => (Mood::Good, "ready"),
        }
    }
}

impl Listed for Row {
    const KIND: &'static str = "Controller";
    const HEADERS: &'static [&'static str] =
        &["ID", "ADDRESS", "ROLE", "STATE", "LAG", "APPLIED", "SNAPSHOT", "ASKED"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let (mood, state) = self.state();
        let status = self.status.as_ref();
        vec![
            Item::of(self.view.id),
            Item::of(&self.view.address),
            Item::of(self.role()),
            Item::with(mood, state),
            Item::maybe(self.lag),
            Item::maybe(status.map(|status| status.applied)),
            Item::maybe(status.map(|status| status.snapshot)),
            Item::of(if self.view.own { "*" } else { "" }),
        ]
    }

    fn name(&self) -> String {
        self.view.id.to_string()
    }

    fn json(&self) -> Value {
        let (view, status) = (&self.view, self.status.as_ref());
        json!({
            "id": view.id.to_string(),
            "address": view.address,
            "role": self.role(),
            "state": self.state().1,
            "leader": view.leader,
            "voter": view.voter,
            "matched": view.matched,
            "own": view.own,
            "reachable": status.is_some(),
            "lag": self.lag,
            "applied": status.map(|status| status.applied),
            "snapshot": status.map(|status| status.snapshot),
            "term": status.map(|status| status.term),
            "version": status.map(|status| status.version.clone()),
            "heard_ms": view.heard.map(|heard| heard.0),
        })
    }
}
