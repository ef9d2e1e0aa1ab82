//! Debian's kernels, as their packages ship them.

use std::path::PathBuf;

use super::{Assets, only};
use crate::{Error, Result, shell};

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `linux-image-cloud-amd64`: virtual hardware only, quick to boot.
    Cloud,
    /// `linux-image-amd64`: what people run, with drivers for everything.
    Stock,
}

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r`.
    pub version: String,
    /// The kernel image.
    pub image: PathBuf,
    /// The tree that is `/lib/modules/VERSION` on a system, with depmod's indexes.
    pub modules: PathBuf,
    /// The kernel's configuration, which initramfs generators read.
    pub config: PathBuf,
}

impl Assets {
    /// The kernel of this flavour.
    ///
    /// # Errors
    /// [`Error::Command`] when apt cannot fetch the package.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        let (name, meta) = match flavour {
            Flavour::Cloud => ("kernel-cloud", "linux-image-cloud-amd64"),
            Flavour::Stock => ("kernel-stock", "linux-image-amd64"),
        };
        let dir = self.entry(name, "2: unpacked package, depmod", |dir| {
            let package = real_package(meta)?;
            shell::run(shell::command("apt-get").args(["download", &package]).current_dir(dir))?;
            let deb = only(dir, "linux-image-")?;
            shell::run(shell::command("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
            std::fs::remove_file(&deb).map_err(Error::at("remove", &deb))?;
            let modules = only(&dir.join("lib/modules"), "")?;
            let version = modules.file_name().unwrap_or_default();
            shell::run(shell::command("depmod").arg("-b").arg(dir).arg(version)).map(drop)
        })?;
        let modules = only(&dir.join("lib/modules"), "")?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Kernel {
            image: dir.join(format!("boot/vmlinuz-{version}")),
            config: dir.join(format!("boot/config-{version}")),
            version,
            modules,
        })
    }
}

/// The package behind a meta package: `linux-image-amd64` is empty itself.
fn real_package(meta: &str) -> Result<String> {
    let depends = || shell::sh(&["apt-cache", "depends", meta]);
    let find = |text: String| {
        let mut words = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        words.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
    };
    if let Some(name) = depends().ok().and_then(find) {
        return Ok(name);
    }
    // A fresh system or container has no package lists yet.
    shell::sh(&["apt-get", "update"])?;
    find(depends()?).ok_or_else(|| Error::Input(format!("apt knows no kernel behind {meta}")))
}
