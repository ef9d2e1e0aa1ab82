//! rtnetlink and generic netlink: links, addresses and routes of the kernel, news about them, and
//! requests to families.
//!
//! An initramfs has no `ip` command, and the published netlink crates need the standard
//! library. This is the small part of netlink(7) and rtnetlink(7) that a boot network needs.
//!
//! Message layout is that of `linux/netlink.h` and `linux/rtnetlink.h`. Parsing checks all
//! bounds, so it is safe on any input.

mod generic;
mod message;
mod route;
mod talk;

pub use generic::{Arguments, Generic};
pub use message::{Attributes, Error, Message, Messages, attributes, messages};
pub use route::*;
