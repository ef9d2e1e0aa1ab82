//! libFuzzer around [`fuzz::targets`]: the environment variable `FUZZ_TARGET`
//! names one. `cargo xtask fuzz` builds and runs it.

#![no_main]
// The macro exports the function that libFuzzer calls.
#![allow(unsafe_code)]

use std::sync::LazyLock;

static TARGET: LazyLock<&'static fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::find(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name}: no such target"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
