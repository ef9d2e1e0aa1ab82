//! File system images: squashfs, erofs, ext2 and cloop, from a directory, an
//! initramfs, an ISO or a cloop image.
//!
//! The file systems' own tools write them. This module chooses the tool and its options, so
//! that the same input gives the same bytes. An initramfs needs neither root rights nor a
//! mount: squashfs gets a tar stream, debugfs fills ext2.

use crate::cloop;
use crate::error::Error;
use crate::initrd::{self, Initrd, Limits};
use crate::newc::Entry;
use crate::tools::{COPY, DEBUGFS, Draft, MKE2FS, MKFS_EROFS, MKSQUASHFS, Workplace, XORRISO};
use crate::verity;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// squashfs.
    Squashfs,
    /// erofs.
    Erofs,
    /// ext2.
    Ext2,
    /// cloop V2 around ISO 9660, as Mandriva's `rescue.clp`.
    Cloop,
    /// ISO 9660 with Rock Ridge; not bootable.
    Iso,
}

impl Format {
    /// All, in the order shown to people.
    pub const ALL: [Self; 5] = [Self::Squashfs, Self::Erofs, Self::Ext2, Self::Cloop, Self::Iso];

    /// The word on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Ext2 => "ext2",
            Self::Cloop => "clp",
            Self::Iso => "iso",
        }
    }

    /// From the word on the command line.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Guesses the kind from a file name.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        match name.rsplit_once('.').map_or(name, |(_, end)| end) {
            "sqfs" | "sb" | "squash" => Some(Self::Squashfs),
            // The seed calls its image `initrd-ext2`, Mandriva `stage2.img`.
            "img" => Some(Self::Ext2),
            end if end.ends_with("ext2") => Some(Self::Ext2),
            end => Self::from_name(end),
        }
    }
}

/// The source of an image.
#[derive(Debug)]
pub enum Input {
    /// A directory.
    Dir(PathBuf),
    /// An initramfs.
    Initrd(Vec<u8>),
    /// An ISO 9660 image.
    Iso(PathBuf),
    /// A cloop image.
    Cloop(PathBuf),
}

impl Input {
    /// Detects the kind of a path.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Read { path: path.into(), source };
        if fs::metadata(path).map_err(fail)?.is_dir() {
            // mksquashfs would pack a symbolic link itself.
            return Ok(Self::Dir(fs::canonicalize(path).map_err(fail)?));
        }
        let mut head = Vec::new();
        let file = File::open(path).map_err(fail)?;
        file.take(17 * 2048).read_to_end(&mut head).map_err(fail)?;
        if head.get(16 * 2048 + 1..16 * 2048 + 6) == Some(b"CD001") {
            return Ok(Self::Iso(path.into()));
        }
        let mut whole = BufReader::new(File::open(path).map_err(fail)?);
        match cloop::Header::read(&mut whole) {
            Ok(_) => return Ok(Self::Cloop(path.into())),
            // Of the supported inputs only a cloop image starts as a script.
            Err(e) if head.starts_with(b"#!") => {
                return Err(Error::Container { path: path.into(), why: e.to_string() });
            }
            Err(_) => {}
        }
        initrd::read_file(path).map(Self::Initrd).map_err(fail)
    }
}

/// The options of an image.
#[derive(Debug)]
pub struct Spec {
    /// Kind of the image.
    pub format: Format,
    /// Size in bytes, of ext2 only; by default the required size plus a tenth.
    pub size: Option<u64>,
    /// Time that the image itself carries, seconds since 1970. Files keep
    /// theirs.
    pub mtime: u32,
    /// Whether newer files get this time too: `SOURCE_DATE_EPOCH` was given.
    pub clamp: bool,
}

/// Called with the current step, the amount done, and the total.
pub type Told<'t> = &'t mut dyn FnMut(&str, u64, u64);

/// Makes an image as a draft.
///
/// # Errors
/// [`Error::NoTool`] or [`Error::Tool`] for a missing or failed tool, [`Error::Read`] for the
/// input, [`Error::Media`] when this input cannot become that format.
pub fn make(
    spec: &Spec,
    from: &Path,
    input: &Input,
    draft: &Draft,
    told: Told<'_>,
) -> Result<(), Error> {
    let to = draft.path();
    match (spec.format, input) {
        (Format::Squashfs, Input::Dir(dir)) => squashfs(spec, to, Some(dir), |_| Ok(())),
        (Format::Squashfs, Input::Initrd(bytes)) => {
            let initrd = open(from, bytes)?;
            squashfs(spec, to, None, |out| tar(&initrd, out))
        }
        (Format::Erofs, Input::Dir(dir)) => erofs(spec, to, dir),
        (Format::Ext2, Input::Dir(dir)) => ext2_of_dir(spec, to, dir),
        (Format::Ext2, Input::Initrd(bytes)) => {
            let initrd = open(from, bytes)?;
            if let Some(entry) = initrd.foreign().values().next() {
                return Err(Error::Media(format!(
                    "'{}' has a name that is not UTF-8, which debugfs does not accept: make squashfs",
                    entry.shown()
                )));
            }
            ext2_of_initrd(spec, to, &initrd.tree())
        }
        (Format::Iso, Input::Dir(dir)) => iso(spec, to, dir),
        (Format::Iso, Input::Cloop(path)) => unpack_cloop(path, draft, told),
        (Format::Cloop, Input::Iso(path)) => pack_cloop(path, draft, told),
        (Format::Cloop, Input::Dir(dir)) => {
            let work = Workplace::new(to)?;
            iso(spec, &work.join("iso"), dir)?;
            pack_cloop(&work.join("iso"), draft, told)
        }
        (Format::Squashfs | Format::Ext2 | Format::Erofs, Input::Cloop(path)) => {
            let work = Workplace::new(to)?;
            let iso = Draft::new(&work.join("iso"))?;
            unpack_cloop(path, &iso, told)?;
            of_iso(spec, from, iso.path(), &work, draft, told)
        }
        (Format::Squashfs | Format::Ext2 | Format::Erofs, Input::Iso(path)) => {
            let work = Workplace::new(to)?;
            of_iso(spec, from, path, &work, draft, told)
        }
        (format, input) => Err(Error::Media(format!(
            "{} cannot become {} directly; {}",
            match input {
                Input::Initrd(_) => "an initramfs",
                Input::Iso(_) => "an ISO",
                Input::Cloop(_) => "a cloop image",
                Input::Dir(_) => "a directory",
            },
            format.name(),
            match input {
                Input::Initrd(_) => "unpack it into a directory first, or make squashfs or ext2",
                _ => "it already is one",
            }
        ))),
    }
}

fn open<'b>(path: &Path, bytes: &'b [u8]) -> Result<Initrd<'b>, Error> {
    Initrd::open(bytes, Limits::default())
        .map_err(|source| Error::Initrd { path: path.into(), source })
}

/// Unpacks an ISO, a cloop image around one, or a copy of another directory, into a directory.
///
/// # Errors
/// [`Error::NoTool`] or [`Error::Tool`] for a missing or failed tool, [`Error::Read`] for the
/// input, [`Error::Media`] for an initramfs.
pub fn unpack(from: &Path, input: &Input, tree: &Path) -> Result<(), Error> {
    match input {
        Input::Dir(dir) => COPY.command()?.args(["-a", "--"]).arg(dir).arg(tree).run().map(drop),
        Input::Iso(path) => take_out(from, path, tree),
        Input::Cloop(path) => {
            let iso = Draft::new(&tree.with_extension("iso"))?;
            unpack_cloop(path, &iso, &mut |_, _, _| ())?;
            take_out(from, iso.path(), tree)
        }
        Input::Initrd(_) => {
            Err(Error::Media(format!("{} is not an ISO, cloop image or directory", from.display())))
        }
    }
}

/// Extracts an ISO's files.
fn take_out(from: &Path, iso: &Path, tree: &Path) -> Result<(), Error> {
    // xorriso treats a medium without a root as an empty one.
    let file = File::open(iso).map_err(Error::read(from))?;
    crate::iso::Iso::open(file)
        .map_err(|e| Error::Container { path: from.into(), why: e.to_string() })?;
    let run = XORRISO
        .command()?
        .args(["-abort_on", "FAILURE", "-osirrox", "device_files:auto_chmod_off", "-indev"])
        .arg(iso);
    run.args(["-extract", "/"]).arg(tree).run().map(drop)
}

/// Extracts an ISO's files, then continues as with a directory.
fn of_iso(
    spec: &Spec,
    from: &Path,
    iso: &Path,
    work: &Workplace,
    draft: &Draft,
    told: Told<'_>,
) -> Result<(), Error> {
    told("extracting the ISO", 0, 0);
    let tree = work.join("tree");
    take_out(from, iso, &tree)?;
    make(spec, from, &Input::Dir(tree), draft, told)
}

fn squashfs(
    spec: &Spec,
    to: &Path,
    dir: Option<&Path>,
    feed: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
) -> Result<(), Error> {
    let mut run = MKSQUASHFS.command()?.arg(dir.unwrap_or(Path::new("-"))).arg(to);
    run = run.args([
        "-noappend",
        "-no-progress",
        "-quiet",
        "-comp",
        "zstd",
        "-Xcompression-level",
        "19",
        "-b",
        "256K",
    ]);
    if dir.is_none() {
        run = run.arg("-tar");
    }
    // mksquashfs accepts the variable or the option, not both.
    run = if spec.clamp {
        run.env("SOURCE_DATE_EPOCH", spec.mtime.to_string())
    } else {
        run.arg("-mkfs-time").arg(spec.mtime.to_string())
    };
    run.feed(feed).map(drop)
}

/// A tar stream of an initramfs's tree.
fn tar(initrd: &Initrd<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(out));
    let (tree, foreign) = (initrd.tree(), initrd.foreign());
    let named = tree.iter().map(|(path, entry)| (path.as_bytes(), entry));
    for (path, entry) in named.chain(foreign.iter().map(|(path, entry)| (*path, entry))) {
        let path = OsStr::from_bytes(path);
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode & 0o7777);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(entry.mtime.into());
        header.set_size(0);
        header.set_device_major(entry.rdev.0)?;
        header.set_device_minor(entry.rdev.1)?;
        let kind = match entry.mode_text().chars().next() {
            Some('d') => tar::EntryType::Directory,
            Some('c') => tar::EntryType::Char,
            Some('b') => tar::EntryType::Block,
            Some('p') => tar::EntryType::Fifo,
            Some('l') => tar::EntryType::Symlink,
            Some('-') => tar::EntryType::Regular,
            // Sockets mean nothing without their program.
            _ => continue,
        };
        header.set_entry_type(kind);
        if let Some(target) = entry.symlink() {
            tar.append_link(&mut header, path, target)?;
        } else {
            let data = if entry.is_file() { entry.data } else { &[] };
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, path, data)?;
        }
    }
    tar.into_inner()?.flush()
}

fn erofs(spec: &Spec, to: &Path, dir: &Path) -> Result<(), Error> {
    // The UUID is random otherwise. It identifies the image, and the same directory has to give
    // the same image.
    let mut run = MKFS_EROFS.command()?.args(["-zlz4hc,12", "-C65536", "-U", UUID]);
    if spec.clamp {
        run = run.arg(format!("-T{}", spec.mtime));
    }
    run.arg(to).arg(dir).run().map(drop)
}

const UUID: &str = "b3117e74-0000-4000-8000-000000000001";

fn mke2fs(spec: &Spec, to: &Path, need: u64, files: u64) -> Result<crate::tools::Run, Error> {
    // Every inode takes 128 bytes, or a block with its data; a tenth more, and never less than
    // ext2's own structures need.
    let least = need + files * 256 + (256 << 10);
    let size = spec.size.unwrap_or(least + least / 10 + (1 << 20)).next_multiple_of(4096);
    if size < need {
        return Err(Error::Media(format!(
            "the files need {need} bytes, --size gives {size}: give more, or omit --size"
        )));
    }
    let made = File::options().write(true).create(true).truncate(true).open(to);
    let made = made.and_then(|file| file.set_len(size));
    made.map_err(Error::write(to))?;
    let inodes = (files + files / 10 + 64).to_string();
    let run = MKE2FS
        .command()?
        .args(["-q", "-F", "-t", "ext2", "-m", "0", "-b", "1024", "-I", "128", "-N"]);
    let run =
        run.arg(inodes).args(["-U", UUID, "-E"]).arg(format!("hash_seed={UUID},root_owner=0:0"));
    Ok(run
        .env("E2FSPROGS_FAKE_TIME", spec.mtime.to_string())
        .env("SOURCE_DATE_EPOCH", spec.mtime.to_string()))
}

/// Blocks of a file's data, with the blocks that point to them.
fn blocks(len: u64) -> u64 {
    let data = len.div_ceil(1024);
    (data + data / 256 + u64::from(data > 12) + u64::from(data > 268)) * 1024
}

fn ext2_of_dir(spec: &Spec, to: &Path, dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    let (mut need, mut files) = (0, 1);
    let mut linked = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let fail = |source| Error::Read { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let meta = entry.metadata().map_err(fail)?;
            need += 64;
            if meta.nlink() > 1 && !meta.is_dir() && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            files += 1;
            if meta.is_dir() {
                need += 1024;
                todo.push(entry.path());
            } else if meta.is_file() {
                need += blocks(meta.len());
            } else {
                need += 1024;
            }
        }
    }
    mke2fs(spec, to, need, files)?.arg("-d").arg(dir).arg(to).run().map(drop)
}

fn ext2_of_initrd(spec: &Spec, to: &Path, tree: &BTreeMap<&str, Entry<'_>>) -> Result<(), Error> {
    let data = |entry: &Entry<'_>| if entry.is_file() { entry.data.len() as u64 } else { 1024 };
    let need = tree.values().map(|entry| blocks(data(entry)) + 64).sum();
    mke2fs(spec, to, need, tree.len() as u64)?.arg(to).run()?;
    let work = Workplace::new(to)?;
    let mut script = String::new();
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for (n, (path, entry)) in tree.iter().enumerate() {
        if path.chars().any(|c| c.is_control() || c == '"') {
            return Err(Error::Media(format!(
                "'{}' has a name that debugfs does not accept",
                path.escape_debug()
            )));
        }
        // An archive need not name a file's directories.
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            if made.insert(parent) && !tree.contains_key(parent) {
                let _ = writeln!(script, "mkdir \"/{parent}\"");
            }
        }
        made.insert(path);
        let _ = match entry.mode_text().chars().next() {
            Some('d') => writeln!(script, "mkdir \"/{path}\""),
            Some('-') => {
                let name = work.join(&n.to_string());
                fs::write(&name, entry.data).map_err(Error::write(to))?;
                // debugfs splits at blanks: the file is in its working directory.
                writeln!(script, "write {n} \"/{path}\"")
            }
            Some('l') => {
                let target = entry.symlink().unwrap_or_default();
                if target.chars().any(|c| c.is_control() || c == '"') {
                    return Err(Error::Media(format!(
                        "the target of the link '{path}' is not one that debugfs accepts"
                    )));
                }
                writeln!(script, "symlink \"/{path}\" \"{target}\"")
            }
            // mknod makes its node in the current directory only.
            Some(kind @ ('c' | 'b' | 'p')) => {
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                let numbers = if kind == 'p' {
                    String::new()
                } else {
                    format!(" {} {}", entry.rdev.0, entry.rdev.1)
                };
                writeln!(script, "cd \"/{dir}\"\nmknod \"{name}\" {kind}{numbers}\ncd /")
            }
            _ => continue,
        };
        let _ = writeln!(script, "sif \"/{path}\" mode 0{:o}", entry.mode);
        for (field, value) in [("uid", entry.uid), ("gid", entry.gid)] {
            if value != 0 {
                let _ = writeln!(script, "sif \"/{path}\" {field} {value}");
            }
        }
        let time = if spec.clamp { entry.mtime.min(spec.mtime) } else { entry.mtime };
        for field in ["mtime", "atime", "ctime"] {
            let _ = writeln!(script, "sif \"/{path}\" {field} @{time}");
        }
    }
    let file = work.join("script");
    fs::write(&file, script).map_err(Error::write(to))?;
    let image = fs::canonicalize(to).map_err(Error::write(to))?;
    let run = DEBUGFS.command()?.args(["-w", "-f", "script"]).arg(image).dir(&work.join(""));
    let run = run.env("E2FSPROGS_FAKE_TIME", spec.mtime.to_string());
    let said = run.run()?;
    // debugfs exits with 0 after any failure. It echoes commands; other lines are errors.
    let said = String::from_utf8_lossy(&said);
    let known = ["debugfs: ", "Allocated inode: "];
    match said
        .lines()
        .find(|line| !line.is_empty() && !known.iter().any(|start| line.starts_with(start)))
    {
        None => Ok(()),
        Some(line) => Err(Error::Tool { program: "debugfs", why: line.to_owned() }),
    }
}

fn iso(spec: &Spec, to: &Path, dir: &Path) -> Result<(), Error> {
    // Deep directories are not relocated, as with Mandriva's mkisofs.
    let run = XORRISO.command()?.args(["-as", "mkisofs", "-quiet", "-D", "-R", "-o"]);
    run.arg(to).arg(dir).env("SOURCE_DATE_EPOCH", spec.mtime.to_string()).run().map(drop)
}

fn unpack_cloop(path: &Path, draft: &Draft, told: Told<'_>) -> Result<(), Error> {
    let fail = |e: cloop::CloopError| Error::Container { path: path.into(), why: e.to_string() };
    let file = File::open(path).map_err(Error::read(path))?;
    let mut out = BufWriter::new(draft.create()?);
    let told = &mut |done: u32, all: u32| told("unpacking blocks", done.into(), all.into());
    cloop::unpack(&mut BufReader::new(file), &mut out, told).map_err(fail)?;
    out.flush().map_err(Error::write(draft.path()))
}

fn pack_cloop(path: &Path, draft: &Draft, told: Told<'_>) -> Result<(), Error> {
    let fail = |e: cloop::CloopError| Error::Container { path: path.into(), why: e.to_string() };
    let read = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(read)?;
    let len = file.metadata().map_err(read)?.len();
    let mut out = BufWriter::new(draft.create()?);
    let told = &mut |done: u32, all: u32| told("packing blocks", done.into(), all.into());
    cloop::pack(&mut BufReader::new(file), len, cloop::BLOCK, &mut out, told).map_err(fail)?;
    out.flush().map_err(Error::write(draft.path()))
}

/// Writes a dm-verity tree beside an image: `IMAGE.verity` and `IMAGE.roothash`. Returns the
/// root hash. The image is padded to whole blocks of the tree.
///
/// # Errors
/// [`Error::Read`] or [`Error::Write`] for the image or one of the two files.
pub fn add_verity(image: &Path, told: Told<'_>) -> Result<String, Error> {
    let fail = |source| Error::Read { path: image.into(), source };
    let file = File::options().read(true).write(true).open(image).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    let whole = len.next_multiple_of(verity::BLOCK as u64);
    if whole != len {
        file.set_len(whole).map_err(Error::write(image))?;
    }
    let told = &mut |done| told("hashing", done, whole);
    let made = verity::format(&mut BufReader::with_capacity(1 << 20, file), told).map_err(fail)?;
    for (end, bytes) in [("verity", made.tree.as_slice()), ("roothash", made.root_hash.as_bytes())]
    {
        let mut name = image.as_os_str().to_owned();
        name.push(format!(".{end}"));
        let draft = Draft::new(Path::new(&name))?;
        let written = draft.create()?.write_all(bytes);
        written.map_err(Error::write(name))?;
        draft.keep()?;
    }
    Ok(made.root_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_name() {
        for (name, format) in [
            ("a.squashfs", Some(Format::Squashfs)),
            ("rescue.sqfs", Some(Format::Squashfs)),
            ("rescue.clp", Some(Format::Cloop)),
            ("initrd-ext2", Some(Format::Ext2)),
            ("x.ext2", Some(Format::Ext2)),
            ("stage2.img", Some(Format::Ext2)),
            ("a.erofs", Some(Format::Erofs)),
            ("a.txt", None),
        ] {
            let path = Path::new("/x").join(name);
            let found = Format::from_path(&path);
            assert_eq!(found, format, "{name}");
        }
    }
}
