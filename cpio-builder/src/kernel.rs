//! What the file of a kernel says of itself.

use object::LittleEndian;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders32, ImageNtHeaders64,
};
use object::read::pe::ImageNtHeaders;
use sys::bytes::or_zero::le16;

/// Bytes from the beginning in which everything stands that is looked for here.
pub const START: usize = 0x200 + 0x1_0000 + RELEASE_MAX;
/// The longest release, in bytes.
const RELEASE_MAX: usize = 256;

/// The release that a kernel for x86 says in its header: `kernel_version` of
/// Documentation/arch/x86/boot.rst. `None` for other kernels.
#[must_use]
pub fn release(start: &[u8]) -> Option<String> {
    if start.get(0x202..0x206) != Some(b"HdrS") {
        return None;
    }
    let at = <[u8; 2]>::try_from(start.get(0x20e..0x210)?).ok()?;
    let text = start.get(0x200 + usize::from(u16::from_le_bytes(at))..)?;
    let text = text.iter().take(RELEASE_MAX).take_while(|byte| !matches!(byte, 0 | b' '));
    let text = String::from_utf8(text.copied().collect()).ok()?;
    let plain = |c: char| c.is_ascii_graphic();
    (!text.is_empty() && text.chars().all(plain)).then_some(text)
}

/// The machines that a kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Machine {
    X86,
    X64,
    Arm64,
}

impl Machine {
    /// The machine of a kernel: `xloadflags` of Documentation/arch/x86/boot.rst, since protocol 2.12
    /// (Linux 3.8), and the mark of arm64/booting.rst. `None` for other kernels.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        if start.get(0x202..0x206) == Some(b"HdrS") {
            let protocol = le16(start, 0x206);
            let can_be_64 = le16(start, 0x236) & 1 != 0;
            return (protocol >= 0x20c).then_some(if can_be_64 { Self::X64 } else { Self::X86 });
        }
        (start.get(0x38..0x3c) == Some(b"ARM\x64")).then_some(Self::Arm64)
    }

    /// The machine of a program (ELF's `e_machine`).
    #[must_use]
    pub fn of_program(start: &[u8]) -> Option<Self> {
        match (start.get(..4), le16(start, 18)) {
            (Some(b"\x7fELF"), 3) => Some(Self::X86),
            (Some(b"\x7fELF"), 62) => Some(Self::X64),
            (Some(b"\x7fELF"), 183) => Some(Self::Arm64),
            _ => None,
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86 => "32-bit x86",
            Self::X64 => "x86-64",
            Self::Arm64 => "AArch64",
        })
    }
}

/// Whether an EFI program carries a signature: it has a table of certificates (PE format,
/// "Attribute Certificate Table"). Does not check it.
#[must_use]
pub fn is_signed(start: &[u8]) -> bool {
    fn certificates<Headers: ImageNtHeaders>(start: &[u8]) -> Option<u32> {
        let mut at = u64::from(ImageDosHeader::parse(start).ok()?.nt_headers_offset());
        let (_, directories) = Headers::parse(start, &mut at).ok()?;
        Some(directories.get(IMAGE_DIRECTORY_ENTRY_SECURITY)?.size.get(LittleEndian))
    }
    certificates::<ImageNtHeaders64>(start)
        .or_else(|| certificates::<ImageNtHeaders32>(start))
        .is_some_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A kernel with the modules of another one made an ISO without a word.
    #[test]
    fn a_kernel_says_its_release() {
        let mut bytes = vec![0; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x120_u16.to_le_bytes());
        bytes[0x320..0x330].copy_from_slice(b"6.1.0-57 (me@x)\0");
        assert_eq!(release(&bytes).as_deref(), Some("6.1.0-57"));
        bytes[0x320] = 0x1b;
        assert_eq!(release(&bytes), None, "no text");
        bytes[0x20f] = 0xff;
        assert_eq!(release(&bytes), None, "behind the end");
        bytes[0x202] = 0;
        assert_eq!(release(&bytes), None, "no kernel");
        assert_eq!(release(b""), None);
    }

    #[test]
    fn a_kernel_says_its_machine() {
        let mut bytes = vec![0; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&0x20b_u16.to_le_bytes());
        assert_eq!(Machine::of(&bytes), None);
        bytes[0x206] = 0x0f;
        assert_eq!(Machine::of(&bytes), Some(Machine::X86));
        bytes[0x236] = 0x3f;
        assert_eq!(Machine::of(&bytes), Some(Machine::X64));
        bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
        bytes[0x202] = 0;
        assert_eq!(Machine::of(&bytes), Some(Machine::Arm64));
        assert_eq!((Machine::of(b""), Machine::of_program(b"\x7fELF")), (None, None));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(Machine::of_program(&own).is_some());
    }

    #[test]
    fn a_kernel_says_whether_it_is_signed() {
        // The optional header's magic, and its length before the directories.
        for (magic, fixed) in [(0x10b_u16, 96_usize), (0x20b, 112)] {
            let program = |certificates: u32| {
                let mut bytes = vec![0; 1024];
                let mut put = |at: usize, what: &[u8]| {
                    bytes[at..at + what.len()].copy_from_slice(what);
                };
                put(0, b"MZ");
                put(0x3c, &0x80_u32.to_le_bytes());
                put(0x80, b"PE\0\0");
                put(0x80 + 20, &(fixed as u16 + 128).to_le_bytes());
                put(0x80 + 24, &magic.to_le_bytes());
                put(0x80 + 24 + fixed - 4, &16_u32.to_le_bytes());
                // Where the table is, and its length.
                put(0x80 + 24 + fixed + 32, &4096_u32.to_le_bytes());
                put(0x80 + 24 + fixed + 36, &certificates.to_le_bytes());
                bytes
            };
            assert!(is_signed(&program(1928)), "{magic:x}");
            assert!(!is_signed(&program(0)) && !is_signed(&program(1928)[..0x100]));
        }
        assert!(!is_signed(b"\x1f\x8b") && !is_signed(b""));
    }

    proptest! {
        #[test]
        fn any_kernel(mut bytes in prop::collection::vec(any::<u8>(), 0..1200), pe in 0u32..1200) {
            for (at, what) in [(0, &b"MZ"[..]), (0x3c, &pe.to_le_bytes()), (0x202, b"HdrS")] {
                if let Some(place) = bytes.get_mut(at..at + what.len()) {
                    place.copy_from_slice(what);
                }
            }
            let _ = (is_signed(&bytes), release(&bytes), Machine::of(&bytes));
        }
    }
}
