//! A writable root over an image that is never written: a device-mapper
//! snapshot, with the changes in memory or in a store that lasts.

use alloc::format;
use alloc::string::{String, ToString};
use sys::errno::Shown;
use sys::mount::tmpfs;

use cmdline::plan::{Bytes, Dialect, PersistPlan, SnapshotPlan, SnapshotStore};
use liveroot::Found;
use liveroot::layout::Layout;
use overlay::dm;
use rustix::fs::{OFlags, ftruncate};
use rustix::mount::MountFlags;
use sys::file::{exists, make_dir, open};

use crate::block::{self, Block, MountWith};
use crate::machine::Machine;
use crate::memory::{self, Size};
use crate::newroot::ROOT;
use crate::persist;
use crate::trace::{Failure, Fault};

const STEP: &str = "make the image writable by a snapshot";

/// What a persistent store begins with (`drivers/md/dm-snap-persistent.c`).
const MAGIC: [u8; 4] = *b"SnAp";

/// What dm-snapshot looks at before it takes a store for its own.
const HEAD: usize = 4096;

/// Memory that stays free of changes, whatever the line says.
const SPARE: u64 = 64 << 20;

/// Name of the file that holds changes.
const STORE: &str = "changes.cow";

/// The snapshot's name, as each dialect's live system knows it.
#[must_use]
pub const fn name_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Dracut => "live-rw",
        Dialect::Archiso => "arch_airootfs",
        _ => "bellwether-root",
    }
}

/// What a snapshot needs to know of the boot around it.
#[derive(Debug, Clone, Copy)]
pub struct Context<'c> {
    /// What was found.
    pub found: &'c Found,
    /// Where things are mounted.
    pub layout: Layout,
    /// Whose live system it is for.
    pub dialect: Dialect,
}

/// Makes a snapshot of an image, given by its name and its device or file, and
/// mounts it read-write at the new root. Returns the snapshot's name.
///
/// # Errors
/// A driver that is missing, a store that cannot be had, or the kernel's refusal.
pub fn mount_root(
    machine: &mut Machine,
    plan: &SnapshotPlan,
    (label, image): (&str, &str),
    with: MountWith<'_>,
    context: &Context<'_>,
) -> Result<&'static str, Failure> {
    let fail = |what: &str, why: Fault| Failure::new(STEP, what, why);
    let found = block::inspect(image).map_err(|why| fail(image, why))?;
    if found.format.read_only() {
        return Err(fail(
            image,
            format!("is {}, which no snapshot makes writable", found.format).into(),
        )
        .remedy("use an overlay instead: bw.overlay"));
    }
    let control = block::require_dm(machine, STEP, "snapshot")?;
    let origin = Block::open(machine, image, true).map_err(|why| fail(image, why))?;
    let sectors = origin.length().map_err(|why| fail(image, why))? / dm::SECTOR;
    let store = find_store(machine, plan, sectors * dm::SECTOR, context)?;
    let table = dm::snapshot(
        &origin.path,
        sectors,
        &store.block.path,
        store.persistent,
        plan.chunk_sectors,
    );
    let name = name_of(context.dialect);
    let device = block::make_dm(&control, name, &table, false).map_err(|why| fail(image, why))?;
    machine.log.info(&format!(
        "{} is writable; changes go to {} ({})",
        label,
        store.what,
        Size(store.block.length().unwrap_or(0)),
    ));
    let with = MountWith { read_only: false, ..with };
    block::mount(machine, &device, ROOT, with).map_err(|why| fail(image, why))?;
    Ok(name)
}

/// Where changes go.
struct Store {
    block: Block,
    persistent: bool,
    what: String,
}

fn find_store(
    machine: &mut Machine,
    plan: &SnapshotPlan,
    image_length: u64,
    context: &Context<'_>,
) -> Result<Store, Failure> {
    let layout = context.layout;
    match &plan.store {
        SnapshotStore::RamDisk(size) => match ram_disk(machine, *size) {
            Ok(block) => Ok(Store { block, persistent: false, what: "a RAM disk".to_string() }),
            Err(why) => {
                machine.log.warn(&format!("{why}; changes go to a file in memory instead"));
                sparse_file(machine, *size, layout)
            }
        },
        SnapshotStore::SparseFile(size) => sparse_file(machine, *size, layout),
        SnapshotStore::Persistent(persist) => {
            match lasting(machine, persist, plan.persistent, image_length, context) {
                Ok(store) => Ok(store),
                Err(why) if persist.required => Err(Failure::new(STEP, "the store", why)),
                Err(why) => {
                    if !persist.silent {
                        machine.log.warn(&format!(
                            "{why}; changes stay in memory and are lost at power-off"
                        ));
                    }
                    sparse_file(machine, plan.fallback, layout)
                }
            }
        }
    }
}

/// The first RAM disk, made as large as asked.
fn ram_disk(machine: &mut Machine, size: Bytes) -> Result<Block, Fault> {
    const DISK: &str = "/dev/ram0";
    machine.module_options("brd", &format!("rd_nr=1 rd_size={}", size.0.div_ceil(1024)));
    let available = memory::available();
    if size.0.saturating_add(SPARE) > available {
        machine.log.warn(&format!(
            "a RAM disk of {} can outgrow the {} of memory that are available",
            Size(size.0),
            Size(available),
        ));
    }
    if !machine.require("brd") {
        return Err("there is no RAM disk: the module brd is not in this image".into());
    }
    let length = sys::blockdev::length(DISK).map_err(Fault::on(DISK))?;
    if length < size.0 {
        return Err(format!(
            "{DISK} has {} and {} are asked for (the kernel's ramdisk_size= sets it)",
            Size(length),
            Size(size.0),
        )
        .into());
    }
    Ok(Block::device(DISK))
}

/// A file in memory that takes room only for what is written. It is made no
/// larger than memory: a store must be full before memory is.
fn sparse_file(machine: &mut Machine, size: Bytes, layout: Layout) -> Result<Store, Failure> {
    let most = memory::available().saturating_sub(SPARE).max(1 << 20);
    let length = size.0.min(most) & !0xfff;
    if length < size.0 {
        machine.log.detail(&format!(
            "the store for changes is {}, which is what memory allows, not {}",
            Size(length),
            Size(size.0),
        ));
    }
    let fail = |errno: rustix::io::Errno| Failure::new(STEP, layout.upper, Shown(errno));
    let options = format!("mode=0755,size={}", length.saturating_add(1 << 20));
    tmpfs(layout.upper, MountFlags::NOATIME, &options).map_err(fail)?;
    let path = format!("{}/{STORE}", layout.upper);
    make_store(&path, length).map_err(fail)?;
    let block = Block::open(machine, &path, false).map_err(|why| Failure::new(STEP, &path, why))?;
    Ok(Store { block, persistent: false, what: "a file in memory".to_string() })
}

fn make_store(path: &str, length: u64) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = open(path, flags, 0o600)?;
    ftruncate(&file, length)
}

/// A store that lasts: a partition of its own, or a file on a file system.
fn lasting(
    machine: &mut Machine,
    plan: &PersistPlan,
    persistent: bool,
    image_length: u64,
    context: &Context<'_>,
) -> Result<Store, Fault> {
    let place = persist::find_place(machine, plan, context.found, context.layout)?;
    let (block, what) = match place {
        persist::Place::Raw(device) => (Block::device(&device), device),
        persist::Place::Volume(volume) => {
            let path = match &plan.path {
                Some(path) => {
                    format!("{}/{}", volume.mounted, volume.expand(path).trim_start_matches('/'))
                }
                None => format!("{}/{STORE}", volume.mounted),
            };
            if !exists(&path) {
                let wanted = plan.create.map_or(image_length, |size| size.0);
                let room = volume.free() / 10 * 9;
                let length = wanted.min(room) & !0xfff;
                if length < 1 << 20 {
                    return Err(format!("{} has no room for changes", volume.device).into());
                }
                if let Some((parent, _)) = path.rsplit_once('/') {
                    // The file that is made in it tells.
                    let _ = make_dir(parent, 0o755);
                }
                make_store(&path, length).map_err(Fault::on(&path))?;
                machine.log.info(&format!("made {path} for changes, {}", Size(length)));
            }
            (Block::open(machine, &path, false)?, path)
        }
    };
    prepare(&block.path, plan.reset).map_err(|why| format!("{what} {why}"))?;
    Ok(Store { block, persistent, what })
}

/// Makes sure that a store holds changes or nothing, and nothing when asked.
fn prepare(path: &str, reset: bool) -> Result<(), Fault> {
    let cannot = |errno: rustix::io::Errno| Fault::new("cannot be used for changes", errno);
    let device = open(path, OFlags::RDWR, 0).map_err(cannot)?;
    let mut head = [0; HEAD];
    let length = rustix::io::pread(&device, &mut head, 0).map_err(cannot)?;
    let ours = head.starts_with(&MAGIC);
    let empty = head.get(..length).is_some_and(|head| head.iter().all(|byte| *byte == 0));
    // A file system may leave its first bytes empty.
    let foreign = match block::inspect(path) {
        Ok(found) => Some(found.format),
        Err(_) => None,
    };
    match foreign {
        Some(format) if !ours => {
            return Err(format!(
                "holds {format}: changes would overwrite it. Name a file on it (…,path=FILE), or empty the start of it (wipefs -a)"
            ).into());
        }
        None if !ours && !empty => {
            return Err(
                "holds something unknown: changes would overwrite it. Empty the start of it (wipefs -a, or 4 KiB of zeroes)"
                    .into(),
            );
        }
        _ => {}
    }
    if reset && ours {
        let zeroes = [0; HEAD];
        rustix::io::pwrite(&device, &zeroes, 0).map_err(cannot)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(head: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 128 << 10];
        bytes[..head.len()].copy_from_slice(head);
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn somebody_s_data_is_never_a_store() {
        assert!(prepare(store(&[]).path().to_str().unwrap(), false).is_ok());
        assert!(prepare(store(b"SnAp\x01").path().to_str().unwrap(), false).is_ok());
        let why = prepare(store(b"hsqs").path().to_str().unwrap(), true).unwrap_err();
        assert!(why.to_string().contains("squashfs"), "{why}");
        assert!(prepare(store(b"diary").path().to_str().unwrap(), true).is_err());
    }

    #[test]
    fn a_file_system_with_an_empty_start_is_somebody_s_data() {
        let file = store(&[]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        std::fs::write(file.path(), bytes).unwrap();
        assert!(prepare(file.path().to_str().unwrap(), false).is_err());
        let file = store(&[]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[65536 + 64..65536 + 72].copy_from_slice(b"_BHRfS_M");
        std::fs::write(file.path(), bytes).unwrap();
        assert!(prepare(file.path().to_str().unwrap(), false).is_err());
    }

    #[test]
    fn reset_forgets_changes() {
        let file = store(b"SnAp\x01");
        prepare(file.path().to_str().unwrap(), true).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap()[..8], [0; 8]);
    }
}
