//! What an ssh client says on its standard error while it connects: the host's key, the
//! ports that the server has opened, and why there is no connection.
//!
//! The client is Dropbear's `dbclient` without a terminal. It then takes the answer about
//! an unknown host key from its standard input, which is how a fingerprint can be pinned.
//! Its exit status says little: 2022.83 ends with 0 after a refused password.
//!
//! Or it is OpenSSH's `ssh`. That has the host's key judged by a program ([`judge`]), and
//! nothing marks its own lines: before the login all lines are its own.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::trouble::{Meaning, Trouble};

/// The longest line that is kept; the rest of a longer one is dropped.
const MAX_LINE: usize = 8 << 10;

/// Something that the client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The host has a key of this fingerprint, `SHA256:…`; empty when it is in another form.
    /// The client waits for `y` or `n` and a line feed.
    Key(String),
    /// The server listens at `remote` for what goes to `local` here.
    Port {
        /// The port on loopback here.
        local: u16,
        /// The port on loopback there.
        remote: u16,
    },
    /// It will not work, and why.
    Trouble(Trouble),
    /// Another line, of the client or of a program at the other end.
    Line(String),
}

/// Why there is no connection.
const TROUBLES: [Meaning; 12] = [
    (
        &["remote port forwarding failed", "forward request failed"],
        "the ssh server refuses to forward a port back to this machine",
        "AllowTcpForwarding yes (and no PermitListen) in its sshd_config, or bw.p2v=ssh://… , \
         which needs no forwarding",
    ),
    (
        &["No auth methods could be used"],
        "the ssh server takes neither the password nor the key",
        "check p2v.username and p2v.password or p2v.identity; PasswordAuthentication may be off \
         there, and PermitRootLogin refuses root a password by default",
    ),
    (
        &["'s password:"],
        "the ssh server does not take the key, and the ssh client asks for a password",
        "check p2v.username and p2v.identity: the key's public half belongs into \
         ~/.ssh/authorized_keys of that user; or give p2v.password",
    ),
    (
        &["Permission denied"],
        "the ssh server takes neither the password nor the key",
        "check p2v.username and p2v.password or p2v.identity; PermitRootLogin refuses root a \
         password by default",
    ),
    (
        &["Disconnect received"],
        "the ssh server ended the login: the password or the key is wrong",
        "check p2v.username and p2v.password or p2v.identity; PermitRootLogin refuses root a \
         password by default",
    ),
    (
        &["Connection refused"],
        "no ssh server listens at that port",
        "start sshd there, or give its port with p2v.port",
    ),
    (
        &["No route to host"],
        "the server does not answer",
        "check its address, and that both are on the same network",
    ),
    (
        &["Network is unreachable"],
        "there is no way to the server's network",
        "check the address, and the gateway that the DHCP server leases",
    ),
    (&["timed out", "Timeout"], "the server does not answer", "check its address and its firewall"),
    (
        &["Error resolving"],
        "the server's name is unknown",
        "give its address instead, or check the name server that the DHCP server leases",
    ),
    (
        &["host key mismatch"],
        "the server has another host key than before",
        "check that it is the server; then give the new key's fingerprint",
    ),
    (
        &["String too long"],
        "the private key is in a form that this ssh client does not read",
        "ssh-keygen -t ed25519 makes one that it reads",
    ),
];

/// Reads a client's standard error.
#[derive(Debug, Default)]
pub struct Listener {
    line: Vec<u8>,
    fingerprint: String,
    /// The client is OpenSSH's, and has not logged in.
    bare: bool,
}

/// What [`judge`] tells before a fingerprint.
const JUDGED: &str = "p2v-host-key ";

impl Listener {
    /// Of OpenSSH's client.
    #[must_use]
    pub fn of_openssh() -> Self {
        Self { bare: true, ..Self::default() }
    }

    /// What comes from now on may be of programs at the other end.
    pub fn logged_in(&mut self) {
        self.bare = false;
    }

    /// Takes what the client wrote.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = core::mem::take(&mut self.line);
                said.extend(self.line(&String::from_utf8_lossy(&line)));
                continue;
            }
            if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
            // The question has no line feed.
            if self.line.ends_with(b"(y/n) ") {
                self.line.clear();
                said.push(Said::Key(core::mem::take(&mut self.fingerprint)));
            }
        }
        said
    }

    /// A question that stands at the end, without a line feed. The client has no terminal: it
    /// waits for an answer on its standard input, for ever. What a program at the other end
    /// writes in pieces looks the same for a moment.
    #[must_use]
    pub fn question(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.line);
        let asks = text.ends_with(": ") || text.ends_with("? ");
        asks.then(|| text.trim().chars().filter(|c| !c.is_control()).collect())
    }

    /// What stood without a line feed when the client ended.
    pub fn end(&mut self) -> Vec<Said> {
        let line = core::mem::take(&mut self.line);
        self.line(&String::from_utf8_lossy(&line)).into_iter().collect()
    }

    fn line(&mut self, line: &str) -> Option<Said> {
        let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
        // It has no home and no entry in a list of users, and says so.
        if line.is_empty() || line.starts_with("dbclient: Warning: failed ") {
            return None;
        }
        if line.starts_with("Host '") && line.ends_with("is not in the trusted hosts file.") {
            return None;
        }
        if let Some((_, print)) = line.split_once(" fingerprint ")
            && let Some(print) = print.strip_suffix(')')
        {
            self.fingerprint = print.starts_with("SHA256:").then_some(print)?.to_string();
            return None;
        }
        if self.bare
            && let Some(print) = line.strip_prefix(JUDGED)
        {
            return Some(Said::Key(print.to_string()));
        }
        let of_dropbear = line.split_once("dbclient: ").map(|(_, own)| own);
        let own = of_dropbear.unwrap_or(if self.bare { &line } else { "" });
        if let Some(ports) = ports(own) {
            return Some(ports);
        }
        let trouble = Trouble::of_line(&TROUBLES, own);
        Some(trouble.map_or(Said::Line(line), Said::Trouble))
    }
}

/// `Allocated port N for remote forward to localhost:LOCAL`, of Dropbear and OpenSSH alike.
fn ports(line: &str) -> Option<Said> {
    let rest = line.strip_prefix("Allocated port ")?;
    let (remote, to) = rest.split_once(" for remote forward to ")?;
    let (_, local) = to.rsplit_once(':')?;
    let (remote, local) = (remote.parse().ok()?, local.trim().parse().ok()?);
    (remote != 0).then_some(Said::Port { local, remote })
}

/// Why a question of the client ends the login.
#[must_use]
pub fn unanswered(question: &str) -> Trouble {
    Trouble::of_line(&TROUBLES, question).unwrap_or_else(|| {
        Trouble::new(
            &format!("the ssh client asks {question:?}, which this machine cannot answer"),
            "a key (p2v.identity) or a password (p2v.password) alone must be enough for that user",
        )
    })
}

/// Whether a fingerprint is the one that was asked for. Both are compared without the name of
/// the hash and the padding, which tools write or leave out.
#[must_use]
pub fn same_key(pinned: &str, shown: &str) -> bool {
    let bare = |text: &str| {
        let text = text.strip_prefix("SHA256:").unwrap_or(text);
        text.trim_end_matches('=').to_string()
    };
    !shown.is_empty() && bare(pinned) == bare(shown)
}

/// What a program of ours answers OpenSSH's client, which asks for the keys of a host
/// (`KnownHostsCommand` of ssh_config(5)): the line of known hosts, and what this tells its user.
/// The words are the tokens `%H %t %K %f`, and the pinned fingerprint or `any`.
#[must_use]
pub fn judge(words: [&str; 5]) -> (String, String) {
    let [host, kind, key, print, pin] = words;
    // It also asks which kinds of keys there may be, and then has none.
    if !print.starts_with("SHA256:") {
        return Default::default();
    }
    let good = pin == "any" || same_key(pin, print);
    let line = if good { format!("{host} {kind} {key}\n") } else { String::new() };
    (line, format!("{JUDGED}{print}\n"))
}

/// Why a key that is not the pinned one ends the connection.
#[must_use]
pub fn wrong_key(pinned: &str, shown: &str) -> Trouble {
    let shown = if shown.is_empty() { "in a form that cannot be compared" } else { shown };
    Trouble {
        why: format!("the server's host key is {shown}, and bw.p2v.hostkey asks for {pinned}"),
        remedy: "check that it is the server (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub \
                 there shows its key); nothing was sent"
            .to_string(),
    }
}

/// Reads any text; for fuzzers.
///
/// # Panics
/// When a line has control characters, or too much is kept.
pub fn fuzz(data: &[u8]) {
    let mut listener = Listener::default();
    for piece in data.chunks(7) {
        for said in listener.push(piece).into_iter().chain([]) {
            if let Said::Line(text) | Said::Key(text) = said {
                assert!(text.len() <= 3 * MAX_LINE && !text.contains(char::is_control));
            }
        }
        assert!(listener.line.len() <= MAX_LINE);
    }
    let _ = listener.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// dbclient 2022.83 of Debian 12 against OpenSSH 9.2.
    #[test]
    fn recorded_of_dbclient() {
        let text = "dbclient: Warning: failed creating /nonexistent/.ssh: No such file or directory\n\n\
            Host '10.91.0.1' is not in the trusted hosts file.\n\
            (ssh-ed25519 fingerprint SHA256:DFckqq8kt4ZVc+I/Q8Bg6mngc4CqrJn+PBl5yrZJA4Q)\n\
            Do you want to continue connecting? (y/n) dbclient: Allocated port 35633 for remote forward to localhost:50901\n\
            dbclient: Allocated port 43699 for remote forward to localhost:50902\n\
            tar: ./disk: Cannot write: No space left on device\n";
        let print = "SHA256:DFckqq8kt4ZVc+I/Q8Bg6mngc4CqrJn+PBl5yrZJA4Q";
        for piece in [1, 9, 4096] {
            let mut listener = Listener::default();
            let said: Vec<Said> =
                text.as_bytes().chunks(piece).flat_map(|bytes| listener.push(bytes)).collect();
            assert_eq!(
                said,
                [
                    Said::Key(print.into()),
                    Said::Port { local: 50901, remote: 35633 },
                    Said::Port { local: 50902, remote: 43699 },
                    Said::Line("tar: ./disk: Cannot write: No space left on device".into()),
                ]
            );
            assert_eq!(listener.end(), []);
        }
    }

    #[test]
    fn why_there_is_no_connection() {
        for (line, piece) in [
            (
                "dbclient: Remote TCP forward request failed (port 0 -> localhost:50901)",
                "AllowTcpForwarding",
            ),
            ("dbclient: Connection to a@b:22 exited: Disconnect received", "p2v.password"),
            (
                "dbclient: Connection to a@b:22 exited: No auth methods could be used.",
                "p2v.password",
            ),
            (
                "dbclient: Connection to a@b:2223 exited: Connect failed: Connection refused",
                "p2v.port",
            ),
            (
                "dbclient: Connection to a@b:22 exited: Connect failed: No route to host",
                "does not answer",
            ),
            (
                "dbclient: Connection to a@b:22 exited: Error resolving: Name or service not known",
                "unknown",
            ),
        ] {
            let said = Listener::default().push(format!("{line}\n").as_bytes());
            let [Said::Trouble(trouble)] = &said[..] else { panic!("{said:?}") };
            assert!(trouble.to_string().contains(piece), "{trouble}");
        }
        // A program at the other end is not the client.
        let said = Listener::default().push(b"cp: Permission denied\n");
        assert_eq!(said, [Said::Line("cp: Permission denied".into())]);
    }

    /// ssh of OpenSSH 9.2 without a terminal.
    #[test]
    fn recorded_of_openssh() {
        let print = "SHA256:DFckqq8kt4ZVc+I/Q8Bg6mngc4CqrJn+PBl5yrZJA4Q";
        let words = |pin| judge(["[h]:22", "ssh-ed25519", "AAAA", print, pin]);
        assert_eq!(words("any").0, "[h]:22 ssh-ed25519 AAAA\n");
        assert_eq!(words(print), (words("any").0, format!("p2v-host-key {print}\n")));
        assert_eq!(words("SHA256:x").0, "");
        assert_eq!(judge(["h", "NONE", "NONE", "NONE", "any"]), Default::default());
        let mut listener = Listener::of_openssh();
        let told = [
            &words("any").1,
            "Allocated port 35633 for remote forward to 127.0.0.1:50901\n",
            "root@h: Permission denied (publickey,password).\n",
            "Error: remote port forwarding failed for listen port 0\n",
        ];
        let said = listener.push(told.concat().as_bytes());
        assert_eq!(
            said[..2],
            [Said::Key(print.into()), Said::Port { local: 50901, remote: 35633 }]
        );
        let [_, _, Said::Trouble(login), Said::Trouble(forward)] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(login.why.contains("neither") && forward.remedy.contains("AllowTcpForwarding"));
        // Afterwards such lines are of programs there.
        listener.logged_in();
        let said = listener.push(b"tar: x: Permission denied\n");
        assert_eq!(said, [Said::Line("tar: x: Permission denied".into())]);
    }

    #[test]
    fn questions_stand_without_a_line_feed() {
        let mut listener = Listener::default();
        listener.push(b"dbclient: something else\n");
        assert_eq!(listener.question(), None);
        listener.push(b"root@10.77.0.1's password: ");
        let question = listener.question().unwrap();
        assert!(unanswered(&question).to_string().contains("p2v.identity"));
        listener.push(b"\n(root@box) Verification code: ");
        let why = unanswered(&listener.question().unwrap()).to_string();
        assert!(why.contains("\"(root@box) Verification code:\""), "{why}");
        listener.push(b"12");
        assert_eq!(listener.question(), None);
    }

    #[test]
    fn keys_are_compared_whole() {
        let key = "SHA256:DFckqq8kt4ZVc+I/Q8Bg6mngc4CqrJn+PBl5yrZJA4Q";
        assert!(
            same_key(key, key) && same_key(&key[7..], key) && same_key(&format!("{key}="), key)
        );
        assert!(!same_key(&key[..30], key) && !same_key(key, "") && !same_key("", key));
        assert!(!same_key("", ""));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(text.as_bytes());
            fuzz(&bytes);
        }
    }
}
