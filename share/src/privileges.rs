//! Gives up root, and everything else that serving does not need.
//!
//! Two steps, because a program that parses media has other needs than one that serves them:
//!
//! 1. [`drop_root`], after the ports are bound and everything that is shared is open, and before
//!    anything from outside is parsed: a user of its own, no capability, no way to gain one.
//! 2. [`confine`], after the boot-loader tools ran and before the first client is answered: a list
//!    of the system calls that serving needs. All others fail with EPERM.

use crate::beneath::Directory;
use crate::error::Error;
use nix::libc;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchdir, fchown, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The first number that `share` tries to run as: between the 16-bit numbers (with `nobody` and
/// systemd's dynamic users) and 100000, where the ranges of containers begin. A process under it
/// can touch no file and no other process of the machine.
const OWN: u32 = 72_355;
/// Numbers tried from [`OWN`] on, until one belongs to no account.
const TRIED: u32 = 16;
/// The user `nobody`, in containers that have no number above 65535.
const UNMAPPED: u32 = 65_534;

/// Makes sure that this thread and those that it will start can gain nothing: no program that they
/// start has more rights than they. Takes nothing away from them. Call it before the first thread
/// of a process that will serve.
///
/// # Errors
/// [`Error::System`] when the kernel refuses.
pub fn renounce() -> Result<(), Error> {
    let kernel = |e: rustix::io::Errno| Error::system("give up the way to root's powers")(e.into());
    set_no_new_privs(true).map_err(kernel)?;
    // The ambient set follows the inheritable one.
    let now = capabilities(None).map_err(kernel)?;
    let inherited = CapabilitySets { inheritable: CapabilitySet::empty(), ..now };
    set_capabilities(None, inherited).map_err(kernel)?;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            // A user without the capability to do so: no_new_privs has the same effect.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            // This kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(kernel(e)),
        }
    }
    Ok(())
}

/// Becomes a user of its own without any capability, in this thread and those that it will
/// start. A process of another user than root keeps its user. `state`, its `settings` and the
/// files in these are given to the new user and closed to all others; it is made if it does not
/// exist. Returns the path under which the new user has it.
///
/// # Errors
/// [`Error::System`] when the kernel refuses: the session must not serve as root.
/// [`Error::Medium`] when `state` holds files of others.
pub fn drop_root(state: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let doing = || Error::system("give up root's powers");
    let system = |e: nix::errno::Errno| doing()(e.into());
    renounce()?;
    let mut place = state.map(Path::to_owned);
    if geteuid().is_root() {
        // setresgid says whether this container has the number at all.
        let mut id = own_number();
        if setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id)).is_err() {
            id = UNMAPPED;
            let group = Gid::from_raw(id);
            setresgid(group, group, group).map_err(system)?;
        }
        let user = Uid::from_raw(id);
        if let Some(state) = state {
            let whole = give_state(state, user, Gid::from_raw(id))?;
            place = Some(whole);
        }
        setgroups(&[]).map_err(system)?;
        setresuid(user, user, user).map_err(system)?;
        // The way to the directory may be closed to the new user, who is in it already.
        place = place.map(|whole| if whole.exists() { whole } else { ".".into() });
    }
    // What it makes from now on is for itself.
    umask(Mode::from_bits_truncate(0o077));
    keep_no_capability()?;
    Ok(place)
}

/// Gives up the capabilities of a thread of another user than root, who may have got some to bind
/// ports. They are each thread's own: those that start before [`drop_root`] call this themselves.
/// Root's threads lose theirs with the user, which the C library changes in all of them.
///
/// # Errors
/// [`Error::System`] when the kernel refuses.
pub fn keep_no_capability() -> Result<(), Error> {
    if geteuid().is_root() {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(|e| Error::system("give up capabilities")(e.into()))
}

/// A number that belongs to no account of this machine.
fn own_number() -> u32 {
    // Not getpwuid: this program may be static, and would load the C library's plug-ins as root.
    free_number(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
}

fn free_number(accounts: &str) -> u32 {
    let number = |line: &str| line.split(':').nth(2)?.parse().ok();
    let taken = |id: &u32| accounts.lines().any(|line| number(line) == Some(*id));
    (OWN..OWN + TRIED).find(|id| !taken(id)).unwrap_or(UNMAPPED)
}

/// Gives the state directory and what is in it to a user, and changes into it.
fn give_state(state: &Path, user: Uid, group: Gid) -> Result<PathBuf, Error> {
    if let Some(above) = state.parent() {
        std::fs::create_dir_all(above).map_err(Error::write(above))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(state) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::write(state)(e)),
        _ => {}
    }
    let whole = state.canonicalize().map_err(Error::read(state))?;
    let directory = Directory::open(&whole)?;
    let names = names(&directory).map_err(Error::read(&whole))?;
    // A draft of the leases may be left over.
    let ours =
        |name: &str| name == "settings" || name.trim_start_matches('.').starts_with("leases-");
    if let Some(other) = names.iter().find(|name| !ours(name)) {
        return Err(Error::Medium {
            why: format!(
                "{} is to be closed to other users and also holds {other:?}: name a directory \
                 for this server alone with --state",
                whole.display()
            ),
        });
    }
    if names.iter().any(|name| name == "settings") {
        let at = whole.join("settings");
        let give = || {
            let below = directory.directory(Path::new("settings"))?;
            let names = self::names(&below)?;
            give_files(&below, &names, user, group)
        };
        give().map_err(Error::write(&at))?;
    }
    give_files(&directory, &names, user, group).map_err(Error::write(&whole))?;
    fchdir(&directory).map_err(|e| Error::write(&whole)(e.into()))?;
    Ok(whole)
}

/// Gives a directory and its regular files to a user, closed to all others.
fn give_files(directory: &Directory, names: &[String], user: Uid, group: Gid) -> io::Result<()> {
    let give = |file: File, mode| {
        fchown(&file, Some(user), Some(group))?;
        file.set_permissions(Permissions::from_mode(mode))
    };
    for name in names {
        // Links and pipes are not ours; a second name of a file may be anyone's.
        let Ok(file) = directory.file(Path::new(name)) else { continue };
        if file.metadata()?.nlink() == 1 {
            give(file, 0o600)?;
        }
    }
    give(directory.as_fd().try_clone_to_owned()?.into(), 0o700)
}

fn names(directory: &Directory) -> io::Result<Vec<String>> {
    let entries = rustix::fs::Dir::read_from(directory)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: io::Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name != "." && name != "..").collect())
}

/// The system calls of a server that has everything open, without conditions. The C library and
/// the standard library make most of them.
const CALLS: &[libc::c_long] = &[
    // Files and directories.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_utimensat,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    // Sockets that are open, and datagrams.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The process about itself.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// The older forms of these, which other processors never had.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

/// One condition on an argument.
#[derive(Clone, Copy)]
enum Only {
    /// The argument is this number; an int, whose upper half may hold anything.
    Is(u64),
    /// These of its lower 32 bits have this value.
    Bits(u64, u64),
    /// The argument is the null pointer.
    Null,
}

/// Calls that serving needs in one form: call, and for each form its arguments by number. A call
/// may be in several rows.
const FORMS: &[(libc::c_long, &[(u8, Only)])] = &[
    // TFTP has a port for each transfer. No new TCP connection goes out.
    (libc::SYS_socket, &[(0, Only::Is(AF_INET)), (1, Only::Bits(0xf, SOCK_DGRAM))]),
    // The view's signals.
    (libc::SYS_socketpair, &[(0, Only::Is(AF_UNIX))]),
    // Threads, and no processes.
    (libc::SYS_clone, &[(0, Only::Bits(CLONE_THREAD, CLONE_THREAD))]),
    // No memory that is code.
    (libc::SYS_mmap, &[(2, Only::Bits(PROT_EXEC, 0))]),
    (libc::SYS_mprotect, &[(2, Only::Bits(PROT_EXEC, 0))]),
    // A thread's name.
    (libc::SYS_prctl, &[(0, Only::Is(PR_SET_NAME))]),
    // Limits are read and not set.
    (libc::SYS_prlimit64, &[(2, Only::Null)]),
];

/// What may be asked of a descriptor by ioctl: not to wait, and a terminal's size and modes.
const REQUESTS: &[libc::Ioctl] = &[
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONREAD,
    libc::TIOCGWINSZ,
    libc::TCGETS,
    libc::TCSETS,
    libc::TCSETSW,
    libc::TCSETSF,
    libc::TCGETS2,
    libc::TCSETS2,
    libc::TCSETSW2,
    libc::TCSETSF2,
];

const AF_UNIX: u64 = libc::AF_UNIX as u64;
const AF_INET: u64 = libc::AF_INET as u64;
const SOCK_DGRAM: u64 = libc::SOCK_DGRAM as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const PR_SET_NAME: u64 = libc::PR_SET_NAME as u64;

/// Limits this process, in all its threads, to the calls that serving needs. No program can be
/// started afterwards.
///
/// # Errors
/// What the kernel or the processor lacks, in words: the session works without.
pub fn confine() -> Result<(), String> {
    for program in programs().map_err(|e| e.to_string())? {
        seccompiler::apply_filter_all_threads(&program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The filters; the strictest answer counts.
fn programs() -> Result<[BpfProgram; 2], BackendError> {
    let program = |rules, otherwise, matched| -> Result<BpfProgram, BackendError> {
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
    };
    // The flags of clone3 are in memory, where no filter looks. Without it the C library uses clone.
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    Ok([
        program(clone3, SeccompAction::Allow, absent)?,
        program(rules()?, refused, SeccompAction::Allow)?,
    ])
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().chain(OLD_CALLS).map(|call| (*call, Vec::new())).collect();
    for (call, conditions) in FORMS {
        let conditions = conditions.iter().map(|(argument, only)| {
            let (length, operator, value) = match only {
                Only::Is(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value),
                Only::Bits(bits, value) => {
                    (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(*bits), *value)
                }
                Only::Null => (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
            };
            SeccompCondition::new(*argument, length, operator, value)
        });
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        rules.entry(*call).or_default().push(rule);
    }
    for request in REQUESTS {
        let is = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(*request as u32),
        )?;
        rules.entry(libc::SYS_ioctl).or_default().push(SeccompRule::new(vec![is])?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    const CHILD: &str = "BELLWETHER_TEST_CONFINED";

    /// The list holds for a whole process: this test runs itself again as one.
    #[test]
    fn calls_outside_of_the_list_are_refused() {
        if std::env::var_os(CHILD).is_some() {
            return confined();
        }
        let name = "privileges::tests::calls_outside_of_the_list_are_refused";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args([name, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success() && said.contains("all refused"), "{said}");
    }

    /// The state directory of the child.
    const STATE: &str = "BELLWETHER_TEST_STATE";

    /// Root is given up for a whole process: this test runs itself again as one, for each state
    /// directory that it may find.
    #[test]
    fn nothing_is_left_of_root_and_the_state_is_its_own() {
        if let Some(state) = std::env::var_os(STATE) {
            return without_root(Path::new(&state));
        }
        let name = "privileges::tests::nothing_is_left_of_root_and_the_state_is_its_own";
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "root's").unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o604)).unwrap();
        // The user number OWN may find its way to the third alone.
        for (above, names) in [
            ("closed", &["settings/", "leases-eth0", "settings/a.img"][..]),
            ("draft", &[".leases-eth0.new"]),
            ("open", &[]),
        ] {
            let state = dir.path().join(above).join("state");
            for made in names {
                let at = state.join(made);
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                if made.ends_with('/') {
                    std::fs::create_dir_all(&at).unwrap();
                    std::fs::hard_link(&secret, at.join("hard")).unwrap();
                    std::os::unix::fs::symlink(&secret, at.join("soft")).unwrap();
                } else {
                    std::fs::write(&at, "kept").unwrap();
                    std::fs::set_permissions(&at, Permissions::from_mode(0o666)).unwrap();
                }
            }
            let open = if above == "open" { 0o755 } else { 0o700 };
            std::fs::set_permissions(dir.path(), Permissions::from_mode(open)).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args([name, "--exact", "--nocapture"]).env(STATE, &state).output();
            let child = child.unwrap();
            let said = String::from_utf8_lossy(&child.stdout).into_owned();
            assert!(child.status.success() && said.contains("nothing left"), "{above}: {said}");
            if !geteuid().is_root() {
                continue;
            }
            let id = own_number();
            let closed = |path: &Path, mode: u32| {
                let about = std::fs::symlink_metadata(path).unwrap();
                let found = (about.uid(), about.gid(), about.mode() & 0o7777);
                assert_eq!(found, (id, id, mode), "{}", path.display());
            };
            closed(&state, 0o700);
            closed(&state.join("made"), 0o600);
            for name in names {
                closed(&state.join(name), if name.ends_with('/') { 0o700 } else { 0o600 });
            }
            let about = secret.metadata().unwrap();
            assert_eq!((about.uid(), about.mode() & 0o7777), (0, 0o604), "{above}");
        }
        // A directory with other things is refused, and so is one that cannot be made.
        if geteuid().is_root() {
            let (user, group) = (Uid::from_raw(OWN), Gid::from_raw(OWN));
            let why = give_state(dir.path(), user, group).unwrap_err();
            assert!(matches!(why, Error::Medium { .. }), "{why}");
            assert_eq!(dir.path().metadata().unwrap().uid(), 0);
            assert!(give_state(&secret, user, group).is_err());
            assert_eq!(secret.metadata().unwrap().uid(), 0);
            let long = dir.path().join("n".repeat(300));
            let why = give_state(&long, user, group).unwrap_err().to_string();
            let wanted = Error::write(&long)(Errno::ENAMETOOLONG.into()).to_string();
            assert_eq!(why, wanted, "what failed is said");
        }
    }

    fn without_root(state: &Path) {
        let of = |name: &str| {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let root = geteuid().is_root();
        if root {
            // What its parent made inheritable is none of its own.
            let now = capabilities(None).unwrap();
            let inherited = CapabilitySets { inheritable: now.permitted, ..now };
            set_capabilities(None, inherited).unwrap();
            assert_eq!(of("CapInh:"), of("CapPrm:"));
            renounce().unwrap();
            assert_eq!(of("CapInh:"), "0000000000000000");
            assert_ne!(of("CapPrm:"), "0000000000000000", "nothing is taken away");
        }
        let place = drop_root(root.then_some(state)).unwrap();
        assert_eq!(of("NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(of(set), "0000000000000000", "{set}");
        }
        if root {
            let id = own_number().to_string();
            assert_eq!(of("CapBnd:"), "0000000000000000");
            assert_eq!(of("Groups:"), "");
            assert_eq!((of("Uid:"), of("Gid:")), ([&*id; 4].join(" "), [&*id; 4].join(" ")));
            let whole = state.exists();
            assert_eq!(whole, state.parent().unwrap().ends_with("open"));
            let wanted = if whole { state.canonicalize().unwrap() } else { ".".into() };
            assert_eq!(place.as_deref(), Some(&*wanted));
            std::fs::write(wanted.join("made"), "").unwrap();
        } else {
            assert_eq!(place, None);
        }
        println!("nothing left");
    }

    /// A service manager gives them, for example to bind ports.
    #[test]
    fn a_user_s_capabilities_are_given_up_like_root_s() {
        const KEPT: &str = "BELLWETHER_TEST_KEPT";
        let name = "privileges::tests::a_user_s_capabilities_are_given_up_like_root_s";
        if std::env::var_os(KEPT).is_none() {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args([name, "--exact", "--nocapture"]).env(KEPT, "1").output();
            let child = child.unwrap();
            let said = String::from_utf8_lossy(&child.stdout).into_owned();
            assert!(child.status.success() && said.contains("none kept"), "{said}");
            return;
        }
        if geteuid().is_root() {
            rustix::thread::set_keep_capabilities(true).unwrap();
            let user = Uid::from_raw(own_number());
            setresuid(user, user, user).unwrap();
            assert!(!capabilities(None).unwrap().permitted.is_empty());
        }
        assert_eq!(drop_root(None).unwrap(), None);
        let left = capabilities(None).unwrap();
        assert!((left.permitted | left.effective | left.inheritable).is_empty(), "{left:?}");
        println!("none kept");
    }

    fn confined() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        confine().unwrap();
        let denied = |what: &str, error: io::Error| {
            assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), "{what}: {error}");
        };
        denied("execve", Command::new("/bin/true").exec());
        denied("fork", Command::new("/bin/true").spawn().unwrap_err());
        denied("TCP socket", std::net::TcpStream::connect("127.0.0.1:9").unwrap_err());
        denied("link", std::fs::hard_link(&file, dir.path().join("other")).unwrap_err());
        denied("symlink", std::os::unix::fs::symlink(&file, dir.path().join("other")).unwrap_err());
        denied("chown", chown_self(&file).unwrap_err());
        let none: Option<&str> = None;
        for (what, refused) in [
            ("mount", nix::mount::mount(none, "/", none, nix::mount::MsFlags::MS_REMOUNT, none)),
            ("ptrace", nix::sys::ptrace::traceme()),
            ("chroot", nix::unistd::chroot("/")),
            ("setuid", setresuid(Uid::current(), Uid::current(), Uid::current())),
            ("setgroups", setgroups(&[])),
            ("unshare", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
            ("kill", nix::sys::signal::kill(nix::unistd::getppid(), None)),
        ] {
            denied(what, refused.unwrap_err().into());
        }
        for family in [AddressFamily::Packet, AddressFamily::Netlink, AddressFamily::Unix] {
            let made = socket(family, SockType::Datagram, SockFlag::empty(), None);
            denied("socket", made.unwrap_err().into());
        }
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), None);
        denied("raw socket", raw.unwrap_err().into());
        // What serving does goes on.
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        drop(dir);
        println!("all refused");
    }

    fn chown_self(file: &Path) -> io::Result<()> {
        std::os::unix::fs::chown(file, None, None)
    }

    /// What a filter answers to a call: classic BPF, as far as the compiler uses it
    /// (linux/filter.h).
    fn answer(program: &BpfProgram, call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = vec![call as u32, arch, 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut a) = (0, 0);
        loop {
            let op = &program[at];
            let jump = |holds: bool| usize::from(if holds { op.jt } else { op.jf });
            at += 1;
            match op.code {
                0x20 => a = data[op.k as usize / 4],
                0x54 => a &= op.k,
                0x05 => at += op.k as usize,
                0x15 => at += jump(a == op.k),
                0x25 => at += jump(a > op.k),
                0x35 => at += jump(a >= op.k),
                0x45 => at += jump(a & op.k != 0),
                0x06 => return op.k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn each_call_has_the_forms_that_serving_needs() {
        use libc::*;
        const ALLOWED: u32 = 0x7fff_0000;
        let [clone3, list] = programs().unwrap();
        let allows = |call, arguments| {
            let answers = [answer(&clone3, call, arguments), answer(&list, call, arguments)];
            assert!(answers.iter().all(|a| *a == ALLOWED || *a >> 16 == 5), "{answers:x?}");
            answers == [ALLOWED; 2]
        };
        let high = 1 << 32;
        let (inet, datagram) = (AF_INET as u64, SOCK_DGRAM as u64);
        let thread = (CLONE_THREAD | CLONE_VM) as u64;
        let (read_write, execute) = ((PROT_READ | PROT_WRITE) as u64, PROT_EXEC as u64);
        for (call, arguments, wanted) in [
            (SYS_read, [0; 6], true),
            (SYS_openat2, [0; 6], true),
            (SYS_socket, [inet, datagram | SOCK_CLOEXEC as u64, 0, 0, 0, 0], true),
            (SYS_socket, [inet, SOCK_STREAM as u64, 0, 0, 0, 0], false),
            (SYS_socket, [inet, SOCK_RAW as u64, 0, 0, 0, 0], false),
            (SYS_socket, [AF_NETLINK as u64, datagram, 0, 0, 0, 0], false),
            (SYS_socketpair, [AF_UNIX as u64, datagram, 0, 0, 0, 0], true),
            (SYS_socketpair, [inet, datagram, 0, 0, 0, 0], false),
            (SYS_clone, [thread, 0, 0, 0, 0, 0], true),
            (SYS_clone, [SIGCHLD as u64, 0, 0, 0, 0, 0], false),
            (SYS_clone3, [0; 6], false),
            (SYS_mmap, [0, 4096, read_write, 0, 0, 0], true),
            (SYS_mmap, [0, 4096, read_write | execute, 0, 0, 0], false),
            (SYS_mprotect, [0, 4096, read_write, 0, 0, 0], true),
            (SYS_mprotect, [0, 4096, execute, 0, 0, 0], false),
            (SYS_prctl, [PR_SET_NAME as u64, 0, 0, 0, 0, 0], true),
            (SYS_prctl, [PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0], false),
            (SYS_prlimit64, [0, 7, 0, 1, 0, 0], true),
            (SYS_prlimit64, [0, 7, 1, 0, 0, 0], false),
            (SYS_prlimit64, [0, 7, high, 0, 0, 0], false),
            (SYS_ioctl, [0, FIONBIO, 0, 0, 0, 0], true),
            (SYS_ioctl, [0, TIOCGWINSZ, 0, 0, 0, 0], true),
            // Puts characters into the terminal, as if its user had typed them.
            (SYS_ioctl, [0, TIOCSTI, 0, 0, 0, 0], false),
            (SYS_execve, [0; 6], false),
            (SYS_execveat, [0; 6], false),
            (SYS_ptrace, [0; 6], false),
            (SYS_mount, [0; 6], false),
            (SYS_kill, [0; 6], false),
            (SYS_bpf, [0; 6], false),
            (SYS_io_uring_setup, [0; 6], false),
            (SYS_process_vm_writev, [0; 6], false),
            (SYS_pidfd_getfd, [0; 6], false),
            (SYS_setuid, [0; 6], false),
            (SYS_seccomp, [0; 6], false),
            // x86-64 calls under their 32-bit numbers.
            (0x4000_0000 | SYS_read, [0; 6], false),
        ] {
            assert_eq!(allows(call, arguments), wanted, "call {call} {arguments:x?}");
        }
    }

    #[test]
    fn no_account_has_the_number() {
        let id = own_number();
        assert!((OWN..OWN + TRIED).contains(&id));
        let of = |text: &str| free_number(text);
        assert_eq!(of("root:x:0:0::/:/bin/sh\n"), OWN);
        assert_eq!(of(&format!("a:x:{OWN}:1::/:\nb:x:{}:1::/:\n", OWN + 1)), OWN + 2);
        let all: String = (OWN..OWN + TRIED).map(|id| format!("a:x:{id}:1::/:\n")).collect();
        assert_eq!(of(&all), UNMAPPED);
    }
}
