//! The management library's C interface: what the agent asks of it.
//!
//! It knows nothing of the driver's memory: what a GPU did is in the events beside the control
//! file. Handles are the device's index and one.
#![expect(
    unsafe_code,
    reason = "the library's interface is C: symbols and pointers of the caller's"
)]
#![expect(
    unreachable_pub,
    reason = "these are symbols of the shared library, whatever module they are in"
)]

use std::ffi::{CStr, c_char, c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, PoisonError};

use crate::control::{Control, Gpu, events};
use crate::fault::{Counter, Fault, Throttle};

const SUCCESS: c_uint = 0;
const UNINITIALIZED: c_uint = 1;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const DRIVER_NOT_LOADED: c_uint = 9;
const TIMEOUT: c_uint = 10;
const GPU_IS_LOST: c_uint = 15;
const VERSION_MISMATCH: c_uint = 18;
const UNKNOWN: c_uint = 999;

mod more;

static CONTROL: Mutex<Option<Control>> = Mutex::new(None);

/// Writes a text and its end, if there is room.
///
/// # Safety
/// `out` is null, or `room` bytes may be written.
pub(crate) unsafe fn put_text(out: *mut c_char, room: usize, text: &str) -> Option<()> {
    if out.is_null() || room <= text.len() {
        return None;
    }
    // SAFETY: the caller says there is room, and it is more than the text has.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, text.len());
        out.add(text.len()).write(0);
    }
    Some(())
}

/// # Safety
/// `out` is null, or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), c_uint> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller says so, and it is not null.
    unsafe { out.write(value) };
    Ok(())
}

fn done(outcome: Result<(), c_uint>) -> c_uint {
    outcome.err().unwrap_or(SUCCESS)
}

fn with(f: impl FnOnce(&Control) -> Result<(), c_uint>) -> c_uint {
    let control = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
    done(control.as_ref().ok_or(UNINITIALIZED).and_then(f))
}

fn with_gpu(device: *mut c_void, f: impl FnOnce(&Gpu, usize) -> Result<(), c_uint>) -> c_uint {
    with(|control| {
        let index = device.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        let gpu = control.gpus.get(index).ok_or(INVALID_ARGUMENT)?;
        if events::has(index, events::LOST) {
            return Err(GPU_IS_LOST);
        }
        f(gpu, index)
    })
}

/// The sum of what was planted, once the GPU has worked.
fn counter(gpu: &Gpu, index: usize, wanted: Counter) -> u64 {
    if !events::has(index, events::WORKED) {
        return 0;
    }
    let planted = gpu.faults.iter().map(|fault| {
        if let Fault::Counter { counter, by } = fault
            && *counter == wanted
        {
            *by
        } else {
            0
        }
    });
    planted.sum()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_uint {
    let loaded = match Control::from_environment() {
        Ok(loaded) => loaded,
        Err(error) => {
            crate::say(&format!("emulated management library: {error}"));
            return UNKNOWN;
        }
    };
    if loaded.gpus.iter().any(|gpu| gpu.faults.contains(&Fault::HungManagement)) {
        loop {
            std::thread::park();
        }
    }
    let mut faults = loaded.gpus.iter().flat_map(|gpu| &gpu.faults);
    if let Some(code) = faults.find_map(refused) {
        return code;
    }
    *CONTROL.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
    SUCCESS
}

/// What this library says where the driver's refuses. A stub is the driver's library alone.
fn refused(fault: &Fault) -> Option<c_uint> {
    let Fault::Refusal { code } = fault else { return None };
    match code {
        100 => Some(DRIVER_NOT_LOADED),
        803 => Some(VERSION_MISMATCH),
        _ => None,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_uint {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(error: c_uint) -> *const c_char {
    let text: &CStr = match error {
        SUCCESS => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, room: c_uint) -> c_uint {
    // SAFETY: the library's contract.
    let put = unsafe { put_text(out, room as usize, "570.00.00-emulated") };
    put.map_or(INSUFFICIENT_SIZE, |()| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> c_uint {
    with(|control| {
        let count = c_uint::try_from(control.gpus.len()).map_err(|_| UNKNOWN)?;
        // SAFETY: the library's contract.
        unsafe { put(out, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    out: *mut *mut c_void,
) -> c_uint {
    with(|control| {
        let index = index as usize;
        if index >= control.gpus.len() {
            return Err(INVALID_ARGUMENT);
        }
        if events::has(index, events::LOST) {
            return Err(GPU_IS_LOST);
        }
        // SAFETY: the library's contract.
        unsafe { put(out, std::ptr::without_provenance_mut(index + 1)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    out: *mut *mut c_void,
) -> c_uint {
    with(|control| {
        if uuid.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the library's contract: a text that ends with a zero.
        let wanted = unsafe { CStr::from_ptr(uuid) }.to_bytes();
        let mut gpus = control.gpus.iter().enumerate();
        let found = gpus.find(|(index, gpu)| uuid_text(gpu, *index).as_bytes() == wanted);
        let (index, _) = found.ok_or(NOT_FOUND)?;
        if events::has(index, events::LOST) {
            return Err(GPU_IS_LOST);
        }
        // SAFETY: the library's contract.
        unsafe { put(out, std::ptr::without_provenance_mut(index + 1)) }
    })
}

fn uuid_text(gpu: &Gpu, index: usize) -> String {
    let id = gpu.id(index).map(|byte| format!("{byte:02x}")).concat();
    let (a, b, c, d, e) = (&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: *mut c_void,
    out: *mut c_char,
    room: c_uint,
) -> c_uint {
    with_gpu(device, |gpu, _| {
        // SAFETY: the library's contract.
        unsafe { put_text(out, room as usize, &gpu.name) }.ok_or(INSUFFICIENT_SIZE)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: *mut c_void,
    out: *mut c_char,
    room: c_uint,
) -> c_uint {
    with_gpu(device, |gpu, index| {
        // SAFETY: the library's contract.
        unsafe { put_text(out, room as usize, &uuid_text(gpu, index)) }.ok_or(INSUFFICIENT_SIZE)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetVbiosVersion(
    device: *mut c_void,
    out: *mut c_char,
    room: c_uint,
) -> c_uint {
    with_gpu(device, |_, _| {
        // SAFETY: the library's contract.
        unsafe { put_text(out, room as usize, "00.00.00.00.01") }.ok_or(INSUFFICIENT_SIZE)
    })
}

#[repr(C)]
pub struct MemoryInfo {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: *mut c_void,
    out: *mut MemoryInfo,
) -> c_uint {
    with_gpu(device, |gpu, _| {
        let (version, total) = (2 << 24, gpu.bytes());
        // SAFETY: the library's contract.
        unsafe { put(out, MemoryInfo { version, total, reserved: 0, free: total, used: 0 }) }
    })
}

#[repr(C)]
pub struct PciInfo {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: *mut c_void, out: *mut PciInfo) -> c_uint {
    with_gpu(device, |_, index| {
        let bus = c_uint::try_from(index).map_err(|_| UNKNOWN)? + 1;
        let mut info = PciInfo {
            legacy: [0; 16],
            domain: 0,
            bus,
            device: 0,
            device_id: 0,
            subsystem_id: 0,
            bus_id: [0; 32],
        };
        let (short, long) = (format!("0000:{bus:02X}:00.0"), format!("00000000:{bus:02X}:00.0"));
        // SAFETY: both have their own room, and the library's contract holds for `out`.
        unsafe {
            put_text(info.legacy.as_mut_ptr(), 16, &short).ok_or(UNKNOWN)?;
            put_text(info.bus_id.as_mut_ptr(), 32, &long).ok_or(UNKNOWN)?;
            put(out, info)
        }
    })
}

/// A question with one number for an answer.
macro_rules! number {
    ($name:ident, $type:ty, $of:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: *mut c_void, out: *mut $type) -> c_uint {
            with_gpu(device, |gpu, index| {
                let of: fn(&Gpu, usize) -> $type = $of;
                // SAFETY: the library's contract.
                unsafe { put(out, of(gpu, index)) }
            })
        }
    };
}

const LANES: c_uint = 16;
const GENERATION: c_uint = 5;

number!(nvmlDeviceGetMaxPcieLinkWidth, c_uint, |_, _| LANES);
number!(nvmlDeviceGetCurrPcieLinkWidth, c_uint, |gpu, _| {
    let planted = gpu
        .faults
        .iter()
        .find_map(|fault| if let Fault::PcieWidth { lanes } = fault { Some(*lanes) } else { None });
    planted.unwrap_or(LANES)
});
number!(nvmlDeviceGetMaxPcieLinkGeneration, c_uint, |_, _| GENERATION);
number!(nvmlDeviceGetCurrPcieLinkGeneration, c_uint, |gpu, _| {
    let planted = gpu.faults.iter().find_map(|fault| {
        if let Fault::PcieGeneration { generation } = fault { Some(*generation) } else { None }
    });
    planted.unwrap_or(GENERATION)
});
number!(nvmlDeviceGetPcieReplayCounter, c_uint, |gpu, index| {
    small(counter(gpu, index, Counter::PcieReplay))
});
number!(nvmlDeviceGetPowerManagementLimit, c_uint, |_, _| 600_000);
number!(nvmlDeviceGetPowerUsage, c_uint, |_, index| {
    // Milliwatts.
    if events::has(index, events::WORKED) { 400_000 } else { 80_000 }
});
number!(nvmlDeviceGetTotalEnergyConsumption, c_ulonglong, |_, index| {
    // Millijoules.
    if events::has(index, events::WORKED) { 1_234_567 } else { 0 }
});
number!(nvmlDeviceGetCurrentClocksThrottleReasons, c_ulonglong, reasons);
number!(nvmlDeviceGetCurrentClocksEventReasons, c_ulonglong, reasons);

/// The bits are the library's own; 1 is an idle GPU.
fn reasons(gpu: &Gpu, index: usize) -> c_ulonglong {
    if !events::has(index, events::WORKED) {
        return 1;
    }
    let bits = gpu.faults.iter().map(|fault| {
        let Fault::Throttle { reason } = fault else { return 0 };
        match reason {
            Throttle::PowerCap => 0x4,
            Throttle::HardwareSlowdown => 0x8,
            Throttle::HardwareThermal => 0x40,
            Throttle::PowerBrake => 0x80,
        }
    });
    bits.fold(0, |all, bit| all | bit)
}

fn small(value: u64) -> c_uint {
    c_uint::try_from(value).unwrap_or(c_uint::MAX)
}

/// `sensor` 0 is the chip; 2 and so on are clocks of other parts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: *mut c_void,
    _sensor: c_uint,
    out: *mut c_uint,
) -> c_uint {
    with_gpu(device, |_, index| {
        let celsius = if events::has(index, events::WORKED) { 65 } else { 45 };
        // SAFETY: the library's contract.
        unsafe { put(out, celsius) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: *mut c_void,
    _clock: c_uint,
    out: *mut c_uint,
) -> c_uint {
    // SAFETY: the library's contract.
    with_gpu(device, |_, _| unsafe { put(out, 1_000) })
}

/// `kind` 0 is corrected, 1 is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: *mut c_void,
    kind: c_uint,
    _since: c_uint,
    out: *mut c_ulonglong,
) -> c_uint {
    with_gpu(device, |gpu, index| {
        let which = if kind == 0 { Counter::EccCorrected } else { Counter::EccUncorrected };
        // SAFETY: the library's contract.
        unsafe { put(out, counter(gpu, index, which)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: *mut c_void,
    correctable: *mut c_uint,
    uncorrectable: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> c_uint {
    with_gpu(device, |gpu, index| {
        let of = |which| small(counter(gpu, index, which));
        // SAFETY: the library's contract.
        unsafe {
            put(correctable, of(Counter::RemappedCorrectable))?;
            put(uncorrectable, of(Counter::RemappedUncorrectable))?;
            put(pending, of(Counter::RemapPending).min(1))?;
            put(failed, of(Counter::RemapFailed).min(1))
        }
    })
}
