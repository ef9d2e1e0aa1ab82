//! How a command fails.

use std::fmt;

/// How a command ended badly. The exit codes are part of the contract with
/// scripts: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// It could not be done, and the output says why.
    Told,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) | Self::Usage(why) => f.write_str(why),
            Self::Told => f.write_str("failed"),
        }
    }
}

impl From<cpio_builder::error::Error> for Failure {
    fn from(e: cpio_builder::error::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

impl From<share::error::Error> for Failure {
    fn from(e: share::error::Error) -> Self {
        Self::Failed(e.to_string())
    }
}
