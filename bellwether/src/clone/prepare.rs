//! `prepare`: what a copy needs to know of the golden machine; and `ka-d`, which
//! sends that and the machine's files to all machines that wait.

use super::copying;
use super::desc;
use super::flags::{Flag, Given, Program, QUIET, STALLED, flag};
use super::ka;
use super::layout::{FILE, Layout, Part};
use super::report::{self, Machine, PXELINUX};
use crate::failure::Failure;
use clone::edge::Order;
use clone::ka::desc::{Desc, Size, read_table};
use clone::outcome::{Client, Patience, total};
use p2v::script::quoted;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const CLIENTS: Flag = flag("clients", Some('n'), Some("N"), "begin when so many are there");
const ROOT: Flag = flag("root", None, Some("DIR"), "where the golden machine's / is mounted [/]");
const LEAVE_OUT: Flag = flag("", Some('x'), Some("A|B"), "leave out these directories");
const TIMEOUT: Flag =
    flag("timeout", Some('T'), Some("S"), "give up when not all are there after so long");
const FINISH: Flag = flag("finish", None, Some("S"), "machines may take so long to finish [1800]");
const DRY_RUN: Flag = flag("dry-run", None, None, "say what would be sent, and to how many");

/// The grammar of `prepare`.
pub static PREPARE: Program = Program {
    name: "prepare",
    about: "Writes down a golden machine's disk, for ka-d.",
    rest: "DISK",
    example: "bellwether clone prepare /dev/sda --root /mnt --out golden",
    flags: &[
        ROOT,
        flag("out", Some('o'), Some("DIR"), "the directory to make [golden]"),
        flag("grow", None, Some("N"), "this partition takes what larger disks have [that of /]"),
        flag("dry-run", None, None, "only show it"),
    ],
};

/// The golden machine's users and groups, by their names.
pub const NAMES: [&str; 2] = ["passwd", "group"];

/// The grammar of `ka-d`.
pub static KA_D: Program = Program {
    name: "ka-d",
    about: "Makes machines that boot with kamethod copies of this one.",
    rest: "",
    example: "bellwether clone ka-d -n 3 -w golden --root /mnt",
    flags: &[
        CLIENTS,
        flag("work", Some('w'), Some("DIR"), "what prepare has written [golden]"),
        ROOT,
        LEAVE_OUT,
        TIMEOUT,
        FINISH,
        PXELINUX,
        QUIET,
        DRY_RUN,
    ],
};

/// The grammar of `ka-d.sh`, as the old script took its arguments.
pub static KA_D_SH: Program = Program {
    name: "ka-d.sh",
    about: "The same in the old script's words: prepare and ka-d in one.",
    rest: "DESC",
    example: "bellwether clone ka-d.sh -r lilo -n 3 -p sda desc -x /tmp",
    flags: &[
        CLIENTS,
        flag("", Some('p'), Some("DISK"), "the disk, as sda; DESC behind it has the sizes"),
        flag("", Some('r'), Some("NAME"), "accepted: copies get the boot loader that they have"),
        ROOT,
        LEAVE_OUT,
        TIMEOUT,
        FINISH,
        PXELINUX,
        QUIET,
        DRY_RUN,
    ],
};

/// The grammar of `ka-d-session`.
pub static SESSION: Program = Program {
    name: "ka-d-session",
    about: "Sends a directory to machines that boot with method:ka, as their second stage.",
    rest: "",
    example: "DATA_PATH=/mnt/ka bellwether clone ka-d-session -n 4",
    flags: &[
        CLIENTS,
        flag("session", Some('s'), Some("NAME"), "kaopt= of the machines' line [getstage2]"),
        flag("data", None, Some("DIR"), "the directory [DATA_PATH, or else /mnt/ka]"),
        TIMEOUT,
        QUIET,
        DRY_RUN,
    ],
};

/// Sends one directory.
pub fn session(given: &Given) -> Result<(), Failure> {
    let clients = given.clients("ka-d-session")?;
    let data = given.get("data").map(str::to_owned);
    let data = data.or_else(|| std::env::var("DATA_PATH").ok());
    let data = data.unwrap_or_else(|| "/mnt/ka".to_owned());
    if !Path::new(&data).is_dir() {
        return Err(Failure::Failed(format!("{data}: there is no such directory")));
    }
    if !Path::new(&data).join("ka").is_dir() {
        eprintln!("ka-d-session: {data} has no directory ka: Mandriva's own stage 1 refuses it");
    }
    // Holes are written out: not every second stage is unpacked by GNU tar.
    let command =
        format!("tar --create --one-file-system --numeric-owner -C {} -f - .", quoted(&data));
    let name = given.get("session").unwrap_or("getstage2");
    if given.has("dry-run") {
        println!("{name} to {clients} machines: {command}");
        return Ok(());
    }
    let (session, mut host) = ka::session(name, clients, command, given);
    let here = copying::patient(given)?;
    copying::send(&session, &Order::of(&here), given, &mut host)
}

/// A command's output.
pub fn output(words: &[&str]) -> Result<String, Failure> {
    let (program, args) = words.split_first().ok_or_else(|| Failure::Failed(String::new()))?;
    let out = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| Failure::Failed(format!("{program}: {e}")))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(Failure::Failed(format!("{}: {why}", words.join(" "))));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What low-level probing finds at an offset of the disk: the partition may have
/// no device of its own.
fn probe(disk: &str, start: u64, sectors: u64) -> Vec<(String, String)> {
    let (offset, size) = ((start * 512).to_string(), (sectors * 512).to_string());
    let words = ["blkid", "-p", "-o", "export", "-O", &offset, "-S", &size, disk];
    let text = output(&words).unwrap_or_default();
    let pairs = text.lines().filter_map(|l| l.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.replace('\\', ""))).collect()
}

/// sfdisk's dump, with what each partition holds.
pub fn survey(disk: &str) -> Result<Layout, Failure> {
    let dump = output(&["sfdisk", "-d", disk])?;
    let mut layout = Layout { disk: disk.to_owned(), ..Layout::default() };
    // Of 512 bytes in a sector, as sfdisk counts them.
    let mut units = 1;
    for line in dump.lines() {
        if let Some(label) = line.strip_prefix("label: ") {
            layout.table = label.trim().to_owned();
        }
        if let Some(size) = line.strip_prefix("sector-size: ") {
            units = size.trim().parse().unwrap_or(512) / 512;
        }
        let Some((device, fields)) = line.split_once(" : ") else { continue };
        let digits = device.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        let number = device.trim_end().get(digits.len()..).unwrap_or_default();
        let field = |name: &str| {
            fields.split(',').find_map(|f| {
                let (key, value) = f.split_once('=')?;
                (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let sectors = |name| field(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) * units;
        let (start, size) = (sectors("start"), sectors("size"));
        let mut part = Part {
            number: number.parse().unwrap_or(0),
            size: Some((size / 2048).max(1)),
            start,
            kind: field("type").unwrap_or_default(),
            boot: fields.split(',').any(|f| f.trim() == "bootable"),
            partuuid: field("uuid").unwrap_or_default().to_lowercase(),
            ..Part::default()
        };
        if part.extended() && layout.table == "dos" {
            part.size = None;
        } else {
            let found = probe(disk, start, size);
            let get = |key: &str| {
                found.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default()
            };
            (part.fs, part.label, part.uuid) = (get("TYPE"), get("LABEL"), get("UUID"));
        }
        layout.parts.push(part);
    }
    Ok(layout)
}

/// What a file system table says of the disk's partitions. A text that is read back:
/// what a copy could not be made from is found here.
pub fn with_mounts(mut layout: Layout, fstab: &str, grow: Option<u32>) -> Result<Layout, Failure> {
    for part in &mut layout.parts {
        let device = part.device(&layout.disk);
        for entry in fstab.lines().filter(|l| !l.trim_start().starts_with('#')) {
            let mut words = entry.split_ascii_whitespace();
            let (Some(what), Some(place)) = (words.next(), words.next()) else { continue };
            let value = |tag: &str| what.strip_prefix(tag).map(|v| v.trim_matches('"'));
            let same = what == device
                || value("UUID=").is_some_and(|v| v == part.uuid)
                || value("LABEL=").is_some_and(|v| v == part.label)
                || value("PARTUUID=").is_some_and(|v| v.to_lowercase() == part.partuuid);
            if !same || !place.starts_with('/') {
                continue;
            }
            if words.nth(1).is_some_and(|options| options.contains("subvol")) {
                return Err(Failure::Failed(format!(
                    "{device}: {place} is a subvolume of btrfs, which copies of files do not \
                     have; copy the whole disk (dolly, dollyS, udp-sender)"
                )));
            }
            part.mount = place.to_owned();
        }
    }
    let root = layout.parts.iter().find(|p| p.mount == "/").map(|p| p.number);
    let grow = grow.or(root);
    for part in layout.parts.iter_mut().filter(|p| Some(p.number) == grow) {
        part.size = None;
    }
    Layout::parse(&layout.text())
}

/// Writes it down.
pub fn prepare(given: &Given) -> Result<(), Failure> {
    let [disk] = given.rest.as_slice() else {
        return Err(Failure::Usage("prepare: needs one disk, as /dev/sda".to_owned()));
    };
    let root = given.get("root").unwrap_or("/");
    let layout = with_mounts(survey(disk)?, &fstab(root)?, given.parsed("grow")?)?;
    print!("{}", layout.text());
    for part in layout.parts.iter().filter(|p| p.fs.is_empty() && !p.extended()) {
        println!("# partition {} holds nothing that is copied", part.number);
    }
    if given.has("dry-run") {
        return Ok(());
    }
    let out = Path::new(given.get("out").unwrap_or("golden"));
    write_down(&layout, root, out)?;
    println!("# written to {}; look at it, then: ka-d -n N -w {0}", out.display());
    Ok(())
}

/// The golden machine's file system table.
fn fstab(root: &str) -> Result<String, Failure> {
    let path = format!("{root}/etc/fstab");
    fs::read_to_string(&path).map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))
}

/// What machines are told of the golden one, in a directory.
fn write_down(layout: &Layout, root: &str, out: &Path) -> Result<(), Failure> {
    let disk = &layout.disk;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::create_dir_all(out)
            .and_then(|()| fs::write(&path, text))
            .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
    };
    write(FILE, &layout.text())?;
    // Access control lists in archives name users and groups.
    for name in NAMES {
        let path = format!("{root}/etc/{name}");
        let text = fs::read_to_string(&path).unwrap_or_default();
        write(name, &text)?;
    }
    // For old clients, where their formats can say it.
    let file = fs::File::open(disk).map_err(|e| Failure::Failed(format!("{disk}: {e}")))?;
    let mut read = |at: u64, buffer: &mut [u8]| file.read_at(buffer, at).unwrap_or(0);
    if let Ok((desc, _)) = read_table(&mut read).and_then(|t| Desc::of_disk(&t)) {
        write("desc", &desc.text())?;
    }
    let mut pfstab = String::new();
    for part in &layout.parts {
        let place = if part.fs == "swap" { "swap" } else { &part.mount };
        if !place.is_empty() {
            pfstab += &format!("{} {place} {} defaults 0 0\n", part.device(disk), part.fs);
        }
    }
    write("pfstab", &pfstab)
}

/// The sizes of a description that was given, in the place of the disk's own.
fn with_sizes(mut layout: Layout, desc: &Desc) -> Result<Layout, Failure> {
    let (mut primary, mut logical) = (1, 5);
    let numbers = desc.0.iter().map(|entry| {
        let next = if entry.logical { &mut logical } else { &mut primary };
        let number = *next;
        *next += 1;
        (number, entry.size)
    });
    let sizes: Vec<(u32, Size)> = numbers.collect();
    let differs = |what: String| Err(Failure::Failed(what));
    if let Some((number, _)) =
        sizes.iter().find(|(n, _)| layout.parts.iter().all(|p| p.number != *n))
    {
        return differs(format!("the desc has a partition {number}, and {} has none", layout.disk));
    }
    for part in &mut layout.parts {
        match sizes.iter().find(|(number, _)| *number == part.number) {
            Some((_, Size::Mib(mib))) if !part.extended() => part.size = Some(*mib),
            Some(_) => part.size = None,
            None => {
                let (number, disk) = (part.number, &layout.disk);
                return differs(format!("{disk} has a partition {number}, and the desc has none"));
            }
        }
    }
    Layout::parse(&layout.text())
}

/// The old script: writes down the disk with the sizes of `DESC`, and sends everything.
pub fn old_script(given: &Given) -> Result<(), Failure> {
    let [path] = given.rest.as_slice() else {
        return Err(Failure::Usage(
            "ka-d.sh: -p DISK DESC: the desc is missing; fdisk_to_desc makes it".to_owned(),
        ));
    };
    let disk = given.get("p").ok_or_else(|| {
        Failure::Usage("ka-d.sh: -p DISK DESC says which disk, as -p sda desc".to_owned())
    })?;
    let disk = if disk.starts_with('/') { disk.to_owned() } else { format!("/dev/{disk}") };
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))?;
    let desc = desc::checked(path, &text)?;
    let root = given.get("root").unwrap_or("/");
    let layout = with_sizes(with_mounts(survey(&disk)?, &fstab(root)?, None)?, &desc)?;
    if let Some(loader) = given.get("r") {
        println!("# -r {loader}: every copy gets the boot loader that is installed in it");
    }
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let work = std::env::temp_dir().join(format!("bellwether-ka-d-{}", random.trim()));
    let made = write_down(&layout, root, &work);
    let sent = made.and_then(|()| send_all(&work.to_string_lossy(), root, given));
    // What is left of it lies among temporary files.
    let _ = fs::remove_dir_all(&work);
    sent
}

/// Sends everything.
pub fn serve(given: &Given) -> Result<(), Failure> {
    send_all(given.get("work").unwrap_or("golden"), given.get("root").unwrap_or("/"), given)
}

/// Sends what [`write_down`] has written, and the files of the golden machine.
fn send_all(work: &str, root: &str, given: &Given) -> Result<(), Failure> {
    let clients = given.clients("ka-d")?;
    let path = format!("{work}/{FILE}");
    let text = fs::read_to_string(&path)
        .map_err(|e| Failure::Failed(format!("{path}: {e}; make it with prepare")))?;
    let layout = Layout::parse(&text)?;
    let first = format!("tar --create -C {} -f - .", quoted(work));
    let mut second = format!(
        "tar --create --one-file-system --sparse --numeric-owner --acls --xattrs \
         '--xattrs-include=*' -C {}",
        quoted(root)
    );
    for left_out in given.get("x").unwrap_or_default().split('|').filter(|x| !x.is_empty()) {
        second += &format!(" {}", quoted(&format!("--exclude=.{left_out}")));
    }
    second += " -f -";
    for part in layout.mounts() {
        second += &format!(" {}", quoted(&format!(".{}", part.mount.trim_end_matches('/'))));
    }
    if given.has("dry-run") {
        print!("{}", layout.text());
        println!("kainstall1 to {clients} machines: {first}\nkainstall2: {second}");
        return Ok(());
    }
    let start = given.seconds("timeout")?;
    let send = |name: &str, clients, command: String, start| {
        let (session, mut host) = ka::session(name, clients, command, given);
        let here = copying::here(Patience { start, stall: Some(STALLED) });
        copying::transfer(&session, &Order::of(&here), &mut host)
    };
    send("kainstall1", clients, first, start)?;
    let wait = Some(Duration::from_secs(600));
    let (sent, took) = send("kainstall2", clients, second, wait)?;
    let present = sent.clients.iter().filter(|c| c.standing.good()).count();
    if present == 0 {
        return Err(Failure::Failed("no machine has the files".to_owned()));
    }
    let wait = given.seconds("finish")?.or(Some(Duration::from_secs(1800)));
    let done = send("kafinished", present, "echo finished".to_owned(), wait);
    let done: Vec<Client> = done.map(|(done, _)| done.clients).unwrap_or_default();
    let mut machines: Vec<Machine> = sent.clients.iter().map(Machine::of).collect();
    for machine in &mut machines {
        let finished = done.iter().any(|c| c.name == machine.name && c.standing.good());
        machine.result += match finished {
            true => "; boots from its own disk",
            false if machine.good => "; did NOT finish",
            false => "",
        };
        machine.good = finished;
    }
    report::table(&machines, total(&sent.digests), took, given)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ka-d.sh -p sda desc`: the desc's sizes count, by KA's numbers.
    #[test]
    fn sizes_of_a_desc() {
        let text = "table dos\ndisk /dev/sda\npart 1 size=900 type=83 fs=ext4 mount=/ uuid=aa\n\
                    part 2 size=fill type=5\npart 5 size=99 type=82 fs=swap uuid=bb\n";
        let sized =
            |desc: &str| with_sizes(Layout::parse(text).unwrap(), &Desc::parse(desc).unwrap());
        let layout = sized("linux 3500\nextended fill\nlogical swap fill\n").unwrap();
        let sizes: Vec<_> = layout.parts.iter().map(|p| (p.number, p.size)).collect();
        assert_eq!(sizes, [(1, Some(3500)), (2, None), (5, None)]);
        let told = |desc: &str| match sized(desc) {
            Err(Failure::Failed(why)) => why,
            other => panic!("{other:?}"),
        };
        let short = told("linux 3500\nextended fill\n");
        assert!(short.contains("/dev/sda has a partition 5"), "{short}");
        let long = told("linux 1\nextended 9\nlogical swap 1\nlogical linux 2\n");
        assert!(long.contains("the desc has a partition 6"), "{long}");
    }

    #[test]
    fn what_is_mounted_where() {
        let text = "table gpt\ndisk /dev/sda\npart 1 size=900 type=L fs=btrfs mount=/ uuid=aa\n\
                    part 2 size=99 type=L fs=xfs uuid=bb\n";
        let golden = || Layout::parse(text).unwrap();
        let fstab = "# UUID=bb /old xfs\nUUID=aa / btrfs defaults 0 0\n/dev/sda2 /var xfs\n";
        let layout = with_mounts(golden(), fstab, None).unwrap();
        let seen: Vec<_> = layout.parts.iter().map(|p| (p.mount.as_str(), p.size)).collect();
        assert_eq!(seen, [("/", None), ("/var", Some(99))]);
        let fstab = "UUID=aa / btrfs subvol=@ 0 0\nUUID=aa /home btrfs subvol=@home 0 0\n";
        let refused = with_mounts(golden(), fstab, None);
        let Err(Failure::Failed(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("/dev/sda1: / is a subvolume"), "{why}");
    }
}
