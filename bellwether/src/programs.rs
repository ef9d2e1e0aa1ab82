//! Programs of this computer that go into an image, with their libraries.

use crate::failure::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a program is, in the directories of administrators' and users' programs.
pub fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|p| p.exists())
}

/// The libraries that a program loads, the loader among them, as it says itself.
///
/// # Errors
/// There is no `ldd`, or a library is missing.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let out = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|e| Failure::Failed(format!("ldd: {e}")))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if let Some(line) = text.lines().find(|l| l.contains("not found")) {
        return Err(Failure::Failed(format!("{}: {}", program.display(), line.trim())));
    }
    let words = text.split_ascii_whitespace().filter(|w| w.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
