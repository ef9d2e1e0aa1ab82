//! `bellwether docs`: man pages and shell completions, from the definitions
//! that the command line is parsed with. Packages run it when they are built.

use crate::args::{self, Bus, Docs};
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
    let root = args::info();
    if what.page {
        return write_file(&what.dir, markdown(&root).as_bytes());
    }
    let mut files = vec![
        ("man/man1/bellwether.1".to_owned(), overview(&root)),
        ("bash-completion/completions/bellwether".to_owned(), bash(&root)),
        ("zsh/site-functions/_bellwether".to_owned(), zsh(&root)),
        ("fish/vendor_completions.d/bellwether.fish".to_owned(), fish(&root)),
    ];
    for command in &root.commands {
        let name = format!("man/man1/bellwether-{}.1", command.name);
        files.push((name, page(&command.command)));
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

fn shown(command: &CommandInfoWithArgs) -> impl Iterator<Item = &FlagInfo<'static>> {
    command.flags.iter().filter(|flag| !flag.hidden)
}

/// The first sentence, without its full stop.
fn summary(text: &str) -> &str {
    text.split(". ").next().unwrap_or(text).trim_end_matches('.')
}

/// The name of an option's value.
const fn value_name<'f>(flag: &'f FlagInfo) -> Option<&'f str> {
    match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { arg_name } => Some(arg_name),
    }
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
        out.push_str(&line.replace('\\', "\\e").replace('-', "\\-"));
    }
    out
}

/// The heading of a man page.
fn heading(name: &str, about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let about = summary(about);
    let about = about.chars().take(1).flat_map(char::to_lowercase).chain(about.chars().skip(1));
    format!(
        ".TH {} 1 \"\" \"bellwether {version}\" \"Bellwether\"\n.SH NAME\n{} \\- {}\n",
        name.to_uppercase(),
        troff(name),
        troff(&about.collect::<String>())
    )
}

/// bellwether(1).
fn overview(root: &CommandInfoWithArgs) -> String {
    let mut out = heading("bellwether", root.description);
    let _ = write!(
        out,
        ".SH SYNOPSIS\n.B bellwether\n.I command\n.RI [ options ]\n.SH DESCRIPTION\n{}\n.SH COMMANDS\n",
        troff(root.description)
    );
    for command in &root.commands {
        let about = summary(command.command.description);
        let _ =
            write!(out, ".TP\n.BR bellwether\\-{} (1)\n{}\n", troff(command.name), troff(about));
    }
    out.push_str(
        ".SH OPTIONS\n.TP\n.B \\-\\-help\nSay how to use the command, or a command's command.\n\
         .TP\n.B \\-\\-version\nSay which version it is.\n",
    );
    out.push_str(EXIT_STATUS);
    out
}

const EXIT_STATUS: &str = ".SH EXIT STATUS\n.TP\n0\ndone\n.TP\n1\nfailed\n.TP\n2\nwrong usage\n";

/// The page of a command's command.
fn page(command: &CommandInfoWithArgs) -> String {
    let name = format!("bellwether-{}", command.name);
    let mut out = heading(&name, command.description);
    let _ = write!(out, ".SH SYNOPSIS\n.B bellwether {}\n", troff(command.name));
    for flag in shown(command) {
        let _ = match value_name(flag) {
            None => writeln!(out, "[\\fB{}\\fR]", troff(flag.long)),
            Some(value) => writeln!(out, "[\\fB{}\\fR \\fI{}\\fR]", troff(flag.long), troff(value)),
        };
    }
    for positional in command.positionals.iter().filter(|p| !p.hidden) {
        let _ = writeln!(out, "\\fI{}\\fR", troff(positional.name));
    }
    let _ = write!(out, ".SH DESCRIPTION\n{}\n.SH OPTIONS\n", troff(command.description));
    for positional in command.positionals.iter().filter(|p| !p.hidden) {
        let _ =
            write!(out, ".TP\n.I {}\n{}\n", troff(positional.name), troff(positional.description));
    }
    for flag in shown(command) {
        let short = flag.short.map(|c| format!("\\fB\\-{c}\\fR, ")).unwrap_or_default();
        let value = value_name(flag).map(|v| format!(" \\fI{}\\fR", troff(v))).unwrap_or_default();
        let _ = write!(
            out,
            ".TP\n{short}\\fB{}\\fR{value}\n{}\n",
            troff(flag.long),
            troff(flag.description)
        );
    }
    if !command.examples.is_empty() {
        out.push_str(".SH EXAMPLES\n");
    }
    for example in command.examples {
        let (about, lines) = example.split_once('\n').unwrap_or(("", example));
        let _ = write!(out, ".PP\n{}\n.PP\n.nf\n{}\n.fi\n", troff(about), troff(lines));
    }
    if !command.notes.is_empty() {
        out.push_str(".SH NOTES\n");
    }
    for note in command.notes {
        let _ = write!(out, ".PP\n{}\n", troff(note));
    }
    out.push_str(EXIT_STATUS);
    out.push_str(".SH SEE ALSO\n.BR bellwether (1)\n");
    out
}

/// A cell of a table.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// The page about all commands.
fn markdown(root: &CommandInfoWithArgs) -> String {
    let mut out = format!(
        "<!-- Made by `cargo xtask docs` from the definitions that the command line is parsed with. -->\n\
         # The host command\n\n{}\n\n`--name=value` is taken as `--name value`. Exit status: 0 done, \
         1 failed, 2 wrong usage.\n\n| command | |\n| --- | --- |\n",
        root.description.trim()
    );
    for command in &root.commands {
        let about = cell(summary(command.command.description));
        let _ = writeln!(out, "| [{0}](#bellwether-{0}) | {about} |", command.name);
    }
    for command in &root.commands {
        let about = command.command.description.trim();
        let _ = write!(out, "\n## bellwether {}\n\n{about}\n\n", command.name);
        out.push_str("| option | |\n| --- | --- |\n");
        for positional in command.command.positionals.iter().filter(|p| !p.hidden) {
            let _ =
                writeln!(out, "| *{}* | {} |", cell(positional.name), cell(positional.description));
        }
        for flag in shown(&command.command) {
            let short = flag.short.map(|c| format!("`-{c}`, ")).unwrap_or_default();
            let value = value_name(flag).map(|v| format!(" *{}*", cell(v))).unwrap_or_default();
            let _ = writeln!(out, "| {short}`{}`{value} | {} |", flag.long, cell(flag.description));
        }
        for example in command.command.examples {
            let (about, lines) = example.split_once('\n').unwrap_or(("", example));
            let lines: Vec<&str> = lines.lines().map(str::trim).collect();
            let _ = write!(out, "\n{about}\n\n```console\n$ {}\n```\n", lines.join("\n$ "));
        }
    }
    out
}

/// All flags of a command as a shell sees them.
fn flag_words(command: &CommandInfoWithArgs) -> Vec<String> {
    let short = |flag: &FlagInfo| flag.short.map(|c| format!("-{c}"));
    shown(command).flat_map(|f| [Some(f.long.to_owned()), short(f)]).flatten().collect()
}

fn bash(root: &CommandInfoWithArgs) -> String {
    let names: Vec<&str> = root.commands.iter().map(|c| c.name).collect();
    let mut out = format!(
        "# bash completion for bellwether\n_bellwether() {{\n    \
         local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=\n    \
         COMPREPLY=()\n    if ((COMP_CWORD == 1)); then\n        \
         COMPREPLY=($(compgen -W '{} --help --version' -- \"$cur\"))\n        return\n    fi\n    \
         case ${{COMP_WORDS[1]}}:$prev in\n",
        names.join(" ")
    );
    for command in &root.commands {
        for flag in shown(&command.command) {
            let words = values(flag.long);
            let short = flag.short.map(|c| format!("|{}:-{c}", command.name)).unwrap_or_default();
            let pattern = format!("{}:{}{short}", command.name, flag.long);
            let _ = match value_name(flag) {
                None => continue,
                Some(_) if !words.is_empty() => {
                    writeln!(out, "    {pattern}) words='{}' ;;", words.join(" "))
                }
                Some(_) => {
                    writeln!(out, "    {pattern}) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;")
                }
            };
        }
    }
    for command in &root.commands {
        let _ = writeln!(
            out,
            "    {}:*) words='{} --help' ;;",
            command.name,
            flag_words(&command.command).join(" ")
        );
    }
    out.push_str(
        "    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\
         \x20   if ((${#COMPREPLY[@]} == 0)) && [[ $cur != -* ]]; then\n\
         \x20       COMPREPLY=($(compgen -f -- \"$cur\"))\n    fi\n}\n\
         complete -o filenames -F _bellwether bellwether\n",
    );
    out
}

/// A description as one line without what shells would read.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace(['\'', '"', '[', ']', ':', '\\', '`', '$'], " ")
}

fn zsh(root: &CommandInfoWithArgs) -> String {
    let mut out = String::from(
        "#compdef bellwether\n\nif (( CURRENT == 2 )); then\n    _values command \\\n",
    );
    for command in &root.commands {
        let about = summary(command.command.description);
        let _ = writeln!(out, "        '{}[{}]' \\", command.name, plain(about));
    }
    out.push_str("        --help --version\n    return\nfi\ncase ${words[2]} in\n");
    for command in &root.commands {
        let _ =
            writeln!(out, "{})\n    shift words; (( CURRENT-- ))\n    _arguments \\", command.name);
        for flag in shown(&command.command) {
            let words = values(flag.long);
            let value = match value_name(flag) {
                None => String::new(),
                Some(name) if words.is_empty() => format!(":{}:_files", plain(name)),
                Some(name) => format!(":{}:({})", plain(name), words.join(" ")),
            };
            for word in [Some(flag.long.to_owned()), flag.short.map(|c| format!("-{c}"))] {
                let Some(word) = word else { continue };
                let _ = writeln!(out, "        '*{word}[{}]{value}' \\", plain(flag.description));
            }
        }
        out.push_str("        '*:file:_files'\n    ;;\n");
    }
    out.push_str("esac\n");
    out
}

fn fish(root: &CommandInfoWithArgs) -> String {
    let mut out = String::from("# fish completion for bellwether\n");
    for command in &root.commands {
        let about = summary(command.command.description);
        let _ = writeln!(
            out,
            "complete -c bellwether -n __fish_use_subcommand -f -a {} -d '{}'",
            command.name,
            plain(about)
        );
        for flag in shown(&command.command) {
            let words = values(flag.long);
            let short = flag.short.map(|c| format!(" -s {c}")).unwrap_or_default();
            let value = match value_name(flag) {
                None => String::new(),
                Some(_) if words.is_empty() => " -r -F".to_owned(),
                Some(_) => format!(" -x -a '{}'", words.join(" ")),
            };
            let _ = writeln!(
                out,
                "complete -c bellwether -n '__fish_seen_subcommand_from {}' -l {}{short}{value} -d '{}'",
                command.name,
                flag.long.trim_start_matches('-'),
                plain(flag.description)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn every_command_and_flag_is_everywhere() {
        let root = args::info();
        assert!(root.commands.len() >= 3);
        let (overview, bash, zsh, fish) = (overview(&root), bash(&root), zsh(&root), fish(&root));
        for command in &root.commands {
            for text in [&overview, &bash, &zsh, &fish] {
                assert!(text.contains(command.name), "{} in {text}", command.name);
            }
            let page = page(&command.command);
            assert!(page.contains(".SH EXAMPLES"), "{} has no example", command.name);
            for flag in shown(&command.command) {
                assert!(page.contains(&troff(flag.long)), "{page}");
                for text in [&bash, &zsh] {
                    assert!(text.contains(flag.long), "{} in {text}", flag.long);
                }
                assert!(fish.contains(flag.long.trim_start_matches('-')));
            }
        }
        assert!(bash.contains("words='virt net all'") && fish.contains("zstd gzip xz lz4 none"));
    }

    #[test]
    fn the_page_about_all_commands_is_what_the_code_says() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/host-command.md");
        let there = std::fs::read_to_string(page).unwrap();
        assert!(there == markdown(&args::info()), "out of date: run cargo xtask docs");
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
        let ask = format!(
            "source {}; COMP_WORDS=(bellwether build --profile v); COMP_CWORD=3; _bellwether; \
             echo \"${{COMPREPLY[*]}}\"; COMP_WORDS=(bellwether bu); COMP_CWORD=1; _bellwether; \
             echo \"${{COMPREPLY[*]}}\"",
            script.display()
        );
        let told = Command::new("bash").args(["-c", &ask]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&told.stdout), "virt\nbuild\n");
    }
}
