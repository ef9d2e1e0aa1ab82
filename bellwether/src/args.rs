//! The command line's grammar. Help texts, man pages and completions all come
//! from these definitions.

use crate::failure::Failure;
use ::share::options::DhcpMode;
use argh::{ArgsInfo, FromArgs};
use cpio_builder::compress::Codec;
use cpio_builder::fsimage::Format;
use cpio_builder::image::Include;
use cpio_builder::profile::{CLASSES, Class, Profile};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Boots live systems over the network or from disks: makes the images, and
/// tells what they will do.
#[derive(FromArgs, ArgsInfo, Debug)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

/// What to do.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
// One of them exists, once.
#[allow(clippy::large_enum_variant)]
pub enum Command {
    /// Make an initramfs, or look into one.
    Build(Build),
    /// Say what a command line will do.
    Explain(Explain),
    /// Serve live media to machines that boot from the network.
    Share(Share),
    /// Boot something in QEMU.
    Try(Try),
    /// Make a live ISO.
    Iso(Iso),
    /// Make a file system image.
    Image(Image),
    /// Fill a directory for a TFTP server.
    Pxe(Pxe),
    /// Copy disks to many machines.
    Clone(Clone),
    /// Write man pages and shell completions.
    Docs(Docs),
}

/// Copy disks to many machines, or to an image and back: send and receive, save and
/// restore, and the programs of udpcast, Dolly, Dolly+ and KA under their old names.
///
/// 'bellwether clone' alone lists the commands, and each has a --help of its own.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "clone",
    example = "A room's addresses, boot files and menu:\n  \
               bellwether clone clone_script --adapt grow,unique",
    example = "A disk to twelve machines by multicast:\n  \
               bellwether clone udp-sender -f /dev/sda --min-receivers 12 --max-wait 120",
    example = "Through a chain, in the order of the list:\n  \
               bellwether clone dolly -s -I /dev/sda -O /dev/sda -H node2,node3",
    note = "Exit status: 0 every machine has a copy, 1 failed, 2 wrong usage."
)]
pub struct Clone {
    /// the command, and what it takes
    #[argh(positional, greedy, arg_name = "command")]
    pub words: Vec<String>,
}

/// Make an initramfs from a kernel's modules, or list what is in one.
///
/// The same input gives the same bytes; file times are SOURCE_DATE_EPOCH if
/// that is set.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "build",
    example = "An image for virtual machines, from the running kernel's modules:\n  \
               bellwether build --modules /lib/modules/$(uname -r) -o initrd.img",
    example = "An image for any machine, from a Debian kernel package (linux-modules-VERSION.deb since Debian 14):\n  \
               bellwether build --modules linux-image-6.1.0-13-amd64_6.1.55-1_amd64.deb --profile net -o initrd.img",
    example = "The small archive to put behind a distribution's own initrd:\n  \
               bellwether build --append-only --modules /boot/initrd.img -o bellwether.img\n  \
               cat /boot/initrd.img bellwether.img > combined.img",
    example = "What is in an initrd:\n  bellwether build --list /boot/initrd.img",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage.",
    note = "--name=value is taken as --name value."
)]
pub struct Build {
    /// where the kernel's modules are: a /lib/modules/VERSION directory or a
    /// root directory that has one, a kernel .deb, an initrd, or a squashfs
    #[argh(option, arg_name = "path")]
    pub modules: Option<PathBuf>,

    /// kernel release to take when there are several
    #[argh(option, arg_name = "version")]
    pub release: Option<String>,

    /// which modules: virt (virtual machines; the default), lan (any machine
    /// whose root comes over a wired network), net (the same, and disks) or all
    #[argh(option, arg_name = "name", from_str_fn(profile))]
    pub profile: Option<Profile>,

    /// only what this machine has: the modules of its devices, and those of
    /// live file systems. --modules is by default the running kernel's
    #[argh(switch)]
    pub host_only: bool,

    /// a class of modules more: net, storage, fs, input, bus or lib; may be
    /// repeated
    #[argh(option, arg_name = "name", from_str_fn(class))]
    pub class: Vec<Class>,

    /// put the full /init into an image for virtual machines, too: with
    /// downloads, NBD, checks, copies to RAM, snapshots and kept changes
    #[argh(switch)]
    pub full: bool,

    /// a further module or alias; may be repeated
    #[argh(option, arg_name = "module")]
    pub add: Vec<String>,

    /// compression: zstd (the default), gzip, xz, lz4 or none
    #[argh(option, arg_name = "codec", from_str_fn(codec))]
    pub compress: Option<Codec>,

    /// make modules a quarter smaller, and faster to load, at the price of
    /// their signatures: not for machines with Secure Boot
    #[argh(switch)]
    pub strip: bool,

    /// make only what has to stand behind a distribution's initrd: /init and
    /// the index of the modules in that initrd, given as --modules
    #[argh(switch)]
    pub append_only: bool,

    /// with --append-only: put in what the profile names and that initrd lacks,
    /// from the same kernel's modules here: a live ISO, a squashfs, a directory
    /// or a kernel .deb
    #[argh(option, arg_name = "path")]
    pub fill: Option<PathBuf>,

    /// words that come before the line's own and are overridden by them, as a
    /// distribution builds into its initrd: boot=casper; may be repeated
    #[argh(option, arg_name = "words")]
    pub defaults: Vec<String>,

    /// put in the /init that sends a machine's disks to a hypervisor, and this
    /// computer's dbclient (or ssh, without one), which carries them to v2v://
    /// and ssh://
    #[argh(switch)]
    pub ssh: bool,

    /// as --ssh, with this computer's ssh, which has all of OpenSSH's keys and
    /// ciphers, and several times the size
    #[argh(switch)]
    pub openssh: bool,

    /// as --ssh, and this file's words are built in, a few a line: p2v.server=
    /// and so on; # begins a comment
    #[argh(option, arg_name = "file")]
    pub p2v: Option<PathBuf>,

    /// a further file or directory, and where in the image to put it; may be
    /// repeated
    #[argh(option, arg_name = "file[:dest]", from_str_fn(include))]
    pub include: Vec<Include>,

    /// the program to be /init; by default the one made with this command
    #[argh(option, arg_name = "file")]
    pub init: Option<PathBuf>,

    /// directory with firmware; by default the one beside the modules. May be
    /// repeated
    #[argh(option, arg_name = "dir")]
    pub firmware: Vec<PathBuf>,

    /// modprobe.d directory or file whose blacklist, options, alias and
    /// softdep lines count; may be repeated
    #[argh(option, arg_name = "path")]
    pub modprobe: Vec<PathBuf>,

    /// firmware directory with intel-ucode or amd-ucode: puts an early
    /// microcode archive in front
    #[argh(option, arg_name = "dir")]
    pub microcode: Option<PathBuf>,

    /// list what is in an initramfs, instead of making one
    #[argh(option, arg_name = "file")]
    pub list: Option<PathBuf>,

    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,

    /// where to write the image; '-' is standard output
    #[argh(option, short = 'o', long = "output", arg_name = "file")]
    pub output: Option<PathBuf>,
}

impl Build {
    /// Whether the image is to send a machine's disks.
    pub fn sends_disks(&self) -> bool {
        self.ssh || self.openssh || self.p2v.is_some()
    }
}

/// Say what a kernel command line will do, and what is wrong with it.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "explain",
    example = "What the line of a PXE menu means:\n  \
               bellwether explain 'boot=live netboot=nfs nfsroot=10.0.0.1:/srv/live ip=dhcp'",
    example = "The line that this machine was booted with:\n  \
               bellwether explain --file /proc/cmdline",
    example = "Every entry of an ISO's boot menu, or of one file of a menu:\n  \
               bellwether explain --from live.iso\n  \
               bellwether explain --from /srv/tftp/pxelinux.cfg/default",
    example = "Whether the image of that menu can do it: its drivers, file systems and /init:\n  \
               bellwether explain --initrd initrd.img 'boot=live fetch=http://10.0.0.1/live.iso'",
    note = "Exit status: 0 the line makes a plan, 1 it would fail at boot, 2 wrong usage.",
    note = "--name=value is taken as --name value."
)]
pub struct Explain {
    /// print the plan as JSON
    #[argh(switch)]
    pub json: bool,

    /// say what each word means
    #[argh(switch, short = 'w')]
    pub words: bool,

    /// machine that it is for, as uname -m has it; by default this one
    #[argh(option, arg_name = "name")]
    pub arch: Option<String>,

    /// words that the image has built in, weaker than the line's own
    #[argh(option, arg_name = "words")]
    pub defaults: Vec<String>,

    /// read the line from this file; '-' is standard input
    #[argh(option, arg_name = "file")]
    pub file: Option<PathBuf>,

    /// explain each entry of this boot menu: isolinux.cfg, grub.cfg, menu.lst of GRUB 0.97 or
    /// GRUB4DOS, an iPXE script, systemd-boot's entries (a file, or the partition's directory), a
    /// unified kernel image, or an ISO
    #[argh(option, arg_name = "file")]
    pub from: Option<PathBuf>,

    /// say what this initramfs lacks for it: drivers, file systems, steps of its /init
    #[argh(option, arg_name = "file")]
    pub initrd: Option<PathBuf>,

    /// list what the live system's root would get at the end: files, links, mounts and
    /// removals, for a machine that is stated
    #[argh(switch)]
    pub changes: bool,

    /// the command line, best in quotes
    #[argh(positional, arg_name = "command line")]
    pub line: Vec<String>,
}

/// Serve live media, as they are, to every machine that boots from the network.
///
/// Looks for a DHCP server first. Beside one it only tells clients what to boot;
/// without one it leases addresses, too. Ctrl-C ends it.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "share",
    example = "A live system's ISO:\n  sudo bellwether share debian-live-12-amd64-standard.iso",
    example = "The medium that this live system runs from:\n  sudo bellwether share",
    example = "Every machine keeps its changes, on this one:\n  \
               sudo bellwether share --keep-settings debian-live.iso",
    example = "On another interface, without leasing addresses:\n  \
               sudo bellwether share --interface enp3s0 --dhcp proxy ubuntu.iso",
    note = "Exit status: 0 ended by the user, 1 failed, 2 wrong usage."
)]
pub struct Share {
    /// ISO images, drives or directories; none: the medium that this live system
    /// runs from
    #[argh(positional, arg_name = "medium")]
    pub media: Vec<PathBuf>,

    /// the network interface to share on; by default the one with the default route
    #[argh(option, arg_name = "name")]
    pub interface: Option<String>,

    /// auto (the default), proxy (lease no addresses), full (lease them) or off
    #[argh(option, arg_name = "mode", from_str_fn(dhcp))]
    pub dhcp: Option<DhcpMode>,

    /// addresses to lease, FIRST-LAST
    #[argh(option, arg_name = "first-last", from_str_fn(range))]
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,

    /// kernel to boot instead of the medium's; with --initrd
    #[argh(option, arg_name = "file")]
    pub kernel: Option<PathBuf>,

    /// initramfs to boot instead of the medium's; with --kernel
    #[argh(option, arg_name = "file")]
    pub initrd: Option<PathBuf>,

    /// words for every kernel's command line
    #[argh(option, arg_name = "words")]
    pub append: Option<String>,

    /// boot with the media's own /init, without ours behind their initramfs
    #[argh(switch)]
    pub own_init: bool,

    /// the program to be /init; by default the one made with this command
    #[argh(option, arg_name = "file")]
    pub init: Option<PathBuf>,

    /// give every client a disk of its own on this machine, where its changes are kept
    /// until it is reset
    #[argh(switch)]
    pub keep_settings: bool,

    /// what all machines may keep together, as 40G; by default half of the disk
    #[argh(option, arg_name = "size", from_str_fn(bytes))]
    pub settings_limit: Option<u64>,

    /// list what machines keep here; serves nothing
    #[argh(switch)]
    pub list_settings: bool,

    /// forget what a machine keeps here, by its hardware address; serves nothing
    #[argh(option, arg_name = "mac")]
    pub reset_settings: Option<String>,

    /// copy a machine's disk to a file, MAC=FILE; serves nothing
    #[argh(option, arg_name = "mac=file")]
    pub export_settings: Option<String>,

    /// where leases and settings are kept; by default /var/lib/bellwether
    #[argh(option, arg_name = "dir")]
    pub state: Option<PathBuf>,

    /// serve nothing; write what dnsmasq, dhcpd, pxelinux, GRUB and NFS servers of your
    /// own need into this directory
    #[argh(option, arg_name = "dir")]
    pub write_config: Option<PathBuf>,

    /// give machines whose firmware is iPXE a boot loader, too, not a script
    #[argh(switch)]
    pub no_ipxe: bool,

    /// iPXE's release, ipxeboot.tar.gz: UEFI machines get its signed shim and iPXE, which work
    /// with Secure Boot on beside another DHCP server
    #[argh(option, arg_name = "file")]
    pub ipxe: Option<PathBuf>,

    /// print what happens as JSON, a line each
    #[argh(switch)]
    pub json: bool,

    /// print what happens, a line each, instead of a view that fills the terminal
    #[argh(switch)]
    pub plain: bool,
}

/// Boot an ISO, a disk image, a kernel or a PXE tree in QEMU, as a client would
/// be booted.
///
/// The serial console is on this terminal; Ctrl-A X switches the machine off. It
/// ends with the machine: a reboot is an end, too. Kernel lines of media need
/// console=ttyS0 to be seen here; or use --window.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "try",
    example = "A live ISO, on a machine with UEFI:\n  bellwether try --uefi live.iso",
    example = "The same on a USB stick, with a disk beside it:\n  \
               bellwether try --bus usb --disk 10G live.iso",
    example = "A network boot, from a directory made by 'bellwether pxe':\n  \
               bellwether try --pxe /srv/tftp",
    example = "A kernel with its initramfs and line:\n  \
               bellwether try --kernel vmlinuz --initrd initrd.img --append 'boot=live'",
    note = "Exit status: 0 the machine was switched off, 1 failed, 2 wrong usage.",
    note = "--name=value is taken as --name value."
)]
pub struct Try {
    /// boot this kernel, without firmware
    #[argh(option, arg_name = "file")]
    pub kernel: Option<PathBuf>,

    /// with this initramfs
    #[argh(option, arg_name = "file")]
    pub initrd: Option<PathBuf>,

    /// and this command line; console=ttyS0 is put in front
    #[argh(option, arg_name = "words")]
    pub append: Option<String>,

    /// boot from the network: QEMU hands out this directory by TFTP
    #[argh(option, arg_name = "dir")]
    pub pxe: Option<PathBuf>,

    /// firmware is UEFI instead of BIOS
    #[argh(switch)]
    pub uefi: bool,

    /// a disk more: an image, which will be written, or the size of an empty
    /// one as 10G; may be repeated
    #[argh(option, arg_name = "file|size")]
    pub disk: Vec<String>,

    /// how media and disks are attached: virtio (the default), sata, usb or nvme
    #[argh(option, arg_name = "bus", from_str_fn(bus))]
    pub bus: Option<Bus>,

    /// memory in MiB; 1024
    #[argh(option, arg_name = "mib")]
    pub memory: Option<u32>,

    /// keep what the machine writes to the disk image that it boots from;
    /// otherwise it is thrown away
    #[argh(switch)]
    pub write: bool,

    /// bridge of this host that the card is on, instead of a network of its own
    #[argh(option, arg_name = "name")]
    pub bridge: Option<String>,

    /// show the screen in a window
    #[argh(switch)]
    pub window: bool,

    /// emulate the processor, even where KVM works
    #[argh(switch)]
    pub emulate: bool,

    /// further words for QEMU; may be repeated
    #[argh(option, arg_name = "words")]
    pub qemu: Vec<String>,

    /// print QEMU's command line instead of running it
    #[argh(switch)]
    pub dry_run: bool,

    /// an ISO or a disk image
    #[argh(positional, arg_name = "medium")]
    pub medium: Option<PathBuf>,
}

/// The bus that media and disks are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bus {
    /// virtio: SCSI for media, block for disks.
    #[default]
    Virtio,
    /// SATA.
    Sata,
    /// USB: an ISO becomes a stick.
    Usb,
    /// NVMe: disks only; an ISO becomes a disk.
    Nvme,
}

impl Bus {
    /// All, in the order shown to people.
    pub const ALL: [(&'static str, Self); 4] =
        [("virtio", Self::Virtio), ("sata", Self::Sata), ("usb", Self::Usb), ("nvme", Self::Nvme)];
}

/// Defines the options of `iso` or `pxe`: the command's own first ones, those that
/// both have, the command's own last ones. argh cannot put one struct into another.
macro_rules! boots {
    (
        $(#[$about:meta])*
        struct $name:ident {
            $(#[$first_doc:meta])*
            $first:ident,
            kernel: $kernel:tt,
            initrd: $initrd:tt,
            modules: $modules:tt,
            append: $append:tt,
            $($last:tt)*
        }
    ) => {
        #[derive(FromArgs, ArgsInfo, Debug, Default)]
        $(#[$about])*
        pub struct $name {
            $(#[$first_doc])*
            #[argh(option, arg_name = "path")]
            pub $first: Option<PathBuf>,

            #[doc = $kernel]
            #[argh(option, arg_name = "file")]
            pub kernel: Option<PathBuf>,

            #[doc = $initrd]
            #[argh(option, arg_name = "file")]
            pub initrd: Vec<PathBuf>,

            #[doc = $modules]
            #[argh(option, arg_name = "path")]
            pub modules: Option<PathBuf>,

            /// which modules: virt, lan, net (the default) or all
            #[argh(option, arg_name = "name", from_str_fn(profile))]
            pub profile: Option<Profile>,

            /// the program to be /init; by default the one made with this command
            #[argh(option, arg_name = "file")]
            pub init: Option<PathBuf>,

            #[doc = $append]
            #[argh(option, arg_name = "words")]
            pub append: Option<String>,

            /// a further menu entry: its title, and words behind --append's; may be
            /// repeated
            #[argh(option, arg_name = "title=words", from_str_fn(entry))]
            pub entry: Vec<(String, String)>,

            /// title of the first entry and of the menu
            #[argh(option, arg_name = "text")]
            pub title: Option<String>,

            /// seconds until the first entry starts by itself
            #[argh(option, arg_name = "seconds")]
            pub timeout: Option<u32>,

            $($last)*
        }

        impl $name {
            /// What `iso` and `pxe` have in common.
            pub fn boot(&self) -> Boot<'_> {
                Boot {
                    root: None,
                    kernel: self.kernel.as_deref(),
                    initrd: &self.initrd,
                    modules: self.modules.as_deref(),
                    profile: self.profile,
                    init: self.init.as_deref(),
                    append: self.append.as_deref(),
                    entries: &self.entry,
                    title: self.title.as_deref(),
                    timeout: self.timeout,
                }
            }
        }
    };
}

boots! {
    /// Make a live ISO that boots by BIOS and UEFI, from optical drives and sticks.
    ///
    /// It is laid out for the words of live-boot: live/filesystem.squashfs,
    /// live/vmlinuz, live/initrd.img. The same input gives the same bytes; file times
    /// are SOURCE_DATE_EPOCH if that is set.
    #[argh(
        subcommand,
        name = "iso",
        example = "From a root directory with a kernel in it:\n  bellwether iso --root /srv/root -o live.iso",
        example = "From a squashfs, a kernel, and the modules to make an initramfs from:\n  \
                   bellwether iso --root filesystem.squashfs --kernel vmlinuz --modules \
                   linux-image.deb --append 'boot=live console=ttyS0' -o live.iso",
        example = "With a second menu entry:\n  \
                   bellwether iso --root /srv/root --entry 'To memory=toram' -o live.iso",
        note = "Exit status: 0 done, 1 failed, 2 wrong usage.",
        note = "--name=value is taken as --name value."
    )]
    struct Iso {
        /// the live system's root: a directory, or a squashfs, erofs or ext2 image
        root,
        kernel: "the kernel; by default the one in the root's /boot",
        initrd: "an initramfs; may be repeated, then they are loaded in this order. By default one is made",
        modules: "where to take the modules from to make an initramfs, as in 'bellwether build'; by default the root directory",
        append: "the kernel's command line; boot=live",

        /// have the root checked by dm-verity as it is read
        #[argh(switch)]
        pub verity: bool,

        /// a further file or directory, and where on the medium to put it; may be
        /// repeated
        #[argh(option, arg_name = "file[:dest]", from_str_fn(include))]
        pub include: Vec<Include>,

        /// name of the volume; BELLWETHER
        #[argh(option, arg_name = "name")]
        pub label: Option<String>,

        /// where to write the ISO
        #[argh(option, short = 'o', long = "output", arg_name = "file")]
        pub output: Option<PathBuf>,
    }
}

boots! {
    /// Fill a directory that a TFTP server hands out: boot loaders for BIOS and UEFI,
    /// menus for pxelinux, GRUB and iPXE, kernel and initramfs.
    #[argh(
        subcommand,
        name = "pxe",
        example = "For a live system that an NFS server has:\n  \
                   bellwether pxe --kernel vmlinuz --modules linux-image.deb --append \
                   'boot=live netboot=nfs nfsroot=10.0.0.1:/srv/live' /srv/tftp",
        example = "For a live ISO, with its own kernel and initramfs, which is mounted and exported:\n  \
                   bellwether pxe --iso live.iso --append \
                   'boot=casper netboot=nfs nfsroot=10.0.0.1:/mnt/iso' /srv/tftp",
        note = "Exit status: 0 done, 1 failed, 2 wrong usage.",
        note = "--name=value is taken as --name value."
    )]
    struct Pxe {
        /// take kernel and initramfs from this ISO
        iso,
        kernel: "the kernel",
        initrd: "an initramfs; may be repeated, then they are loaded in this order",
        modules: "where to take the modules from to make an initramfs, as in 'bellwether build'",
        append: "the kernel's command line",

        /// print the result as JSON
        #[argh(switch)]
        pub json: bool,

        /// the directory
        #[argh(positional, arg_name = "dir")]
        pub dir: PathBuf,
    }
}

/// What `iso` and `pxe` have in common.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    pub root: Option<&'a Path>,
    pub kernel: Option<&'a Path>,
    pub initrd: &'a [PathBuf],
    pub modules: Option<&'a Path>,
    pub profile: Option<Profile>,
    pub init: Option<&'a Path>,
    pub append: Option<&'a str>,
    pub entries: &'a [(String, String)],
    pub title: Option<&'a str>,
    pub timeout: Option<u32>,
}

/// Make a file system image from a directory, an initramfs, an ISO or a cloop
/// image.
///
/// Owners and device nodes of an initramfs need no root rights; those of an ISO or
/// a cloop image do.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "image",
    example = "The root of a live system, with a dm-verity tree beside it:\n  \
               bellwether image --verity /srv/root -o filesystem.squashfs",
    example = "An ext2 root of 40 MiB from an initramfs:\n  \
               bellwether image --size 40M isolinux/initrd.img -o initrd-ext2",
    example = "What is in Mandriva's rescue.clp, as ext2:\n  \
               bellwether image rescue.clp -o stage2.img",
    example = "A stage 2 where automatic= looks for it:\n  \
               bellwether image --stage2 /srv/mirror /srv/rescue-root",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage.",
    note = "--name=value is taken as --name value."
)]
pub struct Image {
    /// squashfs, erofs, ext2, clp (cloop) or iso; by default as the file's name
    /// ends
    #[argh(option, arg_name = "format", from_str_fn(format))]
    pub format: Option<Format>,

    /// size of an ext2 image, as 40M; by default what it needs
    #[argh(option, arg_name = "bytes", from_str_fn(bytes))]
    pub size: Option<u64>,

    /// make a dm-verity hash tree beside it, and print the root hash
    #[argh(switch)]
    pub verity: bool,

    /// directory of an installation tree; the image becomes
    /// install/stage2/rescue.sqfs or rescue.clp in it
    #[argh(option, arg_name = "dir")]
    pub stage2: Option<PathBuf>,

    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,

    /// where to write the image
    #[argh(option, short = 'o', long = "output", arg_name = "file")]
    pub output: Option<PathBuf>,

    /// what to make it from
    #[argh(positional, arg_name = "from")]
    pub from: PathBuf,
}

/// Write man pages and shell completions.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "docs",
    example = "Into the places that a package has for them:\n  bellwether docs debian/tmp/usr/share"
)]
pub struct Docs {
    /// write one page in Markdown instead, about all commands; the place is a file then
    #[argh(switch)]
    pub page: bool,

    /// directory like /usr/share: man/man1 and the shells' directories are
    /// made in it
    #[argh(positional, arg_name = "dir")]
    pub dir: PathBuf,
}

fn bus(text: &str) -> Result<Bus, String> {
    let found = Bus::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, bus)| bus);
    found.ok_or_else(|| format!("no bus '{text}': virtio, sata, usb or nvme"))
}

fn dhcp(text: &str) -> Result<DhcpMode, String> {
    match text {
        "auto" => Ok(DhcpMode::Auto),
        "proxy" => Ok(DhcpMode::Proxy),
        "full" => Ok(DhcpMode::Full),
        "off" => Ok(DhcpMode::Off),
        _ => Err(format!("no DHCP mode '{text}': auto, proxy, full or off")),
    }
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    });
    ends.ok_or_else(|| format!("'{text}' is not FIRST-LAST, as in 10.0.0.100-10.0.0.150"))
}

fn format(text: &str) -> Result<Format, String> {
    Format::from_name(text)
        .ok_or_else(|| format!("no format '{text}': squashfs, erofs, ext2, clp or iso"))
}

fn entry(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(title, _)| !title.trim().is_empty());
    let (title, words) = split.ok_or_else(|| format!("'{text}' is not TITLE=WORDS"))?;
    Ok((title.trim().to_owned(), words.trim().to_owned()))
}

/// A number of bytes: `40M` and the like, in powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size such as 512K, 40M or 10G");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        Some(b't' | b'T') => (text.get(..text.len() - 1), 40),
        _ => (Some(text), 0),
    };
    let number: u64 = digits.unwrap_or_default().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(wrong)
}

/// All commands and their options, for man pages and completions.
pub fn info() -> argh::CommandInfoWithArgs {
    Arguments::get_args_info()
}

fn profile(text: &str) -> Result<Profile, String> {
    Profile::from_name(text).ok_or_else(|| format!("no profile '{text}': virt, lan, net or all"))
}

fn class(text: &str) -> Result<Class, String> {
    let found = CLASSES.into_iter().find(|(name, _)| *name == text).map(|(_, class)| class);
    found.ok_or_else(|| format!("no class '{text}': net, storage, fs, input, bus or lib"))
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text)
        .ok_or_else(|| format!("no compression '{text}': zstd, gzip, xz, lz4 or none"))
}

fn include(text: &str) -> Result<Include, String> {
    Include::parse(text).ok_or_else(|| format!("'{text}' is not FILE or FILE:DEST"))
}

/// A reason to end before doing anything.
#[derive(Debug)]
pub enum Early {
    /// Help was asked for.
    Help(String),
    /// The arguments make no sense.
    Usage(String),
}

impl Early {
    /// Prints it.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] for arguments that make no sense.
    pub fn end(self) -> Result<(), Failure> {
        match self {
            Self::Help(text) => {
                println!("{}", text.trim_end());
                Ok(())
            }
            Self::Usage(text) => Err(Failure::Usage(text.trim_end().to_owned())),
        }
    }
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Early> {
    let args: Result<Vec<String>, OsString> =
        args.into_iter().skip(1).map(OsString::into_string).collect();
    let args = args.map_err(|arg| Early::Usage(format!("{} is not UTF-8", arg.display())))?;
    if args.first().is_some_and(|arg| arg == "--version" || arg == "-V") {
        return Err(Early::Help(format!("bellwether {}", env!("CARGO_PKG_VERSION"))));
    }
    let args = args.into_iter().map(|arg| if is_line(&arg) { format!(" {arg}") } else { arg });
    let mut args = split_values(args.collect());
    if let Some(short) = args.iter_mut().take(2).find(|arg| *arg == "-h") {
        "--help".clone_into(short);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Some(name) = args.first().filter(|arg| !arg.starts_with('-') && **arg != "help") {
        let commands = info().commands;
        if !commands.iter().any(|command| command.name == *name) {
            let names: Vec<&str> = commands.iter().map(|command| command.name).collect();
            return Err(Early::Usage(format!(
                "there is no command '{name}'; there are {}",
                names.join(", ")
            )));
        }
    }
    let parsed = Arguments::from_args(&["bellwether"], &args);
    parsed.map(|a| a.command).map_err(|early| match early.status {
        Ok(()) => Early::Help(early.output),
        Err(()) => Early::Usage(wrong_usage(&early.output, args.first().copied())),
    })
}

/// What argh says of a wrong command line, in this program's words and with the way to the help.
fn wrong_usage(said: &str, command: Option<&str>) -> String {
    let info = info();
    let known = info.commands.iter().find(|known| Some(known.name) == command);
    let Some(known) = known else {
        let names: Vec<&str> = info.commands.iter().map(|command| command.name).collect();
        return format!(
            "say what to do: {}; 'bellwether --help' says what each does",
            names.join(", ")
        );
    };
    let said = said.trim_end();
    let why = if let Some(option) = said.strip_prefix("Unrecognized argument: ") {
        let options = known.command.flags.iter().map(|flag| flag.long);
        let near = option.strip_prefix("--").and_then(|name| {
            let all = options.filter_map(|long| {
                let known = long.trim_start_matches('-');
                let short = name.len() > 2 && known.starts_with(name);
                Some((if short { 0 } else { cmdline::near(name, known)? }, long))
            });
            all.min()
        });
        if let Some((_, long)) = near {
            return format!("there is no option {option}; did you mean {long}?");
        }
        match option.starts_with('-') {
            true => format!("there is no option {option}"),
            false => format!("'{option}' is one word too many"),
        }
    } else if let Some(option) = said.strip_prefix("No value provided for option '") {
        format!("{} needs a value", option.trim_end_matches(['.', '\'']))
    } else if let Some((option, why)) = said
        .strip_prefix("Error parsing option '")
        .and_then(|rest| rest.split_once("' with value '"))
        .and_then(|(option, rest)| Some((option, rest.split_once("': ")?.1)))
    {
        format!("{option}: {why}")
    } else if let Some(missing) = said.strip_prefix("Required positional arguments not provided:") {
        let names: Vec<&str> = missing.split_whitespace().collect();
        format!("{} is missing", names.join(" and "))
    } else {
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    format!("{why}; see 'bellwether {} --help'", known.name)
}

/// Whether this is no option but a command line that begins with dashes, as Ubuntu's do; with a blank
/// in front it is not taken for one.
fn is_line(arg: &str) -> bool {
    arg.starts_with("---") || arg.starts_with("-- ")
}

/// Makes `--name value` of `--name=value`, up to a lone `--`.
fn split_values(args: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(args.len());
    let mut plain = false;
    for arg in args {
        plain |= arg == "--";
        match arg.split_once('=') {
            Some((name, value)) if !plain && name.len() > 2 && name.starts_with("--") => {
                out.extend([name.to_owned(), value.to_owned()]);
            }
            _ => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(args: &[&str]) -> Result<Command, Early> {
        parse(["bellwether"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn values_may_be_joined_to_their_names() {
        for args in [
            &["build", "--profile", "net", "--modules", "/m", "-o", "x"][..],
            &["build", "--profile=net", "--modules=/m", "--output=x"],
        ] {
            let Command::Build(build) = given(args).unwrap() else { panic!("{args:?}") };
            assert_eq!(build.profile.unwrap().name, "net");
            assert_eq!(build.modules.unwrap(), PathBuf::from("/m"));
            assert_eq!(build.output.unwrap(), PathBuf::from("x"));
        }
        let split = split_values(vec!["--a=b=c".into(), "a=b".into(), "--".into(), "--x=y".into()]);
        assert_eq!(split, ["--a", "b=c", "a=b", "--", "--x=y"]);
    }

    /// `--- quiet splash` was no option.
    #[test]
    fn a_command_line_may_begin_with_dashes() {
        for line in ["--- quiet splash", "---", "-- a=b"] {
            let Command::Explain(explain) = given(&["explain", line, "--words"]).unwrap() else {
                panic!("{line}")
            };
            assert_eq!((explain.line.join(" ").trim_start(), explain.words), (line, true));
        }
    }

    #[test]
    fn wrong_usage_is_told() {
        for (args, word) in [
            (&["build", "--profile", "big"][..], "no profile 'big'"),
            (&["build", "--compress=rar"], "no compression 'rar'"),
            (&["build", "--include", "a:../b"], "not FILE or FILE:DEST"),
            (&["try", "--bus", "isa"], "no bus 'isa'"),
            (&["image", "--format", "zip"], "no format 'zip'"),
            (&["image", "--size", "0x", "a"], "no size such as"),
            (&["iso", "--entry", "x"], "not TITLE=WORDS"),
            (&["bild"], "there is no command 'bild'; there are build, "),
            (&[], "say what to do: build, explain, "),
            (&["build", "--profil", "net"], "no option --profil; did you mean --profile?"),
            (&["build", "--frob"], "there is no option --frob; see 'bellwether build --help'"),
            (&["build", "--profile", "it's"], "--profile: no profile 'it's': virt"),
            (&["build", "--list"], "--list needs a value; see"),
            (&["build", "what"], "'what' is one word too many; see"),
            (&["image"], "from is missing; see 'bellwether image --help'"),
        ] {
            match given(args) {
                Err(Early::Usage(text)) => assert!(text.contains(word), "{text}"),
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn ranges_and_modes() {
        let (first, last) = range("10.0.0.5-10.0.0.9").unwrap();
        assert_eq!((first.octets()[3], last.octets()[3]), (5, 9));
        for bad in ["", "10.0.0.5", "10.0.0.9-10.0.0.5", "a-b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert_eq!(dhcp("proxy"), Ok(DhcpMode::Proxy));
        assert!(dhcp("yes").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("40M"), Ok(40 << 20));
        assert_eq!(bytes("512"), Ok(512));
        for wrong in ["", "M", "0", "-1K", "99999999999T", "1.5G"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    /// `-h` was an unrecognized argument.
    #[test]
    fn a_short_word_for_help() {
        for args in [&["-h"][..], &["build", "-h"]] {
            assert!(matches!(given(args), Err(Early::Help(text)) if text.contains("Usage")));
        }
    }

    #[test]
    fn help_has_examples() {
        match given(&["build", "--help"]) {
            Err(Early::Help(text)) => {
                assert!(text.contains("bellwether build --modules /lib/modules"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
