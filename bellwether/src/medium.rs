//! What `iso` and `pxe` share: kernel, initramfs and menu of a live system.

use crate::args::{Boot, Build};
use crate::build;
use crate::failure::Failure;
use cpio_builder::error::Error;
use cpio_builder::kernel;
use cpio_builder::menu::{Entry, Menu};
use cpio_builder::profile::Profile;
use cpio_builder::tools::Workplace;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where everything lies on a medium, and below a TFTP server's directory.
pub const DIR: &str = "live";
/// The line when none is given: live-boot's words, the medium's own layout.
const APPEND: &str = "boot=live";

pub fn usage(text: &str) -> Failure {
    Failure::Usage(text.to_owned())
}

/// What both commands start: kernel and initramfs, and the menu.
pub struct Parts {
    pub files: Vec<(String, PathBuf)>,
    pub menu: Menu,
}

/// A kernel for these boot loaders, and its release when its name says it.
pub struct Kernel {
    path: PathBuf,
    release: Option<String>,
}

impl Boot<'_> {
    pub fn kernel(&self) -> Result<Kernel, Failure> {
        let in_root = self.root.filter(|root| root.is_dir());
        let (path, release) = match (self.kernel, in_root) {
            (Some(kernel), _) => (kernel.to_owned(), None),
            (None, Some(root)) => kernel_in(root)?,
            (None, None) => {
                let root = match self.root {
                    // A root that is not there is the fault, not the missing option.
                    Some(root) => {
                        fs::metadata(root).map_err(Error::read(root))?;
                        " (a kernel is taken from a root directory's /boot, not from an image)"
                    }
                    None => "",
                };
                let why = format!("--kernel says which kernel to boot, and is missing{root}");
                return Err(usage(&why));
            }
        };
        check_kernel(&path, &path.display().to_string())?;
        Ok(Kernel { path, release })
    }
}

/// Finds or makes the initramfs. `prefix` is how the boot loader reaches it
/// and the kernel: `/` on a medium, nothing over TFTP.
pub fn parts(
    boot: &Boot<'_>,
    found: Kernel,
    work: &Workplace,
    prefix: &str,
) -> Result<Parts, Failure> {
    let in_root = boot.root.filter(|root| root.is_dir());
    let Kernel { path, release } = found;
    let mut files = vec![(format!("{DIR}/vmlinuz"), path)];
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
            // A medium may boot on any machine.
            profile: boot.profile.or_else(|| Profile::from_name("net")),
            init: boot.init.map(Path::to_owned),
            ..Build::default()
        };
        let (spec, report) = build::image(&what)?;
        if let Some(own) = files.first().and_then(|(_, kernel)| kernel_release(kernel))
            && own != spec.tree.release
        {
            eprintln!(
                "warning: the kernel is {own}, and the modules are those of {}: it loads none of \
                 them; give both of one release",
                spec.tree.release
            );
        }
        let path = work.join("initrd.img");
        fs::write(&path, &report.bytes).map_err(Error::write(&path))?;
        build::tell(&report, &spec, Path::new("initrd.img"), false);
        add("initrd.img".into(), &path, &mut files);
    } else {
        for (n, from) in boot.initrd.iter().enumerate() {
            let name = if n == 0 { "initrd.img".into() } else { format!("initrd{}.img", n + 1) };
            if fs::metadata(from).map_err(Error::read(&from))?.len() == 0 {
                let from = from.display();
                return Err(Failure::Failed(format!(
                    "{from} is empty: no initramfs; get it again"
                )));
            }
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
        ..Menu::default()
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
                entry.title,
                cmdline::secrets::masked_line(&entry.append)
            );
        }
    }
    Ok(Parts { files, menu })
}

/// The one kernel in a root's /boot, and its release.
fn kernel_in(root: &Path) -> Result<(PathBuf, Option<String>), Failure> {
    let boot = root.join("boot");
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(&boot)
        .map_err(Error::read(&boot))?
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

/// The release of a kernel for x86.
fn kernel_release(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut start = Vec::new();
    File::open(path).ok()?.take(kernel::START as u64).read_to_end(&mut start).ok()?;
    kernel::release(&start)
}

/// A kernel for x86 has a boot sector's mark and "HdrS"
/// (Documentation/arch/x86/boot.rst); the boot loaders here are for x86.
/// `name` is what people know the file by.
pub fn check_kernel(path: &Path, name: &str) -> Result<(), Failure> {
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
    Err(Failure::Failed(format!("{name} is {what}")))
}
