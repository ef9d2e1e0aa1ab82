//! The web page that shows the session.
//!
//! Every machine of the network may read it; a change needs the token that only the terminal
//! shows. The page is one file without external resources. Its state comes as server-sent
//! events (WHATWG HTML, section 9.2), each with the whole state.

use crate::disk::store::Store;
use crate::event::{Event, Watch};
use crate::files::File;
use crate::services::SERVICES;
use cmdline::json::Json;
use std::io;
use std::sync::Arc;

/// The page itself.
pub const HTML: &str = include_str!("page.html");
/// Clients that are shown.
const SHOWN: usize = 200;

/// The page of one session.
#[derive(Debug)]
pub struct Page {
    /// The token of requests that change something.
    pub token: String,
    watch: Arc<Watch>,
    store: Option<Store>,
}

impl Page {
    /// A page with a new token.
    ///
    /// # Errors
    /// The read error of /dev/urandom.
    pub fn new(watch: Arc<Watch>, store: Option<Store>) -> io::Result<Self> {
        let mut bytes = [0u8; 12];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { token, watch, store })
    }

    /// Carries out a request like `/control/nfs/off`. Returns the status to answer with.
    pub fn control(&self, path: &str, token: Option<&str>) -> u16 {
        if !token.is_some_and(|token| self.may(token)) {
            return 403;
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

    /// Whether this is the token.
    fn may(&self, token: &str) -> bool {
        // In constant time.
        token.len() == self.token.len()
            && token.bytes().zip(self.token.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }

    /// A client's own disk, `/settings/TOKEN/MAC.img`: a link cannot carry the token in a
    /// header.
    pub fn own_disk(&self, path: &str) -> Option<File> {
        let (token, mac) = path.strip_prefix("/settings/")?.split_once('/')?;
        let store = self.store.as_ref().filter(|_| self.may(token))?;
        let file = store.image(mac.strip_suffix(".img")?).ok()?;
        let length = file.metadata().ok()?.len();
        Some(File::image(Arc::new(file), length, crate::tree::hash(&[mac.as_bytes()])))
    }

    /// The whole state, as JSON.
    pub fn state(&self) -> String {
        let mut clients: Vec<_> = self.watch.clients().into_iter().collect();
        clients.sort_by_key(|(_, client)| std::cmp::Reverse(client.since));
        let mut json = Json::new();
        json.object().key("services").object();
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

    #[test]
    fn only_the_token_switches() {
        let watch = Arc::new(Watch::new(|_| ()));
        let page = Page::new(watch.clone(), None).unwrap();
        assert_ne!(page.token, Page::new(watch.clone(), None).unwrap().token);
        for token in [None, Some(""), Some("0"), Some(&page.token[1..])] {
            assert_eq!(page.control("/control/nfs/off", token), 403);
        }
        let token = Some(page.token.as_str());
        assert!(watch.switches.is_on(Service::Nfs));
        assert_eq!(page.control("/control/nfs/off", token), 204);
        assert!(!watch.switches.is_on(Service::Nfs) && watch.switches.is_on(Service::Http));
        assert_eq!(page.control("/control/nfs/on", token), 204);
        assert!(watch.switches.is_on(Service::Nfs));
        for bad in ["/control/nfs", "/control/x/on", "/control/nfs/on/off", "/control/"] {
            assert_eq!(page.control(bad, token), 404);
        }
    }

    #[test]
    fn what_is_shown() {
        let watch = Arc::new(Watch::new(|_| ()));
        watch.tell(&Event::Warning("a \"b\"".into()));
        watch.reached("52:54:00:00:00:01", Stage::Kernel);
        watch.sent("52:54:00:00:00:01", 7);
        let state = Page::new(watch, None).unwrap().state();
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
