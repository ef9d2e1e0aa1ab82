//! Instead of a boot: this machine's disks are read and sent to a hypervisor. They are opened
//! for reading alone, and nothing is mounted but snapshots of them: whatever happens, they are as
//! they were.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::net::SocketAddrV4;
use core::time::Duration;

use cmdline::plan::{P2vPlan, P2vWay, Payload, UrlSource};
use cmdline::secrets::Private;
use coldplug::sysfs;
use overlay::probe::Format;
use p2v::Trouble;
use p2v::disks::{self, Fact};
use p2v::domain::{Card, Clock, Domain, Topology, guest_name, round_memory};
use p2v::edge::{self, Arrived, BadSectors, Disk, Login, Order, Receiver, World};
use p2v::guest::{Guest, disk_name};
use p2v::script::Conversion;
use p2v::seal::Key;
use rustix::fs::OFlags;
use rustix::io::pread;
use rustix::system::RebootCommand;
use sys::clock::Instant;
use sys::netlink::Route;

use crate::clone;
use crate::copy::Progress;
use crate::fetch;
use crate::keys::{SingleKeys, act, restart, wait_key};
use crate::log::Level;
use crate::machine::Machine;
use crate::memory::{Size, total};
use crate::network;
use crate::p2v_edit::{self, Snapshots};
use crate::tool;
use crate::trace::{Failure, Fault};

const STEP: &str = "send this machine's disks";
/// The ssh clients that `bellwether build --ssh` puts in: one of them.
const CLIENTS: [&str; 2] = ["/usr/bin/dbclient", "/usr/bin/ssh"];
/// By these names OpenSSH's client runs this program: to judge the host's key, and to be told the
/// password.
const JUDGE: &str = "/run/bellwether/p2v-judge";
const ASKPASS: &str = "/run/bellwether/p2v-askpass";
/// Where that password is while it is used.
const PASSWORD: &str = "/run/bellwether/p2v.password";
/// Where a private key is while it is used: in memory.
const KEY: &str = "/run/bellwether/p2v.key";
/// How often keys, drivers and the network are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);
/// How often the screen says how far the server is.
const EVERY: Duration = Duration::from_secs(2);
/// The largest file with a private key.
const MAX_KEY: usize = 64 << 10;

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Fault::from(trouble.to_string())
    }
}

/// Sends the disks, and does what the line wants afterwards. Returns when that is nothing but
/// the failure screen.
pub fn send(machine: &mut Machine, plan: &P2vPlan) -> Failure {
    // A disk takes as long as it takes.
    machine.stop_clock();
    match forgetful(machine, plan, false) {
        Ok(()) => {
            machine.log.say(Level::Verdict, "P2V done; the disks are as they were");
            afterwards(machine, &plan.post);
            stay(machine);
        }
        Err(fault) => {
            if !plan.fail.is_empty() {
                machine.log.say(Level::Verdict, &format!("P2V failed: {fault}"));
                afterwards(machine, &plan.fail);
            }
            let way = plan.way.name();
            Failure::new(STEP, &format!("{way}://"), fault)
        }
    }
}

/// Tries whether a conversion server can be logged in to, forwards ports and has virt-v2v. Nothing
/// of a disk is sent.
pub fn test(machine: &mut Machine, plan: &P2vPlan) -> Result<(), Fault> {
    forgetful(machine, plan, true)
}

/// The secrets go whatever happened.
fn forgetful(machine: &mut Machine, plan: &P2vPlan, test: bool) -> Result<(), Fault> {
    let result = run(machine, plan, test);
    for secret in [KEY, PASSWORD] {
        // One that was not needed is not there.
        let _ = rustix::fs::unlink(secret);
    }
    result
}

/// Whether the disks that are named are there.
pub fn there(plan: &P2vPlan) -> Result<(), Fault> {
    disks::choose(&facts(), &plan.disks)?;
    Ok(())
}

/// What there is to send, and what stays: a line each.
pub fn listed() -> Vec<String> {
    let found = disks::find(&facts());
    let named = |model: &str| if model.is_empty() { "unnamed" } else { model }.to_string();
    let disks = found.disks.iter();
    let disks =
        disks.map(|disk| format!("{}: {}, {}", disk.name, Size(disk.size), named(&disk.model)));
    let left = found.left.iter().map(|left| format!("{} stays here: it {}", left.name, left.why));
    disks.chain(left).collect()
}

/// Carries out a hook: a word that this program knows, or a command when there is a shell.
fn afterwards(machine: &mut Machine, hook: &str) {
    match hook {
        "" => {}
        "poweroff" | "halt" | "shutdown" => restart(machine, RebootCommand::PowerOff),
        "reboot" => restart(machine, RebootCommand::Restart),
        command => match tool::find("sh", &[]) {
            Some(shell) => {
                if let Err(fault) = shell.run(&["-c", command]) {
                    machine.log.warn(&format!("{command}: {fault}"));
                }
            }
            None => machine
                .log
                .warn(&format!("{command}: no shell in this image; poweroff and reboot need none")),
        },
    }
}

/// Done, and the line says nothing of what comes next.
fn stay(machine: &mut Machine) -> ! {
    let _keys = SingleKeys::of(machine.log.console());
    machine.log.say(Level::Verdict, "keys: b reboot, o power off, l log");
    loop {
        if let Some(key) = wait_key(machine, None) {
            act(machine, key);
        }
    }
}

fn run(machine: &mut Machine, plan: &P2vPlan, test: bool) -> Result<(), Fault> {
    let ssh = matches!(plan.way, P2vWay::V2v | P2vWay::Ssh);
    let client = CLIENTS.into_iter().find(|path| sys::file::exists(path));
    if ssh && client.is_none() {
        return Err(Fault::from("there is no ssh client in this image")
            .remedy("bellwether build --ssh puts one in"));
    }
    // The snapshots go when all is sent.
    let (disks, _snapshots) = match test {
        // Something to forward, which has no bytes.
        true => {
            let nothing = Disk::open("/dev/null", None, BadSectors::Fail);
            (Vec::from([nothing.map_err(Fault::on("/dev/null"))?]), None)
        }
        false => {
            if !plan.pre.is_empty() {
                afterwards(machine, &plan.pre);
            }
            clone::wait_for_disks(machine);
            open(machine, plan)?
        }
    };
    let address = network::server(machine, &plan.server)?;
    up_loopback(machine);
    let key = match &plan.identity {
        Some(word) if ssh => Some(private_key(machine, word, client == Some(CLIENTS[0]))?),
        _ => None,
    };
    let password = plan.password.as_ref().and_then(|word| word.reveal().split_once('='));
    if client == Some(CLIENTS[1]) {
        help_openssh(password.map(|(_, value)| value))?;
    }
    let host = address.to_string();
    let login = Login {
        program: client.unwrap_or_default(),
        judge: JUDGE,
        askpass: ASKPASS,
        host: &host,
        port: plan.port,
        user: &plan.user,
        password: password.map(|(_, value)| value),
        key,
        pin: plan.host_key.as_deref(),
    };
    let name = name(plan);
    let _keys = SingleKeys::of(machine.log.console());
    let now = Instant::now();
    let mut here =
        Here { machine, what: "sending", progress: None, shown: 0, look: now, tell: now };
    if plan.way == P2vWay::V2v {
        return convert(&mut here, plan, (&login, test), &name, disks);
    }
    if plan.way == P2vWay::Own {
        let peer = SocketAddrV4::new(address, plan.port);
        return hand_over(&mut here, plan, peer, &name, disks);
    }
    let several = disks.len() > 1;
    for (n, mut disk) in disks.into_iter().enumerate() {
        here.begin();
        let port = u16::try_from(n).ok().and_then(|n| plan.port.checked_add(n));
        let peer = SocketAddrV4::new(address, port.ok_or("there is no such port")?);
        let arrived = match plan.way {
            P2vWay::Ssh => {
                // With several disks the path must be a directory, as the slash says.
                let path = [plan.path.as_str(), if several { "/." } else { "" }].concat();
                let file = format!("{name}-{}.img", disk.name.replace('/', "-"));
                edge::archive(&mut here, &login, &mut disk, (&path, &file))?
            }
            P2vWay::Nbd => edge::fill(&mut here, &mut disk, peer, &plan.path)?,
            _ => edge::stream(&mut here, &mut disk, peer)?,
        };
        report(here.machine, &disk, &arrived);
    }
    Ok(())
}

/// The disks become a guest of a server of ours.
fn hand_over(
    here: &mut Here<'_>,
    plan: &P2vPlan,
    peer: SocketAddrV4,
    name: &str,
    disks: Vec<Disk>,
) -> Result<(), Fault> {
    let key = plan.key.as_ref().and_then(|word| Key::new(word.reveal().split_once('=')?.1));
    let to = Receiver::new(peer, key.ok_or("bw.p2v.key has less than 16 letters")?)?;
    let machine = domain(plan, name);
    let mut guest = Guest {
        name: machine.name,
        arch: machine.arch,
        uefi: sys::file::exists("/sys/firmware/efi"),
        memory_kib: machine.memory_kib,
        vcpus: machine.vcpus,
        cards: machine.cards,
        disks: Vec::new(),
    };
    for mut disk in disks {
        here.begin();
        let arrived = edge::deliver(here, &mut disk, &to, name)?;
        report(here.machine, &disk, &arrived);
        guest.disks.push((disk_name(&disk.name), arrived.sha256));
    }
    let answer = edge::finish_guest(&to, guest)?;
    here.machine.log.say(Level::Verdict, &format!("the server has a guest: {answer}"));
    Ok(())
}

/// One disk has arrived.
fn report(machine: &mut Machine, disk: &Disk, arrived: &Arrived) {
    let Arrived { sha256, sent, compared } = arrived;
    let how = match compared {
        true => "the other end has the same digest",
        false => "NOT VERIFIED: compare it with sha256sum at the other end",
    };
    let text =
        format!("{}: sent {} as an image with sha256 {sha256}; {how}", disk.name, Size(*sent));
    machine.log.say(Level::Verdict, &text);
    if let Some(list) = disk.bad_list() {
        machine.log.warn(&list);
    }
}

fn convert(
    here: &mut Here<'_>,
    plan: &P2vPlan,
    (login, test): (&Login<'_>, bool),
    name: &str,
    disks: Vec<Disk>,
) -> Result<(), Fault> {
    let mut args = Vec::from(["-o".to_string(), plan.output.clone()]);
    if !plan.storage.is_empty() {
        args.extend(["-os".to_string(), plan.storage.clone()]);
    }
    for (option, value) in &plan.options {
        args.extend([option.to_string(), value.clone()]);
    }
    let version = concat!("bellwether ", env!("CARGO_PKG_VERSION"), "\n");
    let order = Order {
        domain: domain(plan, name),
        output: plan.output.clone(),
        test,
        conversion: Conversion {
            sudo: plan.sudo,
            args,
            files: Vec::from([
                ("p2v-version", version.to_string()),
                ("lscpu", text("/proc/cpuinfo")),
            ]),
            ..Conversion::default()
        },
    };
    let (done, disks) = edge::convert(here, login, &order, disks)?;
    if test {
        return Ok(());
    }
    let text = format!(
        "converted; {} were read; the logs are in {} on the server",
        Size(done.sent),
        done.directory
    );
    here.machine.log.say(Level::Verdict, &text);
    for list in disks.iter().filter_map(Disk::bad_list) {
        here.machine.log.warn(&list);
    }
    Ok(())
}

/// This machine for the loops of the `p2v` room.
struct Here<'m> {
    machine: &'m mut Machine,
    what: &'static str,
    progress: Option<Progress>,
    shown: u64,
    /// When drivers, network and keys are looked at again.
    look: Instant,
    /// When the screen says next how far the server is.
    tell: Instant,
}

impl Here<'_> {
    /// Another disk begins.
    fn begin(&mut self) {
        (self.what, self.progress, self.shown) = ("sending", None, 0);
    }
}

impl World for Here<'_> {
    fn say(&mut self, text: &str) {
        self.machine.log.say(Level::Verdict, text);
    }

    fn output(&mut self, line: &str) {
        let clean: String = line.chars().filter(|c| !c.is_control()).collect();
        self.machine.log.print(&["  | ", &clean].concat());
    }

    fn progress(&mut self, done: u64, total: u64) {
        let progress = self.progress.get_or_insert_with(|| Progress::new(self.what, total));
        progress.add(&mut self.machine.log, done.saturating_sub(self.shown));
        self.shown = self.shown.max(done);
    }

    fn reads_back(&mut self) {
        (self.what, self.progress, self.shown) = ("reading back", None, 0);
    }

    fn served(&mut self, fresh: u64, total: u64, again: u64) {
        let now = Instant::now();
        let whole = fresh == total && self.shown < total;
        if now < self.tell && !whole {
            return;
        }
        (self.tell, self.shown) = (now.after(EVERY), fresh);
        self.machine.log.info(&far(fresh, total, again));
    }

    /// `q` and Ctrl-C stop it.
    fn go_on(&mut self) -> bool {
        let now = Instant::now();
        if now < self.look {
            return true;
        }
        self.look = now.after(LOOK);
        self.machine.wait(&[], Some(now));
        let Some(console) = self.machine.log.console() else { return true };
        let mut key = [0];
        let ready = rustix::io::ioctl_fionread(console).is_ok_and(|waiting| waiting > 0);
        let stop = [*b"q", *b"\x03"];
        !(ready && rustix::io::read(console, &mut key) == Ok(1) && stop.contains(&key))
    }
}

/// How far the server is: it reads in an order of its own, and some of it twice.
fn far(fresh: u64, total: u64, again: u64) -> String {
    let percent = fresh.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let more = match again {
        0 => String::new(),
        again => format!(", and {} of it once more", Size(again)),
    };
    format!("the server has read {} of {} ({percent} %){more}", Size(fresh), Size(total))
}

/// A small file's text, without what stands around it.
fn text(path: &str) -> String {
    let bytes = sys::file::read_file(path, 256 << 10).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_string()
}

/// What sysfs says of every block device.
fn facts() -> Vec<Fact> {
    let names = sysfs::names("/sys/block").unwrap_or_default();
    names.iter().map(|entry| fact(entry)).collect()
}

fn fact(entry: &str) -> Fact {
    let base = format!("/sys/block/{entry}");
    let read = |what: &str| text(&format!("{base}/{what}"));
    let list = |what: &str| -> Vec<String> {
        let names = sysfs::names(&format!("{base}/{what}")).unwrap_or_default();
        names.into_iter().map(|name| name.replace('!', "/")).collect()
    };
    let place = rustix::fs::readlink(base.as_str(), Vec::new()).unwrap_or_default();
    let name = entry.replace('!', "/");
    let size = read("size").parse::<u64>().unwrap_or(0).saturating_mul(512);
    let wwid = [read("device/wwid"), read("wwid")].into_iter().find(|id| !id.is_empty());
    Fact {
        iso: size > 0 && is_iso(&name),
        size,
        removable: read("removable") == "1",
        hidden: read("hidden") == "1",
        usb: place.to_string_lossy().contains("/usb"),
        model: read("device/model"),
        wwid: wwid.unwrap_or_default(),
        holders: list("holders"),
        slaves: list("slaves"),
        dm_uuid: read("dm/uuid"),
        md_level: read("md/level"),
        name,
    }
}

/// Whether a device begins as an ISO 9660 medium does (ECMA-119, 8.4).
fn is_iso(name: &str) -> bool {
    let mut mark = [0; 5];
    let disk = sys::file::open(&format!("/dev/{name}"), OFlags::RDONLY | OFlags::NONBLOCK, 0);
    disk.is_ok_and(|disk| pread(&disk, &mut mark[..], 0x8001) == Ok(5) && mark == *b"CD001")
}

/// Opens the disks that are sent, or changed snapshots of them, and tells what is on all of them.
fn open(machine: &mut Machine, plan: &P2vPlan) -> Result<(Vec<Disk>, Option<Snapshots>), Fault> {
    let facts = facts();
    let chosen = disks::choose(&facts, &plan.disks)?;
    for left in disks::find(&facts).left {
        if chosen.iter().all(|disk| disk.name != left.name) {
            machine.log.info(&format!("{} stays here: it {}", left.name, left.why));
        }
    }
    let policy = if plan.zero_bad { BadSectors::Zero } else { BadSectors::Fail };
    let mut examined = Vec::new();
    for disks::Disk { name, .. } in &chosen {
        let path = format!("/dev/{name}");
        let sector =
            text(&format!("/sys/block/{}/queue/logical_block_size", name.replace('/', "!")));
        let sector = sector.parse().unwrap_or(512);
        let found = Disk::examine(&path, sector, policy).map_err(Fault::on(&path))?;
        examined.push((sector, found));
    }
    let mut snapshots = None;
    if plan.edit {
        let found = chosen.iter().zip(examined).map(|(disk, (sector, (_, parts)))| {
            p2v_edit::Found { name: disk.name.clone(), sector, parts }
        });
        let found: Vec<p2v_edit::Found> = found.collect();
        let all = disks::find(&facts).disks.len() == chosen.len();
        let (made, paths) = Snapshots::make(machine, &found, all)?;
        snapshots = Some(made);
        let again = found
            .iter()
            .zip(paths)
            .map(|(found, path)| Ok((found.sector, p2v_edit::examine(&path, found, policy)?)));
        examined = again.collect::<Result<_, Fault>>()?;
    }
    let mut opened = Vec::new();
    let (mut locked, mut rooms) = (Vec::new(), 0);
    for (disks::Disk { name, size, model }, (_, (disk, parts))) in chosen.into_iter().zip(examined)
    {
        let contents: Vec<String> =
            parts.iter().map(|part| format!("{} {}", part.number, part.content)).collect();
        machine.log.say(
            Level::Verdict,
            &format!(
                "{name}: {}, {}, {} in use: {}",
                Size(size),
                if model.is_empty() { "unnamed" } else { &model },
                Size(disk.map.used_bytes()),
                contents.join(", ")
            ),
        );
        for part in &parts {
            part.notes
                .iter()
                .for_each(|note| machine.log.info(&format!("{name}{}: {note}", part.number)));
            match part.format {
                Some(Format::Luks) => locked.push(format!("partition {} of {name}", part.number)),
                Some(Format::Swap | Format::Vfat) => {}
                _ if part.length < (64 << 20) => {}
                _ => rooms += 1,
            }
        }
        opened.push(disk);
    }
    if plan.way == P2vWay::V2v && !locked.is_empty() {
        let what = format!("{} is encrypted (LUKS)", locked.join(", "));
        if rooms == 0 {
            return Err(Fault::from(format!("{what}, and virt-v2v has no key for it")).remedy(
                "bw.p2v=ssh://USER@HOST/PATH sends the disks as they are; the guest then asks for \
                 the passphrase as this machine does",
            ));
        }
        machine.log.warn(&format!("{what}: virt-v2v cannot look into it"));
    }
    Ok((opened, snapshots))
}

/// The NBD servers are on loopback, which no kernel brings up.
fn up_loopback(machine: &mut Machine) {
    let done = Route::open().and_then(|mut route| {
        let links = route.links()?;
        let lo = links.iter().find(|link| link.name == "lo");
        lo.map_or(Ok(()), |lo| route.set_up(lo.index, true))
    });
    if let Err(error) = done {
        machine.log.warn(&format!("lo: {error}"));
    }
}

/// What OpenSSH's client wants around it: a user, and programs that answer its questions.
fn help_openssh(password: Option<&str>) -> Result<(), Fault> {
    sys::file::make_dir("/run/bellwether", 0o755).map_err(Fault::on("/run/bellwether"))?;
    for name in [JUDGE, ASKPASS] {
        // There from an earlier try, perhaps.
        let _ = rustix::fs::symlink("/init", name);
    }
    if !sys::file::exists("/etc/passwd") {
        sys::file::make_dir("/etc", 0o755).map_err(Fault::on("/etc"))?;
        sys::file::write_file("/etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
            .map_err(Fault::on("/etc/passwd"))?;
    }
    match password {
        Some(word) => {
            sys::file::write_file(PASSWORD, word.as_bytes(), 0o600).map_err(Fault::on(PASSWORD))
        }
        None => Ok(()),
    }
}

/// Runs what OpenSSH's client runs by one of our names; nothing of another name.
pub fn helper<'a>(name: &[u8], words: impl Iterator<Item = &'a CStr>) -> Option<i32> {
    if name == JUDGE.as_bytes() {
        return Some(edge::judge_for_ssh(words));
    }
    (name == ASKPASS.as_bytes()).then(|| {
        let word = sys::file::read_file(PASSWORD, 4 << 10).unwrap_or_default();
        edge::print(1, &[&word[..], b"\n"].concat())
    })
}

/// Fetches a private key, and stores it in the ssh client's form.
fn private_key(
    machine: &mut Machine,
    word: &Private,
    dropbear: bool,
) -> Result<&'static str, Fault> {
    let url = word.reveal().split_once('=').map_or("", |(_, url)| url);
    let bytes = match url.strip_prefix("file://") {
        Some(path) => sys::file::read_file(path, MAX_KEY).map_err(Fault::on(path))?,
        None => {
            let source =
                UrlSource { url: Private::word(url), payload: Payload::Sniff, proxy: None };
            let path =
                fetch::fetch(machine, &source).map_err(|fault| fault.of("the private key"))?;
            let bytes = sys::file::read_file(&path, MAX_KEY);
            fetch::drop_all();
            bytes.map_err(Fault::on("the private key"))?
        }
    };
    let key = match dropbear {
        true => p2v::key::for_dropbear(&bytes).map_err(|(why, remedy)| {
            Fault::from(why.to_string()).of("the private key").remedy(remedy)
        })?,
        false => bytes,
    };
    sys::file::make_dir("/run/bellwether", 0o755).map_err(Fault::on("/run/bellwether"))?;
    sys::file::write_file(KEY, &key, 0o600).map_err(Fault::on(KEY))?;
    Ok(KEY)
}

/// The guest's name: the line's, or this machine's, or one made of what is known of it.
fn name(plan: &P2vPlan) -> String {
    let host = text("/proc/sys/kernel/hostname");
    let host = host.split('.').next().filter(|name| !matches!(*name, "" | "(none)" | "localhost"));
    let product = text("/sys/class/dmi/id/product_name");
    let names = [plan.name.as_deref(), host, Some(product.as_str()), Some("physical")];
    let names = names.into_iter().flatten().map(guest_name);
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

/// What the guest is to be like.
fn domain(plan: &P2vPlan, name: &str) -> Domain {
    let cpus = text("/proc/cpuinfo");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let has = |word: &str| {
        cpus.lines().any(|line| {
            line.starts_with("flags") && line.split_whitespace().any(|flag| flag == word)
        })
    };
    let found = [
        ("acpi", sys::file::exists("/sys/firmware/acpi")),
        ("apic", has("apic")),
        ("pae", has("pae")),
    ];
    let features = found.into_iter().filter(|(name, there)| {
        plan.features.iter().find(|(word, _)| word == name).map_or(*there, |(_, wanted)| *wanted)
    });
    let vcpus = plan.vcpus.unwrap_or_else(|| u32::try_from(count).unwrap_or(1).max(1));
    Domain {
        name: name.to_string(),
        arch: if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" }.to_string(),
        memory_kib: plan.memory_kib.unwrap_or_else(|| round_memory(total() / 1024)),
        vcpus,
        topology: plan.topology.then(|| topology(&cpus, vcpus)),
        cpu_vendor: plan.cpu_vendor.clone().unwrap_or_default(),
        cpu_model: plan.cpu_model.clone().unwrap_or_default(),
        features: features.map(|(name, _)| name).collect(),
        clock: match plan.clock.as_deref() {
            Some("utc") => Clock::Utc(i64::from(plan.clock_hours) * 3600),
            Some("localtime") => Clock::Local,
            _ => Clock::Unknown,
        },
        disks: Vec::new(),
        drives: plan.removable.clone().unwrap_or_else(|| {
            let names = sysfs::names("/sys/block").unwrap_or_default();
            names.into_iter().filter(|name| name.starts_with("sr")).collect()
        }),
        cards: cards(plan),
    }
}

/// How the processors are arranged, when that comes to their number; in a row otherwise.
fn topology(cpus: &str, vcpus: u32) -> Topology {
    let value = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')?.1.trim().parse().ok()).unwrap_or(1_u32).max(1)
    };
    let (cores, siblings) = (value("cpu cores"), value("siblings"));
    let threads = (siblings / cores).max(1);
    match vcpus.checked_div(cores.saturating_mul(threads)) {
        Some(sockets) if sockets * cores * threads == vcpus => Topology { sockets, cores, threads },
        _ => Topology { sockets: vcpus, cores: 1, threads: 1 },
    }
}

/// The network cards and what they are connected to.
fn cards(plan: &P2vPlan) -> Vec<Card> {
    let real = |name: &String| sys::file::exists(&format!("/sys/class/net/{name}/device"));
    let found = || sysfs::names("/sys/class/net").unwrap_or_default().into_iter().filter(real);
    let names = plan.interfaces.clone().unwrap_or_else(|| found().collect());
    let network = |name: &str| {
        let of = |card: &str| plan.networks.iter().find(|(of, _)| of == card);
        let (_, network) = of(name).or_else(|| of(""))?;
        Some(network.clone())
    };
    let card = |name: &String| Card {
        mac: text(&format!("/sys/class/net/{name}/address")),
        network: network(name).unwrap_or_else(|| "default".to_string()),
    };
    names.iter().map(card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_arranged_as_they_are_or_in_a_row() {
        let cpus = "processor\t: 0\nsiblings\t: 4\ncpu cores\t: 2\n";
        let shape = |vcpus| {
            let Topology { sockets, cores, threads } = topology(cpus, vcpus);
            (sockets, cores, threads)
        };
        assert_eq!((shape(8), shape(4), shape(3)), ((2, 2, 2), (1, 2, 2), (3, 1, 1)));
    }

    /// "100 %, 0 s left" stood on the screen for the ten minutes of a conversion.
    #[test]
    fn a_server_that_reads_again_is_not_done() {
        assert_eq!(far(64 << 20, 256 << 20, 0), "the server has read 64 MiB of 256 MiB (25 %)");
        let again = "the server has read 256 MiB of 256 MiB (100 %), and 32 MiB of it once more";
        assert_eq!(far(256 << 20, 256 << 20, 32 << 20), again);
    }

    #[test]
    fn the_machine_that_runs_the_test_is_described() {
        let plan = cmdline::parse(
            "p2v.server=10.0.0.1 p2v.cpu.acpi=no p2v.memory=512M p2v.network=nosuch:x,br7 p2v.name=a/b",
            &cmdline::Context::default(),
        );
        let cmdline::plan::Then::P2v(plan) = &plan.handoff.then else { panic!() };
        let made = domain(plan, &name(plan));
        assert_eq!((made.name.as_str(), made.memory_kib), ("ab", 512 << 10));
        assert!(made.vcpus > 0 && !made.features.contains(&"acpi"));
        assert!(made.cards.iter().all(|card| card.network == "br7"), "{:?}", made.cards);
        let all = facts();
        assert!(all.iter().all(|fact| !fact.name.is_empty()), "{all:?}");
    }
}
