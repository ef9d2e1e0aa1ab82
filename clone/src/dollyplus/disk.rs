//! A client's own copy: which of the bytes that came are a file's.
//!
//! It reads the stream a second time, at the pace of the disk, behind what was
//! passed on. A copy that cannot be stored is lost alone: the stream is then read
//! past, for those behind.

use super::backlog::Backlog;
use super::wire::{Item, Output, Reader};
use crate::guard::Kept;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// What the loop with the files does next.
#[derive(Debug, PartialEq)]
pub enum Todo<'a> {
    /// Nothing, for now.
    Nothing,
    /// Open this; then `opened`, or `store_failed`.
    Open(&'a Output),
    /// Store the beginning of this; then `stored`, or `store_failed`.
    Store(&'a [u8]),
    /// The file is at its end; when all of it is stored, `kept` or `store_failed`.
    Finish,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Between files, or past one that is not stored.
    Skips,
    /// A file begins.
    Opens(usize),
    /// The bytes are stored.
    Stores,
    /// The file has ended.
    Finishes,
}

/// The copy.
#[derive(Debug)]
pub(super) struct Disk {
    /// Stands at `position`.
    reader: Reader,
    position: u64,
    state: State,
    /// Of the files that are stored.
    pub(super) kept: Vec<Kept>,
    /// Why this copy is lost.
    pub(super) failed: Option<String>,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            reader: Reader::default(),
            position: 0,
            state: State::Skips,
            kept: Vec::new(),
            failed: None,
        }
    }

    /// What is before this in the stream is of no more use here.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn todo<'a>(&self, backlog: &'a Backlog, files: &'a [Output]) -> Todo<'a> {
        match self.state {
            State::Skips => Todo::Nothing,
            State::Opens(number) => files.get(number).map_or(Todo::Nothing, Todo::Open),
            State::Stores => {
                let bytes = backlog.from(self.position).unwrap_or_default();
                let some = bytes.len().min(self.reader.payload());
                match bytes.get(..some) {
                    Some(bytes) if some > 0 => Todo::Store(bytes),
                    _ => Todo::Nothing,
                }
            }
            State::Finishes => Todo::Finish,
        }
    }

    pub(super) fn opened(&mut self) {
        if matches!(self.state, State::Opens(_)) {
            self.state = State::Stores;
        }
    }

    pub(super) fn stored(&mut self, bytes: usize, backlog: &Backlog) {
        let some = backlog.from(self.position).and_then(|b| b.get(..bytes));
        self.read(some.unwrap_or_default());
        self.advance(backlog);
    }

    /// The number of the file of which this is the copy.
    pub(super) fn kept(&mut self, kept: Kept) -> usize {
        self.state = State::Skips;
        self.kept.push(kept);
        self.kept.len() - 1
    }

    /// The number of the file of which this is the copy, which is stored or about to be.
    pub(super) const fn number(&self) -> usize {
        self.kept.len()
    }

    /// Whether something is to be stored, or is being stored.
    pub(super) fn busy(&self) -> bool {
        self.state == State::Finishes
    }

    /// The copy here is lost; true the first time.
    pub(super) fn fails(&mut self, why: &str) -> bool {
        self.state = State::Skips;
        let first = self.failed.is_none();
        if first {
            self.failed = Some(why.to_owned());
        }
        first
    }

    /// Reads until the store has something to do.
    pub(super) fn advance(&mut self, backlog: &Backlog) {
        loop {
            match self.state {
                State::Opens(_) | State::Finishes => return,
                State::Stores if self.reader.payload() > 0 => return,
                _ => {}
            }
            let bytes = backlog.from(self.position).unwrap_or_default();
            let some = bytes.len().min(self.reader.wants());
            // The end of a file needs no byte to be seen.
            if !self.read(bytes.get(..some).unwrap_or_default()) {
                return;
            }
        }
    }

    /// False when there was nothing to read.
    fn read(&mut self, bytes: &[u8]) -> bool {
        // It was read once already, when it came: it cannot be wrong.
        let Ok((n, item)) = self.reader.read(bytes) else { return false };
        self.position += n as u64;
        match item {
            Some(Item::File(number)) if self.failed.is_none() => self.state = State::Opens(number),
            Some(Item::FileEnd) if self.state == State::Stores => self.state = State::Finishes,
            _ => {}
        }
        n > 0 || item.is_some()
    }
}
