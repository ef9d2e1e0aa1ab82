//! How much room the clients' files take, and how much there is.
//!
//! The files are sparse, so that their sizes say nothing. Every write is counted; when the count
//! reaches the limit, what the files really take is measured, at most once a second.

use nix::sys::statvfs::statvfs;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that stay free on the disk, for leases and for other programs.
const SPARE: u64 = 64 << 20;
/// How often the files are measured, at most.
const MEASURE: Duration = Duration::from_secs(1);

/// The room for the clients' files.
#[derive(Debug)]
pub struct Space {
    dir: PathBuf,
    /// The directory, as messages name it.
    shown: PathBuf,
    quota: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    measured: Option<(Instant, Measure)>,
    /// Bytes written since.
    written: u64,
    /// The level of the last warning.
    warned: Level,
}

/// What was measured, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measure {
    /// What the files may take together.
    quota: u64,
    /// What they take.
    used: u64,
    /// Free on the disk.
    free: u64,
    /// Size of the disk's file system.
    size: u64,
}

/// How much room is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Enough,
    Little,
    None,
}

impl Measure {
    /// What is left of the quota, and on the disk.
    fn lefts(self) -> (u64, u64) {
        (self.quota.saturating_sub(self.used), self.free.saturating_sub(SPARE))
    }

    /// What may still be written.
    fn left(self) -> u64 {
        let (of_quota, of_disk) = self.lefts();
        of_quota.min(of_disk)
    }

    fn level(self) -> Level {
        let (of_quota, of_disk) = self.lefts();
        match of_quota.min(of_disk) {
            0 => Level::None,
            _ if of_quota < self.quota / 10 || of_disk < (self.size / 20).min(4 << 30) => {
                Level::Little
            }
            _ => Level::Enough,
        }
    }

    /// Whether the disk ends before the quota does.
    fn by_disk(self) -> bool {
        let (of_quota, of_disk) = self.lefts();
        of_disk < of_quota
    }
}

impl Space {
    /// The room of a directory. Without a quota the files may take half of its file system.
    pub fn new(dir: &Path, shown: &Path, quota: Option<u64>) -> Self {
        Self { dir: dir.into(), shown: shown.into(), quota, state: Mutex::default() }
    }

    fn measure(&self) -> io::Result<Measure> {
        let about = statvfs(&self.dir)?;
        let unit = about.fragment_size();
        let bytes = |blocks: u64| blocks.saturating_mul(unit);
        let size = bytes(about.blocks());
        let files = fs::read_dir(&self.dir)?.flatten().filter_map(|entry| entry.metadata().ok());
        let used = files.map(|meta| meta.blocks().saturating_mul(512));
        Ok(Measure {
            quota: self.quota.unwrap_or(size / 2),
            used: used.fold(0, u64::saturating_add),
            free: bytes(about.blocks_available()),
            size,
        })
    }

    /// Counts bytes that will take room, or refuses them with [`io::ErrorKind::StorageFull`].
    /// `rewrites` says whether they only replace what has its room already.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]; the system's error when the files cannot be measured.
    pub fn admit(&self, bytes: u64, rewrites: impl FnOnce() -> bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |state: &State| {
            let left = state.measured.map_or(0, |(_, measure)| measure.left());
            state.written.saturating_add(bytes) <= left
        };
        if !fits(&state) && state.measured.is_none_or(|(at, _)| at.elapsed() >= MEASURE) {
            state.measured = Some((Instant::now(), self.measure()?));
            state.written = 0;
        }
        if fits(&state) {
            state.written = state.written.saturating_add(bytes);
            return Ok(());
        }
        let Some((_, measure)) = state.measured else { return Ok(()) };
        drop(state);
        match rewrites() {
            true => Ok(()),
            false => Err(self.full(measure)),
        }
    }

    fn full(&self, measure: Measure) -> io::Error {
        let text = match measure.by_disk() {
            true => format!("the disk that holds {} is full", self.shown.display()),
            false => format!(
                "the clients' files in {} take all of the {} MB that they may; reset some, or \
                 allow more with --settings-limit",
                self.shown.display(),
                measure.quota >> 20
            ),
        };
        io::Error::new(io::ErrorKind::StorageFull, text)
    }

    /// Names what is full in an error of writing one of the files.
    pub fn named(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                if error.raw_os_error().is_some() =>
            {
                let text = format!("the disk that holds {} is full", self.shown.display());
                io::Error::new(io::ErrorKind::StorageFull, text)
            }
            _ => error,
        }
    }

    /// A warning when the room became scarce since the last call.
    pub fn warning(&self) -> Option<String> {
        let measure = self.measure().ok()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut state.warned, measure.level());
        if measure.level() <= before {
            return None;
        }
        let left = measure.left() >> 20;
        Some(match (measure.level(), measure.by_disk()) {
            (Level::None, _) => {
                format!("{}: what clients change is not kept any more", self.full(measure))
            }
            (_, true) => format!(
                "the disk that holds {} has room for {left} MB more of what clients change",
                self.shown.display()
            ),
            (_, false) => format!(
                "the clients' files in {} may take {left} MB more; --settings-limit sets the limit",
                self.shown.display()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn what_is_scarce_has_a_name() {
        let measure = |quota, used, free| Measure {
            quota: quota * MB,
            used: used * MB,
            free: free * MB,
            size: 100_000 * MB,
        };
        for (measure, level, by_disk) in [
            (measure(50_000, 0, 90_000), Level::Enough, false),
            (measure(50_000, 49_000, 90_000), Level::Little, false),
            (measure(50_000, 50_001, 90_000), Level::None, false),
            (measure(50_000, 0, 1_000), Level::Little, true),
            (measure(50_000, 0, 64), Level::None, true),
        ] {
            assert_eq!((measure.level(), measure.by_disk()), (level, by_disk), "{measure:?}");
        }
    }

    #[test]
    fn a_quota_is_kept_and_rewriting_is_not_hindered() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), Path::new("/var/x"), Some(4 * MB));
        assert_eq!(space.warning(), None);
        fs::write(dir.path().join("a"), vec![1; 3 * MB as usize]).unwrap();
        space.admit(MB / 2, || false).unwrap();
        let error = space.admit(MB, || false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let text = error.to_string();
        assert!(text.contains("in /var/x take all of the 4 MB"), "{text}");
        space.admit(MB, || true).unwrap();
        fs::write(dir.path().join("b"), vec![1; 2 * MB as usize]).unwrap();
        assert!(space.warning().unwrap().contains("is not kept any more"));
        // Once.
        assert_eq!(space.warning(), None);
        let full = io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
        assert_eq!(space.named(full).to_string(), "the disk that holds /var/x is full");
        let other = io::Error::from_raw_os_error(5);
        assert_eq!(space.named(other).raw_os_error(), Some(5));
    }
}
