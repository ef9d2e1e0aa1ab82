//! Lines of systems whose root only their own initramfs puts together, named with what to
//! do; and words that another dialect calls otherwise.
//!
//! Not in the small /init: it refuses most of these lines all the same, in general words.

use crate::plan::{BootPlan, Dialect, Source};
use crate::table::{Draft, covers, listed};
use crate::token::Token;

/// The families: groups of what is told of them, what to do (`-`: [`OWN_INITRD`]), and their words,
/// which count by the letter in front:
///
/// * `N`: in every dialect;
/// * `A`: in every dialect that `boot=` does not name;
/// * `L`: so, unless `root=` names a live medium in dracut's words;
/// * `V`: so, in live-boot's words;
/// * `P`: in the kernel's and dracut's words, whose `root=` means something else then;
/// * `S`: when nothing says where the root is, or nothing more than that it is on some drive;
/// * `R`: when nothing says where the root is but a word that menus put on any line: the path of
///   an ISO file, three dashes.
///
/// A word may end in `*`, or say how its value begins; behind `!` stands what the value does not
/// hold. The first of the file that a line has is told.
const FAMILIES: &str = include_str!("families.txt");
/// Further ones, most without a root: `/init` refuses their lines at once as well, in general words.
#[cfg(feature = "explain")]
const ROOTLESS: &str = include_str!("families-rootless.txt");
#[cfg(not(feature = "explain"))]
const ROOTLESS: &str = "";

/// Volumes that another initramfs opens or puts together, and this one does not.
const UNOPENED: &str = "rd.luks.uuid rd.luks.name rd.luks.partuuid luks.uuid luks.name cryptdevice \
    cryptopts crypt_root rd.lvm.lv rd.lvm.vg rd.lv.vg rd.md.uuid rd.iscsi.* rd.fcoe fcoe iscsi_* ISCSI_*";

const OWN_INITRD: &str = "boot it with its own initrd";

/// Whether a value begins so; behind `!` is what it does not hold.
fn begins(token: &Token<'_>, start: &str) -> bool {
    // GRUB's names of files begin with their device.
    let value = token.value.unwrap_or_default();
    let value = value.strip_prefix('(').and_then(|v| v.split_once(')')).map_or(value, |v| v.1);
    match start.strip_prefix('!') {
        Some(part) => !crate::text::has(value, part),
        None => value.starts_with(start),
    }
}

/// Refuses the line of a family that is not read; nothing else is said of it.
pub(crate) fn check(d: &mut Draft<'_>, plan: &BootPlan) {
    let dialect = d.grammar.dialect;
    if ["bw.root", "bw.dialect", "bw.clone"].iter().any(|word| d.peek(word).is_some()) {
        return;
    }
    let named = matches!(d.value("boot"), "live" | "casper");
    let plain = matches!(dialect, Dialect::Kernel | Dialect::Dracut | Dialect::Bellwether);
    let is_live = d.value("root").starts_with("live:");
    // Casper by its three dashes alone, which Debian's installer has as well; an ISO file.
    let scanned = |source: &Source| match source {
        // /init looks for the file, and says in the end that it is not there.
        Source::File { on, .. } if cfg!(feature = "explain") => matches!(**on, Source::Scan(_)),
        source => matches!(source, Source::Scan(_)),
    };
    let anywhere = plan.root.sources.iter().all(scanned);
    let guessed = cfg!(feature = "explain")
        && matches!(dialect, Dialect::Casper | Dialect::Dracut | Dialect::LiveBoot)
        && anywhere
        && d.value("root").is_empty();
    let rootless = plan.root.sources.is_empty() || guessed;
    let real_root = !d.value("real_root").is_empty();
    let mut found = None;
    // The hypervisor's line has words of installers behind its dashes.
    for table in [ROOTLESS, FAMILIES] {
        let mut lines = table.lines();
        while let (None, Some(why), Some(hint)) = (&found, lines.next(), lines.next()) {
            for line in lines.by_ref().take_while(|line| !line.is_empty()) {
                let (when, words) = line.split_once(' ').unwrap_or((line, ""));
                let counts = match when {
                    "N" => true,
                    _ if named => false,
                    "A" => true,
                    "V" => dialect == Dialect::LiveBoot,
                    "L" => !is_live,
                    "P" => plain,
                    "S" => anywhere,
                    _ => rootless,
                };
                let mut words = words.split(' ').filter(|_| counts);
                let token = words.find_map(|word| {
                    let (name, start) = word.split_once('=').unwrap_or((word, ""));
                    let is = |t: &Token<'_>| covers(name, t.name) && begins(t, start);
                    d.tokens().find(|t| is(t) && !(real_root && t.name == "root"))
                });
                let hint = if hint == "-" { OWN_INITRD } else { hint };
                found = found.or_else(|| Some((token?.text(), why, hint)));
            }
        }
    }
    let on_disk = !named && plan.root.sources.iter().any(Source::on_disk);
    let unopened = d.tokens().filter(|_| on_disk).find(|token| listed(UNOPENED, token.name));
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
        d.warnings.clear();
        d.fatal(&word, &(why, hint));
        d.refused = true;
    }
}
