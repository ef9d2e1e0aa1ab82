//! The configuration for those who prefer servers of their own: dnsmasq or ISC's dhcpd,
//! a TFTP tree with pxelinux and GRUB, `/etc/exports` and Ganesha's exports.
//!
//! The medium itself stays in one piece; where it is to be mounted, and the commands
//! that start everything, are in the README beside the files. Nothing outside of the
//! directory is written, nothing is started.

use crate::error::Error;
use crate::files::Files;
use crate::loaders;
use crate::net::{self, Interface};
use crate::session::{self, Options};
use crate::{dhcp::lease::range, event::Watch};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// Writes all of it below `dir`, which is made when it is not there. Gives the files
/// that a person looks at.
///
/// # Errors
/// A medium cannot be read or booted, or a file cannot be written.
pub fn write(options: &Options, dir: &Path, watch: &Watch) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(dir).map_err(Error::write(dir))?;
    let dir = dir.canonicalize().map_err(Error::write(dir))?;
    let interface = net::choose(options.interface.as_deref())?;
    let own = interface.address;
    let exported = dir.join("nfs");
    let mut files = Files::default();
    let place = (own, None, exported.to_string_lossy().into_owned());
    let session::Shared { menu, exports, .. } = session::media(options, &place, &mut files, watch)?;
    let found = loaders::add(&mut files, &loaders::Wanted { http: None, tftp: own, proxy: true });
    for text in &found.missing {
        watch.tell(&crate::event::Event::Warning(text.clone()));
    }
    loaders::add_menu(&menu, &mut files)
        .map_err(|e| Error::Medium { why: format!("the boot menu cannot be written: {e}") })?;
    let tftp = dir.join("tftp");
    for path in files.paths().filter(|path| !path.ends_with(".iso")) {
        copy(&files, path, &tftp)?;
    }
    let names: Vec<&str> = exports.iter().map(|e| e.path.trim_start_matches('/')).collect();
    for name in &names {
        let at = exported.join(name);
        fs::create_dir_all(&at).map_err(Error::write(&at))?;
    }
    let site = Site { interface: &interface, dir: &dir, names: &names, media: &options.media };
    let texts = [
        ("dnsmasq.conf", site.dnsmasq(&menu.title)),
        ("dhcpd.conf", site.dhcpd(options.range)?),
        ("exports", site.exports()),
        ("ganesha.conf", site.ganesha()),
        ("README", site.readme()),
    ];
    let mut written = Vec::new();
    for (name, text) in texts {
        let path = dir.join(name);
        fs::write(&path, text).map_err(Error::write(&path))?;
        written.push(path);
    }
    written.push(tftp.join("pxelinux.cfg/default"));
    written.push(tftp.join("grub/grub.cfg"));
    Ok(written)
}

/// Copies a served file to its place in a TFTP tree.
fn copy(files: &Files, path: &str, tree: &Path) -> Result<(), Error> {
    let Some(file) = files.find(path) else { return Ok(()) };
    let to = tree.join(path.trim_start_matches('/'));
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(Error::write(dir))?;
    }
    let mut out = fs::File::create(&to).map_err(Error::write(&to))?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < file.length {
        let length = CHUNK.min(file.length - at);
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        file.read_exact_at(at, &mut buffer).map_err(Error::read(path))?;
        out.write_all(&buffer).map_err(Error::write(&to))?;
        at += length;
    }
    Ok(())
}

struct Site<'a> {
    interface: &'a Interface,
    dir: &'a Path,
    names: &'a [&'a str],
    media: &'a [PathBuf],
}

impl Site<'_> {
    fn network(&self) -> (Ipv4Addr, Ipv4Addr) {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.interface.prefix)).unwrap_or(0);
        let network = u32::from(self.interface.address) & mask;
        (network.into(), mask.into())
    }

    fn dnsmasq(&self, title: &str) -> String {
        let (network, mask) = self.network();
        let title: String = title.chars().filter(|c| !matches!(c, '"' | ',')).collect();
        format!(
            "# Beside the DHCP server that is there: it gives the addresses.\n\
             port=0\nlog-dhcp\ninterface={}\nbind-interfaces\nexcept-interface=lo\n\
             dhcp-range={network},proxy,{mask}\n\
             pxe-service=x86PC,\"{title}\",pxelinux.0\n\
             pxe-service=X86-64_EFI,\"{title}\",bootx64.efi\n\
             pxe-service=BC_EFI,\"{title}\",bootx64.efi\n\
             enable-tftp\ntftp-root={}/tftp\n",
            self.interface.name,
            self.dir.display()
        )
    }

    fn dhcpd(&self, given: Option<(Ipv4Addr, Ipv4Addr)>) -> Result<String, Error> {
        let (network, mask) = self.network();
        let own = self.interface.address;
        let avoid: Vec<Ipv4Addr> = self.interface.gateway.into_iter().collect();
        let chosen = given.or_else(|| range(own, self.interface.prefix, &avoid));
        let (first, last) = chosen.ok_or_else(|| Error::Interface {
            why: format!("no room for addresses on {own}/{}: --range", self.interface.prefix),
        })?;
        let mut text = format!(
            "# Where nobody else gives addresses.\n\
             option client-architecture code 93 = unsigned integer 16;\n\
             authoritative;\nddns-update-style none;\n\
             subnet {network} netmask {mask} {{\n  range {first} {last};\n"
        );
        if let Some(router) = self.interface.gateway {
            let _ = writeln!(text, "  option routers {router};");
        }
        let dns: Vec<String> = net::name_servers().iter().map(Ipv4Addr::to_string).collect();
        if !dns.is_empty() {
            let _ = writeln!(text, "  option domain-name-servers {};", dns.join(", "));
        }
        let _ = write!(
            text,
            "  next-server {own};\n  if option client-architecture = 7 or \
             option client-architecture = 9 {{\n    filename \"bootx64.efi\";\n  }} else {{\n    \
             filename \"pxelinux.0\";\n  }}\n}}\n"
        );
        Ok(text)
    }

    fn exports(&self) -> String {
        let (network, mask) = self.network();
        let line = |name: &&str| {
            format!(
                "\"{}/nfs/{name}\" {network}/{mask}(ro,no_subtree_check,insecure,crossmnt)\n",
                self.dir.display()
            )
        };
        self.names.iter().map(line).collect()
    }

    fn ganesha(&self) -> String {
        let export = |(id, name): (usize, &&str)| {
            let path = format!("{}/nfs/{name}", self.dir.display());
            format!(
                "EXPORT {{\n  Export_Id = {};\n  Path = \"{path}\";\n  Pseudo = \"{path}\";\n  \
                 Protocols = 3;\n  Access_Type = RO;\n  Squash = No_Root_Squash;\n  \
                 FSAL {{ Name = VFS; }}\n}}\n",
                id + 1
            )
        };
        self.names.iter().enumerate().map(export).collect()
    }

    fn readme(&self) -> String {
        let dir = self.dir.display();
        let mut text = String::from(
            "What `bellwether share` would do by itself, for servers of your own.\n\n\
             1. Mount the media where they are exported from:\n\n",
        );
        for (name, medium) in self.names.iter().zip(self.media) {
            let option = if medium.is_dir() { "--bind" } else { "-o loop,ro" };
            let _ = writeln!(text, "     mount {option} '{}' '{dir}/nfs/{name}'", medium.display());
        }
        let _ = write!(
            text,
            "\n2. Export them: append `exports` to /etc/exports and run `exportfs -ra`,\n   \
             or give `ganesha.conf` to nfs-ganesha.\n\n\
             3. Beside a DHCP server that is there already:\n\n     \
             dnsmasq --keep-in-foreground --conf-file='{dir}/dnsmasq.conf'\n\n   \
             Where there is none: `dhcpd.conf` for ISC's dhcpd, and a TFTP server for\n   \
             '{dir}/tftp', for example\n\n     \
             in.tftpd --foreground --secure '{dir}/tftp'\n"
        );
        text
    }
}
