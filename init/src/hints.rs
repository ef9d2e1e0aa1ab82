//! What is left for the live system's network managers, by what the root stands on.
//!
//! A root that comes over the network is lost when somebody takes the address off
//! its link: such a link is left alone (`network` writes that). A root in memory or
//! on a disk needs nobody's care any more, and its user wants a network that can be
//! managed: `NetworkManager` and systemd-networkd get the settings as one of their
//! own files, as dracut leaves them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Dialect;
use coldplug::sysfs::names;
use netboot::network::NetworkUp;
use netboot::race::MacText;
use rustix::fs::{Access, access};
use sys::file::read_file;

use crate::changes::Change;
use crate::link::Network;
use crate::source::Found;

/// Longest table of mounts read.
const MAX_MOUNTS: usize = 256 << 10;

/// File systems that a server answers for.
const REMOTE: &[&str] = &["nfs", "nfs4", "cifs", "smb3"];

/// Whether something that is mounted comes over the network.
#[must_use]
pub fn root_is_remote() -> bool {
    let mounts = read_file("/proc/self/mounts", MAX_MOUNTS).unwrap_or_default();
    let nbd = |device: &String| {
        device.starts_with("nbd")
            && access(format!("/sys/class/block/{device}/pid").as_str(), Access::EXISTS).is_ok()
    };
    let nvme = |name: &String| name.starts_with("nvme");
    mounts_are_remote(&String::from_utf8_lossy(&mounts))
        || names("/sys/class/block").unwrap_or_default().iter().any(nbd)
        || names("/sys/class/nvme-fabrics/ctl").unwrap_or_default().iter().any(nvme)
}

fn mounts_are_remote(mounts: &str) -> bool {
    mounts.lines().filter_map(|line| line.split(' ').nth(2)).any(|kind| REMOTE.contains(&kind))
}

/// Leaves a link that the root does not need to whoever manages it, and names by which
/// a dialect's own programs know what the root is made of.
#[must_use]
pub fn changes(network: &Network, plan: &BootPlan, found: &Found, remote: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    if plan.handoff.layout == Dialect::Dracut {
        changes.push(Change::link("/run/overlayfs", "initramfs/overlay/overlayfs"));
        if let Some(device) = found.medium_blob.as_deref().filter(|it| it.starts_with("/dev/")) {
            changes.push(Change::link("/run/initramfs/livedev", device));
        }
    }
    if !plan.handoff.keep_network && !remote {
        changes.extend(network.up().map(files).unwrap_or_default());
    }
    changes
}

/// The boot link's settings for managers that may have it.
fn files(up: &NetworkUp) -> Vec<Change> {
    let Some(mac) = up.mac else { return Vec::new() };
    let mac = MacText(mac);
    let device = &up.device;
    let dns: Vec<String> = up.config.dns.iter().map(ToString::to_string).collect();
    let mut keyfile = format!(
        "[connection]\nid={device}\ntype=ethernet\n\n[ethernet]\nmac-address={mac}\n\n\
         [ipv6]\nmethod=auto\n\n[ipv4]\n"
    );
    let mut network = format!("[Match]\nMACAddress={mac}\n\n[Network]\n");
    if up.lease.is_some() {
        keyfile.push_str("method=auto\n");
        network.push_str("DHCP=yes\n");
    } else {
        let (address, prefix) = (up.config.address, up.config.prefix);
        let gateway = up.config.gateway.map(|gateway| gateway.to_string());
        let after = gateway.as_deref().map_or(String::new(), |gateway| format!(",{gateway}"));
        keyfile.push_str(&format!("method=manual\naddress1={address}/{prefix}{after}\n"));
        network.push_str(&format!("Address={address}/{prefix}\n"));
        if let Some(gateway) = gateway {
            network.push_str(&format!("Gateway={gateway}\n"));
        }
        for server in &dns {
            network.push_str(&format!("DNS={server}\n"));
        }
        if !dns.is_empty() {
            keyfile.push_str(&format!("dns={};\n", dns.join(";")));
        }
    }
    let path = format!("/run/NetworkManager/system-connections/{device}.nmconnection");
    Vec::from([
        // NetworkManager trusts none that others can read.
        Change::File { path, text: keyfile, mode: 0o600 },
        Change::file(&format!("/run/systemd/network/70-bellwether-{device}.network"), network),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_answers_for_is_remote() {
        assert!(mounts_are_remote("tmpfs / tmpfs rw 0 0\n10.0.0.1:/x /run/m nfs4 ro 0 0\n"));
        assert!(!mounts_are_remote("/dev/loop0 /nfs squashfs ro 0 0\n"));
    }
}
