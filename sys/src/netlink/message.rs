//! Messages and their attributes, as bytes.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::bytes::{ne16, ne32};
use linux_raw_sys::netlink as nl;
use rustix::io::Errno;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
/// `NLA_F_NESTED`.
pub(super) const NESTED: u16 = 1 << 15;

/// A request that the kernel refused, or that could not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The request, as text.
    pub request: String,
    /// The errno.
    pub errno: Errno,
    /// The kernel's explanation, if any.
    pub message: Option<String>,
}

impl Error {
    pub(super) fn new(request: &str, errno: Errno) -> Self {
        Error { request: request.to_owned(), errno, message: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.request, crate::errno::Shown(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Error {}

pub(super) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Rounds up to the alignment of messages and attributes.
pub(super) const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The request it answers; 0 for notifications.
    pub sequence: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// The messages of a datagram, in order. Ends at the first malformed one.
#[derive(Debug, Clone)]
pub struct Messages<'a>(&'a [u8]);

/// Splits a datagram into messages.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages(datagram)
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let rest = self.0;
        let length = usize::try_from(ne32(rest, 0)?).ok()?;
        let whole = rest.get(..length)?;
        let payload = whole.get(16..)?;
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind: ne16(whole, 4)?,
            flags: ne16(whole, 6)?,
            sequence: ne32(whole, 8)?,
            payload,
        })
    }
}

/// The attributes of a message, in order. Ends at the first malformed one.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

/// Splits attributes into pairs of type (flags removed) and value.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let rest = self.0;
        let length = usize::from(ne16(rest, 0)?);
        let value = rest.get(..length)?.get(4..)?;
        let kind = ne16(rest, 2)? & 0x3fff;
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The errno and explanation in an `NLMSG_ERROR` or `NLMSG_DONE` payload; errno 0 is an
/// acknowledgement. `request_length` is how much of our request precedes the attributes.
pub(super) fn parse_error(message: Message<'_>) -> (i32, Option<String>) {
    let code = ne32(message.payload, 0).map_or(0, |raw| raw.cast_signed());
    let capped = u32::from(message.flags) & nl::NLM_F_CAPPED != 0;
    let skip = if message.kind == NLMSG_DONE {
        4
    } else if capped {
        20
    } else {
        let echoed = ne32(message.payload, 4).unwrap_or(16);
        usize::try_from(echoed).map_or(20, |length| aligned(length).saturating_add(4))
    };
    let mut text = None;
    if u32::from(message.flags) & nl::NLM_F_ACK_TLVS != 0 {
        for (kind, value) in attributes(message.payload.get(skip..).unwrap_or_default()) {
            if kind == nl::nlmsgerr_attrs::NLMSGERR_ATTR_MSG as u16 {
                text = Some(read_text(value));
            }
        }
    }
    (code.saturating_neg(), text)
}

/// A request being built.
#[derive(Default)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u32) -> Self {
        let mut bytes = vec![0; 16];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &((flags | nl::NLM_F_REQUEST) as u16).to_ne_bytes());
        Request { bytes }
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one attribute; the value is padded.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(4);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        put(&mut self.bytes, 0, &length.to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        self.bytes
    }
}

/// Overwrites part of a buffer; out of range is a no-op.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

pub(super) fn text_attribute(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
