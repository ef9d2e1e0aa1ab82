//! The server's files on their way into the stream.
//!
//! A chunk's head says how long it is, so that a chunk is read whole before any of it
//! goes out: a pipe may end anywhere.

use super::backlog::{Backlog, HEAD};
use super::wire;
use crate::digest::{Digest, Meter};
use alloc::vec::Vec;

/// What the loop with the files does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// Nothing, for now.
    Nothing,
    /// Open the file of this number; then `opened`.
    Open(usize),
    /// Read into this; then `read` with the number of bytes, 0 at the file's end.
    Bytes(&'a mut [u8]),
}

#[derive(Debug, PartialEq)]
enum State {
    /// The next file is to be opened.
    Closed,
    /// A chunk is read.
    Reads,
    /// A head, or a chunk with its head, goes into the backlog.
    Empties {
        /// And then comes the next file.
        last: bool,
    },
}

/// The files.
#[derive(Debug)]
pub(super) struct Feed {
    state: State,
    files: usize,
    /// Room for a chunk behind its head.
    buffer: Vec<u8>,
    /// The buffer's bytes that are to go out lie between these.
    from: usize,
    to: usize,
    sequence: u32,
    meter: Meter,
    /// Of the files that were read.
    pub(super) digests: Vec<Digest>,
}

impl Feed {
    pub(super) fn new(files: usize, chunk: u32) -> Self {
        Self {
            state: State::Closed,
            files,
            buffer: alloc::vec![0; chunk as usize + HEAD as usize],
            from: 0,
            to: 0,
            sequence: 0,
            meter: Meter::default(),
            digests: Vec::new(),
        }
    }

    /// All is in the backlog.
    pub(super) fn complete(&self) -> bool {
        self.state == State::Closed && self.digests.len() == self.files
    }

    pub(super) fn want(&mut self) -> Want<'_> {
        match self.state {
            State::Closed if self.digests.len() < self.files => Want::Open(self.digests.len()),
            State::Reads => Want::Bytes(self.buffer.get_mut(self.to..).unwrap_or_default()),
            _ => Want::Nothing,
        }
    }

    pub(super) fn opened(&mut self) {
        self.meter = Meter::default();
        self.sequence = 0;
        self.put(&wire::file_number(u16::try_from(self.digests.len()).unwrap_or(0)));
        (self.from, self.to) = (0, 8);
        self.state = State::Empties { last: false };
    }

    /// So many bytes were read; 0 is the file's end.
    pub(super) fn read(&mut self, bytes: usize, backlog: &mut Backlog) {
        let had = self.to;
        self.to = (had + bytes).min(self.buffer.len());
        self.meter.update(self.buffer.get(had..self.to).unwrap_or_default());
        let last = bytes == 0;
        if last || self.to == self.buffer.len() {
            let length = u32::try_from(self.to).unwrap_or(0).saturating_sub(HEAD as u32);
            self.put(&wire::chunk(last, length, self.sequence));
            backlog.chunk(self.sequence, backlog.end(), length);
            self.sequence = self.sequence.wrapping_add(1);
            self.from = 0;
            self.state = State::Empties { last };
        }
        if last {
            self.digests.push(self.meter.digest());
        }
    }

    fn put(&mut self, head: &[u8]) {
        if let Some(place) = self.buffer.get_mut(..head.len()) {
            place.copy_from_slice(head);
        }
    }

    /// Puts into the backlog what there is room for.
    pub(super) fn advance(&mut self, backlog: &mut Backlog, needed: u64) {
        let State::Empties { last } = self.state else { return };
        while self.from < self.to {
            let bytes = self.buffer.get(self.from..self.to).unwrap_or_default();
            let some = backlog.append(bytes, needed);
            if some == 0 {
                return;
            }
            self.from += some;
        }
        self.state = if last { State::Closed } else { State::Reads };
        self.to = HEAD as usize;
    }
}
