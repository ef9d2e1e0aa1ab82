//! The errors of making an image, worded for the user.

use crate::initrd::InitrdError;
use crate::modinfo::ModinfoError;
use crate::newc::ArchiveError;
use std::path::PathBuf;
use std::{fmt, io};

/// An image, or a part of it, could not be made.
#[derive(Debug)]
pub enum Error {
    /// A file could not be read.
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be written.
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no kernel module tree where one was expected.
    NoModules {
        /// The directory or file that was searched.
        path: PathBuf,
    },
    /// A Debian package has no modules; its kernel's are in another package.
    OtherPackage {
        /// The package.
        path: PathBuf,
        /// The package that has them, when the package says so.
        give: Option<String>,
    },
    /// There are several kernels' trees.
    ManyKernels {
        /// The directory or file that was searched.
        path: PathBuf,
        /// The releases found.
        releases: Vec<String>,
    },
    /// The wanted kernel is not among those found.
    NoSuchKernel {
        /// The directory or file that was searched.
        path: PathBuf,
        /// The release asked for.
        wanted: String,
        /// The releases found.
        releases: Vec<String>,
    },
    /// A module file cannot be understood.
    Module {
        /// Path in the module tree.
        path: String,
        /// The reason.
        source: ModinfoError,
    },
    /// A compressed file cannot be unpacked.
    Unpack {
        /// The file.
        path: String,
        /// The codec's error.
        source: io::Error,
    },
    /// A requested module does not exist.
    NoSuchModule {
        /// Its name.
        name: String,
        /// The release of the kernel that was searched.
        release: String,
    },
    /// Modules and `/init` are for different processors.
    Machine {
        /// The modules' processor.
        modules: String,
        /// The processor of `/init`.
        init: String,
    },
    /// The file given as `/init` is not a program that the kernel can start.
    Init {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// An initramfs cannot be read.
    Initrd {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: InitrdError,
    },
    /// A package or file system image cannot be read.
    Container {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A required program or file is not installed.
    NoTool {
        /// The program, or the purpose of the file.
        what: String,
        /// Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    Tool {
        /// Its name.
        program: &'static str,
        /// Its last message.
        why: String,
    },
    /// A request that cannot be met.
    Media(String),
    /// A file cannot be added to the archive.
    Archive(ArchiveError),
    /// The index would exceed a limit of its format.
    Index(String),
    /// Compressing failed.
    Compress(io::Error),
    /// `SOURCE_DATE_EPOCH` is not a number of seconds that cpio can hold.
    Epoch(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(f, "cannot read {}: {source}{}", path.display(), remedy(source))
            }
            Self::Write { path, source } if source.kind() == io::ErrorKind::StorageFull => write!(
                f,
                "cannot write {}: the disk is full; free some space or choose another place",
                path.display()
            ),
            Self::Write { path, source } => {
                write!(f, "cannot write {}: {source}{}", path.display(), remedy(source))
            }
            Self::NoModules { path } => write!(
                f,
                "no kernel modules in {}; give a /lib/modules/VERSION directory, a kernel .deb, \
                 an initrd or a squashfs",
                path.display()
            ),
            Self::OtherPackage { path, give: Some(give) } => write!(
                f,
                "no kernel modules in {}: they are in the package {give}, give that one",
                path.display()
            ),
            Self::OtherPackage { path, give: None } => write!(
                f,
                "no kernel modules in {}; give a package of a kernel, which has files below \
                 lib/modules",
                path.display()
            ),
            Self::ManyKernels { path, releases } => write!(
                f,
                "{} has modules of several kernels; choose one with --release: {}",
                path.display(),
                releases.join(", ")
            ),
            Self::NoSuchKernel { path, wanted, releases } => write!(
                f,
                "{} has no modules of kernel {wanted}; there are: {}",
                path.display(),
                releases.join(", ")
            ),
            Self::Module { path, source } => write!(f, "module {path} {source}"),
            Self::Unpack { path, source } => write!(f, "{path} does not unpack: {source}"),
            Self::NoSuchModule { name, release } => {
                write!(f, "kernel {release} has no module '{name}', neither loadable nor built in")
            }
            Self::Machine { modules, init } => write!(
                f,
                "the modules are for {modules}, /init is for {init}; build both for the same machine"
            ),
            Self::Init { path, why } => write!(f, "{} cannot be /init: {why}", path.display()),
            Self::Initrd { path, source } => {
                write!(f, "cannot read {} as an initramfs: {source}", path.display())
            }
            Self::Container { path, why } => write!(f, "cannot read {}: {why}", path.display()),
            Self::NoTool { what, package } => {
                write!(f, "{what} is not installed; on Debian: apt install {package}")
            }
            Self::Tool { program, why } => write!(f, "{program}: {why}"),
            Self::Media(why) => write!(f, "{why}"),
            Self::Archive(e) => write!(f, "{e}"),
            Self::Index(why) => write!(f, "module index: {why}"),
            Self::Compress(e) => write!(f, "compression failed: {e}"),
            Self::Epoch(value) => write!(
                f,
                "SOURCE_DATE_EPOCH is '{value}', but must be seconds since 1970, below 2^32"
            ),
        }
    }
}

/// What helps against a system error, to stand behind it.
fn remedy(source: &io::Error) -> &'static str {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's files in /proc is its effective user.
    let is_root = || std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    match source.kind() {
        io::ErrorKind::PermissionDenied if !is_root() => "; root may do it: run this with sudo",
        io::ErrorKind::ReadOnlyFilesystem => "; choose another place",
        _ => "",
    }
}

impl std::error::Error for Error {}

impl Error {
    /// For `map_err` on reading `path`.
    pub fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// For `map_err` on writing `path`.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}

impl From<ArchiveError> for Error {
    fn from(e: ArchiveError) -> Self {
        Self::Archive(e)
    }
}
