//! Devices present at the start: every `modalias` of every bus, and every block device and
//! network interface.

use alloc::format;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};
use sys::file::{c_path, open};
pub use sys::file::{names, names_if_any};

/// Longest modalias read: a page is sysfs's own limit.
const MAX_MODALIAS: usize = 4096;

/// Calls `each` with the modalias of every device of every bus.
///
/// Devices without a modalias need no driver and are skipped. An unreadable bus or device is
/// skipped, too: it may just have been removed.
///
/// # Errors
/// The errno of openat(2) or getdents64(2), when `/sys/bus` itself cannot be read.
pub fn each_modalias(each: &mut dyn FnMut(&str)) -> Result<(), Errno> {
    let mut buffer = [0; MAX_MODALIAS];
    for bus in names("/sys/bus")? {
        let Ok(devices) = directory(&format!("/sys/bus/{bus}/devices")) else { continue };
        // A bus that goes meanwhile has no devices.
        let _ = sys::file::entries(devices.as_fd(), &mut |name, _| {
            let Ok(name) = name.to_str() else { return };
            let path = format!("{name}/modalias");
            if let Some(text) = small_file(devices.as_fd(), &path, &mut buffer) {
                each(text);
            }
        });
    }
    Ok(())
}

fn directory(path: &str) -> Result<rustix::fd::OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
}

/// The text of a one-line file without its newline; `None` when the file is missing or empty.
fn small_file<'b>(at: BorrowedFd<'_>, path: &str, buffer: &'b mut [u8]) -> Option<&'b str> {
    let path = c_path(path.as_bytes()).ok()?;
    let file = openat(at, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let length = read(&file, &mut *buffer).ok()?;
    let text = core::str::from_utf8(buffer.get(..length)?).ok()?.trim_end();
    (!text.is_empty()).then_some(text)
}
