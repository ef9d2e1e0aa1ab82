//! `bellwether try`: boots something in QEMU as a client would be booted, with
//! the serial console on this terminal.

use crate::args::{self, Bus, Try};
use crate::failure::Failure;
use crate::interrupted;
use cpio_builder::error::Error;
use cpio_builder::tools::{Tool, Workplace};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };

/// UEFI firmware and its empty variables, where distributions have them.
const OVMF: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
];

/// Network boot ROMs of QEMU's virtio card.
const ROMS: &[&str] = &[
    "/usr/lib/ipxe/qemu/efi-virtio.rom",
    "/usr/share/qemu/efi-virtio.rom",
    "/usr/share/ipxe/qemu/efi-virtio.rom",
    "/usr/share/qemu/pxe-virtio.rom",
];

/// Memory in MiB, unless it is chosen.
const MEMORY: u32 = 1024;

/// What a file is to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Iso,
    Raw,
    Qcow2,
}

fn medium(path: &Path) -> Result<Medium, Failure> {
    let mut head = Vec::new();
    let fail = |source| Error::Read { path: path.into(), source };
    File::open(path).and_then(|f| f.take(16 * 2048 + 6).read_to_end(&mut head)).map_err(fail)?;
    Ok(match () {
        () if head.starts_with(b"QFI\xfb") => Medium::Qcow2,
        () if head.get(16 * 2048 + 1..) == Some(b"CD001") => Medium::Iso,
        () => Medium::Raw,
    })
}

/// QEMU's options split at commas; a comma in a name is written twice.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The words for QEMU, without its name.
struct Words {
    list: Vec<String>,
    drives: usize,
    scsi: bool,
    usb: bool,
}

impl Words {
    fn add<const N: usize>(&mut self, words: [&str; N]) {
        self.list.extend(words.map(str::to_owned));
    }

    /// Attaches a file. `boot` is its place in the firmware's order.
    fn drive(&mut self, path: &Path, bus: Bus, medium: Medium, throwaway: bool, boot: usize) {
        let id = format!("d{}", self.drives);
        self.drives += 1;
        let optical = medium == Medium::Iso && matches!(bus, Bus::Virtio | Bus::Sata);
        let format = if medium == Medium::Qcow2 { "qcow2" } else { "raw" };
        let how = match (optical, medium, throwaway) {
            (true, ..) => ",media=cdrom,readonly=on",
            (_, Medium::Iso, _) | (.., true) => ",snapshot=on",
            _ => "",
        };
        self.add([
            "-drive",
            &format!("file={},if=none,id={id},format={format}{how}", escaped(path)),
        ]);
        if optical && bus == Bus::Virtio && !std::mem::replace(&mut self.scsi, true) {
            self.add(["-device", "virtio-scsi-pci"]);
        }
        if bus == Bus::Usb && !std::mem::replace(&mut self.usb, true) {
            self.add(["-device", "qemu-xhci"]);
        }
        let device = match (bus, optical) {
            (Bus::Virtio, true) => "scsi-cd".to_owned(),
            (Bus::Virtio, false) => "virtio-blk-pci".to_owned(),
            (Bus::Sata, true) => "ide-cd".to_owned(),
            (Bus::Sata, false) => "ide-hd".to_owned(),
            (Bus::Usb, _) => "usb-storage".to_owned(),
            (Bus::Nvme, _) => format!("nvme,serial={id}"),
        };
        self.add(["-device", &format!("{device},drive={id},bootindex={boot}")]);
    }
}

/// Whether KVM works here, asked of QEMU itself: the device may be there and
/// of no use.
fn kvm_works(qemu: &Path) -> bool {
    let probe = Command::new(qemu)
        .args(["-machine", "q35,accel=kvm", "-nodefaults", "-display", "none", "-S"])
        .args(["-monitor", "stdio", "-serial", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut probe) = probe else { return false };
    if let Some(mut input) = probe.stdin.take() {
        let _ = std::io::Write::write_all(&mut input, b"quit\n");
    }
    probe.wait().is_ok_and(|status| status.success())
}

/// Refuses options that say nothing to boot, or contradict each other.
fn check(what: &Try) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(format!("{text}; see 'bellwether try --help'")));
    let ways = usize::from(what.kernel.is_some()) + usize::from(what.pxe.is_some());
    if ways > 1 || (what.pxe.is_some() && what.medium.is_some()) {
        return usage("boot from one of: a medium, --kernel, --pxe");
    }
    if ways == 0 && what.medium.is_none() {
        return usage("nothing to boot: give an ISO or a disk image, --kernel or --pxe");
    }
    if what.kernel.is_none() && (what.initrd.is_some() || what.append.is_some()) {
        return usage("--initrd and --append go with --kernel");
    }
    Ok(())
}

/// The command line that a machine is started with, of options that [`check`] let pass.
fn words(what: &Try, kvm: bool, work: &Workplace) -> Result<Vec<String>, Failure> {
    let mut words = Words { list: Vec::new(), drives: 0, scsi: false, usb: false };
    // String instructions with fast-path microcode are slow when emulated.
    let (accel, cpu) = if kvm { ("kvm", "host") } else { ("tcg", "max,-erms,-fsrm") };
    words.add(["-machine", &format!("q35,accel={accel}"), "-cpu", cpu, "-no-reboot"]);
    words.add(["-m", &what.memory.unwrap_or(MEMORY).to_string(), "-smp", "2"]);
    if what.window {
        words.add(["-serial", "mon:stdio"]);
    } else {
        words.add(["-nographic"]);
    }
    // A boot without randomness waits for it.
    words.add(["-device", "virtio-rng-pci"]);
    if what.uefi {
        let there =
            OVMF.iter().find(|(code, vars)| Path::new(code).exists() && Path::new(vars).exists());
        let missing =
            Error::NoTool { what: "UEFI firmware for QEMU (OVMF)".into(), package: "ovmf" };
        let (code, vars) = there.ok_or(missing)?;
        let own = work.join("vars.fd");
        fs::copy(vars, &own).map_err(Error::write(&own))?;
        words.add(["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
        words.add(["-drive", &format!("if=pflash,format=raw,file={}", escaped(&own))]);
    }
    let bus = what.bus.unwrap_or_default();
    if let Some(path) = &what.medium {
        words.drive(path, bus, medium(path)?, !what.write, 1);
    }
    for (n, disk) in what.disk.iter().enumerate() {
        let (path, scratch) = match parse_size(disk) {
            Some(bytes) => {
                let path = work.join(&format!("disk{n}"));
                let made = File::create(&path).and_then(|file| file.set_len(bytes));
                made.map_err(Error::write(&path))?;
                (path, true)
            }
            None => (PathBuf::from(disk), false),
        };
        // A second ISO is a medium, too; what is not scratch is written.
        let kind = if scratch { Medium::Raw } else { medium(&path)? };
        words.drive(&path, bus, kind, false, 2 + n);
    }
    if let Some(kernel) = &what.kernel {
        for path in [Some(kernel), what.initrd.as_ref()].into_iter().flatten() {
            fs::metadata(path).map_err(Error::read(&path))?;
        }
        words.add(["-kernel", &kernel.to_string_lossy()]);
        if let Some(initrd) = &what.initrd {
            words.add(["-initrd", &initrd.to_string_lossy()]);
        }
        let mut append = what.append.clone().unwrap_or_default();
        if !what.window && !append.contains("console=") {
            append = format!("console=ttyS0 {append}");
        }
        words.add(["-append", append.trim_end()]);
    }
    let net = match (&what.bridge, &what.pxe) {
        (Some(bridge), _) => format!("bridge,id=n0,br={bridge}"),
        (None, None) => "user,id=n0".to_owned(),
        (None, Some(dir)) => {
            let file = if what.uefi { "bootx64.efi" } else { "pxelinux.0" };
            if !dir.join(file).exists() {
                return Err(Failure::Failed(format!(
                    "{} has no {file}; make the directory with 'bellwether pxe'",
                    dir.display()
                )));
            }
            if !ROMS.iter().any(|rom| Path::new(rom).exists()) {
                let rom = "a network boot ROM for QEMU's card";
                return Err(Error::NoTool { what: rom.into(), package: "ipxe-qemu" }.into());
            }
            let dir = fs::canonicalize(dir).map_err(Error::read(&dir))?;
            format!("user,id=n0,tftp={},bootfile={file}", escaped(&dir))
        }
    };
    let order = if what.pxe.is_some() { ",bootindex=0" } else { "" };
    words.add(["-netdev", &net, "-device", &format!("virtio-net-pci,netdev=n0{order}")]);
    for extra in &what.qemu {
        words.list.extend(extra.split_whitespace().map(str::to_owned));
    }
    Ok(words.list)
}

/// A size like `10G`; a file's name is none.
fn parse_size(text: &str) -> Option<u64> {
    args::bytes(text).ok()
}

/// Runs the subcommand. The exit status is QEMU's: 0 when the machine was
/// switched off or rebooted itself.
pub fn run(what: &Try) -> Result<(), Failure> {
    check(what)?;
    let qemu = QEMU.find()?;
    interrupted::expect()?;
    let work = Workplace::new(&std::env::temp_dir().join("bellwether-try"))?;
    let kvm = !what.emulate && kvm_works(&qemu);
    let words = words(what, kvm, &work)?;
    if what.dry_run {
        let shown: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
        println!("{} {}", qemu.display(), shown.join(" "));
        return Ok(());
    }
    eprintln!(
        "bellwether: a {} machine with {} MiB {}; Ctrl-A X switches it off",
        if what.uefi { "UEFI" } else { "BIOS" },
        what.memory.unwrap_or(MEMORY),
        if kvm { "by KVM" } else { "emulated: KVM does not work here, this is slow" }
    );
    let ended = Command::new(&qemu).args(&words).status();
    let ended =
        ended.map_err(|e| Failure::Failed(format!("{} does not start: {e}", qemu.display())))?;
    match ended.code() {
        Some(0) => Ok(()),
        // KVM may start and fail with the first instruction, as within another machine.
        _ if kvm => Err(Failure::Failed(format!(
            "QEMU ended with {ended}; if KVM is the reason, --emulate does without it"
        ))),
        _ => Err(Failure::Failed(format!("QEMU ended with {ended}"))),
    }
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => p2v::script::quoted(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &Try) -> Result<String, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let work = Workplace::new(&dir.path().join("w")).unwrap();
        check(what)?;
        words(what, false, &work).map(|words| words.join(" "))
    }

    #[test]
    fn an_iso_is_a_disc_and_a_stick() {
        let dir = tempfile::tempdir().unwrap();
        let iso = dir.path().join("a,b.iso");
        let mut bytes = vec![0; 16 * 2048 + 6];
        bytes[16 * 2048 + 1..].copy_from_slice(b"CD001");
        fs::write(&iso, bytes).unwrap();
        let mut what = Try { medium: Some(iso), ..Try::default() };
        let disc = line(&what).unwrap();
        assert!(
            disc.contains("a,,b.iso,if=none,id=d0,format=raw,media=cdrom,readonly=on"),
            "{disc}"
        );
        assert!(
            disc.contains("scsi-cd,drive=d0,bootindex=1")
                && disc.contains("accel=tcg -cpu max,-erms,-fsrm")
        );
        what.bus = Some(Bus::Usb);
        what.disk = vec!["64M".into()];
        let stick = line(&what).unwrap();
        assert!(
            stick.contains("usb-storage,drive=d0,bootindex=1") && stick.contains("snapshot=on"),
            "{stick}"
        );
        assert!(stick.contains("usb-storage,drive=d1,bootindex=2"));
        assert_eq!(stick.matches("qemu-xhci").count(), 1);
    }

    #[test]
    fn a_kernel_gets_a_console() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("k");
        fs::write(&kernel, "").unwrap();
        let mut what = Try { kernel: Some(kernel), append: Some("quiet".into()), ..Try::default() };
        assert!(line(&what).unwrap().contains("-append console=ttyS0 quiet"));
        what.append = Some("console=tty0".into());
        assert!(line(&what).unwrap().contains("-append console=tty0"));
        what.initrd = Some("/no/such".into());
        assert!(matches!(line(&what), Err(Failure::Failed(_))));
        for what in [
            Try::default(),
            Try { append: Some("x".into()), medium: Some("x".into()), ..Try::default() },
        ] {
            assert!(matches!(line(&what), Err(Failure::Usage(_))));
        }
        let what = Try { pxe: Some(dir.path().into()), ..Try::default() };
        assert!(
            matches!(line(&what), Err(Failure::Failed(told)) if told.contains("bellwether pxe"))
        );
    }
}
