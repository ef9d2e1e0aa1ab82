//! A TFTP server that does not send all of a file.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use super::inside::{Inside, LOOK};
use crate::lab::Lab;
use crate::{Error, Result};

/// What it does when it has sent as much as it will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It answers no more.
    Silent,
    /// It says that this was all.
    Short,
    /// The same, after it has announced the whole size.
    Announced,
}

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct ShortTftp(#[allow(dead_code, reason = "ends its thread when dropped")] Inside);

impl Lab {
    /// A TFTP server on port 1069 that sends the first `most` bytes of a file.
    ///
    /// # Errors
    /// [`Error::Io`] when the port is taken.
    pub fn short_tftp(&self, file: Vec<u8>, most: usize, tail: Tail) -> Result<ShortTftp> {
        let socket = self.namespace().udp("0.0.0.0:1069")?;
        socket
            .set_read_timeout(Some(LOOK))
            .map_err(Error::io("set up the TFTP server's socket"))?;
        let mut server = Inside::default();
        server.add(move |stop| serve(&socket, stop, &file, most, tail));
        Ok(ShortTftp(server))
    }
}

/// One client at a time, from the port that it asked.
fn serve(socket: &UdpSocket, stop: &AtomicBool, file: &[u8], most: usize, tail: Tail) {
    let mut buffer = [0u8; 1500];
    let mut transfer: Option<(SocketAddr, usize)> = None;
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let datagram = buffer.get(..length).unwrap_or_default();
        let answer = match (datagram, &mut transfer) {
            ([0, 1, ..], _) => {
                transfer = Some((from, 0));
                options(file.len(), tail)
            }
            ([0, 4, high, low], Some((client, sent))) if *client == from => {
                // Numbers of blocks wrap around: the one that is acknowledged is near.
                let acknowledged = u16::from_be_bytes([*high, *low]);
                if acknowledged == number(*sent) {
                    *sent += 1;
                }
                block(file, *sent, most, tail)
            }
            _ => None,
        };
        if let Some(answer) = answer {
            // What is lost is asked for again.
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// Bytes of a block.
const BLOCK: usize = 1428;

/// The number of the block that is sent after so many.
fn number(sent: usize) -> u16 {
    u16::try_from(sent & 0xffff).unwrap_or(0)
}

/// An OACK (RFC 2347) with the size of blocks, and perhaps of the file.
fn options(size: usize, tail: Tail) -> Option<Vec<u8>> {
    let mut bytes = [&[0, 6][..], format!("blksize\0{BLOCK}\0").as_bytes()].concat();
    if tail != Tail::Short {
        bytes.extend(format!("tsize\0{size}\0").bytes());
    }
    Some(bytes)
}

/// The block with this number from 1 on.
fn block(file: &[u8], index: usize, most: usize, tail: Tail) -> Option<Vec<u8>> {
    let start = index.checked_sub(1)?.checked_mul(BLOCK)?;
    let end = start.checked_add(BLOCK)?;
    let piece = match end {
        end if end <= most => file.get(start..end.min(file.len()))?,
        _ if tail == Tail::Silent => return None,
        // Empty, and so the last.
        _ => &[],
    };
    Some([&[0, 3][..], &number(index).to_be_bytes(), piece].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_missing() {
        let file = vec![7; 5 * BLOCK];
        let length = |index, tail| block(&file, index, 2 * BLOCK, tail).map(|block| block.len());
        assert_eq!(length(2, Tail::Short), Some(BLOCK + 4));
        assert_eq!(length(3, Tail::Short), Some(4));
        assert_eq!(length(3, Tail::Silent), None);
        assert_eq!(length(0, Tail::Short), None);
    }
}
