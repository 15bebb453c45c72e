//! `federation node …`.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::NodeId;
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::client::{
    Empty, NodeDrain, NodeEnroll, NodeState, NodeView, NodeViews, TokenIssued,
};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::NodeCommand;
use crate::client::Stale;
use crate::error::{Failure, Outcome};
use crate::output::{self, Item, Listed, Mood, Output, joined, note, texts};
use crate::site::print_token;

pub(crate) async fn run(app: &App, command: NodeCommand) -> Outcome<()> {
    match command {
        NodeCommand::Ls(format) => {
            let (views, stale) = all(app).await?;
            app.output(format).as_of(stale).list(&views.nodes, Some(views.revision))
        }
        NodeCommand::Show { node, format } => show(app, &node, app.output(format)).await,
        NodeCommand::Drain { node, undo } => drain(app, node, undo).await,
        NodeCommand::BurnIn(command) => crate::burn_in::run(app, command).await,
        NodeCommand::Enroll { node, ttl, format } => {
            enroll(app, node, ttl, app.output(format)).await
        }
    }
}

async fn all(app: &App) -> Outcome<(NodeViews, Option<Stale>)> {
    let mut client = app.client()?;
    let views = client.read(Method::NodeList, &Empty {}).await?;
    Ok((views, client.close().await))
}

async fn show(app: &App, name: &NodeId, output: Output) -> Outcome<()> {
    let (views, stale) = all(app).await?;
    let found = views.nodes.iter().find(|view| view.node == *name);
    let view = found.ok_or_else(|| {
        let failure = Failure::new(FaultCode::NotFound, format!("there is no node `{name}`"));
        failure.with_hint("see `federation node ls`")
    })?;
    output.as_of(stale).one(view, Some(views.revision), || {
        let class = view.class.as_ref().map_or_else(|| "GPU".into(), ToString::to_string);
        let gpus = format!(
            "{} × {class}: {} leased, {} granted",
            view.gpus, view.gpus_leased, view.gpus_granted
        );
        vec![
            ("Node", view.node.to_string()),
            ("State", view.state.to_string()),
            ("Heard", heard(view.heard)),
            ("GPUs", gpus),
            ("Known from", view.source.clone()),
            ("Address", view.address.clone()),
            ("Agent", view.version.clone()),
            ("Boot", view.boot.to_string()),
            ("Draining", view.draining.to_string()),
            ("Jobs", joined(&view.jobs)),
            ("Reserved", joined(&view.reservations)),
        ]
    })
}

async fn drain(app: &App, node: NodeId, undo: bool) -> Outcome<()> {
    let mut client = app.client()?;
    let question = NodeDrain { node: node.clone(), drain: !undo };
    let Empty {} = client.change(Method::NodeDrain, &question).await?;
    client.close().await;
    note(&if undo {
        format!("{node} is used again")
    } else {
        format!("{node} starts nothing more; take it back with --undo")
    });
    Ok(())
}

async fn enroll(app: &App, node: NodeId, ttl: Millis, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let question = NodeEnroll { node: node.clone(), ttl };
    let issued: TokenIssued = client.change(Method::NodeEnroll, &question).await?;
    client.close().await;
    let advice = format!(
        "this token enrols {node}, once, for {}; at the node, with the token on stdin:\n  \
         gpu-agent run --token-file - --dir DIR",
        output::span(ttl)
    );
    print_token(output, &issued, &advice)
}

/// How long ago something was heard.
pub(crate) fn heard(heard: Option<Millis>) -> String {
    heard.map_or_else(|| "never".into(), |span| format!("{} ago", output::span(span)))
}

impl Listed for NodeView {
    const KIND: &'static str = "Node";
    const HEADERS: &'static [&'static str] = &[
        "NODE", "STATE", "CLASS", "GPUS", "LEASED", "GRANTED", "RESERVED", "JOBS", "HEARD", "AGENT",
    ];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let mood = match self.state {
            NodeState::Ready => Mood::Good,
            NodeState::Suspected => Mood::Bad,
            NodeState::Draining | NodeState::Awaited => Mood::Busy,
        };
        vec![
            Item::of(&self.node),
            Item::with(mood, self.state),
            Item::maybe(self.class.as_ref()),
            Item::of(self.gpus),
            Item::of(self.gpus_leased),
            Item::of(self.gpus_granted),
            Item::maybe(self.reservations.first().map(|_| joined(&self.reservations))),
            Item::of(self.jobs.len()),
            Item::of(heard(self.heard)),
            Item::of(&self.version),
        ]
    }

    fn name(&self) -> String {
        self.node.to_string()
    }

    fn json(&self) -> Value {
        let [GpuCount(gpus), GpuCount(leased), GpuCount(granted)] =
            [self.gpus, self.gpus_leased, self.gpus_granted];
        json!({
            "node": self.node.as_str(),
            "state": self.state.as_str(),
            "boot": self.boot.0,
            "class": self.class.as_ref().map(ToString::to_string),
            "gpus": gpus,
            "gpus_leased": leased,
            "gpus_granted": granted,
            "source": self.source,
            "address": self.address,
            "version": self.version,
            "jobs": texts(&self.jobs),
            "heard_ms": self.heard.map(|span| span.0),
            "draining": self.draining,
            "reservations": texts(&self.reservations),
        })
    }
}
