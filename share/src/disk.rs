//! The disks that clients have over NBD: media, read-only, and what each client keeps on
//! this machine (`--keep-settings`).
//!
//! Every client, known by its hardware address, has a disk of its own with an ext4 file
//! system, made when the client first opens it. A medium that is an image can also be
//! opened as a writable disk: the client's changes go to a file of their own, the image
//! is never touched. `docs/share-disks.md` specifies the files.
//!
//! A client gets only its own disks: the kernel's table of neighbours says which hardware
//! address belongs to its IP address. That stops accidents. It does not stop a person who
//! forges addresses on the local network; NBD has no passwords.

pub mod access;
pub mod cow;
pub mod device;
pub mod store;
