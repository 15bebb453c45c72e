//! The input is the segments; recovery must neither panic nor return what is not in them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(wrong) = federation_wal::oracle::decode(input) {
        panic!("{wrong}");
    }
});
