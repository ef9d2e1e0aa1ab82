//! What an initramfs must carry for a plan, and what of it is missing there.
//!
//! It reads the image as the kernel does and asks the index of modules, as `/init`
//! will. Left open is what only the machine knows: whether the drivers that are
//! there fit its hardware.

use std::path::Path;

use cmdline::BootPlan;
use cmdline::plan::{Dialect, Integrity, NfsVersion, Source, Then, ToRam, Upper, Writable};
use cpio_builder::error::Error;
use cpio_builder::image::INDEX_PATH;
use cpio_builder::index::{Class, Index};
use cpio_builder::initrd::{Initrd, Limits};

/// What the small `/init` says of steps that it was built without (`init::lean`).
const SMALL: &[u8] = b"is not in this small /init";

/// What to do about a module that is not there.
const ADD: &str = "make the image with bellwether build --add";

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The boot fails by it; otherwise it depends on the machine, or goes on without.
    pub fatal: bool,
    /// In words.
    pub what: String,
}

/// What a plan would miss in this image.
///
/// # Errors
/// When the image cannot be read.
pub fn lacks(plan: &BootPlan, path: &Path) -> Result<Vec<Lack>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let initrd = Initrd::open(&bytes, Limits::default())
        .map_err(|source| Error::Initrd { path: path.into(), source })?;
    let tree = initrd.tree();
    let init = tree.get("init").map(|entry| entry.data).unwrap_or_default();
    Ok(match tree.get(INDEX_PATH).map(|entry| Index::parse(entry.data)) {
        Some(Ok(index)) => Image { index, small: holds(init, SMALL) }.lacks(plan),
        Some(Err(error)) => vec![fatal(format!("its index of modules: {error}"))],
        None => vec![fatal(
            "it is no image of bellwether's: nothing in it reads this line as said here \
             (bellwether build --append-only makes what has to stand behind it)"
                .to_owned(),
        )],
    })
}

fn fatal(what: String) -> Lack {
    Lack { fatal: true, what }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

struct Image<'a> {
    index: Index<'a>,
    small: bool,
}

impl Image<'_> {
    fn lacks(&self, plan: &BootPlan) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if self.small
            && let Some((what, fatal)) = beyond_small(plan)
        {
            let what = format!("{what} is not in its small /init (bellwether build --full)");
            lacks.push(Lack { fatal, what });
        }
        let network = plan.network.as_ref().is_some_and(|network| network.required);
        let disk = plan.root.sources.iter().any(Source::on_disk);
        for (wanted, class, below, what, driver) in [
            (network, Class::NET, "/drivers/net/", "the network", "a network card"),
            (disk, Class::STORAGE, "/drivers/", "a disk", "a disk controller"),
        ] {
            if wanted && !self.drives(class, below) {
                let what = format!(
                    "the line needs {what}, and no driver of {driver} is in it: only one that is \
                     built into the kernel will serve (bellwether build --profile net)"
                );
                lacks.push(Lack { fatal: false, what });
            }
        }
        // One source that works is enough.
        let blocked: Vec<_> =
            plan.root.sources.iter().map(|source| self.first_missing(&needs(source))).collect();
        let fatal = blocked.iter().all(Option::is_some);
        for missing in blocked.into_iter().flatten() {
            let lack = Lack { fatal, what: format!("{missing} is not in it ({ADD} {missing})") };
            if !lacks.contains(&lack) {
                lacks.push(lack);
            }
        }
        for (missing, fatal) in layers(plan) {
            if self.first_missing(&[&[missing]]).is_some() {
                let what = format!("{missing} is not in it ({ADD} {missing})");
                lacks.push(Lack { fatal, what });
            }
        }
        lacks
    }

    /// Whether any module of this class lies below this directory.
    fn drives(&self, class: Class, below: &str) -> bool {
        self.index.ids().map(|id| self.index.module(id)).any(|module| {
            let path = format!("/{}", module.path());
            module.class().intersects(class) && path.contains(below) && !path.contains("/net/phy/")
        })
    }

    /// The first of these needs that nothing serves; each has alternatives.
    fn first_missing<'n>(&self, needs: &[&[&'n str]]) -> Option<&'n str> {
        needs
            .iter()
            .find(|any| !any.iter().any(|name| self.has(name)))
            .and_then(|any| any.first().copied())
    }

    fn has(&self, name: &str) -> bool {
        let mut found = self.index.is_builtin(name);
        self.index.for_request(name, &mut |id| found |= !self.index.module(id).blacklisted());
        found
    }
}

/// Modules that a source needs, each with its alternatives.
fn needs(source: &Source) -> Vec<&'static [&'static str]> {
    match source {
        Source::Nfs(nfs) => {
            let old = |version: &NfsVersion| matches!(version, NfsVersion::V2 | NfsVersion::V3);
            let versions = &nfs.versions;
            match (versions.iter().any(old), versions.iter().all(old)) {
                (true, true) => vec![&["nfsv3", "nfsv2"]],
                (true, false) => vec![&["nfsv3", "nfsv4"]],
                (false, _) => vec![&["nfsv4"]],
            }
        }
        Source::Cifs(_) => vec![&["cifs"]],
        Source::Nbd(_) => vec![&["nbd"]],
        Source::NvmeTcp(_) => vec![&["nvme_tcp"]],
        Source::NineP(_) => vec![&["9p"], &["9pnet_virtio"]],
        Source::VirtioFs(_) => vec![&["virtiofs"]],
        Source::File { on, .. } | Source::Partition { on, .. } => {
            let mut needs = needs(on);
            needs.push(&["loop"]);
            needs
        }
        _ => Vec::new(),
    }
}

/// Modules that the root is put together with, and whether the boot fails without.
fn layers(plan: &BootPlan) -> Vec<(&'static str, bool)> {
    let mut modules = Vec::new();
    match &plan.writable {
        Writable::AsIs { .. } => {}
        Writable::DmSnapshot(_) => modules.extend([("dm_mod", true), ("dm_snapshot", true)]),
        Writable::Union(_) | Writable::ByImage { .. } | Writable::Directories { .. } => {
            modules.push(("overlay", true));
        }
    }
    if let Writable::Union(union) = &plan.writable
        && let Upper::Persistent(persist) = &union.upper
        && let Some(source) = &persist.network
    {
        let needs = needs(source);
        modules
            .extend(needs.iter().flat_map(|any| any.first()).map(|name| (*name, persist.required)));
    }
    let verity = |check: &Integrity| matches!(check, Integrity::Verity { .. });
    if plan.root.integrity.iter().any(verity) {
        modules.push(("dm_verity", true));
    }
    modules
}

/// What the plan asks for that only the full `/init` does, and whether the boot fails
/// without: a check is never skipped, a wish that can be done without is.
fn beyond_small(plan: &BootPlan) -> Option<(&'static str, bool)> {
    let source = |source: &Source| match source {
        Source::Url(_) | Source::PxeFileList { .. } => Some("fetching files"),
        Source::Nbd(_) => Some("a network block device"),
        Source::NvmeTcp(_) => Some("NVMe over TCP"),
        Source::Cifs(_) => Some("a CIFS share"),
        Source::Stage2(_) => Some("receiving a second stage"),
        _ => None,
    };
    if matches!(plan.handoff.then, Then::Clone(_)) {
        return Some(("receiving a copy of a disk", true));
    }
    let blocked: Vec<_> = plan.root.sources.iter().map(source).collect();
    let fatal = blocked.iter().all(Option::is_some);
    if let Some(what) = blocked.into_iter().flatten().next() {
        return Some((what, fatal));
    }
    let persistent = |upper: &Upper| match upper {
        Upper::Persistent(persist) => (!persist.silent).then_some(persist.required),
        Upper::Tmpfs { .. } => None,
    };
    if !plan.root.integrity.is_empty() {
        return Some(("checking images", true));
    }
    match &plan.writable {
        Writable::DmSnapshot(_) => return Some(("a snapshot", true)),
        Writable::Union(union) | Writable::ByImage { union, .. } => {
            if let Some(required) = persistent(&union.upper) {
                return Some(("keeping changes", required));
            }
        }
        _ => {}
    }
    if plan.root.to_ram != ToRam::No {
        return Some(("copying to memory", false));
    }
    // The live session has no user then.
    (plan.handoff.layout == Dialect::Casper).then_some(("casper's set-up of the session", false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> BootPlan {
        cmdline::parse(line, &cmdline::Context::default())
    }

    #[test]
    fn an_empty_index_has_nothing() {
        let image = Image { index: Index::empty(), small: false };
        let told = |line: &str| -> Vec<(bool, String)> {
            let lacks = image.lacks(&plan(line)).into_iter();
            lacks.map(|lack| (lack.fatal, lack.what)).collect()
        };
        let nfs = told("boot=live netboot=nfs nfsroot=10.0.0.1:/srv/live ip=dhcp");
        assert!(nfs.iter().any(|(fatal, what)| !fatal && what.contains("network card")), "{nfs:?}");
        assert!(nfs.iter().any(|(fatal, what)| *fatal && what.contains("nfsv")), "{nfs:?}");
        assert!(nfs.iter().any(|(fatal, what)| *fatal && what.contains("overlay")), "{nfs:?}");
        let disk = told("root=/dev/sda1");
        assert!(disk.iter().all(|(fatal, what)| !fatal && what.contains("disk controller")));
        assert_eq!(disk.len(), 1);
    }

    #[test]
    fn the_small_init_lacks_steps() {
        let image = Image { index: Index::empty(), small: true };
        let small = |line: &str| {
            let lacks = image.lacks(&plan(line));
            let found = lacks.iter().find(|lack| lack.what.contains("small /init"));
            found.map(|lack| lack.fatal)
        };
        assert_eq!(small("boot=live fetch=http://10.0.0.1/live.squashfs"), Some(true));
        assert_eq!(small("boot=live toram"), Some(false));
        assert_eq!(small("boot=casper"), Some(false));
        assert_eq!(small("boot=live persistence"), Some(false));
        assert_eq!(small("bw.root=LABEL=x bw.clone=dolly bw.disk=/dev/sda"), Some(true));
        assert_eq!(small("boot=live netboot=nfs nfsroot=10.0.0.1:/srv/live"), None);
    }
}
