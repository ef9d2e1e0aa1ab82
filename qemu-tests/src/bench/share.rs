//! A room full of machines that are switched on together: how fast `bellwether share`
//! serves them and what memory it takes, beside what sites serve with today.
//!
//! Everybody is on one network of this computer, and everything that is read is in the
//! page cache: what counts is the cost of the software. Clients hold every byte
//! against the original. Each figure is the median of several runs, in which the servers take turns:
//! other programs use this computer, too. The clients run on the same processors, and take most
//! of the time.
//!
//! The kernel sends, and it counts the work as that of the program in which it happens to do it: of the
//! server, or of a client that makes room by reading. So there are two more figures: the time of
//! the whole computer in the kernel, and a program of a page that does no more than send files
//! (`share/examples/floor.rs`), with as much waiting for a client as `share` allows. No server that
//! sends in this way takes less.
//!
//! Does not: say what a network card gives, nor what TFTP costs.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::assets::{Flavour, Peer};
use crate::lab::Lab;
use crate::{Error, Result, shell, workspace};

/// What clients fetch: place on the medium.
const KERNEL: &str = "live/vmlinuz";
const INITRD: &str = "live/initrd.img";
const IMAGE: &str = "live/filesystem.squashfs";
const MENU: &str = "label live\n  linux /live/vmlinuz\n  initrd /live/initrd.img\n  \
                    append boot=live\n";

/// How the room is.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Machines.
    pub clients: usize,
    /// Bytes of the live system's image that each of them reads, besides kernel and
    /// initramfs.
    pub image: u64,
    /// Runs of each server.
    pub runs: usize,
}

impl Default for Room {
    /// Fifty machines that read 200 MB each.
    fn default() -> Self {
        Self { clients: 50, image: 200_000_000, runs: 3 }
    }
}

/// What a server needed.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds until the last client had everything.
    pub seconds: f64,
    /// Seconds of processor time of the server for 1,000,000,000 bytes: in its own code, and in
    /// the kernel.
    pub processor: [f64; 2],
    /// Seconds that all programs of this computer spent in the kernel for as many bytes.
    pub kernel: f64,
}

impl Cost {
    /// Seconds of processor time of the server for 1,000,000,000 bytes.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.processor.iter().sum()
    }
}

/// What a server needed in all runs.
#[derive(Debug, Clone, Default)]
pub struct Costs(Vec<Cost>);

impl Costs {
    /// Each figure's median.
    #[must_use]
    pub fn median(&self) -> Cost {
        Cost {
            seconds: self.middle(|cost| cost.seconds),
            processor: [
                self.middle(|cost| cost.processor[0]),
                self.middle(|cost| cost.processor[1]),
            ],
            kernel: self.middle(|cost| cost.kernel),
        }
    }

    fn sorted(&self, figure: impl Fn(&Cost) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.0.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn middle(&self, figure: impl Fn(&Cost) -> f64) -> f64 {
        let values = self.sorted(figure);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The least and the most.
    fn spread(&self, figure: impl Fn(&Cost) -> f64) -> [f64; 2] {
        let values = self.sorted(figure);
        [values.first(), values.last()].map(|value| value.copied().unwrap_or(f64::NAN))
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Storm {
    /// HTTP: `bellwether share`, nginx, and the program that only sends.
    pub http: [Costs; 3],
    /// NFS: `bellwether share`, and Ganesha.
    pub nfs: [Costs; 2],
    /// The most that `bellwether share` had in memory until clients could come, in kB: the
    /// medium's initramfs is looked through.
    pub start: u64,
    /// The most that it had in memory at all, in kB.
    pub most: u64,
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [share, nginx, least] = &self.http;
        let [ours, ganesha] = &self.nfs;
        writeln!(
            f,
            "{:14} {:>22}   {:>40}   {:>12}",
            "", "s until the last", "s of the server's processor a GB", "s in kernel"
        )?;
        for (who, costs) in [
            ("HTTP share", share),
            ("HTTP nginx", nginx),
            ("HTTP sendfile", least),
            ("NFS share", ours),
            ("NFS Ganesha", ganesha),
        ] {
            let Cost { seconds, processor: [user, system], kernel } = costs.median();
            let [fast, slow] = costs.spread(|cost| cost.seconds);
            let [little, much] = costs.spread(Cost::sum);
            writeln!(
                f,
                "{who:14} {seconds:>6.2} ({fast:.2} to {slow:.2})   {:>5.3} ({little:.3} to \
                 {much:.3}): {user:.3} own, {system:.3} kernel   {kernel:>12.3}",
                user + system
            )?;
        }
        for (who, both) in [
            ("HTTP share of nginx", [share, nginx]),
            ("HTTP share of sendfile", [share, least]),
            ("NFS share of Ganesha", [ours, ganesha]),
        ] {
            let [time, processor, kernel] = ratios(both);
            writeln!(
                f,
                "{who}: {time:.2} of the time, {processor:.2} of the processor, {kernel:.2} of the \
                 whole computer's time in the kernel"
            )?;
        }
        write!(
            f,
            "memory of share, code and all: {} kB at most; {} kB when it was up",
            self.most, self.start
        )
    }
}

/// Ours of theirs: time, processor time, and time of the whole computer in the kernel.
#[must_use]
pub fn ratios([ours, theirs]: [&Costs; 2]) -> [f64; 3] {
    let (ours, theirs) = (ours.median(), theirs.median());
    [ours.seconds / theirs.seconds, ours.sum() / theirs.sum(), ours.kernel / theirs.kernel]
}

/// Measures in a lab of its own.
///
/// # Errors
/// As [`in_lab`], or the lab cannot be made.
pub fn measure(room: &Room) -> Result<Storm> {
    let directory = workspace::lab().join("captures/bench-share");
    let storm = Lab::new(&directory).and_then(|lab| in_lab(&lab, room));
    if storm.is_ok() {
        // Two copies of the image are in it.
        let _ = std::fs::remove_dir_all(&directory);
    }
    storm
}

/// Measures in a lab.
///
/// # Errors
/// A server does not come up, a byte is wrong, or one is missing.
pub fn in_lab(lab: &Lab, room: &Room) -> Result<Storm> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
    let image = noise(lab, room.image)?;
    let tree = lab.tree("live")?.with(KERNEL, &kernel.image)?.with(INITRD, &initrd)?;
    let tree = tree.with(IMAGE, &image)?.text("isolinux/isolinux.cfg", MENU)?;
    let iso = tree.iso("LIVE")?;
    let clients = room.clients.to_string();
    lab.room_of_clients(room.clients)?;
    let cost = |server: &str, protocol: &str, port: &str, prefix: &str| -> Result<Cost> {
        let path = |file| format!("{}/{file}={prefix}{file}", tree.path().display());
        let files = [KERNEL, INITRD, IMAGE].map(path);
        let mut words = vec![protocol, "10.77.0.1", port, &clients];
        words.extend(files.iter().map(String::as_str));
        let (before, kernel) = (lab.processor_time(server)?, time_in_kernel()?);
        let (seconds, megabytes) = lab.load(&words)?;
        let (after, gigabytes) = (lab.processor_time(server)?, megabytes / 1e3);
        let processor = [(after[0] - before[0]) / gigabytes, (after[1] - before[1]) / gigabytes];
        Ok(Cost { seconds, processor, kernel: (time_in_kernel()? - kernel) / gigabytes })
    };
    let mut all: [Costs; 5] = Default::default();
    let (mut start, mut most) = (0, 0);
    for _ in 0..room.runs {
        let share = lab.optimised_share(&iso)?;
        start = lab.peak_memory("share")?.max(start);
        let ours =
            [cost("share", "http", "8080", "/live/")?, cost("share", "nfs", "2049", "/live//")?];
        most = lab.peak_memory("share")?.max(most);
        drop(share);
        let server = lab.quick_nginx(tree.path())?;
        let nginx = cost("nginx", "http", "80", "/")?;
        drop(server);
        let server = lab.only_sendfile(tree.path())?;
        let least = cost("floor", "http", "8181", "/")?;
        drop(server);
        let server = lab.nfs().export("/live", tree.path()).start()?;
        let ganesha = cost("ganesha.nfsd", "nfs", "111", "/live//")?;
        drop(server);
        for (costs, cost) in all.iter_mut().zip([ours[0], nginx, least, ours[1], ganesha]) {
            costs.0.push(cost);
        }
    }
    let [http, nginx, least, nfs, ganesha] = all;
    Ok(Storm { http: [http, nginx, least], nfs: [nfs, ganesha], start, most })
}

/// Seconds that this computer's processors have been in the kernel.
fn time_in_kernel() -> Result<f64> {
    let path = Path::new("/proc/stat");
    let text = std::fs::read_to_string(path).map_err(Error::at("read", path))?;
    // `cpu USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ …`, in ticks of a hundredth of a second.
    let numbers: Vec<f64> =
        text.lines().next().unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect();
    match numbers.as_slice() {
        [_, _, system, _, _, irq, softirq, ..] => Ok((system + irq + softirq) / 100.0),
        _ => Err(Error::Input(format!("{}: {text}", path.display()))),
    }
}

/// An image that nothing compresses.
fn noise(lab: &Lab, bytes: u64) -> Result<PathBuf> {
    let path = lab.scratch("noise")?.join("filesystem.squashfs");
    let write = |path: &Path| format!("head -c {bytes} /dev/urandom >'{}'", path.display());
    shell::sh(&["sh", "-c", &write(&path)])?;
    match std::fs::metadata(&path).map_err(Error::at("stat", &path))?.len() {
        length if length == bytes => Ok(path),
        length => Err(Error::Input(format!("{length} of {bytes} bytes of noise: a full disk?"))),
    }
}
