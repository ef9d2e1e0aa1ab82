//! Handing out chunks: who wants which, and what is at hand.
//!
//! A chunk that has just come goes on from memory. The oldest leaves memory for the next one; who
//! was too slow for it gets it from the disk later. So no machine waits for a slow one.

use super::bits::Bits;
use super::manifest::Manifest;
use super::wire::{Message, Piece};
use super::{Act, Ask, Peer};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Chunks that are held in memory.
pub const WINDOW: usize = 16;

#[derive(Debug)]
struct Wants {
    peer: Peer,
    bits: Bits,
    /// Asked of the disk.
    reads: Option<u32>,
    next: u32,
}

/// Who wants chunks of this machine.
#[derive(Debug, Default)]
pub struct Serve {
    wants: Vec<Wants>,
    window: VecDeque<(u32, Arc<Vec<u8>>)>,
    /// Chunks that were handed out, and their bytes.
    pub sent: u64,
    /// See [`Serve::sent`].
    pub bytes: u64,
}

impl Serve {
    /// A machine wants these chunks, instead of what it wanted.
    pub fn want(&mut self, peer: Peer, bits: Bits) {
        self.gone(peer);
        self.wants.push(Wants { peer, bits, reads: None, next: 0 });
    }

    /// A machine wants nothing any more.
    pub fn gone(&mut self, peer: Peer) {
        self.wants.retain(|wants| wants.peer != peer);
    }

    /// The machines that have wanted chunks.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        self.wants.iter().map(|wants| wants.peer)
    }

    /// Whether this machine wants a chunk.
    #[must_use]
    pub fn wants(&self, peer: Peer) -> bool {
        self.wants.iter().any(|wants| wants.peer == peer && !wants.bits.is_empty())
    }

    /// Whether a machine wants a chunk.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.wants.iter().any(|wants| !wants.bits.is_empty())
    }

    /// Whether this machine has said what it wants.
    #[must_use]
    pub fn knows(&self, peer: Peer) -> bool {
        self.wants.iter().any(|wants| wants.peer == peer)
    }

    /// The first chunk, from this one on and then from the beginning, that one of these machines
    /// wants, or, for `two`, that at least two want.
    pub fn first(&self, of: impl Fn(Peer) -> bool, two: bool, from: u32) -> Option<u32> {
        let sets = self.wants.iter().filter(|wants| of(wants.peer)).map(|wants| &wants.bits);
        let sets: Vec<&Bits> = sets.collect();
        Bits::first_of(&sets, two, from).or_else(|| Bits::first_of(&sets, two, 0))
    }

    /// These machines get this chunk in another way.
    pub fn handed(&mut self, of: impl Fn(Peer) -> bool, n: u32) {
        for wants in self.wants.iter_mut().filter(|wants| of(wants.peer)) {
            wants.bits.remove(n);
        }
        self.sent += 1;
    }

    /// A chunk that has come, or was read.
    pub fn at_hand(&mut self, n: u32, data: &Arc<Vec<u8>>) {
        if self.window.iter().all(|(other, _)| *other != n) {
            if self.window.len() >= WINDOW {
                self.window.pop_front();
            }
            self.window.push_back((n, data.clone()));
        }
        self.read(n);
    }

    /// The disk has answered.
    pub fn read(&mut self, n: u32) {
        for wants in self.wants.iter_mut().filter(|wants| wants.reads == Some(n)) {
            wants.reads = None;
        }
    }

    /// The disk cannot read it: it is not handed out.
    pub fn unreadable(&mut self, n: u32) {
        self.read(n);
        self.wants.iter_mut().for_each(|wants| wants.bits.remove(n));
    }

    /// This machine's connection has room: the next chunk for it, or what the disk must do
    /// first. `on_disk` can be read.
    pub fn next(&mut self, peer: Peer, manifest: &Manifest, on_disk: &Bits) -> Option<Act> {
        let wants = self.wants.iter_mut().find(|wants| wants.peer == peer)?;
        let held = self.window.iter().find(|(n, _)| wants.bits.has(*n));
        if let Some((n, data)) = held {
            wants.bits.remove(*n);
            if wants.next == *n {
                wants.next += 1;
            }
            self.sent += 1;
            self.bytes += data.len() as u64;
            return piece(manifest, *n, data).map(|piece| Act::Say(peer, Message::Chunk(piece)));
        }
        if wants.reads.is_some() {
            return None;
        }
        let n = wants.bits.first_in_both(on_disk, wants.next);
        let n = n.or_else(|| wants.bits.first_in_both(on_disk, 0))?;
        (wants.reads, wants.next) = (Some(n), n);
        Some(Act::Disk(Ask::Read(n)))
    }
}

fn piece(manifest: &Manifest, number: u32, data: &Arc<Vec<u8>>) -> Option<Piece> {
    let chunk = manifest.layout.chunk(number)?;
    Some(Piece {
        session: manifest.session(),
        disk: chunk.disk,
        area: chunk.area,
        number,
        start: chunk.start,
        data: data.clone(),
    })
}
