//! How a source is reached: what the search asks of the machine, as one trait.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{DeviceSelector, Mac, ScanRule, Seconds, Source};
use cmdline::render::brief;
use netboot::network::NetworkUp;
use overlay::probe::Superblock;
use rustix::mount::MountAttrFlags;
use sys::clock::Instant;
use sys::file::{make_dir, open_read};
use sys::mount::{FsContext, MountError, detach};

use crate::block::{self, MountWith};
use crate::device::{self, BLOCKS, Candidate, candidates, without_udev};
use crate::expand;
use crate::log::Level;
use crate::machine::Machine;
use crate::trace::Fault;
use crate::{clone, fetch, network, remote};

/// What a source offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// A file system, mounted at this path.
    Tree(String),
    /// A device or file with something in it.
    Blob(String),
}

/// Offers of a source, with its name for people.
pub type Reached = (Vec<Offer>, String);

/// What the search needs of the world. [`Machine`] is the real one; tests have one of
/// tables.
pub trait Reach {
    /// Says a line.
    fn say(&mut self, level: Level, text: &str);
    /// Notes a thing that was tried, for the record of the boot.
    fn tried(&mut self, what: &str, why: &str);
    /// The time.
    fn now(&self) -> Instant;
    /// Waits until something happens, at most until `deadline`.
    fn wait(&mut self, deadline: Instant);
    /// Grows whenever a block device comes, changes or goes.
    fn changes(&self) -> u64;
    /// Whether all drivers are loaded and the bus has been silent a while.
    fn settled(&self) -> bool;
    /// The boot link's address.
    fn mac(&self) -> Option<Mac>;

    /// Mounts, connects or fetches a source that is not on this machine's disks; a file
    /// system is mounted at `target`.
    ///
    /// # Errors
    /// The source's name for people, and the fault; [`Fault::is_last`] when the source
    /// need not be tried again.
    fn reach(
        &mut self,
        source: &Source,
        target: &str,
        limit: Option<Seconds>,
    ) -> Result<Reached, (String, Fault)>;
    /// Lets go of what [`Self::reach`] gave.
    fn release(&mut self, source: &Source, offers: &[Offer]);

    /// The devices that a rule looks at, in its order.
    fn candidates(&self, rule: &ScanRule) -> Vec<Candidate>;
    /// The node of the device that a selector names.
    ///
    /// # Errors
    /// No device is it, with what was seen instead.
    fn resolve(&mut self, selector: &DeviceSelector) -> Result<String, Fault>;
    /// What is on a device or in a file; `None` when the format is not known.
    ///
    /// # Errors
    /// It cannot be read.
    fn inspect(&mut self, path: &str) -> Result<Option<Superblock>, Fault>;
    /// The node of a partition of a disk or of the image of one.
    ///
    /// # Errors
    /// There is no such partition, or no loop device for it.
    fn partition(&mut self, disk: &str, number: u32) -> Result<String, Fault>;

    /// Mounts a device or image file.
    ///
    /// # Errors
    /// It holds no file system, or the kernel refuses it.
    fn mount(&mut self, blob: &str, target: &str, read_only: bool) -> Result<(), Fault>;
    /// Unmounts.
    fn unmount(&mut self, target: &str);
    /// The expanded form of a device or file that is compressed; `None` when it is not.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or does not fit into memory.
    fn expand(&mut self, blob: &str) -> Result<Option<String>, Fault>;
}

impl Reach for Machine {
    fn say(&mut self, level: Level, text: &str) {
        self.log.say(level, text);
    }

    fn tried(&mut self, what: &str, why: &str) {
        self.trace.tried(what, why);
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, deadline: Instant) {
        Machine::wait(self, &[], Some(deadline));
    }

    fn changes(&self) -> u64 {
        self.block_changes
    }

    fn settled(&self) -> bool {
        Machine::settled(self)
    }

    fn mac(&self) -> Option<Mac> {
        self.network.mac()
    }

    fn reach(
        &mut self,
        source: &Source,
        target: &str,
        limit: Option<Seconds>,
    ) -> Result<Reached, (String, Fault)> {
        let tree = |path: &str| Vec::from([Offer::Tree(path.to_string())]);
        let blobs = |paths: Vec<String>| paths.into_iter().map(Offer::Blob).collect();
        // DHCP's root path may name another kind of source than the one that asks for it.
        let root_path = self.network.up().map_or("", NetworkUp::root_path);
        let by_dhcp = remote::nbd_by_dhcp(source, root_path).transpose();
        let by_dhcp = by_dhcp.map_err(|fault| (brief(source), fault))?.map(Source::Nbd);
        let source = by_dhcp.as_ref().unwrap_or(source);
        let name = brief(source);
        let offers = match source {
            Source::Nfs(nfs) => {
                let origin = network::mount_nfs(self, nfs, target)?;
                return Ok((tree(target), origin));
            }
            Source::Cifs(cifs) => remote::cifs(self, cifs, target).map(|()| tree(target)),
            Source::NineP(tag) => {
                let options = "trans=virtio,version=9p2000.L,msize=262144";
                mount_tag(self, ("9p", tag, options), target).map(|()| tree(target))
            }
            Source::VirtioFs(tag) => {
                mount_tag(self, ("virtiofs", tag, ""), target).map(|()| tree(target))
            }
            Source::Nbd(nbd) => remote::nbd(self, nbd).map(|device| blobs(Vec::from([device]))),
            Source::NvmeTcp(nvme) => remote::nvme(self, nvme).map(blobs),
            Source::Url(url) => fetch::fetch(self, url).map(|path| blobs(Vec::from([path]))),
            Source::PxeFileList { server, port } => {
                fetch::fetch_list(self, server, *port).map(|path| tree(&path))
            }
            Source::Stage2(method) => {
                clone::stage2(self, method, limit).map(|path| blobs(Vec::from([path])))
            }
            // On this machine's disks, or in its memory: the search offers them itself.
            Source::Device(_)
            | Source::Scan(_)
            | Source::File { .. }
            | Source::Partition { .. }
            | Source::Initramfs(_) => Ok(Vec::new()),
        };
        match offers {
            Ok(offers) => Ok((offers, name)),
            Err(fault) => Err((name, fault)),
        }
    }

    fn release(&mut self, source: &Source, offers: &[Offer]) {
        match (source, offers.first()) {
            (Source::Nbd(_) | Source::Nfs(_), Some(Offer::Blob(device))) => {
                remote::drop_nbd(self, device)
            }
            (Source::NvmeTcp(_), Some(Offer::Blob(device))) => remote::drop_nvme(device),
            (_, Some(Offer::Tree(target))) => self.unmount(target),
            (_, Some(Offer::Blob(_))) => fetch::drop_all(),
            (_, None) => {}
        }
    }

    fn candidates(&self, rule: &ScanRule) -> Vec<Candidate> {
        candidates(BLOCKS, self.blocks(), rule)
    }

    fn resolve(&mut self, selector: &DeviceSelector) -> Result<String, Fault> {
        let names: Vec<String> = self.blocks().map(ToString::to_string).collect();
        device::resolve(&without_udev(selector), &names)
    }

    fn inspect(&mut self, path: &str) -> Result<Option<Superblock>, Fault> {
        if path.starts_with("/dev/") {
            return device::inspect(path).map_err(Fault::in_("cannot be read"));
        }
        block::inspect(path).map(Some)
    }

    fn partition(&mut self, disk: &str, number: u32) -> Result<String, Fault> {
        // The kernel's own device, or a loop device where the kernel makes none (image
        // files, optical discs).
        if let Some(node) =
            disk.strip_prefix("/dev/").and_then(|name| device::partition_node(name, number))
        {
            return Ok(node);
        }
        let partitions = device::partitions(disk).map_err(Fault::in_("cannot be read"))?;
        let Some(found) = partitions.iter().find(|partition| partition.number == number) else {
            let numbers: Vec<String> =
                partitions.iter().map(|partition| partition.number.to_string()).collect();
            return Err(match numbers.as_slice() {
                [] => "has no partition table".into(),
                _ => format!("is not in its table (there are {})", numbers.join(", ")).into(),
            });
        };
        self.require("loop");
        let file = open_read(disk).map_err(Fault::in_("cannot be read"))?;
        let options = sys::loopdev::Options {
            offset: found.start,
            size_limit: found.length,
            read_only: true,
            ..Default::default()
        };
        let device = sys::loopdev::attach(rustix::fd::AsFd::as_fd(&file), options)
            .map_err(Fault::in_("no loop device"))?;
        let path = format!("/dev/loop{}", device.number);
        self.held.push(device);
        Ok(path)
    }

    fn mount(&mut self, blob: &str, target: &str, read_only: bool) -> Result<(), Fault> {
        let with = MountWith { read_only, ..MountWith::default() };
        block::mount(self, blob, target, with).map(drop)
    }

    fn unmount(&mut self, target: &str) {
        // Nothing is mounted there when the tree is a part of another.
        if let Err(errno) = detach(target) {
            self.log.detail(&format!("{target} stays mounted: {}", sys::errno::Shown(errno)));
        }
    }

    fn expand(&mut self, blob: &str) -> Result<Option<String>, Fault> {
        expand::expanded(self, blob)
    }
}

/// Mounts what the hypervisor exports under a tag.
fn mount_tag(
    machine: &mut Machine,
    (fs_type, tag, options): (&str, &str, &str),
    target: &str,
) -> Result<(), Fault> {
    machine.require(&format!("fs-{fs_type}"));
    if fs_type == "9p" {
        machine.require("9pnet_virtio");
    }
    let mount = || {
        make_dir(target, 0o755)?;
        let context = FsContext::open(fs_type)?;
        context.set("source", Some(tag))?;
        context.set_all(options)?;
        context.mount(target, MountAttrFlags::empty())
    };
    mount().map_err(|error: MountError| error.into())
}
