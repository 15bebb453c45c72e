//! The house rules that a compiler does not know: which crate may use which, what a core may
//! bring in, how long a file may be. A new edge is a change to the table below.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a crate is, and so what it may bring in from outside.
enum Kind {
    /// Decides, and touches nothing: `#![no_std]`, outside crates from [`PURE_MAY_USE`] only. Those
    /// named here may come in besides, switched on by a feature.
    Core { optional: &'static [&'static str] },
    /// Runs cores on a simulated world: std, but no way to the real one.
    Simulator,
    /// Touches the world.
    Shell,
}

struct Rule {
    path: &'static str,
    /// Crates of ours, by path.
    may_use: &'static [&'static str],
    kind: Kind,
}

const CORE: Kind = Kind::Core { optional: &[] };

/// A line may only name crates from lines above it, so that no cycle can be written.
const CRATES: &[Rule] = &[
    Rule {
        path: "specs",
        may_use: &[],
        kind: Kind::Core { optional: &["schemars", "serde-saphyr", "toml"] },
    },
    Rule { path: "fabric/core", may_use: &["specs"], kind: CORE },
    Rule { path: "federation/core", may_use: &["specs"], kind: CORE },
    Rule { path: "gpu-agent/core", may_use: &["specs"], kind: CORE },
    Rule {
        path: "chaos/sim",
        may_use: &["specs", "fabric/core", "federation/core", "gpu-agent/core"],
        kind: Kind::Simulator,
    },
    Rule { path: "federation/wal", may_use: &[], kind: Kind::Shell },
    Rule { path: "fabric/quic", may_use: &["specs", "fabric/core"], kind: Kind::Shell },
    Rule {
        path: "federation/controller",
        may_use: &["specs", "federation/core", "federation/wal", "fabric/quic"],
        kind: Kind::Shell,
    },
    Rule { path: "gpu-agent/emulator", may_use: &[], kind: Kind::Shell },
    Rule { path: "gpu-agent/xtask", may_use: &[], kind: Kind::Shell },
    Rule {
        path: "gpu-agent/daemon",
        // The emulator in tests alone: it stands in for the driver.
        may_use: &["specs", "gpu-agent/core", "gpu-agent/emulator", "fabric/quic"],
        kind: Kind::Shell,
    },
    Rule {
        // Traces come from files, so it is no core; it decides nothing of its own.
        path: "federation/replay",
        may_use: &["specs", "federation/core"],
        kind: Kind::Shell,
    },
    Rule {
        path: "federation/cli",
        may_use: &[
            "specs",
            "federation/core",
            "federation/controller",
            "federation/replay",
            "fabric/quic",
        ],
        kind: Kind::Shell,
    },
];

const PURE_MAY_USE: &[&str] = &["serde", "thiserror"];
const PURE_TESTS_MAY_USE: &[&str] = &["proptest", "prost", "rpds", "serde_json"];
const SIMULATOR_MAY_USE: &[&str] = &["anyhow", "clap", "serde", "serde_json", "thiserror"];

/// Outside crates whose names stay in one place: crate, the manifests and the sources that may
/// name it, by the beginning of their path.
const CONFINED: &[(&str, &str, &str)] = &[
    ("cudarc", "gpu-agent/daemon", "gpu-agent/daemon/src/burn_in/cuda"),
    ("openraft", "federation/controller", "federation/controller/src/raft"),
    ("openraft-rt-tokio", "federation/controller", "federation/controller/src/raft"),
    ("quinn", "fabric/quic", "fabric/quic/"),
    ("quinn-proto", "fabric/quic", "fabric/quic/"),
];

/// Its planted cases name what others may not.
const THIS_FILE: &str = "specs/tests/architecture.rs";
const FILE_LINES_MAX: usize = 1_000;

fn crate_name(path: &str) -> String {
    path.replace('/', "-")
}

/// One dependency of a manifest.
struct Dependency {
    /// The crate's own name, whatever the manifest calls it here.
    name: String,
    is_dev: bool,
    is_optional: bool,
    is_inherited: bool,
}

/// The tables of a manifest, each with its `key = value` lines.
fn tables(manifest: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut tables = vec![(String::new(), Vec::new())];
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            tables.push((header.trim_matches(['[', ']', ' ']).to_owned(), Vec::new()));
        } else if let Some((key, value)) = line.split_once('=') {
            let (_, lines) = tables.last_mut().unwrap();
            lines.push((key.trim().trim_matches('"').to_owned(), value.trim().to_owned()));
        }
    }
    tables
}

fn dependency(key: &str, value: &str, is_dev: bool) -> Dependency {
    // `name.workspace = true` and `name = { workspace = true, … }` say the same.
    let (name, dotted) = key.split_once('.').unwrap_or((key, ""));
    let said = format!("{dotted} {value}").replace(' ', "");
    let renamed = said.split_once("package=\"").and_then(|(_, rest)| rest.split_once('"'));
    Dependency {
        name: renamed.map_or(name, |(name, _)| name).to_owned(),
        is_dev,
        is_optional: said.contains("optional=true"),
        is_inherited: said.contains("workspace=true") || said == "workspacetrue",
    }
}

fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    for (header, lines) in tables(manifest) {
        let is_dev = header.contains("dev-dependencies");
        if header.ends_with("dependencies") {
            found.extend(lines.iter().map(|(key, value)| dependency(key, value, is_dev)));
        } else if let Some((_, name)) = header.rsplit_once("dependencies.") {
            let said: Vec<String> =
                lines.iter().map(|(key, value)| format!("{key}={value}")).collect();
            found.push(dependency(name, &said.join(","), is_dev));
        }
    }
    found
}

/// What is wrong with a crate's manifest, one line each.
fn manifest_faults(rule: &Rule, manifest: &str) -> Vec<String> {
    let ours: BTreeSet<String> = CRATES.iter().map(|rule| crate_name(rule.path)).collect();
    let mut faults = Vec::new();
    let tables = tables(manifest);
    let says = |table: &str, key: &str, value: &str| {
        tables.iter().any(|(header, lines)| {
            header == table && lines.iter().any(|(k, v)| k == key && v == value)
        })
    };
    let name = crate_name(rule.path);
    if !says("package", "name", &format!("\"{name}\"")) {
        faults.push(format!("{}: the crate must be called `{name}`, as its path", rule.path));
    }
    if !says("lints", "workspace", "true") {
        faults.push(format!("{}: the manifest does not inherit the workspace's lints", rule.path));
    }
    for dependency in dependencies(manifest) {
        let edge = format!("{} -> {}", rule.path, dependency.name);
        if !dependency.is_inherited {
            faults.push(format!("{edge}: versions stand in the root manifest only"));
        }
        let is_allowed = if ours.contains(&dependency.name) {
            rule.may_use.iter().any(|path| crate_name(path) == dependency.name)
        } else {
            may_bring_in(rule, &dependency)
        };
        if !is_allowed {
            faults.push(format!("{edge}: this edge is not in the table of specs/tests"));
        }
        let confined = CONFINED.iter().find(|(name, ..)| *name == dependency.name);
        if confined.is_some_and(|(_, home, _)| *home != rule.path) {
            faults.push(format!("{edge}: this crate is named elsewhere only"));
        }
    }
    faults
}

fn may_bring_in(rule: &Rule, dependency: &Dependency) -> bool {
    let name = dependency.name.as_str();
    let is_test = dependency.is_dev && PURE_TESTS_MAY_USE.contains(&name);
    match rule.kind {
        Kind::Core { optional } => {
            PURE_MAY_USE.contains(&name)
                || is_test
                || (dependency.is_optional && optional.contains(&name))
        }
        Kind::Simulator => SIMULATOR_MAY_USE.contains(&name) || is_test,
        Kind::Shell => true,
    }
}

/// What is wrong with a source file, one line each. The path starts at the workspace.
fn source_faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(format!("{path}: {lines} lines are more than {FILE_LINES_MAX}"));
    }
    // Put together here, so that this file does not find itself.
    let banned = [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    for (nth, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for word in banned.iter().filter(|word| code.contains(*word)) {
            faults.push(format!("{path}:{}: `{word}` stays out of the tree", nth + 1));
        }
        for (name, _, home) in CONFINED {
            let may_name = path.starts_with(home) || path == THIS_FILE;
            if !may_name && names_crate(code, &name.replace('-', "_")) {
                faults.push(format!("{path}:{}: `{name}` is named under {home} only", nth + 1));
            }
        }
    }
    faults
}

/// True if the code has a path that begins with that crate.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        !before.is_some_and(is_word) && (after.starts_with("::") || after.starts_with(';'))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_table_names_the_crates_of_the_workspace_and_no_others() {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, rest) = manifest.split_once("members = [").unwrap();
    let (members, _) = rest.split_once(']').unwrap();
    let members: BTreeSet<&str> = members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !member.is_empty())
        .collect();
    let table: BTreeSet<&str> = CRATES.iter().map(|rule| rule.path).collect();
    assert_eq!(members, table, "left: Cargo.toml, right: the table");
}

#[test]
fn the_table_has_no_cycle() {
    for (nth, rule) in CRATES.iter().enumerate() {
        for used in rule.may_use {
            let above = CRATES[..nth].iter().any(|rule| rule.path == *used);
            assert!(above, "{} -> {used}: must stand above it", rule.path);
        }
    }
}

#[test]
fn every_manifest_keeps_to_the_table() {
    let manifest = |rule: &Rule| read(&root().join(rule.path).join("Cargo.toml"));
    let faults: Vec<String> =
        CRATES.iter().flat_map(|rule| manifest_faults(rule, &manifest(rule))).collect();
    assert_none(&faults);
}

#[test]
fn every_core_is_no_std() {
    let needs_std = |rule: &&Rule| {
        let text = read(&root().join(rule.path).join("src/lib.rs"));
        !text.lines().any(|line| line.trim() == "#![no_std]")
    };
    let cores = CRATES.iter().filter(|rule| matches!(rule.kind, Kind::Core { .. }));
    let faults: Vec<String> = cores
        .filter(needs_std)
        .map(|rule| format!("{}: src/lib.rs lacks `#![no_std]`", rule.path))
        .collect();
    assert_none(&faults);
}

#[test]
fn every_source_keeps_the_rules() {
    let root = root();
    let mut found = Vec::new();
    for rule in CRATES {
        sources(&root.join(rule.path), &mut found);
    }
    assert!(found.len() > CRATES.len(), "{} files found", found.len());
    let faults: Vec<String> = found
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            source_faults(&name, &read(path))
        })
        .collect();
    assert_none(&faults);
}

fn planted(path: &str, lines: &str) -> Vec<String> {
    let rule = CRATES.iter().find(|rule| rule.path == path).unwrap();
    let name = crate_name(path);
    let manifest =
        format!("[package]\nname = \"{name}\"\n\n[lints]\nworkspace = true\n\n{lines}\n");
    manifest_faults(rule, &manifest)
}

#[test]
fn a_planted_edge_is_found_and_named() {
    let cases = [
        ("federation/core", "[dependencies]\nfabric-core.workspace = true", "fabric-core"),
        ("federation/core", "[dependencies]\ntokio = { workspace = true }", "tokio"),
        ("federation/core", "[dependencies.tokio]\nworkspace = true", "tokio"),
        (
            "federation/core",
            "[dev-dependencies]\nfederation-wal.workspace = true",
            "federation-wal",
        ),
        ("federation/core", "[build-dependencies]\ncc.workspace = true", "cc"),
        ("federation/core", "[target.'cfg(unix)'.dependencies]\nlibc.workspace = true", "libc"),
        ("fabric/core", "[dependencies]\nt = { workspace = true, package = \"rand\" }", "rand"),
        ("specs", "[dependencies]\ntoml.workspace = true", "toml"),
        ("specs", "[dependencies]\nspecs.workspace = true", "specs"),
        ("chaos/sim", "[dependencies]\nfabric-quic.workspace = true", "fabric-quic"),
        ("chaos/sim", "[dependencies]\ntokio.workspace = true", "tokio"),
        ("gpu-agent/daemon", "[dependencies]\nfederation-core.workspace = true", "federation-core"),
        ("gpu-agent/daemon", "[dependencies]\nquinn.workspace = true", "quinn"),
        ("federation/cli", "[dependencies]\nopenraft.workspace = true", "openraft"),
        ("federation/cli", "[dependencies]\nanyhow = \"1\"", "anyhow"),
    ];
    for (path, lines, name) in cases {
        let faults = planted(path, lines);
        let edge = format!("{path} -> {name}:");
        assert!(faults.len() == 1 && faults[0].starts_with(&edge), "{lines}: {faults:?}");
    }
}

#[test]
fn an_allowed_edge_is_no_fault() {
    let cases = [
        ("specs", "[dependencies]\ntoml = { workspace = true, optional = true }"),
        ("specs", "[dev-dependencies]\nproptest.workspace = true"),
        ("federation/core", "[dependencies]\nspecs.workspace = true\nserde.workspace = true"),
        ("federation/cli", "[dependencies]\nspecs = { workspace = true, features = [\"files\"] }"),
        ("fabric/quic", "[dependencies.quinn]\nworkspace = true"),
        ("federation/wal", "# tokio = \"1\""),
    ];
    for (path, lines) in cases {
        assert_none(&planted(path, lines));
    }
}

#[test]
fn a_manifest_with_another_name_or_its_own_lints_is_found() {
    let rule = &CRATES[0];
    let faults = manifest_faults(rule, "[package]\nname = \"spec\"\n[lints]\nworkspace = false\n");
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn a_planted_line_is_found_and_named() {
    let ignored = concat!("    #[", "ignore = \"slow\"]");
    let undone = concat!("todo", "!()");
    let cases = [
        ("federation/core/src/lib.rs", ignored, 1),
        ("federation/core/src/lib.rs", undone, 1),
        ("federation/controller/src/node.rs", "use openraft::Raft;", 1),
        ("federation/controller/src/node.rs", "fn f(_: &quinn::Connection) {}", 1),
        ("federation/controller/src/node.rs", "use openraft_rt_tokio::Runtime;", 1),
        ("federation/controller/src/node.rs", "// openraft::Raft keeps the vote.", 0),
        ("federation/controller/src/node.rs", "use crate::raft::openraft_config;", 0),
        ("federation/controller/src/raft/log.rs", "use openraft::Raft;", 0),
        ("fabric/quic/src/lib.rs", "use quinn::Endpoint;", 0),
    ];
    for (path, line, wanted) in cases {
        let faults = source_faults(path, &format!("\n{line}\n"));
        assert_eq!(faults.len(), wanted, "{line}: {faults:?}");
        assert!(faults.iter().all(|fault| fault.starts_with(&format!("{path}:2:"))), "{faults:?}");
    }
    let long = "\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(source_faults("specs/src/lib.rs", &long).len(), 1);
    assert_eq!(source_faults("specs/src/lib.rs", &long[1..]).len(), 0);
}
