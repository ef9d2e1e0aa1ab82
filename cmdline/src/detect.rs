//! Which dialect a line is written in.
//!
//! `bw.dialect=` decides when it is there, then `boot=`, which initramfs-tools takes
//! as the name of a script, then words that only one dialect has, in the order of
//! the table. What an image was built for decides when the line itself says
//! nothing that those words would not have as well: `nfsroot=` behind an initrd
//! with `BOOT=casper` is casper's.

use crate::plan::Dialect;
use crate::table::{Grammar, covers};
use crate::token::Token;
use crate::value;

/// Words that give a dialect away: a name (with `*`), whether a value is needed,
/// and the dialect. Earlier lines win.
const MARKS: &[(&str, bool, Dialect)] = &[
    ("automatic", true, Dialect::Stage1),
    ("kamethod", false, Dialect::Stage1),
    ("dollymethod", false, Dialect::Stage1),
    ("dollyCmethod", false, Dialect::Stage1),
    ("layerfs-path", true, Dialect::Casper),
    ("iso-url", true, Dialect::Casper),
    ("ltsp.image", true, Dialect::Ltsp),
    ("slax.flags", true, Dialect::Slax),
    ("live-media*", false, Dialect::LiveBoot),
    ("findiso", true, Dialect::LiveBoot),
    ("fromiso", true, Dialect::LiveBoot),
    ("fetch", true, Dialect::LiveBoot),
    ("httpfs", true, Dialect::LiveBoot),
    ("rd.live.*", false, Dialect::Dracut),
    ("netroot", true, Dialect::Dracut),
    #[cfg(feature = "all")]
    ("liveimg", false, Dialect::Dracut),
    ("rd.overlay*", false, Dialect::Dracut),
    ("archisobasedir", true, Dialect::Archiso),
    ("archisolabel", true, Dialect::Archiso),
    ("archisodevice", true, Dialect::Archiso),
    ("archisosearch*", true, Dialect::Archiso),
    ("archiso_*", true, Dialect::Archiso),
    ("img_dev", true, Dialect::Archiso),
    ("alpine_repo", true, Dialect::Alpine),
    ("alpine_dev", true, Dialect::Alpine),
    ("modloop", true, Dialect::Alpine),
    ("apkovl", true, Dialect::Alpine),
    ("overlaytmpfs*", false, Dialect::Alpine),
    ("modules", true, Dialect::Alpine),
    ("knoppix_dir", true, Dialect::Knoppix),
    ("knoppix_name", true, Dialect::Knoppix),
    ("nfsdir", true, Dialect::Knoppix),
    ("fromhd", true, Dialect::Knoppix),
    ("tce", true, Dialect::TinyCore),
    ("waitusb", true, Dialect::TinyCore),
    ("nfsmount", true, Dialect::TinyCore),
    ("httplist", true, Dialect::TinyCore),
    ("tftplist", true, Dialect::TinyCore),
    ("from", true, Dialect::Slax),
    ("perch*", false, Dialect::Slax),
    // anaconda's medium in a file: dracut finds it.
    #[cfg(feature = "all")]
    ("inst.stage2", true, Dialect::Dracut),
    #[cfg(feature = "all")]
    ("inst.repo", true, Dialect::Dracut),
    ("iso-scan/filename", true, Dialect::Casper),
    ("rd.*", false, Dialect::Dracut),
];

/// The same, of words that stand in menus alone; after all of those.
#[cfg(feature = "all")]
const FURTHER_MARKS: &[(&str, bool, Dialect)] = &[
    ("fromhd", false, Dialect::Knoppix),
    ("knoppix", false, Dialect::Knoppix),
    ("cde", false, Dialect::TinyCore),
    ("norestore", false, Dialect::TinyCore),
    ("superuser", false, Dialect::TinyCore),
    ("waitusb*", false, Dialect::TinyCore),
];

/// The dialect with this name.
pub(crate) fn named(name: &str) -> Option<Dialect> {
    let alias = match name {
        "live" | "liveboot" | "debian" => "live-boot",
        "ubuntu" => "casper",
        "dmsquash-live" | "livenet" | "fedora" => "dracut",
        "arch" => "archiso",
        "mandriva" | "mageia" => "stage1",
        "tinycore" | "tc" => "tiny-core",
        "bellwether" => "bw",
        other => other,
    };
    Dialect::ALL.into_iter().find(|dialect| dialect.name() == alias)
}

/// The dialect of these words, `None` when nothing gives one away. `built_in` is what
/// the image was built for.
pub(crate) fn detect(words: &[Token<'_>], built_in: Option<&Grammar>) -> Option<Dialect> {
    let value_of = |name: &str| {
        words.iter().rev().find(|t| t.name == name).and_then(|t| t.value).unwrap_or_default()
    };
    match value_of("boot") {
        "casper" => return Some(Dialect::Casper),
        "live" => return Some(Dialect::LiveBoot),
        "nfs" | "local" if built_in.is_some() => return Some(Dialect::Kernel),
        _ => {}
    }
    let root = value_of("root");
    let has = |name: &str| words.iter().any(|t| t.name == name);
    if has("rescue") && root == "/dev/ram3" {
        return Some(Dialect::Stage1);
    }
    let dracut_root = &[
        "live:",
        "http:",
        "https:",
        "ftp:",
        "tftp:",
        "nfs:",
        "nfs4:",
        "nbd:",
        "cifs:",
        "iscsi:",
        "virtiofs:",
        "torrent:",
    ];
    if dracut_root.iter().any(|p| root.starts_with(p)) || matches!(root, "dhcp" | "dhcp6") {
        return Some(Dialect::Dracut);
    }
    // dracut's old way to write an NFS root.
    #[cfg(feature = "all")]
    if root.starts_with(|c: char| c.is_ascii_digit()) && crate::text::has(root, ":/") {
        return Some(Dialect::Dracut);
    }
    if value::suffix(value_of("url")).as_deref() == Some("iso") {
        return Some(Dialect::Casper);
    }
    for (pattern, needs_value, dialect) in MARKS {
        let found = words.iter().any(|t| {
            covers(pattern, t.name)
                && (!needs_value || t.value.is_some_and(|v| !v.is_empty()))
                && built_in.is_none_or(|grammar| grammar.find(t.name).is_none())
        });
        // NixOS's own scripts have the word too.
        #[cfg(feature = "all")]
        let found =
            found && !(*pattern == "findiso" && value_of("init").starts_with("/nix/store/"));
        // A diskless machine of another family may load its modules by the same word.
        if found && !(*pattern == "modules" && root.starts_with("/dev/nfs")) {
            return Some(*dialect);
        }
    }
    if built_in.is_some() {
        return None;
    }
    #[cfg(feature = "all")]
    if root.is_empty() {
        let files = [value_of("BOOT_IMAGE"), value_of("initrd"), value_of("bootfrom")];
        let mut marks = FURTHER_MARKS.iter();
        let mark = marks.find(|(pattern, ..)| words.iter().any(|t| covers(pattern, t.name)));
        if let Some(dialect) = by_files(files).or(mark.map(|(.., dialect)| *dialect)) {
            return Some(dialect);
        }
    }
    // Ubuntu builds boot=casper into its initrd; its lines do not say it.
    let netboot = !value_of("netboot").is_empty();
    if root.is_empty() && has("---") || netboot && (root.is_empty() || root == "/dev/nfs") {
        return Some(Dialect::Casper);
    }
    if !root.is_empty()
        || cfg!(feature = "all") && !value_of("real_root").is_empty()
        || !value_of("nfsroot").is_empty()
        || !value_of("nbdroot").is_empty()
        || matches!(value_of("boot"), "nfs" | "local")
    {
        return Some(Dialect::Kernel);
    }
    None
}

/// The dialect that the names of files give away: of the kernel and the initramfs, as boot
/// loaders write them on the line, and of an ISO file that `bootfrom=` names.
#[cfg(feature = "all")]
fn by_files([kernel, initrd, iso]: [&str; 3]) -> Option<Dialect> {
    let within = |dir: &str| [kernel, initrd].iter().any(|path| path.split('/').any(|p| p == dir));
    let name = initrd.rsplit('/').next().unwrap_or_default();
    if name.starts_with("minirt") || value::suffix(iso).as_deref() == Some("iso") {
        Some(Dialect::Knoppix)
    } else if name.ends_with("core.gz") || name == "corepure64.gz" {
        Some(Dialect::TinyCore)
    } else if within("slax") {
        Some(Dialect::Slax)
    } else {
        within("casper").then_some(Dialect::Casper)
    }
}
