//! Passwords and keys on a line, and texts that may hold one: what shows a line shows it
//! without them.
//!
//! Whoever may read `/proc/cmdline` reads the whole line all the same, as the kernel has
//! it. Words of the initramfs's own files (`/etc/cmdline.d`) are nowhere else.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::text::{cut, find, has};
use crate::token;

/// Names, in small letters, of words and of entries in the values of words
/// (`nfsopts=user=a,password=b`, `automatic=user:a,pass:b`) whose values are secret. A star
/// stands for any beginning or end.
///
/// Beside those that a dialect here reads: iSCSI, PPP, wireless links, and what
/// installers, systemd and live systems read from the same line.
pub const NAMES: &str = "*password* *passwd* *passphrase* *pass pas adslp *secret* *credential* \
    *psk *token *wepkey *wpakey wlankey *wireless_wep *wireless_wpa bw.clone.key";

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Between the scheme of a URL and its server.
const AUTHORITY: &str = "://";

/// Whose passwords may hold slashes: everything before the last `@` is the login.
const LONG_LOGINS: [&str; 5] = ["cifs://", "smb://", "cifs:", "smb:", "iscsi:"];

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.split(' ').any(|pattern| {
        let stem = pattern.trim_matches('*');
        match (pattern.starts_with('*'), pattern.ends_with('*')) {
            (true, true) => has(&name, stem),
            (true, false) => name.ends_with(stem),
            _ => name == stem,
        }
    })
}

/// A word of a line, an entry of a word or a URL, without the passwords in it.
#[must_use]
pub fn masked(word: &str) -> String {
    let mut out = String::new();
    let word = without_logins(word);
    let (name, mut rest) = match word.split_once('=') {
        Some((name, value)) if !name.contains([',', ':']) => {
            out.push_str(name);
            out.push('=');
            (name, value)
        }
        _ => ("", word.as_str()),
    };
    if !rest.is_empty() && is_secret(name) {
        out.push_str(MASK);
        return out;
    }
    loop {
        let (entry, more) = match rest.split_once(',') {
            Some((entry, more)) => (entry, Some(more)),
            None => (rest, None),
        };
        match entry.find(['=', ':']).and_then(|at| entry.split_at_checked(at + 1)) {
            Some((key, value))
                if !value.is_empty() && is_secret(key.trim_end_matches(['=', ':'])) =>
            {
                out.push_str(key);
                out.push_str(MASK);
            }
            _ => out.push_str(entry),
        }
        let Some(more) = more else { return out };
        out.push(',');
        rest = more;
    }
}

/// A text whose URLs have lost their logins.
fn without_logins(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let value = text.find('=').map_or(0, |at| at + 1);
    for start in [0, value] {
        let Some((before, after)) = text.split_at_checked(start) else { continue };
        let Some(scheme) = LONG_LOGINS.iter().find(|scheme| after.starts_with(**scheme)) else {
            continue;
        };
        if let Some((_, server)) = after.rsplit_once('@') {
            return [before, scheme, MASK, "@", server].concat();
        }
    }
    while let Some((before, after)) = cut(rest, AUTHORITY) {
        out.push_str(before);
        out.push_str(AUTHORITY);
        rest = after;
        let end = after.find('/').unwrap_or(after.len());
        let authority = after.get(..end).unwrap_or(after);
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        // A password with a slash in it ends the server's name too early.
        let torn = !authority.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit());
        let login = if torn { after.rfind('@') } else { authority.rfind('@') };
        if let Some(at) = login.or_else(|| authority.rfind('@')) {
            out.push_str(MASK);
            rest = after.get(at..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

/// A whole line without the passwords in it. Words that hold one lose their quotes.
#[must_use]
pub fn masked_line(line: &str) -> String {
    let words: Vec<String> = token::raw_words(line)
        .map(|raw| {
            let word = token::token(raw).text();
            let shown = masked(&word);
            if shown == word { raw.into() } else { shown }
        })
        .collect();
    words.join(" ")
}

/// A line that was shown by [`masked_line`] and changed, with the secrets of the original in
/// those words that are as they were shown.
#[must_use]
pub fn restored(changed: &str, original: &str) -> String {
    let mut secrets: Vec<(String, &str)> = token::raw_words(original)
        .map(|raw| (masked(&token::token(raw).text()), raw))
        .filter(|(shown, _)| find(shown, MASK).is_some())
        .collect();
    let words: Vec<&str> = token::raw_words(changed)
        .map(|word| match secrets.iter().position(|(shown, _)| shown == word) {
            Some(at) => secrets.remove(at).1,
            None => word,
        })
        .collect();
    words.join(" ")
}

/// A text that may hold a password. Whatever shows it shows it masked: the text itself is
/// had by [`Self::reveal`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Private {
    text: String,
    shown: String,
}

impl Private {
    /// A word, an entry of a word, or a URL.
    #[must_use]
    pub fn word(text: &str) -> Self {
        Self { text: text.into(), shown: masked(text) }
    }

    /// A whole line.
    #[must_use]
    pub fn line(text: &str) -> Self {
        Self { text: text.into(), shown: masked_line(text) }
    }

    /// The text with its secrets, for the one that needs them: never for a message.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The text without its secrets.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;
    use crate::{Context, docs, parse};

    /// Every name of the table as a word, with something for the stars.
    fn names() -> impl Iterator<Item = String> {
        NAMES.split(' ').map(|pattern| {
            let before = if pattern.starts_with('*') { "rd.iscsi.in." } else { "" };
            let after = if pattern.ends_with('*') { "-crypted" } else { "" };
            [before, pattern.trim_matches('*'), after].concat()
        })
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
            "fetch=http://10.0.0.1:8080/a@2/b.iso?x=1",
            "http://[::1]:80/x@y",
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
            for word in &words {
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
