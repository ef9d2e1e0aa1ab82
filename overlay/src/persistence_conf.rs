//! `persistence.conf` (live-boot's persistence.conf(5)): which directories of a live system
//! persist on a volume, and how.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Most lines that are used.
const MAX_ENTRIES: usize = 256;

/// How a directory persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The directory is on the volume; at first use it gets the image's contents.
    Bind,
    /// An overlay: the image's contents with changes on the volume.
    Union,
    /// Each file of the volume's directory is linked into the image's.
    Link,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The directory in the live system, absolute, without a slash at its end;
    /// `/` for the whole root.
    pub dir: String,
    /// The directory on the volume, relative to its root; empty for the root itself.
    pub source: String,
    /// The method.
    pub how: How,
}

/// Directories that the live system itself needs.
const FORBIDDEN: &[&str] = &["/lib", "/lib/live", "/run/live", "/live"];

/// Parses the file. Invalid lines are skipped and named in the second list.
#[must_use]
pub fn parse(text: &str) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut complaints) = (Vec::<Entry>::new(), Vec::new());
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok(_) if entries.len() >= MAX_ENTRIES => {
                complaints.push(format!("{line}: more than {MAX_ENTRIES} lines"));
                break;
            }
            Ok(entry) => match entries.iter().find(|other| overlap(&other.source, &entry.source)) {
                Some(other) => complaints.push(format!(
                    "{line}: its source is inside that of {}, or around it",
                    other.dir
                )),
                None => entries.push(entry),
            },
            Err(why) => complaints.push(format!("{line}: {why}")),
        }
    }
    (entries, complaints)
}

fn parse_line(line: &str) -> Result<Entry, &'static str> {
    let (dir, options) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let options = options.trim();
    if !dir.starts_with('/') {
        return Err("is not an absolute path");
    }
    let dir = clean(dir).ok_or("leads upwards")?;
    let dir = format!("/{dir}");
    if FORBIDDEN.contains(&dir.as_str()) {
        return Err("is part of the live system itself");
    }
    let (mut how, mut source) = (None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let wanted = match option {
            "bind" => How::Bind,
            "union" => How::Union,
            "link" => How::Link,
            _ => {
                let path = option.strip_prefix("source=").ok_or("has an unknown option")?;
                if path.starts_with('/') {
                    return Err("has a source that is not relative");
                }
                source = Some(clean(path).ok_or("has a source with '..'")?);
                continue;
            }
        };
        if how.is_some_and(|how| how != wanted) {
            return Err("has two of bind, union and link");
        }
        how = Some(wanted);
    }
    let source = source.unwrap_or_else(|| dir.trim_start_matches('/').to_string());
    let how = how.unwrap_or(How::Bind);
    if dir == "/" && how != How::Union {
        return Err("can only be kept as a union: write `/ union`");
    }
    Ok(Entry { dir, source, how })
}

/// A path without empty and `.` parts; `None` when it has `..`.
fn clean(path: &str) -> Option<String> {
    let mut text = String::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return None;
        }
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(part);
    }
    Some(text)
}

/// Whether one path is the other or inside it. The volume's root (`/ union`)
/// keeps its files in directories of its own and overlaps nothing.
fn overlap(a: &str, b: &str) -> bool {
    if a.is_empty() || b.is_empty() {
        return a == b;
    }
    let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    a == b || inside(a, b) || inside(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_lines() {
        let (entries, complaints) =
            parse("# mine\n/home\n/usr union\n/etc/ssh link,source=config/ssh\n/ union,source=.\n");
        assert_eq!(complaints, Vec::<String>::new());
        let lines: Vec<_> =
            entries.iter().map(|e| (e.dir.as_str(), e.source.as_str(), e.how)).collect();
        assert_eq!(
            lines,
            [
                ("/home", "home", How::Bind),
                ("/usr", "usr", How::Union),
                ("/etc/ssh", "config/ssh", How::Link),
                ("/", "", How::Union),
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_named_and_left_out() {
        let text = "home\n/a/../etc\n/lib/live/ union\n/x bind,link\n/y frob\n/ bind\n\
                    /z source=/etc\n/z source=../etc\n/home\n/other source=home/me\n";
        let (entries, complaints) = parse(text);
        assert_eq!(entries.len(), 1);
        assert_eq!(complaints.len(), 9, "{complaints:#?}");
    }

    proptest! {
        #[test]
        fn never_leaves_the_volume(text: String, dir: String, options: String) {
            for text in [text, format!("/{dir} source={options}\n/a {options}\n/{dir}\n")] {
                let (entries, _) = parse(&text);
                for entry in entries {
                    prop_assert!(entry.dir.starts_with('/'));
                    prop_assert!(!entry.source.starts_with('/'));
                    prop_assert!(!entry.source.split('/').any(|part| part == ".."));
                }
            }
        }
    }
}
