//! `federation doctor`: what is wrong, and what to do. Changes nothing.

use std::collections::BTreeSet;

use federation_controller::{Finding, Findings, Level, certificate, examine, room};
use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::ControllerId;
use specs::unit::Timestamp;
use specs::wire::client::{ControllerStatus, Empty, HealthLimitsView};
use specs::wire::method::Method;

use crate::app::App;
use crate::args::{DoctorArgs, Format};
use crate::client::Stale;
use crate::controller::{Row, survey};
use crate::error::{Failure, Outcome};
use crate::output::{Item, Listed, Mood, joined, note, span};

/// A controller that lacks more entries than this is slow or was away.
const LAG_GOOD: u64 = 1_000;
/// Clocks that differ by more confuse people; nothing else depends on it.
const CLOCKS_GOOD_MILLIS: u64 = 5_000;

pub(crate) async fn run(app: &App, args: DoctorArgs) -> Outcome<()> {
    let mut found = Vec::new();
    for dir in &args.dirs {
        found.extend(examine(app.env(), dir));
    }
    if args.dirs.is_empty() || args.online {
        match survey(app).await {
            Ok((rows, _, stale)) => {
                found.extend(group(app, &rows, stale));
                found.extend(health(app).await);
            }
            Err(failure) => {
                let mut to = Findings::of("site");
                let advice = "run a majority of the controllers; see what `federation serve` says";
                to.bad("group", failure.message(), advice);
                found.extend(to.found);
            }
        }
    }
    let output = app.output(args.format);
    let bad = found.iter().filter(|it| it.level == Level::Bad).count();
    let warnings = found.iter().filter(|it| it.level == Level::Warn).count();
    output.list(&found, None)?;
    if output.format() == Format::Table {
        for finding in found.iter().filter(|it| !it.advice.is_empty()) {
            note(&format!("{}: {}: {}", finding.place, finding.check, finding.advice));
        }
    }
    if bad > 0 {
        let message = format!("{bad} of {} checks are bad, {warnings} more doubtful", found.len());
        return Err(Failure::new(FaultCode::Internal, message));
    }
    Ok(())
}

/// What is known of GPUs; nothing of a site whose controllers know nothing of limits.
async fn health(app: &App) -> Vec<Finding> {
    let mut to = Findings::of("site");
    let Ok(mut client) = app.client() else { return Vec::new() };
    let view: Outcome<HealthLimitsView> = client.read(Method::HealthLimitsShow, &Empty {}).await;
    client.close().await;
    let name = "GPUs";
    match view {
        Ok(HealthLimitsView { spared: 0, .. }) => {
            to.ok(name, "none is bad and has jobs that run on")
        }
        Ok(HealthLimitsView { spared, .. }) => {
            let detail = format!("{spared} turned bad on top of too many, and jobs on them run on");
            let advice = "see `federation gpu ls --unfit`; quarantine those that are bad, or let \
                          them go and take the agents' or the kernels' release back";
            to.bad(name, detail, advice);
        }
        Err(_) => {}
    }
    to.found
}

fn group(app: &App, rows: &[Row], stale: Option<Stale>) -> Vec<Finding> {
    let mut to = Findings::of("site");
    leader(&mut to, rows, stale);
    majority(&mut to, rows);
    agreement(&mut to, rows);
    let mut found = to.found;
    for row in rows {
        let mut to = Findings::of(row.view.id.to_string());
        controller(&mut to, row, app.env().clock.wall());
        found.extend(to.found);
    }
    found
}

fn leader(to: &mut Findings, rows: &[Row], stale: Option<Stale>) {
    let said = || rows.iter().filter_map(|row| row.status.as_ref());
    let term = said().map(|status| status.term).max().unwrap_or(0);
    let leaders: BTreeSet<ControllerId> =
        said().filter(|it| it.term == term).filter_map(|it| it.leader).collect();
    let name = "leader";
    match (stale, leaders.len()) {
        (Some(stale), _) => {
            let heard = stale.heard.map_or_else(|| "never".to_owned(), |it| span(it) + " ago");
            let detail = format!("none answers; {} heard one {heard}", stale.controller);
            to.bad(name, detail, "run a majority of the controllers, or restore a backup");
        }
        (None, 2..) => {
            let detail = format!("in term {term} several are taken for it: {leaders:?}");
            to.bad(name, detail, "stop all but one, keep their directories, and report this");
        }
        (None, _) => to.ok(name, format!("{} in term {term}", joined(&Vec::from_iter(&leaders)))),
    }
    let behind: Vec<String> = said()
        .filter(|status| status.term != term)
        .map(|status| format!("{} in {}", status.id, status.term))
        .collect();
    if behind.is_empty() {
        to.ok("terms", format!("all in {term}"));
    } else {
        let detail = format!("the latest is {term}; {}", behind.join(", "));
        to.warn("terms", detail, "look again in a moment; if it stays, check the network");
    }
}

fn majority(to: &mut Findings, rows: &[Row]) {
    let voters = rows.iter().filter(|row| row.view.voter).count();
    let alive = rows.iter().filter(|row| row.view.voter && row.status.is_some()).count();
    let needed = voters / 2 + 1;
    let detail = format!("{alive} of {voters} voters answer, {needed} must");
    let name = "majority";
    if alive < needed {
        to.bad(name, detail, "bring controllers back; if they are lost, restore a backup");
    } else if voters < 3 {
        let advice = "add controllers until there are three: `federation controller add`";
        to.warn(name, format!("{detail}: one more loss stops the site"), advice);
    } else if alive == needed {
        let advice = "bring the others back, or replace them: `federation controller replace`";
        to.warn(name, format!("{detail}: one more loss stops the site"), advice);
    } else {
        to.ok(name, detail);
    }
}

fn agreement(to: &mut Findings, rows: &[Row]) {
    let said = || rows.iter().filter_map(|row| row.status.as_ref());
    let sites: BTreeSet<_> = said().map(|status| &status.site).collect();
    if sites.len() > 1 {
        let detail = format!("controllers of several sites answer: {sites:?}");
        to.bad("site", detail, "check which directory runs at which address");
    }
    let versions: BTreeSet<&str> = said().map(|status| status.version.as_str()).collect();
    match versions.len() {
        0 | 1 => to.ok("versions", joined(&Vec::from_iter(versions))),
        _ => {
            let detail = joined(&Vec::from_iter(versions));
            to.warn("versions", detail, "finish the upgrade");
        }
    }
    let newest = said().max_by_key(|status| status.revision);
    if let Some(newest) = newest {
        let agreed: BTreeSet<_> = newest.agreed.iter().copied().collect();
        let members: BTreeSet<_> = newest.members.iter().map(|it| it.id).collect();
        let learners = newest.members.iter().filter(|it| !it.voter).count();
        if agreed != members {
            let detail = format!("agreed on {agreed:?}, and the group has {members:?}");
            to.warn("members", detail, "a change is under way: look again in a moment");
        } else if learners > 0 {
            let detail = format!("{learners} of {} do not vote yet", members.len());
            to.warn("members", detail, "run the new ones, and look again when they caught up");
        } else {
            to.ok("members", format!("{}, as agreed", members.len()));
        }
    }
    let (first, last) =
        (said().map(|it| it.at).min(), said().map(|it| it.at).max().unwrap_or_default());
    let apart = last.minus(first.unwrap_or_default()).0;
    // They were asked at the same time, as far as that goes.
    if apart > CLOCKS_GOOD_MILLIS {
        let detail = format!("they differ by {apart} ms");
        to.warn("clocks", detail, "only people and tokens are confused by it; check NTP");
    } else {
        to.ok("clocks", format!("within {apart} ms"));
    }
    if said().any(|status| status.recovering) {
        let detail = "the site was restored from a backup, and places nothing yet";
        to.warn("recovery", detail, "wait: what ran before must surely have ended");
    }
}

fn controller(to: &mut Findings, row: &Row, now: Timestamp) {
    let address = &row.view.address;
    let Some(status) = &row.status else {
        let detail = format!("{address} does not answer");
        let advice = format!("run it, or `federation controller replace {} …`", row.view.id);
        if row.view.voter {
            to.bad("reachable", detail, &advice);
        } else {
            to.warn("reachable", detail, &advice);
        }
        return;
    };
    to.ok("reachable", address.clone());
    lag(to, row, status);
    if status.is_full {
        to.bad("disk", "the log cannot be written: its disk is full", "make room on its disk");
    }
    if let Some(free) = status.disk_free {
        room(to, free);
    }
    certificate(to, status.certificate_until, now);
    if status.address != *address {
        let detail = format!("it says {}, and the site knows {address}", status.address);
        to.warn("address", detail, "set `advertise` in its controller.toml as it was");
    }
}

fn lag(to: &mut Findings, row: &Row, status: &ControllerStatus) {
    let lag = row.lag.unwrap_or(0);
    let unapplied = status.last_log.saturating_sub(status.applied);
    let detail = format!("{lag} entries behind the leader, {unapplied} not applied");
    if lag > LAG_GOOD || unapplied > LAG_GOOD {
        to.warn("lag", detail, "look again; if it stays, check its disk and network");
    } else {
        to.ok("lag", detail);
    }
}

impl Listed for Finding {
    const KIND: &'static str = "Finding";
    const HEADERS: &'static [&'static str] = &["", "PLACE", "CHECK", "FOUND"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let (mood, word) = match self.level {
            Level::Ok => (Mood::Good, "ok"),
            Level::Warn => (Mood::Busy, "warn"),
            Level::Bad => (Mood::Bad, "bad"),
        };
        vec![
            Item::with(mood, word),
            Item::of(&self.place),
            Item::of(self.check),
            Item::of(&self.detail),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.place, self.check)
    }

    fn json(&self) -> Value {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Bad => "bad",
        };
        json!({
            "level": level,
            "place": self.place,
            "check": self.check,
            "detail": self.detail,
            "advice": self.advice,
        })
    }
}

#[cfg(test)]
mod tests {
    use specs::id::Revision;
    use specs::wire::client::ControllerView;

    use super::*;

    fn row(id: u64, alive: bool) -> Row {
        let view = ControllerView {
            id: ControllerId(id),
            address: format!("c{id}:1"),
            leader: id == 1,
            voter: true,
            matched: 5,
            own: id == 1,
            heard: None,
        };
        let status = alive.then(|| ControllerStatus {
            id: ControllerId(id),
            site: "berlin".parse().expect("a name"),
            address: view.address.clone(),
            version: "1".into(),
            at: Timestamp(1_000 + id),
            term: 3,
            leader: Some(ControllerId(1)),
            last_log: 5,
            committed: 5,
            applied: 5,
            snapshot: 0,
            purged: 0,
            snapshot_bytes: 0,
            revision: Revision(5),
            is_full: false,
            heard: None,
            certificate_until: Timestamp(u64::MAX),
            members: Vec::new(),
            agreed: Vec::new(),
            disk_free: None,
            recovering: false,
        });
        Row { view, status, lag: Some(0) }
    }

    fn level(rows: &[Row], check: &str, look: fn(&mut Findings, &[Row])) -> Level {
        let mut to = Findings::of("site");
        look(&mut to, rows);
        to.found.iter().find(|it| it.check == check).expect("it was looked at").level
    }

    #[test]
    fn the_margin_of_a_majority_is_told() {
        let three = |alive: [bool; 3]| [row(1, alive[0]), row(2, alive[1]), row(3, alive[2])];
        let said = |alive| level(&three(alive), "majority", majority);
        assert_eq!(said([true, true, true]), Level::Ok);
        assert_eq!(said([true, true, false]), Level::Warn);
        assert_eq!(said([true, false, false]), Level::Bad);
        assert_eq!(level(&[row(1, true)], "majority", majority), Level::Warn);
    }

    #[test]
    fn two_leaders_of_one_term_are_bad() {
        let look: fn(&mut Findings, &[Row]) = |to, rows| leader(to, rows, None);
        let mut rows = [row(1, true), row(2, true)];
        assert_eq!(level(&rows, "leader", look), Level::Ok);
        if let Some(status) = &mut rows[1].status {
            status.leader = Some(ControllerId(2));
        }
        assert_eq!(level(&rows, "leader", look), Level::Bad);
        if let Some(status) = &mut rows[1].status {
            status.term = 2;
        }
        assert_eq!(level(&rows, "leader", look), Level::Ok, "one of an earlier term");
        assert_eq!(level(&rows, "terms", look), Level::Warn);
    }
}
