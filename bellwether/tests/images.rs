//! Images between real programs: nginx and Python's server hand them out, partclone and ntfsclone
//! made them; then each file system's own check, and its files compared.
//!
//! `cargo test -p bellwether --features rooms --test images`: root, e2fsprogs, xfsprogs, ntfs-3g,
//! partclone, fdisk, nginx, python3, zstd.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Makes `golden`, a disk with ext4, xfs, NTFS and swap, `golden.bwi`, and a directory of
/// Clonezilla; and has functions that the tests use.
const TOOLS: &str = r##"
set -e
place() { sfdisk -d golden | awk -F'[=,]' -v n="$1" '/start=/ && ++i == n { print $2 * 512, $4 * 512 }'; }
part() { set -- $(place "$2") "$1"; losetup -f --show -o "$1" --sizelimit "$2" "$3"; }
on() { if [ "$1" = 3 ]; then ntfs-3g -o "$2" "$3" m; else mount -o "$2" "$3" m; fi; }
garbage() { head -c "$2" /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 2>/dev/null > "$1"; }
same() {
  for n in 1 2 3; do
    L=$(part "$1" $n)
    case $n in 1) e2fsck -fn $L ;; 2) xfs_repair -n $L ;; 3) ntfsfix -n $L ;; esac > log 2>&1 || { cat log; exit 1; }
    on $n ro $L; (cd m; find . -type f | sort | xargs sha256sum) > sums; umount m; losetup -d $L
    while losetup -j "$1" | grep -q .; do sleep 0.05; done
    cmp sums sums$n
  done
}
"##;

const GOLDEN: &str = r##"
mkdir m cz; truncate -s 700M golden
printf 'label: gpt\nsize=200M\nsize=330M\nsize=100M\nsize=16M, type=swap\n' | sfdisk -q golden
for n in 1 2 3 4; do
  L=$(part golden $n)
  case $n in 1) mkfs.ext4 -q $L ;; 2) mkfs.xfs -q $L ;; 3) mkntfs -Q -F $L > log 2>&1 ;; 4) mkswap -q -L sw $L ;; esac
  if [ $n != 4 ]; then
    on $n rw $L; mkdir m/d; seq 900000 > m/d/seq; head -c 5000000 /dev/urandom > m/d/noise
    cp -r /usr/share/doc/e2fsprogs /etc/init.d m/d; (cd m; find . -type f | sort | xargs sha256sum) > sums$n; umount m
  fi
  # A new device has nothing of the old one's in the cache.
  losetup -d $L; sync golden; L=$(part golden $n)
  case $n in
    1) partclone.ext4 -c -s $L -L log 2>/dev/null | gzip -1 | split -b 3M - cz/sda1.ext4-ptcl-img.gz. ;;
    2) partclone.xfs -c -s $L -L log 2>/dev/null | zstd -q > cz/sda2.xfs-ptcl-img.zst ;;
    3) partclone.ntfs -c -s $L -L log 2>/dev/null > cz/sda3.ntfs-ptcl-img.uncomp.aa
       ntfsclone -s -q -o ntfs.img $L > log 2>&1 ;;
    4) blkid -o export $L | sed -n 's/^\(UUID\|LABEL\)=\(.*\)/\1="\2"/p' > cz/swappt-sda4.info ;;
  esac
  losetup -d $L
done
sfdisk -d golden | sed 's,^golden,/dev/sda,' > cz/sda-pt.sf
head -c 512 golden > cz/sda-mbr
"##;

fn sh(dir: &Path, script: &str) -> (bool, String) {
    let program = env!("CARGO_BIN_EXE_bellwether");
    let script = format!("{TOOLS}\nclone() {{ {program} clone \"$@\"; }}\n{script}");
    let done = Command::new("bash").args(["-c", &script]).current_dir(dir).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn must(dir: &Path, script: &str) -> String {
    let (good, text) = sh(dir, script);
    assert!(good, "{script}: {text}");
    text
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server, and the beginning of its URLs.
fn server(dir: &Path, port: u16, words: &[&str]) -> (Server, String) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(command.spawn().unwrap());
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (server, format!("http://127.0.0.1:{port}"))
}

fn nginx(dir: &Path) -> (Server, String) {
    let port = free_port();
    let config = format!(
        "daemon off; master_process off; user root; pid {0}/nginx.pid; error_log stderr; events {{}}
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {0}; }} }}",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let config = dir.join("nginx.conf");
    server(dir, port, &["nginx", "-p", &dir.to_string_lossy(), "-c", &config.to_string_lossy()])
}

fn python(dir: &Path) -> (Server, String) {
    let port = free_port();
    server(dir, port, &["python3", "-m", "http.server", "-b", "127.0.0.1", &port.to_string()])
}

/// A server that answers ranges as `change` has it.
fn odd(image: Vec<u8>, change: fn(&mut Vec<u8>)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/golden.bwi", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if client.read_exact(&mut byte).is_err() {
                    break;
                }
                request.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let from = text.split_once("bytes=").and_then(|(_, rest)| rest.split_once('-'));
            let from: usize = from.and_then(|(from, _)| from.parse().ok()).unwrap_or(0);
            let (last, all) = (image.len() - 1, image.len());
            let mut body = image[from..].to_vec();
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{all}\r\n\r\n",
                body.len()
            );
            change(&mut body);
            let _ = client.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}

#[test]
fn images_come_back_from_files_servers_and_other_programs() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    must(dir, GOLDEN);
    let said = must(dir, "clone save -q golden -o golden.bwi");
    let digest = said.lines().find_map(|line| line.strip_prefix("bw.clone.digest=")).unwrap();
    let restored = |from: &str| {
        must(dir, &format!("garbage copy 734003200; clone restore -q {from} copy; same copy"))
    };

    assert!(restored(&format!("--digest {digest} golden.bwi")).contains("read back"));
    // What is there is not written again, and what differs is.
    let again = must(
        dir,
        "garbage noise 1048576; dd if=noise of=copy bs=1M seek=20 conv=notrunc status=none; clone restore -q golden.bwi copy; same copy",
    );
    assert!(again.contains("the disk has ") && !again.contains("the disk has 0 of"), "{again}");

    let ((_nginx, good), (_python, whole)) = (nginx(dir), python(dir));
    let image = std::fs::read(dir.join("golden.bwi")).unwrap();
    let lies = odd(image.clone(), |body| body.iter_mut().skip(1 << 20).for_each(|byte| *byte ^= 1));
    let cut = odd(image.clone(), |body| body.truncate(3 << 20));
    let (good, whole) = (format!("{good}/golden.bwi"), format!("{whole}/golden.bwi"));
    restored(&good);
    restored(&whole);
    let told = restored(&format!("{lies},{good},{cut}"));
    assert!(told.contains("has other bytes than the image"), "{told}");
    let told = restored(&format!("http://127.0.0.1:1/x,{good},{whole}"));
    assert!(told.contains("refused") && told.contains("answers no range requests"), "{told}");
    // No server has the right bytes, or the right image: said, and nothing is called a copy.
    let (done, told) = sh(dir, &format!("rm copy; clone restore -q {lies} copy"));
    assert!(!done && told.contains("the image cannot be had"), "{told}");
    let (done, told) =
        sh(dir, &format!("clone restore --digest blake3:{} {good} other", "0".repeat(64)));
    assert!(!done && told.contains("is another image") && !dir.join("other").exists(), "{told}");

    assert!(restored("cz").contains("Clonezilla's image of sda"));
    must(
        dir,
        "[ $(sfdisk -d copy | sed s/copy/golden/ | cmp - <(sfdisk -d golden)) ] && exit 1; set -- $(place 4); [ $(blkid -p -O $1 -S $2 -o value -s UUID copy) = $(blkid -p -O $1 -S $2 -o value -s UUID golden) ]",
    );
    for (image, number) in
        [("ntfs.img", 3), ("cz/sda3.ntfs-ptcl-img.uncomp.aa", 3), ("cz/sda2.xfs-ptcl-img.zst", 2)]
    {
        let script = format!(
            "set -- $(place {number}); garbage one $2; clone restore -q {image} one; tail -c +$(($1 + 1)) golden | head -c $2 > own"
        );
        must(dir, &script);
        must(
            dir,
            match number {
                3 => "ntfsfix -n one; cmp <(tail -c 512 one) <(tail -c 512 own)",
                _ => "xfs_repair -n one",
            },
        );
    }
    must(
        dir,
        "printf x | dd of=cz/sda3.ntfs-ptcl-img.uncomp.aa bs=1 seek=4000000 conv=notrunc status=none",
    );
    let (done, told) = sh(dir, "rm -f new; clone restore -q cz new");
    assert!(!done && told.contains("is damaged") && !dir.join("new").exists(), "{told}");
}
