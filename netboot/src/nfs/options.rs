//! Mount options for the kernel's NFS client.
//!
//! The line's options override ours. Every well-formed option is accepted, except the few that
//! would redirect the mount; those that only mount.nfs understands are not passed on. The
//! kernel names the ones that it does not know.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use cmdline::plan::NfsVersion;
use rustix::mount::MountAttrFlags;

use super::probe::Ports;

/// The longest value that the kernel accepts (`fsconfig(2)`).
const MAX_VALUE: usize = 255;
/// Most options.
const MAX_OPTIONS: usize = 64;

/// An invalid option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionError {
    /// It is malformed.
    Shape(String),
    /// It would redirect the mount.
    Forbidden(String),
    /// Its number is invalid.
    Number(String),
    /// There are too many.
    Count,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Shape(option) => {
                write!(f, "\"{option}\" is not an NFS option (expected WORD or WORD=VALUE)")
            }
            OptionError::Forbidden(option) => write!(
                f,
                "the NFS option \"{option}\" is set by us from the server's name; leave it out"
            ),
            OptionError::Number(option) => {
                write!(f, "\"{option}\": expected a port from 1 to 65535")
            }
            OptionError::Count => write!(f, "more than {MAX_OPTIONS} NFS options"),
        }
    }
}

/// The checked options of the line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    entries: Vec<(String, Option<String>)>,
    attributes: MountAttrFlagsBits,
    /// `port=`.
    pub nfs_port: Option<u16>,
    /// `mountport=`.
    pub mount_port: Option<u16>,
    /// Whether UDP is requested.
    pub udp: bool,
}

type MountAttrFlagsBits = u32;

/// Parses the line's options.
///
/// # Errors
/// [`OptionError`] of the first invalid one.
pub fn read(options: &[String]) -> Result<Given, OptionError> {
    let mut given = Given::default();
    if options.len() > MAX_OPTIONS {
        return Err(OptionError::Count);
    }
    for option in options {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        if !is_option(key, value) {
            return Err(OptionError::Shape(option.clone()));
        }
        let attribute = match key {
            "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
            "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            _ => MountAttrFlags::empty(),
        };
        if !attribute.is_empty() {
            given.attributes |= attribute.bits();
            continue;
        }
        let port = || {
            let number = value.and_then(|value| value.parse::<u16>().ok());
            number.filter(|port| *port != 0).ok_or_else(|| OptionError::Number(option.clone()))
        };
        match key {
            "addr" | "mountaddr" | "mounthost" | "source" | "fsid" => {
                return Err(OptionError::Forbidden(option.clone()));
            }
            // For mount.nfs, fstab or the plan: not for the kernel.
            "bg" | "fg" | "retry" | "_netdev" | "auto" | "noauto" | "user" | "nouser" | "users"
            | "defaults" | "nofail" | "ro" | "rw" | "suid" | "dev" | "exec" | "atime"
            | "diratime" | "relatime" | "vers" | "nfsvers" | "minorversion" | "v2" | "v3"
            | "v4" | "v4.0" | "v4.1" | "v4.2" | "clientaddr" => continue,
            "port" => given.nfs_port = Some(port()?),
            "mountport" => given.mount_port = Some(port()?),
            "udp" => given.udp = true,
            "proto" if value.is_some_and(|value| value.starts_with("udp")) => given.udp = true,
            // The kernel supports no other spelling any more.
            "tcp" => given.udp = false,
            _ => {}
        }
        given.entries.retain(|(known, _)| known != key);
        given.entries.push((String::from(key), value.map(String::from)));
    }
    Ok(given)
}

fn is_option(key: &str, value: Option<&str>) -> bool {
    let word = !key.is_empty()
        && key.len() <= 32
        && key.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.')
        });
    word && value.is_none_or(|value| {
        !value.is_empty()
            && value.len() <= MAX_VALUE
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-+".contains(&byte))
    })
}

/// The kernel's mount options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    entries: Vec<(String, Option<String>)>,
    /// Mount flags of the line (`nosuid`, …).
    pub attributes: MountAttrFlags,
    /// Mounted read-only.
    pub read_only: bool,
}

impl Options {
    /// Keys and values, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    fn set(&mut self, key: &str, value: Option<String>) {
        self.entries.retain(|(known, _)| known != key);
        self.entries.push((String::from(key), value));
    }

    fn has(&self, keys: &[&str]) -> bool {
        self.entries.iter().any(|(known, _)| keys.contains(&known.as_str()))
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.read_only { "ro" } else { "rw" })?;
        for (key, value) in &self.entries {
            match value {
                Some(value) => write!(f, ",{key}={value}")?,
                None => write!(f, ",{key}")?,
            }
        }
        Ok(())
    }
}

/// A version in the kernel's spelling.
pub fn version_text(version: NfsVersion) -> &'static str {
    match version {
        NfsVersion::V2 => "2",
        NfsVersion::V3 => "3",
        NfsVersion::V4 => "4.0",
        NfsVersion::V4_1 => "4.1",
        NfsVersion::V4_2 => "4.2",
    }
}

/// Builds the kernel's mount options.
///
/// Our defaults: TCP; `hard`, because a root that fails with errors when its server restarts is
/// lost; `nolock` before version 4, because an initramfs has no statd. The ports found by the
/// probe save the kernel its own search.
pub fn build(
    given: &Given,
    version: NfsVersion,
    server: Ipv4Addr,
    ours: Ipv4Addr,
    ports: Option<Ports>,
    read_write: bool,
) -> Options {
    let mut options = Options {
        entries: given.entries.clone(),
        attributes: MountAttrFlags::from_bits_retain(given.attributes),
        read_only: !read_write,
    };
    let old = matches!(version, NfsVersion::V2 | NfsVersion::V3);
    options.set("vers", Some(String::from(version_text(version))));
    options.set("addr", Some(format!("{server}")));
    if !options.has(&["proto", "tcp", "udp", "rdma"]) {
        options.set("proto", Some(String::from("tcp")));
    }
    if !options.has(&["hard", "soft", "softerr"]) {
        options.set("hard", None);
    }
    if let Some(ports) = ports {
        // 2049 is the kernel's default for version 4.
        options.set("port", Some(format!("{}", ports.nfs)));
        if let Some(mount) = ports.mount {
            options.set("mountport", Some(format!("{mount}")));
        }
    }
    if old {
        if !options.has(&["lock", "nolock"]) {
            options.set("nolock", None);
        }
        if !given.udp && !options.has(&["mountproto"]) {
            options.set("mountproto", Some(String::from("tcp")));
        }
    } else {
        options.set("clientaddr", Some(format!("{ours}")));
        // Options of the MOUNT protocol mean nothing here.
        options.entries.retain(|(key, _)| !key.starts_with("mount"));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    fn text(options: &[&str], version: NfsVersion, ports: Option<Ports>) -> String {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        build(&read(&options).unwrap(), version, SERVER, OURS, ports, false).to_string()
    }

    #[test]
    fn version_3() {
        let ports = Some(Ports { nfs: 2049, mount: Some(20048) });
        assert_eq!(
            text(&[], NfsVersion::V3, ports),
            "ro,vers=3,addr=10.0.0.1,proto=tcp,hard,port=2049,mountport=20048,nolock,mountproto=tcp"
        );
    }

    #[test]
    fn version_4() {
        let ports = Some(Ports { nfs: 2050, mount: None });
        assert_eq!(
            text(&["mountport=5", "rsize=8192"], NfsVersion::V4_2, ports),
            "ro,rsize=8192,vers=4.2,addr=10.0.0.1,proto=tcp,hard,port=2050,clientaddr=10.0.0.5"
        );
    }

    #[test]
    fn the_line_wins() {
        let shown = text(
            &["soft", "lock", "udp", "timeo=7", "timeo=9", "nosuid", "ro", "retry=5", "v3"],
            NfsVersion::V3,
            None,
        );
        assert_eq!(shown, "ro,soft,lock,udp,timeo=9,vers=3,addr=10.0.0.1");
        let given = read(&["nosuid".into(), "noatime".into()]).unwrap();
        let options = build(&given, NfsVersion::V3, SERVER, OURS, None, true);
        assert!(
            options
                .attributes
                .contains(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME)
        );
        assert!(!options.read_only);
    }

    #[test]
    fn hostile_options_are_named() {
        let error = |option: &str| read(&[option.into()]).unwrap_err().to_string();
        assert!(error("addr=6.6.6.6").contains("leave it out"));
        assert!(error("rsize=1 2").contains("is not an NFS option"));
        assert!(error("a=b=c").contains("is not an NFS option"));
        assert!(error("").contains("is not an NFS option"));
        assert!(error("port=0").contains("1 to 65535"));
        assert!(error(&"x".repeat(40)).contains("is not an NFS option"));
        assert_eq!(read(&vec!["soft".into(); 65]), Err(OptionError::Count));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_one_option_each(words in proptest::collection::vec(any::<String>(), 0..10)) {
            if let Ok(given) = read(&words) {
                let options = build(&given, NfsVersion::V3, SERVER, OURS, None, false);
                for (key, value) in options.entries() {
                    prop_assert!(is_option(key, value));
                }
                let addresses = options.entries().filter(|(key, _)| *key == "addr");
                prop_assert_eq!(addresses.count(), 1);
            }
        }
    }
}
