//! The initramfs under test: our `/init`, packed by `cpio-builder`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use cpio_builder::initrd::{Initrd, Limits};
use cpio_builder::newc::{Archive, Node};

use super::{Assets, Kernel};
use crate::{Error, Result, shell, workspace};

/// A choice of kernel modules, as `bellwether build --profile` knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What virtual machines have.
    Virt,
    /// Every network card and what booting over one needs.
    Net,
    /// Virtual machines again, with the full `/init`, device-mapper and every file
    /// system that the kernel has.
    Disks,
    /// Virtual machines again, with the `/init` that sends disks.
    P2v,
}

impl Profile {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Profile::Virt => "virt",
            Profile::Net => "net",
            Profile::Disks => "disks",
            Profile::P2v => "p2v",
        }
    }

    /// What `bellwether build` is told.
    fn options(self) -> Vec<&'static str> {
        match self {
            Profile::Virt | Profile::Net => vec!["--profile", self.word()],
            Profile::P2v => vec!["--profile", "virt", "--ssh"],
            Profile::Disks => {
                let mut words = FULL.to_vec();
                words.extend(DISK_MODULES.iter().flat_map(|module| ["--add", module]));
                words
            }
        }
    }
}

/// An image for virtual machines that carries the full `/init`.
pub const FULL: [&str; 3] = ["--profile", "virt", "--full"];

/// What [`Profile::Disks`] adds to it.
const DISK_MODULES: [&str; 18] = [
    "nbd",
    "dm_mod",
    "dm_snapshot",
    "dm_verity",
    "dm_crypt",
    "brd",
    "btrfs",
    "xfs",
    "erofs",
    "udf",
    "exfat",
    "crypto-sha256",
    "crypto-sha512",
    "crypto-xxhash64",
    "crypto-xts",
    "crypto-aes",
    "crypto-ecb",
    "crypto-blake2b-256",
];

impl Assets {
    /// Our `/init` for an image of this profile, built from the workspace as it
    /// is now: the small one for `virt`, the full one elsewhere.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not build.
    pub fn our_init(&self, profile: Profile) -> Result<PathBuf> {
        build_init(profile, true)
    }

    /// The same program with its symbols left in, for profilers; the code is the same.
    ///
    /// # Errors
    /// As [`Assets::our_init`].
    pub fn our_init_with_symbols(&self, profile: Profile) -> Result<PathBuf> {
        build_init(profile, false)
    }

    /// Our initramfs for `kernel`, built from the workspace as it is now: never
    /// taken from an earlier run, the sources are the recipe.
    ///
    /// # Errors
    /// [`Error::Command`] when something does not build.
    pub fn our_initrd(&self, kernel: &Kernel, profile: Profile) -> Result<PathBuf> {
        self.our_initrd_of(kernel, profile, profile.word(), &profile.options())
    }

    /// Our initramfs with other options than a profile's. `name` is for people: the options tell
    /// it from others, so that no scenario gets the files of another.
    ///
    /// # Errors
    /// As [`Assets::our_initrd`].
    pub fn our_initrd_of(
        &self,
        kernel: &Kernel,
        profile: Profile,
        name: &str,
        options: &[&str],
    ) -> Result<PathBuf> {
        let mut options_of = DefaultHasher::new();
        options.hash(&mut options_of);
        let name = format!("bellwether-{}-{name}-{:016x}", kernel.version, options_of.finish());
        let initrd = self.cache.join(format!("{name}-{}.img", std::process::id()));
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if built.contains(&initrd) {
            return Ok(initrd);
        }
        let init = self.our_init(profile)?;
        let mut build = shell::command(bellwether()?);
        build.arg("build").current_dir(workspace::root());
        // Newer kernels have some digests as functions, which no module's name stands for.
        let lacks = |name: &str| name.starts_with("crypto-") && !kernel.has(name);
        let mut words = options.iter().peekable();
        while let Some(word) = words.next() {
            match words.next_if(|name| *word == "--add" && lacks(name)) {
                Some(name) => crate::say(format_args!("Linux {} has no {name}", kernel.version)),
                None => drop(build.arg(word)),
            }
        }
        build.arg("--modules").arg(&kernel.modules).arg("--init").arg(init);
        shell::run(build.arg("-o").arg(&initrd))?;
        built.push(initrd.clone());
        self.forget(&name, &initrd)?;
        Ok(initrd)
    }

    /// Removes the initramfs that earlier processes left.
    fn forget(&self, name: &str, except: &Path) -> Result<()> {
        let entries = std::fs::read_dir(&self.cache).map_err(Error::at("list", &self.cache))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let owner = stem.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            let lives = |pid: &str| Path::new("/proc").join(pid).exists();
            if path != except && owner.is_some_and(|pid| !lives(pid)) {
                std::fs::remove_file(&path).map_err(Error::at("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn build_init(profile: Profile, strip: bool) -> Result<PathBuf> {
    let (size, features): (_, &[&str]) = match profile {
        Profile::Virt => ("small", &["--features", "freestanding", "--no-default-features"]),
        Profile::Net | Profile::Disks => ("full", &["--features", "freestanding"]),
        Profile::P2v => ("p2v", &["--features", "freestanding,p2v"]),
    };
    let symbols = if strip { "" } else { "-with-symbols" };
    let place = workspace::target().join(format!("init-{size}{symbols}"));
    let mut cargo = cargo("rustc");
    cargo.args(["-p", "init", "--bin", "init", "--profile", "init"]).args(features);
    cargo.arg("--target-dir").arg(&place);
    // As bellwether's build script does: no path of this computer is in the file.
    let remap = workspace::builders_paths()
        .map(|(path, name)| format!("--remap-path-prefix={path}={name}"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", remap.join("\x1f"));
    if strip {
        let flags = workspace::root().join("init/rustflags");
        let words = std::fs::read_to_string(&flags).map_err(Error::at("read", &flags))?;
        cargo.arg("--").args(words.split_whitespace());
    } else {
        // Code that was moved out of its function would belong to none in a profile.
        cargo.args(["--config", "profile.init.strip=\"none\""]);
    }
    shell::run(&mut cargo)?;
    Ok(place.join("init/init"))
}

/// Writes `initrd` to `to` with one file changed: kernels unpack archives behind
/// each other, and the later file wins.
///
/// # Errors
/// [`Error::Input`] when it cannot be read or has no such file.
pub fn replace(
    initrd: &Path,
    path: &str,
    to: &Path,
    change: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<()> {
    let mut bytes = std::fs::read(initrd).map_err(Error::at("read", initrd))?;
    let input = |why: &dyn std::fmt::Display| {
        Error::Input(format!("{path} of {}: {why}", initrd.display()))
    };
    let changed = {
        let initrd = Initrd::open(&bytes, Limits::default()).map_err(|error| input(&error))?;
        let tree = initrd.tree();
        change(tree.get(path).ok_or_else(|| input(&"no such file"))?.data)
    };
    let mut archive = Archive::new();
    archive.add(path, 0o644, Node::File(changed)).map_err(|error| input(&error))?;
    // The kernel looks for the next archive at multiples of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.write(0).map_err(|error| input(&error))?);
    std::fs::write(to, bytes).map_err(Error::at("write", to))
}

/// What this process has built: its scenarios share it.
static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The host command as the workspace has it now, without an `/init` inside.
///
/// # Errors
/// [`Error::Command`] with what the compiler says.
pub fn bellwether() -> Result<PathBuf> {
    shell::run(cargo("build").args(["-p", "bellwether"]))?;
    Ok(workspace::target().join("debug/bellwether"))
}

/// The same as it is released: fast, with `/init` inside, and minutes to build.
///
/// # Errors
/// [`Error::Command`] with what the compiler says.
pub fn released() -> Result<PathBuf> {
    shell::run(cargo("build").args(["--release", "-p", "bellwether"]))?;
    Ok(workspace::target().join("release/bellwether"))
}

fn cargo(verb: &str) -> std::process::Command {
    let mut cargo = shell::command("cargo");
    cargo.args([verb, "--quiet"]).current_dir(workspace::root()).stdin(Stdio::null());
    cargo
}
