//! The page of a room, alone.

use super::http;
use crate::budget::Budget;
use crate::error::Error;
use crate::event::Watch;
use crate::files::Files;
use crate::net;
use crate::page::Page;
use crate::room::Room;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// Serves the page of a room at this port of `own`, one of this machine's addresses, or at another
/// port when that one is taken. Returns the page's address, with the key.
///
/// # Errors
/// [`Error::Port`] when no port can be bound, [`Error::System`] when there can be no thread, or no
/// key.
pub fn show(room: Arc<Room>, own: Ipv4Addr, port: u16) -> Result<String, Error> {
    let listener = net::tcp(SocketAddrV4::new(own, port), "the page", None)?;
    let at = listener.local_addr().map_err(Error::system("ask for the page's address"))?;
    let hosts = [own.to_string()].into_iter().chain(net::own_names()).collect();
    let page = Page::of_room(room, hosts).map_err(Error::system("make a key for the page"))?;
    let address = format!("http://{at}/#{}", page.key);
    let watch = Arc::new(Watch::new(|_| ()));
    let files = Arc::new(Files::default());
    http::start(files, listener, watch, Some(Arc::new(page)), &Budget::of_process())?;
    Ok(address)
}
