//! Which interface, and its addresses.

use crate::failure::Failure;
use std::net::Ipv4Addr;

/// An interface with an IPv4 address.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where everybody on its network hears it.
    pub broadcast: Ipv4Addr,
}

/// The interface of this name or address; without one, the first that is up,
/// has an address, and is not the machine's own.
pub fn interface(wanted: Option<&str>) -> Result<Interface, Failure> {
    let all = nix::ifaddrs::getifaddrs()
        .map_err(|e| Failure::Failed(format!("cannot list network interfaces: {e}")))?;
    let mut names = Vec::new();
    for one in all {
        let v4 = |a: Option<nix::sys::socket::SockaddrStorage>| {
            a.and_then(|a| a.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        let Some(address) = v4(one.address) else { continue };
        use nix::net::if_::InterfaceFlags as F;
        let usable = one.flags.contains(F::IFF_UP) && !one.flags.contains(F::IFF_LOOPBACK);
        let matches = match wanted {
            Some(w) => w == one.interface_name || w.parse() == Ok(address),
            None => usable,
        };
        if matches {
            let broadcast = v4(one.broadcast).unwrap_or(Ipv4Addr::BROADCAST);
            return Ok(Interface { name: one.interface_name, address, broadcast });
        }
        names.push(one.interface_name);
    }
    Err(Failure::Failed(match wanted {
        Some(w) => {
            format!("there is no interface {w} with an IPv4 address; there is {}", names.join(", "))
        }
        None => "no network interface is up and has an IPv4 address".to_owned(),
    }))
}
