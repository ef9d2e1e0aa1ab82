//! Whether a root is the one that the line pins by root hashes and digests, and how it is
//! held to them. One function decides, before anything is mounted.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use cmdline::plan::Integrity;

use crate::trace::Failure;

/// How a layer of the root comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A file system in a file or on a device.
    Image,
    /// tar or cpio, to be unpacked.
    Archive,
    /// A directory of the medium.
    Directory,
}

/// A layer of the root before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its file name.
    pub name: String,
    /// What it is.
    pub form: Form,
    /// Its bytes are in this machine's memory, where no server and no drive changes them.
    pub in_memory: bool,
}

/// How a root is held to the pins of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The line pins nothing.
    Free,
    /// Every layer is read through dm-verity.
    RootHash,
    /// Every layer has one of the digests, which is computed over bytes in memory, and
    /// those are used. Root hashes of the line hold as well.
    Digest {
        /// Some are not in memory yet, and are copied there first: what a server or a
        /// drive is asked for again may be something else.
        copy: bool,
    },
}

/// Decides, before anything is mounted, whether a root of these layers is what the line
/// pins, and how it is held to it. The layers of a root that is a directory tree are none.
///
/// # Errors
/// The layer that no pin covers, or the root hash without an image.
pub fn decide(plan: &[Integrity], layers: &[Seen]) -> Result<Bound, Failure> {
    let by_root_hash = plan.iter().any(|pin| matches!(pin, Integrity::Verity { .. }));
    if by_root_hash {
        check_root_hashes(plan, layers)?;
    }
    if !plan.iter().any(|pin| matches!(pin, Integrity::Digest { .. })) {
        return Ok(if by_root_hash { Bound::RootHash } else { Bound::Free });
    }
    let directory = layers.iter().find(|layer| layer.form == Form::Directory);
    let what = match (directory, layers.is_empty()) {
        (Some(layer), _) => layer.name.as_str(),
        (None, true) => "the root",
        (None, false) => {
            return Ok(Bound::Digest { copy: layers.iter().any(|layer| !layer.in_memory) });
        }
    };
    let why = "is a directory tree, and only a file or a device has a digest";
    Err(Failure::new(CHECK_DIGEST, what, why).remedy("boot the image that the digest was made of"))
}

/// The step that compares digests.
pub const CHECK_DIGEST: &str = "check the image against its digest";

/// With one root hash on the line every layer must be an image that a root hash of the
/// line covers, and every root hash must have its image.
fn check_root_hashes(plan: &[Integrity], layers: &[Seen]) -> Result<(), Failure> {
    let fail = |what: &str, why: String, remedy: &str| {
        Err(Failure::new("check the image by dm-verity", what, why).remedy(remedy))
    };
    let covers = |image: &str, name: &str| match image {
        "" => layers.len() == 1,
        image => same_image(image, name),
    };
    let pins = || {
        plan.iter().filter_map(|integrity| match integrity {
            Integrity::Verity { image, .. } => Some(image.as_str()),
            _ => None,
        })
    };
    for image in pins() {
        if !layers.iter().any(|layer| covers(image, &layer.name)) {
            let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
            let what = if image.is_empty() { "the root hash" } else { image };
            let why = format!("names none of the images ({})", names.join(", "));
            return fail(what, why, "write IMAGE:HASH with one of these names");
        }
    }
    for Seen { name, form, .. } in layers {
        let kind = match form {
            Form::Image if pins().any(|image| covers(image, name)) => continue,
            Form::Image => {
                let why = "the line has no root hash for this image, and it has one for another";
                return fail(name, why.into(), "add IMAGE:HASH for it, or take it away");
            }
            Form::Archive => "an archive",
            Form::Directory => "a directory",
        };
        let why = format!("is {kind}, and a root hash covers the blocks of an image");
        return fail(name, why, "boot the image that the root hash was made of");
    }
    Ok(())
}

/// Whether a root hash for `wanted` is for the image `name`: with or without its ending.
#[must_use]
pub fn same_image(wanted: &str, name: &str) -> bool {
    wanted == name || name.split_once('.').is_some_and(|(stem, _)| stem == wanted)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use cmdline::plan::OnCorruption;

    use super::*;

    fn on_line(image: &str) -> Vec<Integrity> {
        Vec::from([Integrity::Verity {
            image: image.to_string(),
            root_hash: "ab".repeat(32),
            on_corruption: OnCorruption::Error,
        }])
    }

    fn layer(name: &str, form: Form) -> Seen {
        Seen { name: name.to_string(), form, in_memory: false }
    }

    fn digest() -> Vec<Integrity> {
        let hex = "ab".repeat(32);
        Vec::from([Integrity::Digest { algorithm: "sha256".to_string(), hex }])
    }

    #[test]
    fn a_hash_for_no_image_is_a_mistake() {
        let check = |image: &str, names: &[&str]| {
            let layers: Vec<_> = names.iter().map(|name| layer(name, Form::Image)).collect();
            decide(&on_line(image), &layers)
        };
        assert!(check("", &["filesystem.squashfs"]).is_ok());
        assert!(check("", &["a.squashfs", "b.squashfs"]).is_err());
        assert!(check("filesystem", &["filesystem.squashfs"]).is_ok());
        assert!(check("c", &["a.squashfs"]).is_err());
        assert!(check("a.squashfs", &[]).is_err());
    }

    /// An archive, a directory of the image's name and a further image ran unverified.
    #[test]
    fn with_a_root_hash_nothing_unpinned_runs() {
        let pinned = on_line("a.squashfs");
        let both = [on_line("a.squashfs"), on_line("b.squashfs")].concat();
        let a = layer("a.squashfs", Form::Image);
        let b = layer("b.squashfs", Form::Image);
        let refused = [
            (&pinned, Vec::from([layer("aa.dir", Form::Directory), a.clone()])),
            (&both, Vec::from([a.clone()])),
        ];
        for (plan, layers) in refused {
            assert!(decide(plan, &layers).is_err(), "{layers:?}");
        }
        assert_eq!(decide(&pinned, std::slice::from_ref(&a)), Ok(Bound::RootHash));
        assert_eq!(decide(&both, &[a.clone(), b]), Ok(Bound::RootHash));
        let unpinned = [layer("tree", Form::Directory), layer("x.tar", Form::Archive), a];
        assert_eq!(decide(&[], &unpinned), Ok(Bound::Free));
    }

    /// Each way in which a line pins, and each thing that an attacker may answer: the
    /// layer is refused, read through dm-verity, or held to the digest in memory.
    #[test]
    fn each_pin_against_each_answer() {
        const NAME: &str = "filesystem.squashfs";
        let parsed = |line: &str| {
            let plan = cmdline::parse(line, &cmdline::Context::default());
            assert!(plan.can_work(), "{:?}", plan.warnings);
            plan.root.integrity
        };
        let hash = "ab".repeat(32);
        let ways = [
            parsed(&format!("boot=live bw.digest=sha256:{hash}")),
            parsed(&format!("boot=live bw.verity={NAME}:{hash}")),
            parsed(&format!("root=/dev/sda1 roothash={hash}")),
        ];
        let refused = Err(());
        let (blocks, memory) = (Ok(Bound::RootHash), Ok(Bound::Digest { copy: true }));
        let one = |form| Vec::from([layer(NAME, form)]);
        let second = Vec::from([layer(NAME, Form::Image), layer("zz.squashfs", Form::Image)]);
        let rows = [
            ("an archive", one(Form::Archive), [memory, refused, refused]),
            ("a packed archive", one(Form::Archive), [memory, refused, refused]),
            ("a directory of that name", one(Form::Directory), [refused, refused, refused]),
            ("a second layer", second, [memory, refused, refused]),
            ("an image in the image", one(Form::Image), [memory, blocks, blocks]),
            ("other bytes on the second read", one(Form::Image), [memory, blocks, blocks]),
        ];
        for (answer, layers, expected) in rows {
            for (way, expected) in ways.iter().zip(expected) {
                let decided = decide(way, &layers).map_err(drop);
                assert_eq!(decided, expected, "{answer} against {way:?}");
            }
        }
        let fetched = Vec::from([Seen { in_memory: true, ..layer(NAME, Form::Image) }]);
        assert_eq!(decide(&ways[0], &fetched), Ok(Bound::Digest { copy: false }));
        let mixed = [fetched, one(Form::Image)].concat();
        assert_eq!(decide(&ways[0], &mixed), memory.map_err(|()| unreachable!()));
    }

    /// A digest for a directory was the kernel's "error 21", and one for a tree is none.
    #[test]
    fn only_files_have_a_digest() {
        assert!(decide(&digest(), &[]).is_err());
        let failed = decide(&digest(), &[layer("live.dir", Form::Directory)]).unwrap_err();
        assert_eq!(failed.tried[0].what, "live.dir");
        let both = [digest(), on_line("")].concat();
        assert!(decide(&both, &[layer("x.tar", Form::Archive)]).is_err());
        let bound = decide(&both, &[layer("x.img", Form::Image)]);
        assert_eq!(bound, Ok(Bound::Digest { copy: true }));
    }
}
