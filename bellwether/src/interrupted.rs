//! What a signal leaves of a command that makes files: nothing.

use crate::failure::Failure;
use cpio_builder::tools::remove_unfinished;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Removes unfinished files and directories when SIGINT, SIGTERM or SIGHUP comes, and then ends as
/// the signal ends a program. Programs that this one starts get signals as usual.
pub fn expect() -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::Failed(format!("cannot wait for signals: {e}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let run = move || {
        if let Some(signal) = signals.forever().next() {
            remove_unfinished();
            let _ = emulate_default_handler(signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(run);
    thread.map(drop).map_err(failed)
}
