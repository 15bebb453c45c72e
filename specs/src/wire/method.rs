//! What one process may ask another. A number is never reused.

use crate::unit::Millis;

/// Which roles may call a method; the table itself is in `fabric-core`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plane {
    /// A user of the site, or a controller of the site on a user's behalf.
    Client,
    /// An agent of the site asks a controller.
    Agent,
    /// A controller of the site asks an agent.
    Node,
    /// A controller of another site.
    Peer,
    /// A controller of the same site.
    Raft,
    /// Someone without an identity who holds a one-time token.
    Token,
}

macro_rules! methods {
    ($( $number:literal => $name:ident, $text:literal, $plane:ident, $request_max:literal, $deadline:literal; )*) => {
        crate::enumeration! {
            /// A method. Its text is `noun.verb`, used in logs and metrics.
            pub enum Method {
                $( $number => $name = $text, )*
            }
        }

        impl Method {
            #[must_use]
            pub fn plane(self) -> Plane {
                match self { $( Self::$name => Plane::$plane, )* }
            }

            /// Largest request, in bytes; checked before anything is allocated.
            #[must_use]
            pub fn request_max(self) -> usize {
                match self { $( Self::$name => $request_max, )* }
            }

            /// The deadline of a call whose caller names none.
            #[must_use]
            pub fn deadline(self) -> Millis {
                match self { $( Self::$name => Millis($deadline), )* }
            }
        }
    };
}

/// Largest answer to any method, in bytes.
pub const RESPONSE_MAX: usize = 16 << 20;

methods! {
    // Clients. Requests and answers are in `wire::client`.
    100 => JobSubmit, "job.submit", Client, 0x10_0000, 10_000;
    101 => JobCancel, "job.cancel", Client, 4_096, 10_000;
    102 => JobList, "job.list", Client, 4_096, 10_000;
    103 => JobShow, "job.show", Client, 4_096, 10_000;
    104 => JobWait, "job.wait", Client, 4_096, 35_000;
    105 => JobLogs, "job.logs", Client, 4_096, 35_000;
    106 => JobWhy, "job.why", Client, 4_096, 10_000;
    110 => NodeList, "node.list", Client, 4_096, 10_000;
    111 => NodeDrain, "node.drain", Client, 4_096, 10_000;
    112 => NodeEnroll, "node.enroll", Client, 4_096, 10_000;
    113 => GpuList, "gpu.list", Client, 4_096, 10_000;
    114 => GpuWithhold, "gpu.withhold", Client, 4_096, 10_000;
    115 => BurnInStart, "burn-in.start", Client, 4_096, 10_000;
    116 => HealthLimitsShow, "health-limits.show", Client, 4_096, 10_000;
    117 => HealthLimitsSet, "health-limits.set", Client, 4_096, 10_000;
    120 => SiteList, "site.list", Client, 4_096, 10_000;
    121 => SiteInvite, "site.invite", Client, 4_096, 10_000;
    122 => SiteJoin, "site.join", Client, 16_384, 30_000;
    123 => GrantList, "grant.list", Client, 4_096, 10_000;
    124 => LoanList, "loan.list", Client, 4_096, 10_000;
    125 => Capacity, "capacity.show", Client, 4_096, 10_000;
    130 => ControllerList, "controller.list", Client, 4_096, 10_000;
    131 => ControllerAdd, "controller.add", Client, 16_384, 10_000;
    132 => ControllerRemove, "controller.remove", Client, 4_096, 10_000;
    133 => ControllerStatus, "controller.status", Client, 4_096, 5_000;
    134 => ControllerTransfer, "controller.transfer", Client, 4_096, 10_000;
    140 => StaleRead, "stale.read", Client, 8_192, 5_000;
    141 => BackupOpen, "backup.open", Client, 4_096, 10_000;
    142 => BackupRead, "backup.read", Client, 4_096, 10_000;
    150 => UpgradeStatus, "upgrade.status", Client, 4_096, 10_000;
    151 => UpgradeFinalize, "upgrade.finalize", Client, 4_096, 10_000;
    152 => UpgradeRehearse, "upgrade.rehearse", Client, 4_096, 10_000;
    160 => QuotaList, "quota.list", Client, 4_096, 10_000;
    161 => QuotaSet, "quota.set", Client, 4_096, 10_000;
    162 => QuotaRemove, "quota.remove", Client, 4_096, 10_000;
    170 => SignalsSet, "signals.set", Client, 4_096, 10_000;
    171 => WeightsSet, "weights.set", Client, 4_096, 10_000;
    172 => DataSetSet, "data.set", Client, 16_384, 10_000;
    173 => DataSetRemove, "data.remove", Client, 4_096, 10_000;
    174 => LinkSet, "link.set", Client, 4_096, 10_000;
    180 => ReservationList, "reservation.list", Client, 4_096, 10_000;
    181 => ReservationMake, "reservation.make", Client, 0x10_0000, 10_000;
    182 => ReservationEnd, "reservation.end", Client, 4_096, 10_000;
    // Agents. `wire::agent`.
    200 => NodeReport, "node.report", Agent, 0x10_0000, 5_000;
    210 => NodeNudge, "node.nudge", Node, 64, 2_000;
    211 => NodeLogs, "node.logs", Node, 4_096, 35_000;
    // Peers. `wire::peer`.
    300 => PeerReport, "peer.report", Peer, 0x100_0000, 5_000;
    301 => PeerNudge, "peer.nudge", Peer, 64, 2_000;
    302 => PeerLogs, "peer.logs", Peer, 4_096, 35_000;
    // The site's own Raft group; the bodies belong to the controller.
    400 => RaftAppend, "raft.append", Raft, 0x200_0000, 5_000;
    401 => RaftVote, "raft.vote", Raft, 0x1_0000, 2_000;
    402 => RaftPreVote, "raft.pre-vote", Raft, 0x1_0000, 2_000;
    403 => RaftSnapshot, "raft.snapshot", Raft, 0x100_0000, 60_000;
    404 => RaftTransfer, "raft.transfer", Raft, 0x1_0000, 2_000;
    405 => RaftTail, "raft.tail", Raft, 0x1_0000, 2_000;
    406 => RaftVerify, "raft.verify", Raft, 0x10_0000, 5_000;
    407 => RaftArchive, "raft.archive", Raft, 0x1_0000, 10_000;
    410 => Forward, "raft.forward", Raft, 0x100_0000, 35_000;
    // Holders of a token. `wire::join`.
    500 => JoinRedeem, "join.redeem", Token, 0x1_0000, 15_000;
    501 => EnrolRedeem, "enrol.redeem", Token, 0x1_0000, 15_000;
}
