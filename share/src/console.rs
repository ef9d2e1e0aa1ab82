//! Lines for a terminal or a pipe that may not be read.
//!
//! A thread writes; the threads that serve clients only append to a bounded queue. A terminal
//! that was stopped with Ctrl-S, or a pager at the other end of a pipe, therefore stops no
//! service. Lines that do not fit are dropped and counted, and the count is written later.

use crate::error::Error;
use crate::privileges::keep_no_capability;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait. More means that nothing is read any more.
const MAX_LINES: usize = 1000;
/// The longest line, in bytes.
const MAX_LINE: usize = 4096;

/// Lines on their way to a terminal or pipe.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    /// Makes the line that says how many were dropped.
    note: fn(u64) -> String,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    /// Lines that did not fit since the last note.
    dropped: u64,
    /// The thread is writing a line.
    writing: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// Starts the thread. `write` is given one line at a time, with its end, and may block;
    /// `note` words the line that replaces a number of dropped ones.
    ///
    /// # Errors
    /// [`Error::System`] when the thread cannot be started.
    pub fn start(
        mut write: impl FnMut(&str) + Send + 'static,
        note: fn(u64) -> String,
    ) -> Result<Self, Error> {
        let console = Self { shared: Arc::default(), note };
        let own = console.clone();
        let thread = thread::Builder::new().name("console".into());
        let started = thread.spawn(move || {
            // The kernel refuses this to no thread; where it did, `drop_root` would end the program.
            let _ = keep_no_capability();
            loop {
                write(&own.next());
            }
        });
        started.map(|_| console).map_err(Error::system("start a thread"))
    }

    /// The next line to write; waits for it.
    fn next(&self) -> String {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.writing = false;
        loop {
            let line = match queue.lines.pop_front() {
                None if queue.dropped > 0 => Some((self.note)(std::mem::take(&mut queue.dropped))),
                line => line,
            };
            if let Some(mut line) = line {
                queue.writing = true;
                line.push('\n');
                return line;
            }
            self.shared.changed.notify_all();
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds a line without waiting, or drops and counts it.
    pub fn say(&self, mut line: String) {
        let end = line.floor_char_boundary(MAX_LINE);
        line.truncate(end);
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() >= MAX_LINES {
            queue.dropped = queue.dropped.saturating_add(1);
            return;
        }
        if queue.dropped > 0 {
            let note = (self.note)(std::mem::take(&mut queue.dropped));
            queue.lines.push_back(note);
        }
        queue.lines.push_back(line);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until every line is written, at most for this time. Returns whether they are.
    pub fn flush(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.writing || !queue.lines.is_empty() || queue.dropped > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(20);

    fn note(count: u64) -> String {
        format!("{count} dropped")
    }

    #[test]
    fn every_line_is_written_in_order() {
        let (to, from) = mpsc::channel();
        let console = Console::start(move |line| to.send(line.to_owned()).unwrap(), note).unwrap();
        for n in 0..100 {
            console.say(n.to_string());
        }
        assert!(console.flush(LONG));
        let wanted: Vec<String> = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(from.try_iter().collect::<Vec<_>>(), wanted);
    }

    /// A pipe that is not read: saying goes on, and what was dropped is counted.
    #[test]
    fn a_reader_that_stops_stops_no_service() {
        let (to, from) = mpsc::sync_channel(0);
        let console = Console::start(move |line| to.send(line.to_owned()).unwrap(), note).unwrap();
        for n in 0..MAX_LINES + 500 {
            console.say(n.to_string());
        }
        assert!(!console.flush(Duration::from_millis(10)));
        let (mut lines, mut dropped) = (Vec::new(), 0);
        while lines.len() + dropped < MAX_LINES + 500 {
            let line = from.recv().unwrap();
            match line.split_once(" dropped") {
                Some((count, _)) => dropped += count.parse::<usize>().unwrap(),
                None => lines.push(line),
            }
        }
        assert!(lines.len() >= MAX_LINES && lines[7] == "7\n");
        console.say("after".into());
        assert_eq!(from.recv().unwrap(), "after\n");
        assert!(console.flush(LONG));
    }

    #[test]
    fn a_line_has_an_end() {
        let (to, from) = mpsc::channel();
        let console = Console::start(move |line| to.send(line.len()).unwrap(), note).unwrap();
        console.say("ä".repeat(MAX_LINE));
        assert_eq!(from.recv().unwrap(), MAX_LINE + 1);
    }
}
