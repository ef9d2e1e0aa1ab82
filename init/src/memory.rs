//! How much memory there is, before it is spent.

#[cfg(feature = "full")]
use alloc::format;
use core::fmt;

#[cfg(feature = "full")]
use crate::trace::Fault;

/// Longest `/proc/meminfo` read.
const MAX_MEMINFO: usize = 16 << 10;

/// Bytes that can be used without swapping, as the kernel estimates it; 0 when
/// it does not say.
#[must_use]
pub fn available() -> u64 {
    let text = sys::file::read_file("/proc/meminfo", MAX_MEMINFO).unwrap_or_default();
    field(&alloc::string::String::from_utf8_lossy(&text), "MemAvailable:")
}

/// Memory that what is unpacked into it must leave for the system that runs from it.
#[cfg(feature = "full")]
const SPARE: u64 = 64 << 20;

/// Room for what has `packed` bytes and is unpacked into memory. `what` begins the error.
///
/// # Errors
/// Not even the packed bytes would fit.
#[cfg(feature = "full")]
pub fn room_for(packed: u64, what: fmt::Arguments<'_>) -> Result<u64, Fault> {
    let available = available();
    let room = available.saturating_sub(SPARE);
    if room > packed {
        return Ok(room);
    }
    Err(format!(
        "{what}: it has {}, and {} are available of which {} must stay free",
        Size(packed),
        Size(available),
        Size(SPARE),
    )
    .into())
}

/// Bytes that the kernel has; 0 when it does not say.
#[cfg(feature = "p2v")]
#[must_use]
pub fn total() -> u64 {
    let text = sys::file::read_file("/proc/meminfo", MAX_MEMINFO).unwrap_or_default();
    field(&alloc::string::String::from_utf8_lossy(&text), "MemTotal:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Bytes for people, in MiB; small things in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 10 << 20 {
            write!(f, "{} KiB", self.0.div_ceil(1024))
        } else {
            write!(f, "{} MiB", self.0.div_ceil(1 << 20))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn meminfo_is_in_kib() {
        let text = "MemTotal:  1000 kB\nMemFree:  3 kB\nMemAvailable:     700 kB\n";
        assert_eq!(field(text, "MemAvailable:"), 700 << 10);
        assert_eq!(field("", "MemAvailable:"), 0);
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(Size(1).to_string(), "1 KiB");
        assert_eq!(Size((70 << 20) + 1).to_string(), "71 MiB");
    }
}
