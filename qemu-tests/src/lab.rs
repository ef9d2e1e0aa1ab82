//! What a scenario can say.
//!
//! ```no_run
//! use qemu_tests::assets::{Flavour, Peer};
//! use qemu_tests::{Nic, scenario, secs};
//!
//! scenario("live-boot over NFS", |lab| {
//!     let kernel = lab.assets().kernel(Flavour::Cloud)?;
//!     let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
//!     let _dhcp = lab.dhcp().serve()?;
//!     let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
//!     let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";
//!     let mut machine =
//!         lab.machine().nic(Nic::virtio()).pxe(&kernel.image, &initrd, line)?.start()?;
//!     machine.login(secs(120))?;
//!     assert_eq!(machine.run("findmnt -no FSTYPE /")?.trim(), "overlay");
//!     Ok(())
//! });
//! ```

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::assets::media::Tree;
use crate::assets::{self, Assets, Flavour, Profile};
use crate::machine::{MachineBuilder, Nic};
use crate::net::Namespace;
use crate::release::Where;
use crate::shell::Daemon;
use crate::{Error, Result, packages, release, shell, workspace};

/// The server's address on the main network.
pub const SERVER: &str = "10.77.0.1";

/// A private network with a bridge called `lan`, 10.77.0.1/24, and a directory for
/// everything that happens on it.
#[derive(Debug)]
pub struct Lab {
    // Declared in the order in which they must go.
    _capture: Option<Daemon>,
    namespace: Namespace,
    directory: PathBuf,
    assets: Assets,
    machines: Cell<usize>,
}

impl Lab {
    /// Builds an empty lab: a network, no servers, no machines. Logs go to
    /// `directory`, which is emptied first. Its guests are of the run's release of Debian.
    ///
    /// # Errors
    /// [`Error::Packages`], [`Error::NotRoot`], or what making the network needs.
    pub fn new(directory: &Path) -> Result<Lab> {
        Lab::of(directory, &release::chosen()?)
    }

    /// The same with guests of this release.
    fn of(directory: &Path, release: &str) -> Result<Lab> {
        packages::ensure()?;
        if directory.exists() {
            fs::remove_dir_all(directory).map_err(Error::at("empty", directory))?;
        }
        fs::create_dir_all(directory).map_err(Error::at("make", directory))?;
        let assets = Assets::of(release)?;
        let namespace = Namespace::new(assets.servers()?)?;
        namespace.bridge("lan", &format!("{SERVER}/24"))?;
        let capture = match std::env::var_os("BELLWETHER_PCAP") {
            Some(_) => Some(start_capture(&namespace, directory)?),
            None => None,
        };
        Ok(Lab {
            _capture: capture,
            namespace,
            directory: directory.to_owned(),
            assets,
            machines: Cell::new(0),
        })
    }

    /// Kernels, images and initramfs.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Another network besides `lan`; `address` is the server's, `A.B.C.D/LEN`.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be made.
    pub fn network(&self, name: &str, address: &str) -> Result<()> {
        self.namespace.bridge(name, address)
    }

    /// A machine without devices.
    pub fn machine(&self) -> MachineBuilder<'_> {
        let number = self.machines.get();
        self.machines.set(number + 1);
        MachineBuilder::new(Some(&self.namespace), &self.directory, number)
    }

    /// What most scenarios boot: the cloud kernel, our initramfs with the `virt`
    /// modules, one virtio card.
    ///
    /// # Errors
    /// What building the kernel or our initramfs needs.
    pub fn client(&self, append: &str) -> Result<MachineBuilder<'_>> {
        Ok(self.bare_client(append)?.nic(Nic::virtio()))
    }

    /// The same without a card: the scenario adds its own.
    ///
    /// # Errors
    /// As [`Lab::client`].
    pub fn bare_client(&self, append: &str) -> Result<MachineBuilder<'_>> {
        self.client_of(Flavour::Cloud, Profile::Virt, append)
    }

    /// Another kernel, other modules, without a card.
    ///
    /// # Errors
    /// As [`Lab::client`].
    pub fn client_of(
        &self,
        flavour: Flavour,
        profile: Profile,
        append: &str,
    ) -> Result<MachineBuilder<'_>> {
        let kernel = self.assets.kernel(flavour)?;
        let initrd = self.assets.our_initrd(&kernel, profile)?;
        Ok(self.machine().kernel(&kernel.image, &initrd, append))
    }

    /// Runs a program on the network to its end; what it said.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.namespace().run(words)
    }

    /// Runs the host command to its end; what it said.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn bellwether(&self, words: &[&str]) -> Result<String> {
        let program = assets::bellwether()?.to_string_lossy().into_owned();
        self.namespace().run(&[&[program.as_str()], words].concat())
    }

    /// The network that its servers run in.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where everything that happens is kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pulls the cable of a machine's card out of the switch, or plugs it in again:
    /// the machine's own end keeps its carrier, and frames get lost.
    ///
    /// # Errors
    /// [`Error::Command`] when there is no such port.
    pub fn port(&self, machine: usize, nic: usize, up: bool) -> Result<()> {
        let tap = format!("tap{machine}x{nic}");
        self.namespace.run(&["ip", "link", "set", &tap, if up { "up" } else { "down" }]).map(drop)
    }

    /// How many segments the servers' network has refused so far, because nothing listens
    /// on the port: a machine that waits for a server knocks again and again.
    ///
    /// # Errors
    /// [`Error::Input`] when the kernel does not count them.
    pub fn refused_segments(&self) -> Result<u64> {
        let counters = self.run(&["cat", "/proc/net/snmp"])?;
        let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut both = names.split(' ').zip(values.split(' '));
        let value = both.find(|(name, _)| *name == "OutRsts").and_then(|(_, v)| v.parse().ok());
        value.ok_or_else(|| Error::Input(format!("no OutRsts in {counters}")))
    }

    /// Waits until the network has refused `count` segments more than now: until machines
    /// have knocked that often at servers that are not there.
    ///
    /// # Errors
    /// As [`until`](crate::until).
    pub fn knocks(&self, count: u64, limit: Duration) -> Result<()> {
        let before = self.refused_segments()?;
        crate::until("machines knock at the servers that are gone", limit, || {
            Ok(self.refused_segments()? >= before + count)
        })
    }

    /// How many bytes a machine's card has been sent so far.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such card.
    pub fn sent_to(&self, machine: usize, nic: usize) -> Result<u64> {
        // What went into the tap goes to the machine.
        self.counted(machine, nic, 8)
    }

    /// How many bytes a machine's card has sent so far.
    ///
    /// # Errors
    /// As [`Lab::sent_to`].
    pub fn sent_by(&self, machine: usize, nic: usize) -> Result<u64> {
        self.counted(machine, nic, 0)
    }

    /// A number of a tap's line in proc_net_dev(5).
    fn counted(&self, machine: usize, nic: usize, number: usize) -> Result<u64> {
        let tap = format!("tap{machine}x{nic}:");
        let table = self.run(&["cat", "/proc/net/dev"])?;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&tap));
        let count = line.and_then(|line| line.split_whitespace().nth(number)?.parse().ok());
        count.ok_or_else(|| Error::Input(format!("no {tap} in\n{table}")))
    }

    /// A copy of the live system as a tree, to be written to.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be copied.
    pub fn writable_root(&self) -> Result<PathBuf> {
        let copy = self.directory.join("root");
        let (from, to) = (self.assets.live_root()?, copy.to_string_lossy());
        shell::sh(&["cp", "-a", "--reflink=auto", &from.to_string_lossy(), &to])?;
        Ok(copy)
    }

    /// The small root, packed by a shell command that writes to `$out`. The command fails
    /// when a program of a pipe does: an empty archive would show in the machine only.
    ///
    /// # Errors
    /// [`Error::Packages`] or [`Error::Command`] when it cannot be packed.
    pub fn pack(&self, to: &Path, command: &str) -> Result<()> {
        packages::ensure_all(packages::FOR_DISKS)?;
        let root = self.assets.small_root()?;
        let script = format!("cd '{}'; out='{}'; {command}", root.display(), to.display());
        shell::sh(&["bash", "-euo", "pipefail", "-c", &script]).map(drop)
    }

    /// The live tree with its image cut in the middle.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot be copied.
    pub fn truncated_live_tree(&self) -> Result<PathBuf> {
        let live = self.scratch("truncated/live")?;
        let image = live.join("filesystem.squashfs").to_string_lossy().into_owned();
        let whole = self.assets.squashfs()?;
        shell::sh(&["cp", &whole.to_string_lossy(), &image])?;
        shell::sh(&["truncate", "--size=1M", &image])?;
        Ok(self.directory.join("truncated"))
    }

    /// `initrd` with the index of its modules cut in the middle.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not one of ours.
    pub fn with_cut_index(&self, initrd: &Path) -> Result<PathBuf> {
        let cut = self.directory.join("cut-index.img");
        assets::replace(initrd, "lib/bellwether/modules.idx", &cut, |index| {
            index.get(..index.len() / 2).unwrap_or_default().to_vec()
        })?;
        Ok(cut)
    }

    /// A directory of this lab's own, for a server to serve.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.directory.join(name);
        fs::create_dir_all(&dir).map_err(Error::at("make", &dir))?;
        Ok(dir)
    }

    /// A directory that becomes a medium or a disk; `name` tells it from the
    /// lab's others.
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn tree(&self, name: &str) -> Result<Tree> {
        Tree::new(&self.scratch("media")?, name)
    }
}

/// tcpdump on every network of the lab, into `network.pcap`.
fn start_capture(namespace: &Namespace, directory: &Path) -> Result<Daemon> {
    let mut tcpdump = namespace.command("tcpdump");
    tcpdump.args(["-i", "any", "-U", "-Z", "root", "-w"]).arg(directory.join("network.pcap"));
    Daemon::start("tcpdump", tcpdump, &directory.join("tcpdump.log"))
}

/// Runs one scenario in a lab of its own. When it fails (by an error or a panic),
/// consoles, server logs and configurations are kept under `lab/captures/NAME`;
/// with `BELLWETHER_KEEP` in the environment always, and with `BELLWETHER_PCAP`
/// everything that went over the wire as well.
///
/// # Panics
/// When the scenario fails: this is the body of a `#[test]`. When another one has
/// this name: they would empty each other's directory.
#[allow(clippy::panic, reason = "the verdict of a test")]
pub fn scenario(name: &str, story: impl FnOnce(&Lab) -> Result<()>) {
    static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let new = NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    assert!(new, "two scenarios are called {name}");
    if let Err(error) = noted(name, story) {
        panic!("{error}")
    }
}

/// Runs a story in a lab of the release that it is to run on, and notes how it went. Nothing
/// comes back when there is nothing to run.
pub(crate) fn noted<T>(name: &str, story: impl FnOnce(&Lab) -> Result<T>) -> Result<Option<T>> {
    let release = match release::of_scenario(name)? {
        Where::On(release) => release,
        Where::Not(why) => {
            crate::say(format_args!("{name}: {why}"));
            return Ok(None);
        }
    };
    let start = Instant::now();
    let kept = workspace::lab().join("captures").join(name);
    let lab = Lab::of(&kept, &release)?;
    // The lab is not used after a panic, only taken down.
    let outcome = catch_unwind(AssertUnwindSafe(|| story(&lab)));
    drop(lab);
    release::note(name, &release, matches!(outcome, Ok(Ok(_))), start.elapsed())?;
    let seconds = start.elapsed().as_secs_f32();
    let failed = format!("{name}: failed on {release} after {seconds:.1} s");
    let failed = || format!("{failed}, see {}", kept.display());
    match outcome {
        Ok(Ok(shown)) => {
            crate::say(format_args!("{name}: passed on {release} in {seconds:.1} s"));
            // What a success leaves is rarely of use; a leftover does no harm.
            if std::env::var_os("BELLWETHER_KEEP").is_none() {
                let _ = fs::remove_dir_all(&kept);
            }
            Ok(Some(shown))
        }
        Ok(Err(error)) => {
            crate::say(format_args!("{}", failed()));
            Err(Error::Input(format!("{}: {error}", failed())))
        }
        Err(panic) => {
            crate::say(format_args!("{}", failed()));
            resume_unwind(panic)
        }
    }
}

/// Seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
