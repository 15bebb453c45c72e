//! The driver's C interface, as far as a program needs it that launches kernels.
//!
//! Handles are numbers: a device's context is its index and one, a module and a function are their
//! places in a list. Everything is done at once; what a kernel did wrong shows at the next call
//! that waits, and stays.
#![expect(
    unsafe_code,
    reason = "the driver's interface is C: symbols and pointers of the caller's"
)]
#![expect(
    unreachable_pub,
    reason = "these are symbols of the shared library, whatever module they are in"
)]

mod copy;
mod launch;
mod query;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::Control;
use crate::device::{Device, code};
use crate::fault::Fault;
use crate::machine::Pinned;
use crate::ptx::Module;

struct Driver {
    devices: Vec<Device>,
    /// Loaded modules; a gap where one was unloaded.
    modules: Vec<Option<Module>>,
    functions: Vec<launch::Function>,
    pinned: Vec<Pinned>,
    /// When events were recorded, in nanoseconds.
    events: BTreeMap<usize, u64>,
    next_event: usize,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    /// The index of the current context's device.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn driver() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with the driver once it is started.
fn with(f: impl FnOnce(&mut Driver) -> Result<(), u32>) -> u32 {
    match driver().as_mut().ok_or(code::NOT_INITIALIZED).and_then(f) {
        Ok(()) => code::SUCCESS,
        Err(code) => code,
    }
}

/// Does something with the current device, unless it is broken.
fn with_device(f: impl FnOnce(&mut Driver, usize) -> Result<(), u32>) -> u32 {
    with(|driver| {
        let index = CURRENT.get().ok_or(code::INVALID_CONTEXT)?;
        match driver.devices.get(index).ok_or(code::INVALID_CONTEXT)?.broken {
            Some(code) => Err(code),
            None => f(driver, index),
        }
    })
}

/// Writes an answer to where the caller wants it.
///
/// # Safety
/// `out` is null, or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), u32> {
    if out.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller says so, and it is not null.
    unsafe { out.write(value) };
    Ok(())
}

fn handle(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: u32) -> u32 {
    let mut driver = driver();
    if driver.is_some() {
        return code::SUCCESS;
    }
    let control = match Control::from_environment() {
        Ok(control) => control,
        Err(error) => {
            crate::say(&format!("emulated driver: {error}"));
            return code::UNKNOWN;
        }
    };
    let mut faults = control.gpus.iter().flat_map(|gpu| &gpu.faults);
    let refusal = faults
        .find_map(|fault| if let Fault::Refusal { code } = fault { Some(*code) } else { None });
    if let Some(code) = refusal {
        return code;
    }
    if control.gpus.is_empty() {
        return code::NO_DEVICE;
    }
    let devices = control.gpus.into_iter().enumerate();
    *driver = Some(Driver {
        devices: devices.map(|(index, gpu)| Device::new(index, gpu)).collect(),
        modules: Vec::new(),
        functions: Vec::new(),
        pinned: Vec::new(),
        events: BTreeMap::new(),
        next_event: 0,
    });
    code::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(out: *mut *mut c_void, device: c_int) -> u32 {
    with(|driver| {
        let index = usize::try_from(device).map_err(|_| code::INVALID_DEVICE)?;
        let device = driver.devices.get(index).ok_or(code::INVALID_DEVICE)?;
        if let Some(code) = device.broken {
            return Err(code);
        }
        // SAFETY: the driver's contract.
        unsafe { put(out, handle(index + 1)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    code::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> u32 {
    CURRENT.set(context.addr().checked_sub(1));
    code::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(out: *mut *mut c_void) -> u32 {
    let number = CURRENT.get().map_or(0, |index| index + 1);
    // SAFETY: the driver's contract.
    unsafe { put(out, handle(number)) }.map_or_else(|code| code, |()| code::SUCCESS)
}

/// Waits for the device: for ever if it hangs.
fn wait() -> u32 {
    let state =
        with_device(
            |driver, index| {
                if driver.devices[index].is_hung { Err(code::NOT_READY) } else { Ok(()) }
            },
        );
    if state == code::NOT_READY {
        loop {
            std::thread::park();
        }
    }
    state
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    wait()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_stream: *mut c_void) -> u32 {
    wait()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: u32, out: *mut *const c_char) -> u32 {
    // SAFETY: the driver's contract.
    unsafe { put(out, query::name_of(error).as_ptr()) }.map_or_else(|code| code, |()| code::SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: u32, out: *mut *const c_char) -> u32 {
    // SAFETY: the driver's contract.
    unsafe { put(out, query::name_of(error).as_ptr()) }.map_or_else(|code| code, |()| code::SUCCESS)
}
