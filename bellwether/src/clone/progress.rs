//! What the user sees while bytes move: amount, percent, rate, time left.

use clone::outcome::{Amount, rate};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line on stderr, renewed twice a second on a terminal and every ten
/// seconds elsewhere.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    shown: Instant,
    every: Duration,
    terminal: bool,
    quiet: bool,
    /// What was there when it began: it is in no rate.
    had: u64,
}

impl Progress {
    /// Starts the clock.
    pub fn new(quiet: bool, had: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_millis(if terminal { 500 } else { 10_000 });
        let now = Instant::now();
        Self { start: now, shown: now, every, terminal, quiet, had }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// How fast it goes, and how many seconds are left.
    pub fn pace(&self, done: u64, total: u64) -> (u64, u64) {
        let rate = rate(done.saturating_sub(self.had), self.elapsed()).0;
        (rate, total.saturating_sub(done).checked_div(rate).unwrap_or(0))
    }

    /// Says how far it is, if it is time to.
    pub fn show(&mut self, done: u64, total: Option<u64>, extra: impl FnOnce() -> String) {
        if self.quiet || self.shown.elapsed() < self.every {
            return;
        }
        self.shown = Instant::now();
        let took = self.start.elapsed();
        let came = done.saturating_sub(self.had);
        let mut line = format!("{} {}/s", Amount(done), rate(came, took));
        if let Some(total) = total.filter(|t| *t > 0) {
            let percent = done as f64 * 100.0 / total as f64;
            let left =
                took.as_secs_f64() * (total.saturating_sub(done)) as f64 / came.max(1) as f64;
            line += &format!(", {percent:.0} %, {left:.0} s left");
        }
        line += &extra();
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Ends the line.
    pub fn end(&self) {
        if self.terminal && !self.quiet {
            eprint!("\r\x1b[K");
        }
    }
}
