//! A room full of machines that are switched on together: how fast `bellwether share`
//! serves them and what memory it takes, beside what sites serve with today.
//!
//! Everybody is on one network of this computer, and everything that is read is in the
//! page cache: what counts is the cost of the software. Clients hold every byte
//! against the original. Each rate is the best of several runs, because other programs
//! use this computer, too.
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
    /// Thirty machines that read 200 MB each.
    fn default() -> Self {
        Self { clients: 30, image: 200_000_000, runs: 3 }
    }
}

/// What was measured, in MB/s and kB.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// HTTP from `bellwether share`.
    pub http: f64,
    /// HTTP from nginx.
    pub nginx: f64,
    /// NFS from `bellwether share`.
    pub nfs: f64,
    /// NFS from Ganesha.
    pub ganesha: f64,
    /// The most that `bellwether share` had in memory until clients could come: the
    /// medium's initramfs is looked through.
    pub start: u64,
    /// The most that it had in memory at all.
    pub most: u64,
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, what, ours, name, theirs| {
            writeln!(f, "{what:<6}{ours:>8.0} MB/s{name:>10} {theirs:>8.0} MB/s")
        };
        row(f, "HTTP", self.http, "nginx", self.nginx)?;
        row(f, "NFS", self.nfs, "Ganesha", self.ganesha)?;
        write!(
            f,
            "memory of share, code and all: {} kB at most; {} kB when it was up",
            self.most, self.start
        )
    }
}

/// Measures in a lab of its own.
///
/// # Errors
/// As [`in_lab`], or the lab cannot be made.
pub fn measure(room: &Room) -> Result<Rates> {
    let directory = workspace::lab().join("captures/bench-share");
    let rates = Lab::new(&directory).and_then(|lab| in_lab(&lab, room));
    if rates.is_ok() {
        // Two copies of the image are in it.
        let _ = std::fs::remove_dir_all(&directory);
    }
    rates
}

/// Measures in a lab.
///
/// # Errors
/// A server does not come up, a byte is wrong, or one is missing.
pub fn in_lab(lab: &Lab, room: &Room) -> Result<Rates> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
    let image = noise(lab, room.image)?;
    let tree = lab.tree("live")?.with(KERNEL, &kernel.image)?.with(INITRD, &initrd)?;
    let tree = tree.with(IMAGE, &image)?.text("isolinux/isolinux.cfg", MENU)?;
    let iso = tree.iso("LIVE")?;
    let clients = room.clients.to_string();
    let fastest = |protocol: &str, port: &str, prefix: &str| -> Result<f64> {
        let path = |file| format!("{}/{file}={prefix}{file}", tree.path().display());
        let files = [KERNEL, INITRD, IMAGE].map(path);
        let mut words = vec![protocol, "10.77.0.1", port, &clients];
        words.extend(files.iter().map(String::as_str));
        (0..room.runs).try_fold(0.0, |best, _| Ok(lab.load(&words)?.max(best)))
    };
    let share = lab.optimised_share(&iso)?;
    let start = lab.peak_memory("share")?;
    let http = fastest("http", "8080", "/live/")?;
    let nfs = fastest("nfs", "2049", "/live//")?;
    let most = lab.peak_memory("share")?;
    drop(share);
    let server = lab.quick_nginx(tree.path())?;
    let nginx = fastest("http", "80", "/")?;
    drop(server);
    let server = lab.nfs().export("/live", tree.path()).start()?;
    let ganesha = fastest("nfs", "111", "/live//")?;
    drop(server);
    Ok(Rates { http, nginx, nfs, ganesha, start, most })
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
