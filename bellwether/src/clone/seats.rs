//! The machines of a room as the user sees them: how far each is, how fast, how long it still
//! takes; and the web page with them.

use super::flags::{Flag, Given, flag};
use super::net::interface;
use crate::failure::Failure;
use ::share::room::Room;
use ::share::serve::room::show;
use clone::outcome::{Amount, Client, Standing};
use cmdline::json::Json;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The option of programs that have a room.
pub const PAGE: Flag = flag(
    "page",
    None,
    Some("PORT"),
    "show the room on a web page at this port of this machine's first network",
);

/// One machine.
#[derive(Debug)]
pub struct Seat {
    pub client: Client,
    /// Chunks on its disk.
    pub have: u32,
    /// What it had when the first chunk came, and when that was.
    since: (u32, Duration),
}

/// All machines.
#[derive(Debug, Default)]
pub struct Seats {
    pub all: Vec<Seat>,
    /// How many chunks there are, and their bytes.
    of: (u32, u64),
}

/// How far a machine or the room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes that are there.
    pub done: u64,
    /// In a second, since the first came.
    pub rate: u64,
    /// Seconds that are left at this rate; nothing while it is not known.
    pub left: Option<u64>,
}

impl Seats {
    /// Of a copy with so many bytes.
    pub fn of(bytes: u64) -> Self {
        Self { all: Vec::new(), of: (0, bytes) }
    }

    /// How it stands now; `have` and `of` are chunks. The machines whose standing has changed, or
    /// whose copy is on the way.
    pub fn set(&mut self, clients: &[Client], have: &[u32], of: u32, now: Duration) -> Vec<usize> {
        self.of.0 = of;
        let mut news = Vec::new();
        for (at, (client, have)) in clients.iter().zip(have).enumerate() {
            let (client, have) = (client.clone(), *have);
            let Some(seat) = self.all.get_mut(at) else {
                self.all.push(Seat { client, have, since: (have, now) });
                news.push(at);
                continue;
            };
            // Nothing has come since; what it had is known only when it has looked.
            if have <= seat.since.0 || seat.client.standing != Standing::Receiving {
                seat.since = (have, now);
            }
            if client.standing == Standing::Receiving || client.standing != seat.client.standing {
                news.push(at);
            }
            (seat.client, seat.have) = (client, have);
        }
        news
    }

    /// How many chunks there are.
    pub const fn chunks(&self) -> u32 {
        self.of.0
    }

    /// How far this one is.
    pub fn pace(&self, seat: &Seat, now: Duration) -> Pace {
        let (of, bytes) = self.of;
        let part = |n: u32| {
            let part = u128::from(bytes) * u128::from(n) / u128::from(of.max(1));
            u64::try_from(part).unwrap_or(bytes)
        };
        let came = part(seat.have) - part(seat.since.0).min(part(seat.have));
        let millis =
            u64::try_from(now.saturating_sub(seat.since.1).as_millis()).unwrap_or(u64::MAX);
        let rate = came.saturating_mul(1000).checked_div(millis).unwrap_or(0);
        let open = !seat.client.standing.good();
        let left = bytes.saturating_sub(part(seat.have)).checked_div(rate).filter(|_| open);
        Pace { done: part(seat.have), rate: if open { rate } else { 0 }, left }
    }

    /// As the page of `share` reads it. `text` says what is copied.
    pub fn json(&self, text: &str, begun: bool, now: Duration) -> String {
        let paces: Vec<Pace> = self.all.iter().map(|seat| self.pace(seat, now)).collect();
        let sum = |of: fn(&Pace) -> u64| paces.iter().map(of).sum();
        let left = paces.iter().filter_map(|pace| pace.left).max();
        let mut json = Json::new();
        json.object().field("text", text).flag("begun", begun);
        json.count("done", sum(|pace| pace.done)).count("rate", sum(|pace| pace.rate));
        json.count("total", self.of.1.saturating_mul(self.all.len() as u64));
        json.count("left", left.unwrap_or(0)).key("nodes").array();
        for (seat, pace) in self.all.iter().zip(&paces) {
            let Client { name, address, standing, .. } = &seat.client;
            let (state, text) = shown(standing, begun);
            json.object().field("name", name).field("state", state).field("text", &text);
            json.field("address", &address.map(|ip| ip.to_string()).unwrap_or_default());
            json.count("done", pace.done).count("total", self.of.1).count("rate", pace.rate);
            json.count("left", pace.left.unwrap_or(0)).end_object();
        }
        json.end_array().end_object();
        json.finish()
    }
}

/// While it goes on a standing is another one than at the end.
pub fn shown(standing: &Standing, begun: bool) -> (&'static str, String) {
    match standing {
        Standing::Silent | Standing::Waiting => ("waits", "its disk is looked at".to_owned()),
        Standing::Receiving if !begun => ("waits", "is ready".to_owned()),
        Standing::Receiving => ("receives", "receives".to_owned()),
        other if other.good() => ("good", other.to_string()),
        other => ("bad", other.to_string()),
    }
}

/// The page of a room, and what users type: both begin a copy.
#[derive(Debug)]
pub struct Window {
    pub room: Arc<Room>,
    typed: OwnedFd,
}

impl Window {
    /// With [`PAGE`], the page at that port.
    pub fn open(given: &Given, program: &str) -> Result<Option<Self>, Failure> {
        let Some(port) = given.parsed::<u16>("page")? else { return Ok(None) };
        let failed = |e: io::Error| Failure::Failed(format!("{program}: --page: {e}"));
        let (typed, begin) = io::pipe().map_err(failed)?;
        let terminal = begin.try_clone().map_err(failed)?;
        let room = Arc::new(Room::new(OwnedFd::from(begin).into()));
        let address = show(room.clone(), interface(None)?.address, port);
        let address = address.map_err(|e| Failure::Failed(format!("{program}: --page: {e}")))?;
        eprintln!("{program}: the room in a browser: {address}");
        if io::IsTerminal::is_terminal(&io::stdin()) {
            std::thread::spawn(move || copy_lines(terminal));
        }
        Ok(Some(Self { room, typed: typed.into() }))
    }

    /// Lines of the user.
    pub fn typed(&self) -> BorrowedFd<'_> {
        self.typed.as_fd()
    }
}

fn copy_lines(mut to: io::PipeWriter) {
    let mut buffer = [0; 256];
    while let Ok(n) = io::stdin().lock().read(&mut buffer) {
        let sent = to.write_all(buffer.get(..n).unwrap_or_default());
        if n == 0 || sent.is_err() {
            break;
        }
    }
}

/// What is copied, in a line.
pub fn what(names: &[&str], bytes: u64) -> String {
    format!("{}: {}", names.join(", "), Amount(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn client(name: &str, standing: Standing) -> Client {
        Client {
            name: name.into(),
            address: Some(Ipv4Addr::new(10, 0, 0, 2)),
            standing,
            came: None,
        }
    }

    /// What a disk had before is no part of a rate.
    #[test]
    fn a_rate_counts_what_came() {
        let mut seats = Seats::of(1000);
        let at = Duration::from_secs;
        let mut set = |standing, have, now| {
            seats.set(
                &[client("a", standing), client("b", Standing::Waiting)],
                &[have, 0],
                10,
                at(now),
            );
            seats.pace(&seats.all[0], at(now))
        };
        set(Standing::Waiting, 0, 0);
        set(Standing::Receiving, 5, 7);
        let pace = set(Standing::Receiving, 5, 10);
        assert_eq!(pace, Pace { done: 500, rate: 0, left: None });
        let pace = set(Standing::Receiving, 7, 12);
        assert_eq!(pace, Pace { done: 700, rate: 100, left: Some(3) });
        let pace = set(Standing::Verified, 10, 15);
        assert_eq!(pace, Pace { done: 1000, rate: 0, left: None });
        let json = seats.json("sda", true, at(15));
        let all =
            r#"{"text":"sda","begun":true,"done":1000,"rate":0,"total":2000,"left":0,"nodes":["#;
        assert!(json.starts_with(all), "{json}");
        let one = r#"{"name":"a","state":"good","text":"verified","address":"10.0.0.2","done":1000,"total":1000,"rate":0,"left":0}"#;
        assert!(json.contains(one), "{json}");
    }
}
