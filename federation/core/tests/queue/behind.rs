//! GPUs whose burn-ins say less than those of others of their make.

use federation_core::{Alarm, Command, Leader, Reply, WithholdGpu};
use specs::codec::Blob;
use specs::gpu::{
    BurnInEnd, BurnInResult, BurnInTier, EarlierResults, GpuHealth, GpuReport, GpuState,
    SignedProof,
};
use specs::id::{GpuIndex, Revision};
use specs::measure::{Digests, Lag, MEMORY, Make};
use specs::unit::{Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::NodeOrders;

use crate::proofs::{proving, report_of, says};
use crate::world::{Site, job};

const SOUND: u64 = 4_000_000;
const SLOW: u64 = 3_500_000;
/// So long nobody is held back in a reign.
const HOLD_AFTER: u64 = 30_000;

fn result(number: u64, rate: u64) -> BurnInResult {
    BurnInResult {
        number: Revision(number),
        tier: BurnInTier::T2,
        end: BurnInEnd::Passed,
        why: String::new(),
        ended_at: Timestamp(0),
        took: Millis(1),
        numbers: [(MEMORY.to_owned(), rate)].into(),
        make: Some(Make { product: "NVIDIA B200".into(), ..Make::default() }),
        capped: false,
        digests: None,
    }
}

/// The node's agent says what its one GPU's last burn-in measured.
fn tell(site: &mut Site, nth: usize, last: BurnInResult) {
    let blob = Blob::default;
    let proof = SignedProof { body: blob(), signature: blob(), certificate: blob() };
    let health = GpuHealth::new(GpuIndex(0), GpuState::Healthy, "");
    let (proof, last) = (Some(proof), Some(last));
    says(
        site,
        &format!("n{nth}"),
        vec![GpuReport { health, proof, due: None, last, passed: None, earlier: None }],
    );
}

/// The node's agent is in another life, and tells what it knows of earlier ones if it is asked.
fn tell_earlier(site: &mut Site, nth: usize, results: Vec<BurnInResult>) {
    let node = format!("n{nth}");
    let health = |earlier| {
        let (blob, health) = (Blob::default, GpuHealth::new(GpuIndex(0), GpuState::Healthy, ""));
        let proof = Some(SignedProof { body: blob(), signature: blob(), certificate: blob() });
        vec![GpuReport { health, proof, due: None, last: None, passed: None, earlier }]
    };
    says(site, &node, health(None));
    let orders = orders(site, &node);
    if orders.tell_earlier {
        says(site, &node, health(Some(EarlierResults { results })));
    }
}

fn orders(site: &Site, node: &str) -> NodeOrders {
    let report = report_of(node, vec![]);
    site.leader.node_orders(Instant(site.now), &site.state, &report).unwrap()
}

/// A site of so many nodes with a GPU each, the first of which are slow.
fn fleet(nodes: usize, slow: usize) -> Site {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.now += HOLD_AFTER;
    for nth in 0..nodes {
        site.node(&format!("n{nth}"), "b200", 1);
        tell(&mut site, nth, result(1, if nth < slow { SLOW } else { SOUND + nth as u64 }));
    }
    site
}

/// What is held back in some looks.
fn look(site: &mut Site) -> (Vec<WithholdGpu>, Vec<Alarm>) {
    let (mut held, mut last) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        site.now += 1_000;
        let (now, at) = (Instant(site.now), Timestamp(site.now));
        let (commands, alarms) = site.leader.poll_commands(now, at, &site.state);
        for command in commands {
            if let Command::WithholdGpu(it) = command {
                held.push(it.clone());
                assert_eq!(site.apply(Command::WithholdGpu(it)), Reply::Done);
            }
        }
        let is_meant =
            |it: &Alarm| matches!(it, Alarm::GpusBehind { .. } | Alarm::DigestsDiffer { .. });
        last = alarms.into_iter().filter(is_meant).collect();
    }
    (held, last)
}

/// How many are compared, and how many of them are behind: to be watched, and at fault.
fn behind(site: &Site) -> (usize, usize, usize) {
    let it = site.leader.compared();
    assert_eq!(it.differing, (0, 0));
    (it.all, it.behind.0, it.behind.1)
}

fn release(site: &mut Site, nth: usize) {
    let (node, index) = (format!("n{nth}").parse().unwrap(), GpuIndex(0));
    let it = WithholdGpu { node, index, why: None };
    assert_eq!(site.apply(Command::WithholdGpu(it)), Reply::Done);
}

/// Another leader, since a while ago.
fn lead(site: &mut Site) {
    site.leader = Leader::new(Instant(site.now - HOLD_AFTER), 2);
}

fn lead_anew(site: &mut Site, nodes: impl Iterator<Item = (usize, u64, u64)>) {
    lead(site);
    for (nth, number, rate) in nodes {
        tell(site, nth, result(number, rate));
    }
}

#[test]
fn who_is_far_behind_is_held_back_and_what_runs_there_runs_on() {
    let mut site = fleet(12, 1);
    site.submit(1, job("acme", 12, 1));
    // The first proposal to hold it back is lost.
    let proposed = site.proposes();
    proposed.into_iter().filter(|it| !matches!(it, Command::WithholdGpu(_))).for_each(|it| {
        site.apply(it);
    });
    assert_eq!(site.holding([1]), [1]);
    assert_eq!(look(&mut site).0, []);
    let (held, alarms) = look(&mut site);
    let why = held[0].why.as_deref().unwrap();
    assert_eq!((held.len(), held[0].node.as_str(), &alarms[..]), (1, "n0", &[][..]));
    assert!(
        why.starts_with("behind its fleet: memoryBytesPerSecond is 12.5 % low: 3500000"),
        "{why}"
    );
    assert!(why.ends_with("of 11 peers"), "{why}");
    assert_eq!(site.holding([1]), [1], "nothing is stopped");
    let found = site.leader.behind(&held[0].node, GpuIndex(0));
    assert_eq!((found.len(), found[0].lag), (1, Lag::Fault));
    assert_eq!(behind(&site), (12, 0, 1));
}

#[test]
fn no_more_are_held_back_than_the_site_allows_and_that_is_said() {
    let mut site = fleet(40, 9);
    let (held, alarms) = look(&mut site);
    assert_eq!(held.len(), 4, "a tenth of the class");
    assert_eq!(alarms, [Alarm::GpusBehind { gpus: 5 }]);
    // Who leads next finds as many out of service, and takes no more.
    let told = (0..40).map(|nth| (nth, 1, if nth < 9 { SLOW } else { SOUND }));
    lead_anew(&mut site, told);
    let (held, alarms) = look(&mut site);
    assert_eq!((held.len(), alarms), (0, vec![Alarm::GpusBehind { gpus: 5 }]));
}

#[test]
fn who_is_let_go_is_judged_by_what_comes_after() {
    let mut site = fleet(12, 1);
    assert_eq!(look(&mut site).0.len(), 1);
    release(&mut site, 0);
    assert_eq!(look(&mut site).0.len(), 0, "it is to be burnt in first");
    // The next leader hears the old result again.
    let told = (0..12).map(|nth| (nth, 1, if nth < 1 { SLOW } else { SOUND }));
    lead_anew(&mut site, told);
    assert_eq!(look(&mut site).0.len(), 0);
    let node = "n0".parse().unwrap();
    let number = |site: &Site| {
        site.state.nodes.get(&node).unwrap().gpus[0].permit.as_ref().map(|it| it.number)
    };
    site.poll();
    let permit = number(&site).expect("the wish is permitted");
    tell(&mut site, 0, result(permit.0, SLOW));
    assert_eq!(number(&site), None);
    assert_eq!(look(&mut site).0.len(), 1, "it is as slow as before");
    release(&mut site, 0);
    site.now += 1_000;
    site.poll();
    let permit = number(&site).expect("the wish is permitted");
    tell(&mut site, 0, result(permit.0, SOUND));
    assert_eq!(look(&mut site).0.len(), 0, "it was repaired");
    assert_eq!(behind(&site), (12, 0, 0));
}

#[test]
fn where_nobody_asks_for_proofs_nothing_is_held_back() {
    let mut site = Site::found("berlin");
    site.raise_to(ClusterVersion::DEMANDS);
    for nth in 0..12 {
        site.node(&format!("n{nth}"), "b200", 1);
        tell(&mut site, nth, result(1, if nth == 0 { SLOW } else { SOUND }));
    }
    assert_eq!(look(&mut site).0, []);
    assert_eq!(behind(&site), (12, 0, 1), "but it is said");
}

#[test]
fn what_agents_remember_of_earlier_burn_ins_outlives_them_and_the_leader() {
    let mut site = fleet(12, 0);
    // Of n0 two warnings came before.
    let low = |number| result(number, 3_850_000);
    lead(&mut site);
    for nth in 0..12 {
        let all = if nth == 0 { vec![low(1), low(2), low(3)] } else { vec![result(1, SOUND)] };
        tell_earlier(&mut site, nth, all);
    }
    let (held, _) = look(&mut site);
    assert_eq!(held.len(), 1);
    assert!(held[0].why.as_deref().unwrap().ends_with("in 3 burn-ins in a row"), "{held:?}");
    let last = site.leader.last_burn_in(&held[0].node, GpuIndex(0)).unwrap();
    assert_eq!((last.number, &last.numbers), (Revision(3), &low(3).numbers));
    let orders = orders(&site, "n0");
    assert!(!orders.tell_earlier, "once told it is not asked for again");
    assert_eq!(behind(&site), (12, 0, 1));
}

#[test]
fn not_all_are_asked_at_once_and_who_does_not_answer_makes_room() {
    let mut site = fleet(150, 0);
    lead(&mut site);
    let asked = |site: &Site| {
        (0..150).filter(|nth| orders(site, &format!("n{nth}")).tell_earlier).collect::<Vec<_>>()
    };
    let hear = |site: &mut Site, nodes: std::ops::Range<usize>| {
        nodes.for_each(|nth| tell(site, nth, result(1, SOUND)));
    };
    hear(&mut site, 0..150);
    assert_eq!(asked(&site), (0..64).collect::<Vec<_>>());
    site.now += 10_000;
    hear(&mut site, 100..150);
    assert_eq!(asked(&site), (100..150).collect::<Vec<_>>());
    // Those that told, and of whom nothing is taken in yet, count as well.
    for nth in 100..150 {
        tell_earlier(&mut site, nth, vec![]);
    }
    hear(&mut site, 0..150);
    assert_eq!(asked(&site).len(), 14);
    look(&mut site);
    hear(&mut site, 0..100);
    assert_eq!(asked(&site).len(), 64);
}

/// As fast as all others; this is what its training step gives.
fn giving(number: u64, digest: u64) -> BurnInResult {
    let by_kernel = [("golden_bf16".to_owned(), digest), ("unit_integer".to_owned(), 5)].into();
    BurnInResult { digests: Some(Digests { recipe: 1, by_kernel }), ..result(number, SOUND) }
}

/// A site of so many nodes with a GPU each, the first of which are wrong.
fn wrong_fleet(nodes: usize, wrong: usize) -> Site {
    let mut site = fleet(nodes, 0);
    (0..nodes).for_each(|nth| tell(&mut site, nth, giving(2, if nth < wrong { 6 } else { 7 })));
    site
}

#[test]
fn who_computes_something_else_than_all_others_is_held_back_until_it_does_no_more() {
    let mut site = wrong_fleet(12, 1);
    let (held, alarms) = look(&mut site);
    assert_eq!((held.len(), held[0].node.as_str(), &alarms[..]), (1, "n0", &[][..]));
    let said = "differs from its fleet: golden_bf16 gives 0000000000000006, and 11 of 11 peers \
                0000000000000007";
    assert_eq!(held[0].why.as_deref(), Some(said));
    let found = site.leader.differs(&held[0].node, GpuIndex(0));
    assert_eq!(
        (found.len(), found[0].lag, found[0].kernel.as_str()),
        (1, Lag::Fault, "golden_bf16")
    );
    let counts = site.leader.compared();
    assert_eq!((counts.all, counts.behind, counts.differing), (12, (0, 0), (0, 1)));

    release(&mut site, 0);
    assert_eq!(look(&mut site).0.len(), 0, "it is to be burnt in first");
    // The next leader hears the old result again.
    lead(&mut site);
    (0..12).for_each(|nth| tell(&mut site, nth, giving(2, if nth == 0 { 6 } else { 7 })));
    assert_eq!(look(&mut site).0.len(), 0);
    site.poll();
    let node = "n0".parse().unwrap();
    let permit = site.state.nodes.get(&node).unwrap().gpus[0].permit.clone().unwrap();
    tell(&mut site, 0, giving(permit.number.0, 7));
    assert_eq!(look(&mut site).0.len(), 0, "it was repaired");
    assert_eq!(site.leader.compared().differing, (0, 0));
}

#[test]
fn of_many_that_are_wrong_no_more_are_held_back_than_the_site_allows() {
    let mut site = wrong_fleet(40, 9);
    let (held, alarms) = look(&mut site);
    assert_eq!((held.len(), alarms), (4, vec![Alarm::GpusBehind { gpus: 5 }]));
    assert_eq!(site.leader.compared().differing, (0, 9));
}

#[test]
fn where_no_clear_majority_says_who_is_wrong_an_alarm_is_raised_and_all_run_on() {
    let mut site = wrong_fleet(12, 5);
    let (held, alarms) = look(&mut site);
    assert_eq!((held, alarms), (vec![], vec![Alarm::DigestsDiffer { gpus: 5 }]));
    assert_eq!(site.leader.compared().differing, (5, 0));
}

#[test]
fn who_is_heard_first_does_not_decide_who_is_wrong() {
    let mut site = wrong_fleet(60, 8);
    let of = |nth: usize| giving(2, if nth < 8 { 6 } else { 7 });
    site.leader = Leader::new(Instant(site.now), 2);
    (0..9).for_each(|nth| tell(&mut site, nth, of(nth)));
    assert_eq!(look(&mut site).0, [], "so far most say what is wrong");
    (9..60).for_each(|nth| tell(&mut site, nth, of(nth)));
    let (mut held, _) = look(&mut site);
    held.sort_by(|a, b| a.node.cmp(&b.node));
    let nodes: Vec<&str> = held.iter().map(|it| it.node.as_str()).collect();
    assert_eq!(nodes, ["n0", "n1", "n2", "n3", "n4", "n5"], "a tenth of the class");
}
