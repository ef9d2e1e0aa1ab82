//! The initramfs under test: our `/init`, packed by `cpio-builder`.

use std::path::PathBuf;
use std::process::Stdio;

use super::{Assets, Kernel};
use crate::{Error, Result, shell, workspace};

/// A choice of kernel modules, as `bellwether build --profile` knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What virtual machines have.
    Virt,
    /// Every network card and what booting over one needs.
    Net,
}

impl Profile {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Profile::Virt => "virt",
            Profile::Net => "net",
        }
    }
}

impl Assets {
    /// Our `/init`, built from the workspace as it is now.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not build.
    pub fn our_init(&self) -> Result<PathBuf> {
        let mut cargo = cargo("build");
        cargo.args(["-p", "init", "--profile", "init", "--features", "freestanding"]);
        shell::run(&mut cargo)?;
        Ok(workspace::target().join("init/init"))
    }

    /// Our initramfs for `kernel`, built from the workspace as it is now: never
    /// cached, the sources are the recipe.
    ///
    /// # Errors
    /// [`Error::Command`] when something does not build.
    pub fn our_initrd(&self, kernel: &Kernel, profile: Profile) -> Result<PathBuf> {
        let init = self.our_init()?;
        let name = format!("bellwether-{}-{}.img", kernel.version, profile.word());
        let initrd = self.cache.join(&name);
        let draft = self.cache.join(format!("{name}.{}.{}", std::process::id(), thread_name()));
        let mut build = cargo("run");
        build.args(["-p", "bellwether", "--", "build", "--profile", profile.word()]);
        build.arg("--modules").arg(&kernel.modules).arg("--init").arg(init);
        shell::run(build.arg("-o").arg(&draft))?;
        // Two scenarios may build the same at once: the last rename wins.
        std::fs::rename(&draft, &initrd).map_err(Error::at("rename", &draft))?;
        Ok(initrd)
    }
}

fn cargo(verb: &str) -> std::process::Command {
    let mut cargo = shell::command("cargo");
    cargo.args([verb, "--quiet"]).current_dir(workspace::root()).stdin(Stdio::null());
    cargo
}

fn thread_name() -> String {
    std::thread::current().name().unwrap_or("main").replace([':', '/'], "-")
}
