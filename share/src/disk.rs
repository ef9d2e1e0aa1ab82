//! The disks that clients open over NBD: media, read-only, and each client's own changes on
//! this machine (`--keep-settings`).
//!
//! Every client, identified by its hardware address, has a disk of its own with an ext4 file
//! system, made when the client first opens it. A medium that is an image can also be opened as
//! a writable disk: the client's changes go to a separate file and the image is never modified.
//! `docs/share-disks.md` specifies the files.
//!
//! A client gets only its own disks: the kernel's table of neighbours says which hardware
//! address belongs to its IP address. That stops accidents. It does not stop a person who
//! forges addresses on the local network; NBD has no passwords.

pub mod access;
pub mod cow;
pub mod device;
pub mod space;
pub mod store;
