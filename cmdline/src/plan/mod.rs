//! [`BootPlan`]: what will be done, in order, as plain data.
//!
//! A dialect module turns words into a plan; `init` executes it and knows no
//! dialects; `bellwether explain` prints it; tests compare it. Everything that a
//! dialect leaves to a default is spelled out here, so that a reader of a plan
//! need not know the dialect. The one thing that stays dialect-shaped is
//! [`Handoff::layout`]: where the live system's own scripts look for the medium.
//!
//! A plan does no I/O and checks nothing about the machine it will run on.

mod clone;
mod dialect;
mod failure;
mod handoff;
mod network;
#[cfg(feature = "p2v")]
mod p2v;
mod root;
mod units;
mod writable;

use alloc::string::String;
use alloc::vec::Vec;

pub use clone::{CLONE_PROTOCOLS, CloneArgument, CloneMethod, CloneProtocol};
pub use dialect::Dialect;
#[cfg(feature = "all")]
pub use failure::point;
pub use failure::{FailurePlan, OnFailure};
pub use handoff::{ClonePlan, Handoff, Then};
pub use network::{
    Addressing, DhcpRequest, LinkChoice, LinkName, Mac, NetworkPlan, Route, StaticAddress, Vlan,
};
#[cfg(feature = "p2v")]
pub use p2v::{P2vPlan, P2vWay};
pub use root::{
    CifsSource, Content, DeviceSelector, ImagePick, ImageRule, Integrity, Marker, NbdSource,
    NfsSource, NfsVersion, NvmeTcpSource, OnCorruption, Payload, Retry, RootPlan, ScanRule, Server,
    Source, ToRam, UrlSource,
};
pub use units::{Bytes, Seconds};
pub use writable::{
    PersistPlan, SnapshotPlan, SnapshotStore, UnionKind, UnionPlan, Upper, Writable,
};

/// What will be done with this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// The dialect that the words were read in.
    pub dialect: Dialect,
    /// What is said on the console.
    pub log: LogPlan,
    /// Which drivers are loaded.
    pub drivers: DriverPlan,
    /// How the network comes up; `None` when nothing in the plan needs one.
    pub network: Option<NetworkPlan>,
    /// Where the root comes from.
    pub root: RootPlan,
    /// How the root becomes writable.
    pub writable: Writable,
    /// What the live system finds when it takes over.
    pub handoff: Handoff,
    /// What happens when a step fails.
    pub failure: FailurePlan,
    /// Every word of the line and what became of it.
    pub words: Vec<Word>,
    /// Remarks for `explain` and for one line each on the console.
    pub warnings: Vec<Warning>,
}

impl BootPlan {
    /// Whether the boot can succeed as far as the line alone tells.
    #[must_use]
    pub fn can_work(&self) -> bool {
        !self.warnings.iter().any(|warning| warning.fatal)
    }

    /// Whether the initramfs is itself the live system (Tiny Core, `bw.root=initramfs`).
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self.root.sources.first(), Some(Source::Initramfs(path)) if path == "/")
    }
}

/// One word of the command line and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word as written, quotes and passwords removed.
    pub text: String,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It shaped the plan.
    Used,
    /// A later (or, in stage1, an earlier) word of the same name won.
    Overridden,
    /// Known, and meant for the kernel or the live system, not for us.
    PassedOn,
    /// Known to the dialect and without effect here; a warning says why.
    Ignored,
    /// A word of another dialect than the one in force.
    Foreign(Dialect),
    /// No dialect knows it; kept for the real init.
    Unknown,
}

/// Something the user should know about the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The word it is about, as written, without passwords; empty when it is about the whole line.
    pub word: String,
    /// What is wrong or remarkable, in the user's words.
    pub message: String,
    /// What to write instead; empty when there is nothing to change.
    pub hint: String,
    /// Whether the boot cannot succeed because of it.
    pub fatal: bool,
}

/// What is said on the console.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPlan {
    /// Only warnings and errors.
    pub quiet: bool,
    /// Everything, system calls of each step included.
    pub debug: bool,
}

/// Which drivers are loaded beyond those that the hardware and the plan ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverPlan {
    /// Never loaded by a device's alias (`blacklist=`, `modprobe.blacklist=`,
    /// `rd.driver.blacklist=`), normalised to underscores.
    pub blacklist: Vec<String>,
    /// Loaded before the devices are walked (`rd.driver.pre=`, `modules=`).
    pub force: Vec<String>,
    /// `module.param=value` words, in the order given.
    pub options: Vec<ModuleOption>,
}

/// One `module.param[=value]` word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleOption {
    /// Module name, normalised to underscores.
    pub module: String,
    /// `param=value` as finit_module wants it.
    pub option: String,
}
