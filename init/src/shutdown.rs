//! What happens after the live system's services have stopped: the root is taken
//! down in the order in which it was put together, which the live system cannot do
//! while it stands on it.
//!
//! systemd's interface (INITRD_INTERFACE): when `/run/initramfs/shutdown` can be
//! executed, systemd-shutdown makes `/run/initramfs` the root, with the live
//! system's at `/oldroot`, and starts `/shutdown VERB` as PID 1. This program is
//! copied there, and is that. File systems go first, whatever lies on another before
//! it; then device-mapper; loop devices go with their last user; then NBD. The
//! network stays up until the machine goes down.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use cmdline::BootPlan;
use cmdline::plan::{Source, Writable};
use cmdline::text::swap;
use coldplug::sysfs::names;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags, mount_move, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};
use rustix::thread::{Timespec, nanosleep};
use sys::errno::Shown;
use sys::file::{exists, make_dir, read_file};
use sys::netlink::{Arguments, Generic};

use crate::copy::{self, Progress};
use crate::log::Log;
use crate::machine::Machine;

/// The name that systemd starts it by.
pub const NAME: &CStr = c"/shutdown";

/// Where it is put.
const PLACE: &str = "/run/initramfs";

/// Where file systems wait that others must go before.
const ASIDE: &str = "/aside";

/// Rounds over what is mounted; each round can free what the next takes down.
const ROUNDS: u32 = 24;

/// Rounds of those that may free nothing, 50 ms each.
const PATIENT_ROUNDS: u32 = 10;

/// However long a server that is gone keeps its file system busy: a machine that is
/// told to go down goes down.
const LIMIT_SECONDS: i64 = 60;

/// Longest table of mounts read.
const MAX_MOUNTS: usize = 256 << 10;

/// What the kernel itself mounts; never taken down.
const KERNEL: &[&str] = &["/", "/proc", "/sys", "/dev", "/run"];

/// Puts this program where systemd looks for it, when the root is more than a file
/// system on a disk, which systemd takes down by itself.
pub fn prepare(machine: &mut Machine, plan: &BootPlan) {
    let plain = matches!(plan.writable, Writable::AsIs { .. })
        && plan.root.sources.iter().all(|source| matches!(source, Source::Device(_)));
    let place = format!("{PLACE}/shutdown");
    if plain || exists(&place) {
        return;
    }
    let put = make_dir(PLACE, 0o755).map_err(|errno| (place.clone(), errno)).and_then(|()| {
        let mut progress = Progress::new("the shutdown program", 0);
        copy::file(&mut machine.log, "/proc/self/exe", &place, &mut progress)
    });
    let mode = Mode::from_raw_mode(0o755);
    let put = put.and_then(|()| {
        rustix::fs::chmod(place.as_str(), mode).map_err(|errno| (place.clone(), errno))
    });
    if let Err((path, errno)) = put {
        machine.log.warn(&format!("no tidy shutdown of the root: {path}: {}", Shown(errno)));
    }
}

/// Takes everything down, and does what the verb says.
pub fn run(mut args: impl Iterator<Item = &'static CStr>) -> ! {
    let verb = args.next().map(CStr::to_bytes).unwrap_or_default();
    let command = command(verb);
    // Whatever hangs, the machine goes down.
    let limit = sys::process::fork(|| {
        // An early end of the sleep, or a refusal, leaves it to the process that forked.
        let _ = nanosleep(&Timespec { tv_sec: LIMIT_SECONDS, tv_nsec: 0 });
        let _ = reboot(command);
        1
    });
    let mut log = Log::open();
    take_down(&mut log);
    drop(limit);
    rustix::fs::sync();
    log.info(&format!("root taken down after {}", log.elapsed()));
    if let Err(errno) = reboot(command) {
        // The verb needs what is not there (kexec without a kernel).
        log.warn(&format!("restarting: the kernel refuses the verb: {}", Shown(errno)));
    }
    // Nothing is left that could be done about a refusal.
    let _ = reboot(RebootCommand::Restart);
    sys::process::exit(1)
}

fn command(verb: &[u8]) -> RebootCommand {
    match verb {
        b"poweroff" => RebootCommand::PowerOff,
        b"halt" => RebootCommand::Halt,
        b"kexec" => RebootCommand::Kexec,
        _ => RebootCommand::Restart,
    }
}

fn take_down(log: &mut Log) {
    let mut stuck: Vec<(String, String)> = Vec::new();
    let mut aside_count = 0;
    // The kernel's own, whose users (the one that watches a snapshot) hold no file of
    // the root.
    for kernel in ["/oldroot/dev", "/oldroot/proc", "/oldroot/sys"] {
        if let Err(errno) = unmount(kernel, UnmountFlags::DETACH) {
            log.detail(&format!("{kernel} stays mounted: {}", Shown(errno)));
        }
    }
    for round in 0..ROUNDS {
        let before = mounted();
        stuck.clear();
        for target in before.iter().rev() {
            if let Err(errno) = unmount(target.as_str(), UnmountFlags::empty()) {
                // What an image lies on is in use by the root that it is mounted in:
                // out of its way, so that the root can go first.
                let aside = format!("{ASIDE}/{aside_count}{}", swap(target, "/", "-"));
                if target.starts_with("/oldroot/")
                    && make_dir(&aside, 0o755).is_ok()
                    && mount_move(target.as_str(), aside.as_str()).is_ok()
                {
                    aside_count += 1;
                    stuck.push((aside, Shown(errno).to_string()));
                } else {
                    stuck.push((target.clone(), Shown(errno).to_string()));
                }
            }
        }
        remove_mappings(&mut stuck);
        if stuck.is_empty() {
            break;
        }
        // What is written to stays whole even where it cannot be let go.
        if round > 2 && mounted().len() == before.len() {
            for (target, _) in &stuck {
                // It is among those that are named in the end.
                let _ = mount_remount(target.as_str(), MountFlags::RDONLY, "");
            }
        }
        if mounted().len() == before.len() {
            if round > 3 + PATIENT_ROUNDS {
                break;
            }
            // The kernel lets a loop device go only after its last user; a shorter sleep
            // uses up a round.
            let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
        }
    }
    for (what, why) in &stuck {
        log.warn(&format!("{what} cannot be taken down: {why}"));
        // The last attempt; that it is stuck was said.
        let _ = unmount(what.as_str(), UnmountFlags::DETACH);
    }
    disconnect_nbd();
}

/// What is mounted besides the kernel's own file systems, in the order of mounting.
fn mounted() -> Vec<String> {
    let text = read_file("/proc/self/mounts", MAX_MOUNTS).unwrap_or_default();
    targets(&String::from_utf8_lossy(&text))
}

fn targets(mounts: &str) -> Vec<String> {
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    targets
        .map(|target| swap(target, "\\040", " "))
        .filter(|target| !KERNEL.contains(&target.as_str()))
        // Below these, the kernel's only: /dev/pts, /sys/kernel/debug.
        .filter(|target| !["/proc/", "/sys/", "/dev/"].iter().any(|base| target.starts_with(base)))
        .collect()
}

/// Removes every device-mapper device that is no longer in use.
fn remove_mappings(stuck: &mut Vec<(String, String)>) {
    let Ok(control) = sys::dm::Control::open() else { return };
    for device in names("/sys/class/block").unwrap_or_default() {
        let Ok(name) = read_file(&format!("/sys/class/block/{device}/dm/name"), 256) else {
            continue;
        };
        let name = String::from_utf8_lossy(&name).trim().to_string();
        if let Err(errno) = control.remove(&name, false) {
            stuck.push((format!("/dev/mapper/{name}"), Shown(errno).to_string()));
        }
    }
}

/// Says goodbye to NBD servers, which otherwise wait for us.
fn disconnect_nbd() {
    const DISCONNECT: u8 = 2;
    const INDEX: u16 = 1;
    let Ok(mut kernel) = Generic::open("nbd") else { return };
    for device in names("/sys/class/block").unwrap_or_default() {
        let index = device.strip_prefix("nbd").and_then(|index| index.parse().ok());
        let busy = format!("/sys/class/block/{device}/pid");
        if let Some(index) = index
            && exists(&busy)
        {
            // The kernel drops the connection anyway when the machine goes down.
            let _ = kernel.command(DISCONNECT, 1, &Arguments::default().u32(INDEX, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_own_file_systems_stay() {
        let mounts = "tmpfs / tmpfs rw 0 0\noverlay /oldroot overlay rw 0 0\n\
                      proc /proc proc rw 0 0\ndevpts /dev/pts devpts rw 0 0\ntmpfs /run tmpfs rw 0 0\n\
                      10.0.0.1:/x /oldroot/mnt\\040x nfs ro 0 0\n/dev/sr0 /live iso9660 ro 0 0\n";
        assert_eq!(targets(mounts), ["/oldroot", "/oldroot/mnt x", "/live"]);
    }

    #[test]
    fn verbs() {
        assert_eq!(command(b"poweroff"), RebootCommand::PowerOff);
        assert_eq!(command(b"kexec"), RebootCommand::Kexec);
        assert_eq!(command(b"reboot"), RebootCommand::Restart);
    }
}
