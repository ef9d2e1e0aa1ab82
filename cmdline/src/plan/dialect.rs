//! The dialects.

/// The language a command line is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// The kernel's own `root=`, `ip=`, `nfsroot=` and initramfs-tools' additions.
    Kernel,
    /// Ubuntu's casper, `boot=casper`.
    Casper,
    /// Debian's live-boot, `boot=live`.
    LiveBoot,
    /// dracut: dmsquash-live, livenet, nfs, overlay.
    Dracut,
    /// Arch Linux's mkinitcpio-archiso.
    Archiso,
    /// Mandriva's and Mageia's stage1, `automatic=`.
    Stage1,
    /// Slax's linux-live.
    Slax,
    /// LTSP image chains.
    Ltsp,
    /// Alpine's mkinitfs.
    Alpine,
    /// Tiny Core's tc-config.
    TinyCore,
    /// Knoppix.
    Knoppix,
    /// Bellwether's own `bw.` words alone.
    Bellwether,
}

impl Dialect {
    /// Every dialect, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::Kernel,
        Self::Casper,
        Self::LiveBoot,
        Self::Dracut,
        Self::Archiso,
        Self::Stage1,
        Self::Slax,
        Self::Ltsp,
        Self::Alpine,
        Self::TinyCore,
        Self::Knoppix,
        Self::Bellwether,
    ];

    /// Its name, as `bw.dialect=` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Casper => "casper",
            Self::LiveBoot => "live-boot",
            Self::Dracut => "dracut",
            Self::Archiso => "archiso",
            Self::Stage1 => "stage1",
            Self::Slax => "slax",
            Self::Ltsp => "ltsp",
            Self::Alpine => "alpine",
            Self::TinyCore => "tiny-core",
            Self::Knoppix => "knoppix",
            Self::Bellwether => "bw",
        }
    }
}
