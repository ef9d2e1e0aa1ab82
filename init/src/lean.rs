//! The small `/init`: what it says of the steps that it was built without.
//!
//! A virtual machine or a thin client that boots over NFS or from an ISO never
//! copies to RAM, keeps changes on disks or downloads; leaving those steps out
//! makes `/init` a third smaller. Each module here has the face of the one that
//! it stands in for, and refuses in words: a check that the line asks for is
//! never skipped, a wish that can be done without is given up with a warning.

use alloc::string::String;

/// What is wrong, and what to do.
const WHY: &str =
    "is not in this small /init; build the image with `--profile net`, which carries the full one";

/// Instead of receiving a copy of a disk.
pub mod clone {
    use super::WHY;
    use crate::machine::Machine;
    use crate::trace::{Failure, Fault};
    use alloc::string::String;
    use cmdline::BootPlan;
    use cmdline::plan::{CloneMethod, ClonePlan, Seconds};

    /// Refuses.
    pub fn receive(_: &mut Machine, _: &BootPlan, _: &ClonePlan) -> Failure {
        Failure::new("receive a copy of a disk", "this program", WHY)
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn stage2(_: &mut Machine, _: &CloneMethod, _: Option<Seconds>) -> Result<String, Fault> {
        Err(WHY.into())
    }
}

/// Instead of stopping at points, a shell and an editor.
pub mod console {
    use super::WHY;
    use crate::machine::Machine;

    /// No keys beyond those of the failure screen.
    pub const KEYS: &str = "";

    /// Never used: there are no further keys.
    pub fn key(_: &mut Machine, _: u8) {}

    /// A step begins; nothing stops before it.
    pub fn begin(machine: &mut Machine, step: &'static str) {
        let failure = &machine.orders.plan.failure;
        let asked = !failure.breakpoints.is_empty() || failure.deadline.is_some();
        if asked && step == "drivers" {
            machine.log.warn(&["going on: stopping at a point or after a time ", WHY].concat());
        }
        machine.step(step);
    }
}

/// Instead of what a dialect's initramfs sets up in the live system.
pub mod setup {
    use super::WHY;
    use crate::machine::Machine;
    use crate::newroot::NewRoot;
    use crate::source::Found;
    use alloc::ffi::CString;
    use cmdline::BootPlan;
    use cmdline::plan::Dialect;

    /// Says that casper's user is missing; the system boots without.
    pub fn apply(machine: &mut Machine, plan: &BootPlan, _: &Found, _: &NewRoot, _: Option<&str>) {
        if plan.handoff.layout == Dialect::Casper {
            machine.log.warn(&["no user for the live session: setting one up ", WHY].concat());
        }
    }

    /// Nothing.
    #[must_use]
    pub fn environment(_: &BootPlan, _: &Found) -> [CString; 0] {
        []
    }
}

/// Instead of taking the live system's root down at shutdown.
pub mod shutdown {
    use crate::machine::Machine;
    use cmdline::BootPlan;

    /// Leaves it to the live system.
    pub fn prepare(_: &mut Machine, _: &BootPlan) {}
}

/// Instead of [`crate::fetch`] of the full `/init`.
pub mod fetch {
    use super::{String, WHY};
    use crate::machine::Machine;
    use crate::trace::Fault;
    use cmdline::plan::{Payload, Server, UrlSource};

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn fetch(_: &mut Machine, _: &UrlSource) -> Result<String, Fault> {
        Err(Fault::from(["fetching by URL ", WHY].concat()).last())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn fetch_list(machine: &mut Machine, _: &Server, _: u16) -> Result<String, Fault> {
        let url = String::new();
        fetch(machine, &UrlSource { url, payload: Payload::Sniff, proxy: None })
    }

    /// There is nothing to drop.
    pub fn drop_all() {}
}

/// Instead of [`crate::remote`] of the full `/init`.
pub mod remote {
    use super::{String, WHY};
    use crate::machine::Machine;
    use crate::trace::Fault;
    use alloc::vec::Vec;
    use cmdline::plan::{CifsSource, NbdSource, NvmeTcpSource};

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn nbd(_: &mut Machine, _: &NbdSource) -> Result<String, Fault> {
        Err(Fault::from(["a network block device ", WHY].concat()).last())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn nvme(_: &mut Machine, _: &NvmeTcpSource) -> Result<Vec<String>, Fault> {
        Err(["NVMe over TCP ", WHY].concat().into())
    }

    /// There is nothing to drop.
    pub fn drop_nbd(_: &str) {}

    /// The same.
    pub fn drop_nvme(_: &str) {}

    /// The same.
    pub fn drop_all() {}

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn cifs(_: &mut Machine, _: &CifsSource, _: &str) -> Result<(), Fault> {
        Err(["a CIFS share ", WHY].concat().into())
    }
}

/// Instead of [`crate::expand`] of the full `/init`.
pub mod expand {
    use super::{String, WHY};
    use crate::block;
    use crate::machine::Machine;
    use crate::trace::Fault;

    /// Refuses what is compressed, and leaves alone what is not.
    ///
    /// # Errors
    /// For compressed images and cloop.
    pub fn expanded(_: &mut Machine, path: &str) -> Result<Option<String>, Fault> {
        match block::inspect(path) {
            Ok(found) if overlay::expand::is_compressed(found.format) => {
                Err(["is compressed, and expanding it ", WHY].concat().into())
            }
            _ => Ok(None),
        }
    }
}

/// Instead of unpacking: an archive is then what cannot be mounted.
pub mod unpack {
    use super::String;
    use crate::machine::Machine;

    /// None that could be unpacked.
    #[must_use]
    pub fn archive_in(_: &str) -> Option<overlay::probe::Format> {
        None
    }

    /// Nothing is unpacked.
    ///
    /// # Errors
    /// Never.
    pub fn unpacked(_: &mut Machine, _: &str, _: &str) -> Result<bool, String> {
        Ok(false)
    }
}

/// Instead of checks of digests and media.
pub mod integrity {
    use super::WHY;
    use crate::machine::Machine;
    use crate::source::Found;
    use crate::trace::Failure;
    use cmdline::plan::Integrity;

    /// Refuses what it cannot check.
    ///
    /// # Errors
    /// When the plan asks for any check at all.
    pub fn check_medium(_: &mut Machine, plan: &[Integrity], _: &Found) -> Result<(), Failure> {
        if plan.is_empty() {
            return Ok(());
        }
        Err(Failure::new("check the image as the line asks", "checking", WHY))
    }

    /// Whatever there was to check was refused by [`check_medium`].
    ///
    /// # Errors
    /// Never.
    pub fn check_images(_: &mut Machine, _: &[Integrity], _: &Found) -> Result<(), Failure> {
        Ok(())
    }
}

/// Instead of dm-verity; a root hash of the line was refused by [`integrity`].
pub mod verity {
    use crate::machine::Machine;
    use crate::trace::Failure;
    use cmdline::plan::Integrity;

    /// Nothing to check.
    ///
    /// # Errors
    /// Never.
    pub fn check_names(_: &[Integrity], _: &[&str]) -> Result<(), Failure> {
        Ok(())
    }

    /// No verified device.
    ///
    /// # Errors
    /// Never.
    pub fn device(
        _: &mut Machine,
        _: &[Integrity],
        _: &str,
        _: &str,
        _: usize,
    ) -> Result<Option<super::String>, Failure> {
        Ok(None)
    }
}

/// Instead of copying to RAM.
pub mod to_ram {
    use super::WHY;
    use crate::layout::Layout;
    use crate::machine::Machine;
    use crate::source::Found;
    use crate::trace::Failure;
    use cmdline::plan::ToRam;

    /// Goes on from the medium, and says so when the line asked for a copy.
    ///
    /// # Errors
    /// Never.
    pub fn copy(
        machine: &mut Machine,
        plan: &ToRam,
        _: &mut Found,
        _: Layout,
    ) -> Result<(), Failure> {
        if matches!(plan, ToRam::Medium | ToRam::Image(_)) {
            machine.log.warn(&["going on without a copy in memory: copying ", WHY].concat());
        }
        Ok(())
    }
}

/// Instead of keeping changes.
pub mod persist {
    use super::{String, WHY};
    use crate::layout::Layout;
    use crate::machine::Machine;
    use crate::source::Found;
    use cmdline::plan::{Dialect, PersistPlan};

    /// Never made.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Kept {
        /// The upper and work directories of the root.
        pub root: Option<(String, String)>,
    }

    impl Kept {
        /// Never called.
        pub fn place(&self, _: &mut crate::log::Log, _: &crate::newroot::NewRoot) {}

        /// Never called.
        #[must_use]
        pub fn describe(&self) -> String {
            String::new()
        }
    }

    /// Refuses; the caller goes on in memory, or fails when that must not be.
    ///
    /// # Errors
    /// Always.
    pub fn find(
        _: &mut Machine,
        _: &PersistPlan,
        _: &Found,
        _: &[String],
        _: Layout,
        _: Dialect,
    ) -> Result<Kept, String> {
        Err(["keeping changes ", WHY].concat())
    }
}

/// Instead of snapshots.
pub mod snapshot {
    use super::WHY;
    use crate::block::MountWith;
    use crate::layout::Layout;
    use crate::machine::Machine;
    use crate::source::Found;
    use crate::trace::Failure;
    use cmdline::plan::{Dialect, SnapshotPlan};

    /// What a snapshot needs to know of the boot around it.
    #[derive(Debug, Clone, Copy)]
    pub struct Context<'c> {
        /// What was found.
        pub found: &'c Found,
        /// Where things are mounted.
        pub layout: Layout,
        /// Whose live system it is for.
        pub dialect: Dialect,
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn mount_root(
        _: &mut Machine,
        _: &SnapshotPlan,
        (_, image): (&str, &str),
        _: MountWith<'_>,
        _: &Context<'_>,
    ) -> Result<&'static str, Failure> {
        Err(Failure::new("make the root writable", image, ["a snapshot ", WHY].concat()))
    }
}

/// Instead of watching a snapshot's store.
pub mod watch {
    use rustix::io::Errno;

    /// Never called: there are no snapshots.
    ///
    /// # Errors
    /// Never.
    pub fn start(_: &str) -> Result<(), Errno> {
        Ok(())
    }
}
