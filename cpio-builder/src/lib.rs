//! cpio-builder
