//! The copy of a disk is changed before it is sent, and the disk is not: a snapshot of
//! device-mapper has the changes in memory, and the snapshot is what is read and sent.
//!
//! Mounting the file systems on it replays their logs, in memory as well. [`p2v::edit`] says what
//! changes in which files; no program of the disk is run.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use coldplug::index::fnmatch;
use coldplug::sysfs;
use overlay::archive::{Event, Reader, newc};
use overlay::dm::{self, Fill};
use overlay::expand::expand;
use overlay::probe::{Format, probe};
use p2v::edge::{BadSectors, Disk, Logical, Part};
use p2v::edit::{self, Change, Drivers, Edits, File, Kind, PLACES, ROOTS, Volume};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, ftruncate, openat};
use rustix::io::{Errno, pread};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use sys::dm::Control;
use sys::file::{c_path, open, read_file, regular, write_all};
use sys::mount::{detach, tmpfs};

use crate::block::{self, Block, MountWith};
use crate::log::Level;
use crate::machine::Machine;
use crate::memory::{Size, available};
use crate::newroot::NewRoot;
use crate::trace::Fault;

/// Where the changes are: a file for each disk.
const STORE: &str = "/run/bellwether-p2v/changes";
/// Where the file systems are mounted.
const TREES: &str = "/run/bellwether-p2v/trees";
/// How the names of the devices begin.
const NAME: &str = "bellwether-p2v-";
/// Memory that stays free of changes.
const SPARE: u64 = 64 << 20;
/// Memory below which there is no beginning.
const LEAST: u64 = 16 << 20;
/// Sectors that are copied at once: the blocks of file systems.
const CHUNK: u32 = 8;
/// Percent of the memory for a disk's changes that may be in use.
const MOST: u32 = 90;
/// The longest file that is changed, all of them together, and names in a directory.
const MAX_FILE: usize = 1 << 20;
const MAX_ALL: usize = 16 << 20;
const MAX_NAMES: usize = 200;
/// The longest boot loader.
const MAX_LOADER: usize = 16 << 20;
/// Images of an initramfs that are looked into, their unpacked entries, and their expanded bytes.
const MAX_IMAGES: usize = 8;
const MAX_ENTRIES: usize = 100_000;
const MAX_IMAGE: u64 = 2 << 30;

/// A disk as it was found.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Bytes of its logical sectors.
    pub sector: u64,
    /// What is on it.
    pub parts: Vec<Part>,
}

/// The snapshots; they and what was changed in them go when this does.
#[derive(Debug)]
pub struct Snapshots {
    control: Control,
    /// In the order in which they were made.
    devices: Vec<String>,
    stores: Vec<Block>,
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        for name in self.devices.iter().rev() {
            // One that is still read goes when that ends.
            let _ = self.control.remove(name, true);
        }
        self.stores.clear();
        let _ = detach(STORE);
    }
}

/// A file system of the copy that is mounted.
struct Mounted {
    volume: usize,
    at: String,
}

impl Snapshots {
    /// Makes a snapshot of each disk, changes what a virtual machine needs, and returns the paths
    /// to read in the place of the disks.
    ///
    /// # Errors
    /// There is too little memory or no driver, or a file system cannot be mounted.
    pub fn make(
        machine: &mut Machine,
        disks: &[Found],
        all: bool,
    ) -> Result<(Self, Vec<String>), Fault> {
        let control = block::require_dm(machine, "", "snapshot").map_err(|failure| {
            let tried = failure.tried.first().map(|tried| format!("{}: {}", tried.what, tried.why));
            Fault::from(format!("{}; {}", tried.unwrap_or_default(), failure.remedy))
        })?;
        let each = room(available(), disks.len()).ok_or_else(|| {
            Fault::from(format!("{} of memory are too little for changes", Size(available())))
                .remedy("leave bw.p2v.edit out, and change the image at the other end")
        })?;
        // What a try before this one left behind.
        let _ = detach(STORE);
        let size = format!("mode=0700,size={}", each.saturating_add(1 << 20) * disks.len() as u64);
        tmpfs(STORE, MountFlags::NOATIME, &size).map_err(Fault::on(STORE))?;
        let mut made = Self { control, devices: Vec::new(), stores: Vec::new() };
        let mut paths = Vec::new();
        for disk in disks {
            paths.push(made.snapshot(machine, disk, each).map_err(|fault| fault.of(&disk.name))?);
        }
        let done = made.change(machine, disks, &paths, all);
        made.check(machine, disks, true)?;
        done?;
        // Another device has a page cache of its own: what was read of the snapshot before the
        // changes, and ahead of that, is not in it.
        let again = paths.iter().map(|path| {
            let length = sys::blockdev::length(path).map_err(Fault::on(path))?;
            made.device(&dm::linear(path, length / dm::SECTOR, 0), true)
        });
        let paths = again.collect::<Result<_, Fault>>()?;
        Ok((made, paths))
    }

    fn device(&mut self, table: &[sys::dm::Target], read_only: bool) -> Result<String, Fault> {
        let name = format!("{NAME}{}", self.devices.len());
        let path = block::make_dm(&self.control, &name, table, read_only)?;
        self.devices.push(name);
        Ok(path)
    }

    fn snapshot(
        &mut self,
        machine: &mut Machine,
        disk: &Found,
        room: u64,
    ) -> Result<String, Fault> {
        let origin = format!("/dev/{}", disk.name);
        // The kernel sees to it, whatever is done to the snapshot.
        sys::blockdev::set_read_only(&origin, true)
            .map_err(Fault::in_("cannot be set read-only"))?;
        let length = sys::blockdev::length(&origin).map_err(Fault::in_("has no length"))?;
        let file = format!("{STORE}/{}", self.stores.len());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = open(&file, flags, 0o600).and_then(|made| ftruncate(&made, room));
        made.map_err(Fault::on(&file))?;
        let store = Block::open(machine, &file, false)?;
        let table = dm::snapshot(&origin, length / dm::SECTOR, &store.path, false, CHUNK);
        self.stores.push(store);
        self.device(&table, false)
    }

    /// How full the store of a snapshot is.
    fn fill(&self, disk: usize) -> Option<Fill> {
        let targets = self.control.status(self.devices.get(disk)?).ok()?;
        dm::snapshot_fill(&targets.first()?.parameters)
    }

    /// Stops before changes outgrow their memory: then nothing of the copy could be read.
    fn check(&self, machine: &mut Machine, disks: &[Found], tell: bool) -> Result<(), Fault> {
        for (n, Found { name, .. }) in disks.iter().enumerate() {
            let fill = self.fill(n).unwrap_or(Fill::Lost);
            if fill.percent() >= MOST {
                return Err(Fault::from(format!(
                    "{name}: the log of its file systems and the changes need more memory than \
                     this machine has for them"
                ))
                .remedy("start and shut down the system on it once, or leave bw.p2v.edit out"));
            }
            if let (Fill::Part { used, total }, true) = (fill, tell) {
                let (used, total) = (Size(used * dm::SECTOR), Size(total * dm::SECTOR));
                machine
                    .log
                    .info(&format!("{name}: {used} of changes in memory, of {total} at most"));
            }
        }
        Ok(())
    }

    /// Mounts, changes and unmounts.
    fn change(
        &mut self,
        machine: &mut Machine,
        disks: &[Found],
        paths: &[String],
        all: bool,
    ) -> Result<(), Fault> {
        let mut known = edit::Machine { all, cards: cards(), ..edit::Machine::default() };
        let mut mounted = Vec::new();
        let mut result = Ok(());
        for (disk, path) in disks.iter().zip(paths) {
            known.disks.push(edit::Disk { name: disk.name.clone(), ids: ids(&disk.name) });
            result = self.mount_all(machine, disk, path, &mut known.volumes, &mut mounted);
            if result.is_err() {
                break;
            }
            self.check(machine, disks, false)?;
        }
        let result = result.and_then(|()| self.rewrite(machine, disks, &known, &mounted));
        for Mounted { at, .. } in mounted.iter().rev() {
            // What is not written now is not in what is sent.
            if let Err(errno) = unmount(at.as_str(), UnmountFlags::empty()) {
                let _ = detach(at);
                return Err(Fault::on(at)(errno));
            }
        }
        result
    }

    /// Mounts what may have something to change: the file systems of Linux, and EFI's.
    fn mount_all(
        &mut self,
        machine: &mut Machine,
        disk: &Found,
        path: &str,
        volumes: &mut Vec<Volume>,
        mounted: &mut Vec<Mounted>,
    ) -> Result<(), Fault> {
        for part in &disk.parts {
            let volume = Volume {
                disk: disk.name.clone(),
                partition: part.number,
                holds: part.format,
                uuid: part.fs_uuid.clone(),
                part_uuid: part.uuid.clone(),
            };
            match part.format {
                Some(Format::Lvm) => {
                    let (start, length) = (part.start, part.length);
                    let volumes_here = Disk::logical_volumes(path, disk.sector, start, length)
                        .map_err(Fault::on(path))?;
                    for Logical { name, pieces } in volumes_here {
                        let table = pieces_of(path, part.start, &pieces);
                        let device = self.device(&table, false).map_err(|fault| fault.of(&name))?;
                        let found = block::inspect(&device).ok();
                        let volume = Volume {
                            holds: found.as_ref().map(|found| found.format),
                            uuid: found.map(|found| found.uuid).unwrap_or_default(),
                            ..Volume::default()
                        };
                        let label = format!("logical volume {name}");
                        mount(machine, &device, volume, &label, (volumes, mounted))?;
                    }
                }
                Some(Format::Swap) => {
                    let uuid = swap_uuid(path, part.start);
                    volumes.push(Volume { uuid, ..volume });
                }
                _ if part.number == 0 => {
                    mount(machine, path, volume, &disk.name, (volumes, mounted))?;
                }
                _ => {
                    let sectors = part.length / dm::SECTOR;
                    let table = dm::linear(path, sectors, part.start / dm::SECTOR);
                    let label = format!("partition {} of {}", part.number, disk.name);
                    let device = self.device(&table, false).map_err(|fault| fault.of(&label))?;
                    mount(machine, &device, volume, &label, (volumes, mounted))?;
                }
            }
        }
        Ok(())
    }

    fn rewrite(
        &self,
        machine: &mut Machine,
        disks: &[Found],
        known: &edit::Machine,
        mounted: &[Mounted],
    ) -> Result<(), Fault> {
        let mut files = Vec::new();
        let mut roots = Vec::new();
        for Mounted { volume, at } in mounted {
            for root in ROOTS {
                let Ok(tree) = NewRoot::at(&[at.as_str(), "/", root].concat()) else { continue };
                // Another file system's directories are not what btrfs calls so.
                let holds = known.volumes.get(*volume).and_then(|volume| volume.holds);
                if root.is_empty() || holds == Some(Format::Btrfs) {
                    read_all(machine, &tree, (*volume, root), &mut files);
                    roots.push((*volume, root, tree));
                }
            }
        }
        for (volume, _, tree) in &roots {
            if known.volumes.get(*volume).is_some_and(|one| one.holds == Some(Format::Vfat)) {
                removable(machine, tree)?;
            }
        }
        if !files.iter().any(|file| file.kind == Kind::Fstab) {
            machine.log.warn(
                "no system that can be changed is on the disks (there is no etc/fstab): they are \
                 sent as they are",
            );
        }
        let label = |n: usize| known.volumes.get(n).map(shown).unwrap_or_default();
        let Edits { changes, told, warnings } = edit::edit(known, &files, &label);
        for Change { volume, root, path, text, new } in changes {
            let Some((.., tree)) = roots.iter().find(|(v, r, _)| (*v, *r) == (volume, root)) else {
                continue;
            };
            write(tree, &path, &text, new).map_err(Fault::on(&path))?;
            self.check(machine, disks, false)?;
        }
        for (.., tree) in &roots {
            images(machine, tree, &built_in(roots.iter().map(|(.., tree)| tree)));
        }
        for line in told {
            machine.log.say(Level::Verdict, &["in the copy: ", &line].concat());
        }
        for line in warnings {
            machine.log.warn(&line);
        }
        Ok(())
    }
}

/// Puts a boot loader where the firmware of a new machine looks, if there is one of one system.
fn removable(machine: &mut Machine, tree: &NewRoot) -> Result<(), Fault> {
    let (place, name) = edit::REMOVABLE;
    let target = format!("{place}/{name}");
    if tree.has(&target) {
        return Ok(());
    }
    let all = matching(tree, "EFI/*").into_iter().filter_map(|dir| {
        let there = |list: &&&[&str]| list.first().is_some_and(|n| tree.has(&format!("{dir}/{n}")));
        Some((*edit::LOADERS.iter().find(there)?, dir.clone()))
    });
    let all: Vec<(&[&str], String)> = all.collect();
    let [(list, dir)] = all.as_slice() else {
        if !all.is_empty() {
            machine.log.warn(&format!(
                "{target} is not there, and several systems have boot loaders: choose one in the \
                 menu of the guest's firmware"
            ));
        }
        return Ok(());
    };
    let (above, _) = tree.parent(target.as_bytes()).map_err(Fault::on(place))?;
    for (n, file) in list.iter().enumerate() {
        let from = format!("{dir}/{file}");
        let Ok(found) = tree.resolve(from.as_bytes(), OFlags::PATH) else { continue };
        let bytes = regular(&found, OFlags::RDONLY)
            .and_then(|file| read_file(&format!("/proc/self/fd/{}", file.as_raw_fd()), MAX_LOADER));
        let bytes = bytes.map_err(Fault::on(&from))?;
        let to = c_path(if n == 0 { name } else { file }.as_bytes()).map_err(Fault::on(&from))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(&above, &*to, flags, Mode::from_raw_mode(0o700));
        made.and_then(|made| write_all(&made, &bytes)).map_err(Fault::on(&target))?;
        if n == 0 {
            machine.log.say(Level::Verdict, &format!(
                "in the copy: {target} is a copy of {from}: the guest's firmware looks nowhere else"
            ));
        }
    }
    Ok(())
}

/// The drivers that kernels have built in, by the directory of their modules.
fn built_in<'t>(trees: impl Iterator<Item = &'t NewRoot>) -> Vec<(String, Drivers)> {
    let mut all = Vec::new();
    for tree in trees {
        for path in matching(tree, edit::BUILT_IN) {
            let mut drivers = Drivers::default();
            let text = read(tree, &path).unwrap_or_default();
            text.lines().for_each(|line| drivers.see(line));
            let version = path.rsplit('/').nth(1).unwrap_or_default();
            all.push((version.to_string(), drivers));
        }
    }
    all
}

/// Tells which images of an initramfs lack drivers.
fn images(machine: &mut Machine, tree: &NewRoot, built_in: &[(String, Drivers)]) {
    let paths = edit::IMAGES.iter().flat_map(|pattern| matching(tree, pattern));
    for path in paths.filter(|path| edit::is_used(path)).take(MAX_IMAGES) {
        let Ok(found) = tree.resolve(path.as_bytes(), OFlags::PATH) else { continue };
        let Ok(file) = regular(&found, OFlags::RDONLY) else { continue };
        // It is expanded as a whole, which takes a slow processor a minute.
        machine.log.info(&format!("looking into {path} for drivers of virtio disks"));
        let (drivers, error) = drivers_in(&file);
        let of_kernel = built_in.iter().filter(|(version, _)| path.contains(version.as_str()));
        let all = of_kernel.fold(drivers, |all, (_, drivers)| all.and(*drivers));
        match (all.trouble(), error) {
            (None, _) => {}
            (Some(_), Some(why)) => machine.log.warn(&format!(
                "{path}: whether it has drivers of virtio disks is not known: it {why}"
            )),
            (Some(what), None) => machine.log.warn(&format!("{path} {what}")),
        }
    }
}

/// The drivers in an initramfs, and why not all of it was read.
fn drivers_in(file: &OwnedFd) -> (Drivers, Option<String>) {
    let mut drivers = Drivers::default();
    let mut at = 0_u64;
    let mut head = [0; newc::HEADER];
    // Archives that are not packed come first: microcode, and early drivers.
    for _ in 0..MAX_ENTRIES {
        head.fill(0);
        let length = pread(file, &mut head[..], at).unwrap_or(0);
        if length < head.len() && head.iter().all(|byte| *byte == 0) {
            return (drivers, None);
        }
        let (magic, digits) = head.split_at(6);
        if !newc::Header::is_magic(magic) {
            match head.iter().take_while(|byte| **byte == 0).count() / 4 * 4 {
                0 => break,
                zeros => at += zeros as u64,
            }
            continue;
        }
        let Some(header) = newc::Header::parse(digits) else { break };
        let mut name = alloc::vec![0; header.name_len];
        if pread(file, name.as_mut_slice(), at + newc::HEADER as u64) != Ok(name.len()) {
            break;
        }
        drivers.see(&String::from_utf8_lossy(newc::named(&name).unwrap_or_default()));
        let entry = header.data_at() as u64 + u64::from(header.size).next_multiple_of(4);
        at += entry;
    }
    let found = probe(&mut |from, buffer| pread(file, buffer, at + from).unwrap_or(0));
    let Some((format, mut reader)) = found.map(|f| f.format).zip(Reader::new(Format::Cpio)) else {
        return (drivers, Some("is packed in a form that is not read here".to_string()));
    };
    let mut read = |room: &mut [u8]| {
        let length = pread(file, room, at)?;
        at += length as u64;
        Ok(length)
    };
    let mut left = MAX_IMAGE;
    let mut write = |bytes: &[u8]| {
        left = left.checked_sub(bytes.len() as u64).ok_or(Errno::FBIG)?;
        let mut sink = |event: Event<'_>| {
            if let Event::Entry(entry) = event {
                drivers.see(&String::from_utf8_lossy(&entry.path));
            }
            Ok(())
        };
        reader.push(bytes, &mut sink).map_err(|_| Errno::INVAL)
    };
    let error = expand(format, &mut read, &mut write).err();
    (drivers, error.map(|error| error.to_string()))
}

/// Bytes for the changes of each of so many disks.
fn room(available: u64, disks: usize) -> Option<u64> {
    let each = (available.saturating_sub(SPARE) / 2).checked_div(disks as u64)? & !0xfff;
    (each >= LEAST).then_some(each)
}

/// Mounts one file system.
fn mount(
    machine: &mut Machine,
    device: &str,
    volume: Volume,
    label: &str,
    (volumes, mounted): (&mut Vec<Volume>, &mut Vec<Mounted>),
) -> Result<(), Fault> {
    let wanted = matches!(
        volume.holds,
        Some(Format::Ext | Format::Xfs | Format::Btrfs | Format::F2fs | Format::Vfat)
    );
    let efi = volume.holds == Some(Format::Vfat);
    volumes.push(volume);
    if !wanted {
        return Ok(());
    }
    let at = format!("{TREES}/{}", volumes.len());
    match block::mount(machine, device, &at, MountWith::default()) {
        Ok(_) => {
            mounted.push(Mounted { volume: volumes.len() - 1, at });
            Ok(())
        }
        // What matters there is rarely more than what is elsewhere.
        Err(fault) if efi => {
            machine.log.warn(&format!("{label}: nothing is changed: {fault}"));
            Ok(())
        }
        Err(fault) => Err(fault.of(label).remedy(
            "its driver must be in the image (bellwether build --add NAME), or leave \
             bw.p2v.edit out",
        )),
    }
}

/// A table for pieces of a device, one behind the other.
fn pieces_of(path: &str, start: u64, pieces: &[(u64, u64)]) -> Vec<sys::dm::Target> {
    let mut at = 0;
    let mut table = Vec::new();
    for (from, length) in pieces {
        let sectors = length / dm::SECTOR;
        for mut target in dm::linear(path, sectors, start.saturating_add(*from) / dm::SECTOR) {
            target.start = at;
            table.push(target);
        }
        at += sectors;
    }
    table
}

/// The UUID in the head of a swap area (`mkswap(8)`, version 1).
fn swap_uuid(path: &str, start: u64) -> String {
    let mut uuid = [0; 16];
    let device = open(path, OFlags::RDONLY, 0);
    let read = device.is_ok_and(|device| pread(&device, &mut uuid[..], start + 1036) == Ok(16));
    if read { sys::bytes::uuid(&uuid) } else { String::new() }
}

/// A volume for people.
fn shown(volume: &Volume) -> String {
    match volume.partition {
        _ if volume.disk.is_empty() => "a logical volume:".to_string(),
        0 => [&volume.disk, ":"].concat(),
        number => format!("partition {number} of {}:", volume.disk),
    }
}

/// The addresses of the machine's network cards.
fn cards() -> Vec<String> {
    let net = "/sys/class/net";
    let names = sysfs::names(net).unwrap_or_default();
    let real = names.iter().filter(|name| sys::file::exists(&format!("{net}/{name}/device")));
    real.map(|name| line(&format!("{net}/{name}/address"))).collect()
}

/// What udev makes names in `/dev/disk/by-id` of.
fn ids(name: &str) -> Vec<String> {
    let base = format!("/sys/block/{}", name.replace('/', "!"));
    let files = ["device/serial", "serial", "device/wwid", "wwid"];
    let ids = files.iter().map(|file| line(&format!("{base}/{file}")));
    // `naa.5000c500…` is wwn-0x5000c500….
    let bare = ids.map(|id| id.rsplit(['.', ' ']).next().unwrap_or_default().to_string());
    bare.filter(|id| !id.is_empty()).collect()
}

/// A small file's text, without what stands around it.
fn line(path: &str) -> String {
    String::from_utf8_lossy(&read_file(path, 4 << 10).unwrap_or_default()).trim().to_string()
}

/// Reads the files of a tree that may be changed.
fn read_all(
    machine: &mut Machine,
    tree: &NewRoot,
    (volume, root): (usize, &'static str),
    files: &mut Vec<File>,
) {
    for (pattern, kind) in PLACES {
        for path in matching(tree, pattern) {
            let all: usize = files.iter().map(|file| file.text.len()).sum();
            match read(tree, &path) {
                Ok(text) if all + text.len() <= MAX_ALL => {
                    files.push(File { volume, root, path, kind: *kind, text });
                }
                Ok(_) => {
                    machine.log.warn(&format!("{path} stays as it is: there are too many files"));
                }
                Err(None) => {}
                Err(Some(why)) => machine.log.warn(&format!("{path} stays as it is: it {why}")),
            }
        }
    }
}

/// The paths of a tree that a pattern names.
fn matching(tree: &NewRoot, pattern: &str) -> Vec<String> {
    let mut paths = Vec::from([String::new()]);
    for part in pattern.split('/') {
        let mut next = Vec::new();
        for above in &paths {
            let slash = if above.is_empty() { "" } else { "/" };
            if !part.contains('*') {
                next.push([above, slash, part].concat());
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let Ok(directory) = tree.resolve(above.as_bytes(), flags) else { continue };
            // What cannot be listed has nothing to change.
            let _ = sys::file::entries(directory.as_fd(), &mut |name, _| {
                let plain =
                    name.to_str().ok().filter(|name| !name.contains(|c: char| c.is_control()));
                if let Some(name) = plain.filter(|name| fnmatch(part.as_bytes(), name.as_bytes()))
                    && !name.starts_with('.')
                    && next.len() < MAX_NAMES
                {
                    next.push([above, slash, name].concat());
                }
            });
        }
        sys::sort::sort(&mut next);
        paths = next;
    }
    paths
}

/// A file's text; why not, when that is worth a word.
fn read(tree: &NewRoot, path: &str) -> Result<String, Option<&'static str>> {
    let found = tree.resolve(path.as_bytes(), OFlags::PATH).map_err(|_| None)?;
    let file = regular(&found, OFlags::RDONLY).map_err(|_| None)?;
    let text = read_file(&format!("/proc/self/fd/{}", file.as_raw_fd()), MAX_FILE + 1);
    let text = text.map_err(|_| Some("cannot be read"))?;
    if text.len() > MAX_FILE {
        return Err(Some("has more than 1 MiB"));
    }
    String::from_utf8(text).map_err(|_| Some("is no text"))
}

/// Writes a file in its place, so that owner, mode and labels stay.
fn write(tree: &NewRoot, path: &str, text: &str, new: bool) -> Result<(), rustix::io::Errno> {
    if new {
        let (above, _) = tree.parent(path.as_bytes())?;
        tree.replace(path, text, 0o644)?;
        // As a running system of SELinux does: what is made in a directory gets its label.
        let above =
            sys::file::open(&format!("/proc/self/fd/{}", above.as_raw_fd()), OFlags::RDONLY, 0)?;
        let file = tree.resolve(path.as_bytes(), OFlags::RDONLY)?;
        let mut label = [0; 256];
        if let Ok(length) = fgetxattr(&above, c"security.selinux", &mut label[..]) {
            let label = label.get(..length).unwrap_or_default();
            fsetxattr(&file, c"security.selinux", label, XattrFlags::empty())?;
        }
        return Ok(());
    }
    let found = tree.resolve(path.as_bytes(), OFlags::PATH)?;
    let file = regular(&found, OFlags::WRONLY)?;
    ftruncate(&file, 0)?;
    write_all(&file, text.as_bytes())
}

/// The disk that is read in the place of another.
///
/// # Errors
/// As [`Disk::examine`].
pub fn examine(path: &str, found: &Found, policy: BadSectors) -> Result<(Disk, Vec<Part>), Fault> {
    let (mut disk, parts) = Disk::examine(path, found.sector, policy).map_err(Fault::on(path))?;
    disk.name.clone_from(&found.name);
    Ok((disk, parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn changes_never_take_all_memory() {
        assert_eq!(room(192 << 20, 2), Some(32 << 20));
        assert_eq!(room(64 << 20, 1), None);
        assert_eq!(room(1 << 30, 0), None);
    }

    #[test]
    fn a_boot_loader_is_put_where_firmware_looks() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = crate::machine::tests::machine("");
        let tree = NewRoot::at(dir.path().to_str().unwrap()).unwrap();
        let text = |path: &str| std::fs::read_to_string(dir.path().join(path)).ok();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "a loader").unwrap();
        };
        removable(&mut machine, &tree).unwrap();
        assert!(!dir.path().join("EFI").exists());
        let [shim, grub] = [edit::LOADERS[0][0], edit::LOADERS[0][1]];
        put(&format!("EFI/debian/{shim}"));
        put(&format!("EFI/debian/{grub}"));
        put(&format!("EFI/fedora/{grub}"));
        let target = format!("{}/{}", edit::REMOVABLE.0, edit::REMOVABLE.1);
        removable(&mut machine, &tree).unwrap();
        assert_eq!(text(&target), None, "of two systems");
        std::fs::remove_dir_all(dir.path().join("EFI/fedora")).unwrap();
        removable(&mut machine, &tree).unwrap();
        assert_eq!(text(&target).as_deref(), Some("a loader"));
        assert_eq!(text(&format!("EFI/BOOT/{grub}")).as_deref(), Some("a loader"));
        // One that is there stays.
        std::fs::write(dir.path().join(&target), "ours").unwrap();
        removable(&mut machine, &tree).unwrap();
        assert_eq!(text(&target).as_deref(), Some("ours"));
    }

    /// An entry of an archive (`buffer-format.rst` of the kernel).
    fn entry(name: &str, data: &str) -> Vec<u8> {
        let sizes = format!("{:08x}{:032x}{:08x}{:08x}", data.len(), 0, name.len() + 1, 0);
        let mut bytes = format!("070701{:08x}{:08x}{:032x}{sizes}", 1, 0o100_644, 0).into_bytes();
        for part in [name, data] {
            bytes.extend(part.bytes());
            bytes.extend(if part == name { &[0][..] } else { &[] });
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn drivers_are_found_in_images_of_any_build() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("initrd.img-6.1");
        let look = |bytes: &[u8]| {
            std::fs::write(&image, bytes).unwrap();
            let (drivers, error) =
                drivers_in(&open(image.to_str().unwrap(), OFlags::RDONLY, 0).unwrap());
            (drivers.trouble().is_none(), error)
        };
        let early = [entry("kernel/x86/microcode.bin", "code!"), entry("TRAILER!!!", "")].concat();
        let all =
            ["usr/lib/modules/6.1/kernel/virtio_pci.ko.xz", "usr/virtio_blk.ko", "TRAILER!!!"];
        let main: Vec<u8> = all.iter().flat_map(|name| entry(name, "data")).collect();
        let pack = |program: &str| {
            let plain = dir.path().join("plain");
            std::fs::write(&plain, &main).unwrap();
            let packed = std::process::Command::new(program).arg("-c").arg(plain).output().unwrap();
            packed.stdout
        };
        let gap = vec![0; 1024];
        assert_eq!(look(&[&early[..], &gap, &pack("gzip")].concat()), (true, None));
        assert_eq!(look(&[&early[..], &pack("xz")].concat()), (true, None));
        assert_eq!(look(&[&early[..], &gap, &main].concat()), (true, None));
        assert_eq!(look(&early), (false, None));
        let packed = pack("gzip");
        let (found, error) = look(&packed[..30]);
        assert!(!found && error.is_some());
        let (found, error) = look(b"\x02\x21\x4c\x18 lz4, which is not read, and some bytes more than a header has: 110 of them, and these are enough now");
        assert!(!found && error.unwrap().contains("in a form"));
        assert_eq!(look(b""), (false, None));
    }

    /// The files of a disk are another machine's: links lead nowhere else, and pipes and large files
    /// are not read.
    #[test]
    fn files_are_read_inside_and_written_in_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for made in [root.join("etc/netplan"), root.join("usr/etc"), outside.clone()] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(outside.join("x.yaml"), "outside").unwrap();
        std::fs::write(root.join("etc/netplan/a.yaml"), "inside").unwrap();
        std::fs::write(root.join("etc/netplan/.b.yaml"), "hidden").unwrap();
        std::fs::write(root.join("etc/netplan/c.yml"), "another ending").unwrap();
        std::fs::write(root.join("etc/netplan/large.yaml"), vec![b'a'; MAX_FILE + 1]).unwrap();
        std::fs::write(root.join("etc/netplan/bytes.yaml"), [0xff, 0xfe]).unwrap();
        symlink(outside.join("x.yaml"), root.join("etc/netplan/link.yaml")).unwrap();
        std::fs::create_dir(root.join("etc/netplan/directory.yaml")).unwrap();
        std::fs::write(root.join("usr/etc/fstab"), "old, and longer").unwrap();
        symlink("/usr/etc/fstab", root.join("etc/fstab")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(root.join("usr/etc/fstab"), mode).unwrap();
        let tree = NewRoot::at(root.to_str().unwrap()).unwrap();
        let mut machine = crate::machine::tests::machine("");
        let mut files = Vec::new();
        read_all(&mut machine, &tree, (0, ""), &mut files);
        let found: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.text.as_str())).collect();
        assert_eq!(found, [("etc/fstab", "old, and longer"), ("etc/netplan/a.yaml", "inside")]);
        write(&tree, "etc/fstab", "new", false).unwrap();
        let real = root.join("usr/etc/fstab");
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(std::fs::metadata(real).unwrap().permissions().mode() & 0o777, 0o600);
        write(&tree, "etc/systemd/network/98-p2v.link", "made", true).unwrap();
        assert!(root.join("etc/systemd/network/98-p2v.link").exists());
        assert_eq!(std::fs::read_to_string(outside.join("x.yaml")).unwrap(), "outside");
    }
}
