//! Layers under one writable root: overlayfs
//! (`Documentation/filesystems/overlayfs.rst`).

use alloc::string::{String, ToString};
use core::fmt;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::errno::Shown;
use sys::mount::mount_nodev;

/// The size of a mount's option text, NUL included: one page.
const MAX_OPTIONS: usize = 4095;

/// Why the layers could not be stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnionError {
    /// The option text does not fit into the page that mount(2) takes.
    TooManyLayers {
        /// Their number.
        layers: usize,
    },
    /// The kernel refused.
    Mount {
        /// `overlay` or `aufs`.
        fs_type: &'static str,
        /// Its errno.
        errno: Errno,
        /// The mount options.
        options: String,
    },
}

impl fmt::Display for UnionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyLayers { layers } => {
                write!(
                    f,
                    "{layers} layers: their paths do not fit into the options of one overlay mount"
                )
            }
            Self::Mount { fs_type, errno, options } => {
                write!(f, "{fs_type} cannot be mounted: {} (options {options})", Shown(*errno))?;
                if *errno == Errno::NODEV {
                    write!(f, "; the {fs_type} module is not in this image")?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for UnionError {}

/// Text for `lowerdir=`: the top layer first, special characters escaped.
#[must_use]
pub fn lower_dirs(bottom_first: &[String]) -> String {
    let mut text = String::new();
    for layer in bottom_first.iter().rev() {
        if !text.is_empty() {
            text.push(':');
        }
        escape(&mut text, layer);
    }
    text
}

/// overlayfs splits at `:` and `,`, and unescapes backslashes.
fn escape(text: &mut String, path: &str) {
    for c in path.chars() {
        if matches!(c, '\\' | ':' | ',') {
            text.push('\\');
        }
        text.push(c);
    }
}

/// Mounts `bottom_first` at `target`, writable when there is an upper
/// directory. `upper` is `(upperdir, workdir)`; both must exist, on one file system.
///
/// # Errors
/// [`UnionError::TooManyLayers`] when the layers' paths do not fit, [`UnionError::Mount`] when
/// the kernel refuses.
pub fn mount_overlay(
    bottom_first: &[String],
    upper: Option<(&str, &str)>,
    more: &[String],
    target: &str,
) -> Result<(), UnionError> {
    let mut options = String::from("lowerdir=");
    options.push_str(&lower_dirs(bottom_first));
    if let Some((upper, work)) = upper {
        options.push_str(",upperdir=");
        escape(&mut options, upper);
        options.push_str(",workdir=");
        escape(&mut options, work);
    }
    for option in more {
        options.push(',');
        options.push_str(option);
    }
    if options.len() > MAX_OPTIONS {
        return Err(UnionError::TooManyLayers { layers: bottom_first.len() });
    }
    let fail =
        |errno| UnionError::Mount { fs_type: "overlay", errno, options: options.to_string() };
    let flags = if upper.is_some() { MountFlags::NOATIME } else { MountFlags::RDONLY };
    mount_nodev(c"overlay", target, flags, &options).map_err(fail)
}

/// Mounts `bottom_first` at `target` with aufs (`aufs(5)`), writable in `upper`.
///
/// # Errors
/// As [`mount_overlay`]; `ENODEV` when the kernel has no aufs, which is usual.
pub fn mount_aufs(
    bottom_first: &[String],
    upper: &str,
    more: &[String],
    target: &str,
) -> Result<(), UnionError> {
    let mut options = String::from("noxino,br:");
    escape(&mut options, upper);
    options.push_str("=rw");
    for layer in bottom_first.iter().rev() {
        options.push(':');
        escape(&mut options, layer);
        options.push_str("=rr+wh");
    }
    for option in more {
        options.push(',');
        options.push_str(option);
    }
    if options.len() > MAX_OPTIONS {
        return Err(UnionError::TooManyLayers { layers: bottom_first.len() });
    }
    let fail = |errno| UnionError::Mount { fs_type: "aufs", errno, options: options.to_string() };
    mount_nodev(c"aufs", target, MountFlags::NOATIME, &options).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layer_is_on_top() {
        let layers = ["/a".to_string(), "/b".to_string()];
        assert_eq!(lower_dirs(&layers), "/b:/a");
    }

    #[test]
    fn odd_names_stay_one_layer() {
        assert_eq!(lower_dirs(&["/a:b,c\\d".to_string()]), "/a\\:b\\,c\\\\d");
    }
}
