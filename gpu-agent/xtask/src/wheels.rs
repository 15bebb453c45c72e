//! The maker's tools, from Python wheels in a virtual environment of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Pinned: another compiler gives other bytes. This one's PTX is read by drivers from R570 on. The
/// assembler is newer, because that of 12.8 serialises `wgmma` (C7515) where this one does not.
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvrtc-cu12==12.8.93",
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-nvdisasm==13.5.37",
];
/// Says, inside the environment, which wheels it was made with.
const STAMP: &str = "spillway-wheels.txt";

/// Where the tools lie.
pub(crate) struct Tools {
    pub compiler: PathBuf,
    /// The compiler asks for it by its name alone, so it is loaded first.
    pub builtins: PathBuf,
    pub assembler: PathBuf,
    pub disassembler: PathBuf,
}

/// Makes the environment if it is not there.
///
/// # Errors
/// There is no Python, or the wheels cannot be had.
pub(crate) fn provide(directory: &Path) -> Result<Tools> {
    let wanted = WHEELS.join("\n");
    if fs::read_to_string(directory.join(STAMP)).ok().as_deref() != Some(wanted.as_str()) {
        install(directory)?;
        fs::write(directory.join(STAMP), wanted).context("cannot write the environment's stamp")?;
    }
    Ok(Tools {
        compiler: find(directory, "libnvrtc.so.12")?,
        builtins: find(directory, "libnvrtc-builtins.so.12.8")?,
        assembler: find(directory, "ptxas")?,
        disassembler: find(directory, "nvdisasm")?,
    })
}

fn install(directory: &Path) -> Result<()> {
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(directory))?;
    let pip = directory.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--no-deps"]).args(WHEELS))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The wheels of different years put their files in different folders.
fn find(directory: &Path, name: &str) -> Result<PathBuf> {
    let mut open = vec![directory.join("lib")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.file_name().is_some_and(|it| it == name) {
                return Ok(path);
            }
        }
    }
    bail!("{name} is not among the installed wheels; delete {} and try again", directory.display())
}
