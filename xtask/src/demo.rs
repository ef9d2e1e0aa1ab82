//! `cargo demo`: a real Debian live system comes up over the network, here.

use std::io::{IsTerminal, Read, Write, stdin};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use argh::FromArgs;
use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::{Error, Lab, Machine, Nic, Result, secs, workspace};

/// Boot a Debian live system over an emulated network: PXE ROM, pxelinux, our init,
/// NFS, overlay, login prompt. Leaves you at its console.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "demo")]
pub struct Demo {
    /// end by itself: 0 when the system came up and what was written to it vanished
    /// with a reboot
    #[argh(switch)]
    once: bool,
}

const LINE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";

impl Demo {
    /// Runs the demo; everything it started is gone when it returns.
    pub fn run(self) -> Result<()> {
        let interactive = !self.once && stdin().is_terminal();
        println!("demo: the first run fetches Debian packages and builds a live system from them");
        let lab = Lab::new(&workspace::lab().join("captures/demo"))?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().our_initrd(&kernel, Profile::Virt)?;
        let tree = lab.assets().live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &tree).start()?;
        println!("demo: APPEND {LINE}");
        let machine = lab
            .machine()
            .nic(Nic::virtio())
            .pxe(&kernel.image, &initrd, LINE)?
            .to_terminal()
            .start()?;
        if interactive { hand_over(&machine) } else { prove(machine) }
    }
}

/// Logs in, writes, reboots, and sees that nothing is left.
fn prove(mut machine: Machine) -> Result<()> {
    machine.login(secs(240))?;
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
