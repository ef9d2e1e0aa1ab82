//! iPXE's release for Secure Boot (`ipxeboot.tar.gz`, iPXE 2.0 and later).
//!
//! Its shim is trusted by the firmware, and trusts the iPXE that iPXE's own authority signed. The
//! name by which the shim was fetched says which program it loads from the same directory: without
//! `-shim` and the architecture, so `snponly-shimx64.efi` loads `snponly.efi`. That one looks for
//! `autoexec.ipxe` beside itself, which needs no signature. So it works beside another DHCP server.
//!
//! An archive of a site's own may have a distribution's shim in that place. That one loads
//! `grubx64.efi`, whatever its own name (seen with Debian's shim 16.1), so iPXE has this name, too.

use crate::dhcp::client::Arch;
use crate::error::Error;
use crate::event::Stage;
use crate::files::{File, Files};
use cpio_builder::compress::{Codec, reader};
use cpio_builder::kernel::{START, is_signed};
use cpio_builder::menu::Menu;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::SocketAddrV4;
use std::path::Path;

/// The largest archive, packed and unpacked, in bytes.
const MOST: u64 = 64 << 20;

/// Architecture, its directory in the archive, the shim there, the names that it is served under,
/// and what a distribution's shim loads. The first name is sent to clients: `snponly.efi` uses the
/// firmware's driver for the card. Some firmware is said to handle the short names better.
const DIRECTORIES: [(Arch, &str, &str, [&str; 4], &str); 2] = [
    (
        Arch::UefiX64,
        "x86_64-sb",
        "shimx64.efi",
        ["snponly-shimx64.efi", "snponly-shim.efi", "ipxe-shimx64.efi", "ipxe-shim.efi"],
        "grubx64.efi",
    ),
    (
        Arch::UefiArm64,
        "arm64-sb",
        "shimaa64.efi",
        ["snponly-shimaa64.efi", "snponly-shim.efi", "ipxe-shimaa64.efi", "ipxe-shim.efi"],
        "grubaa64.efi",
    ),
];

/// Reads the archive, without looking into it.
///
/// # Errors
/// [`Error::File`] when it cannot be read, [`Error::Medium`] when it is too long.
pub fn open(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::read(path))?;
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(Error::read(path))?;
    if bytes.len() as u64 > MOST {
        let why = format!("{} is no ipxeboot.tar.gz: it is longer than 64 MiB", path.display());
        return Err(Error::Medium { why });
    }
    Ok(bytes)
}

/// Adds the signed programs to the served files, with a script beside them that loads `menu` from
/// the HTTP server. Returns the file for each architecture.
///
/// # Errors
/// [`Error::Medium`] when the archive is damaged or lacks the signed programs.
pub fn add(
    archive: &[u8],
    http: SocketAddrV4,
    menu: &str,
    files: &mut Files,
) -> Result<Vec<(Arch, String)>, Error> {
    let bad = |why: String| Error::Medium { why: format!("--ipxe: {why}") };
    let unpacked = reader(Codec::Gzip, archive).map_err(|e| bad(e.to_string()))?;
    let mut tar = tar::Archive::new(unpacked.take(MOST));
    let mut found: Vec<(Arch, &str, String, Vec<u8>)> = Vec::new();
    for entry in tar.entries().map_err(|e| bad(e.to_string()))? {
        let mut entry = entry.map_err(|e| bad(e.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|e| bad(e.to_string()))?.into_owned();
        let text = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let (Some(name), Some(above)) = (text(&path), path.parent().and_then(text)) else {
            continue;
        };
        let row = DIRECTORIES.iter().find(|(_, directory, ..)| *directory == above);
        let Some((arch, directory, shim, ..)) = row else { continue };
        if [*shim, "snponly.efi", "ipxe.efi"].contains(&name.as_str()) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
            found.push((*arch, directory, name, bytes));
        }
    }
    let mut loaders = Vec::new();
    for (arch, directory, shim, names, second) in DIRECTORIES {
        let part = |wanted: &str| {
            found
                .iter()
                .find(|(a, _, name, _)| *a == arch && name == wanted)
                .map(|(.., b)| b.clone())
        };
        let (Some(shim), Some(snponly)) = (part(shim), part("snponly.efi")) else { continue };
        let stage = |name: &str| Stage::Loader(name.to_owned());
        for name in names {
            files.add(&format!("/{directory}/{name}"), File::memory(shim.clone()).at(stage(name)));
        }
        for name in ["snponly.efi", second] {
            files.add(&format!("/{directory}/{name}"), File::memory(snponly.clone()));
        }
        if let Some(all) = part("ipxe.efi") {
            files.add(&format!("/{directory}/ipxe.efi"), File::memory(all));
        }
        let script = format!("#!ipxe\nisset ${{ip}} || dhcp\nchain http://{http}{menu}\n");
        files.add(&format!("/{directory}/autoexec.ipxe"), File::memory(script.into_bytes()));
        loaders.push((arch, format!("{directory}/{}", names[0])));
    }
    match loaders.is_empty() {
        true => Err(bad("the archive has no x86_64-sb/shimx64.efi with snponly.efi: give \
                         ipxeboot.tar.gz of iPXE 2.0 or later"
            .into())),
        false => Ok(loaders),
    }
}

/// What machines with Secure Boot on will refuse to start, in sentences: kernels that carry no
/// signature. Whether a machine trusts a signature, only the machine knows.
pub fn refused(menu: &Menu, files: &Files) -> Vec<String> {
    let mut told = BTreeSet::new();
    for entry in &menu.entries {
        let start = files.find(&entry.kernel).and_then(|file| file.start(START).ok());
        if start.is_some_and(|start| !is_signed(&start)) {
            told.insert(format!(
                "\"{}\" does not start on machines with Secure Boot on: its kernel carries no \
                 signature",
                entry.title
            ));
        }
    }
    told.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio_builder::compress::compress;
    use cpio_builder::menu::Entry;

    #[test]
    fn a_kernel_without_a_signature_is_named() {
        let mut files = Files::default();
        files.add("/boot/b", File::memory(b"MZ, no kernel".to_vec()));
        let entry = |name: &str| Entry {
            title: name.into(),
            kernel: format!("/boot/{name}"),
            ..Entry::default()
        };
        let entries = ["b", "absent"].map(entry).to_vec();
        let said = refused(&Menu { entries, ..Menu::default() }, &files);
        let [said] = said.as_slice() else { panic!("{said:?}") };
        assert!(said.starts_with("\"b\" does not start on machines with Secure Boot on"), "{said}");
    }

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(name.len() as u64);
            tar.append_data(&mut header, name, name.as_bytes()).unwrap();
        }
        compress(Codec::Gzip, &tar.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn the_name_of_the_shim_chooses_the_program() {
        let whole = archive(&[
            "ipxeboot/x86_64/ipxe.efi",
            "ipxeboot/x86_64-sb/shimx64.efi",
            "ipxeboot/x86_64-sb/ipxe.efi",
            "ipxeboot/x86_64-sb/snponly.efi",
        ]);
        let mut files = Files::default();
        let http = "10.0.0.1:8080".parse().unwrap();
        let loaders = add(&whole, http, "/boot.ipxe", &mut files).unwrap();
        assert_eq!(loaders, [(Arch::UefiX64, "x86_64-sb/snponly-shimx64.efi".to_owned())]);
        let length = |path: &str| files.find(path).map(|file| file.length);
        let shim = "ipxeboot/x86_64-sb/shimx64.efi".len() as u64;
        assert_eq!(length("/x86_64-sb/snponly-shimx64.efi"), Some(shim));
        assert_eq!(length("/x86_64-sb/ipxe-shim.efi"), Some(shim));
        assert_eq!(length("/x86_64-sb/snponly.efi"), Some(30));
        // A distribution's shim loads this name.
        assert_eq!(length("/x86_64-sb/grubx64.efi"), Some(30));
        let script = files.find("/x86_64-sb/autoexec.ipxe").unwrap();
        let mut text = vec![0; usize::try_from(script.length).unwrap()];
        script.read_exact_at(0, &mut text).unwrap();
        assert!(text.ends_with(b"\nchain http://10.0.0.1:8080/boot.ipxe\n"));
    }

    #[test]
    fn other_archives_are_refused_with_the_reason() {
        let http = "10.0.0.1:8080".parse().unwrap();
        let refused = |bytes: &[u8]| {
            add(bytes, http, "/boot.ipxe", &mut Files::default()).unwrap_err().to_string()
        };
        assert!(refused(&archive(&["x86_64-sb/shimx64.efi"])).contains("ipxeboot.tar.gz"));
        assert!(refused(&archive(&["x86_64/snponly.efi"])).contains("iPXE 2.0"));
        assert!(refused(b"no archive").contains("--ipxe"));
        assert!(open(Path::new("/nothing/ipxeboot.tar.gz")).is_err());
    }
}
