//! Serves live media, as they are, to machines that boot from the network.

pub mod error;
pub mod iso;
pub mod nfs;
pub mod tree;
pub mod xdr;
