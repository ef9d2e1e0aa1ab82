//! `cargo xtask reproducible`: the same commit gives the same bytes, wherever it is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use argh::FromArgs;
use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result, workspace};

/// Build the released program twice, in two directories and with two cargo homes, and
/// compare it and both /init byte by byte. Takes two release builds.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "reproducible")]
pub struct Reproducible {}

impl Reproducible {
    /// Builds and compares.
    ///
    /// # Errors
    /// [`Error::Input`] with the program that differs and where; [`Error::Command`] when
    /// something does not build.
    pub fn run(self) -> Result<()> {
        let place = workspace::target().join("reproducible");
        let first = build(&place.join("one"), None)?;
        let second = build(&place.join("another/directory"), Some(&place.join("home")))?;
        for ((name, one), (_, other)) in first.iter().zip(&second) {
            let read = |path: &PathBuf| fs::read(path).map_err(Error::at("read", path));
            let (one, other) = (read(one)?, read(other)?);
            if one != other {
                let at = one.iter().zip(&other).position(|(a, b)| a != b);
                return Err(Error::Input(format!(
                    "{name} differs: {} and {} bytes, first at {}",
                    one.len(),
                    other.len(),
                    at.unwrap_or_else(|| one.len().min(other.len()))
                )));
            }
            println!("{name}: {} bytes, the same in both", one.len());
        }
        fs::remove_dir_all(&place).map_err(Error::at("remove", &place))
    }
}

/// Lays the last commit out in `tree` and builds it there; the programs by name.
fn build(tree: &Path, home: Option<&Path>) -> Result<Vec<(String, PathBuf)>> {
    if tree.exists() {
        fs::remove_dir_all(tree).map_err(Error::at("empty", tree))?;
    }
    fs::create_dir_all(tree).map_err(Error::at("make", tree))?;
    let (root, at) = (workspace::root(), tree.to_string_lossy());
    let script = format!("git -C '{}' archive HEAD | tar -xC '{at}'", root.display());
    run(&["bash", "-euo", "pipefail", "-c", &script])?;
    let mut command = Command::new(tree.join("bellwether/packaging/build-static"));
    command.current_dir(tree).env_remove("CARGO_TARGET_DIR");
    if let Some(home) = home {
        command.env("CARGO_HOME", home);
    }
    let output = command.output().map_err(Error::io("start build-static"))?;
    if !output.status.success() {
        return Err(Error::Command {
            command: "build-static".to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let program = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let program = tree.join(program);
    let mut made = vec![("bellwether".to_owned(), program.clone())];
    let scripts = program.with_file_name("build");
    for entry in fs::read_dir(&scripts).map_err(Error::at("list", &scripts))?.flatten() {
        for size in ["small", "full"] {
            let init = entry.path().join(format!("out/init-{size}/init/init"));
            if init.exists() {
                made.push((format!("/init, {size}"), init));
            }
        }
    }
    made.sort();
    if made.len() == 3 { Ok(made) } else { Err(Error::Input(format!("built {made:?}"))) }
}
