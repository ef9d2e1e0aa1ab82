//! Readers for the values that words carry: numbers, switches, sizes, URLs, devices.
//!
//! Each returns `None` (or an error that says what was expected) for what it does
//! not understand; saying so is left to the caller, who knows the word.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::plan::{Bytes, DeviceSelector, Server};
use crate::text;

/// What is said of every IPv6 address.
pub(crate) const IPV6: &str = "is an IPv6 address: only IPv4 is spoken before the root is up";

/// Longest URL that is accepted.
pub const MAX_URL: usize = 4096;

/// `1 0 yes no y n on off true false`, in any case; a word without a value is on.
#[must_use]
#[inline(never)]
pub fn switch(value: Option<&str>) -> Option<bool> {
    let Some(value) = value else { return Some(true) };
    const WORDS: &[(&str, bool)] = &[
        ("", true),
        ("1", true),
        ("y", true),
        ("yes", true),
        ("on", true),
        ("true", true),
        ("0", false),
        ("n", false),
        ("no", false),
        ("off", false),
        ("false", false),
    ];
    WORDS.iter().find(|(word, _)| value.eq_ignore_ascii_case(word)).map(|(_, is)| *is)
}

/// A decimal number that fits in 32 bits.
#[must_use]
#[inline(never)]
pub fn number(value: &str) -> Option<u32> {
    value.parse().ok()
}

/// `512`, `64K`, `256M`, `4G`, `1T`, with an optional `B` or `iB`; 1024-based.
/// A bare number counts in `unit`s.
#[must_use]
#[inline(never)]
pub fn bytes(value: &str, unit: u64) -> Option<Bytes> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = value.get(digits.len()..)?;
    let suffix = suffix.strip_suffix("iB").or(suffix.strip_suffix(['b', 'B'])).unwrap_or(suffix);
    let factor = match suffix {
        "" => unit,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return None,
    };
    Some(Bytes(digits.parse::<u64>().ok()?.checked_mul(factor)?))
}

/// Whether tmpfs would take this as `size=`: `256M`, `75%`, `1073741824`.
#[must_use]
#[inline(never)]
pub fn is_tmpfs_size(value: &str) -> bool {
    match value.strip_suffix('%') {
        Some(percent) => number(percent).is_some_and(|n| (1..=100).contains(&n)),
        None => bytes(value, 1).is_some_and(|b| b.0 > 0),
    }
}

/// Items between commas, empty ones left out.
#[must_use]
#[inline(never)]
pub fn list(value: &str) -> Vec<String> {
    let mut items = Vec::new();
    for item in value.split(',') {
        if !item.is_empty() {
            items.push(item.to_string());
        }
    }
    items
}

/// An IPv4 address that is not `0.0.0.0`.
#[must_use]
#[inline(never)]
pub fn address(value: &str) -> Option<Ipv4Addr> {
    value.parse::<Ipv4Addr>().ok().filter(|a| !a.is_unspecified())
}

/// `255.255.255.0`, `24` or `/24` as a prefix length.
#[must_use]
#[inline(never)]
pub fn prefix(value: &str) -> Option<u8> {
    let value = value.strip_prefix('/').unwrap_or(value);
    if let Ok(mask) = value.parse::<Ipv4Addr>() {
        let bits = mask.to_bits();
        let ones = bits.leading_ones();
        return (bits.checked_shl(ones).unwrap_or(0) == 0).then_some(ones as u8);
    }
    value.parse::<u8>().ok().filter(|p| *p <= 32)
}

/// The prefix length of the address's class (RFC 791), as the kernel guesses it.
#[must_use]
pub fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// Whether this can be a host name or an address: letters, digits, `.`, `-`, `_`,
/// and `:` inside brackets.
#[must_use]
#[inline(never)]
pub fn is_host(value: &str) -> bool {
    if let Some(v6) = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        return v6.parse::<core::net::Ipv6Addr>().is_ok();
    }
    !value.is_empty()
        && value.len() <= 253
        && !value.starts_with(['-', '.'])
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// A host as a [`Server`]; empty for the boot server.
#[must_use]
#[inline(never)]
pub fn server(value: &str) -> Option<Server> {
    if value.is_empty() {
        Some(Server::Boot)
    } else {
        is_host(value).then(|| Server::Host(value.to_string()))
    }
}

/// A device as the kernel, udev links and mount(8) write it: `/dev/sda1`, `sda1`,
/// `8:1`, `LABEL=x`, `UUID=x`, `PARTUUID=x`, `PARTLABEL=x`, `CDLABEL=x`,
/// `/dev/disk/by-label/x`.
#[must_use]
#[inline(never)]
pub fn device(value: &str) -> Option<DeviceSelector> {
    type Make = fn(String) -> DeviceSelector;
    const TAGS: &[(&str, Make)] = &[
        ("LABEL=", DeviceSelector::Label),
        ("CDLABEL=", DeviceSelector::Label),
        ("UUID=", DeviceSelector::Uuid),
        ("PARTUUID=", DeviceSelector::PartUuid),
        ("PARTLABEL=", DeviceSelector::PartLabel),
        ("/dev/disk/by-label/", DeviceSelector::Label),
        ("/dev/disk/by-uuid/", DeviceSelector::Uuid),
        ("/dev/disk/by-partuuid/", DeviceSelector::PartUuid),
        ("/dev/disk/by-partlabel/", DeviceSelector::PartLabel),
    ];
    for (tag, make) in TAGS {
        if let Some(rest) = value.strip_prefix(tag) {
            let name = unescape(rest);
            return (!name.is_empty()).then(|| make(name));
        }
    }
    if let Some(name) = value.strip_prefix("/dev/") {
        return (!name.is_empty()).then(|| DeviceSelector::Path(value.to_string()));
    }
    let is_numbers = value
        .split_once(':')
        .is_some_and(|(major, minor)| number(major).is_some() && number(minor).is_some());
    if is_numbers {
        return Some(DeviceSelector::Path(value.to_string()));
    }
    None
}

/// udev writes blanks and other characters of labels as `\x20`.
#[must_use]
pub fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .strip_prefix(b"x")
            .filter(|_| *first == b'\\')
            .and_then(|t| t.split_at_checked(2))
            .and_then(|(digits, left)| {
                let digits = core::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, left))
            });
        if let Some((byte, left)) = hex {
            bytes.push(byte);
            rest = left;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_string())
}

/// A URL in pieces; all borrowed from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Url<'a> {
    /// `http`, `https`, `ftp`, `tftp`, `nfs`, …, as written.
    pub scheme: &'a str,
    /// `user[:password]` before the `@`.
    pub user: Option<&'a str>,
    /// Host name or address; empty in `scheme:///path`.
    pub host: &'a str,
    /// Port after the colon.
    pub port: Option<u16>,
    /// What follows the host, with its leading slash; may be empty.
    pub path: &'a str,
}

/// Takes a URL apart (RFC 3986, the part of it that boot lines use).
///
/// # Errors
/// What is wrong with it, in the user's words.
#[inline(never)]
pub fn url(value: &str) -> Result<Url<'_>, &'static str> {
    if value.len() > MAX_URL {
        return Err("the URL is longer than 4096 characters");
    }
    let (scheme, rest) = text::cut(value, "://").ok_or("a URL starts with http:// or the like")?;
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err("a URL starts with http:// or the like");
    }
    let split = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(split).unwrap_or((rest, ""));
    let (user, host_port) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    // An IPv6 address without its brackets has no port.
    let bare = cfg!(feature = "explain") && host_port.parse::<core::net::Ipv6Addr>().is_ok();
    let colon = match host_port.rfind(']') {
        _ if bare => None,
        Some(end) => host_port.get(end..).and_then(|t| t.find(':')).map(|at| end + at),
        None => host_port.rfind(':'),
    };
    let (host, port) = match colon.and_then(|at| host_port.split_at_checked(at)) {
        Some((host, port)) => {
            // RFC 3986 allows a colon without a port, and dracut's users write it.
            let port = match port.strip_prefix(':').unwrap_or(port) {
                // http://http://SERVER/…: the host would be called http.
                "" if cfg!(feature = "all") && path.starts_with("//") => {
                    return Err("the URL names its protocol twice");
                }
                "" => None,
                "0" => return Err("the port of the URL is 0"),
                port => Some(port.parse().map_err(|_| "the port of the URL is none: 1 to 65535")?),
            };
            (host, port)
        }
        None => (host_port, None),
    };
    if !host.is_empty() && !is_host(host) {
        #[cfg(feature = "explain")]
        if host.contains(':') && host.parse::<core::net::Ipv6Addr>().is_ok() {
            return Err(IPV6);
        }
        return Err("the host of the URL is not a name or an address");
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("the path of the URL holds a blank; write %20");
    }
    Ok(Url { scheme, user, host, port, path })
}

/// The last suffix of a path or URL without query, in lower case, `None` without one.
#[must_use]
#[inline(never)]
pub fn suffix(path: &str) -> Option<String> {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or(path);
    let (stem, suffix) = name.rsplit_once('.')?;
    (!stem.is_empty() && !suffix.is_empty()).then(|| suffix.to_ascii_lowercase())
}

/// `/a/b` from `a/b`, `/a/b`, `//a/b/`; `/` from nothing.
#[must_use]
#[inline(never)]
pub fn absolute(path: &str) -> String {
    let mut result = String::from("/");
    result.push_str(path.trim_matches('/'));
    result
}

/// `dir/name` with one slash between.
#[must_use]
#[inline(never)]
pub fn join(dir: &str, name: &str) -> String {
    let mut result = String::from(dir.trim_end_matches('/'));
    if !result.is_empty() || dir.starts_with('/') {
        result.push('/');
    }
    result.push_str(name.trim_start_matches('/'));
    result
}

/// A path of the medium that a rule names: relative, without `.` and `..`.
#[must_use]
#[inline(never)]
pub fn inside(path: &str) -> Option<String> {
    let mut result = String::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                if !result.is_empty() {
                    result.push('/');
                }
                result.push_str(part);
            }
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("32768", 1 << 20), Some(Bytes(32768 << 20)));
        assert_eq!(bytes("256M", 1), Some(Bytes(256 << 20)));
        assert_eq!(bytes("2GiB", 1), Some(Bytes(2 << 30)));
        assert_eq!(bytes("1GB", 1), Some(Bytes(1 << 30)));
        assert_eq!(bytes("M", 1), None);
        assert_eq!(bytes("18446744073709551615T", 1), None);
        assert!(is_tmpfs_size("75%") && is_tmpfs_size("1G") && is_tmpfs_size("4096"));
        assert!(!is_tmpfs_size("0%") && !is_tmpfs_size("101%") && !is_tmpfs_size("lots"));
    }

    #[test]
    fn masks() {
        assert_eq!(prefix("255.255.255.0"), Some(24));
        assert_eq!(prefix("0.0.0.0"), Some(0));
        assert_eq!(prefix("255.255.255.255"), Some(32));
        assert_eq!(prefix("/20"), Some(20));
        assert_eq!(prefix("255.0.255.0"), None);
        assert_eq!(prefix("33"), None);
        assert_eq!(class_prefix(Ipv4Addr::new(10, 0, 0, 1)), 8);
        assert_eq!(class_prefix(Ipv4Addr::new(172, 16, 0, 1)), 16);
        assert_eq!(class_prefix(Ipv4Addr::new(192, 168, 0, 1)), 24);
    }

    #[test]
    fn devices() {
        assert_eq!(device("LABEL=a b"), Some(DeviceSelector::Label("a b".into())));
        assert_eq!(device("CDLABEL=F\\x2dL"), Some(DeviceSelector::Label("F-L".into())));
        assert_eq!(
            device("/dev/disk/by-label/Arch\\x20Live"),
            Some(DeviceSelector::Label("Arch Live".into()))
        );
        assert_eq!(device("/dev/sr0"), Some(DeviceSelector::Path("/dev/sr0".into())));
        assert_eq!(device("8:1"), Some(DeviceSelector::Path("8:1".into())));
        assert_eq!(device("LABEL="), None);
        assert_eq!(device("/dev/"), None);
        assert_eq!(device("sda1"), None);
    }

    #[test]
    fn urls() {
        let u = url("http://user:pw@10.0.0.1:8080/a/b.iso?x=1").unwrap();
        assert_eq!(
            (u.scheme, u.user, u.host, u.port),
            ("http", Some("user:pw"), "10.0.0.1", Some(8080))
        );
        assert_eq!(u.path, "/a/b.iso?x=1");
        let u = url("nfs://10.0.0.1:/srv/x").unwrap();
        assert_eq!((u.host, u.port, u.path), ("10.0.0.1", None, "/srv/x"));
        assert_eq!(url("tftp:///x").unwrap().host, "");
        assert_eq!(url("http://[::1]:80/x").unwrap().port, Some(80));
        assert_eq!(url("http://[::1]/x").unwrap().host, "[::1]");
        assert!(url("http//x").is_err());
        assert!(url("http://a:b/").is_err());
        assert_eq!(url("http://http://a/x").unwrap_err(), "the URL names its protocol twice");
        assert!(url("http://a b/").is_err());
        assert!(url(&alloc::format!("http://a/{}", "x".repeat(MAX_URL))).is_err());
        assert_eq!(suffix("http://x/a.SQUASHFS?b.c").as_deref(), Some("squashfs"));
        assert_eq!(suffix("http://x.y/abc"), None);
    }

    #[test]
    fn paths() {
        assert_eq!(absolute("a/b/"), "/a/b");
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("a/", "/b"), "a/b");
        assert_eq!(join("", "b"), "b");
        assert_eq!(inside("/live//x/."), Some("live/x".into()));
        assert_eq!(inside("../etc"), None);
    }

    proptest! {
        #[test]
        fn readers_take_anything(value in "\\PC{0,60}") {
            let _ = (switch(Some(&value)), number(&value), bytes(&value, 1), is_tmpfs_size(&value));
            let _ = (list(&value), address(&value), prefix(&value), server(&value), device(&value));
            let _ = (url(&value), suffix(&value), absolute(&value), inside(&value), unescape(&value));
        }

        #[test]
        fn a_url_is_the_sum_of_its_pieces(host in "[a-z]{1,10}", port in 1u16.., path in "(/[a-z0-9]{0,5}){0,4}") {
            let text = alloc::format!("http://{host}:{port}{path}");
            let u = url(&text).unwrap();
            prop_assert_eq!((u.host, u.port, u.path), (host.as_str(), Some(port), path.as_str()));
        }
    }
}
