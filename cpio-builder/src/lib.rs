//! newc archives, module closure from a kernel tree, initramfs images.
pub mod compress;
pub mod initrd;
pub mod newc;
