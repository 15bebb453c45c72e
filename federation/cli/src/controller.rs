//! Controllers: `init`, `serve` and `controller …`.

use std::path::{Path, PathBuf};

use fabric_quic::pki::KeyRequest;
use federation_controller::raft::CutLog;
use federation_controller::{ADMIN, ControllerError, InitOptions, Ready};
use serde_json::{Value, json};
use specs::codec::Blob;
use specs::fault::FaultCode;
use specs::id::{ControllerId, RequestId};
use specs::site::Terms;
use specs::unit::Timestamp;
use specs::wire::client::{
    ControllerAdd, ControllerAdded, ControllerRemove, ControllerView, ControllerViews, Empty,
};
use specs::wire::method::Method;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::args::{ControllerCommand, Format, InitArgs, Listen, ServeArgs, TermsArgs};
use crate::context::{self, Config, Context};
use crate::error::{Failure, Outcome, chain};
use crate::output::{self, Item, Listed, Mood, Output, note};

/// `federation init`.
pub(crate) fn init(app: &App, args: InitArgs) -> Outcome<()> {
    let InitArgs { site, listen, country, lend, no_context, terms } = args;
    let Listen { listen, advertise, metrics, dir } = listen;
    let dir = absolute(&dir)?;
    if !no_context {
        check_unknown(&app.config_path()?, site.as_str())?;
    }
    let terms = terms.onto(Terms::default());
    let options =
        InitOptions { site: site.clone(), listen, advertise, dir, metrics, country, terms, lend };
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
        ControllerCommand::Add { listen, format } => add(app, listen, app.output(format)).await,
        ControllerCommand::Ls(format) => {
            let mut client = app.client()?;
            let views: ControllerViews = client.read(Method::ControllerList, &Empty {}).await?;
            client.close().await;
            app.output(format).list(&views.controllers, None)
        }
        ControllerCommand::Remove { id } => remove(app, id).await,
    }
}

async fn add(app: &App, listen: Listen, output: Output) -> Outcome<()> {
    let Listen { listen, advertise, metrics, dir } = listen;
    let dir = absolute(&dir)?;
    // A member that the site knows but whose directory cannot be written would be in the way.
    federation_controller::claim(&dir).map_err(refused)?;
    let address = advertise.clone().unwrap_or_else(|| listen.to_string());
    let mut client = app.client()?;
    let failed = |text: String| Failure::new(FaultCode::Internal, text);
    let key = KeyRequest::create(app.env()).map_err(|error| failed(chain(&error)))?;
    let request = RequestId::new(&format!("cli-{:032x}", app.env().random_u128()))
        .map_err(|error| failed(error.to_string()))?;
    let csr = Blob(key.csr().to_vec());
    let question = ControllerAdd { address: address.clone(), csr, request };
    let added: ControllerAdded = client.change(Method::ControllerAdd, &question).await?;
    client.close().await;
    let advertise = advertise.as_deref();
    federation_controller::write_member(app.env(), &dir, listen, advertise, metrics, &added, key)
        .map_err(refused)?;
    add_server(app, &address)?;
    if output.format() == Format::Json {
        let body = json!({ "id": added.id.to_string(), "address": address, "dir": dir });
        return output.document("ControllerAdded", body);
    }
    note(&format!("run controller {} at {address}:", added.id));
    note(&format!("  federation serve --dir {}", dir.display()));
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

fn absolute(dir: &Path) -> Outcome<PathBuf> {
    std::path::absolute(dir).map_err(|error| Failure::file("use", dir, &error))
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn refused(error: ControllerError) -> Failure {
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

impl Listed for ControllerView {
    const KIND: &'static str = "Controller";
    const HEADERS: &'static [&'static str] =
        &["ID", "ADDRESS", "ROLE", "VOTES", "MATCHED", "ASKED"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let (mood, role) =
            if self.leader { (Mood::Good, "leader") } else { (Mood::Plain, "follower") };
        vec![
            Item::of(self.id),
            Item::of(&self.address),
            Item::with(mood, role),
            Item::of(if self.voter { "yes" } else { "not yet" }),
            Item::of(self.matched),
            Item::of(if self.own { "*" } else { "" }),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "address": self.address,
            "leader": self.leader,
            "voter": self.voter,
            "matched": self.matched,
            "own": self.own,
        })
    }
}
