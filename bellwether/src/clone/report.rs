//! The end of a copy at the server: one table of all machines, and what those with a
//! good copy boot from then on.

use super::flags::{Flag, Given, flag};
use crate::failure::Failure;
use clone::outcome::{Amount, Client, rate};
use cpio_builder::menu::disk_menus;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// The option of all programs that send.
pub const PXELINUX: Flag = flag(
    "pxelinux",
    None,
    Some("DIR"),
    "machines with a good copy boot from their disks: DIR is what their TFTP server serves",
);

/// How it went with one machine.
#[derive(Debug)]
pub struct Machine {
    /// Its name or address, as it was listed.
    pub name: String,
    /// Its address, where it is known.
    pub address: Option<Ipv4Addr>,
    /// In words.
    pub result: String,
    /// It has a good copy.
    pub good: bool,
    /// Bytes that came for it, where that is not all of it.
    pub came: Option<u64>,
}

impl Machine {
    /// As the sender knows it.
    pub fn of(client: &Client) -> Self {
        let Client { name, address, standing, came } = client;
        let (result, good) = (standing.to_string(), standing.good());
        Self { name: name.clone(), address: *address, result, good, came: *came }
    }
}

/// Prints the table, and does what [`PXELINUX`] says. A failure when a machine has no
/// good copy.
pub fn table(
    machines: &[Machine],
    amount: u64,
    took: Duration,
    given: &Given,
) -> Result<(), Failure> {
    println!("{:<20} {:>9} {:>7} {:>12}  result", "machine", "bytes", "s", "rate");
    for machine in machines {
        let came = machine.came.unwrap_or(amount);
        let (size, seconds, rate) = match machine.good {
            true => (
                Amount(came).to_string(),
                format!("{:.1}", took.as_secs_f64()),
                format!("{}/s", rate(came, took)),
            ),
            false => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        let Machine { name, result, .. } = machine;
        println!("{name:<20} {size:>9} {seconds:>7} {rate:>12}  {result}");
    }
    if let Some(dir) = given.get("pxelinux") {
        for machine in machines.iter().filter(|machine| machine.good) {
            match boot_from_disk(Path::new(dir), machine.address) {
                Ok(mac) => println!("{:<20} boots from its disk from now on ({mac})", machine.name),
                Err(why) => {
                    eprintln!("{}: still boots from the network: {why}", machine.name);
                }
            }
        }
    }
    let bad = machines.iter().filter(|machine| !machine.good).count();
    match bad {
        0 => Ok(()),
        _ => {
            Err(Failure::Failed(format!("{bad} of {} machines have no good copy", machines.len())))
        }
    }
}

/// Writes what boot loaders look for that the machine at this address starts; its
/// hardware address.
fn boot_from_disk(dir: &Path, address: Option<Ipv4Addr>) -> Result<String, String> {
    let address = address.ok_or("its address is not known")?;
    let table = fs::read_to_string("/proc/net/arp").map_err(|e| format!("/proc/net/arp: {e}"))?;
    let mac = hardware_address(&table, address).ok_or("its hardware address is not known")?;
    for (path, text) in disk_menus(mac).map_err(|e| e.to_string())? {
        let path = dir.join(path);
        let below = path.parent().unwrap_or(dir);
        let written = fs::create_dir_all(below).and_then(|()| fs::write(&path, text));
        let shown = written.and_then(|()| for_servers(below)).and_then(|()| for_servers(&path));
        shown.map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(mac.to_owned())
}

/// Lets every user read it, whatever the umask: boot servers run as `nobody`.
pub fn for_servers(path: &Path) -> io::Result<()> {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The kernel's table of neighbours (`/proc/net/arp`): address, type, flags, hardware
/// address. One that did not answer has zeros there.
fn hardware_address(table: &str, address: Ipv4Addr) -> Option<&str> {
    let line = table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()?.parse() == Ok(address)).then_some(words)
    });
    let mac = line?.nth(2)?;
    let colons = mac.len() == 17 && mac.split(':').all(|byte| u8::from_str_radix(byte, 16).is_ok());
    (colons && mac != "00:00:00:00:00:00").then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARP: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.77.0.51       0x1         0x2         52:54:00:77:c0:00     *        eth0
10.77.0.5        0x1         0x0         00:00:00:00:00:00     *        eth0
";

    #[test]
    fn neighbours() {
        let of = |last| hardware_address(ARP, Ipv4Addr::new(10, 77, 0, last));
        assert_eq!(of(51), Some("52:54:00:77:c0:00"));
        assert_eq!((of(5), of(1)), (None, None));
    }

    #[test]
    fn a_bad_machine_is_a_failure() {
        let machine = |good| Machine {
            name: "a".into(),
            address: None,
            result: "x".into(),
            good,
            came: None,
        };
        let table = |machines: &[Machine]| table(machines, 1, Duration::ZERO, &Given::default());
        assert!(table(&[machine(true)]).is_ok());
        let Err(Failure::Failed(why)) = table(&[machine(true), machine(false)]) else { panic!() };
        assert_eq!(why, "1 of 2 machines have no good copy");
    }
}
