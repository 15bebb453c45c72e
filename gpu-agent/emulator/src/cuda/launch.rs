//! Modules, kernels and events.

use std::ffi::{CStr, c_char, c_void};

use super::{Driver, handle, put, with, with_device};
use crate::device::code;
use crate::machine::Launch;
use crate::ptx::Module;

/// Bytes of shared memory that a block has without asking, and at most.
const SHARED_USUAL: usize = 48 << 10;
pub(super) const SHARED_MOST: usize = 99 << 10;

/// A kernel that was looked up.
pub(super) struct Function {
    module: usize,
    kernel: usize,
    /// Bytes of shared memory that a launch may give it.
    most: usize,
}

impl Function {
    /// Lets a launch give it so many bytes.
    pub(super) fn allow(&mut self, bytes: usize, modules: &[Option<Module>]) -> Result<(), u32> {
        let module = modules.get(self.module).and_then(Option::as_ref);
        let kernel = module.and_then(|it| it.kernels.get(self.kernel));
        let own = kernel.ok_or(code::INVALID_HANDLE)?.shared;
        if own + bytes > SHARED_MOST {
            return Err(code::INVALID_VALUE);
        }
        self.most = bytes;
        Ok(())
    }
}

/// Where programs that are no text begin: machine code, and bundles of several.
const MACHINE_CODE: [[u8; 4]; 2] = [*b"\x7fELF", [0x50, 0xed, 0x55, 0xba]];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut *mut c_void, image: *const c_void) -> u32 {
    with_device(|driver, index| {
        if image.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the driver's contract: an image has at least the bytes of its mark, and a text
        // ends with a zero.
        let text = unsafe {
            if MACHINE_CODE.contains(&image.cast::<[u8; 4]>().read_unaligned()) {
                return Err(code::INVALID_PTX);
            }
            CStr::from_ptr(image.cast())
        };
        let text = text.to_str().map_err(|_| code::INVALID_PTX)?;
        let module = Module::load(text).map_err(|error| {
            crate::say(&format!("emulated driver: PTX, {error}"));
            code::INVALID_PTX
        })?;
        let compute = driver.devices[index].gpu.compute;
        if !module.runs_on(compute) {
            crate::say(&format!("emulated driver: PTX, not for a GPU of {compute:?}"));
            return Err(code::INVALID_PTX);
        }
        driver.modules.push(Some(module));
        // SAFETY: the driver's contract.
        unsafe { put(out, handle(driver.modules.len())) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> u32 {
    with(|driver| {
        let at = module.addr().checked_sub(1);
        let slot = at.and_then(|at| driver.modules.get_mut(at)).ok_or(code::INVALID_HANDLE)?;
        *slot = None;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    out: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> u32 {
    with(|driver| {
        if name.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the driver's contract: a text that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| code::NOT_FOUND)?;
        let at = module.addr().checked_sub(1).ok_or(code::INVALID_HANDLE)?;
        let module = driver.modules.get(at).and_then(Option::as_ref);
        let kernels = &module.ok_or(code::INVALID_HANDLE)?.kernels;
        let nth = kernels.iter().position(|it| it.name == name).ok_or(code::NOT_FOUND)?;
        // Without asking, all that a block has is 48 KiB.
        let most = SHARED_USUAL.saturating_sub(kernels[nth].shared);
        driver.functions.push(Function { module: at, kernel: nth, most });
        // SAFETY: the driver's contract.
        unsafe { put(out, handle(driver.functions.len())) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: u32,
    blocks_y: u32,
    blocks_z: u32,
    threads: u32,
    threads_y: u32,
    threads_z: u32,
    shared: u32,
    _stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    with_device(|driver, index| {
        let is_flat = [blocks_y, blocks_z, threads_y, threads_z] == [1; 4];
        if !is_flat || !extra.is_null() {
            return Err(code::NOT_SUPPORTED);
        }
        if blocks == 0 || threads == 0 || threads > 1_024 {
            return Err(code::INVALID_VALUE);
        }
        let Driver { devices, modules, functions, pinned, .. } = driver;
        let at = function.addr().checked_sub(1);
        let function = at.and_then(|at| functions.get(at)).ok_or(code::INVALID_HANDLE)?;
        let Function { module, kernel: nth, most } = *function;
        if shared as usize > most {
            return Err(code::INVALID_VALUE);
        }
        let module = modules.get(module).and_then(Option::as_ref).ok_or(code::INVALID_HANDLE)?;
        let kernel = module.kernels.get(nth).ok_or(code::INVALID_HANDLE)?;
        let mut arguments = vec![0; kernel.parameter_bytes];
        if !kernel.parameters.is_empty() && parameters.is_null() {
            return Err(code::INVALID_VALUE);
        }
        for (nth, (at, bytes)) in kernel.parameters.iter().enumerate() {
            // SAFETY: the driver's contract: one pointer for each parameter, to as many bytes.
            let from = unsafe {
                let from = parameters.add(nth).read();
                std::slice::from_raw_parts(from.cast::<u8>(), *bytes)
            };
            arguments[*at..at + bytes].copy_from_slice(from);
        }
        let device = &mut devices[index];
        let is_cold = device.is_new(&kernel.name);
        let launch = Launch { kernel, arguments: &arguments, blocks, threads, shared, is_cold };
        device.rest(now().saturating_sub(device.ended_at));
        device.launch(&launch, pinned);
        device.ended_at = now();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(out: *mut *mut c_void, _flags: u32) -> u32 {
    // Everything is done at once, whatever the stream.
    // SAFETY: the driver's contract.
    with_device(|_, _| unsafe { put(out, handle(1)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(_stream: *mut c_void) -> u32 {
    code::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut *mut c_void, _flags: u32) -> u32 {
    with_device(|driver, _| {
        driver.next_event += 1;
        // SAFETY: the driver's contract.
        unsafe { put(out, handle(driver.next_event)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> u32 {
    with(|driver| {
        driver.events.remove(&event.addr());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, _stream: *mut c_void) -> u32 {
    with_device(|driver, _| {
        driver.events.insert(event.addr(), now());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: *mut c_void) -> u32 {
    super::wait()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(_event: *mut c_void) -> u32 {
    with_device(
        |driver, index| {
            if driver.devices[index].is_hung { Err(code::NOT_READY) } else { Ok(()) }
        },
    )
}

#[unsafe(no_mangle)]
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a time in ms")]
pub unsafe extern "C" fn cuEventElapsedTime(
    out: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> u32 {
    with_device(|driver, _| {
        let at = |event: *mut c_void| driver.events.get(&event.addr()).ok_or(code::INVALID_HANDLE);
        let nanos = at(to)?.saturating_sub(*at(from)?);
        // SAFETY: the driver's contract.
        unsafe { put(out, (nanos as f64 / 1e6) as f32) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    out: *mut f32,
    from: *mut c_void,
    to: *mut c_void,
) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime(out, from, to) }
}

/// Nanoseconds since some moment of this process's life.
#[expect(clippy::disallowed_methods, reason = "a device's events have a clock of their own")]
fn now() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}
