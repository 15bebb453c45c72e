//! What copies over links say: whether all arrives as it was sent, and whether the link to the host
//! is as wide and as fast under load as it can be.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::measured::{self, Measured};
use super::{Blame, Finding, Severity};

/// The check's name in findings.
pub const CHECK: &str = "links";

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    HostToDevice,
    DeviceToHost,
    /// Both at once; the bytes are those of both.
    BothWays,
    /// From this GPU to another.
    Peer,
}

/// A word that arrived as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// In bytes from the beginning of the copy.
    pub offset: u64,
    pub want: u32,
    pub got: u32,
}

/// Copies of one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    pub way: Way,
    /// The other GPU's id; empty for the host.
    pub peer: String,
    pub bytes: u64,
    pub nanos: u64,
    /// The first words that were wrong.
    pub wrong: Vec<Wrong>,
    /// What was copied was no longer what was written before it was sent, or the memory that it came
    /// to does not hold: the link is not to blame.
    pub is_doubtful: bool,
}

/// Whether other GPUs could be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peers {
    /// There is no other GPU, or none was to be touched. That is no pass.
    #[default]
    NotApplicable,
    /// There are others, and the driver gives no way to them.
    NoAccess,
    Tested,
}

impl Peers {
    /// One could not be reached.
    #[must_use]
    pub fn or_no_access(self) -> Self {
        match self {
            Self::NotApplicable | Self::NoAccess => Self::NoAccess,
            Self::Tested => Self::Tested,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    pub transfers: Vec<Transfer>,
    pub peers: Peers,
    /// Within the GPU's own memory: bytes read and written.
    pub copy_bytes: u64,
    pub copy_nanos: u64,
    /// The best that the link to the host was seen at under load, and what it can be.
    pub lanes: Option<u32>,
    pub lanes_max: Option<u32>,
    pub generation: Option<u32>,
    pub generation_max: Option<u32>,
}

impl Links {
    /// Copies both ways at once that show what one of them showed alone: that way is to blame.
    fn is_explained(&self, it: &Transfer) -> bool {
        let flips = |it: &Transfer| -> Vec<(u64, u32)> {
            it.wrong.iter().map(|word| (word.offset, word.want ^ word.got)).collect()
        };
        let is_alone = |it: &Transfer| matches!(it.way, Way::HostToDevice | Way::DeviceToHost);
        let seen = flips(it);
        let mut alone = self.transfers.iter().filter(|other| is_alone(other));
        it.way == Way::BothWays
            && !seen.is_empty()
            && alone.any(|other| !other.is_doubtful && flips(other) == seen)
    }
}

/// What the numbers say. Rates are not judged: what is slow is told by comparison.
#[must_use]
pub fn judge(links: &Links) -> Vec<Finding> {
    let mut findings = Vec::new();
    for it in &links.transfers {
        let to = if it.peer.is_empty() { String::new() } else { format!(" to {}", it.peer) };
        let way = way_name(it.way);
        if links.is_explained(it) {
            continue;
        }
        if it.is_doubtful {
            let what = format!("copies {way}{to} cannot be judged: the memory does not hold");
            findings.push(Finding::unknown(CHECK, what));
        } else if let Some(wrong) = it.wrong.first() {
            let bits = it.wrong.iter().fold(0, |all, it| all | (it.want ^ it.got));
            let message = format!(
                "a copy {way}{to} arrived with wrong bits {bits:08x}, first at byte {}",
                wrong.offset
            );
            let blame = Blame::Transfer { way: it.way, offset: wrong.offset, bits };
            findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
        }
    }
    if let (Some(lanes), Some(lanes_max)) = (links.lanes, links.lanes_max)
        && lanes < lanes_max
    {
        let message = format!("under load the link to the host has {lanes} of {lanes_max} lanes");
        findings.push(Finding::new(
            CHECK,
            Severity::Fault,
            Blame::Link { lanes, lanes_max },
            message,
        ));
    }
    if let (Some(is), Some(can)) = (links.generation, links.generation_max)
        && is < can
    {
        let message = format!("under load the link to the host is of generation {is}, not {can}");
        let what = String::from("generation of the link");
        findings.push(Finding::new(CHECK, Severity::Fault, Blame::Device { what }, message));
    }
    findings
}

/// Notes the rates.
pub fn measure(links: &Links, into: &mut Measured) {
    into.add_rate(measured::COPY, links.copy_bytes, links.copy_nanos);
    let mut slowest: Option<&Transfer> = None;
    for it in &links.transfers {
        let name = match it.way {
            Way::HostToDevice => measured::HOST_TO_DEVICE,
            Way::DeviceToHost => measured::DEVICE_TO_HOST,
            Way::BothWays => measured::BOTH_WAYS,
            Way::Peer => {
                // All are of one size.
                if slowest.is_none_or(|slow| it.nanos > slow.nanos) {
                    slowest = Some(it);
                }
                continue;
            }
        };
        into.add_rate(name, it.bytes, it.nanos);
    }
    if let Some(it) = slowest {
        into.add_rate(measured::PEERS, it.bytes, it.nanos);
    }
}

fn way_name(way: Way) -> &'static str {
    match way {
        Way::HostToDevice => "from the host",
        Way::DeviceToHost => "to the host",
        Way::BothWays => "both ways at once",
        Way::Peer => "to another GPU",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, verdict};
    use super::*;

    fn transfer(way: Way) -> Transfer {
        let (peer, wrong) = (String::new(), Vec::new());
        Transfer { way, peer, bytes: 100, nanos: 1_000, wrong, is_doubtful: false }
    }

    fn links(transfers: &[Transfer]) -> Links {
        let (lanes, generation) = (Some(16), Some(5));
        Links {
            transfers: transfers.to_vec(),
            lanes,
            lanes_max: lanes,
            generation,
            generation_max: generation,
            ..Links::default()
        }
    }

    #[test]
    fn what_arrives_as_it_was_sent_passes() {
        let it = links(&[transfer(Way::HostToDevice), transfer(Way::Peer)]);
        assert_eq!(judge(&it), []);
    }

    #[test]
    fn a_wrong_word_is_named_with_its_way_and_place() {
        let mut wrong = transfer(Way::DeviceToHost);
        wrong.wrong.push(Wrong { offset: 24, want: 1, got: 5 });
        let found = judge(&links(&[wrong.clone()]));
        let blame = Blame::Transfer { way: Way::DeviceToHost, offset: 24, bits: 4 };
        assert_eq!((found.len(), &found[0].blame), (1, &blame));
        wrong.is_doubtful = true;
        assert_eq!(verdict(&judge(&links(&[wrong]))), Verdict::Unknown);
    }

    #[test]
    fn what_one_way_shows_alone_is_not_told_again_of_both_at_once() {
        let wrong = |way, offset| Transfer {
            wrong: [Wrong { offset, want: 1, got: 5 }].into(),
            ..transfer(way)
        };
        let ways = |it: &Links| judge(it).into_iter().map(|it| it.blame).collect::<Vec<_>>();
        let blame = |way, offset| Blame::Transfer { way, offset, bits: 4 };
        let (there, both) = (wrong(Way::HostToDevice, 24), wrong(Way::BothWays, 24));
        assert_eq!(ways(&links(&[there.clone(), both.clone()])), [blame(Way::HostToDevice, 24)]);
        let other = blame(Way::BothWays, 28);
        let two = links(&[there.clone(), wrong(Way::BothWays, 28)]);
        assert_eq!(ways(&two), [blame(Way::HostToDevice, 24), other]);
        assert_eq!(ways(&links(core::slice::from_ref(&both))), [blame(Way::BothWays, 24)]);
        let doubtful = Transfer { is_doubtful: true, ..there };
        assert_eq!(judge(&links(&[doubtful, both])).len(), 2);
    }

    #[test]
    fn a_link_that_is_narrow_or_slow_under_load_is_a_fault_and_one_that_does_not_say_is_not() {
        let narrow = Links { lanes: Some(8), ..links(&[]) };
        assert_eq!(judge(&narrow)[0].blame, Blame::Link { lanes: 8, lanes_max: 16 });
        let slow = Links { generation: Some(3), ..links(&[]) };
        assert_eq!(verdict(&judge(&slow)), Verdict::Fault);
        assert_eq!(judge(&Links { lanes: None, generation: None, ..links(&[]) }), []);
    }

    #[test]
    fn the_slowest_pair_is_what_is_compared() {
        let large = |way, nanos| Transfer { bytes: 4_000_000_000, nanos, ..transfer(way) };
        let ways = [(Way::Peer, 1_000), (Way::Peer, 2_000), (Way::BothWays, 1_000)];
        let mut into = Measured::default();
        measure(&links(&ways.map(|(way, millis)| large(way, millis * 1_000_000))), &mut into);
        assert_eq!(into.0[measured::PEERS], 2_000_000_000);
        assert_eq!(into.0[measured::BOTH_WAYS], 4_000_000_000);
        assert_eq!(into.0.get(measured::COPY), None);
        let mut into = Measured::default();
        measure(&links(&[transfer(Way::Peer), transfer(Way::BothWays)]), &mut into);
        assert_eq!(into, Measured::default(), "they are over too soon");
    }
}
