//! Paths of the tree that pages name: a file that has moved must be found under its new name.

use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result, workspace};

/// Fails with every path in backticks that begins with a folder of the tree and is not there.
/// Patterns and examples (`NAME`, `…`) are no paths.
///
/// # Errors
/// [`Error::Input`] with the paths, [`Error::Io`] or [`Error::Command`] when a page cannot be
/// read or git cannot list them.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let listed = run(&["git", "-C", &root.to_string_lossy(), "ls-files"])?;
    let folders: Vec<&str> =
        listed.lines().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let mut wrong = Vec::new();
    for page in listed.lines().filter(|file| file.ends_with(".md") && *file != "CHANGELOG.md") {
        let path = root.join(page);
        let text = std::fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        let named = paths(&text).filter(|named| {
            named.split_once('/').is_some_and(|(folder, _)| folders.contains(&folder))
        });
        let lost = named.filter(|named| !root.join(named).exists());
        wrong.extend(lost.map(|named| format!("{page}: {named}")));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::Input(format!("no such file or folder:\n{}", wrong.join("\n")))),
    }
}

/// What stands in backticks and looks like a path.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(move |word| word.contains('/') && word.chars().all(fits) && !word.contains("NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_patterns_are_no_paths() {
        let text =
            "`clone/src/NAME/` `cargo xtask` `sys/src/bytes.rs` ```sh\nls a/b\n``` `init/x…`";
        assert_eq!(paths(text).collect::<Vec<_>>(), ["sys/src/bytes.rs"]);
    }
}
