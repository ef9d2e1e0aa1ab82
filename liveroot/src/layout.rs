//! Where each dialect's live system looks for the medium, the layers and the
//! upper directory: the one thing about a dialect that the plan does not spell
//! out (`boot-dialects`, handoff matrix).

use cmdline::plan::Dialect;

/// Mount points of one dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where the medium is mounted. Below `/run` it reaches the live system by
    /// itself; elsewhere [`Self::medium_in_root`] says where it is moved.
    pub medium: &'static str,
    /// Where the medium is moved inside the new root; empty when it stays.
    pub medium_in_root: &'static str,
    /// A link in the new root that leads to the medium; empty for none.
    pub medium_link: &'static str,
    /// Directory that gets one mount point an image, named like the image.
    pub images: &'static str,
    /// Where the lowest image is moved: below `/run`, or inside the new root; empty when
    /// it stays.
    pub lowest_at: &'static str,
    /// Mount point of the writable layer.
    pub upper: &'static str,
    /// Directory of the writable layer's files, below [`Self::upper`].
    pub upper_dir: &'static str,
    /// overlayfs's work directory, below [`Self::upper`].
    pub work_dir: &'static str,
    /// A file system that holds the medium's ISO is mounted here.
    pub container: &'static str,
    /// A path in the new root where `/run/live` or the like is shown again; empty for none.
    pub alias: (&'static str, &'static str),
}

/// What systems without expectations of their own get.
const PLAIN: Layout = Layout {
    medium: "/run/bellwether/medium",
    medium_in_root: "",
    medium_link: "",
    images: "/run/bellwether/images",
    lowest_at: "",
    upper: "/run/bellwether/upper",
    upper_dir: "upper",
    work_dir: "work",
    container: "/run/bellwether/container",
    alias: ("", ""),
};

/// The layout of a dialect.
#[must_use]
pub const fn of(dialect: Dialect) -> Layout {
    match dialect {
        Dialect::Casper => Layout {
            medium: "/run/bellwether/cdrom",
            medium_in_root: "/cdrom",
            medium_link: "/media/cdrom",
            lowest_at: "/rofs",
            ..PLAIN
        },
        Dialect::LiveBoot => Layout {
            medium: "/run/live/medium",
            images: "/run/live/rootfs",
            upper: "/run/live/overlay",
            upper_dir: "rw",
            container: "/run/live/findiso",
            alias: ("/run/live", "/lib/live/mount"),
            ..PLAIN
        },
        Dialect::Dracut => Layout {
            medium: "/run/initramfs/live",
            images: "/run/initramfs/images",
            upper: "/run/initramfs/overlay",
            upper_dir: "overlayfs",
            work_dir: "ovlwork",
            container: "/run/initramfs/isoscan",
            // Installers copy the system from there.
            lowest_at: "/run/rootfsbase",
            ..PLAIN
        },
        Dialect::Archiso => Layout {
            medium: "/run/archiso/bootmnt",
            images: "/run/archiso/images",
            upper: "/run/archiso/cowspace",
            upper_dir: "upperdir",
            work_dir: "workdir",
            container: "/run/archiso/img_dev",
            lowest_at: "/run/archiso/airootfs",
            ..PLAIN
        },
        Dialect::Stage1 => {
            Layout { medium_in_root: "/tmp/media", medium_link: "/tmp/image", ..PLAIN }
        }
        _ => PLAIN,
    }
}
