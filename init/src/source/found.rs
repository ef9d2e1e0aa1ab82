//! What a source offers, and what is taken.

use alloc::string::String;
use alloc::vec::Vec;

use crate::images::Layer;

/// What a source offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// A file system, mounted at this path.
    Tree(String),
    /// A device or file with something in it.
    Blob(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where from, for people.
    pub origin: String,
    /// What it is.
    pub root: Root,
    /// The mount point of the medium, when there is one.
    pub medium: Option<String>,
    /// The device or file that the medium is on, when it is on one.
    pub medium_blob: Option<String>,
}

impl Found {
    /// A root that needs no medium.
    pub fn root(origin: &str, root: Root) -> Self {
        Self { origin: origin.into(), root, medium: None, medium_blob: None }
    }
}

/// What will become the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A mounted file system, as it is.
    Tree(String),
    /// A device or an image file that holds it and is not mounted yet.
    Blob(String),
    /// Images on the medium, bottom first.
    Layers(Vec<Layer>),
}
