//! apt for any release of Debian and any architecture, with lists of its own.
//!
//! No root is needed, this machine's own package database is left alone, and the lists are
//! fresh: those that a machine got a year ago name packages that are gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::{Assets, named, only, sources};
use crate::{Error, Result, shell};

/// apt's programs for one release and architecture.
#[derive(Debug)]
pub(super) struct Apt {
    place: PathBuf,
    release: String,
}

impl Assets {
    /// apt for a release, by its code name, and an architecture of Debian.
    pub(super) fn apt(&self, release: &str, arch: &str) -> Result<Apt> {
        static FRESH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let place = self.cache.join(format!("apt-{release}-{arch}"));
        let apt = Apt { place: place.clone(), release: release.to_owned() };
        let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
        if !fresh.contains(&place) {
            let lock = self.cache.join(format!("apt-{release}-{arch}.lock"));
            let lock_file = File::create(&lock).map_err(Error::at("open", &lock))?;
            lock_file.lock().map_err(Error::at("lock", &lock))?;
            apt.renew(arch)?;
            fresh.push(place);
        }
        Ok(apt)
    }
}

impl Apt {
    /// Gets the lists.
    fn renew(&self, arch: &str) -> Result<()> {
        for below in ["lists/partial", "cache/archives/partial"] {
            let below = self.place.join(below);
            fs::create_dir_all(&below).map_err(Error::at("make", &below))?;
        }
        let place = self.place.display();
        // The lists of a release in the making are valid for a week only.
        let conf = format!(
            "Dir::Etc::SourceList \"{place}/a.sources\";\nDir::Etc::SourceParts \"-\";\n\
             Dir::State \"{place}\";\nDir::State::Status \"{place}/status\";\n\
             Dir::Cache \"{place}/cache\";\nAPT::Sandbox::User \"root\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures \"{arch}\";\n\
             Acquire::Check-Valid-Until \"false\";\nAcquire::GzipIndexes \"true\";\n"
        );
        let sources = sources::of(&self.release)?;
        for (name, text) in [("a.sources", sources.as_str()), ("status", ""), ("conf", &conf)] {
            let file = self.place.join(name);
            fs::write(&file, text).map_err(Error::at("write", &file))?;
        }
        shell::run(self.command("apt-get").args(["--quiet", "update"])).map(drop)
    }

    /// A program of apt that works on these lists.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.env("APT_CONFIG", self.place.join("conf"));
        command
    }

    /// Fetches packages and unpacks them into `dir`.
    pub(super) fn unpack(&self, dir: &Path, names: &[&str]) -> Result<()> {
        shell::run(self.command("apt-get").arg("download").args(names).current_dir(dir))?;
        for name in names {
            let deb = only(dir, &format!("{name}_"))?;
            shell::run(shell::command("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
            fs::remove_file(&deb).map_err(Error::at("remove", &deb))?;
        }
        Ok(())
    }

    /// The release with its version and its date, as its Release file has them.
    pub(super) fn state(&self) -> Result<String> {
        let (lists, release) = (self.place.join("lists"), &self.release);
        let ending = format!("_dists_{release}_InRelease");
        let file = named(&lists, |name| name.ends_with(&ending))?;
        let none = || Error::Input(format!("no file …{ending} in {}", lists.display()));
        let file = file.ok_or_else(none)?;
        let text = fs::read_to_string(&file).map_err(Error::at("read", &file))?;
        Ok(state_in(release, &text))
    }
}

/// What a Release file says of itself. A release in the making has no version.
fn state_in(release: &str, text: &str) -> String {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = field("Version:").map_or_else(String::new, |version| format!(" {version}"));
    format!("{release}{version} of {}", field("Date:").unwrap_or("no date"))
}

#[cfg(test)]
mod tests {
    use super::state_in;

    #[test]
    fn the_state_of_a_release_is_its_version_and_date() {
        let stable =
            "Origin: Debian\nSuite: stable\nVersion: 13.8\nDate: Sat, 14 Nov 2026 10:00:00 UTC\n";
        assert_eq!(state_in("trixie", stable), "trixie 13.8 of Sat, 14 Nov 2026 10:00:00 UTC");
        assert_eq!(state_in("forky", "Date: Sun\n"), "forky of Sun");
    }
}
