//! Events of GPUs' health in the form that NVSentinel's platform connectors take, one line of JSON
//! each. They are for others to store: what follows for a GPU is decided here.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use gpu_agent_core::burn_in::{Blame, Finding, Severity};
use serde::Serialize;
use specs::gpu::{GpuHealth, GpuState};
use specs::unit::Timestamp;

/// Version of the form.
const VERSION: u32 = 1;
const AGENT: &str = "spillway-gpu-agent";
/// A file of events that is longer is put aside, for the next.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthEvent<'a> {
    version: u32,
    agent: &'static str,
    component_class: &'static str,
    check_name: &'a str,
    is_fatal: bool,
    is_healthy: bool,
    message: &'a str,
    recommended_action: &'static str,
    error_code: Vec<String>,
    entities_impacted: Vec<Entity>,
    metadata: BTreeMap<&'static str, String>,
    generated_timestamp: String,
    node_name: &'a str,
    processing_strategy: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entity {
    entity_type: &'static str,
    entity_value: String,
}

/// Where and when something was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub node: &'a str,
    pub gpu: u16,
    pub uuid: &'a str,
    pub at: Timestamp,
}

impl<'a> Origin<'a> {
    fn event(self, check: &'a str, message: &'a str) -> HealthEvent<'a> {
        let entity = |entity_type, entity_value| Entity { entity_type, entity_value };
        HealthEvent {
            version: VERSION,
            agent: AGENT,
            component_class: "GPU",
            check_name: check,
            is_fatal: false,
            is_healthy: true,
            message,
            recommended_action: "NONE",
            error_code: Vec::new(),
            entities_impacted: vec![
                entity("GPU", self.gpu.to_string()),
                entity("GPU_UUID", self.uuid.to_owned()),
            ],
            metadata: [("agentVersion", env!("CARGO_PKG_VERSION").to_owned())].into(),
            generated_timestamp: date_of(self.at),
            node_name: self.node,
            processing_strategy: "STORE_ONLY",
        }
    }

    /// Nothing was found.
    ///
    /// # Errors
    /// Nobody reads.
    pub(crate) fn write_pass(self, out: &mut impl Write) -> io::Result<()> {
        write_line(&self.event("burn-in", "the burn-in found nothing"), out)
    }

    /// Something was found.
    ///
    /// # Errors
    /// Nobody reads.
    pub(crate) fn write_finding(self, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
        let mut event = self.event(&finding.check, &finding.message);
        event.is_healthy = false;
        event.is_fatal = finding.severity == Severity::Fault;
        if event.is_fatal {
            event.recommended_action = action(&finding.blame);
        }
        if let Blame::Sm { sm, .. } = finding.blame {
            let entity_value = sm.to_string();
            event.entities_impacted.push(Entity { entity_type: "SM", entity_value });
        }
        let blame = serde_json::to_value(&finding.blame).unwrap_or_default();
        event.error_code.extend(blame["kind"].as_str().map(str::to_owned));
        event.metadata.insert("blame", blame.to_string());
        write_line(&event, out)
    }

    /// A GPU came into another state.
    ///
    /// # Errors
    /// Nobody reads.
    pub(crate) fn write_state(self, health: &GpuHealth, out: &mut impl Write) -> io::Result<()> {
        let mut event = self.event("state", &health.why);
        let (is_fatal, is_healthy, action) = match health.state {
            GpuState::Healthy | GpuState::Discovered | GpuState::BurningIn => (false, true, "NONE"),
            GpuState::Suspect | GpuState::Resetting => (false, false, "NONE"),
            GpuState::Quarantined | GpuState::Rma => (true, false, "CONTACT_SUPPORT"),
        };
        (event.is_fatal, event.is_healthy, event.recommended_action) =
            (is_fatal, is_healthy, action);
        event.metadata.insert("state", health.state.to_string());
        write_line(&event, out)
    }
}

/// What whoever repairs should do first.
fn action(blame: &Blame) -> &'static str {
    match blame {
        Blame::Bit { .. }
        | Blame::Row { .. }
        | Blame::Cell { .. }
        | Blame::Alias { .. }
        | Blame::Sm { .. } => "RUN_FIELDDIAG",
        Blame::Link { .. } | Blame::Transfer { .. } | Blame::Test { .. } => "CONTACT_SUPPORT",
        Blame::Counter { .. } | Blame::Device { .. } => "COMPONENT_RESET",
    }
}

fn write_line(event: &HealthEvent<'_>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    writeln!(out)
}

/// Adds lines to a file; one that has grown long is put aside before.
///
/// # Errors
/// The disk refuses.
pub(crate) fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|it| it.len() > FILE_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(lines)
}

/// `2026-11-29T15:04:05.678Z`. The calendar is that of years that begin in March: then a leap day is
/// the last of its year.
fn date_of(at: Timestamp) -> String {
    const DAYS_TO_ZERO: u64 = 719_468;
    let (days, millis) = (at.0 / 86_400_000 + DAYS_TO_ZERO, at.0 % 86_400_000);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use specs::id::GpuIndex;

    use super::*;

    const ORIGIN: Origin<'_> = Origin { node: "n01", gpu: 3, uuid: "GPU-x", at: Timestamp(1_000) };

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (millis, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(date_of(Timestamp(millis)), date);
        }
    }

    #[test]
    fn a_finding_names_the_gpu_the_sm_and_what_to_do() {
        let blame = Blame::Sm { sm: 5, unit: "unit_x".into() };
        let finding = Finding::new("unit_x", Severity::Fault, blame, "SM 5 differs");
        let mut out = Vec::new();
        ORIGIN.write_finding(&finding, &mut out).unwrap();
        let it: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&it["isFatal"], &it["isHealthy"]), (&true.into(), &false.into()));
        assert_eq!(it["recommendedAction"], "RUN_FIELDDIAG");
        assert_eq!(it["errorCode"][0], "sm");
        let entities = it["entitiesImpacted"].as_array().unwrap();
        let sm = serde_json::json!({"entityType": "SM", "entityValue": "5"});
        assert!(entities.contains(&sm), "{it}");
        assert_eq!(it["generatedTimestamp"], "1970-01-01T00:00:01.000Z");
        assert_eq!((&it["nodeName"], &it["version"]), (&"n01".into(), &1.into()));
        assert_eq!(it["processingStrategy"], "STORE_ONLY");
    }

    #[test]
    fn a_warning_is_not_fatal_and_a_pass_is_healthy() {
        let blame = Blame::Counter { name: "pcieReplay".into(), by: 1 };
        let finding = Finding::new("counters", Severity::Warning, blame, "grew");
        let mut out = Vec::new();
        ORIGIN.write_finding(&finding, &mut out).unwrap();
        ORIGIN.write_pass(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        let said: Vec<_> = lines.iter().map(|it| (&it["isFatal"], &it["isHealthy"])).collect();
        assert_eq!(said, [(&false.into(), &false.into()), (&false.into(), &true.into())]);
        assert!(lines.iter().all(|it| it["recommendedAction"] == "NONE"));
    }

    #[test]
    fn a_quarantine_is_fatal_and_a_long_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut line = Vec::new();
        let health = GpuHealth::new(GpuIndex(3), GpuState::Quarantined, "bit 3");
        ORIGIN.write_state(&health, &mut line).unwrap();
        append(&path, &line).unwrap();
        append(&path, &line).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let it: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&it["isFatal"], &it["metadata"]["state"]),
            (&true.into(), &"quarantined".into())
        );
        fs::File::options().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        append(&path, &line).unwrap();
        assert_eq!(fs::read(&path).unwrap(), line);
        assert!(folder.path().join("events.1").exists());
    }
}
