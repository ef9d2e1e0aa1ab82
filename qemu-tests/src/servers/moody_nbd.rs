//! An NBD server that changes its mind between connections and between reads.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::inside::Inside;
use crate::lab::Lab;
use crate::{Error, Result};

/// A request to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// How many connections were made before this one.
    pub connection: usize,
    /// How many reads were asked for before, over all connections.
    pub nth: usize,
    /// The first byte.
    pub offset: usize,
    /// How many.
    pub length: usize,
}

/// What it does about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// These bytes.
    Data(Vec<u8>),
    /// An error number of the protocol: 5 is EIO.
    Error(u32),
    /// The connection is closed.
    Close,
    /// Nothing, for ever.
    Silence,
}

/// Sizes and replies.
pub trait Mood: Send + Sync + 'static {
    /// The size that a connection is told; it is counted from 0.
    fn size(&self, connection: usize) -> usize;
    /// The reply to a read.
    fn read(&self, asked: Reading) -> Reply;
}

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct MoodyNbd(#[allow(dead_code, reason = "ends its thread when dropped")] Inside);

impl Lab {
    /// A read-only NBD server on port 10809, for one connection at a time, with an export of
    /// any name.
    ///
    /// # Errors
    /// [`Error::Io`] when the port is taken.
    pub fn moody_nbd(&self, mood: impl Mood) -> Result<MoodyNbd> {
        let listener = self.namespace().tcp("0.0.0.0:10809")?;
        let mut server = Inside::default();
        let reads = AtomicUsize::new(0);
        let serve = move |mut stream: TcpStream, nth| {
            // A client that goes away is what some scenarios want.
            let _ = converse(&mut stream, nth, &mood, &reads);
        };
        server.add_tcp(listener, serve).map_err(Error::io("set up the NBD server's socket"))?;
        Ok(MoodyNbd(server))
    }
}

/// Whole messages as `doc/proto.md` of the NBD project has them.
fn converse(
    stream: &mut TcpStream,
    connection: usize,
    mood: &impl Mood,
    reads: &AtomicUsize,
) -> io::Result<()> {
    const NO_ZEROES: u16 = 3;
    const FLAGS: u16 = 3;
    const GO: u32 = 7;
    stream.write_all(b"NBDMAGICIHAVEOPT")?;
    stream.write_all(&NO_ZEROES.to_be_bytes())?;
    let _client: [u8; 4] = take(stream)?;
    loop {
        let _magic: [u8; 8] = take(stream)?;
        let option = u32::from_be_bytes(take(stream)?);
        let length = u32::from_be_bytes(take(stream)?);
        io::copy(&mut stream.take(length.into()), &mut io::sink())?;
        if option != GO {
            // NBD_REP_ERR_UNSUP.
            reply(stream, option, (1 << 31) + 1, &[])?;
            continue;
        }
        let size = (mood.size(connection) as u64).to_be_bytes();
        reply(stream, option, 3, &[&[0, 0][..], &size, &FLAGS.to_be_bytes()].concat())?;
        reply(stream, option, 1, &[])?;
        break;
    }
    loop {
        let _magic: [u8; 4] = take(stream)?;
        let _flags: [u8; 2] = take(stream)?;
        let kind = u16::from_be_bytes(take(stream)?);
        let handle: [u8; 8] = take(stream)?;
        let offset = u64::from_be_bytes(take(stream)?);
        let length = u32::from_be_bytes(take(stream)?);
        let (offset, length) = (offset as usize, length as usize);
        let answer = match kind {
            0 => {
                let nth = reads.fetch_add(1, Ordering::Relaxed);
                mood.read(Reading { connection, nth, offset, length })
            }
            2 => Reply::Close,
            _ => Reply::Data(Vec::new()),
        };
        let (error, data) = match answer {
            Reply::Data(data) => (0, data),
            Reply::Error(error) => (error, Vec::new()),
            Reply::Close => return Ok(()),
            Reply::Silence => continue,
        };
        let head = [&0x6744_6698u32.to_be_bytes()[..], &error.to_be_bytes(), &handle].concat();
        stream.write_all(&[head, data].concat())?;
    }
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A reply to an option.
fn reply(stream: &mut TcpStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).unwrap_or(0);
    let head = [option, kind, length].map(u32::to_be_bytes).concat();
    stream.write_all(&[&0x0003_e889_0455_65a9u64.to_be_bytes()[..], &head, data].concat())
}
