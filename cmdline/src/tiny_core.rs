//! Tiny Core: the root is the initramfs itself, and everything else is done by
//! `tc-config` in it.
//!
//! Read from Core-scripts. The words for extensions, home directories and the like
//! are read from `/proc/cmdline` by the live system; here they only tell the dialect.

use crate::plan::{BootPlan, Dialect, Source, Writable};
use crate::table::{Draft, Grammar, words};
use crate::{base, net, own};

words! { TINY_CORE, TINY_CORE_DOCS:
    "waitusb" Text Pass "Seconds to wait for slow disks.";
    "tce" Text Pass "Where extensions are.";
    "iso" Text Pass "ISO file that holds extensions.";
    "nfsmount" Text Pass "SERVER:DIRECTORY for home, opt and extensions; mounted by the live system.";
    "nfs4" OptText Pass "That by NFS v4.";
    "nbd" Text Pass "Attached by the live system.";
    "aoe" Text Pass "Attached by the live system.";
    "tftplist" Text Pass "Extensions fetched by the live system.";
    "httplist" Text Pass "Extensions fetched by the live system.";
    "embed" Flag Pass "Stay in the initramfs; done anyway.";
    "root" Text Pass "Never another root.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::TinyCore,
    tables: &[&own::OWN, &own::P2V, &TINY_CORE, &base::BASE, &net::NET],
    pass: "restore home opt tcvd nodhcp base norestore noutc host user syslog multivt cron lst tz \
        kmap desktop icons noicons noautologin superuser secure protect pretce xvesa xsetup text \
        blacklist noswap nozswap laptop mydata bkg showapps settime tcw* safebackup swapfile ntpserver",
    first_wins: false,
    splits_quotes: true,
    build,
};

fn build(_: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.root.sources = alloc::vec![Source::Initramfs("/".into())];
    plan.writable = Writable::AsIs { read_write: true };
    plan.root.retry = base::rounds(1, 0);
}
