//! One thing varied, all else equal; and the value from which on something holds.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use specs::id::SiteId;
use specs::unit::Millis;

use crate::read::Progress;
use crate::simulate::report::{Report, SiteReport};
use crate::simulate::scenario::{Amount, Said, Scenario};
use crate::simulate::{SimulateError, simulate};

/// Most values of one sweep.
pub const VALUES_MAX: usize = 1_000;

/// What is varied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knob {
    Gpus(SiteId),
    Lend(SiteId),
    Busy(SiteId),
    /// Of one site, or of all.
    Load(Option<SiteId>),
    SpillAfter,
}

/// What it is set to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Gpus(u32),
    Factor(f64),
    /// None: jobs never leave.
    Span(Option<Millis>),
}

/// What is tried.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Each, in this order.
    Each(Vec<Value>),
    /// Both ends, and then what halves the way to the least that will do.
    Between(u32, u32),
}

/// `gigafactory=0,64,128`, `lend(gigafactory)=0..512`, `load=1,1.2`, `spill-after=never,0s,1h`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub knob: Knob,
    pub values: Values,
}

/// What of a site is measured against a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    MeanWait,
    P50Wait,
    P95Wait,
    MaxWait,
    Utilisation,
    SpilledGpuHours,
    NeverStarted,
}

impl Measure {
    fn is_wait(self) -> bool {
        match self {
            Self::MeanWait | Self::P50Wait | Self::P95Wait | Self::MaxWait => true,
            Self::Utilisation | Self::SpilledGpuHours | Self::NeverStarted => false,
        }
    }
}

/// `p95_wait(berlin)<10m`.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    measure: Measure,
    site: SiteId,
    order: Order,
    bound: f64,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// One value that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    pub value: String,
    /// What the goal is about; none stands for ever.
    pub measured: Option<f64>,
    /// Whether the goal is met.
    pub met: Option<bool>,
    #[serde(flatten)]
    pub report: Report,
}

/// All that were tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepReport {
    pub varied: String,
    pub goal: Option<String>,
    /// Of the goal, if it is about a wait.
    pub bound_s: Option<f64>,
    /// The first value that meets the goal; with a range, the least one, if more is better.
    pub answer: Option<String>,
    /// It was searched for in a range, by halving.
    pub searched: bool,
    pub trials: Vec<Trial>,
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpus(site) => write!(f, "gpus({site})"),
            Self::Lend(site) => write!(f, "lend({site})"),
            Self::Busy(site) => write!(f, "busy({site})"),
            Self::Load(Some(site)) => write!(f, "load({site})"),
            Self::Load(None) => f.write_str("load"),
            Self::SpillAfter => f.write_str("spill-after"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpus(gpus) => write!(f, "{gpus}"),
            Self::Factor(factor) => write!(f, "{factor}"),
            Self::Span(None) => f.write_str("never"),
            Self::Span(Some(span)) => write!(f, "{}s", span.0 / 1_000),
        }
    }
}

impl FromStr for Knob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let site = |name: &str| name.parse::<SiteId>().map_err(|error| error.to_string());
        match called(text) {
            Some(("gpus", name)) => site(name).map(Self::Gpus),
            Some(("lend", name)) => site(name).map(Self::Lend),
            Some(("busy", name)) => site(name).map(Self::Busy),
            Some(("load", name)) => site(name).map(Some).map(Self::Load),
            Some((other, _)) => Err(format!(
                "`{other}` cannot be varied: there are gpus(SITE), lend(SITE), busy(SITE), \
                 load(SITE), load and spill-after"
            )),
            None if text == "load" => Ok(Self::Load(None)),
            None if text == "spill-after" => Ok(Self::SpillAfter),
            None => site(text).map(Self::Gpus),
        }
    }
}

/// `f(x)` as its two names.
fn called(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix(')')?.split_once('(')
}

impl Knob {
    fn value(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Gpus(_) | Self::Lend(_) | Self::Busy(_) => {
                let gpus = text.parse().map_err(|_| format!("`{text}` is not a number of GPUs"))?;
                Ok(Value::Gpus(gpus))
            }
            Self::Load(_) => {
                let factor = text.parse().ok().filter(|it: &f64| it.is_finite() && *it >= 0.0);
                factor.map(Value::Factor).ok_or_else(|| format!("`{text}` is not a factor"))
            }
            Self::SpillAfter if text == "never" => Ok(Value::Span(None)),
            Self::SpillAfter => seconds(text).map(|it| Value::Span(Some(it))),
        }
    }

    /// The scenario with the value that is written.
    pub(super) fn turned(&self, scenario: &Scenario, text: &str) -> Result<Scenario, String> {
        let value = self.value(text)?;
        self.set(scenario, value).map_err(|error| error.to_string())
    }

    /// The scenario with that value.
    fn set(&self, scenario: &Scenario, value: Value) -> Result<Scenario, SimulateError> {
        let mut scenario = scenario.clone();
        match (self, value) {
            (Self::Gpus(site), Value::Gpus(gpus)) => {
                let nth = scenario.site(site)?;
                let setup = &mut scenario.sites[nth];
                let per_node = setup.gpus_per_node;
                if !gpus.is_multiple_of(per_node) {
                    let name = site.to_string();
                    return Err(SimulateError::Nodes { name, gpus, per_node });
                }
                setup.nodes = gpus / per_node;
            }
            (Self::Lend(site), Value::Gpus(gpus)) => {
                let nth = scenario.site(site)?;
                scenario.sites[nth].lend_only(Amount::Gpus(gpus));
            }
            (Self::Busy(site), Value::Gpus(gpus)) => {
                let nth = scenario.site(site)?;
                scenario.sites[nth].busy = Amount::Gpus(gpus);
            }
            (Self::Load(site), Value::Factor(value)) => {
                scenario.load.push(Said { site: site.clone(), value });
            }
            (Self::SpillAfter, Value::Span(span)) => scenario.policy.spill_after = span,
            (
                Self::Gpus(_) | Self::Lend(_) | Self::Busy(_) | Self::Load(_) | Self::SpillAfter,
                Value::Gpus(_) | Value::Factor(_) | Value::Span(_),
            ) => return Err(SimulateError::Internal("a value of another kind")),
        }
        Ok(scenario)
    }

    /// Values between two lie so far apart.
    fn step(&self, scenario: &Scenario) -> Result<u32, SimulateError> {
        match self {
            Self::Gpus(site) | Self::Lend(site) | Self::Busy(site) => {
                let nth = scenario.site(site)?;
                Ok(scenario.sites[nth].gpus_per_node)
            }
            Self::Load(_) | Self::SpillAfter => Ok(1),
        }
    }
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as `gigafactory=0,64,128` or `gigafactory=0..512`";
        let (knob, values) = text.split_once('=').ok_or_else(|| form.to_owned())?;
        let knob: Knob = knob.parse()?;
        if let Some((from, to)) = values.split_once("..") {
            let (from, to) = (knob.value(from)?, knob.value(to)?);
            return match (from, to) {
                (Value::Gpus(from), Value::Gpus(to)) if from < to => {
                    Ok(Self { knob, values: Values::Between(from, to) })
                }
                (Value::Gpus(_), Value::Gpus(_)) => Err("the range has its end first".to_owned()),
                (Value::Gpus(_) | Value::Factor(_) | Value::Span(_), _) => {
                    Err("only numbers of GPUs have a range; name the values".to_owned())
                }
            };
        }
        let values: Result<Vec<Value>, String> =
            values.split(',').map(|text| knob.value(text)).collect();
        let values = values.map_err(|error| format!("{error}; {form}"))?;
        if values.len() > VALUES_MAX {
            return Err(format!("{} values are more than {VALUES_MAX}", values.len()));
        }
        Ok(Self { knob, values: Values::Each(values) })
    }
}

/// `30s`, `10m`, `1h`, `2d`.
fn seconds(text: &str) -> Result<Millis, String> {
    let wrong = || format!("`{text}` is not a span: write it as `30s`, `10m`, `1h` or `2d`");
    let scale = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        Some(_) | None => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(scale).map(Millis).ok_or_else(wrong)
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as `p95_wait(berlin)<10m`";
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let at = plain.find(['<', '>']).ok_or_else(|| form.to_owned())?;
        let (left, right) = plain.split_at(at);
        let (order, bound) = match (right.strip_prefix("<="), right.strip_prefix(">=")) {
            (Some(bound), _) => (Order::AtMost, bound),
            (_, Some(bound)) => (Order::AtLeast, bound),
            (None, None) if right.starts_with('<') => (Order::Less, &right[1..]),
            (None, None) => (Order::More, &right[1..]),
        };
        let (measure, site) = called(left).ok_or_else(|| form.to_owned())?;
        let measure = match measure {
            "mean_wait" => Measure::MeanWait,
            "p50_wait" => Measure::P50Wait,
            "p95_wait" => Measure::P95Wait,
            "max_wait" => Measure::MaxWait,
            "utilisation" => Measure::Utilisation,
            "spilled_gpu_hours" => Measure::SpilledGpuHours,
            "never_started" => Measure::NeverStarted,
            other => {
                return Err(format!(
                    "`{other}` is not measured: there are mean_wait, p50_wait, p95_wait, \
                     max_wait, utilisation, spilled_gpu_hours and never_started"
                ));
            }
        };
        let bound = if measure.is_wait() {
            seconds(bound)?.0 as f64 / 1_000.0
        } else {
            let number = bound.parse().ok().filter(|it: &f64| it.is_finite());
            number.ok_or_else(|| format!("`{bound}` is not a number"))?
        };
        let site = site.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { measure, site, order, bound, text: plain })
    }
}

impl Goal {
    /// What is measured, and whether it is as it should be.
    fn judge(&self, report: &Report) -> Result<(Option<f64>, bool), SimulateError> {
        let found = report.sites.iter().find(|site| site.site == self.site.as_str());
        let Some(site) = found else {
            let has: Vec<&str> = report.sites.iter().map(|site| site.site.as_str()).collect();
            let (name, has) = (self.site.to_string(), has.join(", "));
            return Err(SimulateError::NoSite { name, has });
        };
        let measured = self.measured(site);
        let value = measured.unwrap_or(f64::INFINITY);
        let met = match self.order {
            Order::Less => value < self.bound,
            Order::AtMost => value <= self.bound,
            Order::More => value > self.bound,
            Order::AtLeast => value >= self.bound,
        };
        Ok((measured, met))
    }

    fn measured(&self, site: &SiteReport) -> Option<f64> {
        match self.measure {
            Measure::MeanWait => site.mean_wait_s,
            Measure::P50Wait => site.p50_wait_s.map(|it| it as f64),
            Measure::P95Wait => site.p95_wait_s.map(|it| it as f64),
            Measure::MaxWait => site.max_wait_s.map(|it| it as f64),
            Measure::Utilisation => Some(site.utilisation),
            Measure::SpilledGpuHours => Some(site.spilled_gpu_hours_out),
            Measure::NeverStarted => Some(site.never_started as f64),
        }
    }
}

impl SweepReport {
    /// What came of the goal, in a sentence without its end; none without a goal.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let (goal, varied) = (self.goal.as_ref()?, &self.varied);
        let met = self.trials.iter().filter(|trial| trial.met == Some(true));
        let met: Vec<&str> = met.map(|trial| trial.value.as_str()).collect();
        Some(match &self.answer {
            None => format!("{goal} with no value of {varied} that was tried"),
            Some(answer) if self.searched => format!("{goal} from {varied} = {answer} on"),
            Some(_) => format!("{goal} with {varied} = {}", met.join(", ")),
        })
    }
}

/// Runs the scenario with each value.
///
/// # Errors
/// As [`simulate`], or a value that a site cannot have.
pub fn sweep(
    scenario: &Scenario,
    sweep: &Sweep,
    goal: Option<&Goal>,
    progress: &mut dyn Progress,
) -> Result<SweepReport, SimulateError> {
    let mut trials: Vec<(Value, Trial)> = Vec::new();
    let mut attempt = |value: Value| -> Result<bool, SimulateError> {
        let report = simulate(&sweep.knob.set(scenario, value)?, progress)?;
        let judged = goal.map(|goal| goal.judge(&report)).transpose()?;
        let (measured, met) = judged.map_or((None, None), |(value, met)| (value, Some(met)));
        trials.push((value, Trial { value: value.to_string(), measured, met, report }));
        Ok(met == Some(true))
    };
    let answer = match &sweep.values {
        Values::Each(values) => {
            let mut answer = None;
            for value in values {
                if attempt(*value)? {
                    answer.get_or_insert(*value);
                }
            }
            answer
        }
        Values::Between(from, to) => {
            let step = sweep.knob.step(scenario)?;
            if from.div_ceil(step) > to / step {
                return Err(SimulateError::Range { from: *from, to: *to, per_node: step });
            }
            least(from.div_ceil(step), to / step, |steps| attempt(Value::Gpus(steps * step)))?
                .map(|steps| Value::Gpus(steps * step))
        }
    };
    if let Values::Between(..) = sweep.values {
        let size = |value: &Value| match value {
            Value::Gpus(gpus) => *gpus,
            Value::Factor(_) | Value::Span(_) => 0,
        };
        trials.sort_by_key(|(value, _)| size(value));
    }
    Ok(SweepReport {
        varied: sweep.knob.to_string(),
        goal: goal.map(|goal| goal.text.clone()),
        bound_s: goal.filter(|goal| goal.measure.is_wait()).map(|goal| goal.bound),
        answer: answer.map(|value| value.to_string()),
        searched: matches!(sweep.values, Values::Between(..)),
        trials: trials.into_iter().map(|(_, trial)| trial).collect(),
    })
}

/// The least number from `low` to `high` that will do, if all above it do.
fn least(
    mut low: u32,
    mut high: u32,
    mut will_do: impl FnMut(u32) -> Result<bool, SimulateError>,
) -> Result<Option<u32>, SimulateError> {
    if will_do(low)? {
        return Ok(Some(low));
    }
    if high <= low || !will_do(high)? {
        return Ok(None);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if will_do(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Some(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_will_do_is_found_in_few_trials() {
        for wanted in 0..=40 {
            let mut trials = 0;
            let found = least(0, 32, |it| {
                trials += 1;
                Ok(it >= wanted)
            });
            assert_eq!(found.unwrap(), (wanted <= 32).then_some(wanted));
            assert!(trials <= 7, "{trials} for {wanted}");
        }
    }

    #[test]
    fn a_goal_is_read_with_its_unit() {
        let goal: Goal = "p95_wait(berlin) < 10m".parse().unwrap();
        assert_eq!((goal.bound, goal.order), (600.0, Order::Less));
        let goal: Goal = "utilisation(berlin)>=0.9".parse().unwrap();
        assert_eq!((goal.bound, goal.order), (0.9, Order::AtLeast));
        for wrong in ["", "p95_wait<10m", "p95_wait(berlin)=10m", "p95_wait(berlin)<10"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
        assert!("p99(berlin)<1s".parse::<Goal>().unwrap_err().contains("is not measured"));
    }

    #[test]
    fn a_sweep_names_what_it_varies() {
        let sweep: Sweep = "giga=0..512".parse().unwrap();
        assert_eq!(sweep.knob.to_string(), "gpus(giga)");
        assert_eq!(sweep.values, Values::Between(0, 512));
        let sweep: Sweep = "spill-after=never,0s,1h".parse().unwrap();
        let told = |sweep: Sweep| match sweep.values {
            Values::Each(values) => values.iter().map(Value::to_string).collect(),
            Values::Between(..) => Vec::new(),
        };
        assert_eq!(told(sweep), ["never", "0s", "3600s"]);
        assert_eq!(told("load(giga)=1,1.25".parse().unwrap()), ["1", "1.25"]);
        for wrong in ["giga", "giga=", "giga=1,x", "giga=9..1", "load=1..2", "size(giga)=1"] {
            assert!(wrong.parse::<Sweep>().is_err(), "{wrong}");
        }
    }
}
