//! What a search for the root ends with.

use alloc::string::String;
use alloc::vec::Vec;

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

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// File name, which names its mount point too.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// A directory that is a layer as it stands.
    pub is_dir: bool,
}
