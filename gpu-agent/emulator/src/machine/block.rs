//! A launch: its blocks one after the other, block b on SM b mod n.

use super::memory::{Memory, Pinned};
use super::warp::{Halt, Surroundings, Warp};
use super::{LANES, Stop};
use crate::fault::Unit;
use crate::ptx::{Kernel, Special};

/// Lanes of a warp.
const WIDTH: u32 = 32;

/// What is launched.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub arguments: &'a [u8],
    pub blocks: u32,
    pub threads: u32,
    /// Bytes of shared memory beside the kernel's own.
    pub shared: u32,
    /// No SM has run the kernel before.
    pub is_cold: bool,
}

/// Cycles that the first launch of a kernel waits for its instructions: on one SM of so many, which
/// fetches them for the others too.
const COLD: u64 = 400_000;
const TOGETHER: u32 = 4;

/// The SMs and what is wrong with them.
pub(crate) struct Sms<'a> {
    pub count: u32,
    pub flaky: &'a mut std::collections::BTreeMap<u32, Unit>,
    /// In thousandths of what is right, by SM.
    pub pace: &'a std::collections::BTreeMap<u32, u64>,
}

/// Runs a launch to its end.
///
/// # Errors
/// The kernel does what it may not.
pub(crate) fn run(
    launch: &Launch,
    memory: &mut Memory,
    pinned: &[Pinned],
    sms: &mut Sms,
) -> Result<(), Stop> {
    let warps = launch.threads.div_ceil(WIDTH);
    if launch.threads == 0 || launch.threads > 1_024 {
        return Err(Stop::Unsupported("no threads, or more than 1,024"));
    }
    let mut warps: Vec<Warp> = (0..warps).map(|_| Warp::new(launch.kernel)).collect();
    let shared = launch.kernel.shared + launch.shared as usize;
    let mut shared = vec![0_u32; shared.div_ceil(16) * 4];
    for block in 0..launch.blocks {
        let sm = block % sms.count.max(1);
        for (nth, warp) in (0..).zip(&mut warps) {
            place(warp, launch, block, nth, sm);
        }
        let mut with = Surroundings {
            kernel: launch.kernel,
            arguments: launch.arguments,
            memory: &mut *memory,
            pinned,
            shared: &mut shared,
            sm,
            flaky: sms.flaky.get_mut(&sm),
            pace: sms.pace.get(&sm).copied().unwrap_or(1_000),
            cold: if launch.is_cold && sm % TOGETHER == 1 { COLD } else { 0 },
        };
        // A barrier lets all go on that have reached it when none can go further.
        let mut waiting = true;
        while waiting {
            waiting = false;
            for warp in &mut warps {
                waiting |= warp.run(&mut with)? == Halt::Barrier;
            }
        }
    }
    Ok(())
}

/// Sets a warp to the beginning of its block.
fn place(warp: &mut Warp, launch: &Launch, block: u32, nth: u32, sm: u32) {
    let first = nth * WIDTH;
    let alive = (launch.threads - first).min(WIDTH);
    warp.begin(if alive == WIDTH { u32::MAX } else { (1 << alive) - 1 });
    for (reg, special) in &launch.kernel.specials {
        let to = warp.registers.word_mut(*reg);
        let value = match special {
            Special::Thread => {
                for (lane, it) in (0..).zip(to.iter_mut()) {
                    *it = first + lane;
                }
                continue;
            }
            Special::Lane => {
                for (lane, it) in (0..).zip(to.iter_mut()) {
                    *it = lane;
                }
                continue;
            }
            Special::Threads => launch.threads,
            Special::Block => block,
            Special::Blocks => launch.blocks,
            Special::Warp => nth,
            Special::Sm => sm,
            Special::Zero => 0,
            Special::One => 1,
        };
        *to = [value; LANES];
    }
}
