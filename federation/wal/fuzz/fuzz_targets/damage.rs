//! The input chooses a log and what happens to its files; recovery must not be wrong about it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(wrong) = federation_wal::oracle::damage(input) {
        panic!("{wrong}");
    }
});
