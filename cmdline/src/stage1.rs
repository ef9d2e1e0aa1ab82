//! Mandriva's and Mageia's stage1: `automatic=`, `rescue`, `kamethod`.
//!
//! Read from mdk-stage1 (2005 to 2018) and from IGGI's document for the Dolly words.
//! Where stage1 leaves automatic mode and asks, there is no prompt here: that is an
//! error of the line. `automatic=` entries, unlike words, have short aliases; both
//! spellings and the `net` of the documents are taken, the first of a key wins.
//!
//! `<directory>/<ARCH>` is tried before `<directory>`, not instead of it, and an ISO
//! in the directory is used when it is the only one. The image is not copied to
//! memory; bzip2 images (until 2004) are not read.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ip::{Ip, Method};
use crate::plan::{
    BootPlan, CloneMethod, Content, Dialect, ImagePick, LinkChoice, OnFailure, Payload, Seconds,
    Source, Then, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, text, words};
use crate::{base, net, nfsroot, own, source, value};

words! { STAGE1, STAGE1_DOCS:
    "automatic" Text Keep "KEY:VALUE,… — the answers to stage1's questions.";
    "rescue" OptText Local "The rescue system, not the installer; systemd reads the word, too, and wants systemd.unit=multi-user.target behind it.";
    "kamethod" OptText Keep "Receive a copy of a machine by KA; the disk is overwritten.";
    "dollymethod" OptText Keep "Receive a copy of a disk by Dolly; the disk is overwritten.";
    "dollyCmethod" OptText Keep "Receive a copy by Dolly+; the disk is overwritten.";
    "kaopt" Text Keep "Name of the KA session.";
    "keepmounted" OptText Idle "The medium always stays mounted.";
    "noauto" OptText Idle "Hardware is always looked for.";
    "netauto" OptText Pass "For the installer.";
    "changedisk" OptText Idle "There is no prompt to change a disk.";
    "updatemodules" OptText Idle "No modules are read from floppies.";
    "thirdparty" OptText Idle "No modules are read from floppies.";
    "debugstage1" OptText Soft "Everything on the console.";
    "keepshell" OptText Idle "The failure menu offers a shell.";
    "nettest" OptText Idle "For stage1's own tests.";
    "root" Text Pass "/dev/ram3 dates from ramdisks and is ignored.";
}

/// Read by the installer or by the rescue system.
const PASS: &str = "expert oem restore save_all rest_all flash BOX pserver kickstart auto_install vga ramdisk_size \
    acpi security text nopaste askdisplay vdisplay lang noreload mount-only defcfg noscsi xlive";

/// Keys of `automatic=`: name and alias.
const KEYS: [(&str, &str); 21] = [
    ("method", "met"),
    ("network", "netw"),
    ("interface", "int"),
    ("ip", "ip"),
    ("netmask", "netm"),
    ("gateway", "gat"),
    ("dns", "dns"),
    ("hostname", "hos"),
    ("domain", "dom"),
    ("server", "ser"),
    ("directory", "dir"),
    ("user", "use"),
    ("pass", "pas"),
    ("proxy_host", "proxh"),
    ("proxy_port", "proxp"),
    ("disk", "dis"),
    ("partition", "par"),
    ("thirdparty", "thirdparty"),
    ("adsluser", "adslu"),
    ("adslpass", "adslp"),
    ("dolly_timeout", "dolly_timeout"),
];

/// Suffixes of a second stage, newest era first.
const SUFFIXES: [&str; 3] = [".sqfs", ".clp", ".cpio.xz"];

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Stage1,
    tables: &[&own::OWN, &own::P2V, &STAGE1, &net::NET, &base::BASE],
    pass: PASS,
    first_wins: true,
    splits_quotes: true,
    build,
};

/// The entries of `automatic=`.
struct Answers<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Answers<'a> {
    fn read(d: &mut Draft<'a>) -> Self {
        let mut answers: Vec<(&'static str, &'a str)> = Vec::new();
        let line = d.get("automatic").unwrap_or_default();
        for entry in line.split(',').filter(|e| !e.is_empty()) {
            let (key, value) = entry.split_once(':').unwrap_or((entry, ""));
            // The documents call it `net`, the code `netw`.
            let key = if key == "net" { "network" } else { key };
            match KEYS.iter().find(|(name, alias)| *name == key || *alias == key) {
                Some((name, _)) if answers.iter().any(|(known, _)| known == name) => {
                    d.warn(
                        entry,
                        &("comes after another answer to the same question, which counts", ""),
                    );
                }
                Some((name, _)) => answers.push((name, value)),
                None => d.warn(
                    entry,
                    &("is no question that automatic= answers", "method:nfs,network:dhcp,…"),
                ),
            }
        }
        Answers(answers)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(name, value)| *name == key && !value.is_empty())
            .map(|(_, value)| *value)
    }
}

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.log.debug |= d.has("debugstage1");
    let answers = Answers::read(d);
    let clone = clone_method(d);
    let rescue = d.has("rescue") || clone.is_some();
    let base_name = if rescue { "rescue" } else { "mdkinst" };
    if !rescue {
        plan.handoff.init.get_or_insert_with(|| "/usr/bin/runinstall2".to_string());
    }
    plan.writable = Writable::Union(own::overlay(""));
    plan.root.retry = base::rounds(5, 5);
    let names = names(base_name, rescue);
    plan.root.content =
        Content::Images(source::rule(&dirs(d.cx.arch), ImagePick::FirstOf(names), &[]));
    if d.get("automatic").is_none() && clone.is_none() {
        d.fatal(
            "",
            &(
                "stage1 would ask every question, and there is no prompt here",
                "automatic=method:nfs,interface:auto,network:dhcp,server:SERVER,directory:/PATH",
            ),
        );
    }
    match clone {
        Some(method) => {
            let mut clone = own::clone_plan(method);
            if let Some(seconds) = answers.get("dolly_timeout").and_then(value::number) {
                clone.timeout = Seconds(seconds.max(1));
            }
            plan.handoff.then = Then::Clone(Box::new(clone));
            // stage1 gives up by rebooting, which asks the boot server again.
            reboot(d, plan);
            if let Some(asked) = answers.get("method").filter(|m| !matches!(*m, "ka" | "dolly")) {
                d.warn(&text(&["method:", asked]), &("names where a second stage comes from, which receiving a copy does not need", ""));
            }
        }
        None => method(d, plan, &answers, rescue),
    }
    settings(plan, &answers);
    network(d, plan, &answers);
}

fn reboot(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if d.peek("panic").is_none() {
        plan.failure.then = OnFailure::Reboot(Seconds(10));
    }
}

/// KA's session of the line.
fn ka(d: &mut Draft<'_>) -> Option<CloneMethod> {
    CloneMethod::of(&text(&["ka:", &d.text("kaopt").unwrap_or_default()]))
}

/// The word that allows a disk to be overwritten.
fn clone_method(d: &mut Draft<'_>) -> Option<CloneMethod> {
    let ka = ka(d);
    let mut found = None;
    for (word, method) in [
        ("kamethod", ka),
        ("dollymethod", CloneMethod::of("dolly")),
        ("dollyCmethod", CloneMethod::of("dollyplus")),
    ] {
        if d.has(word) {
            if found.is_some() {
                d.warn(word, &("comes beside another way to receive a copy, which counts", ""));
            } else {
                found = method;
            }
        }
    }
    found
}

fn names(base_name: &str, rescue: bool) -> Vec<String> {
    let mut names = Vec::new();
    if !rescue {
        names.push("live/".to_string());
    }
    names.extend(SUFFIXES.iter().map(|suffix| text(&[base_name, suffix])));
    names
}

/// Where the second stage may be, below the directory. stage1 knew `i586` and
/// `x86_64` only, each for itself.
fn dirs(arch: &str) -> Vec<&'static str> {
    match arch {
        "x86_64" => alloc::vec!["x86_64/install/stage2", "i586/install/stage2", "install/stage2"],
        "i386" | "i486" | "i586" | "i686" => alloc::vec!["i586/install/stage2", "install/stage2"],
        "aarch64" => alloc::vec!["aarch64/install/stage2", "install/stage2"],
        _ => alloc::vec!["install/stage2"],
    }
}

fn is_iso(path: &str) -> bool {
    value::suffix(path).as_deref() == Some("iso")
}

fn method(d: &mut Draft<'_>, plan: &mut BootPlan, answers: &Answers<'_>, rescue: bool) {
    let directory = answers.get("directory").unwrap_or_default();
    let word = |key: &str, value: &str| text(&[key, ":", value]);
    let method = answers.get("method");
    match method {
        Some("nfs") => {
            let server = answers.get("server").unwrap_or_default();
            if server.is_empty() || directory.is_empty() {
                d.fatal(
                    "method:nfs",
                    &("needs a server and a directory", "server:10.0.0.1,directory:/srv/cd"),
                );
                return;
            }
            match nfsroot::parse(&text(&[server, ":", &value::absolute(directory)])) {
                Ok(nfs) => plan.root.sources = nfs_sources(nfs, directory),
                Err(why) => d.fatal(&word("server", server), &(why, "")),
            }
        }
        Some(scheme @ ("http" | "ftp")) => fetch(d, plan, answers, scheme, directory, rescue),
        Some("cdrom") => {
            plan.root.sources = alloc::vec![Source::Scan(source::scan(true, false))];
            plan.root.retry = base::rounds(30, 1);
        }
        Some("disk") => disk(d, plan, answers, directory),
        Some("ka") => {
            plan.root.sources = ka(d).map(Source::Stage2).into_iter().collect();
            plan.root.content = source::tree();
            plan.root.retry = base::rounds(5, 5);
            reboot(d, plan);
        }
        Some("dolly") => {
            plan.root.sources = CloneMethod::of("dolly").map(Source::Stage2).into_iter().collect();
            plan.root.content = source::tree();
            plan.root.retry = base::rounds(3, 5);
            let timeout = answers.get("dolly_timeout").and_then(value::number).unwrap_or(120);
            plan.root.attempt_timeout = Some(Seconds(timeout.max(1)));
            reboot(d, plan);
        }
        Some(other) => d.fatal(
            &word("method", other),
            &("is no method", "nfs, http, ftp, cdrom, disk, ka or dolly"),
        ),
        None if d.peek("automatic").is_some() => {
            d.fatal("automatic", &("names no method", "automatic=method:nfs,…"));
        }
        None => {}
    }
}

/// The directory itself; an ISO in it, if there is just one; or the ISO that it names.
fn nfs_sources(nfs: crate::plan::NfsSource, directory: &str) -> Vec<Source> {
    if is_iso(directory) {
        let full = value::absolute(directory);
        let (dir, file) = full.rsplit_once('/').unwrap_or(("", &full));
        let nfs = crate::plan::NfsSource { path: Some(value::absolute(dir)), ..nfs };
        return alloc::vec![Source::File {
            on: Box::new(Source::Nfs(nfs)),
            path: value::absolute(file)
        }];
    }
    let iso = Source::File { on: Box::new(Source::Nfs(nfs.clone())), path: "/*.iso".to_string() };
    alloc::vec![Source::Nfs(nfs), iso]
}

fn fetch(
    d: &mut Draft<'_>,
    plan: &mut BootPlan,
    answers: &Answers<'_>,
    scheme: &str,
    directory: &str,
    rescue: bool,
) {
    let server = answers.get("server").unwrap_or_default();
    if server.is_empty() {
        d.fatal(&text(&["method:", scheme]), &("needs a server", "server:10.0.0.1,directory:/cd"));
        return;
    }
    let mut base_url = text(&[scheme, "://"]);
    if let Some(user) = answers.get("user").filter(|_| scheme == "ftp") {
        base_url.push_str(&text(&[user, ":", answers.get("pass").unwrap_or_default(), "@"]));
    }
    base_url.push_str(server);
    base_url.push_str(&value::absolute(directory));
    let proxy = answers.get("proxy_host").map(|host| {
        let port = answers.get("proxy_port").unwrap_or("8080");
        Private::word(&text(&["http://", host, ":", port]))
    });
    let images: Vec<String> = if is_iso(directory) {
        alloc::vec![base_url]
    } else {
        let base_name = if rescue { "rescue" } else { "mdkinst" };
        let mut images = Vec::new();
        for dir in dirs(d.cx.arch) {
            for suffix in SUFFIXES {
                images.push(value::join(&value::join(&base_url, dir), &text(&[base_name, suffix])));
            }
        }
        images
    };
    for url in images {
        if let Err(why) = source::fetchable(&url) {
            d.fatal(&url, &(why, "server:10.0.0.1,directory:/cd"));
            return;
        }
        let payload = if is_iso(&url) { Payload::Medium } else { Payload::Image };
        plan.root.sources.push(Source::Url(UrlSource {
            url: Private::word(&url),
            payload,
            proxy: proxy.clone(),
        }));
    }
    if let Content::Images(rule) = &plan.root.content {
        plan.root.content = Content::Either(rule.clone());
    }
}

fn disk(d: &mut Draft<'_>, plan: &mut BootPlan, answers: &Answers<'_>, directory: &str) {
    let device = match answers.get("partition").or(answers.get("disk")) {
        Some(name) => {
            let path =
                if name.starts_with("/dev/") { name.to_string() } else { text(&["/dev/", name]) };
            match value::device(&path) {
                Some(device) => Source::Device(device),
                None => {
                    d.fatal(
                        &text(&["partition:", name]),
                        &("names no partition", "partition:sda1"),
                    );
                    return;
                }
            }
        }
        None => Source::Scan(source::scan(false, true)),
    };
    plan.root.retry = base::rounds(30, 1);
    if is_iso(directory) {
        plan.root.sources =
            alloc::vec![Source::File { on: Box::new(device), path: value::absolute(directory) }];
        return;
    }
    let below = value::inside(directory).unwrap_or_default();
    if let Content::Images(rule) = &mut plan.root.content
        && !below.is_empty()
    {
        for dir in &mut rule.dirs {
            *dir = value::join(&below, dir);
        }
    }
    plan.root.sources = alloc::vec![
        device.clone(),
        Source::File { on: Box::new(device), path: value::join(&value::absolute(&below), "*.iso") },
    ];
}

/// What stage1 leaves in the environment and in `/tmp/env`.
fn settings(plan: &mut BootPlan, answers: &Answers<'_>) {
    for (name, key) in &[
        ("METHOD", "method"),
        ("HOST", "server"),
        ("PREFIX", "directory"),
        ("LOGIN", "user"),
        ("PASSWORD", "pass"),
        ("PROXY", "proxy_host"),
        ("PROXYPORT", "proxy_port"),
    ] {
        if let Some(value) = answers.get(key) {
            plan.handoff.settings.push((name.to_string(), value.to_string()));
        }
    }
}

fn network(d: &mut Draft<'_>, plan: &mut BootPlan, answers: &Answers<'_>) {
    let needed = source::needs_network(plan);
    let kind = answers.get("network");
    if !needed && kind.is_none() {
        return;
    }
    let mut ip = Ip { method: Method::Dhcp, ..Ip::default() };
    match kind {
        None | Some("dhcp") => {}
        Some("static") => {
            ip.method = Method::Off;
            ip.client = answers.get("ip").and_then(value::address);
            ip.gateway = answers.get("gateway").and_then(value::address);
            ip.prefix = answers.get("netmask").and_then(value::prefix);
            if ip.client.is_none() {
                d.fatal(
                    "network:static",
                    &("needs an address", "network:static,ip:10.0.0.5,netmask:255.255.255.0"),
                );
            }
        }
        Some("adsl") => {
            d.fatal("network:adsl", &("PPPoE is not spoken", "network:dhcp behind a router"));
        }
        Some(other) => {
            d.warn(&text(&["network:", other]), &("is neither dhcp nor static; DHCP is asked", ""))
        }
    }
    // `dns` equal to `ip` means none.
    ip.dns = answers
        .get("dns")
        .and_then(value::address)
        .filter(|dns| Some(*dns) != ip.client)
        .into_iter()
        .collect();
    let hostname = answers.get("hostname").map(|host| match answers.get("domain") {
        Some(domain) if !host.contains('.') => text(&[host, ".", domain]),
        _ => host.to_string(),
    });
    let devices = match answers.get("interface") {
        None | Some("auto" | "wired") => Vec::new(),
        Some(device) if crate::ip::is_device_name(device) => alloc::vec![device.to_string()],
        Some(other) => {
            d.warn(&text(&["interface:", other]), &("is no device name; every link is tried", ""));
            Vec::new()
        }
    };
    let mut network = net::plan(d, Some(ip), net::Extra { devices, required: needed });
    network.hostname = hostname.filter(|host| value::is_host(host));
    if matches!(&network.links, LinkChoice::Named(names) if names.is_empty()) {
        network.links = LinkChoice::Race;
    }
    plan.network = Some(network);
}
