//! How a command fails.

/// How a command ended badly. The exit codes are part of the contract with
/// scripts: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(String),
}

impl From<cpio_builder::error::Error> for Failure {
    fn from(e: cpio_builder::error::Error) -> Self {
        Self::Failed(e.to_string())
    }
}
