//! `cargo xtask kernels`: compiles `gpu-agent/daemon/kernels` to the PTX that is checked in, or
//! checks that it is what its sources give.
//!
//! ```text
//!   *.cu, *.cuh ─▶ NVRTC ─▶ ptx/*.ptx ─▶ ptxas, for each architecture ─▶ nvdisasm
//!                              └─▶ ptx/manifest.txt                 no spill, nothing missing
//! ```
//!
//! The compiler, the assembler and the disassembler come from their maker's Python wheels, pinned,
//! in a virtual environment below the target directory. Nothing that is shipped needs any of them.
//!
//! # Invariants
//! * The same sources give the same bytes: the compiler's version and its options are here.
//! * A file is only written when all have passed.

mod assembler;
mod kernels;
mod nvrtc;
mod wheels;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of development for the GPU agent.
#[derive(Parser)]
#[command(name = "xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compiles the burn-in kernels, or checks those that are checked in.
    Kernels {
        /// Changes nothing; fails if a compilation gives other bytes than are checked in.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let Command::Kernels { check } = Cli::parse().command;
    match kernels::run(&root(), check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            let is_without_tools = error.downcast_ref::<NoTools>().is_some();
            if is_without_tools { ExitCode::from(NO_TOOLS) } else { ExitCode::FAILURE }
        }
    }
}

/// The exit code where the compiler cannot be had, so that nothing was checked.
const NO_TOOLS: u8 = 3;

/// The compiler cannot be had here.
#[derive(Debug)]
struct NoTools;

impl fmt::Display for NoTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the compiler cannot be had: it needs python3 and a package index")
    }
}

/// The workspace, two folders above this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

#[expect(clippy::print_stderr, reason = "a task of development speaks to its terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}
