//! TFTP, a thread and a port for each transfer.

use super::{patiently, spawn, v4};
use crate::budget::{Budget, Memory, Place, Use};
use crate::error::Error;
use crate::event::Watch;
use crate::files::{File, Files};
use crate::net::name_of;
use crate::services::Service;
use crate::tftp::{self, Code, Packet, Send, Transfer};
use nix::sys::socket::{Shutdown, shutdown};
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Serves TFTP.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    files: Arc<Files>,
    socket: UdpSocket,
    watch: Arc<Watch>,
    budget: &Budget,
) -> Result<(), Error> {
    let (places, memory) = (budget.tftp.clone(), budget.memory.clone());
    let own = socket.local_addr().map_err(Error::system("read a socket's address"))?.ip();
    spawn("tftp", move || {
        let mut buffer = [0; 1024];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if !watch.switches.is_on(Service::Tftp) {
                continue;
            }
            let refuse = |code, text: &str| {
                // A client that does not hear it asks again.
                let _ = socket.send_to(&tftp::error(code, text), from);
            };
            let request = match tftp::read(buffer.get(..length).unwrap_or_default()) {
                Some(Packet::Read(request)) => request,
                Some(Packet::Other) => {
                    refuse(Code::AccessViolation, "nothing can be written here");
                    continue;
                }
                Some(_) => continue,
                None => {
                    refuse(Code::IllegalOperation, "not understood");
                    continue;
                }
            };
            let Some(file) = files.find_loosely(&request.file) else {
                refuse(Code::NotFound, "no such file");
                continue;
            };
            if request.text && file.length > tftp::MAX_TEXT {
                let most = tftp::MAX_TEXT >> 20;
                let why = format!("longer than {most} MiB: use the mode octet (binary)");
                refuse(Code::IllegalOperation, &why);
                continue;
            }
            // A client without a slot asks again.
            let Some(client) = v4(from) else { continue };
            // RFC 1350 section 4: a port of its own for each transfer.
            let Ok(socket) = UdpSocket::bind((own, 0)).and_then(|s| s.connect(client).map(|()| s))
            else {
                continue;
            };
            let socket = Arc::new(socket);
            let other = socket.clone();
            let end = move || {
                // A transfer that has ended needs no end.
                let _ = shutdown(other.as_raw_fd(), Shutdown::Both);
            };
            let Some(place) = places.take(*client.ip(), end) else { continue };
            let (told, memory) = (watch.clone(), memory.clone());
            let done = spawn("tftp client", move || {
                // A lost client needs no message.
                let _ = match request.text {
                    true => transfer_text(&socket, &place, client, &request, file, &told, &memory),
                    false => transfer(&socket, &place, client, &request, &file, &told),
                };
            });
            if let Err(e) = done {
                watch.refused(&client.ip().to_string(), format!("{client} is not served: {e}"));
            }
        }
    })
}

/// A transfer in `netascii`; a client for whom there is no memory asks again.
fn transfer_text(
    socket: &UdpSocket,
    place: &Place,
    client: SocketAddrV4,
    request: &tftp::Request,
    file: File,
    watch: &Watch,
    memory: &Memory,
) -> io::Result<()> {
    let length = usize::try_from(file.length).unwrap_or(usize::MAX);
    // The file, and up to twice as much of text.
    let room = memory.room(*client.ip(), length.saturating_mul(3));
    if room.bytes < length.saturating_mul(3) {
        return Ok(());
    }
    let mut bytes = vec![0; length];
    if let Err(e) = patiently(|| file.read_exact_at(0, &mut bytes)) {
        watch.broken("", &e);
        return Err(e);
    }
    let text = File { stage: file.stage, ..File::memory(tftp::to_text(&bytes)) };
    drop(bytes);
    transfer(socket, place, client, request, &text, watch)
}

fn transfer(
    socket: &UdpSocket,
    place: &Place,
    client: SocketAddrV4,
    request: &tftp::Request,
    file: &File,
    watch: &Watch,
) -> io::Result<()> {
    let mut who = String::new();
    let mut transfer = Transfer::new(request, file.length);
    let mut patience = 0;
    let mut next = transfer.send();
    let mut silent = 0;
    let mut packet = Vec::with_capacity(2048);
    let mut buffer = [0; 1024];
    loop {
        match next {
            Send::Options(options) => drop(socket.send(&options)?),
            Send::Blocks(blocks) => {
                for block in blocks {
                    let (head, offset, length) = transfer.data(block);
                    packet.clear();
                    packet.extend_from_slice(&head);
                    packet.resize(4 + length, 0);
                    let data = packet.get_mut(4..).unwrap_or_default();
                    if let Err(e) = patiently(|| file.read_exact_at(offset, data)) {
                        socket.send(&tftp::error(Code::NotDefined, "the medium cannot be read"))?;
                        watch.broken("", &e);
                        return Err(e);
                    }
                    socket.send(&packet)?;
                }
            }
            Send::Nothing => {}
            Send::Done => break,
        }
        if patience != transfer.patience() {
            patience = transfer.patience();
            socket.set_read_timeout(Some(Duration::from_millis(patience)))?;
        }
        next = match socket.recv(&mut buffer) {
            // Another client has its place now.
            Ok(0) => break,
            Ok(length) => match tftp::read(buffer.get(..length).unwrap_or_default()) {
                Some(Packet::Ack(number)) => {
                    let before = transfer.done();
                    let next = transfer.acknowledged(number);
                    if transfer.done() > before {
                        silent = 0;
                        place.is(Use::Busy);
                    }
                    if who.is_empty() && transfer.is_confirmed() {
                        place.is(Use::Busy);
                        who = name_of(*client.ip());
                        if let Some(stage) = &file.stage {
                            watch.reached(&who, stage.clone());
                        }
                    }
                    next
                }
                Some(Packet::Error { .. }) => break,
                _ => Send::Nothing,
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                silent += 1;
                if transfer.is_confirmed() {
                    place.is(Use::Owing);
                }
                if silent >= tftp::MAX_TRIES {
                    break;
                }
                transfer.send()
            }
            Err(e) => return Err(e),
        };
    }
    if !who.is_empty() {
        watch.sent(&who, transfer.done());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{budget, files, watch};

    #[test]
    fn tftp_serves_whole_files() {
        let (dir, files) = files();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        start(files, socket, watch(), &budget()).unwrap();
        let whole = std::fs::read(dir.path().join("big")).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send_to(b"\0\x01m/big\0octet\0blksize\x001000\0windowsize\x008\0", at).unwrap();
        let mut buffer = [0; 2000];
        let (length, port) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"\0\x06blksize\x001000\0windowsize\x008\0");
        client.send_to(&[0, 4, 0, 0], port).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let mut block = 0u16;
        loop {
            let (length, _) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..2], [0, 3]);
            if buffer[2..4] != (block.wrapping_add(1)).to_be_bytes() {
                continue;
            }
            block = block.wrapping_add(1);
            got.extend(&buffer[4..length]);
            let last = length < 1004;
            if last || block.is_multiple_of(8) {
                let [high, low] = block.to_be_bytes();
                client.send_to(&[0, 4, high, low], port).unwrap();
            }
            if last {
                break;
            }
        }
        assert_eq!(got, whole);
        client.send_to(b"\0\x01m/../big\0octet\0", at).unwrap();
        let (length, _) = client.recv_from(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(&[0, 5, 0, 1]));
    }
}
