//! What words of one dialect are called in another, for the remedies of warnings.

use crate::plan::Dialect;

/// What a word of elsewhere is called here: the dialect that the line is read in (`None`
/// for any), the word, what to write.
const INSTEAD: &[(Option<Dialect>, &str, &str)] = &[
    (Some(Dialect::LiveBoot), "iso-scan/filename", "findiso=/PATH/OF.iso"),
    (Some(Dialect::Casper), "findiso", "iso-scan/filename=/PATH/OF.iso"),
    (Some(Dialect::Casper), "fromiso", "iso-scan/filename=/PATH/OF.iso"),
    (Some(Dialect::LiveBoot), "persistent", "persistence"),
    (Some(Dialect::Casper), "fetch", "netboot=url url=http://SERVER/PATH"),
    (Some(Dialect::Casper), "httpfs", "netboot=url url=http://SERVER/PATH"),
    (Some(Dialect::Casper), "persistence", "persistent"),
    (Some(Dialect::Kernel), "modules", "drivers load as devices appear; none need be named"),
    (None, "rootpath", "nfsroot=SERVER:/PATH"),
];
/// Further ones for those who ask before a machine is switched on.
#[cfg(feature = "explain")]
const FURTHER: &[(Option<Dialect>, &str, &str)] = &[
    (Some(Dialect::LiveBoot), "nopersistent", "nopersistence"),
    (Some(Dialect::Casper), "nopersistence", "nopersistent"),
    (Some(Dialect::Kernel), "real_init", "init=PROGRAM"),
    // Scripts that lay memory over an installed root: of Debian's fsprotect and bilibop, of
    // Raspberry Pis.
    (Some(Dialect::Kernel), "fsprotect", "overlayroot=tmpfs"),
    (Some(Dialect::Kernel), "lockfs", "overlayroot=tmpfs"),
    (Some(Dialect::Kernel), "root-ro-driver", "overlayroot=tmpfs"),
];
#[cfg(not(feature = "explain"))]
const FURTHER: &[(Option<Dialect>, &str, &str)] = &[];

/// Words that name an ISO file on some drive.
#[cfg(feature = "explain")]
const ISO_WORDS: [&str; 6] =
    ["findiso", "fromiso", "isofrom", "iso-scan/filename", "isofile", "isoloop"];

/// How an ISO file on some drive is named in a dialect.
#[cfg(feature = "explain")]
pub(crate) fn iso_file(dialect: Dialect) -> Option<&'static str> {
    Some(match dialect {
        Dialect::LiveBoot => "findiso=/PATH/OF.iso",
        Dialect::Casper | Dialect::Dracut => "iso-scan/filename=/PATH/OF.iso",
        Dialect::Archiso => "img_dev=DEVICE img_loop=/PATH/OF.iso",
        Dialect::Slax => "from=/PATH/OF.iso",
        Dialect::Knoppix => "bootfrom=/dev/sda1/PATH/OF.iso",
        _ => return None,
    })
}

/// What to write in this dialect for a word that it does not have.
pub(crate) fn instead(dialect: Dialect, name: &str) -> Option<&'static str> {
    let mut rows = INSTEAD.iter().chain(FURTHER);
    let row = rows.find(|(of, word, _)| *word == name && of.is_none_or(|of| of == dialect));
    let found = row.map(|(_, _, hint)| *hint);
    #[cfg(feature = "explain")]
    let found = found.or_else(|| iso_file(dialect).filter(|_| ISO_WORDS.contains(&name)));
    found
}
