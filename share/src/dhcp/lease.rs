//! Leased addresses, one for each hardware address.
//!
//! The boot ROM, the boot loader and the live system of one machine use different client
//! identifiers (option 61). Keyed by hardware address, all three get the same address. Offers
//! hold nothing: the first client that takes an address has it, so that forged requests do not
//! exhaust the range.

use cmdline::plan::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Seconds that an offer holds its address.
const OFFER: u64 = 30;
/// Seconds that a client may take to use an address: it looks first whether another has it.
const SETTLING: u64 = 15;
/// Seconds that an address is avoided after a client declined it because another machine uses
/// it.
const DECLINED: u64 = 600;

/// An address and when its lease or offer ends, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// When it ends.
    pub until: u64,
    /// The client took it; otherwise it is only offered.
    pub taken: bool,
}

/// The addresses of one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    first: u32,
    last: u32,
    by_mac: BTreeMap<Mac, Lease>,
    /// Addresses in use without a lease from here: until when they are avoided, and the
    /// holder's hardware address if known.
    avoided: BTreeMap<Ipv4Addr, (u64, Option<Mac>)>,
}

impl Leases {
    /// An empty range, ends included. An address of `used` is leased only to the machine that
    /// was found on it: it may be a client from before a restart.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr, used: &BTreeMap<Ipv4Addr, Mac>) -> Self {
        let avoided = used.iter().map(|(at, mac)| (*at, (u64::MAX, Some(*mac)))).collect();
        Self { first: first.into(), last: last.into(), by_mac: BTreeMap::new(), avoided }
    }

    fn holds(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    fn avoids(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        let avoided = self.avoided.get(&address);
        avoided.is_some_and(|(until, holder)| *until > now && *holder != Some(mac))
    }

    /// Whether an address may be leased to `mac`. Offers to others do not hold it.
    fn free_for(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        self.holds(address)
            && !self.avoids(mac, address, now)
            && !self.by_mac.iter().any(|(other, lease)| {
                *other != mac && lease.address == address && lease.until > now && lease.taken
            })
    }

    /// Forgets the leases of addresses on which no machine was found. Not those that began
    /// within the last seconds, of `lease` seconds each: such a client may not answer yet.
    pub fn reclaim(&mut self, found: &BTreeMap<Ipv4Addr, Mac>, lease: u32, now: u64) {
        let new = now.saturating_add(u64::from(lease)).saturating_sub(SETTLING);
        self.by_mac.retain(|_, l| !l.taken || l.until > new || found.contains_key(&l.address));
    }

    /// The range, ends included.
    pub fn ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.first.into(), self.last.into())
    }

    /// The address to offer: the client's earlier one, the requested one, or a free one. `None`
    /// when all are taken.
    pub fn offer(&mut self, mac: Mac, wanted: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        let had = self.by_mac.get(&mac).copied();
        let taken: BTreeSet<Ipv4Addr> = self
            .by_mac
            .iter()
            .filter(|(other, lease)| **other != mac && lease.until > now)
            .map(|(_, lease)| lease.address)
            .collect();
        let free =
            |address: &Ipv4Addr| !taken.contains(address) && !self.avoids(mac, *address, now);
        let known = had.map(|lease| lease.address).into_iter().chain(wanted);
        let mut known = known.filter(|address| self.holds(*address)).filter(|a| free(a));
        let mut fresh = (self.first..=self.last).map(Ipv4Addr::from).filter(free);
        // Never-leased addresses first; a client may return for an expired one.
        let remembered: BTreeSet<Ipv4Addr> = self.by_mac.values().map(|l| l.address).collect();
        let address = known
            .next()
            .or_else(|| fresh.clone().find(|address| !remembered.contains(address)))
            .or_else(|| fresh.next())
            .or_else(|| self.oldest_offer(mac, now))?;
        let still =
            had.filter(|lease| lease.taken && lease.address == address && lease.until > now);
        let until = still.map_or(now.saturating_add(OFFER), |lease| lease.until);
        self.by_mac.retain(|other, lease| *other == mac || lease.address != address);
        self.by_mac.insert(mac, Lease { address, until, taken: still.is_some() });
        Some(address)
    }

    /// The address that was offered first of those that were not taken.
    fn oldest_offer(&self, mac: Mac, now: u64) -> Option<Ipv4Addr> {
        let offers = self.by_mac.values().filter(|lease| !lease.taken);
        let offers = offers.filter(|lease| !self.avoids(mac, lease.address, now));
        offers.min_by_key(|lease| lease.until).map(|lease| lease.address)
    }

    /// Leases an address for `seconds`; false when it is not available.
    pub fn take(&mut self, mac: Mac, address: Ipv4Addr, seconds: u32, now: u64) -> bool {
        if !self.free_for(mac, address, now) {
            return false;
        }
        self.by_mac.retain(|other, lease| *other == mac || lease.address != address);
        let until = now.saturating_add(u64::from(seconds));
        self.by_mac.insert(mac, Lease { address, until, taken: true });
        true
    }

    /// Ends a client's lease. With `used` the client declined it: another machine has the
    /// address.
    pub fn release(&mut self, mac: Mac, used: Option<Ipv4Addr>, now: u64) {
        // Only the client's own address: any client can claim that an address is in use.
        let own = self.by_mac.get(&mac).map(|lease| lease.address);
        if let Some(address) = used.filter(|address| own == Some(*address)) {
            self.avoided.insert(address, (now.saturating_add(DECLINED), None));
            self.by_mac.remove(&mac);
        } else if let Some(lease) = self.by_mac.get_mut(&mac) {
            // The address stays reserved for the client.
            lease.until = now;
            lease.taken = false;
        }
    }

    /// The address that a client has now.
    pub fn of(&self, mac: Mac, now: u64) -> Option<Ipv4Addr> {
        self.by_mac.get(&mac).filter(|lease| lease.taken && lease.until > now).map(|l| l.address)
    }

    /// Every lease, one a line: hardware address, address, end.
    pub fn to_text(&self) -> String {
        let mut text = String::from("# hardware address, address, end in seconds since 1970\n");
        for (mac, lease) in self.by_mac.iter().filter(|(_, lease)| lease.taken) {
            let _ = writeln!(text, "{mac} {} {}", lease.address, lease.until);
        }
        text
    }

    /// Loads the leases from before a restart. Malformed lines and addresses outside the range
    /// are skipped.
    pub fn remember(&mut self, text: &str) {
        for line in text.lines().take(70_000) {
            let mut words = line.split_ascii_whitespace();
            let mut lease = || {
                let mac = words.next()?.parse::<Mac>().ok()?;
                let address = words.next()?.parse::<Ipv4Addr>().ok()?;
                Some((mac, address, words.next()?.parse::<u64>().ok()?))
            };
            let Some((mac, address, until)) = lease() else { continue };
            if self.holds(address) && !self.by_mac.values().any(|l| l.address == address) {
                self.by_mac.insert(mac, Lease { address, until, taken: true });
            }
        }
    }
}

/// Whether an address is of the network of `own`.
#[must_use]
pub fn inside(address: Ipv4Addr, own: Ipv4Addr, prefix: u8) -> bool {
    (u32::from(address) ^ u32::from(own)) & mask(prefix) == 0
}

/// The netmask of a prefix length.
#[must_use]
pub fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// A range for a network: a part without `own`, `avoid` and the addresses usually assigned by
/// hand. `None` in a network of fewer than eight addresses.
pub fn range(own: Ipv4Addr, prefix: u8, avoid: &[Ipv4Addr]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if !(8..=29).contains(&prefix) {
        return None;
    }
    // In a large network, the /24 around our address.
    let mask = mask(prefix.max(24));
    let network = u32::from(own) & mask;
    let size = !mask + 1;
    let (mut first, mut last) = match size {
        256 => (network + 100, network + 199),
        _ => (network + size / 2, network + size - 2),
    };
    // The longer side of an address that lies inside.
    for address in avoid.iter().chain([&own]).map(|address| u32::from(*address)) {
        if (first..=last).contains(&address) {
            if address - first > last - address {
                last = address - 1;
            } else {
                first = address + 1;
            }
        }
    }
    (first <= last).then(|| (first.into(), last.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn leases(first: u8, last: u8) -> Leases {
        Leases::new(ip(first), ip(last), &[(ip(11), mac(99))].into())
    }

    #[test]
    fn the_same_machine_gets_the_same_address() {
        let mut leases = leases(10, 20);
        assert_eq!(leases.offer(mac(1), None, 0), Some(ip(10)));
        assert_eq!(leases.offer(mac(1), Some(ip(15)), 1), Some(ip(10)));
        assert_eq!(leases.offer(mac(2), None, 1), Some(ip(12)));
        assert!(leases.take(mac(1), ip(10), 100, 2));
        assert!(!leases.take(mac(2), ip(10), 100, 2));
        assert!(!leases.take(mac(2), ip(11), 100, 2));
        assert!(!leases.take(mac(2), ip(99), 100, 2));
        leases.release(mac(1), None, 3);
        assert_eq!(leases.of(mac(1), 3), None);
        assert_eq!(leases.offer(mac(3), None, 4), Some(ip(13)));
        assert_eq!(leases.offer(mac(1), None, 4), Some(ip(10)));
    }

    #[test]
    fn who_is_on_an_address_may_keep_it() {
        let mut leases = leases(10, 20);
        assert!(!leases.take(mac(1), ip(11), 100, 0));
        assert_eq!(leases.offer(mac(99), None, 0), Some(ip(10)));
        assert!(leases.take(mac(99), ip(11), 100, 0));
    }

    #[test]
    fn restarts_and_conflicts() {
        let mut first = leases(10, 12);
        assert!(first.take(mac(1), ip(12), 100, 0));
        let mut second = leases(10, 12);
        second.remember(&first.to_text());
        second.remember("rubbish\n02:00:00:00:00:09 10.9.9.9 5\n");
        assert_eq!(second, first);
        second.release(mac(1), Some(ip(12)), 10);
        second.release(mac(1), Some(ip(10)), 10);
        assert_eq!(second.offer(mac(1), None, 11), Some(ip(10)));
        assert!(second.take(mac(1), ip(10), 10_000, 11));
        assert_eq!(second.offer(mac(2), None, 11), None);
        assert_eq!(second.offer(mac(2), None, 11 + DECLINED), Some(ip(12)));
    }

    #[test]
    fn forged_questions_do_not_use_it_up() {
        let mut leases = leases(10, 20);
        for n in 0..=255 {
            leases.offer(mac(n), None, 0);
        }
        assert!(leases.by_mac.len() <= 11);
        // An honest client gets what was offered to others, and they do not get it back.
        let honest = Mac([9; 6]);
        let address = leases.offer(honest, None, 0).unwrap();
        for n in 0..=255 {
            leases.offer(mac(n), None, 1);
        }
        assert!(leases.take(honest, address, 100, 2));
        for n in 0..=255 {
            assert_ne!(leases.offer(mac(n), Some(address), 3), Some(address));
            assert!(!leases.take(mac(n), address, 100, 3));
        }
        assert!(leases.by_mac.len() <= 11);
    }

    /// Requests for every address, with forged hardware addresses.
    #[test]
    fn leases_without_a_machine_are_reclaimed() {
        let mut leases = leases(10, 20);
        for n in 10..=20 {
            leases.take(mac(n), ip(n), 100, 0);
        }
        let honest = Mac([9; 6]);
        assert_eq!(leases.offer(honest, None, 1), None);
        let found = [(ip(12), mac(12))].into();
        leases.reclaim(&found, 100, SETTLING - 1);
        assert_eq!(leases.offer(honest, None, SETTLING), None);
        leases.reclaim(&found, 100, SETTLING);
        assert_eq!(leases.of(mac(12), SETTLING), Some(ip(12)));
        assert!(leases.offer(honest, None, SETTLING).is_some_and(|at| at != ip(12)));
    }

    /// `--range` leased addresses of a network that this machine is not in.
    #[test]
    fn addresses_of_other_networks_are_known() {
        let own = Ipv4Addr::new(10, 44, 0, 1);
        for (address, prefix, is) in [
            ([10, 44, 0, 250], 24, true),
            ([10, 45, 0, 5], 24, false),
            ([10, 45, 0, 5], 8, true),
            ([192, 168, 0, 1], 0, true),
            ([10, 44, 0, 1], 32, true),
            ([10, 44, 0, 2], 32, false),
        ] {
            assert_eq!(inside(address.into(), own, prefix), is, "{address:?}/{prefix}");
        }
    }

    #[test]
    fn ranges_fit_their_network() {
        assert_eq!(range(ip(1), 24, &[]), Some((ip(100), ip(199))));
        assert_eq!(range(ip(110), 24, &[ip(190)]), Some((ip(111), ip(189))));
        assert_eq!(range(ip(1), 28, &[]), Some((ip(8), ip(14))));
        assert_eq!(range(ip(1), 31, &[]), None);
        let big = range(Ipv4Addr::new(10, 1, 2, 3), 8, &[]).unwrap();
        assert_eq!(big, (Ipv4Addr::new(10, 1, 2, 100), Ipv4Addr::new(10, 1, 2, 199)));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(
            steps in proptest::collection::vec((0u8..4, 0u8..30, 5u8..25, 0u64..40), 0..200)
        ) {
            let mut leases = leases(10, 20);
            let mut now = 0;
            for (what, who, which, later) in steps {
                now += later;
                match what {
                    0 => drop(leases.offer(mac(who), Some(ip(which)), now)),
                    1 => drop(leases.take(mac(who), ip(which), 60, now)),
                    2 => leases.release(mac(who), None, now),
                    _ => leases.release(mac(who), Some(ip(which)), now),
                }
                let mut held: Vec<Ipv4Addr> =
                    leases.by_mac.values().filter(|l| l.until > now).map(|l| l.address).collect();
                let all = held.len();
                held.sort();
                held.dedup();
                prop_assert_eq!(held.len(), all);
                prop_assert!(held.iter().all(|a| leases.holds(*a) && *a != ip(11)));
                prop_assert!(leases.by_mac.len() <= 11);
            }
        }

        #[test]
        fn ranges_are_inside(own: u32, prefix in 0u8..33, avoid: u32) {
            if let Some((first, last)) = range(own.into(), prefix, &[avoid.into()]) {
                let mask = u32::MAX << (32 - u32::from(prefix));
                prop_assert!(first <= last);
                prop_assert!(!(first..=last).contains(&Ipv4Addr::from(own)));
                prop_assert!(!(first..=last).contains(&Ipv4Addr::from(avoid)));
                prop_assert_eq!(u32::from(first) & mask, own & mask);
                prop_assert_eq!(u32::from(last) & mask, own & mask);
            }
        }
    }
}
