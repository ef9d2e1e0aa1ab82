//! Kernel uevents: messages about added and removed devices (`lib/kobject_uevent.c`).
//!
//! A message is `ACTION@DEVPATH` and `KEY=value` strings, each ended by a NUL. udevd's
//! messages, which start otherwise, are ignored.

use alloc::vec;
use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, netlink, recvfrom, socket_with, sockopt,
};

/// Longest message: the kernel's own limit on a uevent's environment is 2 KiB,
/// and devpath and action come on top.
const MAX_MESSAGE: usize = 8192;

/// Size of the receive queue: a coldplug of a large machine is thousands of messages of about
/// 500 bytes.
const QUEUE_BYTES: usize = 4 << 20;

/// One uevent, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uevent<'a> {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: &'a str,
    /// Path below `/sys`, with a leading slash.
    pub devpath: &'a str,
    /// The subsystem: `block`, `net`, `pci`, …
    pub subsystem: &'a str,
    /// The modalias; empty for devices that need no driver.
    pub modalias: &'a str,
    /// Node below `/dev`, without that prefix; empty when there is none.
    pub devname: &'a str,
    /// The name of a network interface.
    pub interface: &'a str,
}

impl<'a> Uevent<'a> {
    /// Reads one message; `None` when it is not a kernel uevent.
    ///
    /// Unknown keys are skipped; a value that is not UTF-8 counts as empty.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut strings = message.split(|byte| *byte == 0);
        let head = core::str::from_utf8(strings.next()?).ok()?;
        let (action, devpath) = head.split_once('@')?;
        if action.is_empty() || !devpath.starts_with('/') {
            return None;
        }
        let mut event = Self { action, devpath, ..Self::default() };
        for string in strings {
            let Some((key, value)) =
                core::str::from_utf8(string).ok().and_then(|text| text.split_once('='))
            else {
                continue;
            };
            match key {
                "SUBSYSTEM" => event.subsystem = value,
                "MODALIAS" => event.modalias = value,
                "DEVNAME" => event.devname = value,
                "INTERFACE" => event.interface = value,
                _ => {}
            }
        }
        Some(event)
    }
}

/// The socket on which the kernel sends uevents.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens the socket; later events are queued until received.
    ///
    /// # Errors
    /// The errno of socket(2) or bind(2).
    pub fn open() -> Result<Self, Errno> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::KOBJECT_UEVENT),
        )?;
        // Needs CAP_NET_ADMIN; without it the default queue has to do.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, QUEUE_BYTES);
        // Group 1 is the kernel's own.
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 1))?;
        Ok(Self { fd, buffer: vec![0; MAX_MESSAGE] })
    }

    /// Calls `each` for every queued event; does not wait.
    ///
    /// Returns whether events were lost because the queue overflowed: the buses must then be
    /// walked again.
    pub fn receive(&mut self, each: &mut dyn FnMut(&Uevent<'_>)) -> bool {
        let mut lost = false;
        loop {
            match recvfrom(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _, sender)) => {
                    // Any process may send to the group; only port 0 is the kernel.
                    let from_kernel = sender
                        .and_then(|address| netlink::SocketAddrNetlink::try_from(address).ok())
                        .is_some_and(|address| address.pid() == 0);
                    let message = self.buffer.get(..length).unwrap_or_default();
                    if let (true, Some(event)) = (from_kernel, Uevent::parse(message)) {
                        each(&event);
                    }
                }
                Err(Errno::NOBUFS) => lost = true,
                Err(Errno::INTR) => {}
                Err(_) => return lost,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_disk_appears() {
        let message = b"add@/devices/pci0000:00/0000:00:03.0/virtio0/block/vda/vda1\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:03.0/virtio0/block/vda/vda1\0SUBSYSTEM=block\0\
            MAJOR=254\0MINOR=1\0DEVNAME=vda1\0DEVTYPE=partition\0DISKSEQ=1\0PARTN=1\0SEQNUM=1234\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!((event.subsystem, event.devname), ("block", "vda1"));
        assert!(event.modalias.is_empty());
    }

    #[test]
    fn a_device_wants_a_driver() {
        let message = b"add@/devices/pci0000:00/0000:00:02.0\0ACTION=add\0SUBSYSTEM=pci\0\
            MODALIAS=pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.modalias, "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00");
    }

    #[test]
    fn udevds_own_messages_are_not_ours() {
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Uevent::parse(b""), None);
        assert_eq!(Uevent::parse(b"add@relative/path\0"), None);
    }

    proptest! {
        #[test]
        fn never_panics(message: Vec<u8>) {
            let _ = Uevent::parse(&message);
        }
    }
}
