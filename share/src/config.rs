//! Writes configuration for other servers: dnsmasq or ISC dhcpd, a TFTP tree with pxelinux and
//! GRUB, `/etc/exports` and Ganesha's exports.
//!
//! The medium itself stays in one piece. The README beside the files says where to mount it and
//! how to start the servers. Nothing outside the directory is written and no server is started.

use crate::dhcp::lease::{mask, range};
use crate::error::Error;
use crate::event::{Event, Watch};
use crate::files::Files;
use crate::layout::Place;
use crate::loaders;
use crate::media::{self, Media, Sources};
use crate::net::{self, Interface};
use crate::options::Options;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// Writes everything below `dir`, which is created if missing. Returns the files that the user
/// edits or reads.
///
/// # Errors
/// [`Error::Medium`] or [`Error::Image`] when a medium cannot be read or booted,
/// [`Error::File`] when a file cannot be written.
pub fn write(options: &Options, dir: &Path, watch: &Watch) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(dir).map_err(Error::write(dir))?;
    let dir = dir.canonicalize().map_err(Error::write(dir))?;
    write_for(&net::choose(options.interface.as_deref())?, options, dir, watch)
}

/// Writes the files for one interface; `dir` exists and is absolute.
fn write_for(
    interface: &Interface,
    options: &Options,
    dir: PathBuf,
    watch: &Watch,
) -> Result<Vec<PathBuf>, Error> {
    let own = interface.address;
    let exported = dir.join("nfs");
    let mut files = Files::default();
    // The portmapper knows the port.
    let path = exported.to_string_lossy().into_owned();
    let above = Place { server: own, port: None, http: None, path };
    let Media { menu, exports, .. } =
        media::read(Sources::open(options, false)?, options, &above, &mut files, watch)?;
    let found = loaders::add(
        &mut files,
        &loaders::Wanted { http: None, tftp: own, proxy: true, may_change: false },
    );
    for text in &found.missing {
        watch.tell(&Event::Warning(text.clone()));
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
    let site = Site { interface, dir: &dir, names: &names, media: &options.media };
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
        let mask = mask(self.interface.prefix);
        let network = u32::from(self.interface.address) & mask;
        (network.into(), mask.into())
    }

    fn dnsmasq(&self, title: &str) -> String {
        let (network, mask) = self.network();
        let title: String = title.chars().filter(|c| !matches!(c, '"' | ',')).collect();
        format!(
            "# Proxy DHCP: another server leases the addresses.\n\
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
            why: format!(
                "no free range of addresses on {own}/{}: give one with --range",
                self.interface.prefix
            ),
        })?;
        let mut text = format!(
            "# The only DHCP server of this network.\n\
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

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        Interface {
            mac: None,
            name: "lan".into(),
            address: Ipv4Addr::new(10, 77, 0, 1),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 77, 0, 254)),
        }
    }

    #[test]
    fn everything_is_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let medium = dir.path().join("live system");
        fs::create_dir_all(medium.join("live")).unwrap();
        for (path, text) in [("vmlinuz", "k"), ("initrd.img", "i"), ("filesystem.squashfs", "s")] {
            fs::write(medium.join("live").join(path), text).unwrap();
        }
        let out = dir.path().canonicalize().unwrap().join("out");
        fs::create_dir(&out).unwrap();
        let options = Options { media: vec![medium.clone()], ..Options::default() };
        let watch = Watch::new(|_| ());
        let written = write_for(&interface(), &options, out.clone(), &watch).unwrap();
        assert_eq!(written.len(), 7);
        for path in &written {
            assert!(path.starts_with(&out) && path.is_file(), "{}", path.display());
        }
        assert!(out.join("nfs/live-system").is_dir(), "the place to mount the medium");
        assert_eq!(fs::read(out.join("tftp/boot/live-system/0/vmlinuz")).unwrap(), b"k");
        let at = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        let root = out.display();
        assert_eq!(
            at("exports"),
            format!(
                "\"{root}/nfs/live-system\" 10.77.0.0/255.255.255.0(ro,no_subtree_check,insecure,\
                 crossmnt)\n"
            )
        );
        let menu = at("tftp/pxelinux.cfg/default");
        assert!(menu.contains(&format!("nfsroot=10.77.0.1:{root}/nfs/live-system")), "{menu}");
        // The portmapper of the user's own server knows the port.
        assert!(!menu.contains("port="), "{menu}");
        let mount = format!("mount --bind '{}' '{root}/nfs/live-system'", medium.display());
        assert!(at("README").contains(&mount), "{}", at("README"));
        assert!(
            at("ganesha.conf").contains("Export_Id = 1;") && at("dnsmasq.conf").contains("proxy")
        );
    }

    #[test]
    fn servers_are_told_of_the_network() {
        let interface = interface();
        let (dir, media) = (Path::new("/srv/out"), [PathBuf::from("/x/live.iso")]);
        let site = Site { interface: &interface, dir, names: &["live"], media: &media };
        assert_eq!(
            site.dnsmasq("A \"live\", system"),
            "# Proxy DHCP: another server leases the addresses.\nport=0\nlog-dhcp\n\
             interface=lan\nbind-interfaces\nexcept-interface=lo\n\
             dhcp-range=10.77.0.0,proxy,255.255.255.0\n\
             pxe-service=x86PC,\"A live system\",pxelinux.0\n\
             pxe-service=X86-64_EFI,\"A live system\",bootx64.efi\n\
             pxe-service=BC_EFI,\"A live system\",bootx64.efi\n\
             enable-tftp\ntftp-root=/srv/out/tftp\n"
        );
        let given = Some((Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 77, 0, 60)));
        let dhcpd = site.dhcpd(given).unwrap();
        for line in [
            "subnet 10.77.0.0 netmask 255.255.255.0 {",
            "  range 10.77.0.50 10.77.0.60;",
            "  option routers 10.77.0.254;",
            "  next-server 10.77.0.1;",
        ] {
            assert!(dhcpd.lines().any(|found| found == line), "{line}: {dhcpd}");
        }
        assert!(site.dhcpd(None).unwrap().contains("  range 10.77.0.100 10.77.0.199;"));
        assert!(site.readme().contains("mount -o loop,ro '/x/live.iso' '/srv/out/nfs/live'"));
        let tiny = Interface { prefix: 30, ..interface.clone() };
        let site = Site { interface: &tiny, dir, names: &[], media: &[] };
        assert!(site.dhcpd(None).unwrap_err().to_string().contains("--range"));
    }
}
