//! The host's apt sources, reduced to those that are Debian itself.
//!
//! Live systems are built from where the host gets its packages, so the lab names
//! no mirror of its own; third-party sources would make the result depend on the
//! machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The Debian release that live systems are made of: the host's own, by its code name.
///
/// # Errors
/// [`Error::Input`] when os-release(5) names none.
pub fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    code_name(&text).map(str::to_owned).ok_or_else(|| {
        let why = "/etc/os-release has no VERSION_CODENAME: the lab needs a release of Debian";
        Error::Input(why.into())
    })
}

/// The code name in an os-release(5) file; of a distribution that is built on a release
/// of Debian, that release's.
fn code_name(text: &str) -> Option<&str> {
    let field = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.next().map(|value| value.trim_matches('"')).filter(|value| !value.is_empty())
    };
    field("DEBIAN_CODENAME").or_else(|| field("VERSION_CODENAME"))
}

/// Sources of a release in deb822 form: of this machine's own with all that it has of it,
/// of another one from where its own comes.
///
/// # Errors
/// [`Error::Input`] when this machine has none of Debian.
pub fn of(release: &str) -> Result<String> {
    let own = suite()?;
    let sources = debian(&own)?;
    Ok(if release == own { sources } else { moved(&sources, &own, release) })
}

/// One-line and deb822 sources of the host that carry `main` of `suite`, in deb822 form.
fn debian(suite: &str) -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let stanzas: Vec<String> = files.iter().flat_map(|file| stanzas_of(file, suite)).collect();
    if stanzas.is_empty() {
        return Err(Error::Input(format!(
            "the apt sources of this machine have no Debian {suite}: the lab builds its live \
             systems from it, add it to /etc/apt/sources.list.d"
        )));
    }
    Ok(stanzas.join("\n\n"))
}

/// Those stanzas that carry the release `own` itself, with another one in its place.
fn moved(sources: &str, own: &str, release: &str) -> String {
    let suites = |line: &str| line.to_ascii_lowercase().starts_with("suites:");
    let stanzas = sources.split("\n\n").filter(|stanza| {
        let mut words = stanza.lines().filter(|line| suites(line)).flat_map(str::split_whitespace);
        words.any(|word| word == own)
    });
    let stanzas = stanzas.map(|stanza| {
        let lines = stanza.lines().map(|line| match suites(line) {
            true => format!("Suites: {release}"),
            false => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    });
    stanzas.collect::<Vec<_>>().join("\n\n")
}

fn stanzas_of(file: &Path, suite: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    match file.extension().and_then(|e| e.to_str()) {
        Some("sources") => deb822(&text, suite),
        Some("list") => text.lines().filter_map(|line| one_line(line, suite)).collect(),
        _ => Vec::new(),
    }
}

/// Stanzas of a deb822 file that are Debian's, without comments.
fn deb822(text: &str, suite: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = lines.split(|line| line.trim().is_empty());
    stanzas
        .filter(|stanza| {
            let field = |name: &str| {
                stanza.iter().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim())
                })
            };
            field("Types").is_some_and(|types| types.split_whitespace().any(|t| t == "deb"))
                && field("Enabled") != Some("no")
                && field("Suites")
                    .is_some_and(|all| all.split_whitespace().all(|one| is_debian(one, suite)))
                && field("Components").is_some_and(has_main)
        })
        .map(|stanza| stanza.join("\n"))
        .collect()
}

/// A `deb [options] URI SUITE COMPONENT…` line as a deb822 stanza, if Debian's.
fn one_line(line: &str, wanted: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components = words.collect::<Vec<_>>().join(" ");
    if !is_debian(suite, wanted) || !has_main(&components) {
        return None;
    }
    let signed = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by="));
    let mut stanza = format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}");
    if let Some(key) = signed {
        stanza.push_str(&format!("\nSigned-By: {key}"));
    }
    Some(stanza)
}

/// Other projects name their suites after Debian's too; these are Debian's own.
fn is_debian(suite: &str, wanted: &str) -> bool {
    let rest = suite.strip_prefix(wanted);
    matches!(rest, Some("" | "-updates" | "-security" | "/updates"))
}

fn has_main(components: &str) -> bool {
    components.split_whitespace().any(|c| c == "main")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_debian_and_drops_the_rest() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: https://other/node\nSuites: nodistro\nComponents: main\n\n\
                    Types: deb\nURIs: https://other/docker\nSuites: bookworm\nComponents: stable\n";
        let kept = deb822(text, "bookworm");
        assert_eq!(kept.len(), 1);
        assert!(kept[0].contains("mirror/debian") && !kept[0].contains("comment"));
        assert_eq!(deb822(text, "trixie"), Vec::<String>::new());
    }

    #[test]
    fn another_release_comes_from_the_same_mirror() {
        let own = "Types: deb\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\n\
                   Types: deb\nURIs: http://m/security\nSuites: bookworm-security";
        let other = "Types: deb\nURIs: http://m/debian\nSuites: forky";
        assert_eq!(moved(own, "bookworm", "forky"), other);
    }

    #[test]
    fn knows_the_release_of_this_machine() {
        let debian =
            "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_CODENAME=trixie\nID=debian\n";
        assert_eq!(code_name(debian), Some("trixie"));
        let other = "VERSION_CODENAME=\"faye\"\nDEBIAN_CODENAME=\"bookworm\"\n";
        assert_eq!(code_name(other), Some("bookworm"));
        assert_eq!(code_name("ID=alpine\nVERSION_CODENAME=\n"), None);
    }

    #[test]
    fn reads_one_line_sources() {
        let one_line = |line| super::one_line(line, "bookworm");
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main contrib";
        let stanza = one_line(line).unwrap();
        assert!(stanza.contains("URIs: http://m/debian\n"));
        assert!(stanza.ends_with("Signed-By: /k.gpg"));
        assert_eq!(one_line("deb http://m/pg bookworm-pgdg main"), None);
        assert_eq!(one_line("# deb http://m/debian bookworm main"), None);
        assert_eq!(one_line("deb-src http://m/debian bookworm main"), None);
    }
}
