//! Runs programs: to the end ([`run`]), or as servers that die with us ([`Daemon`]).
//!
//! Every child gets a closed stdin, its own process group, and a parent-death
//! signal (through `setpriv`, so that no `unsafe` is needed here): a killed test
//! run leaves no server behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// `PATH` for children: Debian keeps `depmod`, `ip` and friends where plain users
/// do not look.
const SBIN: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with a sane environment: English messages, sbin in the path.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{SBIN}")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs `command` to its end and returns what it printed on stdout.
///
/// # Errors
/// [`Error::Io`] when it cannot be started, [`Error::Command`] when it fails; the
/// end of stdout and stderr is in the message.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out = command.output().map_err(Error::io(format!("start `{shown}`")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let mut all = out.stdout;
    all.extend_from_slice(&out.stderr);
    let text = String::from_utf8_lossy(&all);
    Err(Error::Command {
        command: shown,
        status: out.status.to_string(),
        output: last_lines(&text, 25),
    })
}

/// Runs a literal list of words and returns what it printed.
///
/// # Errors
/// [`Error::Command`] when it does not start or fails.
pub fn sh(words: &[&str]) -> Result<String> {
    let (program, args) =
        words.split_first().ok_or_else(|| Error::Input("an empty command".into()))?;
    run(command(program).args(args))
}

/// The command as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The last `n` lines of `text`.
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(n);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// A background program with its log in a file. Dropping it kills its group.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, stdout and stderr appended to `log`.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be opened or the program not started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Daemon> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(Error::at("open the log", log))?;
        let err = out.try_clone().map_err(Error::at("open the log", log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("start `{}`", show(&command))))?;
        Ok(Daemon { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// The same, and waits until the log has `ready` once more than before.
    ///
    /// # Errors
    /// As [`Daemon::start`] and [`Daemon::wait_until`].
    pub fn start_until(
        name: &str,
        command: Command,
        log: &Path,
        ready: &str,
        limit: Duration,
    ) -> Result<Daemon> {
        let count = || std::fs::read_to_string(log).unwrap_or_default().matches(ready).count();
        let before = count();
        let mut daemon = Daemon::start(name, command, log)?;
        daemon.wait_until(limit, || count() > before)?;
        Ok(daemon)
    }

    /// Waits until `ready` says so, failing at once when the program has ended.
    ///
    /// # Errors
    /// [`Error::Command`] with the end of the log when it ended or never got ready.
    pub fn wait_until(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            if ready() {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(Error::io("wait for a server"))?;
            if ended.is_some() || start.elapsed() > limit {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Error::Command {
                    command: self.name.clone(),
                    status: ended.map_or("no sign of being ready".into(), |s| s.to_string()),
                    output: last_lines(&log, 25),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// Kills a child and everything in its process group, and reaps it.
pub fn kill_group(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let group = format!("-{}", child.id());
        // Failure means that it is gone already.
        let _ = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = child.kill();
    }
    let _ = child.wait();
}
