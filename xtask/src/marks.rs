//! Pages of which a part is made from the code, between two marks.

use qemu_tests::{Error, Result, workspace};

/// A page whose part between the marks `name` is `text`.
///
/// # Errors
/// [`Error::Input`] when the page has no such marks.
pub fn fill(page: &str, name: &str, text: &str) -> Result<String> {
    let path = workspace::root().join(page);
    let old = std::fs::read_to_string(&path).map_err(Error::at("read", &path))?;
    let (begin, end) = (
        format!("<!-- {name}: made by `cargo xtask docs` -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let parts = old.split_once(&begin).and_then(|(before, rest)| {
        rest.split_once(&end).map(|(_, after)| format!("{before}{begin}{text}\n{end}{after}"))
    });
    parts.ok_or_else(|| Error::Input(format!("{page} has no lines {begin:?} and {end:?}")))
}
