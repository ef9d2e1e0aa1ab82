//! A session from start to end: opens the media, starts the services, and reports to the user.

use crate::beneath::Directory;
use crate::budget::{self, Budget};
use crate::dhcp::client::{Arch, Loaders};
use crate::dhcp::lease::{Leases, inside, range};
use crate::dhcp::server::{Cautious, Network, PXE_PORT, Server as Dhcp};
use crate::disk::access::{Disks, OWN_DISK};
use crate::disk::store::{Image, Store};
use crate::ending::Ending;
use crate::error::Error;
use crate::event::{Event, Watch};
use crate::files::Files;
use crate::layout::Place;
use crate::media::{self, Media, Sources};
use crate::net::{self, Interface};
use crate::nfs::{Export, Server as Nfs};
use crate::options::{Behind, DhcpMode, Options};
use crate::page::Page;
use crate::probe::{self, Probe, Sign};
use crate::{ipxe, loaders, privileges, serve};
use cpio_builder::menu::Menu;
use nix::unistd::geteuid;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Media being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// HTTP, as clients reach it.
    pub http: SocketAddrV4,
    /// NFS, as clients reach it.
    pub nfs: SocketAddrV4,
    /// NBD, as clients reach it.
    pub nbd: SocketAddrV4,
    /// The URL of the web page, with the key.
    pub page: String,
    /// The NFS exports that clients mount, the first medium's first.
    pub mounts: Vec<String>,
    /// The boot menu, with command lines; paths are those of HTTP and TFTP.
    pub menu: Menu,
    /// The URL of the boot file to configure on another network's DHCP server: pxelinux, or
    /// without it the menu for iPXE.
    pub first: String,
}

/// Where a portmapper listens (RFC 1833).
const PORTMAP_PORT: u16 = 111;

/// Where the menu for iPXE is.
const SCRIPT: &str = "/boot.ipxe";

/// Shares until SIGINT or SIGTERM; `began` is called when all services run.
///
/// # Errors
/// [`Error`] of a port, a medium or the network, before anything is served.
pub fn run(
    options: &Options,
    watch: &Arc<Watch>,
    began: impl FnOnce(&Session),
) -> Result<(), Error> {
    let ending = Ending::expect()?;
    let session = start(options, watch)?;
    began(&session);
    ending.wait()?;
    stopped(watch);
    Ok(())
}

/// Reports the totals at the end.
pub fn stopped(watch: &Watch) {
    watch.tell_left_out();
    let clients = watch.clients();
    let bytes = clients.values().map(|client| client.bytes).sum();
    watch.tell(&Event::Stopped { clients: clients.len(), bytes });
}

/// Starts to share, in threads that live as long as the process. A root process becomes an
/// ordinary user's and may change its working directory; not so with [`Options::behind`].
///
/// # Errors
/// [`Error`] of a port, a medium or the network, before anything is served.
pub fn start(options: &Options, watch: &Arc<Watch>) -> Result<Session, Error> {
    // Ports first: media are not prepared in vain. Root is for the ports and for opening what is
    // shared; nothing is parsed, and no tool is run, before it is gone.
    Plan::of(options)?.bind()?.open()?.prepare(watch)?.serve(watch)
}

/// Where to share.
struct Plan<'o> {
    options: &'o Options,
    /// The network interface; `None` behind another network.
    interface: Option<Interface>,
    /// The address to listen on.
    listen: Ipv4Addr,
    /// The address that clients use.
    own: Ipv4Addr,
}

impl<'o> Plan<'o> {
    fn of(options: &'o Options) -> Result<Self, Error> {
        if let Some(Behind { listen, known_as }) = options.behind {
            return Ok(Self { options, interface: None, listen, own: known_as });
        }
        let interface = net::choose(options.interface.as_deref())?;
        let own = interface.address;
        if let Some((first, last)) = options.range
            && !(inside(first, own, interface.prefix) && inside(last, own, interface.prefix))
        {
            return Err(Error::Interface {
                why: format!(
                    "--range {first}-{last} is not inside {}'s network {own}/{}: clients could not \
                     reach this machine",
                    interface.name, interface.prefix
                ),
            });
        }
        Ok(Self { options, interface: Some(interface), listen: own, own })
    }

    fn bind(self) -> Result<Bound<'o>, Error> {
        let (mut tftp, mut dhcp, mut search) = (None, None, None);
        if let Some(interface @ Interface { name, address, .. }) = &self.interface {
            tftp = Some(net::udp(SocketAddrV4::new(*address, 69), "TFTP", Some(name))?);
            if self.options.dhcp == DhcpMode::Auto {
                search = Some(Probe::new(interface)?);
            }
            if self.options.dhcp != DhcpMode::Off {
                let dhcp_port = net::broadcast_socket(name, 67, "DHCP")?;
                dhcp = Some([dhcp_port, net::broadcast_socket(name, PXE_PORT, "PXE")?]);
            }
        }
        let device = self.interface.as_ref().map(|interface| interface.name.as_str());
        // What this machine sends to its own address counts as arriving on that device, too.
        let tcp = |port, service| net::tcp(SocketAddrV4::new(self.listen, port), service, device);
        let (nfs, http, nbd) =
            (tcp(2049, "NFS")?, tcp(8080, "HTTP")?, tcp(netboot::nbd::wire::PORT, "NBD")?);
        // For initramfs that ask a portmapper; a sandbox or rpcbind may be in the way.
        let portmap = self.interface.as_ref().map(|interface| {
            let at = SocketAddrV4::new(interface.address, PORTMAP_PORT);
            net::tcp_only(at, "portmapper", device).map_err(|e| e.to_string())
        });
        let at = |listener: &TcpListener| {
            let at = listener.local_addr().map_err(Error::system("read a socket's address"));
            at.map(|at| SocketAddrV4::new(self.own, at.port()))
        };
        let at = At { nfs: at(&nfs)?, http: at(&http)?, nbd: at(&nbd)? };
        Ok(Bound {
            plan: self,
            sockets: Sockets { tftp, dhcp, search, nfs, portmap, http, nbd },
            at,
        })
    }
}

/// Bound sockets; DHCP and TFTP only on a network of our own.
struct Sockets {
    tftp: Option<UdpSocket>,
    dhcp: Option<[UdpSocket; 2]>,
    /// For the search for another DHCP server.
    search: Option<Probe>,
    nfs: TcpListener,
    /// The portmapper's port; why it could not be had.
    portmap: Option<Result<TcpListener, String>>,
    http: TcpListener,
    nbd: TcpListener,
}

/// Where clients reach the services.
struct At {
    nfs: SocketAddrV4,
    http: SocketAddrV4,
    nbd: SocketAddrV4,
}

/// Every port is bound.
struct Bound<'o> {
    plan: Plan<'o>,
    sockets: Sockets,
    at: At,
}

impl<'o> Bound<'o> {
    /// Opens what is shared, and gives up root.
    fn open(self) -> Result<Opened<'o>, Error> {
        let Plan { options, interface, .. } = &self.plan;
        // Behind another network no port needs root, and the caller may have other work.
        let confined = options.behind.is_none();
        // Files of a directory may stay open.
        budget::raise_limit();
        let sources = Sources::open(options, confined && geteuid().is_root())?;
        let room = options.room.as_ref().map(|room| Directory::open(&room.directory));
        let room = room.transpose()?;
        let ipxe = options.ipxe.as_deref().map(ipxe::open).transpose()?;
        let mut state = options.state.clone();
        if confined {
            let leases =
                interface.is_some() && matches!(options.dhcp, DhcpMode::Auto | DhcpMode::Full);
            let keeps = (options.keep_settings || leases).then_some(state.as_path());
            state = privileges::drop_root(keeps)?.unwrap_or(state);
        }
        Ok(Opened { bound: self, sources, room, ipxe, state, confined })
    }
}

/// Everything that is shared is open, and the process is an ordinary user's.
struct Opened<'o> {
    bound: Bound<'o>,
    sources: Sources,
    /// The directory of [`Options::room`].
    room: Option<Directory>,
    /// The archive of [`Options::ipxe`].
    ipxe: Option<Vec<u8>>,
    /// Where leases and settings are kept, as this process reaches it.
    state: PathBuf,
    /// The process is for this session alone.
    confined: bool,
}

impl<'o> Opened<'o> {
    fn prepare(mut self, watch: &Watch) -> Result<Prepared<'o>, Error> {
        let options = self.bound.plan.options;
        // The search for a DHCP server and the preparation both take seconds: at the same time.
        let search = self.bound.sockets.search.take();
        let search: JoinHandle<Result<_, Error>> = thread::spawn(move || {
            let found = search.as_ref().map_or(Ok(probe::Found::default()), Probe::search)?;
            Ok((search, found))
        });
        let mut files = Files::default();
        let (server, port) = (self.bound.plan.own, Some(self.bound.at.nfs.port()));
        let http = Some(self.bound.at.http);
        let above = Place { server, port, http, path: String::new() };
        let Media { mut menu, exports, images } =
            media::read(self.sources, options, &above, &mut files, watch)?;
        if let (Some(room), Some(directory)) = (&options.room, self.room) {
            files.add_directory(directory);
            menu = room.menu.clone();
        }
        let store = match options.keep_settings {
            true => Some(Store::below(&self.state, options.settings_limit)?.for_new_clients()?),
            false => None,
        };
        let at = &self.bound.at;
        if store.is_some() {
            let word = format!(" bw.persist=nbd:{}/{OWN_DISK}{{mac}}", at.nbd);
            menu.entries.iter_mut().for_each(|entry| entry.append.push_str(&word));
        }
        let added = loaders::add_menu(&menu, &mut files);
        added
            .map_err(|e| Error::Medium { why: format!("the boot menu cannot be written: {e}") })?;
        let first = match self.bound.plan.interface {
            Some(_) => None,
            None => loaders::add_lpxelinux(&mut files),
        };
        let first = format!("http://{}{}", at.http, first.unwrap_or(SCRIPT));
        let (probe, other) = search.join().unwrap_or(Ok((None, probe::Found::default())))?;
        for boots in &other.boots {
            watch.tell(&Event::Warning(boots.to_string()));
        }
        let ipxe = match &self.ipxe {
            Some(archive) => {
                for text in ipxe::refused(&menu, &files) {
                    watch.tell(&Event::Warning(text));
                }
                ipxe::add(archive, at.http, SCRIPT, &mut files)?
            }
            None => Vec::new(),
        };
        let found = (probe.as_ref(), other.sign);
        let dhcp = self.bound.dhcp(&self.state, found, &ipxe, &mut files, watch)?;
        let Self { bound, state, confined, .. } = self;
        let dhcp = dhcp.map(|server| (server, probe));
        Ok(Prepared { bound, files, menu, exports, images, store, dhcp, first, state, confined })
    }
}

impl Bound<'_> {
    /// The DHCP server with its boot loaders. `None` behind another network, and with `--dhcp
    /// off`.
    fn dhcp(
        &self,
        state: &Path,
        (probe, other): (Option<&Probe>, Option<Sign>),
        ipxe: &[(Arch, String)],
        files: &mut Files,
        watch: &Watch,
    ) -> Result<Option<Dhcp>, Error> {
        let Plan { options, interface, own, .. } = &self.plan;
        let (Some(interface), own) = (interface, *own) else { return Ok(None) };
        let mode = dhcp_mode(options.dhcp, other);
        let proxy = mode == DhcpMode::Proxy;
        let may_change = options.dhcp == DhcpMode::Auto && !proxy;
        let wanted = loaders::Wanted { http: Some(self.at.http), tftp: own, proxy, may_change };
        let mut found = loaders::add(files, &wanted);
        for (arch, path) in ipxe {
            for loaders in [&mut found.loaders, &mut found.beside] {
                loaders.retain(|(other, _)| other != arch);
                loaders.push((*arch, path.clone()));
            }
        }
        for text in &found.missing {
            watch.tell(&Event::Warning(text.clone()));
        }
        let loaders = Loaders {
            files: found.loaders,
            script: (!options.no_ipxe).then(|| SCRIPT.to_owned()),
            http: self.at.http,
            tftp: own,
        };
        let full = match (mode, other) {
            (DhcpMode::Off, _) => {
                let text = format!("DHCP is yours: next-server {own}, file pxelinux.0");
                watch.ready("network", text);
                return Ok(None);
            }
            (DhcpMode::Full, _) => {
                let keep = leases_file(state, interface);
                Some(addresses(options, interface, &keep, watch)?)
            }
            (_, Some(sign)) => {
                watch.ready("network", beside(sign, interface));
                None
            }
            (_, None) => None,
        };
        let own_questions = probe.filter(|_| full.is_some()).map(Probe::macs);
        let cautious = own_questions.map(|own| Cautious::new(own, found.beside));
        Ok(Some(Dhcp { own, loaders, full, cautious }))
    }
}

/// Says which DHCP server `share` stands beside.
fn beside(sign: Sign, interface: &Interface) -> String {
    let Interface { name: on, address, .. } = interface;
    let program = match sign {
        Sign::Leases(server) | Sign::Informs(server) => probe::holder(server, *address),
        Sign::OwnLease(_) | Sign::Port(_) => None,
    };
    let program = program.map_or_else(String::new, |name| format!(", {name} on this machine"));
    let otherwise = match sign.is_sure() {
        true => "",
        false => "; if it leases no addresses to the clients, share with --dhcp full",
    };
    format!("{sign}{program} on {on}: proxy DHCP beside it{otherwise}")
}

/// The DHCP mode, once the search for another server is over.
fn dhcp_mode(asked: DhcpMode, other: Option<Sign>) -> DhcpMode {
    match (asked, other) {
        (DhcpMode::Auto, Some(_)) => DhcpMode::Proxy,
        (DhcpMode::Auto, None) => DhcpMode::Full,
        (asked, _) => asked,
    }
}

fn leases_file(state: &Path, interface: &Interface) -> PathBuf {
    state.join(format!("leases-{}", interface.name))
}

/// Everything that is served is in memory or open by now.
struct Prepared<'o> {
    bound: Bound<'o>,
    files: Files,
    menu: Menu,
    exports: Vec<Export>,
    images: Vec<Image>,
    store: Option<Store>,
    /// With the search, if there was one.
    dhcp: Option<(Dhcp, Option<Probe>)>,
    first: String,
    state: PathBuf,
    confined: bool,
}

impl Prepared<'_> {
    fn serve(self, watch: &Arc<Watch>) -> Result<Session, Error> {
        let Self { bound, files, menu, exports, images, store, dhcp, first, state, confined } =
            self;
        let Bound { plan: Plan { options, interface, listen, own }, sockets, at } = bound;
        let full = dhcp.as_ref().is_some_and(|(server, _)| server.full.is_some());
        let leases = interface.as_ref().filter(|_| full).map(|i| leases_file(&state, i));
        // Before the list of system calls.
        let budget = Budget::of_process();
        if confined && let Err(why) = privileges::confine() {
            let text = format!("serving without a list of allowed system calls: {why}");
            watch.tell(&Event::Warning(text));
        }

        if let (Some((server, probe)), Some(sockets)) = (dhcp, sockets.dhcp) {
            serve::dhcp::start(server, sockets, watch, leases, probe)?;
        }
        let files = Arc::new(files);
        let tftp = sockets.tftp.is_some();
        if let Some(socket) = sockets.tftp {
            serve::tftp::start(files.clone(), socket, watch.clone(), &budget)?;
        }
        let addresses = [own, *at.http.ip(), listen, Ipv4Addr::LOCALHOST];
        let hosts = addresses.iter().map(ToString::to_string).chain(net::own_names()).collect();
        let page = Page::new(watch.clone(), store.clone(), hosts)
            .map_err(Error::system("make a key for the page"))?;
        let page = Arc::new(page);
        serve::http::start(files, sockets.http, watch.clone(), Some(page.clone()), &budget)?;
        let mounts: Vec<String> = exports.iter().map(|e| format!("{own}:{}", e.path)).collect();
        let nfs = Arc::new(Nfs { exports, port: at.nfs.port() });
        if menu.entries.iter().any(|entry| media::asks_portmapper(&entry.append)) {
            match sockets.portmap {
                Some(Ok(listener)) => {
                    serve::nfs::start(nfs.clone(), listener, watch.clone(), &budget)?;
                }
                Some(Err(why)) => watch.tell(&Event::Warning(format!(
                    "{why}: an initramfs that mounts the medium itself asks there, and will not \
                     find it; stop that program, for example with: systemctl stop rpcbind.socket \
                     rpcbind"
                ))),
                None => {}
            }
        }
        serve::nfs::start(nfs, sockets.nfs, watch.clone(), &budget)?;
        serve::watch_over(watch, store.clone())?;
        let disks = Disks::new(images, store);
        let nbd = options.keep_settings || !disks.images.is_empty();
        serve::nbd::start(Arc::new(disks), sockets.nbd, watch.clone(), &budget)?;

        let place = interface.map_or_else(|| "this machine".to_owned(), |i| i.name);
        let services = services(&mounts, &at, tftp, nbd);
        watch.ready("services", format!("serving {services} on {place}"));
        for entry in menu.entries.iter().filter(|entry| !entry.kernel.is_empty()) {
            let text = format!("clients boot \"{}\": {}", entry.title, entry.append);
            watch.ready("entry", text);
        }
        let text = "ready: switch clients on and let them boot from the network";
        watch.ready("waiting", text.into());
        let page = format!("http://{}/#{}", at.http, page.key);
        let At { nfs, http, nbd } = at;
        Ok(Session { http, nfs, nbd, mounts, menu, page, first })
    }
}

/// The services and their addresses.
fn services(mounts: &[String], at: &At, tftp: bool, nbd: bool) -> String {
    let mut services = match mounts {
        [] => String::new(),
        mounts => format!("{} by NFS, ", mounts.join(", ")),
    };
    services.push_str(&format!("http://{}/", at.http));
    if tftp {
        services.push_str(&format!(", tftp://{}/", at.http.ip()));
    }
    if nbd {
        services.push_str(&format!(", nbd://{}/", at.nbd));
    }
    services
}

/// The network settings and leases of the full DHCP server.
fn addresses(
    options: &Options,
    interface: &Interface,
    keep: &Path,
    watch: &Watch,
) -> Result<(Network, Leases), Error> {
    let own = interface.address;
    let avoid: Vec<Ipv4Addr> = interface.gateway.into_iter().collect();
    let chosen = options.range.or_else(|| range(own, interface.prefix, &avoid));
    let Some((first, last)) = chosen else {
        return Err(Error::Interface {
            why: format!(
                "the network {own}/{} has no room for a range of addresses; give one with --range",
                interface.prefix
            ),
        });
    };
    let used = net::in_use(own, first, last);
    let mut leases = Leases::new(first, last, &used);
    if let Some(dir) = keep.parent() {
        std::fs::create_dir_all(dir).map_err(Error::write(dir))?;
    }
    match std::fs::read_to_string(keep) {
        Ok(text) => leases.remember(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::read(keep)(e)),
    }
    watch.ready(
        "network",
        format!(
            "{} on {}: leasing {first} to {last}{}{}",
            if options.dhcp == DhcpMode::Full { "the DHCP server" } else { "no DHCP server" },
            interface.name,
            match used.len() {
                0 => String::new(),
                n => format!(" without {n} that are in use"),
            },
            match options.dhcp {
                DhcpMode::Full => "",
                _ => " to machines that ask twice, and to none once another server speaks",
            }
        ),
    );
    let room = options.room.as_ref();
    let dns = room.map(|room| room.dns.clone()).filter(|dns| !dns.is_empty());
    let network = Network {
        prefix: interface.prefix,
        router: room.and_then(|room| room.router).or(interface.gateway),
        dns: dns.unwrap_or_else(net::name_servers),
        lease: 4 * 3600,
    };
    Ok((network, leases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Room;
    use cpio_builder::menu::Entry;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::{Mutex, PoisonError};

    /// Behind another network, at addresses that need neither root nor a network.
    fn behind(listen: Ipv4Addr) -> Options {
        let behind = Some(Behind { listen, known_as: Ipv4Addr::new(10, 0, 2, 2) });
        Options { behind, ..Options::default() }
    }

    fn medium(dir: &Path) -> PathBuf {
        let medium = dir.join("debian");
        std::fs::create_dir_all(medium.join("live")).unwrap();
        for (path, text) in [("vmlinuz", "k"), ("initrd.img", "i"), ("filesystem.squashfs", "s")] {
            std::fs::write(medium.join("live").join(path), text).unwrap();
        }
        medium
    }

    fn heard() -> (Arc<Watch>, Arc<Mutex<Vec<String>>>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let copy = events.clone();
        let hear = move |event: &Event| {
            copy.lock().unwrap_or_else(PoisonError::into_inner).push(event.to_string());
        };
        (Arc::new(Watch::new(hear)), events)
    }

    fn get(at: SocketAddrV4, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, at.port())).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_medium_is_served_behind_another_network() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = behind(Ipv4Addr::LOCALHOST);
        options.media.push(medium(dir.path()));
        options.keep_settings = true;
        options.state = dir.path().join("state");
        options.append = "console=ttyS0".into();
        let (watch, events) = heard();
        let session = start(&options, &watch).unwrap();
        assert_eq!(session.mounts, ["10.0.2.2:/debian"]);
        let [entry] = session.menu.entries.as_slice() else { panic!("{:?}", session.menu) };
        for word in [
            "nfsroot=10.0.2.2:/debian".to_owned(),
            format!("port={}", session.nfs.port()),
            "console=ttyS0".into(),
            format!("bw.persist=nbd:{}/keep-{{mac}}", session.nbd),
        ] {
            assert!(entry.append.contains(&word), "{word}: {}", entry.append);
        }
        assert!(options.state.join("settings").is_dir());
        assert!(session.first.starts_with(&format!("http://{}/", session.http)));
        let script = get(session.http, "/boot.ipxe");
        assert!(script.contains(" 200 ") && script.contains("/boot/debian/0/vmlinuz"), "{script}");
        assert!(get(session.http, "/boot/debian/0/vmlinuz").ends_with("\r\n\r\nk"));
        let (_, token) = session.page.split_once('#').unwrap();
        assert!(!token.is_empty() && get(session.http, "/state.json").contains("\"keeps\":true"));
        let events = events.lock().unwrap().join("\n");
        let services = format!(
            "serving 10.0.2.2:/debian by NFS, http://{}/, nbd://{}/ on this machine",
            session.http, session.nbd
        );
        assert!(events.contains(&services), "{events}");
        assert!(events.contains("clients boot \"debian\": "), "{events}");
        assert!(events.contains("ready: switch clients on and let them boot from the network"));
    }

    #[test]
    fn one_bad_medium_of_several_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = behind(Ipv4Addr::LOCALHOST);
        std::fs::write(dir.path().join("bad.iso"), [7; 70_000]).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        for name in ["bad.iso", "absent.iso", "empty"] {
            options.media.push(dir.path().join(name));
        }
        let (watch, _) = heard();
        assert!(start(&options, &watch).is_err());
        options.media.insert(1, medium(dir.path()));
        let (watch, events) = heard();
        let session = start(&options, &watch).unwrap();
        assert_eq!(session.mounts, ["10.0.2.2:/debian"]);
        let events = events.lock().unwrap().join("\n");
        for name in ["bad.iso", "absent.iso", "empty"] {
            let told = events.lines().any(|line| {
                line.starts_with("warning: a medium is left out: ") && line.contains(name)
            });
            assert!(told, "{name}: {events}");
        }
    }

    #[test]
    fn a_room_brings_its_own_menu() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), "the kernel").unwrap();
        let entry = Entry {
            id: "e0".into(),
            title: "Clone".into(),
            kernel: "/kernel".into(),
            initrd: Vec::new(),
            append: "bw.clone=udp".into(),
        };
        let menu = Menu { title: "Room".into(), entries: vec![entry], ..Menu::default() };
        let directory = dir.path().to_owned();
        let room = Some(Room { directory, menu, ..Room::default() });
        let options = Options { room, ..behind(Ipv4Addr::LOCALHOST) };
        let (watch, events) = heard();
        let session = start(&options, &watch).unwrap();
        assert_eq!(session.menu.entries[0].append, "bw.clone=udp");
        assert!(session.mounts.is_empty());
        assert!(get(session.http, "/kernel").ends_with("the kernel"));
        let events = events.lock().unwrap().join("\n");
        assert!(events.contains(&format!("serving http://{}/ on", session.http)), "{events}");
    }

    #[test]
    fn ports_come_before_media() {
        // An address for documentation (RFC 5737).
        let mut options = behind(Ipv4Addr::new(192, 0, 2, 1));
        options.media.push("/nothing/here.iso".into());
        let error = start(&options, &heard().0).unwrap_err();
        assert!(matches!(error, Error::Port { service: "NFS", .. }), "{error}");
        options.behind = behind(Ipv4Addr::LOCALHOST).behind;
        let error = start(&options, &heard().0).unwrap_err().to_string();
        assert!(error.contains("/nothing/here.iso"), "{error}");
    }

    #[test]
    fn another_dhcp_server_decides_only_when_nothing_was_asked() {
        use DhcpMode::{Auto, Full, Off, Proxy};
        let other = Some(Sign::Leases(Ipv4Addr::new(10, 0, 0, 1)));
        for (asked, other, wanted) in [
            (Auto, other, Proxy),
            (Auto, None, Full),
            (Full, other, Full),
            (Proxy, None, Proxy),
            (Off, None, Off),
            (Off, other, Off),
        ] {
            assert_eq!(dhcp_mode(asked, other), wanted, "{asked:?} {other:?}");
        }
    }

    #[test]
    fn the_services_in_one_line() {
        let at = |port| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port);
        let at = At { nfs: at(2049), http: at(8080), nbd: at(10809) };
        let mounts = ["10.0.0.1:/a".to_owned(), "10.0.0.1:/b".to_owned()];
        for (mounts, tftp, nbd, wanted) in [
            (&[][..], false, false, "http://10.0.0.1:8080/"),
            (
                &mounts[..1],
                true,
                false,
                "10.0.0.1:/a by NFS, http://10.0.0.1:8080/, tftp://10.0.0.1/",
            ),
            (
                &mounts[..],
                true,
                true,
                "10.0.0.1:/a, 10.0.0.1:/b by NFS, http://10.0.0.1:8080/, tftp://10.0.0.1/, \
                 nbd://10.0.0.1:10809/",
            ),
        ] {
            assert_eq!(services(mounts, &at, tftp, nbd), wanted);
        }
    }
}
