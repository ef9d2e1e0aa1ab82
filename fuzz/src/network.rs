//! What comes in from the network, and the state machines that it drives.

use std::net::Ipv4Addr;
use std::time::Duration;

use netboot::dhcp::client::{Client, Identity, Needs};
use netboot::dhcp::lease::{self, is_domain_name, is_host_name};
use netboot::dhcp::message::{self, Incoming};
use netboot::fetch::http::{Body, parse_head};
use netboot::fetch::tftp::Transfer;
use netboot::fetch::{ftp, url::Url};
use sys::clock::Instant;

use netboot::nbd::Negotiation;
use netboot::nfs::rpc::Records;
use netboot::nfs::{self, options};
use netboot::race::{Action, Race};
use netboot::{config, resolve};

use crate::messages;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The BOOTP part of one DHCP answer. What comes through goes into files and
/// command lines of others, so names must be names.
pub fn dhcp_message(data: &[u8]) {
    let _ = message::read(data, MAC);
    let mac = data.get(28..34).and_then(|mac| mac.try_into().ok()).unwrap_or(MAC);
    if let Some(answer) = message::read_bootp(data, mac, SERVER) {
        check_answer(&answer);
    }
}

fn check_answer(answer: &Incoming) {
    let lease = &answer.lease;
    assert!(lease.hostname.is_empty() || is_host_name(&lease.hostname));
    assert!(lease.domain.is_empty() || is_domain_name(&lease.domain));
    assert!(lease.search.iter().all(|name| is_domain_name(name)));
    assert!(lease.prefix.is_none_or(|prefix| prefix <= 32));
    for text in [&answer.message, &lease.root_path, &lease.boot_file] {
        assert!(!text.chars().any(char::is_control), "{text:?} would reach the console");
    }
    let _ = lease.boot_server();
}

/// Answers to one client, each put into a frame that reaches it.
pub fn dhcp_exchange(data: &[u8]) {
    const SEED: u32 = 0x7eed_5eed;
    let needs = Needs { root_path: data.len() & 1 == 0, boot_server: false };
    let mut client = Client::new(Identity::new(MAC), needs, SEED);
    let mut now = Instant::from_millis(1000);
    let mut transaction = SEED;
    for answer in std::iter::once(&[][..]).chain(messages(data)) {
        let frame = (!answer.is_empty()).then(|| addressed(answer, transaction));
        let output = client.step(now, frame.as_deref());
        if let Some(sent) = output.frame.as_ref().and_then(|frame| frame.get(46..50)) {
            transaction = u32::from_be_bytes(sent.try_into().expect("four bytes"));
        }
        for event in &output.events {
            let _ = event.to_string();
        }
        if output.lease.is_some() {
            assert_eq!(client.deadline(), None, "asks on after the lease");
        }
        now = match client.deadline() {
            Some(next) => next.max(now.after(Duration::from_millis(100))),
            None => return,
        };
    }
}

/// A DHCP answer for [`MAC`] in a frame, with this transaction id.
fn addressed(bootp: &[u8], transaction: u32) -> Vec<u8> {
    let mut bootp = bootp.to_vec();
    bootp.resize(bootp.len().max(240), 0);
    bootp[0] = 2;
    bootp[1] = 1;
    bootp[2] = 6;
    bootp[4..8].copy_from_slice(&transaction.to_be_bytes());
    bootp[28..34].copy_from_slice(&MAC);
    bootp[236..240].copy_from_slice(&[99, 130, 83, 99]);
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 8, 0]);
    let (udp, ip) = (8 + bootp.len() as u16, 28 + bootp.len() as u16);
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0x45, 0, ip.to_be_bytes()[0], ip.to_be_bytes()[1]]);
    header[8..10].copy_from_slice(&[64, 17]);
    header[12..16].copy_from_slice(&SERVER.octets());
    header[16..20].copy_from_slice(&[255; 4]);
    let words = header.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&header);
    for word in [67, 68, udp, 0] {
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.extend_from_slice(&bootp);
    frame
}

/// Links that come, go and change, and answers on them, in any order. The first
/// byte of each message says what it is.
pub fn link_race(data: &[u8]) {
    const LINES: [&str; 4] = [
        "boot=live netboot=nfs nfsroot=10.77.0.1:/srv ip=dhcp BOOTIF=01-52-54-00-12-34-56",
        "root=/dev/nfs nfsroot=/srv ip=:::::eth0:dhcp",
        "root=/dev/nfs nfsroot=10.77.0.1:/srv ip=10.77.0.9::10.77.0.1:255.255.255.0:me:eth0:off",
        "root=nfs:10.77.0.1:/srv rd.neednet=1 vlan=eth0.7:eth0 ip=eth0.7:dhcp",
    ];
    let (choice, data) = data.split_first().unwrap_or((&0, &[]));
    let line = LINES[usize::from(*choice) % LINES.len()];
    let plan = cmdline::parse(line, &cmdline::Context::default());
    let plan = plan.network.expect("every line has a network");
    let mut now = Instant::from_millis(500);
    let mut race = Race::new(plan, Needs::default(), now, 7);
    let mut last_sent: Option<(u32, u32)> = None;
    for message in messages(data).take(64) {
        let (kind, rest) = message.split_first().unwrap_or((&0, &[]));
        match kind % 5 {
            0 => {
                for news in sys::netlink::parse_news(rest) {
                    race.news(now, news);
                }
            }
            1 => {
                if let Some((link, transaction)) = last_sent {
                    race.frame(now, link, &addressed(rest, transaction));
                }
            }
            2 => race.settled(now),
            3 => race.failed(now, u32::from(rest.first().copied().unwrap_or(1)), "cut".into()),
            _ => now = race.deadline().map_or(now, |next| next.max(now)),
        }
        race.tick(now);
        let actions = race.take_actions();
        assert!(actions.len() <= 4096, "{} actions at once", actions.len());
        for action in actions {
            if let Action::Send(link, frame) = action
                && let Some(sent) = frame.get(46..50)
            {
                last_sent = Some((link, u32::from_be_bytes(sent.try_into().expect("four bytes"))));
            }
        }
        for event in race.take_events() {
            let _ = (event.to_string(), event.what.is_warning());
        }
        let _ = race.take_round_over().map(|report| report.to_string());
        if race.take_winner().is_some() {
            return;
        }
        now = now.after(Duration::from_millis(10));
    }
}

/// An answer of a name server, to the question that it pretends to answer.
pub fn dns_answer(data: &[u8]) {
    let id = data.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
    let asked = lease::parse_name(data, 12).map(|(name, _)| name);
    for name in [asked.as_deref().unwrap_or_default(), "nfs.lab"] {
        let _ = resolve::parse_answer(data, id, name);
        let _ = resolve::query(id, name);
    }
}

/// Replies of portmapper, mountd and NFS, whole and in pieces.
pub fn nfs_reply(data: &[u8]) {
    nfs::probe::parse_any(data);
    let mut records = Records::default();
    for piece in data.chunks(13) {
        match records.push(piece) {
            Ok(Some(record)) => nfs::probe::parse_any(&record),
            Ok(None) => {}
            Err(_) => break,
        }
    }
}

/// Mount options of the line and root paths of DHCP: nothing may come through
/// that the kernel would read as an option of its own.
pub fn nfs_options(data: &[u8]) {
    use cmdline::plan::NfsVersion;
    let text = String::from_utf8_lossy(data);
    let root = nfs::parse_root_path(&text);
    let list: Vec<String> = text.split(',').map(str::to_owned).collect();
    for list in [list, root.map(|root| root.options).unwrap_or_default()] {
        let Ok(given) = options::read(&list) else { continue };
        for version in [NfsVersion::V3, NfsVersion::V4_2] {
            let ours = Ipv4Addr::new(10, 77, 0, 9);
            let built = options::build(&given, version, SERVER, ours, None, true);
            let addresses = built.entries().filter(|(key, _)| *key == "addr").count();
            assert_eq!(addresses, 1);
            for (key, value) in built.entries() {
                let text = format!("{key}{}", value.unwrap_or_default());
                assert!(!text.contains([',', ' ', '\n', '\0']), "{built}");
            }
        }
    }
}

/// A server's side of an NBD negotiation, in pieces.
pub fn nbd_negotiation(data: &[u8]) {
    let negotiations = [Negotiation::new("live"), Ok(Negotiation::list())];
    for mut nbd in negotiations.into_iter().flatten() {
        let mut sent = 0;
        for piece in data.chunks(9) {
            let Ok(answer) = nbd.push(piece) else { break };
            sent += answer.len();
        }
        assert!(sent <= 4096 + 64 * data.len(), "{sent} bytes in answer to {}", data.len());
        assert!(nbd.exports().len() <= data.len());
        assert!(nbd.export().is_none() || nbd.is_done());
    }
}

/// A log of NVMe over TCP: what is found goes into a line of comma-separated options.
pub fn nvme_log(data: &[u8]) {
    for subsystem in netboot::nvme::parse_log(data) {
        let name = &subsystem.nqn;
        assert!(name.len() <= 223 && !name.contains([',', ' ', '\n', '\0']), "{name:?}");
    }
}

/// A response: its head, then its body in pieces.
pub fn http_response(data: &[u8]) {
    let Ok(Some((head, length))) = parse_head(data) else { return };
    assert!(length <= data.len());
    let mut body = Body::new(&head);
    for piece in data[length..].chunks(7) {
        let mut rest = piece;
        while !rest.is_empty() && body != Body::Done {
            let Ok((used, data)) = body.take(rest) else { return };
            assert!(data <= used && used <= rest.len() && used > 0, "no progress");
            rest = &rest[used..];
        }
    }
    if let (Some(location), Ok(base)) = (head.location, Url::parse("http://h/live/x")) {
        let _ = base.join(&location);
    }
}

/// The control connection of an FTP server, in pieces.
pub fn ftp_replies(data: &[u8]) {
    let mut replies = ftp::Replies::default();
    for piece in data.chunks(11) {
        if replies.push(piece).is_err() {
            return;
        }
        while let Ok(Some(reply)) = replies.next_reply() {
            assert!((100..600).contains(&reply.code));
            assert!(ftp::parse_epsv(&reply.text) != Some(0));
            assert!(ftp::parse_pasv(&reply.text) != Some(0));
        }
    }
}

/// Datagrams of a TFTP server. An empty one stands for time that passes.
pub fn tftp_transfer(data: &[u8]) {
    let mut now = Instant::from_millis(0);
    let Ok(mut transfer) = Transfer::new("live/filesystem.squashfs", now) else { return };
    for datagram in messages(data) {
        let input = (!datagram.is_empty()).then_some((1069, datagram));
        let Ok(output) = transfer.step(now, input) else { return };
        assert!(output.data.len() <= datagram.len(), "data out of nothing");
        now = transfer.deadline().max(now.after(Duration::from_millis(1)));
    }
}

/// A URL, and a redirection to the same text. Neither may break out of its line.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(url) = Url::parse(&text) else { return };
    for url in [url.join(&text).unwrap_or_else(|_| url.clone()), url] {
        assert!(!url.to_string().contains(['\r', '\n', ' ']));
        let request = netboot::fetch::http::request(&url, 0, None, false);
        let lines = request.windows(2).filter(|pair| pair == b"\r\n").count();
        assert_eq!(lines, 7 + usize::from(url.user.is_some()), "a header was smuggled in");
        assert_eq!(request.iter().filter(|byte| **byte == b'\n').count(), lines);
        let _ = url.file();
    }
}

/// Texts about the network that others left: `/proc/net/pnp`, hosts(5); and the two packed lists of a lease.
pub fn lease_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = config::parse_pnp(&text);
    let _ = resolve::find_in_hosts(&text, "nfs.lab");
    for name in lease::parse_search(data) {
        assert!(is_domain_name(&name));
    }
    for route in lease::parse_classless_routes(data).unwrap_or_default() {
        assert!(route.prefix <= 32);
    }
}
