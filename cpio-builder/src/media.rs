//! Media to boot from: a hybrid ISO for BIOS and UEFI, from an optical drive
//! or a stick, and a PXE tree with pxelinux, GRUB and iPXE menus. Both are
//! made from one [`Menu`].
//!
//! xorriso writes the ISO, mtools the small FAT image that UEFI starts from.
//! The boot loaders come from the system's packages: SYSLINUX for BIOS,
//! Debian's ready-made GRUB images for UEFI, with shim in front when the
//! signed packages are there, so that Secure Boot may stay on.

use crate::error::Error;
use crate::menu::Menu;
use crate::tools::{Draft, MCOPY, MFORMAT, MMD, Workplace, XORRISO};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file of the system that a medium needs.
#[derive(Debug)]
struct Part {
    what: &'static str,
    package: &'static str,
    /// Places in which distributions have it.
    paths: &'static [&'static str],
}

const ISOLINUX: Part = Part {
    what: "isolinux.bin, the BIOS boot loader of optical media",
    package: "isolinux",
    paths: &[
        "/usr/lib/ISOLINUX/isolinux.bin",
        "/usr/lib/syslinux/bios/isolinux.bin",
        "/usr/share/syslinux/isolinux.bin",
    ],
};
const ISOHDPFX: Part = Part {
    what: "isohdpfx.bin, the boot record for sticks",
    package: "isolinux",
    paths: &[
        "/usr/lib/ISOLINUX/isohdpfx.bin",
        "/usr/lib/syslinux/bios/isohdpfx.bin",
        "/usr/share/syslinux/isohdpfx.bin",
    ],
};
const PXELINUX: Part = Part {
    what: "pxelinux.0, the BIOS boot loader for networks",
    package: "pxelinux",
    paths: &[
        "/usr/lib/PXELINUX/pxelinux.0",
        "/usr/lib/syslinux/bios/pxelinux.0",
        "/usr/share/syslinux/pxelinux.0",
    ],
};
const MODULES: Part = Part {
    what: "the SYSLINUX modules (ldlinux.c32 and others)",
    package: "syslinux-common",
    paths: &["/usr/lib/syslinux/modules/bios", "/usr/lib/syslinux/bios", "/usr/share/syslinux"],
};
/// GRUB that looks for `/.disk/info` and reads `/boot/grub/grub.cfg` there.
const GRUB_CD: Part = Part {
    what: "GRUB for UEFI (gcdx64.efi)",
    package: "grub-efi-amd64-bin",
    paths: &["/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi"],
};
const GRUB_CD_SIGNED: Part = Part {
    what: "signed GRUB for UEFI",
    package: "grub-efi-amd64-signed",
    paths: &["/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"],
};
/// GRUB that reads `/grub/grub.cfg` from the TFTP server it came from.
const GRUB_NET: Part = Part {
    what: "GRUB for UEFI network boot (grubnetx64.efi)",
    package: "grub-efi-amd64-bin",
    paths: &["/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi"],
};
const GRUB_NET_SIGNED: Part = Part {
    what: "signed GRUB for UEFI network boot",
    package: "grub-efi-amd64-signed",
    paths: &["/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"],
};
const SHIM: Part =
    Part { what: "shim", package: "shim-signed", paths: &["/usr/lib/shim/shimx64.efi.signed"] };

/// SYSLINUX modules that the menus written here load.
const SYSLINUX_MODULES: [&str; 4] = ["ldlinux.c32", "menu.c32", "libutil.c32", "libcom32.c32"];

impl Part {
    fn find(&self) -> Result<PathBuf, Error> {
        let missing = || Error::NoTool { what: self.what.into(), package: self.package };
        self.paths.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(missing)
    }
}

/// UEFI programs: source file, and name on the medium.
fn uefi(
    plain: &Part,
    signed: &Part,
    name: &'static str,
) -> Result<Vec<(PathBuf, &'static str)>, Error> {
    match (signed.find(), SHIM.find()) {
        // shim starts grubx64.efi beside it.
        (Ok(grub), Ok(shim)) => Ok(vec![(shim, name), (grub, "grubx64.efi")]),
        _ => Ok(vec![(plain.find()?, name)]),
    }
}

/// A live medium to be made.
#[derive(Debug)]
pub struct Medium {
    /// Volume name, at most 32 characters of A–Z, 0–9 and `_` to be safe.
    pub label: String,
    /// The menu; its paths are those of `files`.
    pub menu: Menu,
    /// Files and directories: path on the medium, and source.
    pub files: Vec<(String, PathBuf)>,
    /// Time of everything on it, seconds since 1970.
    pub mtime: u32,
}

/// Checks that everything an ISO needs is installed, before any work.
///
/// # Errors
/// [`Error::NoTool`] with the first missing program or file.
pub fn check_iso() -> Result<(), Error> {
    [XORRISO, MFORMAT, MMD, MCOPY].iter().try_for_each(|tool| tool.find().map(drop))?;
    [ISOLINUX, ISOHDPFX, MODULES].iter().try_for_each(|part| part.find().map(drop))?;
    uefi(&GRUB_CD, &GRUB_CD_SIGNED, "bootx64.efi").map(drop)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::Write { path: path.into(), source };
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
    fs::write(path, bytes).map_err(fail)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let bytes = fs::read(from).map_err(Error::read(from))?;
    put(to, &bytes)
}

/// Makes a hybrid ISO. The same medium gives the same bytes.
///
/// # Errors
/// [`Error::NoTool`] for a program or file, [`Error::Read`] for an input, [`Error::Tool`] when
/// xorriso fails.
pub fn iso(medium: &Medium, draft: &Draft) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_- .".contains(c);
    if medium.label.is_empty() || medium.label.len() > 32 || !medium.label.chars().all(fits) {
        return Err(Error::Media(format!(
            "'{}' is not a valid name for a medium: at most 32 letters, digits, '_', '-', '.'",
            medium.label
        )));
    }
    let menu = |e: crate::menu::MenuError| Error::Media(format!("the boot menu: {e}"));
    let work = Workplace::new(draft.path())?;
    let tree = work.join("tree");
    let isolinux = tree.join("isolinux");
    copy(&ISOLINUX.find()?, &isolinux.join("isolinux.bin"))?;
    for name in SYSLINUX_MODULES {
        copy(&MODULES.find()?.join(name), &isolinux.join(name))?;
    }
    put(&isolinux.join("isolinux.cfg"), medium.menu.to_syslinux(false).map_err(menu)?.as_bytes())?;
    put(&tree.join("boot/grub/grub.cfg"), medium.menu.to_grub(false).map_err(menu)?.as_bytes())?;
    // Debian's GRUB identifies its medium by this file.
    let info = format!("{} - made by Bellwether {}\n", medium.label, env!("CARGO_PKG_VERSION"));
    put(&tree.join(".disk/info"), info.as_bytes())?;
    for (from, name) in uefi(&GRUB_CD, &GRUB_CD_SIGNED, "bootx64.efi")? {
        copy(&from, &tree.join("EFI/boot").join(name))?;
    }
    efi_image(&tree, &work, medium.mtime)?;

    let time = format!("={}", medium.mtime);
    let mut run = XORRISO.command()?.env("SOURCE_DATE_EPOCH", medium.mtime.to_string());
    run = run.args(["-abort_on", "FAILURE", "-volid", &medium.label, "-joliet", "on"]);
    run = run.args(["-compliance", "long_paths:iso_9660_level=3"]);
    let mut target = std::ffi::OsString::from("stdio:");
    target.push(draft.path());
    run = run.arg("-outdev").arg(target).arg("-map").arg(&tree).arg("/");
    for (to, from) in &medium.files {
        run = run.arg("-map").arg(from).arg(format!("/{}", to.trim_start_matches('/')));
    }
    run = run.args(["-chown_r", "0", "/", "--", "-chgrp_r", "0", "/", "--"]);
    // The files have their creator's umask; every user may read a medium.
    run = run.args(["-chmod_r", "a+r,u+w,go-w", "/", "--"]);
    run = run.args(["-find", "/", "-type", "d", "-exec", "chmod", "0755", "--"]);
    run = run.args(["-alter_date_r", "b", &time, "/", "--"]);
    run = run.args(["-boot_image", "isolinux", "bin_path=/isolinux/isolinux.bin"]);
    run = run.args(["-boot_image", "any", "cat_path=/isolinux/boot.cat"]);
    run = run.args([
        "-boot_image",
        "any",
        "boot_info_table=on",
        "-boot_image",
        "any",
        "load_size=2048",
    ]);
    run = run
        .arg("-boot_image")
        .arg("isolinux")
        .arg(format!("system_area={}", ISOHDPFX.find()?.display()));
    run = run.args([
        "-boot_image",
        "any",
        "next",
        "-boot_image",
        "any",
        "efi_path=/boot/grub/efi.img",
    ]);
    run = run.args(["-boot_image", "isolinux", "partition_entry=gpt_basdat", "-commit"]);
    run.run().map(drop)
}

/// The FAT image that UEFI reads from the medium: another copy of the programs.
fn efi_image(tree: &Path, work: &Workplace, mtime: u32) -> Result<(), Error> {
    let from = tree.join("EFI/boot");
    let read = |source| Error::Read { path: from.clone(), source };
    let mut files: Vec<PathBuf> =
        fs::read_dir(&from).map_err(read)?.flatten().map(|e| e.path()).collect();
    files.sort_unstable();
    let mut size = 0;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(mtime.max(FAT_EPOCH).into());
    for file in &files {
        let opened = File::options().write(true).open(file).map_err(read)?;
        // mtools has no option for a file's time, but keeps it.
        opened.set_modified(time).map_err(read)?;
        size += opened.metadata().map_err(read)?.len().div_ceil(4096) * 4096;
    }
    // Directories, two FATs and the boot sector, in whole tracks.
    let sectors = (size + (128 << 10)).div_ceil(512).next_multiple_of(32).to_string();
    let image = work.join("tree/boot/grub/efi.img");
    let epoch = mtime.max(FAT_EPOCH).to_string();
    let fat =
        |run: crate::tools::Run| run.env("SOURCE_DATE_EPOCH", &epoch).env("MTOOLS_SKIP_CHECK", "1");
    let run = MFORMAT.command()?.arg("-C").arg("-i").arg(&image);
    fat(run.args(["-T", &sectors, "-h", "2", "-s", "32", "-N", "42454c4c", "-v", "EFI", "::"]))
        .run()?;
    fat(MMD.command()?.arg("-i").arg(&image).args(["::EFI", "::EFI/BOOT"])).run()?;
    for file in &files {
        fat(MCOPY.command()?.args(["-m", "-i"]).arg(&image).arg(file).arg("::EFI/BOOT/")).run()?;
    }
    Ok(())
}

/// FAT counts time from 1980.
const FAT_EPOCH: u32 = 315_532_800;

/// Fills a directory of a TFTP server: boot loaders for BIOS and UEFI, menus for pxelinux, GRUB
/// and iPXE, kernel and initramfs. Other files in it stay. Returns what was left out and why:
/// one of the two firmwares is enough.
///
/// # Errors
/// [`Error::Read`] or [`Error::Write`] for a file, [`Error::NoTool`] when neither boot loader
/// is installed.
pub fn pxe_tree(
    menu: &Menu,
    files: &[(String, PathBuf)],
    dir: &Path,
) -> Result<Vec<String>, Error> {
    let bad = |e: crate::menu::MenuError| Error::Media(format!("the boot menu: {e}"));
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        let fail = |source| Error::Write { path: path.clone(), source };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
        let draft = Draft::new(&path)?;
        fs::write(draft.path(), bytes).map_err(fail)?;
        draft.keep()
    };
    let take = |from: &Path| fs::read(from).map_err(Error::read(from));
    for (to, from) in files {
        put(to, &take(from)?)?;
    }
    let mut lacking = Vec::new();
    let bios = || -> Result<(), Error> {
        let (pxelinux, modules) = (PXELINUX.find()?, MODULES.find()?);
        put("pxelinux.0", &take(&pxelinux)?)?;
        SYSLINUX_MODULES.iter().try_for_each(|name| put(name, &take(&modules.join(name))?))?;
        put("pxelinux.cfg/default", menu.to_syslinux(true).map_err(bad)?.as_bytes())
    };
    let efi = || -> Result<(), Error> {
        for (from, name) in uefi(&GRUB_NET, &GRUB_NET_SIGNED, "bootx64.efi")? {
            put(name, &take(&from)?)?;
        }
        // The prefix of Debian's image is /grub on the server it came from.
        put("grub/grub.cfg", menu.to_grub(true).map_err(bad)?.as_bytes())
    };
    for (firmware, made) in [("BIOS", bios()), ("UEFI", efi())] {
        match made {
            Err(e @ Error::NoTool { .. }) => {
                lacking.push(format!("no {firmware} machine can boot from it: {e}"))
            }
            other => other?,
        }
    }
    if let [a, b] = lacking.as_slice() {
        return Err(Error::Media(format!("{a}; {b}")));
    }
    put("boot.ipxe", menu.to_ipxe().map_err(bad)?.as_bytes())?;
    Ok(lacking)
}
