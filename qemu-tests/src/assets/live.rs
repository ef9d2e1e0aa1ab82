//! A small Debian live system and the shapes in which it is served.

use std::path::{Path, PathBuf};

use super::sources;
use super::{Assets, copy, write};
use crate::{Error, Result, shell};

/// What is in the live system besides the essential packages; mount is none of these since forky.
const PACKAGES: &str = "systemd-sysv,udev,dbus,iproute2,iputils-ping,kmod,login,mount,procps";

/// Left out of every root made here: no lab machine reads them.
pub(super) const LEFT_OUT: [&str; 4] =
    ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// For mmdebstrap: the lists of a release in the making are valid for a week only.
const VALID: &str = "--aptopt=Acquire::Check-Valid-Until \"false\"";

/// Where the first program is in a live system: `init=` for measurements.
pub const FIRST: &str = "/usr/lib/bellwether-lab/first";

/// The same program under the name that makes it power off at once.
pub const FIRST_THEN_OFF: &str = "/usr/lib/bellwether-lab/first-then-off";

/// And the name that makes it write the kernel's symbols to QEMU's debug console
/// before that.
pub const FIRST_THEN_SYMBOLS: &str = "/usr/lib/bellwether-lab/first-then-symbols-off";

/// The volume label of the ISO.
pub const ISO_LABEL: &str = "BWLIVE";

/// Makes the bootstrapped root a live system: root without a password, a console
/// on the serial line, nothing of the machine it was built on.
const SETTLE: &str = r#"
passwd --root "$1" --delete root >/dev/null
echo live >"$1/etc/hostname"
: >"$1/etc/machine-id"
: >"$1/etc/resolv.conf"
: >"$1/etc/fstab"
rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*
mkdir -p "$1/usr/lib/bellwether-lab"
cp "$FIRST_PROGRAM" "$1/usr/lib/bellwether-lab/first"
ln -s first "$1/usr/lib/bellwether-lab/first-then-off"
ln -s first "$1/usr/lib/bellwether-lab/first-then-symbols-off"
echo base >"$1/etc/lab-layer"
echo base >"$1/etc/lab-base"
# Minutes of start-up work that a machine living for seconds does not need.
for unit in fstrim.timer e2scrub_reap.service dpkg-db-backup.timer systemd-pstore.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
"#;

const FIRST_SOURCE: &str = include_str!("../../probe/first.rs");

const SQUASHFS: [&str; 6] = ["-comp", "lz4", "-noappend", "-quiet", "-no-progress", "-no-exports"];

impl Assets {
    /// The lab's first program, see `probe/first.rs`.
    ///
    /// # Errors
    /// [`Error::Command`] when rustc fails.
    pub fn first_program(&self) -> Result<PathBuf> {
        let dir = self.entry("first", FIRST_SOURCE, |dir| {
            let source = dir.join("first.rs");
            write(&source, FIRST_SOURCE)?;
            let mut rustc = shell::command("rustc");
            rustc.args(["--edition", "2024", "--crate-type", "bin", "-C", "opt-level=s"]);
            for option in [
                "lto=fat",
                "panic=abort",
                "strip=symbols",
                "relocation-model=static",
                "link-arg=-nostartfiles",
                "link-arg=-static",
                "link-arg=-no-pie",
                "link-arg=-Wl,-Ttext=0x10000000",
            ] {
                rustc.args(["-C", option]);
            }
            shell::run(rustc.arg("-o").arg(dir.join("first")).arg(&source)).map(drop)
        })?;
        Ok(dir.join("first"))
    }

    /// The live system as a directory tree: what a plain NFS root exports.
    ///
    /// # Errors
    /// [`Error::Command`] when a package cannot be fetched or unpacked.
    pub fn live_root(&self) -> Result<PathBuf> {
        let suite = &self.release;
        let recipe = format!("{suite} {PACKAGES} {LEFT_OUT:?} {SETTLE} {FIRST_SOURCE}");
        let dir = self.entry("live-root", &recipe, |dir| {
            let first = self.first_program()?;
            let hook = dir.join("settle");
            write(&hook, &format!("#!/bin/sh\nset -eu\n{SETTLE}"))?;
            shell::sh(&["chmod", "+x", &hook.to_string_lossy()])?;
            let mut bootstrap = bootstrap(suite, PACKAGES, &dir.join("root"))?;
            bootstrap.env("FIRST_PROGRAM", first);
            bootstrap.arg(format!("--customize-hook={}", hook.display()));
            run_bootstrap(bootstrap)
        })?;
        Ok(dir.join("root"))
    }

    /// The live system as one squashfs file.
    ///
    /// # Errors
    /// As [`Assets::live_root`].
    pub fn squashfs(&self) -> Result<PathBuf> {
        if !crate::packages::is_root() {
            return self.squashfs_without_root();
        }
        let root = self.live_root()?;
        let recipe = format!("{SQUASHFS:?} of {}", name_of(&root)?);
        let dir =
            self.entry("squashfs", &recipe, |dir| squash(&root, &dir.join("filesystem.squashfs")))?;
        Ok(dir.join("filesystem.squashfs"))
    }

    /// The same tree, made without root: in a user namespace, and packed from
    /// an archive, because the files' owners exist nowhere outside of it.
    fn squashfs_without_root(&self) -> Result<PathBuf> {
        let suite = &self.release;
        let recipe =
            format!("{suite} {PACKAGES} {LEFT_OUT:?} {SETTLE} {FIRST_SOURCE} {SQUASHFS:?}");
        let dir = self.entry("squashfs-without-root", &recipe, |dir| {
            let tar = dir.join("root.tar");
            let list = dir.join("debian.sources");
            write(&list, &sources::of(suite)?)?;
            let mut mmdebstrap = shell::command("mmdebstrap");
            mmdebstrap.arg(VALID);
            mmdebstrap.args(["--quiet", "--mode=unshare", "--format=tar", "--variant=essential"]);
            mmdebstrap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
            // Root of the namespace may not look into a home of mode 0700, which is
            // what Debian 13's `useradd` makes; mmdebstrap's `upload` reads outside.
            let first = self.first_program()?;
            mmdebstrap.arg(format!("--customize-hook=upload '{}' /first", first.display()));
            mmdebstrap.arg(format!(
                "--customize-hook=set -eu; FIRST_PROGRAM=\"$1/first\"; \
                 chmod 755 \"$FIRST_PROGRAM\"{SETTLE}rm \"$FIRST_PROGRAM\""
            ));
            mmdebstrap.arg(format!("--include={PACKAGES}")).arg(suite).arg(&tar).arg(&list);
            shell::run(&mut mmdebstrap)?;
            let archive = std::fs::File::open(&tar).map_err(Error::at("open", &tar))?;
            let mut pack = shell::command("mksquashfs");
            pack.arg("-").arg(dir.join("filesystem.squashfs")).arg("-tar").args(SQUASHFS);
            shell::run(pack.stdin(archive))?;
            std::fs::remove_file(&tar).map_err(Error::at("remove", &tar))
        })?;
        Ok(dir.join("filesystem.squashfs"))
    }

    /// A second layer for the live system: replaces `/etc/lab-layer`, adds
    /// `/etc/lab-extra`.
    ///
    /// # Errors
    /// [`Error::Command`] when mksquashfs fails.
    pub fn extra_layer(&self) -> Result<PathBuf> {
        let dir = self.entry("extra-layer", "1: lab-layer, lab-extra", |dir| {
            let root = dir.join("root");
            write(&root.join("etc/lab-layer"), "extra\n")?;
            write(&root.join("etc/lab-extra"), "extra\n")?;
            squash(&root, &dir.join("extra.squashfs"))
        })?;
        Ok(dir.join("extra.squashfs"))
    }

    /// A medium as live-boot lays it out: `live/filesystem.squashfs`.
    ///
    /// # Errors
    /// As [`Assets::live_root`].
    pub fn live_tree(&self) -> Result<PathBuf> {
        let image = self.squashfs()?;
        self.entry("live-tree", &format!("1: {}", name_of(&image)?), |dir| {
            write(&dir.join(".disk/info"), "Bellwether lab live medium\n")?;
            write(&dir.join("live/README"), "The live system is filesystem.squashfs.\n")?;
            copy(&image, &dir.join("live/filesystem.squashfs"))
        })
    }

    /// The same with a second layer on top, ordered by `live/filesystem.module`.
    ///
    /// # Errors
    /// As [`Assets::live_root`].
    pub fn layered_tree(&self) -> Result<PathBuf> {
        let (image, extra) = (self.squashfs()?, self.extra_layer()?);
        let recipe = format!("1: {} {}", name_of(&image)?, name_of(&extra)?);
        self.entry("layered-tree", &recipe, |dir| {
            let modules = "filesystem.squashfs\nextra.squashfs\n";
            write(&dir.join("live/filesystem.module"), modules)?;
            copy(&extra, &dir.join("live/extra.squashfs"))?;
            copy(&image, &dir.join("live/filesystem.squashfs"))
        })
    }

    /// A medium as casper lays it out: `casper/filesystem.squashfs`, `.disk/info`.
    ///
    /// # Errors
    /// As [`Assets::live_root`].
    pub fn casper_tree(&self) -> Result<PathBuf> {
        let image = self.squashfs()?;
        self.entry("casper-tree", &format!("1: {}", name_of(&image)?), |dir| {
            write(&dir.join(".disk/info"), "Bellwether lab casper medium\n")?;
            write(&dir.join("casper/filesystem.size"), "200000000\n")?;
            copy(&image, &dir.join("casper/filesystem.squashfs"))
        })
    }

    /// The live tree as an ISO with Rock Ridge and the label [`ISO_LABEL`].
    ///
    /// # Errors
    /// [`Error::Command`] when xorriso fails.
    pub fn live_iso(&self) -> Result<PathBuf> {
        let tree = self.live_tree()?;
        let dir = self.entry("live-iso", &format!("{ISO_LABEL} {}", name_of(&tree)?), |dir| {
            let mut xorriso = shell::command("xorriso");
            xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-J", "-V", ISO_LABEL, "-o"]);
            shell::run(xorriso.arg(dir.join("live.iso")).arg(&tree)).map(drop)
        })?;
        Ok(dir.join("live.iso"))
    }
}

/// mmdebstrap of a release into `root`, from where the host gets its packages.
pub(super) fn bootstrap(suite: &str, packages: &str, root: &Path) -> Result<std::process::Command> {
    let list = root.with_extension("sources");
    write(&list, &sources::of(suite)?)?;
    let mut mmdebstrap = shell::command("mmdebstrap");
    mmdebstrap.arg(VALID);
    mmdebstrap.args(["--quiet", "--format=directory", "--variant=essential"]);
    mmdebstrap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    mmdebstrap.arg(format!("--include={packages}")).arg(suite).arg(root).arg(list);
    Ok(mmdebstrap)
}

/// Runs what [`bootstrap`] prepared, and removes the list of sources again.
pub(super) fn run_bootstrap(mut mmdebstrap: std::process::Command) -> Result<()> {
    let sources = mmdebstrap.get_args().filter(|a| a.to_string_lossy().ends_with(".sources"));
    let sources: Vec<PathBuf> = sources.map(PathBuf::from).collect();
    let result = shell::run(&mut mmdebstrap).map(drop);
    for file in sources {
        std::fs::remove_file(&file).map_err(Error::at("remove", &file))?;
    }
    result
}

fn squash(root: &Path, image: &Path) -> Result<()> {
    shell::run(shell::command("mksquashfs").arg(root).arg(image).args(SQUASHFS)).map(drop)
}

/// The cache entry that a path belongs to: carries the hash of its recipe.
pub(super) fn name_of(path: &Path) -> Result<String> {
    let cache = crate::workspace::lab().join("cache");
    let inside = path
        .strip_prefix(&cache)
        .map_err(|_| Error::Input(format!("{} is not in the cache", path.display())))?;
    Ok(inside.display().to_string())
}
