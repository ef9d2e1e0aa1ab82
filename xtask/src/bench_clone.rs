//! `cargo xtask bench clone`: copying to a room of machines: what is in use of a disk by
//! [`crate::bench_disk`], or, with `--protocols`, one file by each protocol against a chain of
//! `socat` programs in the same run.
//!
//! All machines share this computer's processors: with many nodes that, not the network, is the
//! limit of whatever is not shaped. Of the protocols, what is received is thrown away.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use qemu_tests::{Error, Result, packages};

use crate::bench_disk;
use crate::bench_room::{LINK_BYTES_PER_S, Room, hosts, noise};

/// Copy a disk to rooms of machines: by us, by whole-disk Dolly, by partclone, and by aria2.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "clone")]
pub struct BenchClone {
    /// how many machines (1,8,16; of protocols 1,3,8)
    #[argh(option)]
    nodes: Option<String>,

    /// megabytes, of 1000000 bytes, of the file for --protocols (512)
    #[argh(option, default = "512")]
    size: u64,

    /// only this: room, cast, dolly, partclone or aria2; of protocols dolly, ka, dollyplus, udpcast
    /// or socat
    #[argh(option)]
    only: Option<String>,

    /// one file by each protocol, to /dev/null, instead of a disk
    #[argh(switch)]
    protocols: bool,

    /// a disk of 1 GiB with 192 MiB in use, instead of 8 GiB with 1.5 GiB
    #[argh(switch)]
    quick: bool,

    /// of protocols: only links of 1 Gbit/s
    #[argh(switch)]
    shaped: bool,

    /// this program instead of the release that is built first
    #[argh(option)]
    program: Option<PathBuf>,
}

const WAYS: [&str; 5] = ["socat", "dolly", "ka", "dollyplus", "udpcast"];

impl BenchClone {
    /// Measures and prints the table.
    pub fn run(self) -> Result<()> {
        packages::ensure_all(packages::FOR_ROOMS)?;
        let ours = match &self.program {
            Some(program) => program.clone(),
            None => qemu_tests::assets::released()?,
        };
        let nodes =
            self.nodes.as_deref().unwrap_or(if self.protocols { "1,3,8" } else { "1,8,16" });
        let wrong = |n: &str| Error::Input(format!("--nodes: '{n}' is no number"));
        let nodes: Result<Vec<usize>> =
            nodes.split(',').map(|n| n.trim().parse().map_err(|_| wrong(n))).collect();
        if !self.protocols {
            packages::ensure_all(packages::FOR_ROOM_BENCH)?;
            return bench_disk::run(&ours, &nodes?, self.only.as_deref(), self.quick);
        }
        let file = std::env::temp_dir().join(format!("bench-clone-{}", std::process::id()));
        noise(&file, self.size * 1_000_000)?;
        let outcome = self.table(&ours, &file, &nodes?);
        let _ = std::fs::remove_file(&file);
        outcome
    }

    fn table(&self, ours: &Path, file: &Path, nodes: &[usize]) -> Result<()> {
        let bytes = self.size as f64 * 1e6;
        println!(
            "{} MB; the limit of 1 Gbit/s is {:.2} s. CPU is that of all machines together.",
            self.size,
            bytes / LINK_BYTES_PER_S
        );
        println!("{:<8}{:>6}{:>10}{:>9}{:>9}{:>9}", "", "nodes", "link", "s", "MB/s", "CPU s");
        for shaped in [true, false] {
            if self.shaped && !shaped {
                continue;
            }
            for &nodes in nodes {
                for way in WAYS {
                    if self.only.as_deref().is_some_and(|only| only != way) {
                        continue;
                    }
                    let room = Room::new(nodes + 1, shaped)?;
                    let (took, cpu) = copy(&room, way, nodes, ours, file)?;
                    let link = if shaped { "1 Gbit/s" } else { "free" };
                    let took = took.as_secs_f64();
                    println!(
                        "{way:<8}{nodes:>6}{link:>10}{took:>9.2}{:>9.1}{cpu:>9.2}",
                        bytes / took / 1e6
                    );
                }
            }
        }
        Ok(())
    }
}

/// One copy: how long it took, and the CPU seconds of all programs.
fn copy(room: &Room, way: &str, nodes: usize, ours: &Path, file: &Path) -> Result<(Duration, f64)> {
    let (ours, file) = (ours.display(), file.display());
    let hosts = hosts(nodes);
    let node = |i: usize| match way {
        "dolly" => format!("{ours} clone dolly -q --target /dev/null"),
        "dollyplus" => format!("{ours} clone dollyC -q --target /dev/null"),
        "ka" => format!("{ours} clone ka-d-client -q -s bench -f /dev/null"),
        "udpcast" => format!("{ours} clone udp-receiver -q -f /dev/null --nokbd"),
        _ if i == nodes => "socat -b 262144 -u TCP-LISTEN:7000,reuseaddr OPEN:/dev/null".into(),
        _ => format!(
            "socat -b 262144 -u TCP-LISTEN:7000,reuseaddr - | tee /dev/null | \
                 socat -b 262144 -u - TCP:10.77.0.{}:7000,retry=50,interval=0.1",
            i + 2
        ),
    };
    let golden = match way {
        "dolly" => {
            format!("{ours} clone dolly -q -s -I {file} -O /dev/null -H {hosts}")
        }
        "dollyplus" => format!("{ours} clone dollyS -q -I {file} -O /dev/null -H {hosts}"),
        "ka" => format!("{ours} clone ka-d-server -q -s bench -n {nodes} -f {file}"),
        "udpcast" => format!(
            "{ours} clone udp-sender -q -f {file} --nokbd --min-receivers {nodes} --max-wait 30"
        ),
        _ => format!("socat -b 262144 -u OPEN:{file} TCP:10.77.0.2:7000,retry=50,interval=0.1"),
    };
    let receivers: Vec<String> = (1..=nodes).map(node).collect();
    room.run(way, &receivers, &golden)
}
