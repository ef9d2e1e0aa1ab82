//! Packet sockets: whole Ethernet frames on one link, packet(7).
//!
//! A DHCP client has to send before the kernel has an address for it. The socket receives only
//! frames that pass its filter, so that a busy network does not wake us. The UDP checksum of a
//! frame from a virtual machine on the same host may not be filled in yet.

use alloc::vec::Vec;
use core::mem::size_of;

use linux_raw_sys::general::__NR_setsockopt;
use linux_raw_sys::if_packet::sockaddr_ll;
use linux_raw_sys::net::{SO_ATTACH_FILTER, SOL_SOCKET};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;

/// One instruction of a classic BPF program (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub if_true: u8,
    /// How many to skip when it does not hold.
    pub if_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Accepts unfragmented IPv4 UDP to one port, counted from an Ethernet header.
pub const fn udp_port_filter(port: u16) -> [Instruction; 11] {
    const fn op(code: u16, if_true: u8, if_false: u8, operand: u32) -> Instruction {
        Instruction { code, if_true, if_false, operand }
    }
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_INDEXED: u16 = 0x48;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        op(LOAD_HALF, 0, 0, 12),
        op(EQUAL, 0, 8, ETHERTYPE_IPV4 as u32),
        op(LOAD_BYTE, 0, 0, 23),
        op(EQUAL, 0, 6, 17),
        op(LOAD_HALF, 0, 0, 20),
        op(ANY_BIT, 4, 0, 0x3fff),
        op(LOAD_HEADER_LENGTH, 0, 0, 14),
        op(LOAD_HALF_INDEXED, 0, 0, 16),
        op(EQUAL, 0, 1, port as u32),
        op(RETURN, 0, 0, 0xffff),
        op(RETURN, 0, 0, 0),
    ]
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Sets a socket option that has no function in rustix.
///
/// # Errors
/// The errno of setsockopt(2).
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: u32,
    option: u32,
    value: &[u8],
) -> Result<(), Errno> {
    // SAFETY: `value` is readable for its length, and setsockopt keeps nothing of
    // it. Options whose value holds pointers are not reachable by safe code with
    // valid ones; the kernel checks those it gets and fails with EFAULT.
    unsafe {
        crate::raw::syscall(
            __NR_setsockopt,
            &[
                fd.as_raw_fd() as usize,
                level as usize,
                option as usize,
                value.as_ptr() as usize,
                value.len(),
            ],
        )?;
    }
    Ok(())
}

/// `struct sockaddr_ll` for all frames of an ethertype on a link.
struct LinkAddress(sockaddr_ll);

// SAFETY: the pointer is to a live sockaddr_ll and the length is its size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f((&raw const self.0).cast(), size_of::<sockaddr_ll>() as SocketAddrLen)
    }
}

/// A non-blocking socket for whole frames on one link.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on the link `index` for one ethertype, with a filter.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` when the kernel has no packet sockets (module `af_packet`); else the
    /// errno of socket(2), bind(2) or setsockopt(2).
    pub fn open(index: u32, ethertype: u16, filter: &[Instruction]) -> Result<PacketSocket, Errno> {
        // Protocol 0: nothing arrives before the filter is in place and bind names one.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let instructions: Vec<Instruction> = filter.to_vec();
        let program = Program {
            length: u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
            instructions: instructions.as_ptr(),
        };
        // SAFETY: a sock_fprog whose pointer and length are those of a live slice;
        // the kernel copies both before it returns.
        unsafe {
            crate::raw::syscall(
                __NR_setsockopt,
                &[
                    fd.as_raw_fd() as usize,
                    SOL_SOCKET as usize,
                    SO_ATTACH_FILTER as usize,
                    (&raw const program) as usize,
                    size_of::<Program>(),
                ],
            )?;
        }
        let address = LinkAddress(sockaddr_ll {
            sll_family: AddressFamily::PACKET.as_raw(),
            sll_protocol: ethertype.to_be(),
            sll_ifindex: i32::try_from(index).map_err(|_| Errno::NODEV)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        });
        bind(&fd, &address)?;
        Ok(PacketSocket { fd })
    }

    /// Sends one frame, Ethernet header included.
    ///
    /// # Errors
    /// `ENETDOWN` when the link is down, `EAGAIN` when its queue is full.
    pub fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        send(&self.fd, frame, SendFlags::empty()).map(|_| ())
    }

    /// Receives one frame into `buffer`; `None` when the queue is empty. A longer frame is
    /// truncated.
    ///
    /// # Errors
    /// `ENETDOWN` once after the link went down; the socket stays usable.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(buffer.get(..length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does, for the instructions it uses.
    fn runs(filter: &[Instruction], frame: &[u8]) -> u32 {
        let half = |at: usize| {
            frame.get(at..at + 2).map(|raw| u32::from(u16::from_be_bytes([raw[0], raw[1]])))
        };
        let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
        loop {
            let step = filter[at];
            at += 1;
            match step.code {
                0x28 => match half(step.operand as usize) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0x30 => a = u32::from(frame[step.operand as usize]),
                0x48 => match half((x + step.operand) as usize) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0xb1 => x = u32::from(frame[step.operand as usize] & 15) * 4,
                0x15 | 0x45 => {
                    let holds = match step.code {
                        0x15 => a == step.operand,
                        _ => a & step.operand != 0,
                    };
                    at += usize::from(if holds { step.if_true } else { step.if_false });
                }
                0x06 => return step.operand,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn frame(protocol: u8, fragment: u16, options: usize, port: u16) -> Vec<u8> {
        let mut frame = alloc::vec![0u8; 14 + 20 + options * 4 + 8];
        frame[12] = 8;
        frame[14] = 0x45 + options as u8;
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[23] = protocol;
        let udp = 34 + options * 4;
        frame[udp + 2..udp + 4].copy_from_slice(&port.to_be_bytes());
        frame
    }

    #[test]
    fn the_filter_takes_one_udp_port_only() {
        let filter = udp_port_filter(68);
        assert_eq!(runs(&filter, &frame(17, 0x4000, 0, 68)), 0xffff, "may have DF set");
        assert_eq!(runs(&filter, &frame(17, 0, 0, 68)), 0xffff);
        assert_eq!(runs(&filter, &frame(17, 0, 5, 68)), 0xffff);
        assert_eq!(runs(&filter, &frame(17, 0, 0, 67)), 0);
        assert_eq!(runs(&filter, &frame(6, 0, 0, 68)), 0);
        assert_eq!(runs(&filter, &frame(17, 0x2000, 0, 68)), 0);
        let mut other = frame(17, 0, 0, 68);
        other[13] = 6;
        assert_eq!(runs(&filter, &other), 0);
    }
}
