//! `bellwether build`: an initramfs from a kernel's modules.

use crate::args::Build;
use crate::failure::Failure;
use crate::list;
use crate::output::{file_time, size, write_file};
use crate::programs;
use cmdline::json::Json;
use cpio_builder::compress::Codec;
use cpio_builder::error::Error;
use cpio_builder::image::{self, ImageSpec, Include, Report};
use cpio_builder::profile::{Class, HOST, Profile, host_aliases};
use cpio_builder::source::{self, Kind};
use cpio_builder::tree::{KernelModule, KernelTree};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Runs the subcommand.
pub fn run(what: &Build) -> Result<(), Failure> {
    if let Some(path) = &what.list {
        return list::run(path, what.json);
    }
    let Some(output) = &what.output else {
        return Err(usage("-o says where to write the image, and is missing"));
    };
    let (spec, report) = image(what)?;
    write_file(output, &report.bytes)?;
    tell(&report, &spec, output, what.json);
    Ok(())
}

fn usage(text: &str) -> Failure {
    Failure::Usage(format!("{text}; see 'bellwether build --help'"))
}

/// Makes the image, without writing it anywhere.
pub fn image(what: &Build) -> Result<(ImageSpec, Report), Failure> {
    let running = || PathBuf::from(format!("/lib/modules/{}", running_release()));
    let modules = what.modules.clone().or_else(|| what.host_only.then(running));
    let Some(modules) = &modules else {
        return Err(usage("--modules says where the kernel's modules are, and is missing"));
    };
    let profile = chosen_profile(what)?;
    if !modules.try_exists().map_err(Error::read(modules))? {
        return Err(Failure::Failed(format!(
            "there is no {}; --modules takes an installed kernel's directory, its .deb, an initrd \
             or a squashfs",
            modules.display()
        )));
    }
    let (init, init_origin) = find_init(what.init.as_deref(), form(what))?;
    let mut kernel = source::open(modules, what.release.as_deref())?;
    let append_to = match kernel.kind {
        Kind::Initrd { links } if what.append_only => Some(links),
        _ if what.append_only => {
            return Err(usage("--append-only needs the initrd to append to as --modules"));
        }
        _ => None,
    };
    let mut present = BTreeMap::new();
    if let Some(from) = &what.fill {
        if append_to.is_none() {
            return Err(usage("--fill goes with --append-only"));
        }
        let fuller = source::open(from, Some(&kernel.tree.release))?;
        let there =
            |m: &KernelModule| (m.name.clone(), (kernel.tree.within(&m.path), m.compression));
        present = kernel.tree.modules.iter().map(there).collect();
        kernel.tree = fuller.tree;
    }
    what.modprobe.iter().try_for_each(|path| kernel.conf.read(path))?;
    kernel.conf.apply(&mut kernel.tree);
    let mut add = what.add.clone();
    if what.sends_disks() {
        let modules = SNAPSHOTS.iter().filter(|name| kernel.tree.resolve(name).is_some());
        add.extend(modules.map(ToString::to_string));
    }
    let spec = ImageSpec {
        init: Some(init),
        init_origin,
        firmware: firmware_dirs(what, &kernel.tree),
        tree: kernel.tree,
        profile,
        add,
        hosted: if what.host_only { host_aliases(Path::new("/sys"))? } else { BTreeSet::new() },
        classes: what.class.iter().fold(Class(0), |all, one| all.union(*one)),
        conf: kernel.conf,
        defaults: defaults(what)?,
        include: includes(what)?,
        microcode: what.microcode.clone(),
        codec: what.compress.unwrap_or(Codec::Zstd),
        strip: what.strip,
        mtime: file_time()?,
        append_to,
        present,
    };
    if std::io::stderr().is_terminal() {
        eprintln!(
            "bellwether: compressing modules of kernel {}; hundreds of them take a minute",
            spec.tree.release
        );
    }
    let report = image::build(&spec)?;
    Ok((spec, report))
}

/// What `bw.p2v.edit` needs, where the kernel does not have it built in.
const SNAPSHOTS: [&str; 2] = ["dm_mod", "dm_snapshot"];

/// The kernel that this machine runs.
fn running_release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

fn chosen_profile(what: &Build) -> Result<Profile, Failure> {
    match (what.profile, what.host_only) {
        (Some(_), true) => Err(usage("--host-only and --profile are different choices")),
        (None, true) => Ok(HOST),
        (Some(profile), false) => Ok(profile),
        (None, false) => Profile::from_name("virt").ok_or_else(|| usage("no profile")),
    }
}

/// The `/init` programs of the same sources, in release builds, in the order of [`Form`].
#[cfg(embedded_init)]
const EMBEDDED: Option<[&[u8]; 3]> = Some([
    include_bytes!(env!("BELLWETHER_INIT")),
    include_bytes!(env!("BELLWETHER_INIT_SMALL")),
    include_bytes!(env!("BELLWETHER_INIT_P2V")),
]);
#[cfg(not(embedded_init))]
const EMBEDDED: Option<[&[u8]; 3]> = None;

/// A form of `/init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All that boots may need.
    Full,
    /// For virtual machines.
    Small,
    /// The full one, which sends disks as well.
    P2v,
}

/// Which `/init` the image gets: the small one for a virtual machine's, unless everything
/// was asked for. What stands behind another initrd has to boot whatever that one was made
/// for.
fn form(what: &Build) -> Form {
    let virt = what.profile.is_none_or(|profile| profile.name == "virt");
    match (what.sends_disks(), virt) {
        (true, _) => Form::P2v,
        (false, true) if !what.full && !what.append_only && !what.host_only => Form::Small,
        (false, _) => Form::Full,
    }
}

/// The words that are built in: those of the command line, and those of the file for P2V.
fn defaults(what: &Build) -> Result<Option<String>, Failure> {
    let mut words = what.defaults.clone();
    if let Some(path) = &what.p2v {
        let text = std::fs::read_to_string(path).map_err(Error::read(&path))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        words.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        let plan = cmdline::parse(&words.join(" "), &cmdline::Context::default());
        use cmdline::plan::Then;
        if !matches!(plan.handoff.then, Then::P2v(_) | Then::AskP2v) {
            let text = format!(
                "{}: says nowhere where the disks go (p2v.server=HOST, bw.p2v=URL; bw.p2v asks)\n{}",
                path.display(),
                plan.warnings_text()
            );
            return Err(Failure::Failed(text.trim_end().to_owned()));
        }
        if words.iter().any(|line| line.contains("password=")) {
            eprintln!(
                "warning: {}: the image has the password in it, readable for all who can read \
                 the image",
                path.display()
            );
        }
    }
    Ok((!words.is_empty()).then(|| words.join(" ")))
}

/// The ssh clients that can go into an image: Dropbear's has a sixth of OpenSSH's size.
const SSH_CLIENTS: [&str; 2] = ["dbclient", "ssh"];

/// The files to include: those that were named, and an ssh client with its libraries.
fn includes(what: &Build) -> Result<Vec<Include>, Failure> {
    let mut list = what.include.clone();
    if !what.sends_disks() {
        return Ok(list);
    }
    let names = if what.openssh { &SSH_CLIENTS[1..] } else { &SSH_CLIENTS[..] };
    let found = names.iter().find_map(|name| Some((*name, programs::find(name)?)));
    let (name, client) = found.ok_or_else(|| {
        let package = if what.openssh { "openssh-client" } else { "dropbear-bin" };
        Failure::Failed(format!(
            "no {} is on this computer; the package {package} has one",
            names.join(" and no ")
        ))
    })?;
    // Links stand for files of other names: the image gets the file by the name that is asked for.
    let real = |path: &Path| std::fs::canonicalize(path).map_err(Error::read(path));
    for library in programs::libraries(&client)? {
        let to = library.to_string_lossy().trim_start_matches('/').to_owned();
        list.push(Include { from: real(&library)?, to });
    }
    list.push(Include { from: real(&client)?, to: format!("usr/bin/{name}") });
    Ok(list)
}

/// The program for `/init`: the one given, the one inside this command, or
/// the one beside it.
pub fn find_init(given: Option<&Path>, form: Form) -> Result<(Vec<u8>, PathBuf), Failure> {
    let exe = std::env::current_exe().unwrap_or_default();
    let path = match (given, EMBEDDED) {
        (Some(path), _) => path.to_owned(),
        (None, Some([full, small, p2v])) => {
            let bytes = match form {
                Form::Full => full,
                Form::Small => small,
                Form::P2v => p2v,
            };
            return Ok((bytes.to_vec(), exe));
        }
        (None, None) => exe.with_file_name("init"),
    };
    match std::fs::read(&path) {
        Ok(bytes) => Ok((bytes, path)),
        Err(e) if given.is_none() => Err(Failure::Failed(format!(
            "no /init in or beside this command ({}: {e}); give one with --init, or build the \
             command with --release, which puts it in",
            path.display()
        ))),
        Err(source) => Err(Error::Read { path, source }.into()),
    }
}

/// Where to look for firmware: as told, else `lib/firmware` beside the
/// `lib/modules` that the modules come from.
fn firmware_dirs(what: &Build, tree: &KernelTree) -> Vec<PathBuf> {
    if !what.firmware.is_empty() {
        return what.firmware.clone();
    }
    let beside = tree.dir().map(|dir| dir.join("../../firmware"));
    beside.into_iter().filter(|dir| dir.is_dir()).collect()
}

fn as_json(report: &Report, spec: &ImageSpec, output: &Path) -> String {
    let mut json = Json::new();
    json.object().field("output", &output.to_string_lossy());
    for (key, number) in
        [("bytes", report.bytes.len()), ("unpacked", report.unpacked), ("index", report.index)]
    {
        json.count(key, number as u64);
    }
    json.field("release", &report.release).field("profile", spec.profile.name);
    json.field("compression", &spec.codec.to_string());
    for (key, number) in [
        ("net_drivers", report.net_drivers),
        ("storage_drivers", report.storage_drivers),
        ("filled", report.filled),
        ("unpacked_modules", report.unpacked_modules),
        ("packed_modules", report.packed_modules),
    ] {
        json.count(key, number as u64);
    }
    for (key, names) in [
        ("modules", &report.modules),
        ("firmware", &report.firmware),
        ("missing_firmware", &report.missing_firmware),
        ("unresolved", &report.unresolved),
        ("lacking", &report.lacking),
    ] {
        json.list(key, names);
    }
    json.end_object();
    json.finish()
}

/// Says what came out.
pub fn tell(report: &Report, spec: &ImageSpec, output: &Path, json: bool) {
    if json {
        return println!("{}", as_json(report, spec, output));
    }
    // Standard output may be carrying the image.
    eprintln!(
        "{}: {} ({} unpacked), kernel {}, {}: {} modules, among them {} network drivers and {} \
         storage drivers",
        output.display(),
        size(report.bytes.len()),
        size(report.unpacked),
        report.release,
        match spec.append_to {
            Some(_) if report.filled > 0 => {
                format!("index of the initrd and {} modules that it lacks", report.filled)
            }
            Some(_) => "index of the initrd".to_owned(),
            None => format!("profile {}", spec.profile.name),
        },
        report.modules.len(),
        report.net_drivers,
        report.storage_drivers
    );
    if report.bytes.len() > 12_000_000 && !spec.strip && spec.append_to.is_none() {
        eprintln!(
            "note: where Secure Boot is off, --strip makes it a quarter smaller: module signatures \
             cover symbols and type data that no boot needs"
        );
    }
    if report.unpacked_modules > 0 || report.packed_modules > 0 {
        eprintln!(
            "note: that initrd has its modules compressed; {} that profile {} names are put in \
             unpacked, the other {} can be loaded if the kernel unpacks them itself \
             (CONFIG_MODULE_DECOMPRESS); --profile takes more",
            report.unpacked_modules, spec.profile.name, report.packed_modules
        );
    }
    if !report.lacking.is_empty() {
        eprintln!(
            "warning: a live boot needs {}, which is neither in {} nor built into the kernel",
            report.lacking.join(", "),
            if spec.append_to.is_some() { "that initrd" } else { "the image" }
        );
    }
    if spec.tree.builtin.is_empty() && spec.append_to.is_none() {
        eprintln!(
            "note: there is no modules.builtin beside these modules, so the image does not know \
             what kernel {} has built in (Debian has that list in linux-base-{} since forky); \
             /init asks the kernel",
            report.release, report.release
        );
    }
    for need in &report.unresolved {
        eprintln!("warning: {need}, which this kernel does not have");
    }
    if !report.missing_firmware.is_empty() {
        let where_to = if spec.firmware.is_empty() {
            "no firmware directory was found; give one with --firmware"
        } else {
            "not in the firmware directory"
        };
        eprintln!(
            "warning: {} firmware files that modules may ask for are missing ({where_to}): {}",
            report.missing_firmware.len(),
            abridged(&report.missing_firmware, 8)
        );
    }
}

/// The first few of many names; `--json` has them all.
fn abridged(names: &[String], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(String::as_str).collect();
    let more = names.len().saturating_sub(most);
    let rest =
        if more > 0 { format!(", and {more} more (--json lists all)") } else { String::new() };
    shown.join(", ") + &rest
}
