//! A keyed hash. Who writes a corpus does not know the key, so cannot make entries of a table collide. Nothing that is
//! learned depends on it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// The key, drawn anew for each training.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    low: u64,
    high: u64,
}

impl Key {
    /// From the system's randomness.
    pub fn random() -> Self {
        let state = RandomState::new();
        Self { low: state.hash_one(0u8), high: state.hash_one(1u8) }
    }

    /// Of two words.
    #[inline]
    pub fn words(&self, low: u64, high: u64) -> u64 {
        fold(low ^ self.low, high ^ self.high)
    }

    /// Of at least 16 bytes.
    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let (blocks, _) = bytes.as_chunks::<16>();
        let last = bytes.last_chunk::<16>();
        blocks.iter().chain(last).fold(bytes.len() as u64, |hash, block| {
            let block = u128::from_le_bytes(*block);
            self.words(block as u64 ^ hash, (block >> 64) as u64)
        })
    }
}

/// The halves of the product, which depend on all bits of both factors.
#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// The same for everyone, to choose among entries by what they hold.
pub fn fixed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, &byte| {
        fold(hash ^ u64::from(byte), 0xd6e8_feb8_6659_fd93 ^ hash.rotate_left(32))
    })
}
