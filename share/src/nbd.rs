//! NBD, the protocol for block devices (`doc/proto.md` of the NBD project): the fixed
//! newstyle negotiation and the simple replies, from bytes to bytes, without sockets.
//!
//! Not done: TLS, structured replies, the old style.

use netboot::nbd::wire::{
    self, Asked, MAX_NAME, MAX_REQUEST, REQUEST, Request, answer, flag, reply,
};

/// A client's request during negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Open this export and go straight to data (`NBD_OPT_EXPORT_NAME`).
    Export(String),
    /// Open this export after an answer (`NBD_OPT_GO`).
    Go(String),
    /// Describe this export (`NBD_OPT_INFO`).
    About(String),
    /// List the exports.
    List,
    /// End the connection.
    Abort,
    /// A malformed option.
    Malformed,
    /// An unsupported option.
    Unknown,
}

/// What an option asks for.
pub fn wish(option: &Asked<'_>) -> Wish {
    let wanted = || name(option.export()?.0);
    let wish = match option.number {
        wire::option::EXPORT_NAME => name(option.data).map(Wish::Export),
        wire::option::ABORT => Some(Wish::Abort),
        wire::option::LIST => option.data.is_empty().then_some(Wish::List),
        wire::option::INFO => wanted().map(Wish::About),
        wire::option::GO => wanted().map(Wish::Go),
        _ => Some(Wish::Unknown),
    };
    wish.unwrap_or(Wish::Malformed)
}

fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= MAX_NAME && !text.contains('\0')).then(|| text.to_owned())
}

/// The description of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its size in bytes.
    pub size: u64,
    /// It is read-only.
    pub read_only: bool,
}

impl About {
    fn flags(self) -> u16 {
        let access = if self.read_only { flag::READ_ONLY } else { flag::TRIM };
        flag::HAS_FLAGS | flag::FLUSH | flag::FUA | flag::MULTI | access
    }
}

/// Answers [`Wish::Go`] and [`Wish::About`]; all information is sent whatever the client lists.
pub fn describe(option: u32, about: About) -> Vec<u8> {
    let export = wire::described(about.size, about.flags());
    let export = wire::inform(option, wire::info::EXPORT, &export);
    [export, wire::block_sizes(option), answer(option, reply::ACK, &[])].concat()
}

/// Answers [`Wish::Export`].
pub fn begin(about: About, zeroes: bool) -> Vec<u8> {
    wire::opened(about.size, about.flags(), zeroes)
}

/// Answers [`Wish::List`].
pub fn list(option: u32, names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let length = u32::try_from(name.len()).unwrap_or(0);
        let data = [&length.to_be_bytes()[..], name.as_bytes()].concat();
        bytes.extend(answer(option, reply::SERVER, &data));
    }
    bytes.extend(answer(option, reply::ACK, &[]));
    bytes
}

/// Answers [`Wish::Abort`].
pub fn goodbye(option: u32) -> Vec<u8> {
    answer(option, reply::ACK, &[])
}

/// Why an option is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such export.
    NoExport,
    /// It belongs to another client; the message says to which.
    NotYours(String),
    /// The option is malformed.
    Malformed,
    /// The option is unknown.
    Unknown,
}

/// Refuses an option.
pub fn refuse(option: u32, why: &Refusal) -> Vec<u8> {
    let (kind, text) = match why {
        Refusal::NoExport => (reply::UNKNOWN, "there is no such export"),
        Refusal::NotYours(text) => (reply::POLICY, text.as_str()),
        Refusal::Malformed => (reply::INVALID, "the option is malformed"),
        Refusal::Unknown => (reply::UNSUPPORTED, ""),
    };
    answer(option, kind, text.as_bytes())
}

/// Parses a request; `None` for a malformed one, which ends the connection. So does one that is
/// too long: the data of an oversized write would have to be read all the same.
pub fn request(bytes: &[u8; REQUEST]) -> Option<Request> {
    use wire::Command::{Read, Write};
    let request = Request::read(bytes)?;
    let moves = matches!(request.command, Read | Write);
    (!moves || request.length <= MAX_REQUEST).then_some(request)
}

/// Parses a client's options and requests; for fuzzers.
pub fn fuzz(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(option)) = Asked::read(rest) {
        if let Wish::Go(name) | Wish::Export(name) | Wish::About(name) = wish(&option) {
            let told = list(option.number, &[name]);
            assert!(told.len() <= MAX_NAME + 64, "{} bytes", told.len());
        }
        rest = rest.get(option.length()..).unwrap_or_default();
    }
    while let Some((bytes, more)) = rest.split_first_chunk::<REQUEST>() {
        let Some(request) = request(bytes) else { return };
        if let Some(range) = request.within(1 << 20) {
            assert!(range.start <= range.end && range.end <= 1 << 20, "{range:?}");
        }
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::nbd::Negotiation;
    use netboot::nbd::wire::{Command, Failure, greeting, simple, wants_zeroes};
    use proptest::prelude::*;

    /// Our own client, of which the boots are made, against this server.
    #[test]
    fn a_client_and_a_server_agree() {
        let about = About { size: 1 << 40, read_only: true };
        for known in [true, false] {
            let mut client = Negotiation::new("debian").unwrap();
            let said = client.push(&greeting()).unwrap();
            let (flags, said) = said.split_first_chunk::<4>().unwrap();
            assert_eq!(wants_zeroes(*flags), Some(false));
            let option = Asked::read(said).unwrap().unwrap();
            let number = option.number;
            assert_eq!(wish(&option), Wish::Go("debian".into()));
            assert_eq!(option.length(), said.len());
            if known {
                client.push(&describe(number, about)).unwrap();
                let export = client.export().unwrap();
                assert_eq!(export.size, about.size);
                assert_ne!(export.flags & flag::READ_ONLY, 0);
                assert_ne!(export.flags & flag::MULTI, 0);
            } else {
                let why = Refusal::NotYours("of another machine".into());
                let error = client.push(&refuse(number, &why)).unwrap_err().to_string();
                assert!(error.contains("of another machine"), "{error}");
            }
        }
        let mut client = Negotiation::list();
        let said = client.push(&greeting()).unwrap();
        let option = Asked::read(&said[4..]).unwrap().unwrap();
        assert_eq!(wish(&option), Wish::List);
        client.push(&list(option.number, &["a".into(), "b".into()])).unwrap();
        assert_eq!(client.exports(), ["a", "b"]);
    }

    #[test]
    fn requests() {
        let mut bytes = [0; REQUEST];
        assert_eq!(request(&bytes), None);
        bytes[..4].copy_from_slice(b"\x25\x60\x95\x13");
        bytes[5] = 1;
        bytes[7] = 1;
        bytes[8..16].copy_from_slice(b"cookie01");
        bytes[22] = 0x10;
        bytes[27] = 9;
        let write = request(&bytes).unwrap();
        assert_eq!((write.command, write.flags), (Command::Write, 1));
        assert_eq!(write.within(0x1009), Some(0x1000..0x1009));
        assert_eq!(write.within(0x1008), None);
        assert_eq!(&simple(Some(Failure::Io), write.cookie)[4..], b"\0\0\0\x05cookie01");
        bytes[24] = 0xff;
        assert_eq!(request(&bytes), None, "a write without end");
        assert_eq!(Request { offset: u64::MAX, ..write }.within(u64::MAX), None);
    }

    #[test]
    fn others_are_sent_away() {
        assert_eq!(wants_zeroes([0; 4]), None);
        assert_eq!(Asked::read(b"GET / HTTP/1.1\r\n"), Err(()));
        assert_eq!(Asked::read(b"IHAVEOPT"), Ok(None));
        assert_eq!(Asked::read(b"IHAVEOPT\0\0\0\x07\xff\0\0\0"), Err(()));
        let lie = b"IHAVEOPT\0\0\0\x07\0\0\0\x06\xff\xff\xff\xff\0\0";
        let option = Asked::read(lie).unwrap().unwrap();
        assert_eq!((wish(&option), option.length()), (Wish::Malformed, lie.len()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
            fuzz(&[b"IHAVEOPT\0\0\0", &bytes[..]].concat());
        }
    }
}
