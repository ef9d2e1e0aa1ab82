//! From what was found to a root at [`ROOT`]: checked, copied to memory if
//! asked, mounted, stacked, made writable.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{
    Content, PersistPlan, SnapshotPlan, SnapshotStore, UnionKind, UnionPlan, Upper, Writable,
};
use cmdline::text;
use cmdline::{BootPlan, pins};
use liveroot::layout::Layout;
use liveroot::{Found, Root};
use overlay::union::{UnionError, mount_aufs, mount_overlay};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::errno::Shown;
use sys::file::{access, make_dir};
use sys::mount::{bind, detach, tmpfs};

use crate::block::{self, MountWith};
use crate::machine::Machine;
use crate::newroot::{NewRoot, ROOT, like};
use crate::persist::{self, Kept};
use crate::pinning::{self, Bound, Form, Seen};
use crate::trace::Failure;
use crate::{expand, integrity, snapshot, to_ram, unpack, verity};

/// Longest table of mounts that is read.
const MAX_MOUNTS: usize = 256 << 10;

/// A root that is ready to be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What kind it is, for people.
    pub kind: &'static str,
    /// The snapshot that it stands on, whose store must be watched.
    pub snapshot: Option<&'static str>,
}

/// Modules worth loading while the source is still being looked for.
#[must_use]
pub fn modules_for(writable: &Writable) -> &'static [&'static str] {
    match writable {
        Writable::AsIs { .. } => &[],
        Writable::DmSnapshot(_) => &["loop", "dm_mod", "dm_snapshot"],
        _ => &["loop", "overlay"],
    }
}

/// Whether changes are kept on a local disk, so that its driver is needed.
#[must_use]
pub fn keeps_on_disk(writable: &Writable) -> bool {
    let local = |persist: &PersistPlan| persist.network.is_none();
    let union = |plan: &UnionPlan| match &plan.upper {
        Upper::Persistent(persist) => local(persist),
        Upper::Tmpfs { .. } => false,
    };
    let store = |plan: &SnapshotPlan| match &plan.store {
        SnapshotStore::Persistent(persist) => local(persist),
        _ => false,
    };
    match writable {
        Writable::AsIs { .. } => false,
        Writable::Union(plan) | Writable::Directories { union: plan, .. } => union(plan),
        Writable::DmSnapshot(plan) => store(plan),
        Writable::ByImage { union: plan, snapshot } => union(plan) || store(snapshot),
    }
}

/// Makes a root of what was found.
///
/// # Errors
/// The check, the layer or the union that failed.
pub fn stack(
    machine: &mut Machine,
    plan: &BootPlan,
    found: &mut Found,
    layout: Layout,
) -> Result<Ready, Failure> {
    make_dir(ROOT, 0o755).map_err(|errno| Failure::new("make the root", ROOT, Shown(errno)))?;
    let root = &plan.root;
    let mut bound = Bound::Free;
    let mut forms = Vec::new();
    // The small /init refuses lines with pins, and unpacks no archives.
    if cfg!(feature = "full") {
        let seen = seen(found);
        bound = pinning::decide(&root.integrity, &seen)?;
        for sentence in pins::uncovered(plan) {
            machine.log.info(&["not pinned: ", &sentence].concat());
        }
        forms = seen.into_iter().map(|layer| layer.form).collect();
    }
    integrity::check_medium(machine, &root.integrity, found)?;
    to_ram::copy(machine, &root.to_ram, found, layout)?;
    if bound == (Bound::Digest { copy: true }) {
        to_ram::bind(machine, found)?;
    }
    integrity::check_images(machine, &root.integrity, found)?;
    let mut stack = Stack { machine, plan, found, layout, forms, mounted: Vec::new() };
    let ready = stack.build();
    // Whatever was to be mounted from them is mounted now.
    machine.held.clear();
    ready
}

/// The layers of what was found; none when it is a tree.
#[must_use]
pub fn seen(found: &Found) -> Vec<Seen> {
    let one = |name: &str, path: &str, is_dir: bool| {
        let form = match unpack::archive_in(path) {
            _ if is_dir => Form::Directory,
            Some(_) => Form::Archive,
            None => Form::Image,
        };
        Seen { name: name.to_string(), form, in_memory: to_ram::is_in_memory(found, path) }
    };
    match &found.root {
        Root::Tree(_) => Vec::new(),
        Root::Blob(path) => Vec::from([one(path.rsplit('/').next().unwrap_or(path), path, false)]),
        Root::Layers(layers) => {
            layers.iter().map(|layer| one(&layer.name, &layer.path, layer.is_dir)).collect()
        }
    }
}

struct Stack<'s> {
    machine: &'s mut Machine,
    plan: &'s BootPlan,
    found: &'s Found,
    layout: Layout,
    /// What the layers are, in the full /init. They are not asked again: a server may answer
    /// otherwise than when the pins were held against it.
    forms: Vec<Form>,
    /// Mount points of images so far.
    mounted: Vec<String>,
}

/// An image before it is mounted: its name, and the file or device.
type Image = (String, String);

impl Stack<'_> {
    fn build(&mut self) -> Result<Ready, Failure> {
        // The small /init mounts such an image read-only, under the union.
        let snapshot = match &self.plan.writable {
            _ if !cfg!(feature = "full") => None,
            Writable::DmSnapshot(plan) => Some((plan, true)),
            Writable::ByImage { snapshot, .. } => Some((snapshot, false)),
            _ => None,
        };
        let (mut trees, inner) = self.trees(snapshot.is_some())?;
        if let Some((plan, forced)) = snapshot {
            match inner {
                Some((name, image)) => return self.snapshot(plan, &name, &image),
                None if forced => {
                    return Err(Failure::new(
                        "make the root writable by a snapshot",
                        &self.found.origin,
                        "is a directory tree or a read-only file system: a snapshot needs the image of one that can be written (ext4, xfs, …)",
                    )
                    .remedy("use an overlay: bw.overlay"));
                }
                None => {}
            }
        }
        match &self.plan.writable {
            Writable::AsIs { read_write } => {
                self.as_is(&trees)?;
                let kind = if *read_write { "a read-write root" } else { "a read-only root" };
                Ok(Ready { kind, snapshot: None })
            }
            Writable::Directories { union, dirs } => {
                self.as_is(&trees)?;
                self.directories(union, dirs)?;
                Ok(Ready { kind: "a read-only root", snapshot: None })
            }
            Writable::Union(union) | Writable::ByImage { union, .. } => {
                self.union(&mut trees, union)
            }
            // Dealt with above.
            Writable::DmSnapshot(_) => Ok(Ready { kind: "a snapshot", snapshot: None }),
        }
    }

    /// The mounted trees, bottom first; or, when a snapshot is wanted, the one
    /// image that it can be made of, which is not mounted.
    fn trees(&mut self, for_snapshot: bool) -> Result<(Vec<String>, Option<Image>), Failure> {
        let images: Vec<Image> = match &self.found.root {
            Root::Tree(tree) => return Ok((Vec::from([tree.clone()]), None)),
            Root::Blob(path) => {
                let name = path.rsplit('/').next().unwrap_or(path).to_string();
                Vec::from([(name, path.clone())])
            }
            Root::Layers(layers) => {
                layers.iter().map(|layer| (layer.name.clone(), layer.path.clone())).collect()
            }
        };
        let only = images.len() == 1;
        let mut trees = Vec::new();
        for (number, (name, path)) in images.into_iter().enumerate() {
            let is_dir = match &self.found.root {
                Root::Layers(layers) => layers.get(number).is_some_and(|layer| layer.is_dir),
                _ => false,
            };
            if is_dir {
                trees.push(path);
                continue;
            }
            let form = self.forms.get(number).copied().unwrap_or(Form::Image);
            let tree = format!("{}/{name}", self.layout.images);
            if form == Form::Archive {
                let fail = |why| Failure::new("unpack the archive", &path, why);
                match unpack::unpacked(self.machine, &path, &tree).map_err(fail)? {
                    true => trees.push(tree),
                    false => return Err(fail("is no archive any more".into())),
                }
                continue;
            }
            let path = expand::expanded(self.machine, &path)
                .map_err(|why| Failure::new("expand the image", &path, why))?
                .unwrap_or(path);
            let integrity = &self.plan.root.integrity;
            let verified = verity::device(self.machine, integrity, &path, &name, number)?;
            let path = verified.unwrap_or(path);
            if only && for_snapshot && writable_format(&path) {
                return Ok((Vec::new(), Some((name, path))));
            }
            let tree = self.mount_image(&name, &path)?;
            match self.nested(&tree) {
                Some(inner) if only => {
                    let name = inner.rsplit('/').next().unwrap_or(&inner).to_string();
                    if for_snapshot && writable_format(&inner) {
                        return Ok((Vec::new(), Some((name, inner))));
                    }
                    trees.push(self.mount_image(&name, &inner)?);
                }
                _ => trees.push(tree),
            }
        }
        Ok((trees, None))
    }

    /// The image inside an image that the dialect knows, if it is there.
    fn nested(&self, tree: &str) -> Option<String> {
        let (Content::Images(rule) | Content::Either(rule)) = &self.plan.root.content else {
            return None;
        };
        let paths =
            rule.nested.iter().map(|path| format!("{tree}/{}", path.trim_start_matches('/')));
        paths.into_iter().find(|path| access(path, Access::READ_OK))
    }

    /// What the line says about mounting the root itself.
    fn root_options(&self) -> MountWith<'_> {
        match &self.plan.root.content {
            Content::Tree { fstype, flags, .. } => {
                MountWith { fstype, flags, read_only: self.read_only() }
            }
            _ => MountWith { read_only: self.read_only(), ..Default::default() },
        }
    }

    fn read_only(&self) -> bool {
        !matches!(self.plan.writable, Writable::AsIs { read_write: true })
    }

    fn mount_image(&mut self, name: &str, path: &str) -> Result<String, Failure> {
        let mut target = format!("{}/{name}", self.layout.images);
        // A machine's own directory may hold an image of the same name.
        while self.mounted.contains(&target) {
            target.push('+');
        }
        let with = self.root_options();
        let (fstype, flags) = (with.fstype.to_string(), with.flags.to_string());
        let with = MountWith { fstype: &fstype, flags: &flags, read_only: with.read_only };
        block::mount(self.machine, path, &target, with)
            .map_err(|why| Failure::new("mount the image", path, why))?;
        self.mounted.push(target.clone());
        Ok(target)
    }

    fn snapshot(&mut self, plan: &SnapshotPlan, name: &str, image: &str) -> Result<Ready, Failure> {
        let with = self.root_options();
        let (fstype, flags) = (with.fstype.to_string(), with.flags.to_string());
        let with = MountWith { fstype: &fstype, flags: &flags, read_only: false };
        let dialect = self.plan.handoff.layout;
        let context = snapshot::Context { found: self.found, layout: self.layout, dialect };
        let snapshot = snapshot::mount_root(self.machine, plan, (name, image), with, &context)?;
        Ok(Ready { kind: "a snapshot", snapshot: Some(snapshot) })
    }

    /// Trees at the root as they are; several are stacked read-only.
    fn as_is(&mut self, trees: &[String]) -> Result<(), Failure> {
        match trees {
            [tree] if tree == ROOT => Ok(()),
            [tree] => bind(tree, ROOT)
                .map_err(|errno| Failure::new("put the root in place", tree, Shown(errno))),
            several => {
                self.machine.require("overlay");
                mount_overlay(several, None, &[], ROOT)
                    .map_err(|error| Failure::new("stack the layers", "overlay", error))
            }
        }
    }

    /// A union of everything, its upper layer in memory or where changes are kept.
    fn union(&mut self, trees: &mut Vec<String>, plan: &UnionPlan) -> Result<Ready, Failure> {
        let mut kept = None;
        if let Upper::Persistent(persist) = &plan.upper
            && cfg!(feature = "full")
            // What no word of the line asks for is no part of a pinned root.
            && !(persist.silent && pins::pinned(self.plan))
        {
            kept = self.kept(persist, trees)?;
            let root = kept.as_ref().and_then(|kept| kept.root.clone());
            match root {
                // Under an upper layer in memory: this session's changes go there.
                Some((upper, _)) if persist.read_only => trees.push(upper),
                Some((upper, work)) => match self.mount_union(trees, plan, &upper, &work, ROOT) {
                    Ok(_) => return Ok(self.place(kept, "an overlay that is kept")),
                    Err(failed) if persist.required => return Err(failed),
                    Err(failed) => {
                        let why = failed.tried.first().map(|tried| tried.why.clone());
                        self.not_kept(&why.unwrap_or_default());
                        kept = None;
                    }
                },
                None => {}
            }
        }
        let size = match &plan.upper {
            Upper::Tmpfs { size } => size.as_str(),
            Upper::Persistent(_) => "",
        };
        self.mount_upper(size)?;
        let upper = format!("{}/{}", self.layout.upper, self.layout.upper_dir);
        let work = format!("{}/{}", self.layout.upper, self.layout.work_dir);
        for dir in [&upper, &work] {
            make_dir(dir, 0o755)
                .map_err(|errno| Failure::new("make the root writable", dir, Shown(errno)))?;
        }
        let kind = self.mount_union(trees, plan, &upper, &work, ROOT)?;
        Ok(self.place(kept, kind))
    }

    /// Puts single directories that are kept in their places.
    fn place(&mut self, kept: Option<Kept>, kind: &'static str) -> Ready {
        if let Some(kept) = &kept {
            match NewRoot::open() {
                Ok(root) => kept.place(&mut self.machine.log, &root),
                Err(errno) => self.not_kept(&Shown(errno).to_string()),
            }
            self.machine.log.info(&kept.describe());
        }
        Ready { kind, snapshot: None }
    }

    /// What keeps changes; `None`, with a word why, when they go to memory instead.
    fn kept(&mut self, plan: &PersistPlan, trees: &[String]) -> Result<Option<Kept>, Failure> {
        let dialect = self.plan.handoff.layout;
        match persist::find(self.machine, plan, self.found, trees, self.layout, dialect) {
            Ok(kept) => Ok(Some(kept)),
            Err(why) if plan.required => {
                Err(Failure::new("find what changes are kept on", "persistence", why))
            }
            Err(why) => {
                if plan.silent {
                    self.machine.log.detail(&why.to_string());
                } else {
                    self.not_kept(&why.to_string());
                }
                Ok(None)
            }
        }
    }

    fn not_kept(&mut self, why: &str) {
        self.machine.log.warn(&format!("{why}; changes stay in memory and are lost at power-off"));
    }

    fn mount_upper(&mut self, size: &str) -> Result<(), Failure> {
        let upper = self.layout.upper;
        let fail =
            |errno: rustix::io::Errno| Failure::new("make the root writable", upper, Shown(errno));
        let mut options = String::from("mode=0755");
        if !size.is_empty() {
            options.push_str(",size=");
            options.push_str(size);
        }
        tmpfs(upper, MountFlags::NOATIME, &options).map_err(fail)
    }

    /// Mounts the union that the plan names; returns the kind that it became.
    fn mount_union(
        &mut self,
        trees: &[String],
        plan: &UnionPlan,
        upper: &str,
        work: &str,
        target: &str,
    ) -> Result<&'static str, Failure> {
        let fail = |error| Failure::new("make the root writable", "the union", error);
        if plan.kind == UnionKind::Aufs {
            // The mount decides: no index of modules knows what a kernel has built in.
            self.machine.require("fs-aufs");
            match mount_aufs(trees, upper, &plan.options, target) {
                Err(UnionError::Mount { errno: Errno::NODEV, .. }) => {}
                mounted => return mounted.map(|()| "aufs").map_err(fail),
            }
            self.machine.log.warn("aufs is not in this kernel; using overlayfs");
        }
        self.machine.require("overlay");
        // Options for aufs mean nothing to overlayfs.
        let options: &[String] = if plan.kind == UnionKind::Overlay { &plan.options } else { &[] };
        mount_overlay(trees, Some((upper, work)), options, target).map(|()| "overlay").map_err(fail)
    }

    /// A union over each of these directories of a read-only root.
    fn directories(&mut self, plan: &UnionPlan, dirs: &[String]) -> Result<(), Failure> {
        let size = match &plan.upper {
            Upper::Tmpfs { size } => size.clone(),
            Upper::Persistent(persist) => {
                if !persist.silent {
                    self.not_kept("single directories of a read-only root are not kept");
                }
                String::new()
            }
        };
        self.mount_upper(&size)?;
        let root = NewRoot::open()
            .map_err(|errno| Failure::new("make the root writable", ROOT, Shown(errno)))?;
        for (number, dir) in dirs.iter().enumerate() {
            // Links (/var/run) may lead to /run, which is the initramfs' own later.
            let Ok(target) = root.existing(dir) else { continue };
            if target.is_below(&root, "/run") {
                continue;
            }
            let upper = format!("{}/{}/{number}", self.layout.upper, self.layout.upper_dir);
            let work = format!("{}/{}/{number}", self.layout.upper, self.layout.work_dir);
            for made in [&upper, &work] {
                make_dir(made, 0o755)
                    .map_err(|errno| Failure::new("make the root writable", made, Shown(errno)))?;
            }
            let target = target.path();
            if let Err(errno) = like(&target, &upper) {
                self.machine.log.detail(&format!("{dir}: {}", Shown(errno)));
            }
            self.mount_union(core::slice::from_ref(&target), plan, &upper, &work, &target)?;
        }
        Ok(())
    }
}

fn writable_format(path: &str) -> bool {
    block::inspect(path).is_ok_and(|found| !found.format.read_only())
}

/// Takes everything down again after a failed try, latest first, so that the
/// next try starts clean: all that was mounted below `/run` and at the root.
pub fn undo(machine: &mut Machine) {
    machine.held.clear();
    let text = sys::file::read_file("/proc/self/mounts", MAX_MOUNTS).unwrap_or_default();
    for target in ours(&String::from_utf8_lossy(&text)).iter().rev() {
        if let Err(errno) = detach(target) {
            machine.log.detail(&format!("{target} stays mounted: {}", Shown(errno)));
        }
    }
    block::remove_all();
}

fn ours(mounts: &str) -> Vec<String> {
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    targets
        .map(|target| text::swap(target, "\\040", " "))
        .filter(|target| target.starts_with("/run/") || target.starts_with(ROOT))
        .collect()
}

/// Where a tree is mounted that an overlay will lie on.
#[must_use]
pub fn tree_target(layout: Layout) -> String {
    format!("{}/root", layout.images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_boot_mounted_is_taken_down() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\n\
                      /dev/sr0 /run/live/medium iso9660 ro 0 0\noverlay /sysroot overlay rw 0 0\n";
        assert_eq!(ours(mounts), ["/run/live/medium", "/sysroot"]);
    }
}
