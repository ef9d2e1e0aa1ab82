//! What is changed in a copy, so that the system on it starts in a virtual machine: names of
//! disks, which differ there, and settings that are bound to a network card.
//!
//! Pure: the caller reads the files of [`PLACES`] from the file systems of the copy, gives them to
//! [`edit`], and writes what comes back. Nothing here opens a file or runs a program of the copy.

mod cards;
mod initramfs;
mod lines;
mod names;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cards::Form;
pub(crate) use cards::address;
pub use initramfs::Drivers;
use lines::Mention;
pub use names::{Disk, Name, Volume};
use names::{Names, Use};

/// What a file is, which says how its lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `fstab(5)`: the tree that has one is a root.
    Fstab,
    /// `crypttab(5)`.
    Crypttab,
    /// A boot loader's, or another one with words of a kernel's line.
    Boot,
    /// GRUB's environment block.
    Env,
    /// Settings of the network.
    Cards(Form),
    /// A program of the system makes a boot loader's map from it, which is not run here.
    Compiled,
}

/// Files by their path, where `*` stands for any part of a name.
pub const PLACES: &[(&str, Kind)] = &[
    ("etc/fstab", Kind::Fstab),
    ("etc/crypttab", Kind::Crypttab),
    ("etc/initramfs-tools/conf.d/*", Kind::Boot),
    ("etc/default/grub", Kind::Boot),
    ("etc/default/grub.d/*.cfg", Kind::Boot),
    ("etc/kernel/cmdline", Kind::Boot),
    ("boot/grub/grub.cfg", Kind::Boot),
    ("boot/grub/menu.lst", Kind::Boot),
    ("boot/grub/grub.conf", Kind::Boot),
    ("boot/grub2/grub.cfg", Kind::Boot),
    ("boot/grub/grubenv", Kind::Env),
    ("boot/grub2/grubenv", Kind::Env),
    ("boot/loader/entries/*.conf", Kind::Boot),
    ("boot/extlinux/*.conf", Kind::Boot),
    ("boot/syslinux/*.cfg", Kind::Boot),
    // The same on a file system of its own.
    ("grub/grub.cfg", Kind::Boot),
    ("grub/menu.lst", Kind::Boot),
    ("grub/grub.conf", Kind::Boot),
    ("grub2/grub.cfg", Kind::Boot),
    ("grub/grubenv", Kind::Env),
    ("grub2/grubenv", Kind::Env),
    ("loader/entries/*.conf", Kind::Boot),
    ("extlinux/*.conf", Kind::Boot),
    ("syslinux/*.cfg", Kind::Boot),
    ("EFI/*/grub.cfg", Kind::Boot),
    ("EFI/*/grubenv", Kind::Env),
    ("etc/lilo.conf", Kind::Compiled),
    ("etc/udev/rules.d/*.rules", Kind::Cards(Form::Udev)),
    ("etc/systemd/network/*.link", Kind::Cards(Form::Systemd)),
    ("etc/systemd/network/*.network", Kind::Cards(Form::Systemd)),
    ("etc/NetworkManager/system-connections/*", Kind::Cards(Form::Keyfile)),
    ("etc/sysconfig/network-scripts/ifcfg-*", Kind::Cards(Form::Ifcfg)),
    ("etc/sysconfig/network/ifcfg-*", Kind::Cards(Form::Names)),
    ("etc/netplan/*.yaml", Kind::Cards(Form::Netplan)),
    ("etc/network/interfaces", Kind::Cards(Form::Names)),
    ("etc/network/interfaces.d/*", Kind::Cards(Form::Names)),
];

/// Where images of an initramfs are, and lists of the modules that a kernel has built in.
pub const IMAGES: [&str; 2] = ["boot/init*", "init*"];
/// As [`IMAGES`].
pub const BUILT_IN: &str = "lib/modules/*/modules.builtin";

/// Whether an image is one that a system starts with, as its name says.
#[must_use]
pub fn is_used(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let kept = ["rescue", "fallback", "dump", ".old", "-old", ".bak"];
    !kept.iter().any(|word| name.contains(word))
}

/// Boot loaders of UEFI in the directory of a system: the first that is there is copied to
/// [`REMOVABLE`], with those behind it that it starts. A new machine's firmware has no list of
/// loaders, and looks there.
pub const LOADERS: [&[&str]; 3] = match cfg!(target_arch = "aarch64") {
    true => [
        &["shimaa64.efi", "grubaa64.efi", "mmaa64.efi"],
        &["grubaa64.efi"],
        &["systemd-bootaa64.efi"],
    ],
    false => {
        [&["shimx64.efi", "grubx64.efi", "mmx64.efi"], &["grubx64.efi"], &["systemd-bootx64.efi"]]
    }
};

/// What firmware starts that knows nothing else (UEFI specification, 3.5.1.1).
pub const REMOVABLE: (&str, &str) =
    ("EFI/BOOT", if cfg!(target_arch = "aarch64") { "BOOTAA64.EFI" } else { "BOOTX64.EFI" });

/// Where in a file system a root may be: itself, or a subvolume of btrfs.
pub const ROOTS: [&str; 4] = ["", "@", "@rootfs", "root"];

/// A file of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The file system that it is on: an index into [`Machine::volumes`].
    pub volume: usize,
    /// The tree in it, of [`ROOTS`].
    pub root: &'static str,
    /// The path in the tree.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub text: String,
}

/// What is known of the machine and its copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// The disks that are sent.
    pub disks: Vec<Disk>,
    /// What is on them.
    pub volumes: Vec<Volume>,
    /// They are all that the machine has.
    pub all: bool,
    /// The addresses of its network cards.
    pub cards: Vec<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As in [`File`].
    pub volume: usize,
    /// As in [`File`].
    pub root: &'static str,
    /// As in [`File`].
    pub path: String,
    /// All that it is to say.
    pub text: String,
    /// There is no such file yet.
    pub new: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edits {
    /// The files.
    pub changes: Vec<Change>,
    /// What changes in them, a sentence each.
    pub told: Vec<String>,
    /// What cannot be changed and may matter, a sentence each.
    pub warnings: Vec<String>,
}

/// Finds what is to be changed. `label` names a volume for people.
#[must_use]
pub fn edit(machine: &Machine, files: &[File], label: &dyn Fn(usize) -> String) -> Edits {
    let mut texts: Vec<String> = files.iter().map(|file| file.text.clone()).collect();
    let mut edits = Edits::default();
    devices(machine, files, &mut texts, &mut edits, label);
    for volume in 0..machine.volumes.len() {
        for root in ROOTS {
            let here = |file: &File| file.volume == volume && file.root == root;
            if files.iter().any(|file| here(file) && file.kind == Kind::Fstab) {
                network(machine, files, &here, &mut texts, &mut edits);
            }
        }
    }
    let pairs = files.iter().zip(texts).filter(|(file, text)| file.text != *text);
    let changed = pairs.map(|(File { volume, root, path, .. }, text)| {
        let path = path.clone();
        Change { volume: *volume, root, path, text, new: false }
    });
    edits.changes.splice(0..0, changed);
    edits
}

/// For the fuzzer: each form of file gets the bytes, and what is written keeps its lines.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let holds = [Some(blockmap::Format::Ext), Some(blockmap::Format::Swap)];
    let volumes = holds.into_iter().zip(1..).map(|(holds, partition)| Volume {
        disk: "sda".to_string(),
        partition,
        holds,
        uuid: format!("{partition}-1"),
        part_uuid: String::new(),
    });
    let disks = Vec::from([Disk { name: "sda".to_string(), ids: Vec::new() }]);
    let machine = Machine { disks, volumes: volumes.collect(), all: true, cards: Vec::new() };
    let files = PLACES.iter().map(|(path, kind)| File {
        volume: 0,
        root: "",
        path: (*path).to_string(),
        kind: *kind,
        text: text.to_string(),
    });
    let files: Vec<File> = files.collect();
    for change in edit(&machine, &files, &|n| n.to_string()).changes {
        let same = change.text.lines().count() == text.lines().count();
        assert!(change.new || same, "{}", change.path);
    }
}

/// Calls `rename` for each device that a text names; the text with what it returned.
fn pass(kind: Kind, text: &str, rename: lines::Rename<'_>) -> Option<String> {
    match kind {
        Kind::Fstab => Some(lines::fstab(text, rename)),
        Kind::Crypttab => Some(lines::crypttab(text, rename)),
        Kind::Boot => Some(lines::words(text, rename)),
        Kind::Env => lines::env_block(&lines::words(text, rename)),
        Kind::Cards(_) | Kind::Compiled => Some(text.to_string()),
    }
}

fn devices(
    machine: &Machine,
    files: &[File],
    texts: &mut [String],
    edits: &mut Edits,
    label: &dyn Fn(usize) -> String,
) {
    // Owned, since all of them are known before the first is replaced.
    let mut mentions: Vec<(String, Option<blockmap::Format>, Option<usize>)> = Vec::new();
    let mut initramfs = false;
    for file in files {
        initramfs |= file.kind == Kind::Boot && file.text.contains("initrd");
        let _ = pass(file.kind, &file.text, &mut |Mention { device, holds, place }| {
            let is = (file.kind == Kind::Fstab && place == "/").then_some(file.volume);
            mentions.push((device.to_string(), holds, is));
            None
        });
    }
    let uses = mentions.iter().filter_map(|(device, holds, is)| {
        Some(Use { name: Name::read(device)?, holds: *holds, is: *is })
    });
    let uses: Vec<Use<'_>> = uses.collect();
    let names = Names::settle(&machine.disks, &machine.volumes, &uses, machine.all);
    for (file, text) in files.iter().zip(texts) {
        let path = [file.root, if file.root.is_empty() { "" } else { "/" }, &file.path].concat();
        let at = format!("{} {path}", label(file.volume));
        if file.kind == Kind::Compiled {
            edits.warnings.push(format!(
                "{at}: the guest may not start: its boot loader has the places of files in a map, \
                 which is made by lilo; start it from a rescue system and run lilo there"
            ));
        }
        let mut told = Vec::new();
        let mut lost = Vec::new();
        let new = pass(file.kind, &file.text, &mut |Mention { device, place, .. }| {
            let name = Name::read(device)?;
            // A kernel by itself knows partitions, and nothing of what is on them.
            let root = file.kind != Kind::Fstab && place == "/";
            let new = match root && !initramfs {
                true => names.by_part_uuid(&name),
                false => names.lasting(&name),
            };
            match &new {
                Some(new) => told.push(format!("{at}: {device} becomes {new}")),
                None => lost.push(format!(
                    "{at}: {device} stays, since it is not clear which of the disks that are sent \
                     it means; the guest may have none of that name"
                )),
            }
            new
        });
        match new {
            Some(new) => *text = new,
            None if told.is_empty() => {}
            None => {
                told.clear();
                lost.push(format!("{at}: stays as it is: the longer names do not fit into it"));
            }
        }
        edits.told.extend(once(told));
        edits.warnings.extend(once(lost));
    }
}

/// Each sentence once.
fn once(mut all: Vec<String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    all.retain(|one| {
        let new = !seen.contains(one);
        if new {
            seen.push(one.clone());
        }
        new
    });
    all
}

/// The settings of one root's network.
fn network(
    machine: &Machine,
    files: &[File],
    here: &dyn Fn(&File) -> bool,
    texts: &mut [String],
    edits: &mut Edits,
) {
    let of = |file: &File| match file.kind {
        Kind::Cards(form) if here(file) => Some(form),
        _ => None,
    };
    let mut bound: Vec<String> = Vec::new();
    for (file, form) in files.iter().filter_map(|file| Some((file, of(file)?))) {
        let _ = cards::loosen(form, &file.text, &mut |card| {
            if !bound.iter().any(|known| known == card) {
                bound.push(card.to_string());
            }
            false
        });
    }
    let ours: Vec<&String> = bound.iter().filter(|card| machine.cards.contains(card)).collect();
    let only = match (bound.as_slice(), ours.as_slice()) {
        ([only], _) => Some(only),
        (_, [only]) => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        for ((file, form), text) in files.iter().map(|file| (file, of(file))).zip(texts.iter_mut())
        {
            let Some(form) = form else { continue };
            *text = cards::loosen(form, &file.text, &mut |card| card == only);
            if *text != file.text {
                edits.told.push(format!(
                    "{}: holds for any network card, not only for {only}",
                    file.path
                ));
            }
        }
    } else if !bound.is_empty() {
        edits.warnings.push(format!(
            "settings of the network are bound to several cards: give those of the guest the \
             addresses {}",
            bound.join(" and ")
        ));
    }
    let mut given: Vec<&str> = Vec::new();
    let mut places: Vec<&str> = Vec::new();
    for (file, form) in files.iter().filter_map(|file| Some((file, of(file)?))) {
        // Names in rules and links are given there; elsewhere they are used.
        match form == Form::Udev || file.path.ends_with(".link") {
            true => given.extend(cards::given(form, &file.text)),
            false => places.extend(cards::places(&file.text)),
        }
    }
    places.sort_unstable();
    places.dedup();
    let free: Vec<&&str> = places.iter().filter(|name| !given.contains(*name)).collect();
    match (free.as_slice(), files.iter().find(|file| here(file))) {
        ([name], Some(File { volume, root, .. })) if given.is_empty() => {
            let path = "etc/systemd/network/98-p2v.link".to_string();
            edits.told.push(format!("{path}: the network card keeps the name {name}"));
            let text = cards::link(name);
            edits.changes.push(Change { volume: *volume, root, path, text, new: true });
        }
        ([], _) => {}
        _ => {
            let names: Vec<&str> = free.iter().map(|name| **name).collect();
            edits.warnings.push(format!(
                "settings of the network are for {}, and the guest's cards have other names",
                names.join(" and ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockmap::Format;

    fn machine() -> Machine {
        let volume = |partition, holds, uuid: &str| Volume {
            disk: "sda".into(),
            partition,
            holds: Some(holds),
            uuid: uuid.into(),
            part_uuid: format!("9f00-0{partition}"),
        };
        Machine {
            disks: vec![Disk { name: "sda".into(), ids: vec!["QM00001".into()] }],
            volumes: vec![volume(1, Format::Ext, "e1-1"), volume(2, Format::Swap, "52-2")],
            all: true,
            cards: vec!["52:54:00:00:00:01".into()],
        }
    }

    fn file(path: &str, text: &str) -> File {
        let fits = |pattern: &str| match pattern.split_once('*') {
            Some((start, end)) => path.starts_with(start) && path.ends_with(end),
            None => path == pattern,
        };
        let (_, kind) = PLACES.iter().find(|(pattern, _)| fits(pattern)).unwrap();
        File { volume: 0, root: "", path: path.into(), kind: *kind, text: text.into() }
    }

    fn edited(files: &[File]) -> Edits {
        edit(&machine(), files, &|_| "partition 1 of sda:".into())
    }

    fn changed<'e>(edits: &'e Edits, path: &str) -> Option<&'e str> {
        edits.changes.iter().find(|change| change.path == path).map(|change| change.text.as_str())
    }

    #[test]
    fn a_machine_of_debian_gets_names_that_stay() {
        let edits = edited(&[
            file("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n"),
            file("etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda2\n"),
            file("boot/grub/grub.cfg", "linux /vmlinuz root=/dev/sda1 ro\ninitrd /initrd.img\n"),
            file("etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n"),
            file(
                "etc/systemd/network/10-lan.link",
                "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n",
            ),
            file("etc/network/interfaces", "auto lan0\niface lan0 inet dhcp\n"),
        ]);
        let text = "UUID=e1-1 / ext4 defaults 0 1\nUUID=52-2 none swap sw 0 0\n";
        assert_eq!(changed(&edits, "etc/fstab"), Some(text));
        assert_eq!(
            changed(&edits, "etc/initramfs-tools/conf.d/resume"),
            Some("RESUME=UUID=52-2\n")
        );
        let text = "linux /vmlinuz root=UUID=e1-1 ro\ninitrd /initrd.img\n";
        assert_eq!(changed(&edits, "boot/grub/grub.cfg"), Some(text));
        let text = "[Match]\nPath=*\n[Link]\nName=lan0\n";
        assert_eq!(changed(&edits, "etc/systemd/network/10-lan.link"), Some(text));
        assert_eq!((edits.changes.len(), edits.warnings.len()), (4, 0), "{edits:?}");
        assert_eq!(edits.told[0], "partition 1 of sda: etc/fstab: /dev/sda1 becomes UUID=e1-1");
        assert_eq!(
            edits.told.last().unwrap(),
            "etc/systemd/network/10-lan.link: holds for any network card, not only for 52:54:00:00:00:01"
        );
    }

    /// Without an initramfs the kernel itself looks for the root: it knows no UUIDs of file systems.
    #[test]
    fn a_kernel_alone_gets_the_partition_s_own_uuid() {
        let edits = edited(&[
            file("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n"),
            file(
                "boot/extlinux/extlinux.conf",
                "linux /vmlinuz\nappend root=/dev/sda1 ro resume=/dev/sda2\n",
            ),
        ]);
        let text = "linux /vmlinuz\nappend root=PARTUUID=9f00-01 ro resume=UUID=52-2\n";
        assert_eq!(changed(&edits, "boot/extlinux/extlinux.conf"), Some(text));
        assert_eq!(changed(&edits, "etc/fstab"), Some("UUID=e1-1 / ext4 defaults 0 1\n"));
    }

    #[test]
    fn what_is_not_clear_stays_and_is_told() {
        let files = [
            file("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /data ext4 defaults 0 2\n"),
            file("etc/lilo.conf", "boot=/dev/sda\nroot=/dev/sda1\n"),
        ];
        let edits = edited(&files);
        let text = "UUID=e1-1 / ext4 defaults 0 1\n/dev/sdb1 /data ext4 defaults 0 2\n";
        assert_eq!(changed(&edits, "etc/fstab"), Some(text));
        assert!(edits.warnings[0].contains("/dev/sdb1 stays"), "{:?}", edits.warnings);
        assert!(edits.warnings[1].contains("run lilo there"), "{:?}", edits.warnings);
        assert_eq!((edits.warnings.len(), edits.changes.len()), (2, 1));
    }

    #[test]
    fn the_only_card_keeps_the_name_that_said_its_place() {
        let fstab = file("etc/fstab", "UUID=e1-1 / ext4 defaults 0 1\n");
        let one =
            edited(&[fstab.clone(), file("etc/network/interfaces", "iface enp3s0 inet dhcp\n")]);
        let change = &one.changes[0];
        assert!(change.new && change.path == "etc/systemd/network/98-p2v.link", "{one:?}");
        assert_eq!(change.text, "[Match]\nPath=*\n\n[Link]\nName=enp3s0\n");
        let two = edited(&[fstab.clone(), file("etc/network/interfaces", "auto enp3s0 eno1\n")]);
        assert!(two.changes.is_empty() && two.warnings[0].contains("eno1 and enp3s0"), "{two:?}");
        // A name that a rule gives is no place's any more.
        let rule = "SUBSYSTEM==\"net\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:01\", NAME=\"eno1\"\n";
        let ruled = edited(&[
            fstab.clone(),
            file("etc/network/interfaces", "auto eno1\n"),
            file("etc/udev/rules.d/70-persistent-net.rules", rule),
        ]);
        assert_eq!((ruled.changes.len(), ruled.warnings.len()), (1, 0), "{ruled:?}");
        // Without a root there is no system whose network it could be.
        assert_eq!(edited(&[file("etc/network/interfaces", "auto enp3s0\n")]), Edits::default());
    }

    #[test]
    fn several_cards_stay_bound_and_are_told() {
        let rule = |mac: &str, name: &str| {
            format!(
                "SUBSYSTEM==\"net\", DRIVERS==\"?*\", ATTR{{address}}==\"{mac}\", NAME=\"{name}\"\n"
            )
        };
        let fstab = file("etc/fstab", "UUID=e1-1 / ext4 defaults 0 1\n");
        let rules = |first: &str| {
            let text = rule(first, "eth0") + &rule("00:11:22:00:00:02", "eth1");
            file("etc/udev/rules.d/70-persistent-net.rules", &text)
        };
        let stays = edited(&[fstab.clone(), rules("00:11:22:00:00:01")]);
        assert!(stays.changes.is_empty());
        assert!(stays.warnings[0].contains("00:11:22:00:00:01 and 00:11:22:00:00:02"));
        // One of them is not in the machine any more.
        let ours = edited(&[fstab, rules("52:54:00:00:00:01")]);
        let text = changed(&ours, "etc/udev/rules.d/70-persistent-net.rules").unwrap();
        assert_eq!(text, rule("?*", "eth0") + &rule("00:11:22:00:00:02", "eth1"));
    }

    #[test]
    fn a_second_copy_of_the_copy_changes_nothing() {
        let files = [
            file("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n"),
            file(
                "etc/netplan/a.yaml",
                "ethernets:\n  a:\n    match:\n      macaddress: 52:54:00:00:00:01\n",
            ),
            file(
                "boot/grub/grubenv",
                &format!("{:#<1024}", "# GRUB Environment Block\nkernelopts=root=/dev/sda1\n"),
            ),
        ];
        let first = edited(&files);
        assert_eq!(first.changes.len(), 3, "{first:?}");
        let again: Vec<File> = first.changes.iter().map(|c| file(&c.path, &c.text)).collect();
        assert_eq!(edited(&again), Edits::default());
    }
}
