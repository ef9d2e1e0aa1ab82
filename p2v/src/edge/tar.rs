//! `ssh://`: a host with sshd and tar takes the used bytes of a disk as a sparse archive.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use sys::clock::Instant;

use super::disk::Disk;
use super::ssh::{Heard, LOGIN, Login, Ssh, silent};
use super::{Arrived, Digest, PAUSE, World, canceled, pause, wait};
use crate::script::{MEMBER, receive};
use crate::tar;
use crate::trouble::Trouble;

/// Bytes that are read of the disk at once.
const PIECE: u64 = 1 << 20;
/// How often an archive is begun anew after the connection broke in the middle.
const TRIES: u32 = 3;

/// What the script's exit statuses mean; see [`receive`].
const STATUSES: [(&str, &str, &str); 2] = [
    (
        "exists ",
        "there is such a file on the server, and none is overwritten",
        "move it, or give another name with p2v.name or another path",
    ),
    ("nodirectory ", "there is no such directory on the server", "make it, or give another path"),
];

/// How long the server may take nothing.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 600 });

/// Sends one disk to a path of the server: a directory, in which the file gets `name`, or the
/// file's own. Nothing has that name before it is whole.
///
/// # Errors
/// There is no login, no such directory, no room; the file is there; the disk cannot be read;
/// the digest at the other end is another.
pub fn archive(
    world: &mut dyn World,
    login: &Login<'_>,
    disk: &mut Disk,
    (path, name): (&str, &str),
) -> Result<Arrived, Trouble> {
    let mut attempt = 1;
    loop {
        let mut sending = Sending::new(disk, login.start(&[], &receive(path, name))?);
        match sending.run(world) {
            Ok(arrived) => return Ok(arrived),
            Err(trouble) if sending.cut && attempt < TRIES => {
                world.say(&format!("the connection broke ({trouble}); the archive begins anew"));
                attempt += 1;
                drop(sending);
                pause(world, PAUSE)?;
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

struct Sending<'d> {
    disk: &'d mut Disk,
    ssh: Ssh,
    digest: Digest,
    /// Which extent is next, and how far it is.
    next: usize,
    at: u64,
    sent: u64,
    stage: Stage,
    /// The connection ended in the middle, and no program said why.
    cut: bool,
    /// The digest at the other end, and the file.
    there: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Login,
    Bytes,
    Ended,
}

impl<'d> Sending<'d> {
    fn new(disk: &'d mut Disk, ssh: Ssh) -> Self {
        Self {
            disk,
            ssh,
            digest: Digest::new(),
            next: 0,
            at: 0,
            sent: 0,
            stage: Stage::Login,
            cut: false,
            there: None,
        }
    }

    fn run(&mut self, world: &mut dyn World) -> Result<Arrived, Trouble> {
        let total = self.disk.map.used_bytes();
        let login = Instant::now().after(LOGIN);
        let (mut taken, mut stall) = (0, Instant::now().after(STALL));
        while !self.ssh.ended() {
            let fds: Vec<_> = self.ssh.fds().collect();
            wait(&fds, None);
            drop(fds);
            if !world.go_on() {
                return Err(canceled());
            }
            for heard in self.ssh.go_on(world) {
                let Heard::Report(report) = heard else { continue };
                self.report(world, &report)?;
            }
            // The pipe to the client is never empty while there is something to send.
            while self.stage == Stage::Bytes && self.ssh.waiting() < PIECE as usize {
                self.piece()?;
            }
            if self.stage == Stage::Ended && self.ssh.waiting() == 0 {
                self.ssh.end_input();
            }
            if self.stage == Stage::Login {
                if let Some(trouble) = &self.ssh.trouble {
                    return Err(trouble.clone());
                }
                if login.is_past() {
                    return Err(silent());
                }
            }
            // What is taken is written there, and a disk takes its time; the digest takes longer.
            let now = self.sent.saturating_sub(self.ssh.waiting() as u64);
            if now != taken || self.ssh.waiting() == 0 {
                (taken, stall) = (now, Instant::now().after(STALL));
            }
            if stall.is_past() {
                return Err(Trouble::new(
                    &format!(
                        "the ssh server has taken none of {} in {} s",
                        self.disk.name,
                        STALL.as_secs()
                    ),
                    "see there whether tar runs and its disk takes what it writes",
                ));
            }
            if self.sent > 0 {
                world.progress(self.sent.min(total), total);
            }
        }
        let Some((digest, file)) = self.there.take() else {
            let trouble = self.ssh.why("the connection ended in the middle");
            self.cut = self.stage != Stage::Login
                && self.ssh.trouble.is_none()
                && self.ssh.last.iter().all(|line| crate::script::trouble(line).is_none());
            return Err(trouble);
        };
        self.digest.zeros(self.disk.map.size());
        let ours = core::mem::replace(&mut self.digest, Digest::new()).finish();
        if ours != digest {
            return Err(Trouble::new(
                &format!(
                    "{file} on the server has another digest ({digest}) than the disk ({ours})"
                ),
                "remove it there and send it again; when it happens again, check the memory of \
                 both machines",
            ));
        }
        Ok(Arrived { sha256: ours, sent: self.sent, compared: true })
    }

    fn report(&mut self, world: &mut dyn World, report: &str) -> Result<(), Trouble> {
        for (start, why, remedy) in STATUSES {
            if let Some(file) = report.strip_prefix(start) {
                return Err(Trouble::new(&format!("{file}: {why}"), remedy));
            }
        }
        if let Some(file) = report.strip_prefix("ready ") {
            world.say(&format!("sending {} to {file}", self.disk.name));
            let head = tar::head(MEMBER, &self.disk.map);
            self.sent += head.len() as u64;
            self.ssh.send(&head);
            self.stage = Stage::Bytes;
        }
        if let Some(rest) = report.strip_prefix("sha256 ") {
            let (digest, file) = rest.split_once(' ').unwrap_or((rest, ""));
            self.there = Some((digest.to_string(), file.to_string()));
        }
        Ok(())
    }

    /// The next bytes of the archive.
    fn piece(&mut self) -> Result<(), Trouble> {
        let Some(range) = self.disk.map.used().get(self.next).cloned() else {
            let tail = tar::tail(&self.disk.map);
            self.ssh.send(&tail);
            self.stage = Stage::Ended;
            return Ok(());
        };
        let from = self.at.max(range.start);
        let to = from.saturating_add(PIECE).min(range.end);
        let mut bytes = alloc::vec![0; usize::try_from(to - from).unwrap_or(0)];
        self.disk.read(from, &mut bytes)?;
        self.digest.zeros(from);
        self.digest.bytes(from, &bytes);
        self.sent += bytes.len() as u64;
        self.ssh.send(&bytes);
        self.at = to;
        if to == range.end {
            self.next += 1;
        }
        Ok(())
    }
}
