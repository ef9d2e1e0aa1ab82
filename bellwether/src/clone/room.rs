//! `clone_script`: what the machines of a room need to boot and be copied to, in one
//! command: boot files, a menu, and the servers that hand them out.
//!
//! The servers are those of `share`. What they hand out is a directory, so that a
//! machine's entry can change while they run: see [`super::report::PXELINUX`].

use super::flags::{Given, Program, flag};
use super::report::for_servers;
use super::tools;
use crate::args::Build;
use crate::failure::Failure;
use crate::output::file_time;
use crate::{build, share};
use ::share::net;
use ::share::options::{DhcpMode, Options, Room};
use ::share::probe::{Probe, Sign};
use cpio_builder::fsimage::{self, Format, Input, Spec};
use cpio_builder::menu::{Entry, Menu};
use cpio_builder::profile::Profile;
use cpio_builder::tools::Draft;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The grammar: the old script's, and what it did not have to ask.
pub static SCRIPT: Program = Program {
    name: "clone_script",
    about: "Serves a room that is to be cloned: addresses, boot files, a menu.",
    rest: "",
    example: "bellwether clone clone_script -I -p 10.0.1.21 -w 10.0.1.253 -n 10.0.1 \
              -s 10.0.1.253 -t 10.0.1.21",
    flags: &[
        flag("install", Some('I'), None, "install what is needed first, by apt-get"),
        flag("pxe", Some('p'), Some("IP"), "this computer's address [its default route's]"),
        flag("gateway", Some('w'), Some("IP"), "gateway for machines [this computer's]"),
        flag(
            "net",
            Some('n'),
            Some("NET"),
            "give addresses of this network, as 10.0.1 [only if there is no DHCP server]",
        ),
        flag("dns", Some('s'), Some("IP"), "name server for machines [this computer's]"),
        flag("tftp", Some('t'), Some("IP"), "the TFTP server: this computer, too"),
        flag("rescue", Some('c'), Some("FILE"), "make a second stage of a rescue system, and end"),
        flag("dir", Some('d'), Some("DIR"), "where all of it is put [clone-room]"),
        flag(
            "entry",
            Some('e'),
            Some("NAME"),
            "what machines boot: disk, kamethod, dolly and others [disk]",
        ),
        flag("append", None, Some("WORDS"), "words for every kernel's line"),
        flag("kernel", None, Some("FILE"), "the kernel [the running one's]"),
        flag("modules", None, Some("PATH"), "its modules, as for build [the running kernel's]"),
        flag("adapt", None, Some("grow,unique"), "what is done to a copied disk: see adapt"),
        flag("state", None, Some("DIR"), "where addresses are remembered [/var/lib/bellwether]"),
        flag("no-ipxe", None, None, "boot ROMs that are iPXE get pxelinux or GRUB as others do"),
        flag("quiet", Some('q'), None, "no view, but lines of what happens"),
        flag("dry-run", None, None, "write the directory, and serve nothing"),
    ],
};

/// What machines can boot: a label, what people read, the kernel's line; nothing for
/// their disks. `-c` adds the last ones, which need a second stage.
const ENTRIES: [(&str, &str, Option<&str>); 8] = [
    ("disk", "This machine's own disk", None),
    ("kamethod", "Copy files (ka-d)", Some("bw.clone=ka bw.clone.timeout=600")),
    ("dolly", "Copy a disk by a chain (dolly)", Some("bw.clone=dolly bw.clone.timeout=300")),
    ("dollyC", "Copy a disk by a ring (dollyS)", Some("bw.clone=dollyplus bw.clone.timeout=300")),
    ("udpcast", "Copy a disk by multicast (udp-sender)", Some("bw.clone=udpcast")),
    ("room", "Copy what is in use of a disk (send)", Some("bw.clone bw.clone.timeout=600")),
    (
        "stage2-ka",
        "Rescue system (ka-d-session)",
        Some("automatic=method:ka,interface:auto,network:dhcp root=/dev/ram3 rw rescue"),
    ),
    (
        "stage2-dolly",
        "Rescue system (dolly -O /dev/ram3)",
        Some("automatic=method:dolly,interface:auto,network:dhcp root=/dev/ram3 rw rescue"),
    ),
];

/// What `-I` installs: boot loaders, and the programs that copies are made with.
const PACKAGES: [&str; 13] = [
    "pxelinux",
    "syslinux-common",
    "grub-common",
    "grub-efi-amd64-bin",
    "fdisk",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "dosfstools",
    "ntfs-3g",
    "tar",
    "zstd",
    "xorriso",
];

/// Runs it.
pub fn run(given: &Given) -> Result<(), Failure> {
    let dir = PathBuf::from(given.get("dir").unwrap_or("clone-room"));
    if given.has("install") && given.has("dry-run") {
        println!("would install, where missing: {}", PACKAGES.join(" "));
    } else if given.has("install") {
        install()?;
    }
    if let Some(file) = given.get("rescue") {
        return second_stage(Path::new(file), &dir);
    }
    // What makes no sense is said before anything takes time.
    let menu = menu(given)?;
    let options = options(given, &dir, menu)?;
    fill(given, &dir)?;
    if given.has("dry-run") {
        for entry in options.room.iter().flat_map(|room| &room.menu.entries) {
            println!("{:<14} {}", entry.id, entry.append);
        }
        return Ok(());
    }
    eprintln!(
        "clone_script: {0} is served; servers of copies with --pxelinux {0} send machines that \
         have theirs to their disks",
        dir.display()
    );
    share::serve(&options, given.has("quiet"), false)
}

fn install() -> Result<(), Failure> {
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        let status = apt.args(words).env("DEBIAN_FRONTEND", "noninteractive").status();
        status.map(|s| s.success()).map_err(|e| {
            let all = PACKAGES.join(", ");
            Failure::Failed(format!("apt-get: {e}; install what here is called {all}"))
        })
    };
    let install = [&["install", "-y", "--no-install-recommends"], &PACKAGES[..]].concat();
    // A new system knows of no packages yet, and an old one of those of its time.
    if apt(&install)? || (apt(&["update"])? && apt(&install)?) {
        return Ok(());
    }
    Err(Failure::Failed("apt-get could not install what is needed".to_owned()))
}

fn menu(given: &Given) -> Result<Menu, Failure> {
    let more = given.get("append").unwrap_or_default();
    let entry = |(id, title, line): &(&str, &str, Option<&str>)| match line {
        None => Entry::disk(id, title),
        Some(line) => Entry {
            id: (*id).to_owned(),
            title: (*title).to_owned(),
            kernel: "/vmlinuz".to_owned(),
            initrd: vec!["/initrd.img".to_owned(), "/tools.img".to_owned()],
            append: format!("{line} {more}").trim_end().to_owned(),
        },
    };
    let wanted = given.get("entry").unwrap_or("disk");
    let default = ENTRIES.iter().position(|entry| entry.0 == wanted).ok_or_else(|| {
        let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.0).collect();
        Failure::Usage(format!("-e: there is no '{wanted}': {}", names.join(", ")))
    })?;
    let menu = Menu {
        title: "Clone room".to_owned(),
        timeout: Some(5),
        default,
        entries: ENTRIES.iter().map(entry).collect(),
        per_machine: true,
        ..Menu::default()
    };
    menu.check().map_err(|e| Failure::Usage(e.to_string()))?;
    Ok(menu)
}

fn options(given: &Given, dir: &Path, menu: Menu) -> Result<Options, Failure> {
    let failed = |e: ::share::error::Error| Failure::Failed(e.to_string());
    let interface = net::choose(given.get("pxe")).map_err(failed)?;
    if let Some(other) = given.parsed::<Ipv4Addr>("tftp")?.filter(|ip| *ip != interface.address) {
        return Err(Failure::Usage(format!(
            "-t: {other} is not this computer ({}); for a TFTP server elsewhere, 'bellwether pxe' \
             writes what it hands out",
            interface.address
        )));
    }
    let range = given.get("net").map(|net| range(net, &interface)).transpose()?;
    let other = || Probe::new(&interface)?.search();
    if range.is_some()
        && let Some(sign) = other().map_err(failed)?.sign.filter(Sign::is_sure)
    {
        return Err(Failure::Failed(format!(
            "-n: {sign} on {} already; without -n it goes on leasing addresses, and \
             machines are only told what to boot",
            interface.name
        )));
    }
    Ok(Options {
        // By its address: an interface has perhaps another one first.
        interface: Some(interface.address.to_string()),
        dhcp: if range.is_some() { DhcpMode::Full } else { DhcpMode::Auto },
        range,
        state: given.get("state").unwrap_or(share::STATE).into(),
        no_ipxe: given.has("no-ipxe"),
        room: Some(Room {
            directory: dir.to_owned(),
            menu,
            router: given.parsed("gateway")?,
            dns: given.parsed("dns")?.into_iter().collect(),
        }),
        ..Options::default()
    })
}

/// The addresses that `10.0.1` stands for; they have to be this network's.
fn range(text: &str, own: &net::Interface) -> Result<(Ipv4Addr, Ipv4Addr), Failure> {
    let given: Ipv4Addr = format!("{}.0", text.trim_end_matches('.'))
        .parse()
        .map_err(|_| Failure::Usage(format!("-n: '{text}' is not like 10.0.1")))?;
    let mask = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
    let at = |last| Ipv4Addr::from(u32::from(given) + last);
    let ends = (at(100), at(250));
    let inside = |ip: Ipv4Addr| u32::from(ip) & mask == u32::from(own.address) & mask;
    match inside(ends.0) && inside(ends.1) {
        true => Ok(ends),
        false => Err(Failure::Usage(format!(
            "-n: {} to {} are not of the network of {}, {}/{}",
            ends.0, ends.1, own.name, own.address, own.prefix
        ))),
    }
}

/// Kernel, initramfs and the programs that make a copy.
fn fill(given: &Given, dir: &Path) -> Result<(), Failure> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let path = |name: &str, running: String| given.get(name).map_or(running, str::to_owned);
    let kernel = path("kernel", format!("/boot/vmlinuz-{}", release.trim()));
    let modules = path("modules", format!("/lib/modules/{}", release.trim()));
    let at = |path: &Path, e: std::io::Error| Failure::Failed(format!("{}: {e}", path.display()));
    fs::create_dir_all(dir).map_err(|e| at(dir, e))?;
    let copied = fs::copy(&kernel, dir.join("vmlinuz"));
    copied.map_err(|e| Failure::Failed(format!("{kernel}: {e}; --kernel names another")))?;
    let what = Build {
        modules: Some(modules.into()),
        profile: Profile::from_name("net"),
        ..Build::default()
    };
    let (spec, report) = build::image(&what)?;
    let image = dir.join("initrd.img");
    fs::write(&image, &report.bytes).map_err(|e| at(&image, e))?;
    build::tell(&report, &spec, &image, false);
    tools::make(&dir.join("tools.img"), given.get("adapt"), None)?;
    let served = ["", "vmlinuz", "initrd.img", "tools.img"].map(|name| dir.join(name));
    served.iter().try_for_each(|path| for_servers(path).map_err(|e| at(path, e)))
}

/// `-c`: an image for Dolly and a directory for KA.
fn second_stage(from: &Path, dir: &Path) -> Result<(), Failure> {
    let at = |path: &Path, e: std::io::Error| Failure::Failed(format!("{}: {e}", path.display()));
    fs::create_dir_all(dir).map_err(|e| at(dir, e))?;
    let tree = dir.join("stage2");
    if tree.exists() {
        return Err(Failure::Failed(format!("{}: is there already", tree.display())));
    }
    let input = Input::open(from)?;
    fsimage::unpack(from, &input, &tree)?;
    // Old stage 1 programs look for it.
    let mark = tree.join("ka");
    fs::create_dir_all(&mark).map_err(|e| at(&mark, e))?;
    let image = dir.join("stage2.img");
    let mtime = file_time()?;
    let spec = Spec { format: Format::Ext2, size: None, mtime, clamp: false };
    let draft = Draft::new(&image)?;
    fsimage::make(&spec, from, &Input::Dir(tree.clone()), &draft, &mut |_, _, _| ())?;
    draft.keep()?;
    println!("by KA:    bellwether clone ka-d-session -n N --data {}", tree.display());
    println!("by Dolly: bellwether clone dolly -s -I {} -O /dev/ram3 -H HOSTS", image.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(args: &[&str]) -> Given {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        SCRIPT.parse(&args).unwrap().unwrap()
    }

    #[test]
    fn every_entry_is_a_plan() {
        for (id, _, line) in ENTRIES {
            let Some(line) = line else { continue };
            let plan = cmdline::parse(line, &cmdline::Context::default());
            assert!(plan.can_work(), "{id}: {}", plan.warnings_text());
        }
        let menu = menu(&given(&["-e", "dolly", "--append", "console=ttyS0"])).unwrap();
        assert_eq!(menu.entries[menu.default].id, "dolly");
        assert!(menu.entries[1].append.ends_with(" console=ttyS0"));
        assert!(super::menu(&given(&["-e", "nothing"])).is_err());
    }

    #[test]
    fn three_numbers_are_a_network() {
        let own = |prefix| net::Interface {
            mac: None,
            name: "eth0".into(),
            address: Ipv4Addr::new(10, 0, 1, 21),
            prefix,
            gateway: None,
        };
        let (first, last) = range("10.0.1", &own(24)).unwrap();
        assert_eq!((first.octets(), last.octets()), ([10, 0, 1, 100], [10, 0, 1, 250]));
        assert!(range("10.0.9.", &own(16)).is_ok());
        for (text, prefix) in [("10.0.2", 24), ("10.0", 24), ("10.0.1", 25), ("x", 8), ("", 24)] {
            assert!(range(text, &own(prefix)).is_err(), "{text}/{prefix}");
        }
    }
}
