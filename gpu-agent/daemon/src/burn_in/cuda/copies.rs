//! Copies: between the host and a GPU, within a GPU, and between two.

use std::sync::atomic::Ordering;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::{Failure, Gpu, Pinned, failure};

/// What is done in it is done in order; two go on beside each other.
pub(in super::super) struct Stream {
    stream: sys::CUstream,
}

/// Another GPU that this one can reach.
pub(in super::super) struct Peer {
    own: sys::CUcontext,
    other: sys::CUcontext,
}

impl Gpu {
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn stream(&self) -> Result<Stream, Failure> {
        let made = result::stream::create(result::stream::StreamKind::Default);
        made.map(|stream| Stream { stream }).map_err(failure("make a stream"))
    }

    /// Starts a copy of the beginning of memory of the host.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn copy_in(
        &self,
        to: u64,
        from: &Pinned,
        bytes: usize,
        within: &Stream,
    ) -> Result<(), Failure> {
        // SAFETY: pinned memory is never given back, and has that many bytes; the callers name
        // memory of the GPU that they took.
        let started = unsafe {
            let from = std::slice::from_raw_parts(from.words.as_ptr().cast::<u8>(), bytes);
            result::memcpy_htod_async(to, from, within.stream)
        };
        started.map_err(failure("copy to the GPU"))
    }

    /// Starts a copy to the beginning of memory of the host.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn copy_out(
        &self,
        to: &Pinned,
        from: u64,
        bytes: usize,
        within: &Stream,
    ) -> Result<(), Failure> {
        let to = to.words.as_ptr().cast_mut().cast();
        // SAFETY: pinned memory is never given back, and has that many bytes; nobody reads it before
        // the copy was waited for.
        let started = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, within.stream) };
        started.result().map_err(failure("copy from the GPU"))
    }

    /// Starts a copy within the GPU's memory.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn copy_within(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
    ) -> Result<(), Failure> {
        // SAFETY: the callers name memory that they took.
        let started = unsafe { result::memcpy_dtod_async(to, from, bytes, std::ptr::null_mut()) };
        started.map_err(failure("copy within the GPU"))
    }

    /// The way to another GPU, if there is one; this GPU is the current one after it.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn peer(&self, other: &Gpu) -> Result<Option<Peer>, Failure> {
        let ask = || -> Result<Option<Peer>, DriverError> {
            let device = |gpu: &Gpu| result::device::get(i32::from(gpu.info.index));
            let (from, to) = (device(self)?, device(other)?);
            let mut can = 0;
            // SAFETY: writes one number; both are devices that the driver gave.
            unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, from, to) }.result()?;
            // SAFETY: contexts are never released; this process ends with its check.
            let (own, other) =
                unsafe { (result::primary_ctx::retain(from)?, result::primary_ctx::retain(to)?) };
            // SAFETY: the context was just retained.
            unsafe { result::ctx::set_current(own) }?;
            if can == 0 {
                return Ok(None);
            }
            // SAFETY: both contexts are retained.
            let enabled = unsafe { sys::cuCtxEnablePeerAccess(other, 0) };
            if enabled != sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED {
                enabled.result()?;
            }
            Ok(Some(Peer { own, other }))
        };
        ask().map_err(failure("reach another GPU"))
    }

    /// Makes this GPU the current one, of those that this process has opened.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn enter(&self) -> Result<(), Failure> {
        let enter = || -> Result<(), DriverError> {
            let device = result::device::get(i32::from(self.info.index))?;
            // SAFETY: contexts are never released.
            unsafe { result::ctx::set_current(result::primary_ctx::retain(device)?) }
        };
        enter().map_err(failure("go to a GPU"))
    }
}

impl Peer {
    /// Starts a copy to the other GPU's memory; this GPU must be the current one.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in super::super) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the callers name memory that they took of both.
        let started = unsafe {
            result::memcpy_peer_async(self.other, to, self.own, from, bytes, std::ptr::null_mut())
        };
        started.map_err(failure("copy to another GPU"))
    }
}

impl Pinned {
    /// Writes from the beginning on.
    pub(in super::super) fn write(&self, words: impl Iterator<Item = u32>) {
        self.words.iter().zip(words).for_each(|(at, word)| at.store(word, Ordering::Relaxed));
    }

    /// The words that are not these, and where: no more than so many.
    pub(in super::super) fn differing(
        &self,
        words: impl Iterator<Item = u32>,
        max: usize,
    ) -> Vec<(usize, u32, u32)> {
        let all = self.words.iter().zip(words).enumerate();
        let read = all.map(|(nth, (at, want))| (nth, want, at.load(Ordering::Relaxed)));
        read.filter(|(_, want, got)| want != got).take(max).collect()
    }
}
