//! Puts the `/init` programs into the host command, so that one
//! `cargo build --release` gives a command that can make images: the full one,
//! the small one for virtual machines, and the one that sends a machine's disks.
//!
//! Only in release builds: a debug build gets `--init`, and
//! is spared a second, slow build on every change. The nested cargo has its
//! own target directory, so that the two do not wait for each other.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders whose content ends up in `/init`.
const ROOMS: [&str; 11] = [
    "rt", "sys", "cmdline", "clone", "coldplug", "netboot", "overlay", "blockmap", "p2v",
    "liveroot", "init",
];

/// A program: the variable with its path, its own target directory, and its features.
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("BELLWETHER_INIT", "init-full", &["--features", "freestanding"]),
    (
        "BELLWETHER_INIT_SMALL",
        "init-small",
        &["--features", "freestanding", "--no-default-features"],
    ),
    ("BELLWETHER_INIT_P2V", "init-p2v", &["--features", "freestanding,p2v"]),
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(embedded_init)");
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name| std::env::var(name).unwrap_or_default();
    let arch = var("CARGO_CFG_TARGET_ARCH");
    let linux = var("CARGO_CFG_TARGET_OS") == "linux";
    if var("PROFILE") != "release" || !linux || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return;
    }
    let workspace = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    for room in ROOMS {
        for part in ["src", "Cargo.toml", "build.rs", "rustflags"] {
            let path = workspace.join(room).join(part);
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(file).display());
    }
    let (host, target) = (var("HOST"), var("TARGET"));
    let cross = (host != target).then_some(&target);
    for (name, place, features) in PROGRAMS {
        let target_dir = Path::new(&var("OUT_DIR")).join(place);
        match build(&workspace, &target_dir, cross, features) {
            Ok(init) => println!("cargo::rustc-env={name}={}", init.display()),
            Err(why) => {
                println!("cargo::error=building /init: {why}");
                return;
            }
        }
    }
    println!("cargo::rustc-cfg=embedded_init");
}

fn build(
    workspace: &Path,
    target_dir: &Path,
    cross: Option<&String>,
    features: &[&str],
) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--package", "init", "--bin", "init", "--profile", "init"]);
    cargo.arg("--locked").args(features);
    cargo.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir);
    let mut out = target_dir.to_owned();
    if let Some(target) = cross {
        cargo.arg("--target").arg(target);
        out.push(target);
    }
    // What the outer cargo set for this build is not for the nested one:
    // clippy's wrapper would check instead of build, host flags would reach
    // the freestanding link.
    for name in [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(name);
    }
    // The same bytes from every directory, and no path of this computer in them.
    let home = std::env::var("CARGO_HOME").or(std::env::var("HOME").map(|home| home + "/.cargo"));
    let top = std::fs::canonicalize(workspace).map_err(|e| format!("the workspace: {e}"))?;
    let mut remap = vec![format!("--remap-path-prefix={}=/bellwether", top.display())];
    remap.extend(home.map(|home| format!("--remap-path-prefix={home}=/cargo")));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", remap.join("\x1f"));
    let flags = workspace.join("init/rustflags");
    let flags = std::fs::read_to_string(&flags).map_err(|e| format!("init/rustflags: {e}"))?;
    cargo.arg("--").args(flags.split_whitespace());
    let done = cargo.output().map_err(|e| format!("cargo does not start: {e}"))?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
        return Err(lines.join("; "));
    }
    let init = out.join("init/init");
    init.exists().then_some(init).ok_or_else(|| "cargo made no init".into())
}
