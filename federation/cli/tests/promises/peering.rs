//! Tokens and joins: each is good once, for one, and a join that is interrupted ends in one
//! peering.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::cluster::{FEDERATION, PATIENCE, Site, SitePlan, World};
use crate::process::await_that;

fn bare(name: &'static str) -> SitePlan {
    SitePlan { nodes: 0, ..SitePlan::small(name) }
}

/// The other sites that a site knows.
fn peers(site: &Site<'_>) -> Vec<String> {
    let sites = site.json(&["site", "ls"]);
    let others = sites["items"].as_array().unwrap().iter().filter(|it| it["own"] != true);
    others.map(|it| it["site"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_join_that_is_interrupted_and_repeated_ends_in_one_peering() {
    let world = World::new();
    let inviter = world.site(bare("inviter"));
    let names = ["joiner-a", "joiner-b", "joiner-c", "joiner-d", "joiner-e"];
    for (name, millis) in names.into_iter().zip([0, 15, 30, 45, 60]) {
        let mut joiner = world.site(bare(name));
        let token = inviter.run(&["invite"]).done().trim().to_owned();
        let args = ["--context", name, "join", &token, "--timeout", "2s"];
        let mut command = world.command(Path::new(FEDERATION), &args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(millis));
        joiner.kill_controllers();
        child.wait().unwrap();
        eprintln!("{name}: the inviter knew {} peers when it was killed", peers(&inviter).len());
        joiner.start_controllers();
        joiner.run(&["join", &token]).done();
        assert_eq!(peers(&joiner), ["inviter"]);
        assert_eq!(peers(&inviter).iter().filter(|peer| *peer == name).count(), 1);
        joiner.run(&["join", &token]).done();
        assert_eq!(peers(&joiner), ["inviter"]);
    }
    assert_eq!(peers(&inviter), names);
}

#[test]
fn a_join_that_the_inviter_did_not_live_to_answer_can_be_repeated() {
    let world = World::new();
    let mut inviter = world.site(bare("inviter"));
    let joiner = world.site(bare("joiner"));
    let token = inviter.run(&["invite"]).done().trim().to_owned();
    inviter.kill_controllers();
    let said = joiner.run(&["join", &token]);
    assert!([7, 8].contains(&said.code) && said.err.contains("error["), "{said:?}");
    eprintln!("with the inviter away: {}", said.err);
    assert!(peers(&joiner).is_empty());
    inviter.start_controllers();
    inviter.await_up();
    joiner.run(&["join", &token]).done();
    assert_eq!((peers(&joiner), peers(&inviter)), (vec!["inviter".into()], vec!["joiner".into()]));
}

#[test]
fn a_token_that_is_expired_used_forged_or_misplaced_joins_nobody() {
    let world = World::new();
    let berlin = world.site(bare("berlin"));
    let giga = world.site(bare("giga"));
    let paris = world.site(bare("paris"));
    let invite = |args: &[&str]| berlin.run(&[&["invite"], args].concat()).done().trim().to_owned();

    let old = invite(&["--ttl", "1s"]);
    thread::sleep(Duration::from_millis(1_500));
    giga.run(&["join", &old]).refused(5, "token-expired");

    let token = invite(&[]);
    let forged = forge(&token);
    giga.run(&["join", &forged]).refused(4, "token-invalid");
    giga.run(&["join", "nonsense"]).refused(4, "token-invalid");
    giga.run(&["join", token.get(..token.len() / 2).unwrap()]).refused(4, "token-invalid");
    berlin.run(&["join", &token]).refused(5, "conflict");
    let bound = invite(&["--peer", "paris"]);
    let said = giga.run(&["join", &bound]);
    assert!([4, 5].contains(&said.code), "{said:?}");
    let enrol = berlin.run(&["node", "enroll", "b1"]).done();
    giga.run(&["join", enrol.trim()]).refused(4, "token-invalid");
    for site in [&berlin, &giga, &paris] {
        assert!(peers(site).is_empty());
    }

    giga.run(&["join", &token]).done();
    paris.run(&["join", &token]).refused(5, "token-used");
    assert!(peers(&paris).is_empty());
    assert_eq!((peers(&berlin), peers(&giga)), (vec!["giga".into()], vec!["berlin".into()]));
}

/// The token with one character of its secret end changed.
fn forge(token: &str) -> String {
    let at = token.len() - 12;
    let other = if token.as_bytes()[at] == b'a' { 'b' } else { 'a' };
    let mut forged = token.to_owned();
    forged.replace_range(at..=at, &other.to_string());
    forged
}

#[test]
fn an_agent_of_one_site_gets_nothing_from_another() {
    let world = World::new();
    let mut berlin = world.site(SitePlan::small("berlin"));
    let giga = world.site(bare("giga"));
    let (dir, gpus) = (world.text("b1"), ["--declare", "b200:2"]);
    let mut agent = berlin.agents.remove(0);
    agent.kill();

    // A token of the other site.
    let token = world.file(&giga.run(&["node", "enroll", "b1"]).done());
    let args = [&["run", "--dir", &dir, "--token-file", &token], &gpus[..]].concat();
    world.run_agent(&args).refused(5, "conflict");

    // The other site's name.
    let path = world.path("b1/agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"berlin\"", "\"giga\"")).unwrap();
    world.run_agent(&["run", "--dir", &dir]).refused(5, "conflict");

    // The other site's controllers.
    let (own, other) = (&berlin.controllers[0].address, &giga.controllers[0].address);
    fs::write(&path, text.replace(own, other)).unwrap();
    let mut strange = berlin.agent_of("b1");
    strange.start();
    await_that("the agent says whom it does not trust", PATIENCE, || {
        strange.said().contains("giga") || strange.said().contains("no orders came")
    });
    eprintln!("{}", strange.said().lines().last().unwrap_or_default());
    assert!(giga.list(&["node", "ls"]).is_empty());
    strange.kill();

    // As it was, it still works; so does the token that was refused.
    fs::write(&path, text).unwrap();
    agent.start();
    berlin.await_up();
    let mut guest = giga.agent_of("g1");
    guest.start_with(&["--token-file", &token]);
    await_that("the node is there", PATIENCE, || giga.list(&["node", "ls"]).len() == 1);
}

#[test]
fn an_enrolment_token_is_good_once_for_its_node() {
    let world = World::new();
    let berlin = world.site(SitePlan::small("berlin"));
    let token = world.file(&berlin.run(&["node", "enroll", "b2"]).done());
    let mut second = berlin.agent_of("b2");
    second.start_with(&["--token-file", &token]);
    await_that("both nodes are ready", PATIENCE, || {
        berlin.list(&["node", "ls"]).iter().filter(|it| it["state"] == "ready").count() == 2
    });
    let dir = world.text("thief");
    let enrol = |token: &str| {
        let args = ["run", "--dir", &dir, "--token-file", token, "--declare", "b200:8"];
        world.run_agent(&args)
    };
    enrol(&token).refused(5, "token-used");
    let old = berlin.run(&["node", "enroll", "b3", "--ttl", "1s"]).done();
    thread::sleep(Duration::from_millis(1_500));
    enrol(&world.file(&old)).refused(5, "token-expired");
    let forged = forge(berlin.run(&["node", "enroll", "b3"]).done().trim());
    enrol(&world.file(&forged)).refused(4, "token-invalid");
    world.run_agent(&["run", "--dir", &dir]).refused(2, "invalid-argument");
    assert_eq!(berlin.list(&["node", "ls"]).len(), 2);
}
