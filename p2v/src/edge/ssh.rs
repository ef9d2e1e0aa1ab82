//! An ssh client as a child process, with pipes in the place of a terminal.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::time::Duration;

use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use sys::clock::Instant;
use sys::process::{Child, Exit};

use super::{World, broken};
use crate::script::{self, MARK};
use crate::ssh::{Listener, Said, judge, same_key, unanswered, wrong_key};
use crate::trouble::Trouble;

/// How long a login may take: ssh servers wait two minutes for a password.
pub const LOGIN: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 90 });
/// Lines of the server that are shown before the login: a banner of some screens.
const BANNER: usize = 60;
/// How long the client's question stands before it is one: a program at the other end may write
/// a line in pieces.
const ASKED: Duration = Duration::from_secs(3);
/// Lines of programs at the other end that are kept to say why something failed.
const KEPT: usize = 200;
/// Sent bytes are dropped from memory in pieces of this length.
const FORGET: usize = 1 << 20;
/// Room in the pipe to the client: a larger one needs fewer turns.
const PIPE: usize = 1 << 20;
const MAX_LINE: usize = 16 << 10;

/// Where to, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Login<'a> {
    /// The path of `dbclient`, or of OpenSSH's `ssh`.
    pub program: &'a str,
    /// For `ssh`: the path of a program that runs [`judge_for_ssh`].
    pub judge: &'a str,
    /// For `ssh` with a password: the path of a program that prints it.
    pub askpass: &'a str,
    /// The server.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The user there.
    pub user: &'a str,
    /// The password, unless there is a key.
    pub password: Option<&'a str>,
    /// The path of a private key in the client's form.
    pub key: Option<&'a str>,
    /// The fingerprint that the host's key must have.
    pub pin: Option<&'a str>,
}

/// No directory can be made in it: the client keeps no list of known hosts, and asks about
/// every key.
const HOME: &str = "HOME=/dev/null";

/// A line that came from the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A report of our script there.
    Report(String),
    /// The server listens for what goes to a port here.
    Port {
        /// Here.
        local: u16,
        /// There.
        remote: u16,
    },
}

/// The client and what it has said.
pub struct Ssh {
    child: Child,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    pending: Vec<u8>,
    sent: usize,
    line: Vec<u8>,
    listener: Listener,
    /// The client wants an answer about the host's key.
    asks: bool,
    pin: Option<String>,
    /// The client has asked about the host's key, and the answer was yes.
    trusted: bool,
    /// The server has let in: it listens for us, or our script there has said something.
    logged_in: bool,
    /// Our script has.
    spoke: bool,
    /// Lines that were shown before the login.
    early: usize,
    /// What the client asks, and when that has stood too long.
    question: Option<(String, Instant)>,
    /// The last lines of programs there.
    pub last: Vec<String>,
    /// Why it ended, as far as the client told.
    pub trouble: Option<Trouble>,
}

impl core::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ssh client {}", self.child.pid())
    }
}

impl Login<'_> {
    /// Starts the client, with these ports here forwarded from ports there.
    ///
    /// # Errors
    /// The client is not there, or the kernel has no pipe or process left.
    pub fn start(&self, forwards: &[u16], command: &str) -> Result<Ssh, Trouble> {
        self.spawn(forwards, command).map_err(|errno| {
            let why = format!("{} does not start: {}", self.program, broken(errno));
            Trouble::new(&why, "bellwether build --ssh puts an ssh client in the image")
        })
    }

    fn spawn(&self, forwards: &[u16], command: &str) -> Result<Ssh, Errno> {
        let own = |list: Vec<String>| -> Vec<CString> {
            list.into_iter().map(|word| CString::new(word).unwrap_or_default()).collect()
        };
        let program = CString::new(self.program).unwrap_or_default();
        let (words, env) = (own(self.words(forwards, command)), own(self.environment()));
        let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
        let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
        let (child_in, input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, child_out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, child_err) = pipe_with(PipeFlags::CLOEXEC)?;
        let child = sys::process::fork(|| {
            // Without a terminal it asks its standard input about the host's key.
            let _ = setsid();
            let ready = dup2_stdin(&child_in)
                .and_then(|()| dup2_stdout(&child_out))
                .and_then(|()| dup2_stderr(&child_err));
            match ready {
                Ok(()) => sys::process::exec(&program, &words, &env).raw_os_error(),
                Err(errno) => errno.raw_os_error(),
            }
        })?;
        for fd in [&input, &output, &errors] {
            fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        // A smaller one serves, too.
        let _ = fcntl_setpipe_size(&input, PIPE);
        let openssh = self.is_openssh();
        Ok(Ssh {
            child,
            input: Some(input),
            output: Some(output),
            errors: Some(errors),
            pending: Vec::new(),
            sent: 0,
            line: Vec::new(),
            listener: if openssh { Listener::of_openssh() } else { Listener::default() },
            asks: !openssh,
            pin: self.pin.map(ToString::to_string),
            trusted: false,
            logged_in: false,
            spoke: false,
            early: 0,
            question: None,
            last: Vec::new(),
            trouble: None,
        })
    }

    fn is_openssh(&self) -> bool {
        self.program.ends_with("/ssh")
    }

    /// The password, where it is what the client logs in with.
    fn asked_password(&self) -> Option<&str> {
        self.password.filter(|_| self.key.is_none())
    }

    fn words(&self, forwards: &[u16], command: &str) -> Vec<String> {
        let mut words = match self.is_openssh() {
            true => self.openssh(),
            false => ["dbclient", "-T", "-K", "20"].map(ToString::to_string).into(),
        };
        if let Some(key) = self.key {
            words.extend(["-i".to_string(), key.to_string()]);
        }
        words.extend(["-p".to_string(), self.port.to_string()]);
        for port in forwards {
            // No name: an initramfs has no list of hosts, and a client that cannot resolve
            // `localhost` closes what comes through the tunnel.
            words.extend(["-R".to_string(), format!("0:127.0.0.1:{port}")]);
        }
        words.extend([format!("{}@{}", self.user, self.host), command.to_string()]);
        words
    }

    fn environment(&self) -> Vec<String> {
        let mut env = Vec::from(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", HOME].map(String::from));
        match self.asked_password() {
            Some(_) if self.is_openssh() => {
                env.push(format!("SSH_ASKPASS={}", self.askpass));
                env.push("SSH_ASKPASS_REQUIRE=force".to_string());
            }
            Some(password) => env.push(format!("DROPBEAR_PASSWORD={password}")),
            None => {}
        }
        env
    }

    /// Words for OpenSSH's client: no files of settings or hosts, no questions, and the host's
    /// key judged by our program.
    fn openssh(&self) -> Vec<String> {
        let judge = format!("{} %H %t %K %f {}", self.judge, self.pin.unwrap_or("any"));
        let (batch, kinds) = match self.asked_password() {
            Some(_) => ("no", "password,keyboard-interactive"),
            None => ("yes", "publickey"),
        };
        let options = [
            ("BatchMode", batch),
            ("NumberOfPasswordPrompts", "1"),
            ("PreferredAuthentications", kinds),
            ("StrictHostKeyChecking", "yes"),
            ("UserKnownHostsFile", "/dev/null"),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("KnownHostsCommand", &judge),
            ("ExitOnForwardFailure", "yes"),
            ("ServerAliveInterval", "20"),
            ("IdentitiesOnly", "yes"),
        ];
        let words = ["ssh", "-T", "-F", "none"].map(ToString::to_string);
        let options = options.iter().map(|(name, value)| format!("-o{name}={value}"));
        words.into_iter().chain(options).collect()
    }
}

/// The program that OpenSSH's client asks about a host's key: see [`judge`].
pub fn judge_for_ssh<'a>(words: impl Iterator<Item = &'a CStr>) -> i32 {
    let words: Vec<_> = words.map(CStr::to_string_lossy).collect();
    let [host, kind, key, shown, pin] = &words[..] else { return 2 };
    let (line, told) = judge([host, kind, key, shown, pin]);
    print(2, told.as_bytes());
    print(1, line.as_bytes())
}

/// Writes to this process's own standard output (1) or error (2); the exit status for it.
pub fn print(descriptor: u8, text: &[u8]) -> i32 {
    let own = sys::file::open(&format!("/proc/self/fd/{descriptor}"), OFlags::WRONLY, 0);
    i32::from(own.and_then(|own| write(own, text)).is_err())
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.child.end();
    }
}

impl Ssh {
    /// What to wait for.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let input = self.input.iter().filter(|_| !self.pending.is_empty());
        let input = input.map(|fd| (fd.as_fd(), PollFlags::OUT));
        let outputs = self.output.iter().chain(&self.errors).map(|fd| (fd.as_fd(), PollFlags::IN));
        input.chain(outputs)
    }

    /// Bytes for the program there; they are sent by and by.
    pub fn send(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// How many bytes are still to be sent.
    pub fn waiting(&self) -> usize {
        self.pending.len().saturating_sub(self.sent)
    }

    /// No more will be sent.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Whether both outputs have ended: the client ends now, or has ended.
    pub fn ended(&self) -> bool {
        self.output.is_none() && self.errors.is_none()
    }

    /// How the client ended, once [`Self::ended`].
    pub fn exit(&self) -> Option<Exit> {
        self.child.wait().ok()
    }

    /// Does all that can be done now.
    pub fn go_on(&mut self, world: &mut dyn World) -> Vec<Heard> {
        self.flush();
        let mut heard = Vec::new();
        let errors = drain(&mut self.errors);
        for said in self.listener.push(&errors) {
            match said {
                Said::Key(print) => self.host_key(world, &print),
                Said::Port { local, remote } => heard.push(Heard::Port { local, remote }),
                Said::Trouble(trouble) => {
                    self.trouble.get_or_insert(trouble);
                }
                Said::Line(line) => self.shown(world, line),
            }
        }
        if self.errors.is_none() {
            for said in self.listener.end() {
                if let Said::Trouble(trouble) = said {
                    self.trouble.get_or_insert(trouble);
                }
            }
        }
        for byte in drain(&mut self.output) {
            if byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = core::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.strip_prefix(MARK) {
                Some(report) => heard.push(Heard::Report(report.trim().to_string())),
                None => self.shown(world, clean(&line)),
            }
        }
        if !heard.is_empty() && self.distrusts() {
            self.end_input();
            return Vec::new();
        }
        if heard.iter().any(|heard| matches!(heard, Heard::Report(_))) {
            self.listener.logged_in();
            self.spoke = true;
        }
        self.logged_in |= !heard.is_empty();
        self.look_for_questions();
        heard
    }

    /// A refused key makes the client ask for a password, and wait for it without an end.
    fn look_for_questions(&mut self) {
        let question = self.listener.question().filter(|_| !self.logged_in);
        match (question, &self.question) {
            (Some(now), Some((then, end))) if now == *then => {
                if end.is_past() {
                    self.trouble.get_or_insert_with(|| unanswered(&now));
                }
            }
            (now, _) => self.question = now.map(|now| (now, Instant::now().after(ASKED))),
        }
    }

    fn shown(&mut self, world: &mut dyn World, line: String) {
        if line.is_empty() {
            return;
        }
        // A console takes its time for each, and a server has no end of them.
        self.early += usize::from(!self.logged_in);
        match self.early {
            _ if self.logged_in => world.output(&line),
            ..BANNER => world.output(&line),
            BANNER => world.output("(the server says more before the login; it is not shown)"),
            _ => return,
        }
        if self.last.len() >= KEPT {
            self.last.remove(0);
        }
        self.last.push(line);
    }

    /// Answers the question about the host's key.
    fn host_key(&mut self, world: &mut dyn World, print: &str) {
        if self.trusted {
            return;
        }
        match self.pin.clone() {
            Some(pin) if same_key(&pin, print) => {
                world.say(&format!("the server has the host key that the line asks for, {print}"));
                self.trusted = true;
            }
            Some(pin) => self.trouble = Some(wrong_key(&pin, print)),
            None => {
                world.say(&format!(
                    "the server's host key is {print}; NOT CHECKED (bw.p2v.hostkey={print} pins it)"
                ));
                self.trusted = true;
            }
        }
        if self.asks {
            self.send(if self.trusted { b"y\n" } else { b"n\n" });
            self.flush();
        }
    }

    /// Whether the host's key is the one that was asked for. A client that takes a key
    /// without a question has it from elsewhere: that is not what the line says.
    fn distrusts(&mut self) -> bool {
        if self.pin.is_some() && !self.trusted {
            self.trouble.get_or_insert_with(|| {
                Trouble::new("the ssh client took a host key without asking", "nothing was sent")
            });
        }
        self.pin.is_some() && !self.trusted
    }

    fn flush(&mut self) {
        let Some(input) = &self.input else { return };
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match write(input, rest) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // What is sent is not kept: it would be the whole disk by and by.
                    if self.sent >= FORGET {
                        self.pending.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.input = None;
                    break;
                }
            }
        }
        self.pending.clear();
        self.sent = 0;
    }

    /// Why the other end failed: what the client said, or the last line of a program there
    /// that tells, or how it ended.
    pub fn why(&self, what: &str) -> Trouble {
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        if let Some(trouble) = self.last.iter().rev().find_map(|line| script::trouble(line)) {
            return trouble;
        }
        let last = script::telling(&self.last).map(|line| format!(": {line}")).unwrap_or_default();
        // Whether the login was done is not known: dbclient says the same of both.
        if !self.spoke {
            return Trouble::new(
                &format!("the ssh server ended the connection and ran no command{last}"),
                "see whether it is an ssh server that listens at that port, and whether that user \
                 may run commands there (not with nologin as the shell, ForceCommand, \
                 ChrootDirectory or MaxSessions 0); its log (journalctl -u ssh) says more",
            );
        }
        Trouble::new(&format!("{what}{last}"), "")
    }
}

/// Nothing was heard for [`LOGIN`].
pub fn silent() -> Trouble {
    Trouble::new(
        &format!("the ssh server has not finished the login in {} s", LOGIN.as_secs()),
        "its log (journalctl -u ssh) says how far the login came",
    )
}

/// A line without control characters and colours.
fn clean(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A sequence ends with a letter.
            let _ = chars.by_ref().take(32).find(char::is_ascii_alphabetic);
        } else if !c.is_control() {
            out.push(c);
        } else if c == '\t' {
            out.push(' ');
        }
    }
    out.trim_end().to_string()
}

/// What can be read now; takes the descriptor at its end.
fn drain(from: &mut Option<OwnedFd>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut room = [0; 8 << 10];
    // Enough for one turn; the rest keeps the descriptor ready.
    while let Some(fd) = from.as_ref()
        && bytes.len() < 256 << 10
    {
        match read(fd, &mut room[..]) {
            Ok(n) if n > 0 => bytes.extend_from_slice(room.get(..n).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            _ => *from = None,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl World for Deaf {
        fn say(&mut self, _: &str) {}
        fn output(&mut self, _: &str) {}
        fn progress(&mut self, _: u64, _: u64) {}
        fn reads_back(&mut self) {}
        fn served(&mut self, _: u64, _: u64, _: u64) {}
        fn go_on(&mut self) -> bool {
            true
        }
    }

    /// A machine with 512 MiB ran out of memory in the middle of its disk.
    #[test]
    fn what_was_sent_is_not_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reader");
        std::fs::write(&path, "#!/bin/sh\nexec cat > /dev/null\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let login = Login { program: path.to_str().unwrap(), ..Login::default() };
        let mut ssh = login.start(&[], "").unwrap();
        for _ in 0..64 {
            while ssh.waiting() > 1 << 20 {
                super::super::wait(&ssh.fds().collect::<Vec<_>>(), None);
                ssh.go_on(&mut Deaf);
            }
            ssh.send(&[7; 1 << 20]);
            assert!(ssh.pending.len() < 4 << 20, "{}", ssh.pending.len());
        }
    }

    #[test]
    fn lines_are_shown_without_colours() {
        assert_eq!(clean("\u{1b}[0;35m[   0.1] Opening\u{1b}[0m\t\u{7}x\r"), "[   0.1] Opening x");
        assert_eq!(clean("\u{1b}[99999"), "");
    }
}
