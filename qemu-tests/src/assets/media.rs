//! Media and disks that a scenario makes for itself, of a root so small that this
//! takes a moment: a busybox and what looks at device-mapper.
//!
//! A [`Tree`] is filled with files and becomes an image of any file system, an ISO,
//! or, with others, a partitioned disk. Everything is made by the programs that
//! people use for it ([`packages::FOR_DISKS`]); nothing is mounted on the host.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Assets, copy, write};
pub use crate::shell::sh as run;
use crate::{Error, Result, packages, shell};

/// A file system that images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
    F2fs,
    Vfat,
    Ntfs,
    Erofs,
    Squashfs,
    /// Made empty: only a kernel fills it.
    Udf,
}

/// What the small root is made of, besides busybox: programs of the host with
/// their libraries.
const PROGRAMS: [&str; 1] = ["/usr/sbin/dmsetup"];

/// Directories of the small root.
const DIRECTORIES: [&str; 19] = [
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "etc",
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "home/user",
    "root",
    "mnt",
    "var/log",
    "var/tmp",
    "var/spool",
    "srv",
    "media",
    "boot",
];

/// How images of the live system are packed here: read once, so quickly made.
const SQUASHFS: [&str; 6] = ["-comp", "lz4", "-noappend", "-quiet", "-no-progress", "-no-exports"];

impl Assets {
    /// A root of a few megabytes with a shell, the usual small programs and
    /// `dmsetup`; `/etc/issue` and a file in `/home/user` are there to be changed.
    ///
    /// # Errors
    /// [`Error::Command`] when a package cannot be fetched.
    pub fn small_root(&self) -> Result<PathBuf> {
        let recipe = format!("2: {} {PROGRAMS:?} {DIRECTORIES:?}", self.release);
        let dir = self.entry("small-root", &recipe, |dir| {
            let root = dir.join("root");
            for made in DIRECTORIES {
                let made = root.join(made);
                fs::create_dir_all(&made).map_err(Error::at("make", &made))?;
            }
            for name in ["bin", "sbin", "lib", "lib64"] {
                link(&format!("usr/{name}"), &root.join(name))?;
            }
            let package = dir.join("package");
            fs::create_dir(&package).map_err(Error::at("make", &package))?;
            self.apt(&self.release, "amd64")?.unpack(&package, &["busybox-static"])?;
            let busybox = root.join("usr/bin/busybox");
            let packed = &busybox_in(&package)?;
            fs::copy(packed, &busybox).map_err(Error::at("copy", packed))?;
            for applet in shell::run(shell::command(&busybox).arg("--list"))?.lines() {
                if applet != "busybox" {
                    link("busybox", &root.join("usr/bin").join(applet))?;
                }
            }
            for program in PROGRAMS {
                add_program(&root, program)?;
            }
            write(&root.join("etc/issue"), "a small live system\n")?;
            write(&root.join("etc/passwd"), "root::0:0::/root:/bin/sh\n")?;
            write(&root.join("etc/fstab"), "")?;
            write(&root.join("etc/hostname"), "small\n")?;
            write(&root.join("home/user/.profile"), "# from the image\n")?;
            fs::remove_dir_all(&package).map_err(Error::at("remove", &package))
        })?;
        Ok(dir.join("root"))
    }

    /// The small root as a squashfs.
    ///
    /// # Errors
    /// As [`Assets::small_root`].
    pub fn small_squashfs(&self) -> Result<PathBuf> {
        let root = self.small_root()?;
        let recipe = format!("{SQUASHFS:?} of {}", super::live::name_of(&root)?);
        let dir = self.entry("small-squashfs", &recipe, |dir| {
            make(Fs::Squashfs, "", 0, &root, &dir.join("filesystem.squashfs"))
        })?;
        Ok(dir.join("filesystem.squashfs"))
    }

    /// Debian 12's installer for network boot: the directory with `linux` and `initrd.gz`.
    ///
    /// # Errors
    /// [`Error::Command`] when its package cannot be fetched.
    pub fn installer(&self) -> Result<PathBuf> {
        const PACKAGE: &str = "debian-installer-12-netboot-amd64";
        let dir = self.entry("installer", PACKAGE, |dir| {
            self.apt("bookworm", "amd64")?.unpack(dir, &[PACKAGE])
        })?;
        Ok(dir.join("usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"))
    }

    /// The small root as an ext4 image of 32 MiB.
    ///
    /// # Errors
    /// As [`Assets::small_root`].
    pub fn small_ext4(&self) -> Result<PathBuf> {
        let root = self.small_root()?;
        let recipe = format!("ext4 of {}", super::live::name_of(&root)?);
        let dir = self.entry("small-ext4", &recipe, |dir| {
            make(Fs::Ext4, "", 32, &root, &dir.join("root.img"))
        })?;
        Ok(dir.join("root.img"))
    }
}

/// busybox in its unpacked package, which has moved it.
pub(super) fn busybox_in(package: &Path) -> Result<PathBuf> {
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| package.join(place));
    let found = places.into_iter().find(|path| path.exists());
    found.ok_or_else(|| Error::Input("a package without busybox".into()))
}

/// Puts a program of the host into a root, with the libraries that it needs.
///
/// # Errors
/// [`Error::Command`] when the host does not have it.
pub fn add_program(root: &Path, program: &str) -> Result<()> {
    let libraries = shell::sh(&["ldd", program])?;
    let libraries = libraries.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
        path.starts_with('/').then(|| path.split(' ').next().unwrap_or(path))
    });
    for file in std::iter::once(program).chain(libraries) {
        // Everything below /usr: in a root, the others are links to there.
        let inside = file.trim_start_matches('/');
        let inside = inside.strip_prefix("usr/").unwrap_or(inside);
        let to = root.join("usr").join(inside);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
        }
        fs::copy(file, &to).map_err(Error::io(format!("copy {file}")))?;
    }
    Ok(())
}

/// A directory that becomes a medium or a disk.
#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
}

impl Tree {
    /// An empty one below `place`; `name` tells it from others there.
    ///
    /// # Errors
    /// [`Error::Packages`] when what makes file systems is not installed,
    /// [`Error::Input`] when there is one of that name.
    pub fn new(place: &Path, name: &str) -> Result<Self> {
        packages::ensure_all(packages::FOR_DISKS)?;
        let dir = place.join(name);
        if dir.exists() {
            return Err(Error::Input(format!("two trees are called {name}")));
        }
        fs::create_dir(&dir).map_err(Error::at("make", &dir))?;
        Ok(Self { dir })
    }

    /// Where it is, for changes that have no word here.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Puts a file or a whole directory in.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be copied.
    pub fn with(self, path: &str, from: &Path) -> Result<Tree> {
        let to = self.dir.join(path);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
        }
        copy(from, &to)?;
        Ok(self)
    }

    /// Puts everything in that another directory holds.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be copied.
    pub fn with_all(self, from: &Path) -> Result<Tree> {
        let (from, to) = (format!("{}/.", from.display()), self.dir.to_string_lossy().into_owned());
        shell::sh(&["cp", "-a", &from, &to])?;
        Ok(self)
    }

    /// Puts a small file in.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn text(self, path: &str, text: &str) -> Result<Tree> {
        write(&self.dir.join(path), text)?;
        Ok(self)
    }

    /// Puts a file of so many mebibytes of zeroes in.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn ballast(self, path: &str, mib: u64) -> Result<Tree> {
        let path = self.dir.join(path);
        let file = File::create(&path).map_err(Error::at("create", &path))?;
        file.set_len(mib << 20).map_err(Error::at("write", &path))?;
        Ok(self)
    }

    /// An ISO with Rock Ridge and Joliet, beside the tree.
    ///
    /// # Errors
    /// [`Error::Command`] when xorriso fails.
    pub fn iso(&self, label: &str) -> Result<PathBuf> {
        let to = self.dir.with_extension("iso");
        let mut xorriso = shell::command("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-J", "-V", label, "-o"]);
        shell::run(xorriso.arg(&to).arg(&self.dir))?;
        Ok(to)
    }

    /// An image of a file system with all of it, beside the tree; the size is in
    /// mebibytes, and means nothing to those that cannot be written.
    ///
    /// # Errors
    /// [`Error::Command`] when the program that makes it fails.
    pub fn image(&self, fs: Fs, label: &str, mib: u64) -> Result<PathBuf> {
        let to = self.dir.with_extension(format!("{fs:?}").to_lowercase());
        make(fs, label, mib, &self.dir, &to)?;
        Ok(to)
    }
}

/// Makes an image of a file system with everything that a directory holds.
///
/// # Errors
/// [`Error::Command`] when the program that makes it fails.
pub fn make(fs: Fs, label: &str, mib: u64, from: &Path, to: &Path) -> Result<()> {
    let (from, image) = (from.to_string_lossy().into_owned(), to.to_string_lossy().into_owned());
    let (from, image) = (from.as_str(), image.as_str());
    if !matches!(fs, Fs::Squashfs | Fs::Erofs) {
        let file = File::create(to).map_err(Error::at("create", to))?;
        file.set_len(mib << 20).map_err(Error::at("write", to))?;
    }
    match fs {
        Fs::Ext4 => {
            shell::sh(&["mke2fs", "-q", "-t", "ext4", "-F", "-L", label, "-d", from, image])
        }
        Fs::Xfs => {
            let prototype = to.with_extension("prototype");
            write(&prototype, &format!("/\n0 0\nd--755 0 0\n{}", xfs_prototype(Path::new(from))?))?;
            let file = prototype.to_string_lossy().into_owned();
            shell::sh(&["mkfs.xfs", "-q", "-f", "-L", label, "-p", &file, image])
        }
        Fs::Btrfs => shell::sh(&["mkfs.btrfs", "-q", "-f", "-L", label, "--rootdir", from, image]),
        Fs::F2fs => {
            shell::sh(&["mkfs.f2fs", "-q", "-f", "-l", label, image])?;
            shell::sh(&["sload.f2fs", "-f", from, image])
        }
        Fs::Vfat => {
            shell::sh(&["mkfs.vfat", "-F", "32", "-n", label, image])?;
            each_entry(Path::new(from), &mut |path| {
                shell::sh(&["mcopy", "-s", "-i", image, &path.to_string_lossy(), "::"]).map(drop)
            })?;
            Ok(String::new())
        }
        Fs::Ntfs => {
            shell::sh(&["mkntfs", "-q", "-F", "-Q", "-L", label, image])?;
            each_entry(Path::new(from), &mut |path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                shell::sh(&["ntfscp", "-q", image, &path.to_string_lossy(), &name]).map(drop)
            })?;
            Ok(String::new())
        }
        Fs::Erofs => shell::sh(&["mkfs.erofs", "-zlz4", image, from]),
        Fs::Squashfs => shell::run(shell::command("mksquashfs").args([from, image]).args(SQUASHFS)),
        Fs::Udf => shell::sh(&["mkudffs", "--label", label, "--media-type=hd", image]),
    }
    .map(drop)
}

fn each_entry(dir: &Path, act: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(Error::at("list", dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().try_for_each(|path| act(path))
}

/// What `mkfs.xfs -p` fills a file system from.
fn xfs_prototype(dir: &Path) -> Result<String> {
    let mut text = String::new();
    each_entry(dir, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let meta = fs::symlink_metadata(path).map_err(Error::at("read", path))?;
        let put = |text: &mut String, line: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        };
        if meta.is_dir() {
            put(&mut text, format!("{name} d--755 0 0"));
            text.push_str(&xfs_prototype(path)?);
        } else if meta.is_symlink() {
            let target = fs::read_link(path).map_err(Error::at("read", path))?;
            put(&mut text, format!("{name} l--777 0 0 {}", target.display()));
        } else {
            put(&mut text, format!("{name} ---755 0 0 {}", path.display()));
        }
        Ok(())
    })?;
    text.push_str("$\n");
    Ok(text)
}

fn link(target: &str, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, at).map_err(Error::at("link", at))
}

/// A GPT disk whose partitions have these names and contents, in this order.
///
/// # Errors
/// [`Error::Command`] when sfdisk fails.
pub fn gpt(to: &Path, partitions: &[(&str, &Path)]) -> Result<PathBuf> {
    const ALIGNMENT: u64 = 1 << 20;
    const SECTOR: u64 = 512;
    let mut at = ALIGNMENT;
    let mut script = "label: gpt\n".to_owned();
    let mut disk = File::create(to).map_err(Error::at("create", to))?;
    for (name, image) in partitions {
        let mut content = File::open(image).map_err(Error::at("open", image))?;
        let length = content.metadata().map_err(Error::at("read", image))?.len();
        let length = length.next_multiple_of(ALIGNMENT);
        let (start, size) = (at / SECTOR, length / SECTOR);
        let _ = writeln!(script, "start={start}, size={size}, type=linux, name=\"{name}\"");
        disk.seek(SeekFrom::Start(at)).map_err(Error::at("write", to))?;
        copy_sparse(&mut content, &mut disk).map_err(Error::at("write", to))?;
        at += length;
    }
    disk.set_len(at + ALIGNMENT).map_err(Error::at("write", to))?;
    pipe(&["sfdisk", "--quiet", &to.to_string_lossy()], script.as_bytes())?;
    Ok(to.to_owned())
}

fn copy_sparse(from: &mut File, to: &mut File) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut buffer)?;
        let piece = buffer.get(..length).unwrap_or_default();
        match piece {
            [] => return Ok(()),
            zeroes if zeroes.iter().all(|byte| *byte == 0) => {
                to.seek(SeekFrom::Current(i64::try_from(length).unwrap_or(0)))?;
            }
            piece => to.write_all(piece)?,
        }
    }
}

/// Runs a program with something on its standard input.
///
/// # Errors
/// [`Error::Command`] when it fails.
pub fn pipe(words: &[&str], input: &[u8]) -> Result<()> {
    let (program, args) =
        words.split_first().ok_or_else(|| Error::Input("an empty command".into()))?;
    let mut command = shell::command(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let doing = words.join(" ");
    let mut child = command.spawn().map_err(Error::io(format!("start `{doing}`")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(Error::io(format!("feed `{doing}`")))?;
    }
    let out = child.wait_with_output().map_err(Error::io(format!("wait for `{doing}`")))?;
    if out.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&out.stderr).into_owned();
    Err(Error::Command { command: doing, status: out.status.to_string(), output })
}

/// The SHA-256 of a file, as sha256sum(1) prints it.
///
/// # Errors
/// There is no sha256sum, or it cannot read the file.
pub fn sha256(file: &Path) -> Result<String> {
    let line = run(&["sha256sum", &file.to_string_lossy()])?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

/// Changes a few bytes in a file's middle.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn damage(file: &Path, at: u64) -> Result<()> {
    let mut handle = File::options().write(true).open(file).map_err(Error::at("open", file))?;
    handle.seek(SeekFrom::Start(at)).map_err(Error::at("write", file))?;
    handle.write_all(b"this is not what was here before").map_err(Error::at("write", file))
}

/// Packs a cloop image, version 2.
///
/// # Errors
/// [`Error::Input`] when it is too large for one.
pub fn cloop(plain: &[u8]) -> Result<Vec<u8>> {
    let mut packed = std::io::Cursor::new(Vec::new());
    cpio_builder::cloop::pack(
        &mut std::io::Cursor::new(plain),
        plain.len() as u64,
        cpio_builder::cloop::BLOCK,
        &mut packed,
        &mut |_, _| {},
    )
    .map_err(|error| Error::Input(error.to_string()))?;
    Ok(packed.into_inner())
}
