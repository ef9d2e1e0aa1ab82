//! Whether a root is the one that the line pins by root hashes. One function decides,
//! before anything is mounted.

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

/// Decides, before anything is mounted, whether a root of these layers is what the line
/// pins: with one root hash on the line every layer must be an image that a root hash of
/// the line covers, and every root hash must have its image. Without one all pass.
///
/// # Errors
/// The layer without a root hash, or the root hash without an image.
pub fn check_layers(plan: &[Integrity], layers: &[(&str, Form)]) -> Result<(), Failure> {
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
    if pins().next().is_none() {
        return Ok(());
    }
    for image in pins() {
        if !layers.iter().any(|(name, _)| covers(image, name)) {
            let names: Vec<&str> = layers.iter().map(|(name, _)| *name).collect();
            let what = if image.is_empty() { "the root hash" } else { image };
            let why = format!("names none of the images ({})", names.join(", "));
            return fail(what, why, "write IMAGE:HASH with one of these names");
        }
    }
    for (name, form) in layers {
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

    #[test]
    fn a_hash_for_no_image_is_a_mistake() {
        let check = |image: &str, names: &[&str]| {
            let layers: Vec<_> = names.iter().map(|name| (*name, Form::Image)).collect();
            check_layers(&on_line(image), &layers)
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
        let a = ("a.squashfs", Form::Image);
        let refused = [
            (&pinned, Vec::from([("a.squashfs", Form::Archive)])),
            (&pinned, Vec::from([("a.squashfs", Form::Directory)])),
            (&pinned, Vec::from([a, ("zz.squashfs", Form::Image)])),
            (&pinned, Vec::from([("aa.dir", Form::Directory), a])),
            (&both, Vec::from([a])),
        ];
        for (plan, layers) in refused {
            assert!(check_layers(plan, &layers).is_err(), "{layers:?}");
        }
        assert!(check_layers(&pinned, &[a]).is_ok());
        assert!(check_layers(&both, &[a, ("b.squashfs", Form::Image)]).is_ok());
        let unpinned = [("tree", Form::Directory), ("x.tar", Form::Archive), a];
        assert!(check_layers(&[], &unpinned).is_ok());
    }
}
