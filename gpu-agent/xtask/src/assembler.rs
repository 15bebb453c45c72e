//! What becomes of the PTX on a real architecture: the driver's assembler, run ahead of time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::wheels::Tools;

/// What must not stand in the assembler's words: registers that went to memory, and tensor
/// instructions that it serialised (C7510 and its neighbours).
const BAD_WORDS: &[&str] = &["warning", "C75", "error"];

/// Assembles a file for one architecture and looks for what must be in it.
///
/// # Errors
/// It does not assemble, spills, is serialised, or lacks an instruction.
pub(crate) fn check(
    tools: &Tools,
    ptx: &Path,
    architecture: &str,
    instructions: &[&str],
    work: &Path,
) -> Result<()> {
    let named = || format!("{} for {architecture}", ptx.display());
    let cubin = work.join("out.cubin");
    let mut assemble = Command::new(&tools.assembler);
    assemble.args(["-v", "-arch", architecture]).arg(ptx).arg("-o").arg(&cubin);
    let done = assemble.output().with_context(|| format!("cannot start {assemble:?}"))?;
    let words = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    if !done.status.success() {
        bail!("{}: {}", named(), words.trim());
    }
    for line in words.lines() {
        let spills = line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes");
        if spills || BAD_WORDS.iter().any(|word| line.contains(word)) {
            bail!("{}: {}", named(), line.trim());
        }
    }
    let mut disassemble = Command::new(&tools.disassembler);
    let done = disassemble.arg("-c").arg(&cubin).output();
    let done = done.with_context(|| format!("cannot start {disassemble:?}"))?;
    if !done.status.success() {
        bail!("{}: {}", named(), String::from_utf8_lossy(&done.stderr).trim());
    }
    let code = String::from_utf8_lossy(&done.stdout);
    for instruction in instructions {
        if !code.contains(instruction) {
            bail!("{}: no {instruction} in the machine code", named());
        }
    }
    Ok(())
}
