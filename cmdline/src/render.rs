//! [`BootPlan`] for people: the failure screen's "this is what was tried" and
//! `bellwether explain`.
//!
//! One part a line, continued lines indented, no line breaks inside a sentence. The
//! wording says what will happen, in the order in which it happens.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::nfsroot;
use crate::pins;
use crate::plan::{
    Addressing, BootPlan, CloneArgument, CloneMethod, ClonePlan, Content, DeviceSelector, Dialect,
    Fate, ImagePick, ImageRule, Integrity, LinkChoice, Marker, NetworkPlan, OnFailure, Payload,
    PersistPlan, Retry, Server, SnapshotPlan, SnapshotStore, Source, Then, ToRam, UnionKind,
    UnionPlan, Upper, Warning, Writable,
};
#[cfg(feature = "p2v")]
use crate::plan::{P2vPlan, P2vWay};
use crate::plan_json::fate_name;
use crate::secrets::{Private, masked};
use crate::table::text;

/// Column at which the text of each part begins.
const INDENT: &str = "            ";

fn part(out: &mut String, title: &str, lines: &[String]) {
    for (n, line) in lines.iter().enumerate() {
        if n == 0 {
            out.push_str(title);
            out.push_str(INDENT.get(title.len()..).unwrap_or(" "));
        } else {
            out.push_str(INDENT);
        }
        out.push_str(line);
        out.push('\n');
    }
}

impl BootPlan {
    /// The steps, without words and warnings.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        part(&mut out, "dialect", &[self.dialect.name().to_string()]);
        part(&mut out, "drivers", &drivers(self));
        part(&mut out, "network", &network(self));
        part(&mut out, "root", &root(self));
        part(&mut out, "not pinned", &pins::uncovered(self));
        if matches!(self.handoff.then, Then::SwitchRoot) {
            part(&mut out, "writable", &writable(&self.writable));
        }
        part(&mut out, "handoff", &handoff(self));
        part(&mut out, "on failure", &failure(self));
        out
    }

    /// Each word and what became of it, one a line.
    #[must_use]
    pub fn words_text(&self, describe: fn(&BootPlan, &str) -> Option<&'static str>) -> String {
        let mut out = String::new();
        for word in &self.words {
            let mut fate = fate_name(word.fate).to_string();
            if let Fate::Foreign(dialect) = word.fate {
                fate = text(&["of ", dialect.name()]);
            }
            while fate.len() < 11 {
                fate.push(' ');
            }
            let doc = describe(self, &word.text).map(|doc| text(&["  ", doc])).unwrap_or_default();
            out.push_str(&text(&["  ", &fate, " ", &word.text, "\n"]));
            if !doc.is_empty() {
                out.push_str(&text(&["              ", doc.trim_start(), "\n"]));
            }
        }
        out
    }

    /// Warnings, fatal ones first, one a line.
    #[must_use]
    pub fn warnings_text(&self) -> String {
        let mut out = String::new();
        for fatal in [true, false] {
            for warning in self.warnings.iter().filter(|w| w.fatal == fatal) {
                out.push_str(if fatal { "error: " } else { "warning: " });
                out.push_str(&warning_text(warning));
                out.push('\n');
            }
        }
        out
    }
}

/// `word: message (hint)`.
#[must_use]
pub fn warning_text(warning: &Warning) -> String {
    let mut out = String::new();
    if !warning.word.is_empty() {
        out.push_str(&warning.word);
        out.push(' ');
    }
    out.push_str(&warning.message);
    if !warning.hint.is_empty() {
        out.push_str(" (");
        out.push_str(&warning.hint);
        out.push(')');
    }
    out
}

fn seconds(n: u32) -> String {
    text(&[&n.to_string(), " s"])
}

fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, " GiB"), (20, " MiB"), (10, " KiB")] {
        if bytes >= 1 << shift && bytes & ((1 << shift) - 1) == 0 {
            return text(&[&(bytes >> shift).to_string(), unit]);
        }
    }
    text(&[&bytes.to_string(), " bytes"])
}

fn drivers(plan: &BootPlan) -> Vec<String> {
    let drivers = &plan.drivers;
    let mut lines = alloc::vec![String::from("what the hardware and the plan ask for")];
    if !drivers.force.is_empty() {
        lines.push(text(&["loaded first: ", &drivers.force.join(", ")]));
    }
    if !drivers.blacklist.is_empty() {
        lines.push(text(&["never by themselves: ", &drivers.blacklist.join(", ")]));
    }
    if !drivers.options.is_empty() {
        let options: Vec<String> =
            drivers.options.iter().map(|o| text(&[&o.module, " ", &masked(&o.option)])).collect();
        lines.push(text(&["options: ", &options.join(", ")]));
    }
    lines
}

fn network(plan: &BootPlan) -> Vec<String> {
    let Some(network) = &plan.network else {
        return alloc::vec![String::from("none: nothing here needs one")];
    };
    let mut lines = alloc::vec![text(&[
        &addressing(network),
        " on ",
        &match (&network.links, &network.addressing) {
            (LinkChoice::Race, Addressing::Dhcp(_)) => {
                String::from("every wired link at once, the first with an answer wins")
            }
            (LinkChoice::Race, _) => String::from("the first wired link with a carrier"),
            (LinkChoice::Named(names), _) => names.join(", "),
            (LinkChoice::Mac(mac), _) => text(&["the link with ", &mac.to_string()]),
        },
        if network.required { "" } else { "; nothing waits for it" },
    ])];
    for name in &network.names {
        lines.push(text(&["the link with ", &name.mac.to_string(), " is called ", &name.name]));
    }
    if let Some(vlan) = &network.vlan {
        lines.push(text(&["VLAN ", &vlan.id.to_string(), " as ", &vlan.name, " on ", &vlan.link]));
    }
    let addresses = |list: &[core::net::Ipv4Addr]| {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if !network.dns.is_empty() {
        lines.push(text(&["name servers ", &addresses(&network.dns)]));
    }
    if !network.peer_dns {
        lines.push(String::from("name servers of DHCP are not used"));
    }
    if !network.ntp.is_empty() {
        lines.push(text(&["time servers ", &addresses(&network.ntp)]));
    }
    for route in &network.routes {
        let via = route.gateway.map(|g| text(&[" by ", &g.to_string()])).unwrap_or_default();
        lines.push(text(&[
            "route to ",
            &route.destination.to_string(),
            "/",
            &route.prefix.to_string(),
            &via,
        ]));
    }
    if let Some(server) = network.boot_server {
        lines.push(text(&["boot server ", &server.to_string()]));
    }
    if let Some(hostname) = &network.hostname {
        lines.push(text(&["host name ", hostname]));
    }
    if let Some(mtu) = network.mtu {
        lines.push(text(&["MTU ", &mtu.to_string()]));
    }
    let mut wait = text(&[
        "waits ",
        &seconds(network.link_timeout.0),
        " for a link, ",
        &seconds(network.carrier_timeout.0),
        " for a carrier",
    ]);
    if matches!(network.addressing, Addressing::Dhcp(_)) {
        wait.push_str(&text(&[", ", &seconds(network.dhcp_timeout.0), " for DHCP"]));
    }
    lines.push(wait);
    lines
}

fn addressing(network: &NetworkPlan) -> String {
    match &network.addressing {
        Addressing::Dhcp(request) => {
            let mut out = String::from("DHCP");
            if let Some(address) = request.requested {
                out.push_str(&text(&[" for ", &address.to_string()]));
            }
            if request.client_id.is_some() {
                out.push_str(" with a client identifier");
            }
            if let Some(class) = &request.vendor_class {
                out.push_str(&text(&[" as ", class]));
            }
            out
        }
        Addressing::Static(address) => {
            let gateway = address.gateway.map_or_else(
                || String::from(" without a gateway"),
                |g| text(&[", gateway ", &g.to_string(), ","]),
            );
            text(&[&address.address.to_string(), "/", &address.prefix.to_string(), &gateway])
        }
        Addressing::Existing => String::from("as it is configured already"),
    }
}

fn root(plan: &BootPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for (n, item) in plan.root.sources.iter().enumerate() {
        let line = source(item);
        lines.push(if n == 0 { line } else { text(&["or ", &line]) });
    }
    if lines.is_empty() {
        lines.push(String::from(match plan.handoff.then {
            Then::Clone(_) => "none: a disk is copied, nothing is booted",
            #[cfg(feature = "p2v")]
            Then::P2v(_) | Then::AskP2v => "none: disks are sent, nothing is booted",
            Then::SwitchRoot => "nothing says where it is",
        }));
        return lines;
    }
    lines.push(match &plan.root.content {
        Content::Tree { subdir, fstype, flags } => {
            let mut out = String::from(if subdir.is_empty() {
                "the file system there is the root"
            } else {
                "the directory "
            });
            if !subdir.is_empty() {
                out.push_str(&text(&[subdir, " there is the root"]));
            }
            if !fstype.is_empty() {
                out.push_str(&text(&[", ", fstype]));
            }
            if !flags.is_empty() {
                out.push_str(&text(&[", mounted with ", &masked(flags)]));
            }
            out
        }
        Content::Images(rule) => images(rule),
        Content::Either(rule) => text(&["an image of the root, or a medium: ", &images(rule)]),
    });
    if !plan.root.extra_dirs.is_empty() {
        lines.push(text(&["and those in its ", &plan.root.extra_dirs.join(", ")]));
    }
    for (says, pattern) in
        [("of them only those called ", &plan.root.only), ("but none called ", &plan.root.except)]
    {
        if !pattern.is_empty() {
            lines.push(text(&[says, pattern]));
        }
    }
    for item in &plan.root.integrity {
        lines.push(integrity(item));
    }
    match &plan.root.to_ram {
        ToRam::No => {}
        ToRam::Medium => lines.push(String::from("copied to memory whole, if it fits")),
        ToRam::Image(None) => {
            lines.push(String::from("its images are copied to memory, if they fit"))
        }
        ToRam::Image(Some(image)) => {
            lines.push(text(&["of it ", image, " is copied to memory, if it fits"]));
        }
        ToRam::Auto { below, spare } => lines.push(text(&[
            "copied to memory if smaller than ",
            &size(below.0),
            " and ",
            &size(spare.0),
            " stay free",
        ])),
    }
    if !plan.root.protect.is_empty() {
        lines.push(text(&["set read-only first: ", &plan.root.protect.join(", ")]));
    }
    let mut rounds = retry(plan.root.retry);
    if let Some(timeout) = plan.root.attempt_timeout {
        rounds.push_str(&text(&[", each for at most ", &seconds(timeout.0)]));
    }
    lines.push(rounds);
    lines
}

fn retry(retry: Retry) -> String {
    let pause = if retry.pause == retry.max_pause {
        seconds(retry.pause.0)
    } else {
        text(&[&retry.pause.0.to_string(), " to ", &seconds(retry.max_pause.0)])
    };
    match retry.attempts {
        0 => text(&["tried for ever, ", &pause, " apart"]),
        1 => String::from("tried once"),
        n => text(&["tried ", &n.to_string(), " times, ", &pause, " apart"]),
    }
}

/// A server as the line names it.
#[must_use]
pub fn server(server: &Server) -> &str {
    match server {
        Server::Host(host) => host,
        Server::Boot => "the boot server",
    }
}

/// A source in a few words, for messages too.
#[must_use]
pub fn source(item: &Source) -> String {
    match item {
        Source::Nfs(s) => {
            let path = s.path.as_deref().unwrap_or("the path that DHCP names");
            let versions: Vec<&str> =
                s.versions.iter().map(|v| nfsroot::version_name(*v)).collect();
            let options = if s.options.is_empty() {
                String::new()
            } else {
                text(&[", options ", &masked(&s.options.join(","))])
            };
            let mode = if s.read_write { ", read-write" } else { "" };
            text(&[
                "NFS ",
                server(&s.server),
                ":",
                path,
                ", version ",
                &versions.join(" or "),
                mode,
                &options,
            ])
        }
        Source::Cifs(s) => text(&["CIFS //", server(&s.server), "/", &s.share]),
        Source::Url(s) => {
            let what = match s.payload {
                Payload::Medium => "the medium ",
                Payload::Image => "the root image ",
                Payload::Archive => "the archive ",
                Payload::Sniff => "",
            };
            let proxy =
                s.proxy.as_ref().map(|p| text(&[" through ", &p.to_string()])).unwrap_or_default();
            text(&[what, &url(&s.url), ", fetched to memory", &proxy])
        }
        Source::Nbd(s) => text(&[
            "NBD export ",
            &s.export,
            " of ",
            server(&s.server),
            " port ",
            &s.port.to_string(),
        ]),
        Source::NvmeTcp(s) => {
            text(&["NVMe/TCP ", &s.nqn, " of ", server(&s.server), " port ", &s.port.to_string()])
        }
        Source::NineP(tag) => text(&["9p ", tag]),
        Source::VirtioFs(tag) => text(&["virtiofs ", tag]),
        Source::Device(selector) => device(selector),
        Source::Scan(rule) => {
            let mut out = String::from(match (rule.optical, rule.disks) {
                (true, true) if rule.removable_only => "any removable drive",
                (true, true) => "any drive",
                (true, false) => "any optical drive",
                _ => "any disk",
            });
            if rule.removable_first && !rule.removable_only {
                out.push_str(", removable ones first");
            }
            match &rule.marker {
                None => {}
                Some(Marker::Path(path)) => out.push_str(&text(&[" that holds ", path])),
                Some(Marker::DiskUuid { uuid, .. }) => {
                    out.push_str(&text(&[" with the UUID ", uuid]))
                }
            }
            out
        }
        Source::File { on, path } => text(&["the file ", path, " on ", &source(on)]),
        Source::Partition { on, number } => {
            text(&["partition ", &number.to_string(), " of ", &source(on)])
        }
        Source::Initramfs(path) if path == "/" => String::from("the initramfs itself"),
        Source::Initramfs(path) => text(&[path, " in the initramfs"]),
        Source::PxeFileList { server: from, port } => {
            text(&["the files of PXEFILELIST on ", server(from), " port ", &port.to_string()])
        }
        Source::Stage2(method) => text(&["a second stage received by ", &clone_method(method)]),
    }
}

fn clone_method(method: &CloneMethod) -> String {
    let argument = match method.protocol.argument {
        _ if method.argument.is_empty() => "",
        CloneArgument::None => "",
        CloneArgument::Session => " session ",
        CloneArgument::Port | CloneArgument::Room => " port ",
        CloneArgument::Urls => " ",
    };
    let shown: Vec<String> = method.argument.split(',').map(masked).collect();
    text(&[method.protocol.title, argument, &shown.join(", ")])
}

/// A URL; one without a host means the boot server.
#[cfg(feature = "explain")]
fn url(url: &Private) -> String {
    let shown = url.to_string();
    for end in ["/", ":"] {
        let hostless = text(&["://", end]);
        if crate::text::has(&shown, &hostless) {
            return crate::text::swap(&shown, &hostless, &text(&["://the boot server", end]));
        }
    }
    shown
}
#[cfg(not(feature = "explain"))]
fn url(url: &Private) -> String {
    url.to_string()
}

/// A source as `/init`'s messages name it: no options, no promises.
#[must_use]
pub fn brief(item: &Source) -> String {
    match item {
        Source::Nfs(s) => {
            let path = s.path.as_deref().unwrap_or("(root path of DHCP)");
            text(&["NFS ", server(&s.server), ":", path])
        }
        Source::Cifs(s) => text(&["CIFS share //", server(&s.server), "/", &s.share]),
        Source::Url(s) => url(&s.url),
        Source::Nbd(s) => {
            text(&["NBD ", server(&s.server), ":", &s.port.to_string(), "/", &s.export])
        }
        Source::NvmeTcp(s) => text(&["NVMe/TCP ", server(&s.server), ":", &s.port.to_string()]),
        Source::NineP(tag) => text(&["9p tag ", tag]),
        Source::VirtioFs(tag) => text(&["virtiofs tag ", tag]),
        Source::Device(selector) => property(selector),
        Source::Scan(rule) => String::from(match (rule.optical, rule.removable_only) {
            (_, true) => "removable disks",
            (true, _) => "optical drives and disks",
            (false, _) => "disks",
        }),
        Source::File { on, path } => text(&[path, " on ", &brief(on)]),
        Source::Partition { on, number } => {
            text(&["partition ", &number.to_string(), " of ", &brief(on)])
        }
        Source::Initramfs(path) => text(&[path, " in the initramfs"]),
        Source::PxeFileList { port, .. } => text(&["PXEFILELIST, port ", &port.to_string()]),
        Source::Stage2(_) => String::from("a clone sender"),
    }
}

/// A device as `root=` names it: `LABEL=root`.
#[must_use]
pub fn property(selector: &DeviceSelector) -> String {
    match selector {
        DeviceSelector::Path(path) => path.clone(),
        DeviceSelector::Label(label) => text(&["LABEL=", label]),
        DeviceSelector::Uuid(uuid) => text(&["UUID=", uuid]),
        DeviceSelector::PartUuid(uuid) => text(&["PARTUUID=", uuid]),
        DeviceSelector::PartLabel(label) => text(&["PARTLABEL=", label]),
    }
}

/// A device in a few words, for messages too.
#[must_use]
pub fn device(selector: &DeviceSelector) -> String {
    match selector {
        DeviceSelector::Path(path) => path.clone(),
        DeviceSelector::Label(label) => text(&["the device labelled ", label]),
        DeviceSelector::Uuid(uuid) => text(&["the device with UUID ", uuid]),
        DeviceSelector::PartUuid(uuid) => text(&["the partition with UUID ", uuid]),
        DeviceSelector::PartLabel(name) => text(&["the partition named ", name]),
    }
}

fn images(rule: &ImageRule) -> String {
    let dirs =
        rule.dirs.iter().map(|d| if d.is_empty() { "/" } else { d.as_str() }).collect::<Vec<_>>();
    let mut out = match &rule.pick {
        ImagePick::Named(names) if names.len() == 1 => names.join(""),
        ImagePick::Named(names) => text(&[&names.join(" under ")]),
        ImagePick::FirstOf(names) => names.join(" or "),
        ImagePick::Suffixes { groups, module_list, .. } => {
            let groups: Vec<String> = groups
                .iter()
                .map(|group| group.iter().map(|s| text(&["*", s])).collect::<Vec<_>>().join(" "))
                .collect();
            let mut out =
                text(&["all of ", &groups.join(", then "), ", sorted, later ones on top"]);
            if !module_list.is_empty() {
                out.push_str(&text(&[", or what ", &module_list.join(" or "), " lists"]));
            }
            out
        }
    };
    out.push_str(&text(&[" in ", &dirs.join(" or ")]));
    if !rule.nested.is_empty() {
        out.push_str(&text(&["; inside it ", &rule.nested.join(" or ")]));
    }
    out
}

fn integrity(item: &Integrity) -> String {
    match item {
        Integrity::Digest { algorithm, hex } => text(&["must have the ", algorithm, " ", hex]),
        Integrity::Verity { image, root_hash, .. } => text(&[
            "read through dm-verity",
            if image.is_empty() { "" } else { " for " },
            image,
            ", root hash ",
            root_hash,
        ]),
        Integrity::EmbeddedMd5 => String::from("must match the MD5 inside the ISO"),
        Integrity::MediumSums(files) => text(&["must match ", &files.join(" or ")]),
    }
}

fn writable(writable: &Writable) -> Vec<String> {
    let mut lines = Vec::new();
    match writable {
        Writable::AsIs { read_write: true } => {
            lines.push(String::from("the root itself is mounted read-write"))
        }
        Writable::AsIs { read_write: false } => {
            lines.push(String::from("no: the root is mounted read-only"))
        }
        Writable::Union(plan) => lines.push(union(plan)),
        Writable::DmSnapshot(plan) => lines.push(snapshot(plan)),
        Writable::ByImage { union: plan, snapshot: over } => {
            lines.push(text(&["a file system inside an image: ", &snapshot(over)]));
            lines.push(text(&["a tree: ", &union(plan)]));
        }
        Writable::Directories { union: plan, dirs } if dirs.is_empty() => {
            let _ = plan;
            lines.push(String::from("no"));
        }
        Writable::Directories { union: plan, dirs } => {
            lines.push(text(&["only ", &dirs.join(", ")]));
            lines.push(union(plan));
        }
    }
    lines
}

fn union(plan: &UnionPlan) -> String {
    let kind = match plan.kind {
        UnionKind::Overlay => "overlay, ",
        UnionKind::Aufs => "aufs, ",
    };
    match &plan.upper {
        Upper::Tmpfs { size } if size.is_empty() => {
            text(&[kind, "changes in memory, at most half of it"])
        }
        Upper::Tmpfs { size } => text(&[kind, "changes in memory, at most ", size]),
        Upper::Persistent(plan) => text(&[kind, "changes kept on ", &persist(plan)]),
    }
}

fn persist(plan: &PersistPlan) -> String {
    let mut places = Vec::new();
    if let Some(item) = &plan.network {
        places.push(source(item));
    }
    if let Some(selector) = &plan.device {
        places.push(device(selector));
    }
    if !plan.labels.is_empty() {
        let what = if plan.filesystem { "what is labelled " } else { "the file " };
        places.push(text(&[what, &plan.labels.join(" or ")]));
    }
    if places.is_empty() {
        places.push(String::from("the medium"));
    }
    let mut out = places.join(" or ");
    if let Some(path) = &plan.path {
        out.push_str(&text(&[", ", path]));
    }
    for (is, what) in [
        (plan.conf, ", as its persistence.conf says"),
        (plan.luks, ", LUKS too"),
        (plan.removable_only, ", removable only"),
        (plan.read_only, ", read-only under this session's changes"),
        (plan.reset, ", emptied first"),
        (plan.required, ", without which the boot fails"),
        (plan.silent, ", if there is one"),
    ] {
        if is {
            out.push_str(what);
        }
    }
    if let Some(bytes) = plan.create {
        out.push_str(&text(&[", made with ", &size(bytes.0), " when missing"]));
    }
    if !plan.required && !plan.silent {
        out.push_str("; in memory when it is not found");
    }
    out
}

fn snapshot(plan: &SnapshotPlan) -> String {
    let store = match &plan.store {
        SnapshotStore::RamDisk(bytes) => text(&["a RAM disk of ", &size(bytes.0)]),
        SnapshotStore::SparseFile(bytes) => {
            text(&["a sparse file of ", &size(bytes.0), " in memory"])
        }
        SnapshotStore::Persistent(place) => {
            text(&[&persist(place), ", else in a sparse file of ", &size(plan.fallback.0)])
        }
    };
    text(&[
        "device-mapper snapshot, changes in ",
        &store,
        ", chunks of ",
        &size(u64::from(plan.chunk_sectors) * 512),
        if plan.persistent { ", kept" } else { "" },
    ])
}

/// What is sent where, and what becomes of it.
#[cfg(feature = "p2v")]
fn p2v(plan: &P2vPlan) -> Vec<String> {
    let server = match &plan.server {
        Server::Host(host) => host.as_str(),
        Server::Boot => "the boot server",
    };
    let to = text(&[server, " port ", &plan.port.to_string()]);
    let way = match plan.way {
        P2vWay::V2v => text(&["virt-v2v at ", &to, " as ", &plan.user]),
        P2vWay::Ssh => text(&[&plan.path, " at ", &to, " as ", &plan.user]),
        P2vWay::Nbd => text(&["the NBD server at ", &to]),
        P2vWay::Tcp => text(&["nc at ", &to]),
        P2vWay::Own => text(&["bellwether clone p2v-server at ", &to]),
    };
    let all = String::from("all disks that stay in the machine");
    let disks = if plan.disks.is_empty() { all } else { plan.disks.join(", ") };
    let mut lines = alloc::vec![text(&["SENDS ", &disks, " to ", &way])];
    if matches!(plan.way, P2vWay::V2v | P2vWay::Ssh) {
        let login = match (&plan.identity, &plan.password) {
            (Some(_), _) => "with a private key",
            (None, Some(_)) => "with a password",
            (None, None) => "with NEITHER a password nor a key: it will be refused",
        };
        let key = match &plan.host_key {
            Some(key) => text(&["the host key must be ", key]),
            None => String::from("the host key is shown and NOT CHECKED"),
        };
        lines.push(text(&[login, "; ", &key]));
    }
    if plan.way == P2vWay::V2v {
        let mut output = text(&["output ", &plan.output]);
        if !plan.storage.is_empty() {
            output.push_str(&text(&[" in ", &plan.storage]));
        }
        for (option, value) in &plan.options {
            output.push_str(&text(&[" ", option, " ", &masked(value)]));
        }
        lines.push(output);
    }
    let changes: &[&str] = match plan.way {
        P2vWay::V2v => &["nothing changes on the disks; virt-v2v changes its copy"],
        _ if plan.edit => &[
            "nothing changes on the disks",
            "changes the copy, by a snapshot in memory:",
            "  the logs of its file systems are replayed",
            "  names like /dev/sda1 in fstab, crypttab and the boot loader become UUIDs",
            "  network settings that are bound to one card hold for the guest's",
        ],
        _ => &["nothing changes on the disks, nor in the copy"],
    };
    lines.extend(changes.iter().map(ToString::to_string));
    if plan.zero_bad {
        lines.push(String::from("sectors that cannot be read are zeros in the copy"));
    }
    let after = if plan.post.is_empty() { "waits at the console" } else { plan.post.as_str() };
    lines.push(text(&["afterwards: ", after]));
    lines
}

/// What the host's command does.
fn by_host(clone: &ClonePlan) -> Option<String> {
    let program = clone.program().filter(|_| cfg!(feature = "explain"))?;
    let options = clone.options.join(" ");
    Some(text(&["as bellwether clone ", program, " ", &options, ", which must be in the image"]))
}

#[cfg(not(feature = "explain"))]
fn source_of_room(_: &ClonePlan) -> Option<String> {
    Some(String::from("SENDS A DISK as source of a room"))
}

#[cfg(feature = "explain")]
fn source_of_room(clone: &ClonePlan) -> [String; 3] {
    let disk = clone.target.as_ref().map_or_else(|| String::from("the only disk"), device);
    let wait = match clone.timeout.0 {
        0 => String::from("without a limit"),
        n => seconds(n),
    };
    let to = if clone.key.is_some() { "targets that know the key" } else { "any target" };
    let then = if clone.power_off { "switches the machine off" } else { "reboots" };
    [
        text(&[
            "SENDS ",
            &disk,
            " as ",
            &clone_method(&clone.method),
            "; nothing is written to it",
        ]),
        text(&["to ", to, ", for which it waits ", &wait]),
        text(&["when the copies are made, ", then]),
    ]
}

fn handoff(plan: &BootPlan) -> Vec<String> {
    let handoff = &plan.handoff;
    #[cfg(feature = "p2v")]
    if let Then::P2v(plan) = &handoff.then {
        return p2v(plan);
    }
    #[cfg(feature = "p2v")]
    if let Then::AskP2v = &handoff.then {
        let asks = "ASKS AT THE CONSOLE where the disks of this machine go";
        return alloc::vec![String::from(asks), String::from("nothing changes on them")];
    }
    if let Then::Clone(clone) = &handoff.then {
        let target = clone
            .target
            .as_ref()
            .map_or_else(|| String::from("the disk that the sender names"), device);
        let from: Vec<String> = clone.from.iter().map(ToString::to_string).collect();
        let urls = clone.method.protocol.argument == CloneArgument::Urls;
        let from = match (from.is_empty(), clone.key.is_some()) {
            _ if urls => String::from(match clone.digest.is_some() {
                true => "takes the image of this digest alone",
                false => "takes whatever image the first server has that answers",
            }),
            (true, false) => String::from("takes it from any sender of this network"),
            (true, true) => String::from("takes it from a sender that knows the key"),
            (false, false) => text(&["takes it from ", &from.join(", "), " alone"]),
            (false, true) => text(&["takes it from ", &from.join(", "), " alone, with the key"]),
        };
        let digest = clone.digest.as_ref().map(|digest| text(&["it must have ", digest]));
        let by_host = by_host(clone);
        if clone.method.protocol.name == "source" {
            return source_of_room(clone).into_iter().chain(by_host).collect();
        }
        let lines = alloc::vec![
            text(&["RECEIVES A COPY by ", &clone_method(&clone.method), " onto ", &target]),
            text(&[
                "waits ",
                &seconds(clone.timeout.0),
                " for the sender, ",
                &clone.tries.to_string(),
                " times, then reboots",
            ]),
            text(&[
                "with a copy, ",
                if clone.verify { "reads it back and " } else { "does NOT read it back and " },
                if clone.power_off { "switches the machine off" } else { "reboots" },
            ]),
            from,
        ];
        return lines.into_iter().chain(digest).chain(by_host).collect();
    }
    let mut line = handoff.init.clone().unwrap_or_else(|| String::from("/sbin/init"));
    for arg in &handoff.args {
        line.push(' ');
        line.push_str(&masked(arg));
    }
    if !matches!(handoff.layout, Dialect::Kernel | Dialect::Bellwether) {
        line.push_str(&text(&[", files as ", handoff.layout.name(), " leaves them"]));
    }
    let mut lines = alloc::vec![line];
    let mut extras = Vec::new();
    for (is, what) in [
        (handoff.keep_fstab, "fstab is left alone"),
        (handoff.keep_network, "network files are left alone"),
        (!handoff.resolv_conf, "resolv.conf is not copied"),
        (handoff.show_layers, "layers stay visible"),
    ] {
        if is {
            extras.push(what);
        }
    }
    if !extras.is_empty() {
        lines.push(extras.join(", "));
    }
    if let Some(dir) = &handoff.medium_at {
        lines.push(text(&["the medium is moved to ", dir]));
    }
    if !handoff.swap.is_empty() {
        lines.push(text(&["swap partitions on ", &handoff.swap.join(", "), " go into fstab"]));
    }
    for (name, value) in &handoff.settings {
        let shown = masked(&text(&[name, "=", value]));
        lines.push(match shown.split_once('=') {
            Some((name, value)) if !value.is_empty() => text(&["setting ", name, " = ", value]),
            _ => text(&["setting ", name]),
        });
    }
    lines
}

fn failure(plan: &BootPlan) -> Vec<String> {
    let failure = &plan.failure;
    let mut lines = alloc::vec![match failure.then {
        OnFailure::Menu { retry_after } => {
            text(&["a menu; tried again by itself after ", &seconds(retry_after.0)])
        }
        OnFailure::Reboot(after) if after.0 == 0 => String::from("reboot at once"),
        OnFailure::Reboot(after) => text(&["reboot after ", &seconds(after.0)]),
        OnFailure::Halt => String::from("stays on the failure screen"),
    }];
    if let Some(deadline) = failure.deadline {
        lines.push(text(&["the whole boot counts as failed after ", &seconds(deadline.0)]));
    }
    if failure.locked {
        lines.push(String::from(
            "the console is locked: no shell, no editing of the line, no stops",
        ));
    }
    if !failure.breakpoints.is_empty() {
        lines.push(text(&["stops for the menu at ", &failure.breakpoints.join(", ")]));
    }
    lines
}
