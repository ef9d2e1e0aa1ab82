//! What the lists of changes ask of this machine.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use coldplug::sysfs::names;
use liveroot::{Look, NetworkUp};
use overlay::probe::Format;
use sys::clock::Instant;
use sys::file::{exists, read_file};

use crate::block;
use crate::machine::Machine;
use crate::newroot::NewRoot;

/// How long drivers may take to show the disks that swap is looked for on.
const SWAP_WAIT: Duration = Duration::from_secs(5);

/// Longest table of mounts read.
const MAX_MOUNTS: usize = 256 << 10;

/// File systems that a server answers for.
const REMOTE: &[&str] = &["nfs", "nfs4", "cifs", "smb3"];

/// Whether something that is mounted comes over the network.
pub fn root_is_remote() -> bool {
    if !cfg!(feature = "full") {
        return true;
    }
    let mounts = read_file("/proc/self/mounts", MAX_MOUNTS).unwrap_or_default();
    let nbd = |device: &String| {
        device.starts_with("nbd") && exists(&format!("/sys/class/block/{device}/pid"))
    };
    let nvme = |name: &String| name.starts_with("nvme");
    mounts_are_remote(&String::from_utf8_lossy(&mounts))
        || names("/sys/class/block").unwrap_or_default().iter().any(nbd)
        || names("/sys/class/nvme-fabrics/ctl").unwrap_or_default().iter().any(nvme)
}

fn mounts_are_remote(mounts: &str) -> bool {
    mounts.lines().filter_map(|line| line.split(' ').nth(2)).any(|kind| REMOTE.contains(&kind))
}

/// The machine, its new root and its medium.
#[derive(Debug)]
pub struct Here<'m> {
    /// The machine.
    pub machine: &'m mut Machine,
    /// The new root.
    pub root: &'m NewRoot,
    /// The medium, where it is now.
    pub medium: Option<NewRoot>,
    /// Whether the root comes over the network.
    pub remote: bool,
}

impl Look for Here<'_> {
    fn up(&self) -> Option<&NetworkUp> {
        self.machine.network.up()
    }

    fn remote(&self) -> bool {
        self.remote
    }

    fn root(&self, path: &str) -> Option<String> {
        text(self.root, path)
    }

    fn link(&self, path: &str) -> Option<String> {
        self.root.read_link(path)
    }

    fn initramfs(&self, path: &str) -> Option<String> {
        text(&NewRoot::at("/").ok()?, path)
    }

    fn medium(&self, path: &str) -> Option<String> {
        text(self.medium.as_ref()?, path)
    }

    fn swaps(&mut self, devices: &[String]) -> Vec<String> {
        let machine = &mut *self.machine;
        // The root may have been found before the other disks.
        let deadline = Instant::now().after(SWAP_WAIT);
        while !machine.settled() && !deadline.is_past() {
            machine.wait(&[], Some(deadline));
        }
        let paths: Vec<String> = machine.blocks().map(|name| ["/dev/", name].concat()).collect();
        let swap = |path: &String| {
            devices.iter().any(|device| matches(device, path))
                && block::inspect(path).is_ok_and(|found| found.format == Format::Swap)
        };
        paths.into_iter().filter(swap).collect()
    }
}

fn text(tree: &NewRoot, path: &str) -> Option<String> {
    tree.read(path).or_else(|| tree.has(path).then(String::new))
}

/// Whether a path is what a word names, `*` at its end standing for anything.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => path.starts_with(stem),
        None => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_answers_for_is_remote() {
        assert!(mounts_are_remote("tmpfs / tmpfs rw 0 0\n10.0.0.1:/x /run/m nfs4 ro 0 0\n"));
        assert!(!mounts_are_remote("/dev/loop0 /nfs squashfs ro 0 0\n"));
    }

    #[test]
    fn a_star_stands_for_the_rest_of_a_device_s_name() {
        assert!(matches("/dev/sd*", "/dev/sda2") && !matches("/dev/sda", "/dev/sda2"));
    }
}
