//! The last step before the real init: what the live system expects to find is
//! put where its dialect looks for it, and PID 1 becomes that system's.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use cmdline::BootPlan;
use cmdline::plan::{Dialect, Source, Writable};
use netboot::nfs::UP;
use overlay::switch::switch_root;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::mount::{mount_bind_recursive, mount_move};
use sys::errno::Shown;
use sys::file::{make_dir, write_file};

use crate::layers::Ready;
use crate::layout::Layout;
use crate::log::Level;
use crate::machine::Machine;
use crate::newroot::{ROOT, in_root, inside_root, link_in_root, replace};
use crate::source::{Found, Root};
use crate::trace::Failure;
use crate::{console, hints, network, setup, shutdown, watch};

/// Where the kernel and every distribution keep the real init.
const INITS: &[&str] =
    &["/sbin/init", "/usr/lib/systemd/systemd", "/etc/init", "/bin/init", "/bin/sh"];

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
    let init = match find_init(plan.handoff.init.as_deref()) {
        Ok(init) => init,
        Err(failure) => return failure,
    };
    tell_server(plan, found);
    place_medium(machine, plan, found, layout);
    let writable = !matches!(
        plan.writable,
        Writable::AsIs { read_write: false } | Writable::Directories { .. }
    );
    write_state(machine, plan, writable);
    hints::leave(machine, plan, found);
    if writable {
        setup::apply(machine, plan, found, place(plan, layout));
    }
    say_ready(machine, &found.origin, ready.kind, &init);
    if let Some(snapshot) = ready.snapshot
        && let Err(errno) = watch::start(snapshot)
    {
        machine.log.warn(&format!(
            "nobody will warn before the store of changes is full: {}",
            Shown(errno)
        ));
    }
    shutdown::prepare(machine, plan);
    console::begin(machine, "switch");
    machine.stop_clock();
    let settings = setup::environment(plan, found);
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
    let init = inits.find(|path| access(*path, Access::EXEC_OK).is_ok());
    let Some(init) = init else {
        return Failure::new("find the real init", "the initramfs", "has none beside /init")
            .remedy("put the system's own initramfs before ours, or name a root");
    };
    write_state(machine, plan, false);
    // By this file systemd knows an initramfs, and would look for a root to switch to.
    let _ = rustix::fs::unlink("/etc/initrd-release");
    say_ready(machine, "the initramfs", "itself", init);
    machine.stop_clock();
    start(machine, plan, init, &[])
}

fn say_ready(machine: &mut Machine, origin: &str, kind: &str, init: &str) {
    let elapsed = machine.log.elapsed();
    let line = format!("ready in {elapsed}: {origin} on {kind}, handing over to {init}");
    machine.log.say(Level::Verdict, &line);
    machine.back_to_normal();
    let _ = make_dir(STATE, 0o755);
    let _ = write_file(&format!("{STATE}/log"), machine.log.record().as_bytes(), 0o644);
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
fn find_init(wanted: Option<&str>) -> Result<String, Failure> {
    let mut tried = Failure {
        step: "find the real init".to_string(),
        tried: Vec::new(),
        remedy: String::new(),
    };
    for path in wanted.into_iter().chain(INITS.iter().copied()) {
        match inside_root(path) {
            Ok(()) => return Ok(path.to_string()),
            Err(errno) => tried.tried.push(crate::trace::Tried {
                what: path.to_string(),
                why: Shown(errno).to_string(),
            }),
        }
    }
    tried.remedy =
        "the root that was found has no init: is it the right image? (init=PATH names another)"
            .to_string();
    Err(tried)
}

/// Where in the root the medium is moved; empty when it stays.
fn place(plan: &BootPlan, layout: Layout) -> &str {
    plan.handoff.medium_at.as_deref().unwrap_or(layout.medium_in_root)
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
        let _ = access([medium, "/", UP].concat().as_str(), Access::EXISTS);
    }
}

/// Moves and links what the dialect wants to see inside the root.
fn place_medium(machine: &mut Machine, plan: &BootPlan, found: &Found, layout: Layout) {
    let place = place(plan, layout);
    if let (Some(medium), true) = (&found.medium, !place.is_empty()) {
        let target = format!("{ROOT}{place}");
        let _ = make_dir(&target, 0o755);
        if let Err(errno) = mount_move(medium.as_str(), target.as_str()) {
            machine.log.warn(&format!(
                "the medium cannot be shown at {place}: {errno}",
                errno = Shown(errno)
            ));
        }
        if !layout.medium_link.is_empty() && place == layout.medium_in_root {
            let link = format!("{ROOT}{}", layout.medium_link);
            if let Some((parent, _)) = link.rsplit_once('/') {
                let _ = make_dir(parent, 0o755);
            }
            let target = hints::link_target(plan, found, layout);
            let _ = rustix::fs::symlink(target.as_str(), link.as_str());
        }
    }
    if let (Root::Layers(layers), true) = (&found.root, plan.handoff.show_layers) {
        for layer in layers.iter().filter(|layer| !layer.is_dir) {
            let target = format!("{ROOT}/casper/{}", layer.name);
            let _ = make_dir(&target, 0o755);
            let from = format!("{}/{}", layout.images, layer.name);
            let _ = mount_bind_recursive(from.as_str(), target.as_str());
        }
    }
    if let (Root::Layers(layers), false) = (&found.root, layout.lowest_at.is_empty())
        && let Some(lowest) = layers.first()
        && !lowest.is_dir
    {
        let base = if layout.lowest_at.starts_with("/run/") { "" } else { ROOT };
        let target = [base, layout.lowest_at].concat();
        let _ = make_dir(&target, 0o755);
        let _ = mount_move(format!("{}/{}", layout.images, lowest.name).as_str(), target.as_str());
    }
    let (from, to) = layout.alias;
    if !from.is_empty() {
        let target = format!("{ROOT}{to}");
        let _ = make_dir(&target, 0o755);
        let _ = mount_bind_recursive(from, target.as_str());
    }
}

fn write_state(machine: &mut Machine, plan: &BootPlan, writable: bool) {
    let trace = machine.trace.to_json(machine.log.elapsed(), None);
    let mut files = Vec::from([
        (format!("{STATE}/plan.json"), plan.to_json()),
        (format!("{STATE}/trace.json"), trace),
    ]);
    let pinned = plan.network.as_ref().is_some_and(|network| network.required)
        && (!cfg!(feature = "full") || hints::root_is_remote());
    files.extend(network::state_files(&machine.network, plan, pinned));
    let mut put = |path: &str, text: &str| {
        if let Some((parent, _)) = path.rsplit_once('/') {
            let _ = make_dir(parent, 0o755);
        }
        if let Err(errno) = write_file(path, text.as_bytes(), 0o644) {
            machine.log.warn(&format!("{path} cannot be written: {errno}", errno = Shown(errno)));
        }
    };
    for (path, text) in &files {
        put(path, text);
    }
    if !writable {
        return;
    }
    let mut files = network::root_files(&machine.network, plan, &|path| link_in_root(path));
    if !plan.handoff.keep_fstab
        && let Some(text) = fstab(plan.handoff.layout, in_root("/etc/fstab").as_deref())
    {
        files.push(("/etc/fstab".to_string(), text));
    }
    for (path, text) in files {
        match replace(&path, &text, 0o644) {
            // A system without the directory has nothing that reads the file.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => machine.log.warn(&format!(
                "{path} of the new root cannot be written: {errno}",
                errno = Shown(errno)
            )),
        }
    }
}

/// An fstab that agrees with the root that is mounted; `None` leaves the
/// image's own alone.
fn fstab(layout: Dialect, old: Option<&str>) -> Option<String> {
    if !matches!(layout, Dialect::LiveBoot | Dialect::Casper) {
        return None;
    }
    let mut text = String::new();
    // The image was somebody's disk: its devices do not exist here.
    for line in old.unwrap_or_default().lines() {
        let target = line.split_whitespace().nth(1).unwrap_or_default();
        if line.trim_start().starts_with('#') || !matches!(target, "/" | "/tmp" | "") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str("overlay / overlay rw 0 0\ntmpfs /tmp tmpfs nosuid,nodev 0 0\n");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_keeps_what_is_not_the_root() {
        let old = "# mine\nUUID=1 / ext4 defaults 0 1\nUUID=2 /home ext4 nofail 0 2\n";
        let text = fstab(Dialect::LiveBoot, Some(old)).unwrap();
        assert!(text.contains("# mine") && text.contains("/home"));
        assert!(!text.contains("UUID=1"));
        assert!(text.contains("overlay / overlay"));
        assert_eq!(fstab(Dialect::Kernel, Some(old)), None);
    }
}
