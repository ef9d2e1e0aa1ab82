//! Names to IPv4 addresses: a stub resolver (RFC 1034 5.3.1, RFC 1035).
//!
//! Command lines name servers, and an initramfs has no C library to look them up. Sends A
//! queries over UDP to the network's name servers, `/etc/hosts` first, with a search list. No
//! cache, no TCP, no EDNS, no IPv6: one address fits into the smallest message.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::io::Errno;
use sys::bytes::be16;

use crate::dhcp::lease::{Name, is_domain_name, parse_name};
use crate::io::Udp;
use crate::random::random;
use sys::clock::Instant;
use sys::errno::Shown;

const PORT: u16 = 53;
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const CLASS_IN: u16 = 1;
/// Longer chains of aliases are loops.
const MAX_ALIASES: usize = 16;
/// Most records that are read.
const MAX_RECORDS: usize = 64;
/// Rounds over the servers; each waits a second longer than the previous one.
const ROUNDS: u32 = 3;
/// Most servers asked, and most search domains tried.
const MAX_SERVERS: usize = 4;

/// Why a server returned no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such name (`NXDOMAIN`).
    NoName,
    /// The name has no IPv4 address.
    NoAddress,
    /// The server failed or refused; DNS response code.
    Code(u8),
    /// The answer is malformed or truncated.
    Malformed,
    /// No answer, or no route to the server.
    Unreachable(Errno),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoName => f.write_str("says that there is no such name"),
            Refusal::NoAddress => f.write_str("knows the name, but no IPv4 address for it"),
            Refusal::Code(2) => f.write_str("failed to look it up (SERVFAIL)"),
            Refusal::Code(5) => f.write_str("refuses to answer us (REFUSED)"),
            Refusal::Code(code) => write!(f, "answers with error {code}"),
            Refusal::Malformed => f.write_str("sent a malformed answer"),
            Refusal::Unreachable(Errno::TIMEDOUT) => f.write_str("does not answer"),
            Refusal::Unreachable(errno) => write!(f, "cannot be asked: {}", Shown(*errno)),
        }
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// It is not a name.
    NotAName(String),
    /// There is no name server to ask.
    NoServers(String),
    /// No name server knows the name.
    Failed {
        /// The name.
        name: String,
        /// Each server's last answer.
        answers: Vec<(Ipv4Addr, Refusal)>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAName(name) => write!(f, "\"{name}\" is neither an address nor a host name"),
            Error::NoServers(name) => write!(
                f,
                "cannot look up {name}: no name server is known (DHCP option 6, or ip=…:DNS); \
                 write the server's address instead"
            ),
            Error::Failed { name, answers } => {
                write!(f, "cannot look up {name}")?;
                for (at, (server, refusal)) in answers.iter().enumerate() {
                    f.write_str(if at == 0 { ": " } else { "; " })?;
                    write!(f, "{server} {refusal}")?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for Error {}

/// A question: header, a name as labels (RFC 1035 2.3.4), type and class.
pub type Query = heapless::Vec<u8, { HEADER + 255 + 4 }>;

/// Writes a question for the A records of `name`; `None` when it is no domain name.
pub fn query(id: u16, name: &str) -> Option<Query> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_domain_name(name) {
        return None;
    }
    let mut bytes = Query::new();
    bytes.extend_from_slice(&id.to_be_bytes()).ok()?;
    // Recursion desired; one question.
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).ok()?).ok()?;
        bytes.extend_from_slice(label.as_bytes()).ok()?;
    }
    bytes.push(0).ok()?;
    bytes.extend_from_slice(&TYPE_A.to_be_bytes()).ok()?;
    bytes.extend_from_slice(&CLASS_IN.to_be_bytes()).ok()?;
    Some(bytes)
}

/// Parses the answer to [`query`]. `None` when it answers another query and the right answer
/// may still arrive.
///
/// # Errors
/// The server's [`Refusal`].
pub fn parse_answer(bytes: &[u8], id: u16, name: &str) -> Option<Result<Ipv4Addr, Refusal>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let flags = be16(bytes, 2)?;
    if be16(bytes, 0)? != id || flags & 0x8000 == 0 || be16(bytes, 4)? != 1 {
        return None;
    }
    let (asked, at) = parse_name(bytes, HEADER)?;
    if !asked.eq_ignore_ascii_case(name) || be16(bytes, at)? != TYPE_A {
        return None;
    }
    Some(match flags & 15 {
        0 => parse_records(bytes, at.saturating_add(4), name).unwrap_or(Err(Refusal::Malformed)),
        3 => Err(Refusal::NoName),
        code => Err(Refusal::Code(code.to_le_bytes()[0])),
    })
}

/// What matters of a record.
struct Record {
    owner: Name,
    address: Option<Ipv4Addr>,
    alias: Option<Name>,
    /// Where the next record begins.
    next: usize,
}

fn parse_records(bytes: &[u8], start: usize, name: &str) -> Option<Result<Ipv4Addr, Refusal>> {
    let count = usize::from(be16(bytes, 6)?);
    let cut = be16(bytes, 2)? & 0x0200 != 0;
    let mut wanted = Name::try_from(name).ok()?;
    for _ in 0..MAX_ALIASES {
        let (mut address, mut alias) = (None, None);
        let mut at = start;
        for _ in 0..count.min(MAX_RECORDS) {
            // What was cut off behind the last whole record is of no interest.
            let Some(record) = parse_record(bytes, at) else {
                if cut {
                    break;
                }
                return None;
            };
            if record.owner.eq_ignore_ascii_case(&wanted) {
                address = address.or(record.address);
                alias = record.alias.or(alias);
            }
            at = record.next;
        }
        match (address, alias) {
            (Some(address), _) => return Some(Ok(address)),
            (None, Some(target)) => wanted = target,
            (None, None) if cut => return Some(Err(Refusal::Malformed)),
            (None, None) => break,
        }
    }
    Some(Err(Refusal::NoAddress))
}

fn parse_record(bytes: &[u8], at: usize) -> Option<Record> {
    let (owner, at) = parse_name(bytes, at)?;
    let kind = be16(bytes, at)?;
    let class = be16(bytes, at.checked_add(2)?)?;
    let length = usize::from(be16(bytes, at.checked_add(8)?)?);
    let start = at.checked_add(10)?;
    let end = start.checked_add(length)?;
    let data = bytes.get(start..end)?;
    let (mut address, mut alias) = (None, None);
    match (class, kind) {
        (CLASS_IN, TYPE_A) => address = <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from),
        (CLASS_IN, TYPE_CNAME) => alias = Some(parse_name(bytes, start)?.0),
        _ => {}
    }
    Some(Record { owner, address, alias, next: end })
}

/// The address of `name` in the text of a hosts(5) file.
pub fn find_in_hosts(text: &str, name: &str) -> Option<Ipv4Addr> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?;
        let mut words = line.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    })
}

/// The full names of a name, in order of attempts: a name with a dot first as it is, another
/// first in the search list.
pub fn candidates(name: &str, search: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(absolute) = name.strip_suffix('.') {
        names.push(absolute.to_owned());
        return names;
    }
    if name.contains('.') {
        names.push(name.to_owned());
    }
    for domain in search.iter().take(MAX_SERVERS) {
        let mut full = name.to_owned();
        full.push('.');
        full.push_str(domain);
        if is_domain_name(&full) {
            names.push(full);
        }
    }
    if !name.contains('.') {
        names.push(name.to_owned());
    }
    names
}

/// Name servers and search list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// Name servers, best first.
    pub servers: Vec<Ipv4Addr>,
    /// Search list.
    pub search: Vec<String>,
}

impl Resolver {
    /// From the network's configuration.
    pub fn new(config: &crate::config::Config) -> Resolver {
        let mut search = config.search.clone();
        if search.is_empty() && !config.domain.is_empty() {
            search.push(config.domain.clone());
        }
        Resolver { servers: config.dns.clone(), search }
    }

    /// The address of a host: an address as text, a line of `hosts`, or a name server's answer.
    /// Blocks for `limit` at most.
    ///
    /// # Errors
    /// When no name server knows the name.
    pub fn resolve(&self, name: &str, hosts: &str, limit: Duration) -> Result<Ipv4Addr, Error> {
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(address);
        }
        if !is_domain_name(name.strip_suffix('.').unwrap_or(name)) {
            return Err(Error::NotAName(name.to_owned()));
        }
        if name.eq_ignore_ascii_case("localhost") {
            return Ok(Ipv4Addr::LOCALHOST);
        }
        if let Some(address) = find_in_hosts(hosts, name) {
            return Ok(address);
        }
        if self.servers.is_empty() {
            return Err(Error::NoServers(name.to_owned()));
        }
        let deadline = Instant::now().after(limit);
        let mut answers: Vec<(Ipv4Addr, Refusal)> = Vec::new();
        for full in candidates(name, &self.search) {
            match self.ask_all(&full, deadline, &mut answers) {
                Ok(address) => return Ok(address),
                // No server is there: other names will not change that.
                Err(Refusal::Unreachable(_)) => break,
                Err(_) => {}
            }
        }
        Err(Error::Failed { name: name.to_owned(), answers })
    }

    /// Asks the servers in turn until one has a definite answer.
    fn ask_all(
        &self,
        full: &str,
        deadline: Instant,
        answers: &mut Vec<(Ipv4Addr, Refusal)>,
    ) -> Result<Ipv4Addr, Refusal> {
        let mut last = Refusal::Unreachable(Errno::TIMEDOUT);
        for round in 1..=ROUNDS {
            for server in self.servers.iter().take(MAX_SERVERS) {
                let patience = Duration::from_secs(u64::from(round));
                let until = Instant::now().after(patience).min(deadline);
                match ask(*server, full, until) {
                    Ok(address) => return Ok(address),
                    Err(refusal) => {
                        answers.retain(|(known, _)| known != server);
                        answers.push((*server, refusal));
                        last = refusal;
                        // A definite answer; the next server would give no better one.
                        if matches!(refusal, Refusal::NoName | Refusal::NoAddress) {
                            return Err(refusal);
                        }
                    }
                }
                if Instant::now() >= deadline {
                    return Err(last);
                }
            }
        }
        Err(last)
    }
}

/// Asks one server once.
fn ask(server: Ipv4Addr, name: &str, deadline: Instant) -> Result<Ipv4Addr, Refusal> {
    let id = (random(7) & 0xffff) as u16;
    let question = query(id, name).ok_or(Refusal::NoName)?;
    let unreachable = Refusal::Unreachable;
    let socket = Udp::connect(SocketAddrV4::new(server, PORT)).map_err(unreachable)?;
    socket.send(&question).map_err(unreachable)?;
    let mut buffer = [0u8; 1500];
    loop {
        let length = socket.receive(&mut buffer, deadline).map_err(unreachable)?;
        let answer = parse_answer(buffer.get(..length).unwrap_or_default(), id, name);
        if let Some(answer) = answer {
            return answer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer to [`query`] with these records after the question.
    fn answer(id: u16, name: &str, code: u8, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = query(id, name).unwrap().to_vec();
        bytes[2] = 0x81;
        bytes[3] = 0x80 | code;
        bytes[7] = records.len() as u8;
        for record in records {
            bytes.extend(*record);
        }
        bytes
    }

    /// An A record for the name in the question.
    const A: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x09";

    #[test]
    fn a_question_as_the_rfc_has_it() {
        assert_eq!(
            query(0x1234, "files.lab").unwrap(),
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05files\x03lab\x00\x00\x01\x00\x01"
        );
        assert_eq!(query(1, "a b"), None);
        assert_eq!(query(1, ""), None);
        assert_eq!(query(1, &"x".repeat(64)), None);
    }

    #[test]
    fn answers() {
        let ours = Ipv4Addr::new(10, 0, 0, 9);
        let good = answer(7, "files.lab", 0, &[A]);
        assert_eq!(parse_answer(&good, 7, "FILES.lab"), Some(Ok(ours)));
        assert_eq!(parse_answer(&good, 8, "files.lab"), None, "another id");
        assert_eq!(parse_answer(&good, 7, "other.lab"), None, "another question");
        let missing = answer(7, "files.lab", 3, &[]);
        assert_eq!(parse_answer(&missing, 7, "files.lab"), Some(Err(Refusal::NoName)));
        let empty = answer(7, "files.lab", 0, &[]);
        assert_eq!(parse_answer(&empty, 7, "files.lab"), Some(Err(Refusal::NoAddress)));
        let refused = answer(7, "files.lab", 5, &[]);
        assert_eq!(parse_answer(&refused, 7, "files.lab"), Some(Err(Refusal::Code(5))));
        assert_eq!(
            parse_answer(&good[..good.len() - 1], 7, "files.lab"),
            Some(Err(Refusal::Malformed))
        );
    }

    #[test]
    fn aliases_are_followed_and_loops_end() {
        // files.lab is nas.lab ("nas" and a pointer to "lab"), which is 10.0.0.9
        let alias = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03nas\xc0\x12";
        let target = b"\x03nas\x03lab\x00\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x09";
        let good = answer(7, "files.lab", 0, &[alias, target]);
        assert_eq!(parse_answer(&good, 7, "files.lab"), Some(Ok(Ipv4Addr::new(10, 0, 0, 9))));
        let circle = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c";
        let bad = answer(7, "files.lab", 0, &[circle]);
        assert_eq!(parse_answer(&bad, 7, "files.lab"), Some(Err(Refusal::NoAddress)));
        // An address of another name in the answer is not ours.
        let stranger =
            b"\x03nas\x03lab\x00\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x06\x06\x06\x06";
        let bad = answer(7, "files.lab", 0, &[stranger]);
        assert_eq!(parse_answer(&bad, 7, "files.lab"), Some(Err(Refusal::NoAddress)));
    }

    #[test]
    fn short_names_are_completed() {
        let search = ["a.lab".to_owned(), "lab".to_owned()];
        assert_eq!(candidates("files", &search), ["files.a.lab", "files.lab", "files"]);
        assert_eq!(candidates("f.x", &search), ["f.x", "f.x.a.lab", "f.x.lab"]);
        assert_eq!(candidates("files.", &search), ["files"]);
    }

    #[test]
    fn hosts_and_literals_need_no_server() {
        let resolver = Resolver::default();
        let limit = Duration::from_millis(1);
        let hosts = "# x\n10.0.0.1 gw gateway # files\n10.0.0.9\tfiles.lab files\n";
        assert_eq!(resolver.resolve("FILES", hosts, limit), Ok(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(resolver.resolve("10.1.2.3", "", limit), Ok(Ipv4Addr::new(10, 1, 2, 3)));
        let none = resolver.resolve("nas", hosts, limit).unwrap_err();
        assert!(none.to_string().contains("no name server is known"));
        let bad = resolver.resolve("a;b", hosts, limit).unwrap_err();
        assert!(bad.to_string().contains("neither an address nor a host name"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text: String) {
            let _ = parse_answer(&bytes, 7, "files.lab");
            let mut framed = answer(7, "files.lab", 0, &[&bytes]);
            framed[7] = 9;
            let _ = parse_answer(&framed, 7, "files.lab");
            let _ = find_in_hosts(&text, "x");
            let _ = query(1, &text);
            let _ = candidates(&text, &["lab".to_owned()]);
        }
    }
}
