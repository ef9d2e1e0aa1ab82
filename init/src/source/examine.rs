//! Whether an offer holds what the plan asks for.

use alloc::format;
use alloc::string::{String, ToString};

use cmdline::plan::{Content, Dialect, ImageRule, Marker, ScanRule, Source};
use cmdline::text;
use liveroot::{Found, Root};
use overlay::expand::is_compressed;

use super::reach::Offer;
use super::search::Search;
use crate::images;
use crate::trace::Fault;
use crate::unpack;
use sys::file::is_there;

impl Search<'_> {
    /// Takes an offer if it holds what the plan asks for.
    pub fn examine(&mut self, offer: Offer, origin: &str) -> Option<Found> {
        let image = |blob: &str| Some(Found::root(origin, Root::Blob(blob.to_string())));
        // An archive is unpacked when the root is put together.
        if let Offer::Blob(blob) = &offer
            && unpack::archive_in(blob).is_some()
        {
            return image(blob);
        }
        let offer = match (offer, &self.plan.content) {
            // Its digest is that of the file as it is: checked first, expanded then.
            (Offer::Blob(blob), Content::Tree { .. }) if self.unmounted => Offer::Blob(blob),
            (Offer::Blob(blob), _) => Offer::Blob(self.expanded(blob, origin)?),
            (tree, _) => tree,
        };
        match &self.plan.content {
            Content::Tree { subdir, .. } => {
                if let (Offer::Blob(blob), true) = (&offer, self.unmounted && subdir.is_empty()) {
                    return match self.is_image(blob) {
                        Ok(()) => image(blob),
                        Err(fault) => {
                            self.refuse(origin, fault);
                            None
                        }
                    };
                }
                let target = self.tree_target.clone();
                let (tree, _) = self.tree(offer, target, !self.read_write, origin)?;
                let root = match subdir.trim_matches('/') {
                    "" => tree,
                    subdir => format!("{tree}/{subdir}"),
                };
                Some(Found::root(origin, Root::Tree(root)))
            }
            Content::Images(rule) | Content::Either(rule) => {
                self.examine_medium(offer, origin, rule)
            }
        }
    }

    /// A medium with images, or, where the plan leaves that open, the root itself.
    fn examine_medium(&mut self, offer: Offer, origin: &str, rule: &ImageRule) -> Option<Found> {
        let bare =
            matches!(self.plan.content, Content::Either(_)) || self.dialect == Dialect::Casper;
        let (medium, on) = self.tree(offer, self.layout.medium.to_string(), true, origin)?;
        let mac = self.world.mac();
        let mut layers = self.check_marker(&medium).and_then(|()| images::pick(rule, &medium, mac));
        if cfg!(feature = "full") {
            layers = layers.and_then(|layers| images::choose(self.plan, &medium, layers));
        }
        match (layers, &on) {
            (Ok(layers), _) => {
                let root = Root::Layers(layers);
                return Some(Found {
                    medium: Some(medium),
                    medium_blob: on,
                    ..Found::root(origin, root)
                });
            }
            // The device is itself the image of a root.
            (Err(_), Some(blob)) if bare && images::looks_like_root(&medium) => {
                if self.unmounted {
                    self.world.unmount(&medium);
                    return Some(Found::root(origin, Root::Blob(blob.clone())));
                }
                return Some(Found::root(origin, Root::Tree(medium)));
            }
            (Err(fault), _) => self.refuse(origin, fault),
        }
        if on.is_some() {
            self.world.unmount(&medium);
        }
        None
    }

    /// The mounted form of an offer, and the device or file that was mounted for it.
    fn tree(
        &mut self,
        offer: Offer,
        target: String,
        read_only: bool,
        origin: &str,
    ) -> Option<(String, Option<String>)> {
        let blob = match offer {
            Offer::Tree(tree) => return Some((tree, None)),
            Offer::Blob(blob) => blob,
        };
        match self.world.mount(&blob, &target, read_only) {
            Ok(()) => Some((target, Some(blob))),
            Err(fault) => {
                self.refuse(origin, fault);
                None
            }
        }
    }

    /// Whether a device or file can be made a root of without mounting it first.
    fn is_image(&mut self, blob: &str) -> Result<(), Fault> {
        let format = self.world.inspect(blob)?.ok_or("has no known file system")?.format;
        if format.fs_type().is_some() || is_compressed(format) {
            return Ok(());
        }
        Err(format!("is {format}, not a file system").into())
    }

    /// Whether the medium carries what proves that it is the right one.
    fn check_marker(&self, medium: &str) -> Result<(), Fault> {
        for source in &self.plan.sources {
            let Source::Scan(ScanRule { marker: Some(marker), .. }) = source else { continue };
            match marker {
                Marker::Path(path) => {
                    let file = format!("{medium}/{}", path.trim_start_matches('/'));
                    if !is_there(&file).map_err(Fault::on(path))? {
                        return Err(format!("has no {path}").into());
                    }
                }
                Marker::DiskUuid { prefix, uuid } => {
                    let disk = format!("{medium}/.disk");
                    let names = coldplug::sysfs::names_if_any(&disk)
                        .map_err(Fault::in_("/.disk cannot be listed"))?;
                    let holds = names.iter().any(|name| {
                        name.starts_with(prefix.as_str())
                            && sys::file::read_file(&format!("{disk}/{name}"), 4096).is_ok_and(
                                |bytes| text::has(&String::from_utf8_lossy(&bytes), uuid),
                            )
                    });
                    if !holds {
                        return Err(
                            format!("is another medium: no .disk/{prefix}* holds {uuid}").into()
                        );
                    }
                }
            }
        }
        Ok(())
    }
}
