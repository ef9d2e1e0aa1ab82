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
use crate::network;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(15);

/// Connects to an export; returns the device.
///
/// # Errors
/// Why not.
pub fn nbd(machine: &mut Machine, source: &NbdSource) -> Result<String, String> {
    let address = network::server(machine, &source.server)?;
    if !machine.require("nbd") {
        return Err("the driver nbd is not in this image".to_string());
    }
    machine.log.info(&format!("connecting to NBD {address}:{}/{}", source.port, source.export));
    let connected = nbd::connect(address, source.port, &source.export, source.connections, LIMIT)
        .map_err(|error| error.to_string())?;
    let device = nbd::attach(&connected).map_err(|error| error.to_string())?;
    Ok(format!("/dev/{device}"))
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
