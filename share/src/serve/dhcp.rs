//! DHCP on both ports.

use super::{spawn, v4};
use crate::dhcp::client::{Client, Program};
use crate::dhcp::message::Message;
use crate::dhcp::server::{Arrival, PXE_PORT, Seen, Server};
use crate::error::Error;
use crate::event::{Event, Stage, Watch};
use crate::services::Service;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// Serves DHCP on both ports. Leases are saved in `keep`.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    server: Server,
    sockets: [UdpSocket; 2],
    watch: &Arc<Watch>,
    keep: Option<PathBuf>,
) -> Result<(), Error> {
    let server = Arc::new(Mutex::new(server));
    // Messages from before the start are old, and our own DISCOVER is among them.
    for socket in &sockets {
        let drained = socket.set_nonblocking(true).and_then(|()| {
            while socket.recv(&mut [0; 16]).is_ok() {}
            socket.set_nonblocking(false)
        });
        drained.map_err(Error::system("empty a socket"))?;
    }
    for (socket, port) in sockets.into_iter().zip([67, PXE_PORT]) {
        let (server, watch, keep) = (server.clone(), watch.clone(), keep.clone());
        spawn("dhcp", move || answer_all(&server, &socket, port, &watch, keep.as_deref()))?;
    }
    Ok(())
}

fn answer_all(
    server: &Mutex<Server>,
    socket: &UdpSocket,
    port: u16,
    watch: &Watch,
    keep: Option<&Path>,
) {
    let mut buffer = [0; 4096];
    let mut others = BTreeSet::new();
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let Some(from) = v4(from).filter(|_| watch.switches.is_on(Service::Dhcp)) else { continue };
        let Some(message) = Message::read(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let arrival = Arrival { port, from, now: now.map_or(0, |now| now.as_secs()) };
        let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, seen) = server.handle(&message, &arrival);
        let leases = match (&seen, keep, &server.full) {
            (Seen::Address(_), Some(path), Some((_, leases))) => Some((path, leases.to_text())),
            _ => None,
        };
        drop(server);
        let who = message.mac.to_string();
        if let Some(reply) = reply
            && let Err(e) = socket.send_to(&reply.bytes, reply.to)
        {
            watch.refused(&who, format!("a DHCP answer to {who} was not sent: {e}"));
        }
        if let Some((path, text)) = leases
            && let Err(e) = std::fs::write(path, text)
        {
            watch.tell(&Event::Warning(format!("cannot keep leases in {}: {e}", path.display())));
        }
        match seen {
            Seen::Boot { client, file } => {
                watch.reached(&who, Stage::Asked { what: describe(&client), file });
            }
            Seen::NoLoader(client) => {
                let text =
                    format!("{who} is {}: there is no boot loader for it", describe(&client));
                watch.refused(&who, text);
            }
            Seen::Address(address) => watch.tell(&Event::Address { who, address }),
            Seen::Exhausted => {
                let text = format!(
                    "{who} asks for an address, but all are leased; give a larger range with \
                     --range"
                );
                watch.refused(&who, text);
            }
            Seen::OtherServer(other) => {
                // Once for each server.
                if others.len() < 16 && others.insert(other) {
                    watch.tell(&Event::Warning(format!(
                        "{other} is another DHCP server on this network; stop it, or share \
                         with --dhcp proxy"
                    )));
                }
            }
            Seen::Quiet => {}
        }
    }
}

fn describe(client: &Client) -> String {
    match client.program {
        Program::Pxe => client.arch.to_string(),
        Program::Http => format!("{} by HTTP", client.arch),
        Program::Ipxe { .. } => format!("iPXE on {}", client.arch),
    }
}
