//! The vocabulary of Spillway: every word that more than one part must agree on.
//!
//! ```text
//!   job file, site file ──parse──▶ JobSpec, SiteSpec ─┐
//!                                                     ├─▶ wire messages ──codec──▶ bytes
//!   ids, units, GPU classes ──────────────────────────┘
//! ```
//!
//! # Glossary
//! One word per idea, one idea per word.
//!
//! * *site*: a cluster with its own Raft group and its own trust domain.
//! * *controller*: a member of that group. *leader*, *member*, *term*, *snapshot* are Raft's words.
//! * *node*: a machine with an *agent*. *boot*: numbers the lives of an agent.
//! * *job*: what a tenant submits, a gang of *tasks*. *attempt*: one try of it, numbered by its
//!   *epoch*, which only grows.
//! * *lease*: the right to run one attempt on named GPUs of nodes. *part*: what of it one node runs.
//! * *peer*: another site. *home*: the site a job was submitted to, for ever its authority. *host*:
//!   the site that runs it. *guest*: a job of another home, seen from the host.
//! * *grant*: a host's durable promise of capacity to a home, made of *slots* on nodes. *loan*: a
//!   host's right to run one attempt, drawn by the home against a grant. *recall*: asking for a
//!   grant back.
//! * *report*: all that one side knows, going up. *orders*: all that is wanted, going down.
//!   *revision*: numbers states.
//! * *command*: enters the log. *effect*: the key of something to be done. *plan*: a proposal.
//! * *suspicion*: the agreed doubt that a node or a peer is there; *release*: giving up on it.
//! * *make*: what GPUs have in common whose numbers are compared; one is *behind* if its are worse.
//! * *signal*: what running at a site costs, as its operator says it. *data set*: what jobs read,
//!   by name; Spillway knows where it is and where it may go, and moves none.
//! * *finished*, *cancelled*, *refused*, *lost*, *fenced*: how things end. Never *failed*, which
//!   blames before anyone knows.
//!
//! # Invariants
//! * Nothing here decides, and nothing here knows a clock, a socket or a file.
//! * A value that has been decoded or parsed keeps the rules of its type; inside, it is not
//!   checked again.
//! * A tag or a number, once used, means the same for ever.
//!
//! Deliberately absent: what is agreed in a site (`federation-core`) and how bytes travel
//! (`fabric-core`).
#![no_std]

extern crate alloc;

pub mod codec;
pub mod fault;
pub mod gpu;
pub mod id;
pub mod job;
pub mod jobfile;
pub mod measure;
pub mod quota;
pub mod signals;
pub mod site;
pub mod unit;
pub mod version;
pub mod wire;
