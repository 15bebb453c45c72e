//! What a GPU at work is asked: how busy it is, what its links counted, what would bring it back,
//! and which events there were.

use std::ffi::{c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{
    INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, TIMEOUT, counter, done, put, with, with_gpu,
};
use crate::control::{Control, events};
use crate::fault::{Counter, Fault};

#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: *mut c_void,
    out: *mut Utilization,
) -> c_uint {
    with_gpu(device, |_, index| {
        let gpu = if events::has(index, events::WORKED) { 100 } else { 0 };
        // SAFETY: the library's contract.
        unsafe { put(out, Utilization { gpu, memory: gpu / 2 }) }
    })
}

#[repr(C)]
pub struct ViolationTime {
    micros: c_ulonglong,
    nanos: c_ulonglong,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetViolationStatus(
    device: *mut c_void,
    policy: c_uint,
    out: *mut ViolationTime,
) -> c_uint {
    with_gpu(device, |_, _| {
        // Of power and of heat; of nothing else is anything known.
        if policy > 1 {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the library's contract.
        unsafe { put(out, ViolationTime { micros: 1, nanos: 0 }) }
    })
}

/// A number of the library's and its answer. The layout is nvml.h's, `nvmlFieldValue_t`.
#[repr(C)]
pub struct FieldValue {
    id: c_uint,
    scope: c_uint,
    timestamp: c_longlong,
    latency: c_longlong,
    kind: c_uint,
    code: c_uint,
    value: c_ulonglong,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: *mut c_void,
    count: c_int,
    values: *mut FieldValue,
) -> c_uint {
    with_gpu(device, |gpu, index| {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let recovery = gpu.faults.iter().find_map(|fault| {
            if let Fault::Recovery { action } = fault { Some(*action) } else { None }
        });
        let recovery = recovery.filter(|_| events::has(index, events::WORKED)).unwrap_or(0);
        for nth in 0..count {
            // SAFETY: the library's contract: there are that many.
            let it = unsafe { &mut *values.add(nth) };
            let answer = match it.id {
                // The memory's temperature, and what would bring the GPU back.
                82 => Some(50),
                230 => Some(recovery),
                _ => None,
            };
            it.kind = 1;
            it.code = if answer.is_some() { SUCCESS } else { NOT_SUPPORTED };
            it.value = answer.unwrap_or(0).into();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: *mut c_void,
    link: c_uint,
    out: *mut c_uint,
) -> c_uint {
    with_gpu(device, |gpu, _| {
        if gpu.nvlinks == 0 {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the library's contract.
        unsafe { put(out, c_uint::from(link < gpu.nvlinks)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkErrorCounter(
    device: *mut c_void,
    link: c_uint,
    which: c_uint,
    out: *mut c_ulonglong,
) -> c_uint {
    with_gpu(device, |gpu, index| {
        if link >= gpu.nvlinks {
            return Err(NOT_SUPPORTED);
        }
        // All that was planted is the first link's.
        let of = |it| if link == 0 { counter(gpu, index, it) } else { 0 };
        let value = match which {
            0 => of(Counter::NvlinkReplay),
            1 => of(Counter::NvlinkRecovery),
            2 => of(Counter::NvlinkCrc),
            3 => 0,
            _ => return Err(INVALID_ARGUMENT),
        };
        // SAFETY: the library's contract.
        unsafe { put(out, value) }
    })
}

/// Devices that a program wants to hear of; there is one set.
static LISTENED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// What was told already: device and code.
static TOLD: Mutex<Vec<(usize, u32)>> = Mutex::new(Vec::new());
/// Kinds of events, as the library numbers them: critical ones of the driver.
const CRITICAL: c_ulonglong = 8;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(out: *mut *mut c_void) -> c_uint {
    // SAFETY: the library's contract.
    with(|_| unsafe { put(out, std::ptr::without_provenance_mut(1)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_set: *mut c_void) -> c_uint {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: *mut c_void,
    out: *mut c_ulonglong,
) -> c_uint {
    // SAFETY: the library's contract.
    with_gpu(device, |_, _| unsafe { put(out, CRITICAL) })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: *mut c_void,
    types: c_ulonglong,
    _set: *mut c_void,
) -> c_uint {
    with_gpu(device, |_, index| {
        if types & !CRITICAL != 0 {
            return Err(NOT_SUPPORTED);
        }
        LISTENED.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        Ok(())
    })
}

#[repr(C)]
pub struct EventData {
    device: *mut c_void,
    kind: c_ulonglong,
    data: c_ulonglong,
    instance: c_uint,
    compute_instance: c_uint,
}

/// Looks again and again, for what another process makes a GPU do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: *mut c_void,
    out: *mut EventData,
    millis: c_uint,
) -> c_uint {
    const STEP: c_uint = 20;
    for _ in 0..=millis / STEP {
        if let Some((index, code)) = next_event() {
            let device = std::ptr::without_provenance_mut(index + 1);
            let (kind, data) = (CRITICAL, code.into());
            let it = EventData { device, kind, data, instance: 0, compute_instance: 0 };
            // SAFETY: the library's contract.
            return done(unsafe { put(out, it) });
        }
        thread::sleep(Duration::from_millis(STEP.into()));
    }
    TIMEOUT
}

/// Whoever waits for events does so for long: the file is read again, for what was planted since.
fn next_event() -> Option<(usize, u32)> {
    let listened = LISTENED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let control = Control::from_environment().ok()?;
    for index in listened {
        for fault in control.gpus.get(index).map(|gpu| &gpu.faults).into_iter().flatten() {
            if let Fault::Event { code } = fault
                && events::has(index, events::WORKED)
                && !told.contains(&(index, *code))
            {
                told.push((index, *code));
                return Some((index, *code));
            }
        }
    }
    None
}
