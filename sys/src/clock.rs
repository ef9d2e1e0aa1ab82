//! The one clock of `/init`: milliseconds since the machine started.
//!
//! State machines take the time as an argument, so that tests simulate hours at once. Spans are
//! [`Duration`]s.

use core::mem::MaybeUninit;
use core::time::Duration;

use linux_raw_sys::general::{__NR_clock_gettime, CLOCK_BOOTTIME};
use rustix::time::Timespec;

use crate::raw::syscall;

/// A moment, counted from the start of the machine in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The start of the machine.
    pub const ZERO: Instant = Instant(0);

    /// Now, by `CLOCK_BOOTTIME`, which never stops and is never set.
    #[must_use]
    pub fn now() -> Instant {
        Instant::ZERO.after(since_start())
    }

    /// From milliseconds since the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the start.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This moment plus `span`, rounded down to milliseconds.
    #[must_use]
    pub const fn after(self, span: Duration) -> Instant {
        let millis =
            span.as_secs().saturating_mul(1000).saturating_add(span.subsec_millis() as u64);
        Instant(self.0.saturating_add(millis))
    }

    /// The time since `earlier`; zero when it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whether this moment has passed.
    #[must_use]
    pub fn is_past(self) -> bool {
        Instant::now() >= self
    }
}

/// The time until `deadline`, for poll(2); `None` waits forever.
#[must_use]
pub fn poll_timeout(deadline: Option<Instant>, now: Instant) -> Option<Timespec> {
    let left = deadline?.since(now);
    Some(Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    })
}

/// Time since the start of the machine, sleep included; it never goes back and is
/// never set (`CLOCK_BOOTTIME`, clock_gettime(2)).
///
/// A system call, not the vDSO: PID 1 needs the time a few times a second, and the code to find
/// the vDSO costs more than it saves.
#[must_use]
pub fn since_start() -> Duration {
    let mut time = MaybeUninit::<[i64; 2]>::zeroed();
    // SAFETY: the kernel writes a 64-bit timespec, two i64, into `time`, and it
    // is initialised (to zero) even when the call fails.
    let [seconds, nanos] = unsafe {
        let _ = syscall(__NR_clock_gettime, &[CLOCK_BOOTTIME as usize, time.as_mut_ptr() as usize]);
        time.assume_init()
    };
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    Duration::new(u64::try_from(seconds).unwrap_or(0), nanos)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Instant, poll_timeout, since_start};

    #[test]
    fn moments_and_spans_neither_wrap_nor_go_below_zero() {
        let start = Instant::from_millis(1500);
        let later = start.after(Duration::from_micros(2_000_700));
        assert_eq!((later.millis(), later.seconds()), (3500, 3));
        assert_eq!(later.since(start), Duration::from_secs(2));
        assert_eq!(start.since(later), Duration::ZERO);
        let end = start.after(Duration::MAX);
        assert_eq!((end.millis(), end.is_past()), (u64::MAX, false));
        let timeout = poll_timeout(Some(later), Instant::ZERO).unwrap();
        assert_eq!((timeout.tv_sec, timeout.tv_nsec), (3, 500_000_000));
        let passed = poll_timeout(Some(start), later).unwrap();
        assert_eq!((passed.tv_sec, passed.tv_nsec), (0, 0));
        assert!(poll_timeout(None, start).is_none() && start.is_past());
    }

    #[test]
    fn goes_forward_and_agrees_with_the_kernel() {
        let before = since_start();
        while since_start() == before {}
        assert!(since_start() > before);
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((since_start().as_secs_f64() - seconds).abs() < 5.0);
    }
}
