//! The network: delay, loss, copies, cuts. Everything that crosses it crosses as bytes, in the
//! fabric's frames, and is let in by the fabric's table of who may ask what.

use fabric_core::access;
use fabric_core::frame::{
    FrameHead, FrameKind, HEAD_LEN, HEADER_MAX, RequestHeader, check_response_len, decode_fault,
    encode_frame,
};
use fabric_core::identity::{Identity, Role};
use specs::codec::Message;
use specs::fault::Fault;
use specs::id::{CallId, SiteId};
use specs::unit::Millis;
use specs::wire::method::{Method, RESPONSE_MAX};

use crate::rng::Rng;

/// A machine, or a client, by its place in the world's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MachineId(pub(crate) usize);

impl MachineId {
    /// Its bit in a [`Cut`].
    pub(crate) fn bit(self) -> u64 {
        1 << self.0
    }
}

/// Bytes on their way. `call` stands for the stream that they travel on.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: MachineId,
    pub(crate) to: MachineId,
    pub(crate) call: CallId,
    pub(crate) bytes: Vec<u8>,
}

/// Nothing passes from any of these to any of those.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) number: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    rng: Rng,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) loss_permille: u64,
    pub(crate) copy_permille: u64,
    /// How many messages are late, by up to `slow_max`.
    pub(crate) slow_permille: u64,
    pub(crate) slow_max: Millis,
    /// The usual delay is at most this.
    pub(crate) delay_max: Millis,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Rng::of(seed, "network");
        let delay_max = Millis(40);
        Self {
            rng,
            cuts: Vec::new(),
            loss_permille: 0,
            copy_permille: 0,
            slow_permille: 0,
            slow_max: delay_max,
            delay_max,
        }
    }

    pub(crate) fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        self.cuts.iter().any(|cut| cut.from & from.bit() != 0 && cut.to & to.bit() != 0)
    }

    /// After which delays copies of a message arrive; none if it is lost.
    pub(crate) fn delays(&mut self, from: MachineId, to: MachineId) -> Vec<Millis> {
        if self.is_cut(from, to) || self.rng.chance(self.loss_permille) {
            return Vec::new();
        }
        let copies = if self.rng.chance(self.copy_permille) { 2 } else { 1 };
        (0..copies).map(|_| self.delay()).collect()
    }

    fn delay(&mut self) -> Millis {
        let is_slow = self.rng.chance(self.slow_permille);
        let high = if is_slow { self.slow_max } else { self.delay_max };
        Millis(self.rng.range(1, high.0))
    }
}

/// The frames of a question.
pub(crate) fn request(method: Method, call: CallId, body: &impl Message) -> Vec<u8> {
    let header = RequestHeader {
        method: method.number(),
        call,
        deadline: method.deadline(),
        on_behalf: None,
        lane: false,
    };
    let mut bytes = encode_frame(FrameKind::Request, &header);
    bytes.extend(encode_frame(FrameKind::Body, body));
    bytes
}

/// The frame of an answer.
pub(crate) fn answer(method: Method, body: &impl Message) -> Result<Vec<u8>, Fault> {
    let bytes = encode_frame(FrameKind::Answer, body);
    check_response_len(method, bytes.len())?;
    Ok(bytes)
}

pub(crate) fn fault(fault: &Fault) -> Vec<u8> {
    encode_frame(FrameKind::Fault, fault)
}

/// What came.
pub(crate) enum Frames<'a> {
    Request(Method, &'a [u8]),
    Answer(&'a [u8]),
    Fault(Fault),
}

fn head(bytes: &[u8]) -> Result<(FrameHead, &[u8]), String> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>().ok_or("no head")?;
    Ok((FrameHead::parse(*head).map_err(|error| error.to_string())?, rest))
}

/// Takes the frames apart, as a listener does: each length is checked before it is believed.
pub(crate) fn open(bytes: &[u8]) -> Result<Frames<'_>, String> {
    let (first, rest) = head(bytes)?;
    match first.kind {
        FrameKind::Request => {
            let len = first.expect(FrameKind::Request, HEADER_MAX).map_err(|it| it.to_string())?;
            let (content, rest) = rest.split_at_checked(len).ok_or("a short header")?;
            let header = RequestHeader::decode(content).map_err(|error| error.to_string())?;
            let method = header.known_method().map_err(|fault| fault.to_string())?;
            let (body, rest) = head(rest)?;
            let max = method.request_max();
            let len = body.expect(FrameKind::Body, max).map_err(|error| error.to_string())?;
            Ok(Frames::Request(method, rest.get(..len).ok_or("a short body")?))
        }
        FrameKind::Answer => {
            let len = first.within(RESPONSE_MAX).map_err(|error| error.to_string())?;
            Ok(Frames::Answer(rest.get(..len).ok_or("a short answer")?))
        }
        FrameKind::Fault => Ok(Frames::Fault(decode_fault(rest))),
        FrameKind::Hello | FrameKind::Welcome | FrameKind::Body | FrameKind::Lane => {
            Err(format!("a {:?} frame", first.kind))
        }
    }
}

/// Whether the caller may ask this of a process of that role.
pub(crate) fn let_in(
    method: Method,
    caller: &Identity,
    site: &SiteId,
    role: Role,
) -> Result<(), Fault> {
    access::allowed(method, caller, site, role)
}
