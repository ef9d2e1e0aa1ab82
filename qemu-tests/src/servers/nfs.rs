//! NFS-Ganesha: NFS versions 3 and 4 over TCP without the host's kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::assets::Assets;
use crate::lab::Lab;
use crate::net::Namespace;
use crate::shell::Daemon;
use crate::{Error, Result, until};

impl Lab {
    /// An NFS server.
    pub fn nfs(&self) -> NfsBuilder<'_> {
        NfsBuilder::new(self.namespace(), self.directory())
    }

    /// An NFS server of a release of its own.
    ///
    /// # Errors
    /// Its packages cannot be fetched or unpacked.
    pub fn nfs_of(&self, release: &str) -> Result<NfsBuilder<'_>> {
        Ok(NfsBuilder { servers: Assets::of(release)?.servers()?, ..self.nfs() })
    }
}

/// What a Ganesha will export, and how.
#[derive(Debug)]
pub struct NfsBuilder<'lab> {
    namespace: &'lab Namespace,
    directory: PathBuf,
    exports: Vec<Export>,
    protocols: &'static str,
    port: u16,
    /// The root that it has its programs from.
    servers: Option<PathBuf>,
}

#[derive(Debug)]
struct Export {
    path: String,
    source: PathBuf,
    access: &'static str,
}

impl<'lab> NfsBuilder<'lab> {
    pub(crate) fn new(namespace: &'lab Namespace, directory: &Path) -> NfsBuilder<'lab> {
        let directory = directory.to_owned();
        NfsBuilder {
            namespace,
            directory,
            exports: Vec::new(),
            protocols: "3, 4",
            port: 2049,
            servers: namespace.servers().map(Path::to_owned),
        }
    }

    /// Exports `source` read-only under `path`, for instance `/srv/live`.
    #[must_use]
    pub fn export(self, path: &str, source: &Path) -> Self {
        self.add(path, source, "RO")
    }

    /// Exports `source` read-write, root included.
    #[must_use]
    pub fn export_rw(self, path: &str, source: &Path) -> Self {
        self.add(path, source, "RW")
    }

    fn add(mut self, path: &str, source: &Path, access: &'static str) -> Self {
        self.exports.push(Export { path: path.to_owned(), source: source.to_owned(), access });
        self
    }

    /// Speaks version 3 only.
    #[must_use]
    pub fn v3_only(mut self) -> Self {
        self.protocols = "3";
        self
    }

    /// Speaks version 4 only: no portmapper, no mount protocol.
    #[must_use]
    pub fn v4_only(mut self) -> Self {
        self.protocols = "4";
        self
    }

    /// Listens on another port than 2049.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts the server (and rpcbind for version 3), and waits until it listens.
    ///
    /// # Errors
    /// [`Error::Command`] with the end of its log when it does not come up.
    pub fn start(self) -> Result<Nfs<'lab>> {
        let config = self.directory.join("ganesha.conf");
        std::fs::write(&config, self.config()).map_err(Error::at("write", &config))?;
        let mut server = Nfs { site: self, config, daemons: Vec::new() };
        server.start()?;
        Ok(server)
    }

    /// Where CAP_SYS_RESOURCE is missing, as in containers, Ganesha 6 ends at its start
    /// unless its attempt to become a flusher of I/O may fail; 4 does not know that word.
    /// What a name stands for is looked up each time: otherwise a file that is replaced
    /// outside of the server is served as it was for 60 s more.
    fn config(&self) -> String {
        let mut text = format!(
            "NFS_CORE_PARAM {{\n  Protocols = {};\n  NFS_Port = {};\n  MNT_Port = {};\n  \
             Enable_NLM = false;\n  Enable_RQUOTA = false;\n  Enable_UDP = false;\n  \
             mount_path_pseudo = true;\n  allow_set_io_flusher_fail = true;\n}}\n\
             NFSv4 {{\n  Grace_Period = 5;\n  Lease_Lifetime = 5;\n  Graceless = true;\n  \
             RecoveryBackend = fs;\n}}\n\
             EXPORT_DEFAULTS {{ SecType = sys, none; Squash = No_Root_Squash; \
             Attr_Expiration_Time = 0; }}\n",
            self.protocols,
            self.port,
            self.port.wrapping_add(1),
        );
        for (id, export) in (1..).zip(&self.exports) {
            text.push_str(&format!(
                "EXPORT {{\n  Export_Id = {id};\n  Path = {};\n  Pseudo = {};\n  \
                 Access_Type = {};\n  Transports = TCP;\n  FSAL {{ Name = VFS; }}\n}}\n",
                export.source.display(),
                export.path,
                export.access,
            ));
        }
        text
    }
}

/// A running server.
#[derive(Debug)]
pub struct Nfs<'lab> {
    site: NfsBuilder<'lab>,
    config: PathBuf,
    daemons: Vec<Daemon>,
}

impl Nfs<'_> {
    /// Starts it (again).
    ///
    /// # Errors
    /// [`Error::Command`] with the end of its log when it does not come up.
    pub fn start(&mut self) -> Result<()> {
        let log = self.site.directory.join("ganesha.log");
        let (namespace, servers) = (self.site.namespace, self.site.servers.as_deref());
        if self.site.protocols.contains('3') {
            let mut rpcbind = namespace.from(servers, "rpcbind");
            rpcbind.args(["-f", "-w"]);
            self.daemons.push(namespace.server("rpcbind", rpcbind, &log, 111)?);
        }
        let mut ganesha = namespace.from(servers, "ganesha.nfsd");
        ganesha.args(["-F", "-N", "EVENT", "-p", "/run/ganesha.pid", "-L"]).arg(&log);
        ganesha.arg("-f").arg(&self.config);
        namespace.run(&["mkdir", "-p", "/run/ganesha", "/var/lib/nfs/ganesha"])?;
        self.daemons.push(namespace.server("ganesha.nfsd", ganesha, &log, self.site.port)?);
        Ok(())
    }

    /// Stops it: connections break, and the port is closed.
    pub fn stop(&mut self) {
        self.daemons.clear();
        // The kill has been sent; a busy host takes a moment to carry it out, and a
        // server that is started meanwhile finds its place taken.
        let gone = || Ok(!self.site.namespace.listens(self.site.port));
        // One that does not go makes itself known when the next is started.
        let _ = until("the NFS server is gone", Duration::from_secs(10), gone);
    }
}

impl Drop for Nfs<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
