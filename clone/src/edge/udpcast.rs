//! udpcast's receiver at its socket.

use super::net::{Datagrams, Waiter};
use super::{Store, World};
use crate::Error;
use crate::digest::Digest;
use crate::udpcast::{Receiver, receiver};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

const SOON: Duration = Duration::from_millis(3);
/// Packets taken before anything else is looked at.
const BATCH: usize = 64;
/// Two slices of packets, with what the kernel adds to each.
const SOCKET_BUFFER: usize = 8 << 20;

/// Where an end is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Our address: multicast is listened to there.
    pub own: Ipv4Addr,
    /// Where everybody on its network hears it.
    pub broadcast: Ipv4Addr,
    /// The even port; senders use the next.
    pub port: u16,
}

/// A copy that came.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Of what was stored.
    pub digest: Digest,
    /// It is what the sender read.
    pub verified: bool,
}

/// Finds a sender, and receives one stream into `store`.
///
/// # Errors
/// When there is no whole copy here.
pub fn receive(
    config: receiver::Config,
    place: Place,
    mut store: Box<dyn Store>,
    world: &mut dyn World,
) -> Result<Received, Error> {
    let socket = Datagrams::open(place.port)?;
    socket.receive_buffer(SOCKET_BUFFER);
    let mut core = Receiver::new(config, world.now());
    let mut incoming = [0; 2048];
    let mut packet = Vec::new();
    // Taken from the core, not yet all in the store.
    let (mut chunk, mut done): (Vec<u8>, usize) = (Vec::new(), 0);
    let mut storing = false;
    let mut said = false;
    let mut result = None;
    let mut failed: Option<Error> = None;
    while !core.finished() {
        let mut step = Ok(());
        for _ in 0..BATCH {
            let Some((n, from)) = socket.receive_from(&mut incoming) else { break };
            // Senders speak from the odd port; anything else is noise.
            if from.port() != place.port.wrapping_add(1) {
                continue;
            }
            let bytes = incoming.get(..n).unwrap_or_default();
            step = core.step(receiver::Input::Packet { from: *from.ip(), bytes }, world.now());
            if step.is_err() {
                break;
            }
        }
        if step.is_ok() {
            step = core.step(receiver::Input::Tick, world.now());
        }
        let mut stored: Option<Result<(), String>> = None;
        let mut busy = false;
        while stored.is_none() && !storing {
            if done >= chunk.len() {
                if !core.take(&mut chunk) {
                    chunk.clear();
                    done = 0;
                    break;
                }
                done = 0;
            }
            match store.put(chunk.get(done..).unwrap_or_default()) {
                Ok(0) => {
                    busy = true;
                    break;
                }
                Ok(n) => done += n,
                Err(why) => stored = Some(Err(why)),
            }
        }
        while let Some(event) = core.event() {
            match event {
                receiver::Event::Connected { sender, group, client } => {
                    socket.join(group, place.own);
                    world.say(&match client {
                        Some(client) => format!("found sender {sender}; this is receiver {client}"),
                        None => format!("found sender {sender}, who wants no answers"),
                    });
                }
                receiver::Event::Listen(group) => socket.join(group, place.own),
                receiver::Event::TooLate(sender) => world.say(&format!(
                    "{sender} sends already, and takes no more receivers; waiting for the next time"
                )),
                receiver::Event::Started { late: false } => {}
                receiver::Event::Started { late: true } => {
                    // Half a disk is no copy.
                    failed = Some(Error::Lost {
                        protocol: "udpcast",
                        after: 0,
                        why: "the beginning was sent before this machine came",
                    });
                }
                receiver::Event::End(_) => storing = true,
                receiver::Event::Finished { digest, verified } => {
                    result = Some(Received { digest, verified });
                }
            }
        }
        if storing && !said && stored.is_none() {
            store.end();
            stored = store.done().map(|how| how.map(|_| ()));
        }
        if let Some(how) = stored
            && !said
        {
            said = true;
            let input = receiver::Input::Stored(how.as_ref().copied().map_err(String::as_str));
            step = step.and(core.step(input, world.now()));
        }
        if failed.is_some() {
            core.leave();
        }
        while let Some(to) = core.transmit(&mut packet) {
            let port = place.port.wrapping_add(1);
            let ip = match to {
                receiver::To::Everybody => place.broadcast,
                receiver::To::Sender(ip) => ip,
            };
            // What is lost here is asked for again, as on the wire.
            socket.send(&packet, SocketAddrV4::new(ip, port));
        }
        while let Some(event) = core.event() {
            if let receiver::Event::Finished { digest, verified } = event {
                result = Some(Received { digest, verified });
            }
        }
        step?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        if core.bytes() > 0 {
            world.progress(core.bytes(), None);
        }
        if core.finished() {
            break;
        }
        let mut limit = core.deadline().map_or(Duration::from_secs(1), |d| {
            d.saturating_sub(world.now()).min(Duration::from_secs(1))
        });
        if busy || (storing && !said) {
            limit = limit.min(SOON);
        }
        let mut waiter = Waiter::default();
        waiter.reads(&socket);
        let _ = waiter.wait(limit);
    }
    result.ok_or(Error::Gone {
        protocol: "udpcast",
        peer: String::from("the sender"),
        when: "before the end",
    })
}
