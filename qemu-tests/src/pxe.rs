//! The TFTP tree of a pxelinux site.

use std::fs;
use std::path::Path;

use crate::{Error, Result, shell};

/// Fills `tftp` with pxelinux and one menu entry that boots at once.
///
/// `SYSAPPEND 2` makes pxelinux add `BOOTIF=`, as most sites have it.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written or pxelinux is not installed.
pub fn write_pxelinux(tftp: &Path, kernel: &Path, initrd: &Path, append: &str) -> Result<()> {
    let config = tftp.join("pxelinux.cfg");
    fs::create_dir_all(&config).map_err(Error::at("make", &config))?;
    for file in ["/usr/lib/PXELINUX/pxelinux.0", "/usr/lib/syslinux/modules/bios/ldlinux.c32"] {
        place(Path::new(file), tftp, None)?;
    }
    place(kernel, tftp, Some("vmlinuz"))?;
    place(initrd, tftp, Some("initrd.img"))?;
    let text = format!(
        "SERIAL 0 115200\nDEFAULT lab\nPROMPT 0\n\nLABEL lab\n  KERNEL vmlinuz\n  \
         INITRD initrd.img\n  APPEND {append}\n  SYSAPPEND 2\n"
    );
    let default = config.join("default");
    fs::write(&default, text).map_err(Error::at("write", &default))
}

/// A hard link where possible: kernels are large and the lab makes many trees.
fn place(from: &Path, directory: &Path, name: Option<&str>) -> Result<()> {
    let name = name.or_else(|| from.file_name()?.to_str()).unwrap_or_default();
    let to = directory.join(name);
    let (source, target) = (from.to_string_lossy(), to.to_string_lossy());
    shell::sh(&["cp", "--link", "--force", &source, &target])
        .or_else(|_| shell::sh(&["cp", "--force", &source, &target]))
        .map(drop)
}
