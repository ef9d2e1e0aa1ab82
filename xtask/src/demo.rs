//! `cargo demo`: a real Debian live system comes up over the network, here.

use std::io::{IsTerminal, Read, Write, stdin};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use argh::FromArgs;
use qemu_tests::assets::{Assets, Flavour, Profile};
use qemu_tests::machine::{KERNEL_WORDS, machine_of_anybody};
use qemu_tests::{Error, Machine, Result, packages, secs, workspace};
use share::event::{Event, Watch};
use share::options::{Behind, Options};
use share::session;

/// Boot a Debian live system over an emulated network: PXE ROM, pxelinux, our init, NFS,
/// overlay, login prompt. `bellwether share` serves it; no step needs root.
/// Leaves you at its console.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "demo")]
pub struct Demo {
    /// end by itself: 0 when the system came up and a reboot undid what was written
    /// to it
    #[argh(switch)]
    pub once: bool,
}

/// What it needs of Debian.
const NEEDED: [(&str, &str); 10] = [
    ("qemu-system-x86", "the machine"),
    ("ipxe-qemu", "its network boot ROM"),
    ("seabios", "its firmware"),
    ("pxelinux", "its boot loader"),
    ("syslinux-common", "the loader's modules"),
    ("mmdebstrap", "a live system from Debian packages"),
    ("uidmap", "the same without being root"),
    ("squashfs-tools", "its image"),
    ("kmod", "module indexes"),
    ("util-linux", "setpriv"),
];

/// On a slow computer without KVM, udev takes longer than systemd waits for the serial line, and
/// no login comes. systemd 252 does not know this word.
const PATIENT: &str = "systemd.default_device_timeout_sec=240";

/// How machines on QEMU's own network know this one.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

impl Demo {
    /// Runs the demo; everything it started is gone when it returns.
    pub fn run(self) -> Result<()> {
        let interactive = !self.once && stdin().is_terminal();
        println!("demo: the first run fetches Debian packages and builds a live system from them");
        packages::ensure_all(&NEEDED)?;
        let assets = Assets::open()?;
        let kernel = assets.kernel(Flavour::Cloud)?;
        let initrd = assets.our_initrd(&kernel, Profile::Virt)?;
        let place = workspace::lab().join("captures/demo");
        std::fs::create_dir_all(&place).map_err(Error::at("make", &place))?;
        let options = Options {
            media: vec![assets.live_tree()?],
            kernel: Some(kernel.image),
            initrd: Some(initrd),
            append: format!("{KERNEL_WORDS} {PATIENT}"),
            behind: Some(Behind { listen: Ipv4Addr::LOCALHOST, known_as: HOST }),
            ..Options::default()
        };
        let watch = Watch::new(|event| {
            // What comes later would be written into the machine's console.
            if matches!(event, Event::Ready { .. } | Event::Warning(_)) {
                println!("demo: {event}\r");
            }
        });
        let shared = session::start(&options, &Arc::new(watch))
            .map_err(|error| Error::Input(error.to_string()))?;
        let machine = machine_of_anybody(&place, &shared.first).to_terminal().start()?;
        if interactive { hand_over(&machine) } else { prove(machine) }
    }
}

/// Logs in, writes, reboots, and sees that nothing is left.
fn prove(mut machine: Machine) -> Result<()> {
    machine.expect("PXELINUX", secs(120))?;
    machine.login(secs(240))?;
    machine
        .run("grep -q '^overlay / ' /proc/mounts && grep -q '^10.0.2.2:.* nfs ' /proc/mounts")?;
    machine.run("echo proof >/etc/proof && test -s /etc/proof")?;
    machine.send_line("systemctl reboot")?;
    machine.expect("Linux version", secs(120))?;
    machine.login(secs(240))?;
    machine.run("test ! -e /etc/proof")?;
    println!("\ndemo: booted over the network; / took a write, which a reboot took back");
    Ok(())
}

/// Gives the terminal to the machine until it powers off or Ctrl-A X is typed.
fn hand_over(machine: &Machine) -> Result<()> {
    println!("demo: log in as root, without a password; Ctrl-A X ends the demo\n");
    let _raw = RawTerminal::new()?;
    let quit = Arc::new(AtomicBool::new(false));
    let (asked, mut keyboard) = (Arc::clone(&quit), machine.keyboard()?);
    thread::spawn(move || {
        let mut prefix = false;
        for byte in stdin().lock().bytes().map_while(std::result::Result::ok) {
            match (prefix, byte) {
                (true, b'x' | b'X') => break,
                (false, 0x01) => prefix = true,
                _ => {
                    prefix = false;
                    if keyboard.write_all(&[byte]).is_err() {
                        break;
                    }
                }
            }
        }
        asked.store(true, Ordering::Relaxed);
    });
    while !quit.load(Ordering::Relaxed) && machine.wait_off(secs(1)).is_err() {}
    Ok(())
}

/// The terminal passes every key on while this lives.
struct RawTerminal {
    before: String,
}

impl RawTerminal {
    fn new() -> Result<RawTerminal> {
        let saved = Command::new("stty").arg("-g").stdin(std::process::Stdio::inherit()).output();
        let saved = saved.map_err(Error::io("ask stty for the terminal's settings"))?;
        let before = String::from_utf8_lossy(&saved.stdout).trim().to_owned();
        stty(&["raw", "-echo"])?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing better can be done when this fails.
        let _ = stty(&[&self.before]);
        println!();
    }
}

fn stty(words: &[&str]) -> Result<()> {
    Command::new("stty").args(words).status().map(drop).map_err(Error::io("start stty"))
}
