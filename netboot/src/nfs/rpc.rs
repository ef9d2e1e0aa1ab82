//! ONC RPC (RFC 5531) over TCP, XDR (RFC 4506): builds calls and parses replies.

use alloc::vec::Vec;
use core::fmt;

/// The longest reply that is read; the expected ones have a few hundred bytes.
pub const MAX_REPLY: usize = 16 * 1024;

/// An XDR writer.
#[derive(Debug, Clone, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Appends a number.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Encoder {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends bytes of variable length, padded.
    #[must_use]
    pub fn opaque(self, bytes: &[u8]) -> Encoder {
        let mut out = self.u32(u32::try_from(bytes.len()).unwrap_or(0));
        out.0.extend_from_slice(bytes);
        while !out.0.len().is_multiple_of(4) {
            out.0.push(0);
        }
        out
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// An XDR reader; every method returns `None` when the data are too short.
#[derive(Debug, Clone)]
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder(bytes)
    }

    /// A number.
    pub fn u32(&mut self) -> Option<u32> {
        let (raw, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*raw))
    }

    /// Bytes of variable length, at most `limit`.
    pub fn opaque(&mut self, limit: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok().filter(|length| *length <= limit)?;
        let (value, _) = self.0.split_at_checked(length)?;
        self.0 = self.0.get(length.checked_next_multiple_of(4)?..)?;
        Some(value)
    }

    /// Bytes of a fixed length, a multiple of 4.
    pub fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Transaction id.
    pub xid: u32,
    /// Program number.
    pub program: u32,
    /// Program version.
    pub version: u32,
    /// Procedure number; 0 is NULL in every program.
    pub procedure: u32,
    /// XDR of the arguments.
    pub arguments: &'a [u8],
    /// Call as root of this machine (`AUTH_SYS`); otherwise anonymously (`AUTH_NONE`).
    pub root: bool,
}

impl Call<'_> {
    /// The call as one record of a TCP stream.
    pub fn to_record(self) -> Vec<u8> {
        let mut body = Encoder::default()
            .u32(self.xid)
            .u32(0) // CALL
            .u32(2) // RPC version
            .u32(self.program)
            .u32(self.version)
            .u32(self.procedure);
        body = if self.root {
            // AUTH_SYS: stamp, machine name, uid, gid, no further groups.
            let who = Encoder::default().u32(0).opaque(b"bellwether").u32(0).u32(0).u32(0);
            body.u32(1).opaque(&who.finish())
        } else {
            body.u32(0).u32(0)
        };
        let mut body = body.u32(0).u32(0).finish();
        body.extend_from_slice(self.arguments);
        let mark = u32::try_from(body.len()).unwrap_or(0) | LAST_FRAGMENT;
        let mut record = mark.to_be_bytes().to_vec();
        record.extend_from_slice(&body);
        record
    }
}

const LAST_FRAGMENT: u32 = 1 << 31;

/// Why a call has no results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The reply is not RPC.
    NotRpc,
    /// The server has the program in other versions.
    Version {
        /// Its lowest version.
        low: u32,
        /// Its highest.
        high: u32,
    },
    /// The server lacks the program.
    NoProgram,
    /// The program lacks the procedure, or the arguments are malformed.
    NoProcedure,
    /// SYSTEM_ERR: the server failed.
    System,
    /// The server rejects our credentials; RFC 5531 `auth_stat`.
    Credentials(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotRpc => f.write_str("the service on that port does not speak RPC"),
            Refusal::Version { low, high } if low == high => {
                write!(f, "the server has version {low} only")
            }
            Refusal::Version { low, high } => write!(f, "the server has versions {low} to {high}"),
            Refusal::NoProgram => f.write_str("the server does not have this service"),
            Refusal::NoProcedure => f.write_str("the server did not understand the request"),
            Refusal::System => f.write_str("the server reports an error of its own"),
            Refusal::Credentials(_) => f.write_str("the server rejects our credentials"),
        }
    }
}

/// Parses a reply; returns the XDR of its results.
///
/// # Errors
/// The server's [`Refusal`]; [`Refusal::NotRpc`] when the bytes are not an answer to `xid`.
pub fn parse_reply(bytes: &[u8], xid: u32) -> Result<&[u8], Refusal> {
    parse_reply_inner(bytes, xid).unwrap_or(Err(Refusal::NotRpc))
}

fn parse_reply_inner(bytes: &[u8], xid: u32) -> Option<Result<&[u8], Refusal>> {
    let mut xdr = Decoder::new(bytes);
    if xdr.u32()? != xid || xdr.u32()? != 1 {
        return None;
    }
    if xdr.u32()? != 0 {
        // Denied: RPC version or credentials.
        return Some(Err(match xdr.u32()? {
            1 => Refusal::Credentials(xdr.u32()?),
            _ => Refusal::NotRpc,
        }));
    }
    xdr.u32()?; // verifier
    xdr.opaque(400)?;
    Some(match xdr.u32()? {
        0 => Ok(xdr.0),
        1 => Err(Refusal::NoProgram),
        2 => Err(Refusal::Version { low: xdr.u32()?, high: xdr.u32()? }),
        3 | 4 => Err(Refusal::NoProcedure),
        _ => Err(Refusal::System),
    })
}

/// Assembles the records of a TCP stream.
#[derive(Debug, Default)]
pub struct Records {
    stream: Vec<u8>,
    record: Vec<u8>,
}

impl Records {
    /// Adds bytes of the stream. Returns the next complete record, if any.
    ///
    /// # Errors
    /// [`Refusal::NotRpc`] when a record would be longer than [`MAX_REPLY`]: text
    /// protocols look like that.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        self.stream.extend_from_slice(bytes);
        loop {
            let Some((mark, rest)) = self.stream.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let mark = u32::from_be_bytes(*mark);
            let length = usize::try_from(mark & !LAST_FRAGMENT).unwrap_or(usize::MAX);
            if length.saturating_add(self.record.len()) > MAX_REPLY {
                return Err(Refusal::NotRpc);
            }
            let Some((fragment, rest)) = rest.split_at_checked(length) else {
                return Ok(None);
            };
            self.record.extend_from_slice(fragment);
            self.stream = rest.to_vec();
            if mark & LAST_FRAGMENT != 0 {
                return Ok(Some(core::mem::take(&mut self.record)));
            }
            if length == 0 {
                // Endless empty fragments carry nothing.
                return Err(Refusal::NotRpc);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reply that accepts, with these results.
    pub fn accepted(xid: u32, status: u32, results: &[u8]) -> Vec<u8> {
        let head = Encoder::default().u32(xid).u32(1).u32(0).u32(0).u32(0).u32(status);
        let mut bytes = head.finish();
        bytes.extend(results);
        bytes
    }

    #[test]
    fn a_call_is_laid_out_as_the_rfc_says() {
        let call = Call {
            xid: 7,
            program: 100_003,
            version: 3,
            procedure: 0,
            arguments: &[],
            root: false,
        };
        let record = call.to_record();
        assert_eq!(record.len(), 4 + 40);
        assert_eq!(record[..4], [0x80, 0, 0, 40]);
        assert_eq!(record[4..8], [0, 0, 0, 7]);
        assert_eq!(record[16..20], 100_003u32.to_be_bytes());
        let root = Call { root: true, ..call }.to_record();
        assert_eq!(&root[44..54], b"bellwether");
        assert!(root.len().is_multiple_of(4));
    }

    #[test]
    fn replies() {
        assert_eq!(parse_reply(&accepted(7, 0, b"data"), 7), Ok(&b"data"[..]));
        assert_eq!(parse_reply(&accepted(8, 0, b"data"), 7), Err(Refusal::NotRpc));
        assert_eq!(parse_reply(&accepted(7, 1, &[]), 7), Err(Refusal::NoProgram));
        let versions = [3u32.to_be_bytes(), 4u32.to_be_bytes()].concat();
        let refusal = parse_reply(&accepted(7, 2, &versions), 7).unwrap_err();
        assert_eq!(refusal.to_string(), "the server has versions 3 to 4");
        let denied = Encoder::default().u32(7).u32(1).u32(1).u32(1).u32(5).finish();
        assert_eq!(parse_reply(&denied, 7), Err(Refusal::Credentials(5)));
        assert_eq!(parse_reply(b"HTTP/1.1 400 Bad Request", 7), Err(Refusal::NotRpc));
    }

    #[test]
    fn records_come_in_pieces() {
        let mut records = Records::default();
        let stream = [&[0, 0, 0, 3][..], b"abc", &[0x80, 0, 0, 2], b"de", &[0x80, 0, 0, 1], b"f"];
        let stream = stream.concat();
        let mut got = Vec::new();
        for byte in &stream {
            got.extend(records.push(&[*byte]).unwrap());
        }
        assert_eq!(got, [b"abcde".to_vec(), b"f".to_vec()]);
        assert_eq!(Records::default().push(b"HTTP/1.1"), Err(Refusal::NotRpc));
        assert_eq!(Records::default().push(&[0; 4]), Err(Refusal::NotRpc));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_reply(&bytes, 7);
            let mut records = Records::default();
            for piece in bytes.chunks(7) {
                if records.push(piece).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn opaque_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let text = Encoder::default().opaque(&bytes).u32(5).finish();
            let mut xdr = Decoder::new(&text);
            prop_assert_eq!(xdr.opaque(50), Some(&bytes[..]));
            prop_assert_eq!(xdr.u32(), Some(5));
        }
    }
}
