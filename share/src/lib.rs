//! Serves live media, as they are, to machines that boot from the network.

pub mod dhcp;
pub mod error;
pub mod http;
pub mod iso;
pub mod nfs;
pub mod tftp;
pub mod tree;
pub mod xdr;
