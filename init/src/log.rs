//! What PID 1 says: on the console, in the kernel's log, and in a record that
//! outlives it in `/run/bellwether`.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::write;
use sys::clock::Instant;
use sys::file::open;

/// Lines kept for the record; a boot that says more has lost its beginning,
/// not its end.
const MAX_LINES: usize = 2000;

/// Milliseconds since PID 1 started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For a search for a fault afterwards; on the console only with `debug`.
    Detail,
    /// What is being done; not on a `quiet` console.
    Info,
    /// Something is not as it should be; always shown.
    Warning,
    /// Always shown: the end of the boot, good or bad.
    Verdict,
}

/// The console, the kernel's log and the record.
#[derive(Debug)]
pub struct Log {
    console: Option<OwnedFd>,
    kmsg: Option<OwnedFd>,
    started: Instant,
    /// The lowest level that the console shows.
    pub threshold: Level,
    lines: VecDeque<String>,
}

impl Log {
    /// Opens what there is of console and kernel log; `/dev` must be mounted.
    #[must_use]
    pub fn open() -> Self {
        let device = |path: &str| open(path, OFlags::RDWR | OFlags::NOCTTY, 0).ok();
        // Without this (an old kernel has no such file) the kernel keeps ten lines of ours in five seconds.
        let _ = sys::file::write_file("/proc/sys/kernel/printk_devkmsg", b"on\n", 0o644);
        Self {
            console: device("/dev/console"),
            kmsg: open("/dev/kmsg", OFlags::WRONLY, 0).ok(),
            started: Instant::now(),
            threshold: Level::Info,
            lines: VecDeque::new(),
        }
    }

    /// Time since PID 1 started.
    #[must_use]
    pub fn elapsed(&self) -> Millis {
        Millis(Instant::now().millis().saturating_sub(self.started.millis()))
    }

    /// The console, for a menu or a shell.
    #[must_use]
    pub fn console(&self) -> Option<&OwnedFd> {
        self.console.as_ref()
    }

    /// Says one line; control characters from outside are made harmless.
    pub fn say(&mut self, level: Level, text: &str) {
        let text = printable(text);
        if let Some(kmsg) = &self.kmsg {
            // Priority 7 keeps it off the console, which gets its own copy.
            // Words that cannot be said cannot be complained about either.
            let _ = write(kmsg, format!("<7>bellwether: {text}\n").as_bytes());
        }
        if level >= self.threshold
            && let Some(console) = &self.console
        {
            // Without a reader the record still has it.
            let _ = write(console, format!("bellwether: {text}\r\n").as_bytes());
        }
        if self.lines.len() >= MAX_LINES {
            self.lines.pop_front();
        }
        let mark = if level >= Level::Warning { "!" } else { " " };
        self.lines.push_back(format!("{:>7}{mark} {text}", self.elapsed().0));
    }

    /// Shows a line on the console only, as it is.
    pub fn print(&self, text: &str) {
        self.write(&format!("{text}\r\n"));
    }

    /// Shows a text on the console only, without ending the line.
    pub fn write(&self, text: &str) {
        if let Some(console) = &self.console {
            // There is no other place for what only concerns who sits there.
            let _ = write(console, text.as_bytes());
        }
    }

    /// Says what is being done.
    pub fn info(&mut self, text: &str) {
        self.say(Level::Info, text);
    }

    /// Says what is being done; on the console only the first of several tries that fail alike.
    pub fn info_once(&mut self, text: &str) {
        let said = self.lines.iter().rev().take(4).any(|line| line.ends_with(text));
        self.say(if said { Level::Detail } else { Level::Info }, text);
    }

    /// Says what a fault finder may want.
    pub fn detail(&mut self, text: &str) {
        self.say(Level::Detail, text);
    }

    /// Says what is not as it should be.
    pub fn warn(&mut self, text: &str) {
        self.say(Level::Warning, text);
    }

    /// The whole record, one line each: milliseconds, `!` for warnings, text.
    #[must_use]
    pub fn record(&self) -> String {
        let mut record = String::new();
        for line in &self.lines {
            record.push_str(line);
            record.push('\n');
        }
        record
    }
}

/// Text from outside must not move the cursor or start a new line of ours.
fn printable(text: &str) -> String {
    if text.chars().all(|c| !c.is_control()) {
        return text.to_string();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rustix::pipe::pipe;

    use super::*;

    /// A log whose console and kernel log are pipes, and their other ends.
    fn piped() -> (Log, std::fs::File, std::fs::File) {
        let (console, console_in) = pipe().unwrap();
        let (kmsg, kmsg_in) = pipe().unwrap();
        let log = Log {
            console: Some(console_in),
            kmsg: Some(kmsg_in),
            started: Instant::now(),
            threshold: Level::Info,
            lines: VecDeque::new(),
        };
        (log, console.into(), kmsg.into())
    }

    fn rest(mut from: std::fs::File) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn details_stay_off_the_console_and_all_reaches_the_kernel_s_log_and_the_record() {
        let (mut log, console, kmsg) = piped();
        log.detail("one");
        log.info("two");
        log.warn("three");
        let record = log.record();
        drop(log);
        assert_eq!(rest(console), "bellwether: two\r\nbellwether: three\r\n");
        assert_eq!(rest(kmsg), "<7>bellwether: one\n<7>bellwether: two\n<7>bellwether: three\n");
        let lines: Vec<&str> = record.lines().filter_map(|line| line.get(7..)).collect();
        assert_eq!(lines, ["  one", "  two", "! three"]);
    }

    #[test]
    fn text_from_outside_neither_moves_the_cursor_nor_forges_a_line() {
        let (mut log, console, kmsg) = piped();
        log.info("a\r\n<0>kernel: b\x1b[2J");
        drop(log);
        assert_eq!(rest(console), "bellwether: a  <0>kernel: b [2J\r\n");
        assert_eq!(rest(kmsg), "<7>bellwether: a  <0>kernel: b [2J\n");
    }

    #[test]
    fn a_long_boot_loses_the_beginning_of_its_record_and_not_the_end() {
        let mut log = Log {
            console: None,
            kmsg: None,
            started: Instant::now(),
            threshold: Level::Info,
            lines: VecDeque::new(),
        };
        for number in 0..=MAX_LINES {
            log.info(&format!("line {number}."));
        }
        let record = log.record();
        assert_eq!(record.lines().count(), MAX_LINES);
        assert!(!record.contains("line 0.") && record.contains("line 1."));
        assert!(record.trim_end().ends_with(&format!("line {MAX_LINES}.")));
    }
}
