//! Link arguments of the freestanding binary. Here and not in rustflags, which
//! would reach build scripts and proc-macros too.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in
        ["-nostartfiles", "-static", "-no-pie", "-Wl,-z,noseparate-code", "-Wl,--build-id=none"]
    {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
