//! Where things are: the workspace, cargo's target directory, the lab's cache.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the workspace, from where this crate was compiled.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory, `CARGO_TARGET_DIR` respected.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// Where the lab keeps what it built and what failed runs left: `lab` in the
/// target directory, or `BELLWETHER_LAB`.
pub fn lab() -> PathBuf {
    match env::var_os("BELLWETHER_LAB") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => target().join("lab"),
    }
}

/// Paths of this computer that compilers put into programs, and what stands for them in
/// released ones: the workspace and cargo's home.
pub fn builders_paths() -> [(String, &'static str); 2] {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    [(text(&root()), "/bellwether"), (text(&home.unwrap_or_default()), "/cargo")]
}
