//! `dolly.cfg`: the file, the server, and the clients of a copy.
//!
//! The classic grammar is one item a line in a fixed order; openSUSE's from
//! 0.70 on leaves out everything but files, the hyphen rule and the hosts.
//! Neither has comments, quoting or escapes. Blank lines are taken in the new
//! grammar only, as the program does.

use super::MAX_CONFIG;
use crate::Error;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

const FORMAT: &str = "dolly.cfg";

/// Which line of the program a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// 0.5x to 0.64.
    Classic,
    /// openSUSE's 0.70 and later.
    Suse,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file or device.
    File {
        /// At the server.
        input: Input,
        /// At the clients.
        output: Output,
    },
    /// Nothing: so many megabytes are sent to measure the network; 0 tells
    /// waiting clients to end.
    Dummy(Option<u64>),
}

/// The server's file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
    /// Its name, or the beginning of its parts' names.
    pub path: String,
    /// It is gzip already, and the clients unpack it.
    pub compressed: bool,
    /// It is in parts NAME_0, NAME_1 and so on.
    pub split: bool,
}

/// The clients' file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Its name, or the beginning of its parts' names.
    pub path: String,
    /// The server compresses, the clients store as it comes.
    pub compressed: bool,
    /// Parts of this many bytes at most.
    pub split: Option<u64>,
}

/// Further network cards of each node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cards {
    /// The words go before the first digit of the name (`add2`), not to its
    /// end (`add`).
    pub middle: bool,
    /// One word a card.
    pub words: Vec<String>,
}

/// How a node finds itself in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hyphen {
    /// By the whole name.
    Normal,
    /// By what is before the first hyphen; the rest names the card.
    Interface,
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which grammar.
    pub line: Line,
    /// What is copied.
    pub what: What,
    /// TCP segment size of data connections.
    pub segment_size: Option<u32>,
    /// Further network cards.
    pub cards: Option<Cards>,
    /// Children of each node, 1 to 8.
    pub fanout: usize,
    /// The hyphen rule, if one is given.
    pub hyphen: Option<Hyphen>,
    /// The server; empty in the new grammar.
    pub server: String,
    /// First client, as written; no program reads it.
    pub first: String,
    /// Last client, as written; a node of that name forwards nothing.
    pub last: String,
    /// The clients in order.
    pub hosts: Vec<String>,
    /// The server verifies digests.
    pub verify: bool,
    /// The stream's length, where a server of ours knows it.
    pub bytes: Option<u64>,
}

struct Lines<'a> {
    rest: &'a str,
    number: usize,
    skip_blank: bool,
}

impl<'a> Lines<'a> {
    /// The next line without taking it.
    fn peek(&self) -> Option<&'a str> {
        let mut rest = self.rest;
        loop {
            if rest.is_empty() {
                return None;
            }
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            if !(self.skip_blank && line.trim().is_empty()) {
                return Some(line);
            }
            rest = after;
        }
    }

    fn next(&mut self) -> Result<&'a str, Error> {
        loop {
            if self.rest.is_empty() {
                self.number += 1;
                return Err(self.wrong("", "the file ends before endconfig"));
            }
            let (line, after) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = after;
            self.number += 1;
            if line.len() > 255 {
                return Err(self.wrong("", "the line is longer than 255 characters"));
            }
            if !(self.skip_blank && line.trim().is_empty()) {
                return Ok(line);
            }
        }
    }

    fn wrong(&self, word: &str, why: &'static str) -> Error {
        let word = word.chars().take(80).collect();
        Error::Config { format: FORMAT, line: self.number, word, why }
    }

    /// A number of the line that was taken last, from 1 to `max`.
    fn number(&self, text: &str, max: u32, why: &'static str) -> Result<u32, Error> {
        let number = text.trim_end().parse().ok().filter(|n| (1..=max).contains(n));
        number.ok_or_else(|| self.wrong(text, why))
    }

    /// The next line as `[compressed ]KEYWORD NAME[ …]`: whether it is compressed, the name, and
    /// the words behind it.
    fn file(
        &mut self,
        keyword: &str,
        why: &'static str,
    ) -> Result<(bool, String, core::str::Split<'a, char>), Error> {
        let line = self.next()?;
        let rest = line.strip_prefix("compressed ");
        let words = rest.unwrap_or(line).strip_prefix(keyword).map(|words| words.split(' '));
        let mut words = words.ok_or_else(|| self.wrong(line, why))?;
        let path = words.next().filter(|p| !p.is_empty()).ok_or_else(|| self.wrong(line, why))?;
        Ok((rest.is_some(), path.to_owned(), words))
    }

    /// The next line's value, if it begins with `keyword`.
    fn optional(&mut self, keyword: &str) -> Result<Option<&'a str>, Error> {
        match self.peek().and_then(|l| l.strip_prefix(keyword)) {
            Some(value) => self.next().map(|_| Some(value)),
            None => Ok(None),
        }
    }

    fn required(&mut self, keyword: &str, why: &'static str) -> Result<&'a str, Error> {
        let line = self.next()?;
        line.strip_prefix(keyword).ok_or_else(|| self.wrong(line, why))
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text.get(digits.len()..)? {
        "" => 0,
        "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1024u64.checked_pow(power)?).filter(|n| *n > 0)
}

impl Cards {
    /// `NUMBER:WORD:…`, behind `add` or `add2`.
    fn read(lines: &Lines<'_>, value: &str, middle: bool) -> Result<Self, Error> {
        let wrong = "must be a number below 8, then as many names, each after a colon";
        let mut words = value.trim_end().trim_end_matches(':').split(':');
        let count = words.next().unwrap_or_default();
        let number: Option<usize> = count.parse().ok().filter(|n| *n < 8);
        let number = number.ok_or_else(|| lines.wrong(count, wrong))?;
        let words: Vec<String> = words.map(ToOwned::to_owned).collect();
        if let Some(long) = words.iter().find(|w| w.len() > 31 || w.is_empty()) {
            return Err(lines.wrong(long, "must be 1 to 31 characters"));
        }
        // None, with one name, renames the only card.
        if words.len() != number.max(1) {
            return Err(lines.wrong(value, wrong));
        }
        Ok(Self { middle, words })
    }
}

impl Config {
    /// One file to these hosts, and the configuration's text. It is read back: what the
    /// grammar cannot say is found here.
    ///
    /// # Errors
    /// [`Error::Config`], as of [`Config::parse`].
    pub fn of_file(
        line: Line,
        (input, output): (&str, &str),
        server: &str,
        hosts: &[String],
    ) -> Result<(Self, String), Error> {
        // openSUSE's grammar knows no servers.
        let classic = |name: &str| String::from(if line == Line::Suse { "" } else { name });
        let host = |name: Option<&String>| classic(name.map_or("", String::as_str));
        let what = What::File {
            input: Input { path: input.to_owned(), ..Input::default() },
            output: Output { path: output.to_owned(), ..Output::default() },
        };
        let mut config = Self::new(line, what);
        config.server = classic(server);
        (config.first, config.last) = (host(hosts.first()), host(hosts.last()));
        config.hosts = hosts.to_vec();
        let text = config.text();
        Ok((Self::parse(&text)?, text))
    }

    /// Reads either grammar.
    ///
    /// # Errors
    /// [`Error::Config`] with line and word of the first fault.
    pub fn parse(text: &str) -> Result<Self, Error> {
        // openSUSE's line knows no servers, and does not mind empty lines.
        let classic = text.lines().any(|line| line.starts_with("server "));
        let mut lines = Lines { rest: text, number: 0, skip_blank: !classic };
        if text.len() > MAX_CONFIG {
            return Err(lines.wrong("", "the file is longer than the 4095 bytes that Dolly reads"));
        }
        let mut config = Self::new(Line::Classic, Self::what(&mut lines)?);
        config.settings(&mut lines)?;
        let end = match lines.peek().is_some_and(|l| l.starts_with("server ")) {
            true => config.classic_hosts(&mut lines)?,
            false => config.suse_hosts(&mut lines)?,
        };
        if let Some(rest) = end.strip_prefix(super::VERIFY_WORD) {
            config.verify = true;
            let bytes = rest.trim_end().strip_prefix(super::BYTES_WORD);
            config.bytes = bytes.and_then(|bytes| bytes.parse().ok());
        }
        if config.hosts.is_empty() {
            return Err(lines.wrong("", "there are no clients"));
        }
        for (i, host) in config.hosts.iter().enumerate() {
            if config.hosts.iter().take(i).any(|other| other == host) {
                return Err(lines.wrong(host, "is in the list twice"));
            }
        }
        Ok(config)
    }

    /// One without settings and hosts.
    const fn new(line: Line, what: What) -> Self {
        Self {
            line,
            what,
            segment_size: None,
            cards: None,
            fanout: 1,
            hyphen: None,
            server: String::new(),
            first: String::new(),
            last: String::new(),
            hosts: Vec::new(),
            verify: false,
            bytes: None,
        }
    }

    /// The lines between the files and the hosts.
    fn settings(&mut self, lines: &mut Lines<'_>) -> Result<(), Error> {
        if let Some(n) = lines.optional("segsize ")? {
            self.segment_size = Some(lines.number(n, 65535, "segsize must be 1 to 65535")?);
        }
        for (keyword, middle) in [("add ", false), ("add2 ", true)] {
            if let Some(value) = lines.optional(keyword)? {
                self.cards = Some(Cards::read(lines, value, middle)?);
            }
        }
        if let Some(n) = lines.optional("fanout ")? {
            self.fanout = lines.number(n, 8, "fanout must be 1 to 8")? as usize;
            if self.fanout > 1 && self.cards.is_some() {
                return Err(lines.wrong(n, "fanout above 1 cannot go with add"));
            }
        }
        if lines.optional("hyphennormal")?.is_some() {
            self.hyphen = Some(Hyphen::Normal);
        } else if lines.optional("hypheninterface")?.is_some() {
            self.hyphen = Some(Hyphen::Interface);
        }
        Ok(())
    }

    /// The hosts of the classic grammar; returns what follows `endconfig`.
    fn classic_hosts<'a>(&mut self, lines: &mut Lines<'a>) -> Result<&'a str, Error> {
        self.server = lines.required("server ", "must be server NAME")?.to_owned();
        self.first = lines.required("firstclient ", "must be firstclient NAME")?.to_owned();
        self.last = lines.required("lastclient ", "must be lastclient NAME")?.to_owned();
        let count = lines.required("clients ", "must be clients NUMBER")?;
        let count = lines.number(count, 10_000, "clients must be 1 to 10000")?;
        for _ in 0..count {
            let host = lines.next()?;
            if host.is_empty() || host.starts_with("endconfig") {
                return Err(lines.wrong(host, "fewer hosts than the clients line says"));
            }
            self.hosts.push(host.to_owned());
        }
        lines.required("endconfig", "must be endconfig; more hosts than the clients line says?")
    }

    /// The hosts of openSUSE's grammar; returns what follows `endconfig`.
    fn suse_hosts<'a>(&mut self, lines: &mut Lines<'a>) -> Result<&'a str, Error> {
        self.line = Line::Suse;
        loop {
            let host = lines.next()?;
            if let Some(end) = host.strip_prefix("endconfig") {
                return Ok(end);
            }
            let classic = ["firstclient ", "lastclient ", "clients "];
            if classic.iter().any(|word| host.starts_with(word)) {
                return Err(lines.wrong(host, "comes after a server line, which is missing"));
            }
            let host = host.trim_end();
            if host.is_empty() || host.contains(char::is_whitespace) {
                return Err(lines.wrong(host, "must be one host, without spaces"));
            }
            self.hosts.push(host.to_owned());
        }
    }

    fn what(lines: &mut Lines<'_>) -> Result<What, Error> {
        if let Some(megabytes) = lines.optional("dummy")? {
            let megabytes = megabytes.trim();
            if megabytes.is_empty() {
                return Ok(What::Dummy(None));
            }
            let n = megabytes
                .parse()
                .map_err(|_| lines.wrong(megabytes, "must be a number of megabytes"))?;
            return Ok(What::Dummy(Some(n)));
        }
        let why = "must be infile NAME, compressed infile NAME, or dummy";
        let (compressed, path, mut words) = lines.file("infile ", why)?;
        let split = match words.next() {
            None | Some("") => false,
            Some("split") => true,
            Some(other) => return Err(lines.wrong(other, "only split may follow the name")),
        };
        let input = Input { path, compressed, split };
        let why = "must be outfile NAME or compressed outfile NAME";
        let (compressed, path, mut words) = lines.file("outfile ", why)?;
        let split = match words.next() {
            None | Some("") => None,
            Some("split") => {
                let text = words.next().unwrap_or_default();
                Some(size(text).ok_or_else(|| {
                    lines.wrong(text, "must be a number with k, M, G or T behind it")
                })?)
            }
            Some(other) => return Err(lines.wrong(other, "only split SIZE may follow the name")),
        };
        let output = Output { path, compressed, split };
        if input.compressed && output.compressed {
            return Err(lines.wrong("compressed", "may be before infile or outfile, not both"));
        }
        Ok(What::File { input, output })
    }

    /// The text of this configuration.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out += &text;
            out.push('\n');
        };
        let gz = |yes: bool| if yes { "compressed " } else { "" };
        match &self.what {
            What::Dummy(None) => line("dummy".to_owned()),
            What::Dummy(Some(n)) => line(format!("dummy {n}")),
            What::File { input, output } => {
                let split = if input.split { " split" } else { "" };
                line(format!("{}infile {}{split}", gz(input.compressed), input.path));
                let split = output.split.map(|n| {
                    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")];
                    let unit = units.into_iter().find(|(u, _)| n.is_multiple_of(*u));
                    unit.map_or(format!(" split {n}"), |(u, name)| {
                        format!(" split {}{name}", n / u)
                    })
                });
                let split = split.unwrap_or_default();
                line(format!("{}outfile {}{split}", gz(output.compressed), output.path));
            }
        }
        if let Some(n) = self.segment_size {
            line(format!("segsize {n}"));
        }
        if let Some(cards) = &self.cards {
            let word = if cards.middle { "add2" } else { "add" };
            line(format!("{word} {}:{}", cards.words.len(), cards.words.join(":")));
        }
        if self.fanout != 1 {
            line(format!("fanout {}", self.fanout));
        }
        match self.hyphen {
            Some(Hyphen::Normal) => line("hyphennormal".to_owned()),
            Some(Hyphen::Interface) => line("hypheninterface".to_owned()),
            None => {}
        }
        if self.line == Line::Classic {
            line(format!("server {}", self.server));
            line(format!("firstclient {}", self.first));
            line(format!("lastclient {}", self.last));
            line(format!("clients {}", self.hosts.len()));
        }
        for host in &self.hosts {
            line(host.clone());
        }
        let bytes = self.bytes.map(|bytes| format!("{}{bytes}", super::BYTES_WORD));
        line(match self.verify {
            true => format!("endconfig{}{}", super::VERIFY_WORD, bytes.unwrap_or_default()),
            false => "endconfig".to_owned(),
        });
        out
    }

    /// Where a node of these names is in the list: by whole name, else by what
    /// is before the first hyphen, as the rule in force says.
    #[must_use]
    pub fn find(&self, names: &[String]) -> Option<usize> {
        let whole = self.hosts.iter().position(|h| names.iter().any(|n| n == h.trim_end()));
        if whole.is_some() || self.hyphen == Some(Hyphen::Normal) {
            return whole;
        }
        // Classic programs compare beginnings and take node12 for node1; that
        // mistake is not kept.
        self.hosts.iter().position(|h| {
            h.split_once('-').is_some_and(|(base, _)| names.iter().any(|n| n == base))
        })
    }

    /// The children of a client, or of the server when `of` is `None`.
    #[must_use]
    pub fn children(&self, of: Option<usize>) -> Vec<usize> {
        let own = of.and_then(|i| self.hosts.get(i));
        if self.line == Line::Classic && own.is_some_and(|h| *h == self.last) {
            return Vec::new();
        }
        let first = of.map_or(0, |i| i.saturating_add(1).saturating_mul(self.fanout));
        (first..first.saturating_add(self.fanout)).filter(|i| *i < self.hosts.len()).collect()
    }

    /// A client and all nodes below it.
    #[must_use]
    pub fn subtree(&self, of: usize) -> Vec<usize> {
        let mut nodes = alloc::vec![of];
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            let below = self.children(Some(*node));
            nodes.extend(below);
            at += 1;
            if at > self.hosts.len() {
                break;
            }
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: &str = "infile /dev/sda\noutfile /dev/sda\nserver node1\nfirstclient node2\nlastclient node5\nclients 4\nnode2\nnode3\nnode4\nnode5\nendconfig\n";

    #[test]
    fn the_documented_example() {
        let config = Config::parse(SEED).unwrap();
        assert_eq!(config.hosts, ["node2", "node3", "node4", "node5"]);
        assert_eq!(config.line, Line::Classic);
        assert_eq!(config.text(), SEED);
        assert_eq!(config.children(None), [0]);
        assert_eq!(config.children(Some(2)), [3]);
        assert!(config.children(Some(3)).is_empty());
        assert_eq!(config.subtree(0), [0, 1, 2, 3]);
        // Without the last line end too.
        assert_eq!(Config::parse(SEED.trim_end()).unwrap(), config);
    }

    #[test]
    fn everything_at_once() {
        let text = "compressed infile a.gz split\noutfile b split 2G\nsegsize 1400\nadd2 2:giga:fast\nhyphennormal\nserver s\nfirstclient n1\nlastclient n2\nclients 2\nn1\nn2\nendconfig\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.text(), text);
        let What::File { input, output } = &config.what else { panic!() };
        assert!(input.compressed && input.split);
        assert_eq!(output.split, Some(2 << 30));
        let tree = "dummy 100\nfanout 3\nserver s\nfirstclient a\nlastclient z\nclients 5\na\nb\nc\nd\ne\nendconfig\n";
        let config = Config::parse(tree).unwrap();
        assert_eq!(config.text(), tree);
        assert_eq!(config.children(None), [0, 1, 2]);
        assert_eq!(config.children(Some(0)), [3, 4]);
    }

    #[test]
    fn the_new_grammar() {
        let text = "infile /srv/a\noutfile /srv/b\n10.77.0.2\n10.77.0.3\nendconfig\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.line, Line::Suse);
        assert_eq!(config.text(), text);
        assert_eq!(Config::parse(&text.replace("10.77.0.3", "\n10.77.0.3")).unwrap(), config);
    }

    #[test]
    fn an_option_behind_an_empty_line_is_no_host() {
        let text = "dummy 100\n\nfanout 2\na\nendconfig\n";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.fanout, config.hosts.len()), (2, 1));
        assert_eq!(config.text(), text.replace("\n\n", "\n"));
        for bad in ["dummy 100\n\nadd2 e\nendconfig\n", "dummy 1\na b\nendconfig\n"] {
            assert!(Config::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hyphens_name_cards_and_beginnings_are_not_names() {
        let text = SEED.replace("node2\nnode3", "node12-giga\nnode1-giga");
        let config = Config::parse(&text).unwrap();
        let names = |n: &str| vec![n.to_owned()];
        assert_eq!(config.find(&names("node1")), Some(1));
        assert_eq!(config.find(&names("node12")), Some(0));
        assert_eq!(config.find(&names("node")), None);
    }

    #[test]
    fn errors_name_line_and_word() {
        let wrong = |text: &str| match Config::parse(text) {
            Err(Error::Config { line, word, .. }) => (line, word),
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong("infile a\noutfil b\n"), (2, "outfil b".to_owned()));
        assert_eq!(wrong("infile a zip\n"), (1, "zip".to_owned()));
        assert_eq!(wrong(&SEED.replace("clients 4", "clients four")), (6, "four".to_owned()));
        assert_eq!(wrong(&SEED.replace("clients 4", "clients 5")), (11, "endconfig".to_owned()));
        assert_eq!(wrong(&SEED.replace("clients 4", "clients 3")), (10, "node5".to_owned()));
        assert_eq!(wrong(&SEED.replace("node3", "node2")), (11, "node2".to_owned()));
        assert_eq!(wrong("infile a\noutfile b split 2X\n"), (2, "2X".to_owned()));
        assert_eq!(wrong("infile a\noutfile b\n"), (3, String::new()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(infile|outfile|compressed|server|clients|add|endconfig|[ a-z0-9:\n-]){0,30}") {
            if let Ok(config) = Config::parse(&text) {
                let again = Config::parse(&config.text());
                prop_assert_eq!(again, Ok(config));
            }
        }

        #[test]
        fn written_is_read_back(hosts in proptest::collection::hash_set("[a-z][a-z0-9.-]{0,20}", 1..20), fanout in 1usize..9, suse: bool, verify: bool, bytes: Option<u64>) {
            let hosts: Vec<String> = hosts.into_iter().filter(|h| !["server", "endconfig"].iter().any(|w| h.starts_with(w)) && !h.starts_with("hyphen") && h != "add" && h != "fanout").collect();
            prop_assume!(!hosts.is_empty());
            let config = Config {
                line: if suse { Line::Suse } else { Line::Classic },
                what: What::File { input: Input { path: "/dev/sda".into(), ..Input::default() }, output: Output { path: "/dev/vda".into(), ..Output::default() } },
                segment_size: None, cards: None, fanout, hyphen: None,
                server: if suse { String::new() } else { "golden".into() },
                first: if suse { String::new() } else { hosts[0].clone() },
                last: if suse { String::new() } else { hosts[hosts.len() - 1].clone() },
                hosts, verify, bytes: bytes.filter(|_| verify),
            };
            prop_assert_eq!(Config::parse(&config.text()), Ok(config));
        }
    }
}
