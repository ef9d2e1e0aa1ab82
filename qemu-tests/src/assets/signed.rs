//! Programs that machines with Secure Boot start because the lab signed them.
//!
//! The key is that of Debian's package of UEFI firmware, whose image of variables
//! `OVMF_VARS_4M.snakeoil.fd` has it enrolled, and no other one.

use std::fs;
use std::path::{Path, PathBuf};

use super::Assets;
use crate::{Error, Result, packages, shell};

/// What the signer needs.
const PROGRAMS: &[(&str, &str)] = &[
    ("ovmf", "the key"),
    ("openssl", "takes its password off"),
    ("sbsigntool", "signs"),
    ("shim-signed", "what loads iPXE, and what checks a medium's kernel"),
];
const SHIM: &str = "/usr/lib/shim/shimx64.efi.signed";
const CERTIFICATE: &str = "/usr/share/ovmf/PkKek-1-snakeoil.pem";
const KEY: &str = "/usr/share/ovmf/PkKek-1-snakeoil.key";
/// The release whose iPXE is 2.0.
const IPXE: &str = "forky";

/// Signs for the machines of `MachineBuilder::own_secure_uefi`.
#[derive(Debug)]
pub struct Signer {
    dir: PathBuf,
    key: String,
}

impl Signer {
    /// A signer that keeps its files in a directory.
    ///
    /// # Errors
    /// [`Error::Command`] when a program is missing or fails.
    pub fn new(dir: &Path) -> Result<Signer> {
        packages::ensure_all(PROGRAMS)?;
        let key = dir.join("key.pem").to_string_lossy().into_owned();
        shell::sh(&["openssl", "rsa", "-in", KEY, "-passin", "pass:snakeoil", "-out", &key])?;
        Ok(Signer { dir: dir.to_owned(), key })
    }

    fn sign(&self, from: &Path, to: &Path) -> Result<()> {
        let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
        let words = ["sbsign", "--key", &self.key, "--cert", CERTIFICATE, "--output", &to, &from];
        shell::sh(&words).map(drop)
    }

    /// Debian's shim with one more signature, the lab's. It trusts Debian's kernels.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be signed.
    pub fn shim(&self) -> Result<PathBuf> {
        let to = self.dir.join("shimx64.efi");
        self.sign(Path::new(SHIM), &to)?;
        Ok(to)
    }

    /// A program without its signature.
    ///
    /// # Errors
    /// [`Error::Command`] when it has none.
    pub fn unsigned(&self, program: &Path) -> Result<PathBuf> {
        let to = self.dir.join("unsigned");
        fs::copy(program, &to).map_err(Error::at("copy", program))?;
        shell::sh(&["sbattach", "--remove", &to.to_string_lossy()])?;
        Ok(to)
    }

    /// `ipxeboot.tar.gz` as iPXE's releases have it, with Debian's iPXE 2.0 in it, signed by the
    /// lab, and Debian's shim; `alone` with iPXE in the shim's place, where no program before
    /// iPXE trusts Debian's kernels.
    ///
    /// # Errors
    /// [`Error::Command`] when the package cannot be fetched, or cannot be signed.
    pub fn ipxe(&self, assets: &Assets, alone: bool) -> Result<PathBuf> {
        let package = assets.entry(&format!("ipxe-{IPXE}"), "1: the package, unpacked", |dir| {
            assets.apt(IPXE, "amd64")?.unpack(dir, &["ipxe"])
        })?;
        let tree = self.dir.join("ipxeboot/x86_64-sb");
        fs::create_dir_all(&tree).map_err(Error::at("make", &tree))?;
        let programs = package.join("usr/lib/ipxe");
        for (from, to) in [("snponly.efi", "snponly.efi"), ("ipxe-amd64.efi", "ipxe.efi")] {
            self.sign(&programs.join(from), &tree.join(to))?;
        }
        let first = if alone { programs.join("snponly.efi") } else { SHIM.into() };
        self.sign(&first, &tree.join("shimx64.efi"))?;
        let archive = self.dir.join(if alone { "alone.tar.gz" } else { "ipxeboot.tar.gz" });
        let mut tar = shell::command("tar");
        tar.arg("-C").arg(&self.dir).arg("-czf").arg(&archive).arg("ipxeboot");
        shell::run(&mut tar)?;
        Ok(archive)
    }
}
