//! Initramfs images: newc archives, the module closure of a kernel's tree,
//! the index that `/init` reads.
//!
//! [`image::build`] makes an image from an [`image::ImageSpec`]; [`initrd::Initrd`] reads any
//! initramfs.

pub mod cloop;
pub mod compress;
pub mod container;
pub mod error;
pub mod fsimage;
pub mod image;
pub mod index;
pub mod initrd;
pub mod iso;
pub mod kernel;
pub mod kinds;
pub mod media;
pub mod menu;
pub mod modinfo;
pub mod modprobe_conf;
pub mod newc;
pub mod profile;
pub mod source;
pub mod strip;
pub mod tools;
pub mod tree;
pub mod verity;
pub mod zisofs;
