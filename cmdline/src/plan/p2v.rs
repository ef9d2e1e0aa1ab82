//! How this machine sends its disks.

use alloc::string::String;
use alloc::vec::Vec;

use super::root::Server;
use crate::secrets::Private;

/// How disks are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum P2vWay {
    /// A conversion server's virt-v2v reads them over ssh.
    V2v,
    /// Over ssh as files.
    Ssh,
    /// To the empty disk of an NBD server.
    Nbd,
    /// As bytes over TCP.
    Tcp,
    /// To `bellwether clone p2v-server`.
    Own,
}

impl P2vWay {
    /// The scheme of its URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            P2vWay::V2v => "v2v",
            P2vWay::Ssh => "ssh",
            P2vWay::Nbd => "nbd",
            P2vWay::Tcp => "tcp",
            P2vWay::Own => "p2v",
        }
    }
}

/// A machine that sends its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P2vPlan {
    /// How.
    pub way: P2vWay,
    /// Where to.
    pub server: Server,
    /// The port there.
    pub port: u16,
    /// The path of `ssh://`, the export of `nbd://`.
    pub path: String,
    /// The user to log in as.
    pub user: String,
    /// The word with the password.
    pub password: Option<Private>,
    /// The word with the URL of a private key.
    pub identity: Option<Private>,
    /// The word with the key of `p2v://`.
    pub key: Option<Private>,
    /// The fingerprint that the host's key must have.
    pub host_key: Option<String>,
    /// virt-v2v is run by sudo.
    pub sudo: bool,
    /// The guest's name.
    pub name: Option<String>,
    /// Its processors.
    pub vcpus: Option<u32>,
    /// They are arranged as in this machine.
    pub topology: bool,
    /// Its memory in KiB.
    pub memory_kib: Option<u64>,
    /// Its processor's vendor.
    pub cpu_vendor: Option<String>,
    /// Its processor's model.
    pub cpu_model: Option<String>,
    /// `acpi`, `apic`, `pae`, where the line says whether it has them.
    pub features: Vec<(&'static str, bool)>,
    /// `utc`, `localtime` or `unknown`.
    pub clock: Option<String>,
    /// Hours that the clock is ahead of UTC.
    pub clock_hours: i32,
    /// The disks; all that stay in the machine when there are none.
    pub disks: Vec<String>,
    /// CD drives, if the line names any.
    pub removable: Option<Vec<String>>,
    /// Network cards, if the line names any.
    pub interfaces: Option<Vec<String>>,
    /// Cards and their networks; an empty card is for all others.
    pub networks: Vec<(String, String)>,
    /// virt-v2v's output.
    pub output: String,
    /// Where it is stored; empty where virt-v2v has no use for it.
    pub storage: String,
    /// Further options of virt-v2v with their values.
    pub options: Vec<(&'static str, String)>,
    /// Sectors that cannot be read are sent as zeros.
    pub zero_bad: bool,
    /// The copy is changed for a virtual machine.
    pub edit: bool,
    /// A command before.
    pub pre: String,
    /// What is done after success.
    pub post: String,
    /// What is done after a failure.
    pub fail: String,
}

impl P2vPlan {
    /// The defaults of virt-p2v.
    #[must_use]
    pub fn new(way: P2vWay, server: Server, port: u16) -> Self {
        Self {
            way,
            server,
            port,
            path: String::new(),
            user: String::from("root"),
            password: None,
            identity: None,
            key: None,
            host_key: None,
            sudo: false,
            name: None,
            vcpus: None,
            topology: false,
            memory_kib: None,
            cpu_vendor: None,
            cpu_model: None,
            features: Vec::new(),
            clock: None,
            clock_hours: 0,
            disks: Vec::new(),
            removable: None,
            interfaces: None,
            networks: Vec::new(),
            output: String::from("local"),
            storage: String::new(),
            options: Vec::new(),
            zero_bad: false,
            edit: false,
            pre: String::new(),
            post: String::from("poweroff"),
            fail: String::new(),
        }
    }
}
