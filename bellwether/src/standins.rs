//! Stand-ins for the variables that a menu leaves open: the boot loader fills them in, and
//! until then what stands around them cannot be read as an address or a URL.

use std::fmt::Write as _;

/// Words whose value is a URL when it begins with a variable.
const URL_WORDS: &[&str] = &[
    "fetch=",
    "httpfs=",
    "ftpfs=",
    "url=",
    "iso-url=",
    "archiso_http_srv=",
    "root=live:",
    "root=live:net:",
    "root=squash:",
    "bw.root=",
];

/// Words whose value is `SERVER:/PATH` or `SERVER` alone.
const SERVER_WORDS: &[&str] = &[
    "nfsroot=",
    "root=",
    "root=nfs:",
    "root=nfs4:",
    "root=nbd:",
    "netroot=nfs:",
    "netroot=nbd:",
    "archiso_nfs_srv=",
    "archiso_nbd_srv=",
    "nbdroot=",
    "nfsdir=",
];

/// Most variables of a line that are tried out.
const TRIED_MAX: usize = 4;
/// Longest line in which they are.
const TRIED_LINE_MAX: usize = 4096;
/// Most variables of a line that get a stand-in.
const VARIABLES_MAX: usize = 200;

/// A line that can be read, and what to put back into what is said of it.
pub struct Filled {
    /// The line with stand-ins.
    pub line: String,
    /// Stand-ins and their variables.
    pairs: Vec<(String, String)>,
}

impl Filled {
    /// The text with the variables in their places.
    pub fn restored(&self, text: &str) -> String {
        self.pairs.iter().fold(text.to_owned(), |text, (made_up, name)| text.replace(made_up, name))
    }

    /// Whether a text speaks of a value that is made up.
    pub fn is_about(&self, text: &str) -> bool {
        let plain = |made_up: &str| made_up.replace("http://", "").replace('/', "");
        self.pairs.iter().any(|(made_up, _)| text.contains(&plain(made_up)))
    }
}

/// Puts stand-ins into a line: for variables of a known kind and in places of a known kind, and
/// where a line without one has more errors (`errors` counts them) than with one.
pub fn fill(line: &str, errors: impl Fn(&str) -> usize) -> Filled {
    let mut filled = Filled { line: String::new(), pairs: Vec::new() };
    let mut rest = line;
    let mut left = Vec::new();
    for n in 1..VARIABLES_MAX {
        let Some((before, after)) = rest.split_once("${") else { break };
        let Some((name, after)) = after.split_once('}') else { break };
        filled.line.push_str(before);
        let variable = format!("${{{name}}}");
        let word = filled.line.rsplit(char::is_whitespace).next().unwrap_or_default();
        let ahead = after.split(char::is_whitespace).next().unwrap_or_default();
        match of_kind(name, n).or_else(|| of_place(word, ahead, n)) {
            // archiso's own scripts read this one.
            _ if name == "pxeserver" && word.starts_with("archiso_") => {
                filled.line.push_str(&variable);
            }
            Some(made_up) => {
                filled.add(&made_up, &variable);
                filled.line.push_str(&made_up);
            }
            None => {
                left.push((filled.line.len(), n, variable.clone()));
                filled.line.push_str(&variable);
            }
        }
        rest = after;
    }
    filled.line.push_str(rest);
    if filled.line.len() > TRIED_LINE_MAX {
        return filled;
    }
    let mut least = errors(&filled.line);
    // From the end, so that the places before stay.
    for (at, n, variable) in left.into_iter().rev().take(TRIED_MAX) {
        if least == 0 {
            break;
        }
        let kinds = [
            format!("variable{n}.invalid"),
            format!("/variable{n}"),
            format!("/dev/variable{n}"),
            format!("/variable{n}.iso"),
            format!("http://variable{n}.invalid/"),
        ];
        for made_up in kinds {
            let mut line = filled.line.clone();
            line.replace_range(at..at + variable.len(), &made_up);
            let found = errors(&line);
            if found < least {
                least = found;
                filled.line = line;
                filled.pairs.push((made_up, variable));
                break;
            }
        }
    }
    filled
}

impl Filled {
    fn add(&mut self, made_up: &str, variable: &str) {
        if made_up == NETMASK {
            // The prefix is said behind an address.
            let addresses: Vec<_> = self.pairs.iter().filter(|(a, _)| is_address(a)).collect();
            let behind =
                addresses.iter().map(|(a, name)| (format!("{a}/24"), format!("{name}/{variable}")));
            let behind: Vec<_> = behind.collect();
            self.pairs.splice(0..0, behind);
        }
        self.pairs.push((made_up.to_owned(), variable.to_owned()));
        // An address with dashes is shown with colons.
        if made_up.starts_with("02-") {
            self.pairs.push((made_up.replace('-', ":"), variable.to_owned()));
        }
    }
}

const NETMASK: &str = "255.255.255.0";

fn is_address(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

/// A stand-in for what iPXE and GRUB set of themselves (<https://ipxe.org/cfg>, GRUB's "Network").
fn of_kind(name: &str, n: usize) -> Option<String> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let (setting, format) = last.split_once(':').unwrap_or((last, ""));
    let bytes = |between: &str| {
        let mut mac = String::from("02");
        for byte in [0xb3, 0x11, 0, 0, n] {
            let _ = write!(mac, "{between}{byte:02x}");
        }
        mac
    };
    Some(match (setting, format) {
        ("mac", "hexhyp") => bytes("-"),
        ("mac", "hexraw") => bytes(""),
        ("mac", _) | ("net_default_mac", _) => bytes(":"),
        ("ip" | "gateway" | "dns" | "next-server" | "dhcp-server" | "proxydhcp", "")
        | ("net_default_ip" | "net_default_server" | "pxe_default_server", "") => {
            format!("198.18.0.{n}")
        }
        ("netmask", "") => NETMASK.to_owned(),
        _ => return None,
    })
}

/// A stand-in for what stands in such a place of a word.
fn of_place(word: &str, ahead: &str, n: usize) -> Option<String> {
    let host = || format!("variable{n}.invalid");
    if URL_WORDS.contains(&word) && !ahead.starts_with(':') && !ahead.is_empty() {
        return Some(format!("http://{}/", host()));
    }
    if word.ends_with("://") || SERVER_WORDS.contains(&word) && ahead.starts_with(':') {
        return Some(host());
    }
    let authority = word.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    (authority.ends_with(':') && !authority.contains('/')).then(|| (65000 + n).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(line: &str) -> usize {
        let plan = cmdline::parse(line, &cmdline::Context::default());
        plan.warnings.iter().filter(|warning| warning.fatal).count()
    }

    /// The plan's text, with the variables back in it.
    fn read(line: &str) -> String {
        let filled = fill(line, errors);
        let plan = cmdline::parse(&filled.line, &cmdline::Context::default());
        filled.restored(&(plan.to_text() + &plan.warnings_text()))
    }

    /// netboot.xyz's scripts: each entry was called one that fails at boot, or a device.
    #[test]
    fn a_line_is_read_around_its_variables() {
        for (line, says) in [
            (
                "boot=live fetch=${live_endpoint}${path}filesystem.squashfs",
                "the root image ${live_endpoint}${path}filesystem.squashfs, fetched",
            ),
            (
                "root=live:${live_endpoint}/x/squashfs.img ip=dhcp",
                "${live_endpoint}/x/squashfs.img, fetched",
            ),
            (
                "root=/dev/nfs nfsroot=${proxydhcp/dhcp-server}:/srv/ltsp BOOTIF=01-${mac:hexhyp}",
                "NFS ${proxydhcp/dhcp-server}:/srv/ltsp",
            ),
            ("root=/dev/nfs nfsroot=${srv}:/x ip=dhcp", "NFS ${srv}:/x"),
            (
                "root=/dev/nfs nfsroot=a:/x ip=dhcp BOOTIF=01-${mac:hexhyp}",
                "on the link with ${mac:hexhyp}",
            ),
            (
                "automatic=method:http,network:dhcp,server:${mirror},directory:/x",
                "http://${mirror}/x",
            ),
            (
                "boot=casper url=http://${next-server}:${port}/u.iso ip=dhcp",
                "http://${next-server}:${port}/u.iso",
            ),
            (
                "archisobasedir=arch archiso_http_srv=http://${mirror}/a/ ip=${ip}::${gateway}:${netmask}",
                "${ip}/${netmask}, gateway ${gateway}",
            ),
            ("root=live:http://a/x BOOTIF=${netX/mac} ip=dhcp", "on the link with ${netX/mac}"),
            ("archisobasedir=arch img_dev=${dev} img_loop=/a.iso", "the file /a.iso on ${dev}"),
            (
                "boot=live fromiso=/dev/disk/by-uuid/${u}${p}",
                "the file ${p} on the device with UUID ${u}",
            ),
            (
                "archisobasedir=arch archiso_http_srv=http://${pxeserver}/ ip=dhcp",
                "http://the boot server/arch",
            ),
            ("bootfrom=/mnt-iso/${isofile} lang=en", "dialect     knoppix"),
            ("boot=live findiso=${iso_path}", "the file /${iso_path} on any drive"),
        ] {
            let text = read(line);
            assert!(text.contains(says) && !text.contains("error"), "{line}\n{text}");
        }
        // A word of another family stays refused.
        assert!(read("misobasedir=m miso_http_srv=${x}/y").contains("error: misobasedir=m"));
        let filled = fill("a=${", errors);
        assert_eq!(filled.line, "a=${");
    }
}
