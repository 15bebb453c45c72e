//! Frames on one stream.

use bytes::{Bytes, BytesMut};
use fabric_core::frame::{
    FAULT_MAX, FrameError, FrameHead, FrameKind, HEAD_LEN, bounded_fault, decode_fault,
    encode_frame,
};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use specs::fault::Fault;

/// What is allocated at once for a frame, however long it says it is.
const READ_AHEAD: usize = 64 * 1024;
/// Contents up to this size are copied next to each other: a chunk costs more than the copy.
const COPIED_MAX: usize = 8 * 1024;
/// Code of a stream that is given up before its end.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the stream ended too early")]
    Ended,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The reading half. `frame` is not safe to cancel and is used where the stream dies with it.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: RecvStream,
}

impl Reader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream }
    }

    pub(crate) fn into_inner(self) -> RecvStream {
        self.stream
    }

    pub(crate) async fn head(&mut self) -> Result<FrameHead, StreamError> {
        let bytes = self.bytes(HEAD_LEN).await?;
        let bytes = <[u8; HEAD_LEN]>::try_from(&*bytes).map_err(|_| StreamError::Ended)?;
        Ok(FrameHead::parse(bytes)?)
    }

    /// The content of a frame that must be of `kind` and at most `max` bytes.
    pub(crate) async fn frame(
        &mut self,
        kind: FrameKind,
        max: usize,
    ) -> Result<Bytes, StreamError> {
        let head = self.head().await?;
        self.content(head, kind, max).await
    }

    /// The content of a frame whose head was read.
    pub(crate) async fn content(
        &mut self,
        head: FrameHead,
        kind: FrameKind,
        max: usize,
    ) -> Result<Bytes, StreamError> {
        let len = head.expect(kind, max)?;
        self.bytes(len).await
    }

    /// An answer: a frame of `kind` of at most `max` bytes, or a fault.
    pub(crate) async fn answer(
        &mut self,
        kind: FrameKind,
        max: usize,
    ) -> Result<Result<Bytes, Fault>, StreamError> {
        let head = self.head().await?;
        if head.kind == FrameKind::Fault {
            let fault = self.content(head, FrameKind::Fault, FAULT_MAX).await?;
            return Ok(Err(decode_fault(&fault)));
        }
        Ok(Ok(self.content(head, kind, max).await?))
    }

    /// Exactly `len` bytes; memory grows with what arrives, not with what was announced.
    async fn bytes(&mut self, len: usize) -> Result<Bytes, StreamError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = self.chunk(len).await?;
        if first.len() == len {
            return Ok(first);
        }
        let mut bytes = BytesMut::with_capacity(len.min(READ_AHEAD.max(first.len())));
        bytes.extend_from_slice(&first);
        while bytes.len() < len {
            let chunk = self.chunk(len - bytes.len()).await?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    async fn chunk(&mut self, max: usize) -> Result<Bytes, StreamError> {
        let chunk = self.stream.read_chunk(max, true).await?;
        chunk.map(|chunk| chunk.bytes).ok_or(StreamError::Ended)
    }
}

/// The writing half. A stream that is dropped unfinished is reset, so that the other side cannot
/// take a part for the whole; quinn alone would finish it.
#[derive(Debug)]
pub(crate) struct Writer {
    stream: SendStream,
    finished: bool,
}

impl Writer {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    pub(crate) fn prioritize(&self, priority: i32) {
        // A stream that is closed already will say so at the first write.
        let _ = self.stream.set_priority(priority);
    }

    /// Writes a small message as a frame.
    pub(crate) async fn raw(&mut self, bytes: Vec<u8>) -> Result<(), WriteError> {
        self.stream.write_chunk(Bytes::from(bytes)).await
    }

    /// Writes frames of one kind, each with its head.
    pub(crate) async fn frames(
        &mut self,
        kind: FrameKind,
        contents: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), WriteError> {
        let mut chunks = Vec::new();
        let mut small = BytesMut::new();
        for content in contents {
            let head = FrameHead { kind, len: content.len() };
            // Limits are checked long before a length exceeds four bytes.
            small.extend_from_slice(&head.encode().unwrap_or_default());
            if content.len() <= COPIED_MAX {
                small.extend_from_slice(&content);
            } else {
                chunks.push(small.split().freeze());
                chunks.push(content);
            }
        }
        if !small.is_empty() {
            chunks.push(small.freeze());
        }
        self.stream.write_all_chunks(&mut chunks).await
    }

    pub(crate) async fn fault(&mut self, fault: Fault) -> Result<(), WriteError> {
        self.raw(encode_frame(FrameKind::Fault, &bounded_fault(fault))).await
    }

    /// Says that nothing follows. The connection must stay up until the other side has read.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        // A stream that is closed already needs no end.
        let _ = self.stream.finish();
    }

    /// Ends when the other side has all, or wants no more.
    pub(crate) fn done(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(GIVEN_UP);
        }
    }
}
