//! A conversion server of another release of Debian, as a root to be entered.

use std::path::PathBuf;

use super::{Assets, live};
use crate::Result;

/// What is on it: sshd, virt-v2v with what it reads disks with, and the tools for a guest's file
/// systems that its appliance is made of.
const PACKAGES: &str = "openssh-server,virt-v2v,nbdkit,libnbd-bin,libguestfs-xfs,lvm2,\
                        qemu-system-x86,ovmf,procps,mount";

impl Assets {
    /// The root of such a server, without a kernel.
    ///
    /// # Errors
    /// A package cannot be fetched or unpacked.
    pub fn conversion_server(&self, release: &str) -> Result<PathBuf> {
        let recipe = format!("{release} {PACKAGES}");
        let dir = self.entry(&format!("converter-{release}"), &recipe, |dir| {
            live::run_bootstrap(live::bootstrap(release, PACKAGES, &dir.join("root"))?)
        })?;
        Ok(dir.join("root"))
    }
}
