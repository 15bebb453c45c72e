//! `federation quota …`.

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::quota::Limit;
use specs::unit::Timestamp;
use specs::wire::client::{ClassCount, Empty, QuotaRemove, QuotaSet, QuotaView, QuotaViews};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::{QuotaCommand, QuotaSetArgs};
use crate::error::{Failure, Outcome};
use crate::output::{Item, Listed, note};

pub(crate) async fn run(app: &App, command: QuotaCommand) -> Outcome<()> {
    match command {
        QuotaCommand::Ls(format) => {
            let mut client = app.client()?;
            let views: QuotaViews = client.read(Method::QuotaList, &Empty {}).await?;
            let stale = client.close().await;
            app.output(format).as_of(stale).list(&views.quotas, Some(views.revision))
        }
        QuotaCommand::Set(args) => set(app, args).await,
        QuotaCommand::Rm { account } => {
            let mut client = app.client()?;
            let question = QuotaRemove { account: account.clone() };
            let Empty {} = client.change(Method::QuotaRemove, &question).await?;
            client.close().await;
            note(&format!("{account} has no limit of its own; those above it count on"));
            Ok(())
        }
    }
}

async fn set(app: &App, args: QuotaSetArgs) -> Outcome<()> {
    let QuotaSetArgs { account, class, max, guaranteed, no_limit, weight } = args;
    if max.is_none() && guaranteed.is_none() && !no_limit && weight.is_none() {
        let failure = Failure::new(FaultCode::InvalidArgument, "nothing is to be set");
        return Err(failure.with_hint("give --max, --guaranteed, --no-limit or --weight"));
    }
    let said = max.is_some() || guaranteed.is_some() || no_limit;
    let limit = Limit { class, guaranteed: guaranteed.unwrap_or_default(), max };
    let question = QuotaSet {
        account: account.clone(),
        limit: said.then_some(limit),
        weight: weight.unwrap_or(0),
    };
    let mut client = app.client()?;
    let Empty {} = client.change(Method::QuotaSet, &question).await?;
    client.close().await;
    note(&format!("{account} and all accounts below it are held to it from now on"));
    Ok(())
}

fn of(class: Option<&specs::id::GpuClass>) -> String {
    class.map_or_else(|| "all".into(), ToString::to_string)
}

fn counts(counts: &[ClassCount]) -> String {
    let texts: Vec<String> = counts.iter().map(|it| format!("{} {}", it.gpus, it.class)).collect();
    if texts.is_empty() { "0".into() } else { texts.join(", ") }
}

impl Listed for QuotaView {
    const KIND: &'static str = "Quota";
    const HEADERS: &'static [&'static str] =
        &["ACCOUNT", "MAX", "GUARANTEED", "WEIGHT", "USED", "LATELY"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let limits = self.quota.iter().flat_map(|quota| &quota.limits);
        let most = limits.clone().filter_map(|it| it.max.map(|max| (max, &it.class)));
        let most: Vec<String> =
            most.map(|(max, class)| format!("{max} {}", of(class.as_ref()))).collect();
        let least: Vec<String> = limits
            .filter(|it| it.guaranteed.0 > 0)
            .map(|it| format!("{} {}", it.guaranteed, of(it.class.as_ref())))
            .collect();
        let listed = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join(", "));
        vec![
            Item::of(&self.account),
            Item::maybe(listed(most)),
            Item::maybe(listed(least)),
            Item::of(self.quota.as_ref().map_or(1, specs::quota::Quota::weight)),
            Item::of(counts(&self.used)),
            Item::of(counts(&self.lately)),
        ]
    }

    fn name(&self) -> String {
        self.account.to_string()
    }

    fn json(&self) -> Value {
        let limit = |it: &Limit| {
            json!({
                "class": it.class.as_ref().map(ToString::to_string),
                "guaranteed": it.guaranteed.0,
                "max": it.max.map(|max| max.0),
            })
        };
        let limits: Vec<Value> =
            self.quota.iter().flat_map(|quota| &quota.limits).map(limit).collect();
        let count = |it: &ClassCount| json!({ "class": it.class.as_str(), "gpus": it.gpus.0 });
        json!({
            "account": self.account.as_str(),
            "known": self.quota.is_some(),
            "limits": limits,
            "weight": self.quota.as_ref().map_or(1, specs::quota::Quota::weight),
            "used": self.used.iter().map(count).collect::<Vec<_>>(),
            "lately": self.lately.iter().map(count).collect::<Vec<_>>(),
        })
    }
}
