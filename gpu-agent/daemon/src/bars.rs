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
    Ok(bars.iter().all(|it| it.word != Word::Fail))
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
    add("wgmma as the processor computes", true, exact(gpu), "equal");
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

/// Such a round is judged by what the processor computed: a finding would name it.
fn exact(gpu: &Value) -> Option<(String, bool)> {
    const NAME: &str = "tensor_wgmma_exact";
    gpu["measured"]["digests"].get(NAME)?;
    let findings = gpu["findings"].as_array()?;
    let mut about = findings.iter().filter(|it| it["check"] == NAME);
    match about.next() {
        None => Some(("equal".into(), true)),
        Some(it) if it["severity"] == "fault" => Some(("differs".into(), false)),
        // The driver did not take the kernel, or not all SMs took part.
        Some(_) => None,
    }
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
