//! The story: command line → plan → drivers → network → source → layers → handoff.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::needs::Steps;
use cmdline::plan::{Content, OnFailure, Source, Then, Writable};
use cmdline::render::warning_text;
use cmdline::secrets::PrivateLine;
use coldplug::index::Class;
use liveroot::layout;

use crate::baked;
use crate::failure::{self, Next};
use crate::layers::{self, modules_for};
use crate::log::{Level, Log};
use crate::machine::{Machine, Orders};
use crate::newroot::ROOT;
use crate::trace::Failure;
use crate::{clone, console, early, handoff, machine, network, source};

/// What this `/init` can do: the dialects that it reads and, with the feature `full`,
/// every step. Other programs find it in an ELF note.
pub const HAS: Steps = match (cfg!(feature = "p2v"), cfg!(feature = "full")) {
    (true, _) => Steps::READ_HERE.with(Steps::EVERY_STEP),
    (false, true) => Steps::READ_HERE.with(Steps::EVERY_STEP.without(Steps::P2V)),
    (false, false) => Steps::READ_HERE,
};

/// The kernel's own limit on a command line is 2 KiB on x86; others allow more.
const MAX_LINE: usize = 64 << 10;

/// The kernel hashes every signed module that it loads, with whatever SHA-256
/// it has at that moment: a fast one pays for itself from the second module on.
const FAST_HASH: &str = if cfg!(target_arch = "aarch64") { "sha256_ce" } else { "sha256_ssse3" };

/// As `uname -m` has it.
const ARCH: &str = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };

/// Everything PID 1 does. Never returns: it becomes the real init, or reboots.
pub fn run(process: rt::Process) -> ! {
    let log = early::mounts();
    machine::set_urgent(true);
    // What PID 1 works by is never freed.
    let line: &'static PrivateLine = Box::leak(Box::new(PrivateLine::new(read_line())));
    let baked = baked::read();
    let defaults: Vec<&str> = baked.defaults.iter().map(String::as_str).collect();
    let context = cmdline::Context {
        arch: ARCH,
        defaults: &defaults,
        medium_uuid: &baked.medium_uuid,
        layerfs_path: &baked.layerfs_path,
        tls: false,
    };
    let mut plan = Box::new(cmdline::parse(line.reveal(), &context));
    plan.judge(HAS);
    let plan: &'static BootPlan = Box::leak(plan);
    rt::set_reboot_after(match plan.failure.then {
        OnFailure::Reboot(after) | OnFailure::Menu { retry_after: after } => Some(after.0),
        OnFailure::Halt => None,
    });
    let mut machine = prepare(log, Orders { plan, line, env: process.env().collect() });
    loop {
        machine.start_clock();
        let failed = attempt(&mut machine, plan);
        match failure::handle(&mut machine, &failed) {
            Next::Retry => machine.log.info("trying again"),
        }
    }
}

fn read_line() -> String {
    let bytes = sys::file::read_file("/proc/cmdline", MAX_LINE).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_string()
}

/// Sets the tone, and starts on the drivers.
fn prepare(mut log: Log, orders: Orders) -> Machine {
    let plan = orders.plan;
    if plan.log.debug {
        log.threshold = Level::Detail;
    } else if plan.log.quiet {
        log.threshold = Level::Warning;
    }
    log.detail(&format!("command line: {}", orders.line));
    // The failure screen says what is fatal.
    for warning in plan.warnings.iter().filter(|warning| !warning.fatal) {
        log.warn(&warning_text(warning));
    }
    let mut machine = Machine::new(log, orders, classes(plan));
    machine.limit(failure::out_of_time);
    #[cfg(feature = "full")]
    match crate::stuck::Watcher::start(plan.failure.then) {
        Ok(watcher) => machine.watcher = Some(watcher),
        Err(errno) => machine.log.warn(&format!(
            "no process watches for a wait that does not end: {}",
            sys::errno::Shown(errno)
        )),
    }
    if !plan.can_work() {
        // No disk and no network for a plan that is refused: keyboards, for the screen.
        machine.coldplug();
        return machine;
    }
    if machine.has(FAST_HASH) {
        machine.require(FAST_HASH);
    }
    for module in &plan.drivers.force {
        if !machine.require(module) {
            machine
                .log
                .warn(&format!("{module}: the line asks for this driver, and it cannot be loaded"));
        }
    }
    for module in likely_drivers(plan) {
        machine.require(module);
    }
    console::begin(&mut machine, "drivers");
    machine.coldplug();
    // While the hardware is being probed.
    for module in modules_for(&plan.writable) {
        machine.require(module);
    }
    for fs_type in likely_types(plan) {
        machine.require(&format!("fs-{fs_type}"));
    }
    machine
}

/// One try at the whole boot; what it set up is taken down when it fails.
fn attempt(machine: &mut Machine, plan: &BootPlan) -> Failure {
    if let Some(fatal) = plan.warnings.iter().find(|warning| warning.fatal) {
        let what = if fatal.word.is_empty() { "the plan" } else { &fatal.word };
        return Failure::new("make a plan of the line", what, &fatal.message).remedy(&fatal.hint);
    }
    let layout = layout::of(plan.handoff.layout);
    console::begin(machine, "network");
    if let Err(failed) = network::bring_up(machine, plan) {
        return failed;
    }
    if let Then::Clone(clone) = &plan.handoff.then {
        console::begin(machine, "source");
        return clone::receive(machine, plan, clone);
    }
    #[cfg(feature = "p2v")]
    if let Then::P2v(p2v) = &plan.handoff.then {
        console::begin(machine, "source");
        return crate::p2v::send(machine, p2v);
    }
    #[cfg(feature = "p2v")]
    if let Then::AskP2v = &plan.handoff.then {
        return crate::p2v_dialog::ask(machine);
    }
    let (target, read_write) = match &plan.writable {
        Writable::AsIs { read_write } => (ROOT.to_string(), *read_write),
        _ => (layers::tree_target(layout), false),
    };
    if HAS.has(Steps::STAY) && plan.stays() {
        console::begin(machine, "handoff");
        return handoff::stay(machine, plan);
    }
    console::begin(machine, "source");
    let mut found = match source::find(machine, plan, layout, &target, read_write) {
        Ok(found) => found,
        Err(failed) => {
            layers::undo(machine);
            return failed;
        }
    };
    console::begin(machine, "layers");
    let failed = match layers::stack(machine, plan, &mut found, layout) {
        Ok(ready) => {
            console::begin(machine, "handoff");
            handoff::hand_over(machine, plan, &found, &ready, layout)
        }
        Err(failed) => failed,
    };
    layers::undo(machine);
    failed
}

/// Which classes of drivers the plan can need at all. Keyboards come along: a
/// failure screen without keys is half a screen.
fn classes(plan: &BootPlan) -> Class {
    let mut classes = Class::BUS.union(Class::INPUT);
    if !plan.can_work() {
        return classes;
    }
    if plan.network.is_some() {
        classes = classes.union(Class::NET);
    }
    let disks =
        plan.root.sources.iter().any(Source::on_disk) || layers::keeps_on_disk(&plan.writable);
    let whole_disks = plan.handoff.then != Then::SwitchRoot;
    if disks || whole_disks || plan.network.is_none() {
        classes = classes.union(Class::STORAGE);
    }
    classes
}

/// Drivers that this plan will want for certain: in place before the controllers
/// are probed, they take their devices the moment these are found.
fn likely_drivers(plan: &BootPlan) -> &'static [&'static str] {
    match plan.root.sources.first() {
        Some(Source::Scan(rule)) if rule.optical => &["sr_mod"],
        _ => &[],
    }
}

/// File systems that this plan will meet for certain, or nearly so.
fn likely_types(plan: &BootPlan) -> &'static [&'static str] {
    match (&plan.root.content, plan.root.sources.first()) {
        (Content::Images(_) | Content::Either(_), Some(Source::Scan(_) | Source::Device(_))) => {
            &["iso9660", "squashfs"]
        }
        (Content::Images(_) | Content::Either(_), _) => &["squashfs"],
        _ => &[],
    }
}
