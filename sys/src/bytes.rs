//! Numbers at a place in bytes that came from outside: `le` is little-endian, `be` big-endian,
//! `ne` the machine's own order.

use alloc::string::String;

/// The bytes at `at`, if they are there.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

macro_rules! numbers {
    ($($name:ident: $number:ident, $from:ident;)*) => {
        $(
            /// The number at `at`, if its bytes are there.
            pub fn $name(bytes: &[u8], at: usize) -> Option<$number> {
                Some($number::$from(*bytes.get(at..)?.first_chunk()?))
            }
        )*

        /// The same numbers, 0 where the bytes end before them.
        pub mod or_zero {
            $(
                /// The number at `at`, or 0.
                pub fn $name(bytes: &[u8], at: usize) -> $number {
                    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
                    found.map_or(0, |found| $number::$from(*found))
                }
            )*
        }
    };
}

numbers! {
    le16: u16, from_le_bytes;
    le32: u32, from_le_bytes;
    le64: u64, from_le_bytes;
    be16: u16, from_be_bytes;
    be32: u32, from_be_bytes;
    be64: u64, from_be_bytes;
    ne16: u16, from_ne_bytes;
    ne32: u32, from_ne_bytes;
}

/// What is left of bytes from outside. Numbers are taken from its front: a number whose bytes are
/// not all there is `None`, and takes none.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (some, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*some)
    }

    /// So many bytes.
    pub fn some(&mut self, length: usize) -> Option<&'a [u8]> {
        let (some, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(some)
    }
}

macro_rules! taken {
    ($($name:ident: $number:ident, $from:ident;)*) => {
        impl Cursor<'_> {
            $(
                /// The next number.
                pub fn $name(&mut self) -> Option<$number> {
                    self.take().map($number::$from)
                }
            )*
        }
    };
}

taken! {
    le16: u16, from_le_bytes;
    le32: u32, from_le_bytes;
    le64: u64, from_le_bytes;
    be16: u16, from_be_bytes;
    be32: u32, from_be_bytes;
    be64: u64, from_be_bytes;
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A UUID as text, of its bytes in this order (RFC 9562, 4).
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = hex(bytes);
    [8, 13, 18, 23].into_iter().for_each(|at| text.insert(at, '-'));
    text
}

/// A length as protocols write it, in 32 bits. A longer one is cut to the largest number.
pub fn length(of: &[u8]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}

/// Takes bytes that have their length before them, in 32 bits, big-endian. `None` when they are
/// not all there.
pub fn counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(be32(rest, 0)?).ok()?;
    let (some, behind) = rest.get(4..)?.split_at_checked(length)?;
    *rest = behind;
    Some(some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_five_groups() {
        let bytes = core::array::from_fn(|n| n as u8 * 17);
        assert_eq!(uuid(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_number_is_read_whole_or_not_at_all() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!((le16(&bytes, 7), be16(&bytes, 7)), (Some(0x0908), Some(0x0809)));
        assert_eq!((le32(&bytes, 5), be32(&bytes, 5)), (Some(0x0908_0706), Some(0x0607_0809)));
        assert_eq!(le64(&bytes, 1), Some(0x0908_0706_0504_0302));
        assert_eq!(be64(&bytes, 1), Some(0x0203_0405_0607_0809));
        for at in [2, 9, 10, usize::MAX] {
            assert_eq!((le64(&bytes, at), or_zero::be64(&bytes, at)), (None, 0));
        }
    }

    #[test]
    fn a_cursor_takes_a_number_whole_or_not_at_all() {
        let mut rest = Cursor(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((rest.le16(), rest.be32()), (Some(0x0201), Some(0x0304_0506)));
        assert_eq!((rest.le64(), rest.some(5), rest.be64()), (None, None, None));
        assert_eq!((rest.some(3), rest.take()), (Some(&[7, 8, 9][..]), Some([10])));
        assert_eq!((rest.take::<1>(), rest.some(0)), (None, Some(&[][..])));
    }

    #[test]
    fn counted_bytes_are_taken_whole_or_not_at_all() {
        let mut rest = &b"\0\0\0\x02ab\0\0\0\x02a"[..];
        assert_eq!(counted(&mut rest), Some(&b"ab"[..]));
        assert_eq!(counted(&mut rest), None);
        assert_eq!(rest, b"\0\0\0\x02a");
        assert_eq!(counted(&mut &b"\xff\xff\xff\xffabc"[..]), None);
    }
}
