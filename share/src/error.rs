//! The errors of sharing, worded for the user.

use std::path::PathBuf;
use std::{fmt, io};

/// An operation that failed, and on what.
#[derive(Debug)]
pub enum Error {
    /// A file cannot be read or written, or the archive with `/init` cannot be made.
    File(cpio_builder::error::Error),
    /// Not an ISO 9660 image, or a damaged one.
    Image {
        /// The damage.
        why: String,
    },
    /// The medium has nothing that can be booted.
    Medium {
        /// The missing part, and the remedy.
        why: String,
    },
    /// A port cannot be bound.
    Port {
        /// The service that needs it.
        service: &'static str,
        /// Address and port.
        at: std::net::SocketAddrV4,
        /// The program that has it, if known.
        holder: Option<String>,
        /// The system's error.
        source: io::Error,
    },
    /// There is no network interface to share on.
    Interface {
        /// Why no interface will do.
        why: String,
    },
    /// Another operation that the system refused.
    System {
        /// The operation.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { why } | Self::Medium { why } | Self::Interface { why } => {
                f.write_str(why)
            }
            Self::Port { service, at, holder, source } => {
                write!(f, "cannot serve {service} on {at}: {source}")?;
                match (source.kind(), holder) {
                    (io::ErrorKind::AddrInUse, Some(who)) => {
                        write!(f, "; {who} has that port: stop it while sharing")
                    }
                    (io::ErrorKind::AddrInUse, None) => {
                        write!(f, "; another program has that port: 'ss -lnptu' names it")
                    }
                    (io::ErrorKind::PermissionDenied, _) => {
                        write!(f, "; ports below 1024 are for root: run this with sudo")
                    }
                    _ => Ok(()),
                }
            }
            Self::File(source) => write!(f, "{source}"),
            Self::System { doing, source } if source.kind() == io::ErrorKind::UnexpectedEof => {
                write!(f, "cannot {doing}: the file ends before its data")
            }
            Self::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<cpio_builder::error::Error> for Error {
    fn from(e: cpio_builder::error::Error) -> Self {
        Self::File(e)
    }
}

impl Error {
    /// For `map_err` on reading `path`.
    pub fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let wrap = cpio_builder::error::Error::read(path);
        move |source| Self::File(wrap(source))
    }

    /// For `map_err` on writing `path`.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let wrap = cpio_builder::error::Error::write(path);
        move |source| Self::File(wrap(source))
    }

    /// For `map_err` on any other operation.
    pub fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
