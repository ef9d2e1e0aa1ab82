//! The small `/init`: stand-ins for the steps that it was built without.
//!
//! [`cmdline::BootPlan::judge`] has refused the plan that cannot do without one of them,
//! and has warned of each wish, before the first step. What fails here is reached only by
//! a source of the root that has another beside it.

use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::{
    CifsSource, CloneMethod, ClonePlan, Dialect, Integrity, NbdSource, NvmeTcpSource, PersistPlan,
    Seconds, Server, SnapshotPlan, Source, ToRam, UrlSource,
};
use liveroot::Found;
use liveroot::layout::Layout;
use rustix::io::Errno;

use crate::block::MountWith;
use crate::log::Log;
use crate::look::Here;
use crate::machine::Machine;
use crate::newroot::NewRoot;
use crate::trace::{Failure, Fault};

const ABSENT: &str = "this /init was built without that step";

/// A module whose functions give always the same.
macro_rules! stand_in {
    ($module:ident: $(fn $name:ident($($given:ty),*) -> $type:ty = $value:expr;)*) => {
        pub(crate) mod $module {
            use super::*;
            $(pub(crate) fn $name($(_: $given),*) -> $type { $value })*
        }
    };
}

fn refused<T>() -> Result<T, Fault> {
    Err(Fault::from(ABSENT).last())
}

fn failed() -> Failure {
    Failure::new("go on", "the plan", ABSENT)
}

stand_in! { clone:
    fn receive(&mut Machine, &BootPlan, &ClonePlan) -> Failure = failed();
    fn stage2(&mut Machine, &CloneMethod, Option<Seconds>) -> Result<String, Fault> = refused();
    fn interrupted(&Machine) -> [String; 0] = [];
}
stand_in! { firmware: fn missing() -> [String; 0] = []; }
stand_in! { setup:
    fn apply(&BootPlan, &Found, &mut Here<'_>, Option<&str>) -> () = ();
    fn environment(&BootPlan, &Found) -> [CString; 0] = [];
}
stand_in! { shutdown: fn prepare(&mut Machine, &BootPlan) -> () = (); }
stand_in! { watch: fn start(&str) -> Result<(), Errno> = Ok(()); }
stand_in! { fetch:
    fn fetch(&mut Machine, &UrlSource) -> Result<String, Fault> = refused();
    fn fetch_list(&mut Machine, &Server, u16) -> Result<String, Fault> = refused();
    fn drop_all() -> () = ();
}
stand_in! { remote:
    fn nbd_by_dhcp(&Source, &str) -> Option<Result<NbdSource, Fault>> = None;
    fn nbd(&mut Machine, &NbdSource) -> Result<String, Fault> = refused();
    fn nvme(&mut Machine, &NvmeTcpSource) -> Result<Vec<String>, Fault> = refused();
    fn cifs(&mut Machine, &CifsSource, &str) -> Result<(), Fault> = refused();
    fn drop_nbd(&mut Machine, &str) -> () = ();
    fn drop_nvme(&str) -> () = ();
    fn drop_all(&mut Machine) -> () = ();
}
stand_in! { unpack:
    fn archive_in(&str) -> Option<overlay::probe::Format> = None;
    fn unpacked(&mut Machine, &str, &str) -> Result<bool, Fault> = Ok(false);
}
stand_in! { integrity:
    fn check_medium(&mut Machine, &[Integrity], &Found) -> Result<(), Failure> = Ok(());
    fn check_images(&mut Machine, &[Integrity], &Found) -> Result<(), Failure> = Ok(());
}
stand_in! { verity:
    fn device(&mut Machine, &[Integrity], &str, &str, usize) -> Result<Option<String>, Failure>
        = Ok(None);
}
stand_in! { to_ram:
    fn copy(&mut Machine, &ToRam, &mut Found, Layout) -> Result<(), Failure> = Ok(());
    fn bind(&mut Machine, &mut Found) -> Result<(), Failure> = Ok(());
    fn is_in_memory(&Found, &str) -> bool = false;
}

/// No key but those of the failure screen, and no stop.
pub(crate) mod console {
    use super::Machine;

    pub(crate) const KEYS: &str = "";

    pub(crate) fn key(_: &mut Machine, _: u8) {}

    pub(crate) fn begin(machine: &mut Machine, step: &'static str) {
        machine.step(step);
    }
}

/// That an image is compressed shows when it is read; no plan tells.
pub(crate) mod expand {
    use super::{Fault, Machine, String};
    use crate::block;

    pub(crate) fn expanded(_: &mut Machine, path: &str) -> Result<Option<String>, Fault> {
        match block::inspect(path) {
            Ok(found) if overlay::expand::is_compressed(found.format) => Err(Fault::from(
                "is compressed, and expanding it is not in this small /init \
                 (bellwether build --full puts the full /init in)",
            )),
            _ => Ok(None),
        }
    }
}

pub(crate) mod persist {
    use super::{
        Dialect, Fault, Found, Layout, Log, Machine, NewRoot, PersistPlan, String, refused,
    };

    #[derive(Debug)]
    pub(crate) struct Kept {
        pub(crate) root: Option<(String, String)>,
    }

    impl Kept {
        pub(crate) fn place(&self, _: &mut Log, _: &NewRoot) {}

        pub(crate) fn describe(&self) -> String {
            String::new()
        }
    }

    pub(crate) fn find(
        _: &mut Machine,
        _: &PersistPlan,
        _: &Found,
        _: &[String],
        _: Layout,
        _: Dialect,
    ) -> Result<Kept, Fault> {
        refused()
    }
}

pub(crate) mod snapshot {
    use super::{Dialect, Failure, Found, Layout, Machine, MountWith, SnapshotPlan, failed};

    #[expect(dead_code, reason = "the real one reads them")]
    pub(crate) struct Context<'c> {
        pub(crate) found: &'c Found,
        pub(crate) layout: Layout,
        pub(crate) dialect: Dialect,
    }

    pub(crate) fn mount_root(
        _: &mut Machine,
        _: &SnapshotPlan,
        _: (&str, &str),
        _: MountWith<'_>,
        _: &Context<'_>,
    ) -> Result<&'static str, Failure> {
        Err(failed())
    }
}
