//! Programs that /init does not have itself, and the live system does: mkfs,
//! cryptsetup. They run inside the image's own tree, with our `/dev`.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::process::{chdir, chroot, ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use sys::process::{Child, Exit};

use crate::newroot::{NewRoot, SecondView};
use crate::trace::Fault;

/// Where programs of administration live.
const PLACES: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What a program needs of the running kernel.
const BINDS: &[&str] = &["/dev", "/proc", "/sys", "/run"];

/// A program and the tree that it is in; an empty tree is the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    tree: String,
    path: String,
}

/// Looks for a program in the initramfs, then in the image's layers, top first.
#[must_use]
pub fn find(name: &str, layers: &[String]) -> Option<Tool> {
    let trees = core::iter::once("").chain(layers.iter().rev().map(String::as_str));
    for tree in trees {
        let Ok(root) = NewRoot::at(if tree.is_empty() { "/" } else { tree }) else { continue };
        for place in PLACES {
            let path = format!("{place}/{name}");
            if root.executable(&path).is_ok() {
                return Some(Tool { tree: tree.to_string(), path });
            }
        }
    }
    None
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        f.write_str(if self.tree.is_empty() { "" } else { " of the live system" })
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    /// What is taken away when it has ended.
    _kernel: Kernel,
}

impl AsFd for Running {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Running {
    /// Whether it has not ended yet.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// The kernel's file systems in a program's tree.
#[derive(Debug, Default)]
struct Kernel(Vec<SecondView>);

impl Drop for Kernel {
    fn drop(&mut self) {
        for shown in self.0.drain(..).rev() {
            // The tree is read-only or goes as a whole: nothing is lost by it.
            let _ = shown.end();
        }
    }
}

impl Tool {
    /// Runs it with the console as its own, and waits.
    ///
    /// # Errors
    /// How it ended when not well.
    pub fn run(&self, args: &[&str]) -> Result<(), Fault> {
        let running = self.start(args, None)?;
        match running.child.wait() {
            Ok(Exit::Status(0)) => Ok(()),
            Ok(exit) => Err(format!("{} {exit}", self.path).into()),
            Err(errno) => Err(Fault::on(&running.name)(errno)),
        }
    }

    /// Starts it; `terminal` becomes its controlling terminal, so that keys like
    /// Ctrl-C reach it.
    ///
    /// # Errors
    /// When there can be no further process.
    pub fn start(&self, args: &[&str], terminal: Option<BorrowedFd<'_>>) -> Result<Running, Fault> {
        let c_string = |text: &str| CString::new(text).unwrap_or_default();
        let path = c_string(&self.path);
        let args: Vec<CString> = core::iter::once(self.path.as_str())
            .chain(args.iter().copied())
            .map(c_string)
            .collect();
        let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
        let mut kernel = Kernel::default();
        if !self.tree.is_empty() {
            let root = NewRoot::at(&self.tree).map_err(Fault::on(&self.tree))?;
            // One that the tree has no directory for is missed by few programs.
            kernel.0.extend(BINDS.iter().filter_map(|from| root.bind(from, from).ok()));
        }
        let started = sys::process::fork(|| {
            if let Some(terminal) = terminal {
                // Without job control a shell still serves.
                let _ = setsid();
                let _ = ioctl_tiocsctty(terminal);
                let _ = dup2_stdin(terminal).and_then(|()| dup2_stdout(terminal));
                let _ = dup2_stderr(terminal);
            }
            if !self.tree.is_empty()
                && let Err(errno) = chroot(self.tree.as_str()).and_then(|()| chdir("/"))
            {
                return errno.raw_os_error();
            }
            let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/", c"TERM=linux"];
            sys::process::exec(&path, &args, &env).raw_os_error()
        });
        let name = self.path.clone();
        match started {
            Ok(child) => Ok(Running { child, name, _kernel: kernel }),
            Err(errno) => Err(Fault::on(&name)(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_none_and_a_failing_one_says_how() {
        assert_eq!(find("no-such-program-anywhere", &[]), None);
        let tool = find("sh", &[]).unwrap();
        assert_eq!(tool.run(&["-c", "exit 0"]), Ok(()));
        let why = |script| tool.run(&["-c", script]).unwrap_err().to_string();
        assert!(why("exit 3").ends_with("sh ended with status 3"));
        assert!(why("kill -KILL $$").ends_with("sh was killed by signal 9 (SIGKILL)"));
    }
}
