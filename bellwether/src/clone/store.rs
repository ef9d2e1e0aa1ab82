//! Where received bytes go, and where sent ones come from.
//!
//! A target is opened before anything is announced, so that a disk in use, a
//! read-only one or a missing one is known by name before the others wait for
//! this machine. Writing is done beside receiving, with a bounded queue.

use clone::digest::Meter;
use clone::edge::place::Place;
use clone::guard::{Announcement, Guard, Kept, Terms};
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
    out: Out,
    name: String,
    /// A file that a stream replaces, until its first bytes.
    old: Option<File>,
    child: Option<Child>,
}

#[derive(Debug)]
enum Out {
    /// A disk or a file, whose beginning is written last.
    Place(Box<Guard<Place>>),
    /// A stream, perhaps into a program.
    Stream(File),
    /// A file in parts of bounded size, and its present one.
    Parts(File, Split),
}

/// A target in parts of bounded size.
#[derive(Debug)]
struct Split {
    base: PathBuf,
    size: u64,
    left: u64,
    parts: u32,
}

impl Split {
    /// As much as fits in this part, then the next.
    fn write(&mut self, out: &mut File, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let now = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (these, rest) = bytes.split_at(now);
            out.write_all(these)?;
            self.left -= now as u64;
            bytes = rest;
            if bytes.is_empty() {
                return Ok(());
            }
            let next = part(&self.base, self.parts);
            *out = OpenOptions::new().write(true).create_new(true).open(next)?;
            self.parts += 1;
            self.left = self.size;
        }
    }
}

/// How to open a target.
#[derive(Debug, Default, Clone)]
pub struct How<'a> {
    /// A shell command between the stream and the target.
    pub pipe: Option<&'a str>,
    /// The path is the directory that the command works in, not its output.
    pub directory: bool,
    /// Parts of so many bytes, `PATH_0` and so on.
    pub split: Option<u64>,
    /// The target must be there already.
    pub existing: bool,
    /// What the user wants of a disk or a file.
    pub terms: Terms,
}

/// Whether a disk or a file has this name, or a file may get it.
fn is_place(path: &Path) -> bool {
    let kind = std::fs::metadata(path).map(|m| m.file_type());
    kind.map_or(true, |kind| kind.is_file() || kind.is_block_device())
}

impl Target {
    /// A stream, perhaps into this program.
    const fn stream(out: File, name: String, child: Option<Child>) -> Self {
        Self { out: Out::Stream(out), name, old: None, child }
    }

    /// Opens `path`, or standard output without one. What is there keeps its bytes.
    pub fn open(path: Option<&Path>, how: How<'_>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|p| *p != Path::new("-")) else {
            let out =
                File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned().map_err(
                    |e| Failure::Failed(format!("cannot write to standard output: {e}")),
                )?);
            let target = Self::stream(out, "standard output".to_owned(), None);
            return target.through(how.pipe);
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
        if let Some(size) = how.split {
            let out = OpenOptions::new().write(true).create_new(true).open(part(path, 0));
            let out = out.map_err(|e| failed(&e.to_string()))?;
            let split = Split { base: path.to_owned(), size, left: size, parts: 1 };
            return Ok(Self { out: Out::Parts(out, split), name, old: None, child: None });
        }
        if is_place(path) && how.pipe.is_none() {
            let text = path.to_str().ok_or_else(|| failed("its name is not UTF-8"))?;
            if let Some(mark) = clone::edge::place::marked(text) {
                eprintln!("{name}: {mark}");
            }
            let place = Place::open(text, how.existing);
            let place = place.map_err(|e| Failure::Failed(e.to_string()))?;
            let out = Out::Place(Box::new(Guard::new(place, how.terms)));
            return Ok(Self { out, name, old: None, child: None });
        }
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).create(!how.existing && is_place(path));
        let out = options.open(path).map_err(|e| failed(&e.to_string()))?;
        let old = is_place(path).then(|| out.try_clone()).transpose();
        let old = old.map_err(|e| failed(&e.to_string()))?.filter(|_| !how.existing);
        Self { old, ..Self::stream(out, name, None) }.through(how.pipe)
    }

    fn through(self, command: Option<&str>) -> Result<Self, Failure> {
        let (Some(command), Out::Stream(out)) = (command, &self.out) else { return Ok(self) };
        let failed = |e: io::Error| Failure::Failed(format!("cannot run '{command}': {e}"));
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let Some(stdin) = child.stdin.take() else {
            return Err(failed(io::Error::other("no pipe to it")));
        };
        let out = Out::Stream(File::from(std::os::fd::OwnedFd::from(stdin)));
        Ok(Self { out, name: format!("'{command}'"), old: self.old, child: Some(child) })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A stream's error.
    fn failed(&self, e: &io::Error) -> String {
        match e.kind() {
            io::ErrorKind::StorageFull => format!("{}: is too small for what is sent", self.name),
            _ => format!("{}: {e}", self.name),
        }
    }

    fn announce(&mut self, told: &Announcement) -> Result<(), String> {
        match &mut self.out {
            Out::Place(guard) => guard.announce(told).map_err(|e| e.to_string()),
            Out::Stream(_) | Out::Parts(..) => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(old) = self.old.take() {
            // A file that is no disk keeps its old content until now.
            let _ = old.set_len(0);
        }
        let mut done = 0;
        let written = match &mut self.out {
            Out::Place(guard) => {
                while done < bytes.len() {
                    let rest = bytes.get(done..).unwrap_or_default();
                    done += guard.put(rest).map_err(|e| e.to_string())?;
                }
                Ok(())
            }
            Out::Stream(out) => out.write_all(bytes),
            Out::Parts(out, split) => split.write(out, bytes),
        };
        written.map_err(|e| self.failed(&e))
    }

    /// Ends writing: a disk or a file gets its beginning, commands are waited for. Nothing of
    /// a stream, which cannot be read back.
    fn close(mut self) -> Result<Option<Kept>, String> {
        match &mut self.out {
            Out::Place(guard) => loop {
                if let Some(kept) = guard.finish().map_err(|e| e.to_string())? {
                    return Ok(Some(kept));
                }
            },
            Out::Parts(out, _) => out.sync_data().map_err(|e| self.failed(&e))?,
            Out::Stream(out) => out.flush().map_err(|e| self.failed(&e))?,
        }
        if let Some(mut child) = self.child.take() {
            drop(self.out);
            let status = child.wait().map_err(|e| format!("{}: {e}", self.name))?;
            if !status.success() {
                return Err(format!("{} failed: {status}", self.name));
            }
        }
        Ok(None)
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

/// What the thread of a [`Writer`] is given.
#[derive(Debug)]
enum Work {
    Bytes(Vec<u8>),
    Told(Announcement),
    /// That was all of it. Without this word, what was begun is given up.
    End,
}

/// A target written by a thread of its own.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Work>>,
    spent: Receiver<Vec<u8>>,
    worker: Option<JoinHandle<Result<Kept, String>>>,
    name: String,
    /// Bytes were handed over, or the end.
    begun: bool,
}

impl Writer {
    /// Starts writing to `target`, with at most `depth` buffers waiting.
    pub fn start(mut target: Target, depth: usize) -> Self {
        // What the sender tells comes twice.
        let (queue, work) = sync_channel::<Work>(depth + 2);
        let (done, spent) = sync_channel(depth + 2);
        let name = target.name().to_owned();
        let worker = std::thread::spawn(move || {
            let mut meter = Meter::default();
            for work in work {
                match work {
                    Work::End => {
                        let kept = target.close()?;
                        return Ok(kept.unwrap_or_else(|| Kept::unread(meter.digest())));
                    }
                    Work::Told(told) => target.announce(&told)?,
                    Work::Bytes(bytes) => {
                        target.write(&bytes)?;
                        meter.update(&bytes);
                        let _ = done.try_send(bytes);
                    }
                }
            }
            Err(format!("{}: the copy was given up", target.name()))
        });
        Self { queue: Some(queue), spent, worker: Some(worker), name, begun: false }
    }

    /// A buffer to fill, perhaps with old content.
    pub fn buffer(&self) -> Vec<u8> {
        self.spent.try_recv().unwrap_or_default()
    }

    /// Hands over a buffer; gives it back when the queue is full.
    pub fn try_write(&mut self, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        self.begun = true;
        match self.queue.as_ref().map(|queue| queue.try_send(Work::Bytes(bytes))) {
            Some(Ok(())) => Ok(None),
            Some(Err(TrySendError::Full(Work::Bytes(bytes)))) => Ok(Some(bytes)),
            _ => Err(self.finish().err().unwrap_or_else(|| format!("{}: closed", self.name))),
        }
    }

    /// What the sender tells; that it cannot be stored is told later.
    pub fn tell(&mut self, told: &Announcement) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Work::Told(*told));
        }
    }

    /// Waits until all is stored, or why it is not.
    pub fn finish(&mut self) -> Result<Kept, String> {
        self.queue = None;
        match self.worker.take().map(JoinHandle::join) {
            Some(Ok(how)) => how,
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
        self.begun = true;
        if let Some(queue) = self.queue.take() {
            let _ = queue.send(Work::End);
        }
    }
}

impl Drop for Writer {
    /// Where nothing was to be written, the program does not end before the thread has taken
    /// the empty file away. A write that hangs is not waited for.
    fn drop(&mut self) {
        if !self.begun {
            let _ = self.finish();
        }
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
        if let Some(mark) = path.and_then(Path::to_str).and_then(clone::edge::place::marked) {
            return Err(Failure::Failed(format!("{name}: {mark}; it cannot be sent")));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `ka-d-client -f new` left an empty file when no server came.
    #[test]
    fn nothing_received_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, "old").unwrap();
        for path in [&new, &old] {
            let target = Target::open(Some(path), How::default()).unwrap();
            assert!(path.exists());
            drop(Writer::start(target, 1));
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
    }
}
