//! A room full of machines that are switched on together: how fast `bellwether share`
//! serves them and what memory it takes, beside what sites serve with today.
//!
//! Everybody is on one network of this computer, and everything that is read is in the
//! page cache: what counts is the cost of the software. Clients hold every byte
//! against the original. Each figure is the median of several runs, in which the servers take turns:
//! other programs use this computer, too. The clients run on the same processors, and take most
//! of the time.
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
    /// Seconds of processor time of the server for 1,000,000,000 bytes.
    pub processor: f64,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// HTTP: `bellwether share`, and nginx.
    pub http: [Cost; 2],
    /// NFS: `bellwether share`, and Ganesha.
    pub nfs: [Cost; 2],
    /// The most that `bellwether share` had in memory until clients could come, in kB: the
    /// medium's initramfs is looked through.
    pub start: u64,
    /// The most that it had in memory at all, in kB.
    pub most: u64,
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [("HTTP", "nginx", self.http), ("NFS", "Ganesha", self.nfs)];
        for (what, name, [ours, theirs]) in rows {
            for (who, cost) in [("share", ours), (name, theirs)] {
                writeln!(
                    f,
                    "{what:<5} {who:<8} {:>7.2} s until the last, {:.3} s of processor a GB",
                    cost.seconds, cost.processor
                )?;
            }
            let [time, processor] = ratios([ours, theirs]);
            writeln!(f, "{what:<5} ratio    {time:>7.2}                   {processor:.2}")?;
        }
        write!(
            f,
            "memory of share, code and all: {} kB at most; {} kB when it was up",
            self.most, self.start
        )
    }
}

/// Ours of theirs: time, and processor time.
#[must_use]
pub fn ratios([ours, theirs]: [Cost; 2]) -> [f64; 2] {
    [ours.seconds / theirs.seconds, ours.processor / theirs.processor]
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
        let before = lab.processor_time(server)?;
        let (seconds, megabytes) = lab.load(&words)?;
        let processor = (lab.processor_time(server)? - before) * 1e3 / megabytes;
        Ok(Cost { seconds, processor })
    };
    let mut all: [Vec<Cost>; 4] = Default::default();
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
        let server = lab.nfs().export("/live", tree.path()).start()?;
        let ganesha = cost("ganesha.nfsd", "nfs", "111", "/live//")?;
        drop(server);
        for (costs, cost) in all.iter_mut().zip([ours[0], nginx, ours[1], ganesha]) {
            costs.push(cost);
        }
    }
    let [http, nginx, nfs, ganesha] = all.map(|costs| Cost {
        seconds: median(costs.iter().map(|cost| cost.seconds)),
        processor: median(costs.iter().map(|cost| cost.processor)),
    });
    Ok(Storm { http: [http, nginx], nfs: [nfs, ganesha], start, most })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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
