//! Words that hide the party they speak of, refused wherever a person reads.

use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result, workspace};

/// CONTRIBUTING says what to write instead.
const VAGUE: &[&str] = &["nobody", "somebody", "anybody", "whoever"];

/// The page that lists them, and this file.
const EXEMPT: &[&str] = &["CONTRIBUTING.md", "xtask/src/words.rs"];

/// Fails with every line of the tree's pages and sources that has such a word. The
/// Unix user of that name counts when it stands in quotes or backticks.
///
/// # Errors
/// [`Error::Input`] with the lines, [`Error::Io`] or [`Error::Command`] when git cannot
/// list the files.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let at = root.to_string_lossy();
    let listed = run(&["git", "-C", &at, "ls-files", "*.rs", "*.md", "*.txt"])?;
    let mut found = Vec::new();
    for name in listed.lines() {
        if EXEMPT.contains(&name) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(name)).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = vague(line) {
                found.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    match found.len() {
        0 => Ok(()),
        n => Err(Error::Input(format!(
            "{n} lines do not name the party they mean (CONTRIBUTING.md, Words):\n{}",
            found.join("\n")
        ))),
    }
}

/// The first vague word of a line.
fn vague(line: &str) -> Option<&'static str> {
    let lower = line.to_ascii_lowercase();
    VAGUE.iter().copied().find(|word| {
        lower.match_indices(word).any(|(at, _)| {
            let before = lower.get(..at).and_then(|b| b.chars().next_back());
            let after = lower.get(at + word.len()..).and_then(|a| a.chars().next());
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let quoted = matches!((before, after), (Some('`'), Some('`')) | (Some('"'), Some('"')));
            !inside(before) && !inside(after) && !quoted
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_that_name_is_no_vague_word() {
        assert_eq!(vague("// Nobody asks."), Some("nobody"));
        assert_eq!(vague("runs as `nobody`, setuser(\"nobody\")"), None);
        assert_eq!(vague("fn machine_of_anybody()"), None);
    }
}
