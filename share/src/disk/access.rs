//! The list of disks, and which client may open which.

use super::device::Disk;
use super::store::{Image, Store};
use crate::budget::is_shortage;
use cmdline::plan::Mac;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Name of a client's own disk, before its address with dashes.
pub const OWN_DISK: &str = "keep-";
/// In the name of a medium's writable disk, between the medium's name and the address.
const COW_DISK: &str = "-for-";

/// Why a client may not open a disk.
#[derive(Debug)]
pub enum Refused {
    /// No disk has that name.
    Unknown,
    /// It belongs to another client; the message says to which.
    NotYours(String),
    /// It cannot be opened, or is in use; the message says why.
    Broken(String),
    /// The system lacks descriptors or memory for now.
    Short(io::Error),
}

/// Every disk that is served.
#[derive(Debug, Default)]
pub struct Disks {
    /// The media.
    pub images: Vec<Image>,
    /// The clients' own disks, with `--keep-settings`.
    pub store: Option<Store>,
    open: Mutex<BTreeMap<String, Weak<Disk>>>,
}

impl Disks {
    /// Media, and the store of clients' disks.
    pub fn new(images: Vec<Image>, store: Option<Store>) -> Self {
        Self { images, store, open: Mutex::default() }
    }

    /// Names of the disks that every client may open.
    pub fn names(&self) -> Vec<String> {
        self.images.iter().map(|image| image.name.clone()).collect()
    }

    /// Opens the disk of this name for the client with this hardware address.
    ///
    /// # Errors
    /// [`Refused`]: the name is unknown, the disk belongs to another client, or its file cannot
    /// be opened.
    pub fn open(&self, name: &str, client: &str) -> Result<Arc<Disk>, Refused> {
        if let Some(image) = self.images.iter().find(|image| image.name == name) {
            return Ok(Arc::new(Disk::Medium(image.image.clone(), image.size)));
        }
        let store = self.store.as_ref().ok_or(Refused::Unknown)?;
        let below = |image: &Image| {
            let mac = name.strip_prefix(&image.name)?.strip_prefix(COW_DISK)?;
            Some((mac, Some(image.clone())))
        };
        let own = name.strip_prefix(OWN_DISK).map(|mac| (mac, None));
        let found = own.or_else(|| self.images.iter().find_map(below));
        let (mac, image) = found.ok_or(Refused::Unknown)?;
        let mac = mac.parse::<Mac>().map_err(|()| Refused::Unknown)?;
        if client.parse() != Ok(mac) {
            return Err(Refused::NotYours(format!("it belongs to {mac}, and you are {client}")));
        }
        // All connections to one disk share one map of changed blocks.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, disk| disk.strong_count() > 0);
        if let Some(disk) = open.get(name).and_then(Weak::upgrade) {
            return Ok(disk);
        }
        let disk = store.open(mac, image.as_ref()).map_err(|e| match is_shortage(&e) {
            true => Refused::Short(e),
            false => Refused::Broken(e.to_string()),
        })?;
        let disk = Arc::new(disk);
        open.insert(name.to_owned(), Arc::downgrade(&disk));
        Ok(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::store::Image;
    use crate::disk::store::SIZE;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;

    const MAC: &str = "52:54:00:12:34:56";

    fn disks(dir: &Path) -> (Disks, Vec<u8>) {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8).collect();
        let image = Image {
            name: "debian".into(),
            image: Arc::new(bytes.clone()),
            size: bytes.len() as u64,
            identity: 5,
        };
        (
            Disks::new(
                vec![image],
                Some(Store::below(dir, None).unwrap().for_new_clients().unwrap()),
            ),
            bytes,
        )
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    /// Every user of the server read the clients' keys.
    #[test]
    fn kept_disks_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (settings, old) = (dir.path().join("settings"), "52-54-00-00-00-01.img");
        std::fs::create_dir(&settings).unwrap();
        std::fs::write(settings.join(old), b"old").unwrap();
        for (path, mode) in [(settings.clone(), 0o755), (settings.join(old), 0o644)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (disks, _) = disks(dir.path());
        disks.open("keep-52-54-00-12-34-56", MAC).unwrap();
        disks.open("debian-for-52-54-00-12-34-56", MAC).unwrap();
        assert_eq!(mode(&settings), 0o700);
        let files: Vec<_> = std::fs::read_dir(&settings).unwrap().flatten().collect();
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|file| mode(&file.path()) == 0o600));
        let to = dir.path().join("copy");
        drop(disks.store.as_ref().unwrap().export("52-54-00-00-00-01", &to));
        assert_eq!(mode(&to), 0o600);
    }

    /// All disks together have a limit, what is full has a name, and what has its room can be
    /// written all the same.
    #[test]
    fn kept_disks_have_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::below(dir.path(), Some(16 << 20)).unwrap().for_new_clients().unwrap();
        let disks = Disks::new(Vec::new(), Some(store));
        let disk = disks.open("keep-52-54-00-12-34-56", MAC).unwrap();
        let data = vec![7; 1 << 20];
        let write = |at: u64| disk.write(at << 20, &data);
        let full = (100..200).find_map(|at| write(at).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let text = full.to_string();
        assert!(text.contains("settings take all of the 16 MB that they may"), "{text}");
        write(100).unwrap();
        assert!(write(500).is_err());
    }

    #[test]
    fn a_client_has_its_own_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (disks, _) = disks(dir.path());
        let name = "keep-52-54-00-12-34-56";
        let error = disks.open(name, "52:54:00:12:34:57").unwrap_err();
        assert!(matches!(error, Refused::NotYours(_)), "{error:?}");
        assert!(matches!(disks.open(name, "10.0.0.7"), Err(Refused::NotYours(_))));
        for unknown in ["keep-../x", "keep-", "other", "debian-for-x", "", "/etc/passwd"] {
            assert!(matches!(disks.open(unknown, MAC), Err(Refused::Unknown)), "{unknown}");
        }
        let store = disks.store.clone().unwrap();
        assert!(store.list().unwrap().is_empty());
        let disk = disks.open(name, MAC).unwrap();
        let again = disks.open(name, MAC).unwrap();
        assert!(Arc::ptr_eq(&disk, &again));
        let mut magic = [0; 2];
        disk.read(0x438, &mut magic).unwrap();
        assert_eq!((disk.size(), magic), (SIZE, [0x53, 0xef]), "no ext4");
        disk.write(SIZE - 3, b"end").unwrap();
        disk.flush().unwrap();
        let [kept] = store.list().unwrap().try_into().unwrap();
        assert!(kept.used && kept.bytes < 200 << 20 && kept.mac == "52-54-00-12-34-56", "{kept:?}");
        assert!(store.reset(MAC).unwrap_err().to_string().contains("has it open"));
        drop((disk, again));
        let copy = dir.path().join("copy");
        store.export("52-54-00-12-34-56", &copy).unwrap();
        let copied = File::open(&copy).unwrap();
        let mut end = [0; 3];
        FileExt::read_exact_at(&copied, &mut end, SIZE - 3).unwrap();
        let meta = copied.metadata().unwrap();
        assert!(&end == b"end" && meta.len() == SIZE && meta.blocks() * 512 < 200 << 20);
        store.reset(MAC).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(store.reset(MAC).unwrap_err().to_string().contains("has no files here"));
        assert!(store.reset("../..").is_err());
    }

    #[test]
    fn changes_of_a_medium_stay_and_the_medium_too() {
        let dir = tempfile::tempdir().unwrap();
        let (disks, mut wanted) = disks(dir.path());
        let name = "debian-for-52-54-00-12-34-56";
        let untouched = wanted.clone();
        for (offset, data) in [(4090u64, &[1u8; 20][..]), (99_990, &[2; 10]), (0, &[3; 4096])] {
            let disk = disks.open(name, MAC).unwrap();
            disk.write(offset, data).unwrap();
            disk.flush().unwrap();
            wanted[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            // A client's disk is opened anew each time.
            drop(disk);
            let disk = disks.open(name, MAC).unwrap();
            let mut all = vec![0; wanted.len()];
            disk.read(0, &mut all).unwrap();
            assert_eq!(all, wanted);
        }
        let medium = disks.open("debian", "10.0.0.7").unwrap();
        let mut all = vec![0; untouched.len()];
        medium.read(0, &mut all).unwrap();
        assert_eq!(all, untouched);
        assert!(medium.write(0, b"x").is_err() && medium.read_only());
        // The same name, and another medium.
        let mut other = Disks::new(disks.images.clone(), disks.store.clone());
        other.images[0].identity = 6;
        assert!(matches!(other.open(name, MAC), Err(Refused::Broken(_))));
    }
}
