//! The crate's one error type.
//!
//! Each message says what was being done to what, and what to do about it.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

/// Why a connection is over that the peer has closed, with nothing of it left unread.
pub const HAS_CLOSED: &str = "it has closed the connection";

/// What can go wrong in a protocol or in a text that configures one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A configuration text says something that its format does not allow.
    Config {
        /// The format's name, as in `dolly.cfg`.
        format: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// The word that is wrong; empty when something is missing.
        word: String,
        /// What is wrong with it, and what it should be.
        why: &'static str,
    },
    /// A peer sent what the protocol does not allow.
    Peer {
        /// The protocol's name.
        protocol: &'static str,
        /// Who sent it.
        peer: String,
        /// What was wrong.
        why: &'static str,
    },
    /// Nothing came for too long.
    Stalled {
        /// The protocol's name.
        protocol: &'static str,
        /// What was awaited.
        waiting_for: &'static str,
        /// For how long.
        waited: Duration,
        /// What is known of the reason; empty: nothing.
        why: String,
    },
    /// A connection or a machine that the transfer needs has gone.
    Gone {
        /// The protocol's name.
        protocol: &'static str,
        /// Who has gone.
        peer: String,
        /// At which point.
        when: &'static str,
    },
    /// Data was lost that cannot be had again.
    Lost {
        /// The protocol's name.
        protocol: &'static str,
        /// Bytes that arrived whole before the hole.
        after: u64,
        /// Why it cannot be had again.
        why: &'static str,
    },
    /// All bytes came, but they are not those that were sent.
    Mismatch {
        /// Bytes received.
        bytes: u64,
    },
    /// What arrived could not be stored.
    Store {
        /// The operating system's reason.
        why: String,
    },
    /// A port that this end needs cannot be had.
    Port {
        /// `TCP` or `UDP`.
        kind: &'static str,
        /// Its number.
        port: u16,
        /// The operating system's reason.
        why: String,
    },
    /// The network cannot be used as this end needs it.
    Network {
        /// What could not be done, as in `listen to 234.77.0.1`.
        what: String,
        /// The operating system's reason.
        why: String,
    },
    /// No place that was named has what is to be fetched.
    Fetch {
        /// Each place and the reason.
        why: String,
    },
    /// What is to be sent cannot be read.
    Source {
        /// Its name and the reason.
        why: String,
    },
    /// A request that this end cannot carry out.
    Unfit {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot be.
        why: &'static str,
    },
}

impl Error {
    /// [`Error::Stalled`], when what is waited for did not come within `limit`.
    pub(crate) fn stalled(
        protocol: &'static str,
        waiting_for: &'static str,
        (since, limit): (Duration, Option<Duration>),
        now: Duration,
    ) -> Result<(), Self> {
        match limit.filter(|limit| now.saturating_sub(since) >= *limit) {
            Some(waited) => {
                Err(Self::Stalled { protocol, waiting_for, waited, why: String::new() })
            }
            None => Ok(()),
        }
    }

    /// What stalled did so because of this, as far as is known.
    pub(crate) fn because(self, reason: &str) -> Self {
        match self {
            Self::Stalled { protocol, waiting_for, waited, .. } => {
                Self::Stalled { protocol, waiting_for, waited, why: reason.into() }
            }
            other => other,
        }
    }
}

/// The user gave a key, and the sender knows none.
pub(crate) const NO_KEY: Error = Error::Unfit {
    what: "the sender",
    why: "knows no key: it is an old program, or was started without --key; this machine was \
          given one (bw.clone.key= or --key) and takes nothing from it",
};
/// The sender has a key, and the user gave none.
pub(crate) const KEY_WANTED: Error = Error::Unfit {
    what: "the sender",
    why: "has a key: give this machine the same one (bw.clone.key= or --key)",
};
/// Both have keys.
pub(crate) const OTHER_KEY: Error = Error::Unfit {
    what: "the sender",
    why: "has another key than this machine was given (bw.clone.key= or --key)",
};
/// A code at the end.
pub(crate) const NO_CODE: Error = Error::Unfit {
    what: "the end of the stream",
    why: "has not the code of the key: another sender has sent it",
};

/// What is awaited once a copy has begun.
const FLOWS: [&str; 3] = ["data", "chunk", "progress"];

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { format, line, word, why } if word.is_empty() => {
                write!(f, "{format}, line {line}: {why}")
            }
            Self::Config { format, line, word, why } => {
                write!(f, "{format}, line {line}: '{word}': {why}")
            }
            Self::Peer { protocol, peer, why } => {
                write!(f, "{protocol}: {peer} does not keep to the protocol: {why}")
            }
            Self::Stalled { protocol, waiting_for, waited, why } => {
                write!(f, "{protocol}: no {waiting_for} for {} s; ", waited.as_secs())?;
                match why.as_str() {
                    "" if FLOWS.contains(waiting_for) => {
                        f.write_str("a machine, its disk or the network has stopped in the middle")
                    }
                    "" => f.write_str("is the other end running, on this network?"),
                    why => f.write_str(why),
                }
            }
            Self::Gone { protocol, peer, when } => write!(f, "{protocol}: {peer} has gone {when}"),
            Self::Lost { protocol, after, why } => {
                write!(f, "{protocol}: data lost after {after} bytes: {why}")
            }
            Self::Mismatch { bytes } => write!(
                f,
                "the {bytes} bytes received are not those that were sent; do not use this copy"
            ),
            Self::Store { why } => write!(f, "cannot write the copy: {why}"),
            Self::Port { kind, port, why } => {
                write!(f, "{kind} port {port}: {why}; does another clone program run here?")
            }
            Self::Network { what, why } => write!(f, "cannot {what}: {why}"),
            Self::Fetch { why } => write!(f, "the image cannot be had: {why}"),
            Self::Source { why } => write!(f, "cannot read: {why}"),
            Self::Unfit { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

impl core::error::Error for Error {}

/// Why a disk or a file cannot take a copy, or does not hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The copy does not fit.
    TooSmall {
        /// The disk.
        name: String,
        /// The bytes that it has.
        room: u64,
        /// The bytes that the copy needs.
        bytes: u64,
        /// How that is known.
        why: &'static str,
        /// It was written to before.
        touched: bool,
    },
    /// The sender tells another digest than the user.
    Announced {
        /// The disk.
        name: String,
        /// The user's digest.
        wanted: String,
    },
    /// The copy has another digest than the user named.
    Pinned {
        /// The disk.
        name: String,
        /// The user's digest.
        wanted: String,
    },
    /// Other bytes have come than the sender tells of.
    Received {
        /// The disk.
        name: String,
    },
    /// The disk has other bytes than were written to it.
    Differs {
        /// The disk.
        name: String,
    },
    /// The disk keeps its partition table, and the copy does not fit into that.
    #[cfg(feature = "own-table")]
    OtherTable {
        /// The disk.
        name: String,
        /// Why.
        why: String,
    },
    /// Something uses it.
    InUse {
        /// The disk.
        name: String,
        /// What uses it, and how.
        by: String,
    },
    /// It is neither a disk nor a file.
    Kind {
        /// Its name.
        name: String,
        /// What it should be.
        why: &'static str,
    },
    /// The system refuses.
    System {
        /// The disk.
        name: String,
        /// What was to be done.
        operation: &'static str,
        /// The reason.
        why: String,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::outcome::Amount;
        match self {
            Self::TooSmall { name, room, bytes, why, touched } => {
                let state = match touched {
                    true => "the copy on it is broken",
                    false => "nothing was written; take a larger disk, or shrink what is sent",
                };
                write!(
                    f,
                    "{name}: is too small: it has {}, and {why} {}; {state}",
                    Amount(*room),
                    Amount(*bytes)
                )
            }
            Self::Announced { name, wanted } => write!(
                f,
                "{name}: the sender has another digest than {wanted}; nothing was written"
            ),
            Self::Pinned { name, wanted } => write!(
                f,
                "{name}: the copy does not have the digest {wanted}; the disk keeps the mark of an \
                 interrupted copy"
            ),
            Self::Received { name } => write!(
                f,
                "{name}: other bytes have come than the sender tells of; the disk keeps the mark \
                 of an interrupted copy"
            ),
            Self::Differs { name } => write!(
                f,
                "{name}: HAS OTHER BYTES than were written to it: the disk is bad; it keeps the \
                 mark of an interrupted copy"
            ),
            #[cfg(feature = "own-table")]
            Self::OtherTable { name, why } => {
                write!(f, "{name}: its partition table is to stay, and {why}; nothing was written")
            }
            Self::InUse { name, by } => {
                write!(f, "{name}: is in use: {by}; end that, or name another disk")
            }
            Self::Kind { name, why } => write!(f, "{name}: {why}"),
            Self::System { name, operation, why } => write!(f, "{name}: {operation}: {why}"),
        }
    }
}

impl core::error::Error for Trouble {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// The last line asked whether the other end is running, below a line with the reason.
    #[test]
    fn a_stall_is_told_with_its_reason_and_a_question_only_before_the_copy_began() {
        let stalled = |what| {
            let second = Duration::from_secs(1);
            Error::stalled("x", what, (Duration::ZERO, Some(second)), second).unwrap_err()
        };
        assert!(
            stalled("sender").to_string().ends_with("is the other end running, on this network?")
        );
        assert!(stalled("data").to_string().ends_with("has stopped in the middle"));
        let told = stalled("sender").because("it was switched off").to_string();
        assert_eq!(told, "x: no sender for 1 s; it was switched off");
    }
}
