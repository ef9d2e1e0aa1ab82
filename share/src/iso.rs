//! An ISO 9660 image as a [`Tree`], without mounting: `cpio_builder::iso` reads
//! its records, here they become nodes.
//! The number of a file is the offset of its directory record: stable as long as the image is
//! the same.

use crate::error::Error;
use crate::tree::{Builder, FileId, Kind, MAX_DEPTH, MAX_NODES, Node, ReadAt, Tree, hash};
use cpio_builder::iso::{self, IsoError, Names};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// What clients see as the size of a directory.
const DIRECTORY_SIZE: u64 = 2048;
/// All directories together, in bytes.
const MAX_DIRECTORIES: u64 = 512 << 20;

/// An image's volume descriptor and files.
#[derive(Debug)]
pub struct Iso {
    /// Volume label.
    pub label: String,
    /// Volume creation time as written: `YYYYMMDDHHMMSScc`.
    pub created: String,
    /// The kind of names in the tree.
    pub names: Names,
    /// The files.
    pub tree: Tree,
    /// Bytes that the volume should have and the image lacks; 0 for a whole one.
    pub missing: u64,
}

fn bad(why: String) -> Error {
    Error::Image { why }
}

fn unread(e: IsoError) -> Error {
    match e {
        IsoError::Read(source) => Error::System { doing: "read the image", source },
        other => bad(other.to_string()),
    }
}

impl cpio_builder::modinfo::ReadAt for dyn ReadAt {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(self, buffer, offset)
    }
}

/// Reads an image's directories.
///
/// # Errors
/// [`Error::Image`] when it is not ISO 9660 or its directories are damaged; [`Error::System`]
/// when it cannot be read.
pub fn open(image: Arc<dyn ReadAt>) -> Result<Iso, Error> {
    let length = image.length().map_err(|source| unread(source.into()))?;
    let iso = iso::Iso::open(image.clone()).map_err(unread)?;
    let content = iso.records(&iso.root).map_err(unread)?;
    let identity = hash(&[&iso.descriptor, &content, &length.to_be_bytes()]);
    let mut builder = Builder::new(node(&iso.root));
    let mut todo = vec![(Tree::ROOT, iso.root.clone(), 0usize)];
    let mut seen = HashSet::new();
    let mut left = MAX_DIRECTORIES;
    while let Some((at, dir, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Err(bad(format!("its directories are nested deeper than {MAX_DEPTH}")));
        }
        if !seen.insert(dir.extents.first().map(|extent| extent.start)) {
            return Err(bad("one of its directories contains itself".into()));
        }
        let large = || bad("its directories are larger than any medium's".into());
        left = left.checked_sub(dir.len()).ok_or_else(large)?;
        for entry in iso.list(&dir).map_err(unread)? {
            if !plain(&entry.name) {
                continue;
            }
            let new = builder.add(at, node(&entry));
            let new = new.ok_or_else(|| bad(format!("it has more than {MAX_NODES} files")))?;
            if entry.is_dir() {
                todo.push((new, entry, depth + 1));
            }
        }
    }
    Ok(Iso {
        missing: iso.size.saturating_sub(length),
        label: iso.label,
        created: iso.created,
        names: iso.names,
        tree: builder.finish(identity, image),
    })
}

/// A node as clients see it.
fn node(entry: &iso::Node) -> Node {
    let (kind, size) = match &entry.kind {
        iso::Kind::Directory => (Kind::Directory(Vec::new()), DIRECTORY_SIZE),
        iso::Kind::File => {
            let extents = entry.extents.clone();
            let kind = match entry.packed {
                Some(packed) => Kind::Packed(extents, packed),
                None => Kind::Extents(extents),
            };
            (kind, entry.len())
        }
        iso::Kind::Link(target) => (Kind::Link(target.clone()), target.len() as u64),
        iso::Kind::Special => (Kind::Special, 0),
    };
    Node {
        id: FileId(entry.position),
        name: entry.name.clone(),
        permissions: entry.permissions,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        size,
        kind,
    }
}

/// Whether a name is allowed in a directory.
fn plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= 255
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// Reads everything once from arbitrary bytes; for fuzzers.
pub fn fuzz(data: &[u8]) {
    let _ = open(Arc::new(data.to_vec()));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::process::Command;

    /// An image made by xorriso; nothing where there is none.
    pub fn made_by_xorriso(tree: &Path, args: &[&str]) -> Option<Vec<u8>> {
        let out = tree.with_extension("iso");
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-V", "A_LABEL"]).args(args);
        let done = xorriso.arg("-o").arg(&out).arg(tree).output().ok()?;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(out).ok()
    }

    pub fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        let deep = "Live/1/2/3/4/5/6/7/8/9/10";
        std::fs::create_dir_all(root.join(deep)).unwrap();
        std::fs::write(root.join(deep).join("bottom"), b"deep down").unwrap();
        std::fs::write(root.join("Live/filesystem.squashfs"), vec![7; 5000]).unwrap();
        std::fs::write(root.join(format!("{}.txt", "long".repeat(50))), b"x").unwrap();
        for n in 0..300 {
            std::fs::write(root.join(format!("Live/file-{n}")), format!("{n}")).unwrap();
        }
        let target = format!("Live/{}", "../Live/".repeat(60));
        std::os::unix::fs::symlink(&target, root.join("link")).unwrap();
        std::os::unix::fs::symlink("/Live/1", root.join("absolute")).unwrap();
        dir
    }

    fn opened(bytes: &[u8]) -> Iso {
        open(Arc::new(bytes.to_vec())).unwrap()
    }

    fn text(tree: &Tree, path: &str) -> String {
        let (at, size) = tree.file(path).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(tree.read_all(at, size).unwrap()).unwrap()
    }

    #[test]
    fn rock_ridge_is_what_was_put_in() {
        let dir = sample();
        let Some(bytes) = made_by_xorriso(&dir.path().join("tree"), &["-r", "-J"]) else { return };
        let iso = opened(&bytes);
        assert_eq!(
            (iso.names, iso.label.as_str(), iso.missing),
            (Names::RockRidge(0), "A_LABEL", 0)
        );
        let tree = &iso.tree;
        assert_eq!(text(tree, "/Live/1/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert_eq!(text(tree, "/absolute/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert_eq!(text(tree, "/link/file-299"), "299");
        assert_eq!(text(tree, &format!("/{}.txt", "long".repeat(50))), "x");
        assert_eq!(tree.children(tree.walk("/Live").unwrap()).len(), 302);
        let again = opened(&bytes);
        assert_eq!(again.tree.identity, tree.identity);
        let (at, _) = tree.file("/Live/file-17").unwrap();
        let id = tree.node(at).unwrap().id;
        assert_eq!(again.tree.path(again.tree.find(id).unwrap()), "/Live/file-17");
    }

    #[test]
    fn relocated_directories_are_where_they_belong() {
        let dir = sample();
        let tree = dir.path().join("tree");
        let out = dir.path().join("deep.iso");
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-compliance", "deep_paths_off", "-rr_reloc_dir", "/moved", "-outdev"]);
        xorriso.arg(&out).arg("-map").arg(&tree).arg("/");
        if !xorriso.output().is_ok_and(|done| done.status.success()) {
            return;
        }
        let iso = opened(&std::fs::read(out).unwrap());
        assert_eq!(text(&iso.tree, "/Live/1/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert!(iso.tree.children(iso.tree.walk("/moved").unwrap()).is_empty());
    }

    /// The packed bytes were served, without a word.
    #[test]
    fn files_stored_compressed_are_read_unpacked() {
        let dir = sample();
        let kernel: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 12) as u8).collect();
        std::fs::write(dir.path().join("tree/Live/vmlinuz"), &kernel).unwrap();
        for version in ["version_2=off", "version_2=on"] {
            let out = dir.path().join("packed.iso");
            let mut xorriso = Command::new("xorriso");
            xorriso.args(["-zisofs", version, "-outdev"]).arg(&out);
            xorriso.arg("-map").arg(dir.path().join("tree")).arg("/");
            xorriso.args(["-set_filter_r", "--zisofs", "/", "--"]);
            if !xorriso.output().is_ok_and(|done| done.status.success()) {
                return;
            }
            let iso = opened(&std::fs::read(&out).unwrap());
            let (at, size) = iso.tree.file("/Live/vmlinuz").unwrap();
            assert!(matches!(iso.tree.node(at).unwrap().kind, Kind::Packed(..)), "{version}");
            assert_eq!(iso.tree.read_all(at, size).unwrap(), kernel, "{version}");
            let (at, size) = iso.tree.file("/Live/filesystem.squashfs").unwrap();
            assert_eq!(iso.tree.read_all(at, size).unwrap(), vec![7; 5000]);
            let records = iso::Iso::open(std::fs::read(&out).unwrap()).unwrap();
            assert_eq!(records.read_path("Live/vmlinuz", 1 << 20).unwrap(), kernel);
            std::fs::remove_file(out).unwrap();
        }
    }

    #[test]
    fn joliet_and_plain_names() {
        let dir = sample();
        let tree = dir.path().join("tree");
        std::fs::remove_dir_all(tree.join("Live/1")).unwrap();
        let Some(joliet) = made_by_xorriso(&tree, &["--norock", "-J"]) else { return };
        let iso = opened(&joliet);
        assert_eq!(iso.names, Names::Joliet);
        assert_eq!(text(&iso.tree, "/Live/file-299"), "299");
        let plain = made_by_xorriso(&tree, &["--norock", "-iso-level", "1"]).unwrap();
        let iso = opened(&plain);
        assert_eq!(iso.names, Names::Plain);
        assert!(iso.tree.walk("/live/filesyst.squ").is_some());
    }

    /// `explain` once refused directories of more than 4 MiB, which `share` served.
    #[test]
    fn a_large_directory_is_read_by_explain_and_share() {
        const FILES: u32 = 40_000;
        let bytes = with_large_directory(FILES);
        let records = iso::Iso::open(bytes.clone()).unwrap();
        let dir = records.find("live").unwrap();
        assert!(dir.len() > 4 << 20, "{}", dir.len());
        assert_eq!(records.list(&dir).unwrap().len(), FILES as usize);
        let last = format!("live/{:0>80}", FILES - 1);
        assert_eq!(records.read_path(&last, 9).unwrap(), b"hello");
        let tree = opened(&bytes).tree;
        assert_eq!(tree.children(tree.walk("/live").unwrap()).len(), FILES as usize);
        assert_eq!(text(&tree, &format!("/{last}")), "hello");
    }

    /// An image whose `/live` has that many files, all with one content.
    fn with_large_directory(files: u32) -> Vec<u8> {
        let record = |id: &[u8], block: u32, size: u32, flags: u8| {
            let mut out = vec![0; (33 + id.len()).next_multiple_of(2)];
            out[2..6].copy_from_slice(&block.to_le_bytes());
            out[10..14].copy_from_slice(&size.to_le_bytes());
            (out[0], out[25], out[32]) = (out.len() as u8, flags, id.len() as u8);
            out[33..33 + id.len()].copy_from_slice(id);
            out
        };
        // Records do not cross sectors.
        let directory = |records: &mut dyn Iterator<Item = Vec<u8>>| {
            let mut out = Vec::new();
            for record in records {
                if out.len() % 2048 + record.len() > 2048 {
                    out.resize(out.len().next_multiple_of(2048), 0);
                }
                out.extend(record);
            }
            out.resize(out.len().next_multiple_of(2048), 0);
            out
        };
        let dots = |block| [record(&[0], block, 2048, 2), record(&[1], 18, 2048, 2)].into_iter();
        let names = (0..files).map(|n| record(format!("{n:0>80}").as_bytes(), 19, 5, 0));
        let live = directory(&mut dots(20).chain(names));
        let entry = record(b"LIVE", 20, live.len() as u32, 2);
        let mut image = vec![0; 20 * 2048];
        let mut put = |sector: usize, at: usize, data: &[u8]| {
            image[sector * 2048 + at..][..data.len()].copy_from_slice(data);
        };
        put(16, 0, b"\x01CD001\x01");
        put(16, 128, &2048u16.to_le_bytes());
        put(16, 156, &record(&[0], 18, 2048, 2));
        put(17, 0, b"\xffCD001\x01");
        put(18, 0, &directory(&mut dots(18).chain([entry])));
        put(19, 0, b"hello");
        image.extend(live);
        image
    }

    #[test]
    fn a_cut_image_says_so() {
        let dir = sample();
        let Some(bytes) = made_by_xorriso(&dir.path().join("tree"), &["-r"]) else { return };
        let iso = opened(&bytes[..bytes.len() - 4096]);
        assert_eq!(iso.missing, 4096);
        let why = open(Arc::new(bytes[..40 * 1024].to_vec())).unwrap_err().to_string();
        assert!(why.contains("cut short"), "{why}");
        let why = open(Arc::new(vec![0; 1 << 20])).unwrap_err().to_string();
        assert!(why.contains("not an ISO 9660"), "{why}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..Default::default() })]
        #[test]
        fn damage_never_panics(
            hits in proptest::collection::vec((0usize..120_000, any::<u8>()), 1..40)
        ) {
            thread_local! {
                static IMAGE: Option<Vec<u8>> = {
                    let dir = sample();
                    made_by_xorriso(&dir.path().join("tree"), &["-r"])
                };
            }
            IMAGE.with(|image| {
                let Some(image) = image else { return };
                let mut bytes = image.clone();
                for (at, value) in &hits {
                    let at = 32768 + at % (bytes.len() - 32768);
                    bytes[at] = *value;
                }
                if let Ok(iso) = open(Arc::new(bytes)) {
                    for at in iso.tree.children(Tree::ROOT) {
                        let _ = iso.tree.read_all(*at, 1 << 20);
                    }
                }
            });
        }
    }
}
