//! Archives, modules and configuration of others, as the host tools read them.

use cpio_builder::cloop::unpack;
use cpio_builder::initrd::{Initrd, Limits};
use cpio_builder::menu::loader_entries::{self, BootEntry};
use cpio_builder::menu::{Dialect, Menu};
use cpio_builder::modinfo;
use cpio_builder::modprobe_conf::ModprobeConf;
use cpio_builder::newc::Reader;
use cpio_builder::strip::strip;
use cpio_builder::tree::firmware;

/// A whole initramfs: archives, packed or not, behind each other.
pub fn initrd(data: &[u8]) {
    let limits = Limits { bytes: 1 << 20, segments: 16 };
    match Initrd::open(data, limits) {
        Ok(initrd) => {
            let unpacked = initrd.segments().iter().filter(|segment| segment.packed < data.len());
            assert!(unpacked.map(|segment| segment.unpacked()).sum::<usize>() <= 2 << 20);
            for (path, entry) in initrd.tree() {
                assert!(!path.is_empty() && !path.starts_with('/'));
                let _ = (entry.mode_text(), entry.symlink());
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

/// One archive.
pub fn newc(data: &[u8]) {
    let mut reader = Reader::new(data);
    for entry in reader.by_ref() {
        match entry {
            Ok(entry) => drop(entry.mode_text()),
            Err(error) => return drop(error.to_string()),
        }
    }
    assert!(reader.consumed() <= data.len());
}

/// A module: what modinfo finds, and the smaller module that says the same.
pub fn kernel_module(data: &[u8]) {
    let before = modinfo::read(data);
    let _ = (modinfo::machine(data), firmware(data));
    if let (Some(smaller), Ok(before)) = (strip(data), before) {
        let after = modinfo::read(smaller.as_slice()).expect("the smaller module can be read");
        for key in ["name", "depends", "alias", "vermagic"] {
            assert!(before.values(key).eq(after.values(key)), "{key} is not the same");
        }
    }
}

/// A file of modprobe.d(5).
pub fn modprobe_conf(data: &[u8]) {
    let mut conf = ModprobeConf::default();
    conf.parse(&String::from_utf8_lossy(data));
}

/// An image in compressed blocks.
pub fn cloop(data: &[u8]) {
    // A slice ends where its room ends.
    let mut image = vec![0; 1 << 20];
    if let Err(error) = unpack(&mut &*data, &mut image.as_mut_slice(), &mut |_, _| ()) {
        drop(error.to_string());
    }
}

/// A boot loader's configuration that includes itself. What is written again must
/// have the same entries, one a line.
pub fn boot_menu(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Menu::guess(&text);
    for dialect in Dialect::ALL {
        let mut loads = 0;
        let menu = Menu::read(dialect, &text, &mut |_| {
            loads += 1;
            assert!(loads <= 64, "includes without end");
            Some(text.clone().into_owned())
        });
        let _ = (menu.to_ipxe(), menu.to_grub(true));
        let Ok(written) = menu.to_syslinux(false) else { continue };
        let again = Menu::read(Dialect::Syslinux, &written, &mut |_| None);
        assert_eq!(again.entries.len(), menu.entries.len(), "{written}");
    }
}

/// An entry of systemd-boot, its `loader.conf`, and a unified kernel image.
pub fn loader_entries(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut found = vec![BootEntry::text("a+1-2.conf", &text)];
    found.extend(BootEntry::unified("b.efi", data).unwrap_or_default());
    let _ = loader_entries::is_entry(&text);
    let menu = loader_entries::menu(found, &text);
    assert!(menu.entries.is_empty() || menu.default < menu.entries.len() || menu.other_default);
}
