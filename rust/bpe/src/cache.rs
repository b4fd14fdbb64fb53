//! Ids of pre-tokens met before, in bounded memory: a new pre-token takes the place of an older one.

use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Longest pre-token whose bytes are its key: with its length it fills 16 bytes.
pub const SHORT: usize = 15;
/// Pre-tokens longer than this hardly come twice.
const LONG: usize = 256;
/// Ids that fit beside a key: 24 bits each, and 8 for their number.
pub const INLINE: usize = 5;
const ID_BITS: u32 = 24;

const FIRST_BUCKETS: usize = 1 << 12;
const MOST_BUCKETS: usize = 1 << 17;
const LONG_SLOTS: usize = 1 << 16;
const LONG_BYTES: usize = 1 << 21;
const LONG_IDS: usize = 1 << 19;

/// Up to [`INLINE`] ids and their number, packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids(u128);

impl Ids {
    fn pack(ids: &[u32]) -> Self {
        let packed = ids.iter().rev().fold(0, |packed, &id| packed << ID_BITS | u128::from(id));
        Self(packed | (ids.len() as u128) << 120)
    }

    #[inline(always)]
    pub fn count(self) -> usize {
        (self.0 >> 120) as usize
    }

    /// The id at `index`; 0 beyond the last.
    #[inline(always)]
    pub fn get(self, index: u32) -> u32 {
        (self.0 >> (ID_BITS * index)) as u32 & ((1 << ID_BITS) - 1)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u128,
    ids: Ids,
}

/// One cache line. When it and its neighbour are full, a new pre-token moves the first slot to the second.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([Slot; 2]);

/// Buckets in pages of 2 MiB where the system has them: their places are random, and so few pages need no looking up.
#[derive(Debug)]
struct Buckets {
    memory: Option<MmapMut>,
    small: Vec<Bucket>,
}

impl Buckets {
    fn new(size: usize) -> Self {
        let memory = if size == FIRST_BUCKETS { None } else { MmapMut::map_anon(size * size_of::<Bucket>()).ok() };
        #[cfg(target_os = "linux")]
        if let Some(memory) = &memory {
            // A wish: smaller pages do as well.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        let small = if memory.is_none() { vec![Bucket::default(); size] } else { Vec::new() };
        Self { memory, small }
    }
}

impl Deref for Buckets {
    type Target = [Bucket];

    #[inline(always)]
    fn deref(&self) -> &[Bucket] {
        match &self.memory {
            // SAFETY: the map starts at a page, holds whole buckets, and any bytes, its zeros too, are buckets.
            Some(memory) => unsafe {
                std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / size_of::<Bucket>())
            },
            None => &self.small,
        }
    }
}

impl DerefMut for Buckets {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Bucket] {
        match &mut self.memory {
            // SAFETY: as above.
            Some(memory) => unsafe {
                std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len() / size_of::<Bucket>())
            },
            None => &mut self.small,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct LongSlot {
    hash: u64,
    bytes_at: u32,
    ids_at: u32,
    length: u16,
    count: u16,
}

/// Pre-tokens by their bytes, the longer ones by a hash. Hashes are keyed at random; and since nothing is searched
/// beyond one place, text made to collide only costs what text never seen before does.
#[derive(Debug)]
pub struct Cache {
    seed: u64,
    buckets: Buckets,
    kept: usize,
    long: Vec<LongSlot>,
    long_bytes: Vec<u8>,
    long_ids: Vec<u32>,
}

impl Cache {
    pub fn new() -> Self {
        Self {
            seed: RandomState::new().hash_one(0) | 1,
            buckets: Buckets::new(FIRST_BUCKETS),
            kept: 0,
            long: Vec::new(),
            long_bytes: Vec::new(),
            long_ids: Vec::new(),
        }
    }

    /// Makes room for more short pre-tokens if they need it; places found before are not valid after.
    #[inline]
    pub fn grow(&mut self) {
        if self.kept > self.buckets.len() && self.buckets.len() < MOST_BUCKETS {
            self.rehash();
        }
    }

    #[cold]
    fn rehash(&mut self) {
        let size = (self.buckets.len() * 8).min(MOST_BUCKETS);
        let old = std::mem::replace(&mut self.buckets, Buckets::new(size));
        self.kept = 0;
        for slot in old.iter().flat_map(|bucket| bucket.0.iter().rev()).filter(|slot| slot.key != 0) {
            self.keep(*slot);
        }
    }

    /// Where a key's bucket is.
    #[inline(always)]
    pub fn place(&self, key: u128) -> usize {
        let product = u128::from((key as u64) ^ self.seed) * u128::from((key >> 64) as u64 ^ 0x9e37_79b9_7f4a_7c15);
        ((product as u64) ^ (product >> 64) as u64).wrapping_mul(self.seed) as usize
            >> (64 - self.buckets.len().trailing_zeros())
    }

    #[inline(always)]
    pub fn prefetch(&self, place: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.buckets.as_ptr().wrapping_add(place).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    #[inline(always)]
    pub fn get(&self, place: usize, key: u128) -> Option<Ids> {
        let [first, second] = &self.buckets[place].0;
        if first.key == key {
            Some(first.ids)
        } else if second.key == key {
            Some(second.ids)
        } else {
            None
        }
    }

    /// [`Cache::get`] in the bucket that takes what its neighbour has no room for.
    pub fn get_moved(&self, place: usize, key: u128) -> Option<Ids> {
        self.get(place ^ 1, key)
    }

    /// Keeps the ids of a short pre-token; false if there are too many.
    pub fn put(&mut self, key: u128, ids: &[u32]) -> bool {
        let fits = ids.len() <= INLINE;
        if fits {
            self.keep(Slot { key, ids: Ids::pack(ids) });
        }
        fits
    }

    fn keep(&mut self, slot: Slot) {
        self.kept += 1;
        let place = self.place(slot.key);
        for place in [place, place ^ 1] {
            if let Some(free) = self.buckets[place].0.iter_mut().find(|slot| slot.key == 0) {
                *free = slot;
                return;
            }
        }
        let bucket = &mut self.buckets[place].0;
        bucket[1] = bucket[0];
        bucket[0] = slot;
    }

    /// The ids of a pre-token that [`Cache::put_long`] kept.
    pub fn get_long(&self, piece: &[u8]) -> Option<&[u32]> {
        let hash = self.hash(piece);
        let slot = self.long.get(hash as usize % LONG_SLOTS).filter(|slot| slot.hash == hash)?;
        let bytes = self.long_bytes.get(slot.bytes_at as usize..)?.get(..usize::from(slot.length))?;
        if bytes != piece {
            return None;
        }
        self.long_ids.get(slot.ids_at as usize..)?.get(..usize::from(slot.count))
    }

    pub fn put_long(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() > LONG {
            return;
        }
        if self.long_bytes.len() + piece.len() > LONG_BYTES || self.long_ids.len() + ids.len() > LONG_IDS {
            self.long.clear();
            self.long_bytes.clear();
            self.long_ids.clear();
        }
        if self.long.is_empty() {
            self.long.resize(LONG_SLOTS, LongSlot::default());
        }
        let hash = self.hash(piece);
        self.long[hash as usize % LONG_SLOTS] = LongSlot {
            hash,
            bytes_at: self.long_bytes.len() as u32,
            ids_at: self.long_ids.len() as u32,
            length: piece.len() as u16,
            count: ids.len() as u16,
        };
        self.long_bytes.extend_from_slice(piece);
        self.long_ids.extend_from_slice(ids);
    }

    fn hash(&self, piece: &[u8]) -> u64 {
        let mut hash = self.seed ^ piece.len() as u64;
        let mut mix = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^= hash >> 32;
        };
        let (words, rest) = piece.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
        hash
    }
}

/// The bytes of `text[start..start + length]`, `length` in 1 to [`SHORT`], and their number; never 0.
#[inline(always)]
pub fn key(text: &[u8], start: usize, length: usize) -> u128 {
    let bytes = match text[start..].first_chunk::<16>() {
        Some(window) => u128::from_le_bytes(*window) & (u128::MAX >> (8 * (16 - length))),
        None => {
            let mut window = [0; 16];
            window[..length].copy_from_slice(&text[start..start + length]);
            u128::from_le_bytes(window)
        }
    };
    bytes | (length as u128) << 120
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_memory_is_bounded() {
        let mut cache = Cache::new();
        for number in 0..600_000u32 {
            let word = number.to_string();
            let key = key(word.as_bytes(), 0, word.len());
            cache.grow();
            let ids = [number, 1, 2, 3, 4];
            assert!(cache.put(key, &ids[..1 + number as usize % INLINE]));
            let place = cache.place(key);
            let found = cache.get(place, key).or_else(|| cache.get_moved(place, key)).unwrap();
            assert_eq!((found.count(), found.get(0)), (1 + number as usize % INLINE, number));
            cache.put_long(word.repeat(5).as_bytes(), &ids);
            assert_eq!(cache.get_long(word.repeat(5).as_bytes()), Some(&ids[..]));
        }
        assert_eq!(cache.buckets.len(), MOST_BUCKETS);
        assert!(cache.long_bytes.len() <= LONG_BYTES && cache.long_ids.len() <= LONG_IDS);
        assert!(!cache.put(1, &[0; INLINE + 1]));
    }

    #[test]
    fn keys_are_of_the_piece_alone() {
        let text = b"abcdefghijklmnopqrstuvwxyz";
        assert_eq!(key(text, 2, 3), key(b"cde", 0, 3));
        assert_ne!(key(b"a\0", 0, 1), key(b"a\0", 0, 2));
    }
}
