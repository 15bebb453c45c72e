//! The bars that a burn-in is held to on silicon: reads a folder of reports, as `on-gpu.sh` leaves
//! it, and says of each bar what was measured beside it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

/// What an H200's tensor cores do at most: operations of a clock and an SM; and what one step of
/// the load by `wgmma` is (512 links of 4 repeats, 4 products each, of 2 groups of 64 x 256 x 16).
const WGMMA_PEAK: f64 = 4_096.0;
const WGMMA_STEP: f64 = 512.0 * 4.0 * 4.0 * 2.0 * (2.0 * 64.0 * 256.0 * 16.0);
/// Kernels whose results the processor computes too; those of other GPUs were not run.
const EXACT: [(&str, &str); 6] = [
    ("int8 as the processor computes", "tensor_int8"),
    ("a step as the processor computes", "golden_exact_bf16"),
    ("wgmma as the processor computes", "tensor_wgmma_exact"),
    ("tcgen05 as the processor computes", "tensor_tcgen05_exact"),
    ("f8f6f4 as the processor computes", "tensor_f8f6f4_exact"),
    ("nvfp4 as the processor computes", "tensor_nvfp4"),
];
/// Reports of equal seeds.
const RUNS: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Pass,
    Fail,
    /// There is no number.
    NotRun,
    /// An emulator cannot say.
    NotApplicable,
}

#[derive(Debug, PartialEq)]
struct Bar {
    name: &'static str,
    measured: String,
    bar: &'static str,
    word: Word,
}

/// Judges a folder of reports; true if no bar was missed.
///
/// # Errors
/// Nobody reads.
pub fn judge(folder: &Path, out: &mut impl Write) -> io::Result<bool> {
    let bars = bars(folder);
    for it in &bars {
        let word = match it.word {
            Word::Pass => "PASS",
            Word::Fail => "FAIL",
            Word::NotRun => "NOT RUN",
            Word::NotApplicable => "not applicable",
        };
        writeln!(out, "{word:<15} {:<34} {:<24} bar: {}", it.name, it.measured, it.bar)?;
    }
    writeln!(out)?;
    for line in evidence(folder) {
        writeln!(out, "{line}")?;
    }
    Ok(bars.iter().all(|it| it.word != Word::Fail))
}

/// What decides questions that only silicon can: all findings, where the time went, how far apart SMs
/// are, and what the link to the host did.
fn evidence(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for name in ["t1", "t2", "t3"] {
        let report = report(folder, name);
        for gpu in report["gpus"].as_array().into_iter().flatten() {
            let it = &gpu["measured"];
            for finding in gpu["findings"].as_array().into_iter().flatten() {
                let word = |field: &str| finding[field].as_str().unwrap_or("?");
                let (severity, check) = (word("severity"), word("check"));
                lines.push(format!("{name}: {severity} ({check}): {}", word("message")));
            }
            lines.push(format!("{name}: ms of each check: {}", numbers(&it["checkMillis"], 8)));
            let slowest = numbers(&it["slowestPermille"], 8);
            lines.push(format!("{name}: slowest SM, thousandths of most others: {slowest}"));
            let links = &it["links"];
            let of = |field: &str| links[field].as_u64().map_or("?".into(), |it| it.to_string());
            let (lanes, lanes_max) = (of("lanes"), of("lanesMax"));
            let (is, can) = (of("generation"), of("generationMax"));
            lines.push(format!(
                "{name}: link: {lanes} of {lanes_max} lanes, generation {is} of {can}"
            ));
        }
    }
    lines
}

/// Some of an object's numbers, the highest first.
fn numbers(of: &Value, most: usize) -> String {
    let all = of.as_object().into_iter().flatten();
    let mut all: Vec<(&String, u64)> =
        all.filter_map(|(name, value)| Some((name, value.as_u64()?))).collect();
    all.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
    let said = all.iter().take(most).map(|(name, value)| format!("{name} {value}"));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "none".into() } else { said.join(", ") }
}

fn report(folder: &Path, name: &str) -> Value {
    let text = fs::read(folder.join(format!("{name}.out"))).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn bars(folder: &Path) -> Vec<Bar> {
    let (t1, t2) = (report(folder, "t1"), report(folder, "t2"));
    let gpu = &t2["gpus"][0];
    let is_emulated = gpu["name"].as_str().is_some_and(|it| it.contains("emulated"));
    let mut bars = Vec::new();
    let mut add = |name, silicon: bool, measured: Option<(String, bool)>, bar| {
        let word = match &measured {
            Some(_) if silicon && is_emulated => Word::NotApplicable,
            None => Word::NotRun,
            Some((_, true)) => Word::Pass,
            Some((_, false)) => Word::Fail,
        };
        let measured = measured.map_or_else(|| "-".to_owned(), |it| it.0);
        bars.push(Bar { name, measured, bar, word });
    };
    let it = &gpu["measured"];
    add("memory under test", false, coverage(it), "at least 99 % of what is free");
    add("memory beside a copy", true, beside_a_copy(it), "at least 90 % of a copy's rate");
    add("14 passes over the memory", true, passes(it), "at most 3 s");
    add("wgmma, each clock and SM", true, wgmma(it), "at least 97 % of 4,096");
    add("t1", true, spent(&t1, 20_000), "at most 20 s");
    add("t2", true, spent(&t2, 240_000), "at most 4 min");
    add("t1 finds nothing", false, verdict(&t1), "pass, on all SMs");
    add("t2 finds nothing", false, verdict(&t2), "pass, on all SMs");
    add("digests of 10 runs", false, digests(folder), "equal");
    for (name, kernel) in EXACT {
        add(name, true, exact(gpu, kernel), "equal");
    }
    for tool in ["memcheck", "racecheck", "initcheck"] {
        let name = match tool {
            "memcheck" => "compute-sanitizer memcheck",
            "racecheck" => "compute-sanitizer racecheck",
            _ => "compute-sanitizer initcheck",
        };
        let code = fs::read_to_string(folder.join(format!("sanitizer-{tool}.code"))).ok();
        let code = code.map(|it| it.trim().to_owned());
        let measured = code.map(|it| (format!("exit {it}"), it == "0"));
        add(name, true, measured, "exit 0");
    }
    bars
}

fn number(it: &Value, name: &str) -> Option<f64> {
    it[name].as_f64().filter(|value| *value > 0.0)
}

fn coverage(it: &Value) -> Option<(String, bool)> {
    let share = number(it, "memoryBytes")? / number(it, "memoryBytesFree")?;
    Some((format!("{:.2} %", share * 100.0), share >= 0.99))
}

fn beside_a_copy(it: &Value) -> Option<(String, bool)> {
    let links = &it["links"];
    let copies = number(links, "copyBytes")? / (number(links, "copyNanos")? / 1e9);
    let share = number(it, "memoryBytesPerSecond")? / copies;
    Some((format!("{:.1} %", share * 100.0), share >= 0.90))
}

fn passes(it: &Value) -> Option<(String, bool)> {
    let seconds = number(it, "memoryNanos").filter(|_| it["memoryPasses"] == 14)? / 1e9;
    Some((format!("{seconds:.2} s"), seconds <= 3.0))
}

fn wgmma(it: &Value) -> Option<(String, bool)> {
    let cycles = number(&it["compared"], "tensor_wgmma_powerMillicyclesPerStep")? / 1e3;
    let rate = WGMMA_STEP / cycles;
    Some((format!("{rate:.0}"), rate >= 0.97 * WGMMA_PEAK))
}

fn spent(report: &Value, most: u64) -> Option<(String, bool)> {
    let millis = report["spentMillis"].as_u64()?;
    Some((format!("{millis} ms"), millis <= most))
}

fn verdict(report: &Value) -> Option<(String, bool)> {
    let word = report["verdict"].as_str()?;
    let findings = &report["gpus"][0]["findings"];
    let count = findings.as_array().map_or(0, Vec::len);
    Some((format!("{word}, {count} findings"), word == "pass"))
}

fn digests(folder: &Path) -> Option<(String, bool)> {
    let run = |nth: usize| report(folder, &format!("same-seed-{nth}"));
    let of = |nth| Some(run(nth)["gpus"][0]["measured"]["digests"].as_object()?.clone());
    let all: Option<Vec<_>> = (1..=RUNS).map(of).collect();
    let all = all.filter(|all| all.iter().all(|it| !it.is_empty()))?;
    let equal = all.iter().filter(|it| **it == all[0]).count();
    Some((format!("{equal} of {RUNS}"), equal == RUNS))
}

/// Such a round is judged by what the processor computed: a finding would name it. What the driver did
/// not take has no digest.
fn exact(gpu: &Value, kernel: &str) -> Option<(String, bool)> {
    gpu["measured"]["digests"].get(kernel)?;
    let findings = gpu["findings"].as_array()?;
    let mut about = findings.iter().filter(|it| it["check"] == kernel);
    let Some(finding) = about.next() else { return Some(("equal".into(), true)) };
    let message = finding["message"].as_str().unwrap_or_default();
    let differs = finding["severity"] == "fault" || message.contains("than the processor");
    // Else not all SMs took part.
    differs.then(|| ("differs".into(), false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn t2(name: &str) -> Value {
        json!({"verdict": "pass", "spentMillis": 1_000, "gpus": [{"name": name, "findings": [],
            "measured": {"memoryBytes": 995, "memoryBytesFree": 1_000, "memoryPasses": 14,
                "memoryNanos": 1_900_000_000_u64, "digests": {"tensor_wgmma_exact": "1"},
                "memoryBytesPerSecond": 80,
                "links": {"copyBytes": 50, "copyNanos": 500_000_000},
                "compared": {"tensor_wgmma_powerMillicyclesPerStep": 2_100_000_000_u64}}}]})
    }

    #[test]
    fn what_differs_from_the_processor_is_missed_also_where_it_is_no_fault() {
        let mut report = t2("NVIDIA H200");
        let gpu = &mut report["gpus"][0];
        assert_eq!(exact(gpu, "tensor_wgmma_exact"), Some(("equal".into(), true)));
        assert_eq!(exact(gpu, "tensor_nvfp4"), None);
        let finding = |message: &str| json!([{"check": "tensor_wgmma_exact", "severity": "unknown", "message": message}]);
        gpu["findings"] = finding("132 of 132 SMs compute something else than the processor");
        assert_eq!(exact(gpu, "tensor_wgmma_exact"), Some(("differs".into(), false)));
        gpu["findings"] = finding("131 of 132 SMs took part");
        assert_eq!(exact(gpu, "tensor_wgmma_exact"), None);
    }

    #[test]
    fn what_decides_is_told_for_each_report() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = t2("NVIDIA H200");
        let gpu = &mut report["gpus"][0];
        gpu["findings"] = json!([{"check": "links", "severity": "fault", "message": "slow"}]);
        gpu["measured"]["checkMillis"] = json!({"units": 900, "memory": 4_000});
        gpu["measured"]["links"] = json!({"lanes": 16, "lanesMax": 16, "generation": 4});
        fs::write(folder.path().join("t2.out"), report.to_string()).unwrap();
        assert_eq!(
            evidence(folder.path()),
            [
                "t2: fault (links): slow",
                "t2: ms of each check: memory 4000, units 900",
                "t2: slowest SM, thousandths of most others: none",
                "t2: link: 16 of 16 lanes, generation 4 of ?",
            ]
        );
    }

    fn judged(name: &str) -> Vec<(&'static str, Word)> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("t2.out"), t2(name).to_string()).unwrap();
        fs::write(folder.path().join("sanitizer-memcheck.code"), "9\n").unwrap();
        bars(folder.path()).into_iter().map(|it| (it.name, it.word)).collect()
    }

    #[test]
    fn each_bar_has_a_number_beside_it_or_was_not_run() {
        let bars = judged("NVIDIA H200");
        let word = |name: &str| bars.iter().find(|it| it.0 == name).unwrap().1;
        assert_eq!(word("memory under test"), Word::Pass);
        assert_eq!(word("memory beside a copy"), Word::Fail);
        assert_eq!(word("14 passes over the memory"), Word::Pass);
        assert_eq!(word("wgmma, each clock and SM"), Word::Pass);
        assert_eq!(word("wgmma as the processor computes"), Word::Pass);
        assert_eq!(word("t1"), Word::NotRun);
        assert_eq!(word("digests of 10 runs"), Word::NotRun);
        assert_eq!(word("compute-sanitizer memcheck"), Word::Fail);
        assert_eq!(word("compute-sanitizer racecheck"), Word::NotRun);
    }

    #[test]
    fn an_emulator_is_held_to_no_bar_that_only_silicon_can_meet() {
        let bars = judged("NVIDIA H200 (emulated)");
        let word = |name: &str| bars.iter().find(|it| it.0 == name).unwrap().1;
        assert_eq!(word("memory under test"), Word::Pass);
        assert_eq!(word("memory beside a copy"), Word::NotApplicable);
        assert_eq!(word("t2"), Word::NotApplicable);
    }
}
