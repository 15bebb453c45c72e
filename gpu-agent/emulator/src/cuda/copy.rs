//! Memory: taken, given back, filled and copied.

use std::ffi::c_void;

use super::{Driver, put, with, with_device};
use crate::device::code;
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
        driver.devices[index].copy_in(to, from)
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
        driver.devices[index].copy_out(from, to)
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
