//! The web page that shows the session.
//!
//! Every machine of the network may read it; a change needs the key that only the terminal shows.
//! The key never travels, since there is no TLS: each request carries a proof, a keyed hash of what
//! it asks for. A listener can neither change a proof's request nor use it twice.
//!
//! The page is one file without external resources. Its state comes as server-sent
//! events (WHATWG HTML, section 9.2), each with the whole state.

use crate::disk::store::Store;
use crate::event::{Event, Watch};
use crate::files::File;
use crate::room::Room;
use crate::services::SERVICES;
use cmdline::json::Json;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The page itself.
pub const HTML: &str = include_str!("page.html");
/// Clients that are shown.
const SHOWN: usize = 200;
/// Seconds for which a proof is good.
const GOOD: u64 = 60;

/// The page of one session.
#[derive(Debug)]
pub struct Page {
    /// The key of requests that change something, 24 hexadecimal digits.
    pub key: String,
    /// The addresses and names of this machine: what a request's Host may be.
    hosts: Vec<String>,
    /// When the session began: proofs have the seconds since then in them.
    began: Instant,
    /// Proofs that were used and would still be good.
    used: Mutex<BTreeSet<(u64, String)>>,
    watch: Arc<Watch>,
    store: Option<Store>,
    room: Option<Arc<Room>>,
}

impl Page {
    /// A page with a new key. `hosts` are the addresses and names of this machine.
    ///
    /// # Errors
    /// The read error of /dev/urandom.
    pub fn new(watch: Arc<Watch>, store: Option<Store>, hosts: Vec<String>) -> io::Result<Self> {
        let mut bytes = [0u8; 12];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        let key = sys::bytes::hex(&bytes);
        let (began, used) = (Instant::now(), Mutex::default());
        Ok(Self { key, hosts, began, used, watch, store, room: None })
    }

    /// The page of a room that is cloned. Nothing is shared with it.
    ///
    /// # Errors
    /// The read error of /dev/urandom.
    pub fn of_room(room: Arc<Room>, hosts: Vec<String>) -> io::Result<Self> {
        let page = Self::new(Arc::new(Watch::new(|_| ())), None, hosts)?;
        Ok(Self { room: Some(room), ..page })
    }

    /// Whether a request's Host is this machine. A page from elsewhere whose name was made to
    /// point here (DNS rebinding) has its own. Programs without a Host are no browsers.
    pub fn is_here(&self, host: Option<&str>) -> bool {
        host.is_none_or(|host| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            let name = name.strip_suffix('.').unwrap_or(name);
            self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
        })
    }

    /// Checks the proof `SECONDS-NONCE-HASH`, and remembers it. SECONDS is what
    /// [`Page::state`] called `now`, at most a minute ago. HASH is the keyed BLAKE3 hash of
    /// `METHOD PATH SECONDS NONCE`; its key is the page's, filled up with zeros.
    fn proves(&self, proof: &str, method: &str, path: &str) -> bool {
        let mut parts = proof.splitn(3, '-');
        let (Some(seconds), Some(nonce), Some(hash)) = (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let (Ok(at), Ok(hash)) = (seconds.parse::<u64>(), blake3::Hash::from_hex(hash)) else {
            return false;
        };
        let mut key = [0; 32];
        key.iter_mut().zip(self.key.bytes()).for_each(|(to, byte)| *to = byte);
        let text = format!("{method} {path} {seconds} {nonce}");
        // Hashes compare in constant time.
        if nonce.len() > 32 || blake3::keyed_hash(&key, text.as_bytes()) != hash {
            return false;
        }
        let now = self.began.elapsed().as_secs();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|(at, _)| now.saturating_sub(*at) <= GOOD);
        at <= now && now - at <= GOOD && used.insert((at, nonce.to_owned()))
    }

    /// Carries out a request like `/control/nfs/off` or `/control/room/begin`. Returns the status
    /// to answer with.
    pub fn control(&self, path: &str, proof: Option<&str>) -> u16 {
        if !proof.is_some_and(|proof| self.proves(proof, "POST", path)) {
            return 403;
        }
        if let Some(room) = &self.room {
            return match path {
                "/control/room/begin" if room.begin() => 204,
                "/control/room/begin" => 409,
                _ => 404,
            };
        }
        if let (Some(mac), Some(store)) = (path.strip_prefix("/reset/"), &self.store) {
            let Err(error) = store.reset(mac) else { return 204 };
            self.watch.tell(&Event::Warning(error.to_string()));
            return 409;
        }
        let mut words = path.trim_start_matches("/control/").split('/');
        let service = words.next().and_then(|name| SERVICES.iter().find(|(_, n)| *n == name));
        match (service, words.next(), words.next()) {
            (Some((service, _)), Some(to @ ("on" | "off")), None) => {
                self.watch.switches.set(*service, to == "on");
                204
            }
            _ => 404,
        }
    }

    /// A client's own disk, `/settings/PROOF/MAC.img`: a link cannot carry a header. The proof is
    /// one of `GET /settings/MAC.img`.
    pub fn own_disk(&self, path: &str) -> Option<File> {
        let (proof, name) = path.strip_prefix("/settings/")?.split_once('/')?;
        let store = self.store.as_ref()?;
        if !self.proves(proof, "GET", &format!("/settings/{name}")) {
            return None;
        }
        let mac = name.strip_suffix(".img")?;
        let file = store.image(mac).ok()?;
        let length = file.metadata().ok()?.len();
        Some(File::image(Arc::new(file), length, crate::tree::hash(&[mac.as_bytes()])))
    }

    /// The whole state, as JSON.
    pub fn state(&self) -> String {
        let mut clients: Vec<_> = self.watch.clients().into_iter().collect();
        clients.sort_by_key(|(_, client)| std::cmp::Reverse(client.since));
        let mut json = Json::new();
        json.object().count("now", self.began.elapsed().as_secs());
        if let Some(room) = &self.room {
            json.key("room").raw(&room.state()).end_object();
            return json.finish();
        }
        json.key("services").object();
        for (service, name) in SERVICES {
            json.flag(name, self.watch.switches.is_on(service));
        }
        json.end_object().count("total", clients.len() as u64).key("clients").array();
        for (who, client) in clients.iter().take(SHOWN) {
            let (stage, text) = match &client.stage {
                Some(stage) => (stage.name(), stage.to_string()),
                None => ("", String::new()),
            };
            json.object().field("who", who).field("stage", stage).field("text", &text);
            json.count("bytes", client.bytes).count("seconds", client.since.elapsed().as_secs());
            json.end_object();
        }
        let kept = self.store.as_ref().and_then(|store| store.list().ok()).unwrap_or_default();
        json.end_array().flag("keeps", self.store.is_some()).key("kept").array();
        for kept in kept {
            json.raw(&kept.to_json());
        }
        json.end_array().key("events").array();
        for event in self.watch.recent() {
            json.raw(&event);
        }
        json.end_array().end_object();
        json.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Stage};
    use crate::services::Service;

    fn page(watch: &Arc<Watch>, store: Option<Store>) -> Page {
        let hosts = vec!["10.77.0.1".into(), "server.lan".into()];
        Page::new(watch.clone(), store, hosts).unwrap()
    }

    /// What the script of the page computes.
    fn proof(key: &str, request: &str, at: u64, nonce: &str) -> String {
        let mut bytes = [0; 32];
        bytes[..key.len()].copy_from_slice(key.as_bytes());
        let text = format!("{request} {at} {nonce}");
        format!("{at}-{nonce}-{}", blake3::keyed_hash(&bytes, text.as_bytes()))
    }

    #[test]
    fn only_a_proof_of_the_key_switches() {
        let watch = Arc::new(Watch::new(|_| ()));
        let page = self::page(&watch, None);
        let key = page.key.as_str();
        let off = |proof: &str| page.control("/control/nfs/off", Some(proof));
        assert_ne!(page.key, self::page(&watch, None).key);
        assert_eq!(page.control("/control/nfs/off", None), 403);
        let now = page.began.elapsed().as_secs();
        let good = proof(key, "POST /control/nfs/off", now, "0123");
        for bad in [
            "".to_owned(),
            "0".to_owned(),
            key.to_owned(),
            good[..good.len() - 1].to_owned(),
            proof(&page.key[1..], "POST /control/nfs/off", now, "0123"),
            proof(key, "GET /control/nfs/off", now, "0123"),
            proof(key, "POST /control/nfs/on", now, "0123"),
            proof(key, "POST /control/nfs/off", now + 9, "0123"),
            proof(key, "POST /control/nfs/off", now, &"0".repeat(33)),
            good.replacen("0123", "0124", 1),
            format!("{}{good}", 1),
        ] {
            assert_eq!(off(&bad), 403, "{bad}");
        }
        assert!(watch.switches.is_on(Service::Nfs));
        assert_eq!(off(&good), 204);
        assert!(!watch.switches.is_on(Service::Nfs) && watch.switches.is_on(Service::Http));
        // A listener has the proof, too.
        assert_eq!(off(&good), 403);
        let on = proof(key, "POST /control/nfs/on", now, "0123-4");
        assert_eq!(page.control("/control/nfs/on", Some(&on)), 403, "a dash in the nonce");
        for (n, bad) in
            ["/control/nfs", "/control/x/on", "/control/nfs/on/off", "/control/"].iter().enumerate()
        {
            let proof = proof(key, &format!("POST {bad}"), now, &n.to_string());
            assert_eq!(page.control(bad, Some(&proof)), 404);
        }
    }

    #[test]
    fn a_room_begins_by_its_key_alone() {
        let (mut heard, begin) = io::pipe().unwrap();
        let room = Arc::new(Room::new(std::os::fd::OwnedFd::from(begin).into()));
        room.set(r#"{"nodes":[]}"#.to_owned());
        let page = Page::of_room(room, vec!["10.77.0.1".into()]).unwrap();
        assert_eq!(page.state(), r#"{"now":0,"room":{"nodes":[]}}"#);
        let path = "/control/room/begin";
        let now = page.began.elapsed().as_secs();
        let proof = |path: &str, n: &str| proof(&page.key, &format!("POST {path}"), now, n);
        assert_eq!(page.control(path, None), 403);
        assert_eq!(page.control("/control/nfs/off", Some(&proof("/control/nfs/off", "1"))), 404);
        assert_eq!(page.control(path, Some(&proof(path, "2"))), 204);
        let mut line = [0; 1];
        io::Read::read_exact(&mut heard, &mut line).unwrap();
        assert_eq!(line, *b"\n");
        drop(heard);
        assert_eq!(page.control(path, Some(&proof(path, "3"))), 409);
    }

    #[test]
    fn proofs_become_old() {
        let watch = Arc::new(Watch::new(|_| ()));
        let mut page = self::page(&watch, None);
        page.began = Instant::now().checked_sub(std::time::Duration::from_secs(1000)).unwrap();
        let now = page.began.elapsed().as_secs();
        let proof = |at| proof(&page.key, "POST /control/nfs/off", at, "1");
        assert_eq!(page.control("/control/nfs/off", Some(&proof(now - GOOD - 1))), 403);
        assert_eq!(page.control("/control/nfs/off", Some(&proof(now - GOOD + 5))), 204);
        assert_eq!(page.used.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_disk_needs_a_proof_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::below(dir.path(), None).unwrap();
        std::fs::write(dir.path().join("settings/52-54-00-00-00-01.img"), b"disk").unwrap();
        let page = self::page(&Arc::new(Watch::new(|_| ())), Some(store));
        let get = |proof: &str| page.own_disk(&format!("/settings/{proof}/52-54-00-00-00-01.img"));
        let other = proof(&page.key, "GET /settings/52-54-00-00-00-02.img", 0, "1");
        assert!(get(&page.key).is_none() && get(&other).is_none());
        let good = proof(&page.key, "GET /settings/52-54-00-00-00-01.img", 0, "2");
        assert_eq!(get(&good).unwrap().length, 4);
        assert!(get(&good).is_none(), "used twice");
    }

    #[test]
    fn other_hosts_are_not_here() {
        let page = self::page(&Arc::new(Watch::new(|_| ())), None);
        for ours in ["10.77.0.1", "10.77.0.1:8080", "server.lan:8080", "SERVER.lan", "server.lan."]
        {
            assert!(page.is_here(Some(ours)), "{ours}");
        }
        assert!(page.is_here(None));
        for other in ["evil.example", "10.77.0.1.evil.example:8080", "", ":8080", "10.77.0.2", "x"]
        {
            assert!(!page.is_here(Some(other)), "{other}");
        }
    }

    /// The script's hash is BLAKE3, over several blocks too. Needs node; the scenario with a
    /// browser tests the same.
    #[test]
    fn the_script_proves_as_the_server_checks() {
        let (_, script) = HTML.split_once("// Keyed BLAKE3").unwrap();
        let (script, _) = script.split_once("// End of keyed BLAKE3").unwrap();
        let key = "0123456789abcdef01234567";
        for length in [0, 1, 63, 64, 65, 128, 200] {
            let text: String = ('a'..='z').cycle().take(length).collect();
            let run = format!("//{script}\nconsole.log(keyedHash('{key}', '{text}'))");
            let said = std::process::Command::new("node").args(["-e", &run]).output();
            let Ok(said) = said else { return };
            let mut bytes = [0; 32];
            bytes[..24].copy_from_slice(key.as_bytes());
            let wanted = blake3::keyed_hash(&bytes, text.as_bytes()).to_string();
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert_eq!(said.trim(), wanted, "{length} bytes");
        }
    }

    #[test]
    fn what_is_shown() {
        let watch = Arc::new(Watch::new(|_| ()));
        watch.tell(&Event::Warning("a \"b\"".into()));
        watch.reached("52:54:00:00:00:01", Stage::Kernel);
        watch.sent("52:54:00:00:00:01", 7);
        let state = page(&watch, None).state();
        assert!(state.starts_with(r#"{"now":0,"services":"#), "{state}");
        assert!(
            state.contains(
                r#""services":{"dhcp":true,"tftp":true,"http":true,"nfs":true,"nbd":true}"#
            )
        );
        let client = r#"{"who":"52:54:00:00:00:01","stage":"kernel","text":"loads the kernel","bytes":7,"seconds":0}"#;
        assert!(state.contains(client), "{state}");
        assert!(state.contains(r#"{"event":"warning","text":"a \"b\""}"#), "{state}");
        // The page loads nothing from other servers.
        assert!(!HTML.contains("http://") && !HTML.contains("https://") && !HTML.contains("//cdn"));
    }
}
