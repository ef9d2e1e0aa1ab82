//! Numbers that other machines cannot guess.

/// A number for transaction ids.
///
/// Uses the clock and `salt` when the kernel has no randomness yet.
pub fn random(salt: u32) -> u32 {
    let mut bytes = [0u8; 4];
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    match rustix::rand::getrandom(&mut bytes, flags) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => sys::clock::since_start().subsec_nanos().rotate_left(16) ^ salt,
    }
}
