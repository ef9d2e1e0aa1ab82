//! NFS that goes stale, NBD that changes its mind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::row::{Ends, Fault, Room, client};
use crate::lab::Lab;
use crate::servers::{Mood, Reading, Reply};
use crate::{Error, Result, shell};

const NBD: &str = "bw.root=nbd:10.77.0.1/root bw.overlay bw.timeout=30";
const PINNED: &str = "bw.root=nbd:10.77.0.1/root bw.overlay bw.digest=sha256:{sha256}";

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "nfs-stale",
        what: "the exported directory was removed and made anew; the server is restarted later",
        line: "bw.root=nfs:10.77.0.1:/srv/root bw.overlay bw.fail=menu:5",
        room: |lab, line| {
            let tree = lab.scratch("export")?;
            let (path, from) = (tree.to_string_lossy(), lab.assets().small_root()?);
            let mut nfs = lab.nfs().export("/srv/root", &tree).start()?;
            shell::sh(&["rm", "-r", &path])?;
            shell::sh(&["cp", "-a", &from.to_string_lossy(), &path])?;
            let room = Room::of(client(lab, line)?).with(lab.dhcp().serve()?);
            Ok(room.mend(move || {
                nfs.stop();
                nfs.start()?;
                Ok(nfs)
            }))
        },
        says: &["FAILED: could not find the root", "NFS 10.77.0.1:/srv/root: "],
        ends: Ends::Mended,
        quick: false,
    },
    Fault {
        name: "nbd-read-errors",
        what: "every read behind the first 64 KiB is an error",
        line: NBD,
        room: |lab, line| {
            nbd(lab, line, |image| {
                mood(image.len(), move |asked| match asked.offset {
                    0..0x1_0000 => data(&image, asked),
                    _ => Reply::Error(5),
                })
            })
        },
        says: &["FAILED", "NBD 10.77.0.1"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "nbd-other-bytes",
        what: "once each byte was read the bytes are others, and the line pins the image",
        line: PINNED,
        room: |lab, line| {
            nbd(lab, line, |image| {
                let size = image.len();
                let unread: std::collections::BTreeSet<usize> = (0..size / 4096).collect();
                let unread = std::sync::Mutex::new(unread);
                mood(size, move |asked| {
                    let pages = asked.offset / 4096..(asked.offset + asked.length) / 4096;
                    let over = unread.lock().is_ok_and(|mut unread| {
                        let over = unread.is_empty();
                        for page in pages {
                            unread.remove(&page);
                        }
                        over
                    });
                    match data(&image, asked) {
                        Reply::Data(bytes) if over => {
                            Reply::Data(bytes.iter().map(|byte| !byte).collect())
                        }
                        reply => reply,
                    }
                })
            })
        },
        says: &["ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "nbd-shrinks",
        what: "the connection breaks while the system boots, and the export has half the size \
               until it is mended",
        line: NBD,
        room: |lab, line| {
            let image = image(lab)?;
            let well = Arc::new(AtomicBool::new(false));
            let (size, mended) = (image.len(), Arc::clone(&well));
            let mood = ByRule {
                size: move |connection| match connection {
                    0 => size,
                    _ if mended.load(Ordering::Relaxed) => size,
                    _ => size / 2,
                },
                read: move |asked: Reading| match (asked.connection, asked.nth) {
                    (0, 8..) => Reply::Close,
                    _ => data(&image, asked),
                },
            };
            let room = Room::of(client(lab, line)?).with(lab.dhcp().serve()?);
            Ok(room.with(lab.moody_nbd(mood)?).mend(move || {
                well.store(true, Ordering::Relaxed);
                Ok(())
            }))
        },
        says: &["does not answer any more", "and is not the same any more"],
        ends: Ends::Mended,
        quick: false,
    },
    Fault {
        name: "nbd-silent",
        what: "the server answers no read, and keeps the connections: the kernel waits in the \
               middle of a call, which only a restart ends",
        line: "bw.root=nbd:10.77.0.1/root bw.overlay bw.timeout=30 bw.fail=menu:5",
        room: |lab, line| nbd(lab, line, |image| mood(image.len(), |_| Reply::Silence)),
        says: &[
            "NBD 10.77.0.1:10809/root does not answer any more",
            "FAILED: could not finish the step source in time: /init has been opening a file",
            "rebooting in 5 s, unless it goes on; check the disk or the server that it waits for",
            "rebooting",
        ],
        ends: Ends::Reboots,
        quick: false,
    },
    Fault {
        name: "nbd-empty",
        what: "the export has no bytes",
        line: NBD,
        room: |lab, line| nbd(lab, line, |_| mood(0, |_| Reply::Error(5))),
        says: &["FAILED", "NBD 10.77.0.1"],
        ends: Ends::Refuses,
        quick: false,
    },
];

/// A mood of two functions.
struct ByRule<S, R> {
    size: S,
    read: R,
}

impl<S, R> Mood for ByRule<S, R>
where
    S: Fn(usize) -> usize + Send + Sync + 'static,
    R: Fn(Reading) -> Reply + Send + Sync + 'static,
{
    fn size(&self, connection: usize) -> usize {
        (self.size)(connection)
    }

    fn read(&self, asked: Reading) -> Reply {
        (self.read)(asked)
    }
}

/// One whose size stays.
fn mood(size: usize, read: impl Fn(Reading) -> Reply + Send + Sync + 'static) -> impl Mood {
    ByRule { size: move |_| size, read }
}

fn nbd<'l, M: Mood>(lab: &'l Lab, line: &str, mood: fn(Vec<u8>) -> M) -> Result<Room<'l>> {
    let line = line.replace("{sha256}", &digest(lab)?);
    let room = Room::of(client(lab, &line)?).with(lab.dhcp().serve()?);
    Ok(room.with(lab.moody_nbd(mood(image(lab)?))?))
}

/// What a good server sends.
fn data(image: &[u8], asked: Reading) -> Reply {
    match image.get(asked.offset..asked.offset.saturating_add(asked.length)) {
        Some(bytes) => Reply::Data(bytes.to_vec()),
        None => Reply::Error(22),
    }
}

fn image(lab: &Lab) -> Result<Vec<u8>> {
    let image = lab.assets().small_squashfs()?;
    std::fs::read(&image).map_err(Error::at("read", &image))
}

fn digest(lab: &Lab) -> Result<String> {
    let line = shell::sh(&["sha256sum", &lab.assets().small_squashfs()?.to_string_lossy()])?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}
