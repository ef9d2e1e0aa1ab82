//! Times initramfs against each other on the same kernel and the same image.
//!
//! Time is counted, not measured: under `-icount shift=0` QEMU's clock advances by
//! one nanosecond an instruction, so a result does not depend on how fast or how
//! busy the host is. The clock runs from the kernel's "Run /init" to the first
//! instruction of the live system's first program ([`FIRST_THEN_OFF`]).
//! Without a network, waiting is skipped over (`sleep=off`) and still counts: a
//! sleep of a second adds a second. With one, idle time passes as real time: a clock
//! that leaps to the next timer would expire timeouts before a server could answer.
//!
//! Does not: compare hardware. Devices answer at once in counted time, so this is
//! the cost of the software.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::assets::live::{FIRST_THEN_OFF, ISO_LABEL};
use crate::assets::{Assets, Flavour, Kernel, Peer, Profile};
use crate::lab::{Lab, SERVER};
use crate::machine::{Bus, MachineBuilder, Nic};
use crate::{Error, Result, packages, workspace};

const LIMIT: Duration = Duration::from_secs(300);

/// Where the image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// An ISO in a virtio-scsi drive, no network card.
    Iso,
    /// An NFS export; the answers come from outside the counted machine, so
    /// repeated runs differ by some hundredths of a second.
    Nfs,
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

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose initramfs.
    pub contender: Contender,
    /// Size of the initramfs in bytes.
    pub initrd: u64,
    /// Kernel time at which `/init` starts.
    pub started: Duration,
    /// Kernel time at which the live system's first program runs.
    pub handoff: Duration,
    /// MemAvailable at that moment, in KiB.
    pub available_kib: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.handoff.saturating_sub(self.started);
        write!(
            f,
            "{:<12}{:>10.3}{:>10.3}{:>10.3}{:>14}{:>14}",
            format!("{:?}", self.contender),
            self.started.as_secs_f64(),
            self.handoff.as_secs_f64(),
            took.as_secs_f64(),
            self.initrd,
            self.available_kib,
        )
    }
}

/// The line above the rows.
pub fn header() -> String {
    format!(
        "{:<12}{:>10}{:>10}{:>10}{:>14}{:>14}",
        "", "/init s", "handoff s", "took s", "initrd bytes", "available KiB"
    )
}

/// Boots one contender once.
///
/// # Errors
/// What building its initramfs or booting it needs; [`Error::Input`] when the
/// console lacks one of the two moments.
pub fn measure(contender: Contender, medium: Medium) -> Result<Row> {
    packages::ensure()?;
    let name = format!("bench-{contender:?}-{medium:?}").to_lowercase();
    let directory = workspace::lab().join("captures").join(name);
    let assets = Assets::open()?;
    let kernel = assets.kernel(Flavour::Cloud)?;
    let initrd = initrd(&assets, &kernel, contender, medium)?;
    let line = format!("{} init={FIRST_THEN_OFF}", line(contender, medium));
    let transcript = match medium {
        Medium::Iso => {
            std::fs::create_dir_all(&directory).map_err(Error::at("make", &directory))?;
            let machine = MachineBuilder::new(None, &directory, 0)
                .cdrom(Bus::VirtioScsi, &assets.live_iso()?)
                .qemu(&["-nic", "none"]);
            boot(machine, &kernel, &initrd, &line, "shift=0,sleep=off")?
        }
        Medium::Nfs => {
            let lab = Lab::new(&directory)?;
            let _dhcp = lab.dhcp().serve()?;
            // dracut's line names the image itself, the others search the export.
            let _nfs = lab.nfs().export("/srv/live", &assets.live_tree()?).start()?;
            let machine = lab.machine().nic(Nic::virtio());
            boot(machine, &kernel, &initrd, &line, "shift=0,sleep=on")?
        }
    };
    let stamp = |what: &str| {
        let line = transcript.lines().find(|line| line.contains(what));
        line.and_then(|line| Some((time_of(line)?, line))).ok_or_else(|| {
            Error::Input(format!("{contender:?}: no {what:?} on {}", directory.display()))
        })
    };
    let (started, _) = stamp("Run /init")?;
    let (handoff, line) = stamp("handed over, MemAvailable")?;
    let available = line.split_whitespace().rev().nth(1).and_then(|kib| kib.parse().ok());
    let size = std::fs::metadata(&initrd).map_err(Error::at("stat", &initrd))?.len();
    Ok(Row {
        contender,
        initrd: size,
        started,
        handoff,
        available_kib: available.unwrap_or_default(),
    })
}

fn boot(
    machine: MachineBuilder<'_>,
    kernel: &Kernel,
    initrd: &Path,
    line: &str,
    icount: &str,
) -> Result<String> {
    let machine = machine
        .kernel(&kernel.image, initrd, line)
        .qemu(&["-icount", icount, "-no-reboot"])
        .start()?;
    machine.expect("handed over, MemAvailable", LIMIT)?;
    machine.wait_off(Duration::from_secs(30))?;
    Ok(machine.transcript())
}

fn initrd(
    assets: &Assets,
    kernel: &Kernel,
    contender: Contender,
    medium: Medium,
) -> Result<PathBuf> {
    match (contender, medium) {
        (Contender::LiveBoot, _) => assets.peer_initrd(Peer::LiveBoot, kernel),
        (Contender::Dracut, Medium::Iso) => assets.peer_initrd(Peer::Dracut, kernel),
        (Contender::Dracut, Medium::Nfs) => assets.peer_initrd(Peer::DracutNet, kernel),
        (Contender::Bellwether, _) => assets.our_initrd(kernel, Profile::Virt),
    }
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
}
