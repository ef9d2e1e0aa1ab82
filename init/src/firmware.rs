//! Firmware that drivers asked for and the kernel did not find, from the kernel's log.

use alloc::string::String;
use alloc::vec::Vec;

use rustix::fs::OFlags;
use rustix::io::{Errno, read};
use sys::file::open;

/// Most files that are told.
const MOST: usize = 8;
/// Most records of the log that are read.
const RECORDS: usize = 1 << 16;

/// What drivers asked for in vain since the machine started, each file once.
pub fn missing() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let Ok(log) = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK, 0) else { return all };
    // The kernel's longest record (`CONSOLE_EXT_LOG_MAX`).
    let mut record = [0; 8192];
    for _ in 0..RECORDS {
        match read(&log, &mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                if let Some(found) = asked(&text).filter(|found| !all.contains(found)) {
                    all.push(found);
                }
            }
            // Records were overwritten while they were read.
            Err(Errno::PIPE) => {}
            Err(_) => break,
        }
        if all.len() >= MOST {
            break;
        }
    }
    all
}

/// What is wrong, from a record of the kernel's log that says that a file was not found: the words of
/// `drivers/base/firmware_loader/main.c`, and those of Debian's kernels.
fn asked(record: &str) -> Option<String> {
    let text = record.split_once(';')?.1.lines().next()?;
    let (device, rest) = ["Direct firmware load for ", "firmware: failed to load "]
        .iter()
        .find_map(|words| text.split_once(words))?;
    let file = rest.split(' ').next().filter(|file| !file.is_empty())?;
    let device = device.trim_end_matches([' ', ':']);
    let device = if device.is_empty() { "a device" } else { device };
    Some(
        [
            device,
            ": its driver asked for the firmware ",
            file,
            ", which this initramfs lacks; build the image where that is installed, or with --firmware",
        ]
        .concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_name_the_file() {
        for record in [
            "4,612,2318941,-;e100 0000:00:02.0: Direct firmware load for e100/d102e_ucode.bin failed with error -2\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:02.0\n",
            "3,613,2318950,-;e100 0000:00:02.0: firmware: failed to load e100/d102e_ucode.bin (-2)\n SUBSYSTEM=pci\n",
        ] {
            let found = asked(record).unwrap();
            assert_eq!(
                found,
                "e100 0000:00:02.0: its driver asked for the firmware e100/d102e_ucode.bin, which \
                 this initramfs lacks; build the image where that is installed, or with --firmware"
            );
        }
        for other in [
            "",
            "6,1,0,-;Linux version 6.1.0",
            "4,1,0,-;firmware_class: See https://wiki.debian.org/Firmware for information",
            "4,1,0,-;x: Direct firmware load for ",
            "4,1,0,-",
            // Not the record, but a word that a device adds to it.
            "4,1,0,-;usb 1-1: new device\n X=firmware: failed to load x (-2)\n",
        ] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
