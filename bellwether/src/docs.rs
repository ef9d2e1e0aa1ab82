//! `bellwether docs`: man pages and shell completions, from the definitions
//! that the command line is parsed with. Packages run it when they are built.

use crate::args::{self, Bus, Docs};
use crate::clone;
use crate::clone::flags::{Flag, Program};
use crate::failure::Failure;
use crate::output::write_file;
use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};
use cpio_builder::compress::Codec;
use cpio_builder::error::Error;
use cpio_builder::fsimage::Format;
use cpio_builder::profile::{CLASSES, PROFILES};
use std::fmt::Write as _;

/// Runs the subcommand.
pub fn run(what: &Docs) -> Result<(), Failure> {
    let (about, entries) = (args::info().description, entries());
    if what.page {
        return write_file(&what.dir, markdown(about, &entries).as_bytes());
    }
    let mut files = vec![
        ("man/man1/bellwether.1".to_owned(), overview(about, &entries)),
        ("bash-completion/completions/bellwether".to_owned(), bash(&entries)),
        ("zsh/site-functions/_bellwether".to_owned(), zsh(&entries)),
        ("fish/vendor_completions.d/bellwether.fish".to_owned(), fish(&entries)),
    ];
    for entry in &entries {
        files.push((format!("man/man1/{}.1", entry.page_name()), page(entry, &entries)));
    }
    for (name, text) in files {
        let path = what.dir.join(name);
        if let Some(dir) = path.parent() {
            let fail = |source| Error::Write { path: dir.into(), source };
            std::fs::create_dir_all(dir).map_err(fail)?;
        }
        write_file(&path, text.as_bytes())?;
    }
    Ok(())
}

/// A command as all the texts here show it: a subcommand, which argh reads, or a clone
/// program, which getopt's grammar reads.
struct Entry {
    /// As it is typed behind `bellwether`.
    call: String,
    /// Old names of a clone program; a link of such a name runs it.
    names: &'static [&'static str],
    about: String,
    positionals: Vec<(&'static str, &'static str)>,
    options: Vec<Choice>,
    /// What each example shows, if that is said, and its lines.
    examples: Vec<(&'static str, &'static str)>,
    notes: Vec<&'static str>,
}

/// An option: one of its names may be missing.
struct Choice {
    long: Option<String>,
    short: Option<char>,
    /// The name of its value.
    value: Option<&'static str>,
    about: &'static str,
    /// What the value can be, where that is a list.
    words: Vec<&'static str>,
}

impl Choice {
    /// `-o`, `--output`.
    fn names(&self) -> Vec<String> {
        self.short.map(|c| format!("-{c}")).into_iter().chain(self.long.clone()).collect()
    }
}

impl Entry {
    fn of_argh(name: &str, command: &CommandInfoWithArgs) -> Self {
        let option = |flag: &FlagInfo<'static>| Choice {
            long: Some(flag.long.to_owned()),
            short: flag.short,
            value: match flag.kind {
                FlagInfoKind::Switch => None,
                FlagInfoKind::Option { arg_name } => Some(arg_name),
            },
            about: flag.description,
            words: values(flag.long),
        };
        Self {
            call: name.to_owned(),
            names: &[],
            about: command.description.trim().to_owned(),
            positionals: command
                .positionals
                .iter()
                .filter(|p| !p.hidden)
                .map(|p| (p.name, p.description))
                .collect(),
            options: command.flags.iter().filter(|flag| !flag.hidden).map(option).collect(),
            examples: command
                .examples
                .iter()
                .map(|e| e.split_once('\n').unwrap_or(("", e)))
                .collect(),
            notes: command.notes.to_vec(),
        }
    }

    fn of_program(names: &'static [&'static str], program: &'static Program) -> Self {
        let option = |flag: &'static Flag| Choice {
            long: (!flag.long.is_empty()).then(|| format!("--{}", flag.long)),
            short: flag.short,
            value: flag.takes,
            about: flag.help,
            words: Vec::new(),
        };
        Self {
            call: format!("clone {}", program.name),
            names,
            about: program.about.to_owned(),
            positionals: (!program.rest.is_empty())
                .then_some((program.rest, ""))
                .into_iter()
                .collect(),
            options: program.flags.iter().map(option).collect(),
            examples: vec![("", program.example)],
            notes: Vec::new(),
        }
    }

    /// The name of its man page.
    fn page_name(&self) -> String {
        format!("bellwether-{}", self.call.replace(' ', "-"))
    }

    /// Its last word, under which its group lists it.
    fn word(&self) -> &str {
        self.call.rsplit(' ').next().unwrap_or_default()
    }

    fn is_program(&self) -> bool {
        !self.names.is_empty()
    }

    /// Every way to name it behind `bellwether`.
    fn calls(&self) -> Vec<String> {
        match self.names {
            [] => vec![self.call.clone()],
            names => names.iter().map(|name| format!("clone {name}")).collect(),
        }
    }

    /// All names of options as a shell sees them.
    fn flag_words(&self) -> String {
        let mut words: Vec<String> = self.options.iter().flat_map(Choice::names).collect();
        words.push("--help".to_owned());
        words.join(" ")
    }
}

/// Every subcommand and every clone program.
fn entries() -> Vec<Entry> {
    let root = args::info();
    let commands = root.commands.iter().map(|c| Entry::of_argh(c.name, &c.command));
    let programs =
        clone::PROGRAMS.iter().map(|(names, program, _)| Entry::of_program(names, program));
    commands.chain(programs).collect()
}

/// Names that clone programs can be called by.
fn links() -> Vec<&'static str> {
    clone::PROGRAMS.iter().flat_map(|p| p.0).copied().filter(|n| clone::is_link(n)).collect()
}

/// Words that an option's value may be, where there is a list of them.
fn values(flag: &str) -> Vec<&'static str> {
    match flag {
        "--profile" => PROFILES.iter().map(|p| p.name).collect(),
        "--class" => CLASSES.iter().map(|(name, _)| *name).collect(),
        "--format" => Format::ALL.iter().map(|f| f.name()).collect(),
        "--bus" => Bus::ALL.iter().map(|(name, _)| *name).collect(),
        "--compress" => Codec::ALL.iter().map(|c| c.name()).collect(),
        _ => Vec::new(),
    }
}

/// The first sentence, without its full stop.
fn summary(text: &str) -> &str {
    text.split(". ").next().unwrap_or(text).trim_end_matches('.')
}

/// Text as troff takes it: no escape, no request at a line's start, hyphens
/// that can be copied to a shell.
fn troff(text: &str) -> String {
    let mut out = String::new();
    for (n, line) in text.lines().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for c in line.chars() {
            match c {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                // Not every output has this character.
                '…' => out.push_str("..."),
                c if c.is_ascii() => out.push(c),
                c => {
                    let _ = write!(out, "\\[u{:04X}]", u32::from(c));
                }
            }
        }
    }
    out
}

/// The heading of a man page.
fn heading(name: &str, also: &[&str], about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let about = summary(about);
    let about = about.chars().take(1).flat_map(char::to_lowercase).chain(about.chars().skip(1));
    format!(
        ".TH {} 1 \"\" \"bellwether {version}\" \"Bellwether\"\n.SH NAME\n{} \\- {}\n",
        name.to_uppercase(),
        troff(&[&[name], also].concat().join(", ")),
        troff(&about.collect::<String>())
    )
}

/// A list of pages, and what each is about.
fn pages<'e>(entries: impl Iterator<Item = &'e Entry>) -> String {
    let one = |e: &Entry| {
        format!(".TP\n.BR {} (1)\n{}\n", troff(&e.page_name()), troff(summary(&e.about)))
    };
    entries.map(one).collect()
}

/// bellwether(1).
fn overview(about: &str, entries: &[Entry]) -> String {
    let mut out = heading("bellwether", &[], about);
    let _ = write!(
        out,
        ".SH SYNOPSIS\n.B bellwether\n.I command\n.RI [ options ]\n.SH DESCRIPTION\n{}\n.SH COMMANDS\n{}",
        troff(about),
        pages(entries.iter().filter(|e| !e.is_program()))
    );
    out.push_str(
        ".SH OPTIONS\n.TP\n.B \\-\\-help\nSay how to use the command, or a command's command.\n\
         .TP\n.B \\-\\-version\nSay which version it is.\n",
    );
    out.push_str(EXIT_STATUS);
    out
}

const EXIT_STATUS: &str = ".SH EXIT STATUS\n.TP\n0\ndone\n.TP\n1\nfailed\n.TP\n2\nwrong usage\n\
                           .TP\n141\ndone, but the reader of the output was gone\n";

/// The page of a command's command.
fn page(entry: &Entry, entries: &[Entry]) -> String {
    let mut out = heading(&entry.page_name(), entry.names, &entry.about);
    let _ = write!(out, ".SH SYNOPSIS\n.B bellwether {}\n", troff(&entry.call));
    let value = |option: &Choice| {
        option.value.map(|v| format!(" \\fI{}\\fR", troff(v))).unwrap_or_default()
    };
    for option in &entry.options {
        // The long name, if there is one.
        let name = option.names().pop().unwrap_or_default();
        let _ = writeln!(out, "[\\fB{}\\fR{}]", troff(&name), value(option));
    }
    for (name, _) in &entry.positionals {
        let _ = writeln!(out, "\\fI{}\\fR", troff(name));
    }
    let _ = write!(out, ".SH DESCRIPTION\n{}\n", troff(&entry.about));
    if entry.names.iter().any(|name| clone::is_link(name)) {
        out.push_str(".PP\nA link of an old name to bellwether runs it, too.\n");
    }
    if !entry.options.is_empty() || entry.positionals.iter().any(|p| !p.1.is_empty()) {
        out.push_str(".SH OPTIONS\n");
    }
    for (name, about) in entry.positionals.iter().filter(|p| !p.1.is_empty()) {
        let _ = write!(out, ".TP\n.I {}\n{}\n", troff(name), troff(about));
    }
    for option in &entry.options {
        let names = option.names().join("\\fR, \\fB").replace('-', "\\-");
        let _ = write!(out, ".TP\n\\fB{names}\\fR{}\n{}\n", value(option), troff(option.about));
    }
    if entry.call == "clone" {
        let programs = pages(entries.iter().filter(|e| e.is_program()));
        let _ = write!(out, ".SH PROGRAMS\n{programs}");
    }
    if !entry.examples.is_empty() {
        out.push_str(".SH EXAMPLES\n");
    }
    for (about, lines) in &entry.examples {
        if !about.is_empty() {
            let _ = write!(out, ".PP\n{}\n", troff(about));
        }
        let _ = write!(out, ".PP\n.nf\n{}\n.fi\n", troff(lines));
    }
    if !entry.notes.is_empty() {
        out.push_str(".SH NOTES\n");
    }
    for note in &entry.notes {
        let _ = write!(out, ".PP\n{}\n", troff(note));
    }
    out.push_str(EXIT_STATUS);
    let above = if entry.is_program() { "bellwether\\-clone" } else { "bellwether" };
    let _ = write!(out, ".SH SEE ALSO\n.BR {above} (1)\n");
    out
}

/// A cell of a table.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// The page about all commands.
fn markdown(about: &str, entries: &[Entry]) -> String {
    let mut out = format!(
        "<!-- Made by `cargo xtask docs` from the definitions that the command line is parsed with. -->\n\
         # The host command\n\n{}\n\n`--name=value` is taken as `--name value`. Exit status: 0 done, \
         1 failed, 2 wrong usage, 141 done, but the reader of the output was gone.\n",
        about.trim()
    );
    let group = |out: &mut String, programs: bool| {
        out.push_str("\n| command | |\n| --- | --- |\n");
        for entry in entries.iter().filter(|e| e.is_program() == programs) {
            let (about, link) = (cell(summary(&entry.about)), entry.page_name());
            let also: String = entry.names.iter().skip(1).map(|n| format!(", {n}")).collect();
            let _ =
                writeln!(out, "| [{}](#{}){also} | {about} |", entry.word(), link.to_lowercase());
        }
    };
    group(&mut out, false);
    for entry in entries {
        let level = if entry.is_program() { "###" } else { "##" };
        let _ = write!(out, "\n{level} bellwether {}\n\n{}\n", entry.call, entry.about);
        if entry.call == "clone" {
            group(&mut out, true);
            out.push_str(
                "\nThe programs read options as getopt does: `-n4` is `-n 4`, and a long name may be \
                 shortened where that is unambiguous. A link to `bellwether` that has an old name runs \
                 that program.\n",
            );
        } else if !entry.options.is_empty() || !entry.positionals.is_empty() {
            out.push_str("\n| option | |\n| --- | --- |\n");
        }
        for (name, about) in entry.positionals.iter().filter(|_| entry.call != "clone") {
            let _ = writeln!(out, "| *{}* | {} |", cell(name), cell(about));
        }
        for option in entry.options.iter().filter(|_| entry.call != "clone") {
            let names = option.names().join("`, `");
            let value = option.value.map(|v| format!(" *{}*", cell(v))).unwrap_or_default();
            let _ = writeln!(out, "| `{names}`{value} | {} |", cell(option.about));
        }
        for (about, lines) in &entry.examples {
            let lines: Vec<&str> = lines.lines().map(str::trim).collect();
            let about = if about.is_empty() { String::new() } else { format!("\n{about}\n") };
            let _ = write!(out, "{about}\n```console\n$ {}\n```\n", lines.join("\n$ "));
        }
    }
    out
}

/// The words behind `bellwether`, or behind `bellwether clone`.
fn group_words(entries: &[Entry], programs: bool) -> String {
    let own = |e: &&Entry| e.is_program() == programs;
    let words: Vec<String> = match programs {
        false => entries.iter().filter(own).map(|e| e.call.clone()).collect(),
        true => entries.iter().filter(own).flat_map(|e| e.names).map(|n| (*n).to_owned()).collect(),
    };
    words.join(" ")
}

/// What bash and zsh match for a command, also by its other names.
fn pattern(entry: &Entry, rest: &str) -> String {
    let calls: Vec<String> = entry.calls().iter().map(|c| format!("'{c}{rest}'")).collect();
    calls.join("|")
}

fn bash(entries: &[Entry]) -> String {
    let mut out = format!(
        "# bash completion for bellwether\n_bellwether() {{\n    \
         local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=\n    \
         local command=${{COMP_WORDS[1]}} name=${{COMP_WORDS[0]##*/}}\n    \
         COMPREPLY=()\n    \
         if [[ $name != bellwether ]]; then\n        command=\"clone $name\"\n    \
         elif ((COMP_CWORD == 1)); then\n        \
         COMPREPLY=($(compgen -W '{} --help --version' -- \"$cur\"))\n        return\n    \
         elif [[ $command == clone ]] && ((COMP_CWORD == 2)); then\n        \
         COMPREPLY=($(compgen -W '{} --help' -- \"$cur\"))\n        return\n    \
         elif [[ $command == clone ]]; then\n        command=\"clone ${{COMP_WORDS[2]}}\"\n    \
         fi\n    case $command:$prev in\n",
        group_words(entries, false),
        group_words(entries, true),
    );
    for entry in entries {
        for option in entry.options.iter().filter(|option| option.value.is_some()) {
            let names = option.names();
            let patterns: Vec<String> =
                names.iter().map(|name| pattern(entry, &format!(":{name}"))).collect();
            let then = match option.words.as_slice() {
                [] => "COMPREPLY=($(compgen -f -- \"$cur\")); return".to_owned(),
                words => format!("words='{}'", words.join(" ")),
            };
            let _ = writeln!(out, "    {}) {then} ;;", patterns.join("|"));
        }
    }
    out.push_str("    esac\n    case $words$command in\n");
    for entry in entries {
        let _ = writeln!(out, "    {}) words='{}' ;;", pattern(entry, ""), entry.flag_words());
    }
    let _ = write!(
        out,
        "    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\
         \x20   if ((${{#COMPREPLY[@]}} == 0)) && [[ $cur != -* ]]; then\n\
         \x20       COMPREPLY=($(compgen -f -- \"$cur\"))\n    fi\n}}\n\
         complete -o filenames -F _bellwether bellwether {}\n",
        links().join(" ")
    );
    out
}

/// A description as one line without what shells would read.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace(['\'', '"', '[', ']', ':', '\\', '`', '$'], " ")
}

fn zsh(entries: &[Entry]) -> String {
    let list = |programs: bool| -> String {
        let lines = entries.iter().filter(|e| e.is_program() == programs);
        lines.map(|e| format!("'{}[{}]' ", e.word(), plain(summary(&e.about)))).collect()
    };
    let mut out = format!(
        "#compdef bellwether {}\n\nlocal command=\"clone ${{words[1]:t}}\"\n\
         if [[ ${{words[1]:t}} == bellwether ]]; then\n    \
         if (( CURRENT == 2 )); then\n        _values command {}--help --version\n        return\n    fi\n    \
         shift words; (( CURRENT-- ))\n    command=${{words[1]}}\n    \
         if [[ $command == clone ]]; then\n        \
         if (( CURRENT == 2 )); then\n            _values program {}--help\n            return\n        fi\n        \
         shift words; (( CURRENT-- ))\n        command=\"clone ${{words[1]}}\"\n    fi\nfi\n\
         case $command in\n",
        links().join(" "),
        list(false),
        list(true),
    );
    for entry in entries {
        let _ = writeln!(out, "{})\n    _arguments \\", pattern(entry, ""));
        for option in &entry.options {
            let value = match (option.value, option.words.as_slice()) {
                (None, _) => String::new(),
                (Some(name), []) => format!(":{}:_files", plain(name)),
                (Some(name), words) => format!(":{}:({})", plain(name), words.join(" ")),
            };
            for name in option.names() {
                let _ = writeln!(out, "        '*{name}[{}]{value}' \\", plain(option.about));
            }
        }
        out.push_str("        '*:file:_files'\n    ;;\n");
    }
    out.push_str("esac\n");
    out
}

fn fish(entries: &[Entry]) -> String {
    let mut out = String::from("# fish completion for bellwether\n");
    for entry in entries {
        let names = if entry.is_program() { entry.names } else { &[] };
        let (above, seen) = match names {
            [] => (
                "__fish_use_subcommand".to_owned(),
                format!("__fish_seen_subcommand_from {}", entry.call),
            ),
            names => (
                format!(
                    "__fish_seen_subcommand_from clone; and not __fish_seen_subcommand_from {}",
                    group_words(entries, true)
                ),
                format!(
                    "__fish_seen_subcommand_from clone; and __fish_seen_subcommand_from {}",
                    names.join(" ")
                ),
            ),
        };
        let about = plain(summary(&entry.about));
        for word in entry.calls().iter().filter_map(|call| call.rsplit(' ').next()) {
            let _ = writeln!(out, "complete -c bellwether -n '{above}' -f -a {word} -d '{about}'");
        }
        // The command itself, and the links that run it.
        let mut calls = vec![format!("bellwether -n '{seen}'")];
        calls.extend(names.iter().filter(|n| clone::is_link(n)).map(|n| (*n).to_owned()));
        for call in calls {
            for option in &entry.options {
                let long =
                    option.long.as_deref().map(|l| format!(" -l {}", l.trim_start_matches('-')));
                let short = option.short.map(|c| format!(" -s {c}"));
                let value = match (option.value, option.words.as_slice()) {
                    (None, _) => String::new(),
                    (Some(_), []) => " -r -F".to_owned(),
                    (Some(_), words) => format!(" -x -a '{}'", words.join(" ")),
                };
                let _ = writeln!(
                    out,
                    "complete -c {call}{}{}{value} -d '{}'",
                    long.unwrap_or_default(),
                    short.unwrap_or_default(),
                    plain(option.about)
                );
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn every_command_program_name_and_option_is_everywhere() {
        let entries = entries();
        assert!(entries.len() >= 9 + 15);
        let overview = overview("", &entries);
        let (bash, zsh, fish) = (bash(&entries), zsh(&entries), fish(&entries));
        let markdown = markdown("", &entries);
        for entry in &entries {
            let page = page(entry, &entries);
            assert!(page.contains(".SH EXAMPLES"), "{} has no example", entry.call);
            let above = match entry.is_program() {
                true => super::page(entries.iter().find(|e| e.call == "clone").unwrap(), &entries),
                false => overview.clone(),
            };
            assert!(above.contains(&troff(&entry.page_name())), "{} in {above}", entry.call);
            for name in entry.names.iter().copied().chain([entry.word()]) {
                for text in [&bash, &zsh, &fish, &markdown] {
                    assert!(text.contains(name), "{name} in {text}");
                }
                assert!(page.contains(&troff(name)), "{name} in {page}");
            }
            for option in &entry.options {
                for name in option.names() {
                    assert!(page.contains(&troff(&name)), "{name} in {page}");
                    for text in [&bash, &zsh, &markdown] {
                        assert!(text.contains(&name), "{name} in {text}");
                    }
                    let fishy = if name.starts_with("--") { " -l " } else { " -s " };
                    let fishy = fishy.to_owned() + name.trim_start_matches('-');
                    assert!(fish.contains(&fishy), "{fishy} in {fish}");
                }
            }
        }
        assert!(
            bash.contains("words='virt lan net all'") && fish.contains("zstd gzip xz lz4 none")
        );
    }

    #[test]
    fn the_page_about_all_commands_is_what_the_code_says() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/host-command.md");
        let there = std::fs::read_to_string(page).unwrap();
        assert!(
            there == markdown(args::info().description, &entries()),
            "out of date: run cargo xtask docs"
        );
    }

    /// groff has something to say about what is not a man page.
    #[test]
    fn man_pages_are_troff() {
        if Command::new("groff").arg("--version").output().is_err() {
            eprintln!("passed over: groff is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        run(&Docs { dir: dir.path().into(), page: false }).unwrap();
        for entry in std::fs::read_dir(dir.path().join("man/man1")).unwrap() {
            let path = entry.unwrap().path();
            let mut groff = Command::new("groff");
            let told = groff.args(["-man", "-Tascii", "-ww", "-z"]).arg(&path).output().unwrap();
            assert!(told.status.success() && told.stderr.is_empty(), "{path:?}: {told:?}");
        }
    }

    #[test]
    fn files_land_where_packages_want_them_and_bash_takes_its_own() {
        let dir = tempfile::tempdir().unwrap();
        run(&Docs { dir: dir.path().into(), page: false }).unwrap();
        let page = std::fs::read_to_string(dir.path().join("man/man1/bellwether-build.1")).unwrap();
        assert!(page.starts_with(".TH BELLWETHER-BUILD 1 "));
        assert!(page.contains("\\fB\\-\\-modules\\fR \\fIpath\\fR"), "{page}");
        let script = dir.path().join("bash-completion/completions/bellwether");
        let lines = [
            ("bellwether build --profile v", "virt"),
            ("bellwether bu", "build"),
            ("bellwether clone udp-s", "udp-sender udp-send"),
            ("bellwether clone udp-send --min-r", "--min-receivers"),
            ("dolly --no-v", "--no-verify"),
            ("/usr/bin/ka-d-server --arit", "--arity"),
        ];
        for (line, wanted) in lines {
            let ask = format!(
                "source {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                 _bellwether; echo \"${{COMPREPLY[*]}}\"",
                script.display()
            );
            let told = Command::new("bash").args(["-c", &ask]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), wanted, "{line}");
        }
    }
}
