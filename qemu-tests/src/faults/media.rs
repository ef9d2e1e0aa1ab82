//! Media and initramfs with flipped bits.

use std::path::{Path, PathBuf};

use super::row::{Ends, Fault, Room, bare};
use crate::assets::{Flavour, Profile};
use crate::lab::Lab;
use crate::machine::Bus;
use crate::{Error, Result, shell};

/// What the screen says of an initramfs that the kernel did not unpack to its end.
const CUT_SHORT: &[&str] = &[
    "Initramfs unpacking failed",
    "its file is not there although the index names it; is the initramfs cut short?",
    "FAILED",
    "the initramfs is damaged or cut short: copy it again, or build it anew",
];

const LIVE: &str = "boot=live";

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "flip-squashfs-superblock",
        what: "one bit of the magic number of the image on the medium",
        line: LIVE,
        room: |lab, line| image(lab, line, |bytes| flip(bytes, 1)),
        says: &["FAILED", "filesystem.squashfs"],
        ends: Ends::Refuses,
        quick: true,
    },
    Fault {
        name: "flip-squashfs-tables",
        what: "the table of inodes of the image",
        line: LIVE,
        room: |lab, line| image(lab, line, |bytes| blot(bytes, table(bytes))),
        says: &[
            "SQUASHFS error",
            "FAILED: could not find the real init",
            "/bin/sh: input/output error",
            "its image is damaged, copy it again",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "flip-squashfs-program",
        what: "all files of the image, while its tables are whole",
        line: LIVE,
        room: |lab, line| {
            image(lab, line, |bytes| {
                let end = table(bytes);
                bytes.iter_mut().take(end).skip(96).for_each(|byte| *byte = !*byte);
            })
        },
        says: &["SQUASHFS error", "FAILED", "/bin/sh"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "flip-iso-descriptor",
        what: "one bit of the volume descriptor of the disc",
        line: LIVE,
        room: |lab, line| disc(lab, line, |bytes| flip(bytes, 0x8001)),
        says: &["FAILED", "/dev/sr0"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "flip-iso-directory",
        what: "the root directory of the disc, which has a second one (Joliet)",
        line: LIVE,
        // The extent of the root directory is in the descriptor, ECMA-119 8.4.18.
        room: |lab, line| {
            disc(lab, line, |bytes| {
                let extent = bytes.get(0x8000 + 158..).and_then(|rest| rest.first_chunk::<4>());
                let extent = extent.map_or(0, |raw| u32::from_le_bytes(*raw) as usize);
                blot(bytes, extent * 2048);
            })
        },
        says: &["looking on optical drives", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "flip-initramfs-index",
        what: "one bit in the index of modules",
        line: LIVE,
        room: |lab, line| {
            let whole = initrd(lab)?;
            let spoilt = lab.directory().join("spoilt.img");
            crate::assets::replace(&whole, "lib/bellwether/modules.idx", &spoilt, |index| {
                let mut index = index.to_vec();
                let middle = index.len() / 2;
                flip(&mut index, middle);
                index
            })?;
            with_initrd(lab, line, &spoilt)
        },
        says: &["/lib/bellwether/modules.idx: ", "FAILED", "the initramfs is damaged or cut short"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "flip-initramfs",
        what: "one bit of the head of a file (isofs.ko) in the initramfs: the kernel says so, and goes \
               on with what it has unpacked",
        line: LIVE,
        room: |lab, line| {
            let whole = initrd(lab)?;
            // Unpacked, so that it is known what the bit belongs to.
            let spoilt = lab.directory().join("plain.img");
            let (from, to) = (whole.to_string_lossy(), spoilt.to_string_lossy());
            shell::sh(&["zstd", "-q", "-d", &from, "-o", &to])?;
            let mut bytes = std::fs::read(&spoilt).map_err(Error::at("read", &spoilt))?;
            let find = |what: &[u8]| bytes.windows(what.len()).rposition(|some| some == what);
            let name = find(b"/isofs.ko").unwrap_or_default();
            let before = bytes.get(..name).unwrap_or_default();
            let head = before.windows(6).rposition(|some| some == b"070701");
            let head = head.ok_or_else(|| Error::Input("the image has no isofs".into()))?;
            flip(&mut bytes, head);
            std::fs::write(&spoilt, bytes).map_err(Error::at("write", &spoilt))?;
            with_initrd(lab, line, &spoilt)
        },
        says: CUT_SHORT,
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "cut-initramfs",
        what: "the boot loader has read half of the initramfs",
        line: LIVE,
        room: |lab, line| {
            let whole = initrd(lab)?;
            let bytes = std::fs::read(&whole).map_err(Error::at("read", &whole))?;
            let spoilt = lab.directory().join("spoilt.img");
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            std::fs::write(&spoilt, half).map_err(Error::at("write", &spoilt))?;
            with_initrd(lab, line, &spoilt)
        },
        says: CUT_SHORT,
        ends: Ends::Refuses,
        quick: false,
    },
];

/// One bit.
fn flip(bytes: &mut [u8], at: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 4;
    }
}

/// Each bit of 512 bytes.
fn blot(bytes: &mut [u8], at: usize) {
    bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = !*byte);
}

/// Where a squashfs has its table of inodes.
fn table(bytes: &[u8]) -> usize {
    let raw = bytes.get(64..).and_then(|rest| rest.first_chunk::<8>());
    raw.map_or(0, |raw| u64::from_le_bytes(*raw) as usize)
}

/// The small image, spoilt, on a good disc.
fn image<'l>(lab: &'l Lab, line: &str, spoil: fn(&mut [u8])) -> Result<Room<'l>> {
    let whole = lab.assets().small_squashfs()?;
    let spoilt = spoilt(lab, &whole, spoil)?;
    let iso = lab.tree("live")?.with("live/filesystem.squashfs", &spoilt)?.iso("LIVE")?;
    Ok(Room::of(bare(lab, line)?.cdrom(Bus::VirtioScsi, &iso)))
}

/// A disc, spoilt.
fn disc<'l>(lab: &'l Lab, line: &str, spoil: fn(&mut [u8])) -> Result<Room<'l>> {
    let image = lab.assets().small_squashfs()?;
    let iso = lab.tree("live")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
    let spoilt = spoilt(lab, &iso, spoil)?;
    Ok(Room::of(bare(lab, line)?.cdrom(Bus::VirtioScsi, &spoilt)))
}

fn spoilt(lab: &Lab, whole: &Path, spoil: fn(&mut [u8])) -> Result<PathBuf> {
    let mut bytes = std::fs::read(whole).map_err(Error::at("read", whole))?;
    spoil(&mut bytes);
    let to = lab.directory().join("spoilt");
    std::fs::write(&to, bytes).map_err(Error::at("write", &to))?;
    Ok(to)
}

fn initrd(lab: &Lab) -> Result<PathBuf> {
    lab.assets().our_initrd(&lab.assets().kernel(Flavour::Cloud)?, Profile::Disks)
}

fn with_initrd<'l>(lab: &'l Lab, line: &str, initrd: &Path) -> Result<Room<'l>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let image = lab.assets().small_squashfs()?;
    let iso = lab.tree("live")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
    let line = format!("{line} init=/bin/sh panic=1");
    let machine = lab.machine().kernel(&kernel.image, initrd, &line);
    Ok(Room::of(machine.cdrom(Bus::VirtioScsi, &iso)))
}
