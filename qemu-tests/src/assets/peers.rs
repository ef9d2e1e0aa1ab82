//! Other projects' initramfs, generated as their users get them: the lab proves
//! itself with one, the bench measures against both.

use std::path::PathBuf;

use super::live::{bootstrap, run_bootstrap};
use super::{Assets, Kernel, write};
use crate::{Error, Result, shell};

/// A generator of initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Debian's live-boot on initramfs-tools, `MODULES=most`.
    LiveBoot,
    /// dracut with dmsquash-live, not host-only, no network.
    Dracut,
    /// dracut with livenet and NFS as well.
    DracutNet,
}

impl Peer {
    /// Packages and the command that makes `/boot/initrd` in the bootstrapped root.
    fn recipe(self, suite: &str) -> (&'static str, &'static str, &'static str) {
        let since_forky = !matches!(suite, "bookworm" | "trixie");
        match self {
            // Its hook copies losetup, which is in mount, and no package of its own asks for that.
            Peer::LiveBoot => (
                "initrd-live-boot",
                "initramfs-tools,live-boot,live-boot-initramfs-tools,systemd-sysv,udev,iproute2,kmod,mount",
                "update-initramfs -c -k $VERSION && mv /boot/initrd.img-$VERSION /boot/initrd",
            ),
            // dracut-core has what was dracut-live and dracut-squash, and asks for no dmsetup.
            Peer::Dracut if since_forky => (
                "initrd-dracut",
                "dracut,dracut-core,dmsetup,dbus,systemd-sysv,udev,iproute2,kmod",
                "dracut --no-hostonly --add dmsquash-live --kver $VERSION /boot/initrd",
            ),
            Peer::Dracut => (
                "initrd-dracut",
                "dracut,dracut-live,dracut-squash,dbus,systemd-sysv,udev,iproute2,kmod",
                "dracut --no-hostonly --add dmsquash-live --kver $VERSION /boot/initrd",
            ),
            // dracut's own scripts for the network, and the DHCP client that they need, are
            // gone since forky.
            Peer::DracutNet if since_forky => (
                "initrd-dracut-net",
                "dracut,dracut-core,dracut-network,dmsetup,dbus,systemd-sysv,udev,iproute2,\
                 kmod,procps,network-manager,nfs-common,curl",
                "dracut --no-hostonly --add 'dmsquash-live livenet nfs network-manager' --kver $VERSION /boot/initrd",
            ),
            Peer::DracutNet => (
                "initrd-dracut-net",
                "dracut,dracut-live,dracut-network,dracut-squash,dbus,systemd-sysv,udev,iproute2,\
                 kmod,procps,isc-dhcp-client,iputils-arping,nfs-common,curl",
                "dracut --no-hostonly --add 'dmsquash-live livenet nfs network-legacy' --kver $VERSION /boot/initrd",
            ),
        }
    }
}

impl Assets {
    /// The initramfs that `peer` makes for `kernel`.
    ///
    /// # Errors
    /// [`Error::Command`] when packages cannot be had or the generator fails.
    pub fn peer_initrd(&self, peer: Peer, kernel: &Kernel) -> Result<PathBuf> {
        self.peer_initrd_of(&self.release, peer, kernel)
    }

    /// The same as another release of Debian has it.
    ///
    /// # Errors
    /// As [`Assets::peer_initrd`].
    pub fn peer_initrd_of(&self, suite: &str, peer: Peer, kernel: &Kernel) -> Result<PathBuf> {
        let (name, packages, generate) = peer.recipe(suite);
        let recipe = format!("1 {packages} {generate} {}", kernel.version);
        let dir = self.entry(name, &recipe, |dir| {
            // The kernel comes from the lab's own copy of the package, so that all
            // that is compared has the same.
            let hook = dir.join("generate");
            let script = format!(
                "#!/bin/sh\nset -eu\ncp -a '{}' \"$1/lib/modules/\"\ncp '{}' \"$1/boot/\"\n\
                 export VERSION='{}'\nchroot \"$1\" /bin/sh -e <<'END'\n{generate}\nEND\n",
                kernel.modules.display(),
                kernel.config.display(),
                kernel.version,
            );
            write(&hook, &script)?;
            shell::sh(&["chmod", "+x", &hook.to_string_lossy()])?;
            let root = dir.join("root");
            let mut bootstrap = bootstrap(suite, packages, &root)?;
            bootstrap.arg("--essential-hook=mkdir -p \"$1/lib/modules\" \"$1/boot\"");
            bootstrap.arg(format!("--customize-hook={}", hook.display()));
            run_bootstrap(bootstrap)?;
            let made = root.join("boot/initrd");
            std::fs::copy(&made, dir.join("initrd")).map_err(Error::at("copy", &made))?;
            std::fs::remove_dir_all(&root).map_err(Error::at("remove", &root))
        })?;
        Ok(dir.join("initrd"))
    }
}
