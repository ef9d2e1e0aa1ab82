//! Dolly: a chain or tree of TCP connections through which one stream runs.
//!
//! Two lines of the program exist and do not understand each other. Classic
//! Dolly (0.5x to 0.64) sends its configuration file on the control
//! connection and nothing before it; openSUSE's (0.70 on) sends a byte that
//! says whether a password is needed, a mode, and a shorter file. The first
//! control byte tells them apart: a file begins with a letter.
//!
//! * [`config`]: `dolly.cfg`, both grammars, reading and writing.
//! * [`client`], [`server`]: the two ends.
//!
//! Every node listens on TCP 9998 (data) and 9997 (control); the parent
//! connects to data first. Data is the bare stream. Its length goes down the
//! control connections as eight little-endian bytes and comes back as the
//! acknowledgement. There is no recovery: when a node goes, the copy fails on
//! all nodes behind it, and everybody is told.
//!
//! Ours, unseen by old programs: the `endconfig` line, of which only the
//! beginning is read, goes on with [`VERIFY_WORD`]. If every node answers that
//! it verifies, the length is sent with its highest bit set and the stream's
//! BLAKE3 digest behind it, and each node reports what it stored.
//!
//! With a key, both ends of each control connection show that they know it
//! before the configuration is sent, the digest has its code behind it, and so
//! has each report.

pub mod client;
pub mod config;
pub mod server;

pub use client::Client;
pub use config::{Config, Line};
pub use server::Server;

use crate::pact::{Mac, Nonce, Pact, hex, same, unhex};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The name in messages.
const NAME: &str = "dolly";

/// TCP port of the data connections.
pub const DATA_PORT: u16 = 9998;
/// TCP port of the control connections.
pub const CONTROL_PORT: u16 = 9997;

/// What follows `endconfig` when the server can verify.
pub const VERIFY_WORD: &str = " bellwether:blake3";

/// And then the stream's length, where the server knows it.
pub const BYTES_WORD: &str = " bytes:";

/// The lines before the configuration when there is a key: the session's nonce from the parent,
/// the child's nonce and code, the parent's code of the configuration.
const KEY_LINE: &str = "bellwether-key ";

/// The bit in the length that says that a digest follows.
const AGREED: u64 = 1 << 63;

/// The longest configuration that real programs read.
pub const MAX_CONFIG: usize = 4095;

/// The answer to a password question: SHA-256 over the password's SHA-256 and
/// the nonce.
#[must_use]
pub fn password_proof(password: &str, nonce: &[u8; 32]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let inner = Sha256::digest(password.as_bytes());
    let mut hash = Sha256::new();
    hash.update(inner);
    hash.update(nonce);
    hash.finalize().into()
}

/// A child's answer at the beginning of what it has sent: nothing while it is not whole; then
/// the line before the configuration's text, if the child knows the key.
fn answered(pact: &Pact, heard: &mut Vec<u8>, text: &str) -> Option<Option<String>> {
    let end = heard.iter().position(|b| *b == b'\n')? + 1;
    let line: Vec<u8> = heard.drain(..end).collect();
    let line = String::from_utf8_lossy(&line);
    let words = line.strip_prefix(KEY_LINE).unwrap_or_default();
    let (nonce, code) = words.split_once(' ').unwrap_or_default();
    let right = |nonce: &Nonce| {
        unhex(code.trim_end()).is_some_and(|code: Mac| same(&code, &pact.answer(nonce)))
    };
    let nonce: Option<Nonce> = unhex(nonce).filter(right);
    let own = |nonce| hex(&pact.announce(&nonce, text.as_bytes()));
    Some(nonce.map(|nonce| format!("{KEY_LINE}{}\n", own(nonce))))
}

/// A report of one line, with the code of the key before its end.
fn coded(pact: Option<&Pact>, line: String) -> String {
    let Some(pact) = pact else { return line };
    let text = line.trim_end();
    format!("{text} {}\n", hex(&pact.verdict(&Nonce::default(), text.as_bytes())))
}

/// Whether a report without its line end has the code of the key.
fn has_code(pact: &Pact, line: &str) -> bool {
    let (text, code) = line.rsplit_once(' ').unwrap_or_default();
    let right = pact.verdict(&Nonce::default(), text.as_bytes());
    unhex(code).is_some_and(|code: Mac| same(&code, &right))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recorded_password_proof() {
        let hex = |t: &str| -> Vec<u8> {
            (0..t.len() / 2)
                .map(|i| u8::from_str_radix(&t[i * 2..i * 2 + 2], 16).unwrap())
                .collect()
        };
        let nonce: [u8; 32] =
            hex("4ce6c0ac8445ebdcee8d8a6ac79d4a284f91d671064c9e11a5a3b3d67692816e")
                .try_into()
                .unwrap();
        assert_eq!(
            super::password_proof("sheep", &nonce).to_vec(),
            hex("81e4cfab20a43aea99691b347c7c928244db155c78f886f18642fdc8a02bc1ff")
        );
    }
}
