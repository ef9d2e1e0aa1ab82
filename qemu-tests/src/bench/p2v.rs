//! A machine sends its half-empty disk to a conversion server: by our `/init`, and by Debian's
//! virt-p2v in a live system of Debian.
//!
//! Both boot the same kernel in the same machine, log in to the same OpenSSH with the same words,
//! and are read by what virt-v2v reads with (nbdkit's filter cow, nbdcopy); no conversion runs.
//! virt-p2v's own image is made from downloads that a lab has not; its live system here has what
//! the program runs with and, unlike the own image, neither X.org nor a desktop nor firmware.
//!
//! Does not: say how fast a real network is; the processor is emulated.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::LIMIT;
use crate::assets::{Flavour, Kernel, Peer, Profile};
use crate::machine::Bus;
use crate::{Error, Lab, Nic, Result, shell, workspace};

/// MiB of the disk; half of it is in use.
const DISK: u64 = 256;

/// What it took.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// From power-on until the server has the first bytes of the disk.
    pub first: Duration,
    /// From power-on until the machine is off.
    pub whole: Duration,
    /// Bytes that left the machine by its network card.
    pub wire: u64,
    /// The most memory that its emulator ever had, in KiB: what the machine ever touched, and some
    /// ten MiB of the emulator's own.
    pub memory: u64,
    /// Bytes that are booted besides the kernel.
    pub image: u64,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Bytes in use on the disk.
    pub used: u64,
    /// Our `/init`.
    pub ours: Sent,
    /// virt-p2v of Debian.
    pub theirs: Sent,
}

const FIRST: &str = "s to the first disk byte";
const WHOLE: &str = "s until the machine is off";
const WIRE: &str = "bytes over the wire";
const MEMORY: &str = "KiB of memory, at most";
const IMAGE: &str = "bytes of the image";
/// The rows of the table, with their decimals.
const ROWS: [(&str, usize); 5] = [(FIRST, 2), (WHOLE, 2), (WIRE, 0), (MEMORY, 0), (IMAGE, 0)];

impl Sent {
    fn row(&self, name: &str) -> f64 {
        match name {
            FIRST => self.first.as_secs_f64(),
            WHOLE => self.whole.as_secs_f64(),
            WIRE => self.wire as f64,
            MEMORY => self.memory as f64,
            _ => self.image as f64,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, ours, theirs } = self;
        writeln!(f, "a disk of {DISK} MiB, {used} bytes of it in use")?;
        writeln!(f, "{:<28}{:>14}{:>14}{:>8}", "", "ours", "virt-p2v", "ratio")?;
        for (name, digits) in ROWS {
            let (ours, theirs) = (ours.row(name), theirs.row(name));
            let ratio = ours / theirs;
            writeln!(f, "{name:<28}{ours:>14.digits$}{theirs:>14.digits$}{ratio:>8.3}")?;
        }
        Ok(())
    }
}

/// Sends the disk by both, ours first.
///
/// # Errors
/// A package cannot be had, or a machine does not do what it should.
pub fn measure() -> Result<Measured> {
    let lab = Lab::new(&workspace::lab().join("captures/bench-p2v"))?;
    let _dhcp = lab.dhcp().serve()?;
    let sshd = lab.sshd(None, "", "")?;
    let copy = sshd.stand_in()?;
    let key = sshd.place.join("id");
    let key = fs::read(&key).map_err(Error::at("read", &key))?;
    let _web = lab.web(move |_, stream| {
        use std::io::Write;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", key.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&key))
    })?;
    let (disk, used) = half_empty(&lab)?;
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let ours = {
        let initrd = lab.assets().our_initrd(&kernel, Profile::P2v)?;
        let image = size(&initrd)?;
        send(&lab, 0, &kernel, &initrd, "", None, (&disk, &copy), image)?
    };
    let theirs = {
        let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
        let iso = lab.assets().virt_p2v_iso()?;
        let image = size(&initrd)? + size(&iso)?;
        send(&lab, 1, &kernel, &initrd, "boot=live", Some(&iso), (&disk, &copy), image)?
    };
    Ok(Measured { used, ours, theirs })
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::at("look at", path))?.len())
}

/// ext4 with a file of random bytes: together they take half.
fn half_empty(lab: &Lab) -> Result<(PathBuf, u64)> {
    let disk = lab.scratch("disks")?.join("physical.img");
    let from = lab.scratch("disks/files")?;
    let (image, files) = (disk.to_string_lossy(), from.to_string_lossy());
    // The file system itself takes nine more.
    let half = format!("bs=1M count={}", DISK / 2 - 9);
    let script = format!(
        "dd if=/dev/urandom of='{files}/file' {half} status=none; truncate -s {DISK}M '{image}'; \
         mke2fs -q -t ext4 -F -d '{files}' '{image}'; rm '{files}/file'"
    );
    shell::sh(&["sh", "-euc", &script])?;
    let used = fs::metadata(&disk).map_err(Error::at("look at", &disk))?.blocks() * 512;
    Ok((disk, used))
}

#[allow(clippy::too_many_arguments, reason = "one call for each contender")]
fn send(
    lab: &Lab,
    number: usize,
    kernel: &Kernel,
    initrd: &Path,
    words: &str,
    medium: Option<&Path>,
    (disk, copy): (&Path, &Path),
    image: u64,
) -> Result<Sent> {
    let _ = fs::remove_file(copy);
    let line = format!(
        "{words} p2v.server=10.77.0.1 p2v.identity=http://10.77.0.1/id p2v.name=box p2v.o=null \
         p2v.disks=vda p2v.post=poweroff"
    );
    let machine = lab.machine().kernel(&kernel.image, initrd, &line).nic(Nic::virtio());
    let machine = machine.disk(Bus::VirtioBlk, disk).qemu(&["-no-reboot", "-no-shutdown"]);
    let machine =
        medium.into_iter().fold(machine, |machine, iso| machine.cdrom(Bus::VirtioScsi, iso));
    let start = Instant::now();
    let machine = machine.start()?;
    crate::until("the server has bytes of the disk", LIMIT, || {
        Ok(fs::metadata(copy).is_ok_and(|file| file.blocks() > 0))
    })?;
    let first = start.elapsed();
    machine.wait_stopped(LIMIT)?;
    let whole = start.elapsed();
    let wire = lab.sent_by(number, 0)?;
    let memory = machine.peak_memory()?;
    let same = |path: &Path| shell::sh(&["sha256sum", &path.to_string_lossy()]);
    let (was, is) = (same(disk)?, same(copy)?);
    if was.split(' ').next() != is.split(' ').next() {
        return Err(Error::Input(format!("machine {number} sent another disk than it has")));
    }
    Ok(Sent { first, whole, wire, memory, image })
}
