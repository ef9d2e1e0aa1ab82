//! `bellwether pxe`: a live system in a directory for a TFTP server.

use crate::args::{Boot, Pxe};
use crate::failure::Failure;
use crate::interrupted;
use crate::medium::{Parts, check_kernel, parts, usage};
use cmdline::json::Json;
use cpio_builder::error::Error;
use cpio_builder::media;
use cpio_builder::tools::Workplace;
use share::medium::{Medium, Source};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The largest kernel or initramfs.
const MOST: u64 = 1 << 30;

/// Runs the subcommand.
pub fn run(what: &Pxe) -> Result<(), Failure> {
    interrupted::expect()?;
    let work = Workplace::new(&what.dir)?;
    let boot = what.boot();
    let taken;
    let boot = match &what.iso {
        None if what.append.is_none() => {
            return Err(usage(
                "--append says where the root comes from, and is missing: 'boot=live netboot=nfs nfsroot=SERVER:/DIR', for example",
            ));
        }
        None => boot,
        Some(path) => {
            taken = from_iso(path, &work)?;
            let (kernel, initrd) = &taken;
            let initrd =
                if boot.initrd.is_empty() && boot.modules.is_none() { initrd } else { boot.initrd };
            Boot { kernel: boot.kernel.or(Some(kernel)), initrd, ..boot }
        }
    };
    if boot.append.is_none() {
        return Err(usage("--append says where the root comes from, and is missing"));
    }
    let Parts { files, menu } = parts(&boot, boot.kernel()?, &work, "")?;
    fs::create_dir_all(&what.dir).map_err(Error::write(&what.dir))?;
    let lacking = media::pxe_tree(&menu, &files, &what.dir)?;
    for text in &lacking {
        eprintln!("warning: {text}");
    }
    if what.json {
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let mut json = Json::new();
        json.object().field("dir", &what.dir.to_string_lossy());
        json.list("files", &names).list("lacking", &lacking).end_object();
        println!("{}", json.finish());
    } else {
        eprintln!(
            "{}: hand it out by TFTP; the file to boot is pxelinux.0 for BIOS, bootx64.efi for UEFI, \
             boot.ipxe for iPXE; try: bellwether try --pxe {}",
            what.dir.display(),
            what.dir.display()
        );
    }
    Ok(())
}

/// Kernel and initramfs that the medium's own menu starts by default, as `share` finds them.
fn from_iso(path: &Path, work: &Workplace) -> Result<(PathBuf, Vec<PathBuf>), Failure> {
    let medium = Medium::read(Source::open(path, false)?)?;
    for text in &medium.warnings {
        eprintln!("warning: {text}");
    }
    let Some(entry) = medium.menu.entries.get(medium.menu.default) else {
        return Err(Failure::Failed(medium.nothing("; --kernel and --initrd give one")));
    };
    let take = |from: &str, name: &str| -> Result<PathBuf, Failure> {
        let at = medium.tree.file(from).map(|(at, _)| at);
        let bytes = at.map(|at| medium.tree.read_all(at, MOST));
        let bytes = bytes.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let of = || path.join(from.trim_start_matches('/'));
        let bytes = bytes.map_err(|source| Error::Read { path: of(), source })?;
        let path = work.join(name);
        fs::write(&path, bytes).map_err(Error::write(&path))?;
        Ok(path)
    };
    let kernel = take(&entry.kernel, "vmlinuz")?;
    check_kernel(&kernel, &format!("{} on {}", entry.kernel, path.display()))?;
    let initrd: Result<Vec<PathBuf>, Failure> = entry
        .initrd
        .iter()
        .enumerate()
        .map(|(n, from)| take(from, &format!("initrd{n}")))
        .collect();
    Ok((kernel, initrd?))
}
