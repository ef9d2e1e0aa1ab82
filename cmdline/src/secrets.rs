//! Passwords and keys on a line, and texts that may hold one: what shows a line shows it
//! without them.
//!
//! A program that may read `/proc/cmdline` reads the whole line all the same, as the kernel has
//! it. Words of the initramfs's own files (`/etc/cmdline.d`) are nowhere else.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::text::{self, has};
use crate::token;

/// Pieces, in small letters, of the names of words and of entries in the values of words
/// (`nfsopts=user=a,password=b`, `automatic=user:a,pass:b`) whose values are secret.
///
/// Beside those that a dialect here reads: iSCSI, PPP, wireless links, and what
/// installers, systemd and live systems read from the same line.
pub const PIECES: &str = "password passwd passphrase secret credential";

/// The same at the end of the name.
pub const ENDS: &str = "pass pas adslp psk token wepkey wpakey wlankey wireless_wep wireless_wpa \
    bw.clone.key bw.p2v.key p2v.identity p2v.auth.identity.url";

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Whether the value of a word or an entry of this name is secret.
#[inline(never)]
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PIECES.split_ascii_whitespace().any(|piece| has(&name, piece))
        || ENDS.split_ascii_whitespace().any(|end| name.ends_with(end))
}

/// A word of a line, an entry of a word or a URL, without the passwords in it.
#[must_use]
#[inline(never)]
pub fn masked(word: &str) -> String {
    let mut out = String::new();
    let word = without_login(word);
    let mut rest = word.as_str();
    if let Some((name, value)) = word.split_once('=')
        && !value.is_empty()
        && is_secret(name)
    {
        return [name, "=", MASK].concat();
    }
    loop {
        let end = rest.bytes().position(|byte| byte == b',').unwrap_or(rest.len());
        let (entry, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let secret = secret_of(entry).or_else(|| {
            // An entry behind the word's own name.
            let own = entry.find('=')? + 1;
            Some(own + secret_of(entry.get(own..)?)?)
        });
        match secret {
            Some(at) => {
                out.push_str(entry.get(..at).unwrap_or_default());
                out.push_str(MASK);
            }
            None => out.push_str(entry),
        }
        if more.is_empty() {
            return out;
        }
        out.push(',');
        rest = more.get(1..).unwrap_or_default();
    }
}

/// Where the secret of `KEY=SECRET` or `KEY:SECRET` begins.
fn secret_of(entry: &str) -> Option<usize> {
    let at = entry.bytes().position(|byte| matches!(byte, b'=' | b':'))?;
    (at + 1 < entry.len() && is_secret(entry.get(..at)?)).then_some(at + 1)
}

/// A word whose URL has lost its login.
fn without_login(word: &str) -> String {
    let url = text::cut(word, "://").or_else(|| text::cut(word, "iscsi:"));
    let Some((before, after)) = url else { return word.into() };
    let authority = after.split('/').next().unwrap_or(after);
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    // A password with a slash in it ends the server's name too early: no server has such a
    // port, and CIFS takes it.
    let torn = !port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']');
    let long = before.ends_with("cifs") || before.ends_with("smb");
    let whole = long || (torn && !authority.contains('@'));
    let Some((login, _)) = (if whole { after } else { authority }).rsplit_once('@') else {
        return word.into();
    };
    let head = word.len() - after.len();
    let tail = head + login.len();
    let part = |range| word.get(range).unwrap_or_default();
    [part(0..head), MASK, part(tail..word.len())].concat()
}

/// A whole line without the passwords in it.
#[must_use]
pub fn masked_line(line: &str) -> String {
    let mut out = String::new();
    for word in token::raw_words(line) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&masked(word));
    }
    out
}

/// A line that was shown by [`masked_line`] and changed, with the secrets of the original in
/// those words that are as they were shown.
#[must_use]
pub fn restored(changed: &str, original: &str) -> String {
    let mut secrets: Vec<(String, &str)> = token::raw_words(original)
        .map(|raw| (masked(raw), raw))
        .filter(|(shown, _)| has(shown, MASK))
        .collect();
    let words: Vec<&str> = token::raw_words(changed)
        .map(|word| match secrets.iter().position(|(shown, _)| shown == word) {
            Some(at) => secrets.remove(at).1,
            None => word,
        })
        .collect();
    words.join(" ")
}

/// A word, an entry of a word or a URL that may hold a password. Whatever shows it shows it
/// masked: the text itself is had by [`Self::reveal`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Private(String);

impl Private {
    /// From the text with its secrets.
    #[must_use]
    pub fn word(text: &str) -> Self {
        Self(text.into())
    }

    /// The text with its secrets, for the one that needs them: never for a message.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&masked(&self.0), f)
    }
}

/// The same for a whole line.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateLine(String);

impl PrivateLine {
    /// From the text with its secrets.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As [`Private::reveal`].
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PrivateLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_line(&self.0))
    }
}

impl fmt::Debug for PrivateLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&masked_line(&self.0), f)
    }
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;
    use crate::{Context, docs, parse};

    /// Every name of the tables as a word.
    fn names() -> impl Iterator<Item = String> {
        let inside = |piece| format!("rd.iscsi.in.{piece}-crypted");
        let exact = PIECES.split(' ').chain(ENDS.split_ascii_whitespace());
        PIECES.split(' ').map(inside).chain(exact.map(String::from))
    }

    #[test]
    fn words_entries_and_urls_lose_their_secrets() {
        for (word, shown) in [
            ("cifspass=SECRET", "cifspass=***"),
            ("rd.iscsi.in.password=SECRET", "rd.iscsi.in.password=***"),
            ("passwd/user-password-crypted=SECRET", "passwd/user-password-crypted=***"),
            ("nfsopts=user=me,password=SECRET,vers=3", "nfsopts=user=me,password=***,vers=3"),
            ("automatic=met:cifs,use:me,pas:SECRET", "automatic=met:cifs,use:me,pas:***"),
            ("automatic=network:adsl,adslp:SECRET", "automatic=network:adsl,adslp:***"),
            ("fetch=http://me:SECRET@10.0.0.1/x", "fetch=http://***@10.0.0.1/x"),
            ("fetch=http://SECRET@10.0.0.1/x@y", "fetch=http://***@10.0.0.1/x@y"),
            ("fetch=http://me:SE/CRET@10.0.0.1/x", "fetch=http://***@10.0.0.1/x"),
            ("http://me:SECRET@h:80", "http://***@h:80"),
            ("bw.root=cifs://me:SEC,RE/T@h/s,file=/x", "bw.root=cifs://***@h/s,file=/x"),
            (
                "netroot=iscsi:me:SECRET@10.0.0.1::::iqn.x:y",
                "netroot=iscsi:***@10.0.0.1::::iqn.x:y",
            ),
            ("systemd.set_credential=a:SECRET", "systemd.set_credential=***"),
            ("PASSWORD=SECRET", "PASSWORD=***"),
        ] {
            assert_eq!(masked(word), shown);
        }
        for word in [
            "root=/dev/nfs",
            "cifspass=",
            "nfsopts=user=me,password=",
            "fetch=http://10.0.0.1:8080/a@2/b.iso?x=1",
            "http://[::1]:80/x@y",
            "http://[::1]/x@y",
            "ip=10.0.0.2::10.0.0.1:255.255.255.0:pass:eth0:off",
            "bw.digest=sha256:ab",
            "iommu.passthrough=1",
            "root=live:CDLABEL=X",
        ] {
            assert_eq!(masked(word), word);
        }
    }

    #[test]
    fn a_private_text_is_shown_masked() {
        let url = Private::word("http://me:SECRET@h/x");
        assert_eq!(format!("{url} {url:?}"), "http://***@h/x \"http://***@h/x\"");
        assert_eq!(url.reveal(), "http://me:SECRET@h/x");
        let line = PrivateLine::new("quiet cifspass=SECRET".into());
        assert_eq!(format!("{line} {line:?}"), "quiet cifspass=*** \"quiet cifspass=***\"");
        assert_eq!(line.reveal(), "quiet cifspass=SECRET");
    }

    #[test]
    fn a_line_keeps_all_the_rest_and_an_edited_one_its_secrets() {
        let line = "root=cifs://h/s cifspass=\"a b\" quiet x=\"y z\" cifspass=c -- token=d";
        let shown = masked_line(line);
        assert_eq!(shown, "root=cifs://h/s cifspass=*** quiet x=\"y z\" cifspass=*** -- token=***");
        assert_eq!(restored(&shown, line), line);
        let changed = "root=cifs://other/s cifspass=*** cifspass=new debug";
        let after = "root=cifs://other/s cifspass=\"a b\" cifspass=new debug";
        assert_eq!(restored(changed, line), after);
    }

    /// One line with every secret word, in each dialect's own line and from the initramfs's
    /// files, through everything that is printed.
    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        const SECRET: &str = "hunter2";
        let words: Vec<String> = names()
            .flat_map(|name| {
                let value = |form: &str| form.replace("NAME", &name).replace("VALUE", SECRET);
                [
                    "NAME=VALUE",
                    "nfsopts=user=me,NAME=VALUE",
                    "rootflags=NAME=VALUE",
                    "automatic=method:cifs,server:10.0.0.1,directory:/x,user:me,NAME:VALUE",
                    "x.y=NAME=VALUE",
                    "-- NAME=VALUE",
                ]
                .map(value)
            })
            .chain(
                [
                    "fetch=http://me:VALUE@10.0.0.1/live.squashfs",
                    "url=http://me:VALUE@10.0.0.1/live.iso",
                    "url=https://me:VALUE@10.0.0.1/live.iso",
                    "root=live:http://me:VALUE@10.0.0.1/live.iso proxy=http://me:VALUE@10.0.0.9:3128",
                    "root=cifs://me:VALUE@10.0.0.1/live",
                    "root=cifs://10.0.0.1/live cifsuser=me cifspass=VALUE",
                    "bw.root=cifs://me:VALUE@10.0.0.1/live",
                    "bw.root=ftp://me:VALUE@10.0.0.1/live.iso",
                    "bw.root=http://me:VALUE@no host/live.iso",
                    "from=http://me:VALUE@10.0.0.1/slax.iso",
                    "netroot=iscsi:me:VALUE@10.0.0.1::::iqn.x:y root=iscsi:me:VALUE@10.0.0.1",
                    "archiso_http_srv=http://me:VALUE@10.0.0.1/ archisobasedir=arch",
                    "boot=casper netboot=cifs nfsroot=//10.0.0.1/live nfsopts=user=me,password=VALUE",
                    "alpine_repo=http://me:VALUE@10.0.0.1/ modloop=http://me:VALUE@10.0.0.1/x",
                ]
                .map(|word| word.replace("VALUE", SECRET)),
            )
            .collect();
        let mut starts: Vec<&str> = Vec::from([""]);
        // A line of each dialect: as its own words, what is foreign is warned of.
        for case in docs::cases() {
            let dialect = parse(case.line, &Context::default()).dialect;
            let known = |line: &&str| parse(line, &Context::default()).dialect == dialect;
            if !starts.iter().any(known) {
                starts.push(case.line);
            }
        }
        assert!(starts.len() > 10);
        for start in starts {
            // All of them once, and for each dialect some: parsing takes its time.
            let every = if start.is_empty() { 1 } else { 11 };
            for word in words.iter().step_by(every) {
                let line = format!("{start} {word}");
                let baked = Context { defaults: &[word], ..Context::default() };
                for plan in [parse(&line, &Context::default()), parse(start, &baked)] {
                    for printed in [
                        plan.to_json(),
                        plan.to_text(),
                        plan.words_text(docs::describe),
                        plan.warnings_text(),
                    ] {
                        assert!(!printed.contains(SECRET), "{line}:\n{printed}");
                    }
                }
                assert!(!masked_line(&line).contains(SECRET), "{line}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_line_is_masked_and_restored(line in "\\PC{0,120}") {
            let shown = masked_line(&line);
            prop_assert!(masked_line(&shown) == shown, "{shown}");
            let _ = restored(&shown, &line);
        }

        #[test]
        fn a_password_of_any_kind_is_masked(password in "[!-+\\--~]{1,20}") {
            let word = format!("cifspass={password}");
            prop_assert_eq!(masked(&word), "cifspass=***");
        }
    }
}
