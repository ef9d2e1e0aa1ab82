//! Programs that /init does not have itself, and the live system does: mkfs,
//! cryptsetup. They run inside the image's own tree, with our `/dev`.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fs::{Access, access};
use rustix::mount::mount_bind_recursive;
use rustix::process::{chdir, chroot};
use sys::mount::detach;
use sys::process::Exit;

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
        for place in PLACES {
            let path = format!("{place}/{name}");
            if access(format!("{tree}{path}").as_str(), Access::EXEC_OK).is_ok() {
                return Some(Tool { tree: tree.to_string(), path });
            }
        }
    }
    None
}

impl Tool {
    /// Runs it with the console as its own, and waits.
    ///
    /// # Errors
    /// How it ended when not well.
    pub fn run(&self, args: &[&str]) -> Result<(), String> {
        let c_string = |text: &str| CString::new(text).unwrap_or_default();
        let path = c_string(&self.path);
        let args: Vec<CString> = core::iter::once(self.path.as_str())
            .chain(args.iter().copied())
            .map(c_string)
            .collect();
        let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
        let mut bound: Vec<String> = Vec::new();
        if !self.tree.is_empty() {
            for from in BINDS {
                let target = format!("{}{from}", self.tree);
                if mount_bind_recursive(*from, target.as_str()).is_ok() {
                    bound.push(target);
                }
            }
        }
        let ended = sys::process::fork(|| {
            if !self.tree.is_empty()
                && let Err(errno) = chroot(self.tree.as_str()).and_then(|()| chdir("/"))
            {
                return errno.raw_os_error();
            }
            let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/", c"TERM=linux"];
            sys::process::exec(&path, &args, &env).raw_os_error()
        })
        .and_then(|child| child.wait());
        for target in bound.iter().rev() {
            let _ = detach(target);
        }
        match ended {
            Ok(Exit::Status(0)) => Ok(()),
            Ok(Exit::Status(status)) => Err(format!("{} ended with status {status}", self.path)),
            Ok(Exit::Signal(signal)) => Err(format!("{} was ended by signal {signal}", self.path)),
            Err(errno) => Err(format!("{}: {}", self.path, sys::errno::Shown(errno))),
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
        assert!(tool.run(&["-c", "exit 3"]).unwrap_err().contains("status 3"));
    }
}
