//! The words of virt-p2v (1.42.4), which say where a physical machine sends its disks and what
//! is made of it, and our own for other ways there. They are read in every dialect: a line
//! that was written for virt-p2v's own image sends with ours.
//!
//! As there, the first of several equal words wins.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::plan::{BootPlan, OnFailure, P2vPlan, P2vWay, Seconds, Then};
use crate::secrets::Private;
use crate::table::{Draft, text, words};
use crate::{text, value};

words! { P2V, P2V_DOCS:
    "bw.p2v" OptText Keep "Send this machine's disks: v2v://USER@HOST[:PORT] to virt-v2v, ssh://USER@HOST[:PORT]/PATH as files, p2v://HOST[:PORT] to bellwether clone p2v-server, nbd://HOST:PORT[/EXPORT] to a server's empty disk, tcp://HOST:PORT to nc. Without a value the console asks.";
    "bw.p2v.key" Text Keep "The key of p2v://, which p2v-server shows: it encrypts the way there.";
    "bw.p2v.hostkey" Text Keep "The fingerprint that the ssh server's key must have: SHA256:….";
    "bw.p2v.bad" Text Keep "What is done about sectors that cannot be read: fail (the default), or zero, which sends zeros and lists them.";
    "bw.p2v.edit" Switch Keep "Change the copy for a virtual machine, in a snapshot in memory: names of disks, and settings that are bound to a network card. Not for v2v://, where virt-v2v does it.";
    "p2v.server" Text Keep "The conversion server; there the disks go without a question.";
    "p2v.remote.server" Text Keep "As p2v.server.";
    "p2v.port" Number Keep "The port of its sshd; 22 without it.";
    "p2v.remote.port" Number Keep "As p2v.port.";
    "p2v.username" Text Keep "The user to log in as; root without it.";
    "p2v.auth.username" Text Keep "As p2v.username.";
    "p2v.password" Text Keep "The user's password.";
    "p2v.auth.password" Text Keep "As p2v.password.";
    "p2v.identity" Text Keep "The URL of a private key without a passphrase, which wins over the password.";
    "p2v.auth.identity.url" Text Keep "As p2v.identity.";
    "p2v.sudo" Switch Keep "Run virt-v2v by sudo, without a password.";
    "p2v.auth.sudo" Switch Keep "As p2v.sudo.";
    "p2v.name" Text Keep "The guest's name; the first label of the host name without it.";
    "p2v.guestname" Text Keep "As p2v.name.";
    "p2v.vcpu.cores" Number Keep "The guest's processors; those of this machine without it.";
    "p2v.vcpus" Number Keep "As p2v.vcpu.cores.";
    "p2v.vcpu.phys_topo" Switch Keep "Arrange them as in this machine.";
    "p2v.memory" Text Keep "The guest's memory, as 512M or 4G; this machine's, rounded up to a power of two, without it.";
    "p2v.cpu.vendor" Text Keep "The vendor of the guest's processor.";
    "p2v.cpu.model" Text Keep "Its model.";
    "p2v.cpu.acpi" Switch Keep "The guest has ACPI.";
    "p2v.cpu.apic" Switch Keep "The guest has an APIC.";
    "p2v.cpu.pae" Switch Keep "The guest has PAE.";
    "p2v.rtc.basis" Text Keep "What the guest's clock shows: utc, localtime or unknown.";
    "p2v.rtc.offset" Text Keep "Hours that it is ahead of UTC.";
    "p2v.disks" Text Keep "The disks to send, with commas between; all that stay in the machine without it.";
    "p2v.removable" Text Keep "CD drives that the guest gets, empty.";
    "p2v.interfaces" Text Keep "The network cards that the guest gets.";
    "p2v.network" Text Keep "The hypervisor's network for each: CARD:NETWORK, with commas between; one without a card is for all others.";
    "p2v.network_map" Text Keep "As p2v.network.";
    "p2v.o" Text Keep "virt-v2v's output: local (the default), libvirt, null and others.";
    "p2v.output.type" Text Keep "As p2v.o.";
    "p2v.os" Text Keep "Where the output is stored; /var/tmp without it.";
    "p2v.output.storage" Text Keep "As p2v.os.";
    "p2v.oa" Text Keep "sparse or preallocated.";
    "p2v.output.allocation" Text Keep "As p2v.oa.";
    "p2v.of" Text Keep "raw or qcow2.";
    "p2v.output.format" Text Keep "As p2v.of.";
    "p2v.oc" Text Keep "The hypervisor's connection URI.";
    "p2v.output.connection" Text Keep "As p2v.oc.";
    "p2v.oo" Text Keep "Further output options, A=B,C=D.";
    "p2v.output.misc" Text Keep "As p2v.oo.";
    "p2v.pre" OptText Keep "A command before anything is sent; the image must have a shell.";
    "p2v.post" OptText Keep "What is done after success: poweroff (the default), reboot, nothing when empty, or a command.";
    "p2v.fail" OptText Keep "The same after a failure; nothing without it.";
    "p2v.skip_test_connection" Flag Idle "There is one connection, which is the test.";
}

/// The first word of these names, if it has a value.
fn first<'a>(d: &mut Draft<'a>, names: &[&str]) -> Option<&'a str> {
    let all = d.all_any(names);
    all.first().map(|(_, value)| *value).filter(|value| !value.is_empty())
}

fn owned(d: &mut Draft<'_>, names: &[&str]) -> Option<String> {
    first(d, names).map(ToString::to_string)
}

fn items(d: &mut Draft<'_>, names: &[&str]) -> Vec<String> {
    first(d, names).map(value::list).unwrap_or_default()
}

fn flag(d: &mut Draft<'_>, names: &[&str]) -> Option<bool> {
    let all = d.all_any(names);
    all.first().and_then(|(_, word)| value::switch(Some(word)))
}

/// `512M` or `4G` in KiB.
fn memory(word: &str) -> Option<u64> {
    let (number, unit) = word.split_at_checked(word.len().checked_sub(1)?)?;
    let shift = match unit {
        "M" | "m" => 10,
        "G" | "g" => 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|kib| *kib > 0)
}

/// A user name that a command line can have behind it.
fn is_user(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@\\+".contains(&b);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)
}

/// Reads `bw.p2v=`: the way, and what its URL says.
fn place(word: &str) -> Result<(P2vPlan, Option<&str>), &'static str> {
    let (scheme, rest) = text::cut(word, "://").ok_or("is no URL")?;
    let (way, port) = match scheme {
        "v2v" => (P2vWay::V2v, 22),
        "ssh" => (P2vWay::Ssh, 22),
        "nbd" => (P2vWay::Nbd, 10809),
        "tcp" => (P2vWay::Tcp, 0),
        "p2v" => (P2vWay::Own, 10810),
        _ => return Err("is none of v2v://, ssh://, p2v://, nbd:// and tcp://"),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = match host.split_once(':') {
        Some((host, port)) => {
            (host, port.parse().ok().filter(|p: &u16| *p > 0).ok_or("has no port's number")?)
        }
        None => (host, port),
    };
    if port == 0 {
        return Err("needs a port, that of nc -l PORT");
    }
    let mut plan = P2vPlan::new(way, value::server(host).ok_or("names no server")?, port);
    if !user.is_empty() {
        plan.user = user.to_string();
    }
    match way {
        P2vWay::Ssh if path.is_empty() => {
            return Err("needs a directory or file behind the server");
        }
        P2vWay::Ssh => plan.path = text(&["/", path]),
        P2vWay::Nbd => plan.path = path.to_string(),
        _ if !path.is_empty() => return Err("takes no path"),
        P2vWay::V2v | P2vWay::Tcp | P2vWay::Own => {}
    }
    Ok((plan, (!password.is_empty()).then_some(password)))
}

/// Makes the plan of it, when the line has such words.
pub(crate) fn apply(d: &mut Draft<'_>, plan: &mut BootPlan) {
    const EXAMPLE: &str = "bw.p2v=v2v://root@10.0.0.1 or p2v.server=10.0.0.1";
    let server = first(d, &["p2v.server", "p2v.remote.server"]);
    let own = d.all("bw.p2v").first().copied();
    let (mut p2v, url_password) = match (own, server) {
        (None, None) => return,
        (Some(""), None) => {
            begin(d, plan, Then::AskP2v);
            return;
        }
        (Some(word), _) if !word.is_empty() => match place(word) {
            Ok(found) => found,
            Err(why) => return d.fatal_word("bw.p2v", word, &(why, EXAMPLE)),
        },
        (_, Some(host)) => match value::server(host) {
            Some(host) => (P2vPlan::new(P2vWay::V2v, host, 22), None),
            None => return d.fatal_word("p2v.server", host, &("names no server", EXAMPLE)),
        },
        _ => return,
    };
    login(d, &mut p2v, url_password);
    machine(d, &mut p2v);
    output(d, &mut p2v);
    match first(d, &["bw.p2v.bad"]) {
        None | Some("fail") => {}
        Some("zero") => p2v.zero_bad = true,
        Some(word) => d.fatal_word("bw.p2v.bad", word, &("is neither fail nor zero", "")),
    }
    if d.switch("bw.p2v.edit") == Some(true) {
        if p2v.way == P2vWay::V2v {
            d.warn("bw.p2v.edit", &("is left to virt-v2v, which makes the changes", ""));
        } else {
            p2v.edit = true;
        }
    }
    begin(d, plan, Then::P2v(Box::new(p2v)));
}

/// Nothing is booted. A user reads the screen before it goes on.
fn begin(d: &mut Draft<'_>, plan: &mut BootPlan, then: Then) {
    if let Then::Clone(_) = plan.handoff.then {
        d.fatal("bw.clone", &("receives a disk, and bw.p2v or p2v.server sends one", ""));
    }
    plan.root.sources.clear();
    if d.peek("bw.fail").is_none() && d.peek("panic").is_none() {
        plan.failure.then = OnFailure::Menu { retry_after: Seconds(300) };
    }
    plan.handoff.then = then;
}

fn login(d: &mut Draft<'_>, p2v: &mut P2vPlan, url_password: Option<&str>) {
    if let Some(port) = first(d, &["p2v.port", "p2v.remote.port"]) {
        match port.parse().ok().filter(|port: &u16| *port > 0) {
            Some(port) => p2v.port = port,
            None => d.fatal_word("p2v.port", port, &("is no port", "p2v.port=22")),
        }
    }
    if let Some(user) = first(d, &["p2v.username", "p2v.auth.username"]) {
        p2v.user = user.to_string();
    }
    if !is_user(&p2v.user) {
        let user = p2v.user.clone();
        d.fatal_word("p2v.username", &user, &("is no name of a user", "p2v.username=root"));
    }
    let password = first(d, &["p2v.password", "p2v.auth.password"]).or(url_password);
    p2v.password = password.map(|word| Private::word(&text(&["p2v.password=", word])));
    let identity = first(d, &["p2v.identity", "p2v.auth.identity.url"]);
    if let Some(url) = identity.filter(|url| url.starts_with("http://")) {
        let why = (
            "brings a private key unencrypted over the network",
            "p2v.password, or a key in the image by file:///PATH",
        );
        d.warn_word("p2v.identity", url, &why);
    }
    p2v.identity = identity.map(|word| Private::word(&text(&["p2v.identity=", word])));
    if let Some(key) = first(d, &["bw.p2v.key"]) {
        p2v.key = Some(Private::word(&text(&["bw.p2v.key=", key])));
    }
    if p2v.way == P2vWay::Own && first(d, &["bw.p2v.key"]).is_none_or(|key| key.len() < 16) {
        let why = ("bw.p2v=p2v:// needs one of 16 letters or more", "p2v-server shows it");
        d.fatal("bw.p2v.key", &why);
    }
    p2v.sudo = flag(d, &["p2v.sudo", "p2v.auth.sudo"]).unwrap_or(false);
    if let Some(pin) = first(d, &["bw.p2v.hostkey"]) {
        let bare = pin.strip_prefix("SHA256:").unwrap_or(pin).trim_end_matches('=');
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        if bare.len() == 43 && bare.bytes().all(base64) {
            p2v.host_key = Some(text(&["SHA256:", bare]));
        } else {
            let hint = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the server shows it";
            d.fatal_word("bw.p2v.hostkey", pin, &("is no SHA-256 fingerprint", hint));
        }
    }
}

fn machine(d: &mut Draft<'_>, p2v: &mut P2vPlan) {
    p2v.name = owned(d, &["p2v.name", "p2v.guestname"]);
    p2v.vcpus =
        first(d, &["p2v.vcpu.cores", "p2v.vcpus"]).and_then(value::number).filter(|n| *n > 0);
    p2v.topology = flag(d, &["p2v.vcpu.phys_topo"]).unwrap_or(false);
    if let Some(word) = first(d, &["p2v.memory"]) {
        p2v.memory_kib = memory(word);
        if p2v.memory_kib.is_none() {
            d.warn_word(
                "p2v.memory",
                word,
                &("is no amount with its unit", "p2v.memory=512M or 4G"),
            );
        }
    }
    p2v.cpu_vendor = owned(d, &["p2v.cpu.vendor"]);
    p2v.cpu_model = owned(d, &["p2v.cpu.model"]);
    for name in ["acpi", "apic", "pae"] {
        if let Some(has) = flag(d, &[&text(&["p2v.cpu.", name])]) {
            p2v.features.push((name, has));
        }
    }
    match first(d, &["p2v.rtc.basis"]) {
        None => {}
        Some(word @ ("utc" | "localtime" | "unknown")) => p2v.clock = Some(word.to_string()),
        Some(word) => {
            d.warn_word("p2v.rtc.basis", word, &("is neither utc, localtime nor unknown", ""));
        }
    }
    if let Some(word) = first(d, &["p2v.rtc.offset"]) {
        match word.parse().ok().filter(|hours: &i32| hours.abs() <= 24) {
            Some(hours) => p2v.clock_hours = hours,
            None => d.warn_word("p2v.rtc.offset", word, &("is no number of hours", "")),
        }
    }
    p2v.disks = items(d, &["p2v.disks"]);
    p2v.removable = first(d, &["p2v.removable"]).map(value::list);
    p2v.interfaces = first(d, &["p2v.interfaces"]).map(value::list);
    for item in items(d, &["p2v.network", "p2v.network_map"]) {
        let (card, network) = item.split_once(':').unwrap_or(("", &item));
        p2v.networks.push((card.to_string(), network.to_string()));
    }
}

fn output(d: &mut Draft<'_>, p2v: &mut P2vPlan) {
    if let Some(kind) = owned(d, &["p2v.o", "p2v.output.type"]) {
        p2v.output = kind;
    }
    if p2v.output == "local" {
        p2v.storage = String::from("/var/tmp");
    }
    if let Some(storage) = owned(d, &["p2v.os", "p2v.output.storage"]) {
        p2v.storage = storage;
    }
    for (option, names) in [
        ("-oa", ["p2v.oa", "p2v.output.allocation"]),
        ("-of", ["p2v.of", "p2v.output.format"]),
        ("-oc", ["p2v.oc", "p2v.output.connection"]),
    ] {
        if let Some(value) = owned(d, &names) {
            p2v.options.push((option, value));
        }
    }
    for value in items(d, &["p2v.oo", "p2v.output.misc"]) {
        p2v.options.push(("-oo", value));
    }
    for (name, hook) in
        [("p2v.pre", &mut p2v.pre), ("p2v.post", &mut p2v.post), ("p2v.fail", &mut p2v.fail)]
    {
        if let Some(word) = d.all(name).first() {
            *hook = (*word).to_string();
        }
    }
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use crate::plan::{P2vPlan, Server, Then};
    use crate::{Context, parse};

    fn plan(line: &str, built_in: &[&str]) -> P2vPlan {
        let plan = parse(line, &Context { defaults: built_in, ..Context::default() });
        assert!(plan.can_work(), "{line}: {:?}", plan.warnings);
        match plan.handoff.then {
            Then::P2v(plan) => *plan,
            other => unreachable!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_first_wins_and_the_line_before_what_is_built_in() {
        let built_in = ["p2v.server=10.0.0.1 p2v.name=built p2v.o=null"];
        let made = plan("p2v.server=10.0.0.2 p2v.server=10.0.0.3 p2v.o=libvirt", &built_in);
        assert_eq!(made.server, Server::Host("10.0.0.2".into()));
        assert_eq!((made.name.as_deref(), made.output.as_str()), (Some("built"), "libvirt"));
    }

    #[test]
    fn values_are_virt_p2v_s() {
        let memory =
            |word: &str| plan(&["p2v.server=h ip=dhcp p2v.memory=", word].concat(), &[]).memory_kib;
        assert_eq!((memory("512M"), memory("4G")), (Some(524_288), Some(4_194_304)));
        assert_eq!(
            (memory("512"), memory("0M"), memory("G"), memory("9999999999999999G")),
            (None, None, None, None)
        );
        let made = plan(
            "p2v.server=10.0.0.1 p2v.network=em1:br0,em2:br:1,other p2v.oo=a=b,c=d p2v.post=\"x y\"",
            &[],
        );
        let networks: Vec<(&str, &str)> =
            made.networks.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(networks, [("em1", "br0"), ("em2", "br:1"), ("", "other")]);
        assert_eq!((made.post.as_str(), made.storage.as_str()), ("x y", "/var/tmp"));
        assert_eq!(made.options, [("-oo", "a=b".into()), ("-oo", "c=d".into())]);
        let own = plan("bw.p2v=ssh://me:hush@10.0.0.1:2022/srv/x", &[]);
        assert_eq!((own.user.as_str(), own.port, own.path.as_str()), ("me", 2022, "/srv/x"));
        assert_eq!(own.password.unwrap().reveal(), "p2v.password=hush");
    }
}
