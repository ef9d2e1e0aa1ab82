//! TFTP (RFC 1350) with options (RFC 2347): block size (2348), transfer size
//! (2349), windows (7440). Reading only.
//!
//! A state machine for one file: it takes datagrams and the passing of time, and returns data
//! and datagrams to send. Block numbers wrap around to 0, so a file may have any size.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use sys::bytes::be16;
use sys::clock::Instant;

/// Data bytes of a datagram, which fits an Ethernet frame with a VLAN tag or two.
pub const BLOCK_SIZE: u16 = 1428;
/// Datagrams per acknowledgement.
pub const WINDOW: u16 = 16;
const DEFAULT_BLOCK: u16 = 512;
/// Retransmissions before the transfer fails; about 20 s.
const MAX_TRIES: u32 = 7;
const MAX_NAME: usize = 400;

const OP_READ: u16 = 1;
const OP_DATA: u16 = 3;
const OP_ACK: u16 = 4;
const OP_ERROR: u16 = 5;
const OP_OPTIONS: u16 = 6;

/// Why a file cannot be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TftpError {
    /// The server refuses: code and text.
    Refused(u16, String),
    /// The server stopped answering.
    Silent,
    /// The server's answer has options that were not requested.
    Options,
    /// The name is too long.
    Name,
}

impl fmt::Display for TftpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TftpError::Refused(1, text) if text.is_empty() => {
                f.write_str("the server has no such file")
            }
            TftpError::Refused(code, text) => {
                let meaning = match code {
                    1 => "no such file",
                    2 => "access denied",
                    3 => "disk full",
                    _ => "error",
                };
                write!(f, "the server says: {meaning} ({text})")
            }
            TftpError::Silent => f.write_str("the server stopped answering, or never did"),
            TftpError::Options => f.write_str("the server answers with options we did not ask for"),
            TftpError::Name => f.write_str("the file name is too long"),
        }
    }
}

impl TftpError {
    /// Whether a retry is useless.
    pub fn is_final(&self) -> bool {
        *self != TftpError::Silent
    }
}

/// The result of one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// A datagram to send, to the server's port or, before it answered, to port 69.
    pub send: Option<Vec<u8>>,
    /// The next bytes of the file.
    pub data: Vec<u8>,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    request: Vec<u8>,
    plain_request: Vec<u8>,
    block_size: u16,
    window: u16,
    size: Option<u64>,
    /// The server's port, once it answered.
    peer: Option<u16>,
    /// The next block.
    expected: u16,
    /// Blocks since the last acknowledgement.
    in_window: u16,
    /// A gap was reported and not filled yet.
    gap_reported: bool,
    done: bool,
    last_sent: Vec<u8>,
    tries: u32,
    next: Instant,
}

fn request(name: &str, options: &[(&str, String)]) -> Vec<u8> {
    let mut bytes = OP_READ.to_be_bytes().to_vec();
    let mut word = |text: &str| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    };
    word(name);
    word("octet");
    for (option, value) in options {
        word(option);
        word(value);
    }
    bytes
}

impl Transfer {
    /// A transfer of this file that starts at `now`.
    ///
    /// # Errors
    /// [`TftpError::Name`] when the name does not fit into a request.
    pub fn new(name: &str, now: Instant) -> Result<Transfer, TftpError> {
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(TftpError::Name);
        }
        let options = [
            ("tsize", String::from("0")),
            ("blksize", format!("{BLOCK_SIZE}")),
            ("windowsize", format!("{WINDOW}")),
        ];
        Ok(Transfer {
            request: request(name, &options),
            plain_request: request(name, &[]),
            block_size: DEFAULT_BLOCK,
            window: 1,
            size: None,
            peer: None,
            expected: 1,
            in_window: 0,
            gap_reported: false,
            done: false,
            last_sent: Vec::new(),
            tries: 0,
            next: now,
        })
    }

    /// Size of the file, if the server reported it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The server's port; 69 before it answered.
    pub fn port(&self) -> Option<u16> {
        self.peer
    }

    /// Whether the whole file has arrived.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// When to call [`Transfer::step`] without a datagram.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Takes a datagram with its source port, or the passing of time.
    ///
    /// # Errors
    /// [`TftpError`] for a refusal, unexpected options, or a silent server.
    pub fn step(
        &mut self,
        now: Instant,
        datagram: Option<(u16, &[u8])>,
    ) -> Result<Output, TftpError> {
        let mut output = Output::default();
        if self.done {
            // The last acknowledgement may have been lost.
            if let Some((port, bytes)) = datagram
                && Some(port) == self.peer
                && be16(bytes, 0) == Some(OP_DATA)
            {
                output.send = Some(self.last_sent.clone());
            }
            return Ok(output);
        }
        if self.last_sent.is_empty() {
            self.last_sent = self.request.clone();
        }
        match datagram {
            Some((port, bytes)) => self.hear(now, port, bytes, &mut output)?,
            None if now >= self.next => {
                if self.tries > MAX_TRIES {
                    return Err(TftpError::Silent);
                }
                output.send = Some(self.last_sent.clone());
                // 1, 1, 2, 3, 4, 4… s
                let pause = u64::from(self.tries.clamp(1, 4));
                self.tries = self.tries.saturating_add(1);
                self.next = now.after(Duration::from_secs(pause));
            }
            None => {}
        }
        Ok(output)
    }

    fn hear(
        &mut self,
        now: Instant,
        port: u16,
        bytes: &[u8],
        output: &mut Output,
    ) -> Result<(), TftpError> {
        if self.peer.is_some_and(|peer| peer != port) {
            return Ok(());
        }
        match be16(bytes, 0) {
            Some(OP_ERROR) => {
                let code = be16(bytes, 2).unwrap_or(0);
                let options_sent = self.last_sent == self.request;
                if code == 8 && options_sent {
                    // The server does not support options.
                    self.request.clone_from(&self.plain_request);
                    self.send(now, self.plain_request.clone(), output);
                    return Ok(());
                }
                let text = bytes.get(4..).unwrap_or_default().iter();
                let text = text
                    .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
                    .map(|byte| char::from(*byte))
                    .take(200)
                    .collect();
                Err(TftpError::Refused(code, text))
            }
            Some(OP_OPTIONS) if self.peer.is_none() => {
                self.options(bytes.get(2..).unwrap_or_default())?;
                self.peer = Some(port);
                self.send(now, acknowledgement(0), output);
                Ok(())
            }
            // Our acknowledgement of the options was lost.
            Some(OP_OPTIONS) if self.expected == 1 => {
                self.send(now, acknowledgement(0), output);
                Ok(())
            }
            Some(OP_DATA) => {
                let (Some(block), Some(data)) = (be16(bytes, 2), bytes.get(4..)) else {
                    return Ok(());
                };
                self.data(now, port, block, data, output);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, now: Instant, port: u16, block: u16, data: &[u8], output: &mut Output) {
        if data.len() > usize::from(self.block_size) {
            return;
        }
        if block != self.expected {
            // An earlier block is a repetition; a later one means a gap: acknowledge once where
            // we are.
            let ahead = block.wrapping_sub(self.expected) < 0x8000;
            if self.peer.is_some() && ahead && !self.gap_reported {
                self.gap_reported = true;
                self.in_window = 0;
                self.send(now, acknowledgement(self.expected.wrapping_sub(1)), output);
            }
            return;
        }
        self.peer = Some(port);
        self.gap_reported = false;
        self.tries = 1;
        self.next = now.after(Duration::from_secs(1));
        self.expected = self.expected.wrapping_add(1);
        self.in_window = self.in_window.saturating_add(1);
        output.data.extend_from_slice(data);
        let last = data.len() < usize::from(self.block_size);
        if last || self.in_window >= self.window {
            self.in_window = 0;
            self.send(now, acknowledgement(block), output);
        } else {
            // Sent again when the rest of the window does not arrive.
            self.last_sent = acknowledgement(block);
        }
        self.done = last;
    }

    fn send(&mut self, now: Instant, datagram: Vec<u8>, output: &mut Output) {
        self.tries = 1;
        self.next = now.after(Duration::from_secs(1));
        self.last_sent.clone_from(&datagram);
        output.send = Some(datagram);
    }

    /// Applies the options of the server's OACK.
    fn options(&mut self, bytes: &[u8]) -> Result<(), TftpError> {
        let mut words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            let number = value.parse::<u64>().ok();
            let within = |most: u16| {
                let number = number.and_then(|number| u16::try_from(number).ok());
                number.filter(|number| (1..=most).contains(number)).ok_or(TftpError::Options)
            };
            match option.to_ascii_lowercase().as_str() {
                "blksize" => self.block_size = within(BLOCK_SIZE)?,
                "windowsize" => self.window = within(WINDOW)?,
                "tsize" => self.size = number,
                _ => return Err(TftpError::Options),
            }
        }
        Ok(())
    }
}

fn acknowledgement(block: u16) -> Vec<u8> {
    [OP_ACK.to_be_bytes(), block.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn data(block: u16, bytes: &[u8]) -> Vec<u8> {
        [&OP_DATA.to_be_bytes()[..], &block.to_be_bytes(), bytes].concat()
    }

    /// A server that loses one datagram in `lose`, at random; gives what the client got.
    fn serve(file: &[u8], options: bool, lose: u32) -> Result<Vec<u8>, TftpError> {
        let mut client = Transfer::new("x", at(0)).unwrap();
        let mut now = 0;
        let mut got = Vec::new();
        let mut inbox: Vec<Vec<u8>> = Vec::new();
        let (mut size, mut window) = (512usize, 1usize);
        let mut dice = 12_345u32;
        let mut rounds = 0;
        while !client.is_done() {
            rounds += 1;
            assert!(rounds < 500_000, "no progress");
            let input = if inbox.is_empty() { None } else { Some(inbox.remove(0)) };
            if input.is_none() {
                now = client.deadline().millis().max(now);
            }
            let output = client.step(at(now), input.as_deref().map(|bytes| (4000, bytes)))?;
            got.extend(output.data);
            let Some(datagram) = output.send else { continue };
            let mut replies = Vec::new();
            match be16(&datagram, 0).unwrap() {
                OP_READ if options => {
                    (size, window) = (usize::from(BLOCK_SIZE), 4);
                    let text = format!(
                        "\0\x06tsize\0{}\0blksize\0{BLOCK_SIZE}\0windowsize\x004\0",
                        file.len()
                    );
                    replies.push(text.into_bytes());
                }
                OP_READ => replies.push(data(1, &file[..file.len().min(512)])),
                OP_ACK => {
                    // Where the acknowledged block is, taking wrap-around into account.
                    let block = usize::from(be16(&datagram, 2).unwrap());
                    let whole = got.len() / size;
                    let near = whole - (whole & 0xffff);
                    let mut at = near + block;
                    if at > whole + 1 {
                        at = at.saturating_sub(0x10000);
                    }
                    for index in at..at + window {
                        if index * size <= file.len() {
                            let end = file.len().min((index + 1) * size);
                            replies.push(data((index + 1) as u16, &file[index * size..end]));
                        }
                    }
                    inbox.clear();
                }
                other => panic!("{other}"),
            }
            for reply in replies {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if lose == 0 || !(dice >> 16).is_multiple_of(lose) {
                    inbox.push(reply);
                }
            }
        }
        if options {
            assert_eq!(client.size(), Some(file.len() as u64));
        }
        Ok(got)
    }

    fn file(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn files_of_all_sizes() {
        for length in [0, 1, 511, 512, 513, 1428, 4 * 1428, 4 * 1428 + 1, 30_000] {
            for options in [false, true] {
                for lose in [0, 3, 5] {
                    let got = serve(&file(length), options, lose).unwrap();
                    assert_eq!(got, file(length), "{length} {options} {lose}");
                }
            }
        }
    }

    #[test]
    fn block_numbers_wrap_around() {
        let big = file(512 * 65_600);
        assert!(serve(&big, false, 0).unwrap() == big);
    }

    #[test]
    fn refusals_and_silence() {
        let mut client = Transfer::new("x", at(0)).unwrap();
        let first = client.step(at(0), None).unwrap().send.unwrap();
        assert_eq!(&first[..10], b"\0\x01x\0octet\0");
        assert!(first.windows(8).any(|part| part == b"blksize\0"));
        // Options refused: asked again without.
        let again = client.step(at(1), Some((4000, b"\0\x05\0\x08no\0"))).unwrap();
        assert_eq!(again.send.as_deref(), Some(&b"\0\x01x\0octet\0"[..]));
        let error = client.step(at(2), Some((4001, b"\0\x05\0\x01File not found\0"))).unwrap_err();
        assert_eq!(error.to_string(), "the server says: no such file (File not found)");

        let mut client = Transfer::new("x", at(0)).unwrap();
        let mut sent = 0;
        let error = loop {
            match client.step(client.deadline(), None) {
                Ok(output) => sent += usize::from(output.send.is_some()),
                Err(error) => break error,
            }
        };
        assert_eq!((sent, error), (8, TftpError::Silent));
        assert!((10_000..30_000).contains(&client.deadline().millis()));
        assert_eq!(Transfer::new(&"x".repeat(500), at(0)).unwrap_err(), TftpError::Name);
    }

    #[test]
    fn strangers_are_not_heard() {
        let mut client = Transfer::new("x", at(0)).unwrap();
        client.step(at(0), None).unwrap();
        client.step(at(1), Some((4000, &data(1, &[1; 512])))).unwrap();
        let stranger = client.step(at(2), Some((4001, &data(2, &[6; 512])))).unwrap();
        assert_eq!(stranger, Output::default());
        let bad = client.step(at(2), Some((4001, b"\0\x05\0\x01bad\0"))).unwrap();
        assert_eq!(bad, Output::default());
        assert!(client.step(at(2), Some((4000, b"\0\x06blksize\x0065000\0"))).is_ok());
        let mut client = Transfer::new("x", at(0)).unwrap();
        let error = client.step(at(0), Some((4000, b"\0\x06blksize\x0065000\0")));
        assert_eq!(error, Err(TftpError::Options));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            datagrams in proptest::collection::vec(
                (1u16..4, proptest::collection::vec(any::<u8>(), 0..40)), 0..30)
        ) {
            let mut client = Transfer::new("x", at(0)).unwrap();
            for (at_millis, (port, mut bytes)) in datagrams.into_iter().enumerate() {
                if let Some(byte) = bytes.first_mut() {
                    *byte = 0;
                }
                if let Some(byte) = bytes.get_mut(1) {
                    *byte %= 8;
                }
                if client.step(at(at_millis as u64), Some((port, &bytes))).is_err() {
                    break;
                }
            }
        }
    }
}
