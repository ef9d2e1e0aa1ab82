//! The golden node: programs that send a disk to the machines of a lab.

use std::path::Path;

use super::share::READY;
use crate::packages;
use crate::shell::Daemon;
use crate::{Lab, Result, secs};

impl Lab {
    /// Starts a program that sends a copy, in the lab's network. It ends when its
    /// receivers have everything, and is stopped when dropped.
    ///
    /// # Errors
    /// When it is not there, or cannot be started.
    pub fn golden_node(&self, words: &[&str]) -> Result<Daemon> {
        packages::ensure_all(packages::FOR_ROOMS)?;
        let (program, rest) = words.split_first().unwrap_or((&"false", &[]));
        let mut command = self.namespace().command(program);
        command.args(rest);
        Daemon::start("golden node", command, &self.directory().join("golden.log"))
    }

    /// Starts Debian's udp-sender with a file for one machine.
    ///
    /// # Errors
    /// As [`Lab::golden_node`].
    pub fn udp_sender(&self, file: &Path) -> Result<Daemon> {
        packages::ensure_all(packages::FOR_ROOMS)?;
        let mut command = self.namespace().released("udp-sender");
        command.args(["--interface", "lan", "--nokbd", "--min-receivers", "1"]);
        command.args(["--max-wait", "60", "--file"]).arg(file);
        Daemon::start("udp-sender", command, &self.directory().join("golden.log"))
    }

    /// Starts a program that serves a room of machines, and waits until they may be
    /// switched on.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn clone_room(&self, words: &[&str]) -> Result<Daemon> {
        let (program, rest) = words.split_first().unwrap_or((&"false", &[]));
        let mut command = self.namespace().command(program);
        command.args(rest);
        let log = self.directory().join("room.log");
        // A debug build packs an image of itself and of the tools first.
        Daemon::start_until("the room", command, &log, READY, secs(400))
    }
}
