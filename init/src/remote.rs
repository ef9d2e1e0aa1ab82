//! Network block devices and CIFS shares, as sources of a root.

use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use cmdline::plan::{CifsSource, NbdSource};
use netboot::nbd;
use rustix::mount::MountAttrFlags;
use sys::errno::Shown;
use sys::file::make_dir;
use sys::mount::FsContext;

use crate::machine::Machine;
use crate::{keeper, network};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(15);

/// Connections to an export that may be shared, so that one slow answer does not
/// hold up all the others.
const CONNECTIONS: u8 = 4;

/// Connects to an export; returns the device. A process of its own connects anew
/// whenever the server was gone.
///
/// # Errors
/// Why not.
pub fn nbd(machine: &mut Machine, source: &NbdSource) -> Result<String, String> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("nbd") {
        return Err("the driver nbd is not in this image".to_string());
    }
    machine.log.info(&format!("connecting to NBD {address}:{}/{}", source.port, source.export));
    let connections = source.connections.max(CONNECTIONS);
    let connected = nbd::connect(address, source.port, &source.export, connections, LIMIT)
        .map_err(|error| error.to_string())?;
    let index = nbd::attach(&connected).map_err(|error| error.to_string())?;
    if let Err(errno) = keeper::start(index, address, source, &connected) {
        machine.log.warn(&format!(
            "nobody will connect anew when the NBD server was gone: {}",
            Shown(errno)
        ));
    }
    Ok(format!("/dev/nbd{index}"))
}

/// Lets go of a device that was not what was looked for.
pub fn drop_nbd(device: &str) {
    if let Some(index) = device.strip_prefix("/dev/nbd").and_then(|index| index.parse().ok()) {
        let _ = nbd::detach(index);
    }
}

/// Lets go of everything that a try of the boot before this one connected.
pub fn drop_all() {
    for name in coldplug::sysfs::names("/sys/block").unwrap_or_default() {
        let connected = format!("/sys/block/{name}/pid");
        if name.starts_with("nbd")
            && rustix::fs::access(connected.as_str(), rustix::fs::Access::EXISTS).is_ok()
        {
            drop_nbd(&format!("/dev/{name}"));
        }
    }
}

/// Mounts a share at `target`.
///
/// # Errors
/// Why not.
pub fn cifs(machine: &mut Machine, source: &CifsSource, target: &str) -> Result<(), String> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("fs-cifs") {
        return Err("the driver cifs is not in this image".to_string());
    }
    machine.log.info(&format!("mounting //{address}/{}", source.share));
    make_dir(target, 0o755).map_err(|errno| format!("{target}: {}", Shown(errno)))?;
    let mount = || {
        let context = FsContext::open("cifs")?;
        context.set("source", Some(&format!("//{address}/{}", source.share)))?;
        context.set("ip", Some(&address.to_string()))?;
        for option in &source.options {
            match option.split_once('=') {
                Some((key, value)) => context.set(key, Some(value))?,
                None => context.set(option, None)?,
            }
        }
        let mut attributes = MountAttrFlags::empty();
        if !source.read_write {
            context.set("ro", None)?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        context.mount(target, attributes)
    };
    mount().map_err(|error| error.to_string())
}
