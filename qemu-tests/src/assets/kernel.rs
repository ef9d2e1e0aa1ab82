//! Debian's kernels, as their packages ship them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Assets, only, sources};
use crate::{Error, Result, packages, shell};

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
        let recipe = format!("3: {}, unpacked package, depmod", sources::suite()?);
        let dir = self.entry(name, &recipe, |dir| {
            let package = real_package(meta)?;
            shell::run(shell::command("apt-get").args(["download", &package]).current_dir(dir))?;
            let deb = only(dir, "linux-image-")?;
            shell::run(shell::command("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
            fs::remove_file(&deb).map_err(Error::at("remove", &deb))?;
            settle_modules(dir)
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

impl Assets {
    /// The cloud kernel of a release of Debian, by the release's code name.
    ///
    /// # Errors
    /// [`Error::Command`] when apt cannot fetch its packages.
    pub fn kernel_of(&self, release: &str) -> Result<Kernel> {
        if release == sources::suite()? {
            return self.kernel(Flavour::Cloud);
        }
        let dir = self.entry(&format!("kernel-{release}"), "1: packages, depmod", |dir| {
            let apt = foreign_apt(dir, release, "amd64")?;
            shell::run(apt("apt-get").args(["--quiet", "update"]))?;
            let meta = shell::run(apt("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
            let image = depends(&meta).find(|name| name.starts_with("linux-image-"));
            let image = image.ok_or_else(|| Error::Input(format!("{release} has no kernel")))?;
            // Since forky the image is an empty package, and the kernel is in three others.
            let parts = shell::run(apt("apt-cache").args(["depends", image]))?;
            let parts = depends(&parts).filter(|name| {
                ["linux-modules-", "linux-binary-", "linux-base-"]
                    .iter()
                    .any(|start| name.starts_with(start))
            });
            let names: Vec<&str> = std::iter::once(image).chain(parts).collect();
            shell::run(apt("apt-get").arg("download").args(&names).current_dir(dir))?;
            for name in names {
                let deb = only(dir, &format!("{name}_"))?;
                shell::run(shell::command("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
            }
            settle_modules(dir)
        })?;
        let modules = only(&dir.join("lib/modules"), "")?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (split, whole) = (modules.join("vmlinuz"), dir.join(format!("boot/vmlinuz-{version}")));
        let image = if split.exists() { split } else { whole };
        let config = image.with_file_name(match image.parent() == Some(&modules) {
            true => "config".to_owned(),
            false => format!("config-{version}"),
        });
        Ok(Kernel { image, config, version, modules })
    }
}

/// apt for another release or architecture, with lists of its own below `dir`.
pub(super) fn foreign_apt(
    dir: &Path,
    release: &str,
    arch: &str,
) -> Result<impl Fn(&str) -> Command> {
    let apt = dir.join("apt");
    for below in ["lists/partial", "cache/archives/partial"] {
        let below = apt.join(below);
        fs::create_dir_all(&below).map_err(Error::at("make", &below))?;
    }
    let place = apt.display();
    // The lists of a release in the making are valid for a week only.
    let conf = format!(
        "Dir::Etc::SourceList \"{place}/a.sources\";\nDir::Etc::SourceParts \"-\";\n\
         Dir::State \"{place}\";\nDir::State::Status \"{place}/status\";\n\
         Dir::Cache \"{place}/cache\";\nAPT::Sandbox::User \"root\";\n\
         APT::Architecture \"{arch}\";\nAPT::Architectures \"{arch}\";\n\
         Acquire::Check-Valid-Until \"false\";\n"
    );
    let sources = sources::debian_of(release)?;
    for (name, text) in [("a.sources", sources.as_str()), ("status", ""), ("conf", &conf)] {
        let file = apt.join(name);
        fs::write(&file, text).map_err(Error::at("write", &file))?;
    }
    Ok(move |program: &str| {
        let mut command = shell::command(program);
        command.env("APT_CONFIG", apt.join("conf"));
        command
    })
}

/// The packages that `apt-cache depends` names.
pub(super) fn depends(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "))
}

/// The modules of an unpacked kernel's package, with depmod's indexes. Since Debian 13 they are
/// below `usr/lib`. Which of the two places depmod looks at depends on how it was built, so both
/// are there afterwards.
pub(super) fn settle_modules(dir: &Path) -> Result<()> {
    let (old, new) = (dir.join("lib/modules"), dir.join("usr/lib/modules"));
    if new.is_dir() {
        let lib = dir.join("lib");
        fs::create_dir_all(&lib).map_err(Error::at("make", &lib))?;
        fs::rename(&new, &old).map_err(Error::at("rename", &new))?;
        symlink("../../lib/modules", &new).map_err(Error::at("link", &new))?;
    }
    let modules = only(&old, "")?;
    let version = modules.file_name().unwrap_or_default();
    shell::run(shell::command("depmod").arg("-b").arg(dir).arg(version)).map(drop)
}

/// Where Debian's headers are, as their makefiles have it.
const HEADERS: &str = "/usr/src/linux-headers-";

impl Assets {
    /// The modules of a kernel with the driver for NTFS. Debian 12 leaves it out: it is
    /// made of Debian's sources of the same kernel, which downloads 150 MB and takes a
    /// minute.
    ///
    /// # Errors
    /// [`Error::Command`] when a package cannot be fetched or the compiler fails.
    pub fn ntfs3(&self, kernel: &Kernel) -> Result<PathBuf> {
        if kernel.modules.join("kernel/fs/ntfs3").is_dir() {
            return Ok(kernel.modules.clone());
        }
        let tools = [("gcc", "the driver"), ("make", "the same"), ("libelf1", "its symbols")];
        packages::ensure_all(&tools)?;
        let version = &kernel.version;
        let series: Vec<&str> = version.split(['.', '-']).collect();
        let series = series.get(..2).unwrap_or_default().join(".");
        let dir = self.entry("ntfs3", &format!("1: {version}"), |dir| {
            let abi = version.trim_end_matches("-cloud-amd64").trim_end_matches("-amd64");
            let packages = [
                format!("linux-source-{series}"),
                format!("linux-headers-{version}"),
                format!("linux-headers-{abi}-common"),
                format!("linux-kbuild-{series}"),
            ];
            shell::run(shell::command("apt-get").arg("download").args(&packages).current_dir(dir))?;
            for package in &packages {
                let deb = only(dir, &format!("{package}_"))?;
                shell::run(shell::command("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
            }
            let sources = format!("linux-source-{series}/fs/ntfs3");
            let tarball = dir.join(format!("usr/src/linux-source-{series}.tar.xz"));
            let mut tar = shell::command("tar");
            shell::run(tar.arg("-xf").arg(&tarball).arg(&sources).current_dir(dir))?;
            // The makefiles name each other by where the packages would install them.
            let place = dir.to_string_lossy();
            let headers = format!("{place}{HEADERS}{version}");
            let scripts = format!(
                "find {place}/usr/src -name Makefile | xargs sed -i 's|/usr/src|{place}/usr/src|g'; \
                 for each in {headers} {place}{HEADERS}{abi}-common; do \
                 for link in scripts tools; do ln -sfn {place}/usr/lib/linux-kbuild-{series}/$link $each/$link; done; done"
            );
            shell::sh(&["sh", "-euc", &scripts])?;
            let built = format!("M={}", dir.join(&sources).display());
            let options = ["CONFIG_NTFS3_FS=m", "CC=gcc", "modules"];
            shell::run(shell::command("make").args(["-C", &headers, &built]).args(options))?;
            let all = dir.join("lib/modules").join(version);
            fs::create_dir_all(&all).map_err(Error::at("make", &all))?;
            let from = format!("{}/.", kernel.modules.display());
            shell::sh(&["cp", "-a", &from, &all.to_string_lossy()])?;
            let driver = dir.join(&sources).join("ntfs3.ko");
            let place = all.join("kernel/fs/ntfs3.ko");
            fs::copy(&driver, &place).map_err(Error::at("copy", &driver))?;
            shell::run(shell::command("depmod").arg("-b").arg(dir).arg(version)).map(drop)
        })?;
        Ok(dir.join("lib/modules").join(version))
    }
}

/// The package behind a meta package: `linux-image-amd64` is empty itself.
fn real_package(meta: &str) -> Result<String> {
    let ask = || shell::sh(&["apt-cache", "depends", meta]);
    let find = |text: String| {
        depends(&text).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
    };
    if let Some(name) = ask().ok().and_then(find) {
        return Ok(name);
    }
    // A fresh system or container has no package lists yet.
    shell::sh(&["apt-get", "update"])?;
    find(ask()?).ok_or_else(|| Error::Input(format!("apt knows no kernel behind {meta}")))
}
