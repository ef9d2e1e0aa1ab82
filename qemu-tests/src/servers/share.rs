//! `bellwether share`, as a person starts it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::assets::{Assets, Profile, bellwether};
use crate::lab::Lab;
use crate::shell::{self, Daemon};
use crate::{Error, Result, until};

/// What it says when machines may be switched on.
pub(super) const READY: &str = "ready: switch clients on";

/// A `bellwether share` that can be stopped and started again.
#[derive(Debug)]
pub struct Share<'lab> {
    lab: &'lab Lab,
    program: PathBuf,
    words: Vec<String>,
    log: PathBuf,
    daemon: Option<Daemon>,
}

impl Share<'_> {
    /// Starts it (again), and waits until machines may be switched on.
    ///
    /// # Errors
    /// [`Error::Command`] with what it said when it does not come up.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.lab.namespace().command(&self.program.to_string_lossy());
        command.args(&self.words);
        let limit = Duration::from_secs(60);
        self.daemon = Some(Daemon::start_until("share", command, &self.log, READY, limit)?);
        Ok(())
    }

    /// Kills it, as a power cut would.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says something.
    ///
    /// # Errors
    /// [`Error::Input`] with what it said instead.
    pub fn expect(&self, wanted: &str, limit: Duration) -> Result<()> {
        until(wanted, limit, || Ok(self.log().contains(wanted))).map_err(|_| {
            let said = shell::last_lines(&self.log(), 40);
            Error::Input(format!("share did not say {wanted:?} but:\n{said}"))
        })
    }
}

impl Lab {
    /// `bellwether share` on the main network, with the full `/init`.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not build or does not come up.
    pub fn share(&self, medium: &Path, words: &[&str]) -> Result<Share<'_>> {
        self.share_on("lan", medium, words)
    }

    /// The same on another network.
    ///
    /// # Errors
    /// As [`Lab::share`].
    pub fn share_on(&self, network: &str, medium: &Path, words: &[&str]) -> Result<Share<'_>> {
        let mut share = Share {
            lab: self,
            program: bellwether()?,
            words: self.share_words(network, medium, words)?,
            log: self.directory().join(format!("share-{network}.log")),
            daemon: None,
        };
        share.start()?;
        Ok(share)
    }

    /// `bellwether share` on the main network with another architecture's `/init`, where that
    /// architecture's modules of GRUB lie among this system's.
    ///
    /// # Errors
    /// As [`Lab::share`].
    pub fn share_foreign(&self, medium: &Path, init: &Path, grub: &Path) -> Result<Share<'_>> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let own = "/usr/lib/grub";
        let script = format!(
            "mount -t overlay -o lowerdir={}:{own} overlay {own} && exec \"$0\" \"$@\"",
            path(grub)
        );
        let mut words: Vec<String> = ["--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
        words.extend([path(&bellwether()?), "share".into(), "--interface".into(), "lan".into()]);
        words.extend(["--init".into(), path(init), "--state".into()]);
        words.extend([path(&self.share_state("lan")?), path(medium)]);
        let log = self.directory().join("share-lan.log");
        let mut share = Share { lab: self, program: "unshare".into(), words, log, daemon: None };
        share.start()?;
        Ok(share)
    }

    /// What `bellwether share` is started with; its state is in `share-state-NETWORK`.
    pub(super) fn share_words(
        &self,
        network: &str,
        medium: &Path,
        words: &[&str],
    ) -> Result<Vec<String>> {
        let init = Assets::open()?.our_init(Profile::Net)?;
        let state = self.share_state(network)?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut all = ["share", "--interface", network, "--init"].map(str::to_owned).to_vec();
        all.extend([path(&init), "--state".into(), path(&state)]);
        all.extend(words.iter().map(|&word| word.to_owned()));
        all.push(path(medium));
        Ok(all)
    }

    /// Where `bellwether share` on a network keeps what it keeps.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn share_state(&self, network: &str) -> Result<PathBuf> {
        let state = self.directory().join(format!("share-state-{network}"));
        std::fs::create_dir_all(&state).map_err(Error::at("make", &state))?;
        Ok(state)
    }

    /// `bellwether share --write-config`, to its end.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn share_configuration(&self, medium: &Path, to: &Path, words: &[&str]) -> Result<()> {
        let init = Assets::open()?.our_init(Profile::Net)?;
        let mut command = self.namespace().command(&bellwether()?.to_string_lossy());
        command.args(["share", "--interface", "lan", "--init"]).arg(init);
        command.arg("--write-config").arg(to).args(words).arg(medium);
        shell::run(&mut command).map(drop)
    }
}
