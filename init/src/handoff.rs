//! The last step before the real init: what the live system expects to find is
//! put where its dialect looks for it, and PID 1 becomes that system's.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use cmdline::BootPlan;
use cmdline::plan::Source;
use liveroot::layout::Layout;
use liveroot::{Act, Change, Found, managers, places};
use netboot::nfs::UP;
use overlay::switch::switch_root;
use rustix::fs::Access;
use rustix::io::Errno;
use sys::errno::Shown;
use sys::file::{access, exists, make_dir, write_file};
use sys::mount::detach;

use crate::layers::Ready;
use crate::log::Level;
use crate::look::{Here, root_is_remote};
use crate::machine::Machine;
use crate::newroot::{NewRoot, Place, ROOT};
use crate::trace::Failure;
use crate::{changes, console, setup, shutdown, watch};

/// Where the kernel and every distribution keep the real init.
const INITS: &[&str] =
    &["/sbin/init", "/usr/lib/systemd/systemd", "/etc/init", "/bin/init", "/bin/sh"];

/// The kernel's file systems, which move into the new root.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Where our own record goes.
const STATE: &str = "/run/bellwether";

/// Puts everything in its place and starts the real init; returns only on failure.
pub fn hand_over(
    machine: &mut Machine,
    plan: &BootPlan,
    found: &Found,
    ready: &Ready,
    layout: Layout,
) -> Failure {
    let root = match NewRoot::open() {
        Ok(root) => root,
        Err(errno) => return Failure::new("open the new root", ROOT, Shown(errno)),
    };
    let init = match find_init(&root, plan.handoff.init.as_deref()) {
        Ok(init) => init,
        Err(failure) => return failure,
    };
    tell_server(plan, found);
    let mut here = Here { machine, root: &root, medium: None, remote: root_is_remote() };
    let mut changes = record(here.machine, plan);
    changes.extend(liveroot::common(plan, found, layout, &here));
    changes::apply(&root, &mut here.machine.log, &changes);
    if liveroot::is_writable(plan) {
        let moved = match places::of_medium(plan, layout) {
            "" => None,
            place => root.existing(place).ok(),
        };
        let medium = moved.as_ref().map(Place::path).or_else(|| found.medium.clone());
        here.medium = medium.as_deref().and_then(|medium| NewRoot::at(medium).ok());
        setup::apply(plan, found, &mut here, medium.as_deref());
    }
    say_ready(machine, &found.origin, ready.kind, &init);
    if let Some(snapshot) = ready.snapshot
        && let Err(errno) = watch::start(snapshot)
    {
        machine.log.warn(&format!(
            "cannot start the watcher of the snapshot store: {}; there will be no warning before it is full",
            Shown(errno)
        ));
    }
    shutdown::prepare(machine, plan);
    console::begin(machine, "switch");
    machine.stop_clock();
    let settings = setup::environment(plan, found);
    for kernel in MOVED {
        if let Err(errno) = root.take(kernel, kernel) {
            // As a root that cannot be written and lacks the directory.
            machine.log.detail(&format!("{kernel} stays behind: {}", Shown(errno)));
            if let Err(errno) = detach(kernel) {
                machine.log.detail(&format!("{kernel} stays mounted: {}", Shown(errno)));
            }
        }
    }
    if let Err(error) = switch_root(ROOT) {
        return Failure::new("switch to the new root", ROOT, error);
    }
    start(machine, plan, &init, &settings)
}

/// The initramfs is the live system: its own init goes on where `/init` was. Returns
/// only on failure.
pub fn stay(machine: &mut Machine, plan: &BootPlan) -> Failure {
    let wanted = plan.handoff.init.as_deref();
    let mut inits = wanted.into_iter().chain(INITS.iter().copied());
    let init = inits.find(|path| access(path, Access::EXEC_OK));
    let Some(init) = init else {
        return Failure::new("find the real init", "the initramfs", "has none beside /init")
            .remedy("put the system's own initramfs before ours, or name a root");
    };
    match NewRoot::at("/") {
        Ok(root) => {
            let mut changes = record(machine, plan);
            changes.extend(managers::state(machine.network.up(), plan, root_is_remote()));
            // By this file systemd knows an initramfs, and would look for a root to switch to.
            changes.push(Change::new(Act::Remove, "/etc/initrd-release", ""));
            changes::apply(&root, &mut machine.log, &changes);
        }
        Err(errno) => return Failure::new("open the root", "/", Shown(errno)),
    }
    say_ready(machine, "the initramfs", "itself", init);
    machine.stop_clock();
    start(machine, plan, init, &[])
}

fn say_ready(machine: &mut Machine, origin: &str, kind: &str, init: &str) {
    let elapsed = machine.log.elapsed();
    let line = format!("ready in {elapsed}: {origin} on {kind}, handing over to {init}");
    machine.log.say(Level::Verdict, &line);
    machine.back_to_normal();
    let path = format!("{STATE}/log");
    let record = machine.log.record();
    let kept = make_dir(STATE, 0o755).and_then(|()| write_file(&path, record.as_bytes(), 0o644));
    if let Err(errno) = kept {
        machine.log.warn(&format!("{path} cannot be written: {}", Shown(errno)));
    }
}

/// PID 1 becomes the real init; returns only on failure.
fn start(machine: &Machine, plan: &BootPlan, init: &str, settings: &[CString]) -> Failure {
    let path = CString::new(init).unwrap_or_default();
    let args: Vec<CString> = core::iter::once(init)
        .chain(plan.handoff.args.iter().map(String::as_str))
        .filter_map(|arg| CString::new(arg).ok())
        .collect();
    let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
    let env = machine.orders.env.iter().copied().chain(settings.iter().map(CString::as_c_str));
    let errno = sys::process::exec(&path, &args, &env.collect::<Vec<&CStr>>());
    Failure::new("start the real init", init, Shown(errno))
}

/// The first init that is there and may be executed.
fn find_init(root: &NewRoot, wanted: Option<&str>) -> Result<String, Failure> {
    let mut tried = Failure {
        step: "find the real init".to_string(),
        tried: Vec::new(),
        remedy: String::new(),
    };
    let mut damaged = false;
    for path in wanted.into_iter().chain(INITS.iter().copied()) {
        match root.executable(path) {
            Ok(()) => return Ok(path.to_string()),
            Err(errno) => {
                damaged |= errno == Errno::IO;
                tried.tried.push(crate::trace::Tried {
                    what: path.to_string(),
                    why: Shown(errno).to_string(),
                });
            }
        }
    }
    #[cfg(feature = "full")]
    tried.tried.push(crate::trace::Tried {
        what: "the root".to_string(),
        why: ["holds ", &root.listing()].concat(),
    });
    tried.remedy = if damaged {
        "the root cannot be read: its image is damaged, copy it again"
    } else {
        "the root that was found has no init: is it the right image? (init=PATH names another)"
    }
    .to_string();
    Err(tried)
}

/// Lets `bellwether share` know that the root is complete: it hears that this name is
/// looked up, which no medium has. Its lines say `mountport=`; other servers are spared.
fn tell_server(plan: &BootPlan, found: &Found) {
    let shared = |source: &Source| match source {
        Source::Nfs(nfs) => nfs.options.iter().any(|option| option.starts_with("mountport=")),
        _ => false,
    };
    if let Some(medium) = &found.medium
        && plan.root.sources.iter().any(shared)
    {
        // The answer is always no; being asked is what counts.
        let _ = exists(&[medium, "/", UP].concat());
    }
}

/// The record of this boot, for the live system and for people.
fn record(machine: &Machine, plan: &BootPlan) -> Vec<Change> {
    let trace = machine.trace.to_json(machine.log.elapsed(), None);
    Vec::from([
        Change::file(&format!("{STATE}/plan.json"), &plan.to_json()),
        Change::file(&format!("{STATE}/trace.json"), &trace),
    ])
}
