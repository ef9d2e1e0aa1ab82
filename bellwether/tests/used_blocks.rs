//! Used blocks of real file systems: made, filled, thinned out, copied by `clone map` alone onto
//! a disk of other bytes; then each file system's own check, and its files compared.
//!
//! `cargo test -p bellwether --features rooms --test used_blocks -- --ignored --nocapture`: root,
//! e2fsprogs, xfsprogs, btrfs-progs, ntfs-3g, dosfstools, mtools, exfatprogs, f2fs-tools.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// How files get into it.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    /// The kernel mounts it, the copy with these options.
    Mount(&'static str),
    /// ntfs-3g mounts it.
    Ntfs,
    /// mtools.
    Mtools,
    /// As mkfs leaves it: this kernel cannot mount it.
    Empty,
}

const EXT: &str = "e2fsck -fn";
const XFS: &str = "xfs_repair -n";
const BTRFS: &str = "btrfs check --check-data-csum";
const FAT: &str = "fsck.vfat -n";
const PLAIN: Fill = Fill::Mount("ro");
const TWIN: Fill = Fill::Mount("ro,nouuid");

/// MiB, mkfs and its options, how it is filled, its check. `raw`: all of it must be copied.
#[rustfmt::skip]
const CASES: &[(u64, &str, Fill, &str, bool)] = &[
    (200, "mkfs.ext2 -q", PLAIN, EXT, false),
    (200, "mkfs.ext3 -q", PLAIN, EXT, false),
    (300, "mkfs.ext4 -q -b 1024", PLAIN, EXT, false),
    (300, "mkfs.ext4 -q -b 2048", PLAIN, EXT, false),
    (999, "mkfs.ext4 -q -O bigalloc -C 16384", PLAIN, EXT, false),
    (500, "mkfs.ext4 -q -b 1024 -O bigalloc -C 16384", PLAIN, EXT, false),
    (999, "mkfs.ext4 -q -b 1024 -O meta_bg,^resize_inode", PLAIN, EXT, false),
    (500, "mkfs.ext4 -q -O ^64bit", PLAIN, EXT, false),
    (500, "mkfs.ext4 -q -O ^metadata_csum,uninit_bg", PLAIN, EXT, false),
    (500, "mkfs.ext4 -q -O ^metadata_csum,^uninit_bg,^flex_bg,^sparse_super,^resize_inode", PLAIN, EXT, false),
    (999, "mkfs.ext4 -q -O sparse_super2,^resize_inode", PLAIN, EXT, false),
    (999, "mkfs.ext4 -q -O ^flex_bg", PLAIN, EXT, false),
    (300, "mkfs.ext4 -q -O ^has_journal,^extent,^64bit", PLAIN, EXT, false),
    (300, "mkfs.ext4 -q -O mmp,quota,project,casefold,encrypt,verity,inline_data,ea_inode,metadata_csum_seed", Fill::Empty, EXT, false),
    (333, "mkfs.ext4 -q -g 8192 -N 5000 -E desc_size=128", PLAIN, EXT, false),
    (400, "mkfs.xfs -q -m crc=0,finobt=0,rmapbt=0,reflink=0", Fill::Empty, XFS, false),
    (400, "mkfs.xfs -q -m crc=0,finobt=0,rmapbt=0,reflink=0 -b size=512", Fill::Empty, XFS, false),
    (400, "mkfs.xfs -q -m rmapbt=1,reflink=1", TWIN, XFS, false),
    (400, "mkfs.xfs -q -b size=1k -l agnum=0", TWIN, XFS, false),
    (600, "mkfs.xfs -q -b size=64k", Fill::Empty, XFS, false),
    (700, "mkfs.xfs -q -d su=64k,sw=4 -l su=256k", TWIN, XFS, false),
    (400, "mkfs.xfs -q -s size=4096 -i size=2048,sparse=0 -m bigtime=0,inobtcount=0", TWIN, XFS, false),
    (300, "mkfs.btrfs -q -d dup -m dup", PLAIN, BTRFS, false),
    (300, "mkfs.btrfs -q -m single -n 4096", PLAIN, BTRFS, false),
    (200, "mkfs.btrfs -q -M", PLAIN, BTRFS, false),
    (600, "mkfs.btrfs -q -n 65536 --csum xxhash", PLAIN, BTRFS, false),
    (300, "mkfs.btrfs -q --csum sha256 -R quota", PLAIN, BTRFS, false),
    (300, "mkfs.btrfs -q -R ^free-space-tree -O ^no-holes", PLAIN, BTRFS, false),
    (150, "mkntfs -F -Q -c 512", Fill::Ntfs, "ntfsfix -n", false),
    (150, "mkntfs -F -Q -c 65536", Fill::Ntfs, "ntfsfix -n", false),
    (150, "mkntfs -F -Q -s 4096 -c 4096", Fill::Ntfs, "ntfsfix -n", false),
    (150, "mkntfs -F -p 2048 -H 255 -S 63 -z 2", Fill::Ntfs, "ntfsfix -n", false),
    (2, "mkfs.vfat -F 12", Fill::Mtools, FAT, false),
    (60, "mkfs.vfat -F 16 -R 7 -r 1024 -f 1 -s 4", Fill::Mtools, FAT, false),
    (300, "mkfs.vfat -F 32 -s 1", Fill::Mtools, FAT, false),
    (300, "mkfs.vfat -F 32 -S 4096", Fill::Mtools, FAT, false),
    (100, "mkfs.exfat", Fill::Empty, "fsck.exfat -n", false),
    (300, "mkfs.exfat -c 4096", Fill::Empty, "fsck.exfat -n", false),
    (100, "mkfs.f2fs -q", Fill::Empty, "true", true),
];

/// Runs it in this directory; its output, and whether it succeeded.
fn run(dir: &Path, line: &str) -> (bool, String) {
    let done = Command::new("sh").args(["-c", line]).current_dir(dir).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn must(dir: &Path, line: &str) -> String {
    let (good, text) = run(dir, line);
    assert!(good, "{line}: {text}");
    text
}

/// Bytes that no file system leaves: of a generator with this seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).take(length.div_ceil(8)).flatten().take(length).collect()
}

/// Files of all sizes, of which every third goes again.
fn files(dir: &Path, seed: u64, most: usize) {
    fs::create_dir_all(dir.join("a/b")).unwrap();
    for number in 0..60_u64 {
        let length = (seed.wrapping_add(number).wrapping_mul(2_654_435_761) as usize) % most + 1;
        fs::write(dir.join(format!("a/f{number}")), noise(seed + number, length)).unwrap();
        fs::write(dir.join(format!("a/b/s{number}")), format!("small {number}")).unwrap();
    }
    for number in (0..60).step_by(3) {
        fs::remove_file(dir.join(format!("a/f{number}"))).unwrap();
    }
    fs::write(dir.join("a/late"), noise(seed + 99, most)).unwrap();
}

fn one(dir: &Path, seed: u64, case: &(u64, &str, Fill, &str, bool)) {
    let (mib, mkfs, fill, check, raw) = case;
    for place in ["m", "n", "t"] {
        fs::create_dir_all(dir.join(place)).unwrap();
    }
    must(dir, &format!("rm -rf img copy t/*; truncate -s {mib}M img; {mkfs} img"));
    match fill {
        Fill::Mount(_) => must(dir, "mount -o loop img m"),
        Fill::Ntfs => must(dir, "ntfs-3g img m"),
        Fill::Mtools | Fill::Empty => String::new(),
    };
    match fill {
        Fill::Mount(_) | Fill::Ntfs => {
            files(&dir.join("m"), seed, 400_000);
            must(dir, "umount m");
        }
        Fill::Mtools => {
            files(&dir.join("t"), seed, if *mib < 10 { 9_000 } else { 200_000 });
            must(dir, "mcopy -i img -s t/a :: && mdel -i img ::a/f1 ::a/f7 ::a/b/s5");
        }
        Fill::Empty => {}
    }
    let bellwether = env!("CARGO_BIN_EXE_bellwether");
    let map = must(dir, &format!("{bellwether} clone map img"));
    assert_eq!(map.contains("all of it is copied"), *raw, "{mkfs}: {map}");
    let (from, to) =
        (File::open(dir.join("img")).unwrap(), File::create(dir.join("copy")).unwrap());
    let garbage = noise(seed ^ 0xbad, 1 << 20);
    (0..*mib).for_each(|at| to.write_all_at(&garbage, at << 20).unwrap());
    must(dir, "cp copy restored");
    must(dir, &format!("{bellwether} clone save -q img -o img.bwi"));
    must(dir, &format!("{bellwether} clone restore -q img.bwi restored"));
    let restored = File::open(dir.join("restored")).unwrap();
    for line in must(dir, &format!("{bellwether} clone map --extents img")).lines() {
        let (start, length) = line.split_once(' ').unwrap();
        let (start, length): (u64, usize) = (start.parse().unwrap(), length.parse().unwrap());
        let mut bytes = vec![0; length];
        from.read_exact_at(&mut bytes, start).unwrap();
        to.write_all_at(&bytes, start).unwrap();
        let mut back = vec![0; length];
        restored.read_exact_at(&mut back, start).unwrap();
        assert!(back == bytes, "{mkfs}: restored otherwise at {start}");
    }
    let (good, text) = run(dir, &format!("{check} copy"));
    assert!(good, "{mkfs}: {check}: {text}");
    let compare = match fill {
        Fill::Empty => return,
        Fill::Mount(how) => format!(
            "mount -o loop,ro img m; mount -o loop,{how} copy n && diff -r m n; s=$?; \
             umount n; umount m; exit $s"
        ),
        Fill::Ntfs => "ntfs-3g -o ro img m; ntfs-3g -o ro copy n && diff -r m n; s=$?; \
                       umount n; umount m; exit $s"
            .to_owned(),
        Fill::Mtools => "rm -rf m/* n/*; mcopy -i img -s ::a m && mcopy -i copy -s ::a n && \
                         diff -r m n; s=$?; rm -rf m/* n/*; exit $s"
            .to_owned(),
    };
    let (same, text) = run(dir, &compare);
    assert!(same, "{mkfs}: the files differ: {text}");
    println!("{mkfs}: {}", map.lines().nth(1).unwrap_or_default().trim());
}

/// Every file system with every odd option: what is copied is enough.
#[test]
#[ignore = "root, and minutes"]
fn sweep_of_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    CASES.iter().zip(1..).for_each(|(case, seed)| one(dir.path(), seed * 7919, case));
}
