//! NFS version 3 (RFC 1813), read-only, with its MOUNT protocol and a portmapper's
//! GETPORT (RFC 1833), as one function from a call to a reply.
//!
//! A file handle is the medium's fingerprint and the file's number, both computed from the
//! medium: handles stay valid after a restart, and on a second server with the same image. The
//! server keeps no state about clients.
//!
//! Every client may read everything, as with the medium in its own drive: owner and permission
//! bits are shown and not enforced by the server. A call that would change a file is answered
//! with "read-only file system".
//!
//! Not done: UDP, locking (clients mount `nolock`), version 4.

use crate::budget::is_shortage;
use crate::tree::{At, FileId, Kind, Node, Piece, Tree};
use crate::xdr::{Call, Writer, u64};
use netboot::nfs::UP;
use netboot::nfs::rpc::Decoder;
use std::io::Read as _;
use std::sync::Arc;

/// The longest record accepted: no call that we serve is longer.
pub const MAX_CALL: usize = 64 << 10;
/// The most bytes of one READ.
pub const MAX_READ: u32 = 1 << 20;
/// A READ of fewer bytes is copied: another system call costs more.
const LEAST_DIRECT: usize = 8 << 10;
/// The most bytes of one directory listing.
const MAX_LISTING: u32 = 64 << 10;
/// The longest name or path in arguments.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 1024;

const PORTMAP: u32 = 100_000;
const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const TCP: u32 = 6;

/// `nfsstat3`.
mod status {
    pub const OK: u32 = 0;
    pub const NOENT: u32 = 2;
    pub const IO: u32 = 5;
    pub const ACCES: u32 = 13;
    pub const NOTDIR: u32 = 20;
    pub const ISDIR: u32 = 21;
    pub const INVAL: u32 = 22;
    pub const ROFS: u32 = 30;
    pub const NAMETOOLONG: u32 = 63;
    pub const STALE: u32 = 70;
    pub const BADHANDLE: u32 = 10_001;
    pub const BAD_COOKIE: u32 = 10_003;
    pub const TOOSMALL: u32 = 10_005;
    pub const JUKEBOX: u32 = 10_008;
}

/// One exported medium.
#[derive(Debug, Clone)]
pub struct Export {
    /// Path that clients mount, with a leading `/` and none at the end.
    pub path: String,
    /// Its files.
    pub tree: Arc<Tree>,
}

/// What a call did, for the log.
#[derive(Debug)]
pub enum Seen<'s> {
    /// A mount request.
    Mount {
        /// The path as requested.
        path: String,
        /// Whether it is exported.
        done: bool,
    },
    /// Unmounted.
    Unmount,
    /// Data was read.
    Read(u64),
    /// Data to be sent behind the reply straight from this file, with zeros to a multiple of four
    /// bytes.
    Direct(Piece<'s>),
    /// The medium's data of this file cannot be read any more.
    Broken(String, std::io::Error),
    /// The system lacked descriptors or memory: the client is told to try again.
    Short(std::io::Error),
    /// A client's live system starts, see [`UP`].
    Up,
    /// Anything else.
    Other,
}

/// All exports.
#[derive(Debug, Clone)]
pub struct Server {
    /// The media.
    pub exports: Vec<Export>,
    /// The TCP port of all three services, for GETPORT.
    pub port: u16,
}

/// Grants memory for a READ: told how many bytes it wants, says how many it may have.
pub type Room<'r> = &'r mut dyn FnMut(usize) -> usize;

/// Why a call failed: an `nfsstat3`.
type Refused = u32;

/// The file of a handle.
struct Handle<'t> {
    tree: &'t Tree,
    at: At,
    node: &'t Node,
}

impl Server {
    /// Answers one call. The reply is appended to `out`, without the record mark. Nothing is
    /// appended when the record is not a call; the connection should end then. `room` is asked
    /// how many of the wanted bytes a READ may answer with; clients ask for the rest again. `direct`
    /// says whether the caller can send data straight from files, see [`Seen::Direct`].
    pub fn handle(
        &self,
        record: &[u8],
        out: &mut Vec<u8>,
        room: Room<'_>,
        direct: bool,
    ) -> Option<Seen<'_>> {
        let (call, mut args) = Call::read(record)?;
        let start = out.len();
        if call.rpc != 2 {
            call.deny(out);
            return Some(Seen::Other);
        }
        let (low, high) = match call.program {
            PORTMAP => (2, 2),
            NFS | MOUNT => (3, 3),
            _ => {
                call.accept(out, 1);
                return Some(Seen::Other);
            }
        };
        if !(low..=high).contains(&call.version) {
            call.accept(out, 2).u32(low).u32(high);
            return Some(Seen::Other);
        }
        let mut xdr = call.accept(out, 0);
        let done = match call.program {
            PORTMAP => self.portmap(call.procedure, &mut args, &mut xdr),
            MOUNT => self.mount(call.procedure, &mut args, &mut xdr),
            _ => self.nfs(call.procedure, &mut args, &mut xdr, room, direct),
        };
        match done {
            Ok(seen) => Some(seen),
            Err(accept) => {
                out.truncate(start);
                call.accept(out, accept);
                Some(Seen::Other)
            }
        }
    }

    fn portmap(
        &self,
        procedure: u32,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
    ) -> Result<Seen<'_>, u32> {
        match procedure {
            0 => {}
            3 => {
                let mut next = || args.u32().ok_or(GARBAGE);
                let (program, version, protocol) = (next()?, next()?, next()?);
                let ours = matches!((program, version), (NFS | MOUNT, 3) | (PORTMAP, 2));
                let port = if ours && protocol == TCP { self.port } else { 0 };
                xdr.u32(u32::from(port));
            }
            _ => return Err(NO_PROCEDURE),
        }
        Ok(Seen::Other)
    }

    fn mount(
        &self,
        procedure: u32,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
    ) -> Result<Seen<'_>, u32> {
        match procedure {
            0 | 4 => Ok(Seen::Other),
            1 => {
                let path = String::from_utf8_lossy(args.opaque(MAX_PATH).ok_or(GARBAGE)?);
                let path = path.into_owned();
                let found = self.export(&path);
                match &found {
                    Ok((tree, id)) => {
                        // AUTH_SYS and AUTH_NONE, in the order of preference.
                        xdr.u32(status::OK).opaque(&handle(tree, *id)).u32(2).u32(1).u32(0);
                    }
                    Err(refused) => {
                        xdr.u32(*refused);
                    }
                }
                Ok(Seen::Mount { path, done: found.is_ok() })
            }
            // The server keeps no list of mounts.
            2 => {
                xdr.u32(0);
                Ok(Seen::Other)
            }
            3 => {
                args.opaque(MAX_PATH).ok_or(GARBAGE)?;
                Ok(Seen::Unmount)
            }
            5 => {
                for export in &self.exports {
                    xdr.u32(1).opaque(export.path.as_bytes()).u32(0);
                }
                xdr.u32(0);
                Ok(Seen::Other)
            }
            _ => Err(NO_PROCEDURE),
        }
    }

    /// The directory of a mount path: an export or a directory in it.
    fn export(&self, path: &str) -> Result<(&Tree, FileId), Refused> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let path = parts.iter().fold(String::new(), |path, part| path + "/" + part);
        let below = |export: &Export| match path.strip_prefix(&export.path) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest.len()),
            _ => None,
        };
        let export = self.exports.iter().filter(|e| below(e).is_some());
        let export = export.min_by_key(|e| below(e)).ok_or(status::NOENT)?;
        let rest = path.strip_prefix(&export.path).unwrap_or_default();
        let at = export.tree.walk(rest).ok_or(status::NOENT)?;
        let node = export.tree.node(at).ok_or(status::NOENT)?;
        match node.kind {
            Kind::Directory(_) => Ok((&export.tree, node.id)),
            _ => Err(status::NOTDIR),
        }
    }

    fn nfs(
        &self,
        procedure: u32,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
        room: Room<'_>,
        direct: bool,
    ) -> Result<Seen<'_>, u32> {
        let seen = match procedure {
            0 => return Ok(Seen::Other),
            1 => {
                match self.file(args)? {
                    Ok(file) => attributes(xdr.u32(status::OK), &file),
                    Err(refused) => drop(xdr.u32(refused)),
                }
                Seen::Other
            }
            3 => self.lookup(args, xdr)?,
            4 => self.access(args, xdr)?,
            5 => self.readlink(args, xdr)?,
            6 => self.read(args, xdr, room, direct)?,
            16 => self.readdir(args, xdr, false)?,
            17 => self.readdir(args, xdr, true)?,
            18..=20 => self.about(procedure, args, xdr)?,
            // The modifying procedures: no attributes before and none after. RENAME has two
            // directories, LINK a file and a directory.
            2 | 7..=13 | 21 => {
                xdr.u32(status::ROFS).bool(false).bool(false);
                Seen::Other
            }
            14 => {
                xdr.u32(status::ROFS).bool(false).bool(false).bool(false).bool(false);
                Seen::Other
            }
            15 => {
                xdr.u32(status::ROFS).bool(false).bool(false).bool(false);
                Seen::Other
            }
            _ => return Err(NO_PROCEDURE),
        };
        Ok(seen)
    }

    /// Reads a file handle from the arguments.
    fn file(&self, args: &mut Decoder<'_>) -> Result<Result<Handle<'_>, Refused>, u32> {
        let bytes = args.opaque(64).ok_or(GARBAGE)?;
        Ok(self.resolve(bytes))
    }

    fn resolve(&self, bytes: &[u8]) -> Result<Handle<'_>, Refused> {
        let (identity, id) = bytes.split_first_chunk::<8>().ok_or(status::BADHANDLE)?;
        let id = <[u8; 8]>::try_from(id).map_err(|_| status::BADHANDLE)?;
        let identity = u64::from_be_bytes(*identity);
        let export = self.exports.iter().find(|export| export.tree.identity == identity);
        let tree = &export.ok_or(status::STALE)?.tree;
        let at = tree.find(FileId(u64::from_be_bytes(id))).ok_or(status::STALE)?;
        let node = tree.node(at).ok_or(status::STALE)?;
        Ok(Handle { tree, at, node })
    }

    fn lookup(&self, args: &mut Decoder<'_>, xdr: &mut Writer<'_>) -> Result<Seen<'_>, u32> {
        let dir = self.file(args)?;
        let name = args.opaque(MAX_CALL).ok_or(GARBAGE)?;
        let found = dir.as_ref().map_err(|refused| *refused).and_then(|dir| {
            if !matches!(dir.node.kind, Kind::Directory(_)) {
                return Err(status::NOTDIR);
            }
            if name.len() > MAX_NAME {
                return Err(status::NAMETOOLONG);
            }
            let at = dir.tree.lookup(dir.at, name).ok_or(status::NOENT)?;
            let node = dir.tree.node(at).ok_or(status::NOENT)?;
            Ok(Handle { tree: dir.tree, at, node })
        });
        match &found {
            Ok(file) => {
                xdr.u32(status::OK).opaque(&handle(file.tree, file.node.id));
                post_op(xdr, Some(file));
            }
            Err(refused) => drop(xdr.u32(*refused)),
        }
        post_op(xdr, dir.as_ref().ok());
        Ok(if dir.is_ok() && name == UP.as_bytes() { Seen::Up } else { Seen::Other })
    }

    fn access(&self, args: &mut Decoder<'_>, xdr: &mut Writer<'_>) -> Result<Seen<'_>, u32> {
        let file = self.file(args)?;
        let wanted = args.u32().ok_or(GARBAGE)?;
        reply(xdr, &file, |_, xdr| {
            // READ, LOOKUP, EXECUTE.
            xdr.u32(wanted & (0x01 | 0x02 | 0x20));
            Ok(())
        });
        Ok(Seen::Other)
    }

    fn readlink(&self, args: &mut Decoder<'_>, xdr: &mut Writer<'_>) -> Result<Seen<'_>, u32> {
        reply(xdr, &self.file(args)?, |file, xdr| match &file.node.kind {
            Kind::Link(target) => {
                xdr.opaque(target);
                Ok(())
            }
            _ => Err(status::INVAL),
        });
        Ok(Seen::Other)
    }

    fn read(
        &self,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
        room: Room<'_>,
        direct: bool,
    ) -> Result<Seen<'_>, u32> {
        let file = self.file(args)?;
        let offset = u64(args).ok_or(GARBAGE)?;
        let count = args.u32().ok_or(GARBAGE)?.min(MAX_READ);
        let mut seen = Seen::Other;
        reply(xdr, &file, |file, xdr| {
            match file.node.kind {
                Kind::Extents(_) | Kind::Packed(..) | Kind::Path(_) => {}
                Kind::Directory(_) => return Err(status::ISDIR),
                Kind::Link(_) | Kind::Special => return Err(status::INVAL),
            }
            let size = file.node.size;
            let wanted = size.saturating_sub(offset).min(u64::from(count));
            let wanted = usize::try_from(wanted).unwrap_or(0);
            let fields = |read: usize| {
                let count = u32::try_from(read).unwrap_or(0).to_be_bytes();
                let end = offset.saturating_add(read as u64) >= size;
                [count, u32::from(end).to_be_bytes(), count].concat()
            };
            if direct
                && wanted >= LEAST_DIRECT
                && let Some(piece) = file.tree.piece(file.at, offset, wanted)
                && piece.length == wanted
            {
                xdr.0.extend(fields(wanted));
                seen = Seen::Direct(piece);
                return Ok(());
            }
            let head = xdr.0.len();
            xdr.0.extend(fields(0));
            let data = xdr.0.len();
            xdr.0.resize(data + room(wanted).min(wanted), 0);
            let buffer = xdr.0.get_mut(data..).unwrap_or_default();
            match file.tree.read_at(file.at, offset, buffer) {
                Ok(read) => {
                    xdr.0.truncate(data + read);
                    xdr.pad(read);
                    if let Some(place) = xdr.0.get_mut(head..data) {
                        place.copy_from_slice(&fields(read));
                    }
                    seen = Seen::Read(read as u64);
                    Ok(())
                }
                // Running clients wait, and do not pass an error on.
                Err(error) if is_shortage(&error) => {
                    seen = Seen::Short(error);
                    Err(status::JUKEBOX)
                }
                Err(error) => {
                    let refused = match error.kind() {
                        std::io::ErrorKind::NotFound => status::STALE,
                        std::io::ErrorKind::PermissionDenied => status::ACCES,
                        _ => status::IO,
                    };
                    seen = Seen::Broken(file.tree.path(file.at), error);
                    Err(refused)
                }
            }
        });
        Ok(seen)
    }

    fn readdir(
        &self,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
        plus: bool,
    ) -> Result<Seen<'_>, u32> {
        let dir = self.file(args)?;
        let cookie = u64(args).ok_or(GARBAGE)?;
        let verifier = u64(args).ok_or(GARBAGE)?;
        let names = args.u32().ok_or(GARBAGE)?;
        let all = if plus { args.u32().ok_or(GARBAGE)? } else { names };
        let begin = xdr.0.len();
        reply(xdr, &dir, |dir, xdr| {
            if !matches!(dir.node.kind, Kind::Directory(_)) {
                return Err(status::NOTDIR);
            }
            // An image's listing never changes; another image has another fingerprint.
            if cookie != 0 && verifier != 0 && verifier != dir.tree.identity {
                return Err(status::BAD_COOKIE);
            }
            xdr.u64(dir.tree.identity);
            // Clients would repeat a call whose listing is empty and not at its end.
            match list(dir, cookie, plus, names, all, begin, xdr) {
                true => Ok(()),
                false => Err(status::TOOSMALL),
            }
        });
        Ok(Seen::Other)
    }

    /// FSSTAT, FSINFO and PATHCONF.
    fn about(
        &self,
        procedure: u32,
        args: &mut Decoder<'_>,
        xdr: &mut Writer<'_>,
    ) -> Result<Seen<'_>, u32> {
        reply(xdr, &self.file(args)?, |file, xdr| {
            match procedure {
                18 => {
                    // Bytes and files: total, free, free for users; then seconds of stability.
                    xdr.u64(0).u64(0).u64(0).u64(file.tree.len() as u64).u64(0).u64(0);
                    xdr.u32(u32::MAX);
                }
                19 => {
                    xdr.u32(MAX_READ).u32(MAX_READ).u32(4096);
                    // Write sizes that keep a client's arithmetic sound; writing is refused.
                    // libnfs mounts nothing from servers with less than 8192.
                    xdr.u32(MAX_READ).u32(MAX_READ).u32(4096).u32(MAX_LISTING);
                    xdr.u64(i64::MAX.cast_unsigned()).u32(1).u32(0);
                    // FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS.
                    xdr.u32(0x01 | 0x02 | 0x08);
                }
                _ => {
                    xdr.u32(1).u32(255);
                    // no_trunc, chown_restricted, case_insensitive, case_preserving.
                    xdr.bool(true).bool(true).bool(false).bool(true);
                }
            }
            Ok(())
        });
        Ok(Seen::Other)
    }
}

/// Writes the reply of most procedures: a status, the file's attributes, and what `body` adds. A
/// refusal has the attributes alone.
fn reply<'t>(
    xdr: &mut Writer<'_>,
    file: &Result<Handle<'t>, Refused>,
    body: impl FnOnce(&Handle<'t>, &mut Writer<'_>) -> Result<(), Refused>,
) {
    let begin = xdr.0.len();
    let refused = match file {
        Ok(file) => {
            xdr.u32(status::OK);
            post_op(xdr, Some(file));
            body(file, xdr).err()
        }
        Err(refused) => Some(*refused),
    };
    if let Some(refused) = refused {
        xdr.0.truncate(begin);
        xdr.u32(refused);
        post_op(xdr, file.as_ref().ok());
    }
}

/// `accept_stat`: unknown procedure.
const NO_PROCEDURE: u32 = 3;
/// `accept_stat`: malformed arguments.
const GARBAGE: u32 = 4;

/// Lists a directory from `cookie` on. Cookies are positions in the sorted listing: 1 for `.`,
/// 2 for `..`, then the children. False when no entry fits.
fn list(
    dir: &Handle<'_>,
    cookie: u64,
    plus: bool,
    names: u32,
    all: u32,
    begin: usize,
    xdr: &mut Writer<'_>,
) -> bool {
    let own: [(At, &[u8]); 2] = [(dir.at, b"."), (dir.tree.parent(dir.at), b"..")];
    let children = dir.tree.children(dir.at).iter().filter_map(|at| {
        let node = dir.tree.node(*at)?;
        Some((*at, node.name.as_slice()))
    });
    let entries = (1u64..).zip(own.into_iter().chain(children));
    let limit = usize::try_from(all.min(MAX_LISTING)).unwrap_or(0);
    let mut left = usize::try_from(names.min(MAX_LISTING)).unwrap_or(0);
    let mut any = false;
    let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
    for (cookie, (at, name)) in entries.skip(skip) {
        let Some(node) = dir.tree.node(at) else { continue };
        let before = xdr.0.len();
        xdr.u32(1).u64(node.id.0).opaque(name).u64(cookie);
        let name_part = xdr.0.len() - before;
        if plus {
            post_op(xdr, Some(&Handle { tree: dir.tree, at, node }));
            xdr.u32(1).opaque(&handle(dir.tree, node.id));
        }
        // The end mark takes 8 bytes, and the status of the reply counts, too.
        if xdr.0.len() - begin + 8 > limit || name_part > left {
            xdr.0.truncate(before);
            xdr.u32(0).bool(false);
            return any;
        }
        left -= name_part;
        any = true;
    }
    xdr.u32(0).bool(true);
    true
}

fn handle(tree: &Tree, id: FileId) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (front, back) = bytes.split_at_mut(8);
    front.copy_from_slice(&tree.identity.to_be_bytes());
    back.copy_from_slice(&id.0.to_be_bytes());
    bytes
}

/// `post_op_attr`.
fn post_op(xdr: &mut Writer<'_>, file: Option<&Handle<'_>>) {
    xdr.bool(file.is_some());
    if let Some(file) = file {
        attributes(xdr, file);
    }
}

/// `fattr3`.
fn attributes(xdr: &mut Writer<'_>, file: &Handle<'_>) {
    let node = file.node;
    let (kind, links) = match &node.kind {
        Kind::Extents(_) | Kind::Packed(..) | Kind::Path(_) => (1, 1),
        Kind::Directory(children) => {
            let dirs = children.iter().filter(|at| {
                matches!(file.tree.node(**at).map(|n| &n.kind), Some(Kind::Directory(_)))
            });
            (2, 2 + dirs.count())
        }
        Kind::Link(_) => (5, 1),
        // Shown as pipes, which programs do not open by accident.
        Kind::Special => (7, 1),
    };
    xdr.u32(kind).u32(node.permissions).u32(u32::try_from(links).unwrap_or(u32::MAX));
    xdr.u32(node.uid).u32(node.gid).u64(node.size).u64(node.size);
    xdr.u32(0).u32(0).u64(file.tree.identity).u64(node.id.0);
    for _ in ["access", "modification", "change"] {
        xdr.u32(u32::try_from(node.mtime.max(0)).unwrap_or(u32::MAX)).u32(0);
    }
}

/// Reads one record of a client's stream into a buffer. False at the end of the stream.
///
/// # Errors
/// The stream's read error; [`std::io::ErrorKind::InvalidData`] when it is not an RPC stream or
/// the record is too long.
pub fn read_record(from: &mut impl std::io::Read, record: &mut Vec<u8>) -> std::io::Result<bool> {
    record.clear();
    // No client splits a call into more fragments than this.
    for piece in 0..16 {
        let mut mark = [0; 4];
        let mut got = 0;
        while let Some(rest) = mark.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match from.read(rest) {
                Ok(0) if got == 0 && piece == 0 => return Ok(false),
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => got += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // No timeout here: a mounted client may be idle.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && got + piece == 0 => {}
                Err(e) => return Err(e),
            }
        }
        let mark = u32::from_be_bytes(mark);
        let length = usize::try_from(mark & 0x7fff_ffff).unwrap_or(usize::MAX);
        let start = record.len();
        if length == 0 || length > MAX_CALL - start {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        // It grows with what arrives.
        if (&mut *from).take(length as u64).read_to_end(record)? < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if mark & 0x8000_0000 != 0 {
            return Ok(true);
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::nfs::rpc::{Call as ClientCall, Encoder, parse_reply};
    use proptest::prelude::*;

    fn server(dir: &tempfile::TempDir) -> Server {
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        Server { exports: vec![Export { path: "/debian".into(), tree }], port: 2049 }
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("live")).unwrap();
        for n in 0..500 {
            std::fs::write(dir.path().join(format!("live/{n:03}")), format!("content {n}"))
                .unwrap();
        }
        std::os::unix::fs::symlink("live/007", dir.path().join("link")).unwrap();
        dir
    }

    /// A server without descriptors or memory: a running client must wait, not fail.
    #[test]
    fn a_shortage_is_no_read_error() {
        struct Failing(i32);
        impl crate::tree::ReadAt for Failing {
            fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
                Err(std::io::Error::from_raw_os_error(self.0))
            }
            fn length(&self) -> std::io::Result<u64> {
                Ok(4096)
            }
        }
        let node = |id, kind| Node {
            id: FileId(id),
            name: b"file".to_vec(),
            permissions: 0o444,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 4096,
            kind,
        };
        for (errno, wanted) in
            [(24, status::JUKEBOX), (23, status::JUKEBOX), (12, status::JUKEBOX), (5, status::IO)]
        {
            let extents = Kind::Extents(vec![crate::tree::Extent { start: 0, length: 4096 }]);
            let mut builder = crate::tree::Builder::new(node(1, Kind::Directory(Vec::new())));
            builder.add(Tree::ROOT, node(2, extents)).unwrap();
            let tree = Arc::new(builder.finish(7, Arc::new(Failing(errno))));
            let exports = vec![Export { path: "/debian".into(), tree: tree.clone() }];
            let server = Server { exports, port: 2049 };
            let read = Encoder::default().opaque(&handle(&tree, FileId(2)));
            let got = call(&server, NFS, 6, &read.u32(0).u32(0).u32(100).finish());
            assert_eq!(Decoder::new(&got).u32(), Some(wanted), "{errno}");
        }
    }

    /// Calls as our own client does; returns the results.
    fn call(server: &Server, program: u32, procedure: u32, arguments: &[u8]) -> Vec<u8> {
        let version = if program == PORTMAP { 2 } else { 3 };
        let call = ClientCall { xid: 9, program, version, procedure, arguments, root: true };
        let record = call.to_record();
        let mut got = Vec::new();
        assert!(read_record(&mut record.as_slice(), &mut got).unwrap());
        let mut out = Vec::new();
        server.handle(&got, &mut out, &mut |wanted| wanted, false).unwrap();
        parse_reply(&out, 9).unwrap().to_vec()
    }

    fn mounted(server: &Server, path: &str) -> Result<Vec<u8>, u32> {
        let got = call(server, MOUNT, 1, &Encoder::default().opaque(path.as_bytes()).finish());
        let mut xdr = Decoder::new(&got);
        match xdr.u32().unwrap() {
            0 => Ok(xdr.opaque(64).unwrap().to_vec()),
            refused => Err(refused),
        }
    }

    fn looked_up(server: &Server, dir: &[u8], name: &str) -> Result<Vec<u8>, u32> {
        let args = Encoder::default().opaque(dir).opaque(name.as_bytes()).finish();
        let got = call(server, NFS, 3, &args);
        let mut xdr = Decoder::new(&got);
        match xdr.u32().unwrap() {
            0 => Ok(xdr.opaque(64).unwrap().to_vec()),
            refused => Err(refused),
        }
    }

    fn read(server: &Server, file: &[u8], offset: u64, count: u32) -> (Vec<u8>, bool) {
        let args = Encoder::default().opaque(file).u32((offset >> 32) as u32).u32(offset as u32);
        let got = call(server, NFS, 6, &args.u32(count).finish());
        let mut xdr = Decoder::new(&got);
        assert_eq!(xdr.u32(), Some(0));
        assert_eq!(xdr.u32(), Some(1));
        xdr.skip(84).unwrap();
        let count = xdr.u32().unwrap();
        let end = xdr.u32() == Some(1);
        let data = xdr.opaque(1 << 20).unwrap().to_vec();
        assert_eq!(data.len(), count as usize);
        (data, end)
    }

    #[test]
    fn from_the_mount_to_the_bytes() {
        let dir = sample();
        let server = server(&dir);
        let root = mounted(&server, "/debian").unwrap();
        assert_eq!(mounted(&server, "//debian/").unwrap(), root);
        assert_eq!(mounted(&server, "/debianx"), Err(status::NOENT));
        assert_eq!(mounted(&server, "/debian/../../etc"), Err(status::NOENT));
        assert_eq!(mounted(&server, "/debian/link"), Err(status::NOTDIR));
        let live = looked_up(&server, &root, "live").unwrap();
        assert_eq!(mounted(&server, "/debian/live").unwrap(), live);
        assert_eq!(looked_up(&server, &live, "..").unwrap(), root);
        assert_eq!(looked_up(&server, &root, "..").unwrap(), root);
        let file = looked_up(&server, &live, "042").unwrap();
        assert_eq!(read(&server, &file, 0, 100), (b"content 42".to_vec(), true));
        assert_eq!(read(&server, &file, 3, 4), (b"tent".to_vec(), false));
        assert_eq!(read(&server, &file, 100, 4), (Vec::new(), true));
        assert_eq!(looked_up(&server, &live, "no"), Err(status::NOENT));
        assert_eq!(looked_up(&server, &file, "no"), Err(status::NOTDIR));
        assert_eq!(looked_up(&server, &live, &"x".repeat(300)), Err(status::NAMETOOLONG));
    }

    #[test]
    fn handles_outlive_the_server() {
        let dir = sample();
        let first = server(&dir);
        let live = mounted(&first, "/debian/live").unwrap();
        let file = looked_up(&first, &live, "042").unwrap();
        drop(first);
        let second = server(&dir);
        assert_eq!(read(&second, &file, 0, 100).0, b"content 42");
        // Another medium's handles are not taken for ours.
        let other = server(&sample());
        let got = call(&other, NFS, 1, &Encoder::default().opaque(&file).finish());
        assert_eq!(Decoder::new(&got).u32(), Some(status::STALE));
    }

    /// All names of a directory, read with replies of this size.
    fn listed(server: &Server, dir: &[u8], plus: bool, size: u32) -> Result<Vec<String>, u32> {
        let (mut cookie, mut verifier) = (0u64, 0u64);
        let mut names = Vec::new();
        for _ in 0..2000 {
            let mut args = Encoder::default().opaque(dir);
            for number in [cookie, verifier] {
                args = args.u32((number >> 32) as u32).u32(number as u32);
            }
            args = args.u32(size);
            if plus {
                args = args.u32(size);
            }
            let got = call(server, NFS, if plus { 17 } else { 16 }, &args.finish());
            assert!(got.len() <= size as usize);
            let mut xdr = Decoder::new(&got);
            match xdr.u32().unwrap() {
                0 => {}
                refused => return Err(refused),
            }
            xdr.skip(88).unwrap();
            verifier = u64(&mut xdr).unwrap();
            while xdr.u32() == Some(1) {
                u64(&mut xdr).unwrap();
                names.push(String::from_utf8(xdr.opaque(255).unwrap().to_vec()).unwrap());
                cookie = u64(&mut xdr).unwrap();
                if plus {
                    assert_eq!(xdr.u32(), Some(1));
                    xdr.skip(84).unwrap();
                    assert_eq!(xdr.u32(), Some(1));
                    assert_eq!(xdr.opaque(64).unwrap().len(), 16);
                }
            }
            if xdr.u32() == Some(1) {
                return Ok(names);
            }
        }
        panic!("endless");
    }

    #[test]
    fn listings_are_complete_whatever_their_size() {
        let dir = sample();
        let server = server(&dir);
        let live = mounted(&server, "/debian/live").unwrap();
        let mut wanted = vec![".".to_owned(), "..".to_owned()];
        wanted.extend((0..500).map(|n| format!("{n:03}")));
        for size in [300, 1000, 4096, 65536] {
            assert_eq!(listed(&server, &live, false, size).unwrap(), wanted);
            assert_eq!(listed(&server, &live, true, size).unwrap(), wanted);
        }
        assert_eq!(listed(&server, &live, true, 100), Err(status::TOOSMALL));
    }

    #[test]
    fn nothing_is_written() {
        let dir = sample();
        let server = server(&dir);
        let root = mounted(&server, "/debian").unwrap();
        for procedure in [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21] {
            let got = call(&server, NFS, procedure, &Encoder::default().opaque(&root).finish());
            assert_eq!(Decoder::new(&got).u32(), Some(status::ROFS), "{procedure}");
        }
        for procedure in [18, 19, 20] {
            let got = call(&server, NFS, procedure, &Encoder::default().opaque(&root).finish());
            let length = match procedure {
                18 => 52,
                19 => 48,
                _ => 24,
            };
            assert_eq!(got.len(), 4 + 4 + 84 + length, "{procedure}");
        }
    }

    #[test]
    fn a_vanished_file_is_stale() {
        let dir = sample();
        let server = server(&dir);
        let live = mounted(&server, "/debian/live").unwrap();
        let file = looked_up(&server, &live, "042").unwrap();
        std::fs::remove_file(dir.path().join("live/042")).unwrap();
        let args = Encoder::default().opaque(&file).u32(0).u32(0).u32(10).finish();
        assert_eq!(Decoder::new(&call(&server, NFS, 6, &args)).u32(), Some(status::STALE));
    }

    #[test]
    fn ports_and_versions() {
        let dir = sample();
        let server = server(&dir);
        let ask = |program: u32, protocol: u32| {
            let args = Encoder::default().u32(program).u32(3).u32(protocol).u32(0).finish();
            Decoder::new(&call(&server, PORTMAP, 3, &args)).u32().unwrap()
        };
        assert_eq!((ask(NFS, 6), ask(MOUNT, 6), ask(NFS, 17), ask(7, 6)), (2049, 2049, 0, 0));
        let call = ClientCall {
            xid: 1,
            program: NFS,
            version: 4,
            procedure: 0,
            arguments: &[],
            root: false,
        };
        let mut out = Vec::new();
        server.handle(&call.to_record()[4..], &mut out, &mut |wanted| wanted, false).unwrap();
        assert_eq!(parse_reply(&out, 1).unwrap_err().to_string(), "the server has version 3 only");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            procedure in 0u32..25,
            program in prop::sample::select(vec![PORTMAP, NFS, MOUNT, 5]),
            mut arguments in proptest::collection::vec(any::<u8>(), 0..200),
            with_handle: bool,
        ) {
            thread_local! {
                static SERVER: (tempfile::TempDir, Server) = {
                    let dir = sample();
                    let server = server(&dir);
                    (dir, server)
                };
            }
            SERVER.with(|(_, server)| {
                if with_handle {
                    let root = mounted(server, "/debian/live").unwrap();
                    let mut front = Encoder::default().opaque(&root).finish();
                    front.append(&mut arguments);
                    arguments = front;
                }
                let call = ClientCall {
                    xid: 1, program, version: 3, procedure, arguments: &arguments, root: true,
                };
                let mut out = Vec::new();
                let record = call.to_record();
                server.handle(&record[4..], &mut out, &mut |wanted| wanted, false);
                assert!(out.len() < 2 << 20);
                server.handle(&arguments, &mut out, &mut |wanted| wanted, false);
                let mut stream = arguments.as_slice();
                let _ = read_record(&mut stream, &mut Vec::new());
            });
        }
    }
}
