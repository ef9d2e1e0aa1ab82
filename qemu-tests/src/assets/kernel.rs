//! Debian's kernels, as their packages ship them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::{Assets, only};
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

/// The file of a kernel's entry that says which state of the release it is from.
const STATE: &str = "state";

impl Flavour {
    /// The package that stands for the newest kernel of this flavour.
    pub(super) fn meta(self, arch: &str) -> String {
        match self {
            Flavour::Cloud => format!("linux-image-cloud-{arch}"),
            Flavour::Stock => format!("linux-image-{arch}"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Flavour::Cloud => "cloud",
            Flavour::Stock => "stock",
        }
    }
}

impl Assets {
    /// The kernel of this flavour.
    ///
    /// # Errors
    /// [`Error::Command`] when apt cannot fetch its packages.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        self.kernel_of(&self.release, flavour)
    }

    /// The kernel of another release of Debian, by the release's code name.
    ///
    /// # Errors
    /// As [`Assets::kernel`].
    pub fn kernel_of(&self, release: &str, flavour: Flavour) -> Result<Kernel> {
        let name = format!("kernel-{}-{release}", flavour.word());
        let dir = self.entry(&name, "4: packages, depmod, state", |dir| {
            let apt = self.apt(release, "amd64")?;
            fetch_kernel(dir, &apt, &flavour.meta("amd64"))?;
            let state = dir.join(STATE);
            fs::write(&state, apt.state()?).map_err(Error::at("write", &state))?;
            settle_modules(dir)
        })?;
        Kernel::unpacked(&dir)
    }

    /// Which state of the release its kernel was taken from, and that kernel: the suite's
    /// version and date, as its Release file has them.
    ///
    /// # Errors
    /// As [`Assets::kernel`].
    pub fn state(&self) -> Result<String> {
        let kernel = self.kernel(Flavour::Cloud)?;
        let state = kernel.modules.ancestors().nth(3).unwrap_or(Path::new("/")).join(STATE);
        let text = fs::read_to_string(&state).map_err(Error::at("read", &state))?;
        Ok(format!("{text}, Linux {}", kernel.version))
    }
}

impl Kernel {
    /// Whether a module of this name or alias is there, or is built in.
    pub fn has(&self, module: &str) -> bool {
        let root = self.modules.ancestors().nth(3).unwrap_or(Path::new("/"));
        let mut modprobe = shell::command("modprobe");
        modprobe.args(["--dry-run", "--quiet", "--set-version", &self.version, "--dirname"]);
        shell::run(modprobe.arg(root).arg(module)).is_ok()
    }

    /// What [`fetch_kernel`] and [`settle_modules`] have left in `dir`.
    pub(super) fn unpacked(dir: &Path) -> Result<Kernel> {
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

/// Fetches the kernel that a meta package depends on, and unpacks it into `dir`.
pub(super) fn fetch_kernel(dir: &Path, apt: &Apt, meta: &str) -> Result<()> {
    let text = shell::run(apt.command("apt-cache").args(["depends", meta]))?;
    let image = depends(&text).find(|name| name.starts_with("linux-image-"));
    let image = image.ok_or_else(|| Error::Input(format!("apt knows no kernel behind {meta}")))?;
    // Since forky the image is an empty package, and the kernel is in three others.
    let parts = shell::run(apt.command("apt-cache").args(["depends", image]))?;
    let parts = depends(&parts).filter(|name| {
        ["linux-modules-", "linux-binary-", "linux-base-"]
            .iter()
            .any(|start| name.starts_with(start))
    });
    let names: Vec<&str> = std::iter::once(image).chain(parts).collect();
    apt.unpack(dir, &names)
}

/// The packages that `apt-cache depends` names.
fn depends(text: &str) -> impl Iterator<Item = &str> {
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
    /// The modules of a kernel with a driver for NTFS. Debian 12 leaves it out: ntfs3 is
    /// made of Debian's sources of the same kernel, which downloads 150 MB and takes a
    /// minute.
    ///
    /// # Errors
    /// [`Error::Command`] when a package cannot be fetched or the compiler fails.
    pub fn ntfs3(&self, kernel: &Kernel) -> Result<PathBuf> {
        if ["ntfs3", "ntfs"].iter().any(|name| kernel.modules.join("kernel/fs").join(name).is_dir())
        {
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
            let apt = self.apt(&self.release, "amd64")?;
            apt.unpack(dir, &packages.each_ref().map(String::as_str))?;
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
