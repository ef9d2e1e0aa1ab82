//! dm-verity: the hash tree beside an image, as `veritysetup format` makes it.
//!
//! Format 1 (`Documentation/admin-guide/device-mapper/verity.rst` and
//! cryptsetup's wiki "DMVerity"): a 512-byte superblock, then from the next
//! hash block on the levels of the tree, the top first. SHA-256, blocks of
//! 4096 bytes for data and tree. The salt comes before the data.
//!
//! Salt and UUID come from the image, so that one image has one tree.

use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// Bytes of a data block and of a hash block.
pub const BLOCK: usize = 4096;
/// Digests in a hash block.
const PER_BLOCK: usize = BLOCK / 32;

/// A hash tree and its root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// The file to put beside the image: superblock and tree.
    pub tree: Vec<u8>,
    /// The digest of the whole image, in hexadecimal.
    pub root_hash: String,
    /// Data blocks covered.
    pub blocks: u64,
}

fn digest(salt: &[u8; 32], data: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(data).finalize().into()
}

/// Makes the tree of an image. A short last block counts as padded with zeros: pad the image to
/// whole blocks, or the kernel computes another digest. `told` is called with the number of
/// bytes read.
///
/// # Errors
/// The read error; [`io::ErrorKind::UnexpectedEof`] for an empty image.
pub fn format(from: &mut impl Read, told: &mut dyn FnMut(u64)) -> io::Result<Verity> {
    let mut block = vec![0; BLOCK];
    let mut fill = |block: &mut Vec<u8>| -> io::Result<usize> {
        block.clear();
        let read = from.take(BLOCK as u64).read_to_end(block)?;
        block.resize(BLOCK, 0);
        Ok(read)
    };
    let mut read = fill(&mut block)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image is empty"));
    }
    // The first block identifies the file system.
    let salt: [u8; 32] = Sha256::digest(&block).into();
    let mut level: Vec<[u8; 32]> = Vec::new();
    while read > 0 {
        level.push(digest(&salt, &block));
        told(level.len() as u64 * BLOCK as u64);
        read = fill(&mut block)?;
    }
    let blocks = level.len() as u64;
    let mut levels: Vec<Vec<u8>> = Vec::new();
    // One data block has no tree; its digest is the root.
    while level.len() > 1 {
        let mut bytes = level.concat();
        bytes.resize(level.len().div_ceil(PER_BLOCK) * BLOCK, 0);
        level = bytes.chunks(BLOCK).map(|block| digest(&salt, block)).collect();
        levels.push(bytes);
    }
    let root = level.first().copied().unwrap_or_default();
    let mut tree = superblock(&salt, &root, blocks);
    tree.resize(BLOCK, 0);
    levels.iter().rev().for_each(|bytes| tree.extend_from_slice(bytes));
    Ok(Verity { tree, root_hash: sys::bytes::hex(&root), blocks })
}

fn superblock(salt: &[u8; 32], root: &[u8; 32], blocks: u64) -> Vec<u8> {
    let mut out = b"verity\0\0".to_vec();
    out.extend(1u32.to_le_bytes()); // superblock version
    out.extend(1u32.to_le_bytes()); // hash type: salt first
    let (mut uuid, _) = root.split_first_chunk::<16>().map_or(([0; 16], &[][..]), |(u, r)| (*u, r));
    // RFC 9562: version 8, "custom", and the variant.
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    out.extend(uuid);
    let mut name = b"sha256".to_vec();
    name.resize(32, 0);
    out.extend(name);
    let block = u32::try_from(BLOCK).unwrap_or_default();
    out.extend(block.to_le_bytes());
    out.extend(block.to_le_bytes());
    out.extend(blocks.to_le_bytes());
    out.extend(32u16.to_le_bytes()); // salt size
    out.extend([0; 6]);
    out.extend(salt);
    out.resize(512, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_the_right_shape() {
        for (blocks, hash_blocks) in
            [(1, 0), (2, 1), (128, 1), (129, 3), (128 * 128, 129), (128 * 128 + 1, 132)]
        {
            let data = vec![5; (blocks - 1) * BLOCK + 7];
            let made = format(&mut data.as_slice(), &mut |_| ()).unwrap();
            assert_eq!(made.blocks, blocks as u64);
            assert_eq!(made.tree.len(), (1 + hash_blocks) * BLOCK, "{blocks}");
            assert_eq!(made.root_hash.len(), 64);
        }
        assert!(format(&mut io::empty(), &mut |_| ()).is_err());
    }

    #[test]
    fn every_byte_counts() {
        let mut data = vec![0; 300 * BLOCK];
        let root = |data: &[u8]| format(&mut &data[..], &mut |_| ()).unwrap().root_hash;
        let before = root(&data);
        assert_eq!(before, root(&data));
        data[299 * BLOCK + 77] = 1;
        assert_ne!(before, root(&data));
    }
}
