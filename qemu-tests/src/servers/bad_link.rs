//! A cable that is slow, or loses, doubles and reorders frames.
//!
//! A relay of this process between a machine's card, which QEMU connects by a socket of
//! datagrams, and a tap on the bridge, which socat connects by another. Not tc-netem(8),
//! since kernels of containers do without it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::inside::{Inside, LOOK};
use crate::lab::Lab;
use crate::shell::Daemon;
use crate::{Error, Result, packages};

/// What happens to frames, each way. Fractions are of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trouble {
    /// Frames that are lost.
    pub lost: u32,
    /// Frames that arrive twice.
    pub twice: u32,
    /// Frames that are overtaken by those of the next 5 ms.
    pub late: u32,
    /// Bytes a second; 0 for as fast as it goes.
    pub rate: u32,
}

/// The cable, with the words that plug a machine into it.
#[derive(Debug)]
pub struct BadLink {
    /// For [`MachineBuilder::qemu`](crate::machine::MachineBuilder::qemu).
    pub words: [String; 4],
    _relay: Inside,
    _tap: Daemon,
}

impl Lab {
    /// A bad cable between a machine's only card and the main network.
    ///
    /// # Errors
    /// [`Error::Command`] when socat does not make a tap.
    pub fn bad_link(&self, trouble: Trouble) -> Result<BadLink> {
        packages::ensure_all(packages::FOR_FAULTS)?;
        let path = |name: &str| self.directory().join(name);
        let socket = |name: &str| -> Result<UnixDatagram> {
            let path = path(name);
            let bound = UnixDatagram::bind(&path).and_then(|socket| {
                socket.set_read_timeout(Some(LOOK))?;
                Ok(socket)
            });
            bound.map_err(Error::at("bind", &path))
        };
        let (machine, network) = (socket("to-machine")?, socket("to-network")?);
        let mut socat = self.namespace().command("socat");
        socat.arg("TUN,tun-type=tap,tun-name=bad,iff-no-pi,iff-up").arg(format!(
            "UNIX-SENDTO:{},bind={}",
            path("to-network").display(),
            path("network").display()
        ));
        let mut tap = Daemon::start("socat", socat, &path("socat.out"))?;
        let join = ["ip", "link", "set", "bad", "master", "lan", "up"];
        tap.wait_until(Duration::from_secs(10), || self.namespace().run(&join).is_ok())?;
        let ends = [
            (machine.try_clone(), network.try_clone(), path("network")),
            (Ok(network), Ok(machine), path("machine")),
        ];
        let mut relay = Inside::default();
        for (seed, (from, by, to)) in (1..).zip(ends) {
            let from = from.map_err(Error::io("share a socket"))?;
            let by = by.map_err(Error::io("share a socket"))?;
            relay.add(move |stop| carry(&from, &by, &to, Fate::new(trouble, seed), stop));
        }
        let netdev = format!(
            "dgram,id=bad,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path("machine").display(),
            path("to-machine").display()
        );
        let device = "virtio-net-pci,netdev=bad,mac=52:54:00:77:00:00";
        let words = ["-netdev", &netdev, "-device", device].map(str::to_owned);
        Ok(BadLink { words, _relay: relay, _tap: tap })
    }
}

/// Carries frames one way, each when its time has come.
fn carry(from: &UnixDatagram, by: &UnixDatagram, to: &Path, mut fate: Fate, stop: &AtomicBool) {
    let mut buffer = [0u8; 16 << 10];
    let mut queue: Vec<(Instant, Vec<u8>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next = queue.iter().map(|(due, _)| *due).min();
        let wait = next.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        let wait = wait.max(Duration::from_micros(100));
        if let Ok(length) = from.set_read_timeout(Some(wait)).and_then(|()| from.recv(&mut buffer))
        {
            let frame = buffer.get(..length).unwrap_or_default();
            let arrivals = fate.of(Instant::now(), length);
            queue.extend(arrivals.into_iter().map(|due| (due, frame.to_vec())));
        }
        let now = Instant::now();
        queue.sort_by_key(|(due, _)| *due);
        let due = queue.iter().take_while(|(due, _)| *due <= now).count();
        for (_, frame) in queue.drain(..due) {
            send(by, &frame, to);
        }
    }
}

/// A frame that finds no machine at the other end, as when the machine is off, is lost.
fn send(by: &UnixDatagram, frame: &[u8], to: &Path) {
    let _: io::Result<usize> = by.send_to(frame, to);
}

/// Decides what happens to each frame; the same each time.
#[derive(Debug)]
struct Fate {
    trouble: Trouble,
    state: u32,
    /// When the cable is free again.
    free: Option<Instant>,
}

impl Fate {
    fn new(trouble: Trouble, seed: u32) -> Fate {
        Fate { trouble, state: 0x9e37_79b9 ^ seed, free: None }
    }

    /// Whether something of so many in a thousand happens now (xorshift).
    fn happens(&mut self, of_thousand: u32) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.state % 1000 < of_thousand
    }

    /// When a frame of `length` bytes arrives: never, once, or twice.
    fn of(&mut self, now: Instant, length: usize) -> Vec<Instant> {
        /// As long as a queue in a switch may be.
        const QUEUE: Duration = Duration::from_millis(500);
        let Trouble { lost, twice, late, rate } = self.trouble;
        let mut due = now;
        if let Some(nanos) = (length as u64 * 1_000_000_000).checked_div(u64::from(rate)) {
            due = self.free.map_or(now, |free| free.max(now)) + Duration::from_nanos(nanos);
            if due > now + QUEUE {
                return Vec::new();
            }
            self.free = Some(due);
        }
        if self.happens(lost) {
            return Vec::new();
        }
        if self.happens(late) {
            due += Duration::from_millis(5);
        }
        if self.happens(twice) { vec![due, due] } else { vec![due] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_meet_what_the_trouble_says() {
        let now = Instant::now();
        let arrive = |trouble| {
            let mut fate = Fate::new(trouble, 1);
            let all: Vec<usize> = (0..1000).map(|_| fate.of(now, 100).len()).collect();
            [0, 1, 2].map(|count| all.iter().filter(|n| **n == count).count())
        };
        assert_eq!(arrive(Trouble::default()), [0, 1000, 0]);
        let [lost, _, twice] = arrive(Trouble { lost: 100, twice: 300, ..Trouble::default() });
        assert!((50..200).contains(&lost) && (200..400).contains(&twice), "{lost} {twice}");
        let mut slow = Fate::new(Trouble { rate: 1000, ..Trouble::default() }, 1);
        assert_eq!(slow.of(now, 100), [now + Duration::from_millis(100)]);
        assert_eq!(slow.of(now, 100), [now + Duration::from_millis(200)]);
        assert_eq!(slow.of(now, 900), []);
    }
}
