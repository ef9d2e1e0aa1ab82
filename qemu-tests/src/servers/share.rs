//! `bellwether share`, as a person starts it, and another DHCP server beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::assets::{Assets, Profile, bellwether};
use crate::lab::Lab;
use crate::machine::MachineBuilder;
use crate::shell::{self, Daemon};
use crate::{Error, Result, packages, until, workspace};

/// A machine on QEMU's own network, which gives it an address and the name of what its
/// card's ROM loads first. It needs no root. The host's loopback is
/// 10.0.2.2 there.
pub fn machine_of_anybody(directory: &Path, first: &str) -> MachineBuilder<'static> {
    MachineBuilder::new(None, directory, 0).qemu(&[
        "-netdev",
        &format!("user,id=n0,bootfile={first}"),
        "-device",
        "virtio-net-pci,netdev=n0,bootindex=1",
    ])
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
    fn share_words(&self, network: &str, medium: &Path, words: &[&str]) -> Result<Vec<String>> {
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

    /// `bellwether share` on a terminal of 110 columns and 32 lines.
    ///
    /// # Errors
    /// As [`Lab::share`].
    pub fn share_on_a_terminal(&self, medium: &Path, words: &[&str]) -> Result<Terminal<'_>> {
        packages::ensure_all(&[("tmux", "a terminal that can be looked at")])?;
        let socket = self.directory().join("tmux").to_string_lossy().into_owned();
        let words = self.share_words("lan", medium, words)?;
        let quoted = words.iter().map(|word| format!("'{word}'"));
        let command = format!(
            "'{}' {}; sleep 600",
            bellwether()?.display(),
            quoted.collect::<Vec<_>>().join(" ")
        );
        let terminal = Terminal { lab: self, socket };
        terminal.tmux(&["new-session", "-d", "-x", "110", "-y", "32", &command])?;
        Ok(terminal)
    }

    /// Runs a program on the network to its end; what it said.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.namespace().run(words)
    }

    /// Runs the host command to its end; what it said.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn bellwether(&self, words: &[&str]) -> Result<String> {
        let program = bellwether()?.to_string_lossy().into_owned();
        self.namespace().run(&[&[program.as_str()], words].concat())
    }

    /// Chromium without a window.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not start.
    pub fn browser(&self) -> Result<Browser<'_>> {
        packages::ensure_all(&[
            ("chromium", "a browser"),
            ("chromium-driver", "a hand that holds its mouse"),
            ("curl", "what speaks to that"),
        ])?;
        let mut driver = self.namespace().command("chromedriver");
        driver.arg("--port=9515").env("HOME", self.scratch("browser")?);
        let log = self.directory().join("chromedriver.log");
        let mut daemon = Daemon::start("chromedriver", driver, &log)?;
        daemon
            .wait_until(Duration::from_secs(20), || super::nfs::listens(self.namespace(), 9515))?;
        let mut browser = Browser { lab: self, session: String::new(), _daemon: daemon };
        let options = r#"{"capabilities":{"alwaysMatch":{"goog:chromeOptions":{"args":
            ["--headless=new","--no-sandbox","--disable-gpu","--disable-dev-shm-usage",
             "--window-size=1100,900"]}}}}"#;
        let said = browser.post("", options)?;
        let id = said.split("\"sessionId\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let id = id.ok_or_else(|| Error::Input(format!("no session: {said}")))?;
        browser.session = format!("/{id}");
        Ok(browser)
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

    /// A dnsmasq with a configuration of its own.
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

    /// A machine without a kernel of its own, `name` with this hardware address, that
    /// has a disk over NBD open and says nothing more. Its cable is `name` with a `0`
    /// behind it.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not get the disk.
    pub fn holder_of_a_disk(
        &self,
        name: &str,
        mac: &str,
        address: &str,
        disk: &str,
    ) -> Result<Daemon> {
        let namespace = self.namespace();
        let (cable, address) = (format!("{name}0"), format!("{address}/24"));
        for words in [
            &["ip", "netns", "add", name][..],
            &["ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", name],
            &["ip", "link", "set", &cable, "master", "lan", "up"],
            &["ip", "-n", name, "address", "add", &address, "dev", "eth0"],
            &["ip", "-n", name, "link", "set", "eth0", "address", mac, "up"],
        ] {
            namespace.run(words)?;
        }
        // The greeting, NBD_OPT_GO, and the first answer's head.
        let script = format!(
            "exec 3<>/dev/tcp/10.77.0.1/10809; head -c 18 <&3 >/dev/null
             printf '\\0\\0\\0\\3IHAVEOPT\\0\\0\\0\\7' >&3
             printf '\\0\\0\\0\\x{all:02x}\\0\\0\\0\\x{length:02x}%s\\0\\0' {disk} >&3
             head -c 20 <&3 >/dev/null && echo has the disk; exec sleep infinity",
            all = disk.len() + 6,
            length = disk.len(),
        );
        let mut holder = namespace.command("ip");
        holder.args(["netns", "exec", name, "bash", "-c", &script]);
        let log = self.directory().join(format!("{name}.log"));
        let mut daemon = Daemon::start(name, holder, &log)?;
        let has = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("has the disk"));
        daemon.wait_until(Duration::from_secs(10), has)?;
        Ok(daemon)
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

    /// A program that only sends the files of a directory, on port 8181: see
    /// `share/examples/floor.rs`.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not come up.
    pub fn only_sendfile(&self, root: &Path) -> Result<Daemon> {
        let program = example("floor")?;
        let mut command = self.namespace().command(&program.to_string_lossy());
        let log = self.directory().join("floor.log");
        let mut daemon = Daemon::start(
            "floor",
            {
                command.arg(root);
                command
            },
            &log,
        )?;
        daemon
            .wait_until(Duration::from_secs(20), || super::nfs::listens(self.namespace(), 8181))?;
        Ok(daemon)
    }

    /// A machine on the lab's network with the addresses of so many clients, for [`Lab::load`].
    ///
    /// # Errors
    /// [`Error::Command`] when the kernel refuses.
    pub fn room_of_clients(&self, clients: usize) -> Result<()> {
        let namespace = self.namespace();
        for words in [
            &["ip", "netns", "add", "room"][..],
            &[
                "ip", "link", "add", "room0", "type", "veth", "peer", "name", "eth0", "netns",
                "room",
            ],
            &["ip", "link", "set", "room0", "master", "lan", "up"],
            &["ip", "-n", "room", "link", "set", "eth0", "up"],
        ] {
            namespace.run(words)?;
        }
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

/// A terminal with a program in it.
#[derive(Debug)]
pub struct Terminal<'lab> {
    lab: &'lab Lab,
    socket: String,
}

impl Terminal<'_> {
    fn tmux(&self, words: &[&str]) -> Result<String> {
        let tmux = ["env", "TERM=xterm", "LC_ALL=C.UTF-8", "tmux", "-S", &self.socket];
        self.lab.namespace().run(&[&tmux[..], words].concat())
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// [`Error::Command`] when the terminal is gone.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Presses keys, as tmux names them.
    ///
    /// # Errors
    /// As [`Terminal::screen`].
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Waits until something is on the screen, and gives all of it.
    ///
    /// # Errors
    /// [`Error::Input`] with the screen when it does not come.
    pub fn expect(&self, wanted: &str, limit: Duration) -> Result<String> {
        let mut screen = String::new();
        let seen = until(wanted, limit, || {
            screen = self.screen()?;
            Ok(screen.contains(wanted))
        });
        match seen {
            Ok(()) => Ok(screen),
            Err(error) => Err(Error::Input(format!("{error}; the screen:\n{screen}"))),
        }
    }
}

/// A browser, driven by the WebDriver protocol (W3C WebDriver 1).
#[derive(Debug)]
pub struct Browser<'lab> {
    lab: &'lab Lab,
    session: String,
    _daemon: Daemon,
}

impl Browser<'_> {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:9515/session{}{path}", self.session)
    }

    fn post(&self, path: &str, json: &str) -> Result<String> {
        let type_ = "Content-Type: application/json";
        let curl = ["curl", "--silent", "--show-error", "--fail-with-body", "-H", type_, "-d"];
        self.lab.namespace().run(&[&curl[..], &[json, &self.url(path)]].concat())
    }

    /// Opens a page.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not load.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &format!("{{\"url\":\"{url}\"}}")).map(drop)
    }

    /// Runs a script without quotes in it; its result as JSON.
    ///
    /// # Errors
    /// [`Error::Command`] when it throws.
    pub fn run(&self, script: &str) -> Result<String> {
        let body = format!("{{\"script\":\"{script}\",\"args\":[]}}");
        let said = self.post("/execute/sync", &body)?;
        let value = said.trim().strip_prefix("{\"value\":").and_then(|v| v.strip_suffix('}'));
        value.map(str::to_owned).ok_or(Error::Input(said))
    }

    /// Clicks, as a mouse does, on what a CSS selector finds.
    ///
    /// # Errors
    /// [`Error::Command`] when there is no such thing, or it cannot be clicked.
    pub fn click(&self, selector: &str) -> Result<()> {
        let body = format!("{{\"using\":\"css selector\",\"value\":\"{selector}\"}}");
        let said = self.post("/element", &body)?;
        let id = said.rsplit('"').nth(1).unwrap_or_default().to_owned();
        self.post(&format!("/element/{id}/click"), "{}").map(drop)
    }

    /// Makes the window this large.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot.
    pub fn size(&self, width: u32, height: u32) -> Result<()> {
        let body = format!("{{\"width\":{width},\"height\":{height}}}");
        self.post("/window/rect", &body).map(drop)
    }

    /// Writes what the window shows to a PNG file.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot.
    pub fn screenshot(&self, to: &Path) -> Result<()> {
        let script = "curl --silent --fail \"$1\" | sed 's/^{\"value\":\"//; s/\"}$//' | \
                      base64 --decode >\"$2\"";
        let (url, to) = (self.url("/screenshot"), to.to_string_lossy().into_owned());
        self.lab.namespace().run(&["sh", "-c", script, "sh", &url, &to]).map(drop)
    }
}

/// A program of the sharing part, optimised.
fn example(name: &str) -> Result<PathBuf> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--quiet", "--release", "-p", "share", "--example", name]);
    shell::run(cargo.current_dir(workspace::root()))?;
    Ok(workspace::target().join("release/examples").join(name))
}
