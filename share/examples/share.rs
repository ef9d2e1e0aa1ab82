//! `bellwether share` without the rest of the command: `share INIT MEDIUM [MODE]`.

use share::console::Console;
use share::event::Watch;
use share::options::{DhcpMode, Options};
use share::session::run;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: share INIT MEDIUM [auto|proxy|full|off] [no-ipxe] [APPEND]";
    let init = words.next().ok_or(usage)?;
    let medium = words.next().ok_or(usage)?;
    let dhcp = match words.next().as_deref() {
        None | Some("auto") => DhcpMode::Auto,
        Some("proxy") => DhcpMode::Proxy,
        Some("full") => DhcpMode::Full,
        Some(_) => DhcpMode::Off,
    };
    let no_ipxe = words.next().as_deref() == Some("no-ipxe");
    let options = Options {
        media: vec![medium.into()],
        dhcp,
        no_ipxe,
        append: words.next().unwrap_or_default(),
        init: Some(std::fs::read(init).map_err(|e| e.to_string())?),
        state: PathBuf::from("/tmp/bellwether-share"),
        interface: std::env::var("INTERFACE").ok(),
        ..Options::default()
    };
    let note = |count| format!("{count} messages were dropped");
    let console = Console::start(|line| print!("{line}"), note).map_err(|e| e.to_string())?;
    let watch = Arc::new(Watch::new(move |event| console.say(event.to_string())));
    run(&options, &watch, |session| println!("page: {}", session.page)).map_err(|e| e.to_string())
}
