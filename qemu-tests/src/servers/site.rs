//! Other computers of a site: its DHCP server, and a machine that holds a disk.

use std::path::Path;
use std::time::Duration;

use super::dnsmasq;
use crate::Result;
use crate::lab::Lab;
use crate::shell::Daemon;

impl Lab {
    /// A dnsmasq with a configuration of its own.
    ///
    /// # Errors
    /// [`crate::Error::Command`] when it does not start.
    pub fn dnsmasq_from(&self, config: &Path) -> Result<Daemon> {
        let mut dnsmasq = self.namespace().released("dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--log-facility=-", "--user=root"]);
        dnsmasq.arg(format!("--conf-file={}", config.display()));
        dnsmasq::start(dnsmasq, &self.directory().join("written.log"))
    }

    /// A DHCP server on a machine of its own, 10.77.0.2, that knows nothing of
    /// booting: the router that a site has already.
    ///
    /// # Errors
    /// [`crate::Error::Command`] when it does not start.
    pub fn router(&self) -> Result<Daemon> {
        let namespace = self.namespace();
        namespace.neighbour("site")?;
        namespace.run(&["ip", "-n", "site", "address", "add", "10.77.0.2/24", "dev", "eth0"])?;
        let mut dnsmasq = namespace.released("ip");
        dnsmasq.args(["netns", "exec", "site", "dnsmasq", "--keep-in-foreground", "--port=0"]);
        dnsmasq.args(["--log-facility=-", "--log-dhcp", "--user=root", "--conf-file=/dev/null"]);
        dnsmasq.args(["--leasefile-ro", "--dhcp-authoritative"]);
        dnsmasq.arg("--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h");
        dnsmasq::start(dnsmasq, &self.directory().join("router.log"))
    }

    /// A machine without a kernel of its own, `name` with this hardware address, that
    /// has a disk over NBD open and says nothing more. Its cable is `name` with a `0`
    /// behind it.
    ///
    /// # Errors
    /// [`crate::Error::Command`] when it does not get the disk.
    pub fn holder_of_a_disk(
        &self,
        name: &str,
        mac: &str,
        address: &str,
        disk: &str,
    ) -> Result<Daemon> {
        let namespace = self.namespace();
        namespace.neighbour(name)?;
        namespace.run(&["ip", "-n", name, "link", "set", "eth0", "address", mac])?;
        let address = format!("{address}/24");
        namespace.run(&["ip", "-n", name, "address", "add", &address, "dev", "eth0"])?;
        // The greeting, NBD_OPT_GO, and the first answer's head.
        let script = format!(
            "exec 3<>/dev/tcp/10.77.0.1/10809; head -c 18 <&3 >/dev/null
             printf '\\0\\0\\0\\3IHAVEOPT\\0\\0\\0\\7' >&3
             printf '\\0\\0\\0\\x{all:02x}\\0\\0\\0\\x{length:02x}%s\\0\\0' {disk} >&3
             head -c 20 <&3 >/dev/null && echo has the disk; exec sleep infinity",
            all = disk.len() + 6,
            length = disk.len(),
        );
        let mut holder = namespace.command("ip");
        holder.args(["netns", "exec", name, "bash", "-c", &script]);
        let log = self.directory().join(format!("{name}.log"));
        Daemon::start_until(name, holder, &log, "has the disk", Duration::from_secs(10))
    }
}
