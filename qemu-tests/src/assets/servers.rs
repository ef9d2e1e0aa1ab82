//! The servers of another release of Debian than this machine's.

use std::path::PathBuf;

use super::{Assets, live, sources};
use crate::Result;

/// What scenarios start from them. Of this machine's own release, they are installed here.
const PACKAGES: &str = "nfs-ganesha,nfs-ganesha-vfs,rpcbind,dnsmasq-base,nginx-light,vsftpd,\
                        atftpd,nbd-server,samba,udpcast,iproute2,mount";

impl Assets {
    /// A root with the servers of the release, or nothing where they are this machine's own.
    ///
    /// # Errors
    /// A package cannot be fetched or unpacked.
    pub(crate) fn servers(&self) -> Result<Option<PathBuf>> {
        if self.release == sources::suite()? {
            return Ok(None);
        }
        let recipe = format!("{} {PACKAGES}", self.release);
        let dir = self.entry(&format!("servers-{}", self.release), &recipe, |dir| {
            live::run_bootstrap(live::bootstrap(&self.release, PACKAGES, &dir.join("root"))?)
        })?;
        Ok(Some(dir.join("root")))
    }
}
