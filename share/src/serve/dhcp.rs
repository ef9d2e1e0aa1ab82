//! DHCP on both ports.

use super::{spawn, v4};
use crate::dhcp::client::{Client, Program};
use crate::dhcp::message::Message;
use crate::dhcp::server::{Arrival, PXE_PORT, Seen, Server};
use crate::error::Error;
use crate::event::{Event, Stage, Watch};
use crate::loaders;
use crate::net;
use crate::probe::Probe;
use crate::services::Service;
use cpio_builder::tools::Draft;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// Time between two writes of the leases: a flood of requests must not become one of writes.
const BETWEEN: Duration = Duration::from_millis(200);

/// Time between two searches for machines on leased addresses.
const SEARCH: Duration = Duration::from_secs(5);

/// Serves DHCP on both ports. Leases are saved in `keep`. A cautious server looks for another one
/// all the time with `probe`.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    server: Server,
    sockets: [UdpSocket; 2],
    watch: &Arc<Watch>,
    keep: Option<PathBuf>,
    probe: Option<Probe>,
) -> Result<(), Error> {
    let cautious = server.cautious.is_some();
    let server = Arc::new(Mutex::new(server));
    if let Some(probe) = probe.filter(|_| cautious) {
        let (server, watch) = (server.clone(), watch.clone());
        spawn("dhcp search", move || look_on(&server, &probe, &watch))?;
    }
    // Messages from before the start are old, and our own DISCOVER is among them.
    for socket in &sockets {
        let drained = socket.set_nonblocking(true).and_then(|()| {
            while socket.recv(&mut [0; 16]).is_ok() {}
            socket.set_nonblocking(false)
        });
        drained.map_err(Error::system("empty a socket"))?;
    }
    let (changed, changes) = mpsc::sync_channel(1);
    if let Some(path) = keep {
        let (server, watch) = (server.clone(), watch.clone());
        spawn("leases", move || keep_leases(&server, &changes, &path, &watch))?;
    }
    let (exhausted, wishes) = mpsc::sync_channel(1);
    let searched = server.clone();
    spawn("lease search", move || reclaim(&searched, &wishes))?;
    for (socket, port) in sockets.into_iter().zip([67, PXE_PORT]) {
        let (server, watch) = (server.clone(), watch.clone());
        let (changed, exhausted) = (changed.clone(), exhausted.clone());
        spawn("dhcp", move || answer_all(&server, &socket, port, &watch, [&changed, &exhausted]))?;
    }
    Ok(())
}

/// When all addresses are leased, ends the leases of those on which no machine answers: requests
/// with forged hardware addresses would hold them for hours.
fn reclaim(server: &Mutex<Server>, wishes: &Receiver<()>) {
    let lock = || server.lock().unwrap_or_else(PoisonError::into_inner);
    while wishes.recv().is_ok() {
        let (own, ends) = {
            let server = lock();
            (server.own, server.full.as_ref().map(|(_, leases)| leases.ends()))
        };
        let Some((first, last)) = ends else { return };
        let found = net::in_use(own, first, last);
        if let Some((network, leases)) = &mut lock().full {
            leases.reclaim(&found, network.lease, now());
        }
        thread::sleep(SEARCH);
    }
}

/// Waits for another server.
fn look_on(server: &Mutex<Server>, probe: &Probe, watch: &Watch) {
    match probe.watch() {
        Ok(sign) => {
            if server.lock().unwrap_or_else(PoisonError::into_inner).give_way() {
                watch.tell(&Event::Warning(gave_way(&sign.to_string())));
            }
        }
        Err(e) => {
            watch.tell(&Event::Warning(format!("another DHCP server may not be noticed: {e}")));
        }
    }
}

fn gave_way(sign: &str) -> String {
    format!(
        "{sign} on this network: this machine leases no more addresses, and tells clients what \
         to boot (proxy DHCP). To lease addresses, stop the other server and share again"
    )
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Writes the leases after each change.
fn keep_leases(server: &Mutex<Server>, changes: &Receiver<()>, path: &Path, watch: &Watch) {
    let mut failed = String::new();
    while changes.recv().is_ok() {
        let server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let text = server.full.as_ref().map(|(_, leases)| leases.to_text());
        drop(server);
        // Another server leases addresses now: the file stays for the next start.
        let Some(text) = text else { continue };
        let why = write_leases(path, &text).err().map(|e| e.to_string()).unwrap_or_default();
        // Once, not at each lease.
        if why != failed && !why.is_empty() {
            watch.tell(&Event::Warning(format!("leases are not kept over a restart: {why}")));
        }
        failed = why;
        thread::sleep(BETWEEN);
    }
}

/// Writes beside the old file and renames: a power cut leaves the one or the other.
fn write_leases(path: &Path, text: &str) -> Result<(), Error> {
    let draft = Draft::new(path)?;
    draft.create()?.write_all(text.as_bytes()).map_err(Error::write(path))?;
    Ok(draft.keep()?)
}

fn answer_all(
    server: &Mutex<Server>,
    socket: &UdpSocket,
    port: u16,
    watch: &Watch,
    [changed, exhausted]: [&SyncSender<()>; 2],
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
        let arrival = Arrival { port, from, now: now() };
        let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, seen) = server.handle(&message, &arrival);
        drop(server);
        let who = message.mac.to_string();
        if let Some(reply) = reply
            && let Err(e) = socket.send_to(&reply.bytes, reply.to)
        {
            watch.refused(&who, format!("a DHCP answer to {who} was not sent: {e}"));
        }
        if matches!(seen, Seen::Address(_)) {
            // When one is waiting already, it will write this one, too.
            let _ = changed.try_send(());
        }
        match seen {
            Seen::Exhausted => {
                // Full: the reader knows already.
                let _ = exhausted.try_send(());
            }
            // Once for each server.
            Seen::OtherServer(other) if others.len() >= 16 || !others.insert(other) => continue,
            _ => {}
        }
        tell(watch, who, seen);
    }
}

/// Reports what a message led to.
fn tell(watch: &Watch, who: String, seen: Seen) {
    let refused = match seen {
        Seen::Boot { client, file } => {
            return watch.reached(&who, Stage::Asked { what: describe(&client), file });
        }
        Seen::Address(address) => return watch.tell(&Event::Address { who, address }),
        Seen::OtherServer(other) => {
            return watch.tell(&Event::Warning(format!(
                "{other} is another DHCP server on this network; stop it, or share with \
                 --dhcp proxy"
            )));
        }
        Seen::GaveWay(other) => {
            let text = gave_way(&format!("{other} is the DHCP server"));
            return watch.tell(&Event::Warning(text));
        }
        Seen::Quiet => return,
        Seen::NoLoader(client) => {
            let what = describe(&client);
            let install = loaders::install(client.arch);
            let install =
                install.map_or_else(String::new, |how| format!("; {how}, and share again"));
            format!("{who} is {what}: there is no boot loader for it{install}")
        }
        Seen::Exhausted => format!(
            "{who} asks for an address, but all are leased; give a larger range with --range"
        ),
        Seen::Relayed { relay } => format!(
            "{who} asks through the relay {relay} for an address of another network: this \
             machine leases only those of its own. Clients of that network boot when its DHCP \
             server gives them an address and share runs with --dhcp proxy"
        ),
    };
    watch.refused(&who, refused);
}

fn describe(client: &Client) -> String {
    match client.program {
        Program::Pxe => client.arch.to_string(),
        Program::Http => format!("{} by HTTP", client.arch),
        Program::Ipxe { .. } => format!("iPXE on {}", client.arch),
    }
}
