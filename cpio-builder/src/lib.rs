//! Initramfs images: newc archives, the module closure of a kernel's tree,
//! the index that `/init` reads.
//!
//! [`image::build`] makes an image from an [`image::ImageSpec`];
//! [`initrd::Initrd`] reads anyone's.

pub mod compress;
pub mod error;
pub mod image;
pub mod index;
pub mod initrd;
pub mod modinfo;
pub mod newc;
pub mod profile;
pub mod source;
pub mod strip;
pub mod tree;
