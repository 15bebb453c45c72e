//! `federation node burn-in …` and `federation gpu limits`.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::gpu::{Bound, BoundUnit, BurnInEnd, BurnInResult, HealthLimits};
use specs::id::NodeId;
use specs::measure::{Behind, Differs, Digests, Lag, Make};
use specs::unit::Timestamp;
use specs::wire::client::{BurnInStart, Empty, GpuView, GpuViews, HealthLimitsView};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::{BurnInCommand, FormatArgs, GpuLimitsArgs};
use crate::error::{Failure, Outcome};
use crate::gpu::state;
use crate::output::{self, Item, Listed, Mood, note};

pub(crate) async fn run(app: &App, command: BurnInCommand) -> Outcome<()> {
    match command {
        BurnInCommand::Start { node, tier, gpu } => {
            let mut client = app.client()?;
            let question = BurnInStart { node: node.clone(), index: gpu, tier };
            let Empty {} = client.change(Method::BurnInStart, &question).await?;
            client.close().await;
            let what = gpu.map_or_else(|| node.to_string(), |gpu| format!("{node}/{gpu}"));
            note(&format!(
                "{what} takes nothing new until {tier} has a result; what runs there runs on\n  \
                 federation node burn-in report {node}"
            ));
            Ok(())
        }
        BurnInCommand::Report { node, format } => report(app, &node, format).await,
    }
}

/// A GPU, for what its burn-ins say.
struct Burnt(GpuView);

async fn report(app: &App, node: &NodeId, format: FormatArgs) -> Outcome<()> {
    let mut client = app.client()?;
    let views: GpuViews = client.read(Method::GpuList, &Empty {}).await?;
    let stale = client.close().await;
    let gpus: Vec<Burnt> =
        views.gpus.into_iter().filter(|it| it.node == *node).map(Burnt).collect();
    if gpus.is_empty() {
        let message = format!("there is no node `{node}`, or its agent has named no GPU");
        let failure = Failure::new(FaultCode::NotFound, message);
        return Err(failure.with_hint("see `federation node ls`"));
    }
    app.output(format).as_of(stale).list(&gpus, Some(views.revision))
}

fn make_json(it: &Make) -> Value {
    json!({
        "product": it.product,
        "vbios": it.vbios,
        "driver": it.driver,
        "power_limit_milliwatts": it.power_limit_milliwatts,
        "kernels": it.kernels.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    })
}

/// A digest has more digits than a program's numbers hold.
fn digest(it: u64) -> String {
    format!("{it:016x}")
}

fn digests_json(it: &Digests) -> Value {
    let by_kernel = it.by_kernel.iter().map(|(kernel, it)| (kernel.clone(), digest(*it).into()));
    json!({ "recipe": it.recipe, "by_kernel": by_kernel.collect::<serde_json::Map<_, _>>() })
}

pub(crate) fn result_json(it: &BurnInResult) -> Value {
    json!({
        "number": it.number.0,
        "tier": it.tier.as_str(),
        "verdict": it.end.as_str(),
        "why": it.why,
        "ended_at": output::moment_ms(it.ended_at),
        "took_ms": it.took.0,
        "numbers": it.numbers,
        "make": it.make.as_ref().map(make_json),
        "capped": it.capped,
        "digests": it.digests.as_ref().map(digests_json),
    })
}

/// What of a GPU's numbers is worse than those of others, the gravest first.
pub(crate) fn behind(view: &GpuView) -> Option<String> {
    let said = |it: &Behind| format!("{it} ({})", it.lag);
    let all: Vec<String> = view.behind.iter().map(said).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What of a GPU's digests others of its make do not say, the gravest first.
pub(crate) fn differs(view: &GpuView) -> Option<String> {
    let said = |it: &Differs| format!("{it} ({})", it.lag);
    let all: Vec<String> = view.differs.iter().map(said).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Of one that is at fault, and is in service all the same; or that differs, and nobody knows who is
/// wrong.
pub(crate) fn at_fault(view: &GpuView) -> Option<String> {
    if let Some(it) = view.differs.first() {
        return Some(match it.lag {
            Lag::Fault => format!("differs from its fleet, and in service: {it}"),
            Lag::Warning => format!("differs from others of its make: {it}"),
        });
    }
    let gravest = view.behind.first().filter(|it| it.lag == Lag::Fault)?;
    Some(format!("behind its fleet, and in service: {gravest}"))
}

pub(crate) fn differs_json(differs: &[Differs]) -> Value {
    let one = |it: &Differs| {
        json!({
            "kernel": it.kernel,
            "lag": it.lag.as_str(),
            "digest": digest(it.digest),
            "common": digest(it.common),
            "same": it.same,
            "peers": it.peers,
        })
    };
    differs.iter().map(one).collect()
}

pub(crate) fn behind_json(behind: &[Behind]) -> Value {
    let one = |it: &Behind| {
        json!({
            "measure": it.measure,
            "lag": it.lag.as_str(),
            "value": it.value,
            "median": it.median,
            "peers": it.peers,
            "permille": it.permille,
            "runs": it.runs,
        })
    };
    behind.iter().map(one).collect()
}

impl Listed for Burnt {
    const KIND: &'static str = "BurnIn";
    const HEADERS: &'static [&'static str] =
        &["GPU", "STATE", "WANTED", "PERMITTED", "LAST", "VERDICT", "ENDED", "TOOK", "WHY"];

    fn row(&self, now: Timestamp) -> Vec<Item> {
        let (it, last) = (&self.0, self.0.last.as_ref());
        let mood = last.map_or(Mood::Busy, |last| match last.end {
            BurnInEnd::Passed => Mood::Good,
            BurnInEnd::Fault => Mood::Bad,
            BurnInEnd::Unknown | BurnInEnd::Interrupted => Mood::Busy,
        });
        let said = last.map(|last| last.why.clone()).filter(|why| !why.is_empty());
        let compared = differs(it).or_else(|| behind(it));
        // Of one that passed it is but a warning.
        let has_passed = last.is_some_and(|last| last.end == BurnInEnd::Passed);
        let why = if has_passed { compared.or(said) } else { said.or(compared) };
        let why = why.unwrap_or_else(|| it.why.clone());
        vec![
            Item::of(it.index),
            Item::of(state(it)),
            Item::maybe(it.wanted),
            Item::maybe(it.permitted),
            Item::maybe(last.map(|last| last.tier)),
            Item::with(mood, last.map_or_else(|| "-".to_owned(), |last| last.end.to_string())),
            Item::maybe(last.map(|last| output::age(last.ended_at, now))),
            Item::maybe(last.map(|last| output::span(last.took))),
            Item::of(why),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.0.node, self.0.index)
    }

    fn json(&self) -> Value {
        let it = &self.0;
        json!({
            "node": it.node.as_str(),
            "index": it.index.0,
            "uuid": it.uuid,
            "state": it.state.map(specs::gpu::GpuState::as_str),
            "why": it.why,
            "wanted": it.wanted.map(specs::gpu::BurnInTier::as_str),
            "permitted": it.permitted.map(specs::gpu::BurnInTier::as_str),
            "last": it.last.as_ref().map(result_json),
            "behind": behind_json(&it.behind),
            "differs": differs_json(&it.differs),
        })
    }
}

pub(crate) async fn limits(app: &App, args: GpuLimitsArgs) -> Outcome<()> {
    let GpuLimitsArgs { retests, admissions, quarantined, quarantines, format } = args;
    let mut client = app.client()?;
    let view: HealthLimitsView = client.read(Method::HealthLimitsShow, &Empty {}).await?;
    let said =
        retests.is_some() || admissions.is_some() || quarantined.is_some() || quarantines.is_some();
    if said {
        let before = view.limits;
        let limits = HealthLimits {
            retests: retests.unwrap_or(before.retests),
            admissions: admissions.unwrap_or(before.admissions),
            quarantined: quarantined.unwrap_or(before.quarantined),
            quarantines: quarantines.unwrap_or(before.quarantines),
        };
        let Empty {} = client.change(Method::HealthLimitsSet, &limits).await?;
        client.close().await;
        note("the site keeps to it from now on; what goes on goes on");
        return Ok(());
    }
    let stale = client.close().await;
    let view = Limits(view);
    app.output(format).as_of(stale).one(&view, Some(view.0.revision), || view.details())
}

struct Limits(HealthLimitsView);

impl Limits {
    fn details(&self) -> Vec<(&'static str, String)> {
        let Self(it) = self;
        let of = |now: u32, bound: &Bound| {
            format!("{now} of {} ({})", bound.of(it.gpus.0), bound_text(bound))
        };
        vec![
            ("GPUs", it.gpus.to_string()),
            ("Retests at once", of(it.retests, &it.limits.retests)),
            ("Admissions at once", of(it.admissions, &it.limits.admissions)),
            ("Quarantined of a class", bound_text(&it.limits.quarantined)),
            ("Quarantines in 10 min", it.limits.quarantines.to_string()),
            ("Bad, jobs run on", it.spared.to_string()),
        ]
    }
}

fn bound_text(bound: &Bound) -> String {
    match bound.unit {
        BoundUnit::Gpus => bound.value.to_string(),
        BoundUnit::Percent => format!("{}%", bound.value),
    }
}

impl Listed for Limits {
    const KIND: &'static str = "GpuLimits";
    const HEADERS: &'static [&'static str] = &["WHAT", "LIMIT"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        vec![Item::of("retests"), Item::of(bound_text(&self.0.limits.retests))]
    }

    fn name(&self) -> String {
        "limits".to_owned()
    }

    fn json(&self) -> Value {
        let Self(it) = self;
        json!({
            "gpus": it.gpus.0,
            "retests": bound_text(&it.limits.retests),
            "retests_permitted": it.retests,
            "admissions": bound_text(&it.limits.admissions),
            "admissions_permitted": it.admissions,
            "quarantined": bound_text(&it.limits.quarantined),
            "quarantines": it.limits.quarantines,
            "spared": it.spared,
        })
    }
}
