//! TFTP (RFC 1350) for reading, with options (2347), block size (2348), timeout and size (2349)
//! and windows (7440), as a state machine without sockets.
//!
//! The OACK has only options that the client asked for: firmware aborts on others. Block
//! numbers wrap to 0, so files have no size limit. Blocks fit an Ethernet frame: firmware does
//! not reassemble fragments.
//!
//! `netascii` (RFC 764) is for files of at most [`MAX_TEXT`] bytes: the place of a block in the
//! file depends on all that is before it, so the file is rewritten first.
//!
//! Not done: writing, `mail` mode, multicast.

/// The largest block: an Ethernet frame of 1500 bytes with some room for tunnels.
pub const MAX_BLOCK: u16 = 1428;
/// The most blocks sent before an acknowledgement.
pub const MAX_WINDOW: u16 = 64;
/// The longest file in `netascii` mode, in bytes.
pub const MAX_TEXT: u64 = 1 << 20;
/// The longest file name.
const MAX_NAME: usize = 512;
/// The longest timeout that a client may choose, in seconds; a longer one counts as absent.
const MAX_TIMEOUT: u8 = 30;
/// Milliseconds until a packet is sent again to a client that has not acknowledged any: its
/// address may be forged.
const UNCONFIRMED: u64 = 1000;
/// How often a block is sent without an answer before the transfer ends.
pub const MAX_TRIES: u32 = 6;

/// Error codes of RFC 1350 and 2347.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    NotDefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
    OptionRefused = 8,
}

/// A client's packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// RRQ: a file request.
    Read(Request),
    /// ACK: all blocks up to this one.
    Ack(u16),
    /// ERROR: the client aborts.
    Error {
        /// Its error code.
        code: u16,
        /// Its words, printable characters only.
        message: String,
    },
    /// WRQ, or another unsupported request.
    Other,
}

/// A file request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// File name as written.
    pub file: String,
    /// The mode is `netascii`.
    pub text: bool,
    /// Block size.
    pub block: Option<u16>,
    /// Whether the client asks for the size.
    pub size: bool,
    /// Seconds until a block is sent again.
    pub timeout: Option<u8>,
    /// Blocks per acknowledgement.
    pub window: Option<u16>,
}

/// Parses a packet; `None` for a malformed one.
pub fn read(bytes: &[u8]) -> Option<Packet> {
    let (code, rest) = bytes.split_first_chunk::<2>()?;
    Some(match u16::from_be_bytes(*code) {
        1 => Packet::Read(request(rest)?),
        4 => Packet::Ack(u16::from_be_bytes(*rest.first_chunk()?)),
        5 => {
            let (code, text) = rest.split_first_chunk::<2>()?;
            let text = String::from_utf8_lossy(text.split(|b| *b == 0).next()?).into_owned();
            let message = text.chars().filter(|c| !c.is_control()).take(200).collect();
            Packet::Error { code: u16::from_be_bytes(*code), message }
        }
        2 | 3 | 6 => Packet::Other,
        _ => return None,
    })
}

fn request(bytes: &[u8]) -> Option<Request> {
    let mut fields = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let mut request = Request { file: fields.next()?.into_owned(), ..Request::default() };
    let mode = fields.next()?;
    request.text = mode.eq_ignore_ascii_case("netascii");
    if request.file.len() > MAX_NAME || !(request.text || mode.eq_ignore_ascii_case("octet")) {
        return None;
    }
    for _ in 0..16 {
        let (Some(name), Some(value)) = (fields.next(), fields.next()) else { break };
        // RFC 2347: an invalid value counts as an absent option.
        match name.to_ascii_lowercase().as_str() {
            "blksize" => request.block = value.parse().ok().filter(|n| (8..=65464).contains(n)),
            "tsize" => request.size = true,
            "timeout" => {
                request.timeout = value.parse().ok().filter(|n| (1..=MAX_TIMEOUT).contains(n));
            }
            "windowsize" => request.window = value.parse().ok().filter(|n| *n > 0),
            _ => {}
        }
    }
    Some(request)
}

/// A file in `netascii`: LF as CR LF, and CR as CR NUL.
pub fn to_text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for byte in bytes {
        match byte {
            b'\n' => out.extend(b"\r\n"),
            b'\r' => out.extend(b"\r\0"),
            byte => out.push(*byte),
        }
    }
    out
}

/// An error packet.
pub fn error(code: Code, message: &str) -> Vec<u8> {
    [&[0, 5, 0, code as u8], message.as_bytes(), &[0]].concat()
}

/// The next packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// An OACK, these bytes.
    Options(Vec<u8>),
    /// These blocks of the file.
    Blocks(std::ops::RangeInclusive<u64>),
    /// Nothing yet.
    Nothing,
    /// The transfer is over.
    Done,
}

/// One transfer. It says which blocks to send; the caller reads them.
#[derive(Debug, Clone)]
pub struct Transfer {
    length: u64,
    block: u16,
    window: u16,
    /// Milliseconds until a retransmission to a client that was confirmed.
    patience: u64,
    /// The client acknowledged something.
    confirmed: bool,
    options: Option<Vec<u8>>,
    /// Blocks that the client acknowledged.
    acked: u64,
    /// The last acknowledgement that repeated a window.
    repeated: Option<u64>,
}

impl Transfer {
    /// Starts to serve a file of `length` bytes.
    pub fn new(request: &Request, length: u64) -> Self {
        let block = request.block.map_or(512, |n| n.min(MAX_BLOCK));
        let window = request.window.map_or(1, |n| n.min(MAX_WINDOW));
        let mut options = vec![0, 6];
        let mut say = |name: &str, value: u64| {
            options.extend(format!("{name}\0{value}\0").bytes());
        };
        if request.block.is_some() {
            say("blksize", u64::from(block));
        }
        if request.size {
            say("tsize", length);
        }
        if let Some(seconds) = request.timeout {
            say("timeout", u64::from(seconds));
        }
        if request.window.is_some() {
            say("windowsize", u64::from(window));
        }
        Self {
            length,
            block,
            window,
            patience: request.timeout.map_or(1000, |seconds| u64::from(seconds) * 1000),
            options: Some(options).filter(|options| options.len() > 2),
            confirmed: false,
            acked: 0,
            repeated: None,
        }
    }

    /// Milliseconds until a retransmission.
    pub fn patience(&self) -> u64 {
        if self.confirmed { self.patience } else { UNCONFIRMED }
    }

    /// Whether the client acknowledged something: its address is not forged.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Number of blocks; the last one is shorter than the others, maybe empty.
    fn blocks(&self) -> u64 {
        self.length / u64::from(self.block) + 1
    }

    /// The packets at the start, and again after a timeout.
    pub fn send(&self) -> Send {
        if let Some(options) = &self.options {
            return Send::Options(options.clone());
        }
        let first = self.acked + 1;
        let last = self.blocks().min(self.acked + u64::from(self.window));
        if first > last { Send::Done } else { Send::Blocks(first..=last) }
    }

    /// Takes an acknowledgement; returns the next packets.
    pub fn acknowledged(&mut self, number: u16) -> Send {
        if self.options.is_some() {
            if number != 0 {
                return Send::Nothing;
            }
            self.options = None;
            self.confirmed = true;
            return self.send();
        }
        // How far this is ahead of the acknowledged block, across the wrap.
        let ahead = number.wrapping_sub((self.acked & 0xffff) as u16);
        let last = self.blocks().min(self.acked + u64::from(self.window));
        if self.acked + u64::from(ahead) > last {
            return Send::Nothing;
        }
        if ahead == 0 {
            // A repeated acknowledgement: with a window its first block was lost, and one
            // repetition is enough to send it again; without one, an answer would double every
            // packet from here on (RFC 1123 4.2.3.1).
            if self.window == 1 || self.repeated == Some(self.acked) {
                return Send::Nothing;
            }
            self.repeated = Some(self.acked);
        }
        self.confirmed |= ahead > 0;
        self.acked += u64::from(ahead);
        self.send()
    }

    /// The head of a data packet, and which bytes of the file follow it.
    pub fn data(&self, block: u64) -> ([u8; 4], u64, usize) {
        let offset = block.saturating_sub(1).saturating_mul(u64::from(self.block));
        let length = self.length.saturating_sub(offset).min(u64::from(self.block));
        let [high, low] = ((block & 0xffff) as u16).to_be_bytes();
        ([0, 3, high, low], offset, usize::try_from(length).unwrap_or(0))
    }

    /// Bytes that the client acknowledged.
    pub fn done(&self) -> u64 {
        self.acked.saturating_mul(u64::from(self.block)).min(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(options: &str) -> Request {
        let bytes = [b"\0\x01pxelinux.0\0octet\0", options.as_bytes()].concat();
        match read(&bytes) {
            Some(Packet::Read(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    /// A request whose address may be forged held a thread for 25 minutes.
    #[test]
    fn a_client_chooses_its_timeout_once_it_answered() {
        let mut transfer = Transfer::new(&asked("timeout\x0020\0"), 10_000);
        assert!(!transfer.is_confirmed() && transfer.patience() == UNCONFIRMED);
        transfer.acknowledged(7);
        assert!(!transfer.is_confirmed(), "no packet of ours has that number");
        transfer.acknowledged(0);
        assert!(transfer.is_confirmed() && transfer.patience() == 20_000);
        let mut plain = Transfer::new(&asked(""), 10_000);
        plain.acknowledged(0);
        assert!(!plain.is_confirmed());
        plain.acknowledged(1);
        assert!(plain.is_confirmed());
        // Longer ones are not acknowledged, and do not count.
        assert_eq!(asked("timeout\x00255\0").timeout, None);
    }

    #[test]
    fn only_what_was_asked_for_is_answered() {
        assert_eq!(Transfer::new(&asked(""), 9).send(), Send::Blocks(1..=1));
        let both = Transfer::new(&asked("tsize\x000\0blksize\x001456\0"), 12345);
        assert_eq!(both.send(), Send::Options(b"\0\x06blksize\x001428\0tsize\x0012345\0".to_vec()));
        let odd = Transfer::new(&asked("BLKSIZE\x00512\0windowsize\x00999\0multicast\0\0"), 1);
        assert_eq!(odd.send(), Send::Options(b"\0\x06blksize\x00512\0windowsize\x0064\0".to_vec()));
        assert_eq!(
            Transfer::new(&asked("blksize\x007\0timeout\x000\0"), 9).send(),
            Send::Blocks(1..=1)
        );
    }

    #[test]
    fn what_is_not_served() {
        assert_eq!(read(b"\0\x02file\0octet\0"), Some(Packet::Other));
        assert_eq!(read(b"\0\x01file\0mail\0"), None);
        assert_eq!(read(b"\0\x01file"), None);
        assert_eq!(read(b"\0"), None);
        assert_eq!(
            read(b"\0\x05\0\x08no\x1b!\0"),
            Some(Packet::Error { code: 8, message: "no!".into() })
        );
        assert_eq!(error(Code::NotFound, "no"), b"\0\x05\0\x01no\0");
    }

    /// The default mode of tftp-hpa's client.
    #[test]
    fn texts() {
        let Some(Packet::Read(request)) = read(b"\0\x01file\0NetASCII\0") else { panic!() };
        assert!(request.text && !asked("").text);
        assert_eq!(to_text(b"a\nb\r\n\r"), b"a\r\nb\r\0\r\n\r\0");
    }

    /// A client over a link that loses and doubles packets.
    fn fetch(length: u64, options: &str, mut lose: impl FnMut() -> bool) -> u64 {
        let mut transfer = Transfer::new(&asked(options), length);
        let mut have = 0u64;
        let mut next = 1u64;
        let mut queue = vec![transfer.send()];
        for _ in 0..2_000_000 {
            let Some(send) = queue.pop() else {
                // A timeout: both ends repeat their last packet.
                queue.push(transfer.send());
                continue;
            };
            match send {
                Send::Nothing => {}
                Send::Done => return have,
                Send::Options(_) => {
                    if !lose() {
                        queue.push(transfer.acknowledged(0));
                    }
                }
                Send::Blocks(blocks) => {
                    let mut heard = false;
                    for block in blocks {
                        let (head, offset, size) = transfer.data(block);
                        if lose() {
                            continue;
                        }
                        heard = true;
                        if head[2..] == ((next & 0xffff) as u16).to_be_bytes() {
                            assert_eq!(offset, have);
                            have += size as u64;
                            next += 1;
                        }
                    }
                    if heard && !lose() {
                        queue.push(transfer.acknowledged(((next - 1) & 0xffff) as u16));
                    }
                }
            }
        }
        panic!("endless");
    }

    #[test]
    fn whole_files_over_a_good_wire() {
        for options in ["", "blksize\x001428\0", "blksize\x00512\0windowsize\x0016\0"] {
            for length in [0, 1, 511, 512, 513, 1428 * 7, 100_000] {
                assert_eq!(fetch(length, options, || false), length, "{options} {length}");
            }
        }
        // More than 65535 blocks: the number wraps.
        assert_eq!(fetch(66_000 * 8, "blksize\x008\0windowsize\x0064\0", || false), 66_000 * 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn whole_files_over_a_bad_wire(
            length in 0u64..60_000, window in 1u16..20, seed: u64, one_in in 3u64..20
        ) {
            let mut state = seed | 1;
            let lose = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % one_in == 0
            };
            let options = format!("windowsize\0{window}\0");
            prop_assert_eq!(fetch(length, &options, lose), length);
        }

        #[test]
        fn garbage_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            acks in proptest::collection::vec(any::<u16>(), 0..50),
        ) {
            let _ = read(&bytes);
            let _ = request(&bytes);
            let mut transfer = Transfer::new(&asked("windowsize\x008\0"), 100_000);
            for ack in acks {
                transfer.acknowledged(ack);
                prop_assert!(transfer.done() <= 100_000);
            }
        }
    }
}
