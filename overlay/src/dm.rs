//! Device-mapper tables (`Documentation/admin-guide/device-mapper`): a writable snapshot of a
//! read-only image, and an image with a verified hash tree.
//!
//! Text only; [`sys::dm`] hands it to the kernel.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sys::dm::Target;

/// Bytes of a device-mapper sector, whatever the device's own are.
pub const SECTOR: u64 = 512;

/// A snapshot of `origin`: reads of unchanged chunks go there, everything else to `store`. Only
/// the store is written to.
///
/// `sectors` is the origin's length; `chunk` the unit that is copied, in
/// sectors, a power of two. A `persistent` store must be zeroed at its first use.
#[must_use]
pub fn snapshot(
    origin: &str,
    sectors: u64,
    store: &str,
    persistent: bool,
    chunk: u32,
) -> Vec<Target> {
    let kind = if persistent { "P" } else { "N" };
    one(sectors, "snapshot", format!("{origin} {store} {kind} {chunk}"))
}

/// `sectors` of a device from its sector `from` on, as they are.
#[must_use]
pub fn linear(device: &str, sectors: u64, from: u64) -> Vec<Target> {
    one(sectors, "linear", format!("{device} {from}"))
}

/// The parameters of dm-verity; numbers as in the header of `veritysetup(8)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity<'a> {
    /// The device with the data.
    pub data: &'a str,
    /// The device with the hashes, which may be the same.
    pub hashes: &'a str,
    /// Format version, 0 or 1.
    pub version: u32,
    /// Bytes of a data block.
    pub data_block: u32,
    /// Bytes of a hash block.
    pub hash_block: u32,
    /// Data blocks.
    pub blocks: u64,
    /// First hash block on its device.
    pub hash_start: u64,
    /// `sha256` and the like.
    pub algorithm: &'a str,
    /// Root hash in hexadecimal.
    pub root_hash: &'a str,
    /// Salt in hexadecimal, `-` for none.
    pub salt: &'a str,
    /// Optional parameters.
    pub options: &'a [&'a str],
}

/// A device that verifies every block against a hash tree when it is read.
#[must_use]
pub fn verity(verity: &Verity<'_>) -> Vec<Target> {
    let mut text = format!(
        "{} {} {} {} {} {} {} {} {} {}",
        verity.version,
        verity.data,
        verity.hashes,
        verity.data_block,
        verity.hash_block,
        verity.blocks,
        verity.hash_start,
        verity.algorithm,
        verity.root_hash,
        verity.salt,
    );
    if !verity.options.is_empty() {
        text.push_str(&format!(" {}", verity.options.len()));
        for option in verity.options {
            text.push(' ');
            text.push_str(option);
        }
    }
    let sectors = verity.blocks.saturating_mul(u64::from(verity.data_block)) / SECTOR;
    one(sectors, "verity", text)
}

fn one(length: u64, kind: &str, parameters: String) -> Vec<Target> {
    Vec::from([Target { start: 0, length, kind: kind.to_string(), parameters }])
}

/// The fill level of a snapshot's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// In use.
    Part {
        /// Sectors that hold changes.
        used: u64,
        /// Sectors of the store.
        total: u64,
    },
    /// It is full or damaged: every read and write fails.
    Lost,
}

impl Fill {
    /// Percent, rounded down; 100 when it is lost.
    #[must_use]
    pub fn percent(self) -> u32 {
        match self {
            Self::Part { used, total } => {
                let percent = used.saturating_mul(100).checked_div(total).unwrap_or(100);
                u32::try_from(percent.min(100)).unwrap_or(100)
            }
            Self::Lost => 100,
        }
    }
}

/// Parses the status line of a snapshot: `USED/TOTAL METADATA`, or a word.
#[must_use]
pub fn snapshot_fill(status: &str) -> Option<Fill> {
    let word = status.split_whitespace().next()?;
    if matches!(word, "Invalid" | "Overflow") {
        return Some(Fill::Lost);
    }
    let (used, total) = word.split_once('/')?;
    Some(Fill::Part { used: used.parse().ok()?, total: total.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_s_table() {
        let table = snapshot("/dev/loop0", 81920, "/dev/ram0", false, 1);
        assert_eq!(table.len(), 1);
        assert_eq!(
            (table[0].start, table[0].length, table[0].kind.as_str()),
            (0, 81920, "snapshot")
        );
        assert_eq!(table[0].parameters, "/dev/loop0 /dev/ram0 N 1");
    }

    #[test]
    fn a_verity_table_with_options() {
        let table = verity(&Verity {
            data: "7:0",
            hashes: "7:1",
            version: 1,
            data_block: 4096,
            hash_block: 4096,
            blocks: 100,
            hash_start: 1,
            algorithm: "sha256",
            root_hash: "aa",
            salt: "-",
            options: &["restart_on_corruption"],
        });
        assert_eq!(table[0].length, 800);
        assert_eq!(
            table[0].parameters,
            "1 7:0 7:1 4096 4096 100 1 sha256 aa - 1 restart_on_corruption"
        );
    }

    #[test]
    fn a_snapshot_says_how_full_it_is() {
        let fill = snapshot_fill("1024/131072 16").unwrap();
        assert_eq!(fill, Fill::Part { used: 1024, total: 131_072 });
        assert_eq!(fill.percent(), 0);
        assert_eq!(Fill::Part { used: 9, total: 10 }.percent(), 90);
        assert_eq!(Fill::Part { used: 0, total: 0 }.percent(), 100);
        assert_eq!(snapshot_fill("Invalid"), Some(Fill::Lost));
        assert_eq!(snapshot_fill("Unknown"), None);
        assert_eq!(snapshot_fill(""), None);
    }
}
