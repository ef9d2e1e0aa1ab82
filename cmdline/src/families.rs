//! Lines of systems whose root only their own initramfs puts together, named with what to
//! do; and words that another dialect calls otherwise.
//!
//! Not in the small /init: it refuses most of these lines all the same, in general words.

use crate::plan::{BootPlan, Dialect, Source};
use crate::table::{Draft, covers};

/// When a family's word refuses the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Only when nothing else says where the root is.
    Rootless,
    /// Also in the kernel's and dracut's words, whose `root=` means something else then.
    Plain,
    /// In every dialect that the line does not name.
    Always,
}
use When::{Always, Plain, Rootless};

/// Volumes that another initramfs opens or puts together, and this one does not.
const UNOPENED: &[&str] = &[
    "rd.luks.uuid",
    "rd.luks.name",
    "rd.luks.partuuid",
    "luks.uuid",
    "luks.name",
    "cryptdevice",
    "cryptopts",
    "crypt_root",
    "rd.lvm.lv",
    "rd.lvm.vg",
    "rd.md.uuid",
];

const OWN_INITRD: &str = "boot it with its own initrd";

/// A word (with `*`), how its value begins, when it counts, what it tells, what to do.
const FAMILIES: &[(&str, &str, When, &str, &str)] = &[
    ("stagename", "", Always, ALT, ALT_HINT),
    ("bootchain", "", Always, ALT, ALT_HINT),
    (
        "miso*",
        "",
        Always,
        "is Manjaro's, whose root is a stack of images",
        "bw.root=LABEL=… bw.layers=manjaro/x86_64/rootfs.sfs,manjaro/x86_64/desktopfs.sfs,manjaro/x86_64/mhwdfs.sfs,manjaro/x86_64/livefs.sfs bw.overlay",
    ),
    (
        "root",
        "mgalive:",
        Always,
        "is Mageia's live medium",
        "bw.root=LABEL=… bw.layers=loopbacks/distrib-lzma.sqfs bw.overlay, with the name of the image on the medium",
    ),
    (
        "iso-chooser-menu",
        "",
        Always,
        "is the menu of Ubuntu's mini ISO, which only its own initrd shows",
        "boot=casper iso-url=http://SERVER/ubuntu.iso ip=dhcp",
    ),
    ("looptype", "", Always, GENKERNEL, GENKERNEL_HINT),
    ("cdroot", "", Always, GENKERNEL, GENKERNEL_HINT),
    ("real_root", "", Always, "is genkernel's name of the root", "root=DEVICE"),
    ("splasht", "", Always, ANTIX, ANTIX_HINT),
    ("bdir", "", Always, ANTIX, ANTIX_HINT),
    ("persist_all", "", Always, ANTIX, ANTIX_HINT),
    ("persist_static", "", Always, ANTIX, ANTIX_HINT),
    ("p_static_root", "", Always, ANTIX, ANTIX_HINT),
    ("changes", "", Always, PORTEUS, PORTEUS_HINT),
    ("copy2ram", "", Always, PORTEUS, PORTEUS_HINT),
    ("extramod", "", Always, PORTEUS, PORTEUS_HINT),
    ("base_only", "", Always, PORTEUS, PORTEUS_HINT),
    ("priority", "", Always, DEBIAN, OWN_INITRD),
    ("DEBIAN_FRONTEND", "", Always, DEBIAN, OWN_INITRD),
    ("rescue/enable", "", Always, DEBIAN, OWN_INITRD),
    ("root", "LABEL=nixos-", Plain, NIXOS, OWN_INITRD),
    ("init", "/nix/store/", Rootless, NIXOS, OWN_INITRD),
    ("gnu.load", "", Plain, "is Guix's, whose root only its own initramfs prepares", OWN_INITRD),
    (
        "ostree",
        "",
        Plain,
        "is OSTree's: only its own initramfs finds the deployment on the root",
        OWN_INITRD,
    ),
    ("androidboot.*", "", Plain, ANDROID, OWN_INITRD),
    ("SRC", "", Plain, ANDROID, OWN_INITRD),
    ("talos.*", "", Plain, "is Talos's, which runs from its own initramfs", OWN_INITRD),
    ("storageip", "", Plain, "is FOG's, which runs from its own initrd", OWN_INITRD),
    (
        "root",
        "/dev/ram",
        Plain,
        "is a RAM disk: such a system runs from its own initrd, and no root follows",
        "boot it with its own initrd, or name the root: root=DEVICE, bw.root=…",
    ),
    ("root", "ZFS", Plain, ZFS, OWN_INITRD),
    ("root", "zfs", Plain, ZFS, OWN_INITRD),
    (
        "root",
        "gpt-auto",
        Plain,
        "is the partition that systemd finds by its type, which is not looked at",
        "root=PARTUUID=… or root=LABEL=… names it",
    ),
    ("mount.usr", "", Plain, USR, OWN_INITRD),
    ("usrhash", "", Plain, USR, OWN_INITRD),
    ("netboot", "http://", Always, SYSRCD, "bw.root=http://SERVER/sysrcd.dat bw.overlay"),
    ("netboot", "tftp://", Always, SYSRCD, "bw.root=tftp://SERVER/sysrcd.dat bw.overlay"),
    ("netboot", "nfs://", Always, SYSRCD, "bw.root=nfs:SERVER:/PATH,file=sysrcd.dat bw.overlay"),
    ("netboot", "nbd://", Always, SYSRCD, "bw.root=nbd:SERVER:PORT/ bw.overlay"),
    (
        "coreos.*",
        "",
        Rootless,
        "is CoreOS's, whose root only its own initramfs puts together",
        OWN_INITRD,
    ),
    (
        "ignition.*",
        "",
        Rootless,
        "is CoreOS's, whose root only its own initramfs puts together",
        OWN_INITRD,
    ),
    ("flatcar.*", "", Rootless, "is Flatcar's, which runs from its own initramfs", OWN_INITRD),
    ("inst.*", "", Rootless, ANACONDA, ANACONDA_HINT),
    ("ks", "", Rootless, ANACONDA, ANACONDA_HINT),
    (
        "install",
        "",
        Rootless,
        "is the word of an installer that runs from its own initrd (SUSE's, for one)",
        OWN_INITRD,
    ),
    (
        "autoyast",
        "",
        Rootless,
        "is the word of SUSE's installer, which runs from its own initrd",
        OWN_INITRD,
    ),
    ("disk", "", Rootless, "is LibreELEC's", "bw.root=LABEL=… bw.image=SYSTEM bw.overlay"),
    ("pmedia", "", Rootless, PUPPY, PUPPY_HINT),
    ("psubdir", "", Rootless, PUPPY, PUPPY_HINT),
    ("pfix", "", Rootless, PUPPY, PUPPY_HINT),
];
const USR: &str = "is a file system of its own for /usr, which is not mounted here";
const ZFS: &str = "is a root on ZFS, which is not read";
const SYSRCD: &str = "is SystemRescueCd's, of before 2020";
const ALT: &str = "is ALT Linux's, whose stages only its own initramfs knows";
const ALT_HINT: &str =
    "bw.root=cdrom bw.image=live bw.overlay, with the name of the stage's file on the medium";
const GENKERNEL: &str = "is genkernel's (Gentoo's media)";
const GENKERNEL_HINT: &str = "bw.root=any bw.image=image.squashfs bw.overlay";
const ANTIX: &str = "is a word of antiX and MX Linux";
const ANTIX_HINT: &str = "bw.root=any bw.image=antiX/linuxfs bw.overlay";
const PORTEUS: &str = "is a word of Porteus, whose root is a stack of .xzm images";
const PORTEUS_HINT: &str =
    "bw.root=any bw.layers=porteus/base/….xzm,… bw.overlay, the lowest first";
const DEBIAN: &str = "is a word of Debian's installer, which runs from its own initrd";
const NIXOS: &str =
    "is NixOS's, whose root only its own initramfs puts together from a store of packages";
const ANDROID: &str = "is Android's, whose system only its own initramfs starts";
const ANACONDA: &str = "is a word of the installer of Fedora and Red Hat, and names no root";
const ANACONDA_HINT: &str =
    "root=live:http://SERVER/PATH/images/install.img beside it boots the installer";
const PUPPY: &str = "is Puppy Linux's";
const PUPPY_HINT: &str = "bw.root=any bw.image=puppy_….sfs bw.overlay";

/// Refuses the line of a family that is not read, first of all that is said of it.
pub(crate) fn check(d: &mut Draft<'_>, plan: &BootPlan) {
    let dialect = d.grammar.dialect;
    let named = d.peek("bw.dialect").is_some() || matches!(d.value("boot"), "live" | "casper");
    if d.peek("bw.root").is_some() || named || d.peek("bw.clone").is_some() {
        return;
    }
    let plain = matches!(dialect, Dialect::Kernel | Dialect::Dracut | Dialect::Bellwether);
    let rootless = plan.root.sources.is_empty();
    let found = FAMILIES.iter().find_map(|(word, start, when, why, hint)| {
        let counts = rootless || *when == Always || *when == Plain && plain;
        let is = |name: &str, value: &str| covers(word, name) && value.starts_with(start);
        let token = d.tokens().filter(|_| counts).find(|t| is(t.name, t.value.unwrap_or_default()));
        token.map(|token| (token.text(), why, hint))
    });
    let on_disk = plan.root.sources.iter().any(Source::on_disk);
    let unopened = d.tokens().filter(|_| on_disk).find(|token| UNOPENED.contains(&token.name));
    if let Some(word) = unopened.map(|token| token.text()) {
        d.warn(
            &word,
            &(
                "is not opened or put together here; a root on it is not found",
                "boot such a system with its own initrd",
            ),
        );
    }
    if let Some((word, why, hint)) = found {
        d.fatal(&word, &(why, hint));
        if let Some(last) = d.warnings.pop() {
            // What else was said of the word is said by this, too.
            d.warnings.retain(|other| other.word != last.word);
            d.warnings.insert(0, last);
        }
    }
}
