//! The one error of the lab: the operation that failed and its object.

use std::fmt;
use std::io;
use std::path::Path;

/// Why a lab could not be built or a scenario did not go as it should.
#[derive(Debug)]
pub enum Error {
    /// A file operation or a process start failed.
    Io {
        /// What was being done, with its object.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended with a failure.
    Command {
        /// The command as it was run.
        command: String,
        /// Exit code or signal.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Debian packages are missing and may not be installed from here.
    Packages {
        /// The command that installs them.
        remedy: String,
    },
    /// The lab needs root.
    NotRoot {
        /// What needs it.
        what: &'static str,
    },
    /// An input is not as expected.
    Input(String),
    /// A machine did not print what it should have within the limit.
    Timeout {
        /// What was waited for.
        waiting: String,
        /// The limit.
        seconds: u64,
        /// The last lines of the console.
        tail: String,
    },
    /// A machine printed something that means failure, or ended.
    Machine {
        /// What was waited for.
        waiting: String,
        /// What happened instead.
        instead: String,
        /// The last lines of the console.
        tail: String,
    },
}

impl Error {
    /// For `map_err`: names the operation an [`io::Error`] belongs to.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }

    /// As [`Error::io`], for an operation on one path.
    pub fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        Error::io(format!("{doing} {}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Command { command, status, output } => {
                write!(f, "`{command}` ended with {status}")?;
                if output.is_empty() { Ok(()) } else { write!(f, ":\n{output}") }
            }
            Error::Packages { remedy } => {
                write!(f, "Debian packages are missing. Run as root:\n\n    {remedy}\n")
            }
            Error::NotRoot { what } => write!(f, "{what} needs root: run this again with sudo"),
            Error::Input(what) => f.write_str(what),
            Error::Timeout { waiting, seconds, tail } => {
                write!(f, "no {waiting} within {seconds} s; the console ends:\n{tail}")
            }
            Error::Machine { waiting, instead, tail } => {
                write!(f, "{instead} while waiting for {waiting}; the console ends:\n{tail}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
