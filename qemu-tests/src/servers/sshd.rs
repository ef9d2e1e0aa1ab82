//! OpenSSH's server, for machines that send their disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::assets::Flavour;
use crate::shell::{self, Daemon};
use crate::{Error, Lab, Result, packages};

/// sshd of this computer. The lab's /run is its own. Without the other directory supermin makes no
/// appliance of a kernel that is elsewhere. A login shell looks at its first place for programs.
const HERE: &str = r#"set -e
mkdir -p /run/sshd /lib/modules
mount --bind "$0/bin" /usr/local/sbin
exec /usr/sbin/sshd -D -e -f "$0/config"
"#;

/// The same in another root, of which nothing is changed. It has this computer's paths below `$2`.
const ELSEWHERE: &str = r#"set -e
mkdir -p "$0/up" "$0/work" "$0/root"
mount -t overlay -o "lowerdir=$1,upperdir=$0/up,workdir=$0/work" lab "$0/root"
for place in "$0" "$2"; do mkdir -p "$0/root$place"; mount --bind "$place" "$0/root$place"; done
mount -t proc proc "$0/root/proc"
mount -t sysfs sysfs "$0/root/sys"
mount --rbind /dev "$0/root/dev"
mkdir -p "$0/root/run/sshd" "$0/root/lib/modules"
exec chroot "$0/root" /usr/sbin/sshd -D -e -f "$0/config"
"#;

/// virt-v2v's part is played by what it starts: nbdkit with the filter cow, and nbdcopy.
const STAND_IN: &str = "#!/bin/sh
[ \"$1\" = --version ] && { echo virt-v2v 2.2.0; exit 0; }
[ \"$1\" = --machine-readable ] && { printf '%s\\n' libguestfs-rewrite input:libvirtxml output:null; exit 0; }
for xml; do :; done
port=$(sed -n 's/.*port=\"\\([0-9]*\\)\".*/\\1/p' \"$xml\")
nbdkit -U - --filter cow nbd hostname=localhost port=$port shared=true \\
  --run 'nbdcopy \"$uri\" COPY' || exit 5
echo the copy is made
";

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct Sshd {
    _daemon: Daemon,
    /// What it has in `bin` is found before all other programs, `images` is empty, and `id` is the
    /// private key of root.
    pub place: PathBuf,
    /// Its key's fingerprint.
    pub print: String,
}

impl Lab {
    /// A server at port 22: this computer, or a conversion server of that release of Debian. What
    /// it starts has these variables (`NAME=VALUE …`); `more` are lines of its configuration.
    ///
    /// # Errors
    /// A package cannot be had, or the server not started.
    pub fn sshd(&self, release: Option<&str>, environment: &str, more: &str) -> Result<Sshd> {
        packages::ensure_all(packages::FOR_P2V)?;
        let place = self.scratch("p2v")?;
        let file = |name: &str| place.join(name).to_string_lossy().into_owned();
        for name in ["host", "id"] {
            let _ = fs::remove_file(place.join(name));
            shell::sh(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file(name)])?;
        }
        let config = format!(
            "Port 22\nHostKey {0}/host\nPidFile none\nUsePAM no\nPermitRootLogin yes\nStrictModes no\n\
             AuthorizedKeysFile {0}/id.pub\nSubsystem sftp internal-sftp\n\
             SetEnv PATH={0}/bin:/usr/bin:/bin {environment}\n{more}",
            place.display()
        );
        fs::write(place.join("config"), config).map_err(Error::at("write", &place))?;
        for made in [place.join("bin"), place.join("images")] {
            fs::create_dir_all(&made).map_err(Error::at("make", &made))?;
        }
        let here = place.to_string_lossy();
        let daemon = match release {
            None => self.golden_node(&["sh", "-c", HERE, &here])?,
            Some(release) => {
                let root = self.assets().conversion_server(release)?;
                let kernels = self.assets().kernel_of(release, Flavour::Cloud)?.modules;
                // What the cache has of that kernel.
                let kernels = kernels.ancestors().nth(3).unwrap_or(&kernels).to_string_lossy();
                let root = root.to_string_lossy();
                self.golden_node(&["sh", "-c", ELSEWHERE, &here, &root, &kernels])?
            }
        };
        let shown = shell::sh(&["ssh-keygen", "-lf", &file("host.pub")])?;
        let print = shown.split(' ').nth(1).unwrap_or_default().to_owned();
        Ok(Sshd { _daemon: daemon, place, print })
    }
}

impl Sshd {
    /// Puts a program there that is called `virt-v2v` and copies the disk as virt-v2v does,
    /// without a conversion. The copy's path comes back.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn stand_in(&self) -> Result<PathBuf> {
        let copy = self.place.join("copy.img");
        let program = self.place.join("bin/virt-v2v");
        let text = STAND_IN.replace("COPY", &copy.to_string_lossy());
        fs::write(&program, text).map_err(Error::at("write", &program))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .map_err(Error::at("change", &program))?;
        Ok(copy)
    }
}
