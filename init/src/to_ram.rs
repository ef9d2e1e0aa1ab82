//! Copying to memory, asked first whether it fits.
//!
//! As a wish (`toram`, `copytoram`, `rd.live.ram`) it is never a reason to fail when it
//! does not: the medium is still there, and the boot goes on from it with a warning. An
//! image that the line pins by a digest must fit: its digest says nothing about bytes that
//! a server or a drive is asked for a second time.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sys::errno::Shown;

use cmdline::plan::ToRam;
use liveroot::layout::Layout;
use liveroot::{Found, Root};
use rustix::fs::{Access, FileType};
use rustix::mount::{MountFlags, mount_move};
use sys::file::{access, stat};
use sys::mount::{detach, tmpfs};

use crate::block;
use crate::copy::{self, Progress};
use crate::machine::Machine;
use crate::memory::{self, Size};
use crate::trace::Failure;

/// Where copies of images are kept; below `/run`, so it reaches the live system.
pub const RAM: &str = "/run/bellwether/ram";

/// Where copies of pinned images are kept.
const PINNED: &str = "/run/bellwether/pinned";

/// What statfs(2) calls a file system that is in memory (`linux/magic.h`).
const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// What the rest of the boot and the first programs need beside the copy.
const SPARE: u64 = 96 << 20;

/// Files that belong to an image and go where it goes.
const COMPANIONS: &[&str] = &["verity", "roothash", "fec", "fec.roots"];

/// Copies what the plan says, and lets go of the medium.
///
/// # Errors
/// A file that could not be read or written.
pub fn copy(
    machine: &mut Machine,
    plan: &ToRam,
    found: &mut Found,
    layout: Layout,
) -> Result<(), Failure> {
    let only = match plan {
        ToRam::No => return Ok(()),
        ToRam::Medium => return copy_medium(machine, found, layout),
        ToRam::Image(name) => name.as_deref(),
        ToRam::Auto { below, spare } => {
            let size: u64 = images(found, None)
                .iter()
                .map(|(path, _)| block::length(path).unwrap_or(u64::MAX))
                .fold(0, u64::saturating_add);
            let left = memory::available().saturating_sub(size);
            // Reading an optical disc twice costs more than it saves.
            let optical =
                found.medium_blob.as_deref().is_some_and(|blob| blob.starts_with("/dev/sr"));
            if optical || size >= below.0 || left < spare.0 {
                let why = if optical { "the medium is an optical disc" } else { "it is too large" };
                machine.log.detail(&format!("the image stays on the medium: {why}"));
                return Ok(());
            }
            None
        }
    };
    copy_images(machine, only, found, layout)
}

/// The images that a root is made of, with the name that a copy gets.
fn images(found: &Found, only: Option<&str>) -> Vec<(String, String)> {
    let name_of = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
    match &found.root {
        Root::Tree(_) => Vec::new(),
        Root::Blob(path) => Vec::from([(path.clone(), name_of(path))]),
        Root::Layers(layers) => {
            let named = |name: &str| only.is_none_or(|only| name_of(only) == name);
            let files = layers.iter().filter(|layer| !layer.is_dir && named(&layer.name));
            let mut images: Vec<(String, String)> = Vec::new();
            for layer in files {
                let mut name = layer.name.clone();
                // A machine's own directory may hold an image of the same name.
                while images.iter().any(|(_, other)| *other == name) {
                    name.push('+');
                }
                images.push((layer.path.clone(), name));
            }
            images
        }
    }
}

/// Whether the bytes of an image are in this machine's memory: fetched, expanded, copied,
/// in the initramfs, or in a medium that is.
#[must_use]
pub fn is_in_memory(found: &Found, path: &str) -> bool {
    // A device's node is on a file system in memory, its bytes are not.
    let file =
        |path: &str| stat(path).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    let here = |path: &str| {
        let kind = rustix::fs::statfs(path).map(|fs| fs.f_type.cast_unsigned());
        file(path).is_some() && kind.is_ok_and(|kind| MEMORY.contains(&kind))
    };
    // Not what a link of the medium leads to elsewhere.
    let on = |medium: &str| {
        let medium = stat(medium).map(|medium| medium.st_dev);
        file(path).is_some_and(|file| medium == Ok(file.st_dev))
    };
    let medium_is_here = found.medium_blob.as_deref().is_some_and(here);
    here(path) || (medium_is_here && found.medium.as_deref().is_some_and(on))
}

/// Copies the images of a pinned root to memory, but for those that are there. The medium
/// stays in place: the live system may want more of it.
///
/// # Errors
/// They do not fit, or one cannot be read or written.
pub fn bind(machine: &mut Machine, found: &mut Found) -> Result<(), Failure> {
    let mut wanted = images(found, None);
    wanted.retain(|(path, _)| !is_in_memory(found, path));
    if wanted.is_empty() {
        return Ok(());
    }
    let size = wanted
        .iter()
        .map(|(path, _)| block::length(path).unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    let available = memory::available();
    if !fits(size, available) {
        let why = format!(
            "has {}, and of {} available memory {} must stay free: a digest holds for bytes in memory only",
            Size(size),
            Size(available),
            Size(SPARE),
        );
        return Err(Failure::new("copy the pinned image to memory", &found.origin, why).remedy(
            "pin it by bw.verity=, which checks every block as it is read, or add memory",
        ));
    }
    let progress = copy_files(machine, found, &wanted, PINNED, size)?;
    machine.log.info(&format!("copied {}", progress.summary()));
    Ok(())
}

fn fits(size: u64, available: u64) -> bool {
    size.saturating_add(size / 20).saturating_add(SPARE) <= available
}

/// Whether so much fits; says what is wrong when it does not.
fn may_copy(machine: &mut Machine, what: &str, size: u64) -> bool {
    let available = memory::available();
    let fits = fits(size, available);
    if !fits {
        machine.log.warn(&format!(
            "{what} is not copied to memory: it has {}, and of {} available memory {} must stay free; going on from the medium, which must stay in place",
            Size(size),
            Size(available),
            Size(SPARE),
        ));
    }
    fits
}

fn mount_tmpfs(target: &str, size: u64) -> Result<(), Failure> {
    let fail = |errno: rustix::io::Errno| Failure::new("make room in memory", target, Shown(errno));
    let size = size.saturating_add(size / 20).saturating_add(1 << 20);
    tmpfs(target, MountFlags::NOATIME, &format!("mode=0755,size={size}")).map_err(fail)
}

fn copy_medium(machine: &mut Machine, found: &mut Found, layout: Layout) -> Result<(), Failure> {
    let Some(medium) = found.medium.clone() else {
        return copy_images(machine, None, found, layout);
    };
    let size = copy::tree_size(&medium);
    if !may_copy(machine, "the medium", size) {
        return Ok(());
    }
    machine.log.info(&format!("copying the medium to memory, {}", Size(size)));
    mount_tmpfs(RAM, size)?;
    let mut progress = Progress::new("copying the medium", size);
    if let Err((path, errno)) = copy::tree(&mut machine.log, &medium, RAM, &mut progress) {
        // The error below is the one to tell.
        let _ = detach(RAM);
        return Err(Failure::new("copy the medium to memory", &path, Shown(errno)));
    }
    release(machine, found, layout, &progress);
    if let Err(errno) = mount_move(RAM, medium.as_str()) {
        return Err(Failure::new("put the copy in the medium's place", &medium, Shown(errno)));
    }
    found.medium = Some(medium);
    Ok(())
}

fn copy_images(
    machine: &mut Machine,
    only: Option<&str>,
    found: &mut Found,
    layout: Layout,
) -> Result<(), Failure> {
    let mut wanted = images(found, only);
    if let (Some(name), true) = (only, wanted.is_empty()) {
        machine
            .log
            .warn(&format!("{name} is not one of the images; all of them are copied to memory"));
        wanted = images(found, None);
    }
    if wanted.is_empty() {
        machine.log.warn("nothing is copied to memory: the root is a directory tree, not an image");
        return Ok(());
    }
    let all = wanted.len() == images(found, None).len();
    let size = wanted
        .iter()
        .map(|(path, _)| block::length(path).unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    if !may_copy(machine, "the image", size) {
        return Ok(());
    }
    let progress = copy_files(machine, found, &wanted, RAM, size)?;
    // Directories and images that stay behind still need the medium.
    let directories = match &found.root {
        Root::Layers(layers) => layers.iter().any(|layer| layer.is_dir),
        _ => false,
    };
    if all && !directories {
        release(machine, found, layout, &progress);
    }
    Ok(())
}

/// Copies images, and what belongs to them, to a place in memory; they are used from
/// there.
fn copy_files(
    machine: &mut Machine,
    found: &mut Found,
    wanted: &[(String, String)],
    place: &str,
    size: u64,
) -> Result<Progress, Failure> {
    let companions: Vec<(String, String)> = wanted
        .iter()
        .filter(|(path, _)| !path.starts_with("/dev/"))
        .flat_map(|(path, name)| {
            COMPANIONS.iter().map(move |more| (format!("{path}.{more}"), format!("{name}.{more}")))
        })
        .filter(|(path, _)| access(path, Access::READ_OK))
        .collect();
    let more: u64 = companions
        .iter()
        .map(|(path, _)| block::length(path).unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    machine.log.info(&format!("copying {} image(s) to memory, {}", wanted.len(), Size(size)));
    mount_tmpfs(place, size.saturating_add(more))?;
    let mut progress = Progress::new("copying to memory", size);
    for (path, name) in wanted.iter().chain(&companions) {
        let target = format!("{place}/{name}");
        if let Err((path, errno)) = copy::file(&mut machine.log, path, &target, &mut progress) {
            // The error below is the one to tell.
            let _ = detach(place);
            return Err(Failure::new("copy the image to memory", &path, Shown(errno)));
        }
    }
    let copy_of = |path: &str| {
        let copied = wanted.iter().find(|(from, _)| from == path);
        copied.map(|(_, name)| format!("{place}/{name}"))
    };
    match &mut found.root {
        Root::Blob(path) => *path = copy_of(path).unwrap_or_default(),
        Root::Layers(layers) => {
            for layer in layers {
                if let Some(copy) = copy_of(&layer.path) {
                    layer.path = copy;
                }
            }
        }
        Root::Tree(_) => {}
    }
    Ok(progress)
}

/// Lets go of the medium and of what holds it.
fn release(machine: &mut Machine, found: &mut Found, layout: Layout, progress: &Progress) {
    if let Some(medium) = found.medium.take() {
        // The boot goes on from the copy, whatever stays mounted.
        let _ = detach(&medium);
    }
    // Mostly nothing is there.
    let _ = detach(layout.container);
    found.medium_blob = None;
    machine.held.clear();
    machine.log.info(&format!("copied {}; the medium may be removed", progress.summary()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;
    use cmdline::plan::{Bytes, Dialect};
    use liveroot::Layer;
    use liveroot::layout;

    /// A root of two images and a directory; the images claim so many bytes each.
    fn found(dir: &tempfile::TempDir, size: u64) -> Found {
        let layer = |name: &str, is_dir| {
            let path = dir.path().join(name);
            if is_dir {
                std::fs::create_dir_all(&path).unwrap();
            } else {
                // A hole: no room is taken.
                std::fs::File::create(&path).unwrap().set_len(size).unwrap();
            }
            let path = path.to_str().unwrap().to_string();
            Layer { name: name.to_string(), path, is_dir }
        };
        Found {
            origin: "a test".to_string(),
            root: Root::Layers(Vec::from([
                layer("one.squashfs", false),
                layer("two.squashfs", false),
                layer("three.dir", true),
            ])),
            medium: Some("/nowhere".to_string()),
            medium_blob: Some("/dev/xda1".to_string()),
        }
    }

    #[test]
    fn images_are_copied_by_name_and_directories_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let found = found(&dir, 1);
        let names = |only| -> Vec<String> {
            images(&found, only).into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(None), ["one.squashfs", "two.squashfs"]);
        assert_eq!(names(Some("/live/two.squashfs")), ["two.squashfs"]);
        assert!(names(Some("four.squashfs")).is_empty());
        let blob = Found { root: Root::Blob("/x/root.img".to_string()), ..found.clone() };
        let only = [("/x/root.img".to_string(), "root.img".to_string())];
        assert_eq!(images(&blob, None), only);
    }

    #[test]
    fn what_does_not_fit_stays_on_the_medium() {
        let dir = tempfile::tempdir().unwrap();
        let large = found(&dir, 1 << 42);
        let plans = [
            ToRam::Image(None),
            ToRam::Image(Some("one.squashfs".to_string())),
            ToRam::Auto { below: Bytes(1 << 20), spare: Bytes(0) },
            ToRam::No,
        ];
        for plan in plans {
            let mut machine = machine("");
            let mut found = large.clone();
            let places = layout::of(Dialect::LiveBoot);
            assert_eq!(copy(&mut machine, &plan, &mut found, places), Ok(()));
            assert_eq!(found, large, "{plan:?}");
            let said = machine.log.record().contains("is not copied to memory");
            assert_eq!(said, matches!(plan, ToRam::Image(_)), "a wish that fails is said");
        }
    }

    #[test]
    fn a_tree_has_no_image_to_copy() {
        let mut found = Found {
            root: Root::Tree("/mnt".to_string()),
            ..found(&tempfile::tempdir().unwrap(), 1)
        };
        let mut machine = machine("");
        let places = layout::of(Dialect::LiveBoot);
        assert_eq!(copy(&mut machine, &ToRam::Image(None), &mut found, places), Ok(()));
        assert!(machine.log.record().contains("the root is a directory tree, not an image"));
    }
}
