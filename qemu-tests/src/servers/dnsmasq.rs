//! dnsmasq: DHCP, TFTP and DNS of one or more networks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::Lab;
use crate::net::Namespace;
use crate::shell::Daemon;
use crate::{Error, Result};

impl Lab {
    /// A dnsmasq for the main network: DHCP, TFTP, DNS.
    pub fn dhcp(&self) -> Dnsmasq<'_> {
        Dnsmasq::new(self.namespace(), self.directory())
    }

    /// A dnsmasq with files of its own, for another network of this lab.
    pub fn server_of(&self, network: &str) -> Dnsmasq<'_> {
        Dnsmasq::new(self.namespace(), &self.directory().join(network))
    }
}

/// A dnsmasq that can be configured, started late, stopped and started again.
#[derive(Debug)]
pub struct Dnsmasq<'lab> {
    namespace: &'lab Namespace,
    directory: PathBuf,
    lines: Vec<String>,
    daemon: Option<Daemon>,
}

impl<'lab> Dnsmasq<'lab> {
    /// Prepares one for the bridge `lan`, whose network is `10.77.0.0/24`.
    pub(crate) fn new(namespace: &'lab Namespace, directory: &Path) -> Dnsmasq<'lab> {
        let tftp = directory.join("tftp");
        let lines = [
            "keep-in-foreground",
            "log-facility=-",
            "log-dhcp",
            "user=root",
            "no-hosts",
            "no-resolv",
            "no-ping",
            "dhcp-authoritative",
            "leasefile-ro",
            "domain=lab",
            "address=/nas.lab/10.77.0.1",
            "dhcp-option=option:dns-server,10.77.0.1",
            "dhcp-boot=pxelinux.0,,10.77.0.1",
            "enable-tftp",
        ];
        let mut lines: Vec<String> = lines.map(str::to_owned).into();
        lines.push(format!("tftp-root={}", tftp.display()));
        Dnsmasq { namespace, directory: directory.to_owned(), lines, daemon: None }
    }

    /// Adds a line of dnsmasq.conf(5), for instance `dhcp-option=option:mtu,1400`.
    #[must_use]
    pub fn option(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Answers on the main network only with addresses 10.77.0.100 to .199.
    ///
    /// # Errors
    /// [`Error::Command`] when dnsmasq does not start.
    pub fn serve(self) -> Result<Self> {
        self.serve_on("lan", "10.77.0.100,10.77.0.199,255.255.255.0,1h")
    }

    /// Answers on the bridge `bridge` with the given dnsmasq `dhcp-range`.
    ///
    /// # Errors
    /// [`Error::Command`] when dnsmasq does not start.
    pub fn serve_on(mut self, bridge: &str, range: &str) -> Result<Self> {
        self.lines.push(format!("interface={bridge}\nexcept-interface=lo\nbind-interfaces"));
        self.lines.push(format!("dhcp-range={range}"));
        self.start()?;
        Ok(self)
    }

    /// Starts it (again).
    ///
    /// # Errors
    /// [`Error::Command`] when dnsmasq does not start.
    pub fn start(&mut self) -> Result<()> {
        let tftp = self.directory.join("tftp");
        std::fs::create_dir_all(&tftp).map_err(Error::at("make", &tftp))?;
        let config = self.directory.join("dnsmasq.conf");
        std::fs::write(&config, self.lines.join("\n") + "\n")
            .map_err(Error::at("write", &config))?;
        let log = self.directory.join("dnsmasq.log");
        let mut command = self.namespace.released("dnsmasq");
        command.arg(format!("--conf-file={}", config.display()));
        self.daemon = Some(start(command, &log)?);
        Ok(())
    }

    /// Stops it: from now on no server answers.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// What it logged so far: every DHCP message with its options, every file.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("dnsmasq.log")).unwrap_or_default()
    }
}

/// Starts a dnsmasq in the foreground, and waits until it serves.
pub(super) fn start(command: Command, log: &Path) -> Result<Daemon> {
    Daemon::start_until("dnsmasq", command, log, "started, version", Duration::from_secs(10))
}
