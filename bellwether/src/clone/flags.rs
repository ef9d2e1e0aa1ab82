//! Options as the old programs take them: getopt's long and short forms,
//! joined or apart, long names shortened where that is unambiguous. One table
//! a program is the grammar and the help text.

use crate::failure::Failure;
use std::path::Path;
use std::time::Duration;

/// One option.
#[derive(Debug)]
pub struct Flag {
    /// Long name, without dashes; may be empty.
    pub long: &'static str,
    /// Short name.
    pub short: Option<char>,
    /// What its argument is called, if it takes one.
    pub takes: Option<&'static str>,
    /// Its line in the help text.
    pub help: &'static str,
}

/// Shorthand for the tables.
pub const fn flag(
    long: &'static str,
    short: Option<char>,
    takes: Option<&'static str>,
    help: &'static str,
) -> Flag {
    Flag { long, short, takes, help }
}

/// The option of programs that wait for other machines in the middle of a copy.
pub const STALL: Flag =
    flag("stall", None, Some("S"), "give up when nothing moves for so long [300]");
/// The option of programs that show progress.
pub const QUIET: Flag = flag("quiet", Some('q'), None, "no progress");
/// The options of programs that write a copy.
pub const VERIFY: Flag = flag("verify", None, None, "accepted: a copy is read back by default");
/// Of those that write chunk by chunk.
pub const KEEP_TABLE: Flag = flag(
    "keep-table",
    None,
    None,
    "the disk keeps its partition table, which has the copy's partitions at the same places: what \
     they hold and boot code alone are written",
);
pub const NO_READ_BACK: Flag =
    flag("no-read-back", None, None, "do not read the copy back: it is not called verified");
pub const FROM: Flag = flag(
    "from",
    None,
    Some("IP,IP"),
    "take a copy from these machines alone: the sender, and in a chain those before this one",
);
pub const DIGEST: Flag =
    flag("digest", None, Some("NAME:HEX"), "the copy must have this blake3 or sha256 digest");
pub const KEY: Flag =
    flag("key", None, Some("WORD"), "take a copy only from a sender with this key");
/// The options of programs that send one.
pub const SEND_KEY: Flag = flag(
    "key",
    None,
    Some("WORD"),
    "send only to machines with this key, of 16 letters or more; new makes one",
);
pub const SEND_DIGEST: Flag =
    flag("digest", None, None, "read it once before, and tell the digest first");
/// Without [`STALL`].
pub const STALLED: Duration = Duration::from_secs(300);

/// A program's grammar.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// Its options.
    pub flags: &'static [Flag],
    /// What follows the options.
    pub rest: &'static str,
    /// A command line that works.
    pub example: &'static str,
}

/// What was given.
#[derive(Debug, Default)]
pub struct Given {
    values: Vec<(&'static Flag, String)>,
    /// What is not an option.
    pub rest: Vec<String>,
}

impl Given {
    fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.values.iter().filter(move |(f, _)| is(f, name)).map(|(_, v)| v.as_str())
    }

    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The option's last argument.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named(name).next_back()
    }

    /// The option's last argument as a number or an address.
    pub fn parsed<T: Value>(&self, name: &str) -> Result<Option<T>, Failure> {
        let dashes = if name.len() == 1 { "-" } else { "--" };
        let wrong = |v| Failure::Usage(format!("{dashes}{name}: '{v}' is not {}", T::KIND));
        self.get(name).map(|v| v.parse().map_err(|_| wrong(v))).transpose()
    }

    /// As [`Given::parsed`], of an option with two names; the first one counts.
    pub fn either<T: Value>(&self, name: &str, other: &str) -> Result<Option<T>, Failure> {
        Ok(self.parsed(name)?.or(self.parsed(other)?))
    }

    /// The option's last argument in seconds; 0 is as if it was not given.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>, Failure> {
        Ok(self.parsed::<u64>(name)?.filter(|s| *s > 0).map(Duration::from_secs))
    }

    /// What [`STALL`] says.
    pub fn stall(&self) -> Result<Option<Duration>, Failure> {
        Ok(Some(self.seconds("stall")?.unwrap_or(STALLED)))
    }

    /// How many machines there are.
    pub fn clients(&self, program: &str) -> Result<usize, Failure> {
        self.parsed("clients")?.ok_or_else(|| {
            Failure::Usage(format!("{program}: -n N says how many machines there are"))
        })
    }
}

/// What an option's argument can be read as.
pub trait Value: std::str::FromStr {
    /// Named in the error when it cannot.
    const KIND: &str;
}

macro_rules! numbers {
    ($($number:ty)*) => { $(impl Value for $number { const KIND: &str = "a number"; })* };
}

numbers!(u8 u16 u32 u64 usize);

impl Value for std::net::Ipv4Addr {
    const KIND: &str = "an IPv4 address";
}

fn is(flag: &Flag, name: &str) -> bool {
    flag.long == name || (name.len() == 1 && flag.short == name.chars().next())
}

impl Program {
    /// Reads the arguments. Nothing when help was asked for, and given.
    pub fn parse(&'static self, args: &[String]) -> Result<Option<Given>, Failure> {
        let mut given = Given::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                given.rest.extend(args.by_ref().cloned());
            } else if let Some(long) = arg.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                if name == "help" {
                    self.help();
                    return Ok(None);
                }
                let flag = self.long(name)?;
                let value = match (flag.takes, value) {
                    (None, None) => String::new(),
                    (None, Some(_)) => return self.usage(&format!("--{name} takes no argument")),
                    (Some(_), Some(value)) => value,
                    (Some(what), None) => match args.next() {
                        Some(value) => value.clone(),
                        None => return self.usage(&format!("--{name} needs {what}")),
                    },
                };
                given.values.push((flag, value));
            } else if let Some(shorts) = arg.strip_prefix('-').filter(|s| !s.is_empty()) {
                let mut shorts = shorts.chars();
                while let Some(c) = shorts.next() {
                    let Some(flag) = self.flags.iter().find(|f| f.short == Some(c)) else {
                        if c == 'h' || c == '?' {
                            self.help();
                            return Ok(None);
                        }
                        return self.usage(&format!("there is no option -{c}"));
                    };
                    let mut value = String::new();
                    if let Some(what) = flag.takes {
                        value = shorts.as_str().to_owned();
                        shorts = "".chars();
                        if value.is_empty() {
                            match args.next() {
                                Some(next) => value.clone_from(next),
                                None => return self.usage(&format!("-{c} needs {what}")),
                            }
                        }
                    }
                    given.values.push((flag, value));
                }
            } else {
                given.rest.push(arg.clone());
            }
        }
        Ok(Some(given))
    }

    fn long(&'static self, name: &str) -> Result<&'static Flag, Failure> {
        if let Some(flag) = self.flags.iter().find(|f| f.long == name) {
            return Ok(flag);
        }
        let near: Vec<_> =
            self.flags.iter().filter(|f| !name.is_empty() && f.long.starts_with(name)).collect();
        match near.as_slice() {
            [one] => Ok(one),
            [] => self.usage(&format!("there is no option --{name}")),
            _ => self.usage(&format!("--{name} is ambiguous")),
        }
    }

    fn usage<T>(&self, why: &str) -> Result<T, Failure> {
        Err(Failure::Usage(format!("{}: {why}; --help lists what there is", self.name)))
    }

    fn help(&self) {
        // Under its old name it was called by a link.
        let by_link = std::env::args_os()
            .next()
            .is_some_and(|own| Path::new(&own).file_name() == Some(self.name.as_ref()));
        let of = if by_link { "" } else { "bellwether clone " };
        let usage = format!("Usage: {of}{} [options] {}", self.name, self.rest);
        println!("{}\n\n{}\n\nOptions:", usage.trim_end(), wrapped(self.about, 0));
        for f in self.flags {
            let mut left = f.short.map_or("    ".to_owned(), |c| {
                format!("-{c}{}", if f.long.is_empty() { "  " } else { ", " })
            });
            if !f.long.is_empty() {
                left += "--";
                left += f.long;
            }
            if let Some(what) = f.takes {
                left = format!("{left} {what}");
            }
            println!("{}", item(&left, f.help, EXPLANATION));
        }
        println!(
            "{}\n\nExample:\n  {}",
            item("    --help", "this text", EXPLANATION),
            self.example
        );
        println!("\nExit status: 0 done, 1 failed, 2 wrong usage.");
    }
}

/// Columns of a help text, and where its explanations begin.
const WIDTH: usize = 80;
const EXPLANATION: usize = 31;

/// A name and what it is, which begins in this column; below a name that is longer.
pub fn item(name: &str, about: &str, column: usize) -> String {
    let about = wrapped(about, column);
    match name.chars().count() + 2 < column {
        true => format!("  {name:<width$}{}", about.trim_start(), width = column - 2),
        false => format!("  {name}\n{about}"),
    }
}

/// A text in lines of [`WIDTH`] columns, all of which begin after `indent` blanks.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{:indent$}{word}", "")),
        }
    }
    lines.join("\n")
}

/// A number of bits per second or bytes with k, m or g behind it, each
/// `factor` times the one before.
pub fn scaled(text: &str, factor: u64) -> Result<u64, Failure> {
    let wrong =
        || Failure::Usage(format!("'{text}' is not a number, with k, m or g behind it or without"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    let power = match text.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" => 1,
        "m" | "M" => 2,
        "g" | "G" => 3,
        _ => return Err(wrong()),
    };
    (0..power).try_fold(n, |n, _| n.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    static P: Program = Program {
        name: "p",
        about: "",
        rest: "",
        example: "",
        flags: &[
            flag("file", Some('f'), Some("FILE"), ""),
            flag("fec", None, Some("X"), ""),
            flag("verbose", Some('v'), None, ""),
        ],
    };

    fn given(args: &[&str]) -> Result<Given, Failure> {
        P.parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).map(Option::unwrap)
    }

    #[test]
    fn getopt_as_people_type_it() {
        let g = given(&["-vfdolly.cfg", "--fec=8x8", "rest", "--verb", "--", "-x"]).unwrap();
        assert_eq!(g.get("file"), Some("dolly.cfg"));
        assert_eq!(g.get("f"), Some("dolly.cfg"));
        assert_eq!(g.get("fec"), Some("8x8"));
        assert!(g.has("verbose"));
        assert_eq!(g.rest, ["rest", "-x"]);
        assert!(given(&["--f", "x"]).is_err(), "ambiguous");
        assert!(given(&["--nothing"]).is_err());
        assert!(given(&["-f"]).is_err());
    }

    #[test]
    fn a_wrong_value_is_named_with_its_option() {
        let g = given(&["--file=9001x"]).unwrap();
        let why = |e: Failure| e.to_string();
        assert_eq!(
            g.parsed::<u16>("file").map_err(why),
            Err("--file: '9001x' is not a number".into())
        );
        let wrong = g.parsed::<std::net::Ipv4Addr>("f").map_err(why);
        assert_eq!(wrong, Err("-f: '9001x' is not an IPv4 address".into()));
    }

    /// Lines of 120 columns broke in the middle of words.
    #[test]
    fn help_fits_a_terminal() {
        let long = "a word ".repeat(30);
        for name in ["-f, --file FILE", "    --rexmit-hello-interval MILLISECONDS"] {
            let text = item(name, &long, EXPLANATION);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 30);
        }
        let (first, second) =
            (item("-q", "no progress", EXPLANATION), item("    --long", "x", EXPLANATION));
        assert_eq!(first.find("no"), second.find('x'));
    }

    #[test]
    fn sizes() {
        assert_eq!(scaled("10m", 1000).unwrap(), 10_000_000);
        assert_eq!(scaled("2k", 1024).unwrap(), 2048);
        assert!(scaled("99999999999999g", 1024).is_err());
        assert!(scaled("x", 1).is_err());
    }
}
