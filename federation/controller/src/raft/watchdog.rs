//! Watches for a disk that does not come back from what it was asked to do.
//!
//! A follower with such a disk is in nobody's way: the others are a majority. A leader is, since
//! nothing it says rests on its own disk any more; so it lets another lead. A disk that is away for
//! very long ends the process: another copy of it, or a person, can do something about it, and a
//! member that hangs forever is worse than one that is gone.

use std::sync::Weak;
use std::time::Duration;

use fabric_quic::env::Env;
use specs::unit::Millis;

use super::state_machine::OnFatal;
use super::{Group, Inner};

/// How often the disk is looked at.
const LOOK_SPAN: Millis = Millis(100);

/// What is too long for one write and its sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) yields: Millis,
    pub(crate) ends: Millis,
}

/// What to do about a disk that has been busy for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Yield,
    End,
}

impl Limits {
    fn judge(self, busy: Option<Duration>) -> Verdict {
        let is_over = |limit: Millis| busy.is_some_and(|busy| busy.as_millis() >= limit.0.into());
        if is_over(self.ends) {
            Verdict::End
        } else if is_over(self.yields) {
            Verdict::Yield
        } else {
            Verdict::Fine
        }
    }
}

/// Looks until the member is gone.
pub(crate) async fn watch_disk(env: Env, group: Weak<Inner>, limits: Limits, on_fatal: OnFatal) {
    let mut has_yielded = false;
    loop {
        env.sleep(LOOK_SPAN).await;
        let Some(inner) = group.upgrade() else { return };
        let group = Group { inner };
        match limits.judge(group.disk_stalled_for()) {
            Verdict::Fine => has_yielded = false,
            Verdict::Yield if has_yielded => {}
            Verdict::Yield => {
                has_yielded = true;
                tracing::warn!(
                    limit_millis = limits.yields.0,
                    "the disk of the log does not answer; if this controller leads, another shall"
                );
                group.hand_over().await;
            }
            Verdict::End => {
                let span = limits.ends;
                on_fatal(&format!("the disk of the log has not answered for {span} ms; check it"));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_given_up_in_two_steps() {
        let limits = Limits { yields: Millis(2_000), ends: Millis(10_000) };
        let judge = |millis| limits.judge(Some(Duration::from_millis(millis)));
        assert_eq!(limits.judge(None), Verdict::Fine);
        assert_eq!(judge(1_999), Verdict::Fine);
        assert_eq!((judge(2_000), judge(9_999)), (Verdict::Yield, Verdict::Yield));
        assert_eq!(judge(10_000), Verdict::End);
    }
}
