//! What can go wrong in sharing, in the words of the one who shares.

use std::path::PathBuf;
use std::{fmt, io};

/// An operation that failed, and on what.
#[derive(Debug)]
pub enum Error {
    /// A file or directory cannot be read.
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    Write {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not an ISO 9660 image, or a damaged one.
    Image {
        /// What is wrong with it.
        why: String,
    },
    /// The medium has nothing that can be booted.
    Medium {
        /// What is missing, and what to do.
        why: String,
    },
    /// A port cannot be had.
    Port {
        /// What it is for.
        service: &'static str,
        /// Address and port.
        at: std::net::SocketAddrV4,
        /// Who has it, if that can be told.
        holder: Option<String>,
        /// What the system says.
        source: io::Error,
    },
    /// No network interface to share on.
    Interface {
        /// Why none of them does.
        why: String,
    },
    /// The archive with `/init` cannot be made.
    Archive(cpio_builder::error::Error),
    /// Something else that the system refused.
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Write { path, source } => write!(f, "cannot write {}: {source}", path.display()),
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
            Self::Archive(source) => write!(f, "{source}"),
            Self::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<cpio_builder::error::Error> for Error {
    fn from(e: cpio_builder::error::Error) -> Self {
        Self::Archive(e)
    }
}

impl Error {
    /// For `map_err` on reading `path`.
    pub fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// For `map_err` on writing `path`.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    /// For `map_err` on anything else.
    pub fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
