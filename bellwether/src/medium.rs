//! `bellwether iso` and `bellwether pxe`: the same live system on a medium,
//! and in a directory for a TFTP server.

use crate::Failure;
use crate::args::{Boot, Build, Iso, Pxe};
use crate::build;
use crate::output::{Progress, json_list, json_string, size};
use cpio_builder::error::Error;
use cpio_builder::fsimage::{self, Format, Input};
use cpio_builder::image::mtime_from_epoch;
use cpio_builder::iso as iso9660;
use cpio_builder::media::{self, Medium};
use cpio_builder::menu::{Entry, Menu};
use cpio_builder::profile::Profile;
use cpio_builder::tools::{Draft, Workplace};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where everything lies on a medium, and below a TFTP server's directory.
const DIR: &str = "live";
/// The line when none is given: live-boot's words, the medium's own layout.
const APPEND: &str = "boot=live";

fn usage(text: &str) -> Failure {
    Failure::Usage(text.to_owned())
}

/// What both commands start: kernel and initramfs, and the menu.
struct Parts {
    files: Vec<(String, PathBuf)>,
    menu: Menu,
}

/// A kernel for these boot loaders, and its release when its name says it.
struct Kernel {
    path: PathBuf,
    release: Option<String>,
}

impl Boot<'_> {
    fn kernel(&self) -> Result<Kernel, Failure> {
        let in_root = self.root.filter(|root| root.is_dir());
        let (path, release) = match (self.kernel, in_root) {
            (Some(kernel), _) => (kernel.to_owned(), None),
            (None, Some(root)) => kernel_in(root)?,
            (None, None) => {
                return Err(usage("--kernel says which kernel to boot, and is missing"));
            }
        };
        check_kernel(&path)?;
        Ok(Kernel { path, release })
    }
}

/// Finds or makes the initramfs. `prefix` is how the boot loader reaches it
/// and the kernel: `/` on a medium, nothing over TFTP.
fn parts(
    boot: &Boot<'_>,
    kernel: Kernel,
    work: &Workplace,
    prefix: &str,
) -> Result<Parts, Failure> {
    let in_root = boot.root.filter(|root| root.is_dir());
    let Kernel { path: kernel, release } = kernel;
    let mut files = vec![(format!("{DIR}/vmlinuz"), kernel)];
    let mut initrd = Vec::new();
    let mut add = |name: String, from: &Path, files: &mut Vec<(String, PathBuf)>| {
        initrd.push(format!("{prefix}{DIR}/{name}"));
        files.push((format!("{DIR}/{name}"), from.to_owned()));
    };
    if boot.initrd.is_empty() {
        let modules = match (boot.modules, in_root) {
            (Some(modules), _) => modules,
            (None, Some(root)) => root,
            _ => {
                return Err(usage(
                    "--initrd or --modules is missing: one gives the initramfs, the other what to make it from",
                ));
            }
        };
        let what = Build {
            modules: Some(modules.to_owned()),
            release,
            // Whoever takes a medium along meets any machine.
            profile: boot.profile.or_else(|| Profile::from_name("net")),
            init: boot.init.map(Path::to_owned),
            ..Build::default()
        };
        let (spec, report) = build::image(&what)?;
        let path = work.join("initrd.img");
        fs::write(&path, &report.bytes)
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        build::tell(&report, &spec, Path::new("initrd.img"), false);
        add("initrd.img".into(), &path, &mut files);
    } else {
        for (n, from) in boot.initrd.iter().enumerate() {
            let name = if n == 0 { "initrd.img".into() } else { format!("initrd{}.img", n + 1) };
            fs::metadata(from).map_err(|source| Error::Read { path: from.clone(), source })?;
            add(name, from, &mut files);
        }
    }
    let append = boot.append.unwrap_or(APPEND);
    let kernel = format!("{prefix}{DIR}/vmlinuz");
    let entry = |id: &str, title: &str, append: String| Entry {
        id: id.to_owned(),
        title: title.to_owned(),
        kernel: kernel.clone(),
        initrd: initrd.clone(),
        append,
    };
    let mut entries = vec![entry("live", boot.title.unwrap_or("Live system"), append.to_owned())];
    for (n, (title, words)) in boot.entries.iter().enumerate() {
        entries.push(entry(&format!("entry{}", n + 2), title, format!("{append} {words}")));
    }
    let menu = Menu {
        title: boot.title.unwrap_or_default().to_owned(),
        timeout: Some(boot.timeout.unwrap_or(if entries.len() > 1 { 5 } else { 0 })),
        default: 0,
        entries,
        // A directory that is served can get more files; a medium cannot.
        per_machine: prefix.is_empty(),
    };
    menu.check().map_err(|e| usage(&e.to_string()))?;
    for entry in &menu.entries {
        let plan = cmdline::parse(
            &entry.append,
            &cmdline::Context { arch: "x86_64", ..Default::default() },
        );
        if !plan.can_work() {
            eprintln!(
                "warning: '{}' would fail at boot; see: bellwether explain '{}'",
                entry.title, entry.append
            );
        }
    }
    Ok(Parts { files, menu })
}

/// The one kernel in a root's /boot, and its release.
fn kernel_in(root: &Path) -> Result<(PathBuf, Option<String>), Failure> {
    let boot = root.join("boot");
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(&boot)
        .map_err(|source| Error::Read { path: boot.clone(), source })?
        .flatten()
        .filter_map(|e| {
            Some((e.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned(), e.path()))
        })
        .collect();
    found.sort_unstable();
    match found.as_slice() {
        [(release, kernel)] => Ok((kernel.clone(), Some(release.clone()))),
        [] => {
            Err(usage(&format!("no vmlinuz-VERSION in {}; give one with --kernel", boot.display())))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(release, _)| release.as_str()).collect();
            Err(usage(&format!(
                "{} has several kernels, choose with --kernel and --modules: {}",
                boot.display(),
                names.join(", ")
            )))
        }
    }
}

/// A kernel for x86 has a boot sector's mark and "HdrS"
/// (Documentation/arch/x86/boot.rst); the boot loaders here are for x86.
fn check_kernel(path: &Path) -> Result<(), Failure> {
    use std::io::Read;
    let mut head = Vec::new();
    let fail = |source| Error::Read { path: path.into(), source };
    File::open(path).and_then(|f| f.take(0x206).read_to_end(&mut head)).map_err(fail)?;
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return Ok(());
    }
    let what = match head.get(0x38..0x3c) {
        Some(b"ARM\x64") => "a kernel for AArch64, but these boot loaders are for x86-64",
        _ => "no Linux kernel for x86-64",
    };
    Err(Failure::Failed(format!("{} is {what}", path.display())))
}

/// Runs `bellwether iso`.
pub fn iso(what: &Iso) -> Result<(), Failure> {
    let Some(output) = &what.output else {
        return Err(usage("-o says where to write the ISO, and is missing"));
    };
    let boot = Boot {
        root: what.root.as_deref(),
        kernel: what.kernel.as_deref(),
        initrd: &what.initrd,
        modules: what.modules.as_deref(),
        profile: what.profile,
        init: what.init.as_deref(),
        append: what.append.as_deref(),
        entries: &what.entry,
        title: what.title.as_deref(),
        timeout: what.timeout,
    };
    let kernel = boot.kernel()?;
    media::check_iso()?;
    let draft = Draft::new(output)?;
    let work = Workplace::new(&output.with_extension("parts"))?;
    let Parts { mut files, mut menu } = parts(&boot, kernel, &work, "/")?;
    let mtime = mtime_from_epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    if let Some(root) = &what.root {
        let (name, image) = root_image(root, mtime, &work)?;
        if what.verity {
            // The tree and the hash lie beside the image.
            let near = match image.starts_with(work.join("")) {
                true => image.clone(),
                false => {
                    let copy = work.join(&name);
                    fs::copy(&image, &copy)
                        .map_err(|source| Error::Write { path: copy.clone(), source })?;
                    copy
                }
            };
            let mut progress = Progress::new("bytes");
            let hash = fsimage::add_verity(&near, &mut |w, n, all| progress.tell(w, n, all))?;
            for entry in &mut menu.entries {
                entry.append = format!("{} bw.verity={hash}", entry.append);
            }
            let tree = PathBuf::from(format!("{}.verity", near.display()));
            files.push((format!("{DIR}/{name}.verity"), tree));
            files.push((format!("{DIR}/{name}"), near));
        } else {
            files.push((format!("{DIR}/{name}"), image));
        }
    }
    files.extend(what.include.iter().map(|i| (i.to.clone(), i.from.clone())));
    let label = what.label.clone().unwrap_or_else(|| "BELLWETHER".to_owned());
    let medium = Medium { label, menu, files, mtime };
    media::iso(&medium, &draft)?;
    let bytes = fs::metadata(draft.path()).map_or(0, |meta| meta.len());
    draft.keep()?;
    eprintln!(
        "{}: {}, boots from optical drives and sticks, by BIOS and UEFI; try: bellwether try {}",
        output.display(),
        size(usize::try_from(bytes).unwrap_or(usize::MAX)),
        output.display()
    );
    Ok(())
}

/// The root as an image that live-boot's words find: squashfs as it is, a
/// directory made into one.
fn root_image(root: &Path, mtime: u32, work: &Workplace) -> Result<(String, PathBuf), Failure> {
    use std::io::Read;
    if root.is_dir() {
        let path = work.join("filesystem.squashfs");
        let draft = Draft::new(&path)?;
        let spec =
            fsimage::Spec { format: Format::Squashfs, size: None, mtime, clamp: epoch_given() };
        fsimage::make(&spec, root, &Input::Dir(root.into()), &draft, &mut |_, _, _| ())?;
        draft.keep()?;
        return Ok(("filesystem.squashfs".into(), path));
    }
    let fail = |source| Error::Read { path: root.into(), source };
    let mut head = Vec::new();
    File::open(root).and_then(|f| f.take(2048).read_to_end(&mut head)).map_err(fail)?;
    let name = match () {
        () if head.starts_with(b"hsqs") => "filesystem.squashfs",
        () if head.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) => "filesystem.erofs",
        () if head.get(1080..1082) == Some(&[0x53, 0xef]) => "filesystem.ext2",
        () => {
            return Err(Failure::Failed(format!(
                "{} is no directory, squashfs, erofs or ext2 image; see 'bellwether image --help'",
                root.display()
            )));
        }
    };
    Ok((name.to_owned(), root.to_owned()))
}

/// Whether file times are to be bound to a moment.
pub fn epoch_given() -> bool {
    std::env::var_os("SOURCE_DATE_EPOCH").is_some()
}

/// Runs `bellwether pxe`.
pub fn pxe(what: &Pxe) -> Result<(), Failure> {
    let work = Workplace::new(&what.dir)?;
    let boot = Boot {
        root: None,
        kernel: what.kernel.as_deref(),
        initrd: &what.initrd,
        modules: what.modules.as_deref(),
        profile: what.profile,
        init: what.init.as_deref(),
        append: what.append.as_deref(),
        entries: &what.entry,
        title: what.title.as_deref(),
        timeout: what.timeout,
    };
    let taken;
    let boot = match &what.iso {
        None if what.append.is_none() => {
            return Err(usage(
                "--append says where the root comes from, and is missing: 'boot=live netboot=nfs nfsroot=SERVER:/DIR', for example",
            ));
        }
        None => boot,
        Some(path) => {
            taken = from_iso(path, &work)?;
            let (kernel, initrd) = &taken;
            let initrd =
                if boot.initrd.is_empty() && boot.modules.is_none() { initrd } else { boot.initrd };
            Boot { kernel: boot.kernel.or(Some(kernel)), initrd, ..boot }
        }
    };
    if boot.append.is_none() {
        return Err(usage("--append says where the root comes from, and is missing"));
    }
    let Parts { files, menu } = parts(&boot, boot.kernel()?, &work, "")?;
    fs::create_dir_all(&what.dir)
        .map_err(|source| Error::Write { path: what.dir.clone(), source })?;
    let lacking = media::pxe_tree(&menu, &files, &what.dir)?;
    for text in &lacking {
        eprintln!("warning: {text}");
    }
    if what.json {
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        println!(
            "{{\"dir\":{},\"files\":{},\"lacking\":{}}}",
            json_string(&what.dir.to_string_lossy()),
            json_list(&names),
            json_list(&lacking)
        );
    } else {
        eprintln!(
            "{}: hand it out by TFTP; the file to boot is pxelinux.0 for BIOS, bootx64.efi for UEFI, \
             boot.ipxe for iPXE; try: bellwether try --pxe {}",
            what.dir.display(),
            what.dir.display()
        );
    }
    Ok(())
}

/// Kernel and initramfs that an ISO's own menu starts by default.
fn from_iso(path: &Path, work: &Workplace) -> Result<(PathBuf, Vec<PathBuf>), Failure> {
    let fail = |e: iso9660::IsoError| Error::Container { path: path.into(), why: e.to_string() };
    let menus = crate::menus::read(path)?;
    let entry = menus.iter().find_map(|(_, menu)| menu.entries.get(menu.default));
    let entry = entry.ok_or_else(|| {
        Failure::Failed(format!("{} has no menu entry that starts Linux", path.display()))
    })?;
    let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let iso = iso9660::Iso::open(file).map_err(fail)?;
    let take = |from: &str, name: &str| -> Result<PathBuf, Failure> {
        let bytes = iso.read_path(crate::menus::on_medium(from), 1 << 30).map_err(fail)?;
        let path = work.join(name);
        fs::write(&path, bytes).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(path)
    };
    let kernel = take(&entry.kernel, "vmlinuz")?;
    let initrd: Result<Vec<PathBuf>, Failure> = entry
        .initrd
        .iter()
        .enumerate()
        .map(|(n, from)| take(from, &format!("initrd{n}")))
        .collect();
    Ok((kernel, initrd?))
}
