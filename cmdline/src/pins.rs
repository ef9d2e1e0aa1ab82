//! What the pins of a line cover: digests and root hashes hold the images of the root,
//! and nothing else that a boot takes from outside.

use alloc::string::String;
use alloc::vec::Vec;

use crate::plan::{
    BootPlan, Content, Dialect, ImagePick, Integrity, OnCorruption, PersistPlan, SnapshotStore,
    ToRam, Upper, Writable,
};
use crate::table::text;

/// Whether the line itself says which root it means, by a digest or by a root hash.
///
/// The medium's own checksums do not: who makes another medium makes them, too.
#[must_use]
pub fn pinned(plan: &BootPlan) -> bool {
    plan.root.integrity.iter().any(|check| is_digest(check) || is_root_hash(check))
}

fn is_digest(check: &Integrity) -> bool {
    matches!(check, Integrity::Digest { .. })
}

fn is_root_hash(check: &Integrity) -> bool {
    matches!(check, Integrity::Verity { .. })
}

/// What the pins of a line do not cover, and what is therefore left out: a sentence each,
/// for `explain` and for the console. Nothing for a line without checks.
#[must_use]
pub fn uncovered(plan: &BootPlan) -> Vec<String> {
    let checks = &plan.root.integrity;
    let mut sentences: Vec<String> = Vec::new();
    let mut say = |pieces: &[&str]| sentences.push(text(pieces));
    if checks.iter().any(|check| !is_digest(check) && !is_root_hash(check)) {
        say(&[
            "the medium's own checksums find damage, not a forged medium, and are compared once",
        ]);
    }
    if !pinned(plan) {
        return sentences;
    }
    let ignores = |check: &Integrity| {
        matches!(check, Integrity::Verity { on_corruption: OnCorruption::Ignore, .. })
    };
    if checks.iter().any(ignores) {
        say(&["blocks that do not match the root hash are used all the same, as the line says"]);
    }
    for place in kept(&plan.writable) {
        say(&[if place.silent {
            "changes of earlier boots, which are left out: no word of the line asks for them"
        } else {
            "changes of earlier boots: who can write where they are kept can change the system"
        }]);
    }
    if !plan.handoff.swap.is_empty() {
        say(&["swap partitions on ", &plan.handoff.swap.join(", ")]);
    }
    let digests = checks.iter().filter(|check| is_digest(check)).count();
    let root_hashes = checks.iter().filter(|check| is_root_hash(check)).count();
    let (Content::Images(rule) | Content::Either(rule)) = &plan.root.content else {
        return sentences;
    };
    let listed = matches!(rule.pick, ImagePick::Suffixes { .. });
    if digests > 1 || (root_hashes > 1 && listed) {
        say(&["the order of the images: their names, or a list of the medium's, say it"]);
    }
    match plan.handoff.layout {
        Dialect::Slax => say(&["rootcopy on the medium, which is left out"]),
        Dialect::Casper => say(&["the names in .disk/info on the medium, which are left out"]),
        _ => {}
    }
    if digests == 0 || !matches!(plan.root.to_ram, ToRam::Image(_)) {
        say(&["the rest of the medium, which the live system can read"]);
    }
    sentences
}

/// Where a plan keeps changes.
fn kept(writable: &Writable) -> impl Iterator<Item = &PersistPlan> {
    let (union, snapshot) = match writable {
        Writable::AsIs { .. } => (None, None),
        Writable::Union(union) | Writable::Directories { union, .. } => (Some(union), None),
        Writable::DmSnapshot(snapshot) => (None, Some(snapshot)),
        Writable::ByImage { union, snapshot } => (Some(union), Some(snapshot)),
    };
    let upper = union.and_then(|union| match &union.upper {
        Upper::Persistent(place) => Some(place),
        Upper::Tmpfs { .. } => None,
    });
    let store = snapshot.and_then(|snapshot| match &snapshot.store {
        SnapshotStore::Persistent(place) => Some(place),
        _ => None,
    });
    // Of a plan for both kinds of image, both keep changes at the same place.
    upper.or(store).into_iter()
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use super::*;
    use crate::{Context, parse};

    fn told(line: &str) -> String {
        uncovered(&parse(line, &Context::default())).join("\n")
    }

    #[test]
    fn what_no_pin_covers_is_named() {
        let digest = text(&["bw.digest=sha256:", &"ab".repeat(32)]);
        let verity = text(&["bw.verity=", &"ab".repeat(32)]);
        for (line, pin, sentence) in [
            ("boot=live persistence", &verity, "changes of earlier boots: who"),
            ("boot=live", &verity, "the rest of the medium"),
            ("boot=live", &digest, "the rest of the medium"),
            ("boot=live swap=true", &verity, "swap partitions on"),
            ("from=slax", &digest, "rootcopy on the medium, which is left out"),
            ("boot=casper", &digest, ".disk/info on the medium, which are left out"),
            ("boot=live verify-checksums", &digest, "find damage"),
            (
                "root=live:CDLABEL=X rd.live.image",
                &digest,
                "changes of earlier boots, which are left out",
            ),
            (
                "bw.root=/dev/sda1 bw.snapshot=/dev/sdb1,persistent",
                &verity,
                "changes of earlier boots: who",
            ),
        ] {
            let with_pin = told(&text(&[line, " ", pin]));
            assert!(with_pin.contains(sentence), "{line} {pin}: {with_pin}");
            let without = told(line);
            assert!(!without.contains(sentence) || sentence == "find damage", "{line}: {without}");
        }
        let ignoring = "boot=live dm-verity-oncorruption=ignore dm-verity-root-hash=a:";
        assert!(told(&text(&[ignoring, &"ab".repeat(32)])).contains("used all the same"));
        let two = text(&[&digest, " bw.digest=", &"cd".repeat(32)]);
        assert!(told(&text(&["boot=live ", &two])).contains("the order of the images"));
        // Root hashes say for themselves which image they mean, unless the medium lists them.
        let hashes = text(&[&verity, " bw.verity=other.squashfs:", &"cd".repeat(32)]);
        for (line, pins, said) in [
            ("boot=live ", &hashes, true),
            ("bw.root=http://10.0.0.1/x.img ", &hashes, false),
            ("boot=live ", &verity, false),
            ("boot=live ", &digest, false),
        ] {
            let told = told(&text(&[line, pins]));
            assert_eq!(told.contains("the order of the images"), said, "{line}{pins}: {told}");
        }
        // Nothing else is read of such a root, and such a medium is let go.
        assert_eq!(told(&text(&["bw.root=http://10.0.0.1/x.img ", &digest])), "");
        assert!(!told(&text(&["boot=live toram=filesystem.squashfs ", &digest])).contains("rest"));
    }

    /// dracut and Knoppix look for kept changes by themselves; a stick of that name ran.
    #[test]
    fn the_medium_s_checksums_pin_nothing() {
        for line in
            ["boot=live verify-checksums", "root=live:CDLABEL=X rd.live.image rd.live.check"]
        {
            let plan = parse(line, &Context::default());
            assert!(!pinned(&plan) && uncovered(&plan).len() == 1, "{line}");
        }
        assert!(uncovered(&parse("boot=live", &Context::default())).is_empty());
    }
}
