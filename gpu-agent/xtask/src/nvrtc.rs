//! The compiler, called through its C interface: it is a library, and no program comes with it.
#![expect(unsafe_code, reason = "the compiler is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context, Result, bail};
use libloading::{Library, Symbol};

use crate::wheels::Tools;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

/// The loaded compiler.
pub(crate) struct Compiler {
    nvrtc: Library,
    /// Kept loaded: the compiler finds it by its name.
    _builtins: Library,
}

/// A source or header: name and text.
pub(crate) struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Compiler {
    /// # Errors
    /// A library cannot be loaded.
    pub(crate) fn load(tools: &Tools) -> Result<Self> {
        // SAFETY: the maker's libraries run no code of consequence when they are loaded.
        let open = |path| unsafe { Library::new(path) };
        let builtins = open(&tools.builtins).context("cannot load the compiler's builtins")?;
        let nvrtc = open(&tools.compiler).context("cannot load the compiler")?;
        Ok(Self { nvrtc, _builtins: builtins })
    }

    /// Compiles one source to PTX.
    ///
    /// # Errors
    /// It does not compile, or gives a warning: both with the compiler's words.
    pub(crate) fn compile(
        &self,
        source: &Source,
        headers: &[Source],
        options: &[&str],
    ) -> Result<String> {
        let text = CString::new(source.text)?;
        let name = CString::new(source.name)?;
        let bodies = strings(headers.iter().map(|it| it.text))?;
        let names = strings(headers.iter().map(|it| it.name))?;
        let options = strings(options.iter().copied())?;
        let mut program: Program = ptr::null_mut();
        let count = c_int::try_from(headers.len())?;
        // SAFETY: the types are those of nvrtc.h; every pointer lives to the end of this function,
        // and both arrays of headers have `count` elements.
        let made = unsafe {
            let create: Symbol<Create> = self.nvrtc.get(b"nvrtcCreateProgram\0")?;
            let (bodies, names) = (pointers(&bodies), pointers(&names));
            let out = &raw mut program;
            create(out, text.as_ptr(), name.as_ptr(), count, bodies.as_ptr(), names.as_ptr())
        };
        if made != 0 {
            bail!("{}: the compiler takes no program (error {made})", source.name);
        }
        let outcome = self.finish(program, &options);
        // SAFETY: the program was created above and is not used again.
        unsafe {
            let destroy: Symbol<Destroy> = self.nvrtc.get(b"nvrtcDestroyProgram\0")?;
            destroy(&raw mut program);
        }
        outcome.with_context(|| format!("cannot compile {}", source.name))
    }

    fn finish(&self, program: Program, options: &[CString]) -> Result<String> {
        let count = c_int::try_from(options.len())?;
        // SAFETY: the program is alive, and the array has `count` elements.
        let compiled = unsafe {
            let compile: Symbol<Compile> = self.nvrtc.get(b"nvrtcCompileProgram\0")?;
            compile(program, count, pointers(options).as_ptr())
        };
        let log = self.read(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
        if compiled != 0 || !log.trim().is_empty() {
            bail!("error {compiled}: {}", log.trim());
        }
        self.read(program, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0")
    }

    fn read(&self, program: Program, size_of: &[u8], read: &[u8]) -> Result<String> {
        let mut size = 0_usize;
        // SAFETY: the program is alive; the buffer has the size that the library says it needs.
        let bytes = unsafe {
            let size_of: Symbol<Size> = self.nvrtc.get(size_of)?;
            if size_of(program, &raw mut size) != 0 {
                bail!("the compiler does not say how long its answer is");
            }
            let mut bytes = vec![0_u8; size.max(1)];
            let read: Symbol<Read> = self.nvrtc.get(read)?;
            if read(program, bytes.as_mut_ptr().cast()) != 0 {
                bail!("the compiler does not give its answer");
            }
            bytes
        };
        Ok(CStr::from_bytes_until_nul(&bytes)?.to_str()?.to_owned())
    }
}

fn strings<'a>(of: impl Iterator<Item = &'a str>) -> Result<Vec<CString>> {
    of.map(|text| Ok(CString::new(text)?)).collect()
}

fn pointers(of: &[CString]) -> Vec<*const c_char> {
    of.iter().map(|it| it.as_ptr()).collect()
}
