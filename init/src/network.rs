//! The network step: `netboot` brings it up, this module lends it the machine's
//! event loop and keeps what it learnt.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::{Mac, NetworkPlan, NfsSource, Server};

use crate::machine::Machine;
use crate::trace::Failure;

/// The network as it is, or is going to be.
#[derive(Debug, Default)]
pub struct Network {}

impl Network {
    /// Brings the network up as planned.
    ///
    /// # Errors
    /// Why no link could be used, link by link.
    pub fn up(&mut self, machine: &mut Machine, plan: &NetworkPlan) -> Result<(), Failure> {
        let _ = (machine, plan);
        Err(Failure::new("bring up the network", "network", "not connected yet"))
    }

    /// The boot link's address.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        None
    }

    /// Mounts an export; returns where from, or what was tried and why it failed.
    ///
    /// # Errors
    /// As the summary says.
    pub fn mount_nfs(
        &mut self,
        machine: &mut Machine,
        source: &NfsSource,
        target: &str,
    ) -> Result<String, (String, String)> {
        let _ = (machine, target);
        Err((describe_nfs(source), "no network".to_string()))
    }

    /// State files under `/run`.
    #[must_use]
    pub fn state_files(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Files for the new root.
    #[must_use]
    pub fn root_files(
        &self,
        plan: &BootPlan,
        link: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<(String, String)> {
        let _ = (plan, link);
        Vec::new()
    }
}

/// An export, for people.
#[must_use]
pub fn describe_nfs(source: &NfsSource) -> String {
    let server = match &source.server {
        Server::Host(host) => host.as_str(),
        Server::Boot => "boot server",
    };
    alloc::format!("NFS {server}:{}", source.path.as_deref().unwrap_or("(root path of DHCP)"))
}
