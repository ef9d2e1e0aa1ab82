//! What words of one dialect are called in another, for the remedies of warnings.

use crate::plan::Dialect;

/// What a word of elsewhere is called here: the dialect that the line is read in (`None`
/// for any), the word, what to write.
const INSTEAD: &[(Option<Dialect>, &str, &str)] = &[
    (Some(Dialect::LiveBoot), "iso-scan/filename", "findiso=/PATH/OF.iso"),
    (Some(Dialect::LiveBoot), "persistent", "persistence"),
    (Some(Dialect::Casper), "findiso", "iso-scan/filename=/PATH/OF.iso"),
    (Some(Dialect::Casper), "fromiso", "iso-scan/filename=/PATH/OF.iso"),
    (Some(Dialect::Casper), "isofrom", "iso-scan/filename=/PATH/OF.iso"),
    (Some(Dialect::Casper), "fetch", "netboot=url url=http://SERVER/PATH"),
    (Some(Dialect::Casper), "httpfs", "netboot=url url=http://SERVER/PATH"),
    (Some(Dialect::Casper), "persistence", "persistent"),
    (Some(Dialect::Kernel), "modules", "drivers load as devices appear; none need be named"),
    (None, "rootpath", "nfsroot=SERVER:/PATH"),
];

/// What to write in this dialect for a word that it does not have.
pub(crate) fn instead(dialect: Dialect, name: &str) -> Option<&'static str> {
    let row =
        INSTEAD.iter().find(|(of, word, _)| *word == name && of.is_none_or(|of| of == dialect));
    row.map(|(_, _, hint)| *hint)
}
