//! What the host command makes, booted: archives, media, PXE trees, the archive that
//! stands behind a distribution's initrd; and `bellwether try`, which boots them.
//!
//! The command is the one that `cargo build` makes, with a full `/init` beside it as
//! a release has it inside, and the pages of `docs/recipes` are run as they stand.

mod append;
mod archive;
mod coverage;
mod full_disk;
mod media;
mod package;
mod recipes;
mod trial;

use std::fmt::Display;
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Profile, bellwether};
use qemu_tests::machine::KERNEL_WORDS;
use qemu_tests::{Error, Lab, Result, packages};

/// A place to work in, and the host command for it.
struct Shop {
    dir: PathBuf,
    bin: PathBuf,
}

impl Shop {
    /// Builds the command.
    fn open(lab: &Lab) -> Result<Shop> {
        packages::ensure_all(packages::FOR_DISKS)?;
        let (dir, bin) = (lab.scratch("shop")?, lab.scratch("bin")?);
        let shop = Shop { dir, bin };
        shop.put(&bellwether()?, "../bin/bellwether")?;
        shop.put(&lab.assets().our_init(Profile::Net)?, "../bin/init")?;
        Ok(shop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Copies something in, links followed.
    fn put(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.path(to);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
        }
        run(&["cp", "-aL", &from.to_string_lossy(), &to.to_string_lossy()]).map(drop)
    }

    /// Runs lines of shell in which `bellwether` is the command; returns what they
    /// printed to standard output and standard error.
    fn sh(&self, script: &str) -> Result<String> {
        let (dir, bin) = (self.dir.display(), self.bin.display());
        let script =
            format!("exec 2>&1; cd '{dir}'; PATH='{bin}':$PATH; export LC_ALL=C\n{script}");
        run(&["bash", "-eu", "-o", "pipefail", "-c", &script])
    }
}

/// A kernel line whose console the lab sees, and which ends at a shell. An emulated
/// timer that comes late, on a busy host, is no reason to panic.
fn seen(line: &str) -> String {
    format!("{KERNEL_WORDS} no_timer_check {line} init=/bin/sh")
}

/// Makes the medium of live-boot's words that scenarios boot by what they made.
fn live_iso(lab: &Lab) -> Result<PathBuf> {
    lab.tree("live")?.with("live/filesystem.squashfs", &lab.assets().small_squashfs()?)?.iso("LIVE")
}

/// Says what was measured, also when the test passes.
fn tell(what: impl Display) {
    let _ = writeln!(stderr().lock(), "builder: {what}");
}

/// Fails, with all of it, when a text does not hold another.
#[track_caller]
fn assert_contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
}
