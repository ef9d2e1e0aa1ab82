//! What clients ask of `bellwether share`.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use share::http::{self, Head};
use share::nfs::{self, Export, Server};
use share::tftp::{self, Packet, Send, Transfer};
use share::tree::Tree;

use crate::messages;

/// The head of a request. A path never leads out, an answer never holds more of a
/// file than there is.
pub fn http_request(data: &[u8]) {
    const LENGTH: u64 = 1000;
    let Head::Whole(request, used) = http::read(data) else { return };
    assert!(used <= data.len());
    assert!(request.path.starts_with('/'), "{}", request.path);
    assert!(request.path.split('/').all(|part| part != ".."), "{}", request.path);
    let answer = http::answer(&request, LENGTH, "tag");
    assert!(answer.body.start <= answer.body.end && answer.body.end <= LENGTH);
    let (head, _) = answer.head.split_once("\r\n\r\n").expect("a head ends with an empty line");
    assert!(head.lines().count() < 16, "a header was smuggled in: {head}");
}

/// A request and what the client says to the blocks that it gets.
pub fn tftp_request(data: &[u8]) {
    const LENGTH: u64 = 100_000;
    let mut packets = messages(data).filter_map(tftp::read);
    let Some(Packet::Read(request)) = packets.next() else { return };
    let mut transfer = Transfer::new(&request, LENGTH);
    let mut next = transfer.send();
    for packet in packets.take(64) {
        if let Send::Blocks(blocks) = &next {
            assert!(blocks.end() - blocks.start() < 65536, "a window without end");
            for block in blocks.clone().take(64) {
                let (_, offset, length) = transfer.data(block);
                assert!(offset + length as u64 <= LENGTH, "beyond the file's end");
            }
        }
        let Packet::Ack(number) = packet else { return };
        let before = transfer.done();
        next = transfer.acknowledged(number);
        assert!(transfer.done() >= before && transfer.done() <= LENGTH);
    }
}

/// A small tree that is served, this crate's own sources, and the handle of its root.
static SERVER: LazyLock<(Server, Vec<u8>)> = LazyLock::new(|| {
    let tree = Tree::of_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let tree = Arc::new(tree.expect("our own sources can be read"));
    let export = Export { path: "/srv/live".to_owned(), tree };
    let server = Server { exports: vec![export], port: 2049 };
    // Transaction 1, a call, RPC 2, MOUNT version 3, MNT, AUTH_NONE, the path.
    let words = [1, 0, 2, 100_005, 3, 1, 0, 0, 0, 0, 9u32];
    let mut call: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    call.extend_from_slice(b"/srv/live\0\0\0");
    let mut reply = Vec::new();
    server.handle(&call, &mut reply, &mut |wanted| wanted, false).expect("a call has an answer");
    // Behind the reply's header and the status: the handle, after its length.
    assert_eq!(reply.get(28..32), Some(&[0, 0, 0, 16][..]), "a handle of another length");
    let handle = reply.get(32..48).expect("the answer has a handle").to_vec();
    (server, handle)
});

/// Calls to portmapper, mountd and NFS. Every call gets one answer, of a bounded size.
/// Sixteen zero bytes stand for the root's handle, which differs from run to run.
pub fn nfs_call(data: &[u8]) {
    let (server, handle) = &*SERVER;
    for record in messages(data).take(16) {
        let mut record = record.to_vec();
        if let Some(at) =
            record.windows(20).position(|w| w == [&[0, 0, 0, 16][..], &[0; 16]].concat())
        {
            record[at + 4..at + 20].copy_from_slice(handle);
        }
        let mut reply = Vec::new();
        match server.handle(&record, &mut reply, &mut |wanted| wanted, false) {
            Some(_) => assert!((20..4 << 20).contains(&reply.len()), "{} bytes", reply.len()),
            None => assert!(reply.is_empty()),
        }
    }
}

/// Records of RPC over TCP: a record is never longer than a call may be, nor than what came.
pub fn nfs_record(data: &[u8]) {
    let (mut rest, mut record) = (data, Vec::new());
    while nfs::read_record(&mut rest, &mut record).is_ok_and(|whole| whole) {
        assert!(record.len() <= nfs::MAX_CALL && record.len() <= data.len());
    }
}

/// Options while a client chooses a disk, and requests for its data.
pub fn nbd_request(data: &[u8]) {
    share::nbd::fuzz(data);
}
