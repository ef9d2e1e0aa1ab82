//! A DHCP server that answers wrongly: no real one can be made to.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Lab;
use crate::net::Namespace;
use crate::{Error, Result};

const SERVER: [u8; 4] = [10, 77, 0, 1];
const CLIENT: [u8; 4] = [10, 77, 0, 66];

impl Lab {
    /// A DHCP server for the main network whose answers `garble` may spoil, see
    /// [`Rogue`].
    ///
    /// # Errors
    /// As [`Rogue::start`].
    pub fn rogue_dhcp(&self, garble: fn(&mut Vec<u8>)) -> Result<Rogue> {
        Rogue::start(self.namespace(), "lan", garble)
    }
}

/// Offers and confirms 10.77.0.66 to everybody, after the answer was spoilt.
#[derive(Debug)]
pub struct Rogue {
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Rogue {
    /// Serves `bridge`. `garble` gets each answer as a BOOTP message whose options
    /// have no end mark yet, so that more can be added.
    ///
    /// # Errors
    /// [`Error::Io`] when the port is taken, [`Error::Command`] when the network
    /// cannot be set up for broadcasts.
    pub fn start(namespace: &Namespace, bridge: &str, garble: fn(&mut Vec<u8>)) -> Result<Rogue> {
        namespace.run(&["ip", "route", "replace", "255.255.255.255", "dev", bridge])?;
        let socket = namespace.udp("0.0.0.0:67")?;
        let doing = || Error::io("set up the DHCP server's socket");
        socket.set_broadcast(true).map_err(doing())?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(doing())?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let server = thread::spawn(move || serve(&socket, &asked, garble));
        Ok(Rogue { stop, server: Some(server) })
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool, garble: fn(&mut Vec<u8>)) {
    let mut buffer = [0u8; 1500];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        if let Some(mut answer) = buffer.get(..length).and_then(answer) {
            garble(&mut answer);
            answer.push(END);
            // A client that hears nothing is the scenario's to report.
            let _ = socket.send_to(&answer, "255.255.255.255:68");
        }
    }
}

const END: u8 = 255;

/// The answer to a DHCPDISCOVER or DHCPREQUEST (RFC 2131, 3 and 4.3), nothing for
/// other messages.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    const OPTIONS: usize = 240;
    const DISCOVER_TO_OFFER: [u8; 2] = [1, 2];
    const REQUEST_TO_ACK: [u8; 2] = [3, 5];
    let asked = message_type(request.get(OPTIONS..)?)?;
    let [_, kind] = [DISCOVER_TO_OFFER, REQUEST_TO_ACK].into_iter().find(|k| k[0] == asked)?;
    let mut answer = request.get(..OPTIONS)?.to_vec();
    // op, your address, next server; the rest is as the client sent it.
    for (at, bytes) in [(0, &[2u8][..]), (16, &CLIENT), (20, &SERVER)] {
        answer.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    }
    // Message type, server, lease time, netmask, router.
    answer.extend([53, 1, kind, 54, 4]);
    answer.extend(SERVER);
    answer.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4]);
    answer.extend(SERVER);
    Some(answer)
}

fn message_type(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [53, 1, kind, ..] => return Some(*kind),
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_what_a_client_asks() {
        let mut discover = vec![0u8; 240];
        discover[0] = 1;
        discover[4..8].copy_from_slice(b"xid!");
        discover.extend([0, 12, 2, b'h', b'i', 53, 1, 1, 255]);
        let offer = answer(&discover).unwrap();
        assert_eq!((offer[0], &offer[4..8], &offer[16..20]), (2, &b"xid!"[..], &CLIENT[..]));
        assert_eq!(offer[240..243], [53, 1, 2]);
        discover[247] = 3;
        assert_eq!(answer(&discover).unwrap()[242], 5);
        discover[247] = 8;
        assert_eq!(answer(&discover), None);
        assert_eq!(answer(&discover[..100]), None);
        assert_eq!(message_type(&[12, 200, 1]), None);
    }
}
