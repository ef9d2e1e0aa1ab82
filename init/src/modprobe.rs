//! `/sbin/modprobe`: what the kernel runs when it wants a module by itself
//! (`request_module`), for a file system, a character set, a cipher.

use alloc::format;
use alloc::string::String;

use coldplug::index::Index;
use coldplug::load::{Loader, Policy};

/// Loads what the arguments name; options are understood as the kernel uses
/// them (`-q -- NAME`). Returns the exit status: 0 when all are loaded.
pub fn run(args: impl Iterator<Item = &'static core::ffi::CStr>) -> i32 {
    let Ok(bytes) = sys::file::read_file("/lib/bellwether/modules.idx", 16 << 20) else { return 1 };
    let Ok(index) = Index::parse(bytes.leak()) else { return 1 };
    let mut loader = Loader::new(index, Policy::default());
    let mut status = 0;
    for name in args.filter_map(|arg| arg.to_str().ok()).filter(|arg| !arg.starts_with('-')) {
        if let Err(error) = loader.require(name) {
            status = 1;
            let line: String = format!("<7>bellwether: modprobe: {error}\n");
            // Without a log the exit status alone tells it.
            let _ = sys::file::write_file("/dev/kmsg", line.as_bytes(), 0);
        }
    }
    status
}
