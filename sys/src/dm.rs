//! device-mapper: block devices made of tables (`linux/dm-ioctl.h`, interface 4).
//!
//! The driver (`dm-mod`) and the targets' modules must be loaded, or loadable by the kernel's
//! own request. There is no udev here: devtmpfs makes a new device's node `/dev/dm-<number>`;
//! the caller makes links below `/dev/mapper`. Does not wait for udev cookies and sets no
//! UUIDs.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::size_of;

use linux_raw_sys::general::__NR_ioctl;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{OFlags, minor};
use rustix::io::Errno;

use crate::file::open;
use crate::raw::syscall;

/// The control node, which the driver makes.
pub const CONTROL: &str = "/dev/mapper/control";

/// Every kernel since 2.6 supports it; a newer one accepts an older caller.
const VERSION: [u32; 3] = [4, 0, 0];

const NAME_LEN: usize = 128;
const UUID_LEN: usize = 129;

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn command(number: usize) -> usize {
    (3 << 30) | (size_of::<Header>() << 16) | (0xfd << 8) | number
}

const DEV_CREATE: usize = command(3);
const DEV_REMOVE: usize = command(4);
const DEV_SUSPEND: usize = command(6);
const DEV_STATUS: usize = command(7);
const TABLE_LOAD: usize = command(9);
const TABLE_STATUS: usize = command(12);
const GET_TARGET_VERSION: usize = command(17);

const READONLY_FLAG: u32 = 1 << 0;
const BUFFER_FULL_FLAG: u32 = 1 << 8;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// Size of an answer: a status line has some dozens of bytes.
const BUFFER: usize = 16 << 10;

/// Most targets of one table; a live system has one or two.
const MAX_TARGETS: usize = 64;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_LEN],
    uuid: [u8; UUID_LEN],
    data: [u8; 7],
}

/// `struct dm_target_spec`, followed by its parameters as text.
#[repr(C)]
#[derive(Clone, Copy)]
struct Spec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// One line of a table: `start length type parameters`, in sectors of 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector of the device.
    pub start: u64,
    /// Sectors.
    pub length: u64,
    /// The target's name, at most 15 bytes.
    pub kind: String,
    /// Its parameters, or, in an answer, its status.
    pub parameters: String,
}

/// A device-mapper device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its number: it is `/dev/dm-<number>`.
    pub number: u32,
}

/// The open control node.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
}

impl Control {
    /// Opens the control node.
    ///
    /// # Errors
    /// `ENOENT` when the driver is not loaded.
    pub fn open() -> Result<Self, Errno> {
        Ok(Self { fd: open(CONTROL, OFlags::RDWR, 0)? })
    }

    /// Whether the kernel says that it has no such target; it asks for the module itself.
    /// Before Linux 5.5 it cannot be asked: the table decides.
    #[must_use]
    pub fn lacks(&self, target: &str) -> bool {
        matches!(self.call(GET_TARGET_VERSION, target, 0, 0, &[]), Err(Errno::INVAL))
    }

    /// Creates a device without a table.
    ///
    /// # Errors
    /// `EBUSY` when the name is taken, `EINVAL` when it is empty, longer than
    /// 127 bytes or holds a slash.
    pub fn create(&self, name: &str) -> Result<Device, Errno> {
        let answer = self.call(DEV_CREATE, name, 0, 0, &[])?;
        answer.device()
    }

    /// Loads a table, which becomes active with [`Self::resume`].
    ///
    /// # Errors
    /// `EINVAL` and other errnos of a target that rejects its parameters (the kernel's log has
    /// the reason); `EINVAL` also when a target's name is too long or the table has too many.
    pub fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), Errno> {
        if table.is_empty() || table.len() > MAX_TARGETS {
            return Err(Errno::INVAL);
        }
        let flags = if read_only { READONLY_FLAG } else { 0 };
        let payload = encode(table)?;
        self.call(TABLE_LOAD, name, flags, table.len(), &payload).map(drop)
    }

    /// Activates the loaded table.
    ///
    /// # Errors
    /// The errno of a target.
    pub fn resume(&self, name: &str) -> Result<(), Errno> {
        self.call(DEV_SUSPEND, name, 0, 0, &[]).map(drop)
    }

    /// Removes a device; with `deferred`, when its last user closes it.
    ///
    /// # Errors
    /// `ENXIO` when the device does not exist, `EBUSY` while it is in use.
    pub fn remove(&self, name: &str, deferred: bool) -> Result<(), Errno> {
        let flags = if deferred { DEFERRED_REMOVE } else { 0 };
        self.call(DEV_REMOVE, name, flags, 0, &[]).map(drop)
    }

    /// The device of this name.
    ///
    /// # Errors
    /// `ENXIO` when the device does not exist.
    pub fn find(&self, name: &str) -> Result<Device, Errno> {
        self.call(DEV_STATUS, name, 0, 0, &[])?.device()
    }

    /// Each target's status.
    ///
    /// # Errors
    /// `ENXIO` when the device does not exist; `EMSGSIZE` when the answer is too long, `EPROTO`
    /// when it is malformed.
    pub fn status(&self, name: &str) -> Result<Vec<Target>, Errno> {
        let answer = self.call(TABLE_STATUS, name, 0, 0, &[])?;
        let header = answer.header()?;
        if header.flags & BUFFER_FULL_FLAG != 0 {
            return Err(Errno::MSGSIZE);
        }
        let start = header.data_start as usize;
        let end = (header.data_size as usize).min(BUFFER);
        let data = answer.bytes.get(start..end).ok_or(Errno::PROTO)?;
        decode(data, header.target_count as usize).ok_or(Errno::PROTO)
    }

    /// Creates a device with an active table, and removes it again when that fails.
    ///
    /// # Errors
    /// As [`Self::create`], [`Self::load`] and [`Self::resume`].
    pub fn set_up(&self, name: &str, table: &[Target], read_only: bool) -> Result<Device, Errno> {
        let device = self.create(name)?;
        match self.load(name, table, read_only).and_then(|()| self.resume(name)) {
            Ok(()) => Ok(device),
            Err(errno) => {
                // The error before is the one to tell.
                let _ = self.remove(name, false);
                Err(errno)
            }
        }
    }

    fn call(
        &self,
        command: usize,
        name: &str,
        flags: u32,
        targets: usize,
        payload: &[u8],
    ) -> Result<Answer, Errno> {
        let mut header = Header {
            version: VERSION,
            data_size: BUFFER as u32,
            data_start: size_of::<Header>() as u32,
            target_count: targets as u32,
            open_count: 0,
            flags,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; NAME_LEN],
            uuid: [0; UUID_LEN],
            data: [0; 7],
        };
        // One byte stays: the kernel wants the NUL.
        if name.is_empty() || name.len() >= NAME_LEN || name.contains(['/', '\0']) {
            return Err(Errno::INVAL);
        }
        for (slot, byte) in header.name.iter_mut().zip(name.bytes()) {
            *slot = byte;
        }
        let mut bytes = alloc::vec![0; BUFFER];
        let body = size_of::<Header>();
        bytes.get_mut(..body).ok_or(Errno::INVAL)?.copy_from_slice(as_bytes(&header));
        bytes
            .get_mut(body..)
            .and_then(|room| room.get_mut(..payload.len()))
            .ok_or(Errno::MSGSIZE)?
            .copy_from_slice(payload);
        // SAFETY: the buffer is BUFFER bytes long, as its header says; the kernel
        // reads and writes inside it.
        unsafe {
            syscall(
                __NR_ioctl,
                &[self.fd.as_raw_fd() as usize, command, bytes.as_mut_ptr() as usize],
            )?;
        }
        Ok(Answer { bytes })
    }
}

/// The kernel's answer in the buffer.
struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    fn header(&self) -> Result<Header, Errno> {
        let bytes = self.bytes.get(..size_of::<Header>()).ok_or(Errno::PROTO)?;
        // SAFETY: as many bytes as a Header has; any bytes are a valid Header.
        Ok(unsafe { bytes.as_ptr().cast::<Header>().read_unaligned() })
    }

    fn device(&self) -> Result<Device, Errno> {
        let header = self.header()?;
        // The kernel's encoding is the one that stat(2) uses.
        Ok(Device { number: minor(header.dev) })
    }
}

fn as_bytes(header: &Header) -> &[u8] {
    // SAFETY: a Header is plain integers without padding (asserted below), so
    // each of its bytes is initialised.
    unsafe { core::slice::from_raw_parts((&raw const *header).cast::<u8>(), size_of::<Header>()) }
}

const _: () = assert!(size_of::<Header>() == 312 && size_of::<Spec>() == 40);

/// Encodes targets for the kernel: spec, text, NUL, padding to 8 bytes.
fn encode(table: &[Target]) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    for target in table {
        let text = target.parameters.as_bytes();
        if target.kind.is_empty() || target.kind.len() > 15 || text.contains(&0) {
            return Err(Errno::INVAL);
        }
        let whole = (size_of::<Spec>() + text.len() + 1).next_multiple_of(8);
        let start = bytes.len();
        bytes.extend_from_slice(&target.start.to_ne_bytes());
        bytes.extend_from_slice(&target.length.to_ne_bytes());
        bytes.extend_from_slice(&0_i32.to_ne_bytes());
        bytes.extend_from_slice(&u32::try_from(whole).map_err(|_| Errno::INVAL)?.to_ne_bytes());
        bytes.extend_from_slice(target.kind.as_bytes());
        bytes.resize(start + size_of::<Spec>(), 0);
        bytes.extend_from_slice(text);
        bytes.resize(start + whole, 0);
        if bytes.len() > BUFFER {
            return Err(Errno::MSGSIZE);
        }
    }
    Ok(bytes)
}

/// Targets of an answer; `None` when they run over its end. `next` counts from
/// the start of the data here, and from the spec itself in [`encode`]: that is
/// the interface.
fn decode(data: &[u8], count: usize) -> Option<Vec<Target>> {
    if count > MAX_TARGETS {
        return None;
    }
    let mut targets = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let spec = data.get(at..)?;
        let u64_at = |at: usize| spec.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
        let next = spec.get(20..)?.first_chunk().copied().map(u32::from_ne_bytes)? as usize;
        let kind = until_nul(spec.get(24..size_of::<Spec>())?);
        // Forward only, or a loop would never end.
        if next <= at {
            return None;
        }
        let end = next.min(data.len());
        let parameters = until_nul(data.get(at.checked_add(size_of::<Spec>())?..end)?);
        targets.push(Target { start: u64_at(0)?, length: u64_at(8)?, kind, parameters });
        at = next;
    }
    Some(targets)
}

fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(start: u64, kind: &str, parameters: &str) -> Target {
        Target { start, length: 8, kind: kind.to_string(), parameters: parameters.to_string() }
    }

    /// From `next` relative to each spec to `next` relative to the first.
    fn as_answer(mut bytes: Vec<u8>) -> Vec<u8> {
        let mut at = 0;
        while at < bytes.len() {
            let next = u32::from_ne_bytes(bytes[at + 20..at + 24].try_into().unwrap());
            let end = at as u32 + next;
            bytes[at + 20..at + 24].copy_from_slice(&end.to_ne_bytes());
            at = end as usize;
        }
        bytes
    }

    #[test]
    fn commands_are_those_of_the_header_file() {
        assert_eq!(DEV_CREATE, 0xc138_fd03);
        assert_eq!(TABLE_STATUS, 0xc138_fd0c);
    }

    #[test]
    fn a_table_survives() {
        let table = [target(0, "snapshot", "7:0 1:0 N 8"), target(8, "zero", "")];
        let bytes = as_answer(encode(&table).unwrap());
        assert_eq!(decode(&bytes, 2).unwrap(), table);
    }

    #[test]
    fn a_target_that_leads_back_is_refused() {
        let mut bytes = as_answer(encode(&[target(0, "zero", ""), target(8, "zero", "")]).unwrap());
        bytes[48 + 20..48 + 24].copy_from_slice(&0_u32.to_ne_bytes());
        assert_eq!(decode(&bytes, 3), None);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert_eq!(encode(&[target(0, "a-target-that-is-long", "")]), Err(Errno::INVAL));
        assert_eq!(encode(&[target(0, "zero", "a\0b")]), Err(Errno::INVAL));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, count in 0_usize..100) {
            let _ = decode(&bytes, count);
        }
    }
}
