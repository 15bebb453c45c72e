//! The vigil beside a walk over all nodes, which says what is right.
#![allow(clippy::unwrap_used, reason = "tests")]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;
use specs::id::{Boot, NodeId, Question, Revision};
use specs::unit::{Instant, Millis};

use super::{Vigil, Watch};
use crate::state::Node;
use crate::table::Table;

const REIGN: Instant = Instant(1_000);
const AFTER: Millis = Millis(500);

#[derive(Debug, Clone)]
enum Step {
    /// A node is written: whether its agent was ever heard, and whether it is suspected.
    Write(u8, bool, Option<u8>),
    Remove(u8),
    /// It asks, and its last answer had arrived.
    Ask(u8),
    Pass(u16),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..12u8, any::<bool>(), any::<Option<u8>>()).prop_map(|(n, heard, s)| Step::Write(n, heard, s)),
        1 => (0..12u8).prop_map(Step::Remove),
        6 => (0..12u8).prop_map(Step::Ask),
        4 => (0..400u16).prop_map(Step::Pass),
        6 => Just(Step::Look),
    ]
}

fn id(n: u8) -> NodeId {
    alloc::format!("n{n}").parse().unwrap()
}

fn node(n: u8, is_heard: bool, suspicion: Option<u8>) -> Node {
    let boot = Boot(u64::from(is_heard));
    let suspicion = suspicion.map(|revision| Revision(revision.into()));
    Node { boot, suspicion, ..Node::awaited(id(n)) }
}

proptest! {
    #[test]
    fn whoever_a_walk_finds_silent_or_suspected_the_vigil_finds(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut nodes: Table<NodeId, Node> = Table::default();
        let mut watches: BTreeMap<NodeId, Watch> = BTreeMap::new();
        let mut vigil = Vigil::default();
        let (mut now, mut asked) = (REIGN, 0);
        for step in steps {
            match step {
                Step::Write(n, is_heard, suspicion) => {
                    nodes.insert(id(n), node(n, is_heard, suspicion));
                }
                Step::Remove(n) => {
                    nodes.remove(&id(n));
                }
                Step::Ask(n) => {
                    asked += 1;
                    let watch = watches.entry(id(n)).or_default();
                    let last = watch.asked.keys().last().copied().unwrap_or_default();
                    watch.hear(now, Question(asked), last);
                }
                Step::Pass(span) => now = now.after(Millis(span.into())),
                Step::Look => {
                    let since = |id: &NodeId| {
                        watches.get(id).map_or(REIGN, |watch| watch.silent_since(REIGN))
                    };
                    vigil.follow(&nodes, REIGN);
                    let until = Instant(now.0 - AFTER.0);
                    let heard = || nodes.values().filter(|node| node.boot != Boot(0));
                    let is_silent = |node: &&Node| now.since(since(&node.id)) >= AFTER;
                    let silent: Vec<NodeId> =
                        heard().filter(is_silent).map(|node| node.id.clone()).collect();
                    prop_assert_eq!(vigil.silent(until, since), silent);
                    prop_assert_eq!(vigil.nodes(), heard().count());
                    prop_assert_eq!(vigil.violations(&nodes, REIGN, since), Vec::<&str>::new());
                }
            }
        }
    }
}

#[test]
fn a_copy_of_a_question_makes_its_answer_no_later() {
    let mut watch = Watch::default();
    watch.hear(Instant(10), Question(1), Question(0));
    // A copy, after the answer was given.
    watch.hear(Instant(20), Question(1), Question(0));
    watch.hear(Instant(30), Question(2), Question(1));
    assert_eq!(watch.asked_at(Question(1)), Some(Instant(10)));
    watch.hear(Instant(40), Question(3), Question(2));
    watch.hear(Instant(50), Question(1), Question(0));
    assert_eq!(watch.asked_at(Question(1)), None, "it was forgotten");
    assert_eq!(watch.asked_at(Question(2)), Some(Instant(30)));
}
