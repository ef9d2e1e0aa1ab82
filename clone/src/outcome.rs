//! How a copy went, in the same words for every protocol and at both ends.

use crate::digest::Digest;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

/// A copy that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Of its bytes.
    pub digest: Digest,
    /// They were read back from the disk.
    pub read_back: bool,
    /// They have the digest that the user named.
    pub pinned: bool,
}

impl Kept {
    /// What was stored and not read back.
    #[must_use]
    pub const fn unread(digest: Digest) -> Self {
        Self { digest, read_back: false, pinned: false }
    }
}

/// How long an end waits before it gives up; without a limit, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// Until data flows.
    pub start: Option<Duration>,
    /// While nothing moves.
    pub stall: Option<Duration>,
}

/// How it stands with one machine's copy, as the sender knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The machine has not said anything.
    Silent,
    /// It has come, and is not ready for data.
    Waiting,
    /// It is ready or receives data, and has not confirmed a whole copy.
    Receiving,
    /// It has confirmed a whole copy; no digests were compared.
    Acknowledged,
    /// It has stored everything it received, whose digest is the sender's; it did not read
    /// its disk back.
    Whole,
    /// It has read back from its disk what the sender has.
    Verified,
    /// It has received other bytes than were sent.
    Differs,
    /// It says that it has no copy, and why.
    Failed(String),
    /// It joined late, and lacks so many bytes of the beginning.
    Late(u64),
    /// It could not be reached at the beginning, and was left out.
    Absent,
    /// It was lost before the end, and why.
    Lost(String),
}

impl Standing {
    /// [`Standing::Failed`] for this reason.
    #[must_use]
    pub fn failed(why: &str) -> Self {
        Self::Failed(why.to_owned())
    }

    /// [`Standing::Lost`] for this reason.
    #[must_use]
    pub fn lost(why: &str) -> Self {
        Self::Lost(why.to_owned())
    }

    /// Whether the machine has a whole copy.
    #[must_use]
    pub const fn good(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Whole | Self::Verified)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "said nothing",
            Self::Waiting => "came, was not ready",
            Self::Receiving => "did not confirm its copy",
            Self::Acknowledged => "finished, NOT verified",
            Self::Whole => "received whole, not read back",
            Self::Verified => "verified",
            Self::Differs => "DIFFERS: do not use this copy",
            Self::Failed(why) => return write!(f, "FAILED: {why}"),
            Self::Late(missed) => {
                return write!(f, "LATE: lacks the first {}", Amount(*missed));
            }
            Self::Absent => "ABSENT: could not be reached, and was left out",
            Self::Lost(why) => return write!(f, "LOST: {why}"),
        })
    }
}

/// One machine of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name or address, as the sender lists it.
    pub name: String,
    /// Its address, where the protocol knows it.
    pub address: Option<Ipv4Addr>,
    /// How it stands with its copy.
    pub standing: Standing,
    /// Bytes that came for it, where that is not all of it.
    pub came: Option<u64>,
}

/// A copy that went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The digest of each file as it was read.
    pub digests: Vec<Digest>,
    /// All machines, in the sender's order.
    pub clients: Vec<Client>,
}

/// A copy that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The digest of each file as it was received, in their order.
    pub digests: Vec<Digest>,
    /// The digests are the sender's.
    pub equal: bool,
    /// All files were read back from their disks, and have these digests.
    pub read_back: bool,
    /// They have the digest that the user named.
    pub pinned: bool,
    /// The sender, where the protocol found it.
    pub sender: Option<Ipv4Addr>,
    /// Bytes that came, where that is not all of it.
    pub came: Option<u64>,
    /// What these became on the disk, where they came packed.
    pub unpacked: Option<u64>,
}

impl Received {
    /// A copy of these files, whose digests are the sender's if `equal`.
    #[must_use]
    pub fn of(files: &[Kept], equal: bool, sender: Option<Ipv4Addr>) -> Self {
        Self {
            digests: files.iter().map(|kept| kept.digest).collect(),
            equal,
            read_back: files.iter().all(|kept| kept.read_back),
            pinned: files.iter().all(|kept| kept.pinned),
            sender,
            came: None,
            unpacked: None,
        }
    }

    /// Whether the disk has what the sender has: it was read back, and compared.
    #[must_use]
    pub const fn verified(&self) -> bool {
        self.equal && self.read_back
    }

    /// What the last line says about the bytes. Only what was read back from the disk is
    /// called verified.
    #[must_use]
    pub const fn verdict(&self) -> &'static str {
        match (self.equal, self.pinned, self.read_back) {
            (true, _, true) => "verified with the sender; read back",
            (false, true, true) => "verified with the digest that was named; read back",
            (true, _, false) => "received whole, not read back",
            (false, true, false) => "has the digest that was named; not read back",
            (false, false, true) => {
                "NOT verified: the sender tells no digest; what was received was read back"
            }
            (false, false, false) => "NOT verified: the sender tells no digest; not read back",
        }
    }
}

/// So many machines, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machines(pub usize);

impl fmt::Display for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} machine{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// An amount of bytes in decimal units, as disks and networks have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..10_000 => return write!(f, "{} B", self.0),
            10_000..10_000_000 => (1_000, "kB"),
            10_000_000..10_000_000_000 => (1_000_000, "MB"),
            _ => (1_000_000_000, "GB"),
        };
        let tenths = self.0 / (unit / 10);
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// Bytes in a second.
#[must_use]
pub fn rate(bytes: u64, took: Duration) -> Amount {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    Amount(bytes.saturating_mul(1000) / ms)
}

/// The bytes of all files.
#[must_use]
pub fn total(digests: &[Digest]) -> u64 {
    digests.iter().map(|d| d.bytes).sum()
}

/// The last line about a copy: amount, time, rate, digests and, where there is one, the
/// verdict.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'a> {
    /// Of the copied files.
    pub digests: &'a [Digest],
    /// From the first byte to the end.
    pub took: Duration,
    /// Bytes that travelled, where that is not all of it: the rate is theirs.
    pub came: Option<u64>,
    /// See [`Received::unpacked`]: there are two rates then.
    pub unpacked: Option<u64>,
    /// [`Received::verdict`]; empty at the sender, where a table tells of each machine.
    pub verdict: &'a str,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = total(self.digests);
        let (s, tenth) = (self.took.as_secs(), self.took.subsec_millis() / 100);
        write!(f, "{}", Amount(bytes))?;
        if let (Some(came), Some(unpacked)) = (self.came, self.unpacked) {
            write!(
                f,
                ", of which {} came as {}, in {s}.{tenth} s",
                Amount(unpacked),
                Amount(came)
            )?;
            let [fetched, written] = [came, unpacked].map(|bytes| rate(bytes, self.took));
            write!(f, ", {fetched}/s fetched, {written}/s written")?;
            return self.end(f);
        }
        let came = self.came.filter(|came| *came != bytes);
        // Chunks that came twice count twice.
        let of = if came.is_some_and(|came| came > bytes) { "for" } else { "of" };
        came.map_or(Ok(()), |came| write!(f, ", {of} which {} came,", Amount(came)))?;
        write!(f, " in {s}.{tenth} s, {}/s", rate(came.unwrap_or(bytes), self.took))?;
        self.end(f)
    }
}

impl Summary<'_> {
    fn end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, digest) in self.digests.iter().enumerate() {
            write!(f, "{}{digest}", if i == 0 { "; blake3 " } else { ", " })?;
        }
        match self.verdict {
            "" => Ok(()),
            verdict => write!(f, "; {verdict}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn amounts() {
        let cases = [
            (9_999, "9999 B"),
            (10_000, "10.0 kB"),
            (12_345_678, "12.3 MB"),
            (99_990_000_000, "99.9 GB"),
            (u64::MAX, "18446744073.7 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Amount(bytes).to_string(), text);
        }
        assert_eq!(rate(5_000_000, Duration::from_millis(500)).to_string(), "10.0 MB");
        assert_eq!(rate(7, Duration::ZERO).0, 7000);
    }

    #[test]
    fn the_last_line() {
        let digest = Digest { bytes: 20_000_000, blake3: [0xab; 32] };
        let hex = "ab".repeat(32);
        let line = |digests: &[Digest], verdict| {
            let took = Duration::from_millis(2050);
            Summary { digests, took, came: None, unpacked: None, verdict }.to_string()
        };
        let kept = Kept { digest, read_back: true, pinned: false };
        let received = Received::of(&[kept], true, None);
        assert_eq!(
            line(&received.digests, received.verdict()),
            format!(
                "20.0 MB in 2.0 s, 9756.0 kB/s; blake3 {hex}; verified with the sender; read back"
            )
        );
        assert_eq!(
            line(&[digest, digest], ""),
            format!("40.0 MB in 2.0 s, 19.5 MB/s; blake3 {hex}, {hex}")
        );
        assert_eq!(line(&[], ""), "0 B in 2.0 s, 0 B/s");
        // A copy onto a disk that had most of it is not as fast as its size.
        let (took, came) = (Duration::from_secs(2), Some(1_000_000));
        assert_eq!(
            Summary { digests: &[digest], took, came, unpacked: None, verdict: "x" }.to_string(),
            format!("20.0 MB, of which 1000.0 kB came, in 2.0 s, 500.0 kB/s; blake3 {hex}; x")
        );
        let came = Some(21_000_000);
        let twice =
            Summary { digests: &[digest], took, came, unpacked: None, verdict: "x" }.to_string();
        assert!(twice.starts_with("20.0 MB, for which 21.0 MB came, in 2.0 s"), "{twice}");
        // What came packed is written faster than it came.
        let (came, unpacked) = (Some(3_000_000), Some(12_000_000));
        assert_eq!(
            Summary { digests: &[digest], took, came, unpacked, verdict: "x" }.to_string(),
            format!(
                "20.0 MB, of which 12.0 MB came as 3000.0 kB, in 2.0 s, 1500.0 kB/s fetched, \
                 6000.0 kB/s written; blake3 {hex}; x"
            )
        );
    }

    #[test]
    fn only_what_was_read_back_is_called_verified() {
        let digest = Digest { bytes: 1, blake3: [0; 32] };
        for bits in 0..8u8 {
            let [equal, read_back, pinned] = [1, 2, 4].map(|bit| bits & bit != 0);
            let got = Received::of(&[Kept { digest, read_back, pinned }], equal, None);
            let says = got.verdict().starts_with("verified");
            assert_eq!(says, read_back && (equal || pinned), "{}", got.verdict());
            let other = Kept { digest, read_back: false, pinned };
            let mixed = Received::of(&[Kept { digest, read_back, pinned }, other], equal, None);
            assert!(!mixed.verified(), "one file was not read back");
        }
        assert!(!Standing::Whole.to_string().contains("verified"));
    }

    #[test]
    fn only_a_confirmed_whole_copy_is_good() {
        let bad = [
            Standing::Silent,
            Standing::Waiting,
            Standing::Receiving,
            Standing::Differs,
            Standing::failed("x"),
            Standing::Late(1),
            Standing::Absent,
            Standing::lost("x"),
        ];
        assert!(bad.iter().all(|s| !s.good()));
        assert!(Standing::Verified.good() && Standing::Acknowledged.good());
        assert_eq!(Standing::Late(20_000).to_string(), "LATE: lacks the first 20.0 kB");
        assert_eq!(Standing::lost("no answer").to_string(), "LOST: no answer");
    }
}
