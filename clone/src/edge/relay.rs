//! What the loops share that keep a stream in a ring, store it, and pass it on.

use super::net::Stream;
use super::world::{Level, Source, Store, World};
use crate::Error;
use crate::digest::Meter;
use crate::guard::{Announcement, Kept};
use crate::ring::Ring;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// How long to wait when something that cannot be waited for is busy.
pub(super) const SOON: Duration = Duration::from_millis(3);
/// How long to wait when only the network can bring something.
const LONG: Duration = Duration::from_secs(1);

/// That bytes are all there is no copy yet.
pub(super) const ALL: &str = "everything has come; writing it out and reading it back";

/// Until the deadline, if there is one; at most a second.
pub(super) fn until(deadline: Option<Duration>, now: Duration) -> Duration {
    deadline.map_or(LONG, |deadline| deadline.saturating_sub(now).min(LONG))
}

/// Sends what the ring holds from `position` on, as much as the stream takes now, and moves
/// `position`; how much that was.
pub(super) fn pump(ring: &Ring, position: &mut u64, stream: &Stream) -> Result<u64, String> {
    let before = *position;
    loop {
        let Some(bytes) = ring.from(*position) else {
            return Err("it needs bytes that are not kept any more".to_owned());
        };
        let sent = if bytes.is_empty() { 0 } else { stream.write(bytes)? };
        *position += sent as u64;
        if sent == 0 || sent < bytes.len() {
            return Ok(*position - before);
        }
    }
}

/// Reads into the ring what has arrived and what there is room for; how much that was. An
/// error when the stream has ended.
pub(super) fn draw(ring: &mut Ring, needed: u64, stream: &mut Stream) -> Result<usize, String> {
    let room = ring.room(needed);
    if room.is_empty() {
        return Ok(0);
    }
    let n = stream.hear(room)?;
    ring.filled(n);
    Ok(n)
}

/// Reads into the ring what there is room for, at most `most` bytes, and shortens the time
/// that the network may be waited for. True at the source's end.
pub(super) fn fill(
    (ring, needed): (&mut Ring, u64),
    most: usize,
    source: &mut dyn Source,
    meter: &mut Meter,
    limit: &mut Duration,
) -> Result<bool, Error> {
    let room = ring.room(needed);
    let some = room.len().min(most);
    let room = room.get_mut(..some).unwrap_or_default();
    if room.is_empty() {
        return Ok(false);
    }
    let read = source.read(room).map_err(|why| Error::Source { why })?;
    *limit = read.map_or(SOON, |_| Duration::ZERO).min(*limit);
    let n = read.unwrap_or(0);
    meter.update(room.get(..n).unwrap_or_default());
    ring.filled(n);
    Ok(read == Some(0))
}

/// Opens the first file of those to be sent.
pub(super) fn first(world: &mut dyn World) -> Result<Box<dyn Source>, Error> {
    world.source(0).map_err(|why| Error::Source { why })
}

/// Tells the state machine what became of this node's own copy.
type Stored<'a> = &'a mut dyn FnMut(Result<Kept, &str>, Duration) -> Result<(), Error>;

/// A node's own copy of the stream in its ring.
#[derive(Default)]
pub(super) struct Keep {
    store: Option<Box<dyn Store>>,
    stored: u64,
    kept: Option<Kept>,
    refused: Option<String>,
    ending: bool,
}

impl Keep {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self { store: Some(store), ..Self::default() }
    }

    /// The position that must not be lost.
    pub(super) fn needed(&self, ring: &Ring) -> u64 {
        if self.store.is_some() { self.stored } else { ring.end() }
    }

    /// How long the network alone may be waited for.
    pub(super) fn limit(
        &self,
        ring: &Ring,
        complete: bool,
        deadline: Option<Duration>,
        now: Duration,
    ) -> Duration {
        let busy = self.store.is_some() && (complete || self.stored < ring.end());
        let limit = until(deadline, now);
        if busy { limit.min(SOON) } else { limit }
    }

    /// What is stored.
    pub(super) fn kept(&self) -> Kept {
        self.kept.unwrap_or_else(|| Kept::unread(Meter::default().digest()))
    }

    /// What the sender tells. That it cannot be stored is told by the next [`Keep::step`].
    pub(super) fn announce(&mut self, told: &Announcement) {
        if let Some(store) = &mut self.store {
            self.refused = store.announce(told).err().or(self.refused.take());
        }
    }

    /// Stores what can be stored now, and tells how that ended, the moment it has.
    pub(super) fn step(
        &mut self,
        ring: &Ring,
        complete: bool,
        world: &mut dyn World,
        tell: Stored<'_>,
    ) -> Result<(), Error> {
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        let mut ended = self.refused.take().map(Err);
        if let Some(Err(why)) = &ended {
            world.say(Level::News, &format!("cannot store, but goes on relaying: {why}"));
        }
        while ended.is_none()
            && let Some(bytes) = ring.from(self.stored).filter(|b| !b.is_empty())
        {
            match store.put(bytes) {
                Ok(0) => break,
                Ok(n) => self.stored += n as u64,
                Err(why) => {
                    let text = format!("cannot store, but goes on relaying: {why}");
                    world.say(Level::News, &text);
                    ended = Some(Err(why));
                    break;
                }
            }
        }
        if ended.is_none() && complete && self.stored == ring.end() {
            if !core::mem::replace(&mut self.ending, true) {
                world.say(Level::News, ALL);
            }
            store.end();
            ended = store.done();
        }
        let Some(how) = ended else { return Ok(()) };
        self.store = None;
        self.kept = how.as_ref().ok().copied();
        tell(how.as_ref().copied().map_err(String::as_str), world.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_child_gets_what_the_ring_has_and_no_more_than_it_takes() {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let (stream, theirs) = (Stream::new(pair.0), Stream::new(pair.1));
        let mut ring = Ring::new(4 << 20);
        ring.room(0).fill(7);
        ring.filled(4 << 20);
        let mut position = 0;
        let sent = pump(&ring, &mut position, &stream).unwrap();
        assert!(sent > 0 && sent < 4 << 20 && position == sent, "a pipe holds less: {sent}");
        assert_eq!(pump(&ring, &mut position, &stream), Ok(0));
        let mut heard = alloc::vec![0; sent as usize];
        let mut done = 0;
        while done < heard.len() {
            done += theirs.read(&mut heard[done..]).unwrap().unwrap();
        }
        assert!(heard.iter().all(|byte| *byte == 7));
        assert!(pump(&ring, &mut position, &stream).unwrap() > 0, "it goes on");
        // The child was slower than the ring is long.
        ring.room(position);
        ring.filled(4 << 20);
        let mut old = 0;
        assert!(pump(&ring, &mut old, &stream).is_err());
        drop(theirs);
        assert!(pump(&ring, &mut position, &stream).is_err(), "a child that died");
    }
}
