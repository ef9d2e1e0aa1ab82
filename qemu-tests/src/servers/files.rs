//! Servers of files and disks: nginx, vsftpd, atftpd, nbd-server, smbd, virtiofsd.
//!
//! All of them are started the same way, so one type does for all: a program that
//! stays in the foreground, a configuration that is written before, and a port (or
//! a socket) that says when it is ready.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::Lab;
use crate::net::Namespace;
use crate::shell::{self, Daemon};
use crate::{Error, Result, packages};

/// What tells that a server is ready.
#[derive(Debug)]
enum Sign {
    Tcp(u16),
    Udp(u16),
    Socket(PathBuf),
}

/// A server that can be stopped and started again.
#[derive(Debug)]
pub struct Server<'lab> {
    namespace: &'lab Namespace,
    log: PathBuf,
    words: Vec<String>,
    sign: Sign,
    /// What ends it when it leaves our process group.
    end: Vec<String>,
    daemon: Option<Daemon>,
}

impl Server<'_> {
    /// Starts it (again).
    ///
    /// # Errors
    /// [`Error::Command`] with the end of its log when it does not come up.
    pub fn start(&mut self) -> Result<()> {
        let (program, args) =
            self.words.split_first().ok_or_else(|| Error::Input("an empty command".into()))?;
        let mut command = match self.sign {
            // virtiofsd is QEMU's other half, and this machine's as well.
            Sign::Socket(_) => self.namespace.command(program),
            _ => self.namespace.released(program),
        };
        command.args(args);
        let mut daemon = Daemon::start(program, command, &self.log)?;
        daemon.wait_until(Duration::from_secs(20), || match &self.sign {
            Sign::Tcp(port) => self.namespace.listens(*port),
            Sign::Udp(port) => self.namespace.listens_udp(*port),
            Sign::Socket(path) => path.exists(),
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Stops it at once: connections break, and the port is closed.
    pub fn stop(&mut self) {
        if let Some((program, args)) = self.end.split_first() {
            // Failure means that it is gone already.
            let _ = shell::run(self.namespace.command(program).args(args));
        }
        self.daemon = None;
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A file or directory that a server offers under a name.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Its name on the server.
    pub name: &'a str,
    /// What it is on this machine.
    pub path: &'a Path,
    /// Clients may write.
    pub writable: bool,
}

impl<'a> Offer<'a> {
    /// For reading only.
    pub fn read_only(name: &'a str, path: &'a Path) -> Self {
        Offer { name, path, writable: false }
    }

    /// For writing, too.
    pub fn writable(name: &'a str, path: &'a Path) -> Self {
        Offer { name, path, writable: true }
    }
}

/// The servers of files and disks that a lab may have.
impl Lab {
    /// nginx on port 80 with the files of a directory: as they are under `/`, at 2 MB/s
    /// a connection under `/slow/`, the same without ranges under `/whole/`, and
    /// elsewhere under `/moved/` (which redirects to `/`). On port 3128 it is a proxy, for
    /// which all hosts are itself.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn http(&self, root: &Path) -> Result<Server<'_>> {
        let (directory, root) = (self.directory(), root.display());
        let text = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid /run/nginx.pid;\n\
             error_log stderr;\nevents {{}}\nhttp {{\n  access_log /dev/stderr;\n  \
             default_type application/octet-stream;\n  server {{\n    listen 80;\n    \
             root {root};\n    \
             location /slow/ {{ alias {root}/; limit_rate 2m; }}\n    \
             location /whole/ {{ alias {root}/; limit_rate 2m; max_ranges 0; }}\n    \
             location /moved/ {{ rewrite ^/moved/(.*)$ http://nas.lab/$1 redirect; }}\n  }}\n  \
             server {{\n    listen 3128;\n    location / {{ proxy_pass http://127.0.0.1; }}\n  \
             }}\n}}\n"
        );
        let config = self.write("nginx.conf", &text)?;
        let words = ["nginx", "-p", &directory.to_string_lossy(), "-c", &config];
        self.server("nginx", &words, Sign::Tcp(80))
    }

    /// vsftpd on port 21 with the files of a directory, without a password, at 2 MB/s a
    /// connection.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn ftp(&self, root: &Path) -> Result<Server<'_>> {
        let text = format!(
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
             anon_root={}\nno_anon_password=YES\nanon_max_rate=2000000\nseccomp_sandbox=NO\n\
             secure_chroot_dir=/run/lock\nxferlog_enable=YES\nlog_ftp_protocol=YES\n\
             vsftpd_log_file={}\n",
            root.display(),
            self.directory().join("vsftpd.log").display(),
        );
        let config = self.write("vsftpd.conf", &text)?;
        let mut server = self.server("vsftpd", &["vsftpd", &config], Sign::Tcp(21))?;
        // Each connection has a process of its own, in a group of its own.
        server.end = ["pkill", "-KILL", "-f", &config].map(str::to_owned).into();
        Ok(server)
    }

    /// atftpd on port 1069 with the files of a directory; port 69 is dnsmasq's.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn tftp(&self, root: &Path) -> Result<Server<'_>> {
        let root = root.to_string_lossy();
        let words = [
            "atftpd",
            "--daemon",
            "--no-fork",
            "--port",
            "1069",
            "--user",
            "root.root",
            "--logfile",
            "/dev/stderr",
            "--verbose=7",
            &root,
        ];
        self.server("atftpd", &words, Sign::Udp(1069))
    }

    /// nbd-server on port 10809 with these exports.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn nbd(&self, exports: &[Offer<'_>]) -> Result<Server<'_>> {
        let mut text = "[generic]\nuser = root\ngroup = root\nallowlist = true\n".to_owned();
        for Offer { name, path, writable } in exports {
            text.push_str(&format!(
                "[{name}]\nexportname = {}\nreadonly = {}\nflush = true\nfua = true\n",
                path.display(),
                !writable,
            ));
        }
        let config = self.write("nbd.conf", &text)?;
        // In the foreground it would serve one connection only.
        let start = format!("nbd-server -C '{config}' -p /run/nbd.pid; exec sleep infinity");
        let mut server = self.server("nbd-server", &["sh", "-c", &start], Sign::Tcp(10809))?;
        let end = "exec kill -KILL -- -$(cat /run/nbd.pid)";
        server.end = ["sh", "-c", end].map(str::to_owned).into();
        Ok(server)
    }

    /// smbd with these shares, for everybody, with owners and links as Unix has them
    /// (which SMB 1 alone transports).
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn cifs(&self, shares: &[Offer<'_>]) -> Result<Server<'_>> {
        let state = self.scratch("samba")?;
        let state = state.display();
        let mut text = format!(
            "[global]\nserver role = standalone server\nmap to guest = Bad User\n\
             guest account = root\nserver min protocol = NT1\nunix extensions = yes\n\
             follow symlinks = yes\nlog file = /dev/stderr\nlog level = 1\n\
             disable netbios = yes\nsmb ports = 445\nload printers = no\n\
             private dir = {state}\nstate directory = {state}\ncache directory = {state}\n\
             lock directory = /run/lock\npid directory = /run\nncalrpc dir = /run/lock/ncalrpc\n"
        );
        for Offer { name, path, writable } in shares {
            text.push_str(&format!(
                "[{name}]\npath = {}\nread only = {}\nguest ok = yes\nforce user = root\n",
                path.display(),
                if *writable { "no" } else { "yes" },
            ));
        }
        let config = self.write("smb.conf", &text)?;
        let words = ["smbd", "--foreground", "--no-process-group", "--debug-stdout", "-s", &config];
        self.server("smbd", &words, Sign::Tcp(445))
    }

    /// virtiofsd with a directory, and the words that give a machine of 1 GiB its tag.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn virtiofs(&self, tag: &str, root: &Path) -> Result<(Server<'_>, Vec<String>)> {
        let socket = self.directory().join(format!("virtiofs-{tag}"));
        let path = socket.to_string_lossy().into_owned();
        let source = format!("source={}", root.display());
        let at = format!("--socket-path={path}");
        let program = virtiofsd()?;
        let words = [program, at.as_str(), "-o", source.as_str(), "-o", "sandbox=chroot"];
        let server = self.server("virtiofsd", &words, Sign::Socket(socket))?;
        let machine = [
            "-object".to_owned(),
            "memory-backend-memfd,id=shared,size=1024M,share=on".to_owned(),
            "-numa".to_owned(),
            "node,memdev=shared".to_owned(),
            "-chardev".to_owned(),
            format!("socket,id=virtiofs,path={path}"),
            "-device".to_owned(),
            format!("vhost-user-fs-pci,chardev=virtiofs,tag={tag}"),
        ];
        Ok((server, machine.into()))
    }

    fn server(&self, name: &str, words: &[&str], sign: Sign) -> Result<Server<'_>> {
        packages::ensure_all(packages::FOR_SOURCES)?;
        let mut server = Server {
            namespace: self.namespace(),
            log: self.directory().join(format!("{name}.out")),
            words: words.iter().map(|&word| word.to_owned()).collect(),
            sign,
            end: Vec::new(),
            daemon: None,
        };
        server.start()?;
        Ok(server)
    }

    /// Writes a configuration; returns its path.
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory().join(name);
        std::fs::write(&path, text).map_err(Error::at("write", &path))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// Until Debian 12 a part of QEMU, since Debian 13 a package of its own.
fn virtiofsd() -> Result<&'static str> {
    const PLACES: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
    packages::ensure_all(packages::FOR_SOURCES)?;
    let found = || PLACES.into_iter().find(|place| Path::new(place).exists());
    if found().is_none() {
        packages::ensure_all(&[("virtiofsd", "virtiofs")])?;
    }
    found().ok_or_else(|| Error::Input(format!("no virtiofsd in {}", PLACES.join(" or "))))
}
