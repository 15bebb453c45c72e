//! What is reserved for an account is its own, on real processes and by the command line.

use crate::cluster::{PATIENCE, SitePlan, World};
use crate::work::Work;

#[test]
fn a_reservation_keeps_others_away_until_it_is_over() {
    let world = World::new();
    let site = world.site(SitePlan::small("berlin"));
    let create = ["reservation", "create", "demo", "--account", "acme"];
    let much = site.run(&[&create[..], &["--gpus", "3", "--duration", "1h"]].concat());
    much.refused(6, "unplaceable");
    assert!(much.err.contains("3 GPUs cannot be reserved then: of 2 here 2 can"), "{much:?}");
    let endless = site.run(&[&create[..], &["--gpus", "2"]].concat());
    assert_eq!(endless.code, 2, "neither an end nor a duration: {endless:?}");

    site.run(&[&create[..], &["--gpus", "2", "--duration", "1h"]].concat()).done();
    let listed = site.list(&["reservation", "ls"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let [it] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&it["reservation"], &it["on"]), (&"demo".into(), &true.into()), "{it}");
    let node = it["nodes"][0].as_str().unwrap().to_owned();
    let shown = site.run(&["node", "show", &node]).done();
    assert!(shown.contains("demo"), "{shown}");
    let gpus = site.list(&["gpu", "ls"]);
    assert_eq!(gpus[0]["reservations"][0], "demo", "{gpus:?}");

    let other = site.submit(Work::new("other", 2, 5));
    let why = site.run(&["job", "why", &other]);
    let told = "nodes are reserved for acme (demo)";
    assert!([&why.out, &why.err].iter().any(|text| text.contains(told)), "{why:?}");
    assert_eq!(site.job(&other)["state"], "queued");

    site.run(&["reservation", "delete", "demo"]).done();
    site.run(&["reservation", "delete", "demo"]).refused(3, "not-found");
    site.await_state(&other, "finished", PATIENCE);
}
