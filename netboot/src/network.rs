//! Brings up the network: [`crate::race`] with sockets.
//!
//! For an event loop: poll [`Network::fds`] until [`Network::deadline`], call
//! [`Network::on_ready`], print [`Network::take_events`]. [`Network::run`] is that loop for
//! callers without other events.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use cmdline::plan::{Addressing, NetworkPlan};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use sys::file::open_read;
use sys::netlink::{FLAG_LOOPBACK, Link, Monitor, News, Route};
use sys::packet::{ETHERTYPE_IPV4, PacketSocket, udp_port_filter};

use crate::config::{Config, Pnp, Protocol, parse_pnp};
use crate::dhcp::client::{MAX_PAUSE, Needs};
use crate::dhcp::lease::Lease;
use crate::race::{Action, Event, How, Race, Report, What, Winner};
use crate::random::random;
use sys::clock::{Instant, poll_timeout};
use sys::errno::Shown;

/// The largest frame that is read: DHCP messages are smaller.
const FRAME: usize = 2048;
/// Most frames read from one link before the next link's turn.
const BURST: usize = 32;
const DHCP_CLIENT_PORT: u16 = 68;

/// The network could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(pub sys::netlink::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (is CONFIG_NET in this kernel?)", &self.0)
    }
}

impl core::error::Error for Error {}

/// A configured network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUp {
    /// Device name.
    pub device: String,
    /// Interface index.
    pub index: u32,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// The settings made.
    pub config: Config,
    /// The lease, if any.
    pub lease: Option<Box<Lease>>,
    /// The boot server from the command line or the kernel.
    pub known_boot_server: Option<Ipv4Addr>,
    /// When they were made.
    pub since: Instant,
}

impl NetworkUp {
    /// The boot server for sources without a server: field 2 of `ip=`, next server, TFTP server
    /// name, TFTP servers, the DHCP server itself. An address or a name.
    pub fn boot_server(&self) -> Option<String> {
        match (self.known_boot_server, &self.lease) {
            (Some(server), _) => Some(format!("{server}")),
            (None, Some(lease)) => Some(lease.boot_server()),
            (None, None) => None,
        }
    }

    /// Whether a further try of the boot must ask DHCP anew: half of the lease's time has
    /// passed, or the boot needs what only DHCP knows, which may have been the reason of the
    /// failure.
    pub fn is_stale(&self, needs: Needs, now: Instant) -> bool {
        self.lease.as_ref().is_some_and(|lease| {
            let half = lease.lease_seconds.map(|seconds| Duration::from_secs(seconds.into()) / 2);
            needs != Needs::default() || half.is_some_and(|half| now >= self.since.after(half))
        })
    }

    /// Gives up the address, so that the link is no longer taken for a configured one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn release(&self) -> Result<(), Error> {
        let mut route = Route::open().map_err(Error)?;
        route.flush_addresses(self.index).map_err(Error)
    }

    /// DHCP's root path (option 17); empty without one.
    pub fn root_path(&self) -> &str {
        self.lease.as_ref().map_or("", |lease| &lease.root_path)
    }
}

impl fmt::Display for NetworkUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        write!(f, "{}: {}/{}", self.device, config.address, config.prefix)?;
        match config.gateway {
            Some(gateway) => write!(f, " by {gateway}")?,
            None => f.write_str(" without a gateway")?,
        }
        for (at, server) in config.dns.iter().enumerate() {
            f.write_str(if at == 0 { ", DNS " } else { " " })?;
            write!(f, "{server}")?;
        }
        match config.protocol {
            Protocol::Static => f.write_str(", from the line")?,
            Protocol::Existing => f.write_str(", as found")?,
            Protocol::Dhcp | Protocol::Bootp => {}
        }
        match &self.lease {
            Some(lease) => write!(f, ", from {}", lease.server),
            None => Ok(()),
        }
    }
}

/// The state of the network.
#[derive(Debug)]
pub enum Progress {
    /// Not decided yet.
    Pending,
    /// The plan's time limit passed. The race continues: polling further may still bring
    /// [`Progress::Done`].
    RoundOver(Report),
    /// The network is up. The race is over.
    Done(Box<NetworkUp>),
}

/// The network being brought up.
#[derive(Debug)]
pub struct Network {
    race: Race,
    needs: Needs,
    monitor: Monitor,
    route: Route,
    sockets: Vec<(u32, PacketSocket)>,
    buffer: Vec<u8>,
    events: Vec<Event>,
    /// Links to set up once their driver has begun its work.
    held: Vec<u32>,
    done: bool,
    /// A configuration failed; a new race starts then.
    again_at: Option<Instant>,
}

impl Network {
    /// Lists the links and sets up the candidates.
    ///
    /// # Errors
    /// [`Error`] when the kernel has no netlink.
    pub fn start(plan: NetworkPlan, needs: Needs) -> Result<Network, Error> {
        let now = Instant::now();
        let seed = random(boot_salt());
        let mut network = Network {
            race: Race::new(plan, needs, now, seed),
            needs,
            monitor: Monitor::open().map_err(Error)?,
            route: Route::open().map_err(Error)?,
            sockets: Vec::new(),
            buffer: vec![0; FRAME],
            events: Vec::new(),
            held: Vec::new(),
            done: false,
            again_at: None,
        };
        network.look(now).map_err(Error)?;
        network.carry_out(now);
        Ok(network)
    }

    /// Descriptors to poll for input.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.monitor.as_fd()];
        fds.extend(self.sockets.iter().map(|(_, socket)| socket.as_fd()));
        fds
    }

    /// When to call [`Network::on_ready`] without input.
    pub fn deadline(&self) -> Option<Instant> {
        if self.done { None } else { self.again_at.or(self.race.deadline()) }
    }

    /// Events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.append(&mut self.race.take_events());
        core::mem::take(&mut self.events)
    }

    /// Every driver has been loaded: see [`Race::settled`].
    pub fn settled(&mut self) {
        let now = Instant::now();
        self.race.settled(now);
        self.carry_out(now);
    }

    /// The attempts so far, for a failure screen.
    pub fn report(&self, reason: &str) -> Report {
        self.race.report(Instant::now(), reason)
    }

    /// Performs the actions that are due.
    pub fn on_ready(&mut self, now: Instant) -> Progress {
        if self.done {
            return Progress::Pending;
        }
        if let Some(moment) = self.again_at {
            if now < moment {
                // All links are looked at when the pause is over; unread news would end every wait.
                let _ = self.monitor.read();
                return Progress::Pending;
            }
            self.again_at = None;
            let plan = self.race.plan().clone();
            self.race = Race::new(plan, self.needs, now, random(boot_salt()));
            self.relook(now);
        }
        match self.monitor.read() {
            Ok(news) => {
                for item in news {
                    self.tell(now, item);
                }
            }
            Err(error) => self.remark(format!("{}", &error)),
        }
        self.hear(now);
        for index in core::mem::take(&mut self.held) {
            if let (_, Err(why)) = self.do_one(Action::SetUp(index)) {
                self.race.failed(now, index, why);
            }
        }
        self.race.tick(now);
        self.carry_out(now);
        if let Some(winner) = self.race.take_winner() {
            return self.configure(now, winner);
        }
        match self.race.take_round_over() {
            Some(report) => Progress::RoundOver(report),
            None => Progress::Pending,
        }
    }

    /// Polls until the network is up, or until `limit` or `rounds` rounds (0 for any number)
    /// have passed. `each` is called with every event.
    ///
    /// # Errors
    /// The [`Report`] of the last round.
    pub fn run(
        &mut self,
        limit: Option<Instant>,
        rounds: u32,
        each: &mut dyn FnMut(&Event),
    ) -> Result<Box<NetworkUp>, Report> {
        let mut last = None;
        loop {
            let now = Instant::now();
            let progress = self.on_ready(now);
            self.take_events().iter().for_each(&mut *each);
            match progress {
                Progress::Done(up) => return Ok(up),
                Progress::RoundOver(report) => {
                    if rounds > 0 && self.race.rounds() >= rounds {
                        return Err(report);
                    }
                    last = Some(report);
                }
                Progress::Pending => {}
            }
            if limit.is_some_and(|limit| limit <= now) {
                return Err(last.unwrap_or_else(|| self.report("the time is up")));
            }
            let deadline = match (self.deadline(), limit) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let timeout = poll_timeout(deadline, now);
            let mut fds: Vec<PollFd<'_>> = self
                .fds()
                .into_iter()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            // An interrupted poll only means another look.
            let _ = poll(&mut fds, timeout.as_ref());
        }
    }

    /// Tells the race about all links and addresses.
    fn look(&mut self, now: Instant) -> Result<(), sys::netlink::Error> {
        let mut links = self.route.links()?;
        for link in &mut links {
            classify(link);
            // Everything that talks to itself expects it, and no other program sets it up.
            if link.flags & FLAG_LOOPBACK != 0 && !link.is_up() {
                let _ = self.route.set_up(link.index, true);
            }
        }
        let addresses = self.route.addresses()?;
        self.race.snapshot(now, links, addresses);
        Ok(())
    }

    fn relook(&mut self, now: Instant) {
        if let Err(error) = self.look(now) {
            self.remark(format!("{}", &error));
        }
    }

    fn tell(&mut self, now: Instant, mut news: News) {
        match &mut news {
            News::Lost => self.relook(now),
            News::Link(link) => {
                classify(link);
                self.race.news(now, news);
            }
            _ => self.race.news(now, news),
        }
    }

    /// Reads the received frames of every link.
    fn hear(&mut self, now: Instant) {
        for (index, socket) in &self.sockets {
            for _ in 0..BURST {
                match socket.receive(&mut self.buffer) {
                    Ok(Some(frame)) => self.race.frame(now, *index, frame),
                    // A link that goes down reports once; the monitor tells the rest.
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    /// Carries out the race's actions until there are none.
    fn carry_out(&mut self, now: Instant) {
        for _ in 0..16 {
            let actions = self.race.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                let (index, result) = self.do_one(action);
                if let Err(why) = result {
                    self.race.failed(now, index, why);
                }
            }
            // A socket that was just opened may send at once.
            self.race.tick(now);
        }
    }

    fn do_one(&mut self, action: Action) -> (u32, Result<(), String>) {
        let said = |error: sys::netlink::Error| format!("{}", &error);
        match action {
            Action::SetUp(index) if self.race.name_of(index).is_some_and(is_starting) => {
                self.held.push(index);
                (index, Ok(()))
            }
            Action::SetUp(index) => (index, self.route.set_up(index, true).map_err(said)),
            Action::SetDown(index) => (index, self.route.set_up(index, false).map_err(said)),
            Action::Rename(index, name) => (index, self.route.rename(index, &name).map_err(said)),
            Action::AddVlan(index) => (index, self.add_vlan(index)),
            Action::Listen(index) => (index, self.listen(index)),
            Action::Silence(index) => {
                self.sockets.retain(|(known, _)| *known != index);
                (index, Ok(()))
            }
            Action::Send(index, frame) => {
                let socket = self.sockets.iter().find(|(known, _)| *known == index);
                let result = match socket {
                    Some((_, socket)) => socket.send(&frame),
                    None => Ok(()),
                };
                (index, result.map_err(|errno| format!("cannot send: {}", Shown(errno))))
            }
        }
    }

    fn listen(&mut self, index: u32) -> Result<(), String> {
        match PacketSocket::open(index, ETHERTYPE_IPV4, &udp_port_filter(DHCP_CLIENT_PORT)) {
            Ok(socket) => {
                self.sockets.retain(|(known, _)| *known != index);
                self.sockets.push((index, socket));
                Ok(())
            }
            Err(Errno::AFNOSUPPORT) => {
                Err("no packet sockets in this kernel: the module af_packet is missing".to_owned())
            }
            Err(errno) => Err(format!("cannot open a packet socket: {}", Shown(errno))),
        }
    }

    fn add_vlan(&mut self, index: u32) -> Result<(), String> {
        let Some(vlan) = self.race.plan().vlan.clone() else { return Ok(()) };
        match self.route.add_vlan(index, &vlan.name, vlan.id) {
            Ok(()) => Ok(()),
            Err(error) if error.errno == Errno::EXIST => Ok(()),
            Err(error) if error.errno == Errno::OPNOTSUPP => {
                Err(format!("{}: no VLANs in this kernel, the module 8021q is missing", &error))
            }
            Err(error) => Err(format!("{}", &error)),
        }
    }

    fn remark(&mut self, text: String) {
        self.events.push(Event { device: String::new(), what: What::Note(text) });
    }

    /// Configures the winner.
    fn configure(&mut self, now: Instant, winner: Winner) -> Progress {
        let plan = self.race.plan().clone();
        let device = winner.link.name.clone();
        let index = winner.link.index;
        let mut known_boot_server = plan.boot_server;
        let mut lease = None;
        let config = match (winner.how, &plan.addressing) {
            (How::Lease(found), _) => {
                let config = Config::from_lease(&found, &plan);
                lease = Some(found);
                config
            }
            (How::Static, Addressing::Static(address)) => Config::from_static(address, &plan),
            (How::Existing(address), _) => {
                let pnp = read_pnp();
                known_boot_server = known_boot_server.or(pnp.boot_server);
                let routes = self.route.routes().unwrap_or_default();
                Config::from_existing(&address, &routes, &pnp, &plan)
            }
            (How::Static, _) => return Progress::Pending,
        };
        let remarks = match config.apply(&mut self.route, index) {
            Ok(remarks) => remarks,
            Err(error) => {
                self.again_at = Some(now.after(MAX_PAUSE));
                self.sockets.clear();
                let reason = format!("{device} cannot be configured: {}", &error);
                return Progress::RoundOver(self.race.report(now, &reason));
            }
        };
        for text in config.notes.iter().chain(&remarks) {
            self.events.push(Event { device: device.clone(), what: What::Note(text.clone()) });
        }
        self.sockets.clear();
        self.done = true;
        Progress::Done(Box::new(NetworkUp {
            device,
            index,
            mac: winner.link.mac,
            config,
            lease,
            known_boot_server,
            since: now,
        }))
    }
}

/// A value that differs between boots, while the kernel has no randomness yet.
fn boot_salt() -> u32 {
    Instant::now().millis() as u32
}

/// Whether a link's driver is still starting: the link is announced before the driver has
/// finished its probe, and some drivers (e100) crash the kernel when it is set up then. The
/// end of the load wakes the event loop.
fn is_starting(device: &str) -> bool {
    let state = format!("/sys/class/net/{device}/device/driver/module/initstate");
    starts(read_small(&state, &mut [0; 16]), read_small("/proc/modules", &mut [0; 4096]))
}

/// The same from the state of the driver's module and the newest of all modules. The kernel
/// (6.1, `bus_add_driver`) links a driver with its module only after its first probes: without
/// a state, any module that is being loaded may be the one.
fn starts(state: &str, modules: &str) -> bool {
    state.starts_with("coming")
        || state.is_empty() && modules.split(' ').any(|word| word == "Loading")
}

/// Sets [`Link::kind`] of hardware from sysfs: `wlan`, `wwan`, ….
///
/// Without sysfs the kind stays as netlink reports it.
fn classify(link: &mut Link) {
    if !link.kind.is_empty() || link.name.contains(['/', '\0']) {
        return;
    }
    let path = format!("/sys/class/net/{}/uevent", link.name);
    let mut buffer = [0u8; 256];
    let text = read_small(&path, &mut buffer);
    let kind = text.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    if let Some(kind) = kind {
        link.kind = kind.to_owned();
    }
}

/// The start of a small file; empty when it cannot be read.
fn read_small<'a>(path: &str, buffer: &'a mut [u8]) -> &'a str {
    let Ok(fd) = open_read(path) else { return "" };
    let length = rustix::io::read(&fd, &mut *buffer).unwrap_or(0);
    core::str::from_utf8(buffer.get(..length).unwrap_or_default()).unwrap_or("")
}

fn read_pnp() -> Pnp {
    let mut buffer = [0u8; 1024];
    parse_pnp(read_small("/proc/net/pnp", &mut buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::lease::Header;
    use crate::dhcp::options::Options;

    /// What only DHCP knew was never asked for again, and a lease was used after its end.
    #[test]
    fn a_further_try_asks_for_a_stale_lease() {
        let options = Options::default();
        let yours = Ipv4Addr::new(10, 0, 0, 5);
        let sender = Ipv4Addr::new(10, 0, 0, 1);
        let header = Header { yours, next_server: sender, sender, server_name: &[], file: &[] };
        let lease = Lease { lease_seconds: Some(100), ..Lease::read(header, &options) };
        let plan = cmdline::parse("ip=dhcp root=/dev/nfs nfsroot=10.0.0.1:/x", &Default::default());
        let plan = plan.network.unwrap();
        let mut up = NetworkUp {
            device: "eth0".into(),
            index: 2,
            mac: None,
            config: Config::from_lease(&lease, &plan),
            lease: Some(Box::new(lease)),
            known_boot_server: None,
            since: Instant::from_millis(1000),
        };
        let path = Needs { root_path: true, boot_server: false };
        let stale = |up: &NetworkUp, needs, at| up.is_stale(needs, Instant::from_millis(at));
        assert!(!stale(&up, Needs::default(), 50_000));
        assert!(stale(&up, Needs::default(), 51_000));
        assert!(stale(&up, path, 1000));
        up.lease = None;
        assert!(!stale(&up, path, 99_000), "an address of the line");
    }

    /// Debian's e100 crashed the kernel: the state was asked of a link that is not there yet.
    #[test]
    fn a_driver_starts_until_its_module_is_loaded() {
        let loading = "e100 57344 1 - Loading 0x0000000000000000 (+)\nmii 16384 1 e100, Live 0x0\n";
        let live = "e100 57344 0 - Live 0x0000000000000000\n";
        assert!(starts("coming\n", "") && starts("", loading));
        // Another module is none of it; a driver of the kernel itself has no module.
        assert!(!starts("live\n", loading) && !starts("", live) && !starts("", ""));
    }
}
