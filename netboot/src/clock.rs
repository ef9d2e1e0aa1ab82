//! Time as the state machines see it: milliseconds since the machine started.
//!
//! State machines are told the time and never ask for it, so that tests run
//! hours of waiting in no time.

use core::time::Duration;

/// A moment, counted from the start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The start of the machine.
    pub const ZERO: Instant = Instant(0);

    /// Now, by the clock that does not stop and is not set (`CLOCK_BOOTTIME`).
    pub fn now() -> Instant {
        Instant::ZERO.after(sys::clock::since_start())
    }

    /// From milliseconds since the start.
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis)
    }

    /// Milliseconds since the start.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the start.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The moment that follows by `span`.
    #[must_use]
    pub fn after(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it is still to come.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The time until `deadline`, as poll(2) takes it; `None` waits for ever.
pub fn poll_timeout(deadline: Option<Instant>, now: Instant) -> Option<rustix::time::Timespec> {
    let left = deadline?.since(now);
    Some(rustix::time::Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    })
}

/// A number that other machines do not guess, for transaction ids.
///
/// Falls back on the clock and `salt` when the kernel has no randomness yet.
pub fn random(salt: u32) -> u32 {
    let mut bytes = [0u8; 4];
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    match rustix::rand::getrandom(&mut bytes, flags) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => sys::clock::since_start().subsec_nanos().rotate_left(16) ^ salt,
    }
}
