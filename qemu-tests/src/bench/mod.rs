//! Times initramfs against each other on the same kernel and the same image.
//!
//! Time is counted, not measured: under `-icount shift=0` QEMU's clock advances by
//! one nanosecond an instruction, whatever the host is and does meanwhile. The clock
//! runs from the kernel's "Run /init" to the first instruction of the live system's
//! first program ([`FIRST_THEN_OFF`]). Without a network, waiting is skipped over
//! (`sleep=off`) and still counts: a sleep of a second adds a second. With one, idle
//! time passes as real time: a clock that leaps to the next timer would expire
//! timeouts before a server could answer.
//!
//! The disk is outside the counted machine. It answers after real time; a machine
//! that idles meanwhile leaps to its next timer, which may be milliseconds or half a
//! second away. So each row is several boots, of which the fastest counts: the one
//! with the fewest leaps. The spread over all is shown beside it.
//!
//! Does not: compare hardware. This is the cost of the software.

pub mod profile;
pub mod share;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::assets::live::{FIRST_THEN_OFF, ISO_LABEL};
use crate::assets::{Assets, Flavour, Kernel, Peer, Profile};
use crate::lab::{Lab, SERVER};
use crate::machine::{Bus, MachineBuilder, Nic};
use crate::{Error, Result, packages, workspace};

const LIMIT: Duration = Duration::from_secs(600);

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

/// One boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Kernel time at which `/init` starts.
    pub started: Duration,
    /// Kernel time at which the live system's first program runs.
    pub handoff: Duration,
    /// MemAvailable at that moment, in KiB.
    pub available_kib: u64,
}

impl Run {
    /// From the one moment to the other.
    #[must_use]
    pub fn took(self) -> Duration {
        self.handoff.saturating_sub(self.started)
    }

    /// Reads both moments off a console.
    fn read(transcript: &str) -> Option<Run> {
        let line = |what: &str| transcript.lines().find(|line| line.contains(what));
        let handoff = line("handed over, MemAvailable")?;
        Some(Run {
            started: time_of(line("Run /init")?)?,
            handoff: time_of(handoff)?,
            available_kib: handoff.split_whitespace().rev().nth(1)?.parse().ok()?,
        })
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose initramfs.
    pub contender: Contender,
    /// Size of the initramfs in bytes.
    pub initrd: u64,
    /// The fastest boot.
    pub best: Run,
    /// How much longer the slowest took.
    pub spread: Duration,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { best, .. } = self;
        write!(
            f,
            "{:<12}{:>10.3}{:>10.3}{:>10.3}{:>10.3}{:>14}{:>14}",
            format!("{:?}", self.contender),
            best.started.as_secs_f64(),
            best.handoff.as_secs_f64(),
            best.took().as_secs_f64(),
            self.spread.as_secs_f64(),
            self.initrd,
            best.available_kib,
        )
    }
}

/// The line above the rows.
pub fn header() -> String {
    format!(
        "{:<12}{:>10}{:>10}{:>10}{:>10}{:>14}{:>14}",
        "", "/init s", "handoff s", "took s", "spread s", "initrd bytes", "available KiB"
    )
}

/// Boots one contender `runs` times.
///
/// # Errors
/// What building its initramfs or booting it needs; [`Error::Input`] when the
/// console lacks one of the two moments.
pub fn measure(contender: Contender, medium: Medium, runs: usize) -> Result<Row> {
    packages::ensure()?;
    let name = format!("bench-{contender:?}-{medium:?}").to_lowercase();
    let directory = workspace::lab().join("captures").join(name);
    let assets = Assets::open()?;
    let kernel = assets.kernel(Flavour::Cloud)?;
    let initrd = initrd(&assets, &kernel, contender, medium)?;
    let line = format!("{} init={FIRST_THEN_OFF}", line(contender, medium));
    let mut done = Vec::new();
    match medium {
        Medium::Iso => {
            std::fs::create_dir_all(&directory).map_err(Error::at("make", &directory))?;
            for number in 0..runs {
                let machine = iso_machine(&assets, &directory, number)?
                    .kernel(&kernel.image, &initrd, &line)
                    .qemu(&["-icount", "shift=0,sleep=off"]);
                done.push(boot(machine)?);
            }
        }
        Medium::Nfs => {
            let lab = Lab::new(&directory)?;
            let _dhcp = lab.dhcp().serve()?;
            // dracut's line names the image itself, the others search the export.
            let _nfs = lab.nfs().export("/srv/live", &assets.live_tree()?).start()?;
            for _ in 0..runs {
                let machine = lab
                    .machine()
                    .nic(Nic::virtio())
                    .kernel(&kernel.image, &initrd, &line)
                    .qemu(&["-icount", "shift=0,sleep=on"]);
                done.push(boot(machine)?);
            }
        }
    }
    let none = || Error::Input("a row needs one run at least".into());
    let best = *done.iter().min_by_key(|run| run.took()).ok_or_else(none)?;
    let slowest = done.iter().map(|run| run.took()).max().unwrap_or_default();
    let size = std::fs::metadata(&initrd).map_err(Error::at("stat", &initrd))?.len();
    Ok(Row { contender, initrd: size, best, spread: slowest.saturating_sub(best.took()) })
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

/// Runs a machine to its end and reads its console.
fn boot(machine: MachineBuilder<'_>) -> Result<Run> {
    let machine = machine.qemu(&["-no-reboot"]).start()?;
    machine.expect("handed over, MemAvailable", LIMIT)?;
    machine.wait_off(LIMIT)?;
    let transcript = machine.transcript();
    Run::read(&transcript).ok_or_else(|| {
        let tail = crate::shell::last_lines(&transcript, 10);
        Error::Input(format!("the console lacks one of the two moments; it ends:\n{tail}"))
    })
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

    #[test]
    fn reads_a_run() {
        let text = "[    1.500000] Run /init as init process\nbellwether: ready\n\
                    [    1.750000] bellwether-lab: handed over, MemAvailable 871244 kB\n";
        let run = Run::read(text).unwrap();
        assert_eq!((run.took(), run.available_kib), (Duration::from_millis(250), 871_244));
        assert_eq!(Run::read("[    1.500000] Run /init as init process\n"), None);
    }
}
