//! Link arguments of the freestanding binary. Here and not in rustflags, which
//! would reach build scripts and proc-macros too.

use std::env::var;
use std::path::Path;
use std::process::{Command, Stdio};

const ARGS: [&str; 5] =
    ["-nostartfiles", "-static", "-no-pie", "-Wl,--no-eh-frame-hdr", "-Wl,--build-id=none"];

/// Makes one function of those with equal code, of which generic code makes many.
const FOLD: &str = "-Wl,--icf=all";

/// Asks gcc and clang for LLVM's linker.
const LLD: &str = "-fuse-ld=lld";

/// The smallest program that links with [`ARGS`].
const PROBE: &str = "#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
#[unsafe(no_mangle)]
extern \"C\" fn _start() -> ! {
    loop {}
}
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=discard.ld");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("discard.ld");
    let script = format!("-Wl,-T,{}", script.display());
    // Asked for by a constructor of the compiler's that discard.ld leaves out, and by
    // nothing else: without an answer libc would be linked for it.
    let aarch64 = var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
    let auxiliary = aarch64.then_some("-Wl,--defsym=getauxval=0");
    let fold = folding().iter().copied();
    for arg in ARGS.into_iter().chain(fold).chain([script.as_str()]).chain(auxiliary) {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}

/// What makes the linker of this build fold equal functions. Rust's own toolchain links
/// with lld, which can; Debian's Rust with GNU ld, which cannot, unless lld is installed.
fn folding() -> &'static [&'static str] {
    if var("CARGO_FEATURE_FREESTANDING").is_err() {
        return &[];
    }
    if links(&[FOLD]) {
        return &[FOLD];
    }
    if links(&[LLD, FOLD]) {
        return &[LLD, FOLD];
    }
    if !links(&[]) {
        // The linker of a cross build may be named where a build script does not see it.
        return &[FOLD];
    }
    // A linker that is installed later is found.
    println!("cargo::rerun-if-changed=/usr/bin");
    println!(
        "cargo::warning=the linker cannot fold equal functions, and /init is 3 % larger: \
         install Debian's package lld"
    );
    &[]
}

/// Whether the compiler and the linker of this build accept these arguments as well.
fn links(more: &[&str]) -> bool {
    let of = |name| var(name).unwrap_or_default();
    let out = of("OUT_DIR");
    let source = Path::new(&out).join("probe.rs");
    if std::fs::write(&source, PROBE).is_err() {
        return false;
    }
    let mut rustc = Command::new(of("RUSTC"));
    rustc.args(["--edition=2024", "--crate-type=bin", "-Cpanic=abort", "--target", &of("TARGET")]);
    if let Ok(linker) = var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let flags = of("CARGO_ENCODED_RUSTFLAGS");
    rustc.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    rustc.args(ARGS.iter().chain(more).map(|arg| format!("-Clink-arg={arg}")));
    rustc.arg("-o").arg(Path::new(&out).join("probe")).arg(&source);
    rustc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    rustc.status().is_ok_and(|status| status.success())
}
