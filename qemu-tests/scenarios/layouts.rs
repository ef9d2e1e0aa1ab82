//! The table of layouts in docs/share.md: how far a machine comes on each row.

use std::path::{Path, PathBuf};

use cpio_builder::newc::{Archive, ArchiveError, Node};
use qemu_tests::assets::{Flavour, Peer};
use qemu_tests::{Error, Lab, Machine, Nic, Result, scenario, secs, workspace};

/// What every kernel here gets besides its own words. With -s, the shell takes those for arguments,
/// and not for a file with commands.
const WORDS: &str = "console=ttyS0 init_on_alloc=0 init=/bin/sh -s";

/// The same for Debian's installer, which would start the shell in its place: its plain questions,
/// one below the other.
const INSTALLER_WORDS: &str = "console=ttyS0 init_on_alloc=0 DEBIAN_FRONTEND=text";

/// What was not run yet.
const NOT_TRIED: &str = "not tried";

/// The `/init` of a system that lives in its initramfs: it gets what the line names, by HTTP or NFS,
/// finds the medium's image in its memory, and says so.
const OWN_INIT: &str = r#"#!/own/busybox sh
busybox() { /own/busybox "$@"; }
busybox mkdir -p /dev /proc /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
# The line may name another console.
exec </dev/ttyS0 >/dev/ttyS0 2>&1
PATH=/sbin:/bin:/usr/sbin:/usr/bin
modprobe -a virtio_pci virtio_net loop isofs nfs nfsv3
echo "own init: started"
line=$(busybox cat /proc/cmdline)
case "$line" in *://*|*method:nfs*) ipconfig -t 60 -c dhcp all ;; esac
got() { [ -s /got ] && echo "own init: has $1, $(busybox stat -c %s /got) bytes"; }
for word in $line; do
  busybox rm -f /got
  case "$word" in
  *=http://*)
    at=${word#*=}
    busybox wget -q -O /got "$at"; got "$word" && continue
    for name in $(busybox cat /own/files); do
      for below in "$at" "${at%/*}"; do
        busybox wget -q -O /got "$below/$name"; got "$word" && continue 3
      done
    done
    echo "own init: nothing at $word" ;;
  *=method:nfs,*)
    server=${word##*server:}; dir=${word##*directory:}
    busybox mkdir -p /medium
    nfsmount -o ro,nolock "${server%%,*}:${dir%%,*}" /medium && busybox cp /medium/boot/initrd.img /got
    got "$word" || echo "own init: nothing at $word" ;;
  esac
done
if [ -f /proxmox.iso ]; then
  busybox mkdir -p /medium
  busybox mount -t iso9660 -o loop,ro /proxmox.iso /medium && [ -f /medium/.pve-cd-id.txt ] &&
    echo "own init: has /proxmox.iso, $(busybox stat -c %s /proxmox.iso) bytes"
fi
echo "own init: end"
exec /own/busybox sh
"#;

/// A row of the table.
struct Row<'t> {
    name: &'t str,
    files: Vec<&'t str>,
    line: &'t str,
    told: &'t str,
    init: &'t str,
    reached: &'t str,
}

impl<'t> Row<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let cells: Vec<&str> = text.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, files, line, told, init, reached] = cells.as_slice() else { return None };
        let init = Some(*init).filter(|init| matches!(*init, "ours" | "its own"))?;
        let files = files.split(", ").map(|name| name.trim_matches('`')).collect();
        let [line, told] = [line, told].map(|cell| cell.trim_matches('`'));
        Some(Self { name, files, line, told, init, reached })
    }

    /// Whether Debian's own installer stands in.
    fn is_debian_installer(&self) -> bool {
        self.name == "Debian installer"
    }

    /// A medium with the row's files, its line in GRUB's menu, and Debian's kernel; images are a small
    /// Debian.
    fn medium(&self, lab: &Lab, name: &str) -> Result<PathBuf> {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
        let image = lab.assets().small_squashfs()?;
        let dir = self.files.first().and_then(|name| name.split_once('/')).map(|(dir, _)| dir);
        let dir = dir.filter(|dir| !dir.starts_with('.') && *dir != "sbin").unwrap_or("boot");
        let at = self.files.iter().find(|name| {
            let ends = ["/shredos", "/bzImage", "loader/linux"];
            name.contains("/vmlinuz") || ends.iter().any(|end| name.ends_with(end))
        });
        let at = at.map_or_else(|| format!("{dir}/vmlinuz"), |at| (*at).to_owned());
        let mut tree = lab.tree(name)?;
        if self.files.contains(&"sbin/init") {
            // The medium itself is the root.
            tree = tree.with_all(&lab.assets().small_root()?)?;
            let init = tree.path().join("sbin/init");
            std::os::unix::fs::symlink("../bin/busybox", &init)
                .map_err(Error::at("link", &init))?;
        }
        if self.is_debian_installer() {
            let dir = lab.assets().installer()?;
            tree = tree.with(&at, &dir.join("linux"))?;
            tree = tree.with("boot/initrd.img", &dir.join("initrd.gz"))?;
        } else {
            tree = tree.with(&at, &kernel.image)?.with("boot/initrd.img", &initrd)?;
        }
        for file in self.files.iter().filter(|name| **name != at && **name != "sbin/init") {
            let text = [".ko", ".preseed", ".ks", ".txt"].iter().any(|end| file.ends_with(end));
            tree = match text || file.contains(".disk/") {
                true => tree.text(file, "# a text\n")?,
                false => tree.with(file, &image)?,
            };
        }
        let mut initrds = "/boot/initrd.img".to_owned();
        if self.init == "its own" && !self.is_debian_installer() {
            let own = tree.path().join("boot/own.img");
            std::fs::write(&own, self.own_init(lab)?).map_err(Error::at("write", &own))?;
            initrds.push_str(" /boot/own.img");
        }
        let line = self.line;
        // An installer starts by itself only where the medium's own menu starts it.
        let menu = format!(
            "set timeout=5\nmenuentry \"x\" {{\n linux /{at} {line}\n initrd {initrds}\n}}\n"
        );
        tree.text("boot/grub/grub.cfg", &menu)?.iso("LIVE")
    }

    /// An archive with an `/init` that stands for the system's own.
    fn own_init(&self, lab: &Lab) -> Result<Vec<u8>> {
        let busybox = lab.assets().small_root()?.join("usr/bin/busybox");
        let program = std::fs::read(&busybox).map_err(Error::at("read", &busybox))?;
        let mut archive = Archive::new();
        let failed = |e: ArchiveError| Error::Input(e.to_string());
        archive.add("own", 0o755, Node::Dir).map_err(failed)?;
        archive.add("own/busybox", 0o755, Node::File(program)).map_err(failed)?;
        let files = self.files.join("\n").into_bytes();
        archive.add("own/files", 0o644, Node::File(files)).map_err(failed)?;
        archive.add("init", 0o755, Node::File(OWN_INIT.into())).map_err(failed)?;
        archive.write(0).map_err(failed)
    }

    /// Boots a machine from the row's medium. How far it comes.
    fn run(&self, lab: &Lab, name: &str) -> Result<String> {
        let medium = self.medium(lab, name)?;
        // It need not look for another DHCP server.
        let words = if self.is_debian_installer() { INSTALLER_WORDS } else { WORDS };
        let share = lab.share(&medium, &["--dhcp", "full", "--append", words])?;
        let memory = if self.is_debian_installer() { 1024 } else { 640 };
        let mut machine = lab.machine().nic(Nic::virtio()).memory(memory).start()?;
        let reached = match self.init {
            "ours" => self.at_root(&mut machine, name),
            _ if self.is_debian_installer() => machine
                .expect("Choose the language to be used for the installation", secs(400))
                .map(|_| "the first screen of Debian's installer".to_owned()),
            _ => self.at_own_init(&mut machine, name),
        };
        reached.map_err(|e| Error::Input(format!("{e}\n{}", share.log())))
    }

    /// The line is the one of the table, at this server.
    fn check_line(&self, line: &str, name: &str) -> Result<()> {
        let told = self.told.replace("10.0.0.1", "10.77.0.1");
        let told = told.replace(":8080/m", &format!(":8080/{name}"));
        let told = told.replace(":/m", &format!(":/{name}")) + " ";
        let lacks = told.split_whitespace().find(|word| !line.contains(*word));
        let told = lacks.map(|word| Error::Input(format!("{word} is not in the line: {line}")));
        told.map_or(Ok(()), Err)
    }

    /// A shell in the small root, which the medium holds.
    fn at_root(&self, machine: &mut Machine, name: &str) -> Result<String> {
        machine.shell(secs(240))?;
        self.check_line(&machine.run("cat /proc/cmdline")?, name)?;
        let issue = machine.run("cat /etc/issue")?;
        let mounts = machine.run("cat /proc/mounts")?;
        let wrote = machine.run("echo x >/etc/issue && cat /etc/issue")?;
        let overlay = mounts.lines().any(|mount| mount.starts_with("overlay / "));
        let medium = mounts.contains(&format!("10.77.0.1:/{name} "));
        if !issue.contains("a small live system") || !overlay || !medium || !wrote.contains('x') {
            return Err(Error::Input(format!("another root: {issue} {wrote}\n{mounts}")));
        }
        Ok("its root, writable".to_owned())
    }

    /// Its own `/init`, and all that the line names.
    fn at_own_init(&self, machine: &mut Machine, name: &str) -> Result<String> {
        let said = machine.expect("own init: end", secs(240))?;
        machine.send_line("/own/busybox cat /proc/cmdline; echo end of line")?;
        self.check_line(&machine.expect("\nend of line", secs(60))?, name)?;
        let wanted = self.told.matches("=http://").count()
            + self.told.matches("=method:nfs,").count()
            + usize::from(self.name == "Proxmox installer");
        let has = said.matches("own init: has ").count();
        if !said.contains("own init: started") || has != wanted {
            return Err(Error::Input(format!("{has} of {wanted} things of the line: {said}")));
        }
        Ok(match wanted {
            0 => "its own `/init`",
            _ => "its own `/init`, which gets what its line names",
        }
        .to_owned())
    }
}

/// Writes how far a row came into the table.
fn write(path: &Path, row: &str, reached: &str) -> Result<()> {
    // Others may have changed the page meanwhile.
    let text = std::fs::read_to_string(path).map_err(Error::at("read", path))?;
    let end = row.trim_end_matches('|').trim_end().rfind(" | ").unwrap_or_default();
    let new = format!("{} | {reached} |", row.get(..end).unwrap_or_default());
    std::fs::write(path, text.replace(row, &new)).map_err(Error::at("write", path))
}

/// Rows of docs/share.md, each as a medium of its own: how far a machine comes. `BELLWETHER_LAYOUTS`
/// chooses rows by parts of their text. With `BELLWETHER_KEEP`, only rows that were not tried are run
/// otherwise, and each one's column "reached" is written there at once.
#[test]
#[ignore = "a machine for each layout: cargo xtask test --sweep"]
fn sweep_layouts_are_reached() {
    let path = workspace::root().join("docs/share.md");
    let only = std::env::var("BELLWETHER_LAYOUTS").unwrap_or_default();
    let keep = std::env::var_os("BELLWETHER_KEEP").is_some();
    scenario("share-layouts", |lab| {
        let text = std::fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        let mut failed = Vec::new();
        for (n, (text, row)) in
            text.lines().filter_map(|text| Some((text, Row::read(text)?))).enumerate()
        {
            let chosen = match only.as_str() {
                "" => !keep || row.reached == NOT_TRIED,
                only => only.split(',').any(|part| text.contains(part)),
            };
            if !chosen {
                continue;
            }
            let name = format!("m{n}");
            let reached = row.run(lab, &name);
            println!("{}, {:?}, {}: {reached:?}", row.name, row.files, row.line);
            match reached {
                Ok(reached) if keep => write(&path, text, &reached)?,
                Ok(_) => {}
                Err(e) => failed.push(format!("{}, {:?}: {e}", row.name, row.files)),
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Error::Input(failed.join("\n"))),
        }
    });
}
