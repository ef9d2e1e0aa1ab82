//! udpcast's two ends: `udp-sender` and `udp-receiver`.

use super::copying;
use super::flags::{
    DIGEST, FROM, Flag, Given, KEY, NO_READ_BACK, Program, SEND_DIGEST, SEND_KEY, STALLED, VERIFY,
    flag, scaled,
};
use super::net::{Interface, Sockets, interface};
use super::report::PXELINUX;
use super::store::Source;
use super::world::{Host, Sources, opened};
use crate::failure::Failure;
use clone::edge::udpcast::Udpcast;
use clone::edge::{Here, Order};
use clone::outcome::Patience;
use clone::udpcast::sender::Redundancy;
use clone::udpcast::{receiver, sender};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

const PORT: Flag =
    flag("portbase", Some('P'), Some("PORT"), "even port; the next is used too [9000]");
const INTERFACE: Flag =
    flag("interface", Some('i'), Some("NAME"), "network interface, by name or address");
const TTL: Flag = flag("ttl", Some('t'), Some("N"), "how many routers multicast may cross [1]");
const RENDEZVOUS: Flag = flag(
    "mcast-rdv-address",
    Some('M'),
    Some("IP"),
    "where the ends find each other [broadcast; 224.0.0.1 with --ttl]",
);
const FILE: Flag =
    flag("file", Some('f'), Some("FILE"), "file or device [standard input or output]");
const PIPE: Flag =
    flag("pipe", Some('p'), Some("COMMAND"), "shell command between file and network");
const START: Flag =
    flag("start-timeout", Some('s'), Some("S"), "give up if nothing begins in so many seconds");
const NOKBD: Flag = flag("nokbd", Some('k'), None, "no key starts the transfer");
const QUIET: Flag = flag("no-progress", Some('q'), None, "show no progress");
const LOG: Flag = flag("log", Some('l'), Some("FILE"), "accepted; messages go to standard error");

/// The sender's grammar.
pub static SENDER: Program = Program {
    name: "udp-sender",
    about: "Sends a file or a disk to many machines at once by multicast.",
    rest: "",
    example: "bellwether clone udp-sender -f golden.img --min-receivers 5 --max-wait 60",
    flags: &[
        FILE,
        PIPE,
        PORT,
        INTERFACE,
        TTL,
        RENDEZVOUS,
        START,
        NOKBD,
        QUIET,
        LOG,
        flag("mcast-data-address", Some('m'), Some("IP"), "where data goes [from the own address]"),
        flag("mcast-all-addr", None, Some("IP"), "another word for --mcast-rdv-address"),
        flag("blocksize", Some('b'), Some("N"), "bytes of a block, up to 1456 [1456]"),
        flag("full-duplex", Some('d'), None, "two slices in flight [yes]"),
        flag("half-duplex", None, None, "one slice in flight, of changing size"),
        flag(
            "pointopoint",
            Some('1'),
            None,
            "data to the only receiver's address [if there is one]",
        ),
        flag("nopointopoint", Some('2'), None, "multicast also to a single receiver"),
        flag("broadcast", None, None, "broadcast instead of multicast"),
        flag(
            "async",
            Some('a'),
            None,
            "no answers from receivers: send with --fec and --max-bitrate",
        ),
        flag("fec", Some('F'), Some("SxR/L"), "S stripes with R redundant for L data blocks"),
        flag("max-bitrate", Some('r'), Some("BITS"), "per second; k, m and g for thousands"),
        flag("slice-size", None, Some("N"), "blocks of a slice [112]"),
        flag("default-slice-size", None, Some("N"), "another word for --slice-size"),
        flag("min-slice-size", None, Some("N"), "accepted and ignored"),
        flag("max-slice-size", None, Some("N"), "accepted and ignored"),
        flag("rexmit-hello-interval", Some('H'), Some("MS"), "call for receivers this often"),
        flag("autostart", None, Some("N"), "begin after N calls"),
        flag("min-receivers", Some('C'), Some("N"), "begin when so many are there"),
        flag("min-clients", None, Some("N"), "another word for --min-receivers"),
        flag("min-wait", Some('W'), Some("S"), "but not before so many seconds"),
        flag("max-wait", Some('w'), Some("S"), "and after so many with those that are there"),
        flag(
            "retries-until-drop",
            Some('R'),
            Some("N"),
            "rounds before a silent machine is dropped [200]",
        ),
        flag("streaming", Some('Z'), None, "machines may join later, and get the rest"),
        flag("no-verify", None, None, "compare no digests at the end"),
        SEND_DIGEST,
        SEND_KEY,
        PXELINUX,
    ],
};

/// The receiver's grammar.
pub static RECEIVER: Program = Program {
    name: "udp-receiver",
    about: "Receives what udp-sender sends, and writes it to a file or a disk.",
    rest: "",
    example: "bellwether clone udp-receiver -f /dev/sda --nokbd --start-timeout 300",
    flags: &[
        FILE,
        PIPE,
        PORT,
        INTERFACE,
        TTL,
        RENDEZVOUS,
        START,
        NOKBD,
        QUIET,
        LOG,
        flag("passive", Some('d'), None, "say nothing; for senders with --async"),
        flag(
            "rcvbuf",
            Some('b'),
            Some("BYTES"),
            "accepted and ignored; the buffer is as large as allowed",
        ),
        flag("mcast-all-addr", None, Some("IP"), "another word for --mcast-rdv-address"),
        flag("receive-timeout", None, Some("S"), "give up when nothing comes for so long [300]"),
        flag(
            "exit-wait",
            Some('w'),
            Some("MS"),
            "stay this long for a sender that missed an answer [500]",
        ),
        flag("nosync", Some('n'), None, "accepted and ignored; a copy always reaches the disk"),
        flag("sync", Some('y'), None, "accepted and ignored, as --nosync"),
        VERIFY,
        NO_READ_BACK,
        FROM,
        DIGEST,
        KEY,
        flag("no-verify", None, None, "compare no digests with the sender"),
    ],
};

fn port(given: &Given) -> Result<u16, Failure> {
    let port = given.parsed::<u16>("portbase")?.unwrap_or(9000);
    if port % 2 != 0 || port == 0 {
        return Err(Failure::Usage(format!("--portbase: {port} is not an even port")));
    }
    Ok(port)
}

/// `8x8/128`, `8x8` or `8`.
fn redundancy(text: &str) -> Result<Redundancy, Failure> {
    let wrong = || Failure::Usage(format!("--fec: '{text}' is not like 8x8/128"));
    let (rest, size) = match text.split_once('/') {
        Some((rest, size)) => (rest, Some(size.parse::<u16>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let (stripes, redundancy) = match rest.split_once('x') {
        Some((s, r)) => (s.parse::<u16>().map_err(|_| wrong())?, r),
        None => (8, rest),
    };
    let redundancy = redundancy.parse().map_err(|_| wrong())?;
    let stripe_size = size.unwrap_or_else(|| (1024 / stripes.max(1)).min(128));
    Ok(Redundancy { stripes, redundancy, stripe_size })
}

/// Where an end is: its sockets, and how the ends find each other.
struct Net {
    interface: Interface,
    sockets: Sockets,
    rendezvous: Option<Ipv4Addr>,
    port: u16,
}

impl Net {
    fn of(given: &Given) -> Result<Self, Failure> {
        let interface = interface(given.get("interface"))?;
        let ttl = given.parsed("ttl")?.unwrap_or(1);
        let rendezvous = given.either("mcast-rdv-address", "mcast-all-addr")?;
        let rendezvous = rendezvous.or((ttl > 1).then_some(Ipv4Addr::new(224, 0, 0, 1)));
        let sockets = Sockets {
            ttl,
            own: interface.address,
            device: given.has("interface").then(|| interface.name.clone()),
            group: rendezvous,
        };
        Ok(Self { interface, sockets, rendezvous, port: port(given)? })
    }

    fn here(&self, patience: Patience) -> Here {
        let Interface { address, broadcast, .. } = self.interface;
        Here { address, broadcast, ..copying::here(patience) }
    }

    fn udpcast(&self, receiver: receiver::Config, sender: sender::Config) -> Udpcast {
        Udpcast { port: self.port, rendezvous: self.rendezvous, late: true, receiver, sender }
    }
}

/// Sends.
pub fn send(given: &Given) -> Result<(), Failure> {
    let net = Net::of(given)?;
    let source = Source::open(given.get("file").map(Path::new), given.get("pipe"))?;
    // Unspecified: the group that is derived from the own address.
    let group = if given.has("broadcast") {
        net.interface.broadcast
    } else {
        given.parsed("mcast-data-address")?.unwrap_or(Ipv4Addr::UNSPECIFIED)
    };
    let slice = given.either("slice-size", "default-slice-size")?;
    let min_receivers = given.either("min-receivers", "min-clients")?;
    let half = given.has("half-duplex");
    let config = sender::Config {
        block_size: given.parsed("blocksize")?.unwrap_or(1456),
        slice_blocks: slice.unwrap_or(if half { 130 } else { 112 }),
        full_duplex: !half,
        point_to_point: !given.has("nopointopoint"),
        asynchronous: given.has("async"),
        fec: given.get("fec").map(redundancy).transpose()?,
        streaming: given.has("streaming"),
        min_receivers: min_receivers.unwrap_or(if given.has("pointopoint") { 1 } else { 0 }),
        min_wait: given.seconds("min-wait")?.unwrap_or_default(),
        max_wait: given.seconds("max-wait")?,
        autostart: given.parsed("autostart")?,
        hello_interval: Some(Duration::from_millis(
            given.parsed("rexmit-hello-interval")?.filter(|ms| *ms > 0).unwrap_or(500),
        )),
        retries_until_drop: given.parsed("retries-until-drop")?.unwrap_or(200),
        max_bitrate: given.get("max-bitrate").map(|r| scaled(r, 1000)).transpose()?,
        verify: !given.has("no-verify"),
        ..sender::Config::new(group)
    };
    let unattended =
        min_receivers.is_some() || config.max_wait.is_some() || config.autostart.is_some();
    // Standard input may be what is sent; only a terminal has keys.
    let keys = !given.has("nokbd")
        && given.get("file").is_some_and(|f| f != "-")
        && io::IsTerminal::is_terminal(&io::stdin());
    if !keys && !unattended {
        return Err(Failure::Usage(
            "nothing would start the transfer: give --min-receivers, --max-wait or --autostart"
                .to_owned(),
        ));
    }
    let Interface { address, name, .. } = &net.interface;
    eprintln!("udp-sender: {} from {address} ({name})", source.name);
    let mut host = Host::new("udp-sender", given.has("no-progress"), true);
    host.sockets = net.sockets.clone();
    host.sources = Sources::Open(Some(opened(source)));
    let patience = Patience { start: given.seconds("start-timeout")?, stall: None };
    let (mut here, stdin) = (net.here(patience), io::stdin());
    let method = format!("udpcast:{}", net.port);
    copying::sender(given, &method, &[net.interface.address], &mut here, &mut host)?;
    let order = Order { start: keys.then(|| stdin.as_fd()), ..Order::of(&here) };
    let udpcast = net.udpcast(receiver::Config::default(), config);
    copying::send(&udpcast, &order, given, &mut host)
}

/// Receives.
pub fn receive_run(given: &Given) -> Result<(), Failure> {
    let net = Net::of(given)?;
    let mut host = copying::stream("udp-receiver", given, "pipe")?;
    host.sockets = net.sockets.clone();
    let config = receiver::Config {
        receive_buffer: 1 << 20,
        linger: given
            .parsed("exit-wait")?
            .map_or(Duration::from_millis(500), Duration::from_millis),
        verify: !given.has("no-verify"),
        passive: given.has("passive"),
        ..receiver::Config::default()
    };
    let patience = Patience {
        start: given.seconds("start-timeout")?,
        stall: given.seconds("receive-timeout")?.or(Some(STALLED)),
    };
    eprintln!("udp-receiver: on {} ({})", net.interface.address, net.interface.name);
    let udpcast = net.udpcast(config, sender::Config::new(Ipv4Addr::UNSPECIFIED));
    let here = Here { pins: copying::pins(given)?, ..net.here(patience) };
    copying::receive(&udpcast, &here, &mut host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fec_as_people_write_it() {
        let fec = |s, r, l| Redundancy { stripes: s, redundancy: r, stripe_size: l };
        assert_eq!(redundancy("8x8/128").unwrap(), fec(8, 8, 128));
        assert_eq!(redundancy("16x4").unwrap(), fec(16, 4, 64));
        assert_eq!(redundancy("4").unwrap(), fec(8, 4, 128));
        assert!(redundancy("0x").is_err());
    }
}
