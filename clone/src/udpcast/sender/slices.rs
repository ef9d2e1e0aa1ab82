//! Slices: cut from the stream, sent, asked about, and closed when all receivers have them.

use super::{Event, Phase, Sender, Slice, State, To};
use crate::outcome::Standing;
use crate::udpcast::wire::{HelloKind, ToReceiver};
use crate::udpcast::{Bits, MAX_BLOCK_SIZE, MAX_SLICE_BLOCKS, fec};
use alloc::vec::Vec;
use core::time::Duration;

/// The end is asked about for so long at least, before silence is taken for a receiver
/// that has left: a busy machine may read its packets later than 24 questions.
const END_PATIENCE: Duration = Duration::from_secs(2);

impl Sender {
    pub(super) fn answer(
        &mut self,
        client: usize,
        number: u32,
        lack: Option<([u8; 4], &Bits)>,
        now: Duration,
    ) {
        if let Some(machine) = self.machines.get_mut(client) {
            machine.heard = true;
        }
        let Some(slice) = self.window.iter_mut().find(|s| s.number == number) else { return };
        slice.seen.set(client);
        if slice.ready.get(client) {
            return;
        }
        let first = !slice.answered.get(client);
        match lack {
            None => slice.ready.set(client),
            Some((round, have)) => {
                if u32::from_be_bytes(round) != slice.round {
                    // The answer to a question already put again: patience was
                    // too short.
                    self.wait = (self.wait + self.wait / 4).min(Duration::from_secs(1));
                    return;
                }
                let blocks = slice.data.len().div_ceil(self.config.block_size.into());
                slice.missing.union(&have.missing(blocks));
                slice.lossy = true;
            }
        }
        slice.answered.set(client);
        if let Phase::Asked { at } = slice.phase
            && first
        {
            let took = now.saturating_sub(at);
            self.wait = (self.wait * 7 + took) / 8;
            self.wait = self.wait.clamp(Duration::from_micros(500), Duration::from_secs(1));
        }
    }

    /// Asks again where the time for answers is over, and closes slices that all have.
    pub(super) fn questions(&mut self, now: Duration) {
        let active: Vec<usize> = self.active().map(|(i, _)| i).collect();
        let mut drop: Option<Bits> = None;
        let mut again = false;
        for i in 0..self.window.len() {
            let Some(slice) = self.window.get(i) else { break };
            let Phase::Asked { at } = slice.phase else { continue };
            if self.config.asynchronous || active.iter().all(|c| slice.ready.get(*c)) {
                continue;
            }
            let all = active.iter().all(|c| slice.answered.get(*c) || slice.ready.get(*c));
            let late = now.saturating_sub(at) >= self.patience(slice.round);
            if !(all || late) {
                continue;
            }
            let Some(slice) = self.window.get_mut(i) else { break };
            if slice.round >= self.config.retries_until_drop {
                drop = Some(slice.ready.clone());
            }
            slice.round += 1;
            again = true;
            slice.answered = slice.ready.clone();
            slice.to_send = core::mem::take(&mut slice.missing);
            self.resent += slice.to_send.count() as u64;
            slice.phase = Phase::Sending { next: 0, next_fec: usize::MAX };
        }
        // A reply to a request may have been lost: machines that wait for one
        // ask again when they hear this.
        if again && self.active().any(|(_, m)| !m.heard) {
            self.hello(HelloKind::Usual);
        }
        // Old receivers are gone half a second after the end, and their last
        // words may be lost. They have confirmed all data: do not wait on.
        if let Some(end) = self.end()
            && end.round >= 24
            && end.first_asked.is_some_and(|first| now.saturating_sub(first) >= END_PATIENCE)
        {
            let ready = end.ready.clone();
            for (i, machine) in self.machines.iter_mut().enumerate() {
                if machine.standing == Standing::Receiving
                    && !machine.verify
                    && machine.heard
                    && !ready.get(i)
                {
                    machine.standing = Standing::Acknowledged;
                }
            }
        }
        if let Some(ready) = drop {
            for (i, machine) in self.machines.iter_mut().enumerate() {
                if machine.standing == Standing::Receiving && !ready.get(i) {
                    machine.standing = Standing::lost("dropped, did not answer");
                    self.events.push_back(Event::Lost(machine.address, machine.standing.clone()));
                }
            }
        }
        self.close();
    }

    /// Closes the slices that all have.
    pub(super) fn close(&mut self) {
        let active: Vec<usize> = self.active().map(|(i, _)| i).collect();
        while let Some(slice) = self.window.front()
            && matches!(slice.phase, Phase::Asked { .. })
            && (self.config.asynchronous || active.iter().all(|c| slice.ready.get(*c)))
        {
            let Some(mut slice) = self.window.pop_front() else { break };
            self.acknowledged += slice.data.len() as u64;
            if !self.config.full_duplex && self.config.fec.is_none() && !self.config.asynchronous {
                let blocks = self.slice_blocks;
                self.slice_blocks = if slice.lossy {
                    (blocks / 2).max(32)
                } else {
                    (blocks + blocks / 4).min(MAX_SLICE_BLOCKS)
                };
            }
            slice.data.clear();
            self.spare.push(slice.data);
        }
    }

    /// The end, which is alone in the window: it is cut when all have the data.
    pub(super) fn end(&self) -> Option<&Slice> {
        self.window.front().filter(|slice| slice.data.is_empty())
    }

    /// Whether every old program knows of the newest slice. Old receivers leave
    /// when they see a slice after one of which they saw nothing, as when all
    /// of it was lost; ours ask for it.
    pub(super) fn known_to_all(&self) -> bool {
        self.window.back().is_none_or(|slice| {
            self.active().all(|(i, m)| m.verify || slice.seen.get(i) || slice.ready.get(i))
        })
    }

    /// Makes the next slice when there is room for it.
    pub(super) fn cut(&mut self) {
        let room = if self.config.full_duplex { 2 } else { 1 };
        while self.window.len() < room && !self.end_cut && self.known_to_all() {
            // Half duplex may have shrunk the slice below what is there.
            let length = self.pending.len().min(self.slice_bytes());
            let full = length == self.slice_bytes();
            if !(full || self.ended || (self.flush && length > 0)) {
                break;
            }
            let block = usize::from(self.config.block_size);
            let length = if length > block { length - length % block } else { length };
            // An old receiver that knows of the end leaves half a second later, and
            // its answers about the data before may all be lost by then; one that
            // still lacks some of that data waits for ever.
            if length == 0 && !self.window.is_empty() {
                break;
            }
            let mut rest = self.spare.pop().unwrap_or_default();
            rest.clear();
            rest.extend_from_slice(self.pending.get(length..).unwrap_or_default());
            let mut data = core::mem::replace(&mut self.pending, rest);
            data.truncate(length);
            if length == 0 {
                self.end_cut = true;
            }
            self.flush = false;
            let blocks = length.div_ceil(block);
            self.window.push_back(Slice {
                number: self.next_slice,
                phase: Phase::Sending { next: 0, next_fec: 0 },
                first_asked: None,
                round: 0,
                to_send: Bits::first(blocks),
                ready: Bits::default(),
                answered: Bits::default(),
                missing: Bits::default(),
                seen: Bits::default(),
                lossy: false,
                invited: !self.config.streaming,
                data,
            });
            self.next_slice = self.next_slice.wrapping_add(1);
        }
    }

    /// Blocks, redundancy and questions, the oldest slice first.
    pub(super) fn data(&mut self, now: Duration, out: &mut Vec<u8>) -> Option<To> {
        if self.state != State::Running {
            return None;
        }
        let block_size = usize::from(self.config.block_size);
        let group = To::Group(self.group);
        let mut invite = false;
        let mut sent = false;
        for slice in &mut self.window {
            let Phase::Sending { next, next_fec } = &mut slice.phase else { continue };
            let bytes = slice.data.len() as u32;
            let blocks = slice.data.len().div_ceil(block_size);
            if !slice.invited && *next + 50 >= blocks {
                slice.invited = true;
                invite = true;
            }
            if let Some(block) = slice.to_send.next(*next) {
                *next = block + 1;
                let payload = slice.data.chunks(block_size).nth(block).unwrap_or_default();
                ToReceiver::Data { slice: slice.number, block: block as u16, bytes, payload }
                    .write(out);
                sent = true;
                break;
            }
            if let Some(f) = self.config.fec {
                let stripes = usize::from(f.stripes);
                let count = stripes * usize::from(f.redundancy);
                // Stripes without data have no redundancy; but one packet at
                // least must say that this is the end.
                let used = stripes.min(blocks.max(1));
                while *next_fec < count && *next_fec % stripes >= used {
                    *next_fec += 1;
                }
                if *next_fec < count {
                    let (stripe, row) = (*next_fec % stripes, *next_fec / stripes);
                    let columns = slice.data.chunks(block_size).skip(stripe).step_by(stripes);
                    let mut payload = [0; MAX_BLOCK_SIZE];
                    let payload = payload.get_mut(..block_size).unwrap_or_default();
                    fec::encode(row, columns, payload);
                    let block = *next_fec as u16;
                    *next_fec += 1;
                    ToReceiver::Fec {
                        stripes: f.stripes,
                        slice: slice.number,
                        block,
                        bytes,
                        payload,
                    }
                    .write(out);
                    sent = true;
                    break;
                }
            }
            slice.phase = Phase::Asked { at: now };
            slice.first_asked.get_or_insert(now);
            if self.config.asynchronous && !(bytes == 0 && self.config.fec.is_none()) {
                continue;
            }
            ToReceiver::ReqAck {
                slice: slice.number,
                bytes,
                round: slice.round.to_be_bytes(),
                ready: slice.ready.clone(),
            }
            .write(out);
            sent = true;
            break;
        }
        if invite {
            self.hello(HelloKind::Streaming);
        }
        sent.then_some(group)
    }
}
