//! The crate's one error type.
//!
//! Each message says what was being done to what, and what to do about it.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

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
            Some(waited) => Err(Self::Stalled { protocol, waiting_for, waited }),
            None => Ok(()),
        }
    }
}

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
            Self::Stalled { protocol, waiting_for, waited } => write!(
                f,
                "{protocol}: no {waiting_for} for {} s; is the other end running, on this network?",
                waited.as_secs()
            ),
            Self::Gone { protocol, peer, when } => write!(f, "{protocol}: {peer} has gone {when}"),
            Self::Lost { protocol, after, why } => {
                write!(f, "{protocol}: data lost after {after} bytes: {why}")
            }
            Self::Mismatch { bytes } => write!(
                f,
                "the {bytes} bytes received are not those that were sent; do not use this copy"
            ),
            Self::Store { why } => write!(f, "cannot store what was received: {why}"),
            Self::Port { kind, port, why } => {
                write!(f, "{kind} port {port}: {why}; does another clone program run here?")
            }
            Self::Network { what, why } => write!(f, "cannot {what}: {why}"),
            Self::Source { why } => write!(f, "cannot read what is to be sent: {why}"),
            Self::Unfit { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

impl core::error::Error for Error {}
