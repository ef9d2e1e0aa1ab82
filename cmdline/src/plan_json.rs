//! [`BootPlan`] as JSON. Keys are the fields' names; a choice is an object with its
//! kind under `"kind"`. Keys are only ever added. [`Json`] leaves passwords out.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::json::Json;
use crate::nfsroot;
use crate::plan::{
    Addressing, BootPlan, CloneArgument, CloneMethod, Content, DeviceSelector, Fate, Handoff,
    ImagePick, ImageRule, Integrity, LinkChoice, Marker, NetworkPlan, OnCorruption, OnFailure,
    Payload, PersistPlan, RootPlan, Server, SnapshotPlan, SnapshotStore, Source, Then, ToRam,
    UnionKind, UnionPlan, Upper, Writable,
};
use crate::secrets::{Private, masked};

impl BootPlan {
    /// The plan as one JSON document, a line per part.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut j = Json::new();
        j.object();
        j.newline().field("dialect", self.dialect.name());
        j.newline().flag("can_work", self.can_work());
        j.newline().key("log").object();
        j.flag("quiet", self.log.quiet).flag("debug", self.log.debug).end_object();
        j.newline().key("drivers").object();
        j.list("blacklist", &self.drivers.blacklist);
        j.list("force", &self.drivers.force);
        j.key("options").array();
        for option in &self.drivers.options {
            j.object().field("module", &option.module);
            j.field("option", &option.option).end_object();
        }
        j.end_array().end_object();
        j.newline().key("network");
        match &self.network {
            Some(plan) => network(&mut j, plan),
            None => {
                j.null();
            }
        }
        j.newline().key("root");
        root(&mut j, &self.root);
        j.newline().key("writable");
        writable(&mut j, &self.writable);
        j.newline().key("handoff");
        handoff(&mut j, &self.handoff);
        j.newline().key("failure").object().key("then");
        match self.failure.then {
            OnFailure::Menu { retry_after } => {
                kind(&mut j, "menu").count("retry_after", u64::from(retry_after.0)).end_object();
            }
            OnFailure::Reboot(after) => {
                kind(&mut j, "reboot").count("after", u64::from(after.0)).end_object();
            }
            OnFailure::Halt => {
                kind(&mut j, "halt").end_object();
            }
        }
        j.key("deadline");
        match self.failure.deadline {
            Some(seconds) => j.number(u64::from(seconds.0)),
            None => j.null(),
        };
        j.list("breakpoints", &self.failure.breakpoints);
        j.flag("shell", !self.failure.locked).flag("locked", self.failure.locked).end_object();
        j.newline().key("words").array();
        for word in &self.words {
            j.newline().object().field("word", &word.text);
            j.field("fate", fate_name(word.fate));
            if let Fate::Foreign(dialect) = word.fate {
                j.field("dialect", dialect.name());
            }
            j.end_object();
        }
        j.end_array();
        j.newline().key("warnings").array();
        for warning in &self.warnings {
            j.newline().object().field("word", &warning.word);
            j.field("message", &warning.message).field("hint", &warning.hint);
            j.flag("fatal", warning.fatal).end_object();
        }
        j.end_array().end_object();
        let mut text = j.finish();
        text.push('\n');
        text
    }
}

/// `"used"`, `"overridden"`, …
#[must_use]
pub fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Used => "used",
        Fate::Overridden => "overridden",
        Fate::PassedOn => "passed on",
        Fate::Ignored => "ignored",
        Fate::Foreign(_) => "foreign",
        Fate::Unknown => "unknown",
    }
}

fn kind<'j>(j: &'j mut Json, name: &str) -> &'j mut Json {
    j.object().field("kind", name)
}

fn server(j: &mut Json, server: &Server) {
    j.key("server");
    match server {
        Server::Host(host) => j.string(host),
        // Whatever DHCP calls the boot server.
        Server::Boot => j.null(),
    };
}

fn maybe_number(j: &mut Json, key: &str, number: Option<u64>) {
    j.key(key);
    match number {
        Some(number) => j.number(number),
        None => j.null(),
    };
}

fn network(j: &mut Json, plan: &NetworkPlan) {
    let addresses = |j: &mut Json, list: &[core::net::Ipv4Addr]| {
        j.array();
        for address in list {
            j.string(&address.to_string());
        }
        j.end_array();
    };
    j.object().flag("required", plan.required).key("links");
    match &plan.links {
        LinkChoice::Race => kind(j, "race").end_object(),
        LinkChoice::Named(names) => kind(j, "named").list("names", names).end_object(),
        LinkChoice::Mac(mac) => kind(j, "mac").field("mac", &mac.to_string()).end_object(),
    };
    j.key("addressing");
    match &plan.addressing {
        Addressing::Dhcp(request) => {
            kind(j, "dhcp").key("requested");
            j.maybe(request.requested.map(|a| a.to_string()).as_deref());
            j.key("client_id");
            match &request.client_id {
                Some((id_type, bytes)) => {
                    let mut hex = String::new();
                    for byte in bytes {
                        for digit in [byte >> 4, byte & 15] {
                            hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
                        }
                    }
                    j.object().count("type", u64::from(*id_type));
                    j.field("hex", &hex).end_object();
                }
                None => {
                    j.null();
                }
            }
            j.maybe_field("vendor_class", request.vendor_class.as_deref()).end_object();
        }
        Addressing::Static(address) => {
            kind(j, "static").field("address", &address.address.to_string());
            j.count("prefix", u64::from(address.prefix)).key("gateway");
            j.maybe(address.gateway.map(|a| a.to_string()).as_deref()).end_object();
        }
        Addressing::Existing => {
            kind(j, "existing").end_object();
        }
    }
    j.key("names").array();
    for name in &plan.names {
        j.object().field("name", &name.name).field("mac", &name.mac.to_string());
        j.end_object();
    }
    j.end_array().key("vlan");
    match &plan.vlan {
        Some(vlan) => {
            j.object().field("name", &vlan.name).field("link", &vlan.link);
            j.count("id", u64::from(vlan.id)).end_object();
        }
        None => {
            j.null();
        }
    }
    j.maybe_field("hostname", plan.hostname.as_deref()).key("dns");
    addresses(j, &plan.dns);
    j.key("ntp");
    addresses(j, &plan.ntp);
    j.key("routes").array();
    for route in &plan.routes {
        j.object().field("destination", &route.destination.to_string());
        j.count("prefix", u64::from(route.prefix)).key("gateway");
        j.maybe(route.gateway.map(|a| a.to_string()).as_deref()).end_object();
    }
    j.end_array();
    maybe_number(j, "mtu", plan.mtu.map(u64::from));
    j.flag("peer_dns", plan.peer_dns).key("boot_server");
    j.maybe(plan.boot_server.map(|a| a.to_string()).as_deref());
    j.count("link_timeout", u64::from(plan.link_timeout.0));
    j.count("carrier_timeout", u64::from(plan.carrier_timeout.0));
    j.count("dhcp_timeout", u64::from(plan.dhcp_timeout.0)).end_object();
}

fn root(j: &mut Json, plan: &RootPlan) {
    j.object().key("sources").array();
    for item in &plan.sources {
        source(j, item);
    }
    j.end_array().key("content");
    match &plan.content {
        Content::Tree { subdir, fstype, flags } => {
            kind(j, "tree").field("subdir", subdir).field("fstype", fstype);
            j.field("flags", flags).end_object();
        }
        Content::Images(rule) => image_rule(j, "images", rule),
        Content::Either(rule) => image_rule(j, "either", rule),
    }
    j.key("retry").object().count("attempts", u64::from(plan.retry.attempts));
    j.count("pause", u64::from(plan.retry.pause.0));
    j.count("max_pause", u64::from(plan.retry.max_pause.0)).end_object();
    maybe_number(j, "attempt_timeout", plan.attempt_timeout.map(|s| u64::from(s.0)));
    j.key("to_ram");
    match &plan.to_ram {
        ToRam::No => kind(j, "no"),
        ToRam::Medium => kind(j, "medium"),
        ToRam::Image(image) => kind(j, "image").maybe_field("image", image.as_deref()),
        ToRam::Auto { below, spare } => {
            kind(j, "auto").count("below", below.0).count("spare", spare.0)
        }
    }
    .end_object()
    .key("integrity")
    .array();
    for item in &plan.integrity {
        match item {
            Integrity::Digest { algorithm, hex } => {
                kind(j, "digest").field("algorithm", algorithm).field("hex", hex)
            }
            Integrity::Verity { image, root_hash, on_corruption } => {
                kind(j, "verity").field("image", image).field("root_hash", root_hash).field(
                    "on_corruption",
                    match on_corruption {
                        OnCorruption::Error => "error",
                        OnCorruption::Ignore => "ignore",
                        OnCorruption::Restart => "restart",
                        OnCorruption::Panic => "panic",
                    },
                )
            }
            Integrity::EmbeddedMd5 => kind(j, "embedded_md5"),
            Integrity::MediumSums(files) => kind(j, "medium_sums").list("files", files),
        }
        .end_object();
    }
    j.end_array().list("extra_dirs", &plan.extra_dirs);
    j.key("only").string(&plan.only).key("except").string(&plan.except);
    j.list("protect", &plan.protect).end_object();
}

fn source(j: &mut Json, item: &Source) {
    match item {
        Source::Nfs(s) => {
            kind(j, "nfs");
            server(j, &s.server);
            j.maybe_field("path", s.path.as_deref()).key("versions").array();
            for version in &s.versions {
                j.string(nfsroot::version_name(*version));
            }
            j.end_array().list("options", &s.options);
            j.flag("read_write", s.read_write);
        }
        Source::Cifs(s) => {
            kind(j, "cifs");
            server(j, &s.server);
            let options: Vec<&str> = s.options.iter().map(Private::reveal).collect();
            j.field("share", &s.share).key("options").strings(&options);
            j.flag("read_write", s.read_write);
        }
        Source::Url(s) => {
            kind(j, "url").field("url", s.url.reveal()).field(
                "payload",
                match s.payload {
                    Payload::Medium => "medium",
                    Payload::Image => "image",
                    Payload::Archive => "archive",
                    Payload::Sniff => "sniff",
                },
            );
            j.maybe_field("proxy", s.proxy.as_ref().map(Private::reveal));
        }
        Source::Nbd(s) => {
            kind(j, "nbd");
            server(j, &s.server);
            j.count("port", u64::from(s.port)).field("export", &s.export);
            j.count("connections", u64::from(s.connections));
        }
        Source::NvmeTcp(s) => {
            kind(j, "nvme_tcp");
            server(j, &s.server);
            j.count("port", u64::from(s.port)).field("nqn", &s.nqn);
            j.maybe_field("host_nqn", s.host_nqn.as_deref());
        }
        Source::NineP(tag) => {
            kind(j, "9p").field("tag", tag);
        }
        Source::VirtioFs(tag) => {
            kind(j, "virtiofs").field("tag", tag);
        }
        Source::Device(selector) => {
            kind(j, "device").key("device");
            device(j, selector);
        }
        Source::Scan(rule) => {
            kind(j, "scan").flag("optical", rule.optical).flag("disks", rule.disks);
            j.flag("removable_only", rule.removable_only);
            j.flag("removable_first", rule.removable_first).key("marker");
            match &rule.marker {
                None => j.null(),
                Some(Marker::Path(path)) => kind(j, "path").field("path", path).end_object(),
                Some(Marker::DiskUuid { prefix, uuid }) => {
                    kind(j, "disk_uuid").field("prefix", prefix).field("uuid", uuid).end_object()
                }
            };
        }
        Source::File { on, path } => {
            kind(j, "file").field("path", path).key("on");
            source(j, on);
        }
        Source::Partition { on, number } => {
            kind(j, "partition").count("number", u64::from(*number)).key("on");
            source(j, on);
        }
        Source::Initramfs(path) => {
            kind(j, "initramfs").field("path", path);
        }
        Source::PxeFileList { server: from, port } => {
            kind(j, "pxe_file_list");
            server(j, from);
            j.count("port", u64::from(*port));
        }
        Source::Stage2(method) => {
            kind(j, "stage2").key("method");
            clone_method(j, method);
        }
    }
    j.end_object();
}

fn clone_method(j: &mut Json, method: &CloneMethod) {
    let j = kind(j, method.protocol.name);
    match method.protocol.argument {
        CloneArgument::None => j,
        CloneArgument::Session => j.field("session", &method.argument),
        CloneArgument::Room if method.argument.is_empty() => j,
        CloneArgument::Room => j.count("port", method.argument.parse().unwrap_or(0)),
        CloneArgument::Urls => {
            let urls: Vec<String> = method.argument.split(',').map(masked).collect();
            j.key("urls").strings(&urls)
        }
        CloneArgument::Port => j.count("portbase", method.argument.parse().unwrap_or(0)),
    }
    .end_object();
}

fn device(j: &mut Json, selector: &DeviceSelector) {
    let (key, value) = match selector {
        DeviceSelector::Path(value) => ("path", value),
        DeviceSelector::Label(value) => ("label", value),
        DeviceSelector::Uuid(value) => ("uuid", value),
        DeviceSelector::PartUuid(value) => ("partuuid", value),
        DeviceSelector::PartLabel(value) => ("partlabel", value),
    };
    j.object().field(key, value).end_object();
}

fn image_rule(j: &mut Json, name: &str, rule: &ImageRule) {
    kind(j, name).list("dirs", &rule.dirs).key("pick");
    match &rule.pick {
        ImagePick::Named(names) => kind(j, "named").list("names", names),
        ImagePick::FirstOf(names) => kind(j, "first_of").list("names", names),
        ImagePick::Suffixes { groups, skip, module_list, per_mac } => {
            kind(j, "suffixes").key("groups").array();
            for group in groups {
                j.strings(group);
            }
            j.end_array().list("skip", skip).list("module_list", module_list);
            j.flag("per_mac", *per_mac)
        }
    }
    .end_object()
    .list("nested", &rule.nested)
    .end_object();
}

fn writable(j: &mut Json, writable: &Writable) {
    match writable {
        Writable::AsIs { read_write } => {
            kind(j, "as_is").flag("read_write", *read_write);
        }
        Writable::Union(plan) => {
            kind(j, "union").key("union");
            union(j, plan);
        }
        Writable::DmSnapshot(plan) => {
            kind(j, "dm_snapshot").key("snapshot");
            snapshot(j, plan);
        }
        Writable::ByImage { union: plan, snapshot: over } => {
            kind(j, "by_image").key("union");
            union(j, plan);
            j.key("snapshot");
            snapshot(j, over);
        }
        Writable::Directories { union: plan, dirs } => {
            kind(j, "directories").list("dirs", dirs).key("union");
            union(j, plan);
        }
    }
    j.end_object();
}

fn union(j: &mut Json, plan: &UnionPlan) {
    j.object().field(
        "file_system",
        match plan.kind {
            UnionKind::Overlay => "overlay",
            UnionKind::Aufs => "aufs",
        },
    );
    j.key("upper");
    match &plan.upper {
        Upper::Tmpfs { size } => {
            kind(j, "tmpfs").field("size", size).end_object();
        }
        Upper::Persistent(plan) => persist(j, plan),
    }
    j.list("options", &plan.options).end_object();
}

fn snapshot(j: &mut Json, plan: &SnapshotPlan) {
    j.object().key("store");
    match &plan.store {
        SnapshotStore::RamDisk(size) => {
            kind(j, "ram_disk").count("size", size.0).end_object();
        }
        SnapshotStore::SparseFile(size) => {
            kind(j, "sparse_file").count("size", size.0).end_object();
        }
        SnapshotStore::Persistent(plan) => persist(j, plan),
    }
    j.count("fallback", plan.fallback.0).flag("persistent", plan.persistent);
    j.count("chunk_sectors", u64::from(plan.chunk_sectors)).end_object();
}

fn persist(j: &mut Json, plan: &PersistPlan) {
    kind(j, "persistent").list("labels", &plan.labels);
    j.list("home_labels", &plan.home_labels).key("device");
    match &plan.device {
        Some(selector) => device(j, selector),
        None => {
            j.null();
        }
    }
    j.key("network");
    match &plan.network {
        Some(item) => source(j, item),
        None => {
            j.null();
        }
    }
    j.maybe_field("path", plan.path.as_deref());
    for (key, value) in [
        ("filesystem", plan.filesystem),
        ("file", plan.file),
        ("directory", plan.directory),
        ("read_only", plan.read_only),
        ("conf", plan.conf),
        ("luks", plan.luks),
        ("removable_only", plan.removable_only),
        ("reset", plan.reset),
        ("required", plan.required),
        ("silent", plan.silent),
    ] {
        j.flag(key, value);
    }
    j.field("fstype", &plan.fstype).field("flags", &plan.flags);
    maybe_number(j, "create", plan.create.map(|size| size.0));
    j.end_object();
}

fn handoff(j: &mut Json, plan: &Handoff) {
    j.object().field("layout", plan.layout.name());
    j.maybe_field("init", plan.init.as_deref()).list("args", &plan.args);
    j.flag("keep_fstab", plan.keep_fstab).flag("keep_network", plan.keep_network);
    j.flag("resolv_conf", plan.resolv_conf).key("settings").object();
    for (name, value) in &plan.settings {
        j.field(name, value);
    }
    j.end_object().flag("show_layers", plan.show_layers);
    j.maybe_field("medium_at", plan.medium_at.as_deref()).list("swap", &plan.swap);
    j.key("then");
    match &plan.then {
        Then::SwitchRoot => {
            kind(j, "switch_root");
        }
        #[cfg(feature = "p2v")]
        Then::AskP2v => {
            kind(j, "ask_p2v");
        }
        #[cfg(feature = "p2v")]
        Then::P2v(plan) => {
            kind(j, "p2v").field("way", plan.way.name());
            j.field(
                "server",
                match &plan.server {
                    Server::Host(host) => host,
                    Server::Boot => "",
                },
            );
            j.count("port", u64::from(plan.port)).field("path", &plan.path);
            j.field("user", &plan.user).maybe_field("host_key", plan.host_key.as_deref());
            j.flag("password", plan.password.is_some()).flag("identity", plan.identity.is_some());
            j.flag("key", plan.key.is_some());
            j.list("disks", &plan.disks).field("output", &plan.output);
            j.field("storage", &plan.storage).flag("zero_bad", plan.zero_bad);
            j.flag("edit", plan.edit);
            j.field("post", &plan.post).field("fail", &plan.fail);
        }
        Then::Clone(plan) => {
            kind(j, "clone").key("method");
            clone_method(j, &plan.method);
            j.key("target");
            match &plan.target {
                Some(selector) => device(j, selector),
                None => {
                    j.null();
                }
            }
            j.count("timeout", u64::from(plan.timeout.0));
            j.count("tries", u64::from(plan.tries));
            j.flag("verify", plan.verify);
            j.flag("power_off", plan.power_off);
            let from: alloc::vec::Vec<String> = plan.from.iter().map(ToString::to_string).collect();
            j.list("from", &from).maybe_field("digest", plan.digest.as_deref());
            // Of secrets only that there are any.
            j.flag("key", plan.key.is_some()).flag("password", plan.password.is_some());
            j.list("options", &plan.options);
        }
    }
    j.end_object().end_object();
}
