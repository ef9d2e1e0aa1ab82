//! Times initramfs against each other on the same kernel and the same image.
//!
//! Each row of the table is a kernel, a board and a medium. All contenders boot it by
//! turns, so that a busy host does the same to all of them. From the kernel's
//! "Run /init" to the first instruction of the live system's first program
//! ([`crate::assets::live::FIRST_THEN_OFF`]) the bench tells
//!
//! - the instructions that the machine executes, counted by a plugin in QEMU, in a
//!   machine whose clock is the count (`-icount`): the cost of the software, on any
//!   host. Waiting costs none, unless the waiting is busy.
//! - the time by the guest's own clock, in a machine without any of that. It has the
//!   waits, and it depends on the host: only what ran by turns may be compared.
//! - the bytes that were read from the drive or came in by the network card; kernel and
//!   initramfs are not among them.
//! - the memory that is left.
//!
//! Does not: compare hardware.

mod contest;
pub mod kept;
pub mod one;
pub mod p2v;
pub mod profile;
pub mod share;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::assets::live::ISO_LABEL;
use crate::assets::{Assets, Kernel, Peer, Profile};
use crate::lab::SERVER;
use crate::machine::{Bus, Machine, MachineBuilder};
use crate::{Error, Result};

pub use contest::{Measured, measure};

const LIMIT: Duration = Duration::from_secs(900);

/// QEMU's PC boards: the newer one, and the older one, which has an IDE controller.
pub const BOARDS: [&str; 2] = ["q35", "pc"];

/// Where the image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// An ISO in a virtio-scsi drive, no network card.
    Iso,
    /// An NFS export, over a virtio card.
    Nfs,
}

impl Medium {
    /// All of them.
    pub const ALL: [Medium; 2] = [Medium::Iso, Medium::Nfs];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Medium::Iso => "iso",
            Medium::Nfs => "nfs",
        }
    }
}

/// Whose initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Debian's live-boot.
    LiveBoot,
    /// dracut.
    Dracut,
    /// This project.
    Bellwether,
}

impl Contender {
    /// All of them.
    pub const ALL: [Contender; 3] = [Contender::LiveBoot, Contender::Dracut, Contender::Bellwether];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Contender::LiveBoot => "live-boot",
            Contender::Dracut => "dracut",
            Contender::Bellwether => "bellwether",
        }
    }
}

/// What is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Of [`RELEASES`](crate::release::RELEASES).
    pub release: &'static str,
    /// Of [`BOARDS`].
    pub board: &'static str,
    /// Where the image comes from.
    pub medium: Medium,
}

/// How often each contender boots a row.
#[derive(Debug, Clone, Copy)]
pub struct Runs {
    /// By the guest's clock.
    pub clock: usize,
    /// With its instructions counted.
    pub counted: usize,
}

/// One boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// From `Run /init` to the live system's first program, by the kernel's clock.
    pub took: Duration,
    /// MemAvailable at that moment, in KiB.
    pub available_kib: u64,
    /// Bytes read from the drive.
    pub medium: u64,
}

impl Run {
    /// Reads both moments off a console.
    fn read(transcript: &str) -> Option<Run> {
        let line = |what: &str| transcript.lines().find(|line| line.contains(what));
        let handoff = line("handed over, MemAvailable")?;
        Some(Run {
            took: time_of(handoff)?.saturating_sub(time_of(line("Run /init")?)?),
            available_kib: handoff.split_whitespace().rev().nth(1)?.parse().ok()?,
            medium: 0,
        })
    }
}

fn no_counts() -> Error {
    Error::Input("no counts: does this QEMU take plugins? (7.2 of Debian does)".into())
}

/// A machine with the live ISO, not switched on.
fn iso_machine(
    assets: &Assets,
    directory: &Path,
    number: usize,
) -> Result<MachineBuilder<'static>> {
    // Requests reach the disk at once instead of when QEMU's main loop gets to it.
    Ok(MachineBuilder::new(None, directory, number)
        .cdrom(Bus::VirtioScsi, &assets.live_iso()?)
        .qemu(&["-nic", "none", "-global", "virtio-scsi-pci.ioeventfd=off"]))
}

/// Runs a machine to its end and reads its console and its drive's counter.
fn boot(machine: MachineBuilder<'_>) -> Result<Run> {
    let machine = machine.qemu(&["-no-reboot", "-no-shutdown"]).start()?;
    machine.expect("handed over, MemAvailable", LIMIT)?;
    machine.wait_stopped(LIMIT)?;
    read(&machine)
}

fn read(machine: &Machine) -> Result<Run> {
    let transcript = machine.transcript();
    let run = Run::read(&transcript).ok_or_else(|| {
        let tail = crate::shell::last_lines(&transcript, 10);
        Error::Input(format!("the console lacks one of the two moments; it ends:\n{tail}"))
    })?;
    Ok(Run { medium: machine.read_bytes()?, ..run })
}

fn initrd(assets: &Assets, row: Row, kernel: &Kernel, contender: Contender) -> Result<PathBuf> {
    let peer = match (contender, row.medium) {
        (Contender::LiveBoot, _) => Peer::LiveBoot,
        (Contender::Dracut, Medium::Iso) => Peer::Dracut,
        (Contender::Dracut, Medium::Nfs) => Peer::DracutNet,
        (Contender::Bellwether, _) => return assets.our_initrd(kernel, Profile::Virt),
    };
    assets.peer_initrd_of(row.release, peer, kernel)
}

/// The line that a user of this initramfs writes for this medium.
fn line(contender: Contender, medium: Medium) -> String {
    let image = "live/filesystem.squashfs";
    match (contender, medium) {
        (Contender::LiveBoot | Contender::Bellwether, Medium::Iso) => "boot=live".into(),
        (Contender::LiveBoot | Contender::Bellwether, Medium::Nfs) => {
            format!("boot=live netboot=nfs nfsroot={SERVER}:/srv/live ip=dhcp")
        }
        (Contender::Dracut, Medium::Iso) => format!(
            "root=live:CDLABEL={ISO_LABEL} rd.live.image rd.live.dir=live \
             rd.live.squashimg=filesystem.squashfs rd.live.overlay.overlayfs=1"
        ),
        (Contender::Dracut, Medium::Nfs) => format!(
            "root=live:nfs://{SERVER}/srv/live/{image} rd.live.image ip=dhcp rd.neednet=1 \
             rd.live.overlay.overlayfs=1"
        ),
    }
}

/// The kernel's time stamp at the start of a console line.
fn time_of(line: &str) -> Option<Duration> {
    let (_, rest) = line.split_once('[')?;
    let (seconds, _) = rest.split_once(']')?;
    Some(Duration::from_secs_f64(seconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_time() {
        let line = "[    2.529344] Run /init as init process";
        assert_eq!(time_of(line), Some(Duration::from_micros(2_529_344)));
        assert_eq!(time_of("no stamp"), None);
    }

    #[test]
    fn reads_a_run() {
        let text = "[    1.500000] Run /init as init process\nbellwether: ready\n\
                    [    1.750000] bellwether-lab: handed over, MemAvailable 871244 kB\n";
        let run = Run::read(text).unwrap();
        assert_eq!((run.took, run.available_kib), (Duration::from_millis(250), 871_244));
        assert_eq!(Run::read("[    1.500000] Run /init as init process\n"), None);
    }
}
