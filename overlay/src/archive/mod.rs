//! tar and cpio archives, read as streams: the kernel mounts neither.
//!
//! Follows POSIX.1-2017 pax (ustar headers, extended headers with `path`, `linkpath`,
//! `size`, `uid`, `gid`, `mtime` and `SCHILY.xattr.*`), GNU tar's long names and
//! binary numbers, and cpio's "new ASCII" format as the kernel's
//! `buffer-format.rst` describes it. Bytes go in by [`Reader::push`] in pieces of
//! any size; entries and their data come out by a closure.
//!
//! Paths are returned relative and without `.`; one with `..` is an error, so that no archive
//! writes outside its directory. Links inside the archive can still point elsewhere: the caller
//! resolves them below the new root. Not supported: sparse files, archives in several volumes,
//! old binary cpio.

mod cpio;
mod entry;
pub mod newc;
mod tar;

use alloc::boxed::Box;
use alloc::vec::Vec;

pub use entry::{ArchiveError, Entry, Kind};
use entry::{Dialect, Next, State};

use crate::probe::Format;

/// Longest extended header or long name before an entry.
const MAX_FACTS: u64 = 1 << 20;

/// The output of a [`Reader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An entry begins.
    Entry(&'a Entry),
    /// Data of the latest entry.
    Data(&'a [u8]),
}

/// Whether a format is one that [`Reader`] knows.
#[must_use]
pub const fn is_archive(format: Format) -> bool {
    matches!(format, Format::Tar | Format::Cpio)
}

/// The receiver of entries and data.
pub type Sink<'s> = &'s mut dyn FnMut(Event<'_>) -> Result<(), ArchiveError>;

/// Reads an archive.
#[derive(Debug)]
pub struct Reader {
    dialect: Box<dyn Dialect>,
    state: State,
    /// Remaining bytes of the state.
    left: u64,
    /// Bytes to skip after them.
    padding: u64,
    held: Vec<u8>,
}

impl Reader {
    /// A reader for a format; `None` when it is not an archive format.
    #[must_use]
    pub fn new(format: Format) -> Option<Self> {
        let dialect: Box<dyn Dialect> = match format {
            Format::Tar => Box::new(tar::Tar::default()),
            Format::Cpio => Box::new(cpio::Cpio::default()),
            _ => return None,
        };
        let left = dialect.header_length() as u64;
        Some(Self { dialect, state: State::Header, left, padding: 0, held: Vec::new() })
    }

    /// Takes the next bytes of the archive. Bytes after its end are ignored.
    ///
    /// # Errors
    /// [`ArchiveError`] when the archive is malformed or unsupported, or when the sink returns
    /// one.
    pub fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), ArchiveError> {
        let mut rest = bytes;
        while self.state != State::End && !rest.is_empty() {
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            let (piece, later) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = later;
            self.left -= piece.len() as u64;
            match self.state {
                State::Header | State::Facts(_) => self.held.extend_from_slice(piece),
                State::Data if !piece.is_empty() => sink(Event::Data(piece))?,
                _ => {}
            }
            // Several steps may need no further bytes.
            while self.left == 0 && self.state != State::End {
                self.turn(sink)?;
            }
        }
        Ok(())
    }

    /// Handles the current bytes, now that they are complete.
    fn turn(&mut self, sink: Sink<'_>) -> Result<(), ArchiveError> {
        let next = match self.state {
            State::Header => self.dialect.header(&self.held)?,
            State::Facts(kind) => self.dialect.facts(kind, &self.held)?,
            State::Data | State::Skip if self.padding > 0 => {
                Next { entry: None, state: State::Skip, length: self.padding, padding: 0 }
            }
            State::Data | State::Skip => Next::HEADER,
            State::End => Next::END,
        };
        self.held.clear();
        self.enter(next, sink)
    }

    fn enter(&mut self, next: Next, sink: Sink<'_>) -> Result<(), ArchiveError> {
        if let Some(entry) = &next.entry {
            sink(Event::Entry(entry))?;
        }
        self.state = next.state;
        (self.left, self.padding) = match next.state {
            State::Header => (self.dialect.header_length() as u64, 0),
            // Held with their padding, which the format cuts off.
            State::Facts(_) if next.length > MAX_FACTS => {
                return Err(ArchiveError::Damaged("one of its headers is too long"));
            }
            State::Facts(_) => (next.length.saturating_add(next.padding), 0),
            _ => (next.length, next.padding),
        };
        Ok(())
    }

    /// Says that the input has ended.
    ///
    /// # Errors
    /// [`ArchiveError::CutShort`] when the archive has not reached its end.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        if self.state == State::End { Ok(()) } else { Err(ArchiveError::CutShort) }
    }
}

/// Reads any bytes as an archive, in pieces whose length the first byte says: for the
/// fuzzer.
///
/// # Panics
/// When a promise is broken: paths and second names stay inside, data are those of a
/// file, and of no more bytes than it has.
pub fn fuzz(format: Format, data: &[u8]) {
    let Some((piece, rest)) = data.split_first() else { return };
    let Some(mut reader) = Reader::new(format) else { return };
    let inside = |path: &[u8]| {
        let mut parts = path.split(|byte| *byte == b'/');
        path.is_empty()
            || parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
    };
    let mut left = None;
    for bytes in rest.chunks(usize::from(*piece).max(1)) {
        let pushed = reader.push(bytes, &mut |event| {
            match event {
                Event::Entry(entry) => {
                    assert!(inside(&entry.path));
                    let file = match &entry.kind {
                        Kind::File => true,
                        Kind::Link(to) => {
                            assert!(inside(to));
                            true
                        }
                        _ => false,
                    };
                    assert!(file || entry.size == 0);
                    left = file.then_some(entry.size);
                }
                Event::Data(bytes) => {
                    left = left.and_then(|left| left.checked_sub(bytes.len() as u64));
                    assert!(left.is_some(), "more data than the file has");
                }
            }
            Ok(())
        });
        if pushed.is_err() {
            return;
        }
    }
    // Whether its end is there makes no difference here.
    let _ = reader.finish();
}

#[cfg(test)]
mod tests {
    use super::entry::clean;
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    type Seen = Vec<(Entry, Vec<u8>)>;

    fn read(format: Format, bytes: &[u8], step: usize) -> Result<Seen, ArchiveError> {
        let mut seen: Seen = Vec::new();
        let mut reader = Reader::new(format).unwrap();
        for piece in bytes.chunks(step.max(1)) {
            reader.push(piece, &mut |event| {
                match event {
                    Event::Entry(entry) => seen.push((entry.clone(), Vec::new())),
                    Event::Data(data) => seen.last_mut().unwrap().1.extend_from_slice(data),
                }
                Ok(())
            })?;
        }
        reader.finish()?;
        for (entry, data) in &seen {
            assert_eq!(entry.size, data.len() as u64, "{entry:?}");
        }
        Ok(seen)
    }

    /// A tree with everything in it that a root has, packed by the real programs.
    fn packed(command: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "set -e; mkdir -p t/usr/bin t/etc; cd t; echo hello >etc/issue; \
             ln -s usr/bin bin; printf x >usr/bin/tool; chmod 4755 usr/bin/tool; \
             ln usr/bin/tool usr/bin/again; mkfifo pipe; ln -s /etc/issue abs; \
             long=$(printf 'n%.0s' $(seq 120)); mkdir -p deep/$long; \
             head -c 3000 /dev/zero >deep/$long/$long; ln -s $long/$long deep/link; \
             {command}"
        );
        let out = Command::new("sh").arg("-c").arg(script).current_dir(dir.path()).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    fn check(format: Format, bytes: &[u8]) {
        let whole = read(format, bytes, bytes.len()).unwrap();
        for step in [1, 7, 511, 512, 4096] {
            assert_eq!(read(format, bytes, step).unwrap(), whole);
        }
        let find = |path: &str| {
            let path = path.as_bytes();
            whole.iter().find(|(entry, _)| entry.path == path).unwrap_or_else(|| panic!("{path:?}"))
        };
        assert_eq!(find("etc/issue").1, b"hello\n");
        assert_eq!(find("bin").0.kind, Kind::Symlink(b"usr/bin".to_vec()));
        assert_eq!(find("abs").0.kind, Kind::Symlink(b"/etc/issue".to_vec()));
        assert_eq!(find("pipe").0.kind, Kind::Fifo);
        assert_eq!(find("etc").0.kind, Kind::Directory);
        let long = "n".repeat(120);
        assert_eq!(find(&format!("deep/{long}/{long}")).0.size, 3000);
        assert_eq!(find("deep/link").0.kind, Kind::Symlink(format!("{long}/{long}").into_bytes()));
        // One of two names comes first, whichever that is; the data come with one.
        let (tool, again) = (find("usr/bin/tool"), find("usr/bin/again"));
        assert_eq!(tool.0.mode | again.0.mode, 0o4755);
        let linked = [&tool.0.kind, &again.0.kind];
        assert!(
            linked
                .iter()
                .any(|kind| matches!(kind, Kind::Link(path) if path.starts_with(b"usr/bin/")))
        );
        assert_eq!([&tool.1[..], &again.1].concat(), b"x");
        for cut in [0, 1, 511, 600, bytes.len() / 2] {
            assert_eq!(read(format, &bytes[..cut], 512), Err(ArchiveError::CutShort), "{cut}");
        }
    }

    #[test]
    fn archives_of_the_real_programs() {
        for format in ["gnu", "pax", "posix"] {
            check(Format::Tar, &packed(&format!("tar -c --format={format} .")));
        }
        check(Format::Tar, &packed("tar -c --format=pax --xattrs *"));
    }

    #[test]
    fn cpio_of_the_real_program() {
        // The lab's packages have one; a machine without it has nothing to compare.
        if Command::new("cpio").arg("--version").output().is_ok() {
            check(Format::Cpio, &packed("find . -depth | cpio -o -H newc --quiet"));
            check(Format::Cpio, &packed("find * | cpio -o -H newc --quiet"));
        }
    }

    #[test]
    fn what_leads_out_is_refused() {
        for path in ["../x", "a/../../x", "/.."] {
            assert!(matches!(clean(path.as_bytes()), Err(ArchiveError::Outside(_))), "{path}");
        }
        assert_eq!(clean(b"/./a//b/.").unwrap(), b"a/b");
        assert_eq!(clean(b"./").unwrap(), b"");
        let bytes = packed("tar -c -P --transform 's,^etc/issue,../../issue,' etc/issue");
        let error = read(Format::Tar, &bytes, 512).unwrap_err();
        assert_eq!(
            error.to_string(),
            "holds a path that leads out of it: ../../issue; it is not trusted"
        );
    }

    #[test]
    fn damage_is_seen() {
        let mut bytes = packed("tar -c etc/issue");
        bytes[3] ^= 1;
        let error = read(Format::Tar, &bytes, 512).unwrap_err();
        assert_eq!(error, ArchiveError::Damaged("one of its checksums does not match"));
        let sparse = packed("truncate -s 1M etc/hole; tar -cS etc/hole");
        assert!(matches!(read(Format::Tar, &sparse, 512), Err(ArchiveError::Unsupported(_))));
    }

    proptest! {
        #[test]
        fn never_panics(junk: Vec<u8>, at in 0..600_usize, step in 1..700_usize) {
            for (format, head) in [(Format::Tar, vec![0_u8; 0]), (Format::Cpio, b"070701".to_vec())] {
                let _ = read_any(format, &[&head[..], &junk].concat(), step);
                let mut bytes = tar::tests::file(b"a", b"data");
                for (slot, byte) in bytes.iter_mut().skip(at).zip(&junk) {
                    *slot ^= byte;
                }
                tar::tests::sum(&mut bytes);
                let _ = read_any(Format::Tar, &bytes, step);
            }
        }
    }

    fn read_any(format: Format, bytes: &[u8], step: usize) -> Result<(), ArchiveError> {
        let mut reader = Reader::new(format).unwrap();
        for piece in bytes.chunks(step) {
            reader.push(piece, &mut |_| Ok(()))?;
        }
        reader.finish()
    }

    proptest! {
        #[test]
        fn any_bytes_keep_the_promises(data: Vec<u8>) {
            fuzz(Format::Tar, &data);
            fuzz(Format::Cpio, &data);
        }
    }
}
