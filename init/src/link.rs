//! The network inside the machine's event loop: the race for the boot link is
//! carried on whenever the machine waits.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use cmdline::plan::{Mac, NetworkPlan};
use netboot::dhcp::client::Needs;
use netboot::network::{self, NetworkUp, Progress};
use netboot::race::Report;
use netboot::state;
use rustix::fd::BorrowedFd;
use sys::clock::Instant;
use sys::errno::Shown;

use crate::log::{Level, Log};
use crate::trace::Failure;

/// The network, from nothing to up.
#[derive(Debug, Default)]
pub struct Network {
    race: Option<network::Network>,
    up: Option<NetworkUp>,
    report: Option<Report>,
    rounds: u32,
    told_settled: bool,
}

impl Network {
    /// A network that is up, without a kernel.
    #[cfg(test)]
    pub fn fake(up: NetworkUp) -> Self {
        Self { up: Some(up), ..Self::default() }
    }

    /// What is known once it is up.
    #[must_use]
    pub fn up(&self) -> Option<&NetworkUp> {
        self.up.as_ref()
    }

    /// Rounds of the race that ended without a network.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// What the latest of them tried.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// The boot link's address.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        self.up.as_ref().and_then(|up| up.mac).map(Mac)
    }

    /// Descriptors to poll.
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.race.as_ref().map(network::Network::fds).unwrap_or_default()
    }

    /// When it wants to be called although nothing came in.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.race.as_ref().and_then(network::Network::deadline)
    }

    /// Takes in what happened, and says it.
    pub fn on_ready(&mut self, log: &mut Log, drivers_settled: bool) {
        let Some(race) = &mut self.race else { return };
        if drivers_settled && !self.told_settled {
            self.told_settled = true;
            race.settled();
        }
        let progress = race.on_ready(Instant::now());
        for event in race.take_events() {
            let level = if event.what.is_warning() { Level::Warning } else { Level::Info };
            log.say(level, &event.to_string());
        }
        match progress {
            Progress::Pending => {}
            Progress::RoundOver(report) => {
                self.rounds += 1;
                log.warn(&format!("no network yet: {}", report.reason));
                self.report = Some(report);
            }
            Progress::Done(up) => {
                log.info(&up.to_string());
                if !up.config.hostname.is_empty() {
                    // The live system sets its own; this is for the boot's log.
                    let _ = rustix::system::sethostname(up.config.hostname.as_bytes());
                }
                // The children of /init read it.
                let resolv = state::resolv_conf(&up);
                let written = sys::file::make_dir("/etc", 0o755).and_then(|()| {
                    sys::file::write_file("/etc/resolv.conf", resolv.as_bytes(), 0o644)
                });
                if let Err(errno) = written {
                    log.detail(&format!("/etc/resolv.conf: {}", Shown(errno)));
                }
                self.up = Some(*up);
                self.race = None;
            }
        }
    }

    /// Begins to bring the network up; the machine's event loop carries it on.
    ///
    /// A network that came up for an earlier try is kept unless its lease is stale.
    ///
    /// # Errors
    /// When the kernel has no network at all.
    pub fn start(&mut self, plan: &NetworkPlan, needs: Needs) -> Result<(), Failure> {
        if let Some(up) = self.up.take_if(|up| up.is_stale(needs, Instant::now())) {
            up.release().map_err(|error| {
                Failure::new("give up the address of the last try", &up.device, error)
            })?;
            self.told_settled = false;
        }
        if self.up.is_some() || self.race.is_some() {
            return Ok(());
        }
        let race = network::Network::start(plan.clone(), needs)
            .map_err(|error| Failure::new("bring up the network", "the kernel", error))?;
        self.race = Some(race);
        Ok(())
    }
}
