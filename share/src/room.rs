//! What the page shows of a room that is cloned.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A page that is looked at asks for the state each second.
const LOOKS: Duration = Duration::from_secs(2);

/// A copy that this process sends: its state, and what begins it.
#[derive(Debug)]
pub struct Room {
    state: Mutex<(String, Option<Instant>)>,
    /// A pipe to the sender: a line begins the copy, as Return does on the terminal.
    begin: File,
}

impl Room {
    /// A room of which nothing is known yet.
    #[must_use]
    pub fn new(begin: File) -> Self {
        Self { state: Mutex::new(("{}".to_owned(), None)), begin }
    }

    /// From now on this JSON object is shown.
    pub fn set(&self, state: String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = state;
    }

    /// Whether a user looks at it.
    pub fn is_seen(&self) -> bool {
        let seen = self.state.lock().unwrap_or_else(PoisonError::into_inner).1;
        seen.is_some_and(|seen| seen.elapsed() < LOOKS)
    }

    /// What is shown.
    pub(crate) fn state(&self) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(Instant::now());
        state.0.clone()
    }

    /// Begins with the machines that are there; false when the sender has ended.
    pub(crate) fn begin(&self) -> bool {
        (&self.begin).write_all(b"\n").is_ok()
    }
}
