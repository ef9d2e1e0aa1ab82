//! A server that lies, against each way in which a line pins its root.
//!
//! One machine for each line. Its server answers each try of the boot with something else,
//! and the machine must refuse it; the last answer is the right image, or one that is right
//! the first time that a block is read and another the second time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qemu_tests::assets::media::{Fs, run};
use qemu_tests::servers::{Mood, Reading, Reply};
use qemu_tests::{Error, Lab, Machine, Nic, Result, scenario, secs};

use super::integrity::{Verified, hash_in, verified, verified_iso};
use super::{assert_contains, assert_said, client, sha256};

const SERVER: &str = "bw.root=nbd:10.77.0.1/x";

/// The failure screen may stay as long as the test needs.
const PATIENT: &str = "bw.fail=menu:600";

/// Something that the server answers, and what the failure screen says of it.
struct Row {
    what: &'static str,
    bytes: Vec<u8>,
    /// What is read later is of these: see [`Turn`].
    then: Option<(Turn, Vec<u8>)>,
    /// Empty when the boot gets through.
    why: &'static str,
}

/// When the server changes its mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// For each block when it is read again.
    Block,
    /// When every block was read once: behind a check of the whole image.
    Whole,
}

fn row(what: &'static str, file: &Path, why: &'static str) -> Result<Row> {
    Ok(Row { what, bytes: read(file)?, then: None, why })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(Error::at("read", file))
}

/// Answers with the row that it is at.
struct Liar {
    rows: Arc<Vec<Row>>,
    at: Arc<AtomicUsize>,
    /// Blocks that were read, with their row.
    seen: Mutex<BTreeSet<(usize, usize)>>,
}

impl Mood for Liar {
    fn size(&self, _: usize) -> usize {
        let row = self.rows.get(self.at.load(Ordering::Relaxed));
        row.map_or(0, |row| row.bytes.len()).next_multiple_of(BLOCK)
    }

    fn read(&self, asked: Reading) -> Reply {
        let at = self.at.load(Ordering::Relaxed);
        let Some(row) = self.rows.get(at) else { return Reply::Data(vec![0; asked.length]) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = Vec::with_capacity(asked.length);
        for byte in asked.offset..asked.offset + asked.length {
            if byte == asked.offset || byte.is_multiple_of(BLOCK) {
                let again = !seen.insert((at, byte / BLOCK));
                let blocks = row.bytes.len().div_ceil(BLOCK);
                let whole = seen.iter().filter(|(row, _)| *row == at).count() == blocks;
                let turned = |turn| again && (turn == Turn::Block || whole);
                let from = match &row.then {
                    Some((turn, other)) if turned(*turn) => other,
                    _ => &row.bytes,
                };
                let end = (byte / BLOCK + 1) * BLOCK;
                let end = end.min(asked.offset + asked.length);
                let mut block = from.get(byte..end.min(from.len())).unwrap_or_default().to_vec();
                block.resize(end - byte, 0);
                data.extend(block);
            }
        }
        Reply::Data(data)
    }
}

const BLOCK: usize = 4096;

/// Boots with the line against each of the rows, in one machine. The last one gets through
/// when no reason says that it must not.
fn against(lab: &Lab, line: &str, rows: Vec<Row>) -> Result<Machine> {
    let (rows, at) = (Arc::new(rows), Arc::new(AtomicUsize::new(0)));
    let liar = Liar { rows: Arc::clone(&rows), at: Arc::clone(&at), seen: Mutex::default() };
    let _server = lab.moody_nbd(liar)?;
    let line = format!("{SERVER} {line} {PATIENT}");
    let mut machine = client(lab, &line)?.nic(Nic::virtio()).start()?;
    for (number, Row { what, why, .. }) in rows.iter().enumerate() {
        if number > 0 {
            at.store(number, Ordering::Relaxed);
            machine.send(b"r")?;
        }
        if why.is_empty() {
            machine.shell(secs(90))?;
            let issue = machine.run("cat /etc/issue")?;
            assert!(issue.contains("a small live system"), "{what}: {issue}");
            // What is read later is the same, too.
            machine.run("echo 3 >/proc/sys/vm/drop_caches; cat /srv/noise >/dev/null")?;
            // The processes that kept the devices of earlier tries went with these.
            let keepers =
                machine.run("grep -la '^@bellwether-nbd' /proc/[0-9]*/cmdline | wc -l")?;
            assert_eq!(keepers.trim(), "1", "{what}");
            continue;
        }
        machine.expect("bellwether: FAILED:", secs(90))?;
        let said = machine.expect("keys:", secs(10))?;
        assert!(said.contains(why), "{what}: no {why:?} in:\n{said}");
        assert!(!machine.transcript().contains("bellwether: ready in"), "{what} runs");
    }
    Ok(machine)
}

/// What a liar has beside the right image.
struct Answers {
    right: Verified,
    /// Of the same size as the right one, with another `/etc/issue`.
    other: Vec<u8>,
    tar: std::path::PathBuf,
    packed: std::path::PathBuf,
    /// A squashfs that holds another root.
    nested: std::path::PathBuf,
}

fn answers(lab: &Lab) -> Result<Answers> {
    let right = verified(lab)?;
    let small = lab.assets().small_root()?;
    let (tar, packed) = (right.image.with_extension("tar"), right.image.with_extension("tgz"));
    for (how, to) in [("--no-auto-compress", &tar), ("--gzip", &packed)] {
        let (from, to) = (small.to_string_lossy(), to.to_string_lossy());
        run(&["tar", "--create", how, "--directory", &from, "--file", &to, "."])?;
    }
    let other = lab.tree("other")?.with_all(&small)?;
    let issue = other.path().join("etc/issue");
    std::fs::write(&issue, "another system\n").map_err(Error::at("write", &issue))?;
    let mut other = read(&other.image(Fs::Squashfs, "", 0)?)?;
    let size = read(&right.image)?.len();
    assert!(other.len() <= size, "the other root fits into the place of the right one");
    other.resize(size, 0);
    let nested =
        lab.tree("nested-other")?.with("LiveOS/rootfs.img", &lab.assets().small_ext4()?)?;
    Ok(Answers { right, other, tar, packed, nested: nested.image(Fs::Squashfs, "", 0)? })
}

/// A medium or an image in which the right image has become the other one.
fn changed(bytes: &[u8], right: &[u8], other: &[u8]) -> Result<Vec<u8>> {
    let place = bytes.chunks(2048).position(|chunk| right.starts_with(chunk));
    let place = place.ok_or(Error::Input("the image is not in it as it is".into()))? * 2048;
    let mut changed = bytes.to_vec();
    changed.splice(place..place + other.len(), other.iter().copied());
    Ok(changed)
}

/// A digest of an image, and of one on a medium.
#[test]
fn a_digest_against_a_liar() {
    scenario("storage-pinned-digest", |lab| {
        let it = answers(lab)?;
        let _dhcp = lab.dhcp().serve()?;
        let image = &it.right.image;
        let line = format!("bw.digest=sha256:{} bw.overlay", sha256(image)?);
        let mut rows = vec![
            row("an archive", &it.tar, "its sha256 is")?,
            row("a packed archive", &it.packed, "its sha256 is")?,
            row("an image in another image", &it.nested, "its sha256 is")?,
            row("other bytes on the second read", image, "")?,
        ];
        // The check read the right image, and the other one ran.
        rows[3].then = Some((Turn::Whole, it.other.clone()));
        let mut machine = against(lab, &line, rows)?;
        assert_said(&machine, "has the digest that the line asks for");
        assert_contains(&machine.run("cat /sys/block/loop*/loop/backing_file")?, "/pinned/");
        drop(machine);

        let directory = verified_iso(lab, "directory", &lab.assets().small_root()?, &[])?;
        let second = lab.tree("second")?.with("live/filesystem.squashfs", image)?;
        let second = second.with("live/zz.squashfs", &it.nested)?.iso("LIVE")?;
        let rows = vec![
            row("a directory", &directory, "filesystem.squashfs: is a directory tree, and only")?,
            row("a second layer", &second, "zz.squashfs: its sha256 is")?,
        ];
        against(lab, &format!("boot=live {line}"), rows).map(drop)
    });
}

/// A root hash for a layer of a medium.
#[test]
fn a_root_hash_against_a_liar() {
    scenario("storage-pinned-verity", |lab| {
        let it = answers(lab)?;
        let _dhcp = lab.dhcp().serve()?;
        let Verified { image, tree, root_hash, .. } = &it.right;
        let iso = |name, image: &Path| verified_iso(lab, name, image, &[("verity", tree)]);
        let right = iso("right", image)?;
        let second = lab.tree("second")?.with("live/filesystem.squashfs", image)?;
        let second = second.with("live/filesystem.squashfs.verity", tree)?;
        let second = second.with("live/zz.squashfs", &it.nested)?.iso("LIVE")?;
        let small = lab.assets().small_root()?;
        let mut rows = vec![
            row("an archive", &iso("archive", &it.tar)?, "is an archive, and a root hash")?,
            row("a packed archive", &iso("packed", &it.packed)?, "is an archive, and a root hash")?,
            row("a directory", &iso("directory", &small)?, "is a directory, and a root hash")?,
            row("a second layer", &second, "zz.squashfs: the line has no root hash for this")?,
            row("an image in another image", &iso("nested", &it.nested)?, "by dm-verity")?,
            row("other bytes on the second read", &right, "filesystem.squashfs")?,
            row("the right image", &right, "")?,
        ];
        let other = changed(&rows[5].bytes, &read(image)?, &it.other)?;
        rows[5].then = Some((Turn::Block, other));
        let line = format!("boot=live bw.verity=filesystem.squashfs:{root_hash}");
        let machine = against(lab, &line, rows)?;
        assert_said(&machine, "not pinned: the rest of the medium");
        Ok(())
    });
}

/// systemd's word for the only image, whose hash tree is behind its end.
#[test]
fn the_root_hash_of_systemd_against_a_liar() {
    scenario("storage-pinned-roothash", |lab| {
        let it = answers(lab)?;
        let _dhcp = lab.dhcp().serve()?;
        let image = &it.right.image;
        let size = read(image)?.len();
        let whole = image.with_extension("whole");
        std::fs::copy(image, &whole).map_err(Error::at("copy", &whole))?;
        let offset = format!("--hash-offset={}", size.next_multiple_of(BLOCK));
        let (name, blocks) = (whole.to_string_lossy(), size.div_ceil(BLOCK));
        let blocks = format!("--data-blocks={blocks}");
        let hash = hash_in(&run(&["veritysetup", "format", &offset, &blocks, &name, &name])?);
        let directory = verified_iso(lab, "directory", &lab.assets().small_root()?, &[])?;
        let second = lab.tree("second")?.with("live/filesystem.squashfs", image)?;
        let second = second.with("live/zz.squashfs", &it.nested)?.iso("LIVE")?;
        let mut rows = vec![
            row("an archive", &it.tar, "is an archive, and a root hash")?,
            row("a packed archive", &it.packed, "is an archive, and a root hash")?,
            row("a directory", &directory, "has no hash tree")?,
            row("a second layer", &second, "has no hash tree")?,
            row("an image in another image", &it.nested, "has no hash tree")?,
            row("other bytes on the second read", &whole, "by dm-verity")?,
            row("the right image", &whole, "")?,
        ];
        let other = changed(&rows[5].bytes, &read(image)?, &it.other)?;
        rows[5].then = Some((Turn::Block, other));
        let line = format!("bw.dialect=kernel roothash={hash} bw.overlay");
        against(lab, &line, rows).map(drop)
    });
}
