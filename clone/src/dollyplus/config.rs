//! Dolly+'s configuration: the files, the server, and the clients of a copy.
//!
//! ```text
//! iofiles 2
//! /dev/sda > /dev/sda
//! /srv/home.tar.gz >> /home
//! server golden
//! firstclient node1
//! lastclient node2
//! clients 2
//! node1
//! node2
//! endconfig
//! ```
//!
//! `>` copies as it is; `>>` unpacks at the receivers, how, the end of the
//! input's name says. For archives the right side is a directory. This follows
//! the program's documentation; its parser does not know `.cpio.gz`, and goes on
//! unpacking after a `>>` line.

use super::wire::{MAX_ENTRY, Output};
use crate::Error;
use crate::cook::{Archive, Cook, Packing};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

const FORMAT: &str = "dolly+ configuration";
const MAX_FILES: usize = 32;
const MAX_CLIENTS: usize = 1024;
/// Old programs have room for so much of a host's name.
const MAX_HOST: usize = 31;

/// A file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// At the server; `-` is its standard input.
    pub input: String,
    /// At the clients.
    pub output: Output,
    /// `>>` was written, but nothing is known of files with this ending.
    pub raw_after_all: bool,
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is copied, in this order.
    pub files: Vec<File>,
    /// The server's name: what the last client connects back to.
    pub server: String,
    /// The clients in order.
    pub clients: Vec<String>,
}

/// How a file of this name is unpacked.
#[must_use]
pub fn cook_of(name: &str) -> Cook {
    let (name, unpack) = match (name.strip_suffix(".gz"), name.strip_suffix(".Z")) {
        (Some(rest), _) => (rest, Some(Packing::Gzip)),
        (_, Some(rest)) => (rest, Some(Packing::Compress)),
        _ => (name, None),
    };
    let archive = if name.ends_with(".tar") {
        Some(Archive::Tar)
    } else if name.ends_with(".cpio") {
        Some(Archive::Cpio)
    } else {
        None
    };
    Cook { unpack, archive }
}

/// Characters of a line.
const MAX_LINE: usize = 255;

/// C's isspace, by which the old programs read words.
const SPACE: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

fn words(line: &str) -> impl DoubleEndedIterator<Item = &str> {
    line.split(SPACE).filter(|word| !word.is_empty())
}

struct Lines<'a> {
    lines: core::iter::Enumerate<core::str::Lines<'a>>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, Error> {
        loop {
            let Some((i, line)) = self.lines.next() else {
                self.number += 1;
                return Err(self.wrong("", "the file ends before endconfig"));
            };
            self.number = i + 1;
            // Comments and blank lines are of the later version.
            let text = line.trim_matches(SPACE);
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if line.len() > MAX_LINE {
                return Err(self.wrong("", "the line is longer than 255 characters"));
            }
            return Ok(line);
        }
    }

    fn wrong(&self, word: &str, why: &'static str) -> Error {
        let word = word.chars().take(80).collect();
        Error::Config { format: FORMAT, line: self.number, word, why }
    }

    fn value(&mut self, keyword: &str, why: &'static str) -> Result<&'a str, Error> {
        let line = self.next()?;
        let value =
            line.trim_matches(SPACE).strip_prefix(keyword).filter(|v| v.starts_with([' ', '\t']));
        let word = value.and_then(|v| words(v).next());
        word.ok_or_else(|| self.wrong(line.trim_matches(SPACE), why))
    }

    fn number(&self, text: &str, max: usize, why: &'static str) -> Result<usize, Error> {
        let n = text.parse().ok().filter(|n| (1..=max).contains(n));
        n.ok_or_else(|| self.wrong(text, why))
    }

    fn file(&self, line: &str) -> Result<File, Error> {
        let (input, output, cooked) = match (line.split_once(">>"), line.split_once('>')) {
            (Some((input, output)), _) => (input, output, true),
            (_, Some((input, output))) => (input, output, false),
            _ => {
                return Err(self
                    .wrong(line.trim_matches(SPACE), "must be INPUT > OUTPUT or INPUT >> OUTPUT"));
            }
        };
        let word = |side: &str, why| {
            let word = words(side).next();
            word.map(ToOwned::to_owned).ok_or_else(|| self.wrong(line.trim_matches(SPACE), why))
        };
        let input = word(input, "there is no name before the >")?;
        let path = word(output, "there is no name behind the >")?;
        if path.len() > MAX_ENTRY - 2 {
            return Err(self.wrong(&path, "is longer than the 126 bytes that Dolly+ can send"));
        }
        if input.len() + " >> ".len() + path.len() > MAX_LINE {
            return Err(self.wrong(&input, "is too long for a line of 255 characters"));
        }
        let cook = if cooked { cook_of(&input) } else { Cook::default() };
        let raw_after_all = cooked && cook == Cook::default();
        Ok(File { input, output: Output { path, cook }, raw_after_all })
    }
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with line and word of the first fault.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = Lines { lines: text.lines().enumerate(), number: 0 };
        let first = lines.next()?;
        let mut files = Vec::new();
        let mut parts = words(first);
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
            ("iofiles", count) => {
                let count = lines.number(count, MAX_FILES, "iofiles must be 1 to 32")?;
                for _ in 0..count {
                    let line = lines.next()?;
                    files.push(lines.file(line)?);
                }
            }
            (word @ ("infile" | "compressed"), _) => {
                let why = "must be infile NAME or compressed infile NAME";
                if word == "compressed" && !first.contains("infile") {
                    return Err(lines.wrong(first, why));
                }
                let name = words(first).next_back();
                let input =
                    name.filter(|n| *n != "infile").ok_or_else(|| lines.wrong(first, why))?;
                let output = lines.value("outfile", "must be outfile NAME")?;
                let cook = if word == "compressed" { cook_of(input) } else { Cook::default() };
                files.push(File {
                    input: input.to_owned(),
                    output: Output { path: output.to_owned(), cook },
                    raw_after_all: word == "compressed" && cook == Cook::default(),
                });
            }
            (word, _) => return Err(lines.wrong(word, "must be iofiles NUMBER or infile NAME")),
        }
        let host = |lines: &Lines<'_>, name: &str| {
            if name.len() > MAX_HOST {
                return Err(lines.wrong(name, "is longer than the 31 bytes Dolly+ has for a host"));
            }
            Ok(name.to_owned())
        };
        let server = lines.value("server", "must be server NAME")?;
        let server = host(&lines, server)?;
        lines.value("firstclient", "must be firstclient NAME")?;
        lines.value("lastclient", "must be lastclient NAME")?;
        let count = lines.value("clients", "must be clients NUMBER")?;
        let count = lines.number(count, MAX_CLIENTS, "clients must be 1 to 1024")?;
        let mut clients: Vec<String> = Vec::new();
        for _ in 0..count {
            let name = words(lines.next()?).next().unwrap_or_default();
            if name == "endconfig" {
                return Err(lines.wrong(name, "fewer hosts than the clients line says"));
            }
            if name == server || clients.iter().any(|other| other == name) {
                return Err(lines.wrong(name, "is in the list twice"));
            }
            clients.push(host(&lines, name)?);
        }
        let end = lines.next()?;
        if !end.trim_matches(SPACE).starts_with("endconfig") {
            return Err(
                lines.wrong(end.trim_matches(SPACE), "must be endconfig; more hosts than said?")
            );
        }
        Ok(Self { files, server, clients })
    }

    /// The text that says this.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = alloc::format!("iofiles {}\n", self.files.len());
        for file in &self.files {
            let sign =
                if file.output.cook == Cook::default() && !file.raw_after_all { ">" } else { ">>" };
            out += &alloc::format!("{} {sign} {}\n", file.input, file.output.path);
        }
        let first = self.clients.first().map_or("", |c| c);
        let last = self.clients.last().map_or("", |c| c);
        out += &alloc::format!(
            "server {}\nfirstclient {first}\nlastclient {last}\nclients {}\n",
            self.server,
            self.clients.len()
        );
        for client in &self.clients {
            out += client;
            out += "\n";
        }
        out + "endconfig\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: &str = "iofiles 3\n/dev/sda > /dev/sda\n\t/srv/a.tar.gz >>/home rest\nb.cpio.Z>>/opt\nserver s\nfirstclient n1\nlastclient n2\nclients 2\n  n1\nn2\nendconfig\n";

    #[test]
    fn the_documented_rules() {
        let config = Config::parse(SEED).unwrap();
        let cook = |unpack, archive| Cook { unpack, archive };
        let cooks: Vec<_> = config
            .files
            .iter()
            .map(|f| (f.input.as_str(), f.output.path.as_str(), f.output.cook))
            .collect();
        assert_eq!(
            cooks,
            [
                ("/dev/sda", "/dev/sda", Cook::default()),
                ("/srv/a.tar.gz", "/home", cook(Some(Packing::Gzip), Some(Archive::Tar))),
                ("b.cpio.Z", "/opt", cook(Some(Packing::Compress), Some(Archive::Cpio))),
            ]
        );
        assert_eq!(config.clients, ["n1", "n2"]);
        assert_eq!(Config::parse(&config.text()), Ok(config));
        for (name, wanted) in [
            ("a.gz", cook(Some(Packing::Gzip), None)),
            ("a.Z", cook(Some(Packing::Compress), None)),
            ("a.tar", cook(None, Some(Archive::Tar))),
            ("a.tar.Z", cook(Some(Packing::Compress), Some(Archive::Tar))),
            ("a.cpio", cook(None, Some(Archive::Cpio))),
            ("a.cpio.gz", cook(Some(Packing::Gzip), Some(Archive::Cpio))),
            ("a.img", Cook::default()),
        ] {
            assert_eq!(cook_of(name), wanted, "{name}");
        }
        let one = "compressed infile /x/y.gz\noutfile /dev/sdb\nserver s\nfirstclient a\nlastclient a\nclients 1\na\nendconfig\n";
        assert_eq!(Config::parse(one).unwrap().files[0].output.cook.unpack, Some(Packing::Gzip));
    }

    #[test]
    fn errors_name_line_and_word() {
        let wrong = |from: &str, to: &str| match Config::parse(&SEED.replacen(from, to, 1)) {
            Err(Error::Config { line, word, .. }) => (line, word),
            other => panic!("{other:?}"),
        };
        let case =
            |from, to, line, word: &str| assert_eq!(wrong(from, to), (line, word.to_owned()));
        case("iofiles 3", "iofiles 33", 1, "33");
        case("iofiles 3", "files 3", 1, "files");
        case("iofiles 3", "iofiles 4", 5, "server s");
        case("/dev/sda > /dev/sda", "/dev/sda", 2, "/dev/sda");
        case("/dev/sda > /dev/sda", "> /dev/sda", 2, "> /dev/sda");
        case("server s", "servers s", 5, "servers s");
        case("clients 2", "clients 3", 11, "endconfig");
        case("clients 2", "clients 1", 10, "n2");
        case("clients 2", "clients two", 8, "two");
        case("n2\nend", "n1\nend", 10, "n1");
        case("endconfig\n", "", 11, "");
    }

    #[test]
    fn a_vertical_tab_is_no_name() {
        let text = "iofiles 1\na > b\nserver s\nfirstclient a\nlastclient a\nclients 1\n\x0b\ta\nendconfig\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.clients, ["a"]);
        assert_eq!(Config::parse(&config.text()), Ok(config));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "(iofiles [0-9]{1,2}\n|[a-z.]{0,6} ?>{0,2} ?[a-z/]{0,6}\n|server s\n|firstclient a\n|lastclient a\n|clients [0-9]\n|[a-z]{0,3}\n|endconfig|[ -~\n]{0,9}){0,14}") {
            if let Ok(config) = Config::parse(&text) {
                prop_assert_eq!(Config::parse(&config.text()), Ok(config));
            }
        }
    }
}
