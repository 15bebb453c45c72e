//! The command as scripts see it: exit codes, stdout and stderr.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_federation");
const GOOD: &str = "\
apiVersion: spillway/v1
kind: Job
metadata: {name: small}
spec:
  run: {command: [sleep, '1']}
";

/// A user's home, and the command within it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        Said::from(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Said {
        let mut command = self.command(args);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // A command that refuses may have closed its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::from(child.wait_with_output().unwrap())
    }

    /// Founds a site whose controller does not run; nobody listens at the address.
    fn found(&self, site: &str) -> Said {
        let dir = self.path(site);
        self.run(&["init", "--site", site, "--listen", "127.0.0.1:9", "--dir", text(&dir)])
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a run left behind.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Said {
    /// Checks the form of an error: what, perhaps a hint, the code; and nothing on stdout.
    #[track_caller]
    fn refused(&self, exit: i32, code: &str) -> &Self {
        assert_eq!((self.code, self.out.as_str()), (exit, ""), "{self:?}");
        assert!(self.err.contains(&format!("error[{code}]: ")), "{}", self.err);
        let last = self.err.lines().last().unwrap();
        assert!(last.starts_with(&format!("  code={code} request=")), "{}", self.err);
        self
    }
}

#[test]
fn a_mistake_in_a_job_file_is_shown_with_its_line_and_column() {
    let home = Home::new();
    let path = home.file("job.yaml", &GOOD.replace("spec:", "spec:\n  priority: 101"));
    let said = home.run(&["job", "run", text(&path)]);
    said.refused(2, "invalid-argument");
    assert!(said.err.contains("job.yaml:5:13"), "{}", said.err);
    assert!(said.err.contains("5 |   priority: 101\n  |             ^\n"), "{}", said.err);
}

#[test]
fn an_unknown_field_brings_the_known_one_that_is_closest() {
    let home = Home::new();
    let said = home.run_with_input(&["job", "run", "-"], &GOOD.replace("run:", "runn:"));
    said.refused(2, "invalid-argument");
    assert!(said.err.contains("<stdin>:5:3"), "{}", said.err);
    assert!(said.err.contains("  hint: did you mean `run`?"), "{}", said.err);
}

#[test]
fn a_file_that_is_absent_is_not_found() {
    Home::new().run(&["job", "run", "absent.yaml"]).refused(3, "not-found");
}

#[test]
fn without_a_context_the_way_to_one_is_told() {
    let said = Home::new().run(&["job", "ls"]);
    said.refused(2, "invalid-argument");
    assert!(said.err.contains("hint: make one with `federation init`"), "{}", said.err);
}

#[test]
fn founding_a_site_makes_a_context_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    assert_eq!(home.found("berlin").code, 0);
    assert_eq!(home.found("giga").code, 0);
    let path = home.path(".config/spillway/config.toml");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let said = home.run(&["context", "ls", "-o", "name"]);
    assert_eq!((said.code, said.out.as_str()), (0, "berlin\ngiga\n"), "{said:?}");
    let shown = |home: &Home| home.run(&["context", "show", "-o", "json"]).out;
    assert!(shown(&home).contains("\"name\": \"berlin\""), "{}", shown(&home));
    assert_eq!(home.run(&["context", "use", "giga"]).code, 0);
    assert!(shown(&home).contains("\"name\": \"giga\""), "{}", shown(&home));
    home.run(&["context", "use", "paris"]).refused(3, "not-found");
    home.run(&["--context", "paris", "job", "ls"]).refused(3, "not-found");
}

#[test]
fn a_site_is_never_founded_twice_in_one_directory() {
    let home = Home::new();
    assert_eq!(home.found("berlin").code, 0);
    let dir = home.path("berlin");
    let args = ["init", "--no-context", "--site", "b", "--listen", "127.0.0.1:9", "--dir"];
    home.run(&[&args[..], &[text(&dir)]].concat()).refused(5, "conflict");
    // Nor is the way to it lost to another site of that name.
    let other = home.path("other");
    let args = ["init", "--site", "berlin", "--listen", "127.0.0.1:9", "--dir", text(&other)];
    home.run(&args).refused(5, "conflict");
    assert!(!other.exists());
}

#[test]
fn a_controller_that_is_down_is_unreachable_and_a_submission_is_not_in_doubt() {
    let home = Home::new();
    assert_eq!(home.found("berlin").code, 0);
    let said = home.run(&["job", "ls", "--timeout", "1s"]);
    said.refused(7, "unreachable");
    assert!(said.err.contains("request=req_"), "{}", said.err);
    let path = home.file("job.yaml", GOOD);
    let args = ["job", "run", text(&path), "--timeout", "1s", "--request-id", "r1"];
    let said = home.run(&args);
    said.refused(7, "unreachable");
    assert!(said.err.contains("request=r1\n"), "{}", said.err);
}

#[test]
fn an_empty_token_is_a_mistake_of_use() {
    let home = Home::new();
    home.run_with_input(&["join", "-"], "\n").refused(2, "invalid-argument");
}

#[test]
fn the_schema_is_a_document_of_its_own() {
    let said = Home::new().run(&["job", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(schema["properties"]["apiVersion"]["const"], "spillway/v1");
}

#[test]
fn wrong_usage_ends_with_two_and_help_with_zero() {
    let home = Home::new();
    assert_eq!(home.run(&["job", "fly"]).code, 2);
    assert_eq!(home.run(&["job", "ls", "-o", "yaml"]).code, 2);
    let help = home.run(&["--help"]);
    assert_eq!(help.code, 0);
    for word in ["demo", "init", "serve", "invite", "join", "capacity", "job", "Exit codes"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
    for command in ["job", "node", "site", "controller", "grant", "loan", "context"] {
        assert_eq!(home.run(&[command, "--help"]).code, 0, "{command}");
    }
}

#[test]
fn completions_and_the_version_need_no_configuration() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = home.run(&["completion", shell]);
        assert!(said.code == 0 && said.out.contains("federation"), "{shell}");
    }
    let said = home.run(&["version", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(version["apiVersion"], "spillway/v1");
}
