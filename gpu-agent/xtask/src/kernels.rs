//! Which kernels there are, how they are compiled, and what must be in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::assembler::Wanted;
use crate::nvrtc::{Compiler, Source};
use crate::wheels::{self, Tools};
use crate::{NoTools, assembler, say};

/// Floating point is rounded after each operation, as written: digests are compared bit by bit.
const OPTIONS: &[&str] = &["--std=c++17", "--fmad=false"];
const HEADERS: &[&str] = &["common.cuh", "operands.cuh", "tensor.cuh", "narrow.cuh"];
/// What the node's GPUs are, and the oldest that the PTX is for.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_90a", "sm_100a", "sm_120a"];

struct Kernel {
    name: &'static str,
    /// The virtual architecture of its PTX.
    target: &'static str,
    /// Real architectures that run it.
    on: &'static [&'static str],
    /// What must be in its machine code on all of them, so that it tests what it says.
    instructions: &'static [&'static str],
    /// What must be in one of its functions, where it is in others too.
    each: &'static [(&'static str, &'static str)],
}

const KERNELS: &[Kernel] = &[
    Kernel {
        name: "memory",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["LDG.E.EF.128", "STG.E.EF.128", "E.OR.STRONG", "ATOMG.E.ADD"],
        // What it reads is of no use to it, so that an assembler may take it for nothing.
        each: &[("memory_read_rows", "LDG.E.128.STRONG.SYS")],
    },
    Kernel {
        name: "units",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["IMAD", "DFMA", "MUFU.EX2", "MUFU.RSQ", "MUFU.SIN", "LDS", "ATOMS", "BAR"],
        each: &[],
    },
    Kernel {
        name: "tensor",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["HMMA.16816.F32.BF16", "HMMA.16816.F32", "TF32", "IMMA", "DMMA"],
        each: &[],
    },
    Kernel {
        name: "caches",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["LDG.E.128", "LDG.E.STRONG.SM", "E.ADD.STRONG", "SHFL.IDX", "VOTE"],
        each: &[],
    },
    Kernel {
        name: "constant",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["LDC R", "c[0x3][R"],
        each: &[],
    },
    Kernel {
        name: "golden",
        target: "compute_80",
        on: ARCHITECTURES,
        instructions: &["HMMA.16816.F32.BF16", "HMMA.16816.F32 ", "MUFU.EX2", "MUFU.RSQ", "F2FP"],
        each: &[],
    },
    Kernel {
        name: "tensor_fp8",
        target: "compute_89",
        // For 9.0 and 10.0 the assembler makes two operations in fp16 of each: there it would test
        // other units than it says, and the agent does not run it.
        on: &["sm_89", "sm_120a"],
        instructions: &["QMMA.16832.F32.E4M3.E4M3"],
        each: &[],
    },
    Kernel {
        name: "wgmma_sm90a",
        target: "compute_90a",
        on: &["sm_90a"],
        instructions: &["HGMMA.64x256x16.F32.BF16"],
        each: &[],
    },
    Kernel {
        name: "tcgen05_sm100a",
        target: "compute_100a",
        on: &["sm_100a"],
        instructions: &["UTCHMMA", "UTCBAR", "LDTM.x8"],
        each: &[],
    },
    Kernel {
        name: "mma_sm120a",
        target: "compute_120a",
        on: &["sm_120a"],
        instructions: &["QMMA.16832.F32.E4M3.E4M3", "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X"],
        each: &[],
    },
];

/// Compiles all, looks at what the assembler makes of it, and writes or compares.
///
/// # Errors
/// A tool cannot be had, a kernel is not as it must be, or (when checking) a file is not what its
/// source gives.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let folder = root.join("gpu-agent/daemon/kernels");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let work = target.join("kernels");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let tools = wheels::provide(&work.join("venv")).context(NoTools)?;
    let made = compile(&tools, &folder, &work)?;
    let stale: Vec<&String> = made
        .iter()
        .filter(|(path, text)| !is_same(&folder.join(path), text))
        .map(|(p, _)| p)
        .collect();
    if stale.is_empty() {
        say(&format!("{} files are what their sources give", made.len()));
        return Ok(());
    }
    if check {
        bail!("{stale:?} are not what their sources give; run `cargo xtask kernels`");
    }
    for (path, text) in &made {
        let path = folder.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&format!("{} of {} files written", stale.len(), made.len()));
    Ok(())
}

fn is_same(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes())
}

/// All files that belong below the folder, by their path there.
fn compile(tools: &Tools, folder: &Path, work: &Path) -> Result<BTreeMap<String, String>> {
    let compiler = Compiler::load(tools)?;
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut sources = BTreeMap::new();
    for name in HEADERS {
        sources.insert((*name).to_owned(), read(name)?);
    }
    let headers: Vec<(String, String)> = sources.clone().into_iter().collect();
    let headers: Vec<Source> = headers.iter().map(|(name, text)| Source { name, text }).collect();
    let mut made = BTreeMap::new();
    for kernel in KERNELS {
        let name = format!("{}.cu", kernel.name);
        let text = read(&name)?;
        let target = format!("--gpu-architecture={}", kernel.target);
        let options: Vec<&str> = OPTIONS.iter().copied().chain([target.as_str()]).collect();
        let ptx = compiler.compile(&Source { name: &name, text: &text }, &headers, &options)?;
        let path = work.join(format!("{}.ptx", kernel.name));
        fs::write(&path, &ptx).with_context(|| format!("cannot write {}", path.display()))?;
        for architecture in kernel.on {
            let wanted = Wanted { anywhere: kernel.instructions, each: kernel.each };
            assembler::check(tools, &path, architecture, &wanted, work)?;
        }
        say(&format!("{name}: {} bytes of PTX, for {}", ptx.len(), kernel.on.join(", ")));
        sources.insert(name, text);
        made.insert(format!("ptx/{}.ptx", kernel.name), ptx);
    }
    let manifest = manifest(sources.iter().chain(&made));
    made.insert("ptx/manifest.txt".to_owned(), manifest);
    Ok(made)
}

/// One line for each file: its BLAKE3 and its path.
fn manifest<'a>(files: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let lines = files.map(|(path, text)| {
        let hash = blake3::hash(text.as_bytes()).to_hex();
        format!("{hash}  {path}\n")
    });
    lines.collect()
}
