//! `v2v://`: a conversion server with virt-v2v reads the disks through one ssh connection.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;
use sys::clock::Instant;

use super::disk::Disk;
use super::serve::Server;
use super::ssh::{Heard, LOGIN, Login, silent};
use super::{World, broken, canceled, wait};
use crate::domain::{self, Domain};
use crate::extents::Seen;
use crate::script::{Conversion, Probe, probe};
use crate::trouble::Trouble;

/// What is to be made of the machine.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// The machine; its disks are put in here.
    pub domain: Domain,
    /// What virt-v2v calls the output (`local`).
    pub output: String,
    /// Nothing is converted: login, forwarding and virt-v2v are tried.
    pub test: bool,
    /// Everything else; description and name are put in here.
    pub conversion: Conversion,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Converted {
    /// virt-v2v's version.
    pub version: String,
    /// The directory with the logs on the server.
    pub directory: String,
    /// Bytes of disks that were sent.
    pub sent: u64,
}

/// Has the disks converted. They are open for reading alone; whatever happens, they are as
/// they were.
///
/// # Errors
/// There is no login, no forwarding, no virt-v2v; the conversion failed; a disk cannot be
/// read.
pub fn convert(
    world: &mut dyn World,
    login: &Login<'_>,
    order: &Order,
    disks: Vec<Disk>,
) -> Result<(Converted, Vec<Disk>), Trouble> {
    let mut servers = Vec::new();
    for disk in disks {
        let name = disk.name.clone();
        let server = Server::open(disk).map_err(|errno| {
            Trouble::new(&format!("{name} cannot be served on loopback: {}", broken(errno)), "")
        })?;
        servers.push(server);
    }
    let total: u64 = servers.iter().map(|server| server.disk.map.used_bytes()).sum();
    let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
    let mut ssh = login.start(&ports, "exec sh -s")?;
    let mut talk = Talk {
        order,
        remote: alloc::vec![0; ports.len()],
        stage: Stage::Login,
        probe: Probe::default(),
        done: Converted::default(),
    };
    let mut deadline = Some(Instant::now().after(LOGIN));
    let mut shown = (0, 0);
    while !ssh.ended() {
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = ssh.fds().collect();
        fds.extend(servers.iter().flat_map(Server::fds));
        let busy = servers.iter().any(Server::busy);
        wait(&fds, busy.then_some(core::time::Duration::ZERO));
        drop(fds);
        if !world.go_on() {
            return Err(canceled());
        }
        servers.iter_mut().for_each(Server::go_on);
        talk.done.sent = servers.iter().map(|server| server.sent).sum();
        let sum = |of: fn(&Seen) -> u64| servers.iter().map(|server| of(&server.seen)).sum();
        let now: (u64, u64) = (sum(Seen::fresh), sum(Seen::again));
        if now != shown {
            world.served(now.0, total, now.1);
            shown = now;
        }
        for heard in ssh.go_on(world) {
            let answer = talk.hear(world, &heard, &servers)?;
            ssh.send(answer.as_bytes());
        }
        if talk.stage == Stage::Working {
            deadline = None;
        } else if let Some(trouble) = &ssh.trouble {
            // Refused to forward, the client goes on all the same.
            return Err(trouble.clone());
        }
        if deadline.is_some_and(Instant::is_past) {
            return Err(silent());
        }
    }
    // The exit status of the client is no witness: it may be 0 after a refused login.
    let exit = ssh.exit();
    match &talk.stage {
        Stage::Ended(status) if status == "0" => {
            let disks = servers.into_iter().map(|server| server.disk).collect();
            Ok((talk.done, disks))
        }
        stage => {
            let bad = servers.iter().find_map(|server| server.disk.bad_trouble());
            let what = match (stage, exit) {
                (Stage::Ended(status), _) => format!("virt-v2v ended with status {status}"),
                (_, Some(exit)) => format!("the ssh client {exit}"),
                (_, None) => "the ssh client ended".to_string(),
            };
            let mut why = bad.unwrap_or_else(|| ssh.why(&what));
            if !talk.done.directory.is_empty() {
                if !why.remedy.is_empty() {
                    why.remedy += "; ";
                }
                why.remedy += &format!("the whole log is in {} on the server", talk.done.directory);
            }
            Err(why)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Login,
    Probing,
    Working,
    Ended(String),
}

/// The conversation with the shell at the other end.
struct Talk<'o> {
    order: &'o Order,
    /// The ports there, in the order of the disks.
    remote: Vec<u16>,
    stage: Stage,
    probe: Probe,
    done: Converted,
}

impl Talk<'_> {
    /// What to say next.
    fn hear(
        &mut self,
        world: &mut dyn World,
        heard: &Heard,
        servers: &[Server],
    ) -> Result<String, Trouble> {
        match heard {
            Heard::Port { local, remote } => {
                for (server, known) in servers.iter().zip(&mut self.remote) {
                    if server.port == *local {
                        *known = *remote;
                    }
                }
                if self.stage != Stage::Login || self.remote.contains(&0) {
                    return Ok(String::new());
                }
                self.stage = Stage::Probing;
                world.say("logged in; asking for virt-v2v");
                Ok(probe(self.order.conversion.sudo))
            }
            Heard::Report(report) if self.stage == Stage::Probing => {
                if !self.probe.take(report) {
                    return Ok(String::new());
                }
                self.probe.judge(&self.order.output)?;
                self.done.version = self.probe.version().to_string();
                world.say(&format!("the server has {}", self.done.version));
                if let Some(advice) = self.probe.advice() {
                    world.say(&advice);
                }
                if self.order.test {
                    self.stage = Stage::Ended("0".to_string());
                    return Ok("exit\n".to_string());
                }
                self.stage = Stage::Working;
                Ok(self.conversion(servers).script())
            }
            Heard::Report(report) => {
                match report.split_once(' ') {
                    Some(("directory", place)) if self.done.directory.is_empty() => {
                        self.done.directory = place.to_string();
                        world.say(&format!("converting; the logs are in {place} on the server"));
                    }
                    Some(("status", status)) => self.stage = Stage::Ended(status.to_string()),
                    _ => {}
                }
                Ok(String::new())
            }
        }
    }

    fn conversion(&self, servers: &[Server]) -> Conversion {
        let mut domain = self.order.domain.clone();
        let disks = servers
            .iter()
            .zip(&self.remote)
            .map(|(server, port)| domain::Disk { name: server.disk.name.clone(), port: *port });
        domain.disks = disks.collect();
        Conversion {
            name: domain.name.clone(),
            xml: domain.xml(),
            ports: self.remote.clone(),
            ..self.order.conversion.clone()
        }
    }
}
