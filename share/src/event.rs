//! Events of a session, as data: the console, the JSON stream and every other view are made
//! from these.

use crate::limits::Limits;
use crate::services::Switches;
use cmdline::json::Json;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A client's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It sent a DHCP request and was sent a file name.
    Asked {
        /// The client: "BIOS", "UEFI x86-64", "iPXE on BIOS".
        what: String,
        /// The file.
        file: String,
    },
    /// It fetched a boot loader.
    Loader(String),
    /// It fetched the menu.
    Menu,
    /// It fetches the kernel.
    Kernel,
    /// It fetches the initramfs.
    Initrd,
    /// It mounted the medium.
    Mounted(String),
    /// It opened a disk over NBD.
    Disk(String),
    /// Its root is complete, and the live system's init starts.
    Up,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { what, file } => write!(f, "{what}, is told to load {file}"),
            Self::Loader(file) => write!(f, "loads {file}"),
            Self::Menu => f.write_str("has the boot menu"),
            Self::Kernel => f.write_str("loads the kernel"),
            Self::Initrd => f.write_str("loads the initramfs"),
            Self::Mounted(path) => write!(f, "mounted {path}"),
            Self::Disk(name) => write!(f, "has the disk {name}"),
            Self::Up => f.write_str("is up: its own system starts"),
        }
    }
}

impl Stage {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Asked { .. } => "asked",
            Self::Loader(_) => "loader",
            Self::Menu => "menu",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Mounted(_) => "mounted",
            Self::Disk(_) => "disk",
            Self::Up => "up",
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step of the start is done.
    Ready {
        /// Which service, or "medium", "network".
        what: &'static str,
        /// The message.
        text: String,
    },
    /// A client reached a new stage.
    Client {
        /// Its hardware address when known, else its address.
        who: String,
        /// The stage.
        stage: Stage,
    },
    /// A client leased an address.
    Address {
        /// Its hardware address.
        who: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// A warning; the session continues.
    Warning(String),
    /// A client asked for something that it does not get.
    Refused {
        /// Its hardware address when known, else its address.
        who: String,
        /// The message.
        text: String,
    },
    /// The medium cannot be read any more.
    Broken(String),
    /// The session ends.
    Stopped {
        /// Clients seen.
        clients: usize,
        /// Bytes sent to them.
        bytes: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { text, .. } => f.write_str(text),
            Self::Client { who, stage } => write!(f, "{who}: {stage}"),
            Self::Address { who, address } => write!(f, "{who}: has the address {address}"),
            Self::Warning(text) | Self::Refused { text, .. } => write!(f, "warning: {text}"),
            Self::Broken(text) => {
                write!(f, "the medium cannot be read any more, clients get errors: {text}")
            }
            Self::Stopped { clients, bytes } => {
                let were = if *clients == 1 { "client was" } else { "clients were" };
                write!(f, "stopped; {clients} {were} served {} MB", bytes / 1_000_000)
            }
        }
    }
}

impl Event {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let mut json = Json::new();
        json.object();
        match self {
            Self::Ready { what, text } => {
                json.field("event", "ready").field("what", what).field("text", text)
            }
            Self::Client { who, stage } => json
                .field("event", "client")
                .field("client", who)
                .field("stage", stage.name())
                .field("text", &stage.to_string()),
            Self::Address { who, address } => json
                .field("event", "address")
                .field("client", who)
                .field("address", &address.to_string()),
            Self::Warning(text) => json.field("event", "warning").field("text", text),
            Self::Refused { who, text } => {
                json.field("event", "warning").field("client", who).field("text", text)
            }
            Self::Broken(text) => json.field("event", "broken").field("text", text),
            Self::Stopped { clients, bytes } => json
                .field("event", "stopped")
                .count("clients", *clients as u64)
                .count("bytes", *bytes),
        };
        json.end_object();
        json.finish()
    }
}

/// Makes a text safe for a terminal: control characters, and those that change the direction
/// of writing, become blanks. Clients and media could forge lines with them.
pub fn printable(text: &str) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if bad(c) { ' ' } else { c }).collect()
}

impl Stage {
    fn printable(&self) -> Self {
        match self {
            Self::Asked { what, file } => {
                Self::Asked { what: printable(what), file: printable(file) }
            }
            Self::Loader(file) => Self::Loader(printable(file)),
            Self::Mounted(path) => Self::Mounted(printable(path)),
            Self::Disk(name) => Self::Disk(printable(name)),
            Self::Menu | Self::Kernel | Self::Initrd | Self::Up => self.clone(),
        }
    }
}

impl Event {
    fn printable(&self) -> Self {
        match self {
            Self::Ready { what, text } => Self::Ready { what, text: printable(text) },
            Self::Client { who, stage } => {
                Self::Client { who: printable(who), stage: stage.printable() }
            }
            Self::Address { who, address } => {
                Self::Address { who: printable(who), address: *address }
            }
            Self::Warning(text) => Self::Warning(printable(text)),
            Self::Refused { who, text } => {
                Self::Refused { who: printable(who), text: printable(text) }
            }
            Self::Broken(text) => Self::Broken(printable(text)),
            Self::Stopped { .. } => self.clone(),
        }
    }

    /// The client that caused it, and its kind, for [`Limits`].
    fn cause(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Client { who, .. } => Some((who, "stages")),
            Self::Address { who, .. } => Some((who, "addresses")),
            Self::Refused { who, .. } => Some((who, "refusals")),
            Self::Broken(_) => Some(("the medium", "read errors")),
            Self::Ready { .. } | Self::Warning(_) | Self::Stopped { .. } => None,
        }
    }
}

/// What is known about one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its last stage.
    pub stage: Option<Stage>,
    /// When it reached that stage.
    pub since: Instant,
    /// Bytes sent to it.
    pub bytes: u64,
}

/// Clients that are remembered; forged ones push the oldest out.
const MAX_CLIENTS: usize = 4096;
/// Seconds after which a repeated stage is reported again: the machine booted again.
const AGAIN: u64 = 20;
/// Events that are kept.
const RECENT: usize = 100;

/// Everything known about clients, and the listener for events.
pub struct Watch {
    tell: Box<dyn Fn(&Event) + Send + Sync>,
    clients: Mutex<BTreeMap<String, Client>>,
    broken: Mutex<Option<(String, Instant)>>,
    /// The steps of the start and the latest events, as JSON.
    log: Mutex<(Vec<String>, VecDeque<String>)>,
    limits: Mutex<Limits>,
    /// Which services are on.
    pub switches: Switches,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl Watch {
    /// `tell` is called with every event, from several threads.
    pub fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self {
            tell: Box::new(tell),
            clients: Mutex::default(),
            broken: Mutex::default(),
            log: Mutex::default(),
            limits: Mutex::default(),
            switches: Switches::default(),
        }
    }

    /// Reports an event, with printable characters only. Leaves it out and counts it when its
    /// client caused too many.
    pub fn tell(&self, event: &Event) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let told = event.cause().is_none_or(|(who, kind)| limits.allow(who, kind, Instant::now()));
        drop(limits);
        if told {
            self.pass_on(&event.printable());
        }
    }

    /// Says how many events were left out since the last call.
    pub fn tell_left_out(&self) {
        let left_out = self.limits.lock().unwrap_or_else(PoisonError::into_inner).left_out();
        if let Some(text) = left_out {
            self.pass_on(&Event::Warning(text));
        }
    }

    fn pass_on(&self, event: &Event) {
        let json = event.to_json();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(event, Event::Ready { .. }) {
            log.0.push(json);
        } else {
            log.1.push_back(json);
            if log.1.len() > RECENT {
                log.1.pop_front();
            }
        }
        drop(log);
        (self.tell)(event);
    }

    /// Reports that a client does not get what it asked for.
    pub fn refused(&self, who: &str, text: String) {
        self.tell(&Event::Refused { who: who.to_owned(), text });
    }

    /// Reports a step of the start.
    pub fn ready(&self, what: &'static str, text: String) {
        self.tell(&Event::Ready { what, text });
    }

    /// The steps of the start and the latest events, as JSON.
    pub fn recent(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.0.iter().chain(&log.1).cloned().collect()
    }

    /// Reports that the medium cannot be read, once in a while: clients ask again and again.
    pub fn broken(&self, what: &str, error: &std::io::Error) {
        let why = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
            _ => error.to_string(),
        };
        let text = if what.is_empty() { why } else { format!("{what}: {why}") };
        let mut last = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let again =
            |(before, at): &(String, Instant)| *before == text && at.elapsed().as_secs() < AGAIN;
        if last.as_ref().is_some_and(again) {
            return;
        }
        *last = Some((text.clone(), Instant::now()));
        drop(last);
        self.tell(&Event::Broken(text));
    }

    /// Records a client's stage and reports it if new.
    pub fn reached(&self, who: &str, stage: Stage) {
        // The view shows it as it is kept here.
        let stage = stage.printable();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = entry(&mut clients, who);
        let same = client.stage.as_ref() == Some(&stage);
        if same && client.since.elapsed().as_secs() < AGAIN {
            return;
        }
        client.stage = Some(stage.clone());
        client.since = Instant::now();
        drop(clients);
        self.tell(&Event::Client { who: who.to_owned(), stage });
    }

    /// Counts bytes sent to a client.
    pub fn sent(&self, who: &str, bytes: u64) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = entry(&mut clients, who);
        client.bytes = client.bytes.saturating_add(bytes);
    }

    /// A copy of all clients.
    pub fn clients(&self) -> BTreeMap<String, Client> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn entry<'c>(clients: &'c mut BTreeMap<String, Client>, who: &str) -> &'c mut Client {
    if clients.len() >= MAX_CLIENTS
        && !clients.contains_key(who)
        && let Some(oldest) = clients.iter().min_by_key(|(_, c)| c.since).map(|(w, _)| w.clone())
    {
        clients.remove(&oldest);
    }
    let new = || Client { stage: None, since: Instant::now(), bytes: 0 };
    clients.entry(who.to_owned()).or_insert_with(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_news_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let copy = told.clone();
        let watch = Watch::new(move |event| copy.lock().unwrap().push(event.to_string()));
        watch.reached("a", Stage::Kernel);
        watch.reached("a", Stage::Kernel);
        watch.reached("a", Stage::Initrd);
        watch.reached("b", Stage::Kernel);
        watch.sent("a", 5);
        assert_eq!(
            *told.lock().unwrap(),
            ["a: loads the kernel", "a: loads the initramfs", "b: loads the kernel"]
        );
        assert_eq!(watch.clients()["a"].bytes, 5);
        for n in 0..2 * MAX_CLIENTS {
            watch.sent(&n.to_string(), 1);
        }
        assert_eq!(watch.clients().len(), MAX_CLIENTS);
    }

    #[test]
    fn nothing_forges_lines() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let copy = told.clone();
        let watch = Watch::new(move |event| copy.lock().unwrap().push(event.to_string()));
        let bad = "/x\x1b]0;title\x07\x1b[2J\n52:54:00:00:00:09: is up\u{9b}2J\u{202e}";
        watch.tell(&Event::Warning(bad.into()));
        watch.tell(&Event::Broken(bad.into()));
        watch.ready("medium", bad.into());
        watch.refused(bad, bad.into());
        let asked = Stage::Asked { what: bad.into(), file: bad.into() };
        for stage in [asked, Stage::Loader(bad.into()), Stage::Mounted(bad.into())] {
            watch.reached("a", stage);
        }
        watch.reached("b", Stage::Disk(bad.into()));
        watch.tell(&Event::Address { who: bad.into(), address: Ipv4Addr::LOCALHOST });
        let shown = watch.clients().into_values().filter_map(|client| client.stage);
        let mut texts: Vec<String> = shown.map(|stage| stage.to_string()).collect();
        texts.append(&mut told.lock().unwrap());
        assert_eq!(texts.len(), 11);
        for text in &texts {
            assert_eq!(*text, printable(text));
            assert!(text.contains("52:54:00:00:00:09") && !text.contains(['\n', '\x1b']), "{text}");
        }
    }

    #[test]
    fn one_client_does_not_fill_the_log() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let copy = told.clone();
        let watch = Watch::new(move |event| copy.lock().unwrap().push(event.to_string()));
        for n in 0..10_000 {
            watch.refused("10.0.0.7", format!("10.0.0.7 wants /{n}"));
            watch.reached("10.0.0.8", if n % 2 == 0 { Stage::Kernel } else { Stage::Initrd });
        }
        watch.reached("10.0.0.9", Stage::Kernel);
        watch.tell_left_out();
        let told = told.lock().unwrap();
        assert!(told.len() < 100, "{}", told.len());
        assert!(told[told.len() - 2].starts_with("10.0.0.9"), "{told:?}");
        let last = told.last().unwrap();
        assert!(last.contains("more messages were left out, most of them about 10.0.0."), "{last}");
    }

    #[test]
    fn json_lines() {
        let event = Event::Warning("a \"b\"\n".into());
        assert_eq!(event.to_json(), r#"{"event":"warning","text":"a \"b\"\n"}"#);
    }
}
