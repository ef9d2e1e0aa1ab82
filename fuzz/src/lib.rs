//! Fuzz targets: every reader of bytes that come from outside, by name.
//!
//! A target is a function that may be called with any bytes and must return:
//! a panic, an overflow, a hang or a broken promise (`assert!`) is a finding.
//! What is outside: the kernel's command line and messages, answers from the
//! network, superblocks and tables of disks, archives and modules of others.
//!
//! Without libFuzzer this is an ordinary library whose tests replay the corpus.

mod boot;
mod copy;
mod disk;
mod image;
mod kernel;
mod network;
mod server;
mod session;

/// One reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory below `corpus/`.
    pub name: &'static str,
    /// Reads the bytes.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All targets but those of [`copy`], which has rows of its own.
const TARGETS: &[Target] = &[
    target("cmdline", cmdline::fuzz),
    target("bundle-pattern", kernel::bundle_pattern),
    target("module-index", kernel::module_index),
    target("uevent", kernel::uevent),
    target("netlink", kernel::netlink),
    target("dhcp-message", network::dhcp_message),
    target("dhcp-exchange", network::dhcp_exchange),
    target("link-race", network::link_race),
    target("dns-answer", network::dns_answer),
    target("nfs-reply", network::nfs_reply),
    target("nfs-options", network::nfs_options),
    target("nbd-negotiation", network::nbd_negotiation),
    target("http-response", network::http_response),
    target("ftp-replies", network::ftp_replies),
    target("tftp-transfer", network::tftp_transfer),
    target("url", network::url),
    target("lease-files", network::lease_files),
    target("nvme-log", network::nvme_log),
    target("superblock", disk::superblock),
    target("partition-table", disk::partition_table),
    target("block-map", disk::block_map),
    target("verity-header", disk::verity_header),
    target("checksum-files", disk::checksum_files),
    target("persistence-conf", disk::persistence_conf),
    target("compressed-image", disk::compressed_image),
    target("iso-image", disk::iso_image),
    target("cow-file", disk::cow_file),
    target("root-tar", |data| overlay::archive::fuzz(overlay::probe::Format::Tar, data)),
    target("root-cpio", |data| overlay::archive::fuzz(overlay::probe::Format::Cpio, data)),
    target("cloop", image::cloop),
    target("deb", cpio_builder::source::fuzz),
    target("squashfs", cpio_builder::container::fuzz),
    target("boot-menu", image::boot_menu),
    target("loader-entries", image::loader_entries),
    target("dhcp-question", share::dhcp::server::fuzz),
    target("http-request", server::http_request),
    target("tftp-request", server::tftp_request),
    target("nfs-call", server::nfs_call),
    target("nfs-record", server::nfs_record),
    target("nbd-request", server::nbd_request),
    target("initrd", image::initrd),
    target("initrd-stream", share::initrd::fuzz),
    target("newc", image::newc),
    target("kernel-module", image::kernel_module),
    target("modprobe-conf", image::modprobe_conf),
    target("boot-plan", boot::boot_plan),
    target("medium-texts", init::fuzz::texts),
    target("line-editor", init::fuzz::editor),
];

/// All targets.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain(copy::TARGETS)
}

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    targets().find(|target| target.name == name)
}

/// A directory in memory where there is one: a target writes a file for each input.
pub(crate) fn directory() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.expect("there is a temporary directory")
}

/// Cuts an input into the messages of a conversation: each stands behind its
/// length, two bytes, little-endian. The last may be shorter than it says.
pub(crate) fn messages(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        data = rest;
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Seeds, and inputs that once broke something.
    #[test]
    fn the_corpus_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for target in targets() {
            let dir = corpus.join(target.name);
            let mut inputs = 0;
            for file in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir:?}: {e}")) {
                let path = file.unwrap().path();
                println!("{}", path.display());
                let input = std::fs::read(&path).unwrap();
                (target.run)(&input);
                inputs += 1;
            }
            assert!(inputs > 0, "{dir:?} has no inputs");
        }
    }

    #[test]
    fn every_directory_of_the_corpus_has_a_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for dir in std::fs::read_dir(corpus).unwrap() {
            let name = dir.unwrap().file_name();
            assert!(find(name.to_str().unwrap()).is_some(), "{name:?} is no target");
        }
    }
}
