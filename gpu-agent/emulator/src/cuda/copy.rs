//! Memory: taken, given back, filled and copied.

use std::ffi::{c_int, c_void};

use super::{Driver, put, with, with_device};
use crate::device::code;
use crate::fault::Way;
use crate::machine::Pinned;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> u32 {
    with_device(|driver, index| {
        let address = driver.devices[index].allocate(bytes as u64)?;
        // SAFETY: the driver's contract.
        unsafe { put(out, address) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    with_device(|driver, index| driver.devices[index].free(address))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(out: *mut u64, bytes: usize, _stream: *mut c_void) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuMemAlloc_v2(out, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, _stream: *mut c_void) -> u32 {
    cuMemFree_v2(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, _flags: u32) -> u32 {
    with_device(|driver, _| {
        if bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        let pinned = Pinned::new(bytes);
        let at = pinned.words.as_ptr().cast_mut().cast();
        driver.pinned.push(pinned);
        // SAFETY: the driver's contract.
        unsafe { put(out, at) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: *mut c_void) -> u32 {
    with(|driver| {
        let address = at.addr() as u64;
        let nth = driver.pinned.iter().position(|it| it.at == address);
        driver.pinned.swap_remove(nth.ok_or(code::INVALID_VALUE)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    out: *mut u64,
    at: *mut c_void,
    _flags: u32,
) -> u32 {
    with(|driver| {
        let address = at.addr() as u64;
        if !driver.pinned.iter().any(|it| it.holds(address)) {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the driver's contract.
        unsafe { put(out, address) }
    })
}

fn owner(driver: &mut Driver, address: u64) -> Result<usize, u32> {
    driver.devices.iter().position(|it| it.holds(address)).ok_or(code::INVALID_VALUE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    let state = super::wait();
    if state != code::SUCCESS || bytes == 0 {
        return state;
    }
    with_device(|driver, _| {
        let index = owner(driver, to)?;
        // SAFETY: the driver's contract: there are that many bytes to read.
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        let device = &mut driver.devices[index];
        device.copy_in(to, &device.sent(Way::HostToDevice, from))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    let state = super::wait();
    if state != code::SUCCESS || bytes == 0 {
        return state;
    }
    with_device(|driver, _| {
        let index = owner(driver, from)?;
        // SAFETY: the driver's contract: there is room for that many bytes.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        driver.devices[index].copy_out(from, to)?;
        let sent = driver.devices[index].sent(Way::DeviceToHost, to).into_owned();
        to.copy_from_slice(&sent);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuMemcpyHtoD_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    _stream: *mut c_void,
) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuMemcpyDtoH_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, bytes: usize) -> u32 {
    with_device(|driver, _| {
        let index = owner(driver, to)?;
        driver.devices[index].copy_in(to, &vec![value; bytes])
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: *mut c_void) -> u32 {
    cuMemsetD8_v2(to, value, bytes)
}

/// Between two places of one device, or of two.
fn copy_over(to: u64, from: u64, bytes: usize) -> u32 {
    let state = super::wait();
    if state != code::SUCCESS || bytes == 0 {
        return state;
    }
    with_device(|driver, _| {
        let (source, target) = (owner(driver, from)?, owner(driver, to)?);
        let mut data = vec![0; bytes];
        driver.devices[source].copy_out(from, &mut data)?;
        if source != target {
            data = driver.devices[source].sent(Way::Peer, &data).into_owned();
        }
        driver.devices[target].copy_in(to, &data)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    copy_over(to, from, bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    _stream: *mut c_void,
) -> u32 {
    copy_over(to, from, bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: *mut c_void,
    from: u64,
    _from_context: *mut c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> u32 {
    copy_over(to, from, bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(out: *mut c_int, from: c_int, to: c_int) -> u32 {
    with(|driver| {
        let has_links = |number: c_int| {
            let index = usize::try_from(number).map_err(|_| code::INVALID_DEVICE)?;
            let device = driver.devices.get(index).ok_or(code::INVALID_DEVICE)?;
            Ok::<_, u32>(device.gpu.nvlinks > 0)
        };
        let can = from != to && has_links(from)? && has_links(to)?;
        // SAFETY: the driver's contract.
        unsafe { put(out, c_int::from(can)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(_context: *mut c_void, _flags: u32) -> u32 {
    with_device(|_, _| Ok(()))
}
