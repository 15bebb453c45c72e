//! Lanes: long-lived streams of frames, both ways, for what would cost too much as single calls.
//!
//! ```text
//!   send ──bounded queue──▶ task ──▶ stream ──▶ recv
//! ```
//!
//! Every operation is safe to cancel: a frame is queued whole or not at all, and what has arrived
//! of a frame stays with the lane.

use bytes::{Buf, Bytes, BytesMut};
use fabric_core::frame::{FrameHead, FrameKind, HEAD_LEN};
use quinn::RecvStream;
use specs::wire::method::{Method, RESPONSE_MAX};
use tokio::sync::mpsc;

use crate::env::Env;
use crate::settings::LANE_QUEUE;
use crate::stream::Writer;

/// Bytes that are asked of the stream at a time.
const READ_SIZE: usize = 64 * 1024;

/// A frame that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    #[error("the lane is closed")]
    Closed,
    #[error("a frame of {len} bytes exceeds the lane's limit of {max}")]
    TooLarge { len: usize, max: usize },
}

/// Both directions of a lane.
#[derive(Debug)]
pub struct Lane {
    sender: LaneSender,
    receiver: LaneReceiver,
}

/// The sending direction. Dropping it finishes it.
#[derive(Debug)]
pub struct LaneSender {
    queue: Option<mpsc::Sender<Bytes>>,
    frame_max: usize,
}

/// The receiving direction. Dropping it tells the other side to send no more.
#[derive(Debug)]
pub struct LaneReceiver {
    stream: RecvStream,
    arrived: BytesMut,
    frame_max: usize,
    ended: bool,
}

/// Which end of a lane this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Opener,
    Server,
}

impl Lane {
    /// The one who opens a lane sends frames of at most [`Method::request_max`], the one who
    /// serves it of at most [`RESPONSE_MAX`] bytes.
    pub(crate) fn new(
        env: &Env,
        method: Method,
        end: End,
        writer: Writer,
        stream: RecvStream,
    ) -> Self {
        let (send_max, receive_max) = match end {
            End::Opener => (method.request_max(), RESPONSE_MAX),
            End::Server => (RESPONSE_MAX, method.request_max()),
        };
        let (queue, frames) = mpsc::channel(LANE_QUEUE);
        env.spawn(write_frames(writer, frames));
        Self {
            sender: LaneSender { queue: Some(queue), frame_max: send_max },
            receiver: LaneReceiver {
                stream,
                arrived: BytesMut::new(),
                frame_max: receive_max,
                ended: false,
            },
        }
    }

    /// As [`LaneSender::send`].
    ///
    /// # Errors
    /// As [`LaneSender::send`].
    pub async fn send(&self, frame: impl Into<Bytes>) -> Result<(), LaneError> {
        self.sender.send(frame).await
    }

    /// As [`LaneReceiver::recv`].
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// As [`LaneSender::finish`].
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (LaneSender, LaneReceiver) {
        (self.sender, self.receiver)
    }
}

impl LaneSender {
    /// Queues a frame; waits while the queue is full. That it was queued does not say that it
    /// arrived.
    ///
    /// # Errors
    /// The lane is finished or lost, or the frame is larger than the lane carries.
    pub async fn send(&self, frame: impl Into<Bytes>) -> Result<(), LaneError> {
        let frame = frame.into();
        let (len, max) = (frame.len(), self.frame_max);
        if len > max {
            return Err(LaneError::TooLarge { len, max });
        }
        let queue = self.queue.as_ref().ok_or(LaneError::Closed)?;
        queue.send(frame).await.map_err(|_| LaneError::Closed)
    }

    /// Ends when nothing more can be sent: the other side reads no more, or is lost.
    pub async fn closed(&self) {
        if let Some(queue) = &self.queue {
            queue.closed().await;
        }
    }

    /// Says that nothing follows; what is queued is still sent.
    pub fn finish(&mut self) {
        self.queue = None;
    }
}

impl LaneReceiver {
    /// The next frame; none when the other side has finished, or is lost: only a message of the
    /// lane's own can tell the two apart.
    pub async fn recv(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(frame) = self.whole_frame() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match self.stream.read_chunk(READ_SIZE, true).await {
                Ok(Some(chunk)) => self.arrived.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(_) => self.ended = true,
            }
        }
    }

    /// Waits for a frame and takes with it what else has arrived whole, up to `max` frames. Returns
    /// how many there are: none as [`LaneReceiver::recv`].
    pub async fn recv_many(&mut self, frames: &mut Vec<Bytes>, max: usize) -> usize {
        let Some(first) = self.recv().await else { return 0 };
        frames.push(first);
        let mut count = 1;
        while count < max
            && let Some(next) = self.whole_frame()
        {
            frames.push(next);
            count += 1;
        }
        count
    }

    /// A frame that has arrived whole. Bytes that cannot be one end the lane.
    fn whole_frame(&mut self) -> Option<Bytes> {
        let head = FrameHead::parse(*self.arrived.first_chunk::<HEAD_LEN>()?)
            .and_then(|head| head.expect(FrameKind::Lane, self.frame_max));
        let Ok(len) = head else {
            self.ended = true;
            return None;
        };
        if self.arrived.len() < HEAD_LEN + len {
            self.arrived.reserve(HEAD_LEN + len - self.arrived.len());
            return None;
        }
        self.arrived.advance(HEAD_LEN);
        Some(self.arrived.split_to(len).freeze())
    }
}

async fn write_frames(mut writer: Writer, mut frames: mpsc::Receiver<Bytes>) {
    let stopped = writer.done();
    let write = async {
        let mut batch = Vec::with_capacity(LANE_QUEUE);
        while frames.recv_many(&mut batch, LANE_QUEUE).await > 0 {
            if writer.frames(FrameKind::Lane, batch.drain(..)).await.is_err() {
                return;
            }
        }
        writer.finish();
    };
    // The other side may stop reading while nothing is sent; the sender must learn of it.
    tokio::select! {
        () = write => {}
        () = stopped => {}
    }
}
