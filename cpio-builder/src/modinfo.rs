//! Reads the `.modinfo` section of a kernel module.
//!
//! `.modinfo` is a run of NUL-ended `key=value` texts (`include/linux/
//! moduleparam.h`). With it neither `depmod` nor its files are needed: the
//! kernel's build already wrote each module's dependencies there.
//!
//! Parses just enough ELF (64-bit little-endian, System V gABI chapter 4) to find one section,
//! through a [`ReadAt`]: of a large module only a few hundred bytes are read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::{fmt, io};
use sys::bytes::or_zero::{le16, le32, le64};

/// Random access to a file or to memory.
pub trait ReadAt {
    /// Fills the buffer from the offset.
    ///
    /// # Errors
    /// The source's read error; [`io::ErrorKind::UnexpectedEof`] when the data ends before the
    /// buffer is full.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// Why a file has no readable `.modinfo`.
#[derive(Debug)]
pub enum ModinfoError {
    /// Not a 64-bit little-endian ELF file.
    NotElf,
    /// It has no `.modinfo` section: an ELF file, but not a kernel module.
    NotModule,
    /// It ends before its section table, or cannot be read.
    Read(io::Error),
}

impl fmt::Display for ModinfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "is not a 64-bit ELF file"),
            Self::NotModule => write!(f, "has no .modinfo section: it is not a kernel module"),
            Self::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof => write!(f, "is cut short"),
            Self::Read(e) => write!(f, "cannot be read: {e}"),
        }
    }
}

impl std::error::Error for ModinfoError {}

impl From<io::Error> for ModinfoError {
    fn from(e: io::Error) -> Self {
        Self::Read(e)
    }
}

/// The most that a `.modinfo` section or section table may hold. The largest
/// in Debian's kernels is 60 KiB.
const SECTION_MAX: u64 = 4 << 20;

/// Machine of an ELF file, `e_machine`: 62 is x86-64, 183 is AArch64.
///
/// # Errors
/// [`ModinfoError::NotElf`] for another file, [`ModinfoError::Read`] when it cannot be read.
pub fn machine(file: &(impl ReadAt + ?Sized)) -> Result<u16, ModinfoError> {
    let mut head = [0; 20];
    match file.read_exact_at(&mut head, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ModinfoError::NotElf),
        other => other?,
    }
    // 64-bit, little-endian.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err(ModinfoError::NotElf);
    }
    Ok(le16(&head, 18))
}

/// The common name of an ELF machine.
#[must_use]
pub fn machine_name(machine: u16) -> String {
    match machine {
        62 => "x86-64".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
        21 => "PowerPC64".into(),
        22 => "S/390".into(),
        258 => "LoongArch".into(),
        n => format!("ELF machine {n}"),
    }
}

/// Reads the `.modinfo` of a module.
///
/// # Errors
/// [`ModinfoError::NotElf`] for another file, [`ModinfoError::NotModule`] without the section,
/// [`ModinfoError::Read`].
pub fn read(file: &(impl ReadAt + ?Sized)) -> Result<Modinfo, ModinfoError> {
    let text = section(file, b".modinfo\0")?.ok_or(ModinfoError::NotModule)?;
    Ok(Modinfo { machine: machine(file)?, text })
}

/// The content of an ELF file's section; the name ends in a NUL. `None` when there is
/// no such section, or it is larger than 4 MiB.
///
/// # Errors
/// [`ModinfoError::NotElf`] for another file, [`ModinfoError::Read`] when it cannot be read.
pub fn section(
    file: &(impl ReadAt + ?Sized),
    name: &[u8],
) -> Result<Option<Vec<u8>>, ModinfoError> {
    machine(file)?;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    let table_at = le64(&head, 0x28);
    let entry = usize::from(le16(&head, 0x3a));
    let count = usize::from(le16(&head, 0x3c));
    let names = usize::from(le16(&head, 0x3e));
    if entry != 64 || count == 0 {
        return Ok(None);
    }
    let mut table = vec![0; count * entry];
    file.read_exact_at(&mut table, table_at)?;
    let read = |header: &[u8]| -> Result<Option<Vec<u8>>, ModinfoError> {
        let (offset, size) = (le64(header, 0x18), le64(header, 0x20));
        if size > SECTION_MAX {
            return Ok(None);
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut data, offset)?;
        Ok(Some(data))
    };
    let mut headers = table.chunks_exact(entry);
    let Some(names) = headers.clone().nth(names).map(&read).transpose()?.flatten() else {
        return Ok(None);
    };
    let wanted = |header: &&[u8]| {
        let at = le32(header, 0) as usize;
        names.get(at..).is_some_and(|found| found.starts_with(name))
    };
    Ok(headers.find(wanted).map(read).transpose()?.flatten())
}

/// The content of a `.modinfo` section.
#[derive(Debug, Clone, Default)]
pub struct Modinfo {
    /// ELF machine of the module.
    pub machine: u16,
    text: Vec<u8>,
}

impl Modinfo {
    /// Every value of a key, in order. Values that are not UTF-8 are left out.
    pub fn values<'m>(&'m self, key: &'m str) -> impl Iterator<Item = &'m str> {
        self.text
            .split(|b| *b == 0)
            .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
            .filter(move |(k, _)| *k == key)
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A module file with nothing but a `.modinfo` section.
    pub(crate) fn module(machine: u16, pairs: &[&str]) -> Vec<u8> {
        let modinfo = pairs.iter().flat_map(|p| [p.as_bytes(), b"\0"].concat()).collect::<Vec<_>>();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut out = vec![0; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[18..20].copy_from_slice(&machine.to_le_bytes());
        let modinfo_at = out.len() as u64;
        out.extend(&modinfo);
        let names_at = out.len() as u64;
        out.extend(names);
        let table_at = out.len() as u64;
        let section = |name: u32, at: u64, len: usize| {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&at.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            header
        };
        out.extend(section(0, 0, 0));
        out.extend(section(1, modinfo_at, modinfo.len()));
        out.extend(section(10, names_at, names.len()));
        out[0x28..0x30].copy_from_slice(&table_at.to_le_bytes());
        out[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        out
    }

    #[test]
    fn reads_pairs_in_order() {
        let file = module(62, &["alias=pci:v1*", "depends=a,b", "alias=fs-x", "name=m"]);
        let info = read(file.as_slice()).unwrap();
        assert_eq!(info.machine, 62);
        assert_eq!(info.values("alias").collect::<Vec<_>>(), ["pci:v1*", "fs-x"]);
        assert_eq!(info.values("depends").next(), Some("a,b"));
        assert_eq!(info.values("firmware").count(), 0);
    }

    #[test]
    fn says_what_is_wrong() {
        let file = module(62, &["name=m"]);
        let told = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(told(b""), "is not a 64-bit ELF file");
        assert_eq!(told(&[b'x'; 100]), "is not a 64-bit ELF file");
        assert_eq!(told(&file[..file.len() - 1]), "is cut short");
        let text: Vec<u8> = file.iter().map(|b| if *b == b'm' { b'M' } else { *b }).collect();
        assert!(told(&text).contains("not a kernel module"));
        assert_eq!(
            section(file.as_slice(), b".modinfo\0").unwrap().as_deref(),
            Some(&b"name=m\0"[..])
        );
        assert_eq!(section(file.as_slice(), b".modinf\0").unwrap(), None);
    }

    proptest! {
        #[test]
        fn damage_never_panics(flips in proptest::collection::vec((0usize..250, any::<u8>()), 0..6)) {
            let mut file = module(62, &["alias=pci:v1*", "depends=a,b"]);
            for (at, value) in flips {
                let at = at.min(file.len() - 1);
                file[at] = value;
            }
            let _ = read(file.as_slice());
            let _ = section(file.as_slice(), b".shstrtab\0");
        }
    }
}
