//! The clock that state machines are told: time since the machine started.

use core::mem::MaybeUninit;
use core::time::Duration;

use linux_raw_sys::general::{__NR_clock_gettime, CLOCK_BOOTTIME};

use crate::raw::syscall;

/// Time since the start of the machine, sleep included; it never goes back and is
/// never set (`CLOCK_BOOTTIME`, clock_gettime(2)).
///
/// A system call, not the vDSO: PID 1 asks for the time a few times a second, and
/// code that finds the vDSO is longer than everything it would save.
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

    use super::since_start;

    #[test]
    fn goes_forward_and_agrees_with_the_kernel() {
        let before = since_start();
        std::thread::sleep(Duration::from_millis(20));
        let passed = since_start() - before;
        assert!(passed >= Duration::from_millis(20) && passed < Duration::from_secs(20));
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((since_start().as_secs_f64() - seconds).abs() < 5.0);
    }
}
