//! Shows the demo's jobs while they run, and looks at the grants meanwhile.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use specs::fault::FaultCode;
use specs::unit::{Millis, Timestamp};
use specs::wire::client::{Empty, GrantViews, JobList, JobState, JobView, JobViews};
use specs::wire::method::Method;

use super::cluster::{Ground, LOOK_SPAN, Site, check_alive};
use super::jobs::{Submitted, Work};
use super::verify::{Drawn, Seen, is_away};
use crate::app::App;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::job::state_text;
use crate::output::{Item, Listed, Mood, joined, note, span};

/// How long all jobs may take.
const JOBS_SPAN: Millis = Millis(90_000);
/// Most jobs that are asked for at once.
const LIST_MAX: u32 = 1_000;

/// A job's name, with its index if it is of an array.
pub(super) fn name_of(view: &JobView) -> String {
    if view.spec.array > 1 {
        return format!("{}[{}]", view.spec.name, view.array_index);
    }
    view.spec.name.to_string()
}

fn place_of(view: &JobView) -> String {
    match &view.host {
        Some(host) if is_away(view) => format!("{host} ← spilled, on {}", joined(&view.nodes)),
        Some(host) => format!("{host}, on {}", joined(&view.nodes)),
        None => String::new(),
    }
}

/// A job in the demo's table.
pub(super) struct Row<'a>(pub(super) &'a JobView);

impl Listed for Row<'_> {
    const KIND: &'static str = "Job";
    const HEADERS: &'static [&'static str] =
        &["JOB", "GPUS", "STATE", "SITE", "NODES", "EPOCH", "WAITED", "RAN"];

    fn row(&self, _now: Timestamp) -> Vec<Item> {
        let view = self.0;
        let site = view.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let between = |from: Timestamp, to: Timestamp| {
            if from == Timestamp::ZERO || to == Timestamp::ZERO {
                return "-".to_owned();
            }
            let millis = to.minus(from).0;
            format!("{}.{} s", millis / 1_000, millis % 1_000 / 100)
        };
        vec![
            Item::of(name_of(view)),
            Item::of(view.spec.gpus()),
            Item::of(state_text(view)),
            Item::with(if is_away(view) { Mood::Good } else { Mood::Plain }, site),
            Item::of(joined(&view.nodes)),
            Item::of(view.epoch),
            Item::of(between(view.submitted_at, view.started_at)),
            Item::of(between(view.started_at, view.finished_at)),
        ]
    }

    fn name(&self) -> String {
        self.0.id.to_string()
    }

    fn json(&self) -> Value {
        super::job_json(self.0)
    }
}

/// Follows the jobs until all have ended; cancels the service once all others have. Returns them
/// in the order in which they were submitted.
pub(super) async fn until_ended(
    app: &App,
    ground: &Ground,
    home: &mut Client,
    sites: &mut [Site],
    submitted: &[Submitted],
    seen: &mut Seen,
) -> Outcome<Vec<JobView>> {
    let limit = app.env().clock.now().after(JOBS_SPAN);
    let mut screen = Screen::new(app, submitted.len());
    let mut is_cancelled = false;
    loop {
        check_alive(sites)?;
        look_at_grants(home, seen).await?;
        let views = of_all(home, submitted).await?;
        screen.show(&views);
        if views.iter().all(|view| view.state.is_terminal()) {
            return Ok(views);
        }
        if !is_cancelled && only_services_run(submitted, &views) {
            is_cancelled = true;
            for (job, view) in submitted.iter().zip(&views) {
                if !view.state.is_terminal() {
                    let id = job.id.to_string();
                    ground.ask(&["--context", seen.home, "job", "cancel", &id]).await?;
                }
            }
        }
        if app.env().clock.now() >= limit {
            let late = views.iter().filter(|view| !view.state.is_terminal());
            let late: Vec<String> =
                late.map(|view| format!("{} is {}", name_of(view), view.state)).collect();
            let message = format!("not all jobs ended in {}: {}", span(JOBS_SPAN), late.join(", "));
            return Err(Failure::new(FaultCode::Timeout, message));
        }
        app.env().sleep(LOOK_SPAN).await;
    }
}

fn only_services_run(submitted: &[Submitted], views: &[JobView]) -> bool {
    submitted.iter().zip(views).all(|(job, view)| match job.plan.work {
        Work::Serve => view.state == JobState::Running,
        Work::Sum | Work::Primes | Work::Collatz => view.state.is_terminal(),
    })
}

async fn of_all(home: &mut Client, submitted: &[Submitted]) -> Outcome<Vec<JobView>> {
    let question = JobList { active_only: false, limit: LIST_MAX, archived: false };
    let views: JobViews = home.read(Method::JobList, &question).await?;
    let find = |job: &Submitted| {
        let found = views.jobs.iter().find(|view| view.id == job.id).cloned();
        found.ok_or_else(|| {
            let message = format!("{} was submitted and is not listed", job.plan.name);
            Failure::new(FaultCode::Internal, message)
        })
    };
    submitted.iter().map(find).collect()
}

async fn look_at_grants(home: &mut Client, seen: &mut Seen) -> Outcome<()> {
    let views: GrantViews = home.read(Method::GrantList, &Empty {}).await?;
    let taken = views.grants.iter().filter(|grant| grant.home.as_str() == seen.home);
    let (mut granted, mut drawn, mut verified) = (0, 0, 0);
    for grant in taken {
        let now = Drawn {
            drawn: grant.gpus_used.0,
            verified: grant.gpus_verified.map_or(0, |gpus| gpus.0),
        };
        let most = seen.grants.entry(grant.grant).or_default();
        most.drawn = most.drawn.max(now.drawn);
        most.verified = most.verified.max(now.verified);
        granted += grant.gpus.0;
        drawn += now.drawn;
        verified += now.verified;
    }
    seen.gpus_granted = seen.gpus_granted.max(granted);
    seen.gpus_drawn = seen.gpus_drawn.max(drawn);
    seen.gpus_verified = seen.gpus_verified.max(verified);
    Ok(())
}

/// On a terminal a line for each job, kept up to date; elsewhere a line for each change.
struct Screen {
    bars: Vec<ProgressBar>,
    last: Vec<String>,
}

impl Screen {
    fn new(app: &App, jobs: usize) -> Self {
        let mut bars = Vec::new();
        if app.terminal().is_stderr {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("  {prefix:<14} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            for _ in 0..jobs {
                bars.push(all.add(ProgressBar::new(1).with_style(style.clone())));
            }
        }
        Self { bars, last: vec![String::new(); jobs] }
    }

    fn show(&mut self, views: &[JobView]) {
        for (nth, (view, last)) in views.iter().zip(&mut self.last).enumerate() {
            let text = format!(
                "{:>2} GPUs  {:<13} {}",
                view.spec.gpus(),
                state_text(view),
                place_of(view)
            );
            if text == *last {
                continue;
            }
            match self.bars.get(nth) {
                Some(bar) => {
                    bar.set_prefix(name_of(view));
                    if view.state.is_terminal() {
                        bar.finish_with_message(text.clone());
                    } else {
                        bar.set_message(text.clone());
                    }
                }
                None => note(&format!("  {:<14} {text}", name_of(view))),
            }
            *last = text;
        }
    }
}
