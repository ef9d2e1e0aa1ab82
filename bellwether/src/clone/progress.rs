//! What the user sees while bytes move: amount, percent, rate, time left.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Bytes in words.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// Bytes per second in words.
pub fn rate(n: u64, took: Duration) -> String {
    let rate = n as f64 / took.as_secs_f64().max(1e-6);
    format!("{}/s", bytes(rate as u64))
}

/// A line on stderr, renewed twice a second on a terminal and every ten
/// seconds elsewhere.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    shown: Instant,
    every: Duration,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_millis(if terminal { 500 } else { 10_000 });
        let now = Instant::now();
        Self { start: now, shown: now, every, terminal, quiet }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Says how far it is, if it is time to.
    pub fn show(&mut self, done: u64, total: Option<u64>, extra: impl FnOnce() -> String) {
        if self.quiet || self.shown.elapsed() < self.every {
            return;
        }
        self.shown = Instant::now();
        let took = self.start.elapsed();
        let mut line = format!("{} {}", bytes(done), rate(done, took));
        if let Some(total) = total.filter(|t| *t > 0) {
            let percent = done as f64 * 100.0 / total as f64;
            let left =
                took.as_secs_f64() * (total.saturating_sub(done)) as f64 / done.max(1) as f64;
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
