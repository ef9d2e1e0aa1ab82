//! Writing results: standard output, whole files or none, and JSON without a library.

use crate::failure::Failure;
use cpio_builder::error::Error;
use cpio_builder::image::mtime_from_epoch;
use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The first error of standard output.
static BROKEN: OnceLock<io::Error> = OnceLock::new();

/// The exit status of a command whose reader closed the pipe, as shells show it for
/// one that SIGPIPE ended. The signal itself stays ignored: it would end `share` and
/// the clone programs when a client closes its connection.
const CLOSED_PIPE: u8 = 128 + 13;

/// Writes to standard output. After the first error output is dropped, but the
/// command does its work; [`finish`] reports the error.
pub fn write_out(bytes: &[u8]) {
    if BROKEN.get().is_none()
        && let Err(e) = io::stdout().write_all(bytes)
    {
        let _ = BROKEN.set(e);
    }
}

/// Writes a line to standard output without its lock: a reader that stops reading blocks this
/// thread only, and not [`finish`].
pub fn write_line(out: &mut fs::File, line: &str) {
    if BROKEN.get().is_none()
        && let Err(e) = out.write_all(line.as_bytes())
    {
        let _ = BROKEN.set(e);
    }
}

// In this crate these take the place of std's macros of the same names, which panic
// when the reader of a pipe is gone.
macro_rules! print {
    ($($text:tt)*) => { $crate::output::write_out(format!($($text)*).as_bytes()) };
}
macro_rules! println {
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // Without standard error there is no place to report to.
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Reports how the command ended, and gives the exit status: 0 done, 1 failed, 2 wrong
/// usage, 141 when it was done and the reader of its output was gone.
pub fn finish(done: Result<(), Failure>) -> ExitCode {
    let status = match done {
        Ok(()) => 0,
        Err(Failure::Told) => 1,
        Err(why) => {
            eprintln!("bellwether: {why}");
            if matches!(why, Failure::Usage(_)) { 2 } else { 1 }
        }
    };
    if let Err(e) = io::stdout().flush() {
        let _ = BROKEN.set(e);
    }
    ExitCode::from(match BROKEN.get() {
        Some(e) if e.kind() == io::ErrorKind::BrokenPipe && status == 0 => CLOSED_PIPE,
        Some(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("bellwether: standard output cannot be written: {e}");
            status.max(1)
        }
        _ => status,
    })
}

/// Writes a file atomically: to a temporary file in the same directory, then renames
/// it. `-` is standard output.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |source| Failure::from(Error::Write { path: path.into(), source });
    if path.as_os_str() == "-" {
        write_out(bytes);
        return Ok(());
    }
    // Not replacing devices and pipes, such as /dev/null.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return fs::write(path, bytes).map_err(fail);
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let Some(name) = name else {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    };
    let draft = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = fs::File::create(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&draft);
        fail(e)
    })
}

/// Tells how far a long piece of work is: on a terminal in one line that
/// changes, elsewhere in a line now and then. Nothing within the first second.
#[derive(Debug)]
pub struct Progress {
    unit: &'static str,
    what: String,
    start: Instant,
    told: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// For work counted in `unit`; `bytes` are shown as sizes.
    pub fn new(unit: &'static str) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { unit, what: String::new(), start: Instant::now(), told: None, terminal }
    }

    /// `done` of `all` is done of `what`; `all` is 0 when it is unknown.
    pub fn tell(&mut self, what: &str, done: u64, all: u64) {
        let now = Instant::now();
        if self.what != what {
            self.what = what.to_owned();
            (self.start, self.told) = (now, None);
        }
        let pause = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        let due = self.told.map_or(self.start + Duration::from_secs(1), |told| told + pause);
        if now >= due {
            self.told = Some(now);
            let line = progress_line(what, self.unit, done, all, now - self.start);
            let _ = match self.terminal {
                true => write!(io::stderr(), "\r\x1b[K{line}"),
                false => writeln!(io::stderr(), "{line}"),
            };
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// How far, how fast, how long still.
fn progress_line(what: &str, unit: &str, done: u64, all: u64, spent: Duration) -> String {
    let count = |n: u64| match unit {
        "bytes" => size(usize::try_from(n).unwrap_or(usize::MAX)),
        _ => format!("{n} {unit}"),
    };
    let millis = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    if all == 0 || done == 0 || rate == 0 {
        return format!("{what}: {} s", millis / 1000);
    }
    let left = all.saturating_sub(done) / rate;
    let percent = done.saturating_mul(100) / all;
    format!(
        "{what}: {percent} %, {} of {}, {}/s, {left} s left",
        count(done),
        count(all),
        count(rate)
    )
}

/// The time of files in images: SOURCE_DATE_EPOCH, or else 1970.
pub fn file_time() -> Result<u32, Failure> {
    Ok(mtime_from_epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?)
}

/// Whether file times are to be bound to a moment.
pub fn epoch_given() -> bool {
    std::env::var_os("SOURCE_DATE_EPOCH").is_some()
}

/// A size as people read it: two digits, powers of ten.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1000, bytes % 1000 / 100),
        _ => format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_half_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        write_file(&file, b"first").unwrap();
        write_file(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert!(write_file(&dir.path().join("no/such"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Always full, so writing to it fails as a full disk does.
        match write_file(Path::new("/dev/full"), b"x") {
            Err(Failure::Failed(text)) => assert!(text.contains("the disk is full"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn progress() {
        let line = |done, all| progress_line("hashing", "bytes", done, all, Duration::from_secs(2));
        assert_eq!(
            line(50_000_000, 200_000_000),
            "hashing: 25 %, 50.00 MB of 200.00 MB, 25.00 MB/s, 6 s left"
        );
        assert_eq!(line(0, 0), "hashing: 2 s");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(12_345), "12.3 kB");
        assert_eq!(size(1_987_654), "1.98 MB");
    }
}
