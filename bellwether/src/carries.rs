//! What an initramfs must carry for a plan, and what of it is missing there.
//!
//! It reads the image as the kernel does and asks the index of modules, as `/init`
//! will. Left open is what only the machine knows: whether the drivers that are
//! there fit its hardware.

use std::path::Path;

use cmdline::BootPlan;
use cmdline::baked::Baked;
use cmdline::needs::{self, Steps, needs};
use cmdline::plan::{Integrity, NfsVersion, Source, Upper, Writable};
use cmdline::render::warning_text;
use cpio_builder::error::Error;
use cpio_builder::image::INDEX_PATH;
use cpio_builder::index::{Class, Index};
use cpio_builder::initrd::{self, Initrd, Limits};

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

/// What an initramfs says about itself.
#[derive(Debug)]
pub struct Initramfs {
    /// The index of modules, if it has one.
    index: Option<Vec<u8>>,
    /// What its `/init` says that it can do.
    steps: Option<Steps>,
    /// The words and settings that were built into it.
    pub baked: Baked,
}

impl Initramfs {
    /// Reads an image as the kernel does.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = initrd::read_file(path).map_err(Error::read(path))?;
        let initrd = Initrd::open(&bytes, Limits::default())
            .map_err(|source| Error::Initrd { path: path.into(), source })?;
        let tree = initrd.tree();
        let names = &mut |dir: &str| {
            let below = tree.keys().filter_map(|path| path.strip_prefix(dir)?.strip_prefix('/'));
            below.filter(|name| !name.contains('/')).map(str::to_owned).collect()
        };
        let text = &mut |path: &str| {
            let data = tree.get(path).map(|entry| entry.data).unwrap_or_default();
            String::from_utf8_lossy(data).into_owned()
        };
        Ok(Self {
            index: tree.get(INDEX_PATH).map(|entry| entry.data.to_vec()),
            steps: initrd
                .init_section(needs::NOTE.as_bytes())
                .as_deref()
                .and_then(Steps::from_note),
            baked: Baked::read(names, text),
        })
    }

    /// What a plan would miss in it.
    #[must_use]
    pub fn lacks(&self, plan: &BootPlan) -> Vec<Lack> {
        let index = match (self.index.as_deref().map(Index::parse), self.steps) {
            (Some(Ok(index)), _) => index,
            (Some(Err(error)), _) => return vec![fatal(format!("its index of modules: {error}"))],
            // Only what is built into the kernel serves.
            (None, Some(_)) => Index::empty(),
            (None, None) => {
                return vec![fatal(
                    "it is no image of bellwether's: nothing in it reads this line as said here \
                     (bellwether build --append-only makes what has to stand behind it)"
                        .to_owned(),
                )];
            }
        };
        Image { index, steps: self.steps }.lacks(plan)
    }
}

fn fatal(what: String) -> Lack {
    Lack { fatal: true, what }
}

struct Image<'a> {
    index: Index<'a>,
    /// What its `/init` says that it can do.
    steps: Option<Steps>,
}

impl Image<'_> {
    fn lacks(&self, plan: &BootPlan) -> Vec<Lack> {
        let mut lacks = Vec::new();
        match self.steps {
            Some(has) => lacks.extend(
                needs(plan)
                    .verdict(has)
                    .iter()
                    .map(|warning| Lack { fatal: warning.fatal, what: warning_text(warning) }),
            ),
            None => lacks.push(Lack {
                fatal: false,
                what: "its /init does not say what it can do: it is older than this command, or \
                       another program (bellwether build makes a new image)"
                    .to_owned(),
            }),
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
        let blocked: Vec<_> = plan
            .root
            .sources
            .iter()
            .map(|source| self.first_missing(&modules_of(source)))
            .collect();
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
fn modules_of(source: &Source) -> Vec<&'static [&'static str]> {
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
            let mut modules = modules_of(on);
            modules.push(&["loop"]);
            modules
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
        let needed = modules_of(source);
        modules.extend(
            needed.iter().flat_map(|any| any.first()).map(|name| (*name, persist.required)),
        );
    }
    let verity = |check: &Integrity| matches!(check, Integrity::Verity { .. });
    if plan.root.integrity.iter().any(verity) {
        modules.push(("dm_verity", true));
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;
    use cmdline::plan::Dialect;

    fn plan(line: &str) -> BootPlan {
        cmdline::parse(line, &cmdline::Context::default())
    }

    #[test]
    fn an_empty_index_has_nothing() {
        let image = Image { index: Index::empty(), steps: Some(Steps::ALL) };
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

    /// A `virt` image was said to carry what a line of Slax asks for.
    #[test]
    fn the_steps_of_init_are_those_of_its_note() {
        let missing = |line: &str, steps: Option<Steps>| {
            let lacks = Image { index: Index::empty(), steps }.lacks(&plan(line));
            let found = lacks.iter().find(|lack| lack.what.contains("/init"));
            found.map(|lack| (lack.fatal, lack.what.clone()))
        };
        let small = Steps::dialect(Dialect::LiveBoot);
        let text = "the line is in the words of slax, which the /init of this image does not read \
                    (bellwether build --full puts the full /init in)";
        assert_eq!(missing("from=slax", Some(small)), Some((true, text.to_owned())));
        assert_eq!(missing("from=slax", Some(Steps::ALL)), None);
        let toram = missing("boot=live toram", Some(small)).unwrap();
        assert!(!toram.0 && toram.1.contains("without copying to memory"), "{toram:?}");
        assert!(missing("boot=live", None).is_some_and(|(fatal, _)| !fatal));
    }
}
