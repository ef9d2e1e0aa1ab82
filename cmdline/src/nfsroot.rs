//! `nfsroot=` and the other ways to name an NFS directory.
//!
//! The kernel's grammar is `[server:]directory[,options]`, with `/tftpboot/%s` for
//! what is missing (`fs/nfs/nfsroot.c`). casper and live-boot take the same word
//! without options, archiso and dracut have their own spellings. All of them are
//! read here, host names are allowed everywhere, and `vers=` decides which protocol
//! versions are tried.
//!
//! Version order when nothing is said: v3, as every live dialect used, then v4.2,
//! v4.1 and v4, which the klibc-based ones never could. v2 only by name: servers
//! dropped it, and the kernel's default of v2 is the classic failure.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::plan::{NfsSource, NfsVersion, Server};
use crate::value;

/// Longest path that is accepted.
const MAX_PATH: usize = 1024;

/// Versions tried when the line names none.
pub const DEFAULT_VERSIONS: [NfsVersion; 4] =
    [NfsVersion::V3, NfsVersion::V4_2, NfsVersion::V4_1, NfsVersion::V4];
/// Versions tried when the line says "v4".
const ANY_V4: [NfsVersion; 3] = [NfsVersion::V4_2, NfsVersion::V4_1, NfsVersion::V4];

/// A source with nothing said: everything from DHCP.
#[must_use]
pub fn from_dhcp() -> NfsSource {
    NfsSource {
        server: Server::Boot,
        path: None,
        versions: DEFAULT_VERSIONS.to_vec(),
        options: Vec::new(),
        read_write: false,
    }
}

/// Reads the kernel's form, and with it casper's, live-boot's and LTSP's.
///
/// # Errors
/// What is wrong with it, in the user's words.
pub fn parse(text: &str) -> Result<NfsSource, &'static str> {
    #[cfg(feature = "all")]
    if crate::text::has(text, "://") {
        return Err("is a URL, where a server and a path stand");
    }
    let mut source = from_dhcp();
    if text.is_empty() || text == "auto" || text == "dhcp" {
        return Ok(source);
    }
    let (place, options) = split_options(text);
    let (server, path) = split_server(place)?;
    source.server = server;
    source.path = match path {
        "" | "default" => Some(String::from("/tftpboot/%s")),
        "auto" => None,
        path if path.starts_with('/') => Some(checked(path)?),
        // The kernel substitutes a bare name into its default directory, but only
        // when no server is written; after one, a relative path is v4's notation.
        path if source.server == Server::Boot => Some(value::join("/tftpboot", &checked(path)?)),
        path => Some(value::absolute(&checked(path)?)),
    };
    apply_options(&mut source, options);
    Ok(source)
}

/// dracut's `[server:]path[:options]`, also `server:/path,options`, and anaconda's
/// `options:server:/path`.
///
/// # Errors
/// What is wrong with it.
pub fn dracut(text: &str) -> Result<NfsSource, &'static str> {
    if let Some(slash) = text.find('/') {
        let (head, path) = text.split_at_checked(slash).unwrap_or((text, ""));
        // Brackets hold colons that separate nothing.
        let outside = head.rsplit_once(']').map_or(head, |(_, tail)| tail);
        let head_bare = head.strip_suffix(':');
        if let Some((options, server)) =
            head_bare.filter(|_| outside.matches(':').count() > 1).and_then(|h| h.split_once(':'))
        {
            let mut text = String::from(server);
            text.push(':');
            text.push_str(path);
            let mut source = parse(&text)?;
            apply_options(&mut source, options);
            return Ok(source);
        }
        if let Some((path, options)) = path.split_once(':') {
            let mut text = String::from(head);
            text.push_str(path);
            let mut source = parse(&text)?;
            apply_options(&mut source, options);
            return Ok(source);
        }
    }
    parse(text)
}

/// `nfs://server[:port]/path` (RFC 2224).
///
/// # Errors
/// What is wrong with it.
pub fn from_url(text: &str) -> Result<NfsSource, &'static str> {
    let url = value::url(text)?;
    let mut source = from_dhcp();
    source.server = value::server(url.host).ok_or("the server is not a name or an address")?;
    if url.scheme == "nfs4" {
        source.versions = ANY_V4.to_vec();
    }
    let (path, options) = split_options(url.path);
    if path.len() > 1 {
        source.path = Some(checked(path)?);
    } else if source.server != Server::Boot {
        return Err("the URL has no path");
    }
    if let Some(port) = url.port {
        let mut option = String::from("port=");
        option.push_str(&port.to_string());
        source.options.push(option);
    }
    apply_options(&mut source, options);
    Ok(source)
}

/// Makes the source v4-only (`nfs4:`, `nfs4` words).
pub fn force_v4(source: &mut NfsSource) {
    if !source.versions.iter().all(|v| *v >= NfsVersion::V4) {
        source.versions = ANY_V4.to_vec();
    }
}

/// The root of `root=/dev/nfs` or `root=/dev/nfs4`, which takes version 4 alone, by `nfsroot=`.
pub fn of_device(root: &str, nfsroot: &str) -> Result<NfsSource, &'static str> {
    let mut source = parse(nfsroot)?;
    if root == "/dev/nfs4" {
        force_v4(&mut source);
    }
    Ok(source)
}

/// Adds mount options as written: `vers=` and friends select versions, `ro` and `rw`
/// the mode; what we always set ourselves (`nolock`, `addr=`) is dropped.
pub fn apply_options(source: &mut NfsSource, options: &str) {
    let mut minor = None;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => source.read_write = false,
            "rw" => source.read_write = true,
            "nolock" | "lock" => {}
            _ if option.starts_with("addr=") => {}
            _ => {
                let short = option.strip_prefix('v').filter(|v| versions(v).is_some());
                let assigned = option.split_once('=').unwrap_or((option, ""));
                let (key, value) = short.map_or(assigned, |version| ("vers", version));
                match key {
                    "vers" | "nfsvers" => {
                        if let Some(versions) = versions(value) {
                            source.versions = versions;
                        }
                    }
                    "minorversion" => minor = Some(value),
                    _ => source.options.push(option.to_string()),
                }
            }
        }
    }
    match minor {
        Some("0") => source.versions = alloc::vec![NfsVersion::V4],
        Some("1") => source.versions = alloc::vec![NfsVersion::V4_1],
        Some("2") => source.versions = alloc::vec![NfsVersion::V4_2],
        _ => {}
    }
}

pub(crate) fn versions(value: &str) -> Option<Vec<NfsVersion>> {
    Some(match value {
        "2" => alloc::vec![NfsVersion::V2],
        "3" => alloc::vec![NfsVersion::V3],
        "4" => ANY_V4.to_vec(),
        "4.0" => alloc::vec![NfsVersion::V4],
        "4.1" => alloc::vec![NfsVersion::V4_1],
        "4.2" => alloc::vec![NfsVersion::V4_2],
        _ => return None,
    })
}

/// The word for a version, as mount options write it.
#[must_use]
pub fn version_name(version: NfsVersion) -> &'static str {
    match version {
        NfsVersion::V2 => "2",
        NfsVersion::V3 => "3",
        NfsVersion::V4 => "4",
        NfsVersion::V4_1 => "4.1",
        NfsVersion::V4_2 => "4.2",
    }
}

/// What follows the first comma is options when its first item looks like one; a
/// directory may hold a comma.
fn split_options(text: &str) -> (&str, &str) {
    const KNOWN: &str = " ro rw hard soft intr nointr posix noposix cto nocto ac noac lock nolock \
        acl noacl tcp udp v2 v3 v4 sync async noatime nodiratime relatime nordirplus fsc sharecache \
        nosharecache resvport noresvport v4.0 v4.1 v4.2 ";
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|t| t.find(',')).map(|at| at + from) {
        let rest = text.get(at + 1..).unwrap_or_default();
        let first = rest.split(',').next().unwrap_or(rest);
        let known = KNOWN.split(' ').any(|word| word == first);
        let assigned = first.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric())
        });
        if known || assigned || first.is_empty() {
            return (text.get(..at).unwrap_or_default(), rest);
        }
        from = at + 1;
    }
    (text, "")
}

fn split_server(place: &str) -> Result<(Server, &str), &'static str> {
    if place.starts_with('[') {
        let (host, rest) = place.split_once(']').ok_or("a bracket is not closed")?;
        let path = rest.strip_prefix(':').ok_or("a colon is missing between server and path")?;
        let mut server = String::from(host);
        server.push(']');
        if !value::is_host(&server) {
            return Err("the server in brackets is not an IPv6 address");
        }
        return Ok((Server::Host(server), path));
    }
    let slash = place.find('/').unwrap_or(place.len());
    let before = place.get(..slash).unwrap_or_default();
    if before.trim_end_matches(':').parse::<core::net::Ipv6Addr>().is_ok() {
        return Err(value::IPV6);
    }
    if slash < place.len() && value::address(before).is_some() {
        return Err("a colon is missing between server and path");
    }
    match place.split_once(':') {
        Some((host, path)) if host.len() < slash => {
            let server = value::server(host).ok_or("the server is not a name or an address")?;
            Ok((server, path))
        }
        _ => Ok((Server::Boot, place)),
    }
}

fn checked(path: &str) -> Result<String, &'static str> {
    if path.len() > MAX_PATH {
        return Err("the path is longer than 1024 characters");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("the path holds `..`");
    }
    Ok(path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Server, Option<String>) {
        let s = parse(text).unwrap();
        (s.server, s.path)
    }

    fn host(name: &str) -> Server {
        Server::Host(name.into())
    }

    #[test]
    fn the_kernels_grammar() {
        assert_eq!(read("10.0.0.1:/srv/nfs"), (host("10.0.0.1"), Some("/srv/nfs".into())));
        assert_eq!(read("nas.lan:/srv"), (host("nas.lan"), Some("/srv".into())));
        assert_eq!(read("/srv/%s"), (Server::Boot, Some("/srv/%s".into())));
        assert_eq!(read("client7"), (Server::Boot, Some("/tftpboot/client7".into())));
        assert_eq!(read("default,vers=3"), (Server::Boot, Some("/tftpboot/%s".into())));
        assert_eq!(read(",v3"), (Server::Boot, Some("/tftpboot/%s".into())));
        assert_eq!(read("10.0.0.1:"), (host("10.0.0.1"), Some("/tftpboot/%s".into())));
        assert_eq!(read("auto"), (Server::Boot, None));
        assert_eq!(read("[fe80::1]:/x"), (host("[fe80::1]"), Some("/x".into())));
        assert!(parse("10.0.0.1/srv").is_err());
        assert_eq!(read("10.0.0.1"), (Server::Boot, Some("/tftpboot/10.0.0.1".into())));
        assert_eq!(parse("2001:db8::1:/x"), Err(value::IPV6));
        assert!(parse("bad host:/x").is_err());
        assert!(parse("[::1/x").is_err());
        assert!(parse("10.0.0.1:/a/../b").is_err());
    }

    #[test]
    fn options_select_versions() {
        let s = parse("10.0.0.1:/srv,vers=3,rw,nolock,rsize=8192,tcp").unwrap();
        assert_eq!(s.versions, [NfsVersion::V3]);
        assert!(s.read_write);
        assert_eq!(s.options, ["rsize=8192", "tcp"]);
        assert_eq!(parse("s:/x,nfsvers=4.1").unwrap().versions, [NfsVersion::V4_1]);
        assert_eq!(parse("s:/x,vers=4,minorversion=0").unwrap().versions, [NfsVersion::V4]);
        assert_eq!(parse("s:/x,v4").unwrap().versions, ANY_V4);
        assert_eq!(parse("s:/x").unwrap().versions, DEFAULT_VERSIONS);
        // A comma in a directory's name is no option.
        assert_eq!(parse("s:/a,b/c,ro").unwrap().path.as_deref(), Some("/a,b/c"));
    }

    #[test]
    fn dracuts_spellings() {
        let s = dracut("10.0.0.1:/srv:rw,vers=3").unwrap();
        assert_eq!(
            (s.path.as_deref(), s.read_write, s.versions),
            (Some("/srv"), true, vec![NfsVersion::V3])
        );
        let s = dracut("10.0.0.1:/srv,ro").unwrap();
        assert_eq!((s.server, s.path.as_deref()), (host("10.0.0.1"), Some("/srv")));
        let s = dracut("nolock,vers=3:10.0.0.1:/srv").unwrap();
        assert_eq!(
            (s.server, s.path.as_deref(), s.versions),
            (host("10.0.0.1"), Some("/srv"), vec![NfsVersion::V3])
        );
        let s = dracut("/srv/%s").unwrap();
        assert_eq!((s.server, s.path.as_deref()), (Server::Boot, Some("/srv/%s")));
        let s = dracut("[fd00::1]:/srv:rw").unwrap();
        assert_eq!((s.server, s.read_write), (host("[fd00::1]"), true));
        let s = from_url("nfs://10.0.0.1:2050/srv/x").unwrap();
        assert_eq!((s.path.as_deref(), s.options), (Some("/srv/x"), vec!["port=2050".to_string()]));
        assert!(from_url("nfs://10.0.0.1").is_err());
    }

    proptest! {
        #[test]
        fn anything(text in "[a-z0-9:/,.=\\[\\]% ä]{0,80}") {
            let _ = (parse(&text), dracut(&text), from_url(&text));
        }

        #[test]
        fn server_and_path_round_trip(server in "[a-z][a-z0-9.]{0,10}", path in "(/[a-z0-9]{1,6}){1,4}") {
            let s = parse(&format!("{server}:{path}")).unwrap();
            prop_assert_eq!((s.server, s.path), (Server::Host(server), Some(path)));
        }
    }
}
