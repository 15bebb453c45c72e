//! What becomes of the PTX on a real architecture: the driver's assembler, run ahead of time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::wheels::Tools;

/// What must not stand in the assembler's words: registers that went to memory, and tensor
/// instructions that it serialised (C7510 and its neighbours).
const BAD_WORDS: &[&str] = &["warning", "C75", "error"];

/// What must be in the machine code.
pub(crate) struct Wanted<'a> {
    pub anywhere: &'a [&'a str],
    /// A function and what must be in it.
    pub each: &'a [(&'a str, &'a str)],
}

/// Assembles a file for one architecture and looks for what must be in it.
///
/// # Errors
/// It does not assemble, spills, is serialised, or lacks an instruction.
pub(crate) fn check(
    tools: &Tools,
    ptx: &Path,
    architecture: &str,
    wanted: &Wanted,
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
    if let Some(line) = complaint(&words) {
        bail!("{}: {line}", named());
    }
    let mut disassemble = Command::new(&tools.disassembler);
    let done = disassemble.arg("-c").arg(&cubin).output();
    let done = done.with_context(|| format!("cannot start {disassemble:?}"))?;
    if !done.status.success() {
        bail!("{}: {}", named(), String::from_utf8_lossy(&done.stderr).trim());
    }
    let code = String::from_utf8_lossy(&done.stdout);
    if let Some(instruction) = missing(&code, wanted.anywhere) {
        bail!("{}: no {instruction} in the machine code", named());
    }
    for (name, instruction) in wanted.each {
        if missing(body(&code, name), &[instruction]).is_some() {
            bail!("{}: no {instruction} in the machine code of {name}", named());
        }
    }
    Ok(())
}

/// The first line of the assembler's words that must not be there.
fn complaint(words: &str) -> Option<&str> {
    let is_bad = |line: &&str| {
        let spills = line.contains("spill") && !line.contains(" 0 bytes spill stores, 0 bytes");
        spills || BAD_WORDS.iter().any(|word| line.contains(word))
    };
    words.lines().map(str::trim).find(is_bad)
}

/// The machine code of one function; nothing if there is no such function.
fn body<'a>(code: &'a str, name: &str) -> &'a str {
    let head = format!(".text.{name}:\n");
    let Some((_, rest)) = code.split_once(head.as_str()) else { return "" };
    rest.split_once("\n.text.").map_or(rest, |(body, _)| body)
}

/// The first instruction that is not in the code. A longer name that begins alike is another one.
fn missing<'a>(code: &str, instructions: &[&'a str]) -> Option<&'a str> {
    instructions.iter().copied().find(|it| !code.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_went_to_memory_are_a_complaint() {
        let sound = "ptxas info    : Used 90 registers, used 1 barriers\n\
                     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
        assert_eq!(complaint(sound), None);
        for (stores, loads) in [(24, 24), (0, 4), (10, 0), (120, 0)] {
            let line = format!(
                "24 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads"
            );
            assert_eq!(complaint(&format!("{sound}\n    {line}\n")), Some(line.as_str()));
        }
    }

    #[test]
    fn what_was_serialised_or_warned_of_is_a_complaint() {
        let serialised = "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async \
                          instructions are serialized";
        assert_eq!(complaint(serialised), Some(serialised));
        assert!(complaint("ptxas warning : something").is_some());
    }

    #[test]
    fn an_instruction_that_is_not_there_is_named() {
        let code = "/*0100*/ HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n/*0110*/ LDG.E.EF.128 R4 ;";
        assert_eq!(missing(code, &["HMMA.16816.F32.BF16", "LDG.E.EF.128"]), None);
        assert_eq!(missing(code, &["HMMA.16816.F32 ", "LDG"]), Some("HMMA.16816.F32 "));
        assert_eq!(missing(code, &["DMMA"]), Some("DMMA"));
    }

    #[test]
    fn an_instruction_of_another_function_does_not_count() {
        let code = ".text.one:\n\tEXIT ;\n\n.text.two:\n\tLDG.E.128 R4 ;\n\tEXIT ;\n";
        assert_eq!(missing(body(code, "two"), &["LDG"]), None);
        assert_eq!(missing(body(code, "one"), &["LDG"]), Some("LDG"));
        assert_eq!(body(code, "three"), "");
    }
}
