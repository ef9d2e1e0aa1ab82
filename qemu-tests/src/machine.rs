//! A machine: QEMU under TCG, its devices, its console.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::net::Namespace;
use crate::pxe::write_pxelinux;
use crate::shell::{self, kill_group};
use crate::{Error, Result};

/// Words that every kernel here gets: a serial console, no colours, no clearing of
/// memory, which costs more than all else under an emulated processor, and no panic
/// when the timers of a machine whose host is busy come late.
pub const KERNEL_WORDS: &str =
    "console=ttyS0 init_on_alloc=0 no_timer_check systemd.log_color=0 TERM=dumb";

/// A network card.
#[derive(Debug, Clone)]
pub struct Nic {
    model: &'static str,
    bridge: String,
    mac: Option<String>,
    link: bool,
}

impl Nic {
    /// virtio-net, on the lab's main network.
    pub fn virtio() -> Nic {
        Nic::model("virtio-net-pci")
    }

    /// Intel 82574L, on the lab's main network.
    pub fn e1000e() -> Nic {
        Nic::model("e1000e")
    }

    /// Any card that QEMU emulates, on the lab's main network.
    pub fn model(model: &'static str) -> Nic {
        Nic { model, bridge: "lan".into(), mac: None, link: true }
    }

    /// On another bridge.
    #[must_use]
    pub fn on(mut self, bridge: &str) -> Nic {
        bridge.clone_into(&mut self.bridge);
        self
    }

    /// With this address instead of one from the order of cards.
    #[must_use]
    pub fn mac(mut self, mac: &str) -> Nic {
        self.mac = Some(mac.to_owned());
        self
    }

    /// Without a cable: the card is there and has no carrier.
    #[must_use]
    pub fn unplugged(mut self) -> Nic {
        self.link = false;
        self
    }
}

/// How a disk or an optical drive is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-scsi.
    VirtioScsi,
    /// virtio-blk.
    VirtioBlk,
    /// SATA.
    Ahci,
    /// NVMe.
    Nvme,
}

#[derive(Debug)]
struct Drive {
    bus: Bus,
    image: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Optical,
    /// Writes are forgotten when the machine is gone.
    Disk,
    /// Writes reach the image.
    Kept,
}

/// A machine before it is switched on.
#[derive(Debug)]
pub struct MachineBuilder<'lab> {
    namespace: Option<&'lab Namespace>,
    directory: PathBuf,
    number: usize,
    memory_mib: u32,
    nics: Vec<Nic>,
    drives: Vec<Drive>,
    boot: Vec<String>,
    extra: Vec<String>,
    to_terminal: bool,
    arm64: bool,
    board: &'static str,
}

impl<'lab> MachineBuilder<'lab> {
    /// A machine with 1 GiB and no devices; `number` tells those of a lab apart.
    pub(crate) fn new(
        namespace: Option<&'lab Namespace>,
        directory: &Path,
        number: usize,
    ) -> MachineBuilder<'lab> {
        MachineBuilder {
            namespace,
            directory: directory.to_owned(),
            number,
            memory_mib: 1024,
            nics: Vec::new(),
            drives: Vec::new(),
            boot: Vec::new(),
            extra: Vec::new(),
            to_terminal: false,
            arm64: false,
            board: "q35",
        }
    }

    /// Adds a network card. A lab's machines only: there must be a network.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a disk; writes go to a throw-away copy, which survives restarts.
    #[must_use]
    pub fn disk(mut self, bus: Bus, image: &Path) -> Self {
        self.drives.push(Drive { bus, image: image.to_owned(), kind: Kind::Disk });
        self
    }

    /// Adds a disk whose writes reach the image itself.
    #[must_use]
    pub fn kept_disk(mut self, bus: Bus, image: &Path) -> Self {
        self.drives.push(Drive { bus, image: image.to_owned(), kind: Kind::Kept });
        self
    }

    /// Adds an optical drive with a medium.
    #[must_use]
    pub fn cdrom(mut self, bus: Bus, image: &Path) -> Self {
        self.drives.push(Drive { bus, image: image.to_owned(), kind: Kind::Optical });
        self
    }

    /// A disk on a bus of its own, virtio-scsi, that is not there yet: see
    /// [`Machine::plug_disk`]. What is written to it is forgotten with the machine.
    #[must_use]
    pub fn later_disk(self, image: &Path) -> Self {
        let drive = format!("if=none,id=later,format=raw,snapshot=on,file={}", image.display());
        self.qemu(&["-device", "virtio-scsi-pci,id=later", "-drive", &drive])
    }

    /// Memory in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Boots this kernel with this initramfs, without firmware. [`KERNEL_WORDS`]
    /// come before `append`.
    #[must_use]
    pub fn kernel(mut self, kernel: &Path, initrd: &Path, append: &str) -> Self {
        self.boot = ["-kernel", &kernel.to_string_lossy(), "-initrd", &initrd.to_string_lossy()]
            .map(str::to_owned)
            .into();
        self.boot.extend(["-append".into(), format!("{KERNEL_WORDS} {append}")]);
        self
    }

    /// Boots from the network, as a machine on a site does: the first card's ROM
    /// asks DHCP, loads pxelinux by TFTP, which loads kernel and initramfs.
    /// Fills the lab's TFTP tree; [`KERNEL_WORDS`] come before `append`.
    ///
    /// # Errors
    /// [`Error::Io`] when the TFTP tree cannot be written.
    pub fn pxe(mut self, kernel: &Path, initrd: &Path, append: &str) -> Result<Self> {
        let append = format!("{KERNEL_WORDS} {append}");
        write_pxelinux(&self.directory.join("tftp"), kernel, initrd, &append)?;
        self.boot = vec!["-boot".into(), "order=n".into()];
        Ok(self)
    }

    /// UEFI firmware, with variables of its own, that boots from networks itself.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be copied.
    pub fn uefi(self) -> Result<Self> {
        self.firmware("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    }

    /// The same with Secure Boot on, and with the keys that PCs are sold with.
    ///
    /// # Errors
    /// As [`MachineBuilder::uefi`].
    pub fn secure_uefi(self) -> Result<Self> {
        self.secure("OVMF_VARS_4M.ms.fd")
    }

    /// The same with one key, that of the lab's own signatures: see [`crate::assets::Signer`].
    ///
    /// # Errors
    /// As [`MachineBuilder::uefi`].
    pub fn own_secure_uefi(self) -> Result<Self> {
        self.secure("OVMF_VARS_4M.snakeoil.fd")
    }

    fn secure(self, variables: &str) -> Result<Self> {
        let machine = self.firmware("OVMF_CODE_4M.secboot.fd", variables)?;
        // Variables that only the firmware may change live behind its own mode.
        let secure = ["driver=cfi.pflash01,property=secure,value=on", "ICH9-LPC.disable_s3=1"];
        let words = secure.map(|property| ["-global", property]);
        Ok(machine.qemu(&["-machine", "smm=on"]).qemu(words.as_flattened()))
    }

    fn firmware(self, code: &str, variables: &str) -> Result<Self> {
        let place = Path::new("/usr/share/OVMF");
        let from = place.join(variables);
        let own = self.directory.join(format!("variables{}.fd", self.number));
        std::fs::copy(&from, &own).map_err(Error::at("copy", &from))?;
        let code = place.join(code);
        let code = format!("if=pflash,format=raw,readonly=on,file={}", code.display());
        let variables = format!("if=pflash,format=raw,file={}", own.display());
        // Cards without a ROM: the firmware's own driver and its own PXE.
        let no_rom = "virtio-net-pci.romfile=";
        Ok(self.qemu(&["-drive", &code, "-drive", &variables, "-global", no_rom]))
    }

    /// Another of QEMU's PC boards than `q35`.
    #[must_use]
    pub(crate) fn board(mut self, board: &'static str) -> Self {
        self.board = board;
        self
    }

    /// A machine with a 64-bit ARM processor, on QEMU's board `virt`.
    #[must_use]
    pub fn arm64(mut self) -> Self {
        self.arm64 = true;
        self
    }

    /// ARM's UEFI firmware, with variables of its own.
    ///
    /// # Errors
    /// As [`MachineBuilder::uefi`].
    pub fn arm64_uefi(self) -> Result<Self> {
        self.arm64().firmware("../AAVMF/AAVMF_CODE.fd", "../AAVMF/AAVMF_VARS.fd")
    }

    /// Adds words to QEMU's command line.
    #[must_use]
    pub fn qemu(mut self, words: &[&str]) -> Self {
        self.extra.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Shows the console on this process's terminal as well.
    #[must_use]
    pub fn to_terminal(mut self) -> Self {
        self.to_terminal = true;
        self
    }

    /// Switches it on.
    ///
    /// # Errors
    /// [`Error::Command`] when a tap cannot be made or QEMU does not start.
    pub fn start(self) -> Result<Machine> {
        let program = if self.arm64 { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
        let mut qemu = match self.namespace {
            Some(namespace) => namespace.command(program),
            None => {
                let mut setpriv = shell::command("setpriv");
                setpriv.args(["--pdeathsig", "KILL", "--", program]);
                setpriv
            }
        };
        // TCG always: results must not depend on the host's processor. The two
        // flags make the kernel copy memory by words, which TCG does far faster.
        let (board, processor) = match self.arm64 {
            true => ("virt", "max"),
            false => (self.board, "max,-erms,-fsrm"),
        };
        let board = format!("{board},accel=tcg");
        qemu.args(["-nodefaults", "-machine", &board, "-cpu", processor]);
        qemu.args(["-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"]);
        qemu.arg("-m").arg(self.memory_mib.to_string());
        self.add_drives(&mut qemu);
        self.add_nics(&mut qemu)?;
        qemu.args(&self.boot).args(&self.extra);

        // Links can be cut only through the monitor, and must be before it starts.
        let unplugged: Vec<usize> =
            self.nics.iter().enumerate().filter(|(_, n)| !n.link).map(|(i, _)| i).collect();
        let monitor = self.directory.join(format!("qmp{}", self.number));
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        if !unplugged.is_empty() {
            qemu.arg("-S");
        }
        let log = self.directory.join(format!("qemu{}.log", self.number));
        let stderr = std::fs::File::create(&log).map_err(Error::at("create", &log))?;
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        let mut child =
            qemu.spawn().map_err(Error::io(format!("start `{}`", shell::show(&qemu))))?;
        let missing = || Error::Input("QEMU has no serial line".into());
        let keyboard = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let transcript = self.directory.join(format!("console{}.txt", self.number));
        let terminal: Option<Box<dyn Write + Send>> =
            if self.to_terminal { Some(Box::new(std::io::stdout())) } else { None };
        let console = Console::follow(output, &transcript, terminal)?;
        let machine = Machine { child, keyboard, console, monitor };
        if !unplugged.is_empty() {
            for nic in unplugged {
                machine.set_link(nic, false)?;
            }
            machine.qmp(r#"{"execute":"cont"}"#)?;
        }
        Ok(machine)
    }

    fn add_drives(&self, qemu: &mut Command) {
        for (index, drive) in self.drives.iter().enumerate() {
            let (kind, mode) = match drive.kind {
                Kind::Optical => ("cd", "readonly=on,media=cdrom"),
                Kind::Disk => ("hd", "snapshot=on"),
                Kind::Kept => ("hd", "cache=unsafe"),
            };
            let image = drive.image.display();
            qemu.arg("-drive").arg(format!("if=none,id=d{index},format=raw,{mode},file={image}"));
            match drive.bus {
                Bus::VirtioScsi => {
                    qemu.arg("-device").arg(format!("virtio-scsi-pci,id=s{index}"));
                    let device = format!("scsi-{kind},bus=s{index}.0,drive=d{index}");
                    qemu.arg("-device").arg(device);
                }
                Bus::VirtioBlk => {
                    qemu.arg("-device").arg(format!("virtio-blk-pci,drive=d{index}"));
                }
                Bus::Ahci => {
                    let device = format!("ide-{kind},bus=ide.{index},drive=d{index}");
                    qemu.arg("-device").arg(device);
                }
                Bus::Nvme => {
                    qemu.arg("-device").arg(format!("nvme,serial=lab{index},drive=d{index}"));
                }
            }
        }
    }

    fn add_nics(&self, qemu: &mut Command) -> Result<()> {
        let Some(namespace) = self.namespace else {
            return Ok(());
        };
        for (index, nic) in self.nics.iter().enumerate() {
            let tap = format!("tap{}x{index}", self.number);
            namespace.tap(&tap, &nic.bridge)?;
            let netdev = format!("tap,id=n{index},ifname={tap},script=no,downscript=no");
            qemu.arg("-netdev").arg(netdev);
            let mac = nic.mac.clone().unwrap_or_else(|| mac_of(self.number, index));
            let device = format!(
                "{},id=nic{index},netdev=n{index},mac={mac},bootindex={}",
                nic.model,
                index + 1
            );
            qemu.arg("-device").arg(device);
        }
        Ok(())
    }
}

/// A machine on QEMU's own network, which gives it an address and the name of what its
/// card's ROM loads first. It needs no root. The host's loopback is
/// 10.0.2.2 there.
pub fn machine_of_anybody(directory: &Path, first: &str) -> MachineBuilder<'static> {
    MachineBuilder::new(None, directory, 0).qemu(&[
        "-netdev",
        &format!("user,id=n0,bootfile={first}"),
        "-device",
        "virtio-net-pci,netdev=n0,bootindex=1",
    ])
}

/// The address of card `index` of machine `number` unless it has its own.
pub fn mac_of(number: usize, index: usize) -> String {
    format!("52:54:00:77:{number:02x}:{index:02x}")
}

/// A running machine. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    keyboard: ChildStdin,
    console: Console,
    monitor: PathBuf,
}

impl Machine {
    /// Waits until the console shows `wanted` (literally) after what was expected
    /// before; returns the text up to and with it.
    ///
    /// # Errors
    /// [`Error::Timeout`], or [`Error::Machine`] at once when the kernel panics or
    /// the machine ends.
    pub fn expect(&self, wanted: &str, limit: Duration) -> Result<String> {
        self.console.expect(&[wanted], limit).map(|(_, text)| text)
    }

    /// As [`Machine::expect`] for the first of several; returns its index too.
    ///
    /// # Errors
    /// As [`Machine::expect`].
    pub fn expect_any(&self, wanted: &[&str], limit: Duration) -> Result<(usize, String)> {
        self.console.expect(wanted, limit)
    }

    /// Types a line.
    ///
    /// # Errors
    /// [`Error::Io`] when the machine is gone.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n").as_bytes())
    }

    /// Types bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when the machine is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.keyboard.write_all(bytes).and_then(|()| self.keyboard.flush());
        sent.map_err(Error::io("type on the console"))
    }

    /// Waits for the login prompt and logs in as root, into a shell that prints
    /// nothing but what commands print. Our init's failure screen ends the wait.
    ///
    /// # Errors
    /// As [`Machine::expect`].
    pub fn login(&mut self, limit: Duration) -> Result<()> {
        self.wait_unless_failed("login:", limit)?;
        self.send_line("root")?;
        self.expect("root@", limit)?;
        self.quiet_shell()
    }

    /// Waits for the shell that is the live system's first program (`init=/bin/sh`):
    /// the root as our init left it, without the minute of a whole system's start.
    ///
    /// # Errors
    /// As [`Machine::login`].
    pub fn shell(&mut self, limit: Duration) -> Result<()> {
        self.wait_unless_failed("bellwether: ready in", limit)?;
        self.at_shell()
    }

    /// Waits for the shell of a machine that has said that it is ready.
    pub(crate) fn at_shell(&mut self) -> Result<()> {
        self.expect("# ", Duration::from_secs(60))?;
        self.quiet_shell()
    }

    /// The longest time without a line on the console so far, in seconds; what follows the
    /// last line does not count.
    pub(crate) fn longest_silence(&self) -> u64 {
        self.console.longest_silence().as_secs()
    }

    /// Restarts a machine that is at a shell, at once and with everything written,
    /// and waits for the shell again.
    ///
    /// # Errors
    /// As [`Machine::shell`].
    pub fn restart(&mut self, limit: Duration) -> Result<()> {
        self.send_line("sync; echo b >/proc/sysrq-trigger")?;
        self.expect("Linux version", limit)?;
        self.shell(limit)
    }

    /// From a prompt to a shell that prints nothing but what commands print.
    fn quiet_shell(&mut self) -> Result<()> {
        // The words are split so that their echo is not taken for their output.
        // The terminal as a script: a shell at a prompt changes the terminal's mode
        // between lines, and what arrives in that moment can end its input.
        let quiet = "dmesg -n 1; stty -echo; echo shell is'' ready; exec sh /proc/self/fd/0";
        self.send_line(quiet)?;
        self.expect("shell is ready\n", Duration::from_secs(60)).map(drop)
    }

    /// Waits for `wanted`; our init's failure screen ends the wait.
    fn wait_unless_failed(&self, wanted: &str, limit: Duration) -> Result<()> {
        const FAILED: &str = "bellwether: FAILED:";
        if self.expect_any(&[wanted, FAILED], limit)?.0 == 0 {
            return Ok(());
        }
        let reason = self.expect("\n", Duration::from_secs(5))?;
        // The rest of the screen belongs to the report; without its end, what there is does.
        let _ = self.expect("keys: ", Duration::from_secs(5));
        Err(Error::Machine {
            waiting: format!("{wanted:?}"),
            instead: format!("{FAILED}{}", reason.trim_end()),
            tail: shell::last_lines(&self.transcript(), 40),
        })
    }

    /// Runs a shell command on a machine that is logged in; returns its output.
    ///
    /// # Errors
    /// [`Error::Machine`] when it fails, else as [`Machine::expect`].
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.send_line(&format!("{{ {command}\n}} 2>&1; echo \"[rc:$?]\""))?;
        let text = self.expect("[rc:", Duration::from_secs(60))?;
        let code = self.expect("]", Duration::from_secs(10))?;
        let output = text.trim_end_matches("[rc:").trim_start_matches('\n').to_owned();
        if code == "0]" {
            return Ok(output);
        }
        Err(Error::Machine {
            waiting: format!("`{command}`"),
            instead: format!("exit code {}", code.trim_end_matches(']')),
            tail: output,
        })
    }

    /// Everything on the console so far.
    pub fn transcript(&self) -> String {
        self.console.text()
    }

    /// Waits until the machine has powered off.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        self.console.wait_closed(limit)
    }

    /// Plugs the cable of card `nic` in or out.
    ///
    /// # Errors
    /// [`Error::Io`] when QEMU's monitor does not answer.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        self.qmp(&format!(
            r#"{{"execute":"set_link","arguments":{{"name":"nic{nic}","up":{up}}}}}"#
        ))
        .map(drop)
    }

    /// Plugs a disk in that was left out by [`MachineBuilder::later_disk`].
    ///
    /// # Errors
    /// [`Error::Input`] when there is none, [`Error::Io`] when QEMU's monitor does not
    /// answer.
    pub fn plug_disk(&self) -> Result<()> {
        self.qmp(
            r#"{"execute":"device_add","arguments":{"driver":"scsi-hd","bus":"later.0","drive":"later"}}"#,
        )
        .map(drop)
    }

    /// Waits until a machine that was started with `-no-shutdown` has powered off: QEMU
    /// still answers then, and its counters stand still.
    ///
    /// # Errors
    /// As [`until`](crate::until).
    pub(crate) fn wait_stopped(&self, limit: Duration) -> Result<()> {
        crate::until("the machine powers off", limit, || {
            Ok(self.qmp(r#"{"execute":"query-status"}"#)?.contains("\"shutdown\""))
        })
    }

    /// How many bytes it has read from its first drive so far; none when it has no drive.
    ///
    /// # Errors
    /// [`Error::Io`] when QEMU's monitor does not answer.
    pub(crate) fn read_bytes(&self) -> Result<u64> {
        const ASK: &str =
            r#"{"execute":"human-monitor-command","arguments":{"command-line":"info blockstats"}}"#;
        let answer = self.qmp(ASK)?;
        let counted = answer.split_once("d0: rd_bytes=").map(|(_, rest)| rest);
        let digits = counted.and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(digits.unwrap_or_default())
    }

    /// The most memory that QEMU ever had for it, in KiB: what the machine has touched, and what
    /// QEMU needs itself.
    ///
    /// # Errors
    /// [`Error::Input`] when the kernel does not say.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        // In a lab it is a child of what entered the namespaces.
        let mut pid = self.child.id().to_string();
        while let Ok(children) = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            && let Some(child) = children.split_whitespace().next()
        {
            pid = child.to_owned();
        }
        let place = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&place).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok());
        peak.ok_or_else(|| Error::Input(format!("no VmHWM in {place}")))
    }

    /// One command to QEMU's monitor (QEMU Machine Protocol); returns the answer.
    fn qmp(&self, command: &str) -> Result<String> {
        let doing = || Error::io("talk to QEMU's monitor");
        let end = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(&self.monitor) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(doing()(error)),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut writer = stream.try_clone().map_err(doing())?;
        let mut lines = BufReader::new(stream).lines();
        let mut answer = || -> Result<String> {
            loop {
                match lines.next() {
                    Some(line) => match line.map_err(doing())? {
                        event if event.contains("\"event\"") => {}
                        line => return Ok(line),
                    },
                    None => return Err(Error::Input("QEMU closed its monitor".into())),
                }
            }
        };
        let mut last = answer()?;
        for line in [r#"{"execute":"qmp_capabilities"}"#, command] {
            writeln!(writer, "{line}").map_err(doing())?;
            last = answer()?;
            if last.contains("\"error\"") {
                return Err(Error::Input(format!("QEMU refuses {command}: {last}")));
            }
        }
        Ok(last)
    }

    /// The keyboard, for a terminal that takes over.
    ///
    /// # Errors
    /// [`Error::Io`] when the handle cannot be duplicated.
    pub fn keyboard(&self) -> Result<impl Write + Send + use<>> {
        use std::os::fd::AsFd;
        let fd = self.keyboard.as_fd().try_clone_to_owned();
        fd.map(std::fs::File::from).map_err(Error::io("share the keyboard"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}
