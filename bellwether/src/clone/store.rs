//! Where received bytes go, and where sent ones come from.
//!
//! A target is opened before anything is announced, so that a disk in use, a
//! read-only one or a missing one is known by name before the others wait for
//! this machine. Writing is done beside receiving, with a bounded queue.

use clone::digest::{Digest, Meter};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::failure::Failure;

/// Where bytes go.
#[derive(Debug)]
pub struct Target {
    out: File,
    name: String,
    path: Option<PathBuf>,
    /// Reads as zeros where nothing was written: blocks of zeros need not
    /// be written.
    clean: bool,
    /// Must reach the disk before "done".
    sync: bool,
    child: Option<Child>,
    split: Option<Split>,
}

/// A target in parts of bounded size.
#[derive(Debug)]
struct Split {
    base: PathBuf,
    size: u64,
    left: u64,
    parts: u32,
}

/// How to open a target.
#[derive(Debug, Default, Clone, Copy)]
pub struct How<'a> {
    /// A shell command between the stream and the target.
    pub pipe: Option<&'a str>,
    /// The path is the directory that the command works in, not its output.
    pub directory: bool,
    /// Parts of so many bytes, `PATH_0` and so on.
    pub split: Option<u64>,
    /// Write synchronously, or not; by default devices are.
    pub sync: Option<bool>,
    /// The target must be there already.
    pub existing: bool,
}

impl Target {
    /// A stream, perhaps into this program.
    const fn stream(out: File, name: String, child: Option<Child>) -> Self {
        Self { out, name, path: None, clean: false, sync: false, child, split: None }
    }

    /// Opens `path`, or standard output without one.
    pub fn open(path: Option<&Path>, how: How<'_>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|p| *p != Path::new("-")) else {
            let out =
                File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned().map_err(
                    |e| Failure::Failed(format!("cannot write to standard output: {e}")),
                )?);
            let mut target = Self::stream(out, "standard output".to_owned(), None);
            target.pipe(how.pipe)?;
            return Ok(target);
        };
        let name = path.display().to_string();
        let failed = |why: &str| Failure::Failed(format!("{name}: {why}"));
        if how.directory {
            let command = how.pipe.unwrap_or("cat >/dev/null");
            std::fs::create_dir_all(path).map_err(|e| failed(&e.to_string()))?;
            let mut child = Command::new("/bin/sh")
                .args(["-c", command])
                .current_dir(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .map_err(|e| failed(&format!("cannot run '{command}' there: {e}")))?;
            let Some(stdin) = child.stdin.take() else { return Err(failed("no pipe into it")) };
            let out = File::from(std::os::fd::OwnedFd::from(stdin));
            return Ok(Self::stream(out, name, Some(child)));
        }
        let base = path;
        let first;
        let path = match how.split {
            Some(_) => {
                first = part(base, 0);
                first.as_path()
            }
            None => base,
        };
        let kind = std::fs::metadata(path).map(|m| m.file_type()).ok();
        let block = kind.is_some_and(|k| k.is_block_device());
        let regular = kind.is_none_or(|k| k.is_file());
        let mut options = OpenOptions::new();
        options.write(true);
        if block {
            // The kernel then refuses a disk that is mounted or otherwise held.
            options.custom_flags(nix::libc::O_EXCL);
        } else if regular && !how.existing {
            options.create(true).truncate(true).mode(0o600);
        }
        let out = options.open(path).map_err(|e| match e.raw_os_error() {
            Some(nix::libc::EBUSY) => failed("is in use; unmount it, or name another target"),
            Some(nix::libc::EROFS | nix::libc::EACCES | nix::libc::EPERM) => {
                failed(&format!("cannot be written to: {e}"))
            }
            Some(nix::libc::ENOENT) => {
                failed("does not exist; this protocol writes to what is there already")
            }
            _ => failed(&e.to_string()),
        })?;
        let empty = out.metadata().is_ok_and(|m| m.is_file() && m.len() == 0);
        let mut target = Self {
            out,
            name,
            path: Some(path.to_owned()),
            clean: empty,
            sync: how.sync.unwrap_or(block),
            child: None,
            split: how.split.map(|size| Split {
                base: base.to_owned(),
                size,
                left: size,
                parts: 1,
            }),
        };
        target.pipe(how.pipe)?;
        Ok(target)
    }

    /// In parts: as much as fits in this one, then the next.
    fn write_parts(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(split) = &mut self.split {
            let now = bytes.len().min(usize::try_from(split.left).unwrap_or(usize::MAX));
            let (these, rest) = bytes.split_at(now);
            self.out.write_all(these)?;
            split.left -= now as u64;
            bytes = rest;
            if bytes.is_empty() {
                break;
            }
            let next = part(&split.base, split.parts);
            self.out = OpenOptions::new().write(true).create_new(true).open(next)?;
            split.parts += 1;
            split.left = split.size;
        }
        Ok(())
    }

    fn pipe(&mut self, command: Option<&str>) -> Result<(), Failure> {
        let Some(command) = command else { return Ok(()) };
        let failed = |e: io::Error| Failure::Failed(format!("cannot run '{command}': {e}"));
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(self.out.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let Some(stdin) = child.stdin.take() else {
            return Err(failed(io::Error::other("no pipe to it")));
        };
        self.out = File::from(std::os::fd::OwnedFd::from(stdin));
        self.name = format!("'{command}'");
        self.path = None;
        self.clean = false;
        self.child = Some(child);
        Ok(())
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.split.is_some() {
            return self.write_parts(bytes);
        }
        if !self.clean {
            return self.out.write_all(bytes);
        }
        // Runs of whole pages of zeros become holes.
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, _) = rest.split_at(rest.len().min(4096));
            let zero = page.len() == 4096 && page.iter().all(|b| *b == 0);
            let run = rest
                .chunks(4096)
                .take_while(|p| (p.len() == 4096 && p.iter().all(|b| *b == 0)) == zero)
                .map(<[u8]>::len)
                .sum::<usize>();
            let (now, later) = rest.split_at(run);
            if zero {
                self.out.seek(SeekFrom::Current(run as i64))?;
            } else {
                self.out.write_all(now)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Ends writing: holes at the end get their length, commands are waited
    /// for, disks are synced.
    fn close(mut self) -> io::Result<()> {
        if self.clean && self.split.is_none() {
            let end = self.out.stream_position()?;
            self.out.set_len(end)?;
        }
        if let Some(mut child) = self.child.take() {
            drop(self.out);
            let status = child.wait()?;
            if !status.success() {
                return Err(io::Error::other(format!("{} failed: {status}", self.name)));
            }
            return Ok(());
        }
        if self.sync {
            self.out.sync_data()?;
        } else if self.path.is_some() {
            // Write errors that are only found now still count.
            self.out.flush()?;
        }
        Ok(())
    }
}

/// A failure's reason alone.
pub fn why(e: Failure) -> String {
    e.to_string()
}

/// The name of a part.
pub fn part(base: &Path, number: u32) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(format!("_{number}"));
    PathBuf::from(name)
}

/// Reads back what was stored, past the page cache where that is possible.
pub fn read_back(path: &Path, digest: Digest) -> Result<(), Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let mut file = File::open(path).map_err(|e| failed(format!("cannot be read back: {e}")))?;
    file.sync_all().map_err(|e| failed(format!("cannot be synced: {e}")))?;
    let _ =
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let mut meter = Meter::default();
    let mut buffer = vec![0; 1 << 20];
    let mut left = digest.bytes;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = file
            .read(buffer.get_mut(..want).unwrap_or_default())
            .map_err(|e| failed(format!("cannot be read back: {e}")))?;
        if n == 0 {
            break;
        }
        meter.update(buffer.get(..n).unwrap_or_default());
        left -= n as u64;
    }
    if meter.digest() != digest {
        return Err(failed("does not hold what was written; the disk is bad".to_owned()));
    }
    Ok(())
}

/// A target written by a thread of its own.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Vec<u8>>>,
    spent: Receiver<Vec<u8>>,
    worker: Option<JoinHandle<io::Result<Digest>>>,
    name: String,
}

impl Writer {
    /// Starts writing to `target`, with at most `depth` buffers waiting. What is
    /// written is digested on the way if `digest`, and is read back from `check` at the end.
    pub fn start(mut target: Target, depth: usize, digest: bool, check: Option<PathBuf>) -> Self {
        let (queue, work) = sync_channel::<Vec<u8>>(depth);
        let (done, spent) = sync_channel(depth + 2);
        let name = target.name().to_owned();
        let worker = std::thread::spawn(move || {
            let mut meter = Meter::default();
            for bytes in work {
                target.write(&bytes)?;
                if digest || check.is_some() {
                    meter.update(&bytes);
                }
                let _ = done.try_send(bytes);
            }
            target.close()?;
            if let Some(path) = check {
                read_back(&path, meter.digest()).map_err(|e| io::Error::other(why(e)))?;
            }
            Ok(meter.digest())
        });
        Self { queue: Some(queue), spent, worker: Some(worker), name }
    }

    /// A buffer to fill, perhaps with old content.
    pub fn buffer(&self) -> Vec<u8> {
        self.spent.try_recv().unwrap_or_default()
    }

    /// Hands over a buffer; gives it back when the queue is full.
    pub fn try_write(&mut self, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        match self.queue.as_ref().map(|queue| queue.try_send(bytes)) {
            Some(Ok(())) => Ok(None),
            Some(Err(TrySendError::Full(bytes))) => Ok(Some(bytes)),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                Err(self.finish().err().unwrap_or_else(|| format!("{}: closed", self.name)))
            }
        }
    }

    /// Waits until all is stored; the digest of it, or why it is not stored.
    pub fn finish(&mut self) -> Result<Digest, String> {
        self.queue = None;
        match self.worker.take().map(JoinHandle::join) {
            Some(Ok(Ok(digest))) => Ok(digest),
            Some(Ok(Err(e))) if e.kind() == io::ErrorKind::StorageFull => {
                Err(format!("{}: is too small for what is sent", self.name))
            }
            Some(Ok(Err(e))) => Err(format!("{}: {e}", self.name)),
            Some(Err(_)) => Err(format!("{}: the writer has crashed", self.name)),
            None => Err(format!("{}: closed", self.name)),
        }
    }

    /// Whether all is stored, without waiting; [`Writer::finish`] then tells.
    pub fn idle(&self) -> bool {
        self.worker.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// No more will come.
    pub fn end(&mut self) {
        self.queue = None;
    }
}

/// Where bytes come from.
#[derive(Debug)]
pub struct Source {
    file: File,
    /// Its name in messages.
    pub name: String,
    /// Its length, where that is known.
    pub length: Option<u64>,
    child: Option<Child>,
    left: u64,
}

impl Source {
    /// No more than so many bytes of it.
    pub fn limited(mut self, bytes: u64) -> Self {
        self.left = bytes;
        self.length = Some(bytes);
        self
    }

    /// Opens `path`, or standard input without one, through `pipe` if given.
    pub fn open(path: Option<&Path>, pipe: Option<&str>) -> Result<Self, Failure> {
        let path = path.filter(|p| *p != Path::new("-"));
        let name = path.map_or("standard input".to_owned(), |p| p.display().to_string());
        let failed = |e: io::Error| Failure::Failed(format!("{name}: cannot be read: {e}"));
        let mut file = match path {
            Some(path) => File::open(path).map_err(failed)?,
            None => File::from(
                std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned().map_err(failed)?,
            ),
        };
        let mut length = path.and_then(|_| {
            let end = file.seek(SeekFrom::End(0)).ok()?;
            file.seek(SeekFrom::Start(0)).ok()?;
            Some(end)
        });
        let mut child = None;
        if let Some(command) = pipe {
            let mut running = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(file)
                .stdout(Stdio::piped())
                .spawn()
                .map_err(failed)?;
            let Some(out) = running.stdout.take() else {
                return Err(Failure::Failed(format!("'{command}': no pipe from it")));
            };
            file = File::from(std::os::fd::OwnedFd::from(out));
            child = Some(running);
            length = None;
        }
        Ok(Self { file, name, length, child, left: u64::MAX })
    }

    /// The next bytes; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let some = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..some).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.file.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::Failed(format!("{}: {e}", self.name))),
                Ok(0) => {
                    if let Some(mut child) = self.child.take() {
                        let status = child
                            .wait()
                            .map_err(|e| Failure::Failed(format!("{}: {e}", self.name)))?;
                        if !status.success() {
                            return Err(Failure::Failed(format!(
                                "the command on {} failed: {status}",
                                self.name
                            )));
                        }
                    }
                    return Ok(0);
                }
                Ok(n) => {
                    self.left -= n as u64;
                    return Ok(n);
                }
            }
        }
    }
}
