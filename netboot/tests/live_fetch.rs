//! Fetching from real servers (nginx, atftpd, dnsmasq, vsftpd), in network
//! namespaces. Needs root; a server that is not installed is skipped with a word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod lab;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant as Clock};

use lab::{Lab, Server, skip};
use netboot::fetch::{Download, FetchError, Options};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SIZE: usize = 40 << 20;

fn client_of(name: &str) -> Option<Lab> {
    let lab = Lab::new(name, 1)?;
    lab.client("ip addr add 10.77.0.5/24 dev nic0; ip link set nic0 up; ip link set lo up");
    Some(lab)
}

fn have(program: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A file that is different everywhere.
fn content(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes = Vec::with_capacity(size + 4);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn options(patience: u64) -> Options {
    Options {
        patience: Duration::from_secs(patience),
        until: None,
        boot_server: Some(SERVER.to_string()),
        ..Options::default()
    }
}

/// Fetches all of it; `each` is called with the position after every read.
fn fetch(
    lab: &Lab,
    url: &str,
    patience: u64,
    each: impl FnMut(u64) + Send,
) -> (Result<Vec<u8>, FetchError>, Vec<String>) {
    let url = url.to_owned();
    lab.in_client(move || {
        let mut each = each;
        let began = Clock::now();
        let mut download = match Download::new(&url, options(patience)) {
            Ok(download) => download,
            Err(error) => return (Err(error), Vec::new()),
        };
        let mut buffer = vec![0; 256 * 1024];
        let mut file = Vec::new();
        let result = loop {
            match download.read(&mut buffer) {
                Ok(Some(0)) => break Ok(file),
                Ok(length) => file.extend_from_slice(&buffer[..length.unwrap_or(0)]),
                Err(error) => break Err(error),
            }
            each(download.position());
        };
        let notes = download.take_notes();
        match &result {
            Ok(file) => {
                assert!(download.total().is_none_or(|total| total == file.len() as u64));
                println!("{url}: {} bytes in {:?} {notes:?}", file.len(), began.elapsed());
            }
            Err(error) => println!("{url}: {error} after {:?} {notes:?}", began.elapsed()),
        }
        (result, notes)
    })
}

fn nginx(lab: &Lab, root: &Path) -> Server {
    let config = lab.dir().join("nginx.conf");
    let dir = lab.dir().display().to_string();
    std::fs::write(
        &config,
        format!(
            "daemon off; user root; pid {dir}/nginx.pid; error_log {dir}/nginx-error.log;\n\
             events {{}}\n\
             http {{ access_log {dir}/nginx-access.log; client_body_temp_path {dir}/b; \
             proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; \
             scgi_temp_path {dir}/s; gzip on; gzip_types *; sendfile on;\n\
             server {{ listen 10.77.0.1:80; root {};\n\
             location /moved/ {{ rewrite ^/moved/(.*)$ /$1 permanent; }}\n\
             location /circle {{ return 302 /circle; }}\n\
             location /secure {{ return 301 https://elsewhere/; }}\n\
             location /secret/ {{ auth_basic x; auth_basic_user_file {dir}/users; alias {root}/; }}\n\
             location /plain/ {{ max_ranges 0; alias {root}/; }}\n\
             }} }}\n",
            root.display(),
            root = root.display(),
        ),
    )
    .unwrap();
    std::fs::write(lab.dir().join("users"), "me:{PLAIN}pass\n").unwrap();
    let server = lab.serve("nginx", &["-c", config.to_str().unwrap()]);
    lab.wait_for("10.77.0.1:80 ");
    server
}

#[test]
fn http_by_nginx() {
    if !have("nginx") {
        return;
    }
    let Some(lab) = client_of("http") else { return skip() };
    let root = lab.dir().join("www");
    std::fs::create_dir_all(&root).unwrap();
    let file = content(SIZE);
    std::fs::write(root.join("image"), &file).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    let mut server = Some(nginx(&lab, &root));

    let (got, _) = fetch(&lab, "http://10.77.0.1/image", 10, |_| ());
    assert!(got.unwrap() == file);
    let (got, notes) = fetch(&lab, "http:///moved/image", 10, |_| ());
    assert!(got.unwrap() == file);
    assert_eq!(notes, ["http://10.77.0.1/moved/image is at http://10.77.0.1/image"]);
    assert_eq!(fetch(&lab, "http://10.77.0.1/empty", 10, |_| ()).0, Ok(Vec::new()));
    assert!(fetch(&lab, "http://me:pass@10.77.0.1/secret/image", 10, |_| ()).0.unwrap() == file);

    let error = |url: &str| fetch(&lab, url, 10, |_| ()).0.unwrap_err();
    assert_eq!(error("http://10.77.0.1/nothing"), FetchError::Status(404));
    assert_eq!(error("http://10.77.0.1/secret/image"), FetchError::Status(401));
    assert_eq!(error("http://10.77.0.1/circle"), FetchError::Redirects);
    assert!(error("http://10.77.0.1/secure").to_string().contains("https is not supported"));

    // The server is killed in the middle and comes back when it was knocked at a few
    // times; with ranges, and without.
    for path in ["image", "plain/image"] {
        let (killed, wait) = std::sync::mpsc::channel();
        let (got, notes) = std::thread::scope(|scope| {
            let (lab, root) = (&lab, &root);
            let again = scope.spawn(move || {
                wait.recv().expect("the file was here before the server was stopped");
                lab.knocks(2);
                nginx(lab, root)
            });
            let result = fetch(lab, &format!("http://10.77.0.1/{path}"), 20, |position| {
                if position > (SIZE / 2) as u64 && server.is_some() {
                    lab.kill("nginx");
                    drop(server.take());
                    killed.send(()).unwrap();
                }
            });
            drop(killed);
            server = Some(again.join().unwrap());
            result
        });
        assert!(got.unwrap() == file, "{path}");
        assert!(notes.iter().any(|note| note.contains("going on at byte")), "{notes:?}");
    }

    // Another file under the same name.
    let changed = root.join("image");
    let mut cut = false;
    let (got, _) = fetch(&lab, "http://10.77.0.1/image", 20, |position| {
        if position > (SIZE / 2) as u64 && !cut {
            cut = true;
            lab.kill("nginx");
            drop(server.take());
            std::fs::write(&changed, content(SIZE - 1)).unwrap();
            server = Some(nginx(&lab, &root));
        }
    });
    assert_eq!(got, Err(FetchError::Changed));

    // The server does not come back: given up when the patience ends.
    lab.kill("nginx");
    let began = Clock::now();
    let (got, _) = fetch(&lab, "http://10.77.0.1/image", 3, |_| ());
    assert!(matches!(got, Err(FetchError::Connect(..))));
    assert!((3..8).contains(&began.elapsed().as_secs()));
}

fn check_tftp(lab: &Lab, small: &[u8], file: &[u8]) {
    assert!(fetch(lab, "tftp://10.77.0.1/image", 10, |_| ()).0.unwrap() == file);
    assert!(fetch(lab, "tftp:///small", 10, |_| ()).0.unwrap() == small);
    let error = fetch(lab, "tftp://10.77.0.1/nothing", 10, |_| ()).0.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}

#[test]
fn tftp_by_atftpd_and_dnsmasq() {
    let Some(lab) = client_of("tftp") else { return skip() };
    let root = lab.dir().join("tftp");
    std::fs::create_dir_all(&root).unwrap();
    let file = content(SIZE);
    std::fs::write(root.join("image"), &file).unwrap();
    // Exactly whole blocks: the end is an empty one.
    let small = content(1428 * 3);
    std::fs::write(root.join("small"), &small).unwrap();
    let path = root.display().to_string();
    if have("atftpd") {
        let _server = lab.serve(
            "atftpd",
            &["--daemon", "--no-fork", "--bind-address", "10.77.0.1", "--user", "root", &path],
        );
        lab.wait_for(":69 ");
        check_tftp(&lab, &small, &file);
    }
    lab.wait_gone(":69 ");
    let _dnsmasq = lab.dnsmasq(0, &format!("enable-tftp\ntftp-root={path}\n"));
    lab.wait_for(":69 ");
    check_tftp(&lab, &small, &file);
}

#[test]
fn ftp_by_vsftpd() {
    if !have("vsftpd") {
        return;
    }
    let Some(lab) = client_of("ftp") else { return skip() };
    let root = Path::new("/var/tmp").join(lab.dir().file_name().unwrap());
    std::fs::create_dir_all(&root).unwrap();
    let file = content(SIZE);
    std::fs::write(root.join("image"), &file).unwrap();
    lab.server(&format!("chmod 755 {0}; chmod 644 {0}/image", root.display()));
    let config = lab.dir().join("vsftpd.conf");
    std::fs::write(
        &config,
        format!(
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nanon_root={}\nlocal_enable=NO\n\
             seccomp_sandbox=NO\nsecure_chroot_dir=/var/empty\nlocal_root=/\nftp_username=daemon\nlisten_address=10.77.0.1\n\
             xferlog_enable=NO\nallow_anon_ssl=NO\nno_anon_password=YES\nisolate_network=NO\nisolate=NO\n",
            root.display()
        ),
    )
    .unwrap();
    let start = || {
        let server = lab.serve(
            "sh",
            &["-c", &format!("mkdir -p /var/empty; exec vsftpd {}", config.display())],
        );
        lab.wait_for("10.77.0.1:21 ");
        server
    };
    let mut server = Some(start());
    assert!(fetch(&lab, "ftp://10.77.0.1/image", 10, |_| ()).0.unwrap() == file);
    let error = fetch(&lab, "ftp://10.77.0.1/nothing", 10, |_| ()).0.unwrap_err();
    assert!(error.to_string().contains("550"), "{error}");
    // The session is cut in the middle.
    let mut cut = false;
    let (got, notes) = fetch(&lab, "ftp://10.77.0.1/image", 20, |position| {
        if position > (SIZE / 2) as u64 && !cut {
            cut = true;
            drop(server.take());
            lab.kill("vsftpd");
            server = Some(start());
        }
    });
    assert!(got.unwrap() == file);
    assert!(notes.iter().any(|note| note.contains("going on at byte")), "{notes:?}");
    let _ = std::fs::remove_dir_all(root);
}
