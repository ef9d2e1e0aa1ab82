//! What a machine prints: kept whole, searched with time limits.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result, shell};

/// Words that end every wait: nothing sensible follows them.
const FATAL: [&str; 2] = ["Kernel panic - not syncing", "end Kernel panic"];

/// Output of a serial line, free of colours and carriage returns.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    /// Everything before has been matched by an `expect`.
    seen: usize,
    closed: bool,
    /// When the last text came, and the longest time before one.
    last: Option<Instant>,
    silence: Duration,
}

impl Console {
    /// Reads `source` to its end in a thread, into memory and into `transcript`;
    /// where each line gets the seconds since the start; every byte goes to `tap` as
    /// it came, for a terminal.
    pub fn follow(
        mut source: impl Read + Send + 'static,
        transcript: &Path,
        mut tap: Option<Box<dyn Write + Send>>,
    ) -> Result<Console> {
        let mut file = File::create(transcript).map_err(Error::at("create", transcript))?;
        let state = Mutex::new(State::default());
        let console = Console { shared: Arc::new(Shared { state, news: Condvar::new() }) };
        let reader = console.clone();
        thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                let mut buffer = [0u8; 4096];
                let mut plain = Plain::default();
                let start = Instant::now();
                let mut new_line = true;
                while let Ok(count @ 1..) = source.read(&mut buffer) {
                    let raw = buffer.get(..count).unwrap_or_default();
                    if let Some(tap) = &mut tap {
                        // The terminal may be gone; the test goes on.
                        let _ = tap.write_all(raw).and_then(|()| tap.flush());
                    }
                    let text = plain.feed(raw);
                    // A full disk must not look like a silent machine.
                    for piece in text.split_inclusive('\n') {
                        if std::mem::replace(&mut new_line, piece.ends_with('\n')) {
                            let _ = write!(file, "{:7.2} ", start.elapsed().as_secs_f32());
                        }
                        let _ = file.write_all(piece.as_bytes());
                    }
                    reader.lock().hear(&text);
                    reader.shared.news.notify_all();
                }
                reader.lock().closed = true;
                reader.shared.news.notify_all();
            })
            .map_err(Error::io("start a thread"))?;
        Ok(console)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one of `wanted` after what was matched before; returns its index
    /// and the text up to and with it.
    pub fn expect(&self, wanted: &[&str], limit: Duration) -> Result<(usize, String)> {
        let end = Instant::now() + limit;
        let waiting = || wanted.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" or ");
        let mut state = self.lock();
        loop {
            let new = state.text.get(state.seen..).unwrap_or_default();
            let hits = wanted.iter().enumerate();
            let first =
                hits.filter_map(|(index, word)| Some((new.find(word)? + word.len(), index))).min();
            if let Some((length, index)) = first {
                let text = new.get(..length).unwrap_or_default().to_owned();
                state.seen += length;
                return Ok((index, text));
            }
            let fatal = FATAL.iter().find(|word| new.contains(**word));
            if let Some(instead) = fatal.copied().or(state.closed.then_some("the machine ended")) {
                let tail = shell::last_lines(&state.text, 40);
                return Err(Error::Machine { waiting: waiting(), instead: instead.into(), tail });
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                let tail = shell::last_lines(&state.text, 40);
                let seconds = limit.as_secs();
                return Err(Error::Timeout { waiting: waiting(), seconds, tail });
            };
            let wait = self.shared.news.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The longest time between two texts so far.
    pub fn longest_silence(&self) -> Duration {
        self.lock().silence
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// Waits until the machine has ended.
    pub fn wait_closed(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !state.closed {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                let tail = shell::last_lines(&state.text, 40);
                let waiting = "end of the machine".into();
                return Err(Error::Timeout { waiting, seconds: limit.as_secs(), tail });
            };
            let wait = self.shared.news.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl State {
    fn hear(&mut self, text: &str) {
        let now = Instant::now();
        let since = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        self.silence = self.silence.max(since);
        self.text.push_str(text);
    }
}

/// Turns terminal output into plain text: drops escape sequences and carriage
/// returns, replaces what is not UTF-8. Sequences may be cut anywhere.
#[derive(Debug, Default)]
struct Plain {
    mode: Mode,
    /// The beginning of a character that is not complete yet.
    partial: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Mode {
    #[default]
    Text,
    Escape,
    /// `ESC [` … final byte 0x40–0x7e (ECMA-48, 5.4).
    Control,
    /// `ESC ]`, `ESC P`, … BEL or `ESC \`.
    String,
}

impl Plain {
    fn feed(&mut self, raw: &[u8]) -> String {
        for &byte in raw {
            self.mode = match (self.mode, byte) {
                (_, 0x1b) => Mode::Escape,
                (Mode::Text, b'\r' | 0 | 7) => Mode::Text,
                (Mode::Text, byte) => {
                    self.partial.push(byte);
                    Mode::Text
                }
                (Mode::Escape, b'[') => Mode::Control,
                (Mode::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Mode::String,
                // Intermediate bytes as in `ESC ( B`.
                (Mode::Escape, 0x20..=0x2f) => Mode::Escape,
                (Mode::Escape, _) | (Mode::Control, 0x40..=0x7e) | (Mode::String, 7) => Mode::Text,
                (mode @ (Mode::Control | Mode::String), _) => mode,
            };
        }
        let complete = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let rest = self.partial.split_off(complete);
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial = rest;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn plain(pieces: &[&[u8]]) -> String {
        let mut plain = Plain::default();
        pieces.iter().map(|piece| plain.feed(piece)).collect()
    }

    #[test]
    fn removes_colours_wherever_they_are_cut() {
        assert_eq!(plain(&[b"a\x1b[1;3", b"2mOK\x1b", b"[0m\r\nb"]), "aOK\nb");
        assert_eq!(plain(&[b"\x1b]0;title\x07x\x1b(By"]), "xy");
        assert_eq!(plain(&[b"\xe2\x97", b"\x8f\xff."]), "●\u{fffd}.");
    }

    #[test]
    fn expects_in_order_and_reports_the_end() {
        let dir = std::env::temp_dir().join(format!("console-{}", std::process::id()));
        let console = Console::follow(Cursor::new("one two two"), &dir, None).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(console.expect(&["zwei", "two"], second).unwrap(), (1, "one two".into()));
        assert_eq!(console.expect(&["two"], second).unwrap().1, " two");
        let error = console.expect(&["two"], second).unwrap_err().to_string();
        assert!(error.starts_with("the machine ended while waiting for \"two\""), "{error}");
        console.wait_closed(second).unwrap();
        std::fs::remove_file(dir).unwrap();
    }

    #[test]
    fn a_panic_ends_the_wait() {
        let dir = std::env::temp_dir().join(format!("console-panic-{}", std::process::id()));
        let text = "boot\nKernel panic - not syncing: VFS\nlogin:";
        let console = Console::follow(Cursor::new(text), &dir, None).unwrap();
        assert!(console.expect(&["nothing"], Duration::from_secs(5)).is_err());
        std::fs::remove_file(dir).unwrap();
    }
}
