//! Which images on a medium are layers of the root, and in which order.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::pattern;
use cmdline::plan::{Content, ImagePick, ImageRule, Mac, RootPlan};
use cmdline::text;
use coldplug::sysfs::names_if_any;
use liveroot::Layer;

use crate::newroot::NewRoot;
use crate::trace::Fault;
use sys::file::stat;

/// Most layers that one root may have: overlayfs's own limit is 500.
const MAX_LAYERS: usize = 500;

/// Longest list of layers read.
const MAX_LIST: usize = 64 << 10;

/// Finds the layers on a medium, bottom first.
///
/// # Errors
/// What is missing, in words for the failure screen.
pub fn pick(rule: &ImageRule, medium: &str, mac: Option<Mac>) -> Result<Vec<Layer>, Fault> {
    let mut why = String::new();
    for dir in &rule.dirs {
        let place = format!("{medium}/{}", dir.trim_matches('/'));
        let place = place.trim_end_matches('/');
        match pick_in(&rule.pick, medium, place, mac) {
            Ok(layers) => return Ok(layers),
            Err(reason) => {
                if !why.is_empty() {
                    why.push_str("; ");
                }
                why.push_str(&text::swap(&reason.to_string(), medium, ""));
            }
        }
    }
    Err(why.into())
}

fn pick_in(
    pick: &ImagePick,
    medium: &str,
    place: &str,
    mac: Option<Mac>,
) -> Result<Vec<Layer>, Fault> {
    match pick {
        ImagePick::Named(files) => {
            files.iter().map(|file| layer(&resolve(medium, place, file))).collect()
        }
        ImagePick::FirstOf(files) => {
            for file in files {
                match layer(&resolve(medium, place, file)) {
                    Err(fault) if fault.is_absence() => {}
                    found => return found.map(|layer| Vec::from([layer])),
                }
            }
            Err(format!("none of {} in {place}", files.join(", ")).into())
        }
        ImagePick::Suffixes { groups, skip, module_list, per_mac } => {
            if let Some(list) =
                module_list.iter().find_map(|list| read_list(&format!("{place}/{list}")))
            {
                return list.iter().map(|file| layer(&resolve(medium, place, file))).collect();
            }
            let own =
                mac.filter(|_| *per_mac).map(|mac| format!("{place}/{}", sys::bytes::hex(&mac.0)));
            let layers = by_suffix(groups, skip, place, own.as_deref())?;
            if layers.is_empty() {
                let suffixes: Vec<String> = groups
                    .iter()
                    .flatten()
                    .map(|suffix| format!("*.{}", suffix.trim_start_matches('.')))
                    .collect();
                return Err(format!("no {} in {place}", suffixes.join(", ")).into());
            }
            if layers.len() > MAX_LAYERS {
                return Err(
                    format!("{} images in {place}, more than {MAX_LAYERS}", layers.len()).into()
                );
            }
            Ok(layers)
        }
    }
}

fn read_list(path: &str) -> Option<Vec<String>> {
    let text = sys::file::read_file(path, MAX_LIST).ok()?;
    Some(listed(&String::from_utf8(text).ok()?))
}

/// A list of layers; blank lines and comments do not count.
pub(crate) fn listed(text: &str) -> Vec<String> {
    let words = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::split_whitespace);
    words.take(MAX_LAYERS).map(ToString::to_string).collect()
}

/// Slax's choice: the files of further directories sorted in by their names, those that
/// the line wants to have or not to have.
///
/// # Errors
/// That none is left.
pub fn choose(plan: &RootPlan, medium: &str, mut layers: Vec<Layer>) -> Result<Vec<Layer>, Fault> {
    let ImageRule { dirs, pick, .. } = match &plan.content {
        Content::Images(rule) | Content::Either(rule) if !plan.extra_dirs.is_empty() => rule,
        _ => return Ok(layers),
    };
    let ImagePick::Suffixes { groups, skip, .. } = pick else { return Ok(layers) };
    for dir in dirs {
        for extra in &plan.extra_dirs {
            let place = resolve(medium, medium, &[dir, "/", extra].concat());
            layers.extend(by_suffix(groups, skip, &place, None)?);
        }
    }
    sys::sort::sort_by(&mut layers, |a, b| a.name < b.name);
    layers.retain(|layer| {
        (plan.only.is_empty() || pattern::matches(&plan.only, &layer.name))
            && !pattern::matches(&plan.except, &layer.name)
    });
    if layers.is_empty() {
        return Err("load= and noload= leave no bundle".into());
    }
    Ok(layers)
}

/// Group by group; inside a group by full path, so that a machine's own
/// directory sorts in with the rest as live-boot does.
fn by_suffix(
    groups: &[Vec<String>],
    skip: &[String],
    place: &str,
    own: Option<&str>,
) -> Result<Vec<Layer>, Fault> {
    let mut files: Vec<String> = Vec::new();
    for dir in [Some(place), own].into_iter().flatten() {
        let names =
            names_if_any(dir).map_err(|errno| Fault::new("cannot be listed", errno).of(dir))?;
        files.extend(names.iter().map(|name| format!("{dir}/{name}")));
    }
    sys::sort::sort(&mut files);
    let mut layers = Vec::new();
    for group in groups {
        for file in &files {
            let name = file.rsplit('/').next().unwrap_or_default();
            let suits = group.iter().any(|suffix| {
                name.strip_suffix(suffix.trim_start_matches('.'))
                    .is_some_and(|stem| stem.ends_with('.') && stem.len() > 1)
            });
            if suits && !skip.iter().any(|skipped| skipped == name) {
                match layer(file) {
                    Err(fault) if fault.is_absence() => {}
                    found => layers.push(found?),
                }
            }
        }
    }
    Ok(layers)
}

/// A path inside the directory of images; an absolute one counts from the
/// medium. `..` goes nowhere: the list comes from the medium or the line.
pub(crate) fn resolve(medium: &str, place: &str, file: &str) -> String {
    let base = if file.starts_with('/') { medium } else { place };
    let parts: Vec<&str> =
        file.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    format!("{base}/{}", parts.join("/"))
}

fn layer(path: &str) -> Result<Layer, Fault> {
    let stat = stat(path).map_err(Fault::on(path))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let name = path.rsplit('/').next().unwrap_or(path).to_string();
    Ok(Layer { name, path: path.to_string(), is_dir })
}

/// Whether a mounted file system is a system's root rather than a medium.
#[must_use]
pub fn looks_like_root(tree: &str) -> bool {
    NewRoot::at(tree).is_ok_and(|root| root.has("/usr") && root.has("/etc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root's `/etc` may be a link that leads nowhere from outside.
    #[test]
    fn a_root_with_absolute_links_is_a_root() {
        let dir = medium(&["outside/etc/issue", "usr/bin/sh"]);
        let tree = dir.path().to_str().unwrap();
        assert!(!looks_like_root(tree));
        std::os::unix::fs::symlink("/outside/etc", dir.path().join("etc")).unwrap();
        assert!(looks_like_root(tree));
    }

    fn medium(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn suffixes(groups: &[&[&str]]) -> ImagePick {
        ImagePick::Suffixes {
            groups: groups.iter().map(|g| g.iter().map(ToString::to_string).collect()).collect(),
            skip: vec!["server.squashfs".to_string()],
            module_list: vec!["filesystem.module".to_string()],
            per_mac: true,
        }
    }

    fn names_of(layers: &[Layer]) -> Vec<&str> {
        layers.iter().map(|layer| layer.name.as_str()).collect()
    }

    fn pick_from(dir: &tempfile::TempDir, pick_rule: ImagePick) -> Result<Vec<Layer>, Fault> {
        let rule = ImageRule { dirs: vec!["live".to_string()], pick: pick_rule, nested: vec![] };
        pick(&rule, dir.path().to_str().unwrap(), Some(Mac([0x52, 0x54, 0, 0, 0, 1])))
    }

    #[test]
    fn groups_stack_in_order_and_skips_are_skipped() {
        let dir = medium(&[
            "live/b.squashfs",
            "live/a.squashfs",
            "live/z.ext2",
            "live/server.squashfs",
            "live/x.txt",
        ]);
        let layers = pick_from(&dir, suffixes(&[&["ext2"], &["squashfs"]])).unwrap();
        assert_eq!(names_of(&layers), ["z.ext2", "a.squashfs", "b.squashfs"]);
    }

    /// Kernel 7.2 cannot list directories of some NFS servers: `/live` was empty then.
    #[test]
    fn a_directory_that_cannot_be_listed_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("live", dir.path().join("live")).unwrap();
        let why = "/live: cannot be listed: too many symbolic links (ELOOP)";
        assert_eq!(pick_from(&dir, suffixes(&[&["squashfs"]])).unwrap_err().to_string(), why);
        let named = ImagePick::FirstOf(vec!["a.squashfs".to_string()]);
        let why = "/live/a.squashfs: too many symbolic links (ELOOP)";
        assert_eq!(pick_from(&dir, named).unwrap_err().to_string(), why);
    }

    #[test]
    fn a_machine_has_layers_of_its_own() {
        let dir = medium(&["live/b.squashfs", "live/525400000001/a.squashfs"]);
        let layers = pick_from(&dir, suffixes(&[&["squashfs"]])).unwrap();
        assert_eq!(names_of(&layers), ["a.squashfs", "b.squashfs"]);
    }

    #[test]
    fn a_module_list_wins_and_cannot_leave_the_medium() {
        let dir = medium(&["live/b.squashfs", "live/a.squashfs"]);
        std::fs::write(
            dir.path().join("live/filesystem.module"),
            "b.squashfs\n../a.squashfs # top\n",
        )
        .unwrap();
        let layers = pick_from(&dir, suffixes(&[&["squashfs"]])).unwrap();
        assert_eq!(names_of(&layers), ["b.squashfs", "a.squashfs"]);
        assert!(layers.iter().all(|layer| !layer.path.contains("..")));
    }

    #[test]
    fn slax_sorts_by_name_and_chooses_by_pattern() {
        let dir = medium(&["slax/01-core.sb", "slax/05-web.sb", "slax/modules/03-mine.sb"]);
        let medium = dir.path().to_str().unwrap();
        let chosen = |line: &str| {
            let plan = cmdline::parse(line, &cmdline::Context::default());
            let Content::Images(rule) = &plan.root.content else { panic!() };
            let layers = pick(rule, medium, None).unwrap();
            choose(&plan.root, medium, layers).map(|layers| {
                layers.iter().map(|layer| layer.name.clone()).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(chosen("from=slax").unwrap(), "01-core.sb 03-mine.sb 05-web.sb");
        assert_eq!(chosen("from=slax load=core,mine").unwrap(), "01-core.sb 03-mine.sb");
        assert_eq!(chosen("from=slax noload=05-|mine").unwrap(), "01-core.sb");
        assert!(chosen("from=slax load=nothing").is_err());
    }

    #[test]
    fn an_empty_medium_says_what_is_missing() {
        let dir = medium(&["live/readme"]);
        assert_eq!(
            pick_from(&dir, suffixes(&[&["squashfs"]])).unwrap_err(),
            "no *.squashfs in /live".into()
        );
    }
}
