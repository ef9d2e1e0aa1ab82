//! Servers of a busy room, the clients that load them, and what both cost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::share::READY;
use crate::assets::{Assets, Profile};
use crate::lab::Lab;
use crate::shell::{self, Daemon};
use crate::{Error, Result, packages, workspace};

impl Lab {
    /// The sharing part as people install it, optimised, and nothing else of the
    /// command; `medium` is under its own name, NFS on 2049, HTTP on 8080.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not build or does not come up.
    pub fn optimised_share(&self, medium: &Path) -> Result<Daemon> {
        let program = example("share")?;
        let init = Assets::open()?.our_init(Profile::Net)?;
        let log = self.directory().join("optimised-share.log");
        let mut command = self.namespace().command(&program.to_string_lossy());
        command.arg(init).arg(medium).args(["off", "no-ipxe"]).env("INTERFACE", "lan");
        Daemon::start_until("share", command, &log, READY, Duration::from_secs(60))
    }

    /// nginx on port 80, set up as a busy site has it.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not come up.
    pub fn quick_nginx(&self, root: &Path) -> Result<Daemon> {
        packages::ensure_all(packages::FOR_SOURCES)?;
        let config = self.directory().join("quick-nginx.conf");
        let text = format!(
            "daemon off;\nworker_processes auto;\nuser root;\npid /run/quick-nginx.pid;\n\
             error_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  sendfile on;\n  \
             tcp_nopush on;\n  server {{ listen 80; root {}; }}\n}}\n",
            root.display()
        );
        std::fs::write(&config, text).map_err(Error::at("write", &config))?;
        let log = self.directory().join("quick-nginx.log");
        let mut nginx = self.namespace().released("nginx");
        nginx.arg("-p").arg(self.directory()).arg("-c").arg(&config);
        self.namespace().server("nginx", nginx, &log, 80)
    }

    /// A program that only sends the files of a directory, on port 8181: see
    /// `share/examples/floor.rs`.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not come up.
    pub fn only_sendfile(&self, root: &Path) -> Result<Daemon> {
        let program = example("floor")?;
        let mut command = self.namespace().command(&program.to_string_lossy());
        command.arg(root);
        let log = self.directory().join("floor.log");
        self.namespace().server("floor", command, &log, 8181)
    }

    /// A machine on the lab's network with the addresses of so many clients, for [`Lab::load`].
    ///
    /// # Errors
    /// [`Error::Command`] when the kernel refuses.
    pub fn room_of_clients(&self, clients: usize) -> Result<()> {
        let namespace = self.namespace();
        namespace.neighbour("room")?;
        for n in 0..clients {
            let address = format!("10.77.0.{}/24", 101 + n);
            namespace.run(&["ip", "-n", "room", "address", "add", &address, "dev", "eth0"])?;
        }
        Ok(())
    }

    /// Many clients at once, see `share/examples/load.rs`; gives seconds until the last has
    /// everything, and megabytes of 1,000,000 bytes.
    ///
    /// # Errors
    /// [`Error::Command`] when a byte is wrong, or one is missing.
    pub fn load(&self, words: &[&str]) -> Result<(f64, f64)> {
        let program = example("load")?.to_string_lossy().into_owned();
        let inside = ["ip", "netns", "exec", "room", program.as_str()];
        let said = self.namespace().run(&[&inside[..], words].concat())?;
        crate::say(said.trim());
        let took = said.split(", ").find_map(|part| part.split_once(" MB in "));
        let took = took.and_then(|(size, seconds)| {
            Some((seconds.strip_suffix(" s")?.parse().ok()?, size.parse().ok()?))
        });
        took.ok_or_else(|| Error::Input(format!("no time in {said:?}")))
    }

    /// Seconds of processor time that programs of this name have had: in their own code, and in
    /// the kernel.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none.
    pub fn processor_time(&self, name: &str) -> Result<[f64; 2]> {
        let all = self.namespace().run(&["sh", "-c", "cat /proc/[0-9]*/stat; getconf CLK_TCK"])?;
        let mut ticks: Option<[u64; 2]> = None;
        for line in all.lines() {
            // `PID (NAME) STATE …`; user and system time are the 14th and 15th fields.
            let Some((before, after)) = line.rsplit_once(") ") else { continue };
            if before.split_once('(').is_some_and(|(_, other)| other == name) {
                let times = after.split(' ').skip(11).filter_map(|n| n.parse::<u64>().ok());
                let both = ticks.get_or_insert_default();
                both.iter_mut().zip(times).for_each(|(sum, ticks)| *sum += ticks);
            }
        }
        let second: f64 = all.lines().last().and_then(|n| n.parse().ok()).unwrap_or(100.0);
        let ticks = ticks.ok_or_else(|| Error::Input(format!("no program called {name}")))?;
        Ok(ticks.map(|ticks| ticks as f64 / second))
    }

    /// The most memory that a program of this name has had, in kB.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none.
    pub fn peak_memory(&self, name: &str) -> Result<u64> {
        let all = self.namespace().run(&["sh", "-c", "cat /proc/[0-9]*/status"])?;
        let mut found = false;
        for line in all.lines() {
            match line.split_once(':') {
                Some(("Name", other)) => found = other.trim() == name,
                Some(("VmHWM", size)) if found => {
                    let size = size.trim().trim_end_matches(" kB");
                    return size.parse().map_err(|_| Error::Input(line.into()));
                }
                _ => {}
            }
        }
        Err(Error::Input(format!("no program called {name}")))
    }
}

/// A program of the sharing part, optimised.
fn example(name: &str) -> Result<PathBuf> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--quiet", "--release", "-p", "share", "--example", name]);
    shell::run(cargo.current_dir(workspace::root()))?;
    Ok(workspace::target().join("release/examples").join(name))
}
