//! `tcp://`: the bytes of the whole disk over one connection, for `nc -l PORT > FILE`.
//!
//! The other end cannot say that it has them, and holes travel as zeros.

use alloc::format;
use alloc::vec::Vec;
use core::net::SocketAddrV4;

use netboot::io::{Broken, Stream, Tcp};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use sys::clock::Instant;

use super::disk::{Disk, unreadable};
use super::{Arrived, Digest, PATIENCE, World, broken, canceled};
use crate::trouble::Trouble;

/// Bytes at once.
const PIECE: u64 = 256 << 10;

/// Sends one disk.
///
/// # Errors
/// There is no connection, or it breaks; the disk cannot be read.
pub fn stream(
    world: &mut dyn World,
    disk: &mut Disk,
    peer: SocketAddrV4,
) -> Result<Arrived, Trouble> {
    let deadline = || Instant::now().after(PATIENCE);
    let mut tcp = Tcp::connect(peer, false, deadline()).map_err(|errno| {
        Trouble::new(
            &format!("{peer}: {}", broken(errno)),
            &format!(
                "nc -l {0} > FILE (or nc -l -p {0} > FILE) must run there before",
                peer.port()
            ),
        )
    })?;
    let size = disk.map.size();
    world.say(&format!("sending all {size} bytes of {} to {peer}", disk.name));
    let mut digest = Digest::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < size {
        if !world.go_on() {
            return Err(canceled());
        }
        let end = at.saturating_add(PIECE).min(size);
        buffer.clear();
        buffer.resize(usize::try_from(end - at).unwrap_or(0), 0);
        for piece in disk.map.pieces(at..end).filter(|piece| piece.used) {
            let from = usize::try_from(piece.range.start - at).unwrap_or(0);
            let to = usize::try_from(piece.range.end - at).unwrap_or(0);
            let room = buffer.get_mut(from..to).unwrap_or_default();
            disk.reader.read(piece.range.start, room).map_err(|at| unreadable(&disk.name, at))?;
        }
        digest.bytes(at, &buffer);
        tcp.set_deadline(deadline());
        write_all(&mut tcp, &buffer).map_err(|errno| cut(peer, at, errno))?;
        at = end;
        world.progress(at, size);
    }
    // That the peer closes the connection, too, is its only answer.
    let _ = shutdown(tcp.as_fd(), Shutdown::Write);
    tcp.set_deadline(deadline());
    match until_end(&mut tcp) {
        Ok(()) => {}
        Err(Errno::TIMEDOUT) => world.say(&format!(
            "{peer} has not closed the connection (old versions of nc do not); compare the digest"
        )),
        Err(errno) => return Err(cut(peer, at, errno)),
    }
    Ok(Arrived { sha256: digest.finish(), sent: size, compared: false })
}

fn cut(peer: SocketAddrV4, at: u64, errno: Errno) -> Trouble {
    Trouble::new(
        &format!("{peer}: the connection broke at byte {at}: {}", broken(errno)),
        "start nc there again, then try again; its disk may be full. nbd:// goes on where it was",
    )
}

fn write_all(tcp: &mut Tcp, bytes: &[u8]) -> Result<(), Errno> {
    embedded_io::Write::write_all(tcp, bytes).map_err(|Broken(errno)| errno)
}

/// Reads until the peer ends.
fn until_end(tcp: &mut Tcp) -> Result<(), Errno> {
    let mut room = [0; 512];
    while embedded_io::Read::read(tcp, &mut room).map_err(|Broken(errno)| errno)? > 0 {}
    Ok(())
}
