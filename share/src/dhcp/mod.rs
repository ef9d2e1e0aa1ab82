//! DHCP (RFC 2131) and PXE (Intel's specification 2.1, RFC 4578) from the server's side: as a
//! proxy beside another DHCP server, or alone.
//!
//! | part | module |
//! | --- | --- |
//! | bytes to messages and back | [`message`] |
//! | what kind of client asks, and what it needs | [`client`] |
//! | addresses given out | [`lease`] |
//! | the answer to a message | [`server`] |
//!
//! No sockets here and no clock. Reading options is [`netboot`]'s, which reads the
//! other side of the same conversation.

pub mod client;
pub mod lease;
pub mod message;
pub mod server;
