//! The first start, and what may be wrong with it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use specs::id::{Boot, NodeId};
use specs::unit::Timestamp;

use crate::controller::Controller;
use crate::running::Agent;
use crate::support::{AGENT, alive_with, directory, eventually, unmistakable};

/// Runs the agent with a token on its standard input until it gives up.
fn refused(directory: &std::path::Path, token: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(AGENT);
    command.args(["run", "--declare", "b200:4", "--dir"]).arg(directory);
    command.env_remove("SPILLWAY_ENROL_TOKEN").stdout(Stdio::null()).stderr(Stdio::piped());
    let Some(token) = token else {
        let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
        return (status.code(), String::from_utf8(stderr).unwrap());
    };
    let mut child = command.args(["--token-file", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn check_refused(seen: &(Option<i32>, String), exit_code: i32, text: &str) {
    let (code, stderr) = seen;
    assert_eq!(*code, Some(exit_code), "{stderr}");
    assert!(stderr.contains(text), "{text} is not in\n{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_agent_needs_no_token_and_its_secrets_are_its_own() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait("a first life", |report| (report.boot == Boot(1)).then_some(()));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    for file in ["agent.toml", "boot", "lock", "identity/agent.key"] {
        let mode = fs::metadata(directory.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert!(!directory.join("identity/pending.key").exists());
    // What was declared is kept.
    let _agent = Agent::start_with(&directory, None, &[]);
    let report =
        controller.wait("a second life", |report| (report.boot == Boot(2)).then(|| report.clone()));
    assert_eq!(report.inventory.gpus.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_enrolment_goes_on_with_the_same_key() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let token = controller.mint();
    controller.desk().swallow = 1;
    let mut agent = Agent::start(&directory, Some(&token));
    eventually("the token's use", || controller.desk().used_by);
    agent.signal(Signal::KILL);
    agent.wait();
    assert!(!directory.join("agent.toml").exists());
    let _agent = Agent::start(&directory, Some(&token));
    controller.wait("a report", |report| (report.boot == Boot(1)).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_taken_says_why() {
    let controller = Controller::start();
    let token = controller.mint();
    let (_guard, directory) = directory();
    controller.desk().used_by = Some([0; 32]);
    check_refused(&refused(&directory, Some(&token.to_text())), 5, "error[token-used]: ");
    controller.desk().expired = true;
    let seen = refused(&directory, Some(&token.to_text()));
    check_refused(&seen, 5, "error[token-expired]: ");
    assert!(seen.1.contains("\n  hint: "), "{}", seen.1);
    let mut forged = token.clone();
    forged.secret.0[0] ^= 1;
    check_refused(&refused(&directory, Some(&forged.to_text())), 4, "error[token-invalid]: ");
    let mut pinned = token.clone();
    pinned.pin[0] ^= 1;
    check_refused(&refused(&directory, Some(&pinned.to_text())), 4, "error[token-invalid]: ");
    for text in ["", "spw1.AAAA", "spe1.AAAA", "hello"] {
        check_refused(&refused(&directory, Some(text)), 4, "error[token-invalid]: ");
    }
    let secret = token.to_text();
    assert!(!seen.1.contains(&secret[8..]), "the token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_said_to_be_so_when_nobody_answers() {
    let controller = Controller::start();
    let mut token = controller.mint();
    token.expires = Timestamp(1);
    token.addresses = vec!["no-such-host.invalid:7000".into()];
    let (_guard, directory) = directory();
    check_refused(&refused(&directory, Some(&token.to_text())), 5, "error[token-expired]: ");
}

#[test]
fn without_a_token_it_is_said_where_to_get_one() {
    let (_guard, directory) = directory();
    let seen = refused(&directory, None);
    check_refused(&seen, 2, "is not enrolled");
    assert!(seen.1.contains("\n  hint: give a token"), "{}", seen.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_node_and_one_agent() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait("a report", |_| Some(()));
    check_refused(&refused(&directory, None), 5, "error[conflict]: another agent (pid ");
    agent.signal(Signal::TERM);
    agent.wait();
    let other = controller.mint_for(&NodeId::new("n02").unwrap());
    let seen = refused(&directory, Some(&other.to_text()));
    check_refused(&seen, 5, "the directory belongs to node n01 of site berlin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_number_that_is_gone_is_not_made_up() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait("a report", |_| Some(()));
    agent.signal(Signal::KILL);
    agent.wait();
    fs::remove_file(directory.join("boot")).unwrap();
    check_refused(&refused(&directory, None), 1, "boot");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_an_earlier_life_are_ended_before_the_first_report() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait("a report", |_| Some(()));
    agent.signal(Signal::KILL);
    agent.wait();
    let mark = unmistakable();
    let text =
        format!("trap '' TERM; (env -i setsid sleep {mark} &) ; env -i sleep {mark}; sleep {mark}");
    let mut orphan = Command::new("/bin/sh")
        .args(["-c", &text])
        .env("SPILLWAY_AGENT_DIR", &directory)
        .env("SPILLWAY_LEASE", "lease-1")
        .spawn()
        .unwrap();
    eventually("the orphans", || (alive_with(&mark).len() >= 3).then_some(()));
    let _agent = Agent::start(&directory, None);
    controller.wait("a second life", |report| (report.boot == Boot(2)).then_some(()));
    // The one that left its ancestry and its environment behind cannot be known.
    let left = alive_with(&mark);
    for pid in left.iter().copied().filter_map(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    orphan.wait().unwrap();
    assert!(left.len() <= 1, "{left:?}");
}

#[test]
fn the_inventory_is_shown_as_declared() {
    let show = |args: &[&str]| {
        let output = Command::new(AGENT).arg("inventory").args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = show(&["--declare", "rtx-pro-6000:2"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("2 GPUs, declared; nothing has proven them\n"), "{text}");
    let (code, text) = show(&["-o", "json", "--declare", "b200:1", "--declare", "h100:1"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("\"source\": \"declared\"") && text.contains("\"h100\""), "{text}");
    assert_eq!(show(&["--declare", "b200"]).0, Some(2));
}
