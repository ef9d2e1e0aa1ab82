//! Reads what a distribution built into its initramfs, when our archive lies behind it, and what
//! the builder of our own image gave it.

use alloc::format;
use alloc::string::String;

use cmdline::baked::Baked;
use coldplug::sysfs::names;

/// Longest file read; these hold a line or two.
const MAX: usize = 16 << 10;

/// The settings of this initramfs.
#[must_use]
pub fn read() -> Baked {
    let text = &mut |path: &str| {
        let bytes = sys::file::read_file(&format!("/{path}"), MAX).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let names = &mut |dir: &str| names(&format!("/{dir}")).unwrap_or_default();
    Baked::read(names, text)
}
