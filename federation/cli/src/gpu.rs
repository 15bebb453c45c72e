//! `federation gpu …`.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::gpu::GpuState;
use specs::id::{GpuIndex, NodeId};
use specs::unit::Timestamp;
use specs::wire::client::{Empty, GpuView, GpuViews, GpuWithhold, ProofView};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::GpuCommand;
use crate::burn_in;
use crate::client::Stale;
use crate::error::{Failure, Outcome};
use crate::output::{self, Item, Listed, Mood, Output, note};

pub(crate) async fn run(app: &App, command: GpuCommand) -> Outcome<()> {
    match command {
        GpuCommand::Ls { node, unfit, format } => {
            let (mut views, stale) = all(app).await?;
            views.gpus.retain(|it| node.as_ref().is_none_or(|node| it.node == *node));
            views.gpus.retain(|it| !unfit || !it.fit);
            app.output(format).as_of(stale).list(&views.gpus, Some(views.revision))
        }
        GpuCommand::Show { node, index, format } => {
            show(app, &node, index, app.output(format)).await
        }
        GpuCommand::Limits(args) => burn_in::limits(app, args).await,
        GpuCommand::Quarantine { node, index, why } => withhold(app, node, index, Some(why)).await,
        GpuCommand::Release { node, index } => withhold(app, node, index, None).await,
    }
}

async fn all(app: &App) -> Outcome<(GpuViews, Option<Stale>)> {
    let mut client = app.client()?;
    let views = client.read(Method::GpuList, &Empty {}).await?;
    Ok((views, client.close().await))
}

async fn show(app: &App, node: &NodeId, index: GpuIndex, output: Output) -> Outcome<()> {
    let (views, stale) = all(app).await?;
    let found = views.gpus.iter().find(|it| it.node == *node && it.index == index);
    let view = found.ok_or_else(|| {
        let message = format!("there is no GPU {index} of a node `{node}`");
        Failure::new(FaultCode::NotFound, message).with_hint("see `federation gpu ls`")
    })?;
    output.as_of(stale).one(view, Some(views.revision), || {
        let proof = view.proof.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        vec![
            ("GPU", view.name()),
            ("Class", view.class.to_string()),
            ("UUID", view.uuid.clone()),
            ("State", state(view)),
            ("Why", view.why.clone()),
            ("Fit", view.fit.to_string()),
            ("Held back", or_none(view.withheld.clone())),
            ("Burn-in wanted", or_none(view.wanted.map(|tier| tier.to_string()))),
            ("Burn-in permitted", or_none(view.permitted.map(|tier| tier.to_string()))),
            ("Job", or_none(view.job.map(|job| job.to_string()))),
            ("Granted to", or_none(view.granted_to.as_ref().map(ToString::to_string))),
            ("Reserved", output::joined(&view.reservations)),
            ("Proof", or_none(proof.map(|it| it.tier.to_string()))),
            ("Passed", or_none(proof.map(|it| output::moment(it.passed_at)))),
            ("Holds for", or_none(proof.map(|it| output::span(it.valid_for)))),
            ("Kernels", or_none(proof.map(|it| it.kernels.clone()))),
            ("Baseline", or_none(proof.map(|it| it.baseline.clone()).filter(|it| !it.is_empty()))),
            ("Behind", or_none(burn_in::behind(view))),
            ("Differs", or_none(burn_in::differs(view))),
        ]
    })
}

async fn withhold(app: &App, node: NodeId, index: GpuIndex, why: Option<String>) -> Outcome<()> {
    let mut client = app.client()?;
    let (is_held, name) = (why.is_some(), format!("{node}/{index}"));
    let question = GpuWithhold { node, index, why };
    let Empty {} = client.change(Method::GpuWithhold, &question).await?;
    client.close().await;
    note(&if is_held {
        format!("{name} takes nothing new; let it go with `federation gpu release`")
    } else {
        format!("{name} is used again once it has passed a burn-in")
    });
    Ok(())
}

pub(crate) fn state(view: &GpuView) -> String {
    let state = view.state.map_or_else(|| "unasked".into(), |state| state.to_string());
    if view.spared { format!("{state} (spared)") } else { state }
}

/// Why nothing new runs on it, or why perhaps nothing should.
fn why(view: &GpuView) -> String {
    let wanted = view.wanted.map(|tier| match view.permitted {
        Some(_) => format!("{tier} is wanted of it, and permitted"),
        None => format!("{tier} is wanted of it"),
    });
    let said = Some(view.why.clone()).filter(|why| !why.is_empty());
    let renewed = view.permitted.map(|tier| format!("{tier} is permitted"));
    let reasons = [view.withheld.clone(), said, wanted, renewed, burn_in::at_fault(view)];
    reasons.into_iter().flatten().next().unwrap_or_default()
}

fn proof_json(it: &ProofView) -> Value {
    json!({
        "tier": it.tier.as_str(),
        "passed_at": output::moment_ms(it.passed_at),
        "valid_for_ms": it.valid_for.0,
        "kernels": it.kernels,
        "agent": it.agent,
        "baseline": Some(&it.baseline).filter(|it| !it.is_empty()),
    })
}

impl Listed for GpuView {
    const KIND: &'static str = "Gpu";
    const HEADERS: &'static [&'static str] =
        &["NODE", "GPU", "CLASS", "STATE", "FIT", "JOB", "GRANTED TO", "PROOF", "AGE", "WHY"];

    fn row(&self, now: Timestamp) -> Vec<Item> {
        let mood = match self.state {
            Some(GpuState::Healthy) | None => Mood::Good,
            Some(GpuState::Discovered | GpuState::BurningIn | GpuState::Resetting) => Mood::Busy,
            Some(GpuState::Suspect | GpuState::Quarantined | GpuState::Rma) => Mood::Bad,
        };
        vec![
            Item::of(&self.node),
            Item::of(self.index),
            Item::of(&self.class),
            Item::with(mood, state(self)),
            Item::of(self.fit),
            Item::maybe(self.job.as_ref()),
            Item::maybe(self.granted_to.as_ref()),
            Item::maybe(self.proof.as_ref().map(|it| it.tier)),
            Item::maybe(self.proof.as_ref().map(|it| output::age(it.passed_at, now))),
            Item::of(why(self)),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.node, self.index)
    }

    fn json(&self) -> Value {
        json!({
            "node": self.node.as_str(),
            "index": self.index.0,
            "class": self.class.as_str(),
            "uuid": self.uuid,
            "memory_mib": self.memory_mib,
            "state": self.state.map(GpuState::as_str),
            "why": self.why,
            "fit": self.fit,
            "withheld": self.withheld,
            "spared": self.spared,
            "wanted": self.wanted.map(specs::gpu::BurnInTier::as_str),
            "permitted": self.permitted.map(specs::gpu::BurnInTier::as_str),
            "last_burn_in": self.last.as_ref().map(burn_in::result_json),
            "behind": burn_in::behind_json(&self.behind),
            "differs": burn_in::differs_json(&self.differs),
            "job": self.job.map(|job| job.to_string()),
            "granted_to": self.granted_to.as_ref().map(ToString::to_string),
            "reservations": output::texts(&self.reservations),
            "proof": self.proof.as_ref().map(proof_json),
        })
    }
}
