//! The names of the clone protocols on a line.

use alloc::string::String;

use super::units::Seconds;

/// A clone protocol, as a line names it. The protocols themselves are the `clone` crate's.
#[derive(Debug, PartialEq, Eq)]
pub struct CloneProtocol {
    /// The name on a line, `bw.clone=NAME`, and in the `clone` crate's tables.
    pub name: &'static str,
    /// The name in messages.
    pub title: &'static str,
    /// What may follow the name behind a colon.
    pub argument: CloneArgument,
    /// How long a receiver waits for its sender, as the protocol's documents say; 0 for ever.
    pub timeout: Seconds,
    /// How often it tries.
    pub tries: u32,
}

/// What a line may say behind a clone protocol's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneArgument {
    /// Nothing.
    None,
    /// A session's name; empty for the names that the protocol itself uses.
    Session,
    /// An even port; 9000 without one. The next port is used, too.
    Port,
    /// A port; that of the protocol without one.
    Room,
    /// URLs of one file, with commas between.
    Urls,
}

/// All clone protocols.
pub static CLONE_PROTOCOLS: [CloneProtocol; 8] = [
    protocol("ka", "KA", CloneArgument::Session, 120, 5),
    protocol("dolly", "Dolly", CloneArgument::None, 300, 3),
    protocol("dollyplus", "Dolly+", CloneArgument::None, 300, 3),
    protocol("udpcast", "udpcast", CloneArgument::Port, 300, 3),
    protocol("room", "the room", CloneArgument::Room, 300, 3),
    protocol("target", "target of a room", CloneArgument::Room, 300, 3),
    protocol("image", "image", CloneArgument::Urls, 300, 3),
    protocol("source", "source of a room", CloneArgument::Room, 0, 3),
];

const fn protocol(
    name: &'static str,
    title: &'static str,
    argument: CloneArgument,
    timeout: u32,
    tries: u32,
) -> CloneProtocol {
    CloneProtocol { name, title, argument, timeout: Seconds(timeout), tries }
}

/// How a clone receiver is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneMethod {
    /// By this protocol.
    pub protocol: &'static CloneProtocol,
    /// What follows its name on a line; the default where nothing does.
    pub argument: String,
}

impl CloneMethod {
    /// What `NAME` or `NAME:ARGUMENT` stands for, if there is such a protocol and the argument
    /// is one of its.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        let (name, argument) = word.split_once(':').unwrap_or((word, ""));
        let protocol = CLONE_PROTOCOLS.iter().find(|protocol| protocol.name == name)?;
        let argument = match (protocol.argument, argument) {
            (CloneArgument::Port, "") => "9000",
            (CloneArgument::Port, port) => {
                port.parse().ok().filter(|p: &u16| *p > 0 && p.is_multiple_of(2)).map(|_| port)?
            }
            (CloneArgument::Room, port) if !port.is_empty() => {
                port.parse().ok().filter(|p: &u16| (1..u16::MAX).contains(p)).map(|_| port)?
            }
            (CloneArgument::None | CloneArgument::Room, "") | (CloneArgument::Session, _) => {
                argument
            }
            (CloneArgument::Urls, urls) => {
                urls.split(',').all(|url| url.starts_with("http://")).then_some(urls)?
            }
            (CloneArgument::None | CloneArgument::Room, _) => return None,
        };
        Some(Self { protocol, argument: String::from(argument) })
    }
}
