//! `bellwether share`: a live medium for every machine that boots from the network.

mod view;

use crate::args::Share;
use crate::build;
use crate::failure::Failure;
use ::share::config;
use ::share::console::Console;
use ::share::disk::store::Store;
use ::share::ending::Ending;
use ::share::error::Error;
use ::share::event::{Event, Watch};
use ::share::options::Options;
use ::share::privileges;
use ::share::session;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where leases are kept over restarts.
pub const STATE: &str = "/var/lib/bellwether";

/// How long the last messages may take, and then the rest of the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
const END: Duration = Duration::from_secs(3);

/// Places where running live systems have their medium mounted.
const MOUNTED: [&str; 6] = [
    "/run/live/medium",
    "/lib/live/mount/medium",
    "/cdrom",
    "/run/initramfs/live",
    "/run/archiso/bootmnt",
    "/run/bellwether/medium",
];

/// Runs the subcommand.
pub fn run(what: &Share) -> Result<(), Failure> {
    if what.kernel.is_some() != what.initrd.is_some() {
        return Err(Failure::Usage("--kernel and --initrd go together".into()));
    }
    if what.keep_settings && what.own_init {
        let why = "--keep-settings needs our /init: the media's own does not know what to do";
        return Err(Failure::Usage(why.into()));
    }
    let state = what.state.clone().unwrap_or_else(|| STATE.into());
    let asked = what.list_settings || what.reset_settings.is_some();
    if asked || what.export_settings.is_some() {
        return settings(what, &state);
    }
    let media = match what.media.as_slice() {
        [] => vec![running_medium()?],
        media => media.to_vec(),
    };
    let init = match what.own_init {
        true => None,
        false => Some(build::find_init(what.init.as_deref(), build::Form::Full)?.0),
    };
    let options = Options {
        media,
        interface: what.interface.clone(),
        dhcp: what.dhcp.unwrap_or_default(),
        range: what.range,
        kernel: what.kernel.clone(),
        initrd: what.initrd.clone(),
        append: what.append.clone().unwrap_or_default(),
        init,
        no_ipxe: what.no_ipxe,
        ipxe: what.ipxe.clone(),
        state,
        keep_settings: what.keep_settings,
        settings_limit: what.settings_limit,
        ..Options::default()
    };
    if let Some(dir) = &what.write_config {
        let json = what.json;
        let watch = Watch::new(move |event| println!("{}", line(event, json)));
        let written = config::write(&options, dir, &watch);
        for path in written.map_err(|e: Error| Failure::Failed(e.to_string()))? {
            println!("{}", path.display());
        }
        return Ok(());
    }
    serve(&options, what.plain, what.json)
}

/// Serves until it is told to end, and shows what happens: as a view that fills the
/// terminal, as lines (`plain`), or as JSON.
pub fn serve(options: &Options, plain: bool, json: bool) -> Result<(), Failure> {
    let failed = |e: Error| Failure::Failed(e.to_string());
    privileges::renounce().map_err(failed)?;
    let ending = Ending::expect().map_err(failed)?;
    // Nothing has to be ended before everything is up.
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let patience = move || if is_up.load(Ordering::Relaxed) { END } else { Duration::ZERO };
    // Without its sequences, which may not be written: the next program sets the screen.
    ending
        .enforce(patience, || drop(ratatui::crossterm::terminal::disable_raw_mode()))
        .map_err(failed)?;
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let mut out = out.map_err(Error::system("use standard output")).map_err(failed)?.into();
    let write = move |line: &str| crate::output::write_line(&mut out, line);
    let console = Console::start(write, if json { dropped_json } else { dropped_text });
    let console = console.map_err(failed)?;
    // Lines until everything is up, then the view.
    let (log, viewing) = (Arc::new(view::Log::default()), Arc::new(AtomicBool::new(false)));
    let (told, quiet) = (Arc::clone(&log), Arc::clone(&viewing));
    let said = console.clone();
    let watch = Arc::new(Watch::new(move |event| {
        told.tell(event);
        if !quiet.load(Ordering::Relaxed) {
            said.say(line(event, json));
        }
    }));
    let session = session::start(options, &watch);
    up.store(true, Ordering::Relaxed);
    // An error comes after the messages of what went well.
    console.flush(LAST_WORDS);
    let session = session.map_err(failed)?;
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let shown = if terminal && !plain && !json {
        viewing.store(true, Ordering::Relaxed);
        let shown = view::show(&session, &watch, &log, &ending);
        viewing.store(false, Ordering::Relaxed);
        shown
    } else {
        // Not an event: every viewer of the page gets those, and must not get the key.
        eprintln!("watch and switch it in a browser: {}", session.page);
        ending.wait().map_err(failed)
    };
    session::stopped(&watch);
    console.flush(LAST_WORDS);
    shown
}

/// What machines keep: listed, copied, forgotten, in this order.
fn settings(what: &Share, state: &Path) -> Result<(), Failure> {
    let failed = |e: Error| Failure::Failed(e.to_string());
    if !state.join("settings").try_exists().map_err(Error::read(state)).map_err(failed)? {
        let none = format!("no client keeps settings in {}", state.display());
        if what.export_settings.is_some() || what.reset_settings.is_some() {
            return Err(Failure::Failed(none));
        }
        if !what.json {
            eprintln!("bellwether: {none}");
        }
        return Ok(());
    }
    let store = Store::below(state, what.settings_limit).map_err(failed)?;
    if what.list_settings {
        for kept in store.list().map_err(failed)? {
            if what.json {
                println!("{}", kept.to_json());
                continue;
            }
            let used = if kept.used { ", in use" } else { "" };
            let (megabytes, hours) = (kept.bytes.div_ceil(1_000_000), kept.age / 3600);
            println!("{}  {megabytes} MB, last written {hours} hours ago{used}", kept.mac);
        }
    }
    if let Some(text) = &what.export_settings {
        let (mac, file) = text.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("'{text}' is not MAC=FILE, as in 52:54:00:12:34:56=disk.img"))
        })?;
        store.export(mac, Path::new(file)).map_err(failed)?;
    }
    match &what.reset_settings {
        Some(mac) => store.reset(mac).map_err(failed),
        None => Ok(()),
    }
}

fn line(event: &Event, json: bool) -> String {
    if json { event.to_json() } else { event.to_string() }
}

fn dropped(count: u64) -> Event {
    Event::Warning(format!("{count} messages were dropped: the terminal or pipe was not read"))
}

fn dropped_text(count: u64) -> String {
    line(&dropped(count), false)
}

fn dropped_json(count: u64) -> String {
    line(&dropped(count), true)
}

/// The medium that this system was started from.
fn running_medium() -> Result<PathBuf, Failure> {
    let is_mounted = |path: &&str| {
        let own = std::fs::metadata(path);
        let above = Path::new(path).parent().map(std::fs::metadata);
        use std::os::unix::fs::MetadataExt;
        matches!((own, above), (Ok(own), Some(Ok(above))) if own.is_dir() && own.dev() != above.dev())
    };
    let found = MOUNTED.iter().find(|path| is_mounted(path)).map(PathBuf::from);
    found.ok_or_else(|| {
        Failure::Usage(
            "this system does not run from a live medium; say what to share: \
             bellwether share debian-live.iso"
                .into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_needs_its_initramfs() {
        let what = Share { kernel: Some("k".into()), ..Share::default() };
        assert!(matches!(run(&what), Err(Failure::Usage(_))));
    }
}
