//! Whether an initramfs has the drivers of a virtual machine's disks.
//!
//! An initramfs that lacks them is reported and not changed. Making a new one would run programs
//! of the disk as root; adding drivers needs an index of all its modules, and a wrong index makes
//! it worse.

/// The drivers that are looked for.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_scsi", "ahci"];

/// Which of them there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drivers([bool; 4]);

impl Drivers {
    /// Takes the path of a file in an initramfs, or of a module that a kernel has built in.
    pub fn see(&mut self, path: &str) {
        let name = path.trim_end().rsplit('/').next().unwrap_or_default();
        let Some((name, "" | ".xz" | ".zst" | ".gz")) = name.split_once(".ko") else { return };
        for (has, driver) in self.0.iter_mut().zip(DRIVERS) {
            // Both spellings of a module's name mean the same.
            *has |= name.len() == driver.len()
                && name.bytes().zip(driver.bytes()).all(|(a, b)| a == b || a == b'-' && b == b'_');
        }
    }

    /// The drivers of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut both = self;
        both.0.iter_mut().zip(other.0).for_each(|(has, too)| *has |= too);
        both
    }

    /// What to tell of an initramfs with these, as the end of a sentence; nothing when a guest with
    /// virtio disks starts.
    #[must_use]
    pub const fn trouble(self) -> Option<&'static str> {
        match self.0 {
            [true, true, ..] => None,
            [true, _, true, _] => Some(
                "has the driver of virtio-scsi, and not that of virtio-blk: give the guest's \
                 disks a virtio-scsi controller",
            ),
            [.., true] => {
                Some("has no driver of virtio disks: give the guest's disks a SATA controller")
            }
            _ => Some(
                "has no driver of a virtual machine's disks: the guest will not find its root. \
                 Put virtio_pci and virtio_blk in it (dracut -f --add-drivers, or MODULES=most \
                 and update-initramfs -u) on the machine before, or in a rescue system after",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> Option<&'static str> {
        let mut drivers = Drivers::default();
        paths.iter().for_each(|path| drivers.see(path));
        drivers.trouble()
    }

    #[test]
    fn an_initramfs_without_drivers_is_told_what_it_needs() {
        let pci = "lib/modules/6.1/kernel/drivers/virtio/virtio_pci.ko";
        assert_eq!(of(&[pci, "usr/lib/modules/6.1/kernel/drivers/block/virtio-blk.ko.xz"]), None);
        assert!(of(&[pci, "x/virtio_scsi.ko.zst"]).unwrap().contains("virtio-scsi"));
        assert!(of(&[pci, "kernel/drivers/ata/ahci.ko\n"]).unwrap().contains("SATA"));
        for none in [&[][..], &["x/virtio_blk.ko.xz"], &[pci, "x/virtio_blk.conf", "x/my_ahci.ko"]]
        {
            assert!(of(none).unwrap().contains("will not find its root"), "{none:?}");
        }
        let mut one = Drivers::default();
        one.see(pci);
        let mut other = Drivers::default();
        other.see("virtio_blk.ko");
        assert_eq!(one.and(other).trouble(), None);
    }
}
