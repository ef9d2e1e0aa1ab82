//! The same for 64-bit ARM: packages of that architecture, on a host of another one.
//!
//! apt keeps its lists of that architecture in the cache; this machine's own package database
//! is left alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::kernel::{fetch_kernel, settle_modules};
use super::media::busybox_in;
use super::{Assets, Flavour, Kernel, bellwether, write};
use crate::{Error, Result, packages, shell, workspace};

/// Host packages that these machines need.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-arm", "ARM machines"),
    ("qemu-efi-aarch64", "their firmware"),
    ("gcc-aarch64-linux-gnu", "drives the linker of their /init"),
    ("libc6-dev-arm64-cross", "is asked for by that compiler"),
    ("lld", "links it"),
];

/// Rust's name of the machine.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The first program of the small root.
const FIRST: &str = "#!/bin/sh\nmount -t proc proc /proc 2>/dev/null\nexec sh\n";

/// What an ARM machine boots.
#[derive(Debug, Clone)]
pub struct Arm64 {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// Our image for it, with the full `/init`.
    pub initrd: PathBuf,
    /// The full `/init` alone.
    pub init: PathBuf,
    /// A root with busybox and a shell as its first program.
    pub root: PathBuf,
    /// GRUB's modules, as `usr/lib/grub/arm64-efi` of Debian's package.
    pub grub: PathBuf,
}

impl Assets {
    /// Everything for ARM machines.
    ///
    /// # Errors
    /// [`Error::Command`] when a package cannot be fetched or `/init` does not build.
    pub fn arm64(&self) -> Result<Arm64> {
        packages::ensure_all(NEEDED)?;
        let packages = self.entry("arm64", &format!("3: {}", self.release), |dir| {
            unpack(dir, &self.apt(&self.release, "arm64")?)
        })?;
        let kernel = Kernel::unpacked(&packages)?;
        let root = self.entry("arm64-root", &format!("1: {}", packages.display()), |dir| {
            let busybox = busybox_in(&packages)?;
            for place in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "mnt", "var"] {
                let place = dir.join(place);
                fs::create_dir(&place).map_err(Error::at("make", &place))?;
            }
            let to = dir.join("bin/busybox");
            fs::copy(&busybox, &to).map_err(Error::at("copy", &busybox))?;
            for name in ["sh", "mount", "cat", "uname", "grep", "dmesg", "stty", "echo"] {
                let link = dir.join("bin").join(name);
                symlink("busybox", &link).map_err(Error::at("link", &link))?;
            }
            let first = dir.join("sbin/init");
            write(&first, FIRST)?;
            shell::sh(&["chmod", "755", &first.to_string_lossy()]).map(drop)
        })?;
        let init = build_init()?;
        let initrd = self.cache.join(format!("arm64-{}.img", std::process::id()));
        let mut build = shell::command(bellwether()?);
        build.args(["build", "--full", "--modules"]).arg(&kernel.modules).arg("--init").arg(&init);
        shell::run(build.arg("-o").arg(&initrd))?;
        let grub = packages.join("usr/lib/grub");
        Ok(Arm64 { kernel: kernel.image, initrd, init, root, grub })
    }
}

/// Fetches and unpacks the kernel, busybox and GRUB's modules.
fn unpack(dir: &Path, apt: &Apt) -> Result<()> {
    fetch_kernel(dir, apt, &Flavour::Cloud.meta("arm64"))?;
    apt.unpack(dir, &["busybox-static", "grub-efi-arm64-bin"])?;
    settle_modules(dir)
}

/// The full `/init` for ARM, by the commands of docs/packaging.md.
fn build_init() -> Result<PathBuf> {
    let rustup = shell::sh(&["rustup", "target", "add", TARGET]);
    rustup.map_err(|error| {
        Error::Input(format!("Rust's library for {TARGET} is not here, and rustup: {error}"))
    })?;
    let place = workspace::target().join("init-arm64");
    let linkers = place.join("lld");
    fs::create_dir_all(&linkers).map_err(Error::at("make", &linkers))?;
    for name in ["ld", "ld.lld"] {
        let link = linkers.join(name);
        if !link.exists() {
            symlink("/usr/bin/ld.lld", &link).map_err(Error::at("link", &link))?;
        }
    }
    let mut cargo = shell::command("cargo");
    cargo.args(["rustc", "--quiet", "--target", TARGET, "--target-dir"]).arg(&place);
    cargo.args(["-p", "init", "--bin", "init", "--profile", "init", "--features", "freestanding"]);
    let flags = workspace::root().join("init/rustflags");
    let words = fs::read_to_string(&flags).map_err(Error::at("read", &flags))?;
    cargo.arg("--").args(words.split_whitespace());
    cargo.args(["-Clinker=aarch64-linux-gnu-gcc", "-Clink-arg=-fuse-ld=lld"]);
    cargo.arg(format!("-Clink-arg=-B{}", linkers.display())).current_dir(workspace::root());
    shell::run(&mut cargo)?;
    Ok(place.join(TARGET).join("init/init"))
}
