//! `federation upgrade …`: which versions the controllers know, and raising that of the site.

use serde_json::{Value, json};
use specs::id::ControllerId;
use specs::unit::Timestamp;
use specs::version::{ClusterVersion, Versions};
use specs::wire::client::{
    ControllerVersions, Empty, UpgradeFinalize, UpgradeFinalized, UpgradeRehearse, UpgradeStatus,
};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::{Format, UpgradeCommand};
use crate::error::Outcome;
use crate::output::{self, Item, Listed, Mood, Output, note};

pub(crate) async fn run(app: &App, command: UpgradeCommand) -> Outcome<()> {
    match command {
        UpgradeCommand::Status(format) => status(app, app.output(format)).await,
        UpgradeCommand::Finalize(format) => finalize(app, app.output(format)).await,
        UpgradeCommand::Rehearse { text } => {
            let mut client = app.client()?;
            let question = UpgradeRehearse { text };
            let Empty {} = client.change(Method::UpgradeRehearse, &question).await?;
            client.close().await;
            Ok(())
        }
    }
}

async fn status(app: &App, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let UpgradeStatus { version, controllers, notes } =
        client.poll(Method::UpgradeStatus, &Empty {}, specs::unit::Millis::ZERO).await?;
    client.close().await;
    let rows: Vec<Row> = controllers.into_iter().map(|it| Row { it, version }).collect();
    if output.format() == Format::Json {
        let controllers: Vec<Value> = rows.iter().map(Listed::json).collect();
        let body = json!({ "version": version.0, "controllers": controllers, "notes": notes });
        return output.document("UpgradeStatus", body);
    }
    output.list(&rows, None)?;
    if output.format() == Format::Table {
        note(&advice(version, &rows));
    }
    Ok(())
}

fn advice(version: ClusterVersion, rows: &[Row]) -> String {
    let next = version.next();
    let hindering: Vec<ControllerId> =
        rows.iter().filter(|row| !row.it.hinders.is_empty()).map(|row| row.it.id).collect();
    if hindering.is_empty() {
        return format!(
            "all controllers know version {next}; once no older release is to be used again: \
             `federation upgrade finalize`"
        );
    }
    if rows.iter().all(|row| row.it.heard && row.it.newest == version) {
        return format!("the site has the newest version that its controllers know, {version}");
    }
    format!("version {next} waits for {}", output::joined(&hindering))
}

async fn finalize(app: &App, output: Output) -> Outcome<()> {
    let mut client = app.client()?;
    let before: UpgradeStatus =
        client.poll(Method::UpgradeStatus, &Empty {}, specs::unit::Millis::ZERO).await?;
    // Named, so that a question that is repeated raises it once.
    let question = UpgradeFinalize { to: before.version.next() };
    let done: UpgradeFinalized = client.change(Method::UpgradeFinalize, &question).await?;
    client.close().await;
    if output.format() == Format::Json {
        return output.document("UpgradeFinalized", json!({ "version": done.version.0 }));
    }
    note(&format!("the site has version {}; older releases can no longer be used", done.version));
    output::line(&done.version.to_string(), "\n")
}

/// A controller, and the site's version.
struct Row {
    it: ControllerVersions,
    version: ClusterVersion,
}

impl Listed for Row {
    const KIND: &'static str = "ControllerVersions";
    const HEADERS: &'static [&'static str] =
        &["ID", "ADDRESS", "ROLE", "BUILD", "KNOWS", "SITE", "HINDERS"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let Self { it, version } = self;
        let known = Versions { oldest: it.oldest, newest: it.newest };
        let hinders = (!it.hinders.is_empty()).then_some(&it.hinders);
        vec![
            Item::of(it.id),
            Item::of(&it.address),
            Item::of(if it.leader { "leader" } else { "follower" }),
            Item::maybe((!it.build.is_empty()).then_some(&it.build)),
            Item::maybe(it.heard.then_some(known)),
            Item::of(version),
            hinders.map_or_else(|| Item::of("-"), |why| Item::with(Mood::Busy, why)),
        ]
    }

    fn name(&self) -> String {
        self.it.id.to_string()
    }

    fn json(&self) -> Value {
        let Self { it, .. } = self;
        json!({
            "id": it.id.to_string(),
            "address": it.address,
            "leader": it.leader,
            "build": it.build,
            "oldest": it.heard.then_some(it.oldest.0),
            "newest": it.heard.then_some(it.newest.0),
            "heard": it.heard,
            "hinders": it.hinders,
        })
    }
}
