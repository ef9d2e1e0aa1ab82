//! The host's apt sources, reduced to those that are Debian itself.
//!
//! Live systems are built from where the host gets its packages, so the lab names
//! no mirror of its own; third-party sources would make the result depend on the
//! machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The release that live systems are made of.
pub const SUITE: &str = "bookworm";

/// One-line and deb822 sources of the host that carry [`SUITE`]'s `main`, in
/// deb822 form.
///
/// # Errors
/// [`Error::Input`] when there are none.
pub fn debian() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let stanzas: Vec<String> = files.iter().flat_map(|file| stanzas_of(file)).collect();
    if stanzas.is_empty() {
        return Err(Error::Input(format!(
            "the apt sources of this machine have no Debian {SUITE}: the lab builds its live \
             systems from it, add it to /etc/apt/sources.list.d"
        )));
    }
    Ok(stanzas.join("\n\n"))
}

fn stanzas_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    match file.extension().and_then(|e| e.to_str()) {
        Some("sources") => deb822(&text),
        Some("list") => text.lines().filter_map(one_line).collect(),
        _ => Vec::new(),
    }
}

/// Stanzas of a deb822 file that are Debian's, without comments.
fn deb822(text: &str) -> Vec<String> {
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
                && field("Suites").is_some_and(|suites| suites.split_whitespace().all(is_debian))
                && field("Components").is_some_and(has_main)
        })
        .map(|stanza| stanza.join("\n"))
        .collect()
}

/// A `deb [options] URI SUITE COMPONENT…` line as a deb822 stanza, if Debian's.
fn one_line(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components = words.collect::<Vec<_>>().join(" ");
    if !is_debian(suite) || !has_main(&components) {
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
fn is_debian(suite: &str) -> bool {
    let rest = suite.strip_prefix(SUITE);
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
        let kept = deb822(text);
        assert_eq!(kept.len(), 1);
        assert!(kept[0].contains("mirror/debian") && !kept[0].contains("comment"));
    }

    #[test]
    fn reads_one_line_sources() {
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main contrib";
        let stanza = one_line(line).unwrap();
        assert!(stanza.contains("URIs: http://m/debian\n"));
        assert!(stanza.ends_with("Signed-By: /k.gpg"));
        assert_eq!(one_line("deb http://m/pg bookworm-pgdg main"), None);
        assert_eq!(one_line("# deb http://m/debian bookworm main"), None);
        assert_eq!(one_line("deb-src http://m/debian bookworm main"), None);
    }
}
