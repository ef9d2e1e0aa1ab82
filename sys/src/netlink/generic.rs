//! Generic netlink: requests to a family by its name.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::message::{Error, NESTED, Request, attributes, text_attribute};
use super::talk::{Conversation, MAX_ITEMS};
use crate::bytes::ne16;
use linux_raw_sys::netlink as nl;
use rustix::io::Errno;

/// Generic netlink: requests to a family by its name.
#[derive(Debug)]
pub struct Generic {
    conversation: Conversation,
    name: String,
    family: u16,
}

/// `GENL_ID_CTRL`, the family that resolves the others.
const FAMILY_CONTROL: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

impl Generic {
    /// Finds a family.
    ///
    /// # Errors
    /// `ENOENT` when the kernel lacks the family; its module may not be loaded.
    pub fn open(name: &str) -> Result<Generic, Error> {
        let mut conversation = Conversation::open(Some(rustix::net::netlink::GENERIC))?;
        let request = Request::new(FAMILY_CONTROL, nl::NLM_F_ACK)
            .raw(&[CONTROL_GET_FAMILY, 1, 0, 0])
            .attribute(CONTROL_FAMILY_NAME, &text_attribute(name));
        let what = format!("find the kernel's {name} interface");
        let mut family = None;
        conversation.ask(&what, request, &mut |message| {
            for (kind, value) in attributes(message.payload.get(4..).unwrap_or_default()) {
                if kind == CONTROL_FAMILY_ID {
                    family = ne16(value, 0);
                }
            }
        })?;
        let family = family.ok_or_else(|| Error::new(&what, Errno::NOENT))?;
        Ok(Generic { conversation, name: name.to_owned(), family })
    }

    /// Sends one command and returns the attributes of the answers.
    ///
    /// # Errors
    /// [`Error`] with the kernel's errno and explanation.
    pub fn command(
        &mut self,
        command: u8,
        version: u8,
        arguments: &Arguments,
    ) -> Result<Vec<(u16, Vec<u8>)>, Error> {
        let request = Request::new(self.family, nl::NLM_F_ACK)
            .raw(&[command, version, 0, 0])
            .raw(&arguments.0.bytes);
        let what = format!("make a request to {}", self.name);
        let mut answers = Vec::new();
        self.conversation.ask(&what, request, &mut |message| {
            for (kind, value) in attributes(message.payload.get(4..).unwrap_or_default()) {
                if answers.len() < MAX_ITEMS {
                    answers.push((kind, value.to_vec()));
                }
            }
        })?;
        Ok(answers)
    }
}

/// Attributes of a generic netlink command, in order.
#[derive(Default)]
pub struct Arguments(Request);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(attributes(&self.0.bytes)).finish()
    }
}

impl Arguments {
    /// Adds a 32-bit number.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Arguments {
        Arguments(self.0.attribute(kind, &value.to_ne_bytes()))
    }

    /// Adds a 64-bit number.
    #[must_use]
    pub fn u64(self, kind: u16, value: u64) -> Arguments {
        Arguments(self.0.attribute(kind, &value.to_ne_bytes()))
    }

    /// Adds attributes inside an attribute.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Arguments) -> Arguments {
        Arguments(self.0.attribute(kind | NESTED, &inner.0.bytes))
    }
}
