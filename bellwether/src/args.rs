//! The command line's grammar. Help texts, man pages and completions all come
//! from these definitions.

use argh::{ArgsInfo, FromArgs};
use cpio_builder::compress::Codec;
use cpio_builder::image::Include;
use cpio_builder::profile::Profile;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Boots live systems over the network or from disks: makes the images, and
/// tells what they will do.
#[derive(FromArgs, ArgsInfo, Debug)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

/// What to do.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
// One of them exists, once.
#[allow(clippy::large_enum_variant)]
pub enum Command {
    /// Make an initramfs, or look into one.
    Build(Build),
    /// Say what a command line will do.
    Explain(crate::explain::Explain),
    /// Write man pages and shell completions.
    Docs(crate::docs::Docs),
}

/// Make an initramfs from a kernel's modules, or list what is in one.
///
/// The same input gives the same bytes; file times are SOURCE_DATE_EPOCH if
/// that is set.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(
    subcommand,
    name = "build",
    example = "An image for virtual machines, from the running kernel's modules:\n  \
               bellwether build --modules /lib/modules/$(uname -r) -o initrd.img",
    example = "An image for any machine, from a Debian kernel package:\n  \
               bellwether build --modules linux-image-6.1.0-13-amd64_6.1.55-1_amd64.deb --profile net -o initrd.img",
    example = "The small archive to put behind a distribution's own initrd:\n  \
               bellwether build --append-only --modules /boot/initrd.img -o bellwether.img\n  \
               cat /boot/initrd.img bellwether.img > combined.img",
    example = "What is in an initrd:\n  bellwether build --list /boot/initrd.img",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage.",
    note = "--name=value is taken as --name value."
)]
pub struct Build {
    /// where the kernel's modules are: a /lib/modules/VERSION directory or a
    /// root directory that has one, a kernel .deb, an initrd, or a squashfs
    #[argh(option, arg_name = "path")]
    pub modules: Option<PathBuf>,

    /// kernel release to take when there are several
    #[argh(option, arg_name = "version")]
    pub release: Option<String>,

    /// which modules: virt (virtual machines; the default), net (any machine
    /// with a wired network or a disk) or all
    #[argh(option, arg_name = "name", from_str_fn(profile))]
    pub profile: Option<Profile>,

    /// a further module or alias; may be repeated
    #[argh(option, arg_name = "module")]
    pub add: Vec<String>,

    /// compression: zstd (the default), gzip, xz, lz4 or none
    #[argh(option, arg_name = "codec", from_str_fn(codec))]
    pub compress: Option<Codec>,

    /// make modules a quarter smaller, and faster to load, at the price of
    /// their signatures: not for machines with Secure Boot
    #[argh(switch)]
    pub strip: bool,

    /// make only what has to stand behind a distribution's initrd: /init and
    /// the index of the modules in that initrd, given as --modules
    #[argh(switch)]
    pub append_only: bool,

    /// a further file or directory, and where in the image to put it; may be
    /// repeated
    #[argh(option, arg_name = "file[:dest]", from_str_fn(include))]
    pub include: Vec<Include>,

    /// the program to be /init; by default the one made with this command
    #[argh(option, arg_name = "file")]
    pub init: Option<PathBuf>,

    /// directory with firmware; by default the one beside the modules. May be
    /// repeated
    #[argh(option, arg_name = "dir")]
    pub firmware: Vec<PathBuf>,

    /// modprobe.d directory or file whose blacklist, options, alias and
    /// softdep lines count; may be repeated
    #[argh(option, arg_name = "path")]
    pub modprobe: Vec<PathBuf>,

    /// firmware directory with intel-ucode or amd-ucode: puts an early
    /// microcode archive in front
    #[argh(option, arg_name = "dir")]
    pub microcode: Option<PathBuf>,

    /// list what is in an initramfs, instead of making one
    #[argh(option, arg_name = "file")]
    pub list: Option<PathBuf>,

    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,

    /// where to write the image; '-' is standard output
    #[argh(option, short = 'o', long = "output", arg_name = "file")]
    pub output: Option<PathBuf>,
}

/// All commands and their options, for man pages and completions.
pub fn info() -> argh::CommandInfoWithArgs {
    Arguments::get_args_info()
}

fn profile(text: &str) -> Result<Profile, String> {
    Profile::from_name(text).ok_or_else(|| format!("no profile '{text}': virt, net or all"))
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text)
        .ok_or_else(|| format!("no compression '{text}': zstd, gzip, xz, lz4 or none"))
}

fn include(text: &str) -> Result<Include, String> {
    Include::parse(text).ok_or_else(|| format!("'{text}' is not FILE or FILE:DEST"))
}

/// A reason to end before doing anything.
#[derive(Debug)]
pub enum Early {
    /// Help was asked for.
    Help(String),
    /// The arguments make no sense.
    Usage(String),
}

impl Early {
    /// Says it and gives the exit status.
    pub fn end(self) -> ExitCode {
        match self {
            Self::Help(text) => {
                // A closed pipe is the reader's choice.
                let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
                ExitCode::SUCCESS
            }
            Self::Usage(text) => {
                eprintln!("bellwether: {}", text.trim_end());
                ExitCode::from(2)
            }
        }
    }
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Early> {
    let args: Result<Vec<String>, OsString> =
        args.into_iter().skip(1).map(OsString::into_string).collect();
    let args = args.map_err(|arg| Early::Usage(format!("{} is not UTF-8", arg.display())))?;
    if args.first().is_some_and(|arg| arg == "--version" || arg == "-V") {
        return Err(Early::Help(format!("bellwether {}", env!("CARGO_PKG_VERSION"))));
    }
    let args = split_values(args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let parsed = Arguments::from_args(&["bellwether"], &args);
    parsed.map(|a| a.command).map_err(|early| match early.status {
        Ok(()) => Early::Help(early.output),
        Err(()) => Early::Usage(early.output),
    })
}

/// Makes `--name value` of `--name=value`, up to a lone `--`.
fn split_values(args: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(args.len());
    let mut plain = false;
    for arg in args {
        plain |= arg == "--";
        match arg.split_once('=') {
            Some((name, value)) if !plain && name.len() > 2 && name.starts_with("--") => {
                out.extend([name.to_owned(), value.to_owned()]);
            }
            _ => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(args: &[&str]) -> Result<Command, Early> {
        parse(["bellwether"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn values_may_be_joined_to_their_names() {
        for args in [
            &["build", "--profile", "net", "--modules", "/m", "-o", "x"][..],
            &["build", "--profile=net", "--modules=/m", "--output=x"],
        ] {
            let Command::Build(build) = given(args).unwrap() else { panic!("{args:?}") };
            assert_eq!(build.profile.unwrap().name, "net");
            assert_eq!(build.modules.unwrap(), PathBuf::from("/m"));
            assert_eq!(build.output.unwrap(), PathBuf::from("x"));
        }
        let split = split_values(vec!["--a=b=c".into(), "a=b".into(), "--".into(), "--x=y".into()]);
        assert_eq!(split, ["--a", "b=c", "a=b", "--", "--x=y"]);
    }

    #[test]
    fn wrong_usage_is_told() {
        for (args, word) in [
            (&["build", "--profile", "big"][..], "no profile 'big'"),
            (&["build", "--compress=rar"], "no compression 'rar'"),
            (&["build", "--include", "a:../b"], "not FILE or FILE:DEST"),
            (&["bild"], "bild"),
            (&[], "build"),
        ] {
            match given(args) {
                Err(Early::Usage(text)) => assert!(text.contains(word), "{text}"),
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_has_examples() {
        match given(&["build", "--help"]) {
            Err(Early::Help(text)) => {
                assert!(text.contains("bellwether build --modules /lib/modules"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
