//! Private keys: OpenSSH's own file as Dropbear's client reads it, which knows no other
//! form (`dropbearconvert` does the same at a desk).
//!
//! Sources: OpenSSH's `PROTOCOL.key`; Dropbear's `keyimport.c` for the order of numbers.

use alloc::string::String;
use alloc::vec::Vec;

use sys::bytes::{be32, counted, length};

const MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// The largest file: an RSA key of 16384 bits has 13 KB.
const MAX_FILE: usize = 64 << 10;

/// Why a key cannot be used: what is wrong, and what to do.
pub type Refused = (&'static str, &'static str);

const BROKEN: Refused = ("is no private key, or a damaged one", "ssh-keygen -t ed25519 makes one");

/// The key of an OpenSSH file in Dropbear's form. What does not begin like one is returned
/// as it is: it may be Dropbear's already.
///
/// # Errors
/// The key has a passphrase, is of a kind that Dropbear lacks, or is damaged.
pub fn for_dropbear(file: &[u8]) -> Result<Vec<u8>, Refused> {
    if file.len() > MAX_FILE {
        return Err(BROKEN);
    }
    let Ok(text) = core::str::from_utf8(file) else { return Ok(file.to_vec()) };
    let Some(body) = text.trim().strip_prefix(BEGIN) else {
        return match text.contains("-----BEGIN") {
            true => Err((
                "is a private key in PEM form",
                "ssh-keygen -p -N '' -f KEY writes it in OpenSSH's",
            )),
            false => Ok(file.to_vec()),
        };
    };
    let bytes = base64(body.trim().strip_suffix(END).ok_or(BROKEN)?).ok_or(BROKEN)?;
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(BROKEN)?;
    let cipher = counted(&mut rest).ok_or(BROKEN)?;
    if cipher != b"none" {
        return Err((
            "has a passphrase, which no user is there to type",
            "ssh-keygen -p -N '' -f KEY takes it off a copy",
        ));
    }
    private(&mut rest).ok_or(BROKEN)?
}

fn private(rest: &mut &[u8]) -> Option<Result<Vec<u8>, Refused>> {
    let (_kdf, _options) = (counted(rest)?, counted(rest)?);
    let (count, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    if *count != [0, 0, 0, 1] {
        return None;
    }
    let _public = counted(rest)?;
    let mut key = counted(rest)?;
    let (one, two) = (be32(key, 0)?, be32(key, 4)?);
    key = key.get(8..)?;
    if one != two {
        return None;
    }
    let kind = counted(&mut key)?;
    let mut out = Vec::new();
    put(&mut out, kind);
    match kind {
        b"ssh-ed25519" => {
            let (_public, both) = (counted(&mut key)?, counted(&mut key)?);
            put(&mut out, (both.len() == 64).then_some(both)?);
        }
        b"ssh-rsa" => {
            let (n, e, d) = (counted(&mut key)?, counted(&mut key)?, counted(&mut key)?);
            let (_inverse, p, q) = (counted(&mut key)?, counted(&mut key)?, counted(&mut key)?);
            [e, n, d, p, q].iter().for_each(|number| put(&mut out, number));
        }
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" | b"ecdsa-sha2-nistp521" => {
            for _ in 0..3 {
                put(&mut out, counted(&mut key)?);
            }
        }
        _ => {
            return Some(Err((
                "is of a kind that Dropbear's ssh client does not know",
                "ssh-keygen -t ed25519 makes one that it does",
            )));
        }
    }
    Some(Ok(out))
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0u32, 0u32);
    let clean: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    for byte in clean.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Reads any file as a private key; for fuzzers.
///
/// # Panics
/// When the result is larger than the file.
pub fn fuzz(data: &[u8]) {
    if let Ok(key) = for_dropbear(data) {
        assert!(key.len() <= data.len());
    }
    let _ = private(&mut &*data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// Keys of ssh-keygen; `dropbearkey -y` reads them, and finds the same public key.
    #[test]
    fn dropbear_reads_what_openssh_made() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, bits) in [("ed25519", "256"), ("rsa", "2048"), ("ecdsa", "384")] {
            let file = dir.path().join(kind);
            let mut made = Command::new("ssh-keygen");
            made.args(["-q", "-N", "", "-t", kind, "-b", bits, "-f"]).arg(&file);
            assert!(made.status().unwrap().success());
            let key = for_dropbear(&std::fs::read(&file).unwrap()).unwrap();
            let converted = dir.path().join(format!("{kind}.db"));
            std::fs::write(&converted, &key).unwrap();
            let Ok(read) = Command::new("dropbearkey").arg("-y").arg("-f").arg(&converted).output()
            else {
                eprintln!("dropbearkey is not here");
                return;
            };
            let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
            let public = public.split(' ').nth(1).unwrap();
            assert!(String::from_utf8_lossy(&read.stdout).contains(public), "{read:?}");
            assert_eq!(for_dropbear(&key), Ok(key));
        }
        let file = dir.path().join("locked");
        let mut made = Command::new("ssh-keygen");
        made.args(["-q", "-N", "secret", "-t", "ed25519", "-f"]).arg(&file);
        assert!(made.status().unwrap().success());
        let refused = for_dropbear(&std::fs::read(&file).unwrap()).unwrap_err();
        assert!(refused.0.contains("passphrase"), "{refused:?}");
        let pem = for_dropbear(b"-----BEGIN RSA PRIVATE KEY-----\nMII=\n").unwrap_err();
        assert!(pem.0.contains("PEM"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = for_dropbear(&bytes);
            let mut rest = &bytes[..];
            let _ = private(&mut rest);
            let text = String::from_utf8_lossy(&bytes);
            let _ = for_dropbear(format!("{BEGIN}\n{text}\n{END}").as_bytes());
        }
    }
}
