//! Link arguments of the freestanding binary. Here and not in rustflags, which
//! would reach build scripts and proc-macros too.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=discard.ld");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("discard.ld");
    let script = format!("-Wl,-T,{}", script.display());
    let args = [
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,--build-id=none",
        "-Wl,--icf=all",
    ];
    for arg in args.into_iter().chain([script.as_str()]) {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
