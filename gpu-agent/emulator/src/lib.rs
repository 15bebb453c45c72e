//! A GPU in software: an interpreter that runs the PTX that is shipped, behind stand-ins for the
//! driver's libraries. A program finds them where it looks for the real ones, and runs unchanged.
//!
//! ```text
//!   the agent ─dlopen─▶ libcuda.so.1 ───────▶ Device ─▶ Launch ─▶ blocks ─▶ warps of 32 lanes
//!        │                  (cuda)               │           (ptx)      (machine)
//!        └─────dlopen─▶ libnvidia-ml.so.1        └─ Memory: stuck, aliased, lost, wrong once
//!                           (nvml)                    SMs: flaky, slow
//!                                   ◀── control file, and events beside it
//! ```
//!
//! Both libraries are this crate's `libgpu_agent_emulator.so`; [`stage`] makes a folder in which it
//! has their names, for `LD_LIBRARY_PATH`.
//!
//! # The control file
//! TOML, named by [`control::VARIABLE`]; [`control::Control`] and [`fault::Fault`] are its form.
//! ```toml
//! [[gpu]]
//! memory_kib = 65536
//! sms = 8
//! [[gpu.fault]]
//! kind = "stuck-bit"
//! address = 4096      # bytes from the beginning of the device's memory
//! bit = 3             # of the word of 32 bits there
//! one = true
//! ```
//! What GPUs did that other processes can see (they have worked; one fell off the bus) is in a file
//! beside it, `.events` added to its name.
//!
//! # What PTX is known
//! What the shipped kernels use: `ptx::lower` is the list. Any other instruction is refused by its
//! name and its line when the module is loaded. Also refused: calls, local
//! memory, bytes and half words in memory, grids of more than one dimension, and the targets sm_90a
//! and sm_100a.
//!
//! # Invariants
//! * Equal control files and calls give equal results, whatever the machine: no clock, no chance.
//!   (Events that programs time themselves with do read a clock.)
//! * Without a planted fault a kernel's results are what PTX says. Matrix operations and special
//!   functions are models: exact sums rounded once. Digests from here are no digests of silicon.
//!
//! Deliberately absent: caches, memory ordering, races (blocks and warps run in order), streams that
//! overlap, wgmma and tcgen05.

#[cfg(test)]
mod baselines;
pub mod control;
mod cuda;
mod device;
pub mod fault;
mod machine;
mod nvml;
pub mod plant;
mod ptx;
#[cfg(test)]
mod shipped;

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The library's own file, and the names that programs look for.
const LIBRARY: &str = "libgpu_agent_emulator.so";
const NAMES: [&str; 3] = ["libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1"];

/// Finds the library beside the running program, or one folder above (as for tests and examples).
#[must_use]
pub fn library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folders = program.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(LIBRARY)).find(|path| path.exists())
}

/// Makes a folder in which the library has the names of the driver's.
///
/// # Errors
/// The disk refuses.
pub fn stage(library: &Path, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for name in NAMES {
        let link = folder.join(name);
        match symlink(library, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a library that stands in for a driver has no log")]
fn say(line: &str) {
    eprintln!("{line}");
}
