//! udpcast's two ends at the sockets: `udp-sender` and `udp-receiver`.

use super::flags::{Flag, Given, Program, STALLED, flag, scaled};
use super::net::{Interface, interface};
use super::progress::{Progress, bytes, rate};
use super::report::{self, Machine, PXELINUX};
use super::store::{How, Source, Target, Writer, read_back};
use crate::failure::Failure;
use clone::digest::Digest;
use clone::udpcast::sender::{Redundancy, Standing};
use clone::udpcast::{Receiver, Sender, default_group, receiver, sender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

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
        flag("nosync", Some('n'), None, "do not wait for the disk [files]"),
        flag("sync", Some('y'), None, "wait for the disk [devices]"),
        flag("verify", None, None, "read back what was written"),
        flag("no-verify", None, None, "compare no digests with the sender"),
    ],
};

/// Joins a multicast group; again is no error.
fn listen(net: &Net, group: Ipv4Addr) -> Result<(), Failure> {
    if !group.is_multicast() {
        return Ok(());
    }
    match net.socket.join_multicast_v4(&group, &net.interface.address) {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            Err(Failure::Failed(format!("cannot listen to {group}: {e}")))
        }
        _ => Ok(()),
    }
}

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

/// The socket of an end, and where "everybody" is.
struct Net {
    socket: UdpSocket,
    everybody: SocketAddrV4,
    interface: Interface,
}

fn net(given: &Given, own_port: u16, their_port: u16) -> Result<Net, Failure> {
    let interface = interface(given.get("interface"))?;
    let ttl: u32 = given.parsed("ttl")?.unwrap_or(1);
    let rendezvous: Option<Ipv4Addr> = match given.parsed("mcast-rdv-address")? {
        Some(address) => Some(address),
        None => given.parsed("mcast-all-addr")?,
    };
    let rendezvous = rendezvous.or((ttl > 1).then_some(Ipv4Addr::new(224, 0, 0, 1)));
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_multicast_ttl_v4(ttl)?;
        socket.set_multicast_if_v4(&interface.address)?;
        socket.set_multicast_loop_v4(false)?;
        // Two slices of packets, with what the kernel adds to each.
        for size in [8 << 20, 4 << 20, 1 << 20] {
            if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &size)
                .is_ok()
                || socket.set_recv_buffer_size(size).is_ok()
            {
                break;
            }
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, own_port)).into())?;
        if given.has("interface") {
            // Needs privileges; without them the routes decide.
            let _ = socket.bind_device(Some(interface.name.as_bytes()));
        }
        if let Some(address) = rendezvous.filter(Ipv4Addr::is_multicast) {
            socket.join_multicast_v4(&address, &interface.address)?;
        }
        Ok(socket.into())
    };
    let socket =
        open().map_err(|e| Failure::Failed(format!("UDP port {own_port}: cannot be used: {e}")))?;
    let everybody = SocketAddrV4::new(rendezvous.unwrap_or(interface.broadcast), their_port);
    Ok(Net { socket, everybody, interface })
}

/// Waits for the socket, another descriptor, or the time.
fn wait(
    socket: &UdpSocket,
    write: bool,
    other: Option<std::os::fd::BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> Result<bool, Failure> {
    let events = if write { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
    let mut fds = vec![PollFd::new(socket.as_fd(), events)];
    fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    // Rounded up: waking early would be waking twice.
    let timeout = limit.map_or(PollTimeout::from(1000u16), |d| {
        PollTimeout::try_from(d.as_micros().div_ceil(1000).min(1000) as i32)
            .unwrap_or(PollTimeout::ZERO)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(Failure::Failed(format!("cannot wait for the network: {e}"))),
    }
    Ok(fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false)))
}

fn soft(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
    ) || e.raw_os_error() == Some(nix::libc::ENOBUFS)
}

fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> Result<Option<(usize, SocketAddrV4)>, Failure> {
    match socket.recv_from(buffer) {
        Ok((n, SocketAddr::V4(from))) => Ok(Some((n, from))),
        Ok(_) => Ok(None),
        Err(e) if soft(&e) => Ok(None),
        Err(e) => Err(Failure::Failed(format!("cannot receive: {e}"))),
    }
}

/// The kernel takes no more at once (`UDP_MAX_SEGMENTS`, and a datagram's length).
const TOGETHER: (usize, usize) = (44, 65_000);

/// Packets of one size to one address, which the kernel takes together and divides
/// where it must, at the card or at the receiver (UDP_SEGMENT in udp(7)): what a packet
/// costs on its way through the kernel is then shared by all.
struct Batch {
    to: SocketAddrV4,
    bytes: Vec<u8>,
    segment: usize,
    /// Where that cannot be had, they go one by one.
    together: bool,
}

impl Batch {
    fn takes(&self, to: SocketAddrV4, packet: &[u8]) -> bool {
        self.bytes.is_empty()
            || (self.together
                && to == self.to
                && packet.len() <= self.segment
                && self.bytes.len().is_multiple_of(self.segment)
                && self.bytes.len() < TOGETHER.0 * self.segment
                && self.bytes.len() + packet.len() <= TOGETHER.1)
    }

    fn add(&mut self, to: SocketAddrV4, packet: &[u8]) {
        if self.bytes.is_empty() {
            (self.to, self.segment) = (to, packet.len().max(1));
        }
        self.bytes.extend_from_slice(packet);
    }

    /// Sends all; false when the socket has no room.
    fn send(&mut self, socket: &UdpSocket) -> Result<bool, Failure> {
        if self.together && self.bytes.len() > self.segment {
            let size = u16::try_from(self.segment).unwrap_or(u16::MAX);
            let sent = sendmsg(
                socket.as_raw_fd(),
                &[io::IoSlice::new(&self.bytes)],
                &[ControlMessage::UdpGsoSegments(&size)],
                MsgFlags::empty(),
                Some(&SockaddrIn::from(self.to)),
            );
            match sent {
                Ok(_) => self.bytes.clear(),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => return Ok(false),
                Err(_) => self.together = false,
            }
        }
        while !self.bytes.is_empty() {
            let one = self.bytes.get(..self.segment.min(self.bytes.len())).unwrap_or_default();
            match socket.send_to(one, self.to) {
                Err(e)
                    if e.kind() == io::ErrorKind::WouldBlock
                        || e.raw_os_error() == Some(nix::libc::ENOBUFS) =>
                {
                    return Ok(false);
                }
                Err(e) if !soft(&e) => {
                    return Err(Failure::Failed(format!("cannot send to {}: {e}", self.to)));
                }
                _ => {
                    let sent = one.len();
                    self.bytes.drain(..sent);
                }
            }
        }
        Ok(true)
    }
}

/// As [`receive`], for several packets of one size from one sender that the kernel has
/// put together; their size (UDP_GRO in udp(7)).
fn receive_together(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> Result<Option<(usize, usize, SocketAddrV4)>, Failure> {
    let mut space = nix::cmsg_space!(i32);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let got =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
    match got {
        Ok(got) => {
            let segment = got.cmsgs().into_iter().flatten().find_map(|c| match c {
                ControlMessageOwned::UdpGroSegments(n) => usize::try_from(n).ok(),
                _ => None,
            });
            let n = got.bytes;
            let from = got.address.map(SocketAddrV4::from);
            Ok(from.map(|from| (n, segment.filter(|s| *s > 0).unwrap_or(n), from)))
        }
        Err(e) if soft(&e.into()) => Ok(None),
        Err(e) => Err(Failure::Failed(format!("cannot receive: {e}"))),
    }
}

/// Sends.
pub fn send(given: &Given) -> Result<(), Failure> {
    let base = port(given)?;
    let net = net(given, base + 1, base)?;
    let mut source = Source::open(given.get("file").map(Path::new), given.get("pipe"))?;
    let group = if given.has("broadcast") {
        net.interface.broadcast
    } else {
        given.parsed("mcast-data-address")?.unwrap_or(default_group(net.interface.address))
    };
    let slice = match given.parsed("slice-size")? {
        Some(n) => Some(n),
        None => given.parsed("default-slice-size")?,
    };
    let min_receivers = match given.parsed("min-receivers")? {
        Some(n) => Some(n),
        None => given.parsed("min-clients")?,
    };
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
        start_timeout: given.seconds("start-timeout")?,
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
    // Without a way back, many packets must not be lost at once.
    let together = !config.asynchronous;
    let clock = Instant::now();
    let mut core = Sender::new(config, clock.elapsed()).map_err(core_failed)?;
    eprintln!(
        "udp-sender: {} from {} ({}), port {base}; waiting for receivers{}",
        source.name,
        net.interface.address,
        net.interface.name,
        if keys { ", press return to begin" } else { "" }
    );
    let mut progress = Progress::new(given.has("no-progress"));
    let mut packet = Vec::with_capacity(2048);
    let mut unsent: Option<sender::To> = None;
    let mut incoming = [0; 2048];
    let mut batch = Batch { to: net.everybody, bytes: Vec::new(), segment: 1, together };
    let mut buffer = vec![0; 1 << 21];
    let mut ended = false;
    let mut digest = None;
    let mut idle_since: Option<Duration> = None;
    while !core.finished() {
        while let Some((n, from)) = receive(&net.socket, &mut incoming)? {
            let bytes = incoming.get(..n).unwrap_or_default();
            core.step(sender::Input::Packet { from: *from.ip(), bytes }, clock.elapsed())
                .map_err(|e| report_failure(&core, e))?;
        }
        core.step(sender::Input::Tick, clock.elapsed()).map_err(|e| report_failure(&core, e))?;
        // Files are always readable; pipes only when they have something.
        let want = core.wants();
        let mut source_quiet = false;
        if want > 0 && !ended {
            let ready = source.length.is_some()
                || wait(&net.socket, false, Some(source.fd()), Some(Duration::ZERO))?;
            if ready {
                let n = source.read(buffer.get_mut(..want).unwrap_or_default())?;
                ended = n == 0;
                idle_since = None;
                let input = match buffer.get(..n) {
                    Some(bytes) if n > 0 => sender::Input::Data(bytes),
                    _ => sender::Input::End,
                };
                core.step(input, clock.elapsed()).map_err(|e| report_failure(&core, e))?;
            } else {
                source_quiet = true;
                let now = clock.elapsed();
                let since = *idle_since.get_or_insert(now);
                if now - since >= Duration::from_millis(100) {
                    core.step(sender::Input::Flush, now).map_err(|e| report_failure(&core, e))?;
                }
            }
        }
        let mut full = !batch.send(&net.socket)?;
        for _ in 0..64 {
            if full {
                break;
            }
            let to = match unsent.take() {
                Some(to) => to,
                None => match core.transmit(clock.elapsed(), &mut packet) {
                    Some(to) => to,
                    None => break,
                },
            };
            let address = match to {
                sender::To::Everybody => net.everybody,
                sender::To::Group(ip) | sender::To::Machine(ip) => SocketAddrV4::new(ip, base),
            };
            if !batch.takes(address, &packet) && !batch.send(&net.socket)? {
                unsent = Some(to);
                full = true;
            } else {
                batch.add(address, &packet);
            }
        }
        full = full || !batch.send(&net.socket)?;
        while let Some(event) = core.event() {
            progress.end();
            match event {
                sender::Event::Joined(ip) => eprintln!("udp-sender: {ip} has come"),
                sender::Event::Started { receivers, to } => {
                    eprintln!("udp-sender: begins with {receivers} receivers, data to {to}");
                    progress = Progress::new(given.has("no-progress"));
                }
                sender::Event::Lost(ip, how) => {
                    eprintln!("udp-sender: {ip} was lost ({})", words(how))
                }
                sender::Event::Finished(d) => digest = Some(d),
            }
        }
        progress.show(core.acknowledged(), source.length, || {
            format!(", {} blocks again", core.resent())
        });
        if full || core.transmit_waits(clock.elapsed()) || (want > 0 && !source_quiet && !ended) {
            if full {
                wait(
                    &net.socket,
                    true,
                    None,
                    core.deadline().map(|d| d.saturating_sub(clock.elapsed())),
                )?;
            }
            continue;
        }
        if core.finished() {
            break;
        }
        let mut limit = core.deadline().map(|d| d.saturating_sub(clock.elapsed()));
        if source_quiet {
            limit = Some(limit.unwrap_or(Duration::MAX).min(Duration::from_millis(100)));
        }
        let other = if source_quiet { Some(source.fd()) } else { None };
        let stdin = io::stdin();
        let other = other.or_else(|| (keys && core.gathering()).then(|| stdin.as_fd()));
        let ready = wait(&net.socket, false, other, limit)?;
        if ready && keys && core.gathering() {
            let mut line = String::new();
            let _ = stdin.read_line(&mut line);
            core.step(sender::Input::Start, clock.elapsed())
                .map_err(|e| report_failure(&core, e))?;
        }
    }
    progress.end();
    let Some(digest) = digest else {
        return Err(Failure::Failed("the transfer has no end".to_owned()));
    };
    table(&core, digest, progress.elapsed(), given)
}

fn core_failed(e: clone::Error) -> Failure {
    Failure::Failed(e.to_string())
}

fn report_failure(core: &Sender, e: clone::Error) -> Failure {
    for machine in core.machines() {
        eprintln!("udp-sender: {:<15} {}", machine.address, words(machine.standing));
    }
    core_failed(e)
}

const fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Receiving => "in the middle",
        Standing::Acknowledged => "acknowledged, not verified",
        Standing::Verified => "verified",
        Standing::Mismatch => "HAS OTHER BYTES",
        Standing::StoreFailed => "COULD NOT STORE IT",
        Standing::Left => "LEFT before the end",
        Standing::Dropped => "DROPPED, did not answer",
    }
}

/// The results; a failure if anybody has no copy.
fn table(core: &Sender, digest: Digest, took: Duration, given: &Given) -> Result<(), Failure> {
    eprintln!(
        "udp-sender: {} in {:.1} s, {}; {} blocks sent again; blake3 {digest}",
        bytes(digest.bytes),
        took.as_secs_f64(),
        rate(digest.bytes, took),
        core.resent()
    );
    let mut machines = Vec::new();
    for machine in core.machines() {
        let mut result = words(machine.standing).to_owned();
        if machine.missed > 0 {
            result += &format!("; joined late, lacks the first {}", bytes(machine.missed));
        }
        machines.push(Machine {
            name: machine.address.to_string(),
            address: Some(machine.address),
            result,
            good: machine.missed == 0
                && matches!(machine.standing, Standing::Verified | Standing::Acknowledged),
        });
    }
    if machines.is_empty() {
        eprintln!("  nobody answered: whether anybody has a copy is not known");
        return Ok(());
    }
    report::table(&machines, digest.bytes, took, given)
}

/// Receives.
pub fn receive_run(given: &Given) -> Result<(), Failure> {
    let base = port(given)?;
    let net = net(given, base, base + 1)?;
    // Without it they come one by one.
    let _ =
        nix::sys::socket::setsockopt(&net.socket, nix::sys::socket::sockopt::UdpGroSegment, &true);
    let sync = if given.has("sync") {
        Some(true)
    } else if given.has("nosync") {
        Some(false)
    } else {
        None
    };
    let path = given.get("file").map(Path::new);
    let target = Target::open(path, How { pipe: given.get("pipe"), sync, ..How::default() })?;
    let verify_path = path.filter(|_| given.has("verify") && !given.has("pipe"));
    let mut writer = Writer::start(target, 24, false);
    let config = receiver::Config {
        receive_buffer: 1 << 20,
        start_timeout: given.seconds("start-timeout")?,
        receive_timeout: given.seconds("receive-timeout")?.or(Some(STALLED)),
        linger: given
            .parsed("exit-wait")?
            .map_or(Duration::from_millis(500), Duration::from_millis),
        verify: !given.has("no-verify"),
        passive: given.has("passive"),
    };
    let clock = Instant::now();
    let mut core = Receiver::new(config, clock.elapsed());
    eprintln!(
        "udp-receiver: on {} ({}), port {base}; waiting for a sender",
        net.interface.address, net.interface.name
    );
    let mut progress = Progress::new(given.has("no-progress"));
    let mut incoming = vec![0; 1 << 16];
    let mut packet = Vec::new();
    let mut waiting: Option<Vec<u8>> = None;
    let mut buffer = Vec::new();
    let mut storing: Option<Digest> = None;
    let mut result = Ok(());
    let mut end = None;
    while !core.finished() {
        let mut stepped = Ok(());
        for _ in 0..16 {
            let Some((n, segment, from)) = receive_together(&net.socket, &mut incoming)? else {
                break;
            };
            // Senders speak from the odd port; anything else is noise.
            if from.port() != base + 1 {
                continue;
            }
            let now = clock.elapsed();
            for bytes in incoming.get(..n).unwrap_or_default().chunks(segment.max(1)) {
                let input = receiver::Input::Packet { from: *from.ip(), bytes };
                stepped = stepped.and_then(|()| core.step(input, now));
            }
            if stepped.is_err() {
                break;
            }
        }
        if stepped.is_ok() {
            stepped = core.step(receiver::Input::Tick, clock.elapsed());
        }
        let mut stored = None;
        if storing.is_none() {
            loop {
                let next = match waiting.take() {
                    Some(bytes) => Some(bytes),
                    None => core
                        .take(&mut buffer)
                        .then(|| std::mem::replace(&mut buffer, writer.buffer())),
                };
                let Some(bytes) = next else { break };
                match writer.try_write(bytes) {
                    Ok(None) => {}
                    Ok(full) => {
                        waiting = full;
                        break;
                    }
                    Err(why) => {
                        stored = Some(Err(why));
                        break;
                    }
                }
            }
        }
        while let Some(event) = core.event() {
            match event {
                receiver::Event::Connected { sender, group, client } => {
                    listen(&net, group)?;
                    let number =
                        client.map_or("no way back".to_owned(), |c| format!("receiver {c}"));
                    eprintln!("udp-receiver: found sender {sender}, {number}");
                }
                receiver::Event::Listen(group) => listen(&net, group)?,
                receiver::Event::TooLate(sender) => eprintln!(
                    "udp-receiver: {sender} sends already, and takes no more receivers; waiting for the next time"
                ),
                receiver::Event::Started { late } => {
                    progress = Progress::new(given.has("no-progress"));
                    if late {
                        eprintln!("udp-receiver: joined late: the beginning is MISSING");
                    }
                }
                receiver::Event::End(digest) => {
                    storing = Some(digest);
                    writer.end();
                }
                receiver::Event::Finished { digest, verified } => end = Some((digest, verified)),
            }
        }
        if let Some(digest) = storing
            && writer.idle()
            && stored.is_none()
            && end.is_none()
            && result.is_ok()
            && waiting.is_none()
        {
            let mut how = writer.finish();
            if how.is_ok()
                && let Some(path) = verify_path
            {
                how = read_back(path, digest).map_err(|e| e.to_string());
            }
            stored = Some(how);
            // Said once only.
            storing = Some(digest);
            result = Err(Failure::Failed(String::new()));
        }
        if let Some(how) = stored {
            let input = receiver::Input::Stored(how.as_ref().copied().map_err(String::as_str));
            stepped = stepped.and(core.step(input, clock.elapsed()));
        }
        while core
            .transmit(&mut packet)
            .map(|to| match to {
                receiver::To::Everybody => net.everybody,
                receiver::To::Sender(ip) => SocketAddrV4::new(ip, base + 1),
            })
            .is_some_and(|to| {
                // What is lost here is asked for again, as on the wire.
                let _ = net.socket.send_to(&packet, to);
                true
            })
        {}
        while let Some(event) = core.event() {
            if let receiver::Event::Finished { digest, verified } = event {
                end = Some((digest, verified));
            }
        }
        if let Err(e) = stepped {
            progress.end();
            return Err(core_failed(e));
        }
        progress.show(core.bytes(), None, String::new);
        if core.finished() {
            break;
        }
        let mut limit = core.deadline().map(|d| d.saturating_sub(clock.elapsed()));
        if waiting.is_some() || (storing.is_some() && result.is_ok()) {
            limit = Some(Duration::from_millis(5));
        }
        wait(&net.socket, false, None, limit)?;
    }
    progress.end();
    let Some((digest, verified)) = end else {
        return Err(Failure::Failed("the transfer was broken off".to_owned()));
    };
    eprintln!(
        "udp-receiver: {} in {:.1} s, {}; blake3 {digest}; {}",
        bytes(digest.bytes),
        progress.elapsed().as_secs_f64(),
        rate(digest.bytes, progress.elapsed()),
        match (verified, verify_path.is_some()) {
            (true, true) => "verified with the sender and read back",
            (true, false) => "verified with the sender",
            (false, true) => "read back; the sender compares no digests",
            (false, false) => "NOT verified: the sender compares no digests",
        }
    );
    Ok(())
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
