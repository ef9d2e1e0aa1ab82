//! What happens when a step fails.

use alloc::string::String;
use alloc::vec::Vec;

use super::units::Seconds;

/// What happens when a step fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePlan {
    /// After the failure screen.
    pub then: OnFailure,
    /// The whole boot's limit, counted from our start; `None` for none.
    pub deadline: Option<Seconds>,
    /// Stop for a shell at these points (`break=`, `rd.break=`), by their own names.
    pub breakpoints: Vec<String>,
    /// The console is locked: no shell, no editing of the line, no stops.
    pub locked: bool,
}

/// Steps of a boot, each with the points of the dialects (`break=`, `rd.break=`) that
/// stop before it. The order of steps is the same everywhere, what lies between two
/// points is not: premount of initramfs-tools is before its network, dracut's pre-mount
/// behind it.
#[cfg(feature = "all")]
const POINTS: [(&str, &str); 6] = [
    ("drivers", "top modules cmdline pre-udev pre-trigger"),
    ("network", "premount initqueue y yes 1"),
    ("source", "mount mountroot pre-mount"),
    ("layers", ""),
    ("handoff", "bottom postmount"),
    ("switch", "init pre-pivot cleanup"),
];

/// The step of a boot that a breakpoint stops before; a step's own name is a point
/// too. `None` for an unknown point.
#[cfg(feature = "all")]
#[must_use]
pub fn point(name: &str) -> Option<&'static str> {
    let known = |(step, names): &&(&str, &str)| {
        *step == name || names.split(' ').any(|point| point == name && !point.is_empty())
    };
    POINTS.iter().find(known).map(|(step, _)| *step)
}

/// After the failure screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// A console menu; the boot is tried again by itself after this long, so
    /// that an unattended machine never hangs.
    Menu {
        /// Time to the next try.
        retry_after: Seconds,
    },
    /// Reboot after this long (`panic=N`; 0 for at once).
    Reboot(Seconds),
    /// Stay on the failure screen (`panic=0`), saying so.
    Halt,
}
