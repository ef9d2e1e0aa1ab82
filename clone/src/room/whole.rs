//! The place of [`OwnTable`] in programs whose disks get all of a copy: there is none.

use super::manifest::Extent;
use alloc::vec::Vec;

/// Nothing.
#[derive(Debug)]
pub enum OwnTable {}

impl OwnTable {
    /// Never called, as the others.
    #[must_use]
    pub fn gets(&self, _: Extent) -> Vec<Extent> {
        match *self {}
    }

    /// See [`OwnTable::gets`].
    pub fn mark(&self, _: &mut [u8], _: &[u8]) {
        match *self {}
    }

    /// See [`OwnTable::gets`].
    pub fn boots(&self, _: &mut [u8]) {
        match *self {}
    }
}
