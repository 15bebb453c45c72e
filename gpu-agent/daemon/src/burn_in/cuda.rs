//! The driver, through cudarc: the only place that calls it. Its library is looked for when a
//! process runs; nothing of it is needed to build.
//!
//! cudarc panics where the library or one of its functions is absent, so both are asked for first.
#![expect(unsafe_code, reason = "the driver's interface is C")]

mod copies;

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use serde::{Deserialize, Serialize};

pub(super) use copies::Stream;

/// The release of CUDA whose PTX and functions are used. Older drivers do not read it.
const RELEASE_MIN: i32 = 12_080;

/// Why there are no numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FailureKind {
    /// No driver, a stub, or no device.
    NoGpu,
    /// The driver cannot be used, or refuses.
    Driver,
    /// The driver does not take kernels.
    Kernels,
    /// The device broke while it worked.
    Device,
    /// A kernel did what it may not: by the device's fault, or by its own where no GPU has run it yet.
    Trap,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Whether it says that the GPU is not sound.
    pub(super) fn is_of_device(&self) -> bool {
        match self.kind {
            FailureKind::Device | FailureKind::Trap => true,
            FailureKind::NoGpu | FailureKind::Driver | FailureKind::Kernels => false,
        }
    }

    pub(super) fn driver(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Driver, message)
    }
}

/// Codes that a device gives when it breaks: ECC, NVLink, contained, timeout, assertion, lost. That it
/// is not available (46) is none: another process may hold it for itself, or be about to end.
const DEVICE_CODES: &[u32] = &[214, 219, 226, 702, 710, 999];

/// Codes of kernels that were stopped: bad address, stack, instruction, alignment, space, counter, and
/// what has no other name.
const TRAP_CODES: &[u32] = &[700, 714, 715, 716, 717, 718, 719];

/// Codes that a driver gives for a text that it cannot compile for the GPU: no image, bad PTX, no
/// compiler, a version or an architecture that it does not know.
const KERNEL_CODES: &[u32] = &[200, 209, 218, 221, 222, 223];

fn failure(action: &str) -> impl FnOnce(DriverError) -> Failure + '_ {
    move |error| {
        let code = error.0 as u32;
        let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|_| format!("error {code}"));
        let kind = if DEVICE_CODES.contains(&code) {
            FailureKind::Device
        } else if TRAP_CODES.contains(&code) {
            FailureKind::Trap
        } else if KERNEL_CODES.contains(&code) {
            FailureKind::Kernels
        } else if matches!(code, 34 | 100) {
            FailureKind::NoGpu
        } else {
            FailureKind::Driver
        };
        Failure::new(kind, format!("cannot {action}: {name}"))
    }
}

/// A GPU as the driver numbers it, which is not as the management library does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeviceInfo {
    pub index: u16,
    pub name: String,
    pub uuid: String,
    pub compute: (u32, u32),
    pub sms: u32,
    pub memory_bytes: u64,
}

fn start() -> Result<(), Failure> {
    let no_gpu = |message: &str| Failure::new(FailureKind::NoGpu, message);
    // SAFETY: loads the driver's library, which is made to be loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(no_gpu("there is no NVIDIA driver: libcuda.so.1 is not found"));
    }
    result::init().map_err(|error| match error.0 as u32 {
        34 => no_gpu("libcuda.so.1 is a stub, not a driver"),
        100 => no_gpu("the NVIDIA driver knows no GPU"),
        802 => Failure::driver(
            "the NVIDIA driver is not ready: with NVSwitch, the fabric manager must run first",
        ),
        803 => Failure::driver(
            "the NVIDIA driver's library and its kernel module are of different versions",
        ),
        // No GPU was asked anything yet, so that none is to blame.
        _ => Failure::driver(failure("start the NVIDIA driver")(error).message),
    })?;
    let mut release = 0;
    // SAFETY: writes one number.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut release) }.result();
    asked.map_err(failure("ask for the driver's version"))?;
    if release < RELEASE_MIN {
        let dotted = |it: i32| format!("{}.{}", it / 1_000, it % 1_000 / 10);
        let (has, needs) = (dotted(release), dotted(RELEASE_MIN));
        let message =
            format!("the NVIDIA driver is too old: it knows CUDA {has}, needed is {needs}");
        return Err(Failure::new(FailureKind::Driver, message));
    }
    Ok(())
}

/// All GPUs that this process may use.
///
/// # Errors
/// There is none, or the driver cannot be used.
pub(super) fn devices() -> Result<Vec<DeviceInfo>, Failure> {
    start()?;
    let count = result::device::get_count().map_err(failure("count the GPUs"))?;
    (0..count).map(describe).collect()
}

fn describe(index: i32) -> Result<DeviceInfo, Failure> {
    let ask = || -> Result<DeviceInfo, DriverError> {
        let device = result::device::get(index)?;
        let uuid = result::device::get_uuid(device)?.bytes.map(|it| it.to_ne_bytes()[0]);
        // SAFETY: the device is one that the driver gave.
        let memory = unsafe { result::device::total_mem(device) }?;
        Ok(DeviceInfo {
            index: u16::try_from(index).unwrap_or(u16::MAX),
            name: result::device::get_name(device)?,
            uuid: uuid_text(uuid),
            compute: (
                attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sms: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: memory as u64,
        })
    };
    ask().map_err(failure("describe a GPU"))
}

use sys::CUdevice_attribute as Attribute;

fn attribute(device: sys::CUdevice, which: Attribute) -> Result<u32, DriverError> {
    // SAFETY: the device is one that the driver gave.
    let value = unsafe { result::device::get_attribute(device, which) }?;
    Ok(u32::try_from(value).unwrap_or(0))
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = bytes.map(|byte| format!("{byte:02x}")).concat();
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

/// One GPU, held by this process to its end.
pub(super) struct Gpu {
    pub info: DeviceInfo,
    /// Shared memory of an SM, and the most that a block may ask for.
    shared_sm: u32,
    shared_block: u32,
}

/// A kernel.
pub(super) struct Kernel {
    function: sys::CUfunction,
    /// It has been launched.
    is_warm: Cell<bool>,
}

impl Kernel {
    /// Whether it has run before, so that its instructions lie in caches.
    pub(super) fn is_warm(&self) -> bool {
        self.is_warm.get()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    Word(u32),
    Long(u64),
}

/// How a kernel is launched: blocks, threads of each, bytes of shared memory of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub blocks: u32,
    pub threads: u32,
    pub shared: u32,
}

impl Gpu {
    /// # Errors
    /// The driver refuses.
    pub(super) fn open(index: u16) -> Result<Self, Failure> {
        start()?;
        let info = describe(i32::from(index))?;
        let ask = || -> Result<Self, DriverError> {
            let device = result::device::get(i32::from(index))?;
            // SAFETY: the context is never released; this process has one GPU.
            unsafe { result::ctx::set_current(result::primary_ctx::retain(device)?) }?;
            use Attribute::{
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as BLOCK,
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR as SM,
            };
            let (shared_sm, shared_block) = (attribute(device, SM)?, attribute(device, BLOCK)?);
            Ok(Self { info, shared_sm, shared_block })
        };
        ask().map_err(failure("open the GPU"))
    }

    /// Bytes of shared memory of which two blocks do not fit on an SM.
    pub(super) fn shared_alone(&self) -> u32 {
        (self.shared_sm / 2 + 1_024).min(self.shared_block.saturating_sub(1_024)) / 16 * 16
    }

    /// Compiles PTX for the GPU and finds kernels in it.
    ///
    /// # Errors
    /// The driver does not take it.
    pub(super) fn load(&self, ptx: &str, names: &[&str]) -> Result<Vec<Kernel>, Failure> {
        let bad = |_| Failure::new(FailureKind::Driver, "the PTX has a zero in it");
        let text = CString::new(ptx).map_err(bad)?;
        // SAFETY: the text ends with a zero and outlives the call.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
        let module = module.map_err(failure("load the kernels"))?;
        let find = |name: &&str| {
            let text = CString::new(*name).map_err(bad)?;
            // SAFETY: the module is never unloaded.
            let function = unsafe { result::module::get_function(module, text) };
            let kernel = function.map(|function| Kernel { function, is_warm: Cell::new(false) });
            kernel.map_err(failure("find a kernel"))
        };
        names.iter().map(find).collect()
    }

    /// Lets a kernel have more shared memory than is usual.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn allow_shared(&self, kernel: &Kernel, bytes: u32) -> Result<(), Failure> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the kernel's module is never unloaded.
        let set = unsafe { result::function::set_function_attribute(kernel.function, MOST, bytes) };
        set.map_err(failure("give a kernel shared memory"))
    }

    /// Starts a kernel. What it does wrong shows when it is waited for.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn launch(
        &self,
        kernel: &Kernel,
        shape: Shape,
        arguments: &[Argument],
    ) -> Result<(), Failure> {
        let pointer = |it: &Argument| -> *mut c_void {
            match it {
                Argument::Word(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Long(value) => std::ptr::from_ref(value).cast_mut().cast(),
            }
        };
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer).collect();
        // SAFETY: the arguments are those of the kernel's declaration, which the callers beside this
        // module keep to; the driver copies them before it returns; memory that they point to is
        // kept until the kernel was waited for.
        let launched = unsafe {
            result::launch_kernel(
                kernel.function,
                (shape.blocks, 1, 1),
                (shape.threads, 1, 1),
                shape.shared,
                std::ptr::null_mut(),
                &mut pointers,
            )
        };
        launched.map_err(failure("launch a kernel"))?;
        kernel.is_warm.set(true);
        Ok(())
    }

    /// Waits for all that was started.
    ///
    /// # Errors
    /// Something went wrong on the GPU.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        result::ctx::synchronize().map_err(failure("finish a kernel"))
    }

    /// Does something and says how many nanoseconds the GPU took.
    ///
    /// # Errors
    /// It goes wrong, or the driver refuses.
    pub(super) fn timed(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<u64, Failure> {
        use sys::CUevent_flags_enum::CU_EVENT_DEFAULT as DEFAULT;
        let create = || result::event::create(DEFAULT).map_err(failure("make an event"));
        let (from, to) = (create()?, create()?);
        let record = |event| {
            // SAFETY: the event was made above and is not destroyed yet.
            let recorded = unsafe { result::event::record(event, std::ptr::null_mut()) };
            recorded.map_err(failure("record an event"))
        };
        record(from)?;
        work()?;
        record(to)?;
        self.wait()?;
        // SAFETY: both were made above, recorded and waited for; they are not used again.
        let millis = unsafe {
            let millis = result::event::elapsed(from, to);
            for event in [from, to] {
                result::event::destroy(event).map_err(failure("drop an event"))?;
            }
            millis.map_err(failure("read an event"))?
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
        Ok((f64::from(millis) * 1e6) as u64)
    }

    /// Bytes of the cache that all SMs share.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn second_level_bytes(&self) -> Result<u64, Failure> {
        use Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as BYTES;
        let ask = || attribute(result::device::get(i32::from(self.info.index))?, BYTES);
        ask().map(u64::from).map_err(failure("ask for the size of a cache"))
    }

    /// Free and all memory, in bytes.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn free_bytes(&self) -> Result<(u64, u64), Failure> {
        let asked = result::mem_get_info().map_err(failure("ask for free memory"))?;
        Ok((asked.0 as u64, asked.1 as u64))
    }

    /// Free memory, once nothing more is given back. Of a process that has just ended, the driver may
    /// still hold some for a moment.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn settled_bytes(&self) -> Result<(u64, u64), Failure> {
        const PAUSE: Duration = Duration::from_millis(25);
        const TRIES: u32 = 120;
        let mut seen = self.free_bytes()?;
        for _ in 0..TRIES {
            thread::sleep(PAUSE);
            let now = self.free_bytes()?;
            if now == seen {
                break;
            }
            seen = now;
        }
        Ok(seen)
    }

    /// Takes memory of the GPU; none if there is not as much in one piece. It is held to the end of
    /// the process.
    pub(super) fn take(&self, bytes: u64) -> Option<u64> {
        // SAFETY: what is read of it was written before.
        unsafe { result::malloc_sync(usize::try_from(bytes).ok()?) }.ok()
    }

    /// Reads or writes 16 bytes of the GPU's memory from the host.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn change_vector(
        &self,
        address: u64,
        change: impl FnOnce(&mut [u32; 4]),
    ) -> Result<(), Failure> {
        let mut words = [0_u32; 4];
        // SAFETY: the callers name memory that they took and have waited for what uses it.
        unsafe { result::memcpy_dtoh_sync(&mut words, address) }.map_err(failure("read memory"))?;
        change(&mut words);
        // SAFETY: the same.
        unsafe { result::memcpy_htod_sync(address, &words) }.map_err(failure("write memory"))
    }

    /// Takes memory of the host that the GPU reaches. It is held to the end of the process.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn pinned(&self, words: usize) -> Result<Pinned, Failure> {
        // SAFETY: the memory is zeroed before it is read, and never given back.
        let words = unsafe {
            let at = result::malloc_host(words * 4, 0).map_err(failure("pin memory"))?;
            at.cast::<u8>().write_bytes(0, words * 4);
            std::slice::from_raw_parts(at.cast::<AtomicU32>(), words)
        };
        Ok(Pinned { words })
    }
}

/// Memory of the host that kernels read or write. To be filled before they start, and to be read when they were waited for.
pub(super) struct Pinned {
    words: &'static [AtomicU32],
}

impl Pinned {
    /// Its address, for kernels: the driver uses one range of addresses for both.
    pub(super) fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    pub(super) fn read(&self) -> Vec<u32> {
        self.words.iter().map(|it| it.load(Ordering::Relaxed)).collect()
    }

    /// Writes from the beginning on.
    pub(super) fn fill(&self, words: impl Iterator<Item = u32>) {
        self.words.iter().zip(words).for_each(|(it, word)| it.store(word, Ordering::Relaxed));
    }

    pub(super) fn clear(&self) {
        self.words.iter().for_each(|it| it.store(0, Ordering::Relaxed));
    }
}
