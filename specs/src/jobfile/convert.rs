//! From what is written to what is meant: every limit is checked, every name parsed.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use super::data::{data, deadline};
use super::needs::needs;
use super::raw::{OneOrMany, RawJobFile, RawMetadata, RawPlacement, RawRun, RawSpec};
use super::{JobFileError, Path};
use crate::codec::OrDefault;
use crate::id::AccountId;
use crate::job::{
    GPU_CLASSES_MAX, JobClass, JobSpec, LABEL_BYTES_MAX, LABELS_MAX, OnPartition, PlacementSpec,
    SITES_MAX, TIME_LIMIT_MAX, WORKDIR_BYTES_MAX,
};
use crate::unit::{GpuCount, Millis};

/// The version of the form.
pub const API_VERSION: &str = "spillway/v1";
/// The kind of thing that a job file describes.
pub const KIND: &str = "Job";

/// Variables that the agent sets for each task, besides those that begin with `SPILLWAY_`. A file
/// that set them would be overruled without a word, so it is refused.
pub const ENV_RESERVED: &[&str] = &[
    "CUDA_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "RANK",
    "WORLD_SIZE",
];

const PRIORITY_DEFAULT: u32 = 50;
const RETRIES_DEFAULT: u32 = 10;
const GRACE_DEFAULT: Millis = Millis(10_000);
const DAY: u64 = 86_400_000;

impl TryFrom<RawJobFile> for JobSpec {
    type Error = JobFileError;

    fn try_from(raw: RawJobFile) -> Result<Self, JobFileError> {
        fixed("apiVersion", &raw.api_version, API_VERSION)?;
        fixed("kind", &raw.kind, KIND)?;
        let RawMetadata { name, labels } = raw.metadata;
        let spec = spec(raw.spec, &name, labels)?;
        spec.check().map_err(|broken| JobFileError::new(Path::of(broken.path), broken.reason))?;
        Ok(spec)
    }
}

fn spec(
    raw: RawSpec,
    name: &str,
    labels: BTreeMap<String, String>,
) -> Result<JobSpec, JobFileError> {
    let needs = needs(&raw)?;
    let (data, deadline) = (data(&raw.data)?, deadline(&raw.time)?);
    let gpus = raw.resources.gpus;
    Ok(JobSpec {
        name: named(&Path::of("metadata.name"), name)?,
        class: one_of("spec.class", raw.class.as_deref(), JobClass::ALL, JobClass::Training)?,
        priority: number("spec.priority", raw.priority, PRIORITY_DEFAULT)?,
        nodes: number("spec.replicas.nodes", raw.replicas.nodes, 1)?,
        tasks_per_node: number("spec.replicas.tasksPerNode", raw.replicas.tasks_per_node, 1)?,
        gpus_per_node: GpuCount(number("spec.resources.gpus.count", gpus.count, 1)?),
        gpu_classes: gpu_classes(gpus.model)?,
        array: number("spec.array.count", raw.array.count, 1)?,
        env: env(&raw.run)?,
        workdir: workdir(&raw.run)?,
        command: command(raw.run.command)?,
        grace: span("spec.time.grace", raw.time.grace.as_deref(), GRACE_DEFAULT)?,
        time_limit: time_limit(raw.time.limit.as_deref())?,
        retries: number("spec.retry.max", raw.retry.max, RETRIES_DEFAULT)?,
        on_partition: one_of(
            "spec.onPartition",
            raw.on_partition.as_deref(),
            OnPartition::ALL,
            OnPartition::Restart,
        )?,
        placement: placement(&raw.placement)?,
        labels: checked_labels(labels)?,
        needs: OrDefault(needs),
        account: account(raw.account.as_deref())?,
        preemptible: raw.preemptible,
        array_running_max: max_running(raw.array.max_running)?,
        data,
        deadline,
    })
}

fn account(written: Option<&str>) -> Result<Option<AccountId>, JobFileError> {
    written.map(|text| named(&Path::of("spec.account"), text)).transpose()
}

fn max_running(written: Option<u64>) -> Result<u32, JobFileError> {
    let path = "spec.array.maxRunning";
    if written == Some(0) {
        let reason = "0 would keep the array waiting for ever";
        return Err(JobFileError::new(Path::of(path), reason)
            .with_hint("leave `maxRunning` out for no limit"));
    }
    number(path, written, 0)
}

fn fixed(path: &str, written: &str, wanted: &str) -> Result<(), JobFileError> {
    if written == wanted {
        return Ok(());
    }
    let reason = format!("`{}` is not known to this version", shown(written));
    Err(JobFileError::new(Path::of(path), reason).with_hint(format!("write `{wanted}`")))
}

pub(super) fn number(path: &str, written: Option<u64>, default: u32) -> Result<u32, JobFileError> {
    let Some(written) = written else { return Ok(default) };
    u32::try_from(written)
        .map_err(|_| JobFileError::new(Path::of(path), format!("{written} is far too large")))
}

pub(super) fn named<T: FromStr>(path: &Path, written: &str) -> Result<T, JobFileError>
where
    T::Err: fmt::Display,
{
    written.parse().map_err(|error: T::Err| JobFileError::new(path.clone(), error.to_string()))
}

fn one_of<T>(path: &str, written: Option<&str>, known: &[T], default: T) -> Result<T, JobFileError>
where
    T: FromStr + fmt::Display,
{
    let Some(written) = written else { return Ok(default) };
    written.parse().map_err(|_| {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        not_one_of(path, written, &known)
    })
}

pub(super) fn not_one_of(path: &str, written: &str, known: &[&str]) -> JobFileError {
    let reason = format!("`{}` is not one of {}", shown(written), known.join(", "));
    let error = JobFileError::new(Path::of(path), reason);
    match closest(written, known.iter().copied()) {
        Some(close) => error.with_hint(format!("did you mean `{close}`?")),
        None => error,
    }
}

fn gpu_classes<T: FromStr>(model: Option<OneOrMany>) -> Result<Vec<T>, JobFileError>
where
    T::Err: fmt::Display,
{
    let path = Path::of("spec.resources.gpus.model");
    match model {
        None => Ok(Vec::new()),
        Some(OneOrMany::One(class)) => Ok(vec![named(&path, &class)?]),
        Some(OneOrMany::Many(classes)) => {
            let reason = "an empty list would allow no GPU";
            if classes.is_empty() {
                return Err(JobFileError::new(path, reason)
                    .with_hint("leave `model` out to allow any class"));
            }
            all_named(&path, &classes, GPU_CLASSES_MAX)
        }
    }
}

fn all_named<T: FromStr>(
    path: &Path,
    written: &[String],
    max: usize,
) -> Result<Vec<T>, JobFileError>
where
    T::Err: fmt::Display,
{
    if written.len() > max {
        let reason = format!("{} entries are more than {max}", written.len());
        return Err(JobFileError::new(path.clone(), reason));
    }
    let one = |(nth, text): (usize, &String)| named(&path.clone().index(nth), text);
    written.iter().enumerate().map(one).collect()
}

fn command(written: OneOrMany) -> Result<Vec<String>, JobFileError> {
    let path = Path::of("spec.run.command");
    match written {
        OneOrMany::One(script) if script.trim().is_empty() => {
            Err(JobFileError::new(path, "is empty"))
        }
        OneOrMany::One(script) => Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), script]),
        OneOrMany::Many(words) => Ok(words),
    }
}

fn env(run: &RawRun) -> Result<BTreeMap<String, String>, JobFileError> {
    let path = Path::of("spec.run.env");
    for name in run.env.keys() {
        let wrong = |reason: &str| Err(JobFileError::new(path.clone().key(name), reason));
        let mut letters = name.chars();
        let is_start = |c: char| c == '_' || c.is_ascii_alphabetic();
        if !letters.next().is_some_and(is_start)
            || !letters.all(|c| is_start(c) || c.is_ascii_digit())
        {
            return wrong("is not the name of a variable (letters, digits and `_`)");
        }
        if name.starts_with("SPILLWAY_") || ENV_RESERVED.contains(&name.as_str()) {
            return wrong("is set by Spillway and cannot be chosen");
        }
    }
    Ok(run.env.clone())
}

fn workdir(run: &RawRun) -> Result<String, JobFileError> {
    let path = Path::of("spec.run.workdir");
    if run.workdir.len() > WORKDIR_BYTES_MAX || run.workdir.contains('\0') {
        return Err(JobFileError::new(path, "is not the path of a directory"));
    }
    if !run.workdir.is_empty() && !run.workdir.starts_with('/') {
        return Err(JobFileError::new(path, "is not an absolute path")
            .with_hint("leave `workdir` out to start in a directory of the attempt's own"));
    }
    Ok(run.workdir.clone())
}

fn placement(written: &RawPlacement) -> Result<PlacementSpec, JobFileError> {
    Ok(PlacementSpec {
        sites: only("spec.placement.sites", written.sites.as_deref())?,
        residency: only("spec.placement.dataResidency", written.data_residency.as_deref())?,
        spill: written.spill.unwrap_or(true),
    })
}

/// What a list allows; empty for anything, which an empty list must not come to mean.
fn only<T: FromStr>(path: &str, written: Option<&[String]>) -> Result<Vec<T>, JobFileError>
where
    T::Err: fmt::Display,
{
    match written {
        None => Ok(Vec::new()),
        Some([]) => Err(JobFileError::new(Path::of(path), "an empty list would allow nothing")
            .with_hint("leave it out to allow anything")),
        Some(written) => all_named(&Path::of(path), written, SITES_MAX),
    }
}

fn checked_labels(
    labels: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, JobFileError> {
    let path = Path::of("metadata.labels");
    if labels.len() > LABELS_MAX {
        let reason = format!("{} labels are more than {LABELS_MAX}", labels.len());
        return Err(JobFileError::new(path, reason));
    }
    for (name, value) in &labels {
        let is_text =
            |text: &str| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
        if name.is_empty() || !is_text(name) || !is_text(value) {
            let reason = format!("a label is one line of at most {LABEL_BYTES_MAX} bytes");
            return Err(JobFileError::new(path.key(name), reason));
        }
    }
    Ok(labels)
}

fn time_limit(written: Option<&str>) -> Result<Millis, JobFileError> {
    let path = "spec.time.limit";
    let limit = span(path, written, Millis::ZERO)?;
    if written.is_some() && limit == Millis::ZERO {
        return Err(JobFileError::new(Path::of(path), "zero leaves no time to run")
            .with_hint("leave `limit` out for no limit"));
    }
    if limit > TIME_LIMIT_MAX {
        let reason = format!("is longer than {} days", TIME_LIMIT_MAX.0 / DAY);
        return Err(JobFileError::new(Path::of(path), reason));
    }
    Ok(limit)
}

pub(super) fn span(
    path: &str,
    written: Option<&str>,
    default: Millis,
) -> Result<Millis, JobFileError> {
    let Some(written) = written else { return Ok(default) };
    parse_span(written).ok_or_else(|| {
        let reason = format!("`{}` is not a span of time", shown(written));
        JobFileError::new(Path::of(path), reason).with_hint("write it as `30s`, `5m` or `1h30m`")
    })
}

/// Numbers with their units, one after the other: `1h30m`. None if it is anything else.
#[must_use]
pub fn parse_span(text: &str) -> Option<Millis> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
        rest = tail;
    }
    Some(Millis(total))
}

/// A piece of a tenant's text that is short enough for an error.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The candidate that a slip of the keyboard or two turns into `text`.
pub(super) fn closest<'a>(
    text: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let near = candidates.map(|candidate| (distance(text, candidate), candidate));
    let limit = 1 + text.len().min(12) / 4;
    near.filter(|&(slips, _)| slips <= limit).min_by_key(|&(slips, _)| slips).map(|(_, near)| near)
}

/// How many letters must be put in, taken out or changed.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().take(64).enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, other) in right.iter().enumerate() {
            let change = diagonal + usize::from(!letter.eq_ignore_ascii_case(other));
            diagonal = row[at + 1];
            row[at + 1] = change.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_sum_of_numbers_with_units() {
        let spans = [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("2d", Some(2 * DAY)),
            ("0s", Some(0)),
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
            ("1 h", None),
            ("1h 30m", None),
            ("99999999999999999999s", None),
            ("9999999999999999d", None),
        ];
        for (text, millis) in spans {
            assert_eq!(parse_span(text), millis.map(Millis), "{text:?}");
        }
    }

    #[test]
    fn the_closest_name_is_found_and_a_far_one_is_not() {
        let names = ["nodes", "tasksPerNode"];
        assert_eq!(closest("node", names.into_iter()), Some("nodes"));
        assert_eq!(closest("taskPernode", names.into_iter()), Some("tasksPerNode"));
        assert_eq!(closest("replicas", names.into_iter()), None);
        assert_eq!(closest("", names.into_iter()), None);
    }
}
