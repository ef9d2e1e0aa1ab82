//! `bellwether share` on a terminal that can be looked at.

use std::path::Path;
use std::time::Duration;

use crate::assets::bellwether;
use crate::lab::Lab;
use crate::{Error, Result, packages, until};

impl Lab {
    /// `bellwether share` on a terminal of 110 columns and 32 lines.
    ///
    /// # Errors
    /// As [`Lab::share`].
    pub fn share_on_a_terminal(&self, medium: &Path, words: &[&str]) -> Result<Terminal<'_>> {
        packages::ensure_all(&[("tmux", "a terminal that can be looked at")])?;
        let socket = self.directory().join("tmux").to_string_lossy().into_owned();
        let words = self.share_words("lan", medium, words)?;
        let quoted = words.iter().map(|word| format!("'{word}'"));
        let command = format!(
            "'{}' {}; sleep 600",
            bellwether()?.display(),
            quoted.collect::<Vec<_>>().join(" ")
        );
        let terminal = Terminal { lab: self, socket };
        terminal.tmux(&["new-session", "-d", "-x", "110", "-y", "32", &command])?;
        Ok(terminal)
    }
}

/// A terminal with a program in it.
#[derive(Debug)]
pub struct Terminal<'lab> {
    lab: &'lab Lab,
    socket: String,
}

impl Terminal<'_> {
    fn tmux(&self, words: &[&str]) -> Result<String> {
        let tmux = ["env", "TERM=xterm", "LC_ALL=C.UTF-8", "tmux", "-S", &self.socket];
        self.lab.namespace().run(&[&tmux[..], words].concat())
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// [`Error::Command`] when the terminal is gone.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Presses keys, as tmux names them.
    ///
    /// # Errors
    /// As [`Terminal::screen`].
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Waits until something is on the screen, and gives all of it.
    ///
    /// # Errors
    /// [`Error::Input`] with the screen when it does not come.
    pub fn expect(&self, wanted: &str, limit: Duration) -> Result<String> {
        let mut screen = String::new();
        let seen = until(wanted, limit, || {
            screen = self.screen()?;
            Ok(screen.contains(wanted))
        });
        match seen {
            Ok(()) => Ok(screen),
            Err(error) => Err(Error::Input(format!("{error}; the screen:\n{screen}"))),
        }
    }
}
