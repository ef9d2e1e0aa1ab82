//! Chooses the boot link: every candidate is tried at once, and the first with an answer wins.
//!
//! Why: trying one network card after the other costs the sum of all their
//! time-outs, and the cards that cost most are those without a cable. Here a
//! dead port costs nothing, a port whose carrier comes late joins late, and a
//! card whose driver is still loading joins when it appears.
//!
//! The core has no sockets: it takes the kernel's news and received frames, and returns
//! [`Action`]s. [`crate::network`] carries them out.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use cmdline::plan::{Addressing, LinkChoice, Mac, NetworkPlan, Seconds};
use sys::netlink::{Address, FLAG_LOOPBACK, FLAG_NO_ARP, HARDWARE_ETHERNET, Link, News};

use crate::dhcp::client::{self, Client, Identity, Needs};
use crate::dhcp::lease::Lease;
use sys::clock::Instant;

/// How long the link named by `BOOTIF=` may take to appear after the first link, before all
/// links are used.
const MAC_GRACE: Duration = Duration::from_secs(5);
/// How long a round lasts while no card can be set up.
const DEAD_ROUND: Seconds = Seconds(3);

/// How long a link may be without a carrier before a message.
const CARRIER_REMARK: Duration = Duration::from_secs(2);
/// Most links in a race.
const MAX_LINKS: usize = 256;

/// An action for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set the link up.
    SetUp(u32),
    /// Set the link down again.
    SetDown(u32),
    /// Give the link, which is down, this name.
    Rename(u32, String),
    /// Make the plan's VLAN on this link.
    AddVlan(u32),
    /// Receive DHCP answers on the link.
    Listen(u32),
    /// Stop receiving them.
    Silence(u32),
    /// Send a frame.
    Send(u32, Vec<u8>),
}

/// An event, for the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its link; empty for none.
    pub device: String,
    /// The event.
    pub what: What,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The link has a carrier; DHCP begins.
    Carrier,
    /// No carrier so far.
    NoCarrier,
    /// The carrier was lost.
    CarrierLost,
    /// The device was removed.
    Gone,
    /// An event of the DHCP client.
    Dhcp(client::Event),
    /// The device is not used, and why.
    Skipped(&'static str),
    /// No link has the address of `BOOTIF=`; all are used.
    MacNotFound(Mac),
    /// The link already had an address and is used as it is.
    AlreadyConfigured(Address),
    /// An operation failed on this link; the others continue.
    Failed(String),
    /// A remark about the configuration.
    Note(String),
}

impl What {
    /// Whether it is shown on a quiet console.
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            What::Carrier
                | What::Skipped(_)
                | What::AlreadyConfigured(_)
                | What::Dhcp(client::Event::Asking | client::Event::Kept { .. })
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.device.is_empty() {
            write!(f, "{}: ", self.device)?;
        }
        match &self.what {
            What::Carrier => f.write_str("carrier up"),
            What::NoCarrier => f.write_str("no carrier"),
            What::CarrierLost => f.write_str("carrier lost"),
            What::Gone => f.write_str("device went away"),
            What::Dhcp(event) => write!(f, "{event}"),
            What::Skipped(why) => write!(f, "not used: {why}"),
            What::MacNotFound(mac) => {
                write!(f, "no network device has the address {} of BOOTIF, using all", mac)
            }
            What::AlreadyConfigured(found) => {
                write!(f, "already has {}/{}, using it", found.address, found.prefix)
            }
            What::Failed(why) | What::Note(why) => f.write_str(why),
        }
    }
}

/// The result of the race.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    /// The link.
    pub link: Link,
    /// The source of its address.
    pub how: How,
}

/// The source of the winner's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// By DHCP.
    Lease(Box<Lease>),
    /// The command line: only the carrier was missing.
    Static,
    /// The link already had one.
    Existing(Address),
}

/// Why no link won so far, link by link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The reason in one line.
    pub reason: String,
    /// Each link's attempts.
    pub links: Vec<LinkReport>,
}

/// The attempts on one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// Device name.
    pub device: String,
    /// Hardware address, when it has one.
    pub mac: Option<[u8; 6]>,
    /// The attempts and their results.
    pub outcome: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        for link in &self.links {
            write!(f, "\n  {}", link.device)?;
            if let Some(mac) = link.mac {
                write!(f, " ({})", Mac(mac))?;
            }
            write!(f, ": {}", link.outcome)?;
        }
        Ok(())
    }
}

/// The role of a link in this plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It may boot.
    Candidate,
    /// The VLAN sits on it.
    Parent,
    /// It may yet be the one: waiting for the address of `BOOTIF=`.
    Reserve,
    /// Not usable, and why.
    Unfit(&'static str),
}

/// One link in the race.
#[derive(Debug)]
struct Runner {
    link: Link,
    role: Role,
    /// Set up by us, and set down again if it loses.
    ours: bool,
    /// When it was set up, for the message about a missing carrier.
    up_since: Option<Instant>,
    remarked: bool,
    announced: bool,
    vlan_made: bool,
    client: Option<Client>,
    /// Whether it had a carrier at the last update.
    carrier: bool,
    /// The last failure.
    failure: Option<String>,
}

impl Runner {
    /// Whether its driver could not set it up: it has no firmware, or is broken. No carrier will
    /// come.
    fn is_dead(&self) -> bool {
        self.ours && !self.link.is_up() && self.failure.is_some()
    }
}

/// The race.
#[derive(Debug)]
pub struct Race {
    plan: NetworkPlan,
    needs: Needs,
    runners: Vec<Runner>,
    addresses: Vec<Address>,
    actions: Vec<Action>,
    events: Vec<Event>,
    winner: Option<Winner>,
    /// When the present round started.
    round: Instant,
    rounds: u32,
    round_over: Option<Report>,
    first_link: Option<Instant>,
    first_candidate: Option<Instant>,
    first_question: Option<Instant>,
    /// All links are candidates although `BOOTIF=` names one.
    mac_given_up: bool,
    seed: u32,
}

impl Race {
    /// A race without links. `seed` makes transaction ids.
    pub fn new(plan: NetworkPlan, needs: Needs, now: Instant, seed: u32) -> Race {
        Race {
            plan,
            needs,
            runners: Vec::new(),
            addresses: Vec::new(),
            actions: Vec::new(),
            events: Vec::new(),
            winner: None,
            round: now,
            rounds: 0,
            round_over: None,
            first_link: None,
            first_candidate: None,
            first_question: None,
            mac_given_up: false,
            seed,
        }
    }

    /// The plan of the race.
    pub fn plan(&self) -> &NetworkPlan {
        &self.plan
    }

    /// The actions to carry out now, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        core::mem::take(&mut self.actions)
    }

    /// Events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// The result, returned once.
    pub fn take_winner(&mut self) -> Option<Winner> {
        self.winner.take()
    }

    /// A round without a winner, returned once. The race continues.
    pub fn take_round_over(&mut self) -> Option<Report> {
        self.round_over.take()
    }

    /// Rounds that ended without a winner.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// All links and addresses: at the start, and again after messages were lost.
    pub fn snapshot(&mut self, now: Instant, links: Vec<Link>, addresses: Vec<Address>) {
        self.addresses = addresses;
        let gone: Vec<u32> = self
            .runners
            .iter()
            .map(|runner| runner.link.index)
            .filter(|index| !links.iter().any(|link| link.index == *index))
            .collect();
        for index in gone {
            self.forget(index);
        }
        for link in links {
            self.see(now, link);
        }
        self.tick(now);
    }

    /// News from the kernel. [`News::Lost`] calls for a new [`Race::snapshot`].
    pub fn news(&mut self, now: Instant, news: News) {
        match news {
            News::Link(link) => self.see(now, link),
            News::LinkGone(link) => self.forget(link.index),
            News::Address(address) => {
                self.addresses.retain(|known| {
                    (known.index, known.address) != (address.index, address.address)
                });
                if self.addresses.len() < MAX_LINKS {
                    self.addresses.push(address);
                }
                self.look_for_configured();
            }
            News::AddressGone(address) => self
                .addresses
                .retain(|known| (known.index, known.address) != (address.index, address.address)),
            News::Lost => {}
        }
    }

    /// A received frame of a link.
    pub fn frame(&mut self, now: Instant, index: u32, frame: &[u8]) {
        if let Some(at) = self.position(index) {
            self.step(now, at, Some(frame));
        }
    }

    /// An action failed on a link. It is tried again when its carrier returns or its lease
    /// arrives anew; the others continue.
    pub fn failed(&mut self, now: Instant, index: u32, why: String) {
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.link.index == index) else {
            self.events.push(Event { device: String::new(), what: What::Failed(why) });
            return;
        };
        // A removed device causes many errors; one line is enough.
        if runner.failure.as_ref() != Some(&why) {
            self.events
                .push(Event { device: runner.link.name.clone(), what: What::Failed(why.clone()) });
        }
        runner.failure = Some(why);
        // What failed says more than a missing carrier.
        runner.remarked |= runner.is_dead();
        if let Some(client) = &mut runner.client {
            client.restart(now.after(client::MAX_PAUSE));
        }
    }

    /// All drivers have been loaded: no further link will appear by itself, so the race stops
    /// waiting for the one named by `BOOTIF=`.
    pub fn settled(&mut self, now: Instant) {
        if self.first_link.is_some() {
            self.give_up_mac(now);
        }
    }

    /// When to call [`Race::tick`].
    pub fn deadline(&self) -> Option<Instant> {
        if self.winner.is_some() {
            return None;
        }
        let mut soonest = self.round_end().0;
        let mut consider = |moment: Instant| soonest = soonest.min(moment);
        for runner in &self.runners {
            if runner.carrier {
                runner.client.iter().filter_map(Client::deadline).for_each(&mut consider);
            } else if let Some(since) = runner.up_since
                && !runner.remarked
            {
                consider(since.after(CARRIER_REMARK));
            }
        }
        if let Some(moment) = self.mac_deadline() {
            consider(moment);
        }
        Some(soonest)
    }

    /// Performs the actions that are due.
    pub fn tick(&mut self, now: Instant) {
        if self.mac_deadline().is_some_and(|moment| moment <= now) {
            self.give_up_mac(now);
        }
        self.look_for_configured();
        for at in 0..self.runners.len() {
            self.step(now, at, None);
        }
        for runner in &mut self.runners {
            if let Some(since) = runner.up_since
                && !runner.carrier
                && !runner.remarked
                && now >= since.after(CARRIER_REMARK)
            {
                runner.remarked = true;
                self.events.push(Event { device: runner.link.name.clone(), what: What::NoCarrier });
            }
        }
        let (end, reason) = self.round_end();
        if self.winner.is_none() && end <= now {
            self.round_over = Some(self.report(now, reason));
            self.rounds = self.rounds.saturating_add(1);
            self.round = now;
        }
    }

    /// The name of a link.
    pub fn name_of(&self, index: u32) -> Option<&str> {
        let runner = self.runners.get(self.position(index)?)?;
        Some(runner.link.name.as_str())
    }

    fn position(&self, index: u32) -> Option<usize> {
        self.runners.iter().position(|runner| runner.link.index == index)
    }

    /// When the round ends, and its reason.
    fn round_end(&self) -> (Instant, &'static str) {
        let limit = |since: Option<Instant>, seconds: Seconds| {
            let since = since.map_or(self.round, |since| since.max(self.round));
            since.after(seconds.max(Seconds(1)).into())
        };
        if self.first_question.is_some() && self.runners.iter().any(|runner| runner.carrier) {
            let useless = |runner: &Runner| Some(runner.client.as_ref()?.trouble().is_some());
            let reason = match self.runners.iter().any(|runner| useless(runner) == Some(true)) {
                true => "no DHCP server gave a usable answer",
                false => "no DHCP server answered",
            };
            (limit(self.first_question, self.plan.dhcp_timeout), reason)
        } else if self.first_candidate.is_some() {
            match self.runners.iter().all(|r| r.role != Role::Candidate || r.is_dead()) {
                true => (limit(None, DEAD_ROUND), "no network device can be set up"),
                false => (
                    limit(self.first_candidate, self.plan.carrier_timeout),
                    "no network device that may be used has a carrier",
                ),
            }
        } else {
            let reason = match (&self.plan.addressing, self.first_link) {
                (Addressing::Existing, _) => "no network device has an address",
                (_, Some(_)) => "none of the network devices may be used",
                (_, None) => "there is no network device",
            };
            (limit(None, self.plan.link_timeout), reason)
        }
    }

    /// The attempts on each link so far.
    pub fn report(&self, now: Instant, reason: &str) -> Report {
        let mut links: Vec<LinkReport> = Vec::new();
        for runner in &self.runners {
            if runner.link.flags & FLAG_LOOPBACK != 0 {
                continue;
            }
            let outcome = match (runner.role, &runner.client) {
                (Role::Unfit(why), _) => format!("not used: {why}"),
                (Role::Reserve, _) => "not used: BOOTIF names another".to_owned(),
                _ if !runner.carrier => match &runner.failure {
                    Some(failure) => format!("no carrier; {failure}"),
                    None => "no carrier (cable, switch port?)".to_owned(),
                },
                (Role::Parent, _) => "carries the VLAN".to_owned(),
                (_, Some(client)) => {
                    let waited = client.began().map_or(0, |began| now.since(began).as_secs());
                    let mut text =
                        format!("asked DHCP {} times in {waited} s, no lease", client.tries());
                    if let Some(trouble) = client.trouble() {
                        text.push_str(&format!("; {trouble}"));
                    }
                    if let Some(failure) = &runner.failure {
                        text.push_str("; ");
                        text.push_str(failure);
                    }
                    text
                }
                _ => runner.failure.clone().unwrap_or_else(|| "carrier up".to_owned()),
            };
            let device = runner.link.name.clone();
            links.push(LinkReport { device, mac: runner.link.mac, outcome });
        }
        if let LinkChoice::Named(names) = &self.plan.links {
            for name in names {
                if !self.runners.iter().any(|runner| runner.link.name == *name) {
                    let outcome = "no such device (name wrong, driver missing?)".to_owned();
                    links.push(LinkReport { device: name.clone(), mac: None, outcome });
                }
            }
        }
        Report { reason: reason.to_owned(), links }
    }

    /// A link was added or changed.
    fn see(&mut self, now: Instant, link: Link) {
        match self.position(link.index) {
            Some(at) => {
                if let Some(runner) = self.runners.get_mut(at) {
                    runner.link = link;
                }
            }
            None if self.runners.len() < MAX_LINKS => {
                let mut runner = Runner {
                    link,
                    role: Role::Unfit(""),
                    ours: false,
                    up_since: None,
                    remarked: false,
                    announced: false,
                    vlan_made: false,
                    client: None,
                    carrier: false,
                    failure: None,
                };
                self.rename(&mut runner);
                self.runners.push(runner);
            }
            None => return,
        }
        self.sort_out(now);
    }

    /// Renames a link to the plan's name for its address (`ifname=`).
    fn rename(&mut self, runner: &mut Runner) {
        let link = &mut runner.link;
        let wanted = self
            .plan
            .names
            .iter()
            .find(|wanted| Some(wanted.mac.0) == link.mac && link.kind != "vlan");
        if let Some(wanted) = wanted
            && wanted.name != link.name
        {
            if link.is_up() {
                self.actions.push(Action::SetDown(link.index));
                link.flags &= !sys::netlink::FLAG_UP;
            }
            self.actions.push(Action::Rename(link.index, wanted.name.clone()));
            link.name.clone_from(&wanted.name);
        }
    }

    /// A link was removed.
    fn forget(&mut self, index: u32) {
        self.addresses.retain(|address| address.index != index);
        let Some(at) = self.position(index) else { return };
        let runner = self.runners.remove(at);
        if runner.client.is_some() {
            self.actions.push(Action::Silence(index));
        }
        if runner.role == Role::Candidate {
            self.events.push(Event { device: runner.link.name, what: What::Gone });
        }
    }

    /// The role of a link.
    fn role(&self, link: &Link) -> Role {
        if link.flags & FLAG_LOOPBACK != 0 {
            return Role::Unfit("loopback");
        }
        if let Some(vlan) = &self.plan.vlan {
            if link.name == vlan.name {
                return Role::Candidate;
            }
            if link.name == vlan.link {
                return Role::Parent;
            }
            if !vlan.link.is_empty() {
                return Role::Unfit("the VLAN is on another device");
            }
            return match self.chosen(link) {
                Role::Candidate => Role::Parent,
                other => other,
            };
        }
        self.chosen(link)
    }

    /// Whether the plan allows this link.
    fn chosen(&self, link: &Link) -> Role {
        let named = match &self.plan.links {
            LinkChoice::Named(names) => {
                if !names.contains(&link.name) {
                    return Role::Unfit("the line names another device");
                }
                true
            }
            _ => false,
        };
        if self.plan.addressing == Addressing::Existing {
            return Role::Candidate;
        }
        if link.hardware != HARDWARE_ETHERNET || link.flags & FLAG_NO_ARP != 0 {
            return Role::Unfit("not Ethernet");
        }
        if named {
            return Role::Candidate;
        }
        if link.master.is_some() {
            return Role::Unfit("part of a bridge or bond");
        }
        match link.kind.as_str() {
            "" | "veth" | "dsa" | "gadget" => {}
            "wlan" => return Role::Unfit("wireless"),
            _ => return Role::Unfit("not a wired network card"),
        }
        match &self.plan.links {
            LinkChoice::Mac(mac) if link.mac != Some(mac.0) && !self.mac_given_up => Role::Reserve,
            _ => Role::Candidate,
        }
    }

    /// Updates every link's role and sets up the usable ones.
    fn sort_out(&mut self, now: Instant) {
        if self.winner.is_some() {
            return;
        }
        for at in 0..self.runners.len() {
            let Some(runner) = self.runners.get(at) else { continue };
            let role = self.role(&runner.link);
            let existing = self.plan.addressing == Addressing::Existing;
            let Some(runner) = self.runners.get_mut(at) else { continue };
            runner.role = role;
            let device = || runner.link.name.clone();
            if let Role::Unfit(why) = role {
                if !runner.announced && why != "loopback" {
                    self.events.push(Event { device: device(), what: What::Skipped(why) });
                }
                runner.announced = true;
                continue;
            }
            self.first_link.get_or_insert(now);
            if role == Role::Reserve || existing {
                continue;
            }
            if runner.up_since.is_none() {
                runner.up_since = Some(now);
                if !runner.link.is_up() {
                    runner.ours = true;
                    self.actions.push(Action::SetUp(runner.link.index));
                }
            }
            if role == Role::Parent {
                if !runner.vlan_made {
                    runner.vlan_made = true;
                    self.actions.push(Action::AddVlan(runner.link.index));
                }
                runner.carrier = runner.link.has_carrier();
                continue;
            }
            self.first_candidate.get_or_insert(now);
            let carrier = runner.link.has_carrier();
            if carrier != runner.carrier {
                runner.carrier = carrier;
                let what = if carrier { What::Carrier } else { What::CarrierLost };
                self.events.push(Event { device: device(), what });
                if carrier {
                    self.carrier_up(now, at);
                }
            }
        }
        self.look_for_configured();
    }

    /// A candidate can send now.
    fn carrier_up(&mut self, now: Instant, at: usize) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        runner.failure = None;
        match &self.plan.addressing {
            Addressing::Static(_) => {
                let link = runner.link.clone();
                self.finish(Winner { link, how: How::Static });
            }
            Addressing::Existing => {}
            Addressing::Dhcp(request) => {
                let Some(mac) = runner.link.mac else {
                    runner.failure = Some("it has no hardware address".to_owned());
                    return;
                };
                self.first_question.get_or_insert(now);
                match &mut runner.client {
                    Some(client) => client.restart(now),
                    None => {
                        let mut identity = Identity::new(mac);
                        identity.requested = request.requested;
                        if let Some((kind, id)) = &request.client_id {
                            identity.client_id.push(*kind);
                            identity.client_id.extend_from_slice(id);
                        }
                        if let Some(class) = &request.vendor_class {
                            identity.vendor_class.clone_from(class);
                        }
                        identity.hostname.clone_from(&self.plan.hostname);
                        let salt = runner.link.index.wrapping_mul(0x9e37_79b9);
                        runner.client = Some(Client::new(identity, self.needs, self.seed ^ salt));
                        self.actions.push(Action::Listen(runner.link.index));
                    }
                }
            }
        }
    }

    /// Steps one link's client.
    fn step(&mut self, now: Instant, at: usize, frame: Option<&[u8]>) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        let Some(client) = &mut runner.client else { return };
        if self.winner.is_some() || !runner.carrier {
            return;
        }
        let due = client.deadline().is_some_and(|deadline| deadline <= now);
        if frame.is_none() && !due {
            return;
        }
        let output = client.step(now, frame);
        let index = runner.link.index;
        for event in output.events {
            let device = runner.link.name.clone();
            self.events.push(Event { device, what: What::Dhcp(event) });
        }
        self.actions.extend(output.frame.map(|frame| Action::Send(index, frame)));
        if let Some(lease) = output.lease {
            let link = runner.link.clone();
            self.finish(Winner { link, how: How::Lease(lease) });
        }
    }

    /// Takes a link that was configured before us, when the plan allows it.
    fn look_for_configured(&mut self) {
        if self.winner.is_some() {
            return;
        }
        let wanted = match &self.plan.addressing {
            Addressing::Static(_) => return,
            // Option 17 comes with a lease only.
            Addressing::Dhcp(_) if self.needs.root_path => return,
            Addressing::Dhcp(request) => request.requested,
            Addressing::Existing => None,
        };
        let found = self.addresses.iter().find_map(|address| {
            let runner = self.runners.iter().find(|runner| runner.link.index == address.index)?;
            let fits = runner.role == Role::Candidate
                && address.scope == 0
                && !address.address.is_loopback()
                && wanted.is_none_or(|wanted| wanted == address.address)
                && runner.link.has_carrier();
            fits.then(|| (runner.link.clone(), *address))
        });
        if let Some((link, address)) = found {
            let device = link.name.clone();
            self.events.push(Event { device, what: What::AlreadyConfigured(address) });
            self.finish(Winner { link, how: How::Existing(address) });
        }
    }

    /// Ends the race; the other links that we set up are set down again.
    fn finish(&mut self, winner: Winner) {
        for runner in &mut self.runners {
            let index = runner.link.index;
            if runner.client.take().is_some() {
                self.actions.push(Action::Silence(index));
            }
            if runner.ours && index != winner.link.index && Some(index) != winner.link.parent {
                self.actions.push(Action::SetDown(index));
                runner.ours = false;
            }
        }
        self.winner = Some(winner);
    }

    /// When to stop waiting for a link with the address of `BOOTIF=`.
    fn mac_deadline(&self) -> Option<Instant> {
        let LinkChoice::Mac(mac) = &self.plan.links else { return None };
        let here = self.runners.iter().any(|runner| {
            runner.link.mac == Some(mac.0) && matches!(runner.role, Role::Candidate | Role::Parent)
        });
        if here || self.mac_given_up {
            return None;
        }
        Some(self.first_link?.after(MAC_GRACE))
    }

    fn give_up_mac(&mut self, now: Instant) {
        if self.mac_deadline().is_none() {
            return;
        }
        if let LinkChoice::Mac(mac) = &self.plan.links {
            self.events.push(Event { device: String::new(), what: What::MacNotFound(*mac) });
        }
        self.mac_given_up = true;
        self.sort_out(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{lease, plan};
    use cmdline::plan::{DhcpRequest, LinkName, StaticAddress, Vlan};
    use core::net::Ipv4Addr;
    use sys::netlink::{FLAG_LOWER_UP, FLAG_UP};

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: Some([0x52, 0x54, 0, 0, 0, index as u8]),
            hardware: HARDWARE_ETHERNET,
            mtu: 1500,
            ..Link::default()
        }
    }

    fn up(mut link: Link, carrier: bool) -> Link {
        link.flags |= FLAG_UP;
        if carrier {
            link.flags |= FLAG_LOWER_UP;
        }
        link
    }

    fn race(plan: NetworkPlan) -> Race {
        Race::new(plan, Needs::default(), at(0), 1)
    }

    /// A server's answer to the frame that a link sent.
    fn reply(frame: &[u8], kind: u8) -> Vec<u8> {
        use crate::dhcp::message::tests::{answer, wrap};
        let transaction = u32::from_be_bytes(frame[46..50].try_into().unwrap());
        let server = Ipv4Addr::new(10, 0, 0, 1);
        let ours = Ipv4Addr::new(10, 0, 0, 5);
        let made = answer(Some(kind), transaction, server, ours, &[(1, &[255, 255, 255, 0])]);
        let mut bootp = made[42..].to_vec();
        bootp[28..34].copy_from_slice(&frame[6..12]);
        wrap(&bootp, server)
    }

    fn texts(race: &mut Race) -> Vec<String> {
        race.take_events().iter().map(ToString::to_string).collect()
    }

    /// The frames among the actions, by link.
    fn sent(race: &mut Race) -> Vec<(u32, Vec<u8>)> {
        race.take_actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Send(index, frame) => Some((index, frame)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn all_links_go_up_at_once_and_the_first_lease_wins() {
        let mut race = race(plan());
        let mut lo = link(1, "lo");
        lo.flags = FLAG_LOOPBACK;
        let mut wlan = link(5, "wlan0");
        wlan.kind = "wlan".into();
        let links = vec![lo, link(2, "eth0"), link(3, "eth1"), link(4, "eth2"), wlan];
        race.snapshot(at(0), links, Vec::new());
        assert_eq!(race.take_actions(), [Action::SetUp(2), Action::SetUp(3), Action::SetUp(4)]);
        assert_eq!(texts(&mut race), ["wlan0: not used: wireless"]);

        // eth1 and eth2 have a carrier, eth0 is dead; only eth2 has a server.
        race.news(at(10), News::Link(up(link(3, "eth1"), true)));
        race.news(at(10), News::Link(up(link(2, "eth0"), false)));
        race.tick(at(10));
        race.news(at(500), News::Link(up(link(4, "eth2"), true)));
        race.tick(at(500));
        let actions = race.take_actions();
        assert!(actions.contains(&Action::Listen(3)) && actions.contains(&Action::Listen(4)));
        let frame = actions.iter().find_map(|action| match action {
            Action::Send(4, frame) => Some(frame.clone()),
            _ => None,
        });
        race.frame(at(505), 4, &reply(&frame.unwrap(), 2));
        let request = sent(&mut race);
        race.frame(at(510), 4, &reply(&request[0].1, 5));
        let winner = race.take_winner().unwrap();
        assert_eq!(winner.link.name, "eth2");
        assert!(matches!(winner.how, How::Lease(lease) if lease.prefix == Some(24)));
        let actions = race.take_actions();
        assert!(actions.contains(&Action::SetDown(2)) && actions.contains(&Action::SetDown(3)));
        assert!(!actions.contains(&Action::SetDown(4)));
        assert_eq!(
            texts(&mut race),
            ["eth1: carrier up", "eth1: asking DHCP", "eth2: carrier up", "eth2: asking DHCP"]
        );
    }

    #[test]
    fn a_dead_link_is_remarked_on_and_reported() {
        let mut race = race(plan());
        race.snapshot(at(0), vec![link(2, "eth0")], Vec::new());
        race.news(at(1), News::Link(up(link(2, "eth0"), false)));
        let mut now = 0;
        let report = loop {
            race.tick(at(now));
            if let Some(report) = race.take_round_over() {
                break report;
            }
            let next = race.deadline().unwrap().millis();
            assert!(next > now);
            now = next;
        };
        assert_eq!(now, 10_000);
        assert_eq!(texts(&mut race), ["eth0: no carrier"]);
        assert_eq!(
            report.to_string(),
            "no network device that may be used has a carrier\n  \
             eth0 (52:54:00:00:00:02): no carrier (cable, switch port?)"
        );
        // It goes on: a carrier after the round counts.
        race.news(at(11_000), News::Link(up(link(2, "eth0"), true)));
        race.tick(at(11_000));
        assert_eq!(sent(&mut race).len(), 1);
        assert!(race.deadline().unwrap() > at(11_000));
    }

    #[test]
    fn no_answer_is_reported_with_what_was_tried_and_asking_goes_on() {
        let mut race = race(plan());
        race.snapshot(at(0), vec![up(link(2, "eth0"), true), link(3, "eth1")], Vec::new());
        let mut now = 0;
        let mut frames = 0;
        while race.rounds() < 2 {
            race.tick(at(now));
            frames += sent(&mut race).len();
            now = race.deadline().unwrap().millis().max(now + 1);
        }
        let report = race.take_round_over().unwrap();
        assert_eq!(report.reason, "no DHCP server answered");
        assert!(report.links[0].outcome.starts_with("asked DHCP 9 times in 30 s"), "{report}");
        assert_eq!(report.links[1].outcome, "no carrier (cable, switch port?)");
        assert_eq!(frames, 9);
    }

    #[test]
    fn late_devices_join_and_lost_ones_leave() {
        let mut race = race(plan());
        race.snapshot(at(0), Vec::new(), Vec::new());
        assert_eq!(race.deadline(), Some(at(20_000)));
        race.news(at(3000), News::Link(link(7, "eth0")));
        assert_eq!(race.take_actions(), [Action::SetUp(7)]);
        race.news(at(3100), News::Link(up(link(7, "eth0"), true)));
        race.tick(at(3100));
        assert_eq!(sent(&mut race).len(), 1);
        race.news(at(3200), News::LinkGone(link(7, "eth0")));
        assert_eq!(race.take_actions(), [Action::Silence(7)]);
        race.tick(at(9000));
        assert_eq!(
            texts(&mut race),
            ["eth0: carrier up", "eth0: asking DHCP", "eth0: device went away"]
        );
    }

    #[test]
    fn a_carrier_that_returns_is_asked_at_once() {
        let mut race = race(plan());
        race.snapshot(at(0), vec![up(link(2, "eth0"), true)], Vec::new());
        assert_eq!(sent(&mut race).len(), 1);
        race.news(at(100), News::Link(up(link(2, "eth0"), false)));
        race.tick(at(5000));
        assert_eq!(sent(&mut race).len(), 0);
        race.news(at(5100), News::Link(up(link(2, "eth0"), true)));
        race.tick(at(5100));
        assert_eq!(sent(&mut race).len(), 1);
    }

    #[test]
    fn names_are_exact() {
        let mut plan = plan();
        plan.links = LinkChoice::Named(vec!["eth1".into(), "eth9".into()]);
        let mut race = race(plan);
        race.snapshot(at(0), vec![link(2, "eth0"), link(3, "eth1")], Vec::new());
        assert_eq!(race.take_actions(), [Action::SetUp(3)]);
        let report = race.report(at(0), "x");
        assert_eq!(report.links[0].outcome, "not used: the line names another device");
        assert_eq!(report.links[2].device, "eth9");
    }

    #[test]
    fn bootif_waits_a_little_for_its_device_then_takes_all() {
        let mut plan = plan();
        plan.links = LinkChoice::Mac(Mac([0x52, 0x54, 0, 0, 0, 9]));
        let mut late = race(plan.clone());
        late.snapshot(at(0), vec![link(2, "eth0")], Vec::new());
        assert_eq!(late.take_actions(), []);
        late.news(at(4000), News::Link(link(9, "eth1")));
        late.tick(at(4000));
        assert_eq!(late.take_actions(), [Action::SetUp(9)]);
        late.tick(at(6000));
        assert_eq!(late.take_actions(), []);

        let mut never = race(plan.clone());
        never.snapshot(at(0), vec![link(2, "eth0")], Vec::new());
        assert_eq!(never.deadline(), Some(at(5000)));
        never.tick(at(5000));
        assert_eq!(never.take_actions(), [Action::SetUp(2)]);
        assert_eq!(
            texts(&mut never),
            ["no network device has the address 52:54:00:00:00:09 of BOOTIF, using all"]
        );

        let mut settled = race(plan);
        settled.snapshot(at(0), vec![link(2, "eth0")], Vec::new());
        settled.settled(at(100));
        assert_eq!(settled.take_actions(), [Action::SetUp(2)]);
    }

    #[test]
    fn a_static_address_waits_for_a_carrier_only() {
        let mut plan = plan();
        plan.addressing = Addressing::Static(StaticAddress {
            address: Ipv4Addr::new(10, 0, 0, 5),
            prefix: 24,
            gateway: None,
        });
        let mut race = race(plan);
        race.snapshot(at(0), vec![link(2, "eth0"), link(3, "eth1")], Vec::new());
        assert_eq!(race.take_winner(), None);
        race.news(at(900), News::Link(up(link(3, "eth1"), true)));
        let winner = race.take_winner().unwrap();
        assert_eq!((winner.link.name.as_str(), winner.how), ("eth1", How::Static));
    }

    #[test]
    fn what_is_configured_is_used() {
        let address = Address {
            index: 2,
            address: Ipv4Addr::new(10, 0, 0, 5),
            prefix: 24,
            scope: 0,
            broadcast: None,
        };
        let mut dhcp = race(plan());
        dhcp.snapshot(at(0), vec![up(link(2, "eth0"), true), link(3, "eth1")], vec![address]);
        let winner = dhcp.take_winner().unwrap();
        assert_eq!(winner.how, How::Existing(address));
        assert!(!dhcp.take_actions().iter().any(|action| matches!(action, Action::Send(..))));

        // Another address was asked for: DHCP has to say.
        let mut other = plan();
        let requested = Some(Ipv4Addr::new(10, 0, 0, 6));
        other.addressing = Addressing::Dhcp(DhcpRequest { requested, ..DhcpRequest::default() });
        let mut other = race(other);
        other.snapshot(at(0), vec![up(link(2, "eth0"), true)], vec![address]);
        assert_eq!(other.take_winner(), None);

        // The root path comes with a lease only.
        let needs = Needs { root_path: true, boot_server: false };
        let mut rooted = Race::new(plan(), needs, at(0), 1);
        rooted.snapshot(at(0), vec![up(link(2, "eth0"), true)], vec![address]);
        assert_eq!(rooted.take_winner(), None);

        // `ip=off`: nothing is touched, the address may come later.
        let mut existing = plan();
        existing.addressing = Addressing::Existing;
        let mut existing = race(existing);
        existing.snapshot(at(0), vec![up(link(2, "eth0"), true)], Vec::new());
        assert_eq!(existing.take_actions(), []);
        existing.news(at(50), News::Address(address));
        assert!(existing.take_winner().is_some());
    }

    #[test]
    fn a_vlan_is_made_on_its_link_and_only_it_is_asked() {
        let mut plan = plan();
        plan.vlan = Some(Vlan { name: "eth0.7".into(), link: "eth0".into(), id: 7 });
        let mut race = race(plan);
        race.snapshot(at(0), vec![link(2, "eth0"), link(3, "eth1")], Vec::new());
        assert_eq!(race.take_actions(), [Action::SetUp(2), Action::AddVlan(2)]);
        race.news(at(5), News::Link(up(link(2, "eth0"), true)));
        let mut vlan = link(4, "eth0.7");
        vlan.kind = "vlan".into();
        vlan.parent = Some(2);
        race.news(at(6), News::Link(vlan.clone()));
        assert_eq!(race.take_actions(), [Action::SetUp(4)]);
        race.news(at(7), News::Link(up(vlan, true)));
        race.tick(at(7));
        let frames = sent(&mut race);
        assert_eq!(frames[0].0, 4);
        race.frame(at(8), 4, &reply(&frames[0].1, 2));
        let request = sent(&mut race);
        race.frame(at(9), 4, &reply(&request[0].1, 5));
        assert_eq!(race.take_winner().unwrap().link.name, "eth0.7");
        assert_eq!(race.take_actions(), [Action::Silence(4)], "its link stays up");
    }

    #[test]
    fn links_get_the_names_of_the_line_before_anything_else() {
        let mut plan = plan();
        plan.names.push(LinkName { name: "lan".into(), mac: Mac([0x52, 0x54, 0, 0, 0, 3]) });
        plan.links = LinkChoice::Named(vec!["lan".into()]);
        let mut race = race(plan);
        race.snapshot(at(0), vec![link(2, "eth0"), up(link(3, "eth1"), true)], Vec::new());
        assert_eq!(
            race.take_actions(),
            [Action::SetDown(3), Action::Rename(3, "lan".into()), Action::SetUp(3)]
        );
    }

    /// A card without its firmware never has a carrier: the round ends early and says why.
    #[test]
    fn a_card_that_cannot_be_set_up_is_not_waited_for() {
        let mut race = race(plan());
        race.snapshot(at(0), vec![link(2, "eth0")], Vec::new());
        assert_eq!(race.take_actions(), [Action::SetUp(2)]);
        race.failed(at(1), 2, "cannot set link 2 up: ENOENT".into());
        assert_eq!(race.deadline(), Some(at(3000)));
        race.tick(at(3000));
        let report = race.take_round_over().unwrap().to_string();
        assert_eq!(
            report,
            "no network device can be set up\n  \
             eth0 (52:54:00:00:00:02): no carrier; cannot set link 2 up: ENOENT"
        );
        assert_eq!(texts(&mut race), ["eth0: cannot set link 2 up: ENOENT"]);
        // Beside a card that works, the others' carrier is waited for.
        race.news(at(3001), News::Link(up(link(3, "eth1"), false)));
        race.tick(at(6500));
        assert_eq!(race.take_round_over(), None);
        race.news(at(6501), News::Link(up(link(2, "eth0"), true)));
        race.tick(at(6502));
        assert_eq!(sent(&mut race).len(), 1, "it came up after all");
    }

    #[test]
    fn a_link_that_fails_does_not_stop_the_others() {
        let mut race = race(plan());
        let links = vec![up(link(2, "eth0"), true), up(link(3, "eth1"), true)];
        race.snapshot(at(0), links, Vec::new());
        let frames = sent(&mut race);
        assert_eq!(frames.len(), 2);
        race.failed(at(1), 2, "cannot send: ENETDOWN".into());
        race.failed(at(1), 2, "cannot send: ENETDOWN".into());
        assert_eq!(texts(&mut race).iter().filter(|text| text.contains("ENETDOWN")).count(), 1);
        race.tick(at(1600));
        assert_eq!(sent(&mut race).iter().map(|(index, _)| *index).collect::<Vec<_>>(), [3]);
        race.tick(at(4100));
        assert!(sent(&mut race).iter().any(|(index, _)| *index == 2));
        let _ = lease(&[]);
    }
}
