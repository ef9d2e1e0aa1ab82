//! Boots of real machines in real networks; see `qemu_tests::lab` for the words.
//!
//! `cargo test -p qemu-tests --features machines --test scenarios -- --test-threads=2`

mod arm64;
mod builder;
mod clone;
mod dialects;
mod failures;
mod faults;
mod handoff;
mod late;
mod layouts;
mod links;
mod nfs;
mod nics;
mod night;
mod p2v;
mod peer;
mod pxe;
mod share;
mod sources;
mod storage;
