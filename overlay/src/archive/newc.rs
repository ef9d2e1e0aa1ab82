//! Headers of cpio's "new ASCII" format, with or without checksums (which are not
//! verified), for all readers of it: roots that come as an archive, and the initramfs on the host.
//!
//! Follows `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// Bytes of a header: magic and thirteen numbers of eight hexadecimal digits.
pub const HEADER: usize = 110;
/// The name that ends an archive.
pub const TRAILER: &str = "TRAILER!!!";
/// The kernel's PATH_MAX; it skips longer names.
pub const NAME_MAX: usize = 4096;

/// The fields of a header, as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Inode number.
    pub ino: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Bytes of content.
    pub size: u32,
    /// Device number of the file system that the entry was on: major and minor.
    pub dev: (u32, u32),
    /// Device number of a device node: major and minor.
    pub rdev: (u32, u32),
    /// Bytes of the name, with the zero byte that ends it.
    pub name_len: usize,
}

impl Header {
    /// Whether these first six bytes of an entry are a supported magic.
    #[must_use]
    pub fn is_magic(magic: &[u8]) -> bool {
        magic == b"070701" || magic == b"070702"
    }

    /// Parses the fields after the magic: thirteen numbers of eight digits. `None` when one is
    /// malformed, or the name is empty or longer than the kernel accepts.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            let text = core::str::from_utf8(digits).ok()?;
            // from_str_radix accepts a sign.
            let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            *field = u32::from_str_radix(text, 16).ok().filter(|_| hexadecimal)?;
        }
        let [
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            size,
            dev_major,
            dev_minor,
            major,
            minor,
            name_len,
            _,
        ] = fields;
        let name_len = name_len as usize;
        (1..=NAME_MAX).contains(&name_len).then_some(Self {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            size,
            dev: (dev_major, dev_minor),
            rdev: (major, minor),
            name_len,
        })
    }

    /// Offset of the content from the start of the entry.
    #[must_use]
    pub const fn data_at(&self) -> usize {
        (HEADER + self.name_len).next_multiple_of(4)
    }
}

/// The name of an entry, in whatever spelling the file system had. `None` when no zero byte ends
/// it.
#[must_use]
pub fn named(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_suffix(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_no_signs_and_names_an_end() {
        let mut digits = [b'0'; HEADER - 6];
        digits[88..96].copy_from_slice(b"00001000");
        assert_eq!(Header::parse(&digits).map(|header| header.name_len), Some(NAME_MAX));
        digits[95] = b'1';
        assert_eq!(Header::parse(&digits), None, "a longer name than the kernel takes");
        digits[88..96].copy_from_slice(b"+0000008");
        assert_eq!(Header::parse(&digits), None, "a sign");
        assert_eq!((named(b"usr\0"), named(b"usr"), named(b"")), (Some(&b"usr"[..]), None, None));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers: [u32; 12], name_len in 1..=NAME_MAX) {
            let [ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, sum] =
                numbers;
            let fields = [
                ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor,
                name_len as u32, sum,
            ];
            let digits = fields.map(|field| alloc::format!("{field:08x}")).concat();
            let (dev, rdev) = ((major, minor), (rmajor, rminor));
            let header = Header { ino, mode, uid, gid, nlink, mtime, size, dev, rdev, name_len };
            prop_assert_eq!(Header::parse(digits.as_bytes()), Some(header));
            prop_assert!(header.data_at() >= HEADER + name_len);
        }
    }
}
