//! What every dialect shares: the kernel's and initramfs-tools' own words, drivers,
//! messages, failure and handoff.
//!
//! Follows the kernel's `kernel-parameters.txt` and initramfs-tools' `init`. What a
//! failed boot does is spelled out here for all dialects. Where a peer drops to a
//! prompt at a console that may have no user, the answer is a menu that tries again by
//! itself.

use alloc::string::String;
use alloc::vec::Vec;

use crate::kernel_words::KERNEL_WORDS;
use crate::plan::{
    BootPlan, Content, Dialect, DriverPlan, FailurePlan, Fate, Handoff, LogPlan, ModuleOption,
    OnFailure, Retry, RootPlan, Seconds, Then, ToRam, Writable,
};
use crate::table::{Draft, covers, listed, words};
use crate::text;
use crate::value;

words! { BASE, BASE_DOCS:
    "root" Text Soft "The root: a device, LABEL=, UUID=, PARTUUID=, PARTLABEL=, /dev/nfs, or a form of the dialect's own.";
    "rootfstype" Text Soft "File-system type of the root; found out when not given.";
    "rootflags" Text Soft "Mount options of the root.";
    "rootdelay" Number Soft "Seconds to keep looking for the root device.";
    "roottimeout" Number Soft "The same as rootdelay=.";
    "rootwait" OptText Soft "Keep looking for the root device for ever, or for this many seconds.";
    "ro" Flag Soft "Mount the root read-only (the default).";
    "rw" Flag Soft "Mount the root read-write.";
    "init" Text Soft "The program that takes over; /sbin/init and the other usual places when not given.";
    "panic" OptText Soft "After a failure: N above 0 reboots after N seconds, below 0 at once, 0 stays on the failure screen. Absent: a menu that tries again by itself. In the words of initramfs-tools (casper, live-boot, LTSP, the kernel) a number but 0 locks the console, as by bw.lock.";
    "quiet" Flag Soft "Only warnings and errors on the console.";
    "debug" OptText Soft "Everything on the console.";
    "blacklist" Text Keep "Modules that no device may pull in, separated by commas.";
    "modprobe.blacklist" Text Soft "The same as blacklist=.";
    "module_blacklist" Text Soft "The same; the kernel refuses them as well.";
    "break" OptText Keep "Stop at this point for a shell and the keys of the console (premount when no point is named).";
    "nofail" Flag Pass "For the live system.";
    "drop_capabilities" Text Idle "Left to the live system's init.";
    "resume" Text Pass "Where the machine was suspended to; never resumed from by a live boot.";
    "noresume" Flag Pass "No resuming; never done anyway.";
    "netconsole" Text Pass "Kernel messages over UDP; the netconsole module reads it.";
    "fastboot" Flag Pass "For the live system's fsck.";
    "forcefsck" Flag Pass "For the live system's fsck.";
    "fsckfix" Flag Pass "For the live system's fsck.";
    "fsck.*" Text Pass "For the live system's fsck.";
    "initramfs.runsize" Text Pass "Size of /run in initramfs-tools; here it takes what it needs.";
    "initramfs.clear" Flag Pass "Clears the screen of initramfs-tools; without effect.";
    "ubi.mtd" Text Pass "The ubi module reads it.";
    "loop" Text Soft "The root is this file on the file system that root= names.";
    "loopfstype" Text Soft "File-system type inside the file of loop=.";
    "loopflags" Text Soft "Mount options for the file of loop=.";
}

/// Words that init itself takes as arguments (`init(8)`, `systemd(1)`).
const INIT_ARGS: &str = "single s S emergency rescue 1 2 3 4 5 -b -s -a auto";

/// Prefixes of `prefix.word=value` that name no module.
const NOT_MODULES: &str = "systemd. rd. bw. udev. net. fsck. luks. inst. live-config. live. \
    nbd. ltsp. bootchart. plymouth. vconsole. locale. sysctl. kernel. cgroup. random. printk. initramfs. mount. modprobe. loop. \
    debian-installer. netcfg. live-boot. dolly. ubi. BOOT.";

/// Most modules, options or arguments that are taken from one line.
const MAX_ITEMS: usize = 512;

/// Pause before the failure menu tries again.
pub(crate) const MENU_RETRY: Seconds = Seconds(30);

/// A plan in which everything is done that the base words ask for, and no root is
/// chosen yet.
pub(crate) fn plan(d: &mut Draft<'_>) -> BootPlan {
    let read_write = read_write(d);
    BootPlan {
        dialect: d.grammar.dialect,
        log: log(d),
        drivers: drivers(d),
        network: None,
        root: RootPlan {
            sources: Vec::new(),
            content: Content::Tree {
                subdir: String::new(),
                fstype: String::new(),
                flags: String::new(),
            },
            retry: rounds(60, 1),
            attempt_timeout: None,
            to_ram: ToRam::No,
            extra_dirs: Vec::new(),
            only: String::new(),
            except: String::new(),
            integrity: Vec::new(),
            protect: Vec::new(),
        },
        writable: Writable::AsIs { read_write },
        handoff: handoff(d),
        failure: failure(d),
        words: Vec::new(),
        warnings: Vec::new(),
    }
}

/// A number of rounds with an even pause.
pub(crate) fn rounds(attempts: u32, pause: u32) -> Retry {
    Retry { attempts, pause: Seconds(pause), max_pause: Seconds(pause) }
}

/// Whichever of `ro` and `rw` comes last.
pub(crate) fn read_write(d: &mut Draft<'_>) -> bool {
    d.get_any(&["ro", "rw"]).is_some_and(|(name, _)| name == "rw")
}

fn log(d: &mut Draft<'_>) -> LogPlan {
    let debug = d.has("debug") | d.has("bw.debug");
    LogPlan { quiet: d.has("quiet") && !debug, debug }
}

fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

fn drivers(d: &mut Draft<'_>) -> DriverPlan {
    let mut plan = DriverPlan::default();
    for name in &["blacklist", "modprobe.blacklist", "module_blacklist"] {
        for module in d.list(name) {
            let module = module_name(&module);
            if plan.blacklist.len() < MAX_ITEMS && !plan.blacklist.contains(&module) {
                plan.blacklist.push(module);
            }
        }
    }
    let tokens: Vec<_> = d.tokens().collect();
    for token in &tokens {
        let Some((module, param)) = token.name.split_once('.') else { continue };
        let is_option = !module.is_empty()
            && !param.is_empty()
            && !NOT_MODULES.split_ascii_whitespace().any(|p| token.name.starts_with(p))
            && module.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            && d.grammar.find(token.name).is_none()
            && !listed(d.grammar.pass, token.name);
        if is_option && plan.options.len() < MAX_ITEMS {
            let mut option = String::from(param);
            if let Some(value) = token.value {
                option.push('=');
                option.push_str(value);
            }
            plan.options.push(ModuleOption { module: module_name(module), option });
            d.mark(Fate::Used, |t| t == token);
        }
    }
    plan
}

fn failure(d: &mut Draft<'_>) -> FailurePlan {
    let mut then = OnFailure::Menu { retry_after: MENU_RETRY };
    if let Some(value) = d.get("panic") {
        then = match value.parse::<i64>() {
            Ok(0) => OnFailure::Halt,
            Ok(n) if n < 0 => OnFailure::Reboot(Seconds(0)),
            Ok(n) => OnFailure::Reboot(Seconds(u32::try_from(n).unwrap_or(u32::MAX))),
            Err(_) => {
                // initramfs-tools stops for ever here, which no typing error means.
                d.warn_word(
                    "panic",
                    value,
                    &(
                        "is not a number of seconds; the failure menu is used",
                        "panic=30 reboots after 30 seconds",
                    ),
                );
                then
            }
        };
    }
    let mut breakpoints = Vec::new();
    for value in d.all("break") {
        breakpoints.extend(value::list(if value.is_empty() { "premount" } else { value }));
    }
    // initramfs-tools(7) names it a feature for security: it disables the debug shell.
    let with_initramfs_tools = [Dialect::Kernel, Dialect::Casper, Dialect::LiveBoot, Dialect::Ltsp];
    let locked =
        matches!(then, OnFailure::Reboot(_)) && with_initramfs_tools.contains(&d.grammar.dialect);
    FailurePlan { then, deadline: None, breakpoints, locked }
}

/// Names breakpoints that no boot reaches.
#[cfg(feature = "all")]
pub(crate) fn check_points(d: &mut Draft<'_>, plan: &BootPlan) {
    for name in &plan.failure.breakpoints {
        if crate::plan::point(name).is_none() {
            d.warn_word(
                "break",
                name,
                &("is no point that a boot stops at", "premount, mount, bottom or init"),
            );
        }
    }
}

/// Arguments of the real init.
///
/// The kernel gives PID 1 what follows `--` and every earlier word that it does not
/// know itself and that has neither `.` nor `=`; peers hand all of that on. Handed
/// on here are the same, minus words that some dialect or the list above knows:
/// those are settings that their readers take from `/proc/cmdline`, and a program
/// given as `init=/bin/sh` would trip over them.
fn handoff(d: &mut Draft<'_>) -> Handoff {
    let mut args = Vec::new();
    let tokens: Vec<_> = d.tokens().collect();
    for token in &tokens {
        if token.value.is_some() || token.name.is_empty() {
            continue;
        }
        // Where a dialect has the word itself (stage1's `rescue`), it is the dialect's.
        let known =
            d.grammars.iter().any(|g| g.find(token.name).is_some() || listed(g.pass, token.name));
        let own = d.grammar.find(token.name).is_some() || listed(d.grammar.pass, token.name);
        let for_init = listed(INIT_ARGS, token.name) && !own;
        let unknown = !token.name.contains('.') && !known && !listed(KERNEL_WORDS, token.name);
        if for_init {
            d.mark(Fate::PassedOn, |t| t == token);
        }
        if (for_init || unknown) && args.len() < MAX_ITEMS && !args.contains(&token.text()) {
            args.push(token.text());
        }
    }
    args.extend(d.init_args.iter().map(|token| token.text()));
    let settings = d.settings();
    Handoff {
        layout: d.grammar.dialect,
        init: d.text("init"),
        args,
        keep_fstab: false,
        keep_network: false,
        resolv_conf: true,
        settings,
        show_layers: false,
        medium_at: None,
        swap: Vec::new(),
        then: Then::SwitchRoot,
    }
}

/// Says once what a boot loader left unfilled: `${net0/mac}`, `${iso_path}`.
pub(crate) fn unfilled(d: &mut Draft<'_>) {
    let tokens: Vec<_> = d.tokens().collect();
    for token in tokens {
        let value = token.value.unwrap_or(token.name);
        let archiso = covers("archiso_*", token.name) && text::has(value, "${pxeserver}");
        if text::has(value, "${") && !archiso {
            d.warn(
                &token.text(),
                &(
                    "holds a variable that the boot loader did not fill in",
                    "check the loader's script: the variable is unset or misspelt there",
                ),
            );
        }
    }
}
