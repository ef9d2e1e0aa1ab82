//! Dolly+ in rooms of threads with real TCP: each node has an address of its own
//! on the loopback interface. And beside recorded runs of the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use clone::cook::{Cook, Packing};
use clone::digest::Meter;
use clone::dollyplus::wire::{Command, Output};
use clone::edge::dollyplus::DollyPlus;
use clone::edge::{Here, Level, Order, Pins, Protocol, Source, Store, Target, World};
use clone::guard::Kept;
use clone::outcome::{Patience, Received, Sent, Standing};
use common::{Event, payload, read};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct Room {
    clock: Instant,
    files: Files,
    /// Dies when it has stored so many bytes.
    dies: Option<u64>,
    /// Its disk is full after so many bytes.
    full: Option<usize>,
    /// What a server sends.
    sources: Vec<Vec<u8>>,
}

struct Memory {
    path: String,
    bytes: Vec<u8>,
    full: usize,
    dies: Option<u64>,
    meter: Meter,
    ended: bool,
    files: Files,
}

impl Store for Memory {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        if self.bytes.len() + bytes.len() > self.full {
            return Err("no space left".to_owned());
        }
        // A disk takes what it likes.
        let n = bytes.len().min(100_000);
        self.bytes.extend(&bytes[..n]);
        self.meter.update(&bytes[..n]);
        let earlier: usize = self.files.lock().unwrap().values().map(Vec::len).sum();
        if self.dies.is_some_and(|at| (earlier + self.bytes.len()) as u64 >= at) {
            // As when the machine's power goes; the kernel closes its sockets.
            std::panic::resume_unwind(Box::new("dies"));
        }
        Ok(n)
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn done(&mut self) -> Option<Result<Kept, String>> {
        assert!(self.ended);
        self.files.lock().unwrap().insert(self.path.clone(), std::mem::take(&mut self.bytes));
        Some(Ok(Kept { digest: self.meter.digest(), read_back: true, pinned: false }))
    }
}

impl World for Room {
    fn now(&mut self) -> Duration {
        self.clock.elapsed()
    }

    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String> {
        host.parse().map_err(|_| "unknown".to_owned())
    }

    fn say(&mut self, _: Level, _: &str) {}

    fn progress(&mut self, _: u64, _: Option<u64>) {}

    fn source(&mut self, number: usize) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(Bytes(self.sources[number].clone(), 0)))
    }

    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String> {
        Ok(Box::new(Memory {
            path: target.path.to_owned(),
            bytes: Vec::new(),
            full: self.full.unwrap_or(usize::MAX),
            dies: self.dies,
            meter: Meter::default(),
            ended: false,
            files: self.files.clone(),
        }))
    }
}

struct Bytes(Vec<u8>, usize);

impl Source for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        // As a pipe brings it.
        let n = buffer.len().min(self.0.len() - self.1).min(700_001);
        buffer[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
        self.1 += n;
        Ok(Some(n))
    }

    fn length(&self) -> Option<u64> {
        None
    }
}

fn room() -> Room {
    Room {
        clock: Instant::now(),
        files: Files::default(),
        dies: None,
        full: None,
        sources: Vec::new(),
    }
}

/// No clock: a busy machine takes its time, and every end of a connection is an event.
const PATIENCE: Patience = Patience { start: None, stall: None };

fn here(own: Ipv4Addr) -> Here {
    Here {
        address: own,
        broadcast: own,
        names: vec![own.to_string()],
        listen: own,
        patience: PATIENCE,
        pins: Pins::default(),
    }
}

fn take(own: Ipv4Addr, world: &mut Room) -> Result<Received, clone::Error> {
    DollyPlus.receive(&here(own), world)
}

fn give(
    own: Ipv4Addr,
    clients: &[String],
    files: &[Output],
    sources: Vec<Vec<u8>>,
) -> Result<Sent, clone::Error> {
    let here = here(own);
    let order = Order { here: &here, clients, files, start: None };
    DollyPlus.send(&order, &mut Room { sources, ..room() })
}

fn lost() -> Standing {
    Standing::lost("it has gone, and was passed over")
}

/// Waits until a client at this address takes connections, without making one: the last
/// port that it opens is 9997.
fn listens(own: Ipv4Addr) {
    let address = u32::from_ne_bytes(own.octets());
    // proc_net_tcp(5): the local address, any remote one, and LISTEN.
    let wanted = format!(" {address:08X}:{:04X} 00000000:0000 0A ", 9997);
    let until = Instant::now() + Duration::from_secs(300);
    while !std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&wanted) {
        assert!(Instant::now() < until, "nothing listens at {own}:9997");
        std::thread::sleep(Duration::from_millis(2));
    }
}

type Outcome = (Option<Result<Received, clone::Error>>, BTreeMap<String, Vec<u8>>);

/// A server and clients at 127.`net`.0.1 and up. `change` spoils a client's world;
/// those in `absent` are not there.
fn run(
    net: u8,
    clients: u8,
    files: &[(&str, Vec<u8>)],
    absent: &[u8],
    change: impl Fn(u8, &mut Room),
) -> (Result<Sent, clone::Error>, Vec<Outcome>) {
    let ip = move |i: u8| Ipv4Addr::new(127, net, 0, i + 1);
    let mut threads = Vec::new();
    for i in 1..=clients {
        let mut world = room();
        change(i, &mut world);
        let files = world.files.clone();
        let present = !absent.contains(&i);
        let thread = std::thread::spawn(move || present.then(|| take(ip(i), &mut world)));
        threads.push((thread, files));
    }
    (1..=clients).filter(|i| !absent.contains(i)).for_each(|i| listens(ip(i)));
    let names: Vec<String> = (1..=clients).map(|i| ip(i).to_string()).collect();
    let outputs: Vec<Output> = files
        .iter()
        .map(|(path, _)| Output { path: (*path).to_owned(), cook: Cook::default() })
        .collect();
    let sources = files.iter().map(|file| file.1.clone()).collect();
    let sent = give(ip(0), &names, &outputs, sources);
    let outcomes = threads
        .into_iter()
        .map(|(thread, files)| {
            let outcome = thread.join().ok().flatten();
            let files = files.lock().unwrap().clone();
            (outcome, files)
        })
        .collect();
    (sent, outcomes)
}

fn holds(outcome: &Outcome, files: &[(&str, Vec<u8>)]) {
    let got = outcome.0.as_ref().expect("alive").as_ref().expect("finished");
    assert!(got.verified());
    for (path, bytes) in files {
        assert!(outcome.1[*path] == *bytes, "{path}");
    }
}

#[test]
fn many_files_to_three_clients() {
    let files = [
        ("/a", payload(0, 9_000_001)),
        ("/empty", Vec::new()),
        ("/whole", payload(7, 8 << 20)),
        ("/b", payload(3, 337)),
    ];
    let (sent, outcomes) = run(11, 3, &files, &[], |_, _| {});
    let sent = sent.unwrap();
    assert!(sent.clients.iter().all(|c| c.standing == Standing::Verified), "{:?}", sent.clients);
    outcomes.iter().for_each(|o| holds(o, &files));
}

#[test]
fn an_absent_host_is_left_out() {
    let files = [("/a", payload(0, 5_000_000))];
    let (sent, outcomes) = run(12, 3, &files, &[2], |_, _| {});
    let standings: Vec<_> = sent.unwrap().clients.into_iter().map(|c| c.standing).collect();
    assert_eq!(standings, [Standing::Verified, Standing::Absent, Standing::Verified]);
    holds(&outcomes[0], &files);
    holds(&outcomes[2], &files);
}

/// One of four machines dies at each tenth of the transfer, each of them once at
/// each; the others have everything, verified.
#[test]
fn a_machine_dies_at_each_tenth() {
    let files = [("/a", payload(0, 6_000_000)), ("/b", payload(9, 5_000_000))];
    let dies = |net: u8, victim: u8, tenth: u64| {
        let (sent, outcomes) = run(net, 4, &files, &[], |i, world| {
            if i == victim {
                world.dies = Some((11_000_000 * tenth / 10).max(1));
            }
        });
        let sent = sent.unwrap();
        for (i, (client, outcome)) in (1..).zip(sent.clients.iter().zip(&outcomes)) {
            if i == victim {
                assert_eq!(client.standing, lost(), "{victim} at {tenth}");
            } else {
                let how = &outcome.0;
                let what = format!("{i} when {victim} dies at {tenth}: {how:?}");
                assert_eq!(client.standing, Standing::Verified, "{what}");
                holds(outcome, &files);
            }
        }
    };
    std::thread::scope(|scope| {
        for victim in 1..=4 {
            scope.spawn(move || (0..10).for_each(|tenth| dies(20 + victim, victim, tenth)));
        }
    });
}

/// Two neighbours at once, and the disk of another is full.
#[test]
fn several_misfortunes() {
    let files = [("/a", payload(0, 30_000_000))];
    let (sent, outcomes) = run(13, 6, &files, &[], |i, world| match i {
        2 | 3 => world.dies = Some(9_000_000),
        5 => world.full = Some(7_000_000),
        _ => {}
    });
    let sent = sent.unwrap();
    let lost = |i: usize| assert_eq!(sent.clients[i].standing, lost(), "{i}");
    lost(1);
    lost(2);
    assert!(matches!(&sent.clients[4].standing, Standing::Failed(why) if why == "no space left"));
    for i in [0, 3, 5] {
        assert_eq!(sent.clients[i].standing, Standing::Verified);
        holds(&outcomes[i], &files);
    }
    assert!(matches!(outcomes[4].0, Some(Err(clone::Error::Store { .. }))));
}

#[test]
fn a_server_without_clients_says_so() {
    let (sent, _) = run(14, 2, &[("/a", vec![1])], &[1, 2], |_, _| {});
    assert!(matches!(sent, Err(clone::Error::Gone { .. })), "{sent:?}");
}

/// A recorded run, its addresses moved to this test's net.
struct Recorded {
    /// What the server said to the first client, and that to the next.
    up: Vec<u8>,
    down: Vec<u8>,
    net: u8,
    absent: bool,
}

impl Recorded {
    fn read(name: &str, net: u8) -> Self {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for event in read(name) {
            if let Event::Data { from, parts, .. } = event {
                let bytes: Vec<u8> = parts.iter().flat_map(common::Part::bytes).collect();
                if from == "10.77.0.1" { up.extend(bytes) } else { down.extend(bytes) }
            }
        }
        // Addresses of the same length, so that lists keep theirs.
        let (old, new) = (b"10.77.0.", format!("127.{net}.0."));
        assert_eq!(old.len(), new.len());
        for bytes in [&mut up, &mut down] {
            for i in 0..400 {
                if bytes[i..].starts_with(old) {
                    bytes[i..i + old.len()].copy_from_slice(new.as_bytes());
                }
            }
        }
        Self { up, down, net, absent: name.ends_with("absent") }
    }

    fn host(&self, i: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net, 0, i)
    }
}

/// Our client between the real server and the real next host: what the real one sent
/// on, ours sends too, byte for byte.
fn client_of(run: &Recorded) {
    let listener = TcpListener::bind((run.host(if run.absent { 4 } else { 3 }), 9998)).unwrap();
    let server = TcpListener::bind((run.host(1), 9997)).unwrap();
    let own = run.host(2);
    let client = std::thread::spawn(move || {
        let mut world = room();
        let got = take(own, &mut world);
        let files = world.files.lock().unwrap().clone();
        (got, files)
    });
    listens(own);
    let mut real = TcpStream::connect((own, 9998)).unwrap();
    let up = run.up.clone();
    let sender = std::thread::spawn(move || {
        real.write_all(&up).unwrap();
        real
    });
    // The old server takes reports and answers none.
    let (report, _) = server.accept().unwrap();
    let (mut child, _) = listener.accept().unwrap();
    let mut relayed = vec![0; run.down.len()];
    child.read_exact(&mut relayed).unwrap();
    let differs = relayed.iter().zip(&run.down).position(|(a, b)| a != b);
    assert_eq!(differs, None, "relays what the recorded client relayed");
    drop((child, report));
    drop(sender.join().unwrap());
    let (got, files) = client.join().unwrap();
    let got = got.unwrap();
    assert!(!got.verified(), "an old server compares nothing");
    assert!(files["/srv/clone/big.img"] == payload(0, 9_000_001));
    assert_eq!(got.digests.len(), 2);
}

/// Our server before the real first client: it sends what the real one sent.
fn server_of(run: &Recorded) {
    let first = TcpListener::bind((run.host(2), 9998)).unwrap();
    let names: Vec<String> = (2..5).map(|i| run.host(i).to_string()).collect();
    let notes = run.down[run.down.len() - 336..].to_vec();
    let sources = vec![payload(0, 9_000_001), notes];
    let gzip = Cook { unpack: Some(Packing::Gzip), archive: None };
    let outputs = [
        Output { path: "/srv/clone/big.img".to_owned(), cook: Cook::default() },
        Output { path: "/srv/clone/notes".to_owned(), cook: gzip },
    ];
    let own = run.host(1);
    let ours = std::thread::spawn(move || give(own, &names, &outputs, sources));
    let (mut data, _) = first.accept().unwrap();
    let mut hear = |n: usize| {
        let mut heard = vec![0; n];
        data.read_exact(&mut heard).unwrap();
        heard
    };
    assert_eq!(hear(56), run.up[..56], "the ring as recorded");
    // The last host closes the ring, then brings the lists round.
    let mut round = TcpStream::connect((own, 9998)).unwrap();
    let mut closed = run.down[..56].to_vec();
    for (at, flag) in [(8, 2), (19, 1), (30, if run.absent { 3 } else { 1 }), (41, 1)] {
        closed[at] = flag;
    }
    round.write_all(&closed).unwrap();
    let lists = 56 + 8 + 38 + 4;
    let heard = hear(lists);
    assert_eq!(heard, run.up[56..56 + lists], "the lists as recorded");
    round.write_all(&heard).unwrap();
    assert!(hear(run.up.len() - 56 - lists) == run.up[56 + lists..], "the files as recorded");
    let mut end = TcpStream::connect((own, 9997)).unwrap();
    let text = "END:(<10.77.0.4): The last node finish recieving.";
    end.write_all(&Command::Stop(text.to_owned()).packet()).unwrap();
    let sent = ours.join().unwrap().unwrap();
    assert!(sent.clients.iter().any(|c| c.standing == Standing::Acknowledged));
    assert!(sent.clients.iter().all(|c| c.standing != Standing::Verified));
}

fn replay(name: &str, net: u8) {
    let run = Recorded::read(name, net);
    client_of(&run);
    server_of(&run);
}

#[test]
fn a_recorded_run() {
    replay("dolly-plus-0.94", 3);
}

#[test]
fn a_recorded_run_past_an_absent_host() {
    replay("dolly-plus-0.94-one-host-absent", 4);
}
