//! DHCP servers that lie.

use super::row::{Ends, Fault, Room, client};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::servers::Answer;
use crate::{Result, shell};

const HTTP: &str = "bw.root=http://10.77.0.1/root.squashfs bw.overlay";
/// The same, from a machine that gives up after seconds.
const IMPATIENT: &str = "root=live:http://10.77.0.1/root.squashfs ip=dhcp rd.net.timeout.dhcp=5 \
                         rd.retry=2";
/// A root path that only DHCP knows.
const ROOT_PATH: &str = "root=/dev/nfs ip=dhcp rd.retry=3";

const MASK: u8 = 1;
const ROUTER: u8 = 3;
const PATH: u8 = 17;
const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
const SERVER: u8 = 54;
const SEARCH: u8 = 119;

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "dhcp-zero-mask",
        what: "a netmask of 0.0.0.0",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                answer.without(MASK).with(MASK, &[0; 4]);
                vec![answer]
            })
        },
        says: &["option 1: not a netmask", "guessed /8"],
        ends: Ends::Boots,
        quick: true,
    },
    Fault {
        name: "dhcp-two-servers",
        what: "two servers offer two root paths; the second one's is wrong",
        line: ROOT_PATH,
        room: |lab, line| {
            nfs(lab, line, |mut answer| {
                let mut other = answer.clone();
                answer.with(PATH, b"10.77.0.1:/srv/root");
                other.without(SERVER).with(SERVER, &[10, 77, 0, 2]);
                other.with(PATH, b"10.77.0.1:/srv/other");
                if answer.is_ack() { vec![answer] } else { vec![answer, other] }
            })
        },
        says: &["mounting NFS 10.77.0.1:/srv/root", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-root-path-twice",
        what: "one server sends two root paths, which by RFC 3396 are the halves of one",
        line: ROOT_PATH,
        room: |lab, line| {
            nfs(lab, line, |mut answer| {
                answer.with(PATH, b"10.77.0.1:/srv/root").with(PATH, b"10.77.0.1:/srv/other");
                vec![answer]
            })
        },
        says: &[
            "FAILED",
            "tried:",
            "NFS 10.77.0.1:/srv/root10.77.0.1: ",
            "\"/srv/other\" is not an NFS",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "dhcp-short-lease",
        what: "a lease of 10 s",
        line: HTTP,
        room: |lab, line| {
            let room = http(lab, line, |mut answer| {
                answer.without(LEASE).with(LEASE, &10u32.to_be_bytes());
                vec![answer]
            })?;
            Ok(room.after(|machine: &mut Machine| {
                machine.run("ip -4 -o address | grep -q 10.77.0.66").map(drop)
            }))
        },
        says: &["the lease lasts 10 s", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-refusals",
        what: "the server refuses five times what it has offered, and then gives it",
        line: HTTP,
        room: |lab, line| {
            let mut left = 5;
            http(lab, line, move |mut answer| {
                if answer.is_ack() && left > 0 {
                    left -= 1;
                    answer.refuse("wrong network");
                }
                vec![answer]
            })
        },
        says: &["10.77.0.1 refused the address (wrong network), asking anew", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-refusals-without-end",
        what: "the server refuses whatever it has offered, always",
        line: IMPATIENT,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                if answer.is_ack() {
                    answer.refuse("wrong network");
                }
                vec![answer]
            })
        },
        says: &[
            "10.77.0.1 refused the address (wrong network), asking anew",
            "no DHCP server gave a usable answer",
            "FAILED: could not bring up the network",
            "tried:",
            "10.77.0.1 refused the address",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "dhcp-overload",
        what: "the root path in the field for the boot file, as option overload allows, without \
               an end mark",
        line: ROOT_PATH,
        room: |lab, line| {
            nfs(lab, line, |mut answer| {
                let path = b"10.77.0.1:/srv/root";
                let option = [&[PATH, 19][..], path, &[0; 107]].concat();
                answer.with(OVERLOAD, &[1]).field(108, &option);
                vec![answer]
            })
        },
        says: &["mounting NFS 10.77.0.1:/srv/root", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-overload-again",
        what: "option overload inside an overloaded field, and an option that leads out of it",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                let fields = [&[OVERLOAD, 1, 3][..], &[PATH, 255], &[b'/'; 123]].concat();
                answer.with(OVERLOAD, &[3]).field(44, &[OVERLOAD, 1, 3, 0]).field(108, &fields);
                vec![answer]
            })
        },
        says: &["10.77.0.66/24", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-search-loop",
        what: "a search domain whose compressed name points to itself",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                answer.with(SEARCH, &[3, b'l', b'a', b'b', 0xc0, 0, 0xc0, 4]);
                vec![answer]
            })
        },
        says: &["option 119: no readable search domain", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "dhcp-own-address",
        what: "the client gets the address that the server has itself",
        line: IMPATIENT,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                answer.field(16, &[10, 77, 0, 1]);
                vec![answer]
            })
        },
        says: &["answer from 10.77.0.1 ignored: it offers the server's own address", "FAILED"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "dhcp-gateway-elsewhere",
        what: "a gateway that is not in the client's network",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |mut answer| {
                answer.without(ROUTER).with(ROUTER, &[192, 168, 99, 1]);
                vec![answer]
            })
        },
        says: &["192.168.99.1", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
];

type Lie = fn(Answer) -> Vec<Answer>;

fn http<'l>(
    lab: &'l Lab,
    line: &str,
    lie: impl FnMut(Answer) -> Vec<Answer> + Send + 'static,
) -> Result<Room<'l>> {
    let site = lab.scratch("site")?;
    let (from, to) = (lab.assets().small_squashfs()?, site.join("root.squashfs"));
    shell::sh(&["cp", &from.to_string_lossy(), &to.to_string_lossy()])?;
    let room = Room::of(client(lab, line)?).with(lab.lying_dhcp(lie)?);
    Ok(room.with(lab.http(&site)?))
}

fn nfs<'l>(lab: &'l Lab, line: &str, lie: Lie) -> Result<Room<'l>> {
    let room = Room::of(client(lab, line)?).with(lab.lying_dhcp(lie)?);
    Ok(room.with(lab.nfs().export("/srv/root", &lab.assets().small_root()?).start()?))
}
