//! The table of `cargo xtask bench clone`: a disk with one ext4, of which a part is in use, to
//! many machines with links of 1 Gbit/s, by four ways.
//!
//! What is in use is noise, which nothing compresses: the worst for the row with zstd, and what
//! makes the bytes on the wire the same in all rows. Copies go to files in memory, or beside the
//! golden disk when memory is too small for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu_tests::{Error, Result};

use crate::bench_room::{LINK_BYTES_PER_S, Room, hosts, noise};

/// A way to copy, and what it is in the table.
const WAYS: [(&str, &str); 5] = [
    ("room", "bellwether send"),
    ("cast", "bellwether send, by multicast"),
    ("dolly", "bellwether dolly, whole disk"),
    ("partclone", "partclone | zstd | udp-sender"),
    ("aria2", "aria2, a file of the used bytes"),
];

/// Where files of this run are.
struct Bench<'a> {
    ours: &'a Path,
    dir: PathBuf,
    /// Bytes of the file system's files.
    files: u64,
    /// Bytes that are in use of the disk, as our own map has them.
    used: u64,
}

/// What one copy took.
struct Row {
    took: Duration,
    cpu: f64,
    /// CPU seconds of all programs of this computer.
    busy: f64,
    /// Sent by the golden machine, and received by all others.
    sent: u64,
    came: u64,
}

/// Measures and prints the table.
pub fn run(ours: &Path, nodes: &[usize], only: Option<&str>, quick: bool) -> Result<()> {
    if let Some(only) = only.filter(|only| WAYS.iter().all(|way| way.0 != *only)) {
        let names = WAYS.map(|way| way.0).join(", ");
        return Err(Error::Input(format!("--only: '{only}' is none of {names}")));
    }
    let dir = std::env::temp_dir().join(format!("bench-disk-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
    let outcome = table(ours, &dir, nodes, only, quick);
    let _ = fs::remove_dir_all(&dir);
    outcome
}

fn table(ours: &Path, dir: &Path, nodes: &[usize], only: Option<&str>, quick: bool) -> Result<()> {
    let (size, files): (u64, u64) = if quick { (1 << 30, 192 << 20) } else { (8 << 30, 3 << 29) };
    let mut bench = Bench { ours, dir: dir.to_owned(), files, used: 0 };
    bench.golden(size)?;
    let floor = bench.used as f64 / LINK_BYTES_PER_S;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "A disk of {} MiB with {:.1} MB in use (ext4, noise); links of 1 Gbit/s; {cores} \
         processors for all machines.\nUsed bytes ÷ link rate: {floor:.2} s. CPU: all machines \
         together; a byte: of each machine's copy.",
        size >> 20,
        bench.used as f64 / 1e6,
    );
    println!(
        "{:<31}{:>6}{:>8}{:>8}{:>8}{:>11}{:>9}{:>10}  bound by",
        "", "nodes", "s", "× floor", "CPU s", "ns a byte", "sent MB", "each got"
    );
    for &n in nodes {
        for (way, title) in WAYS.iter().filter(|way| only.is_none_or(|only| only == way.0)) {
            let place = bench.place(n)?;
            let kept = place.display().to_string();
            let rows = bench.copy(way, n, &place);
            let rows = rows.inspect_err(|_| eprintln!("{title}, {n} nodes: copies in {kept}"));
            let _ = fs::remove_dir_all(&place);
            for (again, row) in rows?.iter().enumerate() {
                let title = if again > 0 { "  the same again" } else { title };
                bench.print(title, n, row, (floor, cores));
            }
        }
    }
    Ok(())
}

fn sh(script: &str) -> Result<String> {
    qemu_tests::assets::media::run(&["sh", "-ec", script])
}

/// CPU seconds that this computer has spent, by proc(5).
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // User, nice, system, idle, waiting, and interrupts.
    let at = |i: usize| ticks.get(i).copied().unwrap_or(0.0);
    (at(0) + at(1) + at(2) + at(5) + at(6)) / 100.0
}

impl Bench<'_> {
    fn disk(&self) -> String {
        self.dir.join("golden.disk").display().to_string()
    }

    /// The disk, a file of the bytes in use for aria2, and its torrent.
    fn golden(&mut self, size: u64) -> Result<()> {
        let (tree, disk) = (self.dir.join("tree"), self.disk());
        fs::create_dir_all(&tree).map_err(Error::at("create", &tree))?;
        let parts = 48;
        for part in 0..parts {
            noise(&tree.join(format!("file{part}")), self.files / parts)?;
        }
        sh(&format!(
            "truncate -s {size} {disk}; mkfs.ext4 -q -F -E lazy_itable_init=0 -d {} {disk}",
            tree.display()
        ))?;
        fs::remove_dir_all(&tree).map_err(Error::at("remove", &tree))?;
        let map = sh(&format!("{} clone map --json {disk}", self.ours.display()))?;
        let used = map.split_once("\"used\":").map(|(_, rest)| rest.trim_start());
        let digits: String =
            used.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        self.used = digits.parse().map_err(|_| Error::Input(format!("clone map: {map}")))?;
        noise(&self.dir.join("used"), self.used)?;
        let torrent = "import hashlib, sys\n\
            data, dir = open(sys.argv[1] + '/used', 'rb'), sys.argv[1]\n\
            pieces, size = b'', 0\n\
            while True:\n    piece = data.read(1 << 20)\n    if not piece: break\n    \
            size += len(piece)\n    pieces += hashlib.sha1(piece).digest()\n\
            text = lambda t: str(len(t)).encode() + b':' + t\n\
            info = b'd6:lengthi%de4:name4:used12:piece lengthi%de6:pieces%se' \
            % (size, 1 << 20, text(pieces))\n\
            open(dir + '/used.torrent', 'wb').write(b'd4:info' + info + b'e')\n";
        let script = self.dir.join("torrent.py");
        fs::write(&script, torrent).map_err(Error::at("write", &script))?;
        sh(&format!("python3 {} {}", script.display(), self.dir.display()))?;
        Ok(())
    }

    /// Where the copies go.
    fn place(&self, nodes: usize) -> Result<PathBuf> {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let words = free.and_then(|free| free.split_whitespace().next()?.parse::<u64>().ok());
        let fits = self.used * nodes as u64 * 3 / 2 < words.unwrap_or(0) * 1024;
        let base = if fits { Path::new("/dev/shm") } else { &self.dir };
        let place = base.join(format!("bench-copies-{}", std::process::id()));
        fs::create_dir_all(&place).map_err(Error::at("create", &place))?;
        if !fits {
            println!("({nodes} copies do not fit into memory: to {})", self.dir.display());
        }
        Ok(place)
    }

    /// The programs of this way at machine `i`, and at the golden one.
    fn programs(&self, way: &str, nodes: usize, place: &Path) -> (Vec<String>, String) {
        let (ours, disk, dir) = (self.ours.display(), self.disk(), self.dir.display());
        let all = 1..=nodes;
        let copy = |i: usize| place.join(format!("copy{i}")).display().to_string();
        match way {
            "room" | "cast" => (
                all.map(|i| format!("{ours} clone receive -q --from 10.77.0.1 {}", copy(i)))
                    .collect(),
                {
                    let bulk = if way == "cast" { "multicast" } else { "chain" };
                    format!("{ours} clone send -q -n {nodes} --bulk {bulk} {disk}")
                },
            ),
            "dolly" => {
                let hosts = hosts(nodes);
                (
                    all.map(|i| format!("{ours} clone dolly -q --target {}", copy(i))).collect(),
                    format!("{ours} clone dolly -q -s -I {disk} -O /dev/null -H {hosts}"),
                )
            }
            "partclone" => (
                all.map(|i| {
                    format!(
                        "udp-receiver --nokbd 2>/dev/null | zstd -dcq | partclone.ext4 -r -W -C \
                         -s - -o {} -L /dev/null 2>/dev/null",
                        copy(i)
                    )
                })
                .collect(),
                format!(
                    "partclone.ext4 -c -s {disk} -o - -L /dev/null 2>/dev/null | zstd -q -3 -T0 | \
                     udp-sender --nokbd --min-receivers {nodes} --max-wait 30 --full-duplex \
                     2>/dev/null"
                ),
            ),
            _ => (
                all.map(|i| {
                    let to = copy(i);
                    aria2(
                        &format!("mkdir -p {to}; cd {to}"),
                        &format!("{dir}/used.torrent"),
                        place,
                        nodes,
                        i,
                    )
                })
                .collect(),
                aria2(
                    &format!("cd {dir}"),
                    "used.torrent --check-integrity=false --bt-seed-unverified=true",
                    place,
                    nodes,
                    0,
                ),
            ),
        }
    }

    fn copy(&self, way: &str, nodes: usize, place: &Path) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        // Ours, and then onto the same copies again.
        for _ in 0..if matches!(way, "room" | "cast") { 2 } else { 1 } {
            let room = Room::new(nodes + 1, true)?;
            let (receivers, golden) = self.programs(way, nodes, place);
            let before = busy();
            let (took, cpu) = room.run(way, &receivers, &golden)?;
            let (sent, _) = room.wire(0);
            let came = (1..=nodes).map(|i| room.wire(i).1).sum();
            rows.push(Row { took, cpu, busy: busy() - before, sent, came });
            self.check(way, nodes, place)?;
        }
        Ok(rows)
    }

    /// A copy that is not equal makes its row worth nothing.
    fn check(&self, way: &str, nodes: usize, place: &Path) -> Result<()> {
        for i in [1, nodes] {
            let copy = place.join(format!("copy{i}")).display().to_string();
            sh(&match way {
                "aria2" => format!("cmp {}/used {copy}/used", self.dir.display()),
                // Its image has no byte of what is not in use; e2fsck reads what is.
                "partclone" => format!("e2fsck -fn {copy}"),
                _ => format!("cmp {} {copy}", self.disk()),
            })?;
        }
        Ok(())
    }

    fn print(&self, title: &str, nodes: usize, row: &Row, (floor, cores): (f64, usize)) {
        let took = row.took.as_secs_f64();
        let share = |cpu: f64| cpu / (took * cores as f64);
        let bound = if took < 1.15 * floor {
            "link".to_owned()
        } else if share(row.busy) > 0.85 && share(row.cpu) > 0.7 {
            "the processors".to_owned()
        } else if share(row.busy) > 0.85 {
            format!("the processors: others took {:.0} %", 100.0 * share(row.busy - row.cpu))
        } else {
            "the program itself: it waits".to_owned()
        };
        println!(
            "{title:<31}{nodes:>6}{took:>8.2}{:>8.2}{:>8.1}{:>11.2}{:>9.1}{:>10.1}  {bound}",
            took / floor,
            row.cpu,
            row.cpu * 1e9 / (self.used as f64 * nodes as f64),
            row.sent as f64 / 1e6,
            row.came as f64 / nodes as f64 / 1e6,
        );
    }
}

/// A client of BitTorrent that finds the others without a tracker, and stays until all have the
/// file.
fn aria2(before: &str, torrent: &str, place: &Path, nodes: usize, own: usize) -> String {
    let done = place.display();
    format!(
        "{before}; printf '#!/bin/sh\\ntouch {done}/done.{own}\\n' > {done}/hook.{own}; \
         chmod +x {done}/hook.{own}; \
         aria2c -q --enable-dht=false --bt-enable-lpd=true --file-allocation=none \
         --seed-time=999 --bt-max-peers=0 --disk-cache=64M \
         --on-bt-download-complete={done}/hook.{own} {torrent} & client=$!; \
         while [ $(ls {done} | grep -c '^done.[1-9]') -lt {nodes} ]; do \
         kill -0 $client; sleep 0.1; done; \
         kill $client; wait $client; true"
    )
}
