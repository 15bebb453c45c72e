//! What a site agrees on, how it changes, and what its leader makes of it. No IO and no clock.
//!
//! ```text
//!            reports ─▶ Leader ─▶ Command ─▶ (the shell's log) ─▶ apply ─▶ State, effects
//!                          ▲                                                  │
//!                          └───────────── reads, orders, plans ◀──────────────┘
//! ```
//!
//! # Invariants
//! * `apply` is total and the same everywhere: no clock, no chance, no unordered map. A command
//!   that lost its sense changes the revision and nothing else.
//! * A command that ends something names that very thing: a suspicion by the revision at which it
//!   was applied, an agent by its boot, a lease by an id that is never reused, a home's orders by
//!   their revision.
//! * A job's epochs only grow, and a new one begins only after the last is known to have ended, or
//!   after its lease or loan has surely run out.
//! * Whatever a plan proposes is checked again by `apply`.
//!
//! Deliberately absent: who may ask (`fabric-core`), how the log is agreed on and kept
//! (`federation-controller`, `federation-wal`).
#![no_std]

extern crate alloc;

mod apply;
mod archive;
mod breaker;
mod burn_in;
mod client;
mod command;
mod compare;
mod effect;
mod exchange;
mod health;
mod invariant;
mod job;
mod leader;
mod lease;
#[cfg(feature = "next")]
mod next;
mod node;
mod placement;
mod queue;
mod quota;
mod reserve;
mod restore;
mod signals;
mod site;
mod state;
mod table;
mod version;
mod view;
mod watch;

pub use apply::{Reply, apply};
pub use archive::{Leaving, Retention, leaving};
pub use breaker::{limits, limits_view};
pub use burn_in::permitted;
pub use client::{
    gpu_views, grant_views, job_state, job_view, loan_views, node_views, resolve_jobs, site_views,
};
pub use command::{
    AcceptNode, AcceptPeer, AddController, AddPeer, AdmitJobs, ArchiveJobs, Assignment, AttemptKey,
    CancelJob, Command, CommitPlan, DrainNode, EndPermits, EndReservation, ExpireGrant, FoundSite,
    LeasePlan, LoanPlan, MakeGrant, MakeReservation, NewPermit, OpenToken, PartPlan, PeerRecord,
    PermitBurnIns, PermitEnd, Place, PreemptJobs, RecallGrant, RecordHealth, RecordParts,
    RecordProofs, RegisterNode, RemoveController, RemoveDataSet, RemoveQuota, ReturnGrant,
    SetDataSet, SetHealthLimits, SetLink, SetQuota, SetSignals, SetTrust, SetVersion, SetWeights,
    WantBurnIns, WithholdGpu,
};
pub use effect::Effect;
pub use health::asks_for_proofs;
pub use invariant::{Violation, check};
pub use leader::{Alarm, ComparedCounts, Leader};
#[cfg(feature = "next")]
pub use next::Note;
pub use placement::fleet::{
    Ask, AttributeIndex, Busy, ClassIndex, ClassTotals, Fill, Fleet, FreeShape, GPU_MILLI,
    GROUPS_LOOKED_AT_MAX, GpuAsk, GpuMask, GroupIndex, LOOKED_AT_MAX, Level, NODE_GPUS_MAX,
    NodeIndex, NodeShape, Parts, Placement, Scorer, Shortage, Taken, Together,
};
pub use placement::taste::Taste;
pub use placement::why::{could_ever_run, why};
pub use placement::{order, score, spill};
pub use queue::preempt::PREEMPTIONS_MAX;
pub use queue::why::queue_why;
pub use quota::{account_of, quota_views};
pub use reserve::choose::{ReserveAsk, Window, choose};
pub use reserve::reservation_views;
pub use restore::{RestorePlan, Restored, reign, restore};
pub use state::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkError, StateBuilder};
pub use state::compact::{Few, PackedSpec};
pub use state::{
    Agreed, Attempt, Controller, Doubt, Gpu, Grant, Guest, GuestKey, Held, HeldProof, Job,
    JobPhase, Lease, Loan, Node, Part, Peer, Permit, PermitKind, Reservation, State, Token,
    TokenKind, Wish,
};
pub use table::{Index, Table};
pub use version::{KNOWN, raised_by};
pub use view::capacity;
