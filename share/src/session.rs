//! Sharing from the beginning to the end: media in, services up, and what a person
//! has to know in between.

use crate::archive::{self, Cursor, MAX_INITRD};
use crate::dhcp::client::Loaders;
use crate::dhcp::lease::{Leases, range};
use crate::dhcp::server::{Network, PXE_PORT, Server as Dhcp};
use crate::disk::access::{Disks, OWN_DISK};
use crate::disk::store::{Image, Store};
use crate::error::Error;
use crate::event::{Event, Stage, Watch};
use crate::files::{File, Files};
use crate::medium::{self, Medium, Place};
use crate::net::{self, Interface};
use crate::nfs::{Export, Server as Nfs};
use crate::page::Page;
use crate::{loaders, nbd, privileges, serve};
use cpio_builder::menu::{Entry, Menu};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

/// What is done about DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhcpMode {
    /// Look whether somebody gives addresses, and do the other thing.
    #[default]
    Auto,
    /// Tell machines what to boot and give no addresses.
    Proxy,
    /// Give addresses, too.
    Full,
    /// Nothing: another server tells machines what to boot.
    Off,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Images, drives and directories.
    pub media: Vec<PathBuf>,
    /// The interface to share on.
    pub interface: Option<String>,
    /// What is done about DHCP.
    pub dhcp: DhcpMode,
    /// Addresses to give, ends included.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Kernel to boot instead of the medium's.
    pub kernel: Option<PathBuf>,
    /// Initramfs instead of the medium's.
    pub initrd: Option<PathBuf>,
    /// Words for every kernel.
    pub append: String,
    /// Our `/init`; without one, the media's own has to do it.
    pub init: Option<Vec<u8>>,
    /// Firmware that is iPXE itself is given a boot loader, too.
    pub no_ipxe: bool,
    /// Where leases are kept.
    pub state: PathBuf,
    /// Every client has a disk of its own here, below `state`, where what it changes is
    /// kept.
    pub keep_settings: bool,
    /// Where clients find us when there is another machine in between.
    pub behind: Option<Behind>,
    /// What boots instead of media.
    pub room: Option<Room>,
}

/// A menu of what is in a directory, for machines that boot something else than media.
/// What is in it is served as it is when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// The directory.
    pub directory: PathBuf,
    /// What boots; paths are those of HTTP and TFTP.
    pub menu: Menu,
    /// What machines with an address of ours are told: the way out of the network; this
    /// computer's when there is none.
    pub router: Option<Ipv4Addr>,
    /// And who knows names; this computer's when there are none.
    pub dns: Vec<Ipv4Addr>,
}

/// Sharing behind a network that gives addresses and names the first file itself, as
/// an emulator's own network does: NFS and HTTP on any free ports, nothing else, and no
/// need to be root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The address that is listened on.
    pub listen: Ipv4Addr,
    /// The address under which clients know it.
    pub known_as: Ipv4Addr,
}

/// Media being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// HTTP, as clients reach it.
    pub http: SocketAddrV4,
    /// NFS, as clients reach it.
    pub nfs: SocketAddrV4,
    /// NBD, as clients reach it.
    pub nbd: SocketAddrV4,
    /// The page that shows what goes on, with the key that lets it change something.
    pub page: String,
    /// What clients mount, the first medium's first.
    pub mounts: Vec<String>,
    /// What boots, with its command lines; paths are those of HTTP and TFTP.
    pub menu: Menu,
    /// The URL of the first file that a machine has to be told of, when another network
    /// tells it: pxelinux, or where that is missing the menu for iPXE.
    pub first: String,
}

/// Where the menu for iPXE is.
const SCRIPT: &str = "/boot.ipxe";

/// Where a medium is served, and what it boots.
struct Prepared {
    medium: Medium,
    menu: Menu,
}

/// Shares until the process is told to end (SIGINT or SIGTERM); `began` hears when
/// everything is up.
///
/// # Errors
/// [`Error`], before anything is served.
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

/// Tells what there was, at the end.
pub fn stopped(watch: &Watch) {
    let clients = watch.clients();
    let bytes = clients.values().map(|client| client.bytes).sum();
    watch.tell(&Event::Stopped { clients: clients.len(), bytes });
}

/// The end that the system or somebody at the terminal asks for: SIGINT, SIGTERM or
/// SIGHUP.
#[derive(Debug)]
pub struct Ending(SignalFd);

impl Ending {
    /// Expects it from now on. To be called before [`start`]: its threads inherit that
    /// these signals do not kill.
    ///
    /// # Errors
    /// The system's.
    pub fn expect() -> Result<Self, Error> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        let doing = |e: nix::errno::Errno| Error::system("wait for signals")(e.into());
        signals.thread_block().map_err(doing)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&signals, flags).map(Self).map_err(doing)
    }

    /// Whether it came.
    pub fn came(&self) -> bool {
        !matches!(self.0.read_signal(), Ok(None))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self) -> Result<(), Error> {
        let mut this = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        while poll(&mut this, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        Ok(())
    }
}

/// The sockets of everything but NFS and HTTP.
struct Site {
    interface: Interface,
    tftp: UdpSocket,
    dhcp: Option<[UdpSocket; 2]>,
}

impl Site {
    fn bind(interface: Interface, mode: DhcpMode) -> Result<Self, Error> {
        let tftp = net::udp(SocketAddrV4::new(interface.address, 69), "TFTP")?;
        let dhcp = match mode {
            DhcpMode::Off => None,
            _ => Some([
                net::broadcast_socket(&interface.name, 67, "DHCP")?,
                net::broadcast_socket(&interface.name, PXE_PORT, "PXE")?,
            ]),
        };
        Ok(Self { interface, tftp, dhcp })
    }
}

/// Begins to share, in threads that live as long as the process. A process of root's is
/// an ordinary user's afterwards, and may have another working directory; not so with
/// [`Options::behind`].
///
/// # Errors
/// [`Error`], before anything is served.
pub fn start(options: &Options, watch: &Arc<Watch>) -> Result<Session, Error> {
    // Ports first: what cannot be served need not be prepared.
    let (site, listen, own) = match options.behind {
        Some(Behind { listen, known_as }) => (None, listen, known_as),
        None => {
            let interface = net::choose(options.interface.as_deref())?;
            let own = interface.address;
            (Some(Site::bind(interface, options.dhcp)?), own, own)
        }
    };
    let nfs_listener = net::tcp(SocketAddrV4::new(listen, 2049), "NFS", true)?;
    let http_listener = net::tcp(SocketAddrV4::new(listen, 8080), "HTTP", true)?;
    let nbd_listener = net::tcp(SocketAddrV4::new(listen, nbd::PORT), "NBD", true)?;
    let port = |listener: &std::net::TcpListener| {
        listener.local_addr().map(|at| at.port()).map_err(Error::system("read a socket's address"))
    };
    let (nfs_port, http_port) = (port(&nfs_listener)?, port(&http_listener)?);
    let nbd_at = SocketAddrV4::new(own, port(&nbd_listener)?);
    let http_at = SocketAddrV4::new(own, http_port);

    // It waits for seconds, and preparing takes seconds: both at once.
    let search = {
        let interface = site.as_ref().map(|site| site.interface.clone());
        let interface = interface.filter(|_| options.dhcp == DhcpMode::Auto);
        std::thread::spawn(move || interface.map_or(Ok(None), |i| net::find_dhcp(&i)))
    };

    let mut files = Files::default();
    let place = (own, Some(nfs_port), String::new());
    let Shared { mut menu, exports, images } = media(options, &place, &mut files, watch)?;
    if let Some(room) = &options.room {
        files.add_directory(&room.directory)?;
        menu = room.menu.clone();
    }
    let mut store = match options.keep_settings {
        true => Some(Store::below(&options.state)?),
        false => None,
    };
    if store.is_some() {
        for entry in &mut menu.entries {
            entry.append.push_str(&format!(" bw.persist=nbd:{nbd_at}/{OWN_DISK}{{mac}}"));
        }
    }
    let add_menu = loaders::add_menu(&menu, &mut files);
    add_menu.map_err(|e| Error::Medium { why: format!("the boot menu cannot be written: {e}") })?;

    let first = match site {
        Some(_) => None,
        None => loaders::add_lpxelinux(&mut files),
    };
    let first = format!("http://{http_at}{}", first.unwrap_or(SCRIPT));
    let mut place = "this machine".to_owned();
    let (mut tftp, mut dhcp) = (None, None);
    let other = search.join().unwrap_or(Ok(None))?;
    if let Some(site) = site {
        let proxy = match options.dhcp {
            DhcpMode::Auto => other.is_some(),
            mode => mode == DhcpMode::Proxy,
        };
        let found =
            loaders::add(&mut files, &loaders::Wanted { http: Some(http_at), tftp: own, proxy });
        for text in &found.missing {
            watch.tell(&Event::Warning(text.clone()));
        }
        let loaders = Loaders {
            files: found.loaders,
            script: (!options.no_ipxe).then(|| SCRIPT.to_owned()),
            http: http_at,
            tftp: own,
        };
        if let Some(sockets) = site.dhcp {
            let keep = options.state.join(format!("leases-{}", site.interface.name));
            let full = addresses(options, &site.interface, other, &keep, watch)?;
            let keep = full.is_some().then_some(keep);
            dhcp = Some((Dhcp { own, loaders, full }, sockets, keep));
        } else {
            ready(watch, "network", format!("DHCP is yours: next-server {own}, file pxelinux.0"));
        }
        place = site.interface.name;
        tftp = Some(site.tftp);
    }
    let keeps = store.is_some() || dhcp.as_ref().is_some_and(|(.., keep)| keep.is_some());
    let directories = options.media.iter().any(|path| path.is_dir());
    // Behind another network no port needs root, and the process may have more to do.
    let inside = options.behind.is_none()
        && privileges::drop_root(keeps.then_some(options.state.as_path()), directories)?;
    if inside {
        // From where the process is now.
        store = store.and_then(|store| Some(Store { dir: store.dir.file_name()?.into() }));
    }

    let files = Arc::new(files);
    if let Some((server, sockets, keep)) = dhcp {
        let keep = keep.and_then(|keep| Some(if inside { keep.file_name()?.into() } else { keep }));
        serve::dhcp::start(server, sockets, watch, keep)?;
    }
    let mounts: Vec<String> = exports.iter().map(|e| format!("{own}:{}", e.path)).collect();
    let mut services = match mounts.as_slice() {
        [] => String::new(),
        mounts => format!("{} by NFS, ", mounts.join(", ")),
    };
    services.push_str(&format!("http://{http_at}/"));
    if let Some(socket) = tftp {
        serve::tftp::start(files.clone(), socket, watch.clone())?;
        services.push_str(&format!(", tftp://{own}/"));
    }
    let page = Page::new(watch.clone(), store.clone())
        .map_err(Error::system("make a key for the page"))?;
    let page = Arc::new(page);
    serve::http::start(files, http_listener, watch.clone(), Some(page.clone()))?;
    serve::nfs::start(Arc::new(Nfs { exports, port: nfs_port }), nfs_listener, watch.clone())?;
    let disks = Disks::new(images, store);
    if options.keep_settings || !disks.images.is_empty() {
        services.push_str(&format!(", nbd://{nbd_at}/"));
    }
    serve::nbd::start(Arc::new(disks), nbd_listener, watch.clone())?;
    ready(watch, "services", format!("serving {services} on {place}"));
    for entry in menu.entries.iter().filter(|entry| !entry.kernel.is_empty()) {
        ready(watch, "entry", format!("clients boot \"{}\": {}", entry.title, entry.append));
    }
    ready(watch, "waiting", "ready: switch clients on and let them boot from the network".into());
    let nfs = SocketAddrV4::new(own, nfs_port);
    let page = format!("http://{http_at}/#{}", page.token);
    Ok(Session { http: http_at, nfs, nbd: nbd_at, mounts, menu, page, first })
}

/// What is made of the media.
#[derive(Debug)]
pub struct Shared {
    /// What boots.
    pub menu: Menu,
    /// What is mounted.
    pub exports: Vec<Export>,
    /// What can be had as a disk.
    pub images: Vec<Image>,
}

/// Opens every medium: what boots, and what is mounted. `server` is the address and the
/// port of NFS, unless a portmapper knows it, and what is before the media's paths.
///
/// # Errors
/// A medium cannot be read, or has nothing that boots over a network.
pub fn media(
    options: &Options,
    server: &(Ipv4Addr, Option<u16>, String),
    files: &mut Files,
    watch: &Watch,
) -> Result<Shared, Error> {
    let mut images = Vec::new();
    let mut exports: Vec<Export> = Vec::new();
    let mut entries = Vec::new();
    let several = options.media.len() > 1;
    let mut title = String::new();
    for path in &options.media {
        let mut medium = Medium::open(path)?;
        while exports.iter().any(|e| e.path == format!("/{}", medium.name)) {
            medium.name.push_str("-2");
        }
        let mut prepared = prepare(medium, options, server, files, watch)?;
        let medium = &prepared.medium;
        let export = Export { path: format!("/{}", medium.name), tree: medium.tree.clone() };
        files.add_tree(export.clone());
        if let Some((image, length)) = &medium.image {
            let file = File::image(image.clone(), *length, medium.tree.identity);
            files.add(&format!("/{}.iso", medium.name), file);
            images.push(Image {
                name: medium.name.clone(),
                image: image.clone(),
                size: *length,
                identity: medium.tree.identity,
            });
        }
        if several {
            for entry in &mut prepared.menu.entries {
                entry.title = format!("{}: {}", medium.title, entry.title);
            }
        }
        title.clone_from(&medium.title);
        entries.append(&mut prepared.menu.entries);
        exports.push(export);
    }
    for (n, entry) in entries.iter_mut().enumerate() {
        // Labels of several media may be the same, and one may have a space.
        entry.id = format!("e{n}");
    }
    let menu = Menu {
        title: if several { "Bellwether".into() } else { title },
        // One medium starts by itself, with a moment to reach for a key.
        timeout: if several { None } else { Some(3) },
        default: 0,
        entries,
        per_machine: false,
    };
    Ok(Shared { menu, exports, images })
}

fn ready(watch: &Watch, what: &'static str, text: String) {
    watch.tell(&Event::Ready { what, text });
}

/// Makes a medium's entries ones that boot over the network, and puts what they load
/// into the files that are served.
fn prepare(
    medium: Medium,
    options: &Options,
    (server, port, above): &(Ipv4Addr, Option<u16>, String),
    files: &mut Files,
    watch: &Watch,
) -> Result<Prepared, Error> {
    for text in &medium.warnings {
        watch.tell(&Event::Warning(text.clone()));
    }
    let (base, name) = (format!("/boot/{}", medium.name), &medium.name);
    let mut menu = medium.menu.clone();
    if let (Some(kernel), Some(initrd)) = (&options.kernel, &options.initrd) {
        let read =
            |path: &PathBuf| std::fs::read(path).map(File::memory).map_err(Error::read(path));
        files.add(&format!("{base}/vmlinuz"), read(kernel)?.at(Stage::Kernel));
        files.add(&format!("{base}/initrd"), read(initrd)?.at(Stage::Initrd));
        let append = menu.entries.get(menu.default).map(|e| e.append.clone()).unwrap_or_default();
        let entry = Entry {
            id: "live".into(),
            title: medium.title.clone(),
            kernel: String::new(),
            initrd: vec![String::new()],
            append,
        };
        menu = Menu { entries: vec![entry], ..Menu::default() };
    }
    if menu.entries.is_empty() {
        return Err(Error::Medium {
            why: format!(
                "{name} has no boot menu that starts a Linux kernel and no kernel in a usual \
                 place; give one with --kernel and --initrd"
            ),
        });
    }
    let place = Place { server: *server, port: *port, path: format!("{above}/{name}") };
    let squashfs = medium.squashfs();
    // Entries with the same initramfs share its archive.
    let mut archives: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
    let mut kept = Vec::new();
    for (n, mut entry) in menu.entries.into_iter().enumerate() {
        entry.append = medium::line(medium.layout, &entry.append, &place, &options.append);
        let plan = cmdline::parse(&entry.append, &cmdline::Context::default());
        if !plan.can_work() {
            watch.tell(&Event::Warning(format!(
                "entry \"{}\" would fail and is left out: {}",
                entry.title,
                plan.warnings_text().replace('\n', "; ")
            )));
            continue;
        }
        let given = entry.kernel.is_empty();
        let sources = entry.initrd.clone();
        if given {
            entry.kernel = format!("{base}/vmlinuz");
            entry.initrd = vec![format!("{base}/initrd")];
        } else {
            let mut publish = |path: &str, to: String, stage| -> Option<String> {
                files.add(&to, File::in_tree(&medium.tree, path)?.at(stage));
                Some(to)
            };
            let kernel = publish(&entry.kernel, format!("{base}/{n}/vmlinuz"), Stage::Kernel);
            let initrd: Option<Vec<String>> = (0..)
                .zip(&sources)
                .map(|(m, path)| publish(path, format!("{base}/{n}/initrd{m}"), Stage::Initrd))
                .collect();
            let (Some(kernel), Some(initrd)) = (kernel, initrd) else { continue };
            (entry.kernel, entry.initrd) = (kernel, initrd);
        }
        if let Some(init) = &options.init {
            let archive = match archives.get(&sources) {
                Some(known) => known.clone(),
                None => {
                    let to = format!("{base}/bellwether{}.img", archives.len());
                    let mut initrd = open_initrd(&medium, options, given, &sources)?;
                    let made = archive::make(&medium.tree, &mut initrd, &squashfs, init)?;
                    tell_archive(watch, &made);
                    files.add(&to, File::memory(made.bytes));
                    archives.insert(sources, Some(to.clone()));
                    Some(to)
                }
            };
            entry.initrd.extend(archive);
        }
        kept.push(entry);
    }
    if kept.is_empty() {
        return Err(Error::Medium { why: format!("no entry of {name} can boot over the network") });
    }
    let default = menu.default.min(kept.len().saturating_sub(1));
    // The default first: it is the one that starts.
    let first = kept.remove(default);
    kept.insert(0, first);
    ready(
        watch,
        "medium",
        format!(
            "{name}: \"{}\", {}, {} files, {} boot {}",
            medium.title,
            medium.layout,
            medium.tree.len(),
            kept.len(),
            if kept.len() == 1 { "entry" } else { "entries" }
        ),
    );
    Ok(Prepared { menu: Menu { entries: kept, ..Menu::default() }, medium })
}

/// An entry's initramfs files behind each other.
fn open_initrd(
    medium: &Medium,
    options: &Options,
    given: bool,
    sources: &[String],
) -> Result<Box<dyn BufRead + Send>, Error> {
    if let (true, Some(path)) = (given, &options.initrd) {
        let file = std::fs::File::open(path).map_err(Error::read(path))?;
        return Ok(Box::new(BufReader::new(file)));
    }
    let mut all: Box<dyn BufRead + Send> = Box::new(io::empty());
    for path in sources {
        let Some((at, size)) = medium.tree.file(path) else { continue };
        if size > MAX_INITRD {
            return Err(Error::read(path)(io::ErrorKind::FileTooLarge.into()));
        }
        let file = BufReader::with_capacity(128 << 10, Cursor::new(medium.tree.clone(), at));
        // To four bytes, as boot loaders do it.
        let padding: &'static [u8] = match size % 4 {
            0 => &[],
            1 => &[0; 3],
            2 => &[0; 2],
            _ => &[0],
        };
        all = Box::new(all.chain(file).chain(padding));
    }
    Ok(all)
}

fn tell_archive(watch: &Watch, made: &archive::Made) {
    let size = made.bytes.len() / 1000;
    ready(
        watch,
        "archive",
        format!(
            "kernel {}: {} modules in its initramfs, {} added from the medium; {size} kB behind it",
            if made.release.is_empty() { "without modules" } else { &made.release },
            made.there,
            made.added
        ),
    );
    if !made.lacking.is_empty() {
        watch.tell(&Event::Warning(format!(
            "the kernel lacks {} and has it neither in its initramfs nor on the medium, unless it \
             is built in: clients may not find their root",
            made.lacking.join(", ")
        )));
    }
}

/// Whether addresses are given, and which.
fn addresses(
    options: &Options,
    interface: &Interface,
    other: Option<Ipv4Addr>,
    keep: &std::path::Path,
    watch: &Watch,
) -> Result<Option<(Network, Leases)>, Error> {
    let own = interface.address;
    let mode = match options.dhcp {
        DhcpMode::Auto => match other {
            Some(other) => {
                ready(
                    watch,
                    "network",
                    format!(
                        "{other} gives addresses on {}: beside it (proxy DHCP)",
                        interface.name
                    ),
                );
                DhcpMode::Proxy
            }
            None => DhcpMode::Full,
        },
        mode => mode,
    };
    if mode != DhcpMode::Full {
        return Ok(None);
    }
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
    let used = net::in_use(interface, first, last);
    let mut leases = Leases::new(first, last, &used);
    if let Some(dir) = keep.parent() {
        std::fs::create_dir_all(dir).map_err(Error::write(dir))?;
    }
    match std::fs::read_to_string(keep) {
        Ok(text) => leases.remember(&text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::read(keep)(e)),
    }
    ready(
        watch,
        "network",
        format!(
            "nobody gives addresses on {}: giving {first} to {last}{}",
            interface.name,
            match used.len() {
                0 => String::new(),
                n => format!(" without {n} that are in use"),
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
    Ok(Some((network, leases)))
}
