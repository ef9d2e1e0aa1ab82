//! `bellwether share`, as a person starts it, and a DHCP server of somebody else beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::assets::{Assets, Profile};
use crate::lab::Lab;
use crate::machine::MachineBuilder;
use crate::shell::{self, Daemon};
use crate::{Error, Result, packages, workspace};

/// A machine on QEMU's own network, which gives it an address and the name of what its
/// card's ROM loads first. Nobody has to be root for it. The host's loopback is
/// 10.0.2.2 there.
pub fn machine_of_anybody(directory: &Path, first: &str) -> MachineBuilder<'static> {
    MachineBuilder::new(None, directory, 0).qemu(&[
        "-netdev",
        &format!("user,id=n0,bootfile={first}"),
        "-device",
        "virtio-net-pci,netdev=n0,bootindex=1",
    ])
}

/// The host command, as the workspace has it now.
fn command_line_tool() -> Result<PathBuf> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--quiet", "--profile", "quick", "-p", "bellwether"]);
    shell::run(cargo.current_dir(workspace::root()))?;
    Ok(workspace::target().join("quick/bellwether"))
}

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
        const READY: &str = "ready: switch clients on";
        let ready = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let before = ready().matches(READY).count();
        let mut command = self.lab.namespace().command(&self.program.to_string_lossy());
        command.args(&self.words);
        let mut daemon = Daemon::start("bellwether share", command, &self.log)?;
        daemon.wait_until(Duration::from_secs(60), || ready().matches(READY).count() > before)?;
        self.daemon = Some(daemon);
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
        let end = std::time::Instant::now() + limit;
        while !self.log().contains(wanted) {
            if std::time::Instant::now() > end {
                let said = shell::last_lines(&self.log(), 40);
                return Err(Error::Input(format!("share did not say {wanted:?} but:\n{said}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Lab {
    /// `bellwether share` on the main network, with the full `/init`.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not build or does not come up.
    pub fn share(&self, medium: &Path, words: &[&str]) -> Result<Share<'_>> {
        let mut share = Share {
            lab: self,
            program: command_line_tool()?,
            words: ["share", "--interface", "lan", "--init"].map(str::to_owned).into(),
            log: self.directory().join("share.log"),
            daemon: None,
        };
        let init = Assets::open()?.our_init(Profile::Net)?;
        let state = self.scratch("share-state")?;
        share.words.push(init.to_string_lossy().into_owned());
        share.words.extend(["--state".into(), state.to_string_lossy().into_owned()]);
        share.words.extend(words.iter().map(|&word| word.to_owned()));
        share.words.push(medium.to_string_lossy().into_owned());
        share.start()?;
        Ok(share)
    }

    /// `bellwether share --write-config`, to its end.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn share_configuration(&self, medium: &Path, to: &Path, words: &[&str]) -> Result<()> {
        let init = Assets::open()?.our_init(Profile::Net)?;
        let mut command = self.namespace().command(&command_line_tool()?.to_string_lossy());
        command.args(["share", "--interface", "lan", "--init"]).arg(init);
        command.arg("--write-config").arg(to).args(words).arg(medium);
        shell::run(&mut command).map(drop)
    }

    /// A dnsmasq with somebody else's configuration.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not start.
    pub fn dnsmasq_from(&self, config: &Path) -> Result<Daemon> {
        let mut dnsmasq = self.namespace().command("dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--log-facility=-", "--user=root"]);
        self.wait_for_dnsmasq(dnsmasq.arg(format!("--conf-file={}", config.display())), "written")
    }

    fn wait_for_dnsmasq(&self, command: &mut Command, name: &str) -> Result<Daemon> {
        let log = self.directory().join(format!("{name}.log"));
        let command = std::mem::replace(command, shell::command("true"));
        let mut daemon = Daemon::start("dnsmasq", command, &log)?;
        let started =
            || std::fs::read_to_string(&log).is_ok_and(|t| t.contains("started, version"));
        daemon.wait_until(Duration::from_secs(10), started)?;
        Ok(daemon)
    }

    /// A DHCP server on a machine of its own, 10.77.0.2, that knows nothing of
    /// booting: the router that a site has already.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not start.
    pub fn router(&self) -> Result<Daemon> {
        let namespace = self.namespace();
        for words in [
            &["ip", "netns", "add", "site"][..],
            &[
                "ip", "link", "add", "site0", "type", "veth", "peer", "name", "eth0", "netns",
                "site",
            ],
            &["ip", "link", "set", "site0", "master", "lan", "up"],
            &["ip", "-n", "site", "address", "add", "10.77.0.2/24", "dev", "eth0"],
            &["ip", "-n", "site", "link", "set", "eth0", "up"],
        ] {
            namespace.run(words)?;
        }
        let mut dnsmasq = namespace.command("ip");
        dnsmasq.args(["netns", "exec", "site", "dnsmasq", "--keep-in-foreground", "--port=0"]);
        dnsmasq.args(["--log-facility=-", "--log-dhcp", "--user=root", "--conf-file=/dev/null"]);
        dnsmasq.args(["--leasefile-ro", "--dhcp-authoritative"]);
        dnsmasq.arg("--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h");
        self.wait_for_dnsmasq(&mut dnsmasq, "router")
    }

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
        let mut daemon = Daemon::start("share", command, &log)?;
        let ready = || std::fs::read_to_string(&log).is_ok_and(|t| t.contains("ready: switch"));
        daemon.wait_until(Duration::from_secs(60), ready)?;
        Ok(daemon)
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
        let mut nginx = self.namespace().command("nginx");
        nginx.arg("-p").arg(self.directory()).arg("-c").arg(&config);
        let mut daemon = Daemon::start("nginx", nginx, &log)?;
        daemon.wait_until(Duration::from_secs(20), || super::nfs::listens(self.namespace(), 80))?;
        Ok(daemon)
    }

    /// Many clients at once, see `share/examples/load.rs`; gives MB/s.
    ///
    /// # Errors
    /// [`Error::Command`] when a byte is wrong, or one is missing.
    pub fn load(&self, words: &[&str]) -> Result<f64> {
        let program = example("load")?.to_string_lossy().into_owned();
        let said = self.namespace().run(&[&[program.as_str()], words].concat())?;
        crate::say(said.trim());
        let rate = said.split(", ").find_map(|part| part.strip_suffix(" MB/s")?.parse().ok());
        rate.ok_or_else(|| Error::Input(format!("no rate in {said:?}")))
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
