//! Where changes are kept from one boot to the next: finding the volume, making
//! it usable, and saying why not when it is not found.
//!
//! A volume is a file system of its own, an image file on one, or a directory
//! on one; on a local device, on the medium itself, on an NFS server or, as a file
//! system of its own, behind an NBD server.

mod hunt;
mod kept;
mod volume;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{Dialect, PersistPlan};
use liveroot::Found;
use liveroot::layout::Layout;
use overlay::persistence_conf;
use overlay::switch::remove_below;
use sys::file::{make_dir, read_file};

use crate::block;
use crate::machine::Machine;
use crate::trace::Fault;

use self::hunt::{CONF, Hunt};
pub use self::kept::Kept;
use self::volume::Volume;

/// Longest `persistence.conf`, and longest table of mounts, that is read.
const MAX_CONF: usize = 256 << 10;

/// What a plan's place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A device without a file system.
    Raw(String),
    /// A mounted file system.
    Volume(Volume),
}

/// A place for a snapshot's store.
///
/// # Errors
/// The device or volume is missing, or is not to be written to.
pub fn find_place(
    machine: &mut Machine,
    plan: &PersistPlan,
    found: &Found,
    layout: Layout,
) -> Result<Place, Fault> {
    let mut hunt = Hunt::new(machine, plan, found, &[], layout);
    if let Some(device) = hunt.open.plan.device.clone() {
        let path = hunt.device(&device)?;
        return match block::inspect(&path) {
            Ok(found) if found.format.fs_type().is_some() => {
                hunt.open.mount(&path).map(Place::Volume)
            }
            Ok(found) => Err(format!("{path} is {}", found.format).into()),
            Err(_) => Ok(Place::Raw(path)),
        };
    }
    hunt.volume().map(Place::Volume)
}

/// Finds what the plan keeps changes on, and makes it ready.
///
/// # Errors
/// What was looked for, and what is wrong with what is there.
pub fn find(
    machine: &mut Machine,
    plan: &PersistPlan,
    found: &Found,
    layers: &[String],
    layout: Layout,
    dialect: Dialect,
) -> Result<Kept, Fault> {
    let mut hunt = Hunt::new(machine, plan, found, layers, layout);
    let volume = hunt.volume();
    let home = hunt.home();
    let volume = match volume {
        Ok(volume) => volume,
        Err(_) if home.is_some() => {
            let origin = "the home volume".to_string();
            return Ok(Kept {
                origin,
                root: None,
                entries: Vec::new(),
                home,
                read_only: plan.read_only,
            });
        }
        Err(why) => return Err(why),
    };
    let (base, origin) = hunt.open.base(&volume)?;
    let conf = format!("{}/{CONF}", base.mounted);
    if plan.reset {
        machine.log.info(&format!("emptying the kept changes on {origin}"));
        remove_below(&base.mounted, &[CONF, "lost+found"])
            .map_err(|errno| Fault::new("cannot be emptied", errno).of(&origin))?;
    }
    let mut entries = Vec::new();
    let mut root = None;
    if plan.conf {
        let text = read_file(&conf, MAX_CONF).map_err(|_| format!("{origin} has no {CONF}"))?;
        let (lines, complaints) = persistence_conf::parse(&String::from_utf8_lossy(&text));
        for complaint in complaints {
            machine.log.warn(&format!("{CONF}: {complaint}"));
        }
        for entry in lines {
            if entry.dir == "/" {
                root = Some(format!("{}/{}", base.mounted, entry.source));
            } else {
                entries.push((base.mounted.clone(), entry));
            }
        }
        if root.is_none() && entries.is_empty() {
            return Err(
                format!("{CONF} on {origin} keeps nothing (`/ union` keeps everything)").into()
            );
        }
    } else {
        root = Some(base.mounted.clone());
    }
    let root = match root {
        None => None,
        Some(root) => {
            base.can_be_upper()?;
            let root = root.trim_end_matches('/');
            // kiwi has names of its own in its file.
            let kiwi = dialect == Dialect::Dracut && !plan.labels.is_empty();
            let (upper, work) =
                if kiwi { ("rw", "work") } else { (layout.upper_dir, layout.work_dir) };
            let upper = format!("{root}/{upper}");
            let mut work = format!("{root}/{work}");
            // dracut's directory is itself the upper one, its work directory a sister.
            let itself = dialect == Dialect::Dracut && plan.path.is_some();
            if let (true, Some((parent, _))) = (itself, root.rsplit_once('/')) {
                work = format!("{parent}/{}", layout.work_dir);
            }
            let upper = if itself { root.to_string() } else { upper };
            if dialect == Dialect::Casper {
                kept::adopt(machine, root, &upper);
            }
            for dir in [&upper, &work] {
                make_dir(dir, 0o755).map_err(Fault::on(dir))?;
            }
            Some((upper, work))
        }
    };
    Ok(Kept { origin, root, entries, home, read_only: plan.read_only })
}
