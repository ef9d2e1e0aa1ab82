//! A DHCP server that answers wrongly: no real one can be made to.

use std::fmt;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inside::{Inside, LOOK};
use crate::lab::Lab;
use crate::{Error, Result};

const SERVER: [u8; 4] = [10, 77, 0, 1];
const CLIENT: [u8; 4] = [10, 77, 0, 66];

/// DHCPOFFER, DHCPACK and DHCPNAK (RFC 2132, 9.6).
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

impl Lab {
    /// A DHCP server for the main network that offers and confirms 10.77.0.66 to every
    /// client, after `garble` has spoilt the answer: a BOOTP message whose options have no
    /// end mark yet, so that more can be added.
    ///
    /// # Errors
    /// As [`Lab::lying_dhcp`].
    pub fn rogue_dhcp(&self, garble: fn(&mut Vec<u8>)) -> Result<Rogue> {
        self.serve_dhcp(move |answer| {
            let mut bytes = answer.bytes();
            garble(&mut bytes);
            vec![bytes]
        })
    }

    /// The same for a server that says what `lie` makes of each answer: nothing, one, or
    /// several.
    ///
    /// # Errors
    /// [`Error::Io`] when the port is taken, [`Error::Command`] when the network
    /// cannot be set up for broadcasts.
    pub fn lying_dhcp(
        &self,
        mut lie: impl FnMut(Answer) -> Vec<Answer> + Send + 'static,
    ) -> Result<Rogue> {
        self.serve_dhcp(move |answer| lie(answer).iter().map(Answer::bytes).collect())
    }

    fn serve_dhcp(
        &self,
        answers: impl FnMut(Answer) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Result<Rogue> {
        let namespace = self.namespace();
        namespace.run(&["ip", "route", "replace", "255.255.255.255", "dev", "lan"])?;
        let socket = namespace.udp("0.0.0.0:67")?;
        let doing = || Error::io("set up the DHCP server's socket");
        socket.set_broadcast(true).map_err(doing())?;
        socket.set_read_timeout(Some(LOOK)).map_err(doing())?;
        let mut server = Inside::default();
        server.add(move |stop| serve(&socket, stop, answers));
        Ok(Rogue(server))
    }
}

/// The server; it stops answering when it is dropped.
pub struct Rogue(#[allow(dead_code, reason = "ends its thread when dropped")] Inside);

impl fmt::Debug for Rogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rogue")
    }
}

/// An answer that is about to be sent: a DHCPOFFER or a DHCPACK.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The fields before the options, magic number included.
    header: Vec<u8>,
    options: Vec<(u8, Vec<u8>)>,
}

impl Answer {
    /// The answer to a DHCPDISCOVER or DHCPREQUEST (RFC 2131, 3 and 4.3), nothing for
    /// other messages.
    fn to(request: &[u8]) -> Option<Answer> {
        const OPTIONS: usize = 240;
        const DISCOVER_TO_OFFER: [u8; 2] = [1, OFFER];
        const REQUEST_TO_ACK: [u8; 2] = [3, ACK];
        let asked = message_type(request.get(OPTIONS..)?)?;
        let [_, kind] = [DISCOVER_TO_OFFER, REQUEST_TO_ACK].into_iter().find(|k| k[0] == asked)?;
        let header = request.get(..OPTIONS)?.to_vec();
        let mut answer = Answer { header, options: Vec::new() };
        // op, your address, next server; the rest is as the client sent it.
        answer.field(0, &[2]).field(16, &CLIENT).field(20, &SERVER);
        // Message type, server, lease time, netmask, router.
        answer.with(53, &[kind]).with(54, &SERVER).with(51, &3600u32.to_be_bytes());
        answer.with(1, &[255, 255, 255, 0]).with(3, &SERVER);
        Some(answer)
    }

    /// Whether this confirms an address.
    pub fn is_ack(&self) -> bool {
        self.options.iter().any(|(option, value)| *option == 53 && *value == [ACK])
    }

    /// Makes a refusal of it.
    pub fn refuse(&mut self, why: &str) -> &mut Self {
        self.field(16, &[0; 4]).without(51).without(1).without(3);
        self.without(53).with(53, &[NAK]).with(56, why.as_bytes())
    }

    /// Writes to the fields before the options (RFC 2131, 2): `yiaddr` is at 16, `sname` at
    /// 44, `file` at 108.
    pub fn field(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        for (to, from) in self.header.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        self
    }

    /// Adds an option, also one that is there.
    pub fn with(&mut self, option: u8, value: &[u8]) -> &mut Self {
        self.options.push((option, value.to_vec()));
        self
    }

    /// Leaves an option out.
    pub fn without(&mut self, option: u8) -> &mut Self {
        self.options.retain(|(known, _)| *known != option);
        self
    }

    /// The message without the end mark.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for (option, value) in &self.options {
            bytes.push(*option);
            // A value that is longer than an option can be is the caller's lie, too.
            bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            bytes.extend(value);
        }
        bytes
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool, mut answers: impl FnMut(Answer) -> Vec<Vec<u8>>) {
    const END: u8 = 255;
    let mut buffer = [0u8; 1500];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let Some(answer) = buffer.get(..length).and_then(Answer::to) else { continue };
        for mut bytes in answers(answer) {
            bytes.push(END);
            // A client that hears nothing is the scenario's to report.
            let _ = socket.send_to(&bytes, "255.255.255.255:68");
        }
    }
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
        let offer = Answer::to(&discover).unwrap().bytes();
        assert_eq!((offer[0], &offer[4..8], &offer[16..20]), (2, &b"xid!"[..], &CLIENT[..]));
        assert_eq!(offer[240..243], [53, 1, OFFER]);
        discover[247] = 3;
        assert_eq!(Answer::to(&discover).unwrap().bytes()[242], ACK);
        discover[247] = 8;
        assert!(Answer::to(&discover).is_none());
        assert!(Answer::to(&discover[..100]).is_none());
        assert_eq!(message_type(&[12, 200, 1]), None);
    }

    #[test]
    fn refuses_what_it_offered() {
        let mut request = vec![0u8; 240];
        request.extend([53, 1, 3, 255]);
        let mut answer = Answer::to(&request).unwrap();
        assert!(answer.is_ack());
        answer.refuse("no");
        assert!(!answer.is_ack());
        assert_eq!(answer.bytes()[240..], [54, 4, 10, 77, 0, 1, 53, 1, NAK, 56, 2, b'n', b'o']);
    }
}
