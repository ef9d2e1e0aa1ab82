//! What is known beside the line.

/// What an image was built with and the machine is, as far as it changes the meaning
/// of words.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Machine name as `uname -m` has it: `x86_64`, `aarch64`.
    pub arch: &'a str,
    /// Words that come before the line's own and are overridden by them: an image's
    /// built-in defaults, dracut's `/etc/cmdline.d`, one string each.
    pub defaults: &'a [&'a str],
    /// UUID that the medium must have (`/conf/uuid.conf` of casper and live-boot); may be empty.
    pub medium_uuid: &'a str,
    /// `layerfs-path` of casper's `/conf/conf.d/default-layer.conf`; may be empty.
    pub layerfs_path: &'a str,
    /// Whether https can be spoken before the root is up.
    pub tls: bool,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context { arch: "x86_64", defaults: &[], medium_uuid: "", layerfs_path: "", tls: false }
    }
}
