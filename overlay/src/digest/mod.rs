//! Digests of files, and the checksum lists on media.
//!
//! SHA-512 is our own, because it is rarely asked for and the crate's has 16 KB
//! more. MD5 is here because media carry `md5sum.txt`: it finds damage, not forgery.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use md5::Md5;
use sha2::{Digest, Sha256};
use sys::bytes::hex;

mod sha512;

/// A digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512,
    Blake3,
}

impl Algorithm {
    /// By the name that users write.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "md5" => Self::Md5,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            "blake3" => Self::Blake3,
            _ => return None,
        })
    }

    /// By the length of a digest in hexadecimal digits. 64 of them are taken
    /// for SHA-256.
    #[must_use]
    pub const fn from_digits(digits: usize) -> Option<Self> {
        Some(match digits {
            32 => Self::Md5,
            64 => Self::Sha256,
            128 => Self::Sha512,
            _ => return None,
        })
    }

    /// The name that users write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// Starts a digest.
    #[must_use]
    pub fn start(self) -> Hasher {
        Hasher(match self {
            Self::Md5 => State::Md5(Md5::new()),
            Self::Sha256 => State::Sha256(Sha256::new()),
            Self::Sha512 => State::Sha512(sha512::Sha512::new()),
            Self::Blake3 => State::Blake3(Box::default()),
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest in progress.
pub struct Hasher(State);

enum State {
    Md5(Md5),
    Sha256(Sha256),
    Sha512(sha512::Sha512),
    Blake3(Box<blake3::Hasher>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(hasher) => hasher.update(bytes),
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
            State::Blake3(hasher) => drop(hasher.update(bytes)),
        }
    }

    /// The digest in lower-case hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        match self.0 {
            State::Md5(hasher) => hex(&hasher.finalize()),
            State::Sha256(hasher) => hex(&hasher.finalize()),
            State::Sha512(hasher) => hex(&hasher.finish()),
            State::Blake3(hasher) => hex(hasher.finalize().as_bytes()),
        }
    }
}

/// Most files of one list.
const MAX_FILES: usize = 100_000;

/// One line of a checksum file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// The algorithm, by the digest's length.
    pub algorithm: Algorithm,
    /// The digest in lower-case hexadecimal.
    pub hex: String,
    /// The file, relative to the list, without `./` and without `..`.
    pub path: String,
}

/// Parses the output of `md5sum`, `sha256sum` and `sha512sum`: digest, blank, blank or `*`,
/// path. Comments, empty and malformed lines are skipped, as those programs' `--check` does; so
/// are paths that leave the medium.
#[must_use]
pub fn parse_sums(text: &str) -> Vec<Sum> {
    let line = |line: &str| {
        let line = line.strip_prefix('\\').unwrap_or(line);
        let (digest, path) = line.split_once(' ')?;
        let algorithm = Algorithm::from_digits(digest.len())?;
        if !digest.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let path = path.strip_prefix([' ', '*']).unwrap_or(path).trim_end_matches('\r');
        let path = path.trim_start_matches("./").trim_start_matches('/');
        if path.is_empty() || path.split('/').any(|part| part == "..") {
            return None;
        }
        Some(Sum { algorithm, hex: digest.to_ascii_lowercase(), path: String::from(path) })
    };
    text.lines().filter_map(line).take(MAX_FILES).collect()
}

/// The MD5 of an ISO that is stored in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedMd5 {
    /// The digest in lower-case hexadecimal.
    pub hex: String,
    /// Length of the digested part, from the start.
    pub length: u64,
}

/// The application-use area of an ISO 9660 primary volume descriptor, where `implantisomd5`
/// stores its note; the digest sees blanks instead.
pub const NOTE_AT: u64 = 16 * 2048 + 883;

/// Bytes of that area.
pub const NOTE_LENGTH: usize = 512;

/// Parses the note: `ISO MD5SUM = …;SKIPSECTORS = …`. `iso_length` is the size in the
/// descriptor.
#[must_use]
pub fn parse_embedded(note: &[u8], iso_length: u64) -> Option<EmbeddedMd5> {
    let text = core::str::from_utf8(note.get(..NOTE_LENGTH)?).ok()?;
    let (_, rest) = text.split_once("ISO MD5SUM = ")?;
    let hex = rest.get(..32).filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()))?;
    let skip = text.split_once("SKIPSECTORS = ").map_or(Some(0), |(_, rest)| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse::<u64>().ok()
    })?;
    let length = iso_length.checked_sub(skip.checked_mul(2048)?)?;
    Some(EmbeddedMd5 { hex: hex.to_ascii_lowercase(), length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = algorithm.start();
        let (a, b) = bytes.split_at(bytes.len() / 2);
        hasher.update(a);
        hasher.update(b);
        hasher.finish()
    }

    #[test]
    fn known_digests() {
        // RFC 1321, FIPS 180-4 and the BLAKE3 paper's test vectors.
        assert_eq!(of(Algorithm::Md5, b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            of(Algorithm::Sha256, b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(of(Algorithm::Sha512, b"abc").starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(
            of(Algorithm::Blake3, b""),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        let counting: Vec<u8> = (0..1025_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(
            of(Algorithm::Blake3, &counting),
            "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"
        );
    }

    #[test]
    fn a_list_of_sums() {
        let text = "900150983cd24fb0d6963f7d28e17f72  ./live/filesystem.squashfs\n\
                    # comment\n\
                    900150983CD24FB0D6963F7D28E17F72 *boot/x y\n\
                    900150983cd24fb0d6963f7d28e17f72  ../../etc/shadow\n\
                    short  file\n";
        let sums = parse_sums(text);
        let paths: Vec<&str> = sums.iter().map(|sum| sum.path.as_str()).collect();
        assert_eq!(paths, ["live/filesystem.squashfs", "boot/x y"]);
        assert_eq!(sums[1].hex, "900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn an_implanted_note() {
        let mut note =
            b"ISO MD5SUM = 900150983cd24fb0d6963f7d28e17f72;SKIPSECTORS = 15;RHLISOSTATUS=1;"
                .to_vec();
        note.resize(NOTE_LENGTH, b' ');
        let found = parse_embedded(&note, 100 * 2048).unwrap();
        assert_eq!(found.length, 85 * 2048);
        assert_eq!(parse_embedded(&note, 2048), None);
        assert_eq!(parse_embedded(&[b' '; NOTE_LENGTH], 2048), None);
    }

    proptest! {
        #[test]
        fn never_panics(text: String, bytes: Vec<u8>, length: u64) {
            let _ = parse_sums(&text);
            let _ = parse_embedded(&bytes, length);
            let mut note = format!("ISO MD5SUM = {text};SKIPSECTORS = {text}").into_bytes();
            note.resize(NOTE_LENGTH, b' ');
            let _ = parse_embedded(&note, length);
        }
    }
}
