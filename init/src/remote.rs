//! Network block devices and CIFS shares, as sources of a root.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use core::time::Duration;

use cmdline::plan::{CifsSource, NbdSource, NvmeTcpSource, Source};
use netboot::nbd;
use netboot::nvme::{self, NvmeError, Subsystem};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sys::clock::Instant;
use sys::errno::Shown;
use sys::file::{exists, make_dir};
use sys::mount::{FsContext, MountError};

use crate::machine::Machine;
use crate::trace::Fault;
use crate::{keeper, network};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(15);

/// How long a device may take to appear once its server is connected.
const APPEAR: Duration = Duration::from_secs(10);

/// Connections to an export that may be shared, so that one slow answer does not
/// hold up all the others.
const CONNECTIONS: u8 = 4;

/// The network block device that DHCP's root path names, where the line leaves the root to it.
pub fn nbd_by_dhcp(source: &Source, root_path: &str) -> Option<Result<NbdSource, Fault>> {
    if !matches!(source, Source::Nfs(nfs) if nfs.path.is_none()) {
        return None;
    }
    let wrong = |why: &str| Fault::from(format!("DHCP's root path \"{root_path}\": {why}"));
    Some(cmdline::nbd_of_root_path(root_path)?.map_err(wrong))
}

/// Connects to an export; returns the device. A process of its own connects anew
/// whenever the server was gone.
///
/// # Errors
/// No server, no such export, or no driver; [`Fault::is_last`] when trying again is in
/// vain.
pub fn nbd(machine: &mut Machine, source: &NbdSource) -> Result<String, Fault> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("nbd") {
        return Err(Fault::from("the driver nbd is not in this image").last());
    }
    let text = format!("connecting to NBD {address}:{}/{}", source.port, source.export);
    machine.log.info_once(&text);
    let connections = source.connections.max(CONNECTIONS);
    let connected = nbd::connect(address, source.port, &source.export, connections, LIMIT)
        .map_err(|error| {
            let fault = Fault::from(error.to_string());
            if error.is_transient() { fault } else { fault.last() }
        })?;
    let index = nbd::attach(&connected).map_err(|error| Fault::from(error.to_string()).last())?;
    match keeper::start(index, address, source, &connected) {
        Ok(keeper) => machine.keepers.push((index, keeper)),
        Err(errno) => machine.log.warn(&format!(
            "cannot start the process that reconnects NBD: {}; if the server goes away, the root is lost",
            Shown(errno)
        )),
    }
    Ok(format!("/dev/nbd{index}"))
}

/// Lets go of a device that was not what was looked for, and ends the process that keeps
/// it: that one would go on with the next device of this number.
pub fn drop_nbd(machine: &mut Machine, device: &str) {
    if let Some(index) = device.strip_prefix("/dev/nbd").and_then(|index| index.parse().ok()) {
        for (_, keeper) in machine.keepers.extract_if(.., |(of, _)| *of == index) {
            keeper.end();
        }
        // A device that is gone already is what is wanted.
        let _ = nbd::detach(index);
    }
}

/// Lets go of everything that a try of the boot before this one connected.
pub fn drop_all(machine: &mut Machine) {
    for name in coldplug::sysfs::names("/sys/block").unwrap_or_default() {
        let connected = format!("/sys/block/{name}/pid");
        if name.starts_with("nbd") && exists(&connected) {
            drop_nbd(machine, &format!("/dev/{name}"));
        }
    }
}

/// Connects to a subsystem, or to all that a discovery controller names; returns the
/// devices. The kernel connects anew by itself whenever the server was gone.
///
/// # Errors
/// No server, no driver, every subsystem refuses, or no namespace appears.
pub fn nvme(machine: &mut Machine, source: &NvmeTcpSource) -> Result<Vec<String>, Fault> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("nvme_tcp") {
        return Err("the driver nvme-tcp is not in this image".into());
    }
    let server = SocketAddrV4::new(address, source.port);
    machine.log.info(&format!("connecting to NVMe/TCP {server}"));
    let host = source.host_nqn.clone().unwrap_or_else(host_nqn);
    let subsystems = if source.nqn == nvme::DISCOVERY {
        nvme::discover(server, &host, LIMIT).map_err(|error| error.to_string())?
    } else {
        Vec::from([Subsystem { server, nqn: source.nqn.clone() }])
    };
    let mut refused = Vec::new();
    for subsystem in &subsystems {
        match nvme::connect(subsystem, &host, LIMIT) {
            Ok(_) | Err(NvmeError::Refused(_, Errno::ALREADY)) => {}
            Err(error) => refused.push(error.to_string()),
        }
    }
    if refused.len() == subsystems.len() {
        return Err(refused.join("; ").into());
    }
    let deadline = Instant::now().after(APPEAR);
    loop {
        let devices = namespaces("", &subsystems);
        if !devices.is_empty() {
            return Ok(devices);
        }
        if deadline.is_past() {
            return Err("is connected and shows no namespace to this host".into());
        }
        machine.wait(&[], Some(deadline.min(Instant::now().after(Duration::from_millis(100)))));
    }
}

/// Lets go of the subsystem that a device belongs to.
pub fn drop_nvme(device: &str) {
    let nqn = subsystem_of(&format!("/sys/block/{}/device", device.trim_start_matches("/dev/")));
    for name in coldplug::sysfs::names("/sys/class/nvme").unwrap_or_default() {
        if subsystem_of(&format!("/sys/class/nvme/{name}")) == nqn
            && let Some(instance) = name.strip_prefix("nvme").and_then(|n| n.parse().ok())
        {
            nvme::disconnect(instance);
        }
    }
}

fn subsystem_of(place: &str) -> String {
    let text = sys::file::read_file(&format!("{place}/subsysnqn"), 256).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_string()
}

/// The devices of subsystems, sorted. `top` is the directory of `/sys` and `/dev`: empty,
/// or a test's.
fn namespaces(top: &str, subsystems: &[Subsystem]) -> Vec<String> {
    let mut devices = Vec::new();
    for name in coldplug::sysfs::names(&format!("{top}/sys/block")).unwrap_or_default() {
        let device = format!("{top}/dev/{name}");
        // Paths to a device of several paths have no node.
        if name.starts_with("nvme") && exists(&device) {
            let nqn = subsystem_of(&format!("{top}/sys/block/{name}/device"));
            if subsystems.iter().any(|subsystem| subsystem.nqn == nqn) {
                devices.push(device);
            }
        }
    }
    sys::sort::sort(&mut devices);
    devices
}

/// Our own name, which servers know hosts by: made of the machine's UUID, as nvme-cli
/// does; empty for the kernel's own when it has none.
fn host_nqn() -> String {
    let uuid = sys::file::read_file("/sys/class/dmi/id/product_uuid", 64).unwrap_or_default();
    match String::from_utf8_lossy(&uuid).trim() {
        "" => String::new(),
        uuid => ["nqn.2014-08.org.nvmexpress:uuid:", uuid].concat(),
    }
}

/// Mounts a share at `target`.
///
/// # Errors
/// No server, no driver, or the kernel's words about the mount.
pub fn cifs(machine: &mut Machine, source: &CifsSource, target: &str) -> Result<(), Fault> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("fs-cifs") {
        return Err("the driver cifs is not in this image".into());
    }
    machine.log.info_once(&format!("mounting //{address}/{}", source.share));
    make_dir(target, 0o755).map_err(Fault::on(target))?;
    let mount = || {
        let context = FsContext::open("cifs")?;
        context.set("source", Some(&format!("//{address}/{}", source.share)))?;
        context.set("ip", Some(&address.to_string()))?;
        for option in &source.options {
            match option.reveal().split_once('=') {
                Some((key, value)) => context.set(key, Some(value))?,
                // A word of mount.cifs, which the kernel does not know.
                None if option.reveal() == "guest" => {
                    context.set("user", Some("guest"))?;
                    context.set("password", Some(""))?;
                }
                None => context.set(option.reveal(), None)?,
            }
        }
        // A root waits for its server instead of failing, unless the line says so.
        if !source.options.iter().any(|option| option.reveal() == "soft") {
            context.set("hard", None)?;
        }
        let mut attributes = MountAttrFlags::empty();
        if !source.read_write {
            context.set("ro", None)?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        context.mount(target, attributes)
    };
    mount().map_err(|error: MountError| error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Network;
    use crate::machine::tests::{boot_link, machine};
    use cmdline::plan::Server;

    fn source(line: &str) -> Source {
        let plan = cmdline::parse(line, &cmdline::Context::default());
        plan.root.sources.into_iter().next().unwrap()
    }

    #[test]
    fn a_missing_network_may_come_and_a_missing_driver_does_not() {
        let Source::Nbd(nbd_source) = source("root=nbd:10.0.0.1:10809:live ip=dhcp") else {
            panic!("no NBD")
        };
        let mut machine = machine("");
        let fault = nbd(&mut machine, &nbd_source).unwrap_err();
        assert_eq!((fault.to_string().as_str(), fault.is_last()), ("the network is not up", false));
        machine.network = Network::fake(boot_link());
        let fault = nbd(&mut machine, &nbd_source).unwrap_err();
        let why = "the driver nbd is not in this image";
        assert_eq!((fault.to_string().as_str(), fault.is_last()), (why, true));
        let share = CifsSource {
            server: Server::Host("10.0.0.1".to_string()),
            share: "live".to_string(),
            options: Vec::new(),
            read_write: false,
        };
        let fault = cifs(&mut machine, &share, "/nowhere").unwrap_err();
        assert_eq!(fault.to_string(), "the driver cifs is not in this image");
    }

    /// `root=dhcp` with such a root path was refused as "not for NFS".
    #[test]
    fn dhcp_may_name_a_network_block_device() {
        let named = |line: &str, root: &str| {
            nbd_by_dhcp(&source(line), root).map(|nbd| {
                nbd.map(|nbd| cmdline::render::brief(&Source::Nbd(nbd)))
                    .map_err(|fault| fault.to_string())
            })
        };
        let live = Some(Ok("NBD 10.0.0.1:10809/live".to_string()));
        assert_eq!(named("root=dhcp", "nbd:10.0.0.1:live:squashfs:ro"), live);
        assert_eq!(named("root=dhcp", "10.0.0.1:/srv"), None);
        assert_eq!(named("root=nfs:10.0.0.2:/x", "nbd:10.0.0.1:live"), None);
        assert!(named("root=dhcp", "nbd:a b:live").unwrap().unwrap_err().contains("nbd:a b:live"));
    }

    #[test]
    fn namespaces_are_those_of_the_subsystem_that_have_a_node() {
        let top = tempfile::tempdir().unwrap();
        let subsystem = |nqn: &str| Subsystem {
            server: SocketAddrV4::new([10, 0, 0, 1].into(), 4420),
            nqn: nqn.to_string(),
        };
        for (name, nqn, node) in [
            ("nvme1n2", "nqn.ours", true),
            ("nvme1n1", "nqn.ours", true),
            ("nvme1c0n1", "nqn.ours", false),
            ("nvme2n1", "nqn.other", true),
            ("sda", "nqn.ours", true),
        ] {
            let device = top.path().join("sys/block").join(name).join("device");
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("subsysnqn"), format!("{nqn}\n")).unwrap();
            if node {
                std::fs::create_dir_all(top.path().join("dev")).unwrap();
                std::fs::write(top.path().join("dev").join(name), "").unwrap();
            }
        }
        let at = top.path().to_str().unwrap();
        let found = namespaces(at, &[subsystem("nqn.ours")]);
        assert_eq!(found, ["nvme1n1", "nvme1n2"].map(|name| format!("{at}/dev/{name}")));
        assert!(namespaces(at, &[subsystem("nqn.none")]).is_empty());
    }
}
