//! Contenders that boot one row by turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::profile::span;
use super::{Contender, Medium, Row, Runs, boot, initrd, iso_machine, line, no_counts};
use crate::assets::live::FIRST_THEN_OFF;
use crate::assets::{Assets, Flavour, Kernel};
use crate::lab::Lab;
use crate::machine::Nic;
use crate::{Error, Result, packages, workspace};

/// A contender's results on a row.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Whose.
    pub contender: Contender,
    /// Size of the initramfs in bytes.
    pub initrd: u64,
    /// Instructions of each counted boot.
    pub instructions: Vec<u64>,
    /// Time of each boot by the guest's clock.
    pub took: Vec<Duration>,
    /// Bytes from the drive.
    pub medium: u64,
    /// Bytes that came in by the network card.
    pub wire: u64,
    /// MemAvailable at the end, in KiB.
    pub available_kib: u64,
}

/// Boots a row with each contender by turns.
///
/// # Errors
/// What building an initramfs or booting it needs; [`Error::Input`] when the console
/// lacks one of the two moments, or the plugin left no count.
pub fn measure(row: Row, contenders: &[Contender], runs: Runs) -> Result<Vec<Measured>> {
    packages::ensure()?;
    let Row { release, board, medium } = row;
    let name = format!("bench-{release}-{board}-{}", medium.word());
    let directory = workspace::lab().join("captures").join(name);
    let assets = Assets::open()?;
    let kernel = assets.kernel_of(release, Flavour::Cloud)?;
    let mut all = Vec::new();
    for contender in contenders {
        let initrd = initrd(&assets, row, &kernel, *contender)?;
        let size = fs::metadata(&initrd).map_err(Error::at("stat", &initrd))?.len();
        let measured = Measured {
            contender: *contender,
            initrd: size,
            instructions: Vec::new(),
            took: Vec::new(),
            medium: 0,
            wire: 0,
            available_kib: 0,
        };
        all.push((initrd, measured));
    }
    let mut place = Place { row, assets: &assets, directory: &directory, lab: None };
    match medium {
        Medium::Iso => {
            fs::create_dir_all(&directory).map_err(Error::at("make", &directory))?;
            place.boots(&kernel, &mut all, runs)?;
        }
        Medium::Nfs => {
            let lab = Lab::new(&directory)?;
            let _dhcp = lab.dhcp().serve()?;
            // dracut's line names the image itself, the others search the export.
            let _nfs = lab.nfs().export("/srv/live", &assets.live_tree()?).start()?;
            place.lab = Some(&lab);
            place.boots(&kernel, &mut all, runs)?;
        }
    }
    Ok(all.into_iter().map(|(_, measured)| measured).collect())
}

/// Where the machines of a row stand.
struct Place<'a> {
    row: Row,
    assets: &'a Assets,
    directory: &'a Path,
    /// The network with its servers, for NFS.
    lab: Option<&'a Lab>,
}

impl Place<'_> {
    /// Boots each initramfs by turns.
    fn boots(&self, kernel: &Kernel, all: &mut [(PathBuf, Measured)], runs: Runs) -> Result<()> {
        let mut machines = 0;
        let mut machine = |initrd: &Path, contender: Contender, words: &str| {
            let line = format!("{} {words}init={FIRST_THEN_OFF}", line(contender, self.row.medium));
            let machine = match self.lab {
                None => iso_machine(self.assets, self.directory, 0)?,
                Some(lab) => lab.machine().nic(Nic::virtio()),
            };
            machines += 1;
            let machine = machine.board(self.row.board).kernel(&kernel.image, initrd, &line);
            Ok::<_, Error>((machine, machines - 1))
        };
        for _ in 0..runs.counted {
            let span = span(self.assets, self.row.release)?;
            let counts = self.directory.join("count.txt");
            let plugin = format!("{},total=on,out={}", span.plugin(), counts.display());
            for (initrd, measured) in &mut *all {
                let _ = fs::remove_file(&counts);
                let (machine, _) = machine(initrd, measured.contender, "nokaslr ")?;
                boot(machine.qemu(&["-icount", self.icount(), "-plugin", &plugin]))?;
                let text = fs::read_to_string(&counts).map_err(|_| no_counts())?;
                let count = text.trim().strip_prefix("0 ").ok_or_else(no_counts)?;
                let count = u64::from_str_radix(count, 16).map_err(|_| no_counts())?;
                measured.instructions.push(count);
            }
        }
        for _ in 0..runs.clock {
            for (initrd, measured) in &mut *all {
                let (machine, number) = machine(initrd, measured.contender, "")?;
                let run = boot(machine)?;
                measured.took.push(run.took);
                measured.available_kib = run.available_kib;
                measured.medium = run.medium;
                measured.wire = self.lab.map_or(Ok(0), |lab| lab.sent_to(number, 0))?;
            }
        }
        Ok(())
    }

    /// Without a network waits are skipped. With one, idle time passes as real time: a
    /// clock that leaps to the next timer would expire timeouts before a server answers.
    fn icount(&self) -> &'static str {
        match self.lab {
            None => "shift=0,sleep=off",
            Some(_) => "shift=0,sleep=on",
        }
    }
}
