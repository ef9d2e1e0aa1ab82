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
    // Asked for by a constructor of the compiler's that discard.ld leaves out, and by
    // nobody else: without an answer libc would be linked for it.
    let aarch64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
    let auxiliary = aarch64.then_some("-Wl,--defsym=getauxval=0");
    for arg in args.into_iter().chain([script.as_str()]).chain(auxiliary) {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
