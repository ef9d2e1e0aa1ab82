//! `bellwether share`: a live medium for every machine that boots from the network.

mod view;

use crate::Failure;
use crate::build;
use ::share::config;
use ::share::error::Error;
use ::share::event::{Event, Watch};
use ::share::session::{self, DhcpMode, Ending, Options};
use ::share::settings::Store;
use argh::{ArgsInfo, FromArgs};
use std::io::{IsTerminal as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where leases are kept over restarts.
pub const STATE: &str = "/var/lib/bellwether";

/// Places where running live systems have their medium mounted.
const MOUNTED: [&str; 6] = [
    "/run/live/medium",
    "/lib/live/mount/medium",
    "/cdrom",
    "/run/initramfs/live",
    "/run/archiso/bootmnt",
    "/run/bellwether/medium",
];

/// Serve live media, as they are, to every machine that boots from the network.
///
/// Looks for a DHCP server first. If there is one, it is left to give addresses,
/// and machines are only told what to boot; if there is none, addresses are given,
/// too. Ctrl-C ends it and leaves nothing behind.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "share",
    example = "A live system's ISO:\n  sudo bellwether share debian-live-12-amd64-standard.iso",
    example = "The medium that this live system runs from:\n  sudo bellwether share",
    example = "Every machine keeps its changes, on this one:\n  \
               sudo bellwether share --keep-settings debian-live.iso",
    example = "On another interface, without giving addresses:\n  \
               sudo bellwether share --interface enp3s0 --dhcp proxy ubuntu.iso",
    note = "Exit status: 0 ended by the user, 1 failed, 2 wrong usage."
)]
pub struct Share {
    /// ISO images, drives or directories; none: the medium that this live system
    /// runs from
    #[argh(positional, arg_name = "medium")]
    pub media: Vec<PathBuf>,

    /// the network interface to share on; by default the one with the default route
    #[argh(option, arg_name = "name")]
    pub interface: Option<String>,

    /// auto (the default), proxy (give no addresses), full (give them) or off
    #[argh(option, arg_name = "mode", from_str_fn(dhcp))]
    pub dhcp: Option<DhcpMode>,

    /// addresses to give, FIRST-LAST
    #[argh(option, arg_name = "first-last", from_str_fn(range))]
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,

    /// kernel to boot instead of the medium's; with --initrd
    #[argh(option, arg_name = "file")]
    pub kernel: Option<PathBuf>,

    /// initramfs to boot instead of the medium's; with --kernel
    #[argh(option, arg_name = "file")]
    pub initrd: Option<PathBuf>,

    /// words for every kernel's command line
    #[argh(option, arg_name = "words")]
    pub append: Option<String>,

    /// boot with the media's own /init, without ours behind their initramfs
    #[argh(switch)]
    pub own_init: bool,

    /// the program to be /init; by default the one made with this command
    #[argh(option, arg_name = "file")]
    pub init: Option<PathBuf>,

    /// give every machine a disk of its own on this one, where what it changes is kept
    /// until it is reset
    #[argh(switch)]
    pub keep_settings: bool,

    /// list what machines keep here; serves nothing
    #[argh(switch)]
    pub list_settings: bool,

    /// forget what a machine keeps here, by its hardware address; serves nothing
    #[argh(option, arg_name = "mac")]
    pub reset_settings: Option<String>,

    /// copy a machine's disk to a file, MAC=FILE; serves nothing
    #[argh(option, arg_name = "mac=file")]
    pub export_settings: Option<String>,

    /// where leases and settings are kept; by default /var/lib/bellwether
    #[argh(option, arg_name = "dir")]
    pub state: Option<PathBuf>,

    /// serve nothing; write what dnsmasq, dhcpd, pxelinux, GRUB and NFS servers of your
    /// own need into this directory
    #[argh(option, arg_name = "dir")]
    pub write_config: Option<PathBuf>,

    /// give machines whose firmware is iPXE a boot loader, too, not a script
    #[argh(switch)]
    pub no_ipxe: bool,

    /// print what happens as JSON, a line each
    #[argh(switch)]
    pub json: bool,

    /// print what happens, a line each, instead of a view that fills the terminal
    #[argh(switch)]
    pub plain: bool,
}

fn dhcp(text: &str) -> Result<DhcpMode, String> {
    match text {
        "auto" => Ok(DhcpMode::Auto),
        "proxy" => Ok(DhcpMode::Proxy),
        "full" => Ok(DhcpMode::Full),
        "off" => Ok(DhcpMode::Off),
        _ => Err(format!("no DHCP mode '{text}': auto, proxy, full or off")),
    }
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    });
    ends.ok_or_else(|| format!("'{text}' is not FIRST-LAST, as in 10.0.0.100-10.0.0.150"))
}

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
        false => Some(build::find_init(what.init.as_deref(), false)?.0),
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
        state,
        keep_settings: what.keep_settings,
        ..Options::default()
    };
    if let Some(dir) = &what.write_config {
        let json = what.json;
        let watch = Watch::new(move |event| tell(event, json));
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
    // Lines until everything is up, then the view.
    let (log, viewing) = (Arc::new(view::Log::default()), Arc::new(AtomicBool::new(false)));
    let (told, quiet) = (Arc::clone(&log), Arc::clone(&viewing));
    let watch = Arc::new(Watch::new(move |event| {
        told.tell(event);
        if !quiet.load(Ordering::Relaxed) {
            tell(event, json);
        }
    }));
    let failed = |e: Error| Failure::Failed(e.to_string());
    let ending = Ending::expect().map_err(failed)?;
    let session = session::start(options, &watch).map_err(failed)?;
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let shown = if terminal && !plain && !json {
        viewing.store(true, Ordering::Relaxed);
        let shown = view::show(&session, &watch, &log, &ending);
        viewing.store(false, Ordering::Relaxed);
        shown
    } else {
        // Not an event: those go to whoever looks at the page, and the key must not.
        eprintln!("watch and switch it in a browser: {}", session.page);
        ending.wait().map_err(failed)
    };
    session::stopped(&watch);
    shown
}

/// What machines keep: listed, copied, forgotten, in this order.
fn settings(what: &Share, state: &Path) -> Result<(), Failure> {
    let failed = |e: Error| Failure::Failed(e.to_string());
    let store = Store::below(state).map_err(failed)?;
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

fn tell(event: &Event, json: bool) {
    let line = if json { event.to_json() } else { event.to_string() };
    // Whoever closed the pipe does not want to know; sharing goes on.
    let _ = writeln!(std::io::stdout(), "{line}");
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
    fn ranges_and_modes() {
        let (first, last) = range("10.0.0.5-10.0.0.9").unwrap();
        assert_eq!((first.octets()[3], last.octets()[3]), (5, 9));
        for bad in ["", "10.0.0.5", "10.0.0.9-10.0.0.5", "a-b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert_eq!(dhcp("proxy"), Ok(DhcpMode::Proxy));
        assert!(dhcp("yes").is_err());
    }

    #[test]
    fn a_kernel_needs_its_initramfs() {
        let what = Share { kernel: Some("k".into()), ..Share::default() };
        assert!(matches!(run(&what), Err(Failure::Usage(_))));
    }
}
