//! Cables that are slow, or lose, double and reorder frames.

use super::row::{Ends, Fault, Room, bare};
use crate::lab::Lab;
use crate::servers::Trouble;
use crate::{Result, shell};

const HTTP: &str = "bw.root=http://10.77.0.1/root.squashfs bw.overlay";
const TFTP: &str = "bw.root=tftp://10.77.0.1:1069/root.squashfs bw.overlay";
const NFS: &str = "bw.root=nfs:10.77.0.1:/srv/root bw.overlay";

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "link-slow",
        what: "a cable of 4 Mbit/s",
        line: HTTP,
        room: |lab, line| room(lab, line, Trouble { rate: 500_000, ..Trouble::default() }),
        says: &["fetching http://10.77.0.1/root.squashfs: ", " %), ", "s left", "fetched http://"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-lossy-http",
        what: "5 % of the frames are lost each way",
        line: HTTP,
        room: |lab, line| room(lab, line, Trouble { lost: 50, ..Trouble::default() }),
        says: &["fetched http://"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-lossy-tftp",
        what: "the same, for a protocol that has no TCP below it",
        line: TFTP,
        room: |lab, line| room(lab, line, Trouble { lost: 50, ..Trouble::default() }),
        says: &["fetched tftp://"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-lossy-nfs",
        what: "5 % of the frames are lost each way while the root is read over NFS",
        line: NFS,
        room: |lab, line| room(lab, line, Trouble { lost: 50, ..Trouble::default() }),
        says: &["mounting NFS 10.77.0.1:/srv/root", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-quarter-lost",
        what: "a quarter of the frames are lost each way: DHCP, the probe and TCP all lose some",
        line: NFS,
        room: |lab, line| room(lab, line, Trouble { lost: 250, ..Trouble::default() }),
        says: &["mounting NFS 10.77.0.1:/srv/root", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-doubles",
        what: "a third of the frames arrive twice, which doubles a transfer of careless clients",
        line: TFTP,
        room: |lab, line| room(lab, line, Trouble { twice: 333, ..Trouble::default() }),
        says: &["fetched tftp://"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "link-reorders",
        what: "a tenth of the frames are overtaken by others",
        line: TFTP,
        room: |lab, line| room(lab, line, Trouble { late: 100, ..Trouble::default() }),
        says: &["fetched tftp://"],
        ends: Ends::Boots,
        quick: false,
    },
];

fn room<'l>(lab: &'l Lab, line: &str, trouble: Trouble) -> Result<Room<'l>> {
    let link = lab.bad_link(trouble)?;
    let words: Vec<&str> = link.words.iter().map(String::as_str).collect();
    let room = Room::of(bare(lab, line)?.qemu(&words));
    let room = room.with(lab.dhcp().serve()?);
    let image = lab.assets().small_squashfs()?;
    let site = lab.scratch("site")?;
    let file = site.join("root.squashfs");
    shell::sh(&["cp", &image.to_string_lossy(), &file.to_string_lossy()])?;
    let room = match line {
        HTTP => room.with(lab.http(&site)?),
        TFTP => room.with(lab.tftp(&site)?),
        _ => room.with(lab.nfs().export("/srv/root", &lab.assets().small_root()?).start()?),
    };
    Ok(room.with(link))
}
