//! One place that an image is read from: a file, or a server of files.

use crate::Error;
use crate::edge::World;
use crate::edge::room::{Readable as _, Reader};
use crate::image::{HEAD, Head, Image};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;
use netboot::fetch::url::{Scheme, Url};
use netboot::fetch::{Download, Options};
use rustix::fd::BorrowedFd;

/// A server that says nothing for so long is passed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that come on the way to a chunk are read when there are no more; else the server is
/// asked anew.
const SKIP: u64 = 1 << 20;
/// The longest pause before a server is asked again.
const LONGEST: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

#[derive(Debug)]
enum From {
    File(Reader),
    Web(Box<Download>),
}

/// A place that an image is read from.
#[derive(Debug)]
pub struct Lane {
    /// What users know it by.
    pub name: String,
    text: String,
    from: Option<From>,
    /// How many bytes the image has.
    file: Option<u64>,
    at: u64,
    held: Vec<u8>,
    /// The chunk that is on its way.
    pub chunk: Option<u32>,
    /// When something came last.
    pub moved: Duration,
    /// Not before this time is it asked again.
    again: Duration,
    failures: u32,
    /// It is not asked again.
    pub refused: bool,
    /// Why it failed last.
    pub why: String,
}

/// What has come.
#[derive(Debug)]
pub enum Came {
    /// Nothing for now.
    Nothing,
    /// Some.
    Some,
    /// All that was asked for.
    All(Vec<u8>),
}

impl Lane {
    /// A path or a URL. Nothing is read.
    ///
    /// # Errors
    /// It is neither.
    pub fn new(text: &str) -> Result<Self, Error> {
        let mut name = text.to_string();
        if text.contains("://") {
            let url = Url::parse(text).map_err(|e| Error::Fetch { why: e.to_string() })?;
            if url.scheme != Scheme::Http {
                let why = "only http:// is read here, and the image's digest (--digest, \
                           bw.clone.digest=) makes that safe; or download it, and name the file";
                return Err(Error::Fetch { why: format!("{url}: {why}") });
            }
            name = url.to_string();
        }
        Ok(Self {
            name,
            text: text.to_string(),
            from: None,
            file: None,
            at: 0,
            held: Vec::new(),
            chunk: None,
            moved: Duration::ZERO,
            again: Duration::ZERO,
            failures: 0,
            refused: false,
            why: "was not asked".to_string(),
        })
    }

    /// Whether it can be asked.
    #[must_use]
    pub const fn ready(&self, now: Duration) -> bool {
        !self.refused && now.as_millis() >= self.again.as_millis()
    }

    /// It has failed; it is asked again after a while, unless that is of no use.
    pub fn failed(&mut self, why: String, last: bool, now: Duration) {
        (self.from, self.chunk) = (None, None);
        self.held.clear();
        self.why = why;
        self.refused |= last;
        // At once after a good chunk.
        self.again = now + Duration::from_secs((1 << self.failures.min(5)) - 1).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
    }

    /// Opens it at this byte.
    fn open(&mut self, at: u64, world: &mut dyn World) -> Result<(), (String, bool)> {
        let here = match &mut self.from {
            Some(From::Web(download)) => {
                if !(self.at..self.at.saturating_add(SKIP)).contains(&at) {
                    download.seek(at);
                    self.at = at;
                }
                true
            }
            Some(From::File(_)) => {
                self.at = at;
                true
            }
            None => false,
        };
        if here {
            return Ok(());
        }
        self.at = at;
        if !self.text.contains("://") {
            let file = Reader::open(&self.text).map_err(|e| (e.to_string(), true))?;
            self.from = Some(From::File(file));
            return Ok(());
        }
        let url = Url::parse(&self.text).map_err(|e| (e.to_string(), true))?;
        let address = world.resolve(&url.host).map_err(|why| (why, false))?;
        let hosts = format!("{address} {}\n", url.host);
        let options = Options { hosts, patience: PATIENCE, ..Options::default() };
        let mut download = Download::new(&self.text, options).map_err(|e| (e.to_string(), true))?;
        download.seek(at);
        self.from = Some(From::Web(Box::new(download)));
        Ok(())
    }

    /// Bytes that its server sends for nothing, because it answers no range requests.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        match &self.from {
            Some(From::Web(download)) => download.repeats(),
            _ => 0,
        }
    }

    /// Connects, so that these bytes can be read.
    ///
    /// # Errors
    /// Why they cannot be had, and whether that stays so.
    pub fn ask(&mut self, place: &Range<u64>, world: &mut dyn World) -> Result<(), (String, bool)> {
        self.open(place.start, world)?;
        if let Some(From::Web(download)) = &mut self.from {
            let open = download.open();
            if !open.map_err(|e| (e.to_string(), e.is_final()))? {
                return Err((reason(download, &self.name), false));
            }
            if let (Some(file), Some(total)) = (self.file, download.total())
                && file != total
            {
                return Err((format!("has {total} bytes, and the image {file}"), true));
            }
        }
        Ok(())
    }

    /// What to wait for before [`Lane::read`]; nothing when it does not wait.
    #[must_use]
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match &self.from {
            Some(From::Web(download)) => download.waits_for(),
            _ => None,
        }
    }

    /// Reads some of these bytes, of which those that came before are held.
    ///
    /// # Errors
    /// As [`Lane::ask`].
    pub fn read(&mut self, place: &Range<u64>) -> Result<Came, (String, bool)> {
        let mut room = vec![0; PIECE];
        let left = place.end.saturating_sub(self.at);
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let room = room.get_mut(..most).unwrap_or_default();
        let n = match &mut self.from {
            Some(From::File(file)) => {
                Some(file.read(self.at, room).map_err(|e| (e.to_string(), true))?)
            }
            Some(From::Web(download)) => {
                let n = download.read(room).map_err(|e| (e.to_string(), e.is_final()))?;
                if n.is_none() {
                    return Err((reason(download, &self.name), false));
                }
                n
            }
            None => None,
        };
        let Some(n) = n else { return Ok(Came::Nothing) };
        if n == 0 && most > 0 {
            return Err(("is cut short; save or copy it again".to_string(), true));
        }
        // What lies before the chunk is of no use.
        let skip = usize::try_from(place.start.saturating_sub(self.at)).unwrap_or(n).min(n);
        self.held.extend_from_slice(room.get(skip..n).unwrap_or_default());
        self.at += n as u64;
        match self.at >= place.end {
            true => Ok(Came::All(core::mem::take(&mut self.held))),
            false => Ok(Came::Some),
        }
    }

    /// All of these bytes.
    fn all(
        &mut self,
        place: &Range<u64>,
        world: &mut dyn World,
    ) -> Result<Vec<u8>, (String, bool)> {
        self.ask(place, world)?;
        loop {
            if let Came::All(bytes) = self.read(place)? {
                return Ok(bytes);
            }
        }
    }

    /// What the image holds, and where.
    ///
    /// # Errors
    /// As [`Lane::ask`].
    pub fn head(&mut self, world: &mut dyn World) -> Result<Image, (String, bool)> {
        let wrong = |why: &str| (why.to_string(), true);
        let first = self.all(&(0..HEAD as u64), world)?;
        let first = first.first_chunk().ok_or_else(|| wrong("is cut short"))?;
        let head = Head::read(first).map_err(wrong)?;
        self.file = Some(head.file);
        let end = (HEAD + head.manifest) as u64;
        let bytes = self.all(&(HEAD as u64..end), world)?;
        let (manifest, index) = Image::manifest(&head, &bytes).map_err(wrong)?;
        let bytes = self.all(&(end..end + index as u64), world)?;
        Image::new(&head, manifest, &bytes).map_err(wrong)
    }

    /// It has the image that another one told of, which has so many bytes.
    pub const fn same(&mut self, bytes: u64) {
        self.file = Some(bytes);
    }

    /// It has brought a good chunk.
    pub const fn good(&mut self) {
        (self.chunk, self.failures) = (None, 0);
    }
}

/// Why a download stands still, without the server's name and what comes next.
fn reason(download: &mut Download, name: &str) -> String {
    let note = download.take_notes().pop().unwrap_or_default();
    let note = note.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&note);
    let note = note.rsplit_once("; ").map_or(note, |(why, _)| why);
    if note.is_empty() { "the connection has ended".to_string() } else { note.to_string() }
}
