//! What runs in a process of its own: one check of one GPU. A question comes on standard input, the
//! answer goes to standard output, both as one line of JSON; operands to replay follow the first.

use std::io::{self, BufRead, Read, Write};

use gpu_agent_core::burn_in::counters::Counters;
use gpu_agent_core::burn_in::dump;
use gpu_agent_core::burn_in::links::Links;
use gpu_agent_core::burn_in::memory::Numbers;
use gpu_agent_core::burn_in::vote::Round;
use gpu_agent_core::burn_in::wave::Wave;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use specs::fault::{Fault, FaultCode};

use super::cuda::{self, DeviceInfo, Failure, FailureKind, Gpu};
use super::{golden, links, management, memory, votes, wave};

/// Longest question that is read.
const QUESTION_BYTES_MAX: u64 = 64 << 10;

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Check {
    /// Which GPUs there are.
    Devices,
    Units,
    Tensor,
    /// The small training step.
    Golden,
    /// The same on operands that follow the question.
    Replay,
    Memory,
    /// Copies over links.
    Links,
    /// A load that is switched on and off.
    Wave,
    /// What the management library counts.
    Counters,
    /// That, and what else it says.
    Watch,
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Units => "units",
            Self::Tensor => "tensor",
            Self::Golden => "golden",
            Self::Replay => "replay",
            Self::Memory => "memory",
            Self::Links => "links",
            Self::Wave => "wave",
            Self::Counters => "counters",
            Self::Watch => "watch",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub check: Check,
    pub gpu: u16,
    pub uuid: String,
    pub seed: u64,
    /// What the first round of each vote is made from, if from something else.
    #[serde(default)]
    pub first: Option<u64>,
    pub passes: u32,
    /// How long votes go on, all together; each is taken at least twice.
    pub seconds: u32,
    /// Which slice of an idle moment this is.
    #[serde(default)]
    pub turn: u32,
    /// How long memory is left alone between writing and checking, in a pass of its own; 0 is no
    /// such pass.
    #[serde(default)]
    pub hold_seconds: u32,
    /// Whether rows of memory are read in turns, in a pass of its own.
    #[serde(default)]
    pub rows: bool,
    /// A file of operands to replay, which follows the line.
    #[serde(skip)]
    pub dump: Vec<u8>,
    /// Whether other GPUs may be written to.
    #[serde(default)]
    pub peers: bool,
}

/// Votes that share the time: of units, caches, tensor cores, their power, and the training step.
const VOTES: u64 = 25;

impl Request {
    /// A question that needs nothing but a GPU.
    pub(super) fn of(check: Check, uuid: &str) -> Self {
        Self {
            check,
            gpu: 0,
            uuid: uuid.to_owned(),
            seed: 0,
            first: None,
            passes: 0,
            seconds: 0,
            turn: 0,
            hold_seconds: 0,
            rows: false,
            dump: Vec::new(),
            peers: false,
        }
    }

    /// What a round of a vote is made from.
    pub(super) fn seed_of(&self, round: u64) -> u64 {
        let drawn = self.seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.first.filter(|_| round == 0).unwrap_or(drawn)
    }

    /// The share of one of the votes.
    pub(super) fn nanos_each(&self) -> u64 {
        u64::from(self.seconds) * 1_000_000_000 / VOTES
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Devices(Vec<DeviceInfo>),
    Votes(Vec<Round>),
    Memory(Numbers),
    Links(Links),
    Wave(Wave, Vec<Round>),
    Counters(Counters, management::Driven),
    Watch(Box<management::Watched>),
    Failed(Failure),
}

fn answer(request: &Request) -> Answer {
    let done = match request.check {
        Check::Devices => cuda::devices().map(Answer::Devices),
        Check::Units => {
            open(request).and_then(|gpu| votes::units(&gpu, request)).map(Answer::Votes)
        }
        Check::Tensor => {
            open(request).and_then(|gpu| votes::tensor(&gpu, request)).map(Answer::Votes)
        }
        Check::Golden => {
            open(request).and_then(|gpu| golden::test(&gpu, request)).map(Answer::Votes)
        }
        Check::Replay => {
            open(request).and_then(|gpu| golden::replay(&gpu, &request.dump)).map(Answer::Votes)
        }
        Check::Memory => {
            open(request).and_then(|gpu| memory::test(&gpu, request)).map(Answer::Memory)
        }
        Check::Links => open(request).and_then(|gpu| links::test(&gpu, request)).map(Answer::Links),
        Check::Wave => open(request)
            .and_then(|gpu| wave::test(&gpu, request))
            .map(|(wave, rounds)| Answer::Wave(wave, rounds)),
        Check::Counters => management::read(&request.uuid)
            .map(|(counters, driven)| Answer::Counters(counters, driven)),
        Check::Watch => management::watch(&request.uuid).map(|it| Answer::Watch(Box::new(it))),
    };
    done.unwrap_or_else(Answer::Failed)
}

/// As [`answer`], where the driver's library is none: what is built on it panics when a function is
/// absent, and this process is there to be lost.
fn answer_whatever(request: &Request) -> Answer {
    std::panic::set_hook(Box::new(|_| ()));
    let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(request)));
    answered.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let message = format!("the NVIDIA driver's library cannot be used: {line}");
        Answer::Failed(Failure::new(FailureKind::Driver, message))
    })
}

/// The GPU that is meant, wherever it stands by now: if one before it is gone, the driver's numbers are
/// others, and another GPU may be at a job's work.
fn open(request: &Request) -> Result<Gpu, Failure> {
    if request.uuid.is_empty() {
        return Gpu::open(request.gpu);
    }
    let found = cuda::devices()?.into_iter().find(|it| it.uuid == request.uuid);
    let gone = || Failure::new(FailureKind::Device, "the driver does not know the GPU any more");
    Gpu::open(found.ok_or_else(gone)?.index)
}

/// Answers the one question that standard input holds.
///
/// # Errors
/// It is none, or nobody reads.
pub fn answer_stdin() -> Result<(), Fault> {
    // Whoever asked is gone: so is the wish to keep a GPU at work.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let bad = |what: String| Fault::new(FaultCode::InvalidArgument, what);
    let mut text = String::new();
    let mut from = io::stdin().lock();
    let read = from.by_ref().take(QUESTION_BYTES_MAX).read_line(&mut text);
    read.map_err(|error| bad(format!("cannot read the question: {error}")))?;
    let mut request: Request = serde_json::from_str(&text)
        .map_err(|error| bad(format!("a check is started by a burn-in alone: {error}")))?;
    let read = from.take(dump::BYTES_MAX as u64 + 1).read_to_end(&mut request.dump);
    read.map_err(|error| bad(format!("cannot read what follows the question: {error}")))?;
    let text = serde_json::to_string(&answer_whatever(&request))
        .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Fault::new(FaultCode::Internal, format!("cannot answer: {error}")))
}
