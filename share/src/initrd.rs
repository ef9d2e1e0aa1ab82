//! Reads the needed files of an initramfs as a stream: neither the whole file nor its unpacked
//! content is ever in memory.
//!
//! The format is the kernel's, see [`cpio_builder::initrd`]: newc archives one after another,
//! each plain or compressed, with zero bytes between them; of files with the same path the last
//! counts. Everything is bounded, see [`Limits`].

use crate::error::Error;
use cpio_builder::compress::{self, Codec};
use cpio_builder::error::Error as BuildError;
use cpio_builder::initrd::{InitrdError, Limits};
use cpio_builder::newc::{Entry, HEADER, Header, NewcError, TRAILER, named, plain};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that identify the start of a segment.
const MAGIC: usize = 8;
/// The longest target of a symbolic link, as the kernel's `PATH_MAX`.
const LONGEST: usize = 4096;
/// Initial capacity for a file's bytes.
const EXPECTED: usize = 1 << 20;

/// The files and links found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picked {
    /// Wanted files, by path without a leading `/`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Every symbolic link with its target.
    pub links: BTreeMap<String, String>,
    /// Where bytes begin that are no archive: the kernel reads nothing behind them.
    pub end: Option<usize>,
}

/// Why an archive cannot be read any further.
enum Stop {
    Io(io::Error),
    Cpio(NewcError),
}

/// Reads an initramfs and keeps the files whose path `wanted` accepts.
///
/// # Errors
/// [`Error::File`] when it is damaged or not an initramfs; [`Error::System`] when it cannot
/// be read.
pub fn pick(
    input: &mut dyn BufRead,
    limits: Limits,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Picked, Error> {
    let mut reader = Reader { wanted, limits, segments: 0, found: Picked::default() };
    let mut behind = reader.segments(&mut Counted { inner: input, taken: 0 })?;
    while let Some((bytes, taken)) = behind {
        behind = reader.segments(&mut Counted { inner: &mut &*bytes, taken })?;
    }
    if reader.segments == 0 { Err(wrong(InitrdError::Empty)) } else { Ok(reader.found) }
}

fn wrong(source: InitrdError) -> Error {
    BuildError::Initrd { path: "initrd".into(), source }.into()
}

fn unread(source: io::Error) -> Error {
    Error::System { doing: "read the initramfs", source }
}

/// The names of one file in a segment; one of them has the content.
#[derive(Default)]
struct Linked {
    content: BTreeMap<u32, Vec<u8>>,
    empty: BTreeMap<String, u32>,
}

struct Reader<'w> {
    wanted: &'w dyn Fn(&str) -> bool,
    /// The remaining limits.
    limits: Limits,
    segments: usize,
    found: Picked,
}

impl Reader<'_> {
    /// Reads one segment after the other. Returns bytes after them that were already taken from
    /// `input`, with their offset.
    fn segments(&mut self, input: &mut Counted<'_>) -> Result<Option<(Vec<u8>, usize)>, Error> {
        while skip_zeros(input).map_err(unread)? {
            let offset = input.taken;
            if self.segments == self.limits.segments {
                return Err(wrong(InitrdError::Segments));
            }
            self.segments += 1;
            let mut head = Vec::with_capacity(MAGIC);
            input.by_ref().take(MAGIC as u64).read_to_end(&mut head).map_err(unread)?;
            let codec = Codec::detect(&head);
            let plain = head.starts_with(b"07070");
            let mut rest = io::Cursor::new(head).chain(&mut *input);
            let mut linked = Linked::default();
            let done = match (plain, codec) {
                (true, _) => self.archive(&mut rest, &mut linked).map(|()| Vec::new()),
                (_, Some(codec)) => self.packed(codec, &mut rest, &mut linked),
                _ if self.segments > 1 => {
                    self.found.end = Some(offset);
                    return Ok(None);
                }
                _ => return Err(wrong(InitrdError::Unknown { offset })),
            };
            self.resolve(linked);
            let behind = done.map_err(|stop| match (stop, codec) {
                (Stop::Cpio(source), _) => wrong(InitrdError::Cpio { offset, source }),
                (Stop::Io(source), Some(codec)) => {
                    wrong(InitrdError::Unpack { offset, codec, source })
                }
                (Stop::Io(source), None) => unread(source),
            })?;
            if !behind.is_empty() {
                let place = input.taken.saturating_sub(behind.len());
                return Ok(Some((behind, place)));
            }
        }
        Ok(None)
    }

    /// Reads the content of one compressed stream. Returns bytes after it that were already
    /// taken from `from`.
    fn packed(
        &mut self,
        codec: Codec,
        from: &mut dyn BufRead,
        linked: &mut Linked,
    ) -> Result<Vec<u8>, Stop> {
        let mut behind = Vec::new();
        let stream: Box<dyn Read> = match codec {
            Codec::Gzip | Codec::Xz | Codec::Zstd | Codec::Bzip2 | Codec::Lzma | Codec::Lzo => {
                compress::one(codec, from)?
            }
            // The legacy frame does not say where it ends.
            Codec::None | Codec::Lz4 => {
                let mut packed = Vec::new();
                from.read_to_end(&mut packed)?;
                let (data, used) = compress::decompress(codec, &packed, self.limits.bytes)?;
                behind = packed.split_off(used.min(packed.len()));
                Box::new(io::Cursor::new(data))
            }
        };
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        // Several archives may be in one compressed stream.
        while skip_zeros(&mut stream)? {
            self.archive(&mut stream, linked)?;
        }
        Ok(behind)
    }

    /// Reads one archive up to its trailer.
    fn archive(&mut self, from: &mut dyn BufRead, linked: &mut Linked) -> Result<(), Stop> {
        let mut offset = 0usize;
        let mut near = String::new();
        loop {
            let cut = |near: &String| NewcError::Truncated { offset, near: near.clone() };
            let bad = |near: &String| NewcError::Header { offset, near: near.clone() };
            // The kernel does not miss a trailer at the end.
            if offset > 0 && !skip_zeros(from)? {
                return Ok(());
            }
            let mut head = [0; HEADER];
            exactly(from, &mut head, || cut(&near))?;
            let (magic, digits) = head.split_at_checked(6).unwrap_or_default();
            if !Header::is_magic(magic) {
                return Err(Stop::Cpio(NewcError::Magic { offset, near }));
            }
            let header = Header::parse(digits).ok_or_else(|| bad(&near))?;
            let Header { ino, mode, nlink, name_len, .. } = header;
            let size = header.size as usize;
            let mut name = vec![0; name_len];
            exactly(from, &mut name, || cut(&near))?;
            let name = named(&name).ok_or_else(|| bad(&near))?;
            // No file that is looked for has a name in another spelling.
            let name = String::from_utf8_lossy(name).into_owned();
            let data_at = header.data_at();
            skip(from, data_at - HEADER - name_len)?;
            let whole = (data_at + size).next_multiple_of(4);
            self.limits.bytes = self.limits.bytes.checked_sub(whole).ok_or_else(|| {
                io::Error::new(io::ErrorKind::FileTooLarge, "it unpacks to more than any initramfs")
            })?;
            let path = if name == TRAILER { "" } else { plain(&name) };
            let kind = mode & 0o170_000;
            if !path.is_empty() {
                self.found.files.remove(path);
                self.found.links.remove(path);
                linked.empty.remove(path);
            }
            let got = if kind == 0o100_000 && !path.is_empty() && (self.wanted)(path) {
                let mut data = Vec::with_capacity(size.min(EXPECTED));
                from.take(size as u64).read_to_end(&mut data)?;
                let got = data.len();
                if nlink > 1 && size == 0 {
                    linked.empty.insert(path.to_owned(), ino);
                } else if nlink > 1 {
                    linked.content.insert(ino, data.clone());
                }
                self.found.files.insert(path.to_owned(), data);
                got
            } else if kind == 0o120_000 && !path.is_empty() {
                let mut target = Vec::new();
                let mut got = from.take(size.min(LONGEST) as u64).read_to_end(&mut target)?;
                got += skip(from, size - target.len())?;
                let target = String::from_utf8_lossy(&target).into_owned();
                self.found.links.insert(path.to_owned(), target);
                got
            } else {
                skip(from, size)?
            };
            if got < size {
                return Err(cut(&name).into());
            }
            // The last padding may be missing.
            skip(from, whole - data_at - size)?;
            if name == TRAILER {
                return Ok(());
            }
            offset = offset.saturating_add(whole);
            near = name;
        }
    }

    /// Gives the content of a file to all its names.
    fn resolve(&mut self, linked: Linked) {
        for (path, ino) in linked.empty {
            let file = self.found.files.get_mut(&path).filter(|file| file.is_empty());
            if let (Some(content), Some(file)) = (linked.content.get(&ino), file) {
                file.clone_from(content);
            }
        }
    }
}

/// Skips zero bytes; false at the end of the input.
fn skip_zeros(from: &mut dyn BufRead) -> io::Result<bool> {
    loop {
        let buffer = from.fill_buf()?;
        let (zeros, length) = (buffer.iter().take_while(|byte| **byte == 0).count(), buffer.len());
        from.consume(zeros);
        if zeros < length || length == 0 {
            return Ok(length > 0);
        }
    }
}

/// Skips bytes; returns how many there were.
fn skip(from: &mut dyn BufRead, count: usize) -> io::Result<usize> {
    let skipped = io::copy(&mut from.take(count as u64), &mut io::sink())?;
    Ok(usize::try_from(skipped).unwrap_or(count))
}

fn exactly(
    from: &mut dyn BufRead,
    buffer: &mut [u8],
    cut: impl FnOnce() -> NewcError,
) -> Result<(), Stop> {
    from.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => cut().into(),
        _ => e.into(),
    })
}

impl From<io::Error> for Stop {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

impl From<NewcError> for Stop {
    fn from(source: NewcError) -> Self {
        Self::Cpio(source)
    }
}

/// Counts the bytes read.
struct Counted<'i> {
    inner: &'i mut dyn BufRead,
    taken: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.taken = self.taken.saturating_add(read);
        Ok(read)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(count);
        self.inner.consume(count);
    }
}

/// Reads a possible initramfs, for fuzzers, and compares with the reader of whole files in
/// memory.
pub fn fuzz(data: &[u8]) {
    let limits = Limits { bytes: 1 << 20, segments: 8 };
    let wanted = |path: &str| !path.ends_with(".no");
    let picked = pick(&mut &*data, limits, &wanted);
    let (Ok(picked), Ok(whole)) = (picked, cpio_builder::initrd::Initrd::open(data, limits)) else {
        return;
    };
    let tree = whole.tree();
    for (path, content) in &picked.files {
        let entry = tree.get(path.as_str());
        // Names of one file may be outside the wanted paths.
        let same = |e: &Entry<'_>| e.is_file() && (e.nlink > 1 || e.data == content);
        assert!(entry.is_some_and(same), "{path}");
    }
    for (path, _) in tree.iter().filter(|(path, entry)| entry.is_file() && wanted(path)) {
        assert!(picked.files.contains_key(*path), "{path}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio_builder::initrd::Initrd;
    use cpio_builder::newc::{Archive, Node};
    use proptest::prelude::*;

    /// A file name that is not UTF-8, boot configuration behind the archive, and an archive without
    /// a trailer: kernels boot all three, and `share` refused them.
    #[test]
    fn what_kernels_accept() {
        let whole = sample();
        let at = whole.windows(6).position(|w| w == b"bin/sh").unwrap();
        let mut foreign = whole.clone();
        foreign[at] = 0xfc;
        let trailer = whole.windows(6).rposition(|w| w == b"070701").unwrap();
        let cut = whole[..trailer].to_vec();
        let mut more = whole.clone();
        more.extend_from_slice(b"#BOOTCONFIG\n");
        for (bytes, end) in [(foreign, None), (cut, None), (more, Some(whole.len()))] {
            let found = picked(&bytes).unwrap();
            assert_eq!((found.files.len(), found.end), (3, end));
            let opened = Initrd::open(&bytes, Limits::default()).unwrap();
            assert_eq!(opened.tree().iter().filter(|(p, e)| modules(p) && e.is_file()).count(), 3);
            assert_eq!(opened.behind(), end.map_or(0, |end| bytes.len() - end));
        }
    }

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        let big: Vec<u8> = (0..50_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        archive.add("usr/lib/modules/6.1/a.ko", 0o644, Node::File(big)).unwrap();
        archive.add("usr/lib/modules/6.1/b.ko", 0o644, Node::File(b"b".to_vec())).unwrap();
        let link = Node::HardLink("usr/lib/modules/6.1/b.ko".into());
        archive.add("usr/lib/modules/6.1/c.ko", 0o644, link).unwrap();
        archive.add("bin/sh", 0o755, Node::File(b"sh".to_vec())).unwrap();
        archive.add("lib", 0o777, Node::Symlink("usr/lib".into())).unwrap();
        archive.write(0).unwrap()
    }

    fn modules(path: &str) -> bool {
        path.starts_with("usr/lib/modules/")
    }

    fn picked(bytes: &[u8]) -> Result<Picked, Error> {
        pick(&mut &*bytes, Limits::default(), &modules)
    }

    /// Whatever it is packed with, the same as when all of it is in memory.
    #[test]
    fn as_the_whole_is_read() {
        let mut early = Archive::new();
        early.add("early", 0o644, Node::File(vec![1; 1001])).unwrap();
        early.add("usr/lib/modules/6.1/b.ko", 0o644, Node::File(b"old".to_vec())).unwrap();
        let early = early.write(0).unwrap();
        for codec in Codec::ALL {
            let packed = compress::compress(codec, &sample()).unwrap();
            let mut late = Archive::new();
            late.add("usr/lib/modules/6.1/d.ko", 0o644, Node::File(b"d".to_vec())).unwrap();
            let late = compress::compress(codec, &late.write(0).unwrap()).unwrap();
            let bytes = [&early[..], &[0; 512], &packed, &[0; 8], &late, &[0; 3]].concat();
            let got = picked(&bytes).unwrap();
            let whole = Initrd::open(&bytes, Limits::default()).unwrap();
            let tree = whole.tree();
            let wanted = tree.iter().filter(|(path, entry)| entry.is_file() && modules(path));
            let wanted: BTreeMap<String, Vec<u8>> =
                wanted.map(|(path, entry)| ((*path).to_owned(), entry.data.to_vec())).collect();
            assert_eq!(got.files, wanted, "{codec}");
            assert_eq!(got.files["usr/lib/modules/6.1/c.ko"], b"b");
            assert_eq!(got.links, [("lib".to_owned(), "usr/lib".to_owned())].into(), "{codec}");
        }
    }

    /// A name that was one of several of a file, and then is that of an empty file.
    #[test]
    fn an_empty_file_after_a_linked_one_stays_empty() {
        let mut bytes = Vec::new();
        let entries = [
            ("usr/lib/modules/a", 5, 2, ""),
            ("usr/lib/modules/b", 5, 2, "text"),
            ("usr/lib/modules/c", 5, 2, ""),
            ("usr/lib/modules/a", 6, 1, ""),
            (TRAILER, 0, 1, ""),
        ];
        for (name, ino, nlink, data) in entries {
            let (size, length) = (data.len(), name.len() + 1);
            let head = [ino, 0o100_644, 0, 0, nlink, 0, size, 0, 0, 0, 0, length, 0];
            bytes.extend_from_slice(b"070701");
            head.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
            bytes.extend([name.as_bytes(), b"\0"].concat());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(data.bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        fuzz(&bytes);
        let files = picked(&bytes).unwrap().files;
        let all: Vec<&[u8]> = files.values().map(Vec::as_slice).collect();
        assert_eq!(all, [&b""[..], b"text", b"text"]);
    }

    #[test]
    fn damage_has_a_place() {
        let whole = sample();
        let error = |bytes: &[u8]| picked(bytes).unwrap_err().to_string();
        assert!(error(b"").contains("empty"), "{}", error(b""));
        assert!(error(b"hello, world").contains("neither cpio"));
        assert!(error(&whole[..whole.len() / 2]).contains("cut short"));
        let packed = compress::compress(Codec::Zstd, &whole).unwrap();
        assert!(error(&packed[..packed.len() / 2]).contains("does not unpack"));
        let twice = [&whole[..], b"\0\0garbage!"].concat();
        assert_eq!(picked(&twice).unwrap().end, Some(whole.len() + 2));
        let small = Limits { bytes: 1000, ..Limits::default() };
        assert!(pick(&mut &*packed, small, &modules).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(at in 0usize..201_000, value: u8, cut in 0usize..201_000) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[at % length] = value;
            fuzz(&bytes[..cut % length]);
            fuzz(&bytes);
        }
    }
}
