//! `modprobe.d(5)`: what an administrator says of modules.

use crate::error::Error;
use crate::tree::{KernelTree, softdep};
use coldplug::index::{normalise_name, normalise_pattern};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The content of `modprobe.d` files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModprobeConf {
    /// Normalised names of blacklisted modules.
    pub blacklist: BTreeSet<String>,
    /// Parameters by normalised name.
    pub options: BTreeMap<String, String>,
    /// Normalised alias patterns, with their module.
    pub aliases: Vec<(String, String)>,
    /// `softdep` lines: name, pre, post.
    pub softdeps: Vec<(String, Vec<String>, Vec<String>)>,
}

impl ModprobeConf {
    /// Adds a file's content, `modprobe.d(5)`. `install` and `remove` lines run programs that
    /// an initramfs lacks; they are skipped.
    pub fn parse(&mut self, text: &str) {
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let Some((word, rest)) = line.split_once([' ', '\t']) else { continue };
            let (name, rest) = rest.trim().split_once([' ', '\t']).unwrap_or((rest.trim(), ""));
            match word {
                "blacklist" => drop(self.blacklist.insert(normalise_name(name))),
                "options" => {
                    let options = self.options.entry(normalise_name(name)).or_default();
                    for option in rest.split_ascii_whitespace() {
                        if !options.is_empty() {
                            options.push(' ');
                        }
                        options.push_str(option);
                    }
                }
                "alias" => {
                    let alias = (normalise_pattern(name), normalise_name(rest.trim()));
                    self.aliases.push(alias);
                }
                "softdep" => {
                    let (mut pre, mut post) = (Vec::new(), Vec::new());
                    softdep(rest, &mut pre, &mut post);
                    self.softdeps.push((normalise_name(name), pre, post));
                }
                _ => {}
            }
        }
    }

    /// Reads a `modprobe.d` directory's `.conf` files in order, or one file.
    ///
    /// # Errors
    /// [`Error::Read`] when the directory or a file cannot be read.
    pub fn read(&mut self, path: &Path) -> Result<(), Error> {
        let fail = |source| Error::Read { path: path.into(), source };
        if !fs::metadata(path).map_err(fail)?.is_dir() {
            self.parse(&fs::read_to_string(path).map_err(fail)?);
            return Ok(());
        }
        let entries = fs::read_dir(path).map_err(fail)?.flatten().map(|e| e.path());
        let mut files: Vec<_> =
            entries.filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
        files.sort_unstable();
        files.iter().try_for_each(|file| self.read(file))
    }

    /// Applies aliases and soft dependencies to a tree.
    pub fn apply(&self, tree: &mut KernelTree) {
        for (pattern, name) in &self.aliases {
            if let Some(n) = tree.by_name(name)
                && let Some(module) = tree.modules.get_mut(n)
            {
                module.aliases.push(pattern.clone());
            }
        }
        for (name, pre, post) in &self.softdeps {
            if let Some(n) = tree.by_name(name)
                && let Some(module) = tree.modules.get_mut(n)
            {
                module.soft_pre.extend_from_slice(pre);
                module.soft_post.extend_from_slice(post);
            }
        }
    }
}
