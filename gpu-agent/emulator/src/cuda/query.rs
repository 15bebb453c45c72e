//! What a program asks of devices.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::{Driver, put, with};
use crate::device::{Device, code};
use crate::fault::Fault;

/// The newest release of CUDA that the driver says it knows.
const VERSION: c_int = 12_080;

pub(super) fn name_of(error: u32) -> &'static CStr {
    match error {
        code::SUCCESS => c"CUDA_SUCCESS",
        code::INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        code::OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        code::NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
        34 => c"CUDA_ERROR_STUB_LIBRARY",
        code::NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        code::INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        code::INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        code::INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        code::INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        code::NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        code::NOT_READY => c"CUDA_ERROR_NOT_READY",
        code::ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        code::LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        code::NOT_SUPPORTED => c"CUDA_ERROR_NOT_SUPPORTED",
        803 => c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        _ => c"CUDA_ERROR_UNKNOWN",
    }
}

fn device(driver: &Driver, number: c_int) -> Result<&Device, u32> {
    let index = usize::try_from(number).map_err(|_| code::INVALID_DEVICE)?;
    driver.devices.get(index).ok_or(code::INVALID_DEVICE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(out: *mut c_int) -> u32 {
    with(|driver| {
        let mut faults = driver.devices.iter().flat_map(|it| &it.gpu.faults);
        let planted = faults.find_map(|fault| {
            if let Fault::Release { version } = fault { Some(*version) } else { None }
        });
        // SAFETY: the driver's contract.
        unsafe { put(out, planted.unwrap_or(VERSION)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(out: *mut c_int) -> u32 {
    with(|driver| {
        let count = c_int::try_from(driver.devices.len()).map_err(|_| code::UNKNOWN)?;
        // SAFETY: the driver's contract.
        unsafe { put(out, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> u32 {
    with(|driver| {
        device(driver, ordinal)?;
        // SAFETY: the driver's contract.
        unsafe { put(out, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(out: *mut c_char, length: c_int, number: c_int) -> u32 {
    with(|driver| {
        let name = &device(driver, number)?.gpu.name;
        let room = usize::try_from(length).map_err(|_| code::INVALID_VALUE)?;
        // SAFETY: the driver's contract: there is room for that many.
        unsafe { crate::nvml::put_text(out, room, name) }.ok_or(code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(out: *mut [u8; 16], number: c_int) -> u32 {
    with(|driver| {
        let device = device(driver, number)?;
        // SAFETY: the driver's contract.
        unsafe { put(out, device.gpu.id(device.index)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(out: *mut [u8; 16], number: c_int) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetUuid_v2(out, number) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, number: c_int) -> u32 {
    with(|driver| {
        let bytes = device(driver, number)?.gpu.bytes();
        // SAFETY: the driver's contract.
        unsafe { put(out, usize::try_from(bytes).map_err(|_| code::UNKNOWN)?) }
    })
}

/// The numbers are the driver's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(out: *mut c_int, which: u32, number: c_int) -> u32 {
    with(|driver| {
        let device = device(driver, number)?;
        let small = |it: u32| c_int::try_from(it).map_err(|_| code::UNKNOWN);
        let value = match which {
            16 => small(device.gpu.sms)?,
            75 => small(device.gpu.compute.0)?,
            76 => small(device.gpu.compute.1)?,
            // Shared memory: of a block, of a block that asks, of an SM.
            8 => 48 << 10,
            97 => c_int::try_from(super::launch::SHARED_MOST).map_err(|_| code::UNKNOWN)?,
            81 => 100 << 10,
            // The second-level cache.
            38 => 64 << 10,
            // A clock in kHz, the PCI bus, the width of a warp, threads of a block.
            13 => 1_000_000,
            33 => small(u32::try_from(device.index).unwrap_or(0))? + 1,
            10 => 32,
            1 => 1_024,
            // The PCI device and domain; and no pools of memory.
            34 | 50 | 115 => 0,
            _ => 1,
        };
        // SAFETY: the driver's contract.
        unsafe { put(out, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    super::with_device(|driver, index| {
        let device = &driver.devices[index];
        let narrow = |bytes: u64| usize::try_from(bytes).map_err(|_| code::UNKNOWN);
        // SAFETY: the driver's contract.
        unsafe {
            put(free, narrow(device.free_bytes())?)?;
            put(total, narrow(device.gpu.bytes())?)
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: *mut c_void, which: u32, value: c_int) -> u32 {
    /// The most shared memory that a launch may give.
    const MOST: u32 = 8;
    with(|driver| {
        let Driver { functions, modules, .. } = driver;
        let at = function.addr().checked_sub(1);
        let function = at.and_then(|at| functions.get_mut(at)).ok_or(code::INVALID_HANDLE)?;
        let bytes = usize::try_from(value).map_err(|_| code::INVALID_VALUE)?;
        if which == MOST { function.allow(bytes, modules) } else { Ok(()) }
    })
}
