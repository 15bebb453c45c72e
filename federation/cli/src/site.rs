//! Sites and what they lend each other: `invite`, `join`, `site`, `capacity`, `grant`, `loan`.

use std::io::Read;

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::{Revision, SiteId};
use specs::unit::{GpuCount, Timestamp};
use specs::wire::client::{
    Empty, GrantView, GrantViews, LoanView, LoanViews, SiteInvite, SiteJoin, SiteJoined, SiteView,
    SiteViews, TokenIssued,
};
use specs::wire::method::Method;
use specs::wire::peer::ClassCapacity;

use crate::app::App;
use crate::args::{Format, FormatArgs, InviteArgs, JoinArgs, ListCommand, SiteCommand};
use crate::client::Stale;
use crate::error::{Failure, Outcome};
use crate::node::heard;
use crate::output::{self, Item, Listed, Mood, Output, joined, moment_ms, note, texts};
use crate::signals;

/// Longest token that is read from stdin, in bytes.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

pub(crate) async fn run(app: &App, command: SiteCommand) -> Outcome<()> {
    match command {
        SiteCommand::Ls(format) => {
            let (views, stale) = all(app, Method::SiteList).await?;
            app.output(format).as_of(stale).list(&views.sites, Some(views.revision))
        }
        SiteCommand::Show { name, format } => show(app, &name, app.output(format)).await,
        SiteCommand::Signals(command) => signals::run(app, command).await,
        SiteCommand::Weights(command) => signals::weights(app, command).await,
        SiteCommand::Data(command) => signals::data(app, command).await,
        SiteCommand::Link(command) => signals::link(app, command).await,
    }
}

pub(crate) async fn all(app: &App, method: Method) -> Outcome<(SiteViews, Option<Stale>)> {
    let mut client = app.client()?;
    let views = client.read(method, &Empty {}).await?;
    Ok((views, client.close().await))
}

async fn show(app: &App, name: &SiteId, output: Output) -> Outcome<()> {
    let (views, stale) = all(app, Method::SiteList).await?;
    let found = views.sites.iter().find(|view| view.site == *name);
    let view = found.ok_or_else(|| {
        let failure = Failure::new(FaultCode::NotFound, format!("there is no site `{name}` here"));
        failure.with_hint("see `federation site ls`; a site is added with `federation join`")
    })?;
    output.as_of(stale).one(view, Some(views.revision), || {
        let country = view.country.map(|country| country.to_string());
        vec![
            ("Site", view.site.to_string()),
            ("State", state(view).1.to_owned()),
            ("Heard", if view.own { String::new() } else { heard(view.heard) }),
            ("Country", country.unwrap_or_default()),
            ("Controllers", joined(&view.addresses)),
            ("Loans given", view.loans_out.to_string()),
            ("Guests taken", view.guests_in.to_string()),
        ]
    })?;
    if output.format() == Format::Table && !view.capacity.is_empty() {
        output::line("", "\n")?;
        output.list(&rows(std::slice::from_ref(view)), None)?;
    }
    Ok(())
}

/// `federation invite`: the token alone on stdout.
pub(crate) async fn invite(app: &App, args: InviteArgs) -> Outcome<()> {
    let mut client = app.client()?;
    let question = SiteInvite { peer: args.peer.clone(), ttl: args.ttl };
    let issued: TokenIssued = client.change(Method::SiteInvite, &question).await?;
    let site = client.site().clone();
    client.close().await;
    let who = args.peer.map_or_else(|| "one other site".into(), |peer| format!("site {peer}"));
    let advice = format!(
        "this token lets {who} join {site}, once, within {}; it is a secret. At the other site:\n  \
         federation join TOKEN",
        output::span(args.ttl)
    );
    print_token(app.output(args.format), &issued, &advice)
}

/// The token alone on stdout, what to do with it on stderr.
pub(crate) fn print_token(output: Output, issued: &TokenIssued, advice: &str) -> Outcome<()> {
    match output.format() {
        Format::Json => {
            let expires = moment_ms(issued.expires_at);
            let body = json!({ "token": issued.token, "expires_ms": expires });
            output.document("Token", body)
        }
        Format::Table | Format::Name => {
            note(advice);
            output::line(&issued.token, "\n")
        }
    }
}

/// `federation join`.
pub(crate) async fn join(app: &App, args: JoinArgs) -> Outcome<()> {
    let mut token = args.token;
    if token == "-" {
        token.clear();
        let mut limited = std::io::stdin().lock().take(TOKEN_BYTES_MAX);
        limited.read_to_string(&mut token).map_err(|error| {
            Failure::usage(format!("cannot read the token from stdin: {error}"))
        })?;
    }
    let token = token.trim().to_owned();
    if token.is_empty() {
        return Err(Failure::usage("there is no token")
            .with_hint("`federation invite` at the other site prints one"));
    }
    let mut client = app.client()?;
    let joined: SiteJoined = client.change(Method::SiteJoin, &SiteJoin { token }).await?;
    let site = client.site().clone();
    client.close().await;
    let SiteJoined { peer, repeated } = joined;
    match app.output(args.format).format() {
        Format::Json => app.output(args.format).document(
            "SiteJoined",
            json!({ "site": site.as_str(), "peer": peer.as_str(), "repeated": repeated }),
        ),
        Format::Table | Format::Name => {
            let how = if repeated { "were joined already" } else { "are joined" };
            note(&format!("{site} and {peer} {how}; see `federation site ls`"));
            output::line(peer.as_str(), "\n")
        }
    }
}

/// `federation capacity`.
pub(crate) async fn capacity(app: &App, format: FormatArgs) -> Outcome<()> {
    let (views, stale) = all(app, Method::Capacity).await?;
    app.output(format).as_of(stale).list(&rows(&views.sites), Some(views.revision))
}

/// `federation grant …`.
pub(crate) async fn grants(app: &App, command: ListCommand) -> Outcome<()> {
    let ListCommand::Ls(format) = command;
    let mut client = app.client()?;
    let GrantViews { revision, grants } = client.read(Method::GrantList, &Empty {}).await?;
    let stale = client.close().await;
    app.output(format).as_of(stale).list(&grants, Some(revision))
}

/// `federation loan …`.
pub(crate) async fn loans(app: &App, command: ListCommand) -> Outcome<()> {
    let ListCommand::Ls(format) = command;
    let mut client = app.client()?;
    let LoanViews { revision, loans }: LoanViews = client.read(Method::LoanList, &Empty {}).await?;
    let stale = client.close().await;
    let revision: Revision = revision;
    app.output(format).as_of(stale).list(&loans, Some(revision))
}

fn state(view: &SiteView) -> (Mood, &'static str) {
    match (view.own, view.suspected, view.connected) {
        (true, _, _) => (Mood::Good, "own"),
        (false, true, _) => (Mood::Bad, "suspected"),
        (false, false, true) => (Mood::Good, "connected"),
        (false, false, false) => (Mood::Busy, "not connected"),
    }
}

impl Listed for SiteView {
    const KIND: &'static str = "Site";
    const HEADERS: &'static [&'static str] =
        &["SITE", "STATE", "COUNTRY", "GPUS", "FREE", "LOANS", "GUESTS", "HEARD", "CONTROLLERS"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let (mood, state) = state(self);
        let sum = |count: fn(&ClassCapacity) -> GpuCount| {
            self.capacity.iter().fold(GpuCount::ZERO, |sum, class| sum.plus(count(class)))
        };
        vec![
            Item::of(&self.site),
            Item::with(mood, state),
            Item::maybe(self.country),
            Item::of(sum(|class| class.total)),
            Item::of(sum(|class| class.free)),
            Item::of(self.loans_out),
            Item::of(self.guests_in),
            Item::of(if self.own { "-".into() } else { heard(self.heard) }),
            Item::of(joined(&self.addresses)),
        ]
    }

    fn name(&self) -> String {
        self.site.to_string()
    }

    fn json(&self) -> Value {
        json!({
            "site": self.site.as_str(),
            "country": self.country.map(|country| country.to_string()),
            "own": self.own,
            "connected": self.connected,
            "suspected": self.suspected,
            "heard_ms": self.heard.map(|span| span.0),
            "addresses": self.addresses,
            "loans_out": self.loans_out,
            "guests_in": self.guests_in,
            "capacity": self.capacity.iter().map(capacity_json).collect::<Vec<_>>(),
        })
    }
}

fn capacity_json(class: &ClassCapacity) -> Value {
    json!({
        "class": class.class.as_str(),
        "gpus": class.total.0,
        "gpus_free": class.free.0,
        "gpus_granted": class.granted.0,
        "gpus_per_node_max": class.node_gpus_max.0,
        "nodes": class.nodes,
    })
}

/// A class of GPUs at a site.
struct CapacityRow<'a> {
    site: &'a SiteView,
    class: &'a ClassCapacity,
}

fn rows(sites: &[SiteView]) -> Vec<CapacityRow<'_>> {
    let of = |site| move |class| CapacityRow { site, class };
    sites.iter().flat_map(|site| site.capacity.iter().map(of(site))).collect()
}

impl Listed for CapacityRow<'_> {
    const KIND: &'static str = "Capacity";
    const HEADERS: &'static [&'static str] =
        &["SITE", "CLASS", "GPUS", "FREE", "GRANTED", "LARGEST NODES", "HEARD"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let Self { site, class } = self;
        vec![
            Item::of(&site.site),
            Item::of(&class.class),
            Item::of(class.total),
            Item::of(class.free),
            Item::of(class.granted),
            Item::of(format!("{} × {}", class.nodes, class.node_gpus_max)),
            Item::of(if site.own { "-".into() } else { heard(site.heard) }),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.site.site, self.class.class)
    }

    fn json(&self) -> Value {
        let mut json = capacity_json(self.class);
        if let Some(object) = json.as_object_mut() {
            object.insert("site".into(), self.site.site.as_str().into());
            object.insert("own".into(), self.site.own.into());
            object.insert("heard_ms".into(), self.site.heard.map(|span| span.0).into());
        }
        json
    }
}

impl Listed for GrantView {
    const KIND: &'static str = "Grant";
    const HEADERS: &'static [&'static str] =
        &["GRANT", "HOST", "HOME", "CLASS", "GPUS", "USED", "VERIFIED", "STATE", "NODES"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![
            Item::of(self.grant),
            Item::of(&self.host),
            Item::of(&self.home),
            Item::maybe(self.class.as_ref()),
            Item::of(self.gpus),
            Item::of(self.gpus_used),
            Item::maybe(self.gpus_verified.map(|proven| format!("{proven}/{}", self.gpus))),
            Item::of(&self.state),
            Item::of(joined(&self.nodes)),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.host, self.grant)
    }

    fn json(&self) -> Value {
        json!({
            "grant": self.grant.to_string(),
            "host": self.host.as_str(),
            "home": self.home.as_str(),
            "class": self.class.as_ref().map(ToString::to_string),
            "gpus": self.gpus.0,
            "gpus_used": self.gpus_used.0,
            "gpus_verified": self.gpus_verified.map(|proven| proven.0),
            "state": self.state,
            "nodes": texts(&self.nodes),
        })
    }
}

impl Listed for LoanView {
    const KIND: &'static str = "Loan";
    const HEADERS: &'static [&'static str] =
        &["JOB", "NAME", "EPOCH", "HOME", "HOST", "GPUS", "STATE", "GRANTS"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![
            Item::of(self.job),
            Item::of(&self.name),
            Item::of(self.epoch),
            Item::of(&self.home),
            Item::of(&self.host),
            Item::of(self.gpus),
            Item::of(&self.state),
            Item::of(joined(&self.grants)),
        ]
    }

    fn name(&self) -> String {
        self.job.to_string()
    }

    fn json(&self) -> Value {
        json!({
            "job": self.job.to_string(),
            "name": self.name,
            "epoch": self.epoch.0,
            "home": self.home.as_str(),
            "host": self.host.as_str(),
            "gpus": self.gpus.0,
            "state": self.state,
            "grants": texts(&self.grants),
        })
    }
}
