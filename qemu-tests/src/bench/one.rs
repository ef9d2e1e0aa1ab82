//! One machine, from switch-on to the login prompt: `bellwether share` with our `/init`, and with
//! the medium's own live-boot, which mounts the root by NFS or loads the whole image by HTTP.
//!
//! All boot the same medium from the same server, by turns. The machine's clock runs with that of
//! this computer, so the time is taken here. Bytes are those that its card received: kernel,
//! initramfs and root.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::LIMIT;
use crate::assets::{Flavour, Peer};
use crate::lab::{Lab, SERVER};
use crate::machine::{KERNEL_WORDS, Nic};
use crate::{Error, Result, workspace};

const IMAGE: &str = "live/filesystem.squashfs";
const MENU: &str = "label live\n  linux /live/vmlinuz\n  initrd /live/initrd.img\n  \
                    append boot=live\n";

/// One boot.
#[derive(Debug, Clone, Copy)]
struct Boot {
    seconds: f64,
    megabytes: f64,
}

/// What was measured: who, and the boots.
#[derive(Debug, Clone)]
pub struct One(Vec<(&'static str, Vec<Boot>)>);

impl One {
    /// Medians: ours of each other one, time and bytes.
    #[must_use]
    pub fn ratios(&self) -> Vec<(&'static str, [f64; 2])> {
        let medians: Vec<_> = self.0.iter().map(|(who, boots)| (*who, median(boots))).collect();
        let Some(((_, ours), others)) = medians.split_first() else { return Vec::new() };
        let ratio = |other: &Boot| [ours.seconds / other.seconds, ours.megabytes / other.megabytes];
        others.iter().map(|(who, other)| (*who, ratio(other))).collect()
    }
}

fn median(boots: &[Boot]) -> Boot {
    let middle = |figure: fn(&Boot) -> f64| {
        let mut values: Vec<f64> = boots.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Boot { seconds: middle(|boot| boot.seconds), megabytes: middle(|boot| boot.megabytes) }
}

impl fmt::Display for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (who, boots) in &self.0 {
            let Boot { seconds, megabytes } = median(boots);
            let all: Vec<String> =
                boots.iter().map(|boot| format!("{:.1}", boot.seconds)).collect();
            writeln!(
                f,
                "{who:20} {seconds:>6.1} s to the login prompt ({}), {megabytes:>6.1} MB",
                all.join(", ")
            )?;
        }
        for (who, [time, bytes]) in self.ratios() {
            writeln!(f, "ours of {who}: {time:.2} of the time, {bytes:.2} of the bytes")?;
        }
        Ok(())
    }
}

/// Measures in a lab of its own.
///
/// # Errors
/// As [`in_lab`], or the lab cannot be made.
pub fn measure(runs: usize) -> Result<One> {
    Lab::new(&workspace::lab().join("captures/bench-one")).and_then(|lab| in_lab(&lab, runs))
}

/// Measures in a lab.
///
/// # Errors
/// A machine does not come up.
pub fn in_lab(lab: &Lab, runs: usize) -> Result<One> {
    let medium = medium(lab)?;
    let words = |more: &str| format!("{KERNEL_WORDS} {more}");
    let whole = words(&format!("fetch=http://{SERVER}:8080/live/{IMAGE}"));
    let plain = words("");
    let ways = [
        ("share", vec!["--append", &plain]),
        ("live-boot by NFS", vec!["--own-init", "--append", &plain]),
        ("live-boot by HTTP", vec!["--own-init", "--append", &whole]),
    ];
    let mut all: Vec<(&'static str, Vec<Boot>)> =
        ways.iter().map(|(who, _)| (*who, Vec::new())).collect();
    for _ in 0..runs {
        for ((_, words), (who, boots)) in ways.iter().zip(&mut all) {
            let boot = boot(lab, &medium, words)?;
            crate::say(format_args!("{who}: {:.1} s, {:.1} MB", boot.seconds, boot.megabytes));
            boots.push(boot);
        }
    }
    Ok(One(all))
}

fn medium(lab: &Lab) -> Result<PathBuf> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
    let tree = lab.tree("live")?.with_all(&lab.assets().live_tree()?)?;
    let tree = tree.with("live/vmlinuz", &kernel.image)?.with("live/initrd.img", &initrd)?;
    tree.text("isolinux/isolinux.cfg", MENU)?.iso("LIVE")
}

fn boot(lab: &Lab, medium: &Path, words: &[&str]) -> Result<Boot> {
    let _share = lab.share(medium, words)?;
    let before = received(lab)?;
    let start = Instant::now();
    let machine = lab.machine().nic(Nic::virtio()).start()?;
    machine.expect("login:", LIMIT.min(Duration::from_secs(600)))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Boot { seconds, megabytes: (received(lab)? - before) / 1e6 })
}

/// Bytes that the lab's machines received: what their taps sent.
fn received(lab: &Lab) -> Result<f64> {
    let text = lab.run(&["cat", "/proc/net/dev"])?;
    let mut sum = 0.0;
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        if name.trim().starts_with("tap") {
            let sent = numbers.split_whitespace().nth(8).and_then(|n| n.parse::<f64>().ok());
            sum += sent.ok_or_else(|| Error::Input(format!("/proc/net/dev: {line}")))?;
        }
    }
    Ok(sum)
}
