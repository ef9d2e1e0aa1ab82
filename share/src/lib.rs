//! Serves live media, as they are, to machines that boot from the network.

pub mod archive;
pub mod config;
pub mod dhcp;
pub mod disk;
pub mod ending;
pub mod error;
pub mod event;
pub mod files;
pub mod http;
pub mod initrd;
pub mod iso;
pub mod loaders;
pub mod media;
pub mod medium;
pub mod nbd;
pub mod net;
pub mod nfs;
pub mod options;
pub mod page;
pub mod privileges;
pub mod serve;
pub mod services;
pub mod session;
pub mod tftp;
pub mod tree;
pub mod xdr;
