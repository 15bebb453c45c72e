//! `federation reservation …`.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::ReservationName;
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::client::{
    Empty, ReservationEnd, ReservationMake, ReservationView, ReservationViews,
};
use specs::wire::method::Method;

use crate::app::App;
use crate::error::{Failure, Outcome};
use crate::output::{self, Item, Listed, Mood, Output, joined, note, texts};

pub(crate) mod args;

use args::{CreateArgs, ReservationCommand};

pub(crate) async fn run(app: &App, command: ReservationCommand) -> Outcome<()> {
    match command {
        ReservationCommand::Ls(format) => {
            let mut client = app.client()?;
            let views: ReservationViews = client.read(Method::ReservationList, &Empty {}).await?;
            let stale = client.close().await;
            app.output(format).as_of(stale).list(&views.reservations, Some(views.revision))
        }
        ReservationCommand::Show { name, format } => show(app, &name, app.output(format)).await,
        ReservationCommand::Create(args) => create(app, args).await,
        ReservationCommand::Delete { name } => {
            let mut client = app.client()?;
            let question = ReservationEnd { name: name.clone() };
            let Empty {} = client.change(Method::ReservationEnd, &question).await?;
            client.close().await;
            note(&format!("{name} is over; its nodes are everybody's"));
            Ok(())
        }
    }
}

async fn show(app: &App, name: &ReservationName, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let views: ReservationViews = client.read(Method::ReservationList, &Empty {}).await?;
    let stale = client.close().await;
    let found = views.reservations.iter().find(|view| view.name == *name);
    let view = found.ok_or_else(|| {
        let failure =
            Failure::new(FaultCode::NotFound, format!("there is no reservation `{name}`"));
        failure.with_hint("see `federation reservation ls`")
    })?;
    output.as_of(stale).one(view, Some(views.revision), || details(view))
}

fn details(view: &ReservationView) -> Vec<(&'static str, String)> {
    let class = view.class.as_ref().map_or_else(|| "GPU".into(), ToString::to_string);
    let others = if view.others.is_empty() { "-".into() } else { joined(&view.others) };
    vec![
        ("Reservation", view.name.to_string()),
        ("Account", view.account.to_string()),
        ("GPUs", format!("{} × {class}: {} used by it", view.gpus, view.used)),
        ("Start", output::moment(view.start)),
        ("End", output::moment(view.end)),
        ("State", state(view).into()),
        ("Nodes", joined(&view.nodes)),
        ("Jobs of others", others),
        ("Made", format!("{} by {}", output::moment(view.made_at), view.by)),
    ]
}

async fn create(app: &App, args: CreateArgs) -> Outcome<()> {
    let now = app.env().clock.wall();
    let start = args.start.from(now);
    let lasts = |span: Millis| Timestamp(start.0.saturating_add(span.0));
    let end = args.end.map(|end| end.from(now)).or(args.duration.map(lasts)).unwrap_or(start);
    let question = ReservationMake {
        name: args.name,
        account: args.account,
        class: args.class,
        gpus: args.gpus.unwrap_or_default(),
        nodes: args.node,
        start,
        end,
        beside_jobs: args.beside_jobs,
    };
    let mut client = app.client()?;
    let made: ReservationViews = client.change(Method::ReservationMake, &question).await?;
    client.close().await;
    let Some(view) = made.reservations.first() else {
        let message = format!("{} was made, and has been ended since", question.name);
        return Err(Failure::new(FaultCode::Conflict, message));
    };
    app.output(args.format).one(view, Some(made.revision), || details(view))
}

fn state(view: &ReservationView) -> &'static str {
    if view.is_on { "on" } else { "to come" }
}

impl Listed for ReservationView {
    const KIND: &'static str = "Reservation";
    const HEADERS: &'static [&'static str] =
        &["NAME", "ACCOUNT", "CLASS", "GPUS", "USED", "NODES", "STATE", "START", "END", "OTHERS"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let mood = if self.is_on { Mood::Good } else { Mood::Busy };
        vec![
            Item::of(&self.name),
            Item::of(&self.account),
            Item::maybe(self.class.as_ref()),
            Item::of(self.gpus),
            Item::of(self.used),
            Item::of(self.nodes.len()),
            Item::with(mood, state(self)),
            Item::of(output::moment(self.start)),
            Item::of(output::moment(self.end)),
            Item::of(self.others.len()),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn json(&self) -> Value {
        let [GpuCount(asked), GpuCount(gpus), GpuCount(used)] = [self.asked, self.gpus, self.used];
        json!({
            "reservation": self.name.as_str(),
            "account": self.account.as_str(),
            "class": self.class.as_ref().map(ToString::to_string),
            "asked": asked,
            "gpus": gpus,
            "used": used,
            "nodes": texts(&self.nodes),
            "start": output::moment_ms(self.start),
            "end": output::moment_ms(self.end),
            "on": self.is_on,
            "others": texts(&self.others),
            "by": self.by,
            "made_at": output::moment_ms(self.made_at),
        })
    }
}
