//! External programs that write file systems and media, and files that appear complete or not
//! at all.

use crate::error::Error;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An external program and its package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Name of the program.
    pub program: &'static str,
    /// Debian package that has it.
    pub package: &'static str,
}

macro_rules! tools {
    ($($name:ident $program:literal in $package:literal),* $(,)?) => {
        $(#[doc = concat!("`", $program, "`.")]
        pub const $name: Tool = Tool { program: $program, package: $package };)*
    };
}

tools! {
    XORRISO "xorriso" in "xorriso",
    MKSQUASHFS "mksquashfs" in "squashfs-tools",
    MKFS_EROFS "mkfs.erofs" in "erofs-utils",
    MKE2FS "mke2fs" in "e2fsprogs",
    DEBUGFS "debugfs" in "e2fsprogs",
    MFORMAT "mformat" in "mtools",
    MMD "mmd" in "mtools",
    MCOPY "mcopy" in "mtools",
    COPY "cp" in "coreutils",
}

impl Tool {
    /// Its path: in `PATH`, or in the directories of administrators' programs.
    ///
    /// # Errors
    /// [`Error::NoTool`] when it is not installed.
    pub fn find(&self) -> Result<PathBuf, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let found = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(self.program));
        let missing = || Error::NoTool { what: self.program.into(), package: self.package };
        found.into_iter().find(|file| file.is_file()).ok_or_else(missing)
    }

    /// A run of it without arguments.
    ///
    /// # Errors
    /// [`Error::NoTool`] when it is not installed.
    pub fn command(&self) -> Result<Run, Error> {
        let mut command = Command::new(self.find()?);
        // Messages are parsed, and times must not depend on the machine.
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC0").stdin(Stdio::null());
        Ok(Run { command, program: self.program })
    }
}

/// A run of a program.
#[derive(Debug)]
pub struct Run {
    command: Command,
    program: &'static str,
}

impl Run {
    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command.args(words);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in a directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end; returns its standard output.
    ///
    /// # Errors
    /// [`Error::Tool`] when it does not start, or fails: with its last message.
    pub fn run(self) -> Result<Vec<u8>, Error> {
        self.feed(|_| Ok(()))
    }

    /// Runs it with a standard input.
    ///
    /// # Errors
    /// As [`Run::run`]; also the error of `write`, except a closed pipe.
    pub fn feed(
        mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
    ) -> Result<Vec<u8>, Error> {
        let fail = |why: String| Error::Tool { program: self.program, why };
        let command =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| fail(format!("does not start: {e}")))?;
        let input = child.stdin.take();
        let (fed, done) = std::thread::scope(|scope| {
            let feeder = scope.spawn(move || input.map_or(Ok(()), |mut input| write(&mut input)));
            let done = child.wait_with_output();
            (feeder.join(), done)
        });
        let done = done.map_err(|e| fail(e.to_string()))?;
        if !done.status.success() {
            let text = String::from_utf8_lossy(&done.stderr).into_owned()
                + &String::from_utf8_lossy(&done.stdout);
            return Err(fail(last_words(&text)));
        }
        match fed {
            Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(fail(e.to_string())),
            Err(_) => Err(fail("feeding it failed".into())),
            _ => Ok(done.stdout),
        }
    }
}

/// The program's last message, in one line.
fn last_words(text: &str) -> String {
    // xorriso checks before it writes.
    let full = ["No space left on device", "exceeds free space on media"];
    if full.iter().any(|said| text.contains(said)) {
        return "the disk is full; free some space or give -o another place".into();
    }
    // What mke2fs warns of was taken for what it failed by.
    let says = |line: &&str| !line.is_empty() && !line.ends_with("are deprecated");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(says).collect();
    let blamed = lines.iter().filter(|l| {
        let l = l.to_ascii_lowercase();
        ["fatal", "failure", "error", "cannot", "could not", "failed", "too big", "too small"]
            .iter()
            .any(|w| l.contains(w))
    });
    let blamed: Vec<&str> = blamed.copied().take(3).collect();
    match (blamed.is_empty(), lines.last()) {
        (false, _) => blamed.join("; "),
        (true, Some(last)) => (*last).to_owned(),
        (true, None) => "it said nothing".into(),
    }
}

/// Temporary files and directories that this process is making.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what [`Draft`] and [`Workplace`] hold, for a process that a signal ends: it drops
/// neither.
pub fn remove_unfinished() {
    for path in std::mem::take(&mut *unfinished()) {
        if fs::remove_file(&path).is_err() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// A file being made under a temporary name, renamed when complete. Dropping it earlier leaves
/// nothing.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Draft {
    /// A draft of `to`, in the same directory.
    ///
    /// # Errors
    /// [`Error::Write`] when the path has no file name, or its directory does not exist.
    pub fn new(to: &Path) -> Result<Self, Error> {
        let fail = |kind: io::ErrorKind| Error::Write { path: to.into(), source: kind.into() };
        let name = to.file_name().ok_or_else(|| fail(io::ErrorKind::IsADirectory))?;
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}.part", std::process::id()));
        let refuse =
            |why: &str| Err(Error::Write { path: to.into(), source: io::Error::other(why) });
        match fs::metadata(to) {
            Ok(there) if there.is_dir() => return refuse("it is a directory"),
            // The finished file would take the device's name away.
            Ok(there) if !there.is_file() => return refuse("it is no file; name one"),
            _ => {}
        }
        if to.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
            return refuse("its directory does not exist");
        }
        let path = to.with_file_name(draft);
        unfinished().insert(path.clone());
        Ok(Self { path, to: to.into(), kept: false })
    }

    /// The temporary path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates it empty, open for reading and writing.
    ///
    /// # Errors
    /// [`Error::Write`] when it cannot be created.
    pub fn create(&self) -> Result<File, Error> {
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&self.path);
        file.map_err(Error::write(&self.to))
    }

    /// Syncs and renames it.
    ///
    /// # Errors
    /// [`Error::Write`] when it cannot be synced or renamed.
    pub fn keep(mut self) -> Result<(), Error> {
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        let done = synced.and_then(|()| fs::rename(&self.path, &self.to));
        done.map_err(Error::write(&self.to))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
        unfinished().remove(&self.path);
    }
}

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub struct Workplace(PathBuf);

impl Workplace {
    /// A new directory beside `near`, where there is room for what `near` will hold.
    ///
    /// # Errors
    /// [`Error::Write`] when it cannot be created.
    pub fn new(near: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let name = near.file_name().unwrap_or_default().to_string_lossy();
        remove_stale(near, &name);
        let dir = near.with_file_name(format!(".{name}.{}.work", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(Error::write(&dir))?;
        unfinished().insert(dir.clone());
        Ok(Self(dir))
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Removes the directories that a run for the same file left when a signal ended it.
fn remove_stale(near: &Path, name: &str) {
    let parent = near.parent().filter(|dir| !dir.as_os_str().is_empty());
    let Ok(list) = fs::read_dir(parent.unwrap_or(Path::new("."))) else { return };
    for entry in list.flatten() {
        let file = entry.file_name();
        let pid = file.to_str().and_then(|file| {
            file.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".work")
        });
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        unfinished().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ctrl-C in the middle of `iso` left a hidden directory of the image's size behind.
    #[test]
    fn what_a_broken_off_run_left_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let near = dir.path().join("live.iso");
        let at = |name: &str| dir.path().join(name);
        // No process has a number above 2^22.
        let stale = at(".live.iso.4194999.work");
        let others = [at(".live.iso.x.work"), at(".live.iso.1.work"), at(".b.iso.4194999.work")];
        for made in others.iter().chain([&stale]) {
            fs::create_dir(made).unwrap();
        }
        let work = Workplace::new(&near).unwrap();
        assert!(!stale.exists() && work.join("").exists());
        assert!(others.iter().all(|other| other.exists()));
    }

    /// `image --size 1K` failed by "dates beyond 2038".
    #[test]
    fn a_warning_is_no_last_word() {
        let said = "128-byte inodes cannot handle dates beyond 2038 and are deprecated\nmke2fs: inode_size (128) too big for a\n\tfilesystem with 0 blocks";
        assert_eq!(last_words(said), "mke2fs: inode_size (128) too big for a");
    }

    /// An image with a device's name took the place of the device.
    #[test]
    fn devices_are_no_drafts() {
        for (to, why) in
            [("/dev/null", "no file"), ("/tmp", "a directory"), ("/no/such/x", "does not exist")]
        {
            let refused = Draft::new(Path::new(to)).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let told = Tool { program: "no-such-program", package: "nothing" }.find().unwrap_err();
        assert_eq!(
            told.to_string(),
            "no-such-program is not installed; on Debian: apt install nothing"
        );
    }

    #[test]
    fn programs_are_fed_and_blamed() {
        let cat = Tool { program: "cat", package: "coreutils" };
        assert_eq!(cat.command().unwrap().feed(|to| to.write_all(b"abc")).unwrap(), b"abc");
        let told = cat.command().unwrap().arg("/no/such").run().unwrap_err().to_string();
        assert!(told.starts_with("cat: ") && told.contains("/no/such"), "{told}");
        // More than a pipe holds, to a program that does not read.
        let quiet = Tool { program: "true", package: "coreutils" };
        assert_eq!(quiet.command().unwrap().feed(|to| to.write_all(&[0; 1 << 20])).unwrap(), b"");
    }

    #[test]
    fn drafts() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let draft = Draft::new(&to).unwrap();
        draft.create().unwrap().write_all(b"x").unwrap();
        drop(draft);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let draft = Draft::new(&to).unwrap();
        draft.create().unwrap();
        draft.keep().unwrap();
        assert!(to.exists());
        assert!(Draft::new(dir.path()).is_err() && Draft::new(Path::new("/no/such/x")).is_err());
        let work = Workplace::new(&to).unwrap();
        fs::write(work.join("a"), "b").unwrap();
        drop(work);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
