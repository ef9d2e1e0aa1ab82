//! The mark of an interrupted copy: what a disk begins with from before the first byte of a
//! copy is written until the last one is on it.
//!
//! It is text without the signature of a boot sector, in place of the old boot sector and
//! partition table: no firmware starts such a disk, by its old table or by half of a new one.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::Ipv4Addr;

/// The first bytes of a marked disk.
const BEGINS: &str = "BELLWETHER: AN INTERRUPTED COPY, NOT A DISK TO BOOT\n";
/// The mark's length: one sector.
pub const LENGTH: usize = 512;
/// A clock before 2020 was never set.
const CLOCK_SET: u64 = 1_577_836_800;

/// An interrupted copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When it began, in words.
    pub begun: String,
    /// Its sender, as the receiver knew it; empty when it did not.
    pub sender: String,
}

impl Mark {
    /// Of a copy that begins at this time, in seconds since 1970.
    #[must_use]
    pub fn new(seconds: u64, sender: Option<Ipv4Addr>) -> Self {
        let begun = if seconds < CLOCK_SET { "an unknown time".to_string() } else { date(seconds) };
        Self { begun, sender: sender.map(|s| s.to_string()).unwrap_or_default() }
    }

    /// The sector.
    #[must_use]
    pub fn bytes(&self) -> [u8; LENGTH] {
        let text = format!("{BEGINS}begun {}\nfrom {}\n", self.begun, self.sender);
        let mut sector = [0; LENGTH];
        sector.iter_mut().zip(text.bytes()).for_each(|(at, byte)| *at = byte);
        sector
    }

    /// The mark at the beginning of a disk, if there is one.
    #[must_use]
    pub fn read(head: &[u8]) -> Option<Self> {
        let text = head.get(..head.len().min(LENGTH))?.strip_prefix(BEGINS.as_bytes())?;
        let field = |name: &[u8]| -> String {
            let line = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(name));
            let line = line.unwrap_or_default().iter().take(64);
            line.filter(|b| b.is_ascii_graphic() || **b == b' ').map(|b| char::from(*b)).collect()
        };
        Some(Self { begun: field(b"begun "), sender: field(b"from ") })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = if self.sender.is_empty() { "an unknown sender" } else { &self.sender };
        write!(f, "holds an interrupted copy of {}, from {sender}", self.begun)
    }
}

/// Seconds since 1970 as a date in the Gregorian calendar.
fn date(seconds: u64) -> String {
    let (days, left) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, so that a leap day is a year's last.
    let days = days.saturating_add(719_468);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", left / 3600, left / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (1_582_934_400, "2020-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert_eq!(Mark::new(CLOCK_SET, None).begun, "2020-01-01 00:00 UTC");
    }

    /// Counted day by day from 1970 through a whole era of 400 years.
    #[test]
    fn every_day_has_its_date() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..160_000 {
            let minute = days % 1440;
            let text =
                format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60);
            assert_eq!(date(days * 86_400 + minute * 60 + 59), text);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month), (2408, 1));
    }

    #[test]
    fn no_firmware_starts_a_marked_disk_and_a_person_reads_why() {
        let mark = Mark::new(1_735_689_599, Some([10, 77, 0, 1].into()));
        let bytes = mark.bytes();
        assert_eq!(bytes[510..], [0, 0], "no signature of a boot sector");
        assert_eq!(Mark::read(&bytes), Some(mark.clone()));
        assert_eq!(
            mark.to_string(),
            "holds an interrupted copy of 2024-12-31 23:59 UTC, from 10.77.0.1"
        );
        let unknown = Mark::new(12, None).to_string();
        assert_eq!(unknown, "holds an interrupted copy of an unknown time, from an unknown sender");
        assert_eq!(Mark::read(&[0; 512]), None);
        assert_eq!(Mark::read(b"BELL"), None);
    }

    proptest! {
        #[test]
        fn nothing_hostile_comes_out_of_a_mark(junk: Vec<u8>) {
            let bytes =
                [BEGINS.as_bytes(), b"begun ", &junk, b"\nfrom ", &junk, b"\n", &junk].concat();
            let text = Mark::read(&bytes).unwrap().to_string();
            prop_assert!(text.len() < 220 && !text.contains(|c: char| c.is_control()));
        }
    }
}
